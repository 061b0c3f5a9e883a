"""Results as the pages' tables read them: files of ``figures``, and how their numbers are written."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FIGURES, PAGES = ROOT / "figures", ROOT / "docs" / "results"
LAYERS = ("block1.conv", "block2.conv", "block3.conv", "top.hidden", "top.out")
BLOCKS = ("block1", "block2", "block3", "top")
DASH = "–"
Triple = Sequence[float | None]  # mean, low, high; no interval: None


def results(name: str) -> Any:
    """The results.json of a folder under ``figures``, or a file by its path there."""
    path = FIGURES / name
    return json.loads((path if path.suffix else path / "results.json").read_text(encoding="utf-8"))


def rows_of(name: str) -> list[dict[str, str]]:
    """The rows of a csv file under ``figures``."""
    with (FIGURES / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def number(value: float | None, digits: int = 2) -> str:
    """A rounded number, or a dash; a zero keeps no sign."""
    if value is None or math.isnan(value):
        return DASH
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text


def half_width(value: Triple, digits: int = 1, scale: float = 1) -> str:
    """``mean ± half the interval``, rounded once; the mean alone where one seed has no interval."""
    mean, low, high = ((None if v is None else scale * v) for v in value[:3])
    return number(mean, digits) + ("" if low is None or high is None else f" ± {number((high - low) / 2, digits)}")


def bounds(row: dict[str, Any]) -> Triple:
    """Mean and interval of a row."""
    return (row["mean"], row["low"], row["high"])
