"""What only an accelerator can show: no waiting for the device within a step, and the same numbers as on the CPU."""

import math

import pytest
import torch

from gradlens.data.datasets import load
from gradlens.methods import METHODS
from gradlens.training.build import build_model_and_method
from gradlens.training.config import make_config
from gradlens.training.context import RunContext, load_data
from gradlens.training.loop import fit, make_update
from gradlens.training.runs.build_state import build_state
from gradlens.training.step import Recording, training_step

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

SUPERVISED = [name for name, rule in METHODS.items() if rule.classifies and not rule.has_teacher]
LISTED = ("bp", "dgl", "dni", "cdni")  # the rules of the full-size list


def training(method, **changes):
    settings = {"data": "digits", "width": 8, "batch_size": 64, "epochs": 2, "record_every": 0, "limit": 512, **changes}
    config = make_config(method=method, **settings)
    return build_state(config, load("digits", limit=config.data.limit, seed=config.seed), torch.device("cuda"))


SGD = {"optimizer": "sgd", "momentum": 0.9, "lr": 0.01}
PUBLISHED = {"options": {"target": "mean", "zero_bias": False}}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize(
    ("method", "changes"), [*((m, {}) for m in LISTED), ("bp", SGD), ("dgl", SGD), ("dni", PUBLISHED), ("cdni", PUBLISHED)]
)
def test_a_step_waits_for_nothing(method, changes, augment, precision):
    t = training(method, augment=augment, precision=precision, lr_schedule="cosine", warmup=2, **changes)
    for step in range(3):  # libraries set themselves up, the optimiser makes its state, the epoch's order is drawn
        make_update(t, step)
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        for step in range(3, 7):
            make_update(t, step)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def full_float32():
    """Convolutions and products in float32 proper, not TF32; put back afterwards."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.usefixtures("full_float32")
@pytest.mark.parametrize("method", SUPERVISED)
def test_one_step_on_the_gpu_is_one_on_the_cpu(method):
    found = []
    for device in ("cpu", "cuda"):
        pair = build_model_and_method(make_config(method=method, data="digits", width=8), (1, 8, 8), 10, torch.device(device))
        x = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)).mul(2).sub(1)
        y = torch.arange(16) % 10
        optimizer = torch.optim.SGD(pair.method.param_groups(list(pair.model)), lr=0.1)
        pair.method.start(1, 0)
        outcome = training_step(pair, optimizer, x.to(device), y.to(device), Recording(0))
        found.append((float(outcome.loss), {n: p.detach().cpu() for n, p in pair.model.named_parameters()}, outcome.rows))
    (loss, weights, rows), (loss_gpu, weights_gpu, rows_gpu) = found
    assert loss == pytest.approx(loss_gpu, rel=1e-4)
    for name, weight in weights.items():
        torch.testing.assert_close(weights_gpu[name], weight, rtol=1e-3, atol=1e-5)
    for row, other in zip(rows, rows_gpu, strict=True):
        assert row[:4] == other[:4]
        if row.quantity == "cosine" and math.isfinite(row.value):
            assert row.value == pytest.approx(other.value, abs=5e-3)


@pytest.mark.parametrize("method", LISTED)
def test_bf16_learns_on_the_gpu(method):
    t = training(method, precision="bf16", limit=1024, epochs=12, lr=1e-3)
    summary = fit(t)
    assert summary["updates"] == t.batches.total
    assert t.position.best["test"] > 0.3


def test_recording_leaves_no_trace_on_the_gpu():
    ends = []
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        for record_every in (0, 1):
            t = training("dgl", record_every=record_every, diagnose_every=1 if record_every else 0)
            fit(t)
            ends.append([p.detach().clone() for p in t.network.model.parameters()])
    finally:
        torch.use_deterministic_algorithms(False)
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(
            a, b, rtol=1e-5, atol=1e-6
        )  # cuDNN's own choice of algorithm may differ, a trace would not be this small


OTHER_TASKS = {"language": {"width": 8, "depth": 2, "heads": 2, "batch_size": 4}, "graphs": {"data": "blocks"}}
RULES = ("bp", "dfa", "dgl", "fa", "dni", "shallow")


def of_task(task, method, device, tmp_path, **more):
    """The beginning of a run on text or on a graph."""
    settings = {"task": task, **OTHER_TASKS[task], "record_every": 1, "diagnose_every": 0, **more}
    if task == "language":
        (tmp_path / "text.txt").write_text("to be, or not to be, that is the question: " * 60, encoding="utf-8")
        settings |= {"data": str(tmp_path / "text.txt"), "task_options": {"length": 8}}
    config = make_config(method=method, **settings)
    return build_state(config, load_data(config, RunContext()), torch.device(device))


@pytest.mark.usefixtures("full_float32")
@pytest.mark.parametrize("method", RULES)
@pytest.mark.parametrize("task", OTHER_TASKS)
def test_text_and_graphs_give_the_cpus_numbers(task, method, tmp_path):
    found = []
    for device in ("cpu", "cuda"):
        state = of_task(task, method, device, tmp_path, dropout=0.0, **({"lr": 1e-3} if task == "graphs" else {}))
        made, *_ = make_update(state, 0)
        weights = {name: p.detach().cpu() for name, p in state.network.model.named_parameters()}
        found.append((float(made.loss), weights, {row[:4]: row.value for row in made.rows if row.quantity == "cosine"}))
    (loss, weights, cosines), (loss_gpu, weights_gpu, cosines_gpu) = found
    assert loss == pytest.approx(loss_gpu, rel=1e-4)
    assert cosines.keys() == cosines_gpu.keys()
    for key, value in cosines.items():
        assert value == pytest.approx(cosines_gpu[key], abs=5e-3, nan_ok=True)
    for name, weight in weights.items():  # adam's first step is lr · sign: a gradient near 0 may have the other sign
        near = torch.isclose(weights_gpu[name], weight, rtol=1e-3, atol=1e-5)
        assert near.double().mean() > 0.98, name


@pytest.mark.parametrize("method", RULES)
@pytest.mark.parametrize("task", OTHER_TASKS)
def test_a_step_on_text_and_graphs_waits_for_nothing(task, method, tmp_path):
    state = of_task(task, method, "cuda", tmp_path, record_every=0)
    for step in range(3):
        make_update(state, step)
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        for step in range(3, 6):
            make_update(state, step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
