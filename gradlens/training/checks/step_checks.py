"""Checks of a rule that need one step: the error signals of its blocks, what they depend on, and what is recorded of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gradlens.gradients.backward import backward
from gradlens.gradients.block_pass import Pass, outputs
from gradlens.gradients.method import Signal, Step
from gradlens.gradients.true_gradient import true_gradients
from gradlens.runtime.rng import seed_global
from gradlens.training.build import ModelAndMethod
from gradlens.training.checks.trial import (
    Bits,
    CheckFailed,
    CheckSkipped,
    Trial,
    copied_state,
    differing_tensors,
    first_three,
    other_labels,
    updates_of_one_step,
)

NEAR = 1e-9  # how far a recorded truth may be from the one of an uncut copy, as a share of the largest entry


def works(trial: Trial) -> None:
    """A step runs as in training, each block at most once; the output block gets the gradient of a loss and gives logits."""
    made = trial.build()
    method, top = made.method, made.method.output_block
    plain, names = method.signal, made.block_names()

    def checked(k: int, passes: Mapping[int, Pass], received: tuple[Tensor, ...]) -> Signal:
        signal = plain(k, passes, received)
        _must_be_a_signal(signal, names[k], passes[k])
        return signal

    method.signal = checked  # type: ignore[method-assign]
    seen: list[int] = []
    seed_global(0)
    for u in backward(method, method.forward(list(made.model), *trial.batch(method))):
        if u.k in seen:
            raise CheckFailed(f"{names[u.k]} is updated twice in one step")
        seen.append(u.k)
        if u.k == top and (u.signal.delta is None or u.signal.loss is None):
            raise CheckFailed(
                f"{names[top]}, the output block, gets no {'gradient' if u.signal.delta is None else 'loss'}: see `top_signal`"
            )
        if u.k == top and method.classifies and u.signal.logits is None:
            raise CheckFailed(f"{names[top]}, the output block, gives no logits (Signal.logits): see `top_signal`")
    if top not in seen:
        raise CheckFailed(f"{names[top]}, the output block, is not updated")
    if written := [n for n, p in (*made.model.named_parameters(), *method.named_parameters()) if p.grad is not None]:
        raise CheckFailed(f"it writes .grad of {first_three(written)}: gradients are returned, only the training loop writes them")


def _must_be_a_signal(signal: Any, name: str, p: Pass) -> None:
    if not isinstance(signal, Signal):
        raise CheckFailed(f"`signal` gives a {type(signal).__name__} at {name}, not a Signal")
    if not isinstance(signal.messages_below, tuple):
        raise CheckFailed(f"at {name} `messages_below` is a {type(signal.messages_below).__name__}: expected a tuple of messages")
    for what, g in (("delta", signal.delta), *(("a message", m) for m in signal.messages_below)):
        if g is not None and g.shape != p.h.shape:
            got, wanted = ("x".join(map(str, t.shape)) or "a scalar" for t in (g, p.h))
            raise CheckFailed(f"at {name} {what} is {got} and the block's output {wanted}: they must have one shape")
        if g is not None and g.requires_grad:
            raise CheckFailed(f"at {name} {what} carries a graph: a gradient is a plain value; read `passes[k].z` and use `.detach()`")


def gradients(trial: Trial) -> None:
    """Gradients are finite plain values of their parameter's shape; those of the rule's own modules go by the parameter's name."""
    made = trial.build()
    own = dict(made.method.named_parameters())
    given_at: dict[str, str] = {}
    for u in updates_of_one_step(trial, made).values():
        name = made.block_names()[u.k]
        for param, g in u.aux_grads.items():
            if param not in own:
                raise CheckFailed(
                    f"at {name} it gives a gradient for {param}, which is none of its own parameters ({first_three(list(own)) or 'none'})"
                )
            if param in given_at:
                raise CheckFailed(f"the gradient of {param} is given twice, at {given_at[param]} and at {name}")
            given_at[param] = name
            if g.shape != own[param].shape:
                got, wanted = ("x".join(map(str, t.shape)) for t in (g, own[param]))
                raise CheckFailed(f"at {name} the gradient of {param} is {got}, the parameter {wanted}")
            if g.requires_grad:
                raise CheckFailed(f"at {name} the gradient of {param} carries a graph: it must be a plain value")
        values = {"delta": u.signal.delta, **{f"the gradient of {n}": g for n, g in {**u.grad.params, **u.aux_grads}.items()}}
        if wrong := [what for what, g in values.items() if g is not None and not g.isfinite().all()]:
            raise CheckFailed(f"at {name} {wrong[0]} is not finite on plain noise")


def optimiser(trial: Trial) -> None:
    """The optimiser gets every parameter once; none of the rule's own is a block's."""
    made = trial.build()
    blocks = {id(p): name for name, p in made.model.named_parameters()}
    if shared := [f"{name} is {blocks[id(p)]} of the network" for name, p in made.method.named_parameters() if id(p) in blocks]:
        raise CheckFailed(f"its parameter {shared[0]}: keep blocks in a plain list, not as submodules")
    given = [id(p) for group in made.method.param_groups(list(made.model)) for p in group["params"]]
    params = {id(p): name for name, p in (*made.model.named_parameters(), *made.method.named_parameters())}
    for one, name in params.items():
        if (times := given.count(one)) != 1:
            fixed = "" if times else ", or `register_buffer` if it is fixed"
            raise CheckFailed(f"the optimiser gets {name} {times} times: see `param_groups`{fixed}")


def arguments(trial: Trial) -> None:
    """What `signal` and `learn` return depends on their arguments only: two calls, in any order, return the same."""
    made = trial.build()
    names = made.block_names()
    seed_global(0)
    passes = list(made.method.forward(list(made.model), *trial.batch(made.method)))
    updates = {u.k: u for u in backward(made.method, iter(passes), keep=True)}
    known = {p.k: p for p in passes}
    for k in (*sorted(updates), *sorted(updates, reverse=True)):
        u = updates[k]
        seed_global(0)
        again = made.method.signal(k, known, u.received)
        learned = made.method.learn(k, known[k], again, u.grad, u.received)
        for what, a, b in (
            ("the error signal", _tensors(u.signal), _tensors(again)),
            ("the gradient of its own", dict(u.aux_grads), {**again.aux_grads, **learned}),
        ):
            if differing_tensors(a, b):
                raise CheckFailed(
                    f"two calls at {names[k]} differ in {what}: it draws random numbers, or keeps something from call to call; draw inside "
                    "`with seeded(self.seed, 'noise', self.step, k)`, where `start(epoch, step)` keeps the step (docs/extending/rule.md)"
                )


def _tensors(signal: Signal) -> Bits:
    named = {
        "delta": signal.delta,
        "loss": signal.loss,
        "logits": signal.logits,
        **{f"send {i}": m for i, m in enumerate(signal.messages_below)},
    }
    return {name: t for name, t in named.items() if t is not None}


def isolation(trial: Trial) -> None:
    """No loss has a gradient w.r.t. another block's parameters; a block without a backward dependency gets no gradient or message."""
    reached: list[str] = []
    made: ModelAndMethod

    def spy(z: Tensor, y: Tensor) -> Tensor:
        value = trial.loss(z, y)
        if value.requires_grad:
            params = dict(made.model.named_parameters())
            got = torch.autograd.grad(value, list(params.values()), allow_unused=True, retain_graph=True)
            reached.extend(name for name, g in zip(params, got, strict=True) if g is not None)
        return value

    made = trial.build(loss=spy)
    updates = updates_of_one_step(trial, made)
    if reached:
        raise CheckFailed(
            f"a loss has a gradient w.r.t. {first_three(reached)}, beyond the block's error signal: read `passes[k].z` (detached), not `.h`"
        )
    for k, u in updates.items():
        if k and u.signal.messages_below and not made.method.needs_above(k - 1):
            declared = f"`depends_on` is {_dependencies(trial)}"
            raise CheckFailed(
                f"{made.block_names()[k]} sends a backward message but {made.block_names()[k - 1]} does not declare `backward_message`:"
                f" {declared}"
            )
    for k in range(made.method.output_block):
        if made.method.needs_above(k):
            continue
        after = trial.build()
        with torch.no_grad():
            for p in (p for block in list(after.model)[k + 1 :] for p in block.parameters()):
                p.mul_(-3)
        before, changed = updates.get(k), updates_of_one_step(trial, after).get(k)
        if before is None or changed is None:
            continue
        if differing_tensors({**before.grad.params, **before.aux_grads}, {**changed.grad.params, **changed.aux_grads}):
            raise CheckFailed(
                f"the error signal of {made.block_names()[k]} depends on later blocks, and it does not wait for them:"
                f" `depends_on` ({_dependencies(trial)}) declares no backward dependency"
            )


def _dependencies(trial: Trial) -> str:
    return ", ".join(sorted(trial.rule.depends_on))


def labels(trial: Trial) -> None:
    """If `depends_on` holds neither labels nor output_error, no error signal but the output block's depends on the labels."""
    if trial.rule.depends_on & {"labels", "output_error"}:
        raise CheckSkipped(f"its `depends_on` holds {' and '.join(sorted(trial.rule.depends_on & {'labels', 'output_error'}))}")
    if not trial.rule.classifies:
        raise CheckSkipped("it is trained without labels")
    made = trial.build()
    seed_global(0)
    passes = list(made.method.forward(list(made.model), *trial.batch(made.method)))
    updates = {u.k: u for u in backward(made.method, iter(passes), keep=True)}
    other = {p.k: p._replace(y=other_labels(p.y, trial.task, trial.classes)) for p in passes}  # the same items
    for k in range(made.method.output_block):
        if k in updates and differing_tensors(_tensors(updates[k].signal), _tensors(made.method.signal(k, other, updates[k].received))):
            raise CheckFailed(
                f"the error signal of {made.block_names()[k]} depends on labels: `depends_on` ({_dependencies(trial)}) must hold 'labels'"
            )


def truth(trial: Trial) -> None:
    """The true gradient that is recorded is what loss.backward() gives on an uncut copy of the network."""
    made = trial.build()
    if not made.method.classifies:
        raise CheckSkipped("it gives no logits, of which the loss is computed")
    if made.method.objective != "loss":
        raise CheckSkipped(f"its objective is another one: {made.method.objective}")
    x, y = trial.batch(made.method)
    twin, hs = copy.deepcopy(made.model), list[Tensor]()
    for h in outputs(twin, x):
        h.retain_grad()
        hs.append(h)
    trial.loss(hs[-1], y).backward()  # type: ignore[no-untyped-call]
    seed_global(0)
    passes = list(made.method.forward(list(made.model), x, y))
    updates = {u.k: u for u in backward(made.method, iter(passes), keep=True)}
    found = true_gradients(made.method, Step(list(made.model), x, y, sorted(passes, key=lambda p: p.k), updates))
    size = max(p.grad.abs().max().item() for p in twin.parameters() if p.grad is not None)
    for k, (grad, block) in enumerate(zip(found.grads, twin, strict=True)):
        pairs = [(f"{made.block_names()[k]}.{n}", grad.params[n], p.grad) for n, p in block.named_parameters() if p.grad is not None]
        for name, mine, true in (*pairs, (f"the output of {made.block_names()[k]}", grad.delta, hs[k].grad)):
            assert mine is not None
            assert true is not None
            if (mine - true).abs().max().item() > NEAR * size:
                raise CheckFailed(
                    f"the recorded truth at {name} is not what loss.backward() gives: at the output block the error signal must be the"
                    " gradient of the network's own loss (`top_signal`), or the rule names another `objective`"
                )


def answers(trial: Trial) -> None:
    """Outside of training it gives one prediction for each item and changes nothing."""
    made = trial.build()
    x, y = trial.batch(made.method, -1)
    made.model.eval(), made.method.eval()
    before = {**copied_state(made.model), **copied_state(made.method)}
    items = x.shape[:1] if not trial.task.per_item else x.shape[:-1] if x.is_floating_point() else x.shape  # numbers of an item, or its id
    with torch.no_grad():
        if not made.method.classifies:
            if made.method.evaluate_objective(list(made.model), x, y).numel() != 1:
                raise CheckFailed("`evaluate_objective` gives no scalar")
        elif (z := made.method.predict(list(made.model), x)).shape != (*items, trial.classes):
            raise CheckFailed(
                f"`predict` gives {'x'.join(map(str, z.shape))} for {len(x)} {trial.task.example}s and outputs of {trial.classes} numbers"
            )
    if differ := differing_tensors(before, {**copied_state(made.model), **copied_state(made.method)}):
        raise CheckFailed(f"evaluation changes {first_three(differ)}")
