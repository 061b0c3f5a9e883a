"""The numbers that the page about the theory papers states of synthetic gradients."""

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "analyses" / "theory.md").read_text(encoding="utf-8")
_, SYNTHETIC, _ = re.findall(r"```python\n(.*?)```", PAGE, re.S)


def run(code):
    scope: dict[str, object] = {}
    exec(code, scope)
    return scope


@pytest.mark.slow
def test_a_synthesiser_that_sees_the_label_keeps_the_critical_point_and_one_that_does_not_rests_elsewhere():
    scope = run(SYNTHETIC)
    ends = scope["stationarity"](scope["pair"], scope["x"], scope["y"])
    assert ends.true < 5e-6
    assert ends.synth_loss < 1e-9
    scope = run(SYNTHETIC.replace('"cdni"', '"dni"'))
    ends = scope["stationarity"](scope["pair"], scope["x"], scope["y"])
    assert ends.blocks < 1e-8
    assert ends.true == pytest.approx(0.58, abs=0.005)
    assert ends.synth_loss == pytest.approx(0.61, abs=0.005)
