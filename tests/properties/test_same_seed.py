"""Two runs with one seed are the same to the bit, whatever was drawn before."""

import pytest
import shelf
import torch
from rule_cases import EVERYWHERE, every_rule, holds
from tiny_runs import assert_same_bits, tiny

from gradlens.methods import METHODS
from gradlens.training.context import RunContext
from gradlens.training.runs.train_run import train_run


@every_rule("seed")
def test_two_trainings_with_one_seed_are_the_same_and_making_a_rule_draws_nothing(name, network):
    holds("seed", name, network)


@pytest.mark.parametrize("method", [pytest.param(name, marks=[pytest.mark.slow] * (name not in EVERYWHERE)) for name in METHODS])
def test_same_seed_same_bits(method, tmp_path):
    torch.manual_seed(12345)  # whatever the global stream holds
    torch.rand(7)
    assert_same_bits(shelf.trained(tiny(method)), train_run(tiny(method), RunContext(out=tmp_path)))
