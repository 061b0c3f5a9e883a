"""What the worked examples show as printed is what tools.docs.worked_examples stored of their commands."""

import re

import pytest
from stated_numbers import JUDGED, ROOT

from tools.docs.page_blocks import printed_blocks
from tools.docs.stored import FIGURES, number, results, rows_of
from tools.docs.worked_examples import COMMANDS, examples

STORED = FIGURES / "worked_examples" / "results.json"
stored = pytest.mark.skipif(not STORED.exists(), reason="`python -m tools.docs.worked_examples` (three core-minutes) has not been run")
SHOWN = [*examples(), "README.md"]
HASHED = re.compile(r"-[0-9a-f]{6}\b")  # of a run's settings, which hold the version


def test_every_command_stands_on_one_page():
    found = [command for commands in examples().values() for command in commands]
    assert sorted(found) == sorted(COMMANDS)


@stored
@pytest.mark.parametrize("page", SHOWN)
def test_printed_lines_are_those_that_were_stored(page):
    """Lines with … are shortened, those that end with / name a folder of the user: neither is compared."""
    page = "docs/getting-started/first-comparison.md" if page == "README.md" else page
    said = {HASHED.sub("", line.strip()) for text in results("worked_examples")["pages"][page].values() for line in text.splitlines()}
    lines = [line.strip() for text in printed_blocks((ROOT / page).read_text(encoding="utf-8")) for line in text.splitlines()]
    missing = [line for line in lines if line and "…" not in line and not line.endswith("/") and HASHED.sub("", line) not in said]
    assert not missing


def beside_chance(rule, block, quantity):
    """A number of the comparison's figure `alignment`, with a true minus sign."""
    keys = (rule, f"{block}.conv", quantity)
    (row,) = [row for row in rows_of("worked_examples/alignment.csv") if (row["label"], row["layer"], row["quantity"]) == keys]
    return number(float(row["mean"])).replace("-", "−")


@stored
def test_chance_and_noise_are_those_that_were_stored():
    mine = "mine-randomheads"
    low, high = ([beside_chance(mine, block, q) for block in ("block1", "block2")] for q in ("null_cosine", "cosine"))
    judged = " ".join((ROOT / JUDGED).read_text(encoding="utf-8").split())
    assert "puts chance at {} and {} beside ".format(*low) + "{} and {} (".format(*high) in judged
    for rule, block in ((mine, "block3"), ("dgl", "block1")):
        assert f"{beside_chance(rule, block, 'cosine')} where chance gives {beside_chance(rule, block, 'null_cosine')}" in judged
    report = (ROOT / "docs/tutorials/read-the-report.md").read_text(encoding="utf-8")
    for rule, block in (("dgl", "block1"), ("dgl", "block2"), (mine, "block3")):
        numbers = [beside_chance(rule, block, quantity) for quantity in ("cosine", "null_cosine", "noise_corrected")]
        assert f"| {rule} | {block}.conv | {' | '.join(numbers)} |" in report
