"""What blocks wait for, in words: on each rule's page, and the table of all rules in docs/concepts/blocks-and-locking.md."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from gradlens.analysis.rule_structure import RuleStructure
from gradlens.gradients.locks import DEPENDENCIES
from gradlens.gradients.method import Method
from gradlens.methods import METHODS
from tools.docs.markdown import between_marks, table

HEADINGS = (
    "forward-locked: it runs after the block below has",
    "update-locked: it is updated after the later blocks have run",
    "backward-locked: … and have gone backward",
    "reads the labels",
)
UNTRAINED = "it is not trained"


class Waits(NamedTuple):
    """What a block below the output block waits for, by default options: an answer to each of HEADINGS."""

    forward: str
    update: str
    backward: str
    labels: str


def waits(rule: type[Method]) -> Waits:
    """Return what a rule's blocks wait for, from what the rule declares."""
    locks = rule.locks()
    source = "a replay buffer" if "replay_buffer" in rule.depends_on else "a synthetic input"
    scope = "inside its window" if rule.has_windows else "yes" if rule.classifies else "yes, those of the encoder"
    update, backward = (UNTRAINED if rule.top_only else scope if held else "no" for held in (locks.update, locks.backward))
    return Waits("yes" if locks.forward else f"no: it reads {source}", update, backward, "yes" if locks.labels else "no")


def waiting(rule: type[Method], structure: RuleStructure) -> Iterator[str]:
    """Yield the section of a rule's page on locking, line by line.

    Args:
        rule: its class.
        structure: what was observed of it, for its windows.

    """
    yield table(("a block below the output block, default options", ""), zip(HEADINGS, waits(rule), strict=True))
    if any(later[0] <= earlier[1] for earlier, later in pairwise(structure.windows)):
        yield (
            "A block's gradient depends on no more than its windows. Since these overlap, every pair of neighbouring blocks is in one,"
            " and gradlens updates the blocks of a step from the last to the first."
        )
    elif rule.classifies and rule.has_local_losses:
        yield "The last block and the output block are one unit with the global loss, in which the last block waits for the output block."
    elif not rule.classifies:
        yield "The network's output block is neither run nor trained: the encoder is all blocks before it."
    yield from ("", "Each block depends on:", "")
    yield from (f"- `{word}`: {DEPENDENCIES[word]}" for word in sorted(rule.depends_on))


def locking_table() -> str:
    """Return a table of all rules, those with the same answers in one row."""
    same: dict[Waits, list[str]] = {}
    for name, rule in METHODS.items():
        same.setdefault(waits(rule), []).append(f"`{name}`")
    rows = sorted(same.items(), key=lambda row: (UNTRAINED in row[0], row[0].backward == "no", row[0].update == "no", row[0].forward))
    return table(("rule", *HEADINGS), [(", ".join(names), *answers) for answers, names in rows])


def write_locking(docs: Path) -> None:
    """Write the table into the page that has its marks."""
    path = docs / "concepts" / "blocks-and-locking.md"
    path.write_text(between_marks(path.read_text(encoding="utf-8"), "locking", locking_table()), encoding="utf-8")
