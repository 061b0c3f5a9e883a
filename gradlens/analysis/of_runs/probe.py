"""Linear probes: how well the labels can be read from each block of a frozen network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from gradlens.analysis.of_runs.interface import Analysis, Result, Session
from gradlens.analysis.of_runs.options import FULL_PROBE, ProbeOptions
from gradlens.runtime.errors import InputError
from gradlens.runtime.progress import Progress

if TYPE_CHECKING:
    from gradlens.training.run_directory import Run


class Probe(Analysis):
    """Fit a linear probe to every block of frozen networks: how well the labels can be read there, beside controls."""

    name, command = "probe", "probe"
    argument = "run directories, of one method or several"
    Options = ProbeOptions
    full = FULL_PROBE

    def check(self, runs: Sequence[Run], session: Session) -> None:
        """Refuse other data than the run's, unknown blocks, and too few images to probe with."""
        from gradlens.analysis.linear_probe import must_be_probeable

        if session.options.features < 1:
            raise InputError(f"--features: must be 1 or more, got {session.options.features}")
        super().check(runs, session)
        for run in runs:
            must_be_probeable(run, session.context, session.options)

    def protocol(self, run: Run, session: Session) -> dict[str, Any]:
        """Describe the measurement, see :func:`gradlens.analysis.linear_probe.probe_protocol`."""
        from gradlens.analysis.linear_probe import probe_protocol

        return probe_protocol(run, session.context, session.options)

    def measure(self, run: Run, session: Session, progress: Progress) -> Result:
        """Probe all blocks: see :func:`gradlens.analysis.linear_probe.probe_run`."""
        from gradlens.analysis.linear_probe import probe_run
        from gradlens.training.run_directory import plain

        result = self.stored(run, self.protocol(run, session), session)
        found = probe_run(run, session.context, session.options, result, partial(self.store, run), progress, session.shared)
        return dict(plain(found))
