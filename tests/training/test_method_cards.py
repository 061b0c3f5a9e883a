"""The card of every rule: locks against a table written by hand, own numbers against counts, costs from one interleaved run."""

import pytest
import torch

from gradlens.methods import METHODS
from gradlens.reporting.benchmarks import cards_table
from gradlens.training.config import make_config
from gradlens.training.cost.method_cards import cards, own_numbers

LOCKS = {  # forward, update, backward locked; labels told to every block (Jaderberg et al. 2017, §1)
    "bp": (True, True, True, False),
    "dgl": (True, False, False, True),
    "dgl-async": (False, False, False, True),
    "dni": (True, False, False, False),
    "cdni": (True, False, False, True),
    "dni-unlocked": (False, False, False, False),
    "chunked": (True, True, True, True),
    "overlap": (True, True, True, True),
    "greedy": (True, False, False, True),
    "predsim": (True, False, False, True),
    "infopro": (True, False, False, True),
    "shallow": (True, False, False, False),
    "fa": (True, True, True, False),
    "usf": (True, True, True, False),
    "brsf": (True, True, True, False),
    "frsf": (True, True, True, False),
    "kp": (True, True, True, False),
    "dfa": (True, True, False, False),
    "simclr": (True, True, True, False),
    "simclr-local": (True, False, False, False),
    "loco": (True, True, True, False),
    "cpc": (True, True, True, False),
    "cpc-local": (True, False, False, False),
    "infomax": (True, False, False, False),
    "context-encoder": (True, True, True, False),
    "context-encoder-local": (True, False, False, False),
    "distil": (True, True, True, False),
}


@pytest.mark.parametrize("name", METHODS)
def test_locks_are_what_the_literature_says(name):
    assert tuple(METHODS[name].locks()) == LOCKS[name]


def test_own_numbers_are_those_of_heads_synthesisers_and_feedback():
    def count(name, **options):
        return own_numbers(make_config(method=name, data="cifar10", options=options), torch.device("cpu"))

    heads = sum(n * 256 + 256 + 256 * 10 + 10 for n in (128 * 16 * 16, 128 * 8 * 8))
    matrices = 3 * 128 * 25 + 2 * 128 * 128 * 25 + 2048 * 256 + 256 * 10
    assert count("bp") == count("shallow") == count("usf") == (0, 0)
    assert count("dgl") == (heads, 0)
    assert count("fa") == (0, matrices)
    assert count("kp") == (matrices, 0)
    assert count("dfa") == (0, 10 * 128 * (16 * 16 + 8 * 8 + 4 * 4))
    assert count("dfa", shared=True) == (0, 10 * 128 * 16 * 16)


@pytest.mark.slow
def test_costs_are_relative_to_backprops_in_the_same_run():
    bp, dfa = cards(torch.device("cpu"), methods=("bp", "dfa"), rounds=1)
    assert (bp.method, dfa.method) == ("bp", "dfa")
    assert bp.flop_ratio == bp.rate_ratio == bp.memory_ratio == 1
    assert dfa.flop_ratio < 0.75
    assert dfa.rate_ratio > 0
    assert [column.name for column in cards_table([bp, dfa], rounds=1).columns][:2] == ["method", "fwd"]
