"""Test a run's saved networks on every test image, after training: between epochs the scripts test on a few, which costs little.

An epoch on 1,000 images costs as much as 3,000 forward passes, a test on all 10,000 images 10,000 of them: tested every epoch, a small run
would spend most of its time on that. So the weights are kept at some epochs (``keep_checkpoints``) and tested afterwards; what was found
stays in the run directory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy

from analyses.training.stored import data_of, stored
from gradlens.analysis.activations import FORWARD_BATCH, FrozenModel, checkpoint_digest, frozen_eval_mode, load_snapshots
from gradlens.data.split import Split
from gradlens.training.context import RunContext, load_data
from gradlens.training.run_directory import Run

NAME = "all-test-images"  # of the file in a run directory


class FullScore(NamedTuple):
    """A run's network after some updates, on all test images in eval mode."""

    step: int  # updates
    epoch: int
    accuracy: float  # in %
    loss: float  # in nats


def _scores(frozen: FrozenModel, split: Split) -> tuple[float, float]:
    """Return (accuracy in %, mean cross-entropy) of a frozen classifier."""
    hits, losses = 0, 0.0
    with frozen_eval_mode(frozen):
        for i in range(0, len(split), FORWARD_BATCH):
            y = split.labels[i : i + FORWARD_BATCH]
            *_, logits = frozen.read(frozen.to_input(split.images[i : i + FORWARD_BATCH]))
            hits += int((logits.argmax(1) == y).sum())
            losses += float(cross_entropy(logits.double(), y, reduction="sum"))
    return 100 * hits / len(split), losses / len(split)


def full_scores(run: Run, context: RunContext) -> list[FullScore]:
    """Return the scores of a finished run at each epoch whose weights it kept, the last one included; computed where they are missing.

    A file without key is read if it is of as many images as the run's data have, and of as many updates as the run made.
    """
    updates = int(run.summary["updates"])

    def compute() -> dict[str, Any]:
        split = load_data(run.config.replace(limit_test=None), context).test
        last = run.config.epochs / updates
        with torch.no_grad():
            rows = [(f.step, round(f.step * last), *_scores(f, split)) for f in load_snapshots(run, context, "all")]
        return {"images": len(split), "rows": rows}

    data = data_of(run)
    key = {"weights": checkpoint_digest(run), "updates": updates, **data}
    file = run.path / f"{NAME}.json"
    found = stored(file, key, compute, without_key=lambda c: (c["images"], c["rows"][-1][0]) == (data["images"], updates))
    return [FullScore(*row) for row in found["rows"]]
