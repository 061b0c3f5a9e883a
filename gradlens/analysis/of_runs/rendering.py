"""Rendering: the pictures that networks make of a scene, and their PSNR and SSIM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradlens.analysis.of_runs.interface import Analysis, Result, Session, option
from gradlens.runtime.progress import Progress

if TYPE_CHECKING:
    from gradlens.training.run_directory import Run


@dataclass(frozen=True)
class RenderingOptions:
    """What is shown."""

    images: int = option(4, "pictures of each method", least=1)


class RenderedPictures(Analysis):
    """Render held-out views of a scene, or a picture, beside the true ones: PSNR and SSIM."""

    name, command = "rendering", "render"
    drawn = "folder of the figure"
    of_images = False
    Options = RenderingOptions

    def requires(self, run: Run) -> str | None:
        """Require a task that makes pictures, and a checkpoint."""
        from gradlens.analysis.rendering import makes_no_pictures

        return makes_no_pictures(run) or super().requires(run)

    def measure(self, run: Run, session: Session, progress: Progress) -> Result:
        """Render all held-out pictures: see :func:`gradlens.analysis.rendering.render_run`."""
        from gradlens.analysis.rendering import render_run

        return self.store(run, render_run(run, session.context, session.options.images, progress))
