"""A block that waits for nothing is run, finished and freed before the next; whatever is kept or freed, the numbers are the same."""

import copy
import weakref

import pytest
import torch
from oracles import VARIANTS, Case, assert_same_bits, case, rule, step
from rule_cases import ISOLATED, RULES, silent
from torch import nn

from gradlens.gradients.backward import backward
from gradlens.gradients.method import Method


class Saved:
    """What autograd keeps for a backward pass; alive as long as the graph that needs it."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor.detach()  # an output with its graph would hold the graph that holds it


def events(method: Method, c: Case) -> list[tuple[str, int, int]]:
    """("run", k, kept tensors just before block k runs) and ("update", k, kept tensors when it is handed out)."""
    log, alive = [], weakref.WeakSet()

    def pack(tensor):
        alive.add(saved := Saved(tensor))
        return saved

    for k, block in enumerate(c.blocks):
        block.register_forward_pre_hook(lambda module, args, k=k: log.append(("run", k, len(alive))))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        for u in backward(method, method.forward(c.blocks, c.x, c.y)):
            k = u.k
            del u
            log.append(("update", k, len(alive)))
    return log


@pytest.mark.parametrize("name", [*ISOLATED, "silent"])
def test_an_isolated_block_is_run_finished_and_freed_before_the_next_is_run(name):
    c = case("mlp")
    n = len(c.model)
    method = silent(c) if name == "silent" else rule(name, c)
    waits = [k for k in range(n) if method.needs_above(k)]
    assert waits == ([] if name in ("silent", "shallow") else [n - 2])
    log = events(method, c)
    order = [(what, k) for what, k, _ in log]
    alone = [e for k in range(n - len(waits) - 1) for e in (("run", k), ("update", k))]
    last = [n - 1] if not waits else [n - 2, n - 1]
    assert order == [*alone, *(("run", k) for k in last), *(("update", k) for k in reversed(last))]
    assert [kept for what, k, kept in log if what == "run" and k <= last[0]] == [0] * (last[0] + 1)


@pytest.mark.parametrize("name", [name for name in RULES if name not in ISOLATED and name != "chunked"])
def test_a_rule_that_receives_a_message_goes_back_from_the_top_and_frees_as_it_goes(name):
    c = case("mlp")
    n = len(c.model)
    log = events(rule(name, c), c)
    assert [(what, k) for what, k, _ in log] == [*(("run", k) for k in range(n)), *(("update", k) for k in reversed(range(n)))]
    kept = [kept for what, _, kept in log if what == "update"]
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] == 0
    assert kept[0] > kept[-2]


@pytest.mark.parametrize("name", [name for name in ISOLATED if name != "dgl-async"])  # whose buffers hold what blocks gave
def test_nothing_of_a_finished_block_is_alive_while_the_next_runs(name):
    c = case("mlp")
    method, held, alive = rule(name, c), {}, []
    for k, block in enumerate(c.blocks):
        block.register_forward_pre_hook(
            lambda module, args, k=k: alive.extend((j, n, k) for (j, n), r in held.items() if j < k and r() is not None)
        )
    for u in backward(method, method.forward(c.blocks, c.x, c.y)):
        tensors = {"x": u.p.x, "h": u.p.h, "z": u.p.z, "delta": u.signal.delta}
        held.update({(u.k, n): weakref.ref(t) for n, t in tensors.items() if t is not None})
        del u, tensors
    # alive may be: the images themselves, the z that the running block reads, and what the last unit's first block read
    needed = {(0, "x"), *((k - 1, "z", k) for k in range(5)), (2, "z", 4)}
    assert alive
    assert not [(j, n, k) for j, n, k in alive if not {(j, n), (j, n, k)} & needed]


@pytest.mark.parametrize("name", RULES)
def test_input_gradients_are_computed_exactly_where_something_is_sent(name):
    log: list[int] = []

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, k):
            ctx.k = k
            return x.view_as(x)

        @staticmethod
        def backward(ctx, g):
            log.append(ctx.k)
            return g, None

    class AtTheInput(nn.Module):
        def __init__(self, k):
            super().__init__()
            self.k = k

        def forward(self, x):
            return Watched.apply(x, self.k)

    c = case("mlp" if name in VARIANTS else "basic-cnn")
    method = rule(name, c)
    blocks = [nn.Sequential(AtTheInput(k), block) for k, block in enumerate(c.model)]
    updates = list(backward(method, method.forward(blocks, c.x, c.y)))
    assert sorted(log) == sorted(u.k for u in updates if u.signal.messages_below and u.k)
    if name in ISOLATED:
        assert log == ([] if name == "shallow" else [len(blocks) - 1])  # inside the last unit only


@pytest.mark.parametrize("name", RULES)
def test_what_a_rule_uses_is_the_same_with_graphs_kept_or_freed(name):
    c = case("mlp" if name in VARIANTS else "basic-cnn", torch.float32)
    _, freed = step(rule(name, c), copy.deepcopy(c), lazily=True)
    _, kept = step(rule(name, c), copy.deepcopy(c))
    for k, u in kept.items():
        assert_same_bits(u.grad.params, freed[k].grad.params)
        assert_same_bits(dict(u.aux_grads), dict(freed[k].aux_grads))
