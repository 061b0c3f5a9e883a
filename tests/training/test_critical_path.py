"""The critical path of an update, against chains written out by hand."""

import pytest
from oracles import case, rule

from gradlens.training.cost.critical_path import step_cost, windows_of
from gradlens.training.parallel.block_costs import BlockCost

FORWARD, BACKWARD, UPDATE = [3.0, 5.0, 7.0, 11.0, 2.0], [30.0, 50.0, 70.0, 90.0, 20.0], [0.3, 0.5, 0.7, 0.9, 0.2]
COSTS = [
    BlockCost(str(k), f, b, u, 0, 0, 0, 0, 0.0, 0.0) for k, (f, b, u) in enumerate(zip(FORWARD, BACKWARD, UPDATE, strict=True))
]  # of four blocks and the output block, which is one unit with the fourth
TOTAL = sum(FORWARD) + sum(BACKWARD) + sum(UPDATE)


def made(name, **options):
    c = case("mlp")
    assert len(c.blocks) == 5
    return rule(name, c, **options)


def after(first, last, forward_from=0):
    """Forward from a block to the end of a window, then backward and update of the window's blocks."""
    inside = slice(first, last + 1)
    return sum(FORWARD[forward_from : last + 1]) + sum(BACKWARD[inside]) + sum(UPDATE[inside])


@pytest.mark.parametrize(
    ("name", "options", "windows"),
    [
        ("bp", {}, [(0, 4)]),
        ("fa", {}, [(0, 4)]),
        ("chunked", {"chunks": 2}, [(0, 1), (2, 4)]),
        ("overlap", {"window": 2}, [(0, 1), (1, 2), (2, 4)]),
        ("dgl", {}, [(0, 0), (1, 1), (2, 2), (3, 4)]),
        ("dni", {}, [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)]),
        ("dni", {"at": [2]}, [(0, 1), (2, 4)]),
    ],
)
def test_the_longest_window_is_the_critical_path(name, options, windows):
    method = made(name, **options)
    assert windows_of(method, 5) == windows
    cost = step_cost(method, COSTS)
    assert cost.total == pytest.approx(TOTAL)
    assert cost.sequential == pytest.approx(max(after(first, last) for first, last in windows))
    assert cost.buffered == pytest.approx(max(after(first, last, first) for first, last in windows))


def test_backprop_cannot_be_shortened_and_reach_orders_the_rest():
    costs = {name: step_cost(made(name), COSTS) for name in ("bp", "chunked", "overlap", "dgl")}
    assert costs["bp"].sequential == costs["bp"].buffered == pytest.approx(costs["bp"].total)
    assert costs["bp"].sequential > costs["chunked"].sequential > costs["dgl"].sequential
    assert costs["overlap"].sequential >= costs["dgl"].sequential


def test_direct_feedback_waits_for_the_output_and_then_for_one_block():
    cost = step_cost(made("dfa"), COSTS)
    assert cost.sequential == pytest.approx(sum(FORWARD) + BACKWARD[4] + max(b + u for b, u in zip(BACKWARD[:4], UPDATE[:4], strict=True)))
    assert cost.buffered == cost.sequential
    assert cost.total == pytest.approx(TOTAL)
