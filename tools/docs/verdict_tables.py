"""Tables of a study's tests with their verdicts, for the pages of ``docs/results``: made from its values, as docs/results/claims.md is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analyses.verdicts.decision import decide, effect_in_words, measured, p_in_words
from analyses.verdicts.sentences import tests_of
from tools.docs.markdown import table
from tools.docs.stored import results


def verdict_table(study: str, saved: Mapping[str, Any]) -> str:
    """Every test of a study that has values: what is compared, the effect, seeds, corrected p, verdict; the primary tests in bold.

    Args:
        study: folder of its results under ``figures``.
        saved: its results.json.

    """
    lines = []
    for found in decide(measured(tests_of(study), saved), saved):
        if found.seeds:
            verdict = f"**{found.verdict}**" if found.test.primary_of else found.verdict
            lines.append([found.test.says, effect_in_words(found), found.seeds, p_in_words(found.p_holm), verdict])
    return table(["compared", "effect", "seeds", "p (Holm)", "verdict"], lines)


def tests(study: str) -> str:
    """What a study's tests come to, where its script has been run since it saves one value a seed."""
    found = results(study)
    if not {"values", "effects"} & set(found):
        return "*Not decided yet: the saved results are older than the tests.*\n"
    return verdict_table(study, found)
