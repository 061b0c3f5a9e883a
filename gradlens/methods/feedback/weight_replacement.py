"""Replace W by a rule's own feedback matrix in the backward pass of every linear and convolutional layer (feedback rules).

Torch's own graph is unchanged. While a block runs, the weight that a linear layer or convolution saves *for its input gradient* is
packed together with its layer's path; when a backward pass unpacks it and the rule is active, it gets the rule's matrix instead.
So weight gradients stay exact, no product is added, and without an active rule the same graph computes backprop bit for bit.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import count
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, Field
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from gradlens.gradients.alignment import float64
from gradlens.gradients.block_pass import Grad, Pass, chain
from gradlens.gradients.items import Items
from gradlens.gradients.method import FeedbackPair, Method, Signal, Step, relay, top_signal
from gradlens.gradients.needs import Need
from gradlens.gradients.network_info import NetworkInfo
from gradlens.methods.feedback.weight_uses import ACTIVATION, Call, Origins, storage, takes_values, tensors, unreplaced
from gradlens.models.block_boundaries import is_compiled, refuse_reentrant
from gradlens.runtime.errors import InputError
from gradlens.runtime.rng import generator

KNOWN = (nn.Linear, nn.Conv2d)
EXACT = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.PReLU,
    nn.Embedding,
)  # parameters, but no matrix on the way of a gradient


class DrawOptions(BaseModel, frozen=True, extra="forbid"):
    """Options of rules whose B is drawn once, from the distribution of a weight."""

    init: Literal["kaiming", "xavier"] = Field("kaiming", description="B ~ U(±√3 std) with std = 1/√(3 fan_in), or √(2/(fan_in + fan_out))")
    scale: float = Field(1.0, gt=0, description="factor on B")


def std(w: Tensor, init: str) -> float:
    """Return the standard deviation of a weight's initial entries: PyTorch's default (``kaiming``), or Xavier's."""
    fan_in, fan_out = w[0].numel(), len(w) * w[0, 0].numel()
    return math.sqrt(2 / (fan_in + fan_out)) if init == "xavier" else 1 / math.sqrt(3 * fan_in)


def weights(block: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights of a block's Linear and Conv2d layers, each once, by the layer's path within the block ("": the block itself)."""
    found: dict[int, tuple[str, nn.Parameter]] = {}
    for path, module in block.named_modules():
        if type(module) in KNOWN:
            w = module.weight
            assert isinstance(w, nn.Parameter)
            found.setdefault(id(w), (path, w))
    return dict(found.values())


def _has_none(module: nn.Module) -> bool:
    """Return whether a module has weights without a feedback matrix: another kind of layer, or one with a recomputed weight."""
    if isinstance(module, KNOWN):
        return type(module) not in KNOWN or "weight" not in module._parameters
    return any(p is not None for p in module._parameters.values()) and not isinstance(module, EXACT)


def _without_feedback(blocks: Mapping[str, nn.Module], items: Items) -> str:
    """Name the first layer whose weights have no feedback matrix."""
    layers = (found for name, block in blocks.items() for found in block.named_modules(prefix=name))
    return next((f"has no feedback for {path} ({type(module).__name__})" for path, module in layers if _has_none(module)), "")


class _Marking(TorchFunctionMode):
    """A mode in which linear layers and convolutions save their weight so that the rule can replace it in the backward pass."""

    def __init__(self, rule: FeedbackRule, paths: Mapping[int, str], origins: Origins) -> None:
        super().__init__()
        self.rule, self.paths, self.origins = rule, paths, origins  # paths: ids of weights -> paths of their layers
        self.calls: list[Call] = []  # calls of these layers
        self.hidden: str | None = None  # a layer whose weight was read while no graph is recorded
        self.trace: list[str] = []  # the functions that ran, and the layers whose weights were their arguments

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        path: str | None = None
        w: Any = None
        if func in (F.linear, F.conv2d):
            x, w, bias = (args[i] if i < len(args) else kwargs.get(name) for i, name in enumerate(("input", "weight", "bias")))
            path = self.paths.get(id(w))
        if path is None or w is None or not torch.is_grad_enabled():
            return self._other(func, args, kwargs)
        self.trace.append(path)
        if x.requires_grad:
            rest = {name: given for name, given in kwargs.items() if name not in ("input", "weight")}
            out = self.rule.marked(path, w, lambda v: func(x, v, *args[2:], **rest))
        else:  # no input gradient is needed, so no feedback
            out = func(*args, **kwargs)
        self.calls.append(Call(path, out.grad_fn, x.grad_fn, None if bias is None else bias.grad_fn))
        return out

    def _other(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run another function; reject it if it multiplies a weight's values that take no gradient with a tensor that takes one."""
        given = [(t, self.origins.of(t)) for t in tensors((*args, *kwargs.values()))]
        name = getattr(func, "__name__", type(func).__name__)
        self.trace.append(name)
        origins = {origin for _, origin in given}
        path, run = None, func
        mixed = {id(t): path for t, _ in given if (path := self.origins.in_mixed(t))}
        if mixed or origins - {None, ACTIVATION}:
            copied = next((origin for t, origin in given if origin and not t.requires_grad), None)
            path = copied or next((origin for _, origin in given if origin), None) or next(iter(mixed.values()))
            self.trace.append(path)
            if torch.is_grad_enabled() and self._may_carry(given, copied, mixed):
                run = self._watching(path, name, [(t, origin) for t, origin in given if id(t) not in mixed], func)
        out = run(*args, **kwargs)
        made = args[0] if out is None and args else out  # x[i] = y returns None and changes x
        if path and not takes_values(name):
            return out
        if path and not torch.is_grad_enabled() and tensors((made,)):
            self.hidden = path
        if path or ACTIVATION in origins:
            self.origins.note(name, made, origins, path)
        return out

    @staticmethod
    def _may_carry(given: Sequence[tuple[Tensor, str | None]], copied: str | None, mixed: Mapping[int, str]) -> bool:
        """Return whether a tensor with a gradient meets a weight's values that take none, or activations that contain some."""
        beside_copy = copied and any(t.requires_grad and origin != copied for t, origin in given)
        activations = [t for t, origin in given if origin == ACTIVATION and t.requires_grad]
        return bool(beside_copy) or (bool(mixed) and len(activations) > 1)

    def _watching(self, path: str, name: str, given: Sequence[tuple[Tensor, str | None]], func: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap ``func``: reject it if it saves a weight's values for its backward pass, where they multiply a gradient.

        They may be saved unchanged, cast, repeated or summed: a saved tensor that is none of the other arguments is made of them.
        """
        others = {storage(t) for t, origin in given if not origin or t.requires_grad} - {0}
        outer, found = _hooks_outside(path), False

        def pack(saved: Tensor) -> Any:
            nonlocal found
            found = found or storage(saved) not in others
            return outer[0](saved) if outer else saved

        def watched(*args: Any, **kwargs: Any) -> Any:
            with saved_tensors_hooks(pack, outer[1] if outer else lambda kept: kept):
                out = func(*args, **kwargs)
            if found:
                self.rule.refuse(path, name)
            return out

        return watched


def _nodes_made() -> int:
    """Return the number of autograd nodes that this thread has created so far."""
    made: int = torch._C._autograd._get_sequence_nr()
    return made


OUTER_HOOKS = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)  # torch 2.8 and later


def _hooks_outside(path: str) -> tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]] | None:
    """Return the saved-tensor hooks under which the layer at ``path`` runs: those of gradient checkpointing, or None.

    Raises:
        InputError: the layer is checkpointed, and this version of torch does not expose the hooks.

    """
    if OUTER_HOOKS is not None:
        found: tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]] | None = OUTER_HOOKS(True)
        return found
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_globals.get("__name__") == "torch.utils.checkpoint":
            raise InputError(f"{path} is checkpointed, which needs torch 2.8 or later under a feedback rule; this is {torch.__version__}")
    return None


class Switched:
    """Mixin of a rule that changes the backward pass inside blocks while it is active; the true gradient is computed while it is not."""

    compiles: ClassVar[bool] = False
    has_feedback: ClassVar[bool] = True
    active = False  # a plain attribute: on CUDA backward passes run in other threads

    @contextmanager
    def backward_context(self) -> Iterator[None]:
        """Activate the rule for backward passes inside the context."""
        self.active = True
        try:
            yield
        finally:
            self.active = False


class FeedbackWeights:
    """The matrix B that replaces a layer's weight W in the backward pass: the only difference between the rules of this family.

    B has W's own shape: B = Wᵀ in the papers is B = W here. This class draws B once, from the distribution of a weight, and keeps it.
    """

    def keep(self, rule: FeedbackRule, i: int, w: Tensor) -> Tensor | None:
        """Return the tensor to store (and save in checkpoints) for layer i, of the shape of its weight ``w``; None: nothing."""
        return rule.draw(w, std(w, rule.options.init) * rule.options.scale, i)

    def matrix(self, rule: FeedbackRule, path: str, w: Tensor) -> Tensor:
        """Return B, of the shape of ``w``, for the layer at dotted path ``path`` with the current weight ``w``."""
        return rule.held(path)

    def start(self, rule: FeedbackRule, step: int) -> None:
        """Update the stored tensors before each step, for matrices that are redrawn."""


class FeedbackRule(Switched, Method):
    """delta_K = dL/dh_K; delta_k = delta_{k+1}, pulled back through block k+1 with B in the place of each layer's W, all else exact.

    A rule of the family sets ``feedback_weights``, which defines B. Weight gradients are exact, given the gradient at the layer's output.
    """

    Options: ClassVar[type[BaseModel]] = DrawOptions
    depends_on = frozenset({"input", "backward_message"})
    feedback_weights: ClassVar[FeedbackWeights] = FeedbackWeights()
    learned: ClassVar[bool] = False  # whether B is a parameter
    needs: ClassVar[Sequence[Need]] = (Need(_without_feedback, "it supports Linear and Conv2d"),)

    def __init__(self, net: NetworkInfo, options: Any) -> None:
        super().__init__(net, options)
        self.used: set[str] = set()  # layers whose input took a gradient in the last forward pass: the matrix of others is unused
        self.compiled = any(map(is_compiled, net.blocks))
        self.checked: set[tuple[Any, ...]] = set()  # verified runs of blocks, all weights replaced: number, graph size, functions
        self.epoch = 0
        self.paths: list[list[str]] = []  # each block's layers, by dotted path in the model; a shared weight has one path
        self.kept = nn.Module()
        first: dict[int, str] = {}
        for k, block in enumerate(net.blocks):
            self.paths.append([])
            for path, w in weights(block).items():
                if id(w) not in first:
                    first[id(w)] = f"{net.name(k)}.{path}" if path else net.name(k)
                    self._put(first[id(w)], w, self.feedback_weights.keep(self, len(first) - 1, w))
                self.paths[k].append(first[id(w)])

    def matrix(self, path: str, w: Tensor) -> Tensor:
        """Return the matrix, of the shape of ``w``, that replaces a layer's weight ``w`` in the backward pass."""
        return self.feedback_weights.matrix(self, path, w)

    def start(self, epoch: int, step: int) -> None:
        """Draw matrices that change from step to step; verify graphs again in each epoch."""
        if epoch != self.epoch:
            self.epoch = epoch
            self.checked.clear()
        self.feedback_weights.start(self, step)

    def draw(self, w: Tensor, deviation: float, *index: int) -> Tensor:
        """Draw uniform numbers of mean 0 in the shape of ``w``, keyed by ``index``."""
        u = torch.rand(w.shape, generator=generator(self.seed, "feedback", *index))
        return ((2 * u - 1) * (math.sqrt(3) * deviation)).to(w.device, w.dtype)

    @staticmethod
    def _key(path: str) -> str:
        return path.replace(".", "/") + "/weight"  # names of parameters and buffers hold no dots

    def _put(self, path: str, w: Tensor, value: Tensor | None) -> None:
        if value is None:
            return
        if self.learned:
            self.kept.register_parameter(self._key(path), nn.Parameter(value, w.requires_grad))
        else:
            self.kept.register_buffer(self._key(path), value)

    def held(self, path: str) -> Tensor:
        """Return the stored tensor of a layer, by its dotted path in the model."""
        held: Tensor = getattr(self.kept, self._key(path))
        return held.detach()

    def forward(self, blocks: Sequence[nn.Module], x: Tensor, y: Tensor) -> Iterator[Pass]:
        """Run the plain chain, each block with its weights marked."""
        self.used = set()
        known = {w: path for k, block in enumerate(blocks) for path, w in zip(self.paths[k], weights(block).values(), strict=True)}
        paths = {id(w): path for w, path in known.items()}
        storages = {address: path for w, path in known.items() if (address := storage(w))}
        numbers = count()

        def run(block: nn.Module, *read: Tensor) -> Tensor:
            begun = _nodes_made()
            with self.uncompiled(), _Marking(self, paths, Origins(paths, storages, read)) as mode:
                h: Tensor = block(*read)
            graph = (next(numbers), _nodes_made() - begun, *mode.trace)
            if graph not in self.checked:  # a walk in every step would cost a small network a fifth of its time
                if found := unreplaced(h, read, mode.calls, paths, mode.hidden):
                    refuse_reentrant(h, found[0])
                    self.refuse(*found)
                self.checked.add(graph)
            return h

        return chain(blocks, x, y, run)

    def uncompiled(self) -> AbstractContextManager[object]:
        """Run compiled blocks eagerly inside the context: tensors saved by compiled code cannot be replaced."""
        return torch.compiler.set_stance("force_eager") if self.compiled else nullcontext()

    def refuse(self, path: str, product: str) -> None:
        """Reject a layer whose weight propagates the gradient in an operation where the rule cannot replace it."""
        raise InputError(
            f"{type(self).__name__.lower()}: the weight of {path} is also used otherwise than by calling the layer ({product}), where no"
            " feedback can replace it and earlier layers would get backprop: call the layer, or use F.linear or F.conv2d with its weight"
        )

    def marked(self, path: str, w: Tensor, layer: Callable[[Tensor], Tensor]) -> Tensor:
        """Run ``layer(w)`` so that a backward pass with the active rule uses the rule's matrix instead of the saved ``w``."""
        self.used.add(path)
        v, found = w, False
        outer = _hooks_outside(path)  # of checkpointing, which must still save this layer's tensors
        if torch.is_autocast_enabled(w.device.type) and w.dtype != torch.float64:
            v = w.to(torch.get_autocast_dtype(w.device.type))  # as autocast inside the layer, where its copy would be unknown here

        def pack(saved: Tensor) -> tuple[Any, int, bool]:
            nonlocal found
            is_weight = saved.untyped_storage().data_ptr() == v.untyped_storage().data_ptr()
            found = found or is_weight
            return (outer[0](saved), -1, is_weight) if outer else (saved, saved._version, is_weight)

        def unpack(packed: tuple[Any, int, bool]) -> Tensor:
            kept, version, is_weight = packed
            saved: Tensor = outer[1](kept) if outer else kept
            if not outer and saved._version != version:  # torch does not check this itself under hooks
                raise RuntimeError(f"{path}: its input or weight was overwritten in place after it ran and before its backward pass")
            if not (is_weight and self.active):
                return saved
            b = self.matrix(path, w.detach())
            if (b.stride(), b.dtype) != (v.stride(), v.dtype):
                b = torch.empty_like(v).copy_(b)
            return b.as_strided(saved.shape, saved.stride(), b.storage_offset() + saved.storage_offset() - v.storage_offset())

        with saved_tensors_hooks(pack, unpack):
            out = layer(v)
        if not found:
            raise RuntimeError(f"{path}: this version of torch saves a copy of the weight, so its feedback cannot be replaced")
        return out

    def signal(self, k: int, passes: Mapping[int, Pass], received: tuple[Tensor, ...]) -> Signal:
        """Use the gradient from block k+1 and pass it down; at the output block the loss's gradient."""
        return top_signal(self.loss, passes[k]) if k == self.num_blocks - 1 else relay(received)

    def learn(self, k: int, p: Pass, signal: Signal, grad: Grad, received: tuple[Tensor, ...]) -> Mapping[str, Tensor]:
        """Return, if B is learned, the gradient of each layer's weight as that of its B."""
        if not self.learned:
            return {}
        names = zip(self.paths[k], weights(p.block), strict=True)
        own = {path: f"{inside}.weight" if inside else "weight" for path, inside in names}
        return {f"kept.{self._key(path)}": grad.params[name] for path, name in own.items() if name in grad.params}

    def feedback_pairs(self, step: Step, passes: Sequence[Pass]) -> Iterator[FeedbackPair]:
        """Yield B with W (the angle of B to Wᵀ), and with the pseudo-inverse of W, a convolution as im2col matrix [C_out, C_in·k·k]."""
        todo = set(self.used)
        for k, block in enumerate(step.blocks):
            for path, w in zip(self.paths[k], weights(block).values(), strict=True):
                if path in todo:
                    todo.remove(path)
                    b = self.matrix(path, w.detach())
                    yield FeedbackPair(path, "feedback_transpose", b, w.detach(), "transpose of W")
                    yield FeedbackPair(path, "feedback_pseudoinverse", b, pseudo_inverse(w, groups(block, w)), "pseudo-inverse of W")


def groups(block: nn.Module, w: Tensor) -> int:
    """Return the groups of the convolution that a weight belongs to; 1 for a linear layer."""
    return next((m.groups for m in block.modules() if isinstance(m, nn.Conv2d) and m.weight is w), 1)


@torch.no_grad()
def pseudo_inverse(w: Tensor, groups: int = 1) -> Tensor:
    """Compute (W⁺)ᵀ in W's own shape, in float64; W as the im2col matrix [C_out, C_in·k·k], one per group of a convolution."""
    q, r = torch.linalg.qr(float64(w).reshape(groups, len(w) // groups, -1).mT)  # W = Rᵀ Qᵀ, so W⁺ = Q (Rᵀ)⁺: a small singular problem
    inverse: Tensor = q @ torch.linalg.pinv(r.mT)
    return inverse.mT.reshape(w.shape)
