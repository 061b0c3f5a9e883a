"""Tables of the cost of a training step: beside a plain loop, on several ranks, of each rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gradlens.reporting.numbers import count_cell, number_cell, with_ends, with_thousands
from gradlens.runtime.tables import Cell, Table
from gradlens.training.cost.capture_benchmark import CaptureBench
from gradlens.training.cost.method_cards import IMAGES, Card
from gradlens.training.cost.rank_benchmark import Gain
from gradlens.training.cost.step_benchmark import Bench, Cost


def protocol(result: Bench) -> str:
    """Describe how the numbers were measured, to print beside them."""
    where = f"{result.device}, {result.threads} threads, {result.cpu}" if result.device == "cpu" else result.device
    image = "x".join(map(str, result.input))
    of = "generated images" if result.example == "image" else f"{result.example}s of {Path(result.data).name},"
    return (
        f"{result.model}, batches of {result.batch_size} {of} {image}, {where}, torch {result.versions['torch']}."
        f" Medians of {result.rounds} interleaved rounds; ratios are to the plain loop (channels-last) of the same round."
        " Recording every n-th step: ((n-1) unrecorded + 1 recorded)/n, one of each timed every round; its memory is the recorded"
        " step's. Memory: what a step adds at its peak, gradients included. Rate share: multiply-adds per second against bp's."
        + (" plain-in-lens: the plain loop while Lens reads every layer." if any(r.method == "plain-in-lens" for r in result.rows) else "")
        + (" Views: share of a step's time for making views, patches or masks." if any(r.task_share for r in result.rows) else "")
    )


def _name(row: Cost) -> str:
    options: Mapping[str, Any] = row.options
    return " ".join([row.method, *(f"{name}={value}" for name, value in options.items())])


def bench_table(result: Bench) -> Table:
    """Return the rows to print, the protocol under them."""
    printed = Table(notes=[protocol(result)])
    printed.add_column("method")
    shares = any(row.task_share is not None for row in result.rows)
    printed.add_column("record every")
    printed.add_column("precision", align="left")
    columns = [
        (f"{result.example}s/s", ""),
        ("time", "×"),
        ("memory", "MB"),
        ("memory ratio", "×"),
        ("multiply-adds", "×"),
        ("rate share", ""),
    ]
    for column, unit in (*columns, *([("views", "%")] if shares else [])):
        printed.add_column(column, unit)
    for row in result.rows:
        printed.add_row(
            _name(row),
            Cell(str(row.record_every) if row.record_every else "never", row.record_every),
            row.precision,
            count_cell(row.images_per_s),
            number_cell(row.time_ratio),
            count_cell(row.memory_mb, 1),
            number_cell(row.memory_ratio),
            number_cell(row.flop_ratio),
            number_cell(row.rate_share),
            *([number_cell(row.task_share, 1, 100)] if shares else []),
        )
    return printed


def capture_table(result: CaptureBench) -> Table:
    """Return the rows of the cost of captures to print, how they were measured under them."""
    about = f"{result.model}; {result.device}, {result.threads} threads. Medians of {result.rounds} interleaved rounds; ratios are to the"
    printed = Table(notes=[f"{about} plain step of the same round. Every 100th step: (99 plain + 1 captured) / 100."])
    for name, unit in (("step", ""), ("time", "ms"), ("time ratio", "×"), ("memory", "MB"), ("memory ratio", "×"), ("file", "MB")):
        printed.add_column(name, unit)
    for row in result.rows:
        memory = count_cell(row.megabytes, 1), number_cell(row.memory_ratio)
        printed.add_row(row.name, count_cell(row.seconds * 1e3), number_cell(row.time_ratio, 3), *memory, count_cell(row.file_megabytes, 1))
    return printed


def ranks_table(rows: Sequence[Gain], about: str) -> Table:
    """Return the rows to print, ``about`` under them."""
    caption = (
        f"{about} Gain: seconds alone / together, the median of interleaved rounds [smallest, largest]. Machine: the gain of as many"
        " independent processes, the maximum on this machine. Bound: all blocks' cost / that of the costliest rank. MB/s:"
        " activations and messages between ranks."
    )
    printed = Table(notes=[caption])
    printed.add_column("method")
    for column in ("how", "split"):
        printed.add_column(column, align="left")
    for column, unit in (("alone", "ms"), ("together", "ms"), ("gain", "×"), ("machine", "×"), ("bound", "×"), ("MB/s", "")):
        printed.add_column(column, unit)
    for row in rows:
        gain = Cell(with_ends(row.gain, row.low, row.high), row.gain, row.low, row.high)
        printed.add_row(
            row.method, row.how, row.split, count_cell(row.alone * 1e3), count_cell(row.together * 1e3),
            gain, number_cell(row.machine), number_cell(row.bound), count_cell(row.megabytes_per_s),
        )  # fmt: skip
    return printed


def cards_table(found: Sequence[Card], rounds: int) -> Table:
    """Return the cards to print, and what the columns mean under them."""
    caption = (
        f"Locked: fwd = block k runs after block k−1; upd = it is updated after all later blocks have run; bwd = … and"
        f" have gone backward (inside a chunk or window where a rule has such). Labels = used by every block. Own = numbers of the rule's"
        f" own modules, trained + fixed, in thousands. A step on BasicCNN (3x32x32), batches of {IMAGES} generated images, default options,"
        f" {rounds} interleaved round{'s' * (rounds > 1)} on this machine: multiply-adds an image in millions, then as ratios to bp's:"
        " multiply-adds, images/s, added memory (dgl-async's buffers and feedback matrices are held between steps and not in it)."
        " greedy: its last stage."
    )
    printed = Table(notes=[caption])
    printed.add_column("method")
    for column in ("fwd", "upd", "bwd", "labels"):
        printed.add_column(column, align="center")
    for column in ("own k", "M madds", "madds", "img/s", "memory"):
        printed.add_column(column)
    for card in found:
        own = with_thousands(card.trained / 1e3) + (f" + {with_thousands(card.fixed / 1e3)}" if card.fixed else "")
        locks = [Cell("yes" if lock else "no", lock) for lock in card.locks]
        ratios = (number_cell(ratio) for ratio in (card.flop_ratio, card.rate_ratio, card.memory_ratio))
        held = Cell(own, (card.trained + card.fixed) / 1e3)
        printed.add_row(card.method, *locks, held, count_cell(card.multiply_adds / 1e6), *ratios)
    return printed
