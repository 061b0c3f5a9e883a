"""The rows that a measured step gives. Measuring leaves no trace: it reads the step's own passes and draws nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gradlens.measures import RECORDED, measure
from gradlens.method import Method, Update
from gradlens.passes import Grad, Pass, chain, is_chain, true_gradients
from gradlens.seeding import forked


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


def true_updates(method: Method, passes: Sequence[Pass], updates: Mapping[int, Update]) -> tuple[list[Grad], str]:
    """The truth for one step, and what it is the gradient of.

    The method's own top gradient, pulled back through the step's passes. Where a block read something other than its
    predecessor's output, that product is the gradient of nothing: then one clean chain pass is made (RNG forked,
    buffers restored) and the row says so.

    Args:
        method: the rule.
        passes: the step's passes, bottom first, graphs kept.
        updates: what the rule told each block, by block.

    """
    top = updates[len(passes) - 1].signal.delta
    if top is None:
        raise ValueError("the top block was not trained on this batch: there is no true gradient to compare with")
    if is_chain(passes):
        return true_gradients(passes, top), "loss, same passes"
    blocks = [p.block for p in passes]
    buffers = [(b, b.clone()) for module in (*blocks, method) for b in module.buffers()]
    with forked():
        clean = list(chain(blocks, passes[0].x, passes[0].y))
        signal = method.signal(len(clean) - 1, dict(enumerate(clean)), ())
        assert signal.delta is not None
        truth = true_gradients(clean, signal.delta)
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)
    return truth, "loss, clean chain pass"


def _joined(grads: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> Tensor:
    """All of a block's parameter gradients as one vector; a missing one counts as zero."""
    return torch.cat([grads.get(name, torch.zeros_like(g)).flatten() for name, g in like.items()])


def step_rows(
    step: int,
    names: Sequence[str],
    method: Method,
    passes: Sequence[Pass],
    updates: Mapping[int, Update],
    quantities: tuple[str, ...] = RECORDED,
) -> list[Row]:
    """All rows of one recorded step: per parameter, per block (all its parameters), per block output, and the rule's own.

    Args:
        step: updates made before this batch.
        names: the blocks' names in the model.
        method: the rule.
        passes: the step's passes, bottom first, graphs kept (they are freed here).
        updates: what the rule told each block.
        quantities: names from ``measures.QUANTITIES``.

    """
    truth, reference = true_updates(method, passes, updates)
    rows: list[Row] = []
    for k, name in enumerate(names):
        update, true = updates[k], truth[k]
        used = update.grad.params
        rows += pair_rows(
            step, {f"{name}.{n}": g for n, g in used.items()}, {f"{name}.{n}": g for n, g in true.params.items()},
            reference, quantities,
        )  # fmt: skip
        whole: list[tuple[str, Tensor | None, Tensor | None]] = [("activation", update.grad.delta, true.delta)]
        if true.params:
            whole.append(("parameters", _joined(used, true.params), _joined(true.params, true.params)))
        for kind, g, t in whole:
            assert t is not None
            for quantity, value in measure(torch.zeros_like(t) if g is None else g, t, quantities).items():
                rows.append(Row(step, name, kind, quantity, value, reference))
        own = dict(method.quantities(update))
        if update.signal.loss is not None:
            own["loss"] = update.signal.loss
        rows += [Row(step, name, "rule", quantity, float(value), reference) for quantity, value in own.items()]
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
