"""Tests decided by the values that scripts have stored under figures/; those of one script are corrected for their number together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from analyses.verdicts.decision import Decided, Results, Test, decide, measured
from analyses.verdicts.sentences import STUDIES, tests_of
from gradlens.runtime.text_files import read_json


def results_of(study: str, figures: Path) -> dict[str, Any]:
    """A study's results, with what one seed of all its runs costs; without values where its script has not been run since it saves them."""
    file = figures / study / "results.json"
    minutes = STUDIES[study].minutes / STUDIES[study].seeds
    return {"minutes_a_seed": minutes, **(read_json(file) if file.exists() else {})}


def siblings(study: str, figures: Path) -> list[tuple[list[Test], Results]]:
    """Tests that have values, and results, of the other studies of a study's script."""
    others = [name for name, other in STUDIES.items() if other.script == STUDIES[study].script and name != study]
    return [_tested(other, figures) for other in others]


def _tested(study: str, figures: Path) -> tuple[list[Test], Results]:
    results = results_of(study, figures)
    return measured(tests_of(study), results), results


def decided(study: str, figures: Path) -> list[Decided]:
    """Every test of a study that has values, beside what they say."""
    return decide(*_tested(study, figures), siblings(study, figures))
