"""The README's snippets run as they stand."""

import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()
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
