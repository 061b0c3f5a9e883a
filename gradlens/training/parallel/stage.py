"""Blocks of one network over several ranks: who has which, and how they come together again.

Every rank holds all weights, of which it trains its own; gradients, the optimiser's state and activations are its own only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import count
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gradlens.gradients.rows import Measurement
from gradlens.runtime.errors import InputError
from gradlens.training.parallel.block_costs import block_costs
from gradlens.training.parallel.partition import split_over
from gradlens.training.state import TrainState
from gradlens.training.step import Outcome

UP, DOWN, ERROR, TRUTH = range(4)  # channels between ranks
CHANNELS = 4
_numbers = count(1)  # tag 0 is torch's own; of trainings in this process; all ranks begin them in one order


class Stage(ABC):
    """This rank's blocks, and its part in every step of a training."""

    def __init__(self, state: TrainState) -> None:
        self.state, self.world, config = state, state.world, state.config
        self.number = next(_numbers)
        self.model, self.method = state.pair
        self.names = state.pair.block_names()
        ran = self.method.output_block + 1
        costs = self._costs()[:ran] if config.split is None else [1.0] * ran
        self.assign_blocks(split_over(self.method, costs, self.world.num_ranks, self.names, config.split))

    def assign_blocks(self, ranges: list[range]) -> None:
        """These are the blocks of each rank."""
        self.ranges, self.mine = ranges, ranges[self.world.rank]
        self.blocks = list(self.model)[self.mine.start : self.mine.stop]
        theirs = {id(p) for k, block in enumerate(self.model) if k not in self.mine for p in block.parameters()}
        for name, p in self.model.named_parameters():
            if id(p) in theirs and id(p) in {id(q) for block in self.blocks for q in block.parameters()}:
                raise InputError(f"--parallel layers: {name} belongs to blocks on different ranks: --split keeps them together")

    def _costs(self) -> list[float]:
        """Seconds of each block, as rank 0 measures them."""
        found = None
        if self.world.is_main:
            state = self.state
            x, y = state.batch(0)
            found = [cost.seconds for cost in block_costs(state.pair, state.config, x, y)]
        costs: list[float] = self.world.broadcast_object(found)
        return costs

    def channel(self, kind: int) -> tuple[str, int]:
        """Name and tag of a channel between ranks that no other training has: what one left on the way must not reach the next."""
        return f"{self.number}/{kind}", self.number * CHANNELS + kind

    @abstractmethod
    def step(self, step: int, stop: bool, save: bool) -> tuple[Outcome, bool, bool]:
        """One update of this rank's blocks; what it reports, and whether the run is to be stopped or saved after this batch.

        Args:
            step: updates made before this one.
            stop: whether this process was asked to stop.
            save: whether this process finds that it is time to save.

        """

    def finish_pending(self) -> Sequence[tuple[int, Outcome]]:
        """Finish what is under way before ranks meet; what steps of it reported."""
        return ()

    @abstractmethod
    def bytes_sent(self) -> int:
        """Bytes that this rank has sent for training so far."""

    def broadcast_weights(self) -> None:
        """Every rank gets the weights and buffers that the others have trained."""
        for name, tensor in [*self.model.named_parameters(), *self.model.named_buffers()]:
            k = self.names.index(name.split(".")[0])
            _broadcast_tensor(tensor, self._owner(k), self.world.rank)
        for name, tensor in [*self.method.named_parameters(), *self.method.named_buffers()]:
            _broadcast_tensor(tensor, self._owner(self.method.block_of(name)), self.world.rank)

    def _owner(self, k: int) -> int:
        """The rank that trains block k; what no rank trains is the last one's."""
        return next((rank for rank, blocks in enumerate(self.ranges) if k in blocks), self.world.num_ranks - 1)

    def owned(self) -> set[int]:
        """The ids of the parameters that this rank trains."""
        mine = {id(p) for block in self.blocks for p in block.parameters()}
        own = {id(p) for name, p in self.method.named_parameters() if self._owner(self.method.block_of(name)) == self.world.rank}
        return mine | own

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The optimiser's state as one process has it, put together on all ranks."""
        state = optimizer.state_dict()
        mine = self.owned()
        params = [p for group in optimizer.param_groups for p in group["params"]]
        own = {i: state["state"][i] for i, p in enumerate(params) if id(p) in mine and i in state["state"]}
        merged: dict[int, Any] = {}
        for theirs in self.world.all_gather_object(own):
            merged.update(theirs)
        return {**state, "state": dict(sorted(merged.items()))}

    def keep_owned_state(self, optimizer: torch.optim.Optimizer) -> None:
        """Forget the optimiser's state of parameters that other ranks train."""
        mine = self.owned()
        for p in [p for p in optimizer.state if id(p) not in mine]:
            del optimizer.state[p]

    def synchronize(self, pending: Sequence[tuple[int, Outcome]]) -> list[tuple[int, Outcome]]:
        """Finish what is under way, share the weights, and put together what the ranks report of each step."""
        reports = [*pending, *self.finish_pending()]
        mine = [(step, o._replace(loss=o.loss.cpu(), hits=o.hits.cpu(), answered=o.answered.cpu())) for step, o in reports]
        told = self.world.all_gather_object(mine)
        self.broadcast_weights()
        tops = dict(told[-1])
        rows: dict[int, list[Measurement]] = {step: [] for step, _ in pending}
        for theirs in told:
            for _, o in theirs:
                for row in o.rows:
                    rows.setdefault(row.step, []).append(row)
        return [(step, tops[step]._replace(rows=rows[step])) for step, _ in pending]


def _broadcast_tensor(tensor: Tensor, owner: int, rank: int) -> None:
    """The owner's tensor on all ranks."""
    with torch.no_grad():
        flat = tensor.detach().contiguous()
        dist.broadcast(flat, owner)
        if rank != owner and flat.data_ptr() != tensor.data_ptr():
            tensor.copy_(flat)
