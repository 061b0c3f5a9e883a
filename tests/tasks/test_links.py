"""The link task: loss and scores against explicit sums, how edges are divided, and that no held-out edge reaches a gradient."""

import math
from itertools import product

import pytest
import torch

from gradlens.data.graphs import load_graph
from gradlens.runtime.errors import InputError
from gradlens.runtime.rng import generator
from gradlens.runtime.step_context import current_context
from gradlens.tasks import links
from gradlens.tasks.links import divided, link_loss, other_pairs, ranked
from gradlens.tasks.registry import TASKS
from gradlens.training.config import make_config
from gradlens.training.context import RunContext, load_data
from gradlens.training.loop import fit
from gradlens.training.runs.build_state import build_state

TASK = TASKS["links"]


def config_of(method="bp", **more):
    return make_config(**{"method": method, "task": "links", "data": "karate", "width": 6, "epochs": 3, "record_every": 0, **more})


def pairs(edges):
    """Undirected pairs as a set."""
    return {tuple(sorted(pair)) for pair in edges.tolist()}


def test_the_loss_is_an_explicit_sum_over_pairs():
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(6, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([[0, 1, 1], [4, 2, 1], [3, 5, 1], [0, 5, 0], [2, 3, 0]])
    TASK.make_known(y)
    loss = link_loss(z, y)
    want = 0.0
    for i, j, linked in y.tolist():
        p = 1 / (1 + math.exp(-sum(z[i, d].item() * z[j, d].item() for d in range(3))))
        want -= math.log(p if linked else 1 - p)
    assert loss.item() == pytest.approx(want / 3, rel=1e-12)  # three edges
    (g,) = torch.autograd.grad(loss, z)
    step = 1e-6
    for i, d in ((0, 0), (3, 2), (5, 1)):
        ends = []
        for sign in (1, -1):
            moved = z.detach().clone()
            moved[i, d] += sign * step
            ends.append(link_loss(moved, y).item())
        assert g[i, d].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6)


def test_the_scores_are_their_definitions():
    rng = torch.Generator().manual_seed(1)
    logits = torch.randint(0, 12, (60,), generator=rng).double()  # with ties
    linked = torch.randint(0, 2, (60,), generator=rng).double()
    auc, precision = ranked(torch.stack([logits, linked], 1))
    ones, zeros = logits[linked > 0].tolist(), logits[linked == 0].tolist()
    wins = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a in ones for b in zeros)
    assert auc == pytest.approx(wins / (len(ones) * len(zeros)), rel=1e-12)
    total, recall = 0.0, 0.0
    for threshold in sorted(set(logits.tolist()), reverse=True):
        chosen = [label for logit, label in zip(logits.tolist(), linked.tolist(), strict=True) if logit >= threshold]
        total += (sum(chosen) / len(ones) - recall) * sum(chosen) / len(chosen)
        recall = sum(chosen) / len(ones)
    assert precision == pytest.approx(total, rel=1e-12)
    assert TASK.score(torch.stack([logits, linked], 1)) == auc


def test_edges_are_divided_once_and_other_pairs_are_no_edges():
    graph = load_graph("karate", None)
    train, held, test = divided(graph.edges.T, 34, (0.05, 0.1), 3, "karate")
    ones = [pairs(part[part[:, 2] == 1][:, :2]) for part in (train, held, test)]
    assert [len(part) for part in ones] == [66, 4, 8]
    assert len(train) == 66
    assert set.union(*ones) == pairs(graph.edges.T)
    for part in (held, test):
        none = part[part[:, 2] == 0][:, :2]
        assert len(none) == (part[:, 2] == 1).sum()
        assert not pairs(none) & pairs(graph.edges.T)
        assert (none[:, 0] != none[:, 1]).all()
    again = divided(graph.edges.T, 34, (0.05, 0.1), 3, "karate")
    assert all(torch.equal(a, b) for a, b in zip((train, held, test), again, strict=True))
    assert not torch.equal(divided(graph.edges.T, 34, (0.05, 0.1), 4, "karate")[2], test)


def test_other_pairs_are_drawn_alike():
    edges = torch.tensor([[0, 1], [2, 1], [3, 0]])
    drawn = other_pairs(edges, 5, 7000, generator(0, "test"))
    counts = dict.fromkeys(pairs(drawn), 0)
    for pair in drawn.tolist():
        counts[tuple(pair)] += 1
    assert len(counts) == 10 - 3
    assert all(abs(n - 1000) < 5 * math.sqrt(1000 * 6 / 7) for n in counts.values())


def test_a_step_has_the_edges_and_new_other_pairs_and_evaluation_its_own():
    config = config_of()
    data = load_data(config, RunContext())
    first, second, again = (TASK.batch(data.train, step, config) for step in (0, 1, 0))
    number = len(data.train)
    assert len(first.y) == 2 * number
    assert torch.equal(first.y[:number], data.train.y)
    assert not torch.equal(first.y, second.y)
    assert torch.equal(first.y, again.y)
    assert TASK.count(first.y) == number
    assert torch.equal(TASK.batch(data.test, -1, config).y, data.test.y)
    known = pairs(first.context["edges"].T)
    assert known == pairs(data.train.y[:, :2])
    assert not known & pairs(data.test.y[data.test.y[:, 2] == 1][:, :2])


@pytest.mark.parametrize("method", ["bp", "dfa", "shallow"])
def test_no_held_out_edge_influences_a_gradient(method, monkeypatch):
    """With other held-out edges in place of the graph's, the trained weights are the same to the bit."""
    weights = []
    for other in (False, True):
        config = config_of(method)
        data = load_data(config, RunContext())
        if other:
            swapped = torch.tensor([[0, 33, 1], [5, 20, 1], [1, 2, 0], [3, 4, 0]])
            test, held = (type(data.test)(part.x, swapped, part.context) for part in (data.test, data.selection))
            data = type(data)(data.train, test, data.classes, selection=held)
        state = build_state(config, data, torch.device("cpu"))
        seen = []
        state.network.model[0].register_forward_pre_hook(lambda *_, seen=seen: seen.append(pairs(current_context()["edges"].T)))
        fit(state, None, lambda event, numbers: None)
        weights.append([p.detach().clone() for p in state.network.model.parameters()])
        assert all(known == pairs(data.train.y[:, :2]) for known in seen)
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_dfa_reaches_every_node_with_a_pair_and_shallow_trains_the_last_layer_alone():
    config = config_of("shallow", lr=0.1)
    state = build_state(config, load_data(config, RunContext()), torch.device("cpu"))
    before = [p.detach().clone() for p in state.network.model.parameters()]
    fit(state, None, lambda event, numbers: None)
    changed = [not torch.equal(a, b) for a, b in zip(before, state.network.model.parameters(), strict=True)]
    assert changed == [False, False, True, True]


def test_settings_are_those_of_the_autoencoder():
    config = config_of("dfa", width=None)
    assert config.optimizer.lr == 0.01
    assert (config.optimizer.weight_decay, config.model.dropout) == (0, 0)
    assert config.loss == "bce"


def test_what_does_not_fit_is_refused_in_a_sentence():
    with pytest.raises(InputError, match="cdni cannot be used with --task links, whose items have no class: its synthesisers read them"):
        config_of("cdni")
    graph = load_graph("karate", None)
    with pytest.raises(InputError, match="few has 4 edges, of which 0 would be for validation"):
        divided(graph.edges.T[:4], 34, (0.05, 0.1), 0, "few")
    whole = torch.combinations(torch.arange(30))
    with pytest.raises(InputError, match="fewer than half may be linked"):
        divided(whole, 30, (0.05, 0.1), 0, "whole")
    with pytest.raises(InputError, match="loss of --task links"):
        config_of(loss="ce")


@pytest.mark.slow
def test_the_autoencoder_learns_the_block_model_and_its_last_layer_alone_does_not():
    final = {}
    for method, seed in product(("bp", "shallow"), range(3)):  # a seed holds out other edges, few: one alone says little
        config = config_of(method, data="blocks", width=32, epochs=100, seed=seed)
        state, rows = build_state(config, load_data(config, RunContext()), torch.device("cpu")), []
        fit(state, None, lambda event, row, rows=rows: rows.append(row) if event == "metric" else None)
        final[method, seed] = [row["score"] for row in rows if row["split"] == "test"][-1]
    mean = {method: sum(final[method, seed] for seed in range(3)) / 3 for method in ("bp", "shallow")}
    assert mean["bp"] > 0.65
    assert mean["bp"] - mean["shallow"] > 0.1
    links._data.cache_clear()
