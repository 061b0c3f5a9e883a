"""First-layer filters: the kernels of the first convolution of a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradlens.analysis.of_runs.interface import Analysis, Result, Session, option
from gradlens.runtime.progress import Progress

if TYPE_CHECKING:
    from gradlens.training.run_directory import Run


@dataclass(frozen=True)
class FilterOptions:
    """What is measured."""

    over_time: bool = option(False, "the numbers at the snapshots too (--keep-checkpoints)")


class Filters(Analysis):
    """Show the filters of the first convolution side by side, and their numbers beside those of the untrained stem and of chance."""

    name, command = "filters", "filters"
    argument = "run directories of networks that begin with a convolution"
    Options = FilterOptions

    def check(self, runs: Sequence[Run], session: Session) -> None:
        """Refuse checkpoints that cannot be read, and networks without a convolution."""
        from gradlens.analysis.first_layer_filters import must_have_filters

        super().check(runs, session)
        for run in runs:
            must_have_filters(run, session.context)

    def measure(self, run: Run, session: Session, progress: Progress) -> Result:
        """Measure the filters and their numbers: see :func:`gradlens.analysis.first_layer_filters.filters_run`."""
        from gradlens.analysis.first_layer_filters import filters_run

        return self.store(run, filters_run(run, session.context, session.options.over_time, progress))
