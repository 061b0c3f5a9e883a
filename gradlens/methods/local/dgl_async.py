"""Train by asynchronous decoupled greedy learning: replay buffers between blocks, which run in any order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from gradlens.gradients.block_pass import Pass, cut, reads_blocks
from gradlens.gradients.items import Items
from gradlens.gradients.method import Update
from gradlens.gradients.needs import Need
from gradlens.gradients.network_info import NetworkInfo
from gradlens.gradients.replay_buffer import Buffer, Stored
from gradlens.methods.local.windows import HeadOptions, LocalLosses
from gradlens.runtime.batch_shard import all_gather_rows, current_shard_of, sharded
from gradlens.runtime.errors import InputError
from gradlens.runtime.rng import generator


class DGLAsyncOptions(HeadOptions, frozen=True, extra="forbid"):
    """Options of dgl with buffers. A unit is a block with its head; the last two blocks are one unit."""

    buffer: int = Field(
        8, ge=1, description="M, batches stored after each unit, in memory and in every checkpoint; 30 of 256 on the full basic-cnn: 1.3 GB"
    )
    reuse: int = Field(10, ge=1, description="most uses of a stored batch; a unit without a usable batch skips the round")
    order: Literal["random", "in-order"] = Field("random", description="order in which a round visits the units")
    slowed: int | None = Field(None, ge=1, description="the slow unit, counted from 1; default: none")
    slowdown: float = Field(1.0, ge=1, allow_inf_nan=False, description="S: the slow unit skips a round with probability 1 - 1/S")
    warmup: int = Field(1, ge=0, description="first N rounds run in order and skip no unit, as does any round with an empty buffer")


def _contexts_of_batches(blocks: Mapping[str, nn.Module], items: Items) -> str:
    return f"stores what blocks read, and {items.context_changes}" if items.context_changes else ""


class DGLAsync(LocalLosses):
    """delta_k = d l_k/d h_k as in dgl, with h_k = f_k(h) and (h, y) drawn from the last M outputs of block k−1.

    One step is a round: the first unit gets the batch, and the units are visited in a seeded order, a slow one not in every
    round. All use the weights from the start of the round, since the optimiser steps at its end. A batch that the slow first unit
    skips is lost. Belilovsky, Eickenberg & Oyallon 2020 (arXiv 1901.08164, algorithm 2), with replay buffers sampled as in the paper. Their
    code (``cifar_buffer.py``) differs in four details. A written batch counts as read once (here: as not yet read). Batches of another size
    than usual are dropped (here: kept). Once the ring is full, an index that is off by one takes its *oldest* batch for the newest, so that
    this one is read first whenever it is among those read least (here: the newest of them). With M = 1 uses are not counted, so that a
    batch is read without end (here: ``reuse`` times).

    The buffers are part of a checkpoint, which is therefore written at the end of an epoch and on Ctrl-C only. They hold M times
    the outputs of all units but the last: on the full basic-cnn at batch 256, 42 MB times M.
    """

    summary = "dgl with replay buffers between the blocks"
    other_names = ("async dgl", "asynchronous dgl", "asynchronous decoupled greedy learning")
    Options = DGLAsyncOptions
    depends_on = frozenset({"replay_buffer", "labels"})
    method_quantities: ClassVar[Mapping[str, str]] = {"staleness": "rounds since the unit's input was written, 0: in this round"}
    needs: ClassVar[Sequence[Need]] = (*LocalLosses.needs, Need(_contexts_of_batches, "set dgl"))
    saved_within_epochs = False

    def __init__(self, net: NetworkInfo, options: Any) -> None:
        super().__init__(net, options)
        if reader := next((net.name(k) for k, block in enumerate(net.blocks) if reads_blocks(block)), None):
            raise InputError(f"dgl-async stores what each block gives to the next: {reader} reads an earlier one too; set another model")
        if options.slowed and options.slowed > self.units:
            raise InputError(f"slowed={options.slowed} is no unit of this model: set 1 to {self.units} (the last two blocks are one unit)")
        if options.slowdown > 1 and options.slowed is None:
            raise InputError(f"slowdown={options.slowdown:g} has no effect without slowed: set slowed to a unit, 1 to {self.units}")
        self.replay_size, self.replay_reads = options.buffer, options.reuse
        self.rings = [Buffer(options.buffer) for _ in range(self.units - 1)]
        self.round = 0
        self.staleness: dict[int, int] = {}  # unit -> staleness in this round

    def start(self, epoch: int, step: int) -> None:
        """Begin a round: one step."""
        self.round = step

    def visited(self) -> list[int]:
        """Return the units of this round, in the order in which they run."""
        o, units = self.options, list(range(self.units))
        if self.round < o.warmup or not all(ring.batches for ring in self.rings):
            return units
        if o.order == "random":
            units = torch.randperm(self.units, generator=generator(self.seed, "visits", self.round)).tolist()
        if o.slowed and torch.rand((), generator=generator(self.seed, "slowed", self.round)) >= 1 / o.slowdown:
            units.remove(o.slowed - 1)
        return units

    def read(self, unit: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return a unit's input [N, *in] and labels [N]; None if its buffer has no usable batch."""
        if unit == 0:
            self.staleness[0] = 0
            return x, y
        stored = self.rings[unit - 1].sample(self.options.reuse)
        if stored is None:
            return None
        self.staleness[unit] = self.round - stored.written
        return stored.h, stored.y

    def forward(self, blocks: Sequence[nn.Module], x: Tensor, y: Tensor) -> Iterator[Pass]:
        """Run the passes of this round's units, in its order."""
        self.staleness = {}
        self.tie_heads(blocks[-1])
        for unit in self.visited():
            if (got := self.read(unit, x, y)) is None:
                continue
            h, targets = got
            for k in range(unit, self.num_blocks if unit == self.units - 1 else unit + 1):
                p = cut(k, blocks[k], h, targets, blocks[k](h))
                h = p.z
                if k < self.units - 1:
                    self.rings[k].write(p.z, p.y, self.round)
                yield p
                del p  # free the graph as soon as the caller does

    def locking_reason(self) -> str | None:
        """Return that ``slowdown`` runs in one process only; otherwise there is no lock."""
        slowed = "slowdown simulates a slow unit in one process; set slowdown=1 on several ranks"
        return slowed if self.options.slowdown > 1 else super().locking_reason()

    def can_split_after(self, k: int) -> bool:
        """Return whether blocks k and k+1 are different units."""
        return k < self.units - 1

    def quantities(self, update: Update) -> Mapping[str, Tensor]:
        """Return ``staleness`` of the unit's input; the output block, whose input is of its own unit, has none."""
        return {"staleness": torch.tensor(self.staleness[update.k])} if update.k in self.staleness else {}

    def get_extra_state(self) -> list[list[list[Any]]]:
        """Return the buffers as plain lists, tensors and numbers: [h, y, round written, uses] of each batch."""

        def whole(b: Stored) -> list[Any]:
            with sharded(b.shard):  # gathered over ranks: a checkpoint holds the whole batch
                return [all_gather_rows(b.h.detach()), all_gather_rows(b.y), b.written, b.uses]

        return [[whole(b) for b in ring.batches] for ring in self.rings]

    def set_extra_state(self, state: list[list[list[Any]]]) -> None:
        """Restore the buffers, on the device of the heads."""
        if len(state) != len(self.rings):
            raise ValueError(f"buffers of {len(state) + 1} units, this model has {self.units}")
        for ring, batches in zip(self.rings, state, strict=True):
            device = next(self.parameters()).device
            ring.batches.clear()
            for h, y, written, uses in batches:
                shard = current_shard_of(len(y))
                mine = slice(shard.start, shard.stop) if shard else slice(None)
                targets = y[mine].to(device)
                with sharded(shard):
                    self.items.make_known(targets)
                ring.batches.append(Stored(h[mine].to(device).detach().requires_grad_(), targets, written, uses, shard))
