"""What blocks cost: sizes exactly, times only in their relations; the split over workers against trying every one."""

import copy
from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gradlens.methods import METHODS
from gradlens.runtime.errors import InputError
from gradlens.training.build import build_model_and_method
from gradlens.training.config import make_config
from gradlens.training.parallel.block_costs import block_costs
from gradlens.training.parallel.partition import allowed_cuts, partition

CPU, SHAPE, N = torch.device("cpu"), (1, 16, 16), 8
RULES = [name for name, rule in METHODS.items() if not rule.has_teacher]


def made(method, **settings):
    shape = (1, 32, 32) if method.startswith(("cpc", "infomax")) else SHAPE  # whose patches are a quarter
    config = make_config(**{"method": method, "model": "basic-cnn", "width": 8, "batch_size": N, **settings})
    pair = build_model_and_method(config, shape, 10, CPU)
    images = torch.randint(0, 256, (N, *shape), dtype=torch.uint8)
    x, y = pair.method.make_inputs(images, torch.arange(N) % 10, 0, lambda t: t.float().div(127.5).sub(1))
    return pair, config, x, y


@pytest.fixture(autouse=True)
def short_rounds(monkeypatch):
    monkeypatch.setattr("gradlens.training.parallel.block_costs.SHORTEST", 0.0)


def traces(pair):
    return [copy.deepcopy(module.state_dict()) for module in pair], torch.get_rng_state(), [m.training for m in pair]


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("method", RULES)
def test_every_rule_can_be_measured_and_no_trace_is_left(method):
    pair, config, x, y = made(method)
    before = traces(pair)
    costs = block_costs(pair, config, x, y, rounds=1)
    assert same(before, traces(pair))
    assert all(p.grad is None for module in pair for p in module.parameters())
    assert "learn" not in vars(pair.method)
    assert [cost.name for cost in costs] == pair.block_names()
    for cost in costs:
        assert 0 <= cost.learn <= cost.backward
        assert 0 <= cost.own_update <= cost.update
        assert cost.kept_bytes >= cost.graph_bytes >= 0
        assert cost.seconds == cost.forward + cost.backward + cost.update
    assert costs[0].forward > 0
    assert any(cost.backward > 0 and cost.update > 0 for cost in costs)


def test_sizes_of_backprop_are_what_its_tensors_say():
    pair, config, x, y = made("bp")
    costs = block_costs(pair, config, x, y, rounds=1)
    h = x
    for k, (block, cost) in enumerate(zip(pair.model, costs, strict=True)):
        read, h = h, block(h)
        assert cost.activation_bytes == h.numel() * 4
        assert cost.message_bytes == (read.numel() * 4 if k else 0)
        weights = sum(p.numel() for p in block.parameters()) * 4
        held = 4 * weights + 4 * len(list(block.parameters()))  # the gradient, Adam's two moments and its counter of steps
        assert cost.kept_bytes - cost.graph_bytes == held
        assert cost.graph_bytes >= cost.activation_bytes


class Squares(nn.Module):
    """h = x² · w: autograd keeps x, which is the block's input, x² and no more."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return (x * x) * self.w


def test_a_graph_holds_what_autograd_saved_and_the_output():
    pair, config, x, y = made("bp", model="mlp", width=16)
    for k in (1, 2):
        pair.model[k] = Squares()
    costs = block_costs(pair, config, x, y, rounds=1)
    for k in (1, 2):
        assert costs[k].graph_bytes == 2 * costs[k].activation_bytes  # x² and h


def test_a_rule_that_sends_nothing_has_no_messages_and_own_modules_count_at_their_block():
    pair, config, x, y = made("dgl")
    bp_pair, *rest = made("bp")
    costs, plain = block_costs(pair, config, x, y, rounds=1), block_costs(bp_pair, *rest, rounds=1)
    assert [c.message_bytes > 0 for c in costs] == [False, False, False, True]  # the top and the last block are one unit
    assert [c.own_update > 0 for c in costs] == [True, True, False, False]
    for k in (0, 1):
        head = sum(p.numel() for p in pair.method.heads[str(k)].parameters())
        tensors = len(list(pair.method.heads[str(k)].parameters()))
        assert costs[k].kept_bytes - costs[k].graph_bytes == plain[k].kept_bytes - plain[k].graph_bytes + 16 * head + 4 * tensors
        assert costs[k].graph_bytes == plain[k].graph_bytes


def test_a_synthesiser_s_regression_is_distinguished():
    costs = block_costs(*made("dni"), rounds=1)
    assert all(c.learn > 1e-5 and c.own_update > 0 for c in costs[:-1])
    assert costs[-1].own_update == 0


def test_weights_of_the_optimiser_s_state_follow_the_optimiser():
    pair, config, x, y = made("bp", optimizer="sgd")
    for block, cost in zip(pair.model, block_costs(pair, config, x, y, rounds=1), strict=True):
        assert cost.kept_bytes - cost.graph_bytes == 8 * sum(p.numel() for p in block.parameters())  # weights and gradients


# ----------------------------------------------------------------------------------------------------------------- cuts


def test_where_rules_can_be_parted():
    assert allowed_cuts(made("bp")[0].method) == [1, 2, 3]
    assert allowed_cuts(made("dni")[0].method) == [1, 2, 3]
    assert allowed_cuts(made("dfa")[0].method) == [1, 2, 3]
    assert allowed_cuts(made("dgl")[0].method) == [1, 2]
    assert allowed_cuts(made("dgl-async")[0].method) == [1, 2]
    assert allowed_cuts(made("overlap")[0].method) == []
    assert allowed_cuts(made("simclr-local")[0].method) == [1, 2]  # and no one gets the top, which it does not run
    assert allowed_cuts(made("chunked", model="mlp", depth=4, options={"chunks": 2})[0].method) == [2]


def every_split(costs, parts, allowed):
    """All splits as bounds, the lowest cuts first."""
    return [[0, *cuts, len(costs)] for cuts in combinations(sorted(allowed), parts - 1)]


@given(st.data())
def test_the_split_is_the_first_of_the_best_ones(data):
    costs = data.draw(st.lists(st.sampled_from([0, 1, 2, 3, 5, 8, 40]), min_size=1, max_size=8))
    allowed = data.draw(st.sets(st.integers(1, max(1, len(costs) - 1)), max_size=7)) & set(range(1, len(costs)))
    parts = data.draw(st.integers(1, len(allowed) + 1))
    found = partition(costs, parts, allowed)
    best = min(every_split(costs, parts, allowed), key=lambda bounds: max(sum(costs[a:b]) for a, b in pairwise(bounds)))
    assert found == [range(a, b) for a, b in pairwise(best)]


def test_more_workers_than_the_blocks_can_be_parted_for_are_refused():
    with pytest.raises(InputError, match="4 blocks cannot be split over 4 workers: they can be split at 2 places, for 3"):
        partition([1, 1, 1, 1], 4, [1, 2])
    with pytest.raises(InputError, match="1 worker or more, not 0"):
        partition([1.0], 0, [])
