"""Tables of a study's tests with their verdicts, for the pages of ``docs/results``: made from its values, as docs/results/claims.md is."""

from __future__ import annotations

from collections.abc import Sequence

from analyses.verdicts.decision import Decided
from analyses.verdicts.stored import decided
from analyses.verdicts.wording import effect_in_words, p_in_words, repeated
from tools.docs.markdown import table
from tools.docs.stored import FIGURES, results


def verdict_table(found: Sequence[Decided]) -> str:
    """Tests of a study: what is compared, effect, repetitions, corrected p, verdict; primary tests in bold, parts below the whole."""
    lines = []
    for one in found:
        if one.seeds:
            verdict = f"**{one.verdict}**" if one.test.primary_of else one.verdict
            effect = f"all of {len(one.parts)}:" if one.parts else effect_in_words(one)
            lines.append([one.test.says, effect, repeated(one), p_in_words(one.p_holm), verdict])
            lines += [
                [f"– {part.test.says}", effect_in_words(part), repeated(part), f"({p_in_words(part.p_holm)})", f"({part.verdict})"]
                for part in one.parts
            ]
    note = "\nIn brackets: each part by itself; all of them must hold ([how a verdict is made](claims.md)).\n"
    return table(["compared", "effect", "repeated", "p (Holm)", "verdict"], lines) + note * any(one.parts for one in found)


def tests(study: str) -> str:
    """What a study's tests come to, where its script has been run since it saves one value a seed."""
    if not {"values", "effects"} & set(results(study)):
        return "*Not decided yet: the saved results are older than the tests.*\n"
    return verdict_table(decided(study, FIGURES))
