"""Representations: what each block of a network holds of image and label, and the similarity of two networks' blocks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from gradlens.analysis.of_runs.interface import Analysis, Result, Session
from gradlens.analysis.of_runs.options import FULL_REPRESENTATIONS, RepresentationOptions
from gradlens.runtime.progress import Progress

if TYPE_CHECKING:
    from gradlens.training.run_directory import Run


class Representations(Analysis):
    """Measure what each block represents: CKA with other runs, dissimilarities, rank, class separation, information on image and label."""

    name, command, comparison = "representations", "representations", "cka"
    argument = "run directories; the first is compared with the others"
    Options = RepresentationOptions
    full = FULL_REPRESENTATIONS

    def check(self, runs: Sequence[Run], session: Session) -> None:
        """Refuse unknown blocks, too few images, and runs of other images than the first one's; a run may be there twice."""
        from gradlens.analysis.representations import must_be_comparable

        must_be_comparable(runs, session.context, session.options)

    def protocol(self, run: Run, session: Session) -> dict[str, Any]:
        """Describe the measurement, see :func:`gradlens.analysis.representations.representation_protocol`."""
        from gradlens.analysis.representations import representation_protocol

        return representation_protocol(run, session.context, session.options)

    def measure(self, run: Run, session: Session, progress: Progress) -> Result:
        """Measure the numbers of all blocks: see :func:`gradlens.analysis.representations.represent_run`."""
        from gradlens.analysis.representations import represent_run
        from gradlens.training.run_directory import plain

        result = self.stored(run, self.protocol(run, session), session)
        found = represent_run(run, session.context, session.options, result, partial(self.store, run), progress, session.shared)
        return dict(plain(found))

    def compare(self, runs: Sequence[Run], session: Session) -> Result:
        """Measure how similar the first run's blocks are to the others': see :func:`gradlens.analysis.network_similarity.compare_run`."""
        from gradlens.analysis.network_similarity import compare_run, comparison_protocol

        run, *others = runs
        result = self.stored(run, comparison_protocol(run, session.context, session.options), session, self.comparison)
        keep = partial(self.store, run, name=self.comparison)
        return compare_run(run, others, session.context, session.options, result, keep, session.watch("comparing"))
