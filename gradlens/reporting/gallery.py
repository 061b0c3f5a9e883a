"""The pictures of what some runs have learned, drawn from the results that commands stored in them; nothing is computed or trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from gradlens.analysis import inpainting, linear_probe, memorization, network_similarity, representations
from gradlens.reporting import filters, online_probe, probes
from gradlens.reporting import inpainting as reporting_inpainting
from gradlens.reporting import memorization as reporting_memorization
from gradlens.reporting import representations as reporting_representations
from gradlens.reporting.online_probe import Results
from gradlens.runtime.errors import InputError
from gradlens.training.run_directory import Run, load_result

Drawer = Callable[[Sequence[Run], Results, Path], list[Path]]  # runs and what each holds -> the png files written


def _probe(runs: Sequence[Run], results: Results, folder: Path) -> list[Path]:
    return probes.draw_probes(probes.probe_points(runs, results), folder)


def _filters(runs: Sequence[Run], results: Results, folder: Path) -> list[Path]:
    return filters.draw_filters(runs, filters.results_by_label(runs, results), folder)


def _representations(runs: Sequence[Run], results: Results, folder: Path) -> list[Path]:
    pairs = load_result(runs[0].path, network_similarity.PAIRS) or {"with": []}
    return [folder / f"{name}.png" for name in reporting_representations.draw_representations(runs, results, pairs, folder)]


DRAWERS: dict[str, Drawer] = {  # name of the json file in a run directory -> what draws it
    linear_probe.NAME: _probe,
    memorization.NAME: reporting_memorization.draw_memorization,
    "filters": _filters,
    representations.RESULT: _representations,
    "online": online_probe.draw_online_probe,
    inpainting.NAME: reporting_inpainting.draw_inpainting,
}


def draw_learned(runs: Sequence[Run], folder: Path) -> tuple[list[Path], dict[str, str]]:
    """Draw what the runs hold, each kind from those runs that hold it.

    Args:
        runs: several methods, several seeds each.
        folder: made if it is not there.

    Returns:
        the png files, and kind -> why it was not drawn.

    Raises:
        InputError: the folder cannot be written.

    """
    drawn: list[Path] = []
    skipped: dict[str, str] = {}
    for name, draw in DRAWERS.items():
        found = [(run, result) for run in runs if (result := load_result(run.path, name)) is not None]
        if not found:
            continue
        try:
            drawn += draw([run for run, _ in found], [result for _, result in found], folder)
        except InputError as error:
            skipped[name] = str(error)
    return drawn, skipped
