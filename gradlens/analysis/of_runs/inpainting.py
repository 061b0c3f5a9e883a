"""Inpainting: predictions of context encoders for dropped pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradlens.analysis.of_runs.interface import Analysis, Result, Session, option
from gradlens.runtime.progress import Progress

if TYPE_CHECKING:
    from gradlens.training.run_directory import Run


@dataclass(frozen=True)
class InpaintingOptions:
    """What is shown."""

    images: int = option(8, "pictures of each method")


class InpaintedImages(Analysis):
    """Show the predictions of context encoders for dropped pixels, and their error there beside that of the mean patch."""

    name, command = "inpainting", "inpaint"
    drawn = "folder of the figure"
    Options = InpaintingOptions

    def rules(self) -> Sequence[str]:
        """Return the context encoders."""
        from gradlens.analysis.inpainting import INPAINTING_RULES

        return INPAINTING_RULES

    def requires(self, run: Run) -> str | None:
        """Require a context encoder with a checkpoint."""
        from gradlens.analysis.inpainting import drops_no_pixels

        return drops_no_pixels(run) or super().requires(run)

    def check(self, runs: Sequence[Run], session: Session) -> None:
        """Refuse other data than the run's, and fewer images than requested."""
        from gradlens.analysis.inpainting import must_have_images

        super().check(runs, session)
        for run in runs:
            must_have_images(run, session.options.images, session.context)

    def measure(self, run: Run, session: Session, progress: Progress) -> Result:
        """Make pictures and errors: see :func:`gradlens.analysis.inpainting.inpaint_run`."""
        from gradlens.analysis.inpainting import inpaint_run

        return self.store(run, inpaint_run(run, session.context, session.options.images, progress))
