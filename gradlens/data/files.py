"""Say where data sets lie and how they are read."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from gradlens.data.folder_listing import FilesState


class DataFiles(NamedTuple):
    """Where data sets lie and how they are read; none of it changes what a run computes."""

    data_dir: Path | None = None  # folder that holds data sets; None: the default one
    download: bool = False  # whether a data set that is missing is downloaded
    cache: bool = True  # whether decoded image folders are kept in the user's cache folder
    states: dict[str, FilesState] | None = None  # data set -> facts of its files, read once in a command; None: read whenever requested
