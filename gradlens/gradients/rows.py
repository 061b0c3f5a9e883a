"""Compute the rows of a measured step. Measuring leaves no trace: it uses the step's own passes and no random draws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gradlens.gradients.alignment import RECORDED, measure
from gradlens.gradients.items import Items
from gradlens.gradients.layer_names import parameter_kind
from gradlens.gradients.method import Method, Step, Update
from gradlens.gradients.true_gradient import Truth
from gradlens.runtime.batch_items import item_count
from gradlens.runtime.batch_shard import all_gather_rows

REACHED: dict[str, str] = {  # of rows of kind activation, in tasks that record it (``Items.records_reached``)
    "reached": "share of rows, such as nodes, for which g at a block's output has an entry that is not zero: those with an error signal",
    "true_reached": "the same share of t: the rows that backpropagation reaches",
}


class Measurement(NamedTuple):
    """One measured number, a row of the long table ``gradients.csv``."""

    step: int  # updates before this batch
    layer: str  # dotted path in the model
    kind: str  # weight, bias (one parameter), parameters (all of a block), activation (at a block's output), rule
    quantity: str
    value: float
    reference: str  # the loss and passes of the true gradient


def pair_rows(
    step: int,
    used: Mapping[str, Tensor],
    true: Mapping[str, Tensor],
    reference: str,
    quantities: tuple[str, ...] = RECORDED,
) -> Iterator[Measurement]:
    """Yield rows of parameters' gradients, keyed by full parameter name; a missing used gradient counts as exactly zero."""
    for name, t in true.items():
        g = used.get(name)
        layer, kind = parameter_kind(name)
        for quantity, value in measure(torch.zeros_like(t) if g is None else g, t, quantities).items():
            yield Measurement(step, layer, kind, quantity, value, reference)


def _joined(grads: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> Tensor:
    """Concatenate a block's parameter gradients to one vector; a missing one counts as zero."""
    return torch.cat([grads.get(name, torch.zeros_like(g)).flatten() for name, g in like.items()])


def share_reached(items: Items, signal: Tensor) -> float:
    """Compute the share of rows that have an error signal.

    Args:
        items: what a row is: index 0, or with ``per_item`` all dimensions but the last.
        signal: [N, *out] at a block's output.

    """
    rows = signal.flatten(0, -2) if items.per_item else signal.flatten(1)
    return float(rows.ne(0).any(1).double().mean())


def step_rows(
    number: int,
    names: Sequence[str],
    method: Method,
    step: Step,
    truth: Truth,
    quantities: tuple[str, ...] = (*RECORDED, *REACHED),
) -> list[Measurement]:
    """Compute all rows of one recorded step: per parameter, per block (all its parameters), per block output, and the rule's own.

    For a block that was not trained on this batch the used gradient is exactly zero. A block whose replayed batch
    has another size than this one has no row of kind "activation".

    Args:
        number: updates before this batch.
        names: the blocks' names in the model.
        method: the rule.
        step: the executed step; of a shared batch with updates from :func:`all_reduce_update`.
        truth: its true gradients.
        quantities: names from ``alignment.QUANTITIES``, and from ``REACHED``, which count where the task records them.

    """
    rows: list[Measurement] = []
    paired = tuple(quantity for quantity in quantities if quantity not in REACHED)
    for k, true in enumerate(truth.grads):
        name, update, reference = names[k], step.updates.get(k), truth.reference
        used = update.grad.params if update else {}
        rows += pair_rows(
            number, {f"{name}.{n}": g for n, g in used.items()}, {f"{name}.{n}": g for n, g in true.params.items()},
            reference, paired,
        )  # fmt: skip
        delta = update.grad.delta if update else None
        assert true.delta is not None
        whole: list[tuple[str, Tensor, Tensor]] = []
        if delta is None or delta.shape == true.delta.shape:  # a stored batch may have had another size
            everyone = all_gather_rows(true.delta)
            whole.append(("activation", torch.zeros_like(everyone) if delta is None else all_gather_rows(delta), everyone))
        if true.params:
            whole.append(("parameters", _joined(used, true.params), _joined(true.params, true.params)))
        for kind, g, t in whole:
            found = dict(measure(g, t, paired))
            if kind == "activation" and method.items.records_reached:
                shares = {"reached": share_reached(method.items, g), "true_reached": share_reached(method.items, t)}
                found |= {quantity: value for quantity, value in shares.items() if quantity in quantities}
            rows += [Measurement(number, name, kind, quantity, value, reference) for quantity, value in found.items()]
        own = compute_method_quantities(method, update)
        rows += [Measurement(number, name, "rule", quantity, value, reference) for quantity, value in own.items()]
    return rows


def compute_method_quantities(method: Method, update: Update | None) -> dict[str, float]:
    """Compute the rule's own numbers for one block, and its local loss."""
    if update is None:
        return {}
    own = dict(method.quantities(update))
    if update.signal.loss is not None:
        own["loss"] = update.signal.loss
    return {name: float(value) for name, value in own.items()}


def rank_rows(number: int, rank: int, names: Sequence[str], used: Mapping[int, Mapping[str, Tensor]], truth: Truth) -> list[Measurement]:
    """Compare the gradient of one rank's items with the true one of all: rows of kind ``rank0``, ``rank1``, … by block.

    Args:
        number: updates before this batch.
        rank: this rank.
        names: the blocks' names in the model.
        used: block -> parameter gradients of this rank's items, as shares of the global mean.
        truth: the true gradients of the whole batch.

    """
    items = item_count(truth.passes[0].y)
    larger = items.total / items.here  # as the mean over its own items, so that its norm can be compared
    rows = []
    for k, true in enumerate(truth.grads):
        if true.params:
            mine, t = _joined(used.get(k, {}), true.params) * larger, _joined(true.params, true.params)
            found = measure(mine, t, RECORDED)
            rows += [Measurement(number, names[k], f"rank{rank}", quantity, value, truth.reference) for quantity, value in found.items()]
    return rows
