"""Memorization: how fast and how far rules fit random labels. The runs are trained for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gradlens.analysis.of_runs.interface import AnalysisWithTraining, Result, Session
from gradlens.runtime.progress import Progress

if TYPE_CHECKING:
    from gradlens.training.config import Config
    from gradlens.training.context import RunContext
    from gradlens.training.run_directory import Run


class Memorization(AnalysisWithTraining):
    """Train METHODs on random labels (--label-noise, default 1), or read such runs: how fast and how far each fits them."""

    name, command = "memorization", "memorize"

    def default_methods(self) -> Sequence[str]:
        """Return backpropagation and a local rule."""
        from gradlens.analysis.memorization import DEFAULT_METHODS

        return DEFAULT_METHODS

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Set random labels, and the evaluation of training images: see :func:`gradlens.analysis.memorization.wanted`."""
        from gradlens.analysis.memorization import wanted
        from gradlens.runtime.errors import InputError
        from gradlens.tasks.registry import DEFAULT

        if (task := given.get("task", DEFAULT)) != DEFAULT:
            raise InputError(f"`gradlens {self.command}` trains on images with random labels: it has no meaning for --task {task}")
        return wanted(given)

    def check_config(self, config: Config, context: RunContext) -> None:
        """Refuse data and rules without labels to be memorized."""
        from gradlens.analysis.memorization import must_be_memorizable

        must_be_memorizable(config, context)

    def requires(self, run: Run) -> str | None:
        """Require a finished run that evaluated its training images and did not augment them."""
        from gradlens.analysis.memorization import not_memorizable

        return not_memorizable(run)

    def measure(self, run: Run, session: Session, progress: Progress) -> Result:
        """Measure curve, scores and probes: see :func:`gradlens.analysis.memorization.memorized`."""
        from gradlens.analysis.memorization import memorization_protocol, memorized

        stored = self.stored(run, memorization_protocol(run), session)
        found = memorized(run, session.context, stored, progress)
        return stored if found is stored else self.store(run, found)
