"""The online probe: learners against slow code and their theorems, the best probe in hindsight against scikit-learn, and no trace left."""

import json
import math
import os
import signal
from itertools import pairwise, product

import numpy as np
import pytest
import shelf
import torch
from oracles import SUPERVISED
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from tiny_runs import kill_at, same_state

from gradlens.methods import METHODS
from gradlens.reporting.online_probe import LEARNER_WORDS, regret_figure
from gradlens.runtime.errors import InputError, Stopped
from gradlens.training.config import make_config
from gradlens.training.context import CPU, RunContext, load_data
from gradlens.training.online_probe import learners
from gradlens.training.online_probe import probe as online
from gradlens.training.online_probe import regret as hindsight
from gradlens.training.online_probe.learners import LEARNERS, AdaGrad, GradientDescent, NewtonStep, features, loss_and_slope, onto_ball
from gradlens.training.online_probe.probe import OnlineProbe
from gradlens.training.online_probe.regret import best_fixed, grid, read_stream, regret_rows
from gradlens.training.run_directory import OnlineRow, load_run
from gradlens.training.run_writer import Writer
from gradlens.training.runs.build_state import build_state
from gradlens.training.runs.train_run import train_run

F64 = torch.float64


def gauss(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


# ------------------------------------------------------------------------------------------------ what is read, and the loss


def test_what_a_learner_reads_has_norm_one_whatever_the_scale():
    x = gauss(6, 5) * torch.tensor([1e-30, 1e-3, 1, 1e3, 1e30, 0], dtype=F64)[:, None]
    got = features(x.float(), 128)
    assert got.shape == (6, 6)
    torch.testing.assert_close(got[:5].norm(dim=1), torch.ones(5, dtype=F64), rtol=1e-6, atol=0)
    assert got[5, :5].tolist() == [0] * 5
    assert got[5, 5] == pytest.approx(0.5**0.5)
    torch.testing.assert_close(got[2, :5], x[2] / x[2].norm() / 2**0.5, rtol=1e-6, atol=0)
    assert features(gauss(3, 100), 64).shape == (3, 65)


def test_loss_and_slope_are_those_of_autograd_and_the_slope_keeps_its_bound():
    for seed, size in product(range(5), (0.1, 10, 1e4)):
        w, x = (size * gauss(4, 6, seed=seed)).requires_grad_(), features(gauss(7, 5, seed=seed + 50), 128)
        y = torch.randint(4, (7,))
        loss = torch.nn.functional.cross_entropy(x @ w.T, y)
        (want,) = torch.autograd.grad(loss, w)
        got, slope = loss_and_slope(w.detach(), x, y)
        assert got == pytest.approx(float(loss.detach()))
        torch.testing.assert_close(slope, want)
        assert slope.norm() <= learners.SLOPE


def test_the_loss_is_as_exp_concave_as_the_newton_step_takes_it_to_be():
    """∇²f ⪰ α ∇f ∇fᵀ, in autograd's own Hessian, near the edge of the ball where it is tightest."""
    beta = NewtonStep(3, 3).beta
    assert beta == 0.5 * min(1 / (8 * 2**0.5), math.exp(-(2**0.5)) / 2)
    alpha = math.exp(-(2**0.5) * NewtonStep.radius) / 2
    tightest = math.inf
    for seed in range(200):
        x, y = features(gauss(1 + seed % 3, 2, seed=seed), 128), torch.randint(3, (1 + seed % 3,))
        w = gauss(9, seed=seed + 1000)
        w = w / w.norm() * NewtonStep.radius

        def f(w, x=x, y=y):
            return torch.nn.functional.cross_entropy(x @ w.reshape(3, 3).T, y)

        hessian = torch.autograd.functional.hessian(f, w)
        g = torch.autograd.functional.jacobian(f, w)
        assert torch.linalg.eigvalsh(hessian - alpha * torch.outer(g, g)).min() > -1e-12
        tightest = min(tightest, float(1 / (g @ torch.linalg.pinv(hessian, rtol=1e-10) @ g)))
    assert alpha <= tightest < 20 * alpha


# ----------------------------------------------------------------------------------------------------------- projections


@pytest.mark.parametrize("seed", range(4))
def test_projections_onto_the_ball_are_the_nearest_points(seed):
    a, u = gauss(5, 5, seed=seed), 3 * gauss(5, seed=seed + 9)
    metric = a @ a.T + 0.1 * torch.eye(5, dtype=F64)
    for m in (metric, metric.diag().diag()):
        inverse = m.inverse()

        def shrink(nu, inverse=inverse):
            k = torch.linalg.inv(torch.eye(5, dtype=F64) + nu * inverse)
            return k @ u, k @ inverse @ k @ u

        got = onto_ball(u, 1.5, shrink)
        assert got.norm() <= 1.5 * (1 + 1e-15)
        away = {"type": "ineq", "fun": lambda w: 1.5**2 - w @ w}
        want = minimize(lambda w, m=m: (w - u.numpy()) @ m.numpy() @ (w - u.numpy()), np.zeros(5), constraints=away, tol=1e-14).x
        np.testing.assert_allclose(got.numpy(), want, atol=1e-5)
        inside = u / u.norm() * 1.4
        assert torch.equal(onto_ball(inside, 1.5, shrink), inside)


# -------------------------------------------------------------------------------------------- learners against slow code


def rounds(n, classes, size, seed=0, each=3):
    g = torch.Generator().manual_seed(seed)
    for _ in range(n):
        yield features(torch.randn(each, size, generator=g, dtype=F64), 128), torch.randint(classes, (each,), generator=g)


def nearest(u, radius, metric):
    """The nearest point of the ball in a metric, by bisection on explicit inverses."""
    if np.linalg.norm(u) <= radius:
        return u
    low, high = 0.0, 1e12
    for _ in range(300):
        nu = (low + high) / 2
        w = np.linalg.solve(metric + nu * np.eye(len(u)), metric @ u)
        low, high = (nu, high) if np.linalg.norm(w) > radius else (low, nu)
    return w


def slow_slope(w, x, y, classes):
    """The mean slope, an image and a class at a time."""
    slope = np.zeros((classes, x.shape[1]))
    for a, label in zip(x.numpy(), y.tolist(), strict=True):
        e = np.exp(w.reshape(classes, -1) @ a)
        for k in range(classes):
            slope[k] += (e[k] / e.sum() - (k == label)) * a / len(y)
    return slope.ravel()


@pytest.mark.parametrize("radius", [0.05, 1.0])
def test_learners_take_the_steps_of_their_equations(radius, monkeypatch):
    classes, size = 3, 4
    for name, kind in LEARNERS.items():
        monkeypatch.setattr(kind, "radius", radius)
        learner = kind(classes, size + 1)
        w, squares, metric, outside = np.zeros(classes * (size + 1)), 0.0, None, 0
        for t, (x, y) in enumerate(rounds(40, classes, size), 1):
            learner.step(x, y)
            g = slow_slope(w, x, y, classes)
            if name == "ogd":
                metric, step = np.eye(len(w)), 2 * radius / (2**0.5 * t**0.5) * g
            elif name == "adagrad":
                squares = squares + g**2
                metric = np.diag(squares**0.5)
                step = 2 * radius / 2**0.5 * np.linalg.pinv(metric) @ g
            else:
                beta = 0.5 * min(1 / (8 * 2**0.5 * radius), math.exp(-(2**0.5) * radius) / (classes - 1))
                metric = np.eye(len(w)) / (2 * beta * radius) ** 2 if metric is None else metric
                metric = metric + np.outer(g, g)
                step = np.linalg.solve(metric, g) / beta
            outside += np.linalg.norm(w - step) > radius
            w = nearest(w - step, radius, metric)
            np.testing.assert_allclose(learner.w.flatten().numpy(), w, atol=1e-9, err_msg=f"{name} round {t}")
        assert outside or radius == 1 or name == "newton"
        if name == "newton":
            np.testing.assert_allclose(learner.inverse.numpy(), np.linalg.inv(metric), rtol=1e-8, atol=1e-12)
            want = np.linalg.slogdet(metric * (2 * beta * radius) ** 2)[1]
            assert learner.log_det == pytest.approx(want)


def test_newton_steps_out_of_the_ball_come_back_in_its_own_metric(monkeypatch):
    """Its steps are short where the theorem holds; with a larger β-free rate they leave the ball, and A's norm brings them back."""
    learner = NewtonStep(3, 5)
    learner.beta, learner.inverse = 0.01, torch.eye(15, dtype=F64) * 0.5
    metric, w, outside = np.eye(15) * 2, np.zeros(15), 0
    for x, y in rounds(30, 3, 4):
        learner.step(x, y)
        g = slow_slope(w, x, y, 3)
        metric = metric + np.outer(g, g)
        u = w - np.linalg.solve(metric, g) / 0.01
        outside += np.linalg.norm(u) > 1
        w = nearest(u, 1.0, metric)
        np.testing.assert_allclose(learner.w.flatten().numpy(), w, atol=1e-8)
    assert outside > 20


def test_a_weight_whose_slope_was_always_zero_stays_zero():
    learner = AdaGrad(2, 3)
    x = torch.tensor([[0.5, 0.0, 0.5]], dtype=F64)
    for label in (0, 1, 1):
        learner.step(x, torch.tensor([label]))
    assert learner.w[:, 1].tolist() == [0, 0]
    assert learner.w.isfinite().all()
    assert learner.w[:, 0].abs().min() > 0


# ------------------------------------------------------------------------------------------------------ best in hindsight


def mean_loss(w, x, y):
    return torch.nn.functional.cross_entropy(torch.from_numpy(x) @ torch.from_numpy(w).T, torch.from_numpy(y)).item()


@pytest.mark.parametrize("radius", [0.3, 1.5, 1000.0])
def test_the_best_fixed_probe_is_that_of_scikit_learn_or_of_a_constrained_solver(radius):
    g = np.random.default_rng(0)
    x, y = g.standard_normal((60, 4)), g.integers(3, size=60)
    x[np.arange(60), y] += 0.5
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    best = best_fixed(x, y, np.ones(60), 3, radius)
    assert best.low <= best.loss <= best.low + 60 * hindsight.PRECISION
    assert np.linalg.norm(best.w) <= radius * (1 + 1e-12)
    assert best.loss / 60 == pytest.approx(mean_loss(best.w, x, y), abs=1e-12)
    if radius == 1000:
        free = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=1000).fit(x, y)
        want = mean_loss(free.coef_, x, y)
    else:
        away = {"type": "ineq", "fun": lambda w: radius**2 - w @ w}
        found = minimize(lambda w: mean_loss(w.reshape(3, 4), x, y), np.full(12, 0.01), constraints=away, tol=1e-10)
        want = found.fun
        assert np.linalg.norm(best.w) == pytest.approx(radius, rel=1e-3)
    assert best.low / 60 - 1e-7 <= want
    assert best.loss / 60 == pytest.approx(want, abs=2e-6)


def test_rounds_of_other_sizes_are_weighed_as_they_were_suffered():
    g = np.random.default_rng(1)
    x, y = g.standard_normal((10, 3)), np.arange(10) % 2
    twice = best_fixed(x, y, np.where(np.arange(10) < 4, 2.0, 1.0), 2, 2.0)
    repeated = best_fixed(np.vstack([x, x[:4]]), np.append(y, y[:4]), np.ones(14), 2, 2.0)
    assert twice.loss == pytest.approx(repeated.loss, abs=14 * hindsight.PRECISION)


@pytest.mark.parametrize("scale", [1e-100, 1e-6, 1.0, 1e6, 1e100])
@pytest.mark.parametrize("seed", range(3))
def test_hindsight_is_no_worse_than_guessing_and_blind_to_order_and_copies_at_every_scale(seed, scale):
    g = np.random.default_rng(seed)
    x, y, ones = scale * g.standard_normal((40, 4)), g.integers(3, size=40), np.ones(40)
    best = best_fixed(x, y, ones, 3, 2.0)
    assert 0 <= best.low <= best.loss <= 40 * math.log(3) * (1 + 1e-12)
    assert np.linalg.norm(best.w) <= 2 * (1 + 1e-12)
    order = g.permutation(40)
    shuffled = best_fixed(x[order], y[order], ones, 3, 2.0)
    twice = best_fixed(np.vstack([x, x]), np.append(y, y), np.full(80, 0.5), 3, 2.0)
    for other in (shuffled, twice):  # two intervals that both hold the minimum
        assert max(best.low, other.low) <= min(best.loss, other.loss) * (1 + 1e-12)
    blind = best_fixed(0 * x, y, ones, 3, 2.0)
    assert blind.low == pytest.approx(40 * math.log(3)) == pytest.approx(blind.loss)


def test_the_lower_bound_is_below_every_probe_even_if_the_solver_fails(monkeypatch):
    g = np.random.default_rng(2)
    x, y = g.standard_normal((30, 3)), g.integers(2, size=30)
    good = best_fixed(x, y, np.ones(30), 2, 2.0)
    monkeypatch.setattr(hindsight, "minimize", lambda f, start, **_: type("Found", (), {"x": start + 0.1})())
    poor = best_fixed(x, y, np.ones(30), 2, 2.0)
    assert poor.loss > good.loss
    assert poor.low <= good.loss


# --------------------------------------------------------------------------------------- regret never above its bound


def adversary(kind, learner, t, g):
    """The next round against a learner that has been seen."""
    classes, size = learner.w.shape
    x = torch.randn(2, size - 1, generator=g, dtype=F64)
    if kind == "random":
        return features(x, 128), torch.randint(classes, (2,), generator=g)
    if kind == "separable":
        return features(x, 128), x[:, :classes].argmax(1) if size > classes else (x[:, 0] > 0).long()
    if kind == "alternating":
        return features(torch.ones(1, size - 1, dtype=F64), 128), torch.tensor([t % classes])
    if kind == "flipping":  # long stretches of one truth, then of its opposite
        return features(x, 128), ((x[:, 0] > 0) ^ bool((t // 100) % 2)).long()
    if kind == "worst label":
        read = features(x, 128)
        return read, (read @ learner.w.T).argmin(1)
    direction = learner.w[0, :-1] - learner.w[1, :-1]  # worst point: where it is surest, with the other label
    point = direction if direction.norm() > 0 else torch.ones(size - 1, dtype=F64)
    return features(torch.stack([point, -point]), 128), torch.tensor([1, 0])


@pytest.mark.parametrize("kind", ["random", "separable", "alternating", "flipping", "worst label", "worst point"])
@pytest.mark.parametrize("name", LEARNERS)
def test_regret_is_never_above_the_bound_whatever_the_sequence(name, kind):
    g = torch.Generator().manual_seed(0)
    learner, suffered, seen, bounds = LEARNERS[name](3, 6), [], [], []
    for t in range(1000 if name == "ogd" else 400):
        x, y = adversary(kind, learner, t, g)
        seen.append((x, y))
        suffered.append(learner.step(x, y))
        bounds.append(learner.bound())
        assert learner.w.norm() <= learner.radius * (1 + 1e-12)
    assert all(a <= b for a, b in pairwise(bounds))
    for t in (1, 3, 10, 50, 200, len(seen)):
        x, y = (torch.cat([r[i] for r in seen[:t]]).numpy() for i in (0, 1))
        weight = np.concatenate([np.full(len(r[1]), 1 / len(r[1])) for r in seen[:t]])
        best = best_fixed(x, y, weight, 3, learner.radius)
        assert sum(suffered[:t]) - best.low <= bounds[t - 1]


def test_the_bound_of_gradient_descent_is_of_the_order_of_what_an_adversary_gets():
    """A sequence on which regret grows like √T, so that the test above could fail."""
    g, learner, suffered, seen = torch.Generator().manual_seed(0), GradientDescent(3, 6), 0.0, []
    for t in range(400):
        x, y = adversary("worst label", learner, t, g)
        seen.append((x, y))
        suffered += learner.step(x, y)
    x, y = (torch.cat([r[i] for r in seen]).numpy() for i in (0, 1))
    regret = suffered - best_fixed(x, y, np.full(len(y), 0.5), 3, learner.radius).loss
    assert learner.bound() / 20 < regret < learner.bound()


def test_images_without_a_label_are_passed_over(monkeypatch):
    monkeypatch.setattr(online, "IMAGES", 3)
    h, y = gauss(6, 4).float(), torch.tensor([-1, 1, -1, 0, 1, 0])
    rounds = []
    for x, labels in ((h, y), (h[y >= 0], y[y >= 0])):
        probe = OnlineProbe(["a"], 2)
        p = online.Update(0, type("P", (), {"h": x, "y": labels})(), None, None, {}, ())
        probe.on_update(0, p)
        rounds.append(probe.take_rows())
    assert rounds[0] == rounds[1]  # the first three that have a label, and no class for the others
    none = online.Update(0, type("P", (), {"h": h, "y": torch.full((6,), -1)})(), None, None, {}, ())
    probe.on_update(1, none)
    assert probe.take_rows() == ([], {})


def test_a_student_of_partly_labelled_images_is_probed_on_the_labelled(tmp_path):
    small = {"limit": 96, "batch_size": 32, "model": "mlp", "width": 4, "record_every": 0}
    teacher = train_run(make_config(epochs=0, **small), RunContext(out=tmp_path))
    config = make_config(method="distil", teacher=str(teacher.path), labels=0.3, epochs=2, online_probe=True, **small)
    run = train_run(config, RunContext(out=tmp_path))
    stream = list(read_stream(run.path / "online" / "top.bin"))
    labels = torch.cat([r.y for r in stream])
    assert len(labels) == 2 * run.info["images"]["train"]  # each of the labelled images in each epoch
    assert labels.min() >= 0
    assert json.loads((run.path / "online.json").read_text())["rows"]


# ----------------------------------------------------------------------------------------------------- beside a training


def tiny(method="bp", **settings):
    base = {"limit": 96, "limit_test": 64, "batch_size": 32, "epochs": 4, "width": 4, "record_every": 2, "seed": 3}
    return make_config(method=method, **{**base, **settings})


@pytest.fixture
def whole():
    """The uninterrupted run of a method, from the shelf; not to be changed."""
    return lambda method="bp", **settings: shelf.trained(tiny(method, **settings))


def files(run):
    names = ("online.csv", "gradients.csv", "metrics.csv")
    return {p.relative_to(run.path): p.read_bytes() for p in [*map(run.path.joinpath, names), *sorted(run.path.glob("online/*"))]}


@pytest.mark.parametrize("method", sorted(name for name in SUPERVISED if not METHODS[name].has_teacher))
def test_a_training_does_not_notice_that_it_is_probed(method, whole):
    small = {"limit": 32, "batch_size": 16, "width": 2, "epochs": 4 if method == "greedy" else 2}
    on, off = whole(method, online_probe=True, **small), whole(method, **small)
    mine, theirs = on.checkpoint(), off.checkpoint()
    assert set(mine) - set(theirs) == {"probe"}
    assert all(same_state(mine[k], theirs[k]) for k in ("model", "method", "optimizer", "step"))
    for name in ("metrics.csv", "gradients.csv"):
        assert (on.path / name).read_bytes() == (off.path / name).read_bytes()
    assert {row.learner for row in on.online} == set(LEARNERS)
    assert {row.block for row in on.online} <= {"block1", "block2", "block3", "top"}
    assert off.online == []
    assert not (off.path / "online").exists()


def test_the_stream_is_what_the_blocks_gave_and_the_losses_are_those_of_the_learners(whole):
    run = whole(online_probe=True, precision="fp32")
    state = build_state(run.config, load_data(run.config, RunContext()), CPU)
    x, y = state.batches.batch(0)
    state.network.model.train()
    h = state.network.model[0](x).detach()
    means = torch.nn.functional.adaptive_avg_pool2d(h, min(h.shape[2], math.isqrt(128 // h.shape[1]))).flatten(1).double()
    stream = list(read_stream(run.path / "online" / "block1.bin"))
    assert [r.step for r in stream] == list(range(12))
    torch.testing.assert_close(stream[0].x, (means - means.mean(0)).float(), atol=1e-6, rtol=1e-4)
    assert torch.equal(stream[0].y, y)
    learner, total = GradientDescent(10, stream[0].x.shape[1] + 1), 0.0
    mine = [row for row in run.online if (row.block, row.learner) == ("block1", "ogd")]
    for row, r in zip(mine, stream, strict=True):
        loss = learner.step(features(r.x, 128), r.y)
        total += loss
        assert (row.loss, row.cumulative, row.bound) == (loss, total, learner.bound())


def test_at_most_32_images_and_so_many_rounds(monkeypatch, tmp_path):
    monkeypatch.setattr(online, "ROUNDS", 5)
    run = train_run(tiny(batch_size=48, online_probe=True), RunContext(out=tmp_path))
    stream = list(read_stream(run.path / "online" / "top.bin"))
    assert [len(r.y) for r in stream] == [32] * 5
    assert max(row["rounds"] for row in json.loads((run.path / "online.json").read_text())["rows"]) == 5


def test_regret_is_stored_on_a_geometric_grid_below_its_bound(whole):
    run = whole(online_probe=True, precision="fp32")
    rows = json.loads((run.path / "online.json").read_text())["rows"]
    assert grid(12) == [1, 2, 4, 8, 12]
    assert grid(8) == [1, 2, 4, 8]
    assert grid(1) == [1]
    assert grid(0) == []
    blocks = ["block1", "block2", "block3", "top"]
    assert [(r["block"], r["learner"], r["rounds"]) for r in rows] == list(product(blocks, LEARNERS, grid(12)))
    for row in rows:
        assert row["regret"] == row["regret_low"] <= row["regret_high"] <= row["bound"]
        assert row["regret_high"] - row["regret_low"] <= row["rounds"] * hindsight.PRECISION
        suffered = [r for r in run.online if (r.block, r.learner) == (row["block"], row["learner"])][row["rounds"] - 1]
        assert (row["loss"], row["bound"], row["step"]) == (suffered.cumulative, suffered.bound, suffered.step)
    stream = list(read_stream(run.path / "online" / "block2.bin"))
    x, y = torch.cat([features(r.x, 128) for r in stream]).numpy(), torch.cat([r.y for r in stream]).numpy()
    best = best_fixed(x, y, np.full(len(y), 1 / 32), 10, 10.0)
    (last,) = [r for r in rows if (r["block"], r["learner"], r["rounds"]) == ("block2", "ogd", 12)]
    assert last["best_in_hindsight"] == pytest.approx(best.loss, abs=12 * hindsight.PRECISION)


def interrupt_at(step):
    def watch(event, numbers):
        if event == "step" and numbers["step"] == step:
            os.kill(os.getpid(), signal.SIGINT)

    return watch


@pytest.mark.parametrize("method", ["bp", "dgl-async"])
def test_interrupted_and_resumed_in_bits(method, whole, tmp_path):
    config = tiny(method, online_probe=True)
    with pytest.raises(Stopped):
        train_run(config, RunContext(out=tmp_path), interrupt_at(5))
    run = train_run(config, RunContext(out=tmp_path, resume=True))
    assert files(run) == files(whole(method, online_probe=True))
    assert same_state(run.checkpoint()["probe"], whole(method, online_probe=True).checkpoint()["probe"])


def test_killed_and_resumed_in_bits(whole, processes, tmp_path):
    """kill -9, in a process of its own that saves every 0.02 s and stands still before its last update."""
    config = tiny(online_probe=True)
    path = tmp_path / config.run_name() / "online" / "block1.bin"
    kill_at(processes, config, tmp_path, lambda: path.exists() and len(list(read_stream(path))) >= 7)
    assert not load_run(tmp_path / config.run_name()).finished
    run = train_run(config, RunContext(out=tmp_path, resume=True))
    assert files(run) == files(whole("bp", online_probe=True))


def test_killed_with_rounds_beyond_the_checkpoint_and_resumed_in_bits(whole, tmp_path, monkeypatch):
    """As after kill -9: no checkpoint since the first epoch, tables and streams further on, the last record torn."""
    config = tiny(online_probe=True)

    def die(event, numbers):
        if event == "step" and numbers["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(config, RunContext(out=tmp_path), die)
    path = tmp_path / config.run_name()
    assert load_run(path).checkpoint()["step"] == 3
    assert len(list(read_stream(path / "online" / "top.bin"))) == 5
    with (path / "online" / "top.bin").open("ab") as file:
        file.write(b"torn")
    with (path / "online.csv").open("a") as file:
        file.write("5,top,og")
    assert len(list(read_stream(path / "online" / "top.bin"))) == 5
    run = train_run(config, RunContext(out=tmp_path, resume=True))
    assert files(run) == files(whole("bp", online_probe=True))


def test_a_stream_is_rewound_and_one_that_was_not_there_goes(tmp_path):
    writer = Writer(tmp_path, make_config())
    writer.extend("online/a.bin", b"12345")
    marks = writer.mark()
    assert marks == {"online/a.bin": 5}
    writer.extend("online/a.bin", b"67")
    writer.extend("online/b.bin", b"8")
    writer.rewind(marks)
    assert {p.name: p.read_bytes() for p in (tmp_path / "online").iterdir()} == {"a.bin": b"12345"}
    (tmp_path / "online" / "a.bin").unlink()
    with pytest.raises(InputError, match=r"a\.bin is shorter than the checkpoint records"):
        writer.rewind(marks)


def test_starting_over_leaves_no_old_stream(tmp_path):
    train_run(tiny(online_probe=True, epochs=1), RunContext(out=tmp_path, name="r"))
    run = train_run(tiny(), RunContext(out=tmp_path, name="r", overwrite=True))
    assert not list(run.path.glob("online/*"))
    assert not (run.path / "online.json").exists()


def test_activations_that_are_not_finite_are_no_round():
    probe = OnlineProbe(["a"], 2)
    block = torch.nn.Identity()
    for value in (1.0, math.nan, math.inf, 2.0):
        h = torch.tensor([[value, 0.0], [1.0, 1.0]])
        p = online.Update(0, type("P", (), {"h": h, "y": torch.tensor([0, 1]), "block": block})(), None, None, {}, ())
        probe.on_update(0, p)
    assert probe.blocks["a"].rounds == 2
    rows, streams = probe.take_rows()
    assert len(rows) == 6
    assert list(streams) == ["a"]
    assert probe.take_rows() == ([], {})


def test_the_figure_shows_every_block_and_what_is_not_above_zero_too():
    row = {"learner": "ogd", "bound": 40.0, "regret_high": 2.0}
    rows = [{**row, "block": b, "rounds": t, "regret": r} for b in ("block1", "top") for t, r in ((1, 2.0), (2, 1.0), (4, -3.0))]
    figure = regret_figure(rows, title="digits")
    assert [ax.get_title() for ax in figure.axes] == ["block1", "top"]
    drawn, bound, hollow = figure.axes[1].lines
    assert drawn.get_ydata()[:2].tolist() == [2, 1]
    assert math.isnan(drawn.get_ydata()[2])
    assert list(bound.get_ydata()) == [40] * 3
    assert list(hollow.get_xdata()) == [4]
    assert figure.legends[0].get_texts()[0].get_text() == LEARNER_WORDS["ogd"]
    assert list(LEARNER_WORDS) == list(LEARNERS)
    with pytest.raises(InputError, match="--online-probe"):
        regret_figure([])


def test_a_run_without_a_probe_has_no_regret(whole, tmp_path):
    with pytest.raises(InputError, match="--online-probe"):
        regret_rows(whole().path, ["top"], 10)
    broken = whole("dgl", online_probe=True)
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "online.csv").write_bytes((broken.path / "online.csv").read_bytes())
    with pytest.raises(InputError, match="does not hold the rounds"):
        regret_rows(copy, ["block1", "block2", "block3", "top"], 10)
    assert all(isinstance(row, OnlineRow) for row in broken.online)
