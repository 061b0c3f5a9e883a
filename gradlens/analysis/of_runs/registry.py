"""The analyses of finished runs, by the name of what they store; each is a command, in this order."""

from __future__ import annotations

from gradlens.analysis.of_runs.filters import Filters
from gradlens.analysis.of_runs.inpainting import InpaintedImages
from gradlens.analysis.of_runs.interface import Analysis
from gradlens.analysis.of_runs.memorization import Memorization
from gradlens.analysis.of_runs.probe import Probe
from gradlens.analysis.of_runs.rendering import RenderedPictures
from gradlens.analysis.of_runs.representations import Representations

ANALYSES: dict[str, Analysis] = {
    analysis.name: analysis
    for analysis in (
        Memorization(),
        Probe(),
        Representations(),
        Filters(),
        InpaintedImages(),
        RenderedPictures(),
    )
}
