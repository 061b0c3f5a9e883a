"""The view task: rays are items, colours are rendered, the true gradient passes through rendering, and each rule trains what it should."""

import copy
import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scenes import SIDE, blender_folder, scene_arrays
from tiny_runs import learned, same_state, signal_at

from gradlens.analysis.of_runs.rendering import RenderedPictures
from gradlens.analysis.rendering import ssim, unpacked
from gradlens.gradients.backward import run_step
from gradlens.gradients.block_pass import outputs
from gradlens.gradients.true_gradient import true_gradients
from gradlens.models.radiance_fields import DEPTHS, DRAWS, RAYS, Encoding, fine_depths
from gradlens.models.spec import ModelSpec
from gradlens.models.volume_rendering import by_weights, intervals, render, stratified, weights
from gradlens.models.zoo import build
from gradlens.runtime.batch_items import set_items
from gradlens.runtime.batch_shard import Shard, sharded
from gradlens.runtime.errors import InputError, Stopped
from gradlens.runtime.step_context import current_context, step_context
from gradlens.tasks.registry import TASKS
from gradlens.tasks.views import squared_colour_error
from gradlens.training.config import make_config
from gradlens.training.config_file import read_config_file
from gradlens.training.context import RunContext, load_data
from gradlens.training.loop import make_update
from gradlens.training.runs.build_state import build_state
from gradlens.training.runs.train_run import train_run

F64 = torch.float64
LEGO = os.environ.get("GRADLENS_LEGO")
SMALL = {"width": 8, "batch_size": 12, "epochs": 2, "record_every": 2, "diagnose_every": 1}


@pytest.fixture
def scene(tmp_path):
    """A scene of six small photographs as arrays."""
    np.savez(tmp_path / "scene.npz", **scene_arrays(6, 4))
    return str(tmp_path / "scene.npz")


def config_of(scene, method="bp", model="nerf-tiny", **more):
    options = {"samples": 6, "held_out": 3, **({"fine": 5} if model.endswith("pair") else {}), **more.pop("task_options", {})}
    return make_config(**{"task": "views", "data": scene, "method": method, "model": model, "task_options": options, **SMALL, **more})


def state_of(config):
    """The beginning of a run, in float64."""
    state = build_state(config, load_data(config, RunContext()), torch.device("cpu"))
    for module in state.network:
        module.double()
    return state


def batch_of(state, step=0):
    """A batch in float64; the caller is inside ``batches.sharded``."""
    x, y = state.batches.batch(step)
    y = y.double()
    TASKS["views"].make_known(y)
    return x.double(), y


# -------------------------------------------------------------------------------------------------------------- rendering


def slow_colour(raw, lengths, background):
    """The colour of one ray, sample by sample, in plain numbers."""
    through, colour = 1.0, [0.0, 0.0, 0.0]
    left = 1.0
    for (r, g, b, density), length in zip(raw.tolist(), lengths.tolist(), strict=True):
        alpha = 1 - math.exp(-max(density, 0) * length)
        w = alpha * through
        colour = [c + w / (1 + math.exp(-v)) for c, v in zip(colour, (r, g, b), strict=True)]
        through *= 1 - alpha + 1e-10
        left -= w
    return [c + left * background for c in colour]


def test_rendering_is_a_sum_over_samples():
    rng = torch.Generator().manual_seed(1)
    raw, lengths = torch.randn(5, 7, 4, generator=rng, dtype=F64), torch.rand(5, 7, generator=rng, dtype=F64)
    found = render(raw, lengths, torch.tensor([0.0, 1, 1, 0.5, 0], dtype=F64))
    wanted = [slow_colour(r, d, b) for r, d, b in zip(raw, lengths, [0, 1, 1, 0.5, 0], strict=True)]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=F64), rtol=1e-12, atol=0)


def test_the_gradient_of_a_rendered_colour_is_that_of_finite_differences():
    rng = torch.Generator().manual_seed(2)
    raw = torch.randn(3, 5, 4, generator=rng, dtype=F64)
    raw[..., 3] += 0.3 * raw[..., 3].sign()  # away from the corner of relu
    lengths = 0.1 + torch.rand(3, 5, generator=rng, dtype=F64)
    assert torch.autograd.gradcheck(lambda r: render(r, lengths, torch.ones(3, dtype=F64)), raw.requires_grad_(), rtol=1e-6)


def test_an_empty_ray_has_the_colour_of_the_background_and_a_solid_one_that_of_its_surface():
    raw = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(3), dtype=F64)
    raw[0, :, 3], raw[1, :, 3] = -1.0, torch.tensor([-1.0, -2, 1e6, 5, 5, 5])
    found = render(raw, torch.full((2, 6), 0.5, dtype=F64), torch.tensor([0.25, 1.0], dtype=F64))
    assert found[0].tolist() == [0.25] * 3
    torch.testing.assert_close(found[1], raw[1, 2, :3].sigmoid(), rtol=1e-9, atol=1e-9)


def test_samples_lie_each_in_its_own_interval():
    even = stratified(2.0, 6.0, 5)[0]
    assert even.tolist() == [2, 3, 4, 5, 6]
    draws = torch.rand(100, 5, generator=torch.Generator().manual_seed(4))
    found = stratified(2.0, 6.0, 5, draws)
    for i, (low, high) in enumerate([(2, 2.5), (2.5, 3.5), (3.5, 4.5), (4.5, 5.5), (5.5, 6)]):
        assert ((found[:, i] >= low) & (found[:, i] <= high)).all()
        torch.testing.assert_close(found[:, i], low + (high - low) * draws[:, i])


def test_more_samples_follow_the_weights():
    """The inverse of the distribution function is numpy's interpolation of it."""
    rng = torch.Generator().manual_seed(5)
    depths = torch.rand(4, 9, generator=rng, dtype=F64).sort(1).values
    w, draws = torch.rand(4, 9, generator=rng, dtype=F64), torch.rand(4, 50, generator=rng, dtype=F64)
    found = by_weights(depths, w, draws)
    for i in range(4):
        shares = w[i, 1:-1].numpy() + 1e-5
        function = np.concatenate([[0], np.cumsum(shares / shares.sum())])
        middles = 0.5 * (depths[i, 1:] + depths[i, :-1]).numpy()
        np.testing.assert_allclose(found[i].numpy(), np.interp(draws[i].numpy(), function, middles), rtol=1e-10)
    spike = torch.zeros(1, 9, dtype=F64)
    spike[0, 4] = 1
    near = by_weights(depths[:1], spike, torch.full((1, 3), 0.5, dtype=F64))
    assert ((near > depths[0, 3]) & (near < depths[0, 5])).all()


def test_the_encoding_is_the_papers_without_pi():
    v = torch.tensor([[0.3, -1.2]], dtype=F64)
    waves = [f(2**i * x) for i in range(3) for f in (math.sin, math.cos) for x in (0.3, -1.2)]
    torch.testing.assert_close(Encoding(3)(v), torch.tensor([[0.3, -1.2, *waves]], dtype=F64))


@pytest.mark.parametrize(("name", "size", "parameters"), [
    ("nerf-tiny", {}, 25_220),
    ("nerf", {}, 84_548),  # of each network in the checkpoints of Launay et al.
    ("nerf", {"width": 256, "depth": 8}, 595_844),  # Mildenhall et al.
    ("nerf-pair", {}, 2 * 84_548),
    ("nerf-pair", {"width": 256, "depth": 8}, 2 * 595_844),
])  # fmt: skip
def test_networks_have_the_published_sizes(name, size, parameters):
    assert sum(p.numel() for p in build(name, ModelSpec((64, 3), 4, **size)).parameters()) == parameters


@pytest.mark.parametrize("name", ["nerf-tiny", "nerf"])
def test_some_density_is_positive_at_the_start_whatever_the_seed(name):
    x = torch.rand(200, 4, 3, generator=torch.Generator().manual_seed(8)) * 3 - 1.5
    with step_context({"directions": torch.tensor([0.0, 0, 1]).expand(200, 1, 3)}), torch.no_grad():
        for seed in range(12):
            *_, z = outputs(build(name, ModelSpec((4, 3), 4), seed=seed), x)
            assert (z[..., 3] > 0).any()


# --------------------------------------------------------------------------------------------------------- batches of rays


def test_points_lie_on_their_rays_and_intervals_are_between_them(scene):
    config = config_of(scene)
    data = load_data(config, RunContext())
    made = TASKS["views"].batch(data.train.take(torch.arange(20)), 7, config)
    steps = made.x.diff(dim=1)
    direction = made.context["directions"]
    torch.testing.assert_close(torch.linalg.cross(steps, direction.expand_as(steps)), torch.zeros_like(steps), atol=1e-5, rtol=0)
    torch.testing.assert_close(steps.norm(dim=2), made.y[:, 4:-1], rtol=1e-4, atol=1e-5)
    assert (made.y[:, -1] >= 1e10).all()
    assert (made.y[:, 3] == 1).all()
    torch.testing.assert_close(made.y[:, :3] * 255, data.train.y[:20].float())


def test_samples_depend_on_seed_and_update_alone_and_not_on_the_ranks(scene):
    config = config_of(scene, model="nerf-pair")
    some, task = load_data(config, RunContext()).train.take(torch.arange(9)), TASKS["views"]
    whole = task.batch(some, 3, config)
    parts = []
    for rank, (start, stop) in enumerate([(0, 5), (5, 9)]):
        with sharded(Shard(start, stop, 9, rank, 2)):
            parts.append(task.batch(some.take(torch.arange(start, stop)), 3, config))
    assert torch.equal(torch.cat([part.x for part in parts]), whole.x)
    assert torch.equal(torch.cat([part.y for part in parts]), whole.y)
    assert torch.equal(torch.cat([part.context[DRAWS] for part in parts]), whole.context[DRAWS])
    assert not torch.equal(task.batch(some, 4, config).x, whole.x)
    assert not torch.equal(task.batch(some, 3, config.replace(seed=1)).x, whole.x)
    assert torch.equal(task.batch(some, -1, config).x, task.batch(some, -2, config.replace(seed=1)).x)  # nothing is drawn in evaluation


@pytest.mark.parametrize(("method", "model"), [("bp", "nerf"), ("dfa", "nerf-tiny-pair")])
def test_chunks_of_rays_of_any_size_give_the_same_gradient(method, model, scene):
    state = state_of(config_of(scene, method, model))
    network, task = state.network, TASKS["views"]
    with state.batches.sharded(0):
        x, y = batch_of(state)
        context = dict(current_context())
        whole = run_step(network.method, list(network.model), x, y)
        for size in (1, 5):
            sums: dict[str, torch.Tensor] = {}
            for rows in torch.arange(len(y)).split(size):
                part = y[rows]
                set_items(part, len(rows), len(y))
                with step_context({name: t[rows] for name, t in context.items()}):
                    step = run_step(network.method, list(network.model), x[rows], part)
                for k, update in step.updates.items():
                    for name, g in update.grad.params.items():
                        sums[f"{k}.{name}"] = sums.get(f"{k}.{name}", 0) + g
            for k, update in whole.updates.items():
                for name, g in update.grad.params.items():
                    torch.testing.assert_close(sums[f"{k}.{name}"], g, rtol=1e-9, atol=1e-13)
    assert task.count(y) == 12


# ------------------------------------------------------------------------------------------------------------------- rules


def plain_objective(model, x, y):
    """The objective on an uncut copy, with colours rendered ray by ray; the outputs of the blocks."""
    hs = []
    for h in outputs(model, x):
        h.retain_grad()
        hs.append(h)
    lengths = y[:, 4:]
    made = [(hs[-1][..., :4], lengths)]
    if hs[-1].shape[-1] == 5:
        end = len(hs) // 2 - 1
        c = current_context()
        fine = intervals(fine_depths(hs[end])) * c[RAYS][:, 3:].double().norm(dim=1, keepdim=True)
        made = [(hs[end], lengths), (hs[-1][..., :4], fine)]
    loss = 0
    for z, d in made:
        alpha = 1 - torch.exp(-z[..., 3].relu() * d)
        through = torch.cat([torch.ones_like(alpha[:, :1]), (1 - alpha + 1e-10).cumprod(1)[:, :-1]], 1)
        w = alpha * through
        colour = (w[..., None] * z[..., :3].sigmoid()).sum(1) + (1 - w.sum(1, keepdim=True)) * y[:, 3:4]
        loss = loss + ((colour - y[:, :3]) ** 2).mean()
    return loss, hs


@pytest.mark.parametrize("model", ["nerf", "nerf-pair", pytest.param("nerf-tiny", marks=pytest.mark.slow)])
def test_the_truth_is_backward_through_rendering(model, scene):
    state = state_of(config_of(scene, "dfa", model, depth=6 if model == "nerf-pair" else None))
    with state.batches.sharded(0):
        x, y = batch_of(state)
        step = run_step(state.network.method, list(state.network.model), x, y)
        truth = true_gradients(state.network.method, step)
        twin = copy.deepcopy(state.network.model)
        loss, _ = plain_objective(twin, x, y)
        loss.backward()
    torch.testing.assert_close(truth.loss, loss.detach(), rtol=1e-10, atol=0)
    for k, grad in enumerate(truth.grads):
        for name, g in grad.params.items():
            wanted = twin[k].get_parameter(name).grad
            torch.testing.assert_close(g, torch.zeros_like(g) if wanted is None else wanted, rtol=1e-8, atol=1e-13)


@pytest.mark.parametrize("model", ["nerf-tiny", "nerf", "nerf-pair"])
@pytest.mark.parametrize("shared", [True, False])
def test_dfa_reads_each_networks_error_at_its_four_numbers_and_trains_its_head_truly(model, shared, scene):
    state = state_of(config_of(scene, "dfa", model, options={"shared": shared}))
    method = state.network.method
    with state.batches.sharded(0):
        x, y = batch_of(state)
        step = run_step(method, list(state.network.model), x, y)
        truth = true_gradients(method, step)
    ends = [len(step.passes) // 2 - 1, len(step.passes) - 1] if model.endswith("pair") else [len(step.passes) - 1]
    for start, end in zip([0, *(e + 1 for e in ends)], ends, strict=False):
        z = step.passes[end].z.detach().requires_grad_()
        (e,) = torch.autograd.grad(squared_colour_error(z, y), z)
        assert not e[..., 4:].any()
        for k in range(start, end):
            b = method.matrix(k)
            assert b.shape == (4, step.passes[k].h.shape[-1])
            torch.testing.assert_close(step.updates[k].grad.delta, e[..., :4] @ b, rtol=1e-10, atol=1e-15)
        for name, g in truth.grads[end].params.items():  # alpha and colour heads
            torch.testing.assert_close(step.updates[end].grad.params[name], g, rtol=1e-12, atol=1e-16)
    if shared and len(ends) == 2:
        assert not torch.equal(method.matrix(0), method.matrix(ends[0] + 1))


@pytest.mark.parametrize(("model", "heads"), [
    ("nerf-tiny", {"top.out"}), ("nerf", {"top.rgb", "top.alpha"}),
    ("nerf-pair", {"coarse7.rgb", "coarse7.alpha", "top.head.rgb", "top.head.alpha"}),
])  # fmt: skip
def test_shallow_trains_the_heads_alone(model, heads, scene):
    state = state_of(config_of(scene, "shallow", model))
    names = state.network.block_names()
    with state.batches.sharded(0):
        x, y = batch_of(state)
        step = run_step(state.network.method, list(state.network.model), x, y)
        truth = true_gradients(state.network.method, step)
    trained = {f"{names[k]}.{name}".rpartition(".")[0] for k, update in step.updates.items() for name in update.grad.params}
    assert trained == heads
    for k, update in step.updates.items():
        for name, g in update.grad.params.items():
            torch.testing.assert_close(g, truth.grads[k].params[name], rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize(("method", "model", "sentence"), [
    ("cdni", "nerf-tiny", "cdni cannot be used with --task views, whose items have no class: its synthesisers read them"),
    ("dgl-async", "nerf-tiny", "dgl-async stores what blocks read, and the points and directions of each batch of rays are its own"),
    ("dgl", "nerf-pair", "dgl has losses of its own at blocks, of which this network has 2 parts; set another model"),
    ("predsim", "nerf-tiny", "predsim is a rule of the image task and cannot be used with --task views"),
])  # fmt: skip
def test_rules_that_do_not_fit_say_why(method, model, sentence, scene):
    with pytest.raises(InputError, match=sentence):
        state_of(config_of(scene, method, model))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["bp", "dfa", "fa", "kp", "dni", "shallow"])
def test_rules_that_fit_a_pair_are_measured_and_a_run_resumes_bit_for_bit(method, scene, tmp_path):
    config = config_of(scene, method, "nerf-tiny-pair")
    whole = train_run(config, RunContext(out=tmp_path / "whole"))
    with pytest.raises(Stopped):
        train_run(config.replace(record_every=0), RunContext(out=tmp_path / "cut"), signal_at(3, signal.SIGINT))
    cut = train_run(config.replace(record_every=0), RunContext(out=tmp_path / "cut", resume=True))
    assert same_state(learned(whole), learned(cut))
    assert (cut.path / "metrics.csv").read_bytes() == (whole.path / "metrics.csv").read_bytes()
    assert all(math.isnan(m.score) for m in whole.metrics if m.split == "train")  # the loss is the sum of two


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dgl", "greedy", "chunked", "dni", "fa", "frsf"])
def test_other_rules_train_one_network(method, scene):
    config = config_of(scene, method, "nerf", options={"stage_epochs": 1} if method == "greedy" else {}, epochs=8)
    state = state_of(config)
    with state.batches.sharded(0):
        x, y = batch_of(state)
        state.network.method.start(99, 1 << 20)
        step = run_step(state.network.method, list(state.network.model), x, y)
        assert true_gradients(state.network.method, step).loss > 0


# ------------------------------------------------------------------------------------------------------------------- score


def test_a_run_scores_the_mean_psnr_of_its_views_and_is_rendered(tmp_path, program):
    folder = blender_folder(tmp_path / "scene")
    config = config_of(str(folder), batch_size=30, record_every=0)
    run = train_run(config, RunContext(out=tmp_path / "runs"))
    (result,) = RenderedPictures().analyse([run], RunContext())
    assert [picture["name"] for picture in result["pictures"]] == ["view 4", "view 5"]
    assert run.metrics[-1].score_name == "psnr"
    assert run.metrics[-1].score == pytest.approx(result["psnr"], abs=1e-3)
    true = torch.from_numpy(unpacked(result, "true").copy())
    assert torch.equal(true[0], load_data(config, RunContext()).test.y[: SIDE * SIDE].view(SIDE, SIDE, 3))
    made = unpacked(result, "made")[0].astype(float) / 255
    assert result["pictures"][0]["psnr"] == pytest.approx(-10 * np.log10(((made - true[0].numpy() / 255) ** 2).mean()), abs=0.05)
    status, out, _ = program("render", run.path, "--out", tmp_path / "figures")
    assert status == 0
    assert "PSNR (dB)" in out
    assert (tmp_path / "figures" / "rendering.png").exists()


def two_pictures(height, width):
    rng = torch.Generator().manual_seed(6)
    true = torch.rand(height, width, 3, generator=rng, dtype=F64)
    return (true + 0.2 * torch.randn(true.shape, generator=rng, dtype=F64)).clamp(0, 1), true


def test_ssim_is_the_mean_over_windows():
    made, true = two_pictures(12, 13)
    gauss = np.array([[math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / (2 * 1.5**2)) for j in range(11)] for i in range(11)])
    gauss /= gauss.sum()
    found = []
    for i, j, c in np.ndindex(2, 3, 3):
        x, y = (t[i : i + 11, j : j + 11, c].numpy() for t in (made, true))
        mx, my = (gauss * x).sum(), (gauss * y).sum()
        vx, vy, both = ((gauss * (a - m) * (b - n)).sum() for a, m, b, n in ((x, mx, x, mx), (y, my, y, my), (x, mx, y, my)))
        found.append((2 * mx * my + 1e-4) * (2 * both + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))
    assert ssim(made, true) == pytest.approx(np.mean(found), rel=1e-9)
    assert ssim(true, true) == pytest.approx(1)
    assert 0 < ssim(made[:4], true[:4]) < 1  # smaller than a window


@pytest.mark.slow
def test_ssim_is_that_of_torchmetrics_which_continues_a_picture_by_its_mirror_image():
    metrics = pytest.importorskip("torchmetrics.functional.image")
    made, true = (t.movedim(-1, 0)[None] for t in two_pictures(20, 24))
    wanted = metrics.structural_similarity_index_measure(made, true, data_range=1.0)
    wide = (F.pad(t, (5, 5, 5, 5), mode="reflect")[0].movedim(0, -1) for t in (made, true))
    assert ssim(*wide) == pytest.approx(float(wanted), abs=1e-9)


@pytest.mark.skipif(not LEGO, reason="GRADLENS_LEGO names no lego100.npz")
def test_a_white_picture_of_the_lego_scene_has_its_known_psnr():
    config = make_config(task="views", data=LEGO, task_options={"premultiplied": True, "shrink": 2})
    test, task = load_data(config, RunContext()).test, TASKS["views"]
    assert len(test) == 10 * 50 * 50
    rows = []
    for some in torch.arange(len(test)).split(5000):  # batches that cross views
        made = task.batch(test.take(some), -1, config)
        empty = torch.full((len(some), 32, 4), -1.0)
        with step_context(made.context):
            rows.append(task.collect(empty, made.y))
    assert task.score(torch.cat(rows)) == pytest.approx(9.60, abs=0.005)


def test_a_validation_share_is_of_whole_training_views(scene):
    data = load_data(config_of(scene, validation=0.5), RunContext())
    assert data.test_name == "validation"
    assert len(data.train) == len(data.test) == 2 * 16
    assert not set(data.train.x[:, 0].tolist()) & set(data.test.x[:, 0].tolist())
    with pytest.raises(InputError, match="--validation 0.05 holds out 0 of 4 training views"):
        load_data(config_of(scene, validation=0.05), RunContext())


def test_weights_of_a_ray_and_its_rest_are_one():
    density = torch.randn(50, 8, generator=torch.Generator().manual_seed(7), dtype=F64)
    w = weights(density, torch.rand(50, 8, dtype=F64))
    assert (w >= 0).all()
    assert (w.sum(1) <= 1 + 1e-9).all()


def test_wrong_options_are_refused_in_one_sentence(scene, program, tmp_path):
    for flags, words in (
        (["--data", scene, "--set", "views.fine=4"], "views.fine is read by a pair of networks, and nerf-tiny is one"),
        (["--data", scene, "--set", "views.shrink=3"], "cannot be divided by 3: set views.shrink to a factor of both"),
        (["--data", scene, "--set", "views.near=7"], "near is 7 and far 6"),
        (["--data", scene, "--model", "mlp"], "--model mlp reads images, --task views has rays"),
        (["--data", scene, "--stem", "5"], "a network of coordinates has no convolution"),
        (["--data", scene, "--augment"], "--augment has no meaning for --task views"),
        (["--data", tmp_path / "none"], "unknown scene"),
    ):
        status, _, err = program("train", "bp", "--task", "views", *flags, "--batch-size", 8, "--out", tmp_path / "runs")
        assert (status, err.count("gradlens:")) == (2, 1)
        assert words in " ".join(err.split())
    assert not (tmp_path / "runs").exists()
    assert (
        DEPTHS
        not in TASKS["views"].batch(load_data(config_of(scene), RunContext()).train.take(torch.arange(2)), 0, config_of(scene)).context
    )


# -------------------------------------------------------------------------------------------------------------- the papers

OF_PAPERS = sorted((Path(__file__).parents[2] / "analyses" / "configs").glob("dfa-views-*.json"))


def test_configs_of_the_papers_have_their_numbers():
    assert len(OF_PAPERS) == 5
    for path in OF_PAPERS:
        c = make_config(**read_config_file(path))
        assert (c.task, c.model.name, c.batch_size, c.steps) == ("views", "nerf-pair", 1024, 500_000)
        assert (c.task_options["samples"], c.task_options["fine"]) == (64, 128)
        assert c.optimizer.lr == (5e-4 if c.method == "bp" else 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("path", OF_PAPERS, ids=lambda path: path.stem)
def test_the_papers_networks_take_two_steps(path, scene):
    c = make_config(**{**read_config_file(path), "data": scene, "batch_size": 8, "record_every": 1, "diagnose_every": 0})
    state = build_state(c, load_data(c, RunContext()), torch.device("cpu"))
    before = {name: p.detach().clone() for name, p in state.network.model.named_parameters()}
    losses = []
    for step in range(2):
        made, *_ = make_update(state, step)
        losses.append(float(made.loss))
        assert made.rows
    assert all(map(math.isfinite, losses))
    moved = {name for name, p in state.network.model.named_parameters() if not torch.equal(p, before[name])}
    assert {"top.head.rgb.bias", "top.head.alpha.bias"} <= moved
    assert (len(moved) > 8) is (c.method != "shallow")
