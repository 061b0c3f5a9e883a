"""Recording leaves no trace: weights, buffers, the optimiser's state and random streams are the same to the bit with it and without."""

import re

import pytest
import shelf
import torch
from oracles import SUPERVISED, UNLABELLED, assert_same_bits, batches, case, frozen
from rule_cases import EVERYWHERE, IMAGES, every_rule, everything, holds, posed, synthetic_inputs, tiny_pair
from tiny_runs import learned, same_state, tiny
from torch import nn

from gradlens.data.transforms import normalizer
from gradlens.methods import METHODS
from gradlens.training.build import ModelAndMethod
from gradlens.training.config import make_config
from gradlens.training.context import RunContext
from gradlens.training.optimizers import make_optimizer
from gradlens.training.runs.train_run import train_run
from gradlens.training.step import Recording, training_step


@every_rule("leaves no trace")
def test_training_is_the_same_with_recording_on_and_off(name, network):
    holds("leaves no trace", name, network)


def trained(pair: ModelAndMethod, recorded: set[int]) -> tuple[dict[str, torch.Tensor], list[int], list[torch.Tensor]]:
    torch.manual_seed(4)
    optimizer = make_optimizer(make_config(lr=0.01), pair)
    rows, losses = [], []
    for i, (x, y) in enumerate(batches(case("mlp", torch.float32), 4)):
        pair.method.start(1, i)
        outcome = training_step(pair, optimizer, x, y, Recording(i) if i in recorded else None, bf16=True)
        rows.append(len(outcome.rows))
        losses += [outcome.loss, outcome.hits]
    return everything(pair, optimizer), rows, losses


@pytest.mark.parametrize("name", SUPERVISED)
def test_recording_in_bf16_leaves_no_trace(name):
    """Weights, buffers, the rule's own state, the optimiser's, and the global random stream: bit-identical."""
    want, silent, losses = trained(tiny_pair(name), set())
    assert silent == [0] * 4
    for recorded in ({0, 1, 2, 3}, {1, 3}):
        got, rows, same = trained(tiny_pair(name), recorded)
        assert {i for i, n in enumerate(rows) if n} == recorded
        assert_same_bits(got, want)
        assert all(torch.equal(a, b) for a, b in zip(same, losses, strict=True))
    trained_layer = "top.out" if name == "shallow" else "block1.conv"
    assert not torch.equal(want[f"model.{trained_layer}.weight"], tiny_pair(name).model.get_submodule(trained_layer).weight)


@pytest.mark.parametrize("name", UNLABELLED)
def test_recording_and_diagnosing_without_labels_in_bf16_leaves_no_trace(name):
    ends = []
    for recorded in (set(), {0, 1, 2}, {1}):
        torch.manual_seed(4)
        method, c = posed(name, torch.float32)
        c.model[0].append(nn.Dropout(0.3))  # draws from the global stream
        pair = ModelAndMethod(c.model, method)
        optimizer = make_optimizer(make_config(lr=0.01), pair)
        for i in range(3):
            method.start(1, i)
            to_input = normalizer("pm1", IMAGES)
            x, y = method.make_inputs(IMAGES, torch.arange(6), i, to_input)
            found = training_step(pair, optimizer, x, y, Recording(i, diagnose=True) if i in recorded else None, bf16=True).rows
            assert bool(found) == (i in recorded)
        ends.append({**frozen(c.model), **frozen(method), "stream": torch.get_rng_state()})
    assert_same_bits(ends[1], ends[0])
    assert_same_bits(ends[2], ends[0])


def test_recording_a_rule_whose_truth_needs_a_pass_of_its_own_leaves_no_trace():
    ends = []
    for recorded in (None, Recording(0)):
        torch.manual_seed(4)
        method, c = synthetic_inputs(torch.float32)
        pair = ModelAndMethod(c.model, method)
        optimizer = torch.optim.Adam(method.param_groups(c.blocks), lr=0.01)
        for i, (x, y) in enumerate(batches(c, 3)):
            torch.manual_seed(i)
            assert bool(training_step(pair, optimizer, x, y, recorded).rows) == (recorded is not None)
        ends.append(everything(pair, optimizer))
    assert_same_bits(*ends)


def steps_of(rows):
    return [row for row in map(repr, rows) if int(re.search(r"step=(\d+)", row)[1]) % 2 == 0]


@pytest.mark.parametrize("method", [pytest.param(name, marks=[pytest.mark.slow] * (name not in EVERYWHERE)) for name in METHODS])
def test_a_run_recorded_at_every_step_learns_and_records_the_same(method, tmp_path):
    whole = shelf.trained(tiny(method))  # records every second step
    run = train_run(tiny(method, record_every=1, keep_checkpoints=0), RunContext(out=tmp_path))
    assert same_state(learned(whole), learned(run))
    assert (run.path / "metrics.csv").read_bytes() == (whole.path / "metrics.csv").read_bytes()
    assert {r.step for r in run.gradients} == set(range(24))
    assert steps_of(run.gradients) == list(map(repr, whole.gradients))
