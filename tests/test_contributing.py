"""The worked example of CONTRIBUTING.md is a whole method: it trains, and the properties of all methods hold for it."""

import re
from pathlib import Path

import pytest
import torch

from gradlens.gradients.method import Method
from gradlens.methods import METHODS
from gradlens.training.context import RunContext
from gradlens.training.runs.train_run import train_run

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()


def example() -> type[Method]:
    code = re.search(r"<!-- example: .*? -->\n```python\n(.*?)```", TEXT, re.S)
    assert code
    scope: dict[str, object] = {"__name__": "sign_bp"}
    exec(code.group(1), scope)
    (rule,) = [v for v in scope.values() if isinstance(v, type) and issubclass(v, Method) and v is not Method]
    return rule


@pytest.fixture
def run(monkeypatch, tmp_path):
    from gradlens.training.config import make_config

    monkeypatch.setitem(METHODS, "sign-bp", example())
    torch.set_num_threads(1)
    return train_run(make_config(method="sign-bp", width=16, epochs=4, record_every=4), RunContext(out=tmp_path))


def test_the_example_trains_and_learns(run):
    assert run.finished
    assert run.summary["test"]["best_accuracy"] > 0.5


def test_the_example_is_measured_against_the_truth(run):
    cosine = {r.layer: r.value for r in run.gradients if (r.step, r.kind, r.quantity) == (0, "weight", "cosine")}
    assert cosine["top.out"] == pytest.approx(1, abs=1e-12)
    assert 0 < cosine["block1.conv"] < 0.999  # signs only: near the truth, not the truth
