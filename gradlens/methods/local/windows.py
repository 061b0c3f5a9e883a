"""Share what rules with local losses have in common: the windows of blocks that each loss trains, and auxiliary heads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from gradlens.gradients.block_pass import Pass, ends_of_parts, trainable
from gradlens.gradients.items import Items
from gradlens.gradients.method import Method, Signal, top_signal
from gradlens.gradients.needs import Need
from gradlens.gradients.network_info import NetworkInfo
from gradlens.models.heads import TiedHead, head
from gradlens.models.layouts import on_items
from gradlens.runtime.errors import InputError
from gradlens.runtime.rng import seeded


class HeadOptions(BaseModel, frozen=True, extra="forbid"):
    """Options of rules with auxiliary heads."""

    head: Literal["linear", "mlp", "mlp-sr", "cnn", "norm-linear", "low-rank", "tied"] = Field(
        "mlp", description="kind of auxiliary classifier (the last three: LayerNorm and a projection, tied: of the output block, detached)"
    )
    layers: int = Field(1, ge=1, le=3, description="hidden layers of the head (a linear head has none)")
    width: int | None = Field(None, ge=1, description="width of the head's hidden layers; default: that of the model's output block")
    pooled: bool = Field(False, description="average the activations to 2x2 before a linear or mlp head")
    rank: int = Field(16, ge=1, description="features between the two matrices of a low-rank head", json_schema_extra={"since": "0.2.0"})


class Window(NamedTuple):
    """Blocks ``first`` to ``last`` (both included) that the loss at block ``last`` trains; no gradient of it reaches block first−1."""

    first: int
    last: int


def unit_names(net: NetworkInfo, with_top: bool = True) -> list[str]:
    """Return the name of each unit: every block is one, but the last two blocks together (or without the output block)."""
    names = [net.name(k) for k in range(len(net.blocks))]
    return [*names[:-2], " ".join(names[-2:])] if with_top else names[:-1]


def even(units: int, chunks: int) -> list[int]:
    """Return sizes of chunks that are as equal as possible, the first ones the larger."""
    return [units // chunks + (i < units % chunks) for i in range(chunks)]


def split(chunks: int | Sequence[int], net: NetworkInfo, with_top: bool = True, option: str = "chunks") -> list[Window]:
    """Split the network's units into disjoint windows.

    Args:
        chunks: number of windows, all of one size, or their sizes, first to last.
        net: the network.
        with_top: True: the last two blocks are one unit; False: the output block is in no unit.
        option: name of the user's option, for messages.

    Raises:
        InputError: a number that does not divide the units, sizes that do not add up to them.

    """
    names = unit_names(net, with_top)
    n, given = len(names), f"{option}={chunks}".replace(", ", ",")
    has = f"this network has {n} unit{'s' * (n > 1)}: {' | '.join(names)}"
    if min([chunks] if isinstance(chunks, int) else chunks, default=0) < 1:
        raise InputError(f"{given}: must be 1 or more chunks of 1 or more units each; {has}")
    if isinstance(chunks, int) and chunks > n:
        raise InputError(f"{given} is too many: {has}")
    sizes = even(n, chunks) if isinstance(chunks, int) else list(chunks)
    if sum(sizes) != n:
        raise InputError(f"{given} adds up to {sum(sizes)} units, but {has}")
    windows = [Window(a, b - 1) for a, b in pairwise([0, *accumulate(sizes)])]
    if isinstance(chunks, int) and n % chunks:
        parts = " | ".join(" ".join(names[w.first : w.last + 1]) for w in windows)
        sizes_ = ",".join(map(str, sizes))
        raise InputError(f"{given} does not divide the {n} units of this network; --set {option}=[{sizes_}] splits them as {parts}")
    return windows


class LossWindows:
    """Windows of a rule: which loss reaches which block, which blocks wait, and the messages between blocks.

    If windows overlap, each block is still run once and each head evaluated once: block k sends *partial sums* of the windows'
    gradients to block k−1, one for each window that extends further down.

    Args:
        windows: over the units 0 … ``units`` − 1, each ending at another unit, the last one at the last unit.
        units: number of blocks that a window can end at.
        with_top: whether the last of them is one unit with the network's output block.

    """

    def __init__(self, windows: Iterable[Window], units: int, with_top: bool) -> None:
        self.with_top = with_top
        self.windows = sorted(windows)
        self.first = {w.last: w.first for w in self.windows}  # block with a loss -> first block that the loss reaches
        # for each unit k the first blocks of the windows that hold both k and k−1, the nearest first
        self.sent = [sorted({w.first for w in self.windows if w.first < k <= w.last}, reverse=True) for k in range(units)]

    def waits(self, k: int) -> bool:
        """Return whether a window holds both block k and block k+1, or block k+1 is the output block in the same unit."""
        last = len(self.sent) - 1
        return bool(self.sent[k + 1]) if k < last else k == last and self.with_top

    def can_split_after(self, k: int) -> bool:
        """Return whether blocks k and k+1 are in different windows."""
        return k + 1 < len(self.sent) and not self.waits(k)

    def signal(self, k: int, slope: Tensor | None, received: tuple[Tensor, ...], signal: Signal) -> Signal:
        """Fill in delta and messages from block k's own slope (None: no window ends here) and the received partial sums.

        A partial sum "from a" is over the windows that hold block k and begin at block a or before. Of the windows of
        a sum the one that ends here begins first, so its slope is in every sum with ``first[k]`` ≤ a.

        Args:
            k: index of the block.
            slope: [N, *out] gradient of the loss at block k, or None.
            received: partial sums of block k+1, each [N, *out].
            signal: the signal to fill in.

        """
        starts = self.sent[k + 1] if k + 1 < len(self.sent) else []
        sums: dict[tuple[bool, int | None], Tensor | None] = {}

        def partial(a: int) -> Tensor | None:
            mine = slope is not None and self.first[k] <= a
            which = next((i for i, first in enumerate(starts) if first <= a), None)
            if (mine, which) not in sums:
                terms = ([slope] if mine else []) + ([received[which]] if which is not None else [])
                sums[mine, which] = terms[0] if len(terms) == 1 else terms[0] + terms[1] if terms else None  # type: ignore[operator]
            return sums[mine, which]

        sent = tuple(m for a in self.sent[k] if (m := partial(a)) is not None)
        return signal._replace(delta=partial(k), messages_below=sent)

    def arrange(self, j: int, k: int, messages: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
        """Choose what block k's partial sums add to those of block j+1, where block k reads block j too: see ``Method.arrange``."""
        last = len(self.sent) - 1
        starts = self.sent[k] if k <= last else [self.first[last]]  # of block k's messages; the output block sends one, of the last window
        places = [next((i for i, first in enumerate(starts) if first <= a), None) for a in self.sent[j + 1]]
        return tuple(None if place is None else messages[place] for place in places)

    def locking_reason(self) -> str | None:
        """Return the backward lock if a window covers every pair of neighbouring blocks; windows are independent of each other."""
        if any(map(self.can_split_after, range(len(self.sent)))):
            return None
        return "it is backward-locked: a window covers every pair of neighbouring blocks"


def _several_parts(blocks: Mapping[str, nn.Module], items: Items) -> str:
    parts = len(set(ends_of_parts(list(blocks.values()))))
    return f"has losses of its own at blocks, of which this network has {parts} parts" if parts > 1 else ""


class InWindows:
    """Mixin of a rule whose losses each train a window of blocks; its locking follows from ``reach``."""

    has_local_losses: ClassVar[bool] = True
    needs: ClassVar[Sequence[Need]] = (Need(_several_parts, "set another model, or a rule without local losses"),)
    reach: LossWindows

    def needs_above(self, k: int) -> bool:
        """Return whether a window holds both block k and block k+1."""
        return self.reach.waits(k)

    def locking_reason(self) -> str | None:
        """Return the lock, unless two neighbouring blocks are in different windows."""
        return self.reach.locking_reason()

    def can_split_after(self, k: int) -> bool:
        """Return whether blocks k and k+1 are in different windows."""
        return self.reach.can_split_after(k)

    def arrange(self, j: int, k: int, messages: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
        """Add partial sums to those of the same windows."""
        return self.reach.arrange(j, k, messages)


class Local(NamedTuple):
    """A local loss and, if its head classifies, the head's logits."""

    loss: Tensor  # scalar
    logits: Tensor | None = None  # [N, *, C]


class Slopes(NamedTuple):
    """A local loss and its gradients."""

    loss: Tensor  # scalar, without its graph
    slope: Tensor  # [N, *out] d loss / d z
    aux_grads: Mapping[str, Tensor]  # gradients of the head, by name in the rule
    logits: Tensor | None = None  # [N, C]
    saved: Any = None  # values for the rule's own quantities


def differentiated(local: Local, z: Tensor, head: nn.Module, k: int) -> Slopes:
    """Differentiate a local loss with respect to the leaf ``z`` [N, *out] and the parameters of block k's head."""
    params = trainable(head, f"heads.{k}")
    slope, *grads = torch.autograd.grad(local.loss, [z, *params.values()])
    return Slopes(local.loss.detach(), slope, dict(zip(params, grads, strict=True)), local.logits)


class LocalLosses(InWindows, Method):
    """delta_k = Σ over the windows w that hold block k of d l_w/d h_k, with l_w the loss of an auxiliary head at the window's last block.

    The network's last two blocks are one unit, whose loss is the network's own.
    A rule overrides :meth:`windows` and, if its loss is another one, :meth:`make_head` and :meth:`local_loss`.
    """

    Options: ClassVar[type[BaseModel]] = HeadOptions
    depends_on = frozenset({"input", "labels"})
    plain_local_loss = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Set ``plain_local_loss`` to False for a rule that overrides the loss."""
        super().__init_subclass__(**kwargs)
        cls.plain_local_loss = cls.local_loss is LocalLosses.local_loss

    def __init__(self, net: NetworkInfo, options: Any) -> None:
        super().__init__(net, options)
        self.units = max(self.num_blocks - 1, 1)  # each block is a unit, but the last two blocks are one
        self.reach = LossWindows(self.windows(net), self.units, with_top=self.num_blocks > 1)
        with seeded(net.seed, "heads"):
            self.heads = nn.ModuleDict({str(k): self.make_head(k, net) for k in sorted(self.reach.first) if k < self.units - 1})
        self.tie_heads(net.blocks[-1])

    def windows(self, net: NetworkInfo) -> Sequence[Window]:
        """Return the windows over the units 0 … ``self.units`` − 1, each ending at another unit, the last one at the last unit."""
        return [Window(k, k) for k in range(self.units)]

    def make_head(self, k: int, net: NetworkInfo) -> nn.Module:
        """Build the head of unit k: activations [N, *shape] -> logits [N, C], unless ``local_loss`` is overridden too."""
        o = self.options
        width = o.width or net.head_width
        made = head(o.head, net.features(k), net.classes, width, o.layers, o.pooled, net.turned(k), o.rank)
        return on_items(made, net.items.per_item)

    def tie_heads(self, top: nn.Module) -> None:
        """Let heads that are tied to the output block use its present weights."""
        for m in self.heads.modules():
            if isinstance(m, TiedHead):
                m.tie(top)

    def forward(self, blocks: Sequence[nn.Module], x: Tensor, y: Tensor) -> Iterator[Pass]:
        """Run the plain chain, with tied heads on the output block's present weights."""
        self.tie_heads(blocks[-1])
        return super().forward(blocks, x, y)

    def locking_reason(self) -> str | None:
        """Return the lock, unless two neighbouring blocks are in different windows; tied heads keep all blocks on one rank."""
        if any(isinstance(m, TiedHead) for m in self.heads.modules()):
            return "its heads are tied to the output block (set another head)"
        return super().locking_reason()

    def local_loss(self, k: int, p: Pass) -> Local:
        """Compute the loss of unit k's head on the leaf ``p.z`` [N, *out]."""
        logits = self.heads[str(k)](p.z)
        return Local(self.loss(logits, p.y), logits)

    def signal(self, k: int, passes: Mapping[int, Pass], received: tuple[Tensor, ...]) -> Signal:
        """Compute the sum of the windows' gradients at block k, and the partial sums for block k−1."""
        p = passes[k]
        if k == self.num_blocks - 1:
            return top_signal(self.loss, p)
        if k == self.units - 1:
            return self.reach.signal(k, received[0], (), Signal(None))
        if str(k) not in self.heads:
            return self.reach.signal(k, None, received, Signal(None))
        loss, slope, aux_grads, logits, _ = differentiated(self.local_loss(k, p), p.z, self.heads[str(k)], k)
        answer = logits.detach() if logits is not None and k == self.output_block else None
        return self.reach.signal(k, slope, received, Signal(None, aux_grads=aux_grads, loss=loss, logits=answer))
