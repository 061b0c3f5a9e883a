"""Optimisers: against their equations in plain Python numbers, saved and continued bit by bit; the learning rate's schedule."""

import copy
import math

import pytest
import torch

from gradlens.data.datasets import load
from gradlens.runtime.errors import InputError
from gradlens.runtime.rng import generator
from gradlens.training.build import build_model_and_method
from gradlens.training.config import make_config
from gradlens.training.loop import fit
from gradlens.training.optimizers import LARS, SGDW, lr_factor, make_optimizer
from gradlens.training.runs.build_state import build_state
from gradlens.training.saving import checkpoint_of, restore_run

SHAPES = {"conv": (3, 2, 2, 2), "matrix": (4, 3), "zero": (2, 2), "still": (2, 3), "bias": (3,), "scale": (2,), "scalar": ()}


def made(seed=0, dtype=torch.float64):
    """Parameters of every number of dimensions; ``zero`` has no norm at the start."""
    g = generator(seed, "weights")
    params = {name: torch.randn(shape, generator=g, dtype=torch.float64).to(dtype) for name, shape in SHAPES.items()}
    params["zero"].zero_()
    return {name: p.requires_grad_() for name, p in params.items()}


def gradients(step, scale=1.0, late="matrix"):
    """One step's gradients: ``still`` has zero ones, ``scale`` now and then none, ``late`` none at the first step."""
    g = generator(step, "gradients")
    drawn = {name: scale * torch.randn(shape, generator=g, dtype=torch.float64) for name, shape in SHAPES.items()}
    drawn["still"].zero_()
    absent = [name for name, gone in (("scale", step % 3 == 1), (late, step == 0)) if gone]
    return {name: None if name in absent else value for name, value in drawn.items()}


def put(params, grads):
    for name, p in params.items():
        p.grad = None if grads[name] is None else grads[name].to(p.dtype)


class Slow:
    """An optimiser of one tensor on lists of Python floats, number by number."""

    def __init__(self, tensor):
        self.w, self.v, self.vector = tensor.detach().reshape(-1).tolist(), [0.0] * tensor.numel(), tensor.ndim <= 1

    def lars(self, grad, lr, momentum, decay, trust):
        u = [g + (0.0 if self.vector else decay * w) for g, w in zip(grad, self.w, strict=True)]
        size, length = math.sqrt(sum(w * w for w in self.w)), math.sqrt(sum(x * x for x in u))
        ratio = trust * size / length if not self.vector and size > 0 and length > 0 else 1.0
        self.v = [momentum * v + lr * ratio * x for v, x in zip(self.v, u, strict=True)]
        self.w = [w - v for w, v in zip(self.w, self.v, strict=True)]

    def sgdw(self, grad, lr, momentum, decay):
        self.v = [momentum * v + g for v, g in zip(self.v, grad, strict=True)]
        self.w = [(1 - lr * decay) * w - lr * v for w, v in zip(self.w, self.v, strict=True)]


RATES = (0.1, 0.2, 0.3, 0.3, 0.07, 0.01, 0.0)  # a warm-up, and a fall during which momentum still holds the old rate


@pytest.mark.parametrize("decay", [0.0, 0.05])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("trust", [0.001, 0.5])
def test_lars_is_its_equations(momentum, decay, trust):
    params = made()
    slow = {name: Slow(p) for name, p in params.items()}
    optimizer = LARS(params.values(), lr=1.0, momentum=momentum, weight_decay=decay, trust=trust)
    for step, lr in enumerate(RATES):
        optimizer.param_groups[0]["lr"] = lr
        grads = gradients(step)
        put(params, grads)
        optimizer.step()
        for name, grad in grads.items():
            if grad is not None:
                slow[name].lars(grad.reshape(-1).tolist(), lr, momentum, decay, trust)
        for name, p in params.items():
            assert p.detach().reshape(-1).tolist() == pytest.approx(slow[name].w, rel=1e-12, abs=1e-15), (step, name)
    assert not params["zero"].eq(0).any()  # a ratio of 1, not of 0, took it away from there


def test_what_lars_leaves_out_moves_as_in_sgd_with_momentum():
    ours, theirs = made(), made()
    lars = LARS(ours.values(), lr=0.1, momentum=0.9, weight_decay=0.3)
    sgd = torch.optim.SGD(theirs.values(), lr=0.1, momentum=0.9)
    for step in range(6):
        for params, optimizer in ((ours, lars), (theirs, sgd)):
            put(params, gradients(step))
            optimizer.step()
    for name in ("bias", "scale", "scalar"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-13, atol=1e-14)
    assert not any(torch.allclose(ours[name], theirs[name], rtol=1e-3) for name in ("conv", "matrix", "still"))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_first_step_of_lars_is_a_share_of_the_tensors_norm_however_large_its_gradient(scale):
    params = made()
    before = {name: p.detach().clone() for name, p in params.items()}
    optimizer = LARS(params.values(), lr=2.0, momentum=0.9)
    put(params, gradients(2, scale))
    optimizer.step()
    for name in ("conv", "matrix"):
        moved = (params[name] - before[name]).norm() / before[name].norm()
        assert moved.item() == pytest.approx(2.0 * 0.001, rel=1e-12)


def test_lars_reads_its_closure_with_gradients_on():
    p = torch.ones(2, 2, requires_grad=True)
    optimizer = LARS([p], lr=1.0)

    def closure():
        loss = p.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4
    assert (p - (1 - 0.001)).abs().max() < 1e-6  # u = 2 w


@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_sgdw_is_its_equations(decay):
    params = made()
    slow = {name: Slow(p) for name, p in params.items()}
    optimizer = SGDW(params.values(), lr=1.0, momentum=0.9, nesterov=False, decoupled_decay=decay)
    for step, lr in enumerate(RATES):
        optimizer.param_groups[0]["lr"] = lr
        grads = gradients(step, late=None)  # torch's fused SGD cannot begin one tensor's momentum after another's
        put(params, grads)
        optimizer.step()
        for name, grad in grads.items():
            if grad is not None:
                slow[name].sgdw(grad.reshape(-1).tolist(), lr, 0.9, decay)
        for name, p in params.items():
            assert p.detach().reshape(-1).tolist() == pytest.approx(slow[name].w, rel=1e-12, abs=1e-15), (step, name)


MAKERS = {
    "lars": lambda params: LARS(params, lr=0.1, momentum=0.9, weight_decay=0.05),
    "sgdw": lambda params: SGDW(params, lr=0.1, momentum=0.9, nesterov=True, decoupled_decay=0.05),
}


@pytest.mark.parametrize("name", MAKERS)
def test_an_optimiser_that_was_saved_goes_on_in_bits(name, tmp_path):
    whole = made(dtype=torch.float32)
    optimizer = MAKERS[name](whole.values())
    for step in range(7):
        if step == 4:
            torch.save({"weights": dict(whole), "optimizer": optimizer.state_dict()}, tmp_path / "checkpoint.pt")
        put(whole, gradients(step, late=None))
        optimizer.step()
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)  # as a run reads its own
    resumed = {n: state["weights"][n].detach().clone().requires_grad_() for n in SHAPES}
    other = MAKERS[name](resumed.values())
    other.load_state_dict(state["optimizer"])
    for step in range(4, 7):
        put(resumed, gradients(step, late=None))
        other.step()
    assert all(torch.equal(whole[n], resumed[n]) for n in SHAPES)


@pytest.mark.slow
def test_a_training_with_lars_learns_and_goes_on_in_bits():
    config = make_config(
        method="dgl", width=4, limit=192, batch_size=16, epochs=8, record_every=0, optimizer="lars", lr=1.0, momentum=0.9,
        weight_decay=1e-4, lr_schedule="cosine", warmup=3,
    )  # fmt: skip
    data, states = load("digits", limit=192), []
    first, second = (build_state(config, data, torch.device("cpu")) for _ in range(2))
    fit(
        first,
        None,
        lambda kind, told: states.append(copy.deepcopy(checkpoint_of(first))) if kind == "step" and told["step"] == 41 else None,
    )
    (halfway,) = states
    restore_run(second, None, halfway)
    fit(second)
    assert first.position.best == second.position.best
    for a, b in zip(first.network.model.parameters(), second.network.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert first.position.best["test"] > 0.3


# ------------------------------------------------------------------------------------------------- from a config


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 1e-2}, torch.optim.SGD),
        ({"optimizer": "rmsprop", "momentum": 0.5, "weight_decay": 1e-2}, torch.optim.RMSprop),
        ({"optimizer": "adam", "weight_decay": 1e-2}, torch.optim.Adam),
        ({"optimizer": "adamw", "weight_decay": 1e-2}, torch.optim.AdamW),
        ({"optimizer": "lars", "momentum": 0.9, "weight_decay": 1e-2}, LARS),
    ],
)
def test_optimiser_settings_arrive(settings, kind):
    config = make_config(method="dgl", width=4, lr=0.25, **settings)
    optimizer = make_optimizer(config, build_model_and_method(config, (1, 8, 8), 10, torch.device("cpu")))
    assert type(optimizer) is kind
    (group,) = optimizer.param_groups
    for name, value in {"lr": 0.25, **settings}.items():
        if name != "optimizer":
            assert group[name] == value


# ------------------------------------------------------------------------------------------------- learning rate


def torch_schedule(kind, total, rest):
    """The factors of PyTorch's own schedulers over ``rest`` updates."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    made = {
        "constant": lambda: torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0),
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=rest),
        "step": lambda: torch.optim.lr_scheduler.MultiStepLR(optimizer, [math.ceil(rest / 2), math.ceil(rest * 3 / 4)], gamma=0.1),
    }[kind]()
    factors = []
    for _ in range(rest):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        made.step()
    return factors


@pytest.mark.parametrize("kind", ["constant", "cosine", "step"])
@pytest.mark.parametrize(("total", "warmup"), [(20, 0), (21, 0), (20, 5), (7, 6), (5, 9)])
def test_schedules_are_pytorchs_after_a_linear_warm_up(kind, total, warmup):
    config = make_config(lr_schedule=kind, warmup=warmup)
    got = [lr_factor(config, step, total) for step in range(total)]
    rising = [(i + 1) / warmup for i in range(min(warmup, total))]
    assert got == pytest.approx(rising + torch_schedule(kind, total, max(0, total - warmup)), abs=1e-12)


def test_an_exponential_schedule_ends_at_a_tenth():
    config = make_config(lr_schedule="exponential")
    got = [lr_factor(config, step, 40) for step in range(41)]
    assert got == pytest.approx([10 ** (-step / 40) for step in range(41)])


def test_the_inverse_square_root_is_noams_schedule():
    width, warmup = 512, 40
    config = make_config(lr_schedule="inverse-sqrt", warmup=warmup, lr=(width * warmup) ** -0.5)
    got = [config.optimizer.lr * lr_factor(config, t - 1, 500) for t in range(1, 501)]
    assert got == pytest.approx([width**-0.5 * min(t**-0.5, t * warmup**-1.5) for t in range(1, 501)], rel=1e-12)
    with pytest.raises(InputError, match="falls from the end of the warm-up: set --warmup"):
        make_config(lr_schedule="inverse-sqrt")


# ------------------------------------------------------------------------------------------------------ clipping


@pytest.mark.parametrize("clip", [0.01, 1e6])
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_clipping_scales_the_whole_gradient_and_no_smaller_one(name, clip):
    config = make_config(method="dgl", width=4, lr=0.25, optimizer=name)
    clipped, plain = (build_model_and_method(config, (1, 8, 8), 10, torch.device("cpu")) for _ in range(2))
    optimizer = make_optimizer(config.replace(clip=clip), clipped)
    by_hand = make_optimizer(config, plain)
    rng, params = generator(0, "gradients"), [[p for m in pair for p in m.parameters()] for pair in (clipped, plain)]
    for p, q in zip(*params, strict=True):
        p.grad = torch.randn(p.shape, generator=rng)
        q.grad = p.grad.clone()
    norm = math.sqrt(sum(p.grad.square().sum().item() for p in params[0]))
    for q in params[1]:
        q.grad *= min(1.0, clip / norm)
    optimizer.step()
    by_hand.step()
    for p, q in zip(*params, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-7)


def test_both_betas_arrive_and_belong_to_adam():
    config = make_config(width=4, beta1=0.8, beta2=0.98)
    optimizer = make_optimizer(config, build_model_and_method(config, (1, 8, 8), 10, torch.device("cpu")))
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.98)
    with pytest.raises(InputError, match="--beta1 and --beta2 belong to adam and adamw"):
        make_config(optimizer="sgd", beta2=0.9)
