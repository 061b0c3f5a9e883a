"""Tables of a study's tests with their verdicts, for the pages of ``docs/results``: made from its values, as docs/results/claims.md is."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from typing import Any

from analyses.sentences import STUDIES
from analyses.verdicts import decide, effect_in_words, measured
from tools.docs.markdown import table


def verdict_table(study: str, results: Mapping[str, Any]) -> str:
    """Every test of a study that has values: what is compared, the effect, seeds, corrected p, verdict; the primary tests in bold.

    Args:
        study: folder of its results under ``figures``.
        results: its results.json.

    """
    listed = importlib.import_module(f"analyses.{STUDIES[study]}").TESTS
    tests = listed[study] if isinstance(listed, Mapping) else listed
    lines = []
    for found in decide(measured(tests, results), results):
        if found.seeds:
            verdict = f"**{found.verdict}**" if found.test.primary_of else found.verdict
            lines.append([found.test.says, effect_in_words(found), found.seeds, p_value(found.p_holm), verdict])
    return table(["compared", "effect", "seeds", "p (Holm)", "verdict"], lines)


def p_value(value: float) -> str:
    """A p value as tables print it."""
    return "–" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.2g}"
