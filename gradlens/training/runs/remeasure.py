"""Quantities measured later, from the weights that a run has saved."""

from __future__ import annotations

from pathlib import Path

import torch

from gradlens.gradients.alignment import QUANTITIES
from gradlens.gradients.backward import run_step
from gradlens.gradients.diagnostics import AFTER_THE_STEP, FEEDBACK, SPARSE, sparse_rows
from gradlens.gradients.rows import REACHED, Measurement, step_rows
from gradlens.gradients.true_gradient import true_gradients
from gradlens.runtime.csv_tables import csv_line, read_table
from gradlens.runtime.errors import InputError, unknown
from gradlens.runtime.progress import Progress, no_progress
from gradlens.runtime.rng import forked
from gradlens.runtime.step_context import step_context
from gradlens.runtime.text_files import encode
from gradlens.training.checkpoint import load_checkpoint
from gradlens.training.context import RunContext
from gradlens.training.run_directory import Run
from gradlens.training.run_files import write
from gradlens.training.runs.build_state import build_state
from gradlens.training.state import TrainState
from gradlens.training.step import begin_step


def measure_run(run: Run, quantities: tuple[str, ...], context: RunContext, progress: Progress = no_progress) -> list[Measurement]:
    """Add quantities to a finished or unfinished run, from its snapshots (or, without any, from its checkpoint).

    Each snapshot's weights go through the batch that follows them in the run's order, with truth and rule on the same passes;
    the rows are stored in ``measured.csv``, in place of earlier ones of the same step and quantity. Nothing else changes.

    Args:
        run: one with a checkpoint or snapshots.
        quantities: names from ``alignment.QUANTITIES``, ``rows.REACHED``, …; the rule's own quantities are measured with them.
        context: device and data folder.
        progress: called with (done, in all, what comes next).

    Raises:
        InputError: unknown quantities, a run without weights, data that are not the run's.

    """
    own = run.config.rule.method_quantities
    for name in quantities:
        if name in AFTER_THE_STEP:
            raise InputError(f"{name} compares a loss before and after a step that is made in training: --diagnose-every records it there")
        if name not in (*QUANTITIES, *REACHED, *own, *SPARSE, *FEEDBACK):
            raise unknown("quantity", name, [*QUANTITIES, *REACHED, *own, *SPARSE, *FEEDBACK])
    sparse = frozenset(name for name in quantities if name in (*SPARSE, *FEEDBACK))
    paired = tuple(name for name in quantities if name in (*QUANTITIES, *REACHED))
    progress(0, 1, f"reading {run.config.data.name}")
    data = run.data(context=context)
    state = build_state(run.config.in_one_process(), data, context.device, restored=True)
    rows: list[Measurement] = []
    files = run.snapshots() or [run.path / "checkpoint.pt"]
    for i, file in enumerate(files):
        progress(i, len(files), file.name)
        rows += _measure(state, file, paired, sparse)
    for name in quantities:
        if not any(name in (row.quantity, row.kind) for row in rows):
            raise InputError(
                f"{name} is not defined for the blocks of {run.config.method} with --task {run.config.task}; nothing was written"
            )
    fresh = {(row.step, row.kind, row.quantity) for row in rows}
    before = read_table(run.path / "measured.csv", Measurement)  # which may be newer than the run
    merged = sorted([r for r in before if (r.step, r.kind, r.quantity) not in fresh] + rows, key=lambda row: row.step)
    write(run.path / "measured.csv", encode("".join(csv_line(row) for row in [Measurement._fields, *merged])))
    return rows


def _measure(state: TrainState, file: Path, quantities: tuple[str, ...], sparse: frozenset[str]) -> list[Measurement]:
    """Measure the rows of one saved set of weights."""
    saved = load_checkpoint(file)
    state.network.load(saved, str(file))
    (model, method), names, step = state.network, state.network.block_names(), int(saved["step"])
    with forked(), step_context():  # the draws are those of the training step
        begin_step(method, state.config.seed, step // state.batches.per_epoch + 1, step)
        x, y = state.batches.batch(step)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=state.config.precision == "bf16"):
            made = run_step(method, list(model), x, y)
            truth = true_gradients(method, made, keep=bool(sparse))
            rows = step_rows(step, names, method, made, truth, quantities)
            return rows + sparse_rows(step, names, method, made, truth, sparse)
