"""The section of the page that draws what each rule sends where."""

from __future__ import annotations

import json
from base64 import b64encode
from functools import lru_cache

from matplotlib import style

from gradlens.analysis.rule_structure import RuleStructure, rule_structure
from gradlens.gradients.method import Method
from gradlens.reporting.html.parts import Picture, ReportContext, ReportSection
from gradlens.reporting.schematic import described, schematic
from gradlens.reporting.style import LOOK, WRITERS
from gradlens.runtime.errors import InputError
from gradlens.training.run_directory import Run


def section(held: ReportContext) -> ReportSection:
    """Draw each rule with its options, from one observed step of it; rules whose file is gone are named."""
    shown = ReportSection("schematics", "What each rule sends where", kind="schematics")
    for label, group in held.groups.items():
        try:
            structure = observed(group[0])
        except Exception as error:  # noqa: BLE001 - a user's rule may fail in any way on a network it was not written for
            reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            shown.missing.append(f"{label} is not drawn: {reason}")
            continue
        shown.pictures.append(
            Picture(label, held.place(label), _image(structure, "light"), described(structure), _image(structure, "dark"))
        )
    if shown.pictures:
        shown.text.append(
            "Drawn from one step of each rule on a small network of three blocks: black arrows carry activations, red ones error signals,"
            " two bars across an arrow mean that no gradient comes back there. `gradlens draw RULE` draws one alone."
        )
    return shown


def observed(run: Run) -> RuleStructure:
    """Observe the structure of a run's rule with the run's options."""
    return _observed(run.config.method, run.config.rule, json.dumps(run.config.options, sort_keys=True))


@lru_cache(maxsize=64)
def _observed(name: str, rule: type[Method], options: str) -> RuleStructure:
    return rule_structure(name, rule, json.loads(options))


@lru_cache(maxsize=64)
def _image(structure: RuleStructure, theme: str) -> str:
    with style.context(LOOK):
        return f"data:image/svg+xml;base64,{b64encode(WRITERS['svg'](schematic([structure], theme))).decode()}"
