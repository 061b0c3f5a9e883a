"""Define losses ``(z, y) -> scalar``: sums over items, divided by their number in the global batch, so that parts of a batch add up."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from gradlens.runtime.batch_items import global_items
from gradlens.runtime.batch_shard import all_gather_rows, global_count, global_offset

Loss = Callable[[Tensor, Tensor], Tensor]
NONE = -1  # the class of a target that is no item


def one_hot(y: Tensor, classes: int) -> Tensor:
    """Return labels [N, *] as whole numbers [N, *, classes], 1 at the label; with one output [N, *, 1] the label itself, 0 or 1."""
    return F.one_hot(y, classes) if classes > 1 else y[..., None]


def _one_hot(z: Tensor, y: Tensor) -> Tensor:
    return one_hot(y, z.shape[1]).to(z.dtype)


def cross_entropy(z: Tensor, y: Tensor) -> Tensor:
    """Compute the softmax cross-entropy of logits z [N, *, C] and class indices y [N, *], in nats per item; a class of -1 is no item."""
    return F.cross_entropy(_wide(z).flatten(0, -2), y.flatten(), reduction="sum", ignore_index=NONE) / global_items(y)


def squared_error(z: Tensor, y: Tensor) -> Tensor:
    """Compute ½ ‖z − one_hot(y)‖² per image, z [N, C], y [N] (with the ½ the error signal is z − one_hot(y))."""
    z = _wide(z)
    return 0.5 * (z - _one_hot(z, y)).square().sum() / global_items(y)


def binary_cross_entropy(z: Tensor, y: Tensor) -> Tensor:
    """Compute the sum over classes of sigmoid cross-entropy of logits z [N, C] with one_hot(y), in nats per item; of one logit with y."""
    z = _wide(z)
    return F.binary_cross_entropy_with_logits(z, _one_hot(z, y), reduction="sum") / global_items(y)


def _wide(z: Tensor) -> Tensor:
    """Convert half precision to float32: bf16 logits have eight bits."""
    return z.float() if z.dtype in (torch.bfloat16, torch.float16) else z


def nt_xent(z: Tensor, temperature: float) -> Tensor:
    """Compute NT-Xent, the normalised temperature-scaled cross-entropy of two views, in nats: the mean over all 2N views.

    Chen et al. 2020 (arXiv 2002.05709), eq. 1:

    l(i, j) = −log exp(s_ij / τ) / Σ_{k ≠ i} exp(s_ik / τ), s the cosine similarity, (i, j) the views of one image. (The authors' code
    reports the sum of its two halves' means: twice this.)

    Args:
        z: [2N, D], the two views of an image next to each other; any length.
        temperature: τ.

    """
    z = F.normalize(_wide(z), dim=1)
    everyone = all_gather_rows(z)  # of a shared batch also the other ranks' views
    with torch.autocast(z.device.type, enabled=False):
        scores = z @ everyone.T / temperature
    own = torch.arange(len(z), device=z.device) + global_offset(len(z))
    scores = scores.scatter(1, own[:, None], -torch.inf)
    return F.cross_entropy(scores, own ^ 1, reduction="sum") / len(everyone)


def distillation(z: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Compute τ² · cross-entropy of softmax(taught/τ) with softmax(z/τ), mean over images, in nats.

    Hinton et al. 2015 (arXiv 1503.02531, §2). The factor τ² keeps the gradient's size for large τ; the minimum over z is τ² times the
    teacher's entropy.

    Args:
        z: [N, C] the student's logits.
        taught: [N, C] the teacher's logits.
        temperature: τ.

    """
    target = (_wide(taught) / temperature).softmax(1)
    return -(target * (_wide(z) / temperature).log_softmax(1)).sum() * temperature**2 / global_count(len(z))


def info_nce(scores: Tensor) -> Tensor:
    """Compute InfoNCE of scores [P, N], the positive's first: mean −log softmax(scores)₀, in nats.

    Van den Oord et al. 2018 (arXiv 1807.03748, eq. 4). With all scores equal it is log N, and log N − InfoNCE is a lower bound on the
    mutual information of context and target, if the negatives are drawn independently.
    """
    right = torch.zeros(len(scores), dtype=torch.long, device=scores.device)
    return F.cross_entropy(_wide(scores), right, reduction="sum") / global_count(len(scores))


def sampled_scores(context: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
    """Compute scores c_i · t_i and c_i · t_j of each context with its own target and with sampled ones.

    Args:
        context: [P, D] c.
        targets: [P, D] t, row by row the positives.
        negatives: [P, K] row indices j of the targets, in a shared batch of all ranks' targets.

    Returns:
        [P, 1 + K] in float32 at least, the positive's first.

    """
    context, targets = _wide(context), _wide(targets)
    with torch.autocast(context.device.type, enabled=False):
        drawn = all_gather_rows(targets).index_select(0, negatives.flatten()).view(*negatives.shape, -1)
        candidates = torch.cat([targets[:, None], drawn], 1)  # [P, 1 + K, D]
        return torch.bmm(candidates, context[:, :, None])[:, :, 0]


LOSSES: dict[str, Loss] = {"ce": cross_entropy, "mse": squared_error, "bce": binary_cross_entropy}


def slope(loss: Loss, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the loss and its gradient with respect to the leaf ``z``: (scalar, [N, *out]), both without graph."""
    value = loss(z, y)
    (delta,) = torch.autograd.grad(value, z)
    return value.detach(), delta
