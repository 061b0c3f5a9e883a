"""A csv file for each training: one row an epoch, made from its run directory, written whole or not at all."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from gradlens.gradients.layer_names import is_norm
from gradlens.runtime.errors import InputError
from gradlens.runtime.text_files import read_text
from gradlens.training.run_directory import Run
from gradlens.training.run_files import write

FIXED = (
    "item", "epoch", "of_epochs", "updates", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds", "images_per_s",
    "method", "options", "model", "width", "seed", "lr", "batch_size", "device", "precision", "data", "commit", "begun",
)  # fmt: skip
QUANTITIES = {"cosine": "cosine", "norm_ratio": "norm_ratio", "null_cosine": "null", "noise_ceiling": "noise_ceiling"}
NUMBERS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds", "images_per_s", "lr")
COUNTS = ("epoch", "of_epochs", "updates", "width", "seed", "batch_size")
FULL_WIDTH = 128  # of BasicCNN
Rows = list[dict[str, Any]]


def commit_of(root: Path) -> str:
    """What code this is: the commit, ``+`` behind it where package or analyses differ from it; without git, a fingerprint of both."""
    try:
        head, dirty = (
            subprocess.run(["git", "-C", str(root), *ask], capture_output=True, text=True, timeout=10, check=False).stdout.strip()
            for ask in (("rev-parse", "--short=10", "HEAD"), ("status", "--porcelain", "--", "gradlens", "analyses"))
        )
    except (OSError, subprocess.TimeoutExpired):
        head = dirty = ""
    if head:
        return head + "+" * bool(dirty)
    digest = hashlib.sha256()
    for file in sorted([*(root / "gradlens").rglob("*.py"), *(root / "analyses").rglob("*.py")]):
        digest.update(file.read_bytes())
    return os.environ.get("GRADLENS_COMMIT") or f"tree-{digest.hexdigest()[:10]}"


def _means(run: Run, per_epoch: int) -> dict[int, dict[str, float]]:
    """epoch -> ``<quantity>:<layer>`` -> mean over the epoch's recorded steps; the norm ratio's is geometric. Weight rows alone."""
    found: dict[int, dict[str, list[float]]] = {}
    for row in run.gradients:
        if row.kind == "weight" and not is_norm(row.layer) and row.quantity in QUANTITIES and math.isfinite(row.value):
            key = f"{QUANTITIES[row.quantity]}:{row.layer}"
            found.setdefault(row.step // per_epoch + 1, {}).setdefault(key, []).append(row.value)
    return {epoch: {key: _mean(key, values) for key, values in named.items()} for epoch, named in found.items()}


def _mean(key: str, values: Sequence[float]) -> float:
    if not key.startswith("norm_ratio"):
        return fmean(values)
    return math.exp(fmean(math.log(v) for v in values)) if min(values) > 0 else 0.0


def rows_of(run: Run, item: str, data: str, commit: str, begun: str, device: str) -> Rows:
    """One row for each whole epoch of a run, finished or not; epoch 0 is the untrained network.

    Args:
        run: read from its directory.
        item: the name its rows carry.
        data: what its images are called: ``CIFAR-10`` or ``CIFAR-10 (JPEG copy)``.
        commit: of the code that made the newest epochs.
        begun: when this run was begun: it distinguishes two runs of one item.
        device: the accelerator's name, or ``cpu``.

    """
    by_epoch: dict[int, dict[str, Any]] = {}
    for m in run.metrics:
        row = by_epoch.setdefault(m.epoch, {"updates": m.step})
        row |= {f"{m.split}_loss": m.loss, f"{m.split}_accuracy": m.accuracy}
    timing = {t.epoch: t for t in run.timing}
    per_epoch = max(1, min((row["updates"] for epoch, row in by_epoch.items() if epoch == 1), default=1))
    means = _means(run, per_epoch)
    about = {
        "item": item, "of_epochs": run.config.epochs, "method": run.config.method, "model": run.config.model.name,
        "options": " ".join(f"{name}={value}" for name, value in run.config.options.items()),
        "width": run.config.model.width or (FULL_WIDTH if run.config.model.name == "basic-cnn" else ""),
        "seed": run.config.seed, "lr": run.config.optimizer.lr,
        "batch_size": run.config.batch_size, "device": device, "precision": run.config.precision, "data": data,
        "commit": commit, "begun": begun,
    }  # fmt: skip
    rows = []
    for epoch in sorted(by_epoch):
        row = by_epoch[epoch]
        if "test_loss" not in row or (epoch and ("train_loss" not in row or epoch not in timing)):
            continue
        spent = timing.get(epoch)
        when = {"seconds": spent.seconds, "images_per_s": spent.images_per_s} if spent else {}
        rows.append({"epoch": epoch, **about, **row, **when, **means.get(epoch, {})})
    return rows


def read_rows(path: Path) -> Rows:
    """The rows of a csv file as far as it goes, numbers as numbers: none of a missing or an empty one, a torn last line is left out.

    Raises:
        InputError: not a csv file of this runner, or a torn row within it, or a double one.

    """
    text = read_text(path) if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]  # a copy that was cut off ends within a line
    if not whole:
        return []
    reader = csv.DictReader(io.StringIO(whole))
    header = list(reader.fieldnames or [])
    if header[: len(FIXED)] != list(FIXED):
        raise InputError(f"{path} is not a csv file of analyses.full_size: its columns begin {', '.join(header[:3])}")
    rows: Rows = []
    for line in reader:
        if None in line or None in line.values():
            raise InputError(f"{path}, line {reader.line_num}: a torn row; delete the file, the run directory still has its numbers")
        rows.append({key: _value(key, text) for key, text in line.items()})
    epochs = [row["epoch"] for row in rows]
    if epochs != sorted(set(epochs)):
        raise InputError(f"{path}: its epochs are {epochs}, each should stand once and in order")
    return rows


def _value(key: str, text: str) -> Any:
    if key in COUNTS:
        return int(text) if text else None
    return (float(text) if text else math.nan) if key in NUMBERS or ":" in key else text


def write_rows(path: Path, rows: Rows) -> None:
    """Write a csv file under a temporary name and rename it: a reader never sees half a row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    layers = sorted({key for row in rows for key in row if ":" in key}, key=lambda key: _place(key, rows))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [*FIXED, *layers], lineterminator="\n", restval="")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _text(row.get(key)) for key in (*FIXED, *layers)})
    write(path, buffer.getvalue().encode())


def _place(key: str, rows: Rows) -> tuple[int, int]:
    """Quantities in their order, layers in the order in which rows name them."""
    quantity = key.partition(":")[0]
    seen = list(dict.fromkeys(k.partition(":")[2] for row in rows for k in row if ":" in k))
    return list(QUANTITIES.values()).index(quantity), seen.index(key.partition(":")[2])


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def merged(old: Rows, new: Rows) -> Rows:
    """What a csv file should hold after a run has come to ``new``.

    Rows of the same run keep what they said when they were made (their commit). A run begun anew replaces the old one's rows once it has
    come as far: until then the longer result stays.
    """
    if not old or not new:
        return old or new
    if old[0]["begun"] == new[0]["begun"]:
        kept = {row["epoch"]: row for row in old}
        return [kept.get(row["epoch"], row) for row in new]
    return new if new[-1]["epoch"] >= old[-1]["epoch"] else old


def summary(rows: Rows) -> Mapping[str, Any]:
    """Where a csv file stands: epochs, seconds, machine, and every commit that made its rows."""
    if not rows:
        return {"epochs": 0, "seconds": 0.0, "commits": [], "device": "", "precision": ""}
    return {
        "epochs": rows[-1]["epoch"],
        "seconds": math.fsum(row["seconds"] for row in rows if not math.isnan(row["seconds"])),
        "commits": list(dict.fromkeys(row["commit"] for row in rows)),
        "device": rows[-1]["device"],
        "precision": rows[-1]["precision"],
    }
