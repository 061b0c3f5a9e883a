"""Chance and noise levels of tasks whose rows are no images, against ``loss.backward()`` on permuted signals and on halves of a batch."""

import copy

import pytest
import torch
import toy_tasks
from task_cases import a_step, backward_on_a_copy, config_of, cut_copy, mean_loss, state_of, term_of_tokens

from gradlens.gradients.diagnostics import sparse_rows
from gradlens.gradients.layer_names import parameter_kind
from gradlens.gradients.true_gradient import true_gradients
from gradlens.runtime.rng import generator

CASES = [(task, rule) for task in ("tokens", "language", "graphs") for rule in ("bp", "dgl", "dfa" if task == "graphs" else "dfa inside")]
FEW = [("tokens", "dgl"), ("language", "dfa inside"), ("graphs", "bp"), ("graphs", "dfa")]


def some():
    """All cases; by default those in which rows are permuted and halved in each of the ways."""
    found = [pytest.param(*case, marks=[pytest.mark.slow] * (case not in FEW)) for case in CASES]
    return pytest.mark.parametrize(("task", "rule"), found)


@pytest.fixture(autouse=True)
def tasks():
    toy_tasks.register()
    yield
    toy_tasks.forget()


def cosine(a, b):
    a, b = a.flatten(), b.flatten()
    return float(a @ b / (a @ a).sqrt() / (b @ b).sqrt())


def signals(state, rule, x, y):
    """The rule's error signal at each block's output, by plain code; of dfa also those at points inside blocks, by their keys."""
    method, terms = state.network.method, state.network.method.terms
    if rule == "bp":
        return {k: h.grad for k, h in enumerate(backward_on_a_copy(state, x, y)[1])}
    if rule == "dgl":
        found, heads, n = {}, copy.deepcopy(method.heads), len(state.network.model)
        for first, last in [*((k, k) for k in range(n - 2)), (n - 2, n - 1)]:
            _, hs, _ = cut_copy(state, x, first)
            loss = mean_loss(hs[last] if last == n - 1 else heads[str(last)](hs[last]), y)
            for k in terms:
                loss = loss + (term_of_tokens(hs[k], y) if first <= k <= last else 0)
            loss.backward()
            found |= {k: hs[k].grad for k in range(first, last + 1)}
        return found
    _, hs, inside = cut_copy(state, x, None, points=True)
    (e,) = torch.autograd.grad(mean_loss(hs[-1], y), hs[-1], retain_graph=True)
    found = {k: e if k == len(hs) - 1 else e @ method.matrix(k) for k in range(len(hs))}
    for k in terms:
        found[k] = found[k] + torch.autograd.grad(term_of_tokens(hs[k], y), hs[k], retain_graph=True)[0]
    return found | {name: e @ method.matrix(name) for name in inside}


def pulled_back(state, x, signal):
    """The gradients of the weights, by parameter, of error signals at the ends of blocks and at points inside them."""
    twin, hs, inside = cut_copy(state, x, None, points=True)
    for k, h in enumerate(hs):
        h.backward(signal[k], retain_graph=True)
    for name, h in inside.items():
        h.backward(signal[name], retain_graph=True)
    return weights(twin)


def weights(model):
    return {parameter_kind(name): p.grad for name, p in model.named_parameters() if p.ndim > 1}


def order_of(state, task, signal, y):
    """The row that each row gets: of all sequences, or of the nodes that have a signal at this block."""
    draw = generator(state.config.seed, "null", 0)
    if task != "graphs":
        return torch.randperm(len(y), generator=draw)
    have = [i for i, row in enumerate(signal.tolist()) if any(row)]
    order = list(range(len(y)))
    for place, taken in zip(have, torch.randperm(len(have), generator=draw).tolist(), strict=True):
        order[place] = have[taken]
    return torch.tensor(order)


def halves_of(state, task, x, y):
    """Two halves of the sequences, or of the labels on the whole graph."""
    draw = generator(state.config.seed, "halves", 0)
    if task != "graphs":
        return [(x[rows.sort().values], y[rows.sort().values]) for rows in torch.randperm(len(y), generator=draw).chunk(2)]
    labelled = (y >= 0).nonzero()[:, 0]
    parts = labelled[torch.randperm(len(labelled), generator=draw)].chunk(2)
    return [(x, torch.where(torch.isin(torch.arange(len(y)), part), y, -1)) for part in parts]


def measured(state):
    """The rows of a step, and its batch: {(layer, quantity): value}."""
    method, names = state.network.method, state.network.block_names()
    x, y, step = a_step(state)
    truth = true_gradients(method, step, keep=True)
    return {(row.layer, row.kind, row.quantity): row.value for row in sparse_rows(0, names, method, step, truth)}, x, y


@some()
def test_the_chance_level_is_the_cosine_of_signals_whose_rows_are_permuted(task, rule):
    state = state_of(config_of(task, rule))
    with state.batches.sharded(0):
        found, x, y = measured(state)
        signal = signals(state, rule, x, y)
        orders = {k: order_of(state, task, d, y) for k, d in signal.items() if isinstance(k, int)}
        moved = {k: d[orders[k if isinstance(k, int) else int(k.split("/")[0])]] for k, d in signal.items()}
        used, plain, true = pulled_back(state, x, moved), pulled_back(state, x, signal), weights(backward_on_a_copy(state, x, y)[0])
    if task == "graphs" and rule == "dfa":
        assert all(torch.equal(d.ne(0).any(1), y >= 0) for d in signal.values())
    values = [found[(*place, "null_cosine")] for place in true]
    assert values == pytest.approx([cosine(used[place], t) for place, t in true.items()], rel=1e-8, abs=1e-10)
    assert values != pytest.approx([cosine(plain[place], t) for place, t in true.items()], rel=1e-2)


@some()
def test_noise_levels_are_cosines_of_the_gradients_of_two_halves(task, rule):
    state = state_of(config_of(task, rule))
    with state.batches.sharded(0):
        found, x, y = measured(state)
        parts = halves_of(state, task, x, y)
        assert sum(int((part >= 0).sum()) for _, part in parts) == int((y >= 0).sum())
        used = [pulled_back(state, a, signals(state, rule, a, b)) for a, b in parts]
        true = [weights(backward_on_a_copy(state, a, b)[0]) for a, b in parts]
    (g, h), (t, u) = used, true
    for place in t:
        ceiling, across = cosine(t[place], u[place]), (cosine(g[place], u[place]) + cosine(h[place], t[place])) / 2
        wanted = {"noise_ceiling": ceiling, "rule_ceiling": cosine(g[place], h[place]), "across_halves": across}
        wanted["corrected_cosine"] = across / ceiling
        for quantity, value in wanted.items():
            assert found[(*place, quantity)] == pytest.approx(value, rel=1e-8, abs=1e-10), (place, quantity)
