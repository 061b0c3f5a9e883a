"""The rows that a measured step gives. Measuring leaves no trace: it reads the step's own passes and draws nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gradlens.measures import RECORDED, measure
from gradlens.method import Method, Signal, Step, Update
from gradlens.passes import Grad, Pass, chain, is_chain, true_gradients
from gradlens.seeding import forked
from gradlens.shard import all_sum, current, gather


class Row(NamedTuple):
    """One fact of the long table ``gradients.csv``."""

    step: int  # updates made before this batch
    layer: str  # dotted path in the model
    kind: str  # weight, bias (one parameter), parameters (a block's, together), activation (at a block's output), rule
    quantity: str
    value: float
    reference: str  # what "true" means here


def parameter_kind(name: str) -> tuple[str, str]:
    """("block1.conv", "weight") for the parameter ``block1.conv.weight``."""
    layer, _, kind = name.rpartition(".")
    return layer, kind


def pair_rows(
    step: int,
    used: Mapping[str, Tensor],
    true: Mapping[str, Tensor],
    reference: str,
    quantities: tuple[str, ...] = RECORDED,
) -> Iterator[Row]:
    """Rows of parameters' gradients given by full parameter name; a missing used gradient counts as exactly zero."""
    for name, t in true.items():
        g = used.get(name)
        layer, kind = parameter_kind(name)
        for quantity, value in measure(torch.zeros_like(t) if g is None else g, t, quantities).items():
            yield Row(step, layer, kind, quantity, value, reference)


class Truth(NamedTuple):
    """The true gradient of one step, and the chain of passes it was pulled back through.

    On a shared batch gradients of parameters and the loss are of all ranks together, what has a row for each image is this rank's.
    """

    grads: Sequence[Grad]  # bottom first, one a block of the net the objective is of; ``delta`` is the gradient at its output
    passes: Sequence[Pass]  # the same blocks' passes; with graphs where they were kept
    loss: Tensor  # scalar: the objective on this batch
    own: Mapping[str, Tensor]  # its gradients at the rule's own modules that it reads (greedy's head), by their name in the rule
    reference: str  # what it is the gradient of, and by which passes


@contextmanager
def untouched(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Forward passes made inside leave buffers and torch's random streams as they were.

    They see copies: a buffer that was written to, even with its own values, would spoil the graphs that saved it.
    """
    real = [(m, name, b) for module in modules for m in module.modules() for name, b in m._buffers.items() if b is not None]
    for m, name, b in real:
        m._buffers[name] = b.clone()
    try:
        with forked():
            yield
    finally:
        for m, name, b in real:
            m._buffers[name] = b


def true_updates(method: Method, step: Step, keep: bool = False) -> Truth:
    """The truth for one step, and what it is the gradient of.

    On a shared batch all ranks must ask. The method's own top gradient, pulled back through the step's passes. Where a block read
    something other than its
    predecessor's output, that product is the gradient of nothing: then one clean chain pass is made (RNG forked,
    buffers restored) and the row says so.

    Args:
        method: the rule.
        step: the step as it was run, graphs kept (they are freed unless ``keep``).
        keep: keep the graphs of the passes it is pulled back through.

    """
    top = method.top
    if is_chain(step.passes) and len(step.passes) == top + 1:
        signal = step.updates[top].signal
        if signal.delta is None or signal.loss is None:
            raise ValueError("the top block was not trained on this batch: there is no true gradient to compare with")
        grads = true_gradients(step.passes, signal.delta, keep)
        return _truth(method, signal, grads, step.passes, "same passes")
    with untouched((*step.blocks, method)):
        clean = list(chain(step.blocks[: top + 1], method.entry(step.x), step.y))
        signal = method.signal(top, dict(enumerate(clean)), ())
        assert signal.delta is not None
        assert signal.loss is not None
        grads = true_gradients(clean, signal.delta, keep)
    return _truth(method, signal, grads, clean, "clean chain pass")


def _truth(method: Method, signal: Signal, grads: Sequence[Grad], passes: Sequence[Pass], by: str) -> Truth:
    assert signal.loss is not None
    own = over_ranks({name: g for name, g in signal.own.items() if method.of_objective(name)})
    grads = [grad._replace(params=over_ranks(grad.params)) for grad in grads]
    return Truth(grads, passes, all_sum(signal.loss), own, f"{method.objective}, {by}")


def over_ranks(grads: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of parameters, summed over the ranks of a shared batch."""
    return {name: all_sum(g) for name, g in grads.items()}


def whole_update(update: Update) -> Update:
    """An update as one process would have made it: what the ranks of a shared batch add up, added up."""
    signal, grad = update.signal, update.grad
    loss = None if signal.loss is None else all_sum(signal.loss)
    return update._replace(
        signal=signal._replace(loss=loss, own=over_ranks(signal.own)),
        grad=grad._replace(params=over_ranks(grad.params)),
        own=over_ranks(update.own),
    )


def _joined(grads: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> Tensor:
    """All of a block's parameter gradients as one vector; a missing one counts as zero."""
    return torch.cat([grads.get(name, torch.zeros_like(g)).flatten() for name, g in like.items()])


def step_rows(
    number: int,
    names: Sequence[str],
    method: Method,
    step: Step,
    truth: Truth,
    quantities: tuple[str, ...] = RECORDED,
) -> list[Row]:
    """All rows of one recorded step: per parameter, per block (all its parameters), per block output, and the rule's own.

    A block of the objective's net that was not trained on this batch counts as having used a gradient of exactly zero; what
    it says at its output is left out.

    Args:
        number: updates made before this batch.
        names: the blocks' names in the model.
        method: the rule.
        step: the step as it was run; of a shared batch with updates as :func:`whole_update` gives them.
        truth: its true gradients.
        quantities: names from ``measures.QUANTITIES``.

    """
    rows: list[Row] = []
    for k, true in enumerate(truth.grads):
        name, update, reference = names[k], step.updates.get(k), truth.reference
        used = update.grad.params if update else {}
        rows += pair_rows(
            number, {f"{name}.{n}": g for n, g in used.items()}, {f"{name}.{n}": g for n, g in true.params.items()},
            reference, quantities,
        )  # fmt: skip
        delta = update.grad.delta if update else None
        assert true.delta is not None
        whole: list[tuple[str, Tensor, Tensor]] = []
        if delta is None or delta.shape == true.delta.shape:  # a stored batch may have had another size
            everyone = gather(true.delta)
            whole.append(("activation", torch.zeros_like(everyone) if delta is None else gather(delta), everyone))
        if true.params:
            whole.append(("parameters", _joined(used, true.params), _joined(true.params, true.params)))
        for kind, g, t in whole:
            rows += [Row(number, name, kind, quantity, value, reference) for quantity, value in measure(g, t, quantities).items()]
        rows += [Row(number, name, "rule", quantity, value, reference) for quantity, value in own_quantities(method, update).items()]
    return rows


def own_quantities(method: Method, update: Update | None) -> dict[str, float]:
    """The rule's own numbers for one block, and the loss it descends."""
    if update is None:
        return {}
    own = dict(method.quantities(update))
    if update.signal.loss is not None:
        own["loss"] = update.signal.loss
    return {name: float(value) for name, value in own.items()}


def rank_rows(number: int, rank: int, names: Sequence[str], used: Mapping[int, Mapping[str, Tensor]], truth: Truth) -> list[Row]:
    """How far the gradient of one rank's own images is from the true one of all: rows of kind ``rank0``, ``rank1``, … by block.

    Args:
        number: updates made before this batch.
        rank: this one.
        names: the blocks' names in the model.
        used: block -> parameter gradients of this rank's images, as shares of the global mean.
        truth: the true gradients of the whole batch.

    """
    shard = current()
    assert shard is not None
    larger = shard.total / (shard.stop - shard.start)  # as the mean over its own images, so that its norm can be compared
    rows = []
    for k, true in enumerate(truth.grads):
        if true.params:
            mine, t = _joined(used.get(k, {}), true.params) * larger, _joined(true.params, true.params)
            found = measure(mine, t, RECORDED)
            rows += [Row(number, names[k], f"rank{rank}", quantity, value, truth.reference) for quantity, value in found.items()]
    return rows


def compare(model: nn.Module, loss: Tensor, my_gradients: Mapping[str, Tensor] | None = None) -> list[Row]:
    """How far your gradients are from the true one, in any code: rows per parameter.

    Args:
        model: any module.
        loss: the scalar the true gradient belongs to, with its graph (which is kept: you can still go backward).
        my_gradients: parameter name -> your gradient; default: what lies in ``.grad``. A missing one counts as zero.

    Returns:
        rows with the quantities of ``measures.RECORDED``, ``step`` 0.

    Raises:
        ValueError: a name that is no parameter of the model, or a gradient of another shape.

    """
    params = {name: p for name, p in model.named_parameters() if p.requires_grad}
    mine = {n: p.grad for n, p in params.items() if p.grad is not None} if my_gradients is None else dict(my_gradients)
    if strange := sorted(set(mine) - set(params)):
        raise ValueError(f"not trainable parameters of the model: {', '.join(strange)}; it has {', '.join(params) or 'none'}")
    if not params:
        raise ValueError("the model has no trainable parameters: there is no gradient to compare with")
    got = torch.autograd.grad(loss, list(params.values()), retain_graph=True, allow_unused=True)
    true = {name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(params.items(), got, strict=True)}
    return list(pair_rows(0, mine, true, "loss"))
