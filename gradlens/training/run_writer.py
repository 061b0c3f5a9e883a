"""A run directory that is being written: tables and streams that grow, checkpoints, and the lengths that keep both consistent."""

from __future__ import annotations

import codecs
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradlens.runtime.csv_tables import csv_line
from gradlens.runtime.errors import InputError
from gradlens.runtime.paths import reason
from gradlens.runtime.text_files import encode, open_to_append
from gradlens.training.checkpoint import save_checkpoint
from gradlens.training.config import Config, make_config
from gradlens.training.run_directory import STREAMS, TABLES, environment, load_run, plain, read_config, results_in
from gradlens.training.run_files import is_run, must_be_writable, unwritable, write


def _kin(out: Path, config: Config) -> str:
    """Return the nearest run in ``out`` of the same method and seed, and where its config differs: what a mistyped --resume meant."""
    best: tuple[int, str] | None = None
    for candidate in out.glob("*/config.json"):
        try:
            other = make_config(**read_config(candidate))
        except InputError:
            continue  # a foreign or damaged folder among the runs
        if (other.method, other.seed) == (config.method, config.seed):
            differ = config.differences(other)
            if best is None or len(differ) < best[0]:
                best = len(differ), f"; {candidate.parent} differs in: {'; '.join(differ)}"
    return best[1] if best else ""


def _first_line(table: Path) -> str:
    """Return the heading of a table; empty if there is none."""
    if not table.exists():
        return ""
    with table.open(encoding="utf-8") as file:
        return file.readline()


@contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    """Report in one sentence a file that cannot be written or removed inside."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {reason(error)}") from error


def _is_as_written(table: Path, length: int) -> bool:
    """Return whether a table's first bytes are lines as they were written: an editor may put a mark before them or change their ends."""
    with table.open("rb") as file:
        content = file.read(length)
    return content.endswith(b"\n") and b"\r" not in content and not content.startswith(codecs.BOM_UTF8)


@dataclass
class Writer:
    """A run directory being written. Tables and streams grow; :meth:`mark` and :meth:`rewind` tie them to checkpoints."""

    path: Path
    config: Config
    is_new: bool = False  # nothing was there before
    _files: dict[str, Any] = field(default_factory=dict)
    _columns: dict[str, int] = field(default_factory=dict)  # of each open table

    @staticmethod
    def open(config: Config, out: Path, name: str | None, *, resume: bool, overwrite: bool, info: Mapping[str, Any]) -> Writer:
        """Open the directory for a config: made new, or opened to resume.

        Raises:
            InputError: it holds a run and neither ``resume`` nor ``overwrite`` is set; its config differs; nothing
                is there to resume; the folder cannot be written.

        """
        path = out / (name or config.run_name())
        if is_run(path) and not (resume or overwrite):
            state = "a finished" if (path / "summary.json").exists() else "an unfinished"
            more = "" if state == "a finished" else "--resume continues it, "
            raise InputError(f"{path} holds {state} run: {more}--overwrite starts over, --run-name names another")
        if is_run(path) and not overwrite:
            return Writer._reopen(config, path, info)
        if is_run(path):
            read_config(path / "config.json")  # refuses a foreign folder, whose files must not be deleted
        elif path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"{path} exists and is not a run directory; --out or --run-name names another place")
        elif resume:
            raise InputError(f"nothing to resume at {path}{_kin(out, config)}")
        is_new = not path.exists()
        with _writing_to(out):
            path.mkdir(parents=True, exist_ok=True)
            grown = [*path.glob("*.csv"), *path.glob(STREAMS), *path.glob("tensorboard/events.*")]
            for old in (path / "summary.json", *path.glob("*.pt"), *path.glob("snapshots/*.pt"), *grown, *results_in(path)):
                old.unlink(missing_ok=True)  # the summary first: without it the run is unfinished, whatever else is left
        content = {"config": config.as_dict(), **environment(), **info}
        write(path / "config.json", encode(json.dumps(content, indent=2) + "\n"))
        return Writer(path, config, is_new)

    @staticmethod
    def _reopen(config: Config, path: Path, info: Mapping[str, Any]) -> Writer:
        """Open the directory of a run, to resume it."""
        begun = load_run(path)
        if differ := config.differences(begun.config):
            raise InputError(f"cannot resume {path}: its config differs in: {'; '.join(differ)}")
        begun.require_same_data(info, ": it cannot be resumed", config.data.name)
        begun.require_sources(": it cannot be resumed")
        if not begun.finished:
            must_be_writable(path)
            with _writing_to(path):
                for old in results_in(path):  # what was found about it so far will be true no more
                    old.unlink(missing_ok=True)
        return Writer(path, begun.config)

    def append(self, table: str, rows: Sequence[Any]) -> None:
        """Add rows to a table, on disk when this returns."""
        file = self.path / f"{table}.csv"
        try:
            if table not in self._files:
                header = csv_line(TABLES[table]._fields)
                begun = _first_line(file)
                self._columns[table] = len((begun or header).split(","))  # fewer in a run that an earlier version began
                self._files[table] = open_to_append(file)
                if not begun:
                    self._files[table].write(header)
            self._files[table].write("".join(csv_line(row[: self._columns[table]]) for row in rows))
            self._files[table].flush()
        except OSError as error:
            if table in self._files:
                with suppress(OSError):  # closing tries once more to write what did not fit
                    self._files.pop(table).close()
            raise unwritable(file, error) from error

    def extend(self, stream: str, content: bytes) -> None:
        """Add bytes to a stream (a path as in ``STREAMS``), on disk when this returns."""
        file = self.path / stream
        try:
            if stream not in self._files:
                file.parent.mkdir(exist_ok=True)
                self._files[stream] = file.open("ab")
            self._files[stream].write(content)
            self._files[stream].flush()
        except OSError as error:
            if stream in self._files:
                with suppress(OSError):
                    self._files.pop(stream).close()
            raise unwritable(file, error) from error

    def _growing(self) -> dict[str, Path]:
        """Return what grows by appending: each table by its name, each stream that is there by its path."""
        streams = {path.relative_to(self.path).as_posix(): path for path in sorted(self.path.glob(STREAMS))}
        return {name: self.path / f"{name}.csv" for name in TABLES} | streams

    def mark(self) -> dict[str, int]:
        """Flush the tables and streams to disk and return their lengths in bytes, which a checkpoint stores to survive a crash."""
        growing = self._growing()
        for name, open_file in self._files.items():
            try:
                os.fsync(open_file.fileno())
            except OSError as error:
                raise unwritable(growing[name], error) from error
        return {name: file.stat().st_size for name, file in growing.items() if file.exists()}

    def rewind(self, marks: Mapping[str, int]) -> None:
        """Cut the tables and streams back to what they were at a checkpoint.

        Raises:
            InputError: one of them has lost rows that the checkpoint counts on, or cannot be written.

        """
        self.close()
        growing = self._growing()
        for name, length in marks.items():
            file = growing.get(name, self.path / name)
            if not file.exists() or file.stat().st_size < length:
                raise InputError(f"{file} is shorter than the checkpoint records: the run cannot be resumed; --overwrite starts over")
            if file.suffix == ".csv" and length and not _is_as_written(file, length):
                raise InputError(f"{file} was changed by another program: the run cannot be resumed; --overwrite starts over")
        with _writing_to(self.path):
            for name, file in growing.items():
                if name not in marks:
                    file.unlink(missing_ok=True)
                elif file.stat().st_size != marks[name]:
                    os.truncate(file, marks[name])

    def save(self, state: Mapping[str, Any], name: str = "checkpoint.pt") -> None:
        """Write a checkpoint or snapshot whole or not at all."""
        save_checkpoint(self.path / name, state)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Mark the run as finished, with its best and final numbers."""
        self.close()
        write(self.path / "summary.json", encode(json.dumps(plain(summary), indent=2) + "\n"))

    def discard(self) -> None:
        """Remove the directory of a run that has nothing to keep, unless something was there before."""
        self.close()
        if self.is_new:
            shutil.rmtree(self.path, ignore_errors=True)

    def close(self) -> None:
        """Close the tables and streams."""
        for file in self._files.values():
            file.close()
        self._files.clear()
