"""The graph task: items are labelled nodes, the whole graph is one batch, and every rule that fits is measured on the same passes."""

import copy
import signal
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from made_runs import made
from tiny_runs import learned, same_state, signal_at

from gradlens.gradients.alignment import cosine
from gradlens.gradients.backward import run_step
from gradlens.gradients.diagnostics import sparse_rows
from gradlens.gradients.rows import REACHED, step_rows
from gradlens.gradients.true_gradient import true_gradients
from gradlens.methods import METHODS
from gradlens.models.feedback_point import FeedbackPoint
from gradlens.models.graph_layers import EDGES, current_adjacency
from gradlens.models.graph_networks import GRAPH_NETWORKS
from gradlens.reporting.console import comparison_tables
from gradlens.reporting.reached import reached_table
from gradlens.runtime.errors import InputError, Stopped
from gradlens.runtime.rng import generator, key, seed_global
from gradlens.runtime.step_context import step_context
from gradlens.tasks.registry import TASKS
from gradlens.training.build import make_network_info
from gradlens.training.config import make_config
from gradlens.training.context import RunContext, load_data
from gradlens.training.metrics import best_held_out, held_out
from gradlens.training.optimizers import make_optimizer
from gradlens.training.run_directory import load_run
from gradlens.training.runs.build_state import build_state
from gradlens.training.runs.train_run import train_run

RULES = ("bp", "dfa", "dgl", "fa", "shallow")
VARIANTS = {"dfa propagated": {"feedback": "propagated"}}
NETWORKS = tuple(GRAPH_NETWORKS)
WITHOUT_MATRICES = {("fa", "gat")}  # fa has none for the attention's vectors
CASES = [(rule, net) for rule in (*RULES, *VARIANTS) for net in NETWORKS if (rule, net) not in WITHOUT_MATRICES]
FEW = {("bp", "gcn"), ("dfa", "gat"), ("dfa propagated", "cheb"), ("fa", "sage"), ("dgl", "gcn")}
TASK = TASKS["graphs"]


def some(cases=CASES, few=FEW):
    """All pairs of rule and network; by default only a few."""
    return pytest.mark.parametrize(("rule", "net"), [pytest.param(*case, marks=[pytest.mark.slow] * (case not in few)) for case in cases])


def config_of(rule="bp", net="gcn", **more):
    settings = {"data": "karate", "depth": 2, "epochs": 6, "record_every": 2, "diagnose_every": 1, "options": VARIANTS.get(rule, {})}
    return make_config(**{"task": "graphs", "method": rule.split()[0], "model": net, **settings, **more})


def state_of(config):
    """The beginning of a run, in float64."""
    state = build_state(config, load_data(config, RunContext()), torch.device("cpu"))
    for module in state.network:
        module.double()
    return state


def a_step(state, x=None, y=None):
    """One step on the graph, or on other features and targets; the caller is inside ``batches.sharded``."""
    model, method = state.network
    features, targets = state.batches.batch(0)
    method.start(1, 0)
    seed_global(key(0, "step", 0))
    return run_step(method, list(model), features.double() if x is None else x, targets if y is None else y)


@some()
def test_truth_is_backward_on_an_uncut_copy_and_what_rules_use_is_theirs(rule, net):
    state = state_of(config_of(rule, net))
    with state.batches.sharded(0):
        step = a_step(state)
        truth = true_gradients(state.network.method, step)
        twin, hs = copy.deepcopy(state.network.model), [step.x]
        seed_global(key(0, "step", 0))
        for block in twin:
            hs.append(block(hs[-1]))
            hs[-1].retain_grad()
        labelled = step.y >= 0
        loss = F.cross_entropy(hs[-1][labelled], step.y[labelled])
        loss.backward()
    assert int(labelled.sum()) == 4
    torch.testing.assert_close(truth.loss, loss.detach(), rtol=1e-12, atol=0)
    for k, grad in enumerate(truth.grads):
        torch.testing.assert_close(grad.delta, hs[k + 1].grad, rtol=1e-10, atol=1e-14)
        for name, g in grad.params.items():
            torch.testing.assert_close(g, twin[k].get_parameter(name).grad, rtol=1e-10, atol=1e-14)
        used = step.updates[k].grad.params
        if rule == "bp":
            assert all(torch.equal(used[name], g) for name, g in grad.params.items())
        assert set(used) == (set() if rule == "shallow" and k < 2 else set(grad.params))


def two_rings(path, turn=0):
    """A file of a ring of 12 nodes with the four training nodes, and one of 8 without any; ``turn`` moves all other labels around."""
    rng = np.random.default_rng(0)
    edges = [(first + i, first + (i + 1) % n) for first, n in ((0, 12), (12, 8)) for i in range(n)]
    train, labels = np.arange(0, 12, 3), rng.integers(3, size=20)
    labels[train] = [0, 1, 2, 0]
    others = np.setdiff1d(np.arange(20), train)
    labels[others] = np.roll(labels[others], turn)
    parts = {"train": train, "val": others[::2], "test": others[1::2]}
    np.savez(path, features=rng.random((20, 5), np.float32), edges=np.array(edges), y=labels, **parts)
    return str(path)


def gradients_of(state, x=None):
    """All gradients of a step, of the rule and the true ones."""
    with state.batches.sharded(0):
        step = a_step(state, x=x)
        truth = true_gradients(state.network.method, step)
    used = {("used", k, name): g for k, update in step.updates.items() for name, g in update.grad.params.items()}
    return used | {("true", k, name): g for k, grad in enumerate(truth.grads) for name, g in grad.params.items()}


@some()
def test_labels_of_other_parts_and_features_that_no_edge_leads_from_change_no_bit_of_an_update(rule, net, tmp_path):
    states = [state_of(config_of(rule, net, data=two_rings(tmp_path / f"{turn}.npz", turn))) for turn in (0, 1)]
    held = [load_data(state.config, RunContext()) for state in states]
    assert all(not torch.equal(getattr(held[0], part).y, getattr(held[1], part).y) for part in ("test", "selection"))
    before = gradients_of(states[0])
    assert same_state(gradients_of(states[1]), before)

    x, (source, target) = held[0].train.x.double(), held[0].train.context[EDGES]
    reached = held[0].train.y >= 0
    for _ in range(3):  # layers
        reached = reached.index_fill(0, target[reached[source]], True)
    assert int(reached.sum()) == 12
    assert same_state(gradients_of(states[0], x + (~reached)[:, None]), before)
    moved = gradients_of(states[0], x + reached[:, None])
    assert all(any(not torch.equal(moved[key], g) for key, g in before.items() if key[0] == kind) for kind in ("used", "true"))


def first_edges(state):
    return state.batches.examples.context[EDGES]


@some(few={("dfa", "gat")})
def test_a_run_that_was_interrupted_ends_in_the_bits_of_a_whole_one(rule, net, tmp_path):
    config = config_of(rule, net, keep_checkpoints=2)
    whole = train_run(config, RunContext(out=tmp_path / "whole"))
    with pytest.raises(Stopped):
        train_run(config, RunContext(out=tmp_path / "cut"), signal_at(3, signal.SIGINT))
    cut = train_run(config, RunContext(out=tmp_path / "cut", resume=True))
    assert same_state(learned(whole), learned(cut))
    for table in ("metrics.csv", "gradients.csv"):
        assert (cut.path / table).read_bytes() == (whole.path / table).read_bytes()
    unrecorded = train_run(config.replace(record_every=0, keep_checkpoints=0), RunContext(out=tmp_path / "unrecorded"))
    assert same_state(learned(whole), learned(unrecorded))


def test_feedback_of_its_own_reaches_the_labelled_nodes_and_propagated_feedback_their_neighbours():
    own, spread = (state_of(config_of(rule, "gcn")) for rule in ("dfa", "dfa propagated"))
    with own.batches.sharded(0):
        mine, theirs = a_step(own), a_step(spread)
        a = current_adjacency(34).normalized @ torch.eye(34, dtype=torch.float64)
        truth = true_gradients(own.network.method, mine)
    e, labelled = mine.updates[2].grad.delta, mine.y >= 0
    for k in (0, 1):
        b = own.network.method.matrix(k)
        torch.testing.assert_close(mine.updates[k].grad.delta, e @ b, rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(theirs.updates[k].grad.delta, torch.matrix_power(a, 2 - k) @ e @ b, rtol=1e-12, atol=1e-15)
        assert torch.equal(mine.updates[k].grad.delta.ne(0).any(1), labelled)
        assert torch.equal(theirs.updates[k].grad.delta.ne(0).any(1), truth.grads[k].delta.ne(0).any(1))  # as far as backprop


def counted(signal):
    """The share of nodes with a signal, one entry after another."""
    return sum(any(entry != 0.0 for entry in row) for row in signal.tolist()) / len(signal)


@pytest.mark.parametrize("rule", ["bp", "dfa"])
def test_the_share_of_nodes_reached_is_no_share_of_entries(rule):
    """Dropout at a block's input leaves entries of the signal below zero, in nodes that are reached all the same."""
    state = state_of(config_of(rule, "gat", data="blocks", depth=1, dropout=0.6))
    method = state.network.method
    with state.batches.sharded(0):
        step = a_step(state)
        truth = true_gradients(method, step)
        rows = step_rows(0, state.network.block_names(), method, step, truth)
    found = {row.quantity: row.value for row in rows if (row.layer, row.kind) == ("block1", "activation")}
    used, true = step.updates[0].grad.delta, truth.grads[0].delta
    assert found["reached"] == counted(used)
    assert found["true_reached"] == counted(true)
    labelled = int((step.y >= 0).sum()) / len(step.y)
    assert (found["reached"] > labelled) == (rule == "bp")
    assert found["reached"] >= labelled
    assert found["true_reached"] > 1 - found["true_zeros"] + 0.2
    assert not any(row.quantity in REACHED for row in rows if row.kind != "activation")


def test_propagated_feedback_needs_a_graph():
    config = make_config(method="dfa", data="digits", width=4, options={"feedback": "propagated"})
    with pytest.raises(
        InputError, match="dfa: feedback=propagated sends errors along the edges of a graph, and there are none; set feedback=own, or"
    ):
        build_state(config, load_data(config, RunContext()), torch.device("cpu"))


def test_propagated_feedback_does_not_reach_places_inside_blocks():
    model = state_of(config_of("bp")).network.model.float()
    model[0].add_module("place", FeedbackPoint(16))
    net = make_network_info(model, (34,), 2, TASK.losses["ce"], task=TASK)
    with pytest.raises(InputError, match="feedback=propagated sends errors to the ends of blocks alone; set points=blocks"):
        METHODS["dfa"](net, METHODS["dfa"].Options(feedback="propagated", points="inside"))


# --------------------------------------------------------------------------------------------------------------- items


def test_items_are_the_labelled_nodes():
    y = torch.tensor([2, -1, 0, -1, 1, 1])
    assert TASK.count(y) == 4
    x, context = torch.arange(12.0).view(6, 2), {EDGES: torch.zeros(2, 0, dtype=torch.long)}
    halves = list(TASK.halves(x, y, context, generator(0, "halves")))
    assert [TASK.count(half.y) for half in halves] == [2, 2]
    assert all(half.x is x and half.context is context and half.shard is None for half in halves)
    assert torch.equal(torch.maximum(halves[0].y, halves[1].y), y)
    assert (torch.minimum(halves[0].y, halves[1].y) == -1).all()
    assert TASK.halves(x, torch.where(y == 1, -1, y), context, generator(0, "halves")) is None  # two labelled nodes


def test_rows_are_permuted_among_the_nodes_that_have_a_signal():
    delta = torch.zeros(50, 3)
    signalled = torch.randperm(50, generator=generator(0, "nodes"))[:20]
    delta[signalled, 1] = torch.arange(1.0, 21)
    order = TASK.permutation(delta, torch.zeros(50), generator(0, "null"))
    assert sorted(order.tolist()) == list(range(50))
    moved = delta[order]
    assert torch.equal(moved.ne(0).any(1), delta.ne(0).any(1))
    assert sorted(moved[:, 1].tolist()) == sorted(delta[:, 1].tolist())
    assert not torch.equal(moved, delta)


def test_chance_and_noise_are_recorded_of_labelled_nodes():
    state = state_of(config_of("dfa", "gcn", data="blocks"))
    names = state.network.block_names()
    with state.batches.sharded(0):
        step = a_step(state)
        truth = true_gradients(state.network.method, step, keep=True)
        rows = {(row.layer, row.quantity): row.value for row in sparse_rows(0, names, state.network.method, step, truth)}
    assert abs(rows["block1.conv.linear", "null_cosine"]) < 0.5
    assert 0 < rows["top.out.linear", "noise_ceiling"] < 1
    assert rows["top.out.linear", "corrected_cosine"] == pytest.approx(1)  # the output block uses the true gradient


# ------------------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("rule", "net", "expected"),
    [
        ("bp", "gcn", {"dropout": 0.5, "lr": 0.01, "weight_decay": 5e-4, "decay_blocks": 1, "attention_dropout": None}),
        ("dfa", "gcn", {"dropout": 0.1, "lr": 0.01, "weight_decay": 1e-4, "decay_blocks": 1}),
        ("dfa", "cheb", {"dropout": 0.0, "lr": 0.01, "weight_decay": 1e-4, "decay_blocks": 1}),
        ("bp", "gat", {"dropout": 0.6, "lr": 0.005, "weight_decay": 5e-4, "decay_blocks": None, "attention_dropout": [0.6]}),
        ("dfa", "gat", {"dropout": 0.1, "lr": 0.005, "weight_decay": 1e-4, "attention_dropout": [0.6, 0.0]}),
    ],
)
def test_networks_and_rules_have_the_settings_of_their_paper(rule, net, expected):
    config = make_config(task="graphs", method=rule, model=net).as_dict()
    assert {name: config[name] for name in expected} == expected
    assert config["epochs"] == 250
    assert make_config(task="graphs", method=rule, model=net, dropout=0.3, lr=1.0).as_dict()["dropout"] == 0.3


def test_without_a_network_the_task_trains_gcn_on_the_block_model():
    config = make_config(task="graphs")
    assert (config.model.name, config.data.name) == ("gcn", "blocks")
    assert make_config(task="graphs", optimizer="sgd", lr=0.1).model.dropout == 0  # another optimiser takes none of the settings


@pytest.mark.parametrize("net", NETWORKS)
def test_networks_have_the_sizes_of_their_paper(net):
    network = state_of(make_config(task="graphs", model=net, data="karate")).network.model
    hidden = 64 if net == "gat" else 16
    outputs = [dict(block.named_modules())[name].linear if net in ("gcn", "gat") else dict(block.named_modules())[name].own
               for block, name in zip(network, ("conv", "out"), strict=True)]  # fmt: skip
    assert [(layer.in_features, layer.out_features) for layer in outputs] == [(34, hidden), (hidden, 2)]


def test_weight_decay_of_the_first_block_only():
    state = state_of(make_config(task="graphs", data="karate"))
    rates = {id(p): group["weight_decay"] for group in state.optimizer.param_groups for p in group["params"]}
    for k, expected in enumerate((5e-4, 0)):
        assert {rates[id(p)] for p in state.network.model[k].parameters()} == {expected}
    config = make_config(task="graphs", data="karate", optimizer="sgdw", weight_decay=0.1, decay_blocks=1, lr=1.0, momentum=0.0)
    network = state_of(config).network
    before = [[p.clone() for p in block.parameters()] for block in network.model]
    for p in network.model.parameters():
        p.grad = torch.zeros_like(p)
    make_optimizer(config, network).step()
    for k, factor in enumerate((0.9, 1.0)):
        for p, then in zip(network.model[k].parameters(), before[k], strict=True):
            torch.testing.assert_close(p, factor * then)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parallel": "data", "ranks": 2}, "--parallel data cannot be used with --task graphs: a graph is one batch, and every node reads"),
        ({"model": "mlp"}, "--model mlp reads images, --task graphs has nodes: set one of gcn, cheb, sage, gat"),
        ({"task": "images"}, "--model gcn reads nodes, --task images has images"),
        ({"label_noise": 0.1}, "--label-noise has no meaning for --task graphs: leave it out"),
        ({"online_probe": True}, "--online-probe reads a label an image: it has no meaning for --task graphs"),
        ({"method": "simclr"}, "simclr is a rule of the image task and cannot be used with --task graphs: it learns from images"),
        ({"method": "predsim"}, "predsim is a rule of the image task and cannot be used with --task graphs: it compares every item"),
    ],
)
def test_what_does_not_go_with_a_graph(changes, words):
    with pytest.raises(InputError, match=words):
        config_of(**{"rule": changes.pop("method", "bp"), "net": changes.pop("model", "gcn"), **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stem": 3}, "--stem sets the first convolution's kernel and gcn has no kernel"),
        (
            {"model": "gat", "attention_dropout": [0.1, 0.2, 0.3]},
            "--attention-dropout has 3 numbers: give one, or one of the hidden layers and",
        ),
        ({"method": "fa", "model": "gat"}, r"fa has no feedback for block1.conv \(GATConv\); it supports Linear and Conv2d"),
    ],
)
def test_networks_refuse_what_they_do_not_have(changes, words):
    config = config_of(**{"rule": changes.pop("method", "bp"), "net": changes.pop("model", "gcn"), **changes})
    with pytest.raises(InputError, match=words):
        state_of(config)


def test_every_rule_fits_or_is_refused_by_what_it_declares():
    for name, rule in METHODS.items():
        if rule.images_only:
            with pytest.raises(InputError, match=f"{name} is a rule of the image task"):
                config_of(name)
        else:
            config_of(name)


# ---------------------------------------------------------------------------------------------------------- whole runs


def test_the_best_epoch_is_that_of_the_best_validation_accuracy(tmp_path):
    run = train_run(config_of("bp", data="blocks", epochs=30, record_every=0), RunContext(out=tmp_path))
    validation = [m for m in run.metrics if m.split == "validation"]
    test = {m.epoch: m.accuracy for m in run.metrics if m.split == "test"}
    first = max(validation, key=lambda m: (m.accuracy, -m.epoch))
    assert best_held_out(run.metrics).accuracy == test[first.epoch] == run.summary["test"]["best_accuracy"]
    assert {m.split for m in held_out(run.metrics)} == {"test"}
    assert run.summary["test"]["best_epoch"] == first.epoch
    assert len(validation) == len(test) == 31
    assert test[first.epoch] > 0.6
    assert max(test.values()) >= test[first.epoch]


def test_accuracies_are_of_the_parts_nodes(tmp_path):
    config = config_of("bp", data="karate", epochs=3)
    run = train_run(config, RunContext(out=tmp_path))
    shares = {"train": 4, "validation": 8, "test": 22}
    for m in run.metrics:
        assert m.accuracy * shares[m.split] == pytest.approx(round(m.accuracy * shares[m.split]))
    assert any(m.accuracy * 22 != round(m.accuracy * 8) for m in run.metrics if m.split == "test")
    assert load_run(run.path).info["images"] == {"train": 4, "test": 22}


def test_the_share_of_nodes_reached_is_tabulated_beside_that_of_backprop(tmp_path):
    runs = [train_run(config_of(rule, depth=1, epochs=1, diagnose_every=0), RunContext(out=tmp_path)) for rule in ("bp", "dfa")]
    table = comparison_tables(runs)[-1]
    assert [column.heading for column in table.columns] == [
        "method", "block1 (%)", "block1 by backprop (%)", "top (%)", "top by backprop (%)",
    ]  # fmt: skip
    for row, run in zip(table.rows, runs, strict=True):
        found = {(r.layer, r.quantity): 100 * r.value for r in run.gradients if r.quantity in REACHED}
        assert [cell.value for cell in row[1:]] == [found[block, q] for block in ("block1", "top") for q in REACHED]
    bp, dfa = ([cell.value for cell in row[1:]] for row in table.rows)
    assert bp[0] == bp[1] == dfa[1] > dfa[0] == pytest.approx(100 * 4 / 34)
    assert reached_table([made()]) is None  # a run of images


def test_a_wrong_graph_is_refused_in_one_sentence(tmp_path, program):
    content = {
        "features": np.eye(4, dtype=np.float32),
        "edges": np.array([[0, 9]]),
        "y": np.array([0, 1, 0, 1]),
        "train": np.array([0, 1]),
        "val": np.array([2]),
        "test": np.array([3]),
    }
    np.savez(tmp_path / "graph.npz", **content)
    for data, words in (
        (tmp_path / "graph.npz", "an edge leads to node 9, which does not exist"),
        (tmp_path / "no.npz", "there is no such file"),
    ):
        status, _, err = program("train", "bp", "--task", "graphs", "--data", data, "--out", tmp_path / "runs")
        assert status == 2
        assert words in " ".join(err.split())
        assert err.count("gradlens:") == 1
        assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["compare", "show", "figures", "report", "doctor", "measure"])
def test_commands_work_on_graphs(command, tmp_path, program):
    config = config_of("dfa", depth=1, epochs=30, keep_checkpoints=2)
    run = train_run(config, RunContext(out=tmp_path))
    assert run.finished
    arguments = {
        "compare": ("compare-gradients", "bp", "dfa", "--task", "graphs", "--data", "karate", "--epochs", 4, "--out", tmp_path / "c"),
        "show": ("show", run.path),
        "figures": ("figures", run.path, "--out", tmp_path / "figures"),
        "report": ("report", run.path, "--out", tmp_path / "report.html"),
        "doctor": ("doctor", run.path),
        "measure": ("measure", run.path, "--quantity", "relative_error"),
    }[command]
    status, out, err = program(*arguments)
    assert status in ((0, 1) if command == "doctor" else (0,)), out + err
    shown = {"compare": out, "show": out, "report": (tmp_path / "report.html").read_text() if command == "report" else ""}
    if command in shown:
        assert "odes that have an error signal at the output of each block" in " ".join(shown[command].split())


def test_the_direction_of_a_gradient_does_not_depend_on_the_order_of_nodes():
    """Renumbered nodes give the same weight gradients of the rule and of the truth."""
    state = state_of(config_of("dfa", "gcn", depth=1))
    order = torch.randperm(34, generator=generator(0, "order"))
    with state.batches.sharded(0):
        edges = first_edges(state)
        place = torch.empty_like(order).scatter_(0, order, torch.arange(34))
        seed_global(0)
        for module in state.network.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        first = a_step(state)
        with step_context({EDGES: place[edges]}):
            targets = first.y[order]
            TASK.make_known(targets)
            second = run_step(state.network.method, list(state.network.model), first.x[order], targets)
            truths = true_gradients(state.network.method, second)
    for k, update in first.updates.items():
        for name, g in update.grad.params.items():
            torch.testing.assert_close(second.updates[k].grad.params[name], g, rtol=1e-12, atol=1e-14)
    assert cosine(truths.grads[0].params["conv.linear.weight"], first.updates[0].grad.params["conv.linear.weight"]) < 1
    assert all(a.k + 1 == b.k for a, b in pairwise(second.passes))
