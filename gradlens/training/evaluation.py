"""Loss, accuracy and score of a split, of the network in its present state."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gradlens.data.split import Split
from gradlens.gradients.block_pass import outputs
from gradlens.runtime.batch_items import global_items
from gradlens.runtime.eval_mode import eval_mode
from gradlens.runtime.process_group import SINGLE_PROCESS, ProcessGroup
from gradlens.runtime.step_context import set_context, step_context
from gradlens.tasks.registry import TASKS
from gradlens.tasks.task import Task
from gradlens.training.build import ModelAndMethod
from gradlens.training.config import Config


class Evaluation(NamedTuple):
    """What a split's evaluation found; NaN where the rule makes no predictions."""

    loss: float  # mean over items
    accuracy: float  # share of the items with a class
    score: float  # the task's


@torch.no_grad()
def evaluate(
    network: ModelAndMethod, split: Split, to_input: Callable[[Tensor], Tensor], config: Config, ranks: ProcessGroup = SINGLE_PROCESS
) -> Evaluation:
    """Evaluate a split in eval mode; the modes are restored, nothing else changes.

    Of several ranks with the same weights each evaluates every n-th batch; all get the same numbers, bit-identical to a single process.
    """
    model, method = network
    task = TASKS[config.task]
    found: list[Tensor] = []  # of each batch: loss × items, correct predictions, items with a class, items
    collected: dict[int, Tensor] = {}  # batch -> what the score needs of it
    device = split.y.device
    nothing = torch.zeros(4, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
    size = len(split) if task.one_batch else config.batch_size
    with eval_mode(model, method), step_context():
        for i in range(0, len(split), size):
            chosen = split if task.one_batch else Split(split.x[i : i + size], split.y[i : i + size], split.context)
            if i and method.least_batch > 1 and len(chosen) < size:
                continue  # the remainder at the end: the objective depends on the batch size
            if i // size % ranks.num_ranks != ranks.rank:
                found.append(nothing)
                continue
            made = task.batch(chosen, -1 - i, config)
            set_context(made.context)
            x, y = method.make_inputs(made.x, made.y, -1 - i, to_input)
            task.make_known(y)
            hits, classified = nothing[1:3]
            with torch.autocast(x.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                if method.classifies:
                    z = method.predict(list(model), x)
                    hits, classified = task.hits(z, y)
                    loss = method.loss(z, y)
                    for k, h in enumerate(outputs(model, x)) if method.terms else ():
                        loss = loss + (method.terms[k](h, y) if k in method.terms else 0)
                    if not _scored_by_hits(task):
                        collected[i] = task.collect(z, y)
                else:
                    loss = method.evaluate_objective(list(model), x, y)
            items = global_items(y)
            found.append(torch.stack([(loss * items).to(nothing), hits.to(nothing), classified.to(nothing), nothing.new_full((), items)]))
    total, right, of, items = ranks.all_reduce_sum(torch.stack(found)).cpu().sum(0).tolist()
    if not method.classifies:
        return Evaluation(total / items, math.nan, math.nan)
    if _scored_by_hits(task):
        score = task.score(torch.tensor([[right, of]], dtype=torch.float64))
    else:
        everyone = {i: rows for part in ranks.all_gather_object({i: t.cpu() for i, t in collected.items()}) for i, rows in part.items()}
        score = task.score(torch.cat([everyone[i] for i in sorted(everyone)]))
    return Evaluation(total / items, right / of if of else math.nan, score)


def _scored_by_hits(task: Task) -> bool:
    """Return whether a task's score needs nothing but what is counted anyway."""
    return type(task).collect is Task.collect
