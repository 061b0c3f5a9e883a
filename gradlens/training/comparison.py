"""A comparison folder, and which runs a path stands for. Read without torch, so that a wrong path is refused at once.

``comparison.json`` lists what belongs together: the runs, the search runs of ``--lr-grid``, the figures, by paths relative to the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gradlens._version import __version__
from gradlens.runtime.errors import InputError, kind_of
from gradlens.runtime.paths import is_file, is_folder
from gradlens.runtime.progress import no_progress
from gradlens.runtime.terminal import notice
from gradlens.runtime.text_files import encode, read_json
from gradlens.training.run_files import is_run, must_be_run, must_exist, write

if TYPE_CHECKING:
    import pandas

    from gradlens.training.run_directory import Run

FILE, FORMAT = "comparison.json", 1
RUNS, SEARCHES, FIGURES = "runs", "searches", "figures"  # folders in a comparison folder
COMPARISONS = Path("comparisons")  # where comparison folders are made by default
NAMED = 3  # methods, or runs, that are named one by one


class ChosenRate(NamedTuple):
    """The learning rate that ``--lr-grid`` chose for a method."""

    lr: float
    grid: tuple[float, ...]
    at_end: bool  # it is the smallest or the largest of the grid: a better one may lie beyond


@dataclass(frozen=True, repr=False)
class Comparison:
    """Runs that belong together, for notebooks: ``gradlens.load("comparisons/…")`` is shown as a table of its runs, ``.runs``.

    Attributes:
        path: the folder.
        run_paths: directories of the runs.
        made_by: "compare-gradients" or "sweep"; "": a folder that merely holds runs.
        request_digest: six hex digits of what was requested; "" if it was not by a command.
        command: the command as it was typed.
        version: version of gradlens that made it.
        finished: whether the command came to its end.
        methods: names of the rules, in order.
        seeds: the seeds of the runs.
        search_paths: directories of the runs of ``--lr-grid``, which are not among ``run_paths``.
        figure_paths: the figures drawn from the runs.
        learning_rates: rule -> the learning rate that ``--lr-grid`` chose.
        data: where the runs' data lie now, if not where they were.

    """

    path: Path
    run_paths: tuple[Path, ...]
    made_by: str = ""  # compare-gradients or sweep; "": a folder that merely holds runs
    request_digest: str = ""
    command: str = ""  # as typed
    version: str = ""  # of gradlens
    finished: bool = True  # whether the command came to its end
    methods: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    search_paths: tuple[Path, ...] = ()
    figure_paths: tuple[Path, ...] = ()
    learning_rates: Mapping[str, ChosenRate] = field(default_factory=dict)
    data: str | Path | None = None  # where the runs' data lie now, if not where they were

    @property
    def runs(self) -> list[Run]:
        """Load the runs from their directories.

        Returns:
            one run for each of ``run_paths``.

        """
        from gradlens.training.run_directory import load_run

        return [load_run(path, self.data) for path in self.run_paths]

    def __repr__(self) -> str:
        n = len(self.run_paths)
        of = f" of {_shortened(self.methods, ' and ', ' more', ', ')}" if self.methods else ""
        unfinished = "" if self.finished else ", unfinished"
        return f"<Comparison {self.path}: {n} run{'s' * (n != 1)}{of}{unfinished}; .runs, .frame()>"

    def _repr_html_(self) -> str:
        from gradlens.runtime.tables import Table

        table = Table(str(self.path), ["gradlens.comparison_table(comparison.runs) compares them layer by layer"])
        facts = [{"method": run.config.method, "seed": str(run.config.seed), **run.facts()} for run in self.runs]
        columns = list(dict.fromkeys(name for row in facts for name in row))
        for name in columns:
            table.add_column(name)
        for row in facts:
            table.add_row(*(row.get(name, "–") for name in columns))
        return table._repr_html_()

    def frame(self, table: str = "gradients") -> pandas.DataFrame:
        """Return one of the runs' tables as a DataFrame of pandas, of all runs one below the other, with each run's name, method and seed.

        Args:
            table: "gradients", "metrics", "timing", "online" or "measured".

        Returns:
            a row for each row of each run's table.

        Raises:
            InputError: no such table, or pandas is not installed.

        """
        from gradlens.runtime.frames import frame_of
        from gradlens.training.run_directory import columns_of

        columns = ("run", "method", "seed", *columns_of(table))
        return frame_of(
            [(run.path.name, run.config.method, run.config.seed, *row) for run in self.runs for row in getattr(run, table)], columns
        )


# -------------------------------------------------------------------------------------------------------- the small file


def is_comparison(path: str | Path) -> bool:
    """Return whether a path is a comparison folder: it holds a comparison.json."""
    return is_file(Path(path) / FILE)


def read_comparison(path: str | Path) -> Comparison:
    """Read the comparison in a folder. Its paths include runs that are not there any more.

    Raises:
        InputError: a comparison.json that is none, or of a later format.

    """
    folder = Path(path)
    file = folder / FILE
    content = read_json(file, wanted="a comparison of gradlens")
    if not isinstance(content, dict) or type(content.get("format")) is not int:
        raise InputError(f"{file} is not a comparison of gradlens")
    if content["format"] > FORMAT:
        raise InputError(f"{file} is of format {content['format']}, and this version of gradlens reads {FORMAT}: install a newer one")

    def paths(name: str) -> tuple[Path, ...]:
        return tuple(Path(os.path.normpath(folder / part)) for part in content.get(name, []))

    try:
        digest = content["asked"] if "asked" in content else content["request_digest"]  # its first name, in files that are there
        rates = {m: ChosenRate(r["lr"], tuple(r["grid"]), r["at_end"]) for m, r in content.get("learning_rates", {}).items()}
        return Comparison(
            folder, paths("runs"), content["made_by"], digest, content["command"], content["gradlens"], content["finished"],
            tuple(content["methods"]), tuple(content["seeds"]), paths("searches"), paths("figures"), rates,
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is not a comparison of gradlens: {error}") from error


def write_comparison(comparison: Comparison) -> None:
    """Write ``comparison.json`` into the comparison's folder, which is made.

    Raises:
        InputError: the folder cannot be written.

    """
    folder = comparison.path

    def parts(paths: Iterable[Path]) -> list[str]:
        return [Path(os.path.relpath(path, folder)).as_posix() for path in paths]

    content = {
        "format": FORMAT,
        "made_by": comparison.made_by,
        "request_digest": comparison.request_digest,
        "command": comparison.command,
        "gradlens": comparison.version or __version__,
        "finished": comparison.finished,
        "methods": list(comparison.methods),
        "seeds": list(comparison.seeds),
        "runs": parts(comparison.run_paths),
        "searches": parts(comparison.search_paths),
        "figures": parts(comparison.figure_paths),
        "learning_rates": {method: rate._asdict() for method, rate in comparison.learning_rates.items()},
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {(error.strerror or str(error)).lower()}") from error
    write(folder / FILE, encode(json.dumps(content, indent=1) + "\n"))


def digest_of(request: Any) -> str:
    """Return six hex digits of what was requested.

    >>> digest_of({"lr_grid": [0.1]}) == digest_of({"lr_grid": [0.1]}) != digest_of({"lr_grid": [0.2]})
    True
    """
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:6]


def folder_name(methods: Sequence[str], data: Sequence[str], digest: str) -> str:
    """Return ``<methods>-<data>-<digest>``; of many methods the first are named.

    >>> folder_name(["bp", "dgl"], ["digits"], "1a2b3c"), folder_name(list("abcde"), ["digits"], "1a2b3c")
    ('bp-dgl-digits-1a2b3c', 'a-b-c-and-2-more-digits-1a2b3c')
    """
    return "-".join([_shortened(methods, "-and-", "-more", "-"), *([data[0]] if len(data) == 1 else [f"{len(data)}-data-sets"]), digest])


def _shortened(names: Sequence[str], before: str, after: str, between: str) -> str:
    """Join the names, or where there are more than one beyond the first few, those and how many more."""
    if len(names) <= NAMED + 1:
        return between.join(names)
    return f"{between.join(names[:NAMED])}{before}{len(names) - NAMED}{after}"


# ---------------------------------------------------------------------------------------------------- what a path stands for


def runs_of(paths: Sequence[str | Path], notify: Callable[[str], None] = notice) -> list[Path]:
    """List the run directories that paths stand for, each once, in order.

    A run directory stands for itself, a comparison folder (or its ``comparison.json``) for its runs, not for its searches, a study's folder
    and one that merely holds runs for those in it; the last is reported. Of several paths (``runs/*``) a folder of figures is skipped.

    Args:
        paths: as they were typed.
        notify: called with a sentence on the runs that were taken.

    Raises:
        InputError: a path that is not there, or stands for no run.

    """
    kept = [path for path in map(Path, paths) if not _is_of_figures(path)] or [Path(path) for path in paths]
    return list(dict.fromkeys(run for path in kept for run in _runs_at(path, notify)))


def _is_of_figures(path: Path) -> bool:
    """Return whether a path is the folder that commands draw into beside runs."""
    return path.name == FIGURES and is_folder(path) and not is_run(path)


def _runs_at(path: Path, notify: Callable[[str], None]) -> list[Path]:
    must_exist(path)
    if path.name == FILE:
        path = path.parent
    if is_run(path):
        return [path]
    if is_comparison(path):
        return _runs_of_comparison(read_comparison(path))
    held = runs_in(path)
    if not held:
        raise not_a_run(path)
    if not is_file(path / "study.json"):
        notify(f"{path} holds {len(held)} run{'s' * (len(held) > 1)}: {_shortened([run.name for run in held], ' and ', ' more', ', ')}")
    return held


def _runs_of_comparison(comparison: Comparison) -> list[Path]:
    there = [path for path in comparison.run_paths if is_run(path)]
    if lost := [path for path in comparison.run_paths if path not in there] if comparison.finished else []:
        again = f"; `{comparison.command}` trains it again" if comparison.command else ""
        raise InputError(f"{comparison.path / FILE} names the run {lost[0]}, which is not there{again}")
    if not there:
        raise InputError(f"{comparison.path} is a comparison in which no run has begun")
    return there


def home_of(paths: Sequence[str | Path]) -> Comparison | None:
    """Return the comparison folder, or the folder of runs, that paths are, where they are a single one."""
    if len(paths) != 1 or is_run(paths[0]):
        return None
    found = load(paths[0])
    return found if isinstance(found, Comparison) else None


def rates_chosen(paths: Iterable[Path]) -> bool:
    """Return whether learning rates of what paths stand for were chosen from a grid: of comparison folders, or of runs in one."""
    folders = {folder.parent if folder.name == FILE else folder for path in paths for folder in (path, path.parent.parent)}
    return any(is_comparison(folder) and read_comparison(folder).learning_rates for folder in folders)


def runs_in(path: Path) -> list[Path]:
    """Return the run directories in a folder, by name."""
    return sorted(file.parent for file in path.glob("*/config.json")) if is_folder(path) else []


def not_a_run(path: Path) -> InputError:
    """Return the refusal of a path that is there and stands for no run; comparisons in it are named, or its runs/ and comparisons/."""
    held = sorted(str(file.parent) for file in path.glob(f"*/{FILE}")) if path.is_dir() else []
    more = f"; it holds comparisons, give one of them: {_shortened(held, ' and ', ' more', ', ')}" if held else ""
    if not held and (folders := [str(path / name) for name in (RUNS, COMPARISONS.name) if _holds_runs(path / name)]):
        more = f"; give what is in {' or '.join(f'{folder}/' for folder in folders)}, as {_first_in(Path(folders[0]))}"
    return InputError(f"{path} is not a run directory: it has no config.json{more}")


def _holds_runs(folder: Path) -> bool:
    """Return whether runs or comparisons lie in a folder."""
    return is_folder(folder) and bool(runs_in(folder) or [*folder.glob(f"*/{FILE}")])


def _first_in(folder: Path) -> Path:
    """Return the first run or comparison in a folder that holds some."""
    return [*runs_in(folder), *sorted(file.parent for file in folder.glob(f"*/{FILE}"))][0]


def as_runs(given: Run | Comparison | str | Path | Iterable[Run | str | Path]) -> list[Run]:
    """Load runs, whatever they were given as: a run, a comparison, a path that :func:`load` reads, or several runs and paths.

    Raises:
        InputError: a path that is not there, or stands for no run.

    """
    if isinstance(given, Comparison):
        return given.runs
    if isinstance(given, str | Path):
        return as_runs(load(given))
    if isinstance(given, Iterable):
        return [run for one in given for run in as_runs(one)]
    return [given]


def load(path: str | Path, data: str | Path | None = None) -> Run | Comparison:
    """Load what a folder holds: a run of a run directory, a :class:`Comparison` of a comparison folder, a study or a folder of runs.

    Args:
        path: the folder.
        data: where the runs' data lie now, if not where they were.

    Returns:
        the run, or the comparison; of a study or a folder that merely holds runs, one with ``made_by`` "".

    Raises:
        InputError: no path, one that is not there, or one that stands for no run.

    """
    from gradlens.training.run_directory import load_run

    if not isinstance(path, str | os.PathLike):
        raise InputError(f"load() reads a folder by its path, got {kind_of(path)}; give it as text or as a Path")
    folder = Path(path)
    if folder.name == FILE:
        folder = folder.parent
    runs = tuple(runs_of([folder], no_progress))
    if is_run(folder):
        return load_run(folder, data)
    found = read_comparison(folder) if is_comparison(folder) else Comparison(folder, runs)
    return replace(found, run_paths=runs, data=data)


def must_be_one_run(path: str | Path) -> None:
    """Refuse what is no run directory, and name the runs in it.

    Raises:
        InputError: it is not there, or holds no config.json.

    """
    path = Path(path)
    if is_run(path):
        return
    must_exist(path)
    held = _runs_of_comparison(read_comparison(path)) if is_comparison(path) else runs_in(path)
    if held:
        raise InputError(
            f"{path} is not a run directory but holds runs: give one of {_shortened([*map(str, held)], ' and ', ' more', ', ')}"
        )
    must_be_run(path)
