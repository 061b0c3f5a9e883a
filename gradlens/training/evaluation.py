"""Loss and accuracy of a split, of the network in its present state."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gradlens.data.split import Split
from gradlens.gradients.losses import LOSSES
from gradlens.runtime.eval_mode import eval_mode
from gradlens.runtime.process_group import SINGLE_PROCESS, ProcessGroup
from gradlens.training.build import ModelAndMethod
from gradlens.training.config import Config


@torch.no_grad()
def evaluate(
    network: ModelAndMethod, split: Split, to_input: Callable[[Tensor], Tensor], config: Config, ranks: ProcessGroup = SINGLE_PROCESS
) -> tuple[float, float]:
    """Return (loss, accuracy) of a split in eval mode, NaN for rules without predictions; the modes are restored, nothing else changes.

    Of several ranks with the same weights each evaluates every n-th batch; all get the same numbers, bit-identical to a single process.
    """
    model, method = network
    found: list[Tensor] = []  # of each batch: loss × images, correct predictions
    images = 0
    device = split.labels.device
    nothing = torch.zeros(2, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
    with eval_mode(model, method):
        for i in range(0, len(split), config.batch_size):
            batch, labels = split.images[i : i + config.batch_size], split.labels[i : i + config.batch_size]
            if i and method.least_batch > 1 and len(labels) < config.batch_size:
                continue  # the remainder at the end: the objective depends on the batch size
            images += len(labels)
            if i // config.batch_size % ranks.num_ranks != ranks.rank:
                found.append(nothing)
                continue
            x, y = method.make_inputs(batch, labels, -1 - i, to_input)
            hits = nothing[1]
            with torch.autocast(x.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                if method.classifies:
                    z = method.predict(list(model), x)
                    hits = (z.argmax(1) == y).sum()
                    loss = LOSSES[config.loss](z, y)
                else:
                    loss = method.evaluate_objective(list(model), x, y)
            found.append(torch.stack([(loss * len(labels)).to(nothing), hits.to(nothing)]))
    losses, right = ranks.all_reduce_sum(torch.stack(found)).cpu().sum(0).tolist()
    return losses / images, right / images if method.classifies else math.nan
