"""The online probe: a linear learner on each block's activations, updated while the network is trained, and its regret.

Every time a rule has updated a block, its learners get that batch's first 32 images with a label: they predict with the weights they
have, suffer the mean multinomial logistic loss, and take one step of online convex optimization. The *regret* after T rounds is what they
suffered minus what the best fixed probe of the same ball would have on the same rounds, known only in hindsight. It measures how well one
linear reading fits a block's whole history: a block that settles early is read as well by one probe as by a learner that follows it.

What a learner reads. A block's output is pooled to at most 128 features (64 for the Newton step), a running mean of earlier rounds is
subtracted (momentum 0.1, as in BatchNorm; no labels and no later rounds are in it), and (x / ‖x‖, 1) / √2 is read: of norm 1 at most,
so that the slope of a round's loss in W is at most G = √2 in Frobenius norm, whatever the network does. The weights W [classes, d + 1]
stay in a ball ‖W‖ ≤ B, of diameter D = 2B. The theorems need nothing else: no assumption is made on the stream.

The stream is stored beside the run (``online/<block>.bin``, at most 4,096 rounds of 32 images: 69 MB a block), so that regret is measured
on just what was read. The best probe in hindsight is found to a certified gap: f(W) − min f ≤ ⟨∇f, W⟩ + B ‖∇f‖ for a convex f on
the ball (Frank & Wolfe 1956), so that regret is an interval that holds the exact one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradlens.gradients.method import Update
from gradlens.models.feature_pooling import pooled
from gradlens.training.online_probe.learners import FEATURES, LEARNERS, features
from gradlens.training.online_probe.regret import regret_rows
from gradlens.training.run_directory import OnlineRow

IMAGES = 32  # of a batch in a round
ROUNDS = 4096  # that a block is read for; later ones are not
MOMENTUM = 0.1  # of the running mean


class BlockProbe:
    """The learners of one block."""

    def __init__(self, classes: int, size: int) -> None:
        self.mean = torch.zeros(size, dtype=torch.float64)  # of the features, before the round that comes
        self.rounds = 0
        self.cumulative = dict.fromkeys(LEARNERS, 0.0)
        sizes = {name: min(size, kind.features) + 1 for name, kind in LEARNERS.items()}
        self.learners = {name: kind(classes, sizes[name]) for name, kind in LEARNERS.items()}

    def centred(self, x: Tensor) -> Tensor:
        """Return what the stream stores of pooled features [N, d]: the mean of earlier rounds subtracted, float32; moves the mean."""
        now = x.double().mean(0)
        if not self.rounds:
            self.mean = now
        centred = (x - self.mean).float()
        self.mean = torch.lerp(self.mean, now, MOMENTUM)
        self.rounds += 1
        return centred

    def state(self) -> dict[str, Any]:
        """Return plain tensors and numbers, for a checkpoint; copies, since learners change theirs in place."""
        learners = {name: deepcopy(vars(learner)) for name, learner in self.learners.items()}
        return {"mean": self.mean, "rounds": self.rounds, "cumulative": dict(self.cumulative), "learners": learners}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        self.mean, self.rounds, self.cumulative = state["mean"], state["rounds"], dict(state["cumulative"])
        for name, learner in self.learners.items():
            vars(learner).update(deepcopy(state["learners"][name]))


class OnlineProbe:
    """All blocks' learners; called with each update of a training, it changes nothing of it.

    What is to be written waits in ``rows`` and ``streams`` until :meth:`take_rows`.
    """

    def __init__(self, names: Sequence[str], classes: int) -> None:
        self.names, self.classes = names, classes
        self.blocks: dict[str, BlockProbe] = {}
        self.rows: list[OnlineRow] = []
        self.streams: dict[str, bytes] = {}

    @torch.no_grad()
    def on_update(self, step: int, update: Update) -> None:
        """Play a block's round on the pass of its update, with the labels of that batch.

        Images without a label are skipped. Activations that are not finite are no round: the loss will not be finite either.
        """
        name, some = self.names[update.k], (update.p.y >= 0).nonzero()[:IMAGES, 0]
        if not len(some):
            return
        y, h = update.p.y[some].cpu(), update.p.h.detach()[some].float()
        with torch.autocast(h.device.type, enabled=False):
            x = pooled(h, FEATURES).cpu()
        if not x.isfinite().all():
            return
        if name not in self.blocks:
            self.blocks[name] = BlockProbe(self.classes, x.shape[1])
        probe = self.blocks[name]
        if probe.rounds >= ROUNDS:
            return
        x = probe.centred(x)
        read = {budget: features(x, budget) for budget in {kind.features for kind in LEARNERS.values()}}
        for kind, learner in probe.learners.items():
            loss = learner.step(read[learner.features], y)
            probe.cumulative[kind] += loss
            self.rows.append(OnlineRow(step, name, kind, loss, probe.cumulative[kind], learner.bound()))
        record = [np.array([step, *x.shape], np.int32), y.numpy().astype(np.int32), x.numpy()]
        self.streams[name] = self.streams.get(name, b"") + b"".join(part.tobytes() for part in record)

    def take_rows(self) -> tuple[list[OnlineRow], dict[str, bytes]]:
        """Return the rows and the blocks' streams since the last call."""
        rows, streams = self.rows, self.streams
        self.rows, self.streams = [], {}
        return rows, streams

    def regret(self, run_dir: Path) -> list[dict[str, Any]]:
        """Return :func:`regret_rows` of the run that this probe was written to."""
        return regret_rows(run_dir, self.names, self.classes)

    def state(self) -> dict[str, Any]:
        """Return plain tensors and numbers, for a checkpoint."""
        return {name: probe.state() for name, probe in self.blocks.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state."""
        self.blocks, self.rows, self.streams = {}, [], {}
        for name, saved in state.items():
            self.blocks[name] = BlockProbe(self.classes, len(saved["mean"]))
            self.blocks[name].restore(saved)
