"""Synthetic gradients as the gradients of a loss of their own: the surface they imply, their fixed points, their exact solutions.

After Czarnecki et al. 2017, "Understanding Synthetic Gradients and DNI" (arXiv 1703.00522). A net trained by synthesisers descends no
stored loss: block and synthesiser are one dynamical system. Its analysis is here, for any rule like ``dni``:
the loss of which a synthetic gradient is the gradient, along a line (:func:`implied_loss`), and whether there is one at all
(:func:`field_twist`); whether a state is a fixed point of the system and a critical point of the loss (:func:`stationarity`), and where the
system comes to rest (:func:`settle_synthesisers`); the linear synthesiser that is exact (:func:`exact_linear_synthesiser`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gradlens.gradients.backward import run_step
from gradlens.gradients.losses import LOSSES
from gradlens.gradients.method import Method
from gradlens.gradients.network_info import NetworkInfo
from gradlens.gradients.true_gradient import true_gradients
from gradlens.methods import METHODS
from gradlens.models.block_boundaries import output_shapes
from gradlens.runtime.errors import InputError
from gradlens.training.build import ModelAndMethod
from gradlens.training.step import training_step

Field = Callable[[Tensor], Tensor]  # points [N, *out] -> a gradient at each, [N, *out]


# -------------------------------------------------------------------------------------------------------- implied losses


def implied_loss(field: Field, path: Tensor) -> Tensor:
    """Integrate the loss that a gradient field implies along a path: the line integral ∫ g · dh by trapezoids, zero at the first point.

    Exact (up to rounding) where the field is affine along each step; else the error falls with the square of the steps. Along a line there
    always is such a loss; over more dimensions only where :func:`field_twist` is zero, else it depends on the path.

    Args:
        field: per-image gradients at points [T, *out] (a synthesiser with ``target=sum`` and its label held fixed).
        path: [T, *out] points, in order.

    Returns:
        [T] losses in float64.

    Raises:
        InputError: fewer than two points.

    """
    if len(path) < 2:
        raise InputError(f"an integral needs a path of two points or more, got {len(path)}")
    with torch.no_grad():
        g = field(path).detach().double().flatten(1)
    steps = path.detach().double().flatten(1).diff(dim=0)
    pieces = ((g[1:] + g[:-1]) / 2 * steps).sum(1)
    return torch.cat([pieces.new_zeros(1), pieces.cumsum(0)])


def field_twist(field: Field, h: Tensor) -> float:
    """Measure how far a field is from the gradient of any loss at a point: ‖J − Jᵀ‖ / (2 ‖J‖) with J its Jacobian there, in [0, 1].

    Zero everywhere if and only if some loss has this gradient (Poincaré: a closed field on ℝⁿ is exact); true gradients have zero,
    since their J is a Hessian. NaN where J is zero.

    Args:
        field: as in :func:`implied_loss`; of one point at a time, so in eval mode where it has BatchNorm.
        h: [*out] the point.

    Returns:
        the twist, from 0 to 1; NaN where J is zero.

    """
    size = h.numel()

    def flat(point: Tensor) -> Tensor:
        return field(point.reshape(1, *h.shape)).flatten()

    jacobian = torch.autograd.functional.jacobian(flat, h.detach().flatten())  # type: ignore[no-untyped-call]
    j = jacobian.reshape(size, size).double()
    norm = float(j.norm())
    return float((j - j.T).norm()) / (2 * norm) if norm > 0 else math.nan


# ---------------------------------------------------------------------------------------------------------- fixed points


class Stationarity(NamedTuple):
    """How far a state of blocks and synthesisers is from rest, and how far from a critical point of the loss; norms over all parameters."""

    blocks: float  # ‖the gradients that the blocks' parameters are given‖: zero where the blocks rest
    regression: float  # ‖dL_S/dφ‖: zero where the synthesisers rest
    true: float  # ‖dL/dθ‖ of the blocks: zero at critical points of the loss
    synth_loss: float  # Σ L_S over the interfaces, in the units the synthesisers regress
    loss: float


def _norm(tensors: Iterable[Tensor]) -> float:
    return math.sqrt(sum(float(t.double().square().sum()) for t in tensors))


def stationarity(network: ModelAndMethod, x: Tensor, y: Tensor) -> Stationarity:
    """Measure a state on a full batch; nothing is trained.

    A joint fixed point has ``blocks`` = ``regression`` = 0. If also ``synth_loss`` = 0 every block has the true gradient, so ``true``
    is 0: critical points are kept, and a spurious fixed point (``true`` > 0) needs ``synth_loss`` > 0.

    Args:
        network: network and a rule of ``gradlens.methods.synthetic_gradients.dni``.
        x: [N, *in] all inputs.
        y: [N] labels.

    Returns:
        norms of the blocks' gradients, of the regression's and of the true gradient, the synthesisers' loss and the loss.

    Raises:
        InputError: a rule without synthesisers.

    """
    model, method = network
    if "synth_loss" not in method.method_quantities:
        raise InputError(f"{type(method).__name__} has no synthesisers, whose fixed points are computed here")
    step = run_step(method, list(model), x, y)
    updates = step.updates.values()
    truth = true_gradients(method, step).grads
    top = step.updates[method.num_blocks - 1].signal.loss
    assert top is not None
    return Stationarity(
        _norm(g for u in updates for g in u.grad.params.values()),
        _norm(g for u in updates for g in u.aux_grads.values()),
        _norm(g for grad in truth for g in grad.params.values()),
        sum(float(method.quantities(u).get("synth_loss", 0.0)) for u in updates),
        float(top),
    )


def settle_synthesisers(
    network: ModelAndMethod,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    most: int,
    tolerance: float = 0.0,
    see: Callable[[int], None] | None = None,
) -> list[float]:
    """Train on one full batch until nothing moves, and return the loss before each update.

    Args:
        network: network and rule.
        optimizer: over both.
        x: [N, *in] all inputs.
        y: [N] labels.
        most: updates.
        tolerance: stop where the norm of all gradients (of blocks' and the rule's own parameters) is at most this.
        see: callback, called with the number of updates made, before the first and after each.

    Returns:
        at most ``most`` losses.

    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    losses: list[float] = []
    if see:
        see(0)
    for i in range(most):
        losses.append(float(training_step(network, optimizer, x, y).loss))
        if see:
            see(i + 1)
        if tolerance and _norm(p.grad for p in parameters if p.grad is not None) <= tolerance:
            break
    return losses


# ------------------------------------------------------------------------------------------------------- linear networks


class AffineBlock(NamedTuple):
    """h ↦ h Wᵀ + b."""

    weight: Tensor  # [out, in]
    bias: Tensor  # [out]


def affine(blocks: Iterable[nn.Module], size: int) -> AffineBlock:
    """Find the affine map of some blocks together, from their outputs for zero and the unit vectors.

    Args:
        blocks: bottom first; none is the identity.
        size: features read.

    Raises:
        InputError: blocks that are not affine.

    """
    blocks = list(blocks)
    dtype = next((p.dtype for block in blocks for p in block.parameters()), torch.float64)
    probe = torch.linspace(-1.0, 2.0, size, dtype=dtype)
    h = torch.cat([torch.zeros(1, size, dtype=dtype), torch.eye(size, dtype=dtype), probe[None]])
    with torch.no_grad():
        for block in blocks:
            h = block(h)
    bias, weight = h[0], (h[1:-1] - h[0]).T
    if not torch.allclose(h[-1], weight @ probe + bias, rtol=1e-5, atol=1e-5):
        raise InputError("an exact linear synthesiser is known for affine blocks only, and these are not")
    return AffineBlock(weight, bias)


class Synthesis(NamedTuple):
    """A linear synthesiser S(h, y) = A h + B one_hot(y) + c, acting on columns."""

    a: Tensor  # [out, out]
    b: Tensor  # [out, classes]
    c: Tensor  # [out]


def exact_linear_synthesiser(above: Iterable[nn.Module], size: int) -> Synthesis:
    """Build the linear synthesiser that is the per-image gradient of ½‖z − one_hot(y)‖² at the input h of affine blocks z = W h + v.

    g = Wᵀ(W h + v − e_y), so A = WᵀW, B = −Wᵀ, c = Wᵀv; with nothing above (h are the logits) A = I, B = −I, c = 0. Labels are one-hot, so
    their entries sum to one: a synthesiser is determined up to moving a vector from all columns of B into c. (With the loss ‖z − y‖² of
    Czarnecki et al. it is twice that, with ``target=mean`` a share 1/N.)

    Args:
        above: the blocks above the interface, bottom first.
        size: features of h.

    Returns:
        the synthesiser's matrices: a [out, out], b [out, classes] and c [out].

    Raises:
        InputError: blocks that are not affine.

    """
    w, v = affine(above, size)
    return Synthesis(w.T @ w, -w.T, w.T @ v)


def least_squares_loss(x: Tensor, y: Tensor, classes: int) -> float:
    """Compute the least loss ½‖W x + b − one_hot(y)‖² per image over all W and b, in float64.

    Args:
        x: [N, d] features.
        y: [N] labels.
        classes: how many there are.

    """
    design = torch.cat([x.double(), torch.ones(len(x), 1, dtype=torch.float64)], 1)
    goal = torch.eye(classes, dtype=torch.float64)[y]
    best = torch.linalg.lstsq(design, goal, driver="gelsd").solution
    return float(0.5 * (design @ best - goal).square().sum() / len(x))


def small_pair(
    blocks: Sequence[nn.Module], size: int, classes: int, method: str, loss: str = "mse", seed: int = 0, **options: Any
) -> ModelAndMethod:
    """Build a network of blocks on feature vectors with its rule, in float64; the last may be ``nn.Identity``: h are then the logits.

    Args:
        blocks: bottom first, the last one the output block.
        size: features of an input.
        classes: number of logits.
        method: a key of METHODS.
        loss: a key of LOSSES.
        seed: of the rule's own draws.
        options: of the rule.

    Returns:
        the network and its rule, in float64.

    """
    model = nn.Sequential(*blocks).double()
    rule: type[Method] = METHODS[method]
    net = NetworkInfo(list(model), output_shapes(model, (size,)), classes, 0, LOSSES[loss], seed)
    return ModelAndMethod(model, rule(net, rule.Options(**options)).double())
