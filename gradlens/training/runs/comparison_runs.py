"""The runs of a comparison: read, reused or trained into one folder, with the learning rates that were searched for them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from gradlens.runtime.errors import InputError, Stopped
from gradlens.runtime.progress import Watch
from gradlens.runtime.terminal import notice
from gradlens.training.comparison import (
    COMPARISONS,
    FILE,
    RUNS,
    SEARCHES,
    ChosenRate,
    Comparison,
    digest_of,
    folder_name,
    is_comparison,
    read_comparison,
    write_comparison,
)
from gradlens.training.config import Config
from gradlens.training.context import RunContext
from gradlens.training.run_directory import Run
from gradlens.training.run_files import is_run
from gradlens.training.runs.check import check
from gradlens.training.runs.lr_search import rates_beyond, search_lr
from gradlens.training.runs.train_run import train_or_reuse
from gradlens.training.user_references import short_reference

HELD_OUT = 0.2  # share of the training images on which learning rates are chosen


@dataclass(frozen=True)
class RequestedComparison:
    """What a comparison is to hold."""

    groups: list[list[Config]]  # of each method that may have to be trained, a config a seed
    read: list[Run] = field(default_factory=list)  # runs that were given
    grid: Sequence[float] = ()  # learning rates to choose from
    command: str = ""  # as typed

    @property
    def configs(self) -> list[Config]:
        """Return all configs, those of runs that were given first; with a grid before the choice."""
        return [run.config for run in self.read] + [config for group in self.groups for config in group]

    def digest(self) -> str:
        """Return six hex digits of it."""
        return digest_of({"runs": [config.run_name() for config in self.configs], "lr_grid": list(self.grid)})

    def folder(self) -> Path:
        """Return where it goes by default."""
        methods = list(dict.fromkeys(config.method for config in self.configs))
        data = dict.fromkeys(short_reference("data", Path(config.data.name).resolve().name) or "images" for config in self.configs)
        return COMPARISONS / folder_name(methods, list(data), self.digest())


@dataclass
class ComparedRuns:
    """The runs of a comparison, with notices about them."""

    runs: list[Run]
    comparison: Comparison
    notices: list[str]  # on the learning rates that were chosen
    failures: list[str]  # why runs ended before their time


def known_places(folder: Path) -> list[Path]:
    """List where to look for finished runs when a comparison has its default place: other comparisons, and the folder of ``train``."""
    others = sorted(file.parent for file in folder.parent.glob(f"*/{FILE}") if file.parent != folder)
    return [*others, RunContext().out]


def must_be_free(folder: Path, request: RequestedComparison, overwrite: bool) -> None:
    """Refuse a folder that holds another comparison; if this comparison includes all of the other's runs, it continues it.

    Raises:
        InputError: it holds another comparison, or other things and no comparison.

    """
    if overwrite or not folder.is_dir():
        return
    if is_comparison(folder):
        other = read_comparison(folder)
        names = {config.run_name() for config in request.configs}
        if other.request_digest == request.digest() or (
            not request.grid and not other.learning_rates and {p.name for p in other.run_paths} <= names
        ):
            return
        raise InputError(
            f"{folder} holds another comparison (`{other.command}`): set another folder with --out, or replace it with --overwrite"
        )
    if held := sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")):
        ways = "set another folder with --out, or put the comparison beside them with --overwrite"
        raise InputError(f"{folder} holds other things and no comparison ({', '.join(held[:3])}): {ways}")


def _comparison_in(folder: Path) -> Comparison | None:
    """Read the comparison in a folder, if there is one that can be read."""
    try:
        return read_comparison(folder) if is_comparison(folder) else None
    except InputError:
        return None


def _replace_comparison(made: Comparison, overwrite: bool) -> None:
    """Write ``comparison.json``; with ``overwrite`` remove the runs and searches of the comparison that was in the folder.

    What lies outside its ``runs/`` and ``searches/`` stays, and so do runs of the new comparison and those that one beside it names.
    """
    before = _comparison_in(made.path) if overwrite else None
    write_comparison(made)
    if before is None or before.made_by != made.made_by:
        return
    beside = [found for file in made.path.resolve().parent.glob(f"*/{FILE}") if (found := _comparison_in(file.parent))]
    needed = {path.resolve() for comparison in (made, *beside) for path in (*comparison.run_paths, *comparison.search_paths)}
    removed = []
    for what, name, paths in (("run", RUNS, before.run_paths), ("search run", SEARCHES, before.search_paths)):
        place = made.path / name
        mine = [p for p in paths if p.parent.resolve() == place.resolve() and is_run(p) and p.resolve() not in needed]
        for path in [] if place.is_symlink() else [p for p in mine if not p.is_symlink()]:
            shutil.rmtree(path)
            removed.append(what)
    counts = [f"{n} {what}{'s' * (n != 1)}" for what in dict.fromkeys(removed) if (n := removed.count(what))]
    if counts:
        notice(f"removed {' and '.join(counts)} of the comparison that was in {made.path}")


def compare_runs(
    request: RequestedComparison,
    folder: Path,
    context: RunContext,
    watch_for: Callable[[Config], Watch],
    reused: Callable[[Run], None],
    elsewhere: Sequence[Path] = (),
) -> ComparedRuns:
    """Make the runs of a comparison in ``folder``, whose ``comparison.json`` is written before the first is trained.

    All methods are checked before that, their learning rates are searched one method after the other, and then the runs are trained.

    Args:
        request: the requested contents.
        folder: the comparison's.
        context: how runs are made.
        watch_for: the progress display of a config.
        reused: is called with each run that was finished before.
        elsewhere: other comparison folders and folders of runs in which finished runs are looked for too.

    Raises:
        InputError: what :func:`must_be_free` or a config's check refuses; nothing is written then.
        Stopped: interrupted.

    """
    must_be_free(folder, request, context.overwrite)
    groups = request.groups
    notices: list[str] = []
    made = Comparison(
        folder,
        _places(request.read, [] if request.grid else groups, folder),
        "compare-gradients",
        request.digest(),
        request.command,
        finished=False,
        methods=tuple(dict.fromkeys(config.method for config in request.configs)),
        seeds=tuple(dict.fromkeys(config.seed for config in request.configs)),
    )
    if request.grid:
        for group in groups:
            check(group[0], replace(context, resume=False))
        _replace_comparison(made, context.overwrite)
        groups, made, notices = _with_best_rates(request, made, context, watch_for, elsewhere)
    known = [run.config for run in request.read]
    failures: list[str] = []

    def failed(stopped: Stopped) -> None:
        failures.append(str(stopped))

    trained = train_or_reuse(
        [config for group in groups for config in group if config not in known], replace(context, out=folder / RUNS), watch_for,
        elsewhere=[at for place in elsewhere for at in (place, place / RUNS)], reused=reused,
        checked=partial(_replace_comparison, made, context.overwrite), failed=failed,
    )  # fmt: skip
    runs = request.read + trained
    made = replace(made, run_paths=tuple(run.path for run in runs), finished=not failures)
    write_comparison(made)
    return ComparedRuns(runs, made, notices, failures)


def _places(read: Sequence[Run], groups: Sequence[Sequence[Config]], folder: Path) -> tuple[Path, ...]:
    """Return the directories of runs that are there or will be."""
    return tuple(dict.fromkeys([*(run.path for run in read), *(folder / RUNS / config.run_name() for group in groups for config in group)]))


def _with_best_rates(
    request: RequestedComparison, made: Comparison, context: RunContext, watch_for: Callable[[Config], Watch], elsewhere: Sequence[Path]
) -> tuple[list[list[Config]], Comparison, list[str]]:
    """Set in each method's configs the learning rate that is best for it, chosen with the first seed."""
    groups: list[list[Config]] = []
    searches: list[Path] = []
    notices: list[str] = []
    rates: dict[str, ChosenRate] = {}
    place, others = replace(context, out=made.path / SEARCHES), [folder / SEARCHES for folder in elsewhere]
    for group in request.groups:
        found = search_lr(group[0], request.grid, HELD_OUT, place, watch_for, others)
        method, rate = group[0].method, found.rate(request.grid)
        searches += [run.path for run in found.runs]
        rates[method] = rate
        notices.append(rate_text(method, rate))
        groups.append([config.replace(lr=found.lr) for config in group])
    places = _places(request.read, groups, made.path)
    return groups, replace(made, run_paths=places, search_paths=tuple(dict.fromkeys(searches)), learning_rates=rates), notices


def rate_text(method: str, rate: ChosenRate) -> str:
    """Return the learning rate that was chosen for a method, in words; at an end of the grid with the rates to try next.

    >>> rate_text("dgl", ChosenRate(0.01, (0.001, 0.01), True))
    'dgl: lr 0.01 of 0.001, 0.01 is best on a fifth of the training images; it is the largest: add 0.1,1 to --lr-grid'
    """
    text = f"{method}: lr {rate.lr:g} of {', '.join(f'{lr:g}' for lr in rate.grid)} is best on a fifth of the training images"
    if not rate.at_end:
        return text
    end = "largest" if rate.lr == max(rate.grid) else "smallest"
    return f"{text}; it is the {end}: add {','.join(f'{lr:g}' for lr in rates_beyond(rate))} to --lr-grid"
