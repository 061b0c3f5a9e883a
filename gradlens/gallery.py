"""The pictures of what some runs have learned, drawn from the results that commands stored in them; nothing is computed or trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gradlens import filters, inpainting, memorization, pictures, probes, representations
from gradlens.errors import InputError
from gradlens.plots import save
from gradlens.run import Run, load_result

Results = Sequence[dict[str, Any]]
Drawer = Callable[[Sequence[Run], Results, Path], list[Path]]  # runs and what each holds -> the png files written


class RegretRow(NamedTuple):
    """One row of a regret figure's table."""

    block: str
    learner: str
    rounds: int
    loss: float  # cumulative, nats
    best_in_hindsight: float
    regret: float
    regret_low: float
    regret_high: float
    bound: float  # of the learner's theorem


def _probe(runs: Sequence[Run], results: Results, folder: Path) -> list[Path]:
    return probes.draw(probes.probe_points(runs, results), folder)


def _filters(runs: Sequence[Run], results: Results, folder: Path) -> list[Path]:
    return filters.draw(runs, filters.grouped(runs, results), folder)


def _representations(runs: Sequence[Run], results: Results, folder: Path) -> list[Path]:
    pairs = load_result(runs[0].path, representations.PAIRS) or {"with": []}
    return [folder / f"{name}.png" for name in representations.draw(runs, results, pairs, folder)]


def _regret(runs: Sequence[Run], results: Results, folder: Path) -> list[Path]:
    """One figure a run: regrets of different streams are not to be averaged."""
    drawn = []
    for run, result in zip(runs, results, strict=True):
        name = f"regret-{run.config.method}-s{run.config.seed}"
        if len({(r.config.method, r.config.seed) for r in runs}) < len(runs):
            name = f"regret-{run.path.name}"
        rows = [RegretRow(**{field: row[field] for field in RegretRow._fields}) for row in result["rows"]]
        drawn += save(pictures.regret(result["rows"], title=run.path.name), rows, folder, name)[:1]
    return drawn


DRAWERS: dict[str, Drawer] = {  # name of the json file in a run directory -> what draws it
    probes.NAME: _probe,
    memorization.NAME: memorization.draw,
    "filters": _filters,
    representations.RESULT: _representations,
    "online": _regret,
    inpainting.NAME: inpainting.draw,
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
