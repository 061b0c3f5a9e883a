"""Observe what a learning rule sends where: which error signal each block uses, what that depends on, and what trains the rule's modules.

Nothing here is declared by hand. One step of the rule is run on a small network, then each block's signal is computed again with one
of its arguments changed: what changes with it depends on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gradlens.gradients.backward import run_step
from gradlens.gradients.block_pass import Pass, pull_back
from gradlens.gradients.losses import cross_entropy
from gradlens.gradients.method import Method, Step, Update
from gradlens.models.spec import ModelSpec
from gradlens.models.zoo import build
from gradlens.runtime.rng import seed_global
from gradlens.training.build import make_network_info

IMAGES, CLASSES, SHAPE = 6, 10, (3, 32, 32)
NETWORK = "basic-cnn"


@dataclass(frozen=True)
class RuleModule:
    """A module of the rule's own (an auxiliary head, a synthesiser) and its part in the step.

    Attributes:
        name: dotted path in the rule.
        label: what it is, in words.
        block: the block with which it is trained.
        reads: what its output depends on: "output" (of its block), "image", "labels".
        gives: what is made of its output: "input" (of block k+1), "loss", "error signal"; "" where nothing is found.
        target: what it is trained towards, beside a loss of its own: "message" (of block k+1), "output" (of its block), "".

    """

    name: str
    label: str
    block: int
    reads: tuple[str, ...]
    gives: str
    target: str = ""


@dataclass(frozen=True)
class BlockSignal:
    """One block's part of the step.

    Attributes:
        name: the block's.
        reads: where its input comes from: "image", "block below", "replay buffer", "module".
        trained: whether it was updated.
        loss: whether a loss is computed at its output.
        loss_reads: what that loss depends on beside the block's output: "labels", "image", "teacher".
        error_signal: what its error signal is made of: "message", "loss", "module", "output error".
        sends: number of messages to block k−1.
        feedback: whether these are carried down otherwise than by the transposed weights.

    """

    name: str
    reads: str
    trained: bool
    loss: bool
    loss_reads: tuple[str, ...]
    error_signal: tuple[str, ...]
    sends: int
    feedback: bool


@dataclass(frozen=True)
class RuleStructure:
    """What a rule sends where in one step.

    Attributes:
        rule: its name.
        blocks: bottom first.
        modules: the rule's own, by block.
        windows: (first, last) blocks that each loss trains, where a rule has windows of several blocks.
        objective: what the true gradient is the gradient of.
        stage: (stage observed, stages) of a rule that trains block after block, else None.

    """

    rule: str
    blocks: tuple[BlockSignal, ...]
    modules: tuple[RuleModule, ...]
    windows: tuple[tuple[int, int], ...]
    objective: str
    stage: tuple[int, int] | None = None


def rule_structure(name: str, rule: type[Method], options: Mapping[str, Any] | None = None, depth: int = 3) -> RuleStructure:
    """Run one step of a rule on a small convolutional network and find what depends on what.

    Args:
        name: the rule's.
        rule: its class.
        options: of the rule; those left out have their defaults.
        depth: number of convolutional blocks, 1 to 4; an output block follows.

    Raises:
        InputError: options that the rule or the network refuses.

    """
    method, step, names = _observed_step(rule, rule.Options(**(options or {})), depth)
    probe = _Probe(method, step)
    modules = [probe.module(unit) for unit in _modules(method)]
    windows = _windows(method)
    stage = next((k for k, u in sorted(step.updates.items()) if u.signal.delta is not None), 0) + 1
    return RuleStructure(
        name,
        tuple(probe.block(k, block, modules) for k, block in enumerate(names)),
        tuple(m for m in modules if m.gives or m.target),
        windows,
        method.objective,
        (stage, method.num_blocks - 1) if method.in_stages else None,
    )


def _observed_step(rule: type[Method], options: Any, depth: int) -> tuple[Method, Step, list[str]]:
    """Run a step with all graphs kept, after two forward passes that fill what a rule keeps from step to step; the blocks' names."""
    read = rule.input_shape(SHAPE, options)
    model = build(NETWORK, ModelSpec(read, CLASSES, width=4, depth=depth), seed=1).double()
    net = make_network_info(model, read, CLASSES, cross_entropy, 3, depth + 1)
    method = rule(net._replace(image=SHAPE, teacher=lambda images: images.flatten(1)[:, :CLASSES]), options).double()
    noise = torch.Generator().manual_seed(11)
    with torch.no_grad():  # modules that begin at zero would seem to depend on nothing
        for p in method.parameters():
            p.add_(torch.randn(p.shape, generator=noise, dtype=torch.float64), alpha=0.05)
    method.start(1, 0)
    for i in (-2, -1, 0):
        seed_global(i)
        images = torch.randint(0, 256, (IMAGES, *SHAPE), generator=noise, dtype=torch.uint8)
        labels = torch.randint(0, CLASSES, (IMAGES,), generator=noise)
        x, y = method.make_inputs(images, labels, i, lambda pixels: pixels.double() / 127.5 - 1)
        if i < 0:
            list(method.forward(list(model), x, y))
    return method, run_step(method, list(model), x, y), list(net.names)


def _windows(method: Method) -> tuple[tuple[int, int], ...]:
    """Return the first and last block that each local loss trains, where there are several and one trains more than its own block."""
    reach = getattr(method, "reach", None)
    if reach is None or len(reach.windows) < 2 or all(w.first == w.last for w in reach.windows):
        return ()
    top = method.num_blocks - 1
    return tuple((w.first, top if reach.with_top and w.last == top - 1 else w.last) for w in reach.windows)


class _Unit(NamedTuple):
    """A module of the rule's own, before its use is found."""

    name: str
    label: str
    module: nn.Module


def _modules(method: Method) -> Iterator[_Unit]:
    """Yield the rule's own modules that compute something: members of its lists and dictionaries one by one."""
    for name, child in method.named_children():
        members = child.named_children() if isinstance(child, nn.ModuleList | nn.ModuleDict) else [("", child)]
        for key, module in members:
            computes = type(module).forward is not nn.Module.forward and next(module.parameters(), None) is not None
            if computes:
                kind = type(module).__name__ if not type(module).__module__.startswith("torch.") else name.removesuffix("s")
                words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind).replace("_", " ").lower()
                yield _Unit(f"{name}.{key}" if key else name, words, module)


class _Probe:
    """Signals of an observed step, computed again with one argument changed."""

    def __init__(self, method: Method, step: Step) -> None:
        self.method, self.step = method, step
        self.passes = {p.k: p for p in step.passes}
        self.plain = {k: self._again(k) for k in step.updates}

    # -------------------------------------------------------------------------------------------------- second calls

    def _again(self, k: int, passes: Mapping[int, Pass] | None = None, received: tuple[Tensor, ...] | None = None) -> dict[str, Tensor]:
        """Return block k's error signal ("delta"), loss ("loss") and gradients of the rule's own modules, by name."""
        update, passes = self.step.updates[k], passes or self.passes
        received = update.received if received is None else received
        seed_global(0)
        signal = self.method.signal(k, passes, received)
        learned = self.method.learn(k, passes[k], signal, update.grad, received)
        named = {"delta": signal.delta, "loss": signal.loss, **signal.aux_grads, **learned}
        return {name: t.detach().clone() for name, t in named.items() if t is not None}

    def _changed(self, k: int, **changes: Any) -> set[str]:
        """List the names of block k's outputs that change with these arguments."""
        before, after = self.plain[k], self._again(k, **changes)
        return {name for name, t in before.items() if name not in after or not torch.equal(t, after[name])}

    def _with_pass(self, k: int, **fields: Any) -> dict[int, Pass]:
        return {**self.passes, k: self.passes[k]._replace(**fields)}

    def _by_labels(self, k: int) -> set[str]:
        return self._changed(k, passes=self._with_pass(k, y=_other(self.passes[k].y)))

    def _by_image(self, k: int) -> set[str]:
        image = self.passes[k].image
        return set() if image is None else self._changed(k, passes=self._with_pass(k, image=_other(image)))

    def _by_message(self, k: int) -> set[str]:
        received = self.step.updates[k].received
        return self._changed(k, received=tuple(map(_other, received))) if received else set()

    def _by_output(self, k: int, of: int) -> set[str]:
        return self._changed(k, passes=self._with_pass(of, z=_other(self.passes[of].z).requires_grad_()))

    def _by_weights(self, k: int, module: nn.Module) -> set[str]:
        before = [p.detach().clone() for p in module.parameters()]
        with torch.no_grad():
            for p in module.parameters():
                p.copy_(_other(p))
        changed = self._changed(k)
        with torch.no_grad():
            for p, kept in zip(module.parameters(), before, strict=True):
                p.copy_(kept)
        return changed

    # ------------------------------------------------------------------------------------------------------ what is found

    def block(self, k: int, name: str, modules: Sequence[RuleModule]) -> BlockSignal:
        """Return what block k was given, uses and sends."""
        update, p = self.step.updates.get(k), self.passes.get(k)
        if update is None or p is None:
            return BlockSignal(name, self._input(p) if p else "", False, False, (), (), 0, False)
        loss = update.signal.loss is not None
        reads = self._loss_reads(k) if loss else ()
        return BlockSignal(
            name, self._input(p), update.signal.delta is not None, loss, reads, self._error_signal(k, modules), len(update.grad.below),
            self._is_replaced(update),
        )  # fmt: skip

    def _input(self, p: Pass) -> str:
        if p.src is not None:
            return "module"
        if p.k and "replay_buffer" in self.method.depends_on and self.method.can_split_after(p.k - 1):
            return "replay buffer"  # its newest batch may be this step's
        return "block below" if p.k else "image"

    def _loss_reads(self, k: int) -> tuple[str, ...]:
        target = "labels" if self.method.classifies else "image"
        reads = [target] if "loss" in self._by_labels(k) else []
        if "loss" in self._by_image(k):
            reads.append("teacher" if self.method.has_teacher else "image")
        return tuple(dict.fromkeys(reads))

    def _error_signal(self, k: int, modules: Sequence[RuleModule]) -> tuple[str, ...]:
        if "delta" not in self.plain[k]:
            return ()
        top = self.method.num_blocks - 1
        made_of = {
            "message": "delta" in self._by_message(k),
            "loss": "loss" in self.plain[k],
            "module": any(m.block == k and m.gives == "error signal" for m in modules),
            "output error": k < top and top in self.passes and "delta" in self._by_output(k, top),
        }
        return tuple(name for name, found in made_of.items() if found)

    def _is_replaced(self, update: Update) -> bool:
        """Return whether messages went down otherwise than by the transposed weights."""
        sent, got = update.signal.messages_below, update.grad.below
        exact = pull_back(update.p, None, sent, keep=True).below if got else ()
        return any(not torch.allclose(a, b, rtol=1e-9, atol=0) for a, b in zip(got, exact, strict=True))

    def module(self, unit: _Unit) -> RuleModule:
        """Return what a module of the rule's own reads and gives."""
        name, label, module = unit
        k = self.method.block_of(name)
        above = self.passes.get(k + 1)
        if above is not None and above.src is not None and _reaches(above.src, module):
            target = "output" if _any_of(name, self._by_output(k + 1, k)) else ""
            return RuleModule(name, label, k, self._input_reads(k + 1), "input", target)
        if k not in self.plain:
            return RuleModule(name, label, k, (), "")
        changed = self._by_weights(k, module)
        target = "message" if _any_of(name, self._by_message(k)) else ""
        if "loss" in changed:
            return RuleModule(name, label, k, ("output",), "loss", target)
        if "delta" not in changed:
            return RuleModule(name, label, k, ("output",) if target else (), "", target)
        reads = {"output": self._by_output(k, k), "labels": self._by_labels(k), "image": self._by_image(k)}
        return RuleModule(name, label, k, tuple(what for what, found in reads.items() if "delta" in found), "error signal", target)

    def _input_reads(self, k: int) -> tuple[str, ...]:
        """Return what the synthetic input of block k depends on."""

        def synthetic(x: Tensor, y: Tensor) -> Tensor:
            seed_global(0)
            found = next(p.src for p in self.method.forward(list(self.step.blocks), x, y) if p.k == k)
            assert found is not None
            return found.detach()

        x, y = self.step.x, self.step.y
        plain = synthetic(x, y)
        altered = {"image": (_other(x), y), "labels": (x, _other(y))}
        return tuple(what for what, given in altered.items() if not torch.equal(plain, synthetic(*given)))


def _other(t: Tensor) -> Tensor:
    """Return other values of the same kind: labels turned by one, numbers scaled and moved by noise."""
    if not t.is_floating_point():
        return (t + 1) % CLASSES
    noise = torch.randn(t.shape, generator=torch.Generator().manual_seed(7), dtype=t.dtype)
    return (t.detach() * 1.5 + 0.3 * noise).clone()


def _reaches(output: Tensor, module: nn.Module) -> bool:
    """Return whether a tensor was made with a module's parameters."""
    got = torch.autograd.grad(output.sum(), list(module.parameters()), retain_graph=True, allow_unused=True)
    return any(g is not None for g in got)


def _any_of(unit: str, names: set[str]) -> bool:
    """Return whether one of these parameters is the unit's."""
    return any(name.startswith(f"{unit}.") for name in names)
