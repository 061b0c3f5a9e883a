"""Small networks to test on, and slow, obvious twins of what gradlens computes: uncut copies, ``backward()``, plain loops."""

import copy
from typing import NamedTuple

import shelf
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradlens.gradients.alignment import RECORDED
from gradlens.gradients.backward import backward, run_step
from gradlens.gradients.block_pass import Pass
from gradlens.gradients.losses import LOSSES, Loss
from gradlens.gradients.method import Method, Update
from gradlens.gradients.rows import Measurement, step_rows
from gradlens.gradients.true_gradient import true_gradients
from gradlens.methods import METHODS
from gradlens.models.zoo import ModelSpec, build
from gradlens.training.build import make_network_info
from gradlens.training.config import make_config

SUPERVISED = [name for name, method in METHODS.items() if method.classifies]
UNLABELLED = [name for name, method in METHODS.items() if not method.classifies]
PATCHES = ("cpc", "cpc-local", "infomax")  # rules whose blocks read patches, not images


def teacher_run() -> str:
    """A run on the digits for rules that learn from one; trained for one epoch."""
    return str(shelf.trained(make_config(width=4, epochs=1, limit=192, batch_size=32, record_every=0)).path)


def needed(name: str) -> dict[str, object]:
    """The settings without which a rule cannot run on the digits, 8 by 8 pixels."""
    if METHODS[name].has_teacher:
        return {"teacher": teacher_run()}
    unread = {} if METHODS[name].classifies else {"label_noise": 0.0}
    return {**unread, "depth": 2} if name in PATCHES else unread


class Case(NamedTuple):
    """A network and one batch for it."""

    model: nn.Sequential
    x: Tensor
    y: Tensor

    @property
    def blocks(self) -> list[nn.Module]:
        return list(self.model)

    @property
    def shape(self) -> torch.Size:
        return self.x.shape[1:]


PLANS = {
    "basic-cnn": (ModelSpec((2, 8, 8), 10, width=4, depth=3), 6),
    "vgg11": (ModelSpec((3, 32, 32), 10, width=2), 4),
    "resnet20": (ModelSpec((3, 8, 8), 10, width=4), 4),
    "mlp": (ModelSpec((1, 8, 8), 10, width=12, depth=4), 6),
}


def case(name: str = "basic-cnn", dtype: torch.dtype = torch.float64, images: int | None = None, seed: int = 1) -> Case:
    """A network of a few channels and a batch of noise."""
    plan, n = PLANS[name]
    n = images or n
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, *plan.shape, generator=g, dtype=torch.float64).to(dtype)
    return Case(build(name, plan, seed=seed).to(dtype), x, torch.randint(0, plan.classes, (n,), generator=g))


def batches(c: Case, n: int) -> list[tuple[Tensor, Tensor]]:
    """n batches like the case's own."""
    g = torch.Generator().manual_seed(5)
    return [(torch.randn(c.x.shape, generator=g, dtype=torch.float64).to(c.x.dtype), c.y.roll(i)) for i in range(n)]


def rule(name: str, c: Case, loss: Loss = LOSSES["ce"], warmed_up: bool = True, **options: object) -> Method:
    """A rule for a case's network; ``warmed_up``: as in the middle of a run, and the case's network with it.

    Its own parameters are moved off their (zero) start, so that all of them matter; it is past its warm-up and in its last stage, its
    buffers are filled, and the blocks are in the modes in which it runs them. dgl-async visits blocks in order and distil reads
    labels alone unless told otherwise.
    """
    net = make_network_info(c.model, c.shape, 10, loss, 3, epochs=3)._replace(teacher=lambda images: images.flatten(1)[:, :10])
    cls, more = method_class(name), VARIANTS.get(name, ("", {}))[1]
    method = cls(net, cls.Options(**{**IN_ORDER.get(name, {}), **more, **options})).to(c.x.dtype)
    return settled(stirred(method), c) if warmed_up else method


VARIANTS: dict[str, tuple[str, dict[str, object]]] = {  # rules with other options that change who waits for whom
    "dni after block 2": ("dni", {"at": [2]}),
    "cdni after block 2": ("cdni", {"at": [2]}),
    "linear dni after block 2": ("dni", {"at": [2], "linear": True}),
    "linear cdni after block 2": ("cdni", {"at": [2], "linear": True}),
}


def method_class(name: str) -> type[Method]:
    """The class of a rule or of one of VARIANTS."""
    return METHODS[VARIANTS.get(name, (name, {}))[0]]


IN_ORDER: dict[str, dict[str, object]] = {"dgl-async": {"order": "in-order"}, "distil": {"alpha": 0.0}}  # labels alone: bp


def settled(method: Method, c: Case) -> Method:
    """The rule in its last stage, after two rounds on copies of the blocks; the blocks take over nothing but the copies' modes."""
    method.start(99, 1 << 20)
    blocks = copy.deepcopy(c.blocks)
    with torch.random.fork_rng():
        for _ in range(2):
            list(method.forward(blocks, c.x, c.y))
    for block, twin in zip(c.blocks, blocks, strict=True):
        for module, other in zip(block.modules(), twin.modules(), strict=True):
            module.training = other.training
    return method


def stirred(module: Method) -> Method:
    """Every parameter moved by a little noise."""
    g = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for p in module.parameters():
            p += 0.05 * torch.randn(p.shape, generator=g, dtype=torch.float64).to(p.dtype)
    return module


def step(method: Method, c: Case, lazily: bool = False) -> tuple[list[Pass], dict[int, Update]]:
    """One step of a rule: its passes (graphs kept), bottom first, and what it told each block."""
    if lazily:
        return [], {u.k: u for u in backward(method, method.forward(c.blocks, c.x, c.y))}
    passes = list(method.forward(c.blocks, c.x, c.y))
    updates = {u.k: u for u in backward(method, iter(passes), keep=True)}
    return sorted(passes, key=lambda p: p.k), updates


def rows_of(method: Method, c: Case, number: int = 0, quantities: tuple[str, ...] = RECORDED) -> list[Measurement]:
    """The rows of one recorded step."""
    run = run_step(method, c.blocks, c.x, c.y)
    return step_rows(number, [name for name, _ in c.model.named_children()], method, run, true_gradients(method, run), quantities)


# ---------------------------------------------------------------------------------------------------------- slow twins


def nll(z: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy, in the words of PyTorch."""
    return F.cross_entropy(z, y, reduction="sum") / len(y)


def grads(module: nn.Module) -> dict[str, Tensor | None]:
    """What ``backward()`` left in ``.grad``."""
    return {name: p.grad for name, p in module.named_parameters()}


def interfaces_by_hand(
    ins: list[Tensor], outs: list[Tensor], synthesisers: nn.ModuleList, onehot: Tensor | None, y: Tensor, target: str, lam: float
) -> tuple[list[float], list[Tensor]]:
    """The synthesisers' half of a step of synthetic gradients: what blocks read and gave, top first; fills ``.grad``.

    When g_k arrives at the input of block k+1, L_S = 1/N sum_n ||S_k(h_k)_n - g_n||², and h_k.backward((1 - lam) S_k(h_k) + lam g_k).

    Returns:
        L_S and g of each interface, bottom first.

    """
    scale = len(y) if target == "sum" else 1
    losses: list[float] = []
    targets: list[Tensor] = []
    for k in reversed(range(len(outs) - 1)):
        g = ins[k + 1].grad
        assert g is not None
        s = synthesisers[k](outs[k].detach(), onehot)
        loss = sum(((s[n] - scale * g[n]) ** 2).sum() for n in range(len(y))) / len(y)
        loss.backward()
        outs[k].backward((1 - lam) * s.detach() / scale + lam * g)
        losses.insert(0, loss.item())
        targets.insert(0, g)
    return losses, targets


class Uncut(NamedTuple):
    """What plain PyTorch gives on a deep copy of the whole network."""

    model: nn.Sequential  # the copy: ``.grad`` of its parameters is the truth, its buffers have seen one batch
    outputs: list[Tensor]  # each block's output; ``.grad`` is the true gradient there

    def gradients(self, k: int) -> dict[str, Tensor]:
        return {name: p.grad for name, p in self.model[k].named_parameters()}


def uncut(model: nn.Sequential, x: Tensor, y: Tensor) -> Uncut:
    """``loss.backward()`` on a deep copy whose forward pass is not cut anywhere."""
    twin, outputs = copy.deepcopy(model), []
    h = x
    for block in twin:
        h = block(h)
        h.retain_grad()
        outputs.append(h)
    nll(h, y).backward()
    return Uncut(twin, outputs)


def frozen(module: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters and buffers."""
    return {name: t.detach().clone() for name, t in module.state_dict().items() if isinstance(t, Tensor)}


def assert_same_bits(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    """Same names, same bits (NaNs equal themselves)."""
    assert list(got) == list(want)
    for name in want:
        torch.testing.assert_close(got[name], want[name], rtol=0, atol=0, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}")


def assert_near(got: dict[str, Tensor], want: dict[str, Tensor], tolerance: float = 1e-10) -> None:
    """Same names; values equal to the tolerance, relative to each tensor's largest entry.

    A tensor a hundred times smaller than the largest is held to that one's scale: the gradient of a bias before a BatchNorm is
    rounding noise around an exact zero.
    """
    assert set(got) == set(want)
    sizes = {name: w.double().abs().max().item() for name, w in want.items()}
    for name, w in want.items():
        assert got[name].shape == w.shape, name
        off = (got[name].double() - w.double()).abs().max().item()
        assert off <= tolerance * max(sizes[name], 1e-2 * max(sizes.values())), f"{name}: off by {off:.1e} at size {sizes[name]:.1e}"
