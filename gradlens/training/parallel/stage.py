"""Blocks of one network over several ranks: their assignment, and how states are gathered.

Every rank holds all weights, of which it trains its own; gradients, the optimiser's state and activations are its own only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gradlens.gradients.rows import Measurement
from gradlens.training.state import TrainState
from gradlens.training.step import Outcome, Recording

UP, DOWN, ERROR, TRUTH = range(4)  # channels between ranks
CHANNELS = 4


class LayerStage(ABC):
    """This rank's blocks, and its part in every update.

    Args:
        state: the run, with all blocks, of which this rank trains its own.
        ranges: the blocks of each rank.
        number: of this training in this process, the same on all ranks: it names channels.

    """

    flush_every = None  # outcomes are combined when ranks synchronise

    def __init__(self, state: TrainState, ranges: Sequence[range], number: int) -> None:
        self.config, self.network, self.optimizer, self.batches = state.config, state.network, state.optimizer, state.batches
        self.ranks, self.number = state.ranks, number
        self.model, self.method = state.network
        self.names = state.network.block_names()
        self.ranges, self.mine = ranges, ranges[self.ranks.rank]
        self.blocks = list(self.model)[self.mine.start : self.mine.stop]

    def channel(self, kind: int) -> tuple[str, int]:
        """Name and tag of a channel between ranks that no other training has: what one left on the way must not reach the next."""
        return f"{self.number}/{kind}", self.number * CHANNELS + kind

    @abstractmethod
    def step(self, step: int, record: Recording | None, interrupted: Callable[[], bool], save: bool) -> tuple[Outcome, bool, bool]:
        """Update this rank's blocks: see :class:`gradlens.training.step.Stage`."""

    def finish_pending(self) -> Sequence[tuple[int, Outcome]]:
        """Finish batches in flight before ranks synchronise; return the outcomes of their steps."""
        return ()

    @abstractmethod
    def bytes_sent(self) -> int:
        """Count the bytes that this rank has sent for training so far."""

    def share_buffers(self) -> None:  # noqa: B027 - no rank has anything to share at that time
        """Do nothing: :meth:`synchronize` has broadcast them with the weights."""

    def broadcast_weights(self) -> None:
        """Broadcast the weights and buffers that each rank has trained."""
        for name, tensor in [*self.model.named_parameters(), *self.model.named_buffers()]:
            k = self.names.index(name.split(".")[0])
            _broadcast_tensor(tensor, self._owner(k), self.ranks.rank)
        for name, tensor in [*self.method.named_parameters(), *self.method.named_buffers()]:
            _broadcast_tensor(tensor, self._owner(self.method.block_of(name)), self.ranks.rank)

    def _owner(self, k: int) -> int:
        """Return the rank that trains block k; what no rank trains is the last one's."""
        return next((rank for rank, blocks in enumerate(self.ranges) if k in blocks), self.ranks.num_ranks - 1)

    def owned(self) -> set[int]:
        """Return the ids of the parameters that this rank trains."""
        mine = {id(p) for block in self.blocks for p in block.parameters()}
        own = {id(p) for name, p in self.method.named_parameters() if self._owner(self.method.block_of(name)) == self.ranks.rank}
        return mine | own

    def optimizer_state(self) -> dict[str, Any]:
        """Return the optimiser's state as in a single process, gathered from all ranks."""
        state = self.optimizer.state_dict()
        mine = self.owned()
        params = [p for group in self.optimizer.param_groups for p in group["params"]]
        own = {i: state["state"][i] for i, p in enumerate(params) if id(p) in mine and i in state["state"]}
        merged: dict[int, Any] = {}
        for theirs in self.ranks.all_gather_object(own):
            merged.update(theirs)
        return {**state, "state": dict(sorted(merged.items()))}

    def keep_owned_state(self) -> None:
        """Drop the optimiser's state of parameters that other ranks train."""
        mine = self.owned()
        for p in [p for p in self.optimizer.state if id(p) not in mine]:
            del self.optimizer.state[p]

    def synchronize(self, pending: Sequence[tuple[int, Outcome]]) -> list[tuple[int, Outcome]]:
        """Finish what is under way, share the weights, and put together what the ranks report of each step."""
        reports = [*pending, *self.finish_pending()]
        mine = [(step, o._replace(loss=o.loss.cpu(), hits=o.hits.cpu(), answered=o.answered.cpu())) for step, o in reports]
        of_ranks = self.ranks.all_gather_object(mine)
        self.broadcast_weights()
        tops = dict(of_ranks[-1])
        rows: dict[int, list[Measurement]] = {step: [] for step, _ in pending}
        for theirs in of_ranks:
            for _, o in theirs:
                for row in o.rows:
                    rows.setdefault(row.step, []).append(row)
        return [(step, tops[step]._replace(rows=rows[step])) for step, _ in pending]


def _broadcast_tensor(tensor: Tensor, owner: int, rank: int) -> None:
    """Broadcast the owner's tensor."""
    with torch.no_grad():
        flat = tensor.detach().contiguous()
        dist.broadcast(flat, owner)
        if rank != owner and flat.data_ptr() != tensor.data_ptr():
            tensor.copy_(flat)
