"""The README's snippets run as they stand, and it stays one screen."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


def test_compare_and_lens_run_as_shown():
    scope: dict[str, object] = {}
    compare, lens = BLOCKS[:2]
    exec(compare, scope)
    exec(lens, scope)
    rows = scope["rows"]
    assert {row.quantity for row in rows} >= {"cosine", "norm_ratio"}


def test_both_commands_make_their_environment_and_stand_alone_on_a_line():
    lines = [line for line in README.splitlines() if line.startswith("python3 -m venv .venv && . .venv/bin/activate && pip install ")]
    assert len(lines) == 2
    assert lines[0].endswith("&& gradlens compare-gradients")
    assert lines[1].endswith("&& pytest")


def test_it_is_short_and_its_links_lead_somewhere():
    assert len(README.encode()) <= 8000
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_every_rule_is_in_its_table():
    from gradlens.methods import SHIPPED

    named = set(re.findall(r"`([a-z-]+)`", README[README.index("## Rules") : README.index("## Your own rule")]))
    assert named == set(SHIPPED)


@pytest.mark.usefixtures("own_code_forgotten")
def test_the_rule_is_short_passes_every_check_and_trains(program):
    code = BLOCKS[2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    Path("signed.py").write_text(code, encoding="utf-8")
    status, out, err = program("check", "signed.py:Signed", "--quiet")
    assert (status, err) == (0, "")
    assert "0 fail" in out
    flags = ["--model", "mlp", "--width", 8, "--limit", 64, "--batch-size", 16, "--epochs", 1, "--record-every", 2, "--quiet"]
    assert program("train", "signed.py:Signed", *flags)[0] == 0
