"""Train by direct feedback alignment: project the output error to each block with a random matrix."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, ClassVar, Literal
from weakref import ReferenceType, ref

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn
from torch.func import functional_call

from gradlens.gradients.block_pass import Pass, ends_of_parts, pull_back_chain
from gradlens.gradients.items import Items
from gradlens.gradients.losses import slope
from gradlens.gradients.method import FeedbackPair, Method, Signal, Step, top_signal
from gradlens.gradients.needs import Need
from gradlens.gradients.network_info import NetworkInfo
from gradlens.methods.feedback.weight_replacement import Switched
from gradlens.models.click_layers import FieldVectors
from gradlens.models.feedback_point import exact_features, feedback_points
from gradlens.models.graph_layers import current_adjacency
from gradlens.models.resnet import Residual
from gradlens.runtime.batch_shard import all_gather_rows, all_reduce_sum, global_count
from gradlens.runtime.errors import InputError
from gradlens.runtime.rng import generator


class DFAOptions(BaseModel, frozen=True, extra="forbid"):
    """Options of direct feedback alignment."""

    shared: bool = Field(False, description="one matrix U[-1, 1) for all blocks, sliced to each block's size n, over √(the largest n)")
    scale: float = Field(1.0, gt=0, description="factor on B")
    skip: Literal["blocked", "exact"] = Field(
        "blocked", description="gradient through a residual block's skip connection: none, or exactly its share of the block's delta"
    )
    points: Literal["blocks", "inside"] = Field(
        "blocks",
        description="where errors are projected to: the ends of blocks, or also the places inside them that the network marks",
        json_schema_extra={"since": "0.2.0"},
    )
    embed_point: bool = Field(
        False,
        description="errors are projected to the embedding of tokens too, which otherwise backprop through the first block trains",
        json_schema_extra={"since": "0.2.0"},
    )
    feedback: Literal["own", "propagated"] = Field(
        "own",
        description="on graphs, what a node gets: its own error, or those up to k edges away too, with k the number of later blocks",
        json_schema_extra={"since": "0.2.0"},
    )
    embedding: Literal["feedback", "fixed"] = Field(
        "feedback",
        description="what trains the vectors of ids: feedback at the embedding's end, or nothing",
        json_schema_extra={"since": "0.2.0"},
    )
    error: Literal["logits", "features"] = Field(
        "logits",
        description="where the error is read: at the logits, or at the features that the output block reads (below a vocabulary)",
        json_schema_extra={"since": "0.2.0"},
    )


class _Through(torch.autograd.Function):
    """The identity; its backward pass blocks the gradient while the rule is active."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rule: DFA) -> Tensor:
        ctx.rule = rule
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, None]:  # type: ignore[override]
        return None if ctx.rule.active else g, None


def broadcast(e: Tensor, b: Tensor, h: Tensor, per_item: bool) -> Tensor:
    """Compute e [N, C] times B [C, n] in the shape and memory layout of ``h`` [N, *out], so that no copy is needed later.

    With ``per_item``, e [N, *, C] times B [C, n] is [N, *, n].
    """
    if per_item and e.ndim > 2:
        return (e.to(b.dtype) @ b).to(h.dtype)
    order = sorted(range(1, h.ndim), key=h.stride, reverse=True)  # the dimensions of an image as they lie in memory
    columns = b.reshape(-1, *h.shape[1:]).permute(0, *order).flatten(1)
    laid = (e.to(b.dtype) @ columns).to(h.dtype).reshape(len(h), *(h.shape[d] for d in order))
    return laid.permute(0, *(1 + order.index(d) for d in range(1, h.ndim)))


def _no_residual_block(blocks: Mapping[str, nn.Module], items: Items) -> str:
    fits = any(isinstance(block, Residual) for block in blocks.values())
    return "" if fits else "needs residual blocks, and this network has none"


def _no_place_inside(blocks: Mapping[str, nn.Module], items: Items) -> str:
    places = [point for block in list(blocks.values())[:-1] for point in feedback_points(block).values()]
    return "" if any(not point.of_embedding for point in places) else "needs a network that marks places inside its blocks"


def _no_embedding(blocks: Mapping[str, nn.Module], items: Items) -> str:
    fits = any(point.of_embedding for block in blocks.values() for point in feedback_points(block).values())
    return "" if fits else "needs a network that marks its embedding of tokens"


def _vectors(blocks: Iterable[nn.Module]) -> int | None:
    """Return the block of the vectors of ids; None: there is none."""
    return next((k for k, block in enumerate(blocks) if isinstance(block, FieldVectors)), None)


def _no_fixed_vectors(blocks: Mapping[str, nn.Module], items: Items) -> str:
    if (k := _vectors(blocks.values())) is None:
        return "needs a network with vectors of ids, as deep-cross has"
    return (
        "" if exact_features(blocks.values()).get(k) != 0 else "has no effect: the output block trains the vectors itself, without feedback"
    )


def _not_read_twice(blocks: Mapping[str, nn.Module], items: Items) -> str:
    """Name what makes the output block give something else when it is run again in a step."""
    if len(set(ends_of_parts(list(blocks.values())))) > 1:
        return "reads one output block, and this network has one for each of its parts"
    if len(blocks) < 2:
        return "reads what the output block reads, and this network is one block"
    kinds = nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd
    strange = next((m for m in list(blocks.values())[-1].modules() if isinstance(m, kinds)), None)
    return f"runs the output block twice, which {type(strange).__name__} forbids" if strange else ""


def _no_edges(blocks: Mapping[str, nn.Module], items: Items) -> str:
    return "" if items.has_edges else "sends errors along the edges of a graph, and there are none"


class DFA(Switched, Method):
    """delta_k = B_k e, with e = dL/dlogits and B_k fixed and random, at every block but the output block; backprop inside blocks.

    Nøkland 2016 (arXiv 1609.01596): B_k ~ U(±1/√n_k), n_k the size of h_k. ``shared``: Launay et al. 2020 (arXiv 2006.12878), one
    matrix of which each block uses the first n_k columns. ``skip=exact``: if block k+1 is residual, act(branch(x) + shortcut(x)), delta_k
    = B_k e + (delta_{k+1} pulled back through act and shortcut alone). ``points=inside``: places inside blocks get B e too, each with its
    own B, and what the network computes between two places is trained by backprop; with ``embed_point`` the output of an embedding of
    tokens is such a place. ``error=features``: e = dL/dh at the input of the output block, which alone has the true gradient then. What
    the output block reads itself of a block's features (``exact_from``) keeps its true gradient. ``embedding=fixed``: vectors of ids are
    not trained. In a network of parts each part has its own error, that of the objective's term at its last block.
    ``feedback=propagated``, on graphs: delta_k = Â^(K−k) e B_k with Â = D^-½ (A + I) D^-½, after Zhao et al. 2024 (arXiv 2406.02040),
    without their pseudo-errors.
    """

    summary = "the output error through a random matrix"
    other_names = ("direct feedback alignment", "direct feedback")
    Options = DFAOptions
    depends_on = frozenset({"input", "output_error"})
    needs: ClassVar[Sequence[Need]] = (
        Need(_no_residual_block, "set skip=blocked or take resnet18", "skip", "exact"),
        Need(_no_place_inside, "set points=blocks or another model", "points", "inside"),
        Need(_no_embedding, "leave it out or take another model", "embed_point", True),
        Need(_not_read_twice, "set error=logits", "error", "features"),
        Need(_no_fixed_vectors, "set embedding=feedback", "embedding", "fixed"),
        Need(_no_edges, "set feedback=own, or --task graphs", "feedback", "propagated"),
    )
    defaults_on: ClassVar[Mapping[str, Mapping[str, Any]]] = {  # of Launay et al., in their code; sage as gcn
        "gcn": {"dropout": 0.1, "weight_decay": 1e-4},
        "cheb": {"dropout": 0.0, "weight_decay": 1e-4},
        "sage": {"dropout": 0.1, "weight_decay": 1e-4},
        "gat": {"dropout": 0.1, "attention_dropout": [0.6, 0.0], "weight_decay": 1e-4},
    }

    def __init__(self, net: NetworkInfo, options: Any) -> None:
        super().__init__(net, options)
        self.fixed = _vectors(net.blocks) if options.embedding == "fixed" else None
        if options.feedback == "propagated" and options.points == "inside":
            raise InputError("dfa: feedback=propagated sends errors to the ends of blocks alone; set points=blocks, or feedback=own")
        self.names = [net.name(k) for k in range(self.num_blocks)]
        self.exact = exact_features(net.blocks[:-1])
        self.sizes = [self.exact.get(k, net.features(k).numel()) for k in range(self.num_blocks - 1)]  # features that get feedback
        self.inside: dict[str, int] = {}  # key of each place inside a block -> its features
        for k, block in enumerate(net.blocks[:-1]):
            for path, point in feedback_points(block).items():
                if options.embed_point if point.of_embedding else options.points == "inside":
                    point.key = f"{k}/{path.replace('.', '/')}"
                    self.inside[point.key] = point.features
        self.error: Tensor | None = None  # [N, *, C] of the step, for the places inside blocks
        self.ends = ends_of_parts(net.blocks)
        self.errors: dict[int, Tensor] = {}  # last block of a part before the output's -> the error read there in this step
        self.classes = net.classes
        self.largest = max([*self.sizes, *self.inside.values()], default=0)
        read = net.features(self.num_blocks - 2).numel() if options.error == "features" else net.classes
        self.read: tuple[ReferenceType[Tensor], Tensor] | None = None  # the output of the step and the error that was read, of features
        self.gave_the_same = False  # the output block, run again
        self.feedback = nn.Module()
        widths = {str(k): n for k, n in enumerate(self.sizes) if k != self.ends[k]} | self.inside
        shared = {self._shared(end): self.largest for end in sorted(set(self.ends), reverse=True)}
        for i, (name, n) in enumerate((shared if options.shared else widths).items()):
            u = 2 * torch.rand(read, n, generator=generator(net.seed, "feedback", i)) - 1
            self.feedback.register_buffer(name, options.scale * (u if options.shared else u / math.sqrt(max(n, 1))))

    def matrix(self, k: int | str) -> Tensor:
        """Return B_k [C, n_k] of a block, or of a place inside one by its key, to be multiplied from the right with errors [N, *, C]."""
        if self.options.shared:
            n = self.sizes[k] if isinstance(k, int) else self.inside[k]
            end = self.ends[k if isinstance(k, int) else int(k.partition("/")[0])]
            return self.feedback.get_buffer(self._shared(end))[:, :n] / math.sqrt(self.largest)
        return self.feedback.get_buffer(str(k))

    def _shared(self, end: int) -> str:
        """Return the name of the matrix that all blocks of a part of the network share, by the part's last block."""
        return "shared" if end == self.num_blocks - 1 else f"shared{end}"

    def _fed(self, key: str, g: Tensor) -> Tensor | None:
        """Return what a place inside a block gets instead of the gradient g [N, *, n]; None while the rule is not active."""
        if not self.active or self.error is None:
            return None
        return broadcast(self.error, self.matrix(key), g, self.items.per_item)

    @contextmanager
    def permuted(self, rows: Tensor) -> Iterator[None]:
        """Permute the rows of the error that places inside blocks get."""
        before = self.error
        self.error = None if before is None else all_gather_rows(before)[rows]
        try:
            yield
        finally:
            self.error = before

    def error_of(self, top: Pass) -> Tensor:
        """Return the error [N, *, C] at the logits of the output block's pass, or [N, *, D] at its input, run again once a step.

        The input of a row that is one item is flattened, [N, D].

        Raises:
            InputError: the output block gives something else when it is run again.

        """
        if self.options.error == "logits":
            return slope(self.loss, top.z, top.y)[1][..., : self.classes]
        if self.read is None or self.read[0]() is not top.z:
            x = top.x.detach().requires_grad_()
            with torch.enable_grad():
                weights = {name: w.detach() for name, w in top.block.named_parameters()}
                z = functional_call(top.block, weights, (x, *top.also.values()))
                (e,) = torch.autograd.grad(self.loss(z, top.y), x)
            if not self.gave_the_same:  # compared in one step only: comparing waits for the device
                self.gave_the_same = _same(z, top.h)
            self.read = ref(top.z), e if self.items.per_item else e.flatten(1)
        return self.read[1]

    def locking_reason(self) -> str | None:
        """Return that with ``skip=exact`` blocks send backward messages, and with ``error=features`` read the output block."""
        if self.options.error == "features":
            return "with error=features a block reads the output block's weights, which are on another rank"
        if self.exact:
            return f"{self.names[min(self.exact)]} waits for the output block's gradient"
        return "with skip=exact a block waits for the gradient through the skip of block k+1" if self.options.skip == "exact" else None

    def run_block(self, block: nn.Module, x: Tensor, *earlier: Tensor) -> Tensor:
        """Run the block with feedback at its places; with ``skip=exact`` a residual branch's input blocks the rule's gradient."""
        with ExitStack() as after:
            for point in feedback_points(block).values() if self.inside else ():
                if point.key in self.inside:
                    point.feedback = partial(self._fed, point.key)
                    after.callback(delattr, point, "feedback")
            if self.options.skip == "exact" and isinstance(block, Residual):
                gate = block.branch.register_forward_pre_hook(lambda _, args: (_Through.apply(args[0], self),))  # type: ignore[no-untyped-call]
                after.callback(gate.remove)
            return super().run_block(block, x, *earlier)

    def signal(self, k: int, passes: Mapping[int, Pass], received: tuple[Tensor, ...]) -> Signal:
        """Compute B_k e [+ the gradient through the skip of block k+1]; pass it down only through a skip connection."""
        p, top = passes[k], passes[self.num_blocks - 1]
        if k == self.num_blocks - 1:
            return top_signal(self.loss, p, send=bool(self.exact))
        end = self.ends[k]
        if k == end:  # of a part: trained by its own term, whose gradient there is the error of the part's blocks
            self.errors[k] = slope(self.terms[k], p.z, p.y)[1][..., : self.classes]
            return Signal(torch.zeros_like(p.h))
        e = self.error_of(top) if end == self.num_blocks - 1 else self.errors[end]
        self.error = e if self.inside else None
        for _ in range(self.num_blocks - 1 - k if self.options.feedback == "propagated" else 0):
            e = current_adjacency(len(e)).normalized @ e
        if k in self.exact:
            fed = (e.to(p.h.dtype) @ self.matrix(k)).to(p.h.dtype) * (k != self.fixed)
            return Signal(torch.cat([fed, received[0][:, self.sizes[k] :]], 1))
        if k == self.fixed:
            return Signal(None)
        delta = broadcast(e, self.matrix(k), p.h, self.items.per_item)
        for message in received if self.options.skip == "exact" else ():
            delta = delta + message
        carried = self.options.skip == "exact" and isinstance(p.block, Residual)
        return Signal(delta, (delta,) if carried else ())

    def feedback_pairs(self, step: Step, passes: Sequence[Pass]) -> Iterator[FeedbackPair]:
        """Yield B_k and the Jacobian of where the error is read with respect to h_k, the mean over the batch (and positions): [C, n_k].

        None where that is a map, which has thousands of features.
        """
        features = self.options.error == "features"
        if features and passes[-2].h.ndim > 2 and not self.items.per_item:
            return
        what, ends = "features" if features else "logits", sorted(set(self.ends))
        for first, end in zip([0, *(end + 1 for end in ends)], ends, strict=False):
            part = passes[first : end if features else end + 1]
            for k, rows in zip(range(first, end), self._jacobians(part), strict=False):
                mean = torch.stack([row.flatten() for row in rows])[:, : self.sizes[k]]
                if mean.numel():
                    yield FeedbackPair(self.names[k], "feedback_jacobian", self.matrix(k), mean, f"batch-mean Jacobian of the {what}")

    def _jacobians(self, passes: Sequence[Pass]) -> list[list[Tensor]]:
        """Compute for each of some passes the batch-mean gradient of each number of the last one's output at its own output, [C, *out]."""
        top, found = passes[-1], list[list[Tensor]]([] for _ in passes)
        for c in range(top.h.shape[-1] if self.options.error == "features" else self.classes):
            m = torch.zeros_like(top.h)
            m[..., c] = 1
            for k, grad in enumerate(pull_back_chain(passes, {top.k: m}, keep=True, params=False)):
                assert grad.delta is not None
                each = grad.delta.flatten(0, -2) if self.items.per_item else grad.delta
                found[k].append(all_reduce_sum(each.sum(0)) / global_count(len(each)))
        return found


def _same(again: Tensor, first: Tensor) -> bool:
    """Return True if an output is that of the first run but for rounding.

    Raises:
        InputError: it is not.

    """
    if (again - first).abs().max() > 16 * torch.finfo(first.dtype).eps * first.abs().max():
        raise InputError("dfa: error=features runs the output block twice, and the second time it gives something else; set error=logits")
    return True
