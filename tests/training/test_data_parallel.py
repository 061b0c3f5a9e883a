"""Several ranks, each with a part of every batch, are one process with the whole of it: over every rule there is."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from oracles import needed
from ranks import alone, together
from torch import nn

from gradlens.data.datasets import load
from gradlens.gradients.rows import Measurement
from gradlens.methods import METHODS
from gradlens.runtime.process_group import ProcessGroup
from gradlens.training.config import Config, make_config
from gradlens.training.evaluation import evaluate
from gradlens.training.optimizers import make_optimizer
from gradlens.training.runs.build_state import build_state
from gradlens.training.saving import checkpoint_of
from gradlens.training.step import Recording, training_step

pytestmark = pytest.mark.torchrun
STEPS, RANKS = 2, 2
NOISE = 1e-12
COUNTS = ("zeros", "true_zeros", "sign_agreement")  # of exact zeros and signs, where another order of a sum leaves 1e-18
NORMALISERS = (nn.BatchNorm1d, nn.BatchNorm2d)


def without_normalisation(module: nn.Module) -> None:
    for parent in module.modules():
        for name, child in parent.named_children():
            if isinstance(child, NORMALISERS):
                setattr(parent, name, nn.Identity())


def settings(name: str, ranks: int, synchronised: bool) -> Config:
    """24 images in batches of 13 and 11: no part is as large as the other."""
    shared = {"ranks": ranks, "parallel": "data", "sync_batchnorm": synchronised} if ranks > 1 else {}
    options = {"dgl-async": {"buffer": 2}, "distil": {"alpha": 0.4}}.get(name, {})
    asked = {"width": 4, "limit": 24, "batch_size": 13, "epochs": 3, "lr": 0.01, "optimizer": "sgd", "augment": METHODS[name].classifies}
    if name.startswith("simclr") or name == "loco":  # fewer dead units: the normalised output of an image without any is noise
        asked["width"] = 12
    if name == "dgl-async":  # whose stored batches must be of one size
        asked["batch_size"] = 12
    return make_config(method=name, **{**asked, **needed(name), "options": options, **shared})


def trained(world: ProcessGroup, names: Sequence[str], synchronised: bool) -> dict[str, Any]:
    """Two updates of each rule in float64, all recorded (without BatchNorm diagnosed too): weights, rows and what was reported."""
    return {name: _trained(world, settings(name, world.num_ranks, synchronised), synchronised) for name in names}


def _trained(world: ProcessGroup, config: Config, synchronised: bool) -> dict[str, Any]:
    data = load("digits", limit=24)
    state = build_state(config, data, torch.device("cpu"), world)
    network, batches = state.network, state.batches
    for module in network:
        if not synchronised:
            without_normalisation(module)
        module.double()
    if METHODS[config.method].has_teacher:
        taught = network.method.teacher
        # image by image: how its float32 rounds depends on the number of images
        network.method.teacher = lambda images: torch.cat([taught(image[None].float()) for image in images]).double()
    optimizer = make_optimizer(config, network)
    narrow, batches.to_input = batches.to_input, lambda images: narrow(images).double()
    rows: list[Measurement] = []
    reported = []
    for step in range(STEPS):
        with batches.sharded(step):
            x, y = batches.batch(step)
            network.method.start(step + 1, step)
            torch.manual_seed(step)
            made = training_step(network, optimizer, x, y, Recording(step, diagnose=not synchronised))
        rows += made.rows
        reported.append((float(made.loss), int(made.hits), made.items, int(made.answered)))
    state.stage.share_buffers()
    return {
        "weights": checkpoint_of(state)["model"],
        "own": [p.detach() for p in network.method.parameters()],
        "rows": [tuple(row) for row in rows],
        "reported": reported,
        "evaluated": evaluate(network, state.test, batches.to_input, config, world),
    }


def near(a: torch.Tensor, b: torch.Tensor, tolerance: float) -> bool:
    return bool((a.double() - b.double()).norm() <= tolerance * (1e-3 + b.double().norm()))


@pytest.fixture(scope="module", params=[False, True], ids=["no BatchNorm", "synchronised"])
def both(request, tmp_path_factory):
    """What one process and what two ranks make of every rule, and how near they must be."""
    synchronised = request.param
    one = alone(trained, list(METHODS), synchronised)
    two = together(RANKS, trained, tmp_path_factory.mktemp("ranks"), list(METHODS), synchronised)
    return one, two, 1e-6 if synchronised else 1e-10


@pytest.mark.parametrize("name", METHODS)
def test_two_ranks_with_half_a_batch_each_are_one_process(both, name):
    one, ranks, tolerance = both
    for two in ranks:
        for key, w in one[name]["weights"].items():
            assert near(two[name]["weights"][key], w, tolerance), key
        for w, v in zip(one[name]["own"], two[name]["own"], strict=True):
            assert near(v, w, tolerance)
        for a, b in zip(one[name]["reported"], two[name]["reported"], strict=True):
            assert b[0] == pytest.approx(a[0], rel=tolerance)
            assert b[1:] == a[1:]
        assert two[name]["evaluated"] == pytest.approx(one[name]["evaluated"], rel=tolerance, nan_ok=True)


@pytest.mark.parametrize("name", METHODS)
def test_the_recorder_reports_the_reduced_gradient(both, name):
    one, ranks, tolerance = both
    still = {row[1:3] for row in one[name]["rows"] if row[3] == "true_norm" and row[4] < NOISE}  # rounding noise: a bias before BatchNorm
    for two in ranks:
        for mine, theirs in zip(one[name]["rows"], two[name]["rows"], strict=True):
            assert mine[:4] == theirs[:4]
            assert mine[5] == theirs[5]
            if mine[3] in COUNTS or (mine[1], mine[2]) in still or abs(mine[4]) > 1 / NOISE:  # a ratio to noise
                continue
            if mine[3] == "angle":  # an angle of 0 is known to the root of what its cosine is known to
                mine, theirs = ((*row[:4], math.cos(math.radians(row[4]))) for row in (mine, theirs))
            assert theirs[4] == pytest.approx(mine[4], rel=1e4 * tolerance, abs=1e4 * tolerance, nan_ok=True), mine
