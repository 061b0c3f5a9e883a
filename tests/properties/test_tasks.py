"""Tasks whose examples are no images: every rule that fits, on sequences of tokens and on nodes of a graph."""

import copy
import math
import signal
from itertools import pairwise

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
import toy_tasks
from ranks import alone, together
from task_cases import (
    ALL,
    CASES,
    VARIANTS,
    a_step,
    backward_on_a_copy,
    config_of,
    cut_copy,
    each_rule_and_task,
    mean_loss,
    state_of,
    term_of_tokens,
)
from tiny_runs import assert_same_bits, learned, same_state, signal_at
from torch import nn

from gradlens.gradients.block_pass import outputs
from gradlens.gradients.diagnostics import sparse_rows
from gradlens.gradients.rows import step_rows
from gradlens.gradients.true_gradient import true_gradients
from gradlens.models.feedback_point import feedback_points
from gradlens.runtime.errors import InputError, Stopped
from gradlens.tasks import language
from gradlens.tasks.registry import TASKS
from gradlens.training.config import make_config
from gradlens.training.context import RunContext, load_data
from gradlens.training.evaluation import evaluate
from gradlens.training.loop import make_update
from gradlens.training.metrics import best_epoch
from gradlens.training.runs.build_state import build_state
from gradlens.training.runs.train_run import train_run


@pytest.fixture(autouse=True)
def tasks():
    toy_tasks.register()
    yield
    toy_tasks.forget()


@each_rule_and_task(ALL, 0)
def test_truth_is_backward_on_an_uncut_copy(task, name):
    state = state_of(config_of(task, name))
    with state.batches.sharded(0):
        modes = copy.deepcopy(state.network.model)
        x, y, step = a_step(state)
        twin_state = copy.copy(state)
        for a, b in zip(modes.modules(), state.network.model.modules(), strict=True):
            a.training = b.training  # shallow and greedy freeze blocks
        twin_state.network = state.network._replace(model=modes)
        twin, hs, loss = backward_on_a_copy(twin_state, x, y)
        truth = true_gradients(state.network.method, step)
    assert torch.allclose(truth.loss, loss, rtol=1e-12)
    for k, grad in enumerate(truth.grads):
        assert torch.allclose(grad.delta, hs[k].grad, rtol=1e-10, atol=1e-14)
        for parameter, g in grad.params.items():
            assert torch.allclose(g, dict(twin[k].named_parameters())[parameter].grad, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("task", ["tokens", "ring", "graphs", "language"])
def test_backprop_uses_the_truth(task):
    state = state_of(config_of(task, "bp"))
    with state.batches.sharded(0):
        _, _, step = a_step(state)
        truth = true_gradients(state.network.method, step)
    for k, grad in enumerate(truth.grads):
        assert all(torch.equal(step.updates[k].grad.params[name], g) for name, g in grad.params.items())


@pytest.mark.parametrize(("name", "options", "windows"), [
    ("dgl", {}, [(0, 0), (1, 1), (2, 2), (3, 4)]),
    ("chunked", {"chunks": [3, 1]}, [(0, 2), (3, 4)]),
    ("chunked", {"chunks": [1, 3]}, [(0, 0), (1, 4)]),
    ("overlap", {"window": 3}, [(0, 2), (1, 4)]),
    ("overlap", {"window": 4}, [(0, 4)]),
])  # fmt: skip
@pytest.mark.parametrize("term", [None, 1, 2])
def test_windows_of_a_network_that_skips_blocks_are_losses_on_a_copy_cut_before_them(name, options, windows, term, monkeypatch):
    """A term at a block is part of the loss of the first of the windows that hold the block, which reaches furthest down."""
    monkeypatch.setattr(toy_tasks.Tokens, "terms", lambda *_: {} if term is None else {term: toy_tasks.weighed})
    state = state_of(config_of("tokens", name, options=options))
    method = state.network.method
    with state.batches.sharded(0):
        x, y, step = a_step(state)
        twins, heads = [], copy.deepcopy(method.heads)
        home = next((w for w in windows if term is not None and w[0] <= term <= w[1]), None)
        for first, last in windows:
            twin, hs, _ = cut_copy(state, x, first)
            loss = mean_loss(hs[last] if last == len(twin) - 1 else heads[str(last)](hs[last]), y)
            (loss + term_of_tokens(hs[term], y) if (first, last) == home else loss).backward()
            twins.append(twin)
    for k, update in step.updates.items():
        for parameter, used in update.grad.params.items():
            wanted = sum(g for twin in twins if (g := twin[k].get_parameter(parameter).grad) is not None)
            assert torch.allclose(used, wanted, rtol=1e-10, atol=1e-14), (k, parameter)


@pytest.mark.parametrize("term", [1, 2])
def test_a_term_under_direct_feedback_trains_its_own_block(term, monkeypatch):
    monkeypatch.setattr(toy_tasks.Tokens, "terms", lambda *_: {term: toy_tasks.weighed})
    state = state_of(config_of("tokens", "dfa"))
    method = state.network.method
    with state.batches.sharded(0):
        x, y, step = a_step(state)
        twin, hs, _ = cut_copy(state, x, None)
        (e,) = torch.autograd.grad(mean_loss(hs[-1], y), hs[-1], retain_graph=True)
        for k, h in enumerate(hs):
            h.backward(e if k == len(hs) - 1 else e @ method.matrix(k), retain_graph=k == term)
        term_of_tokens(hs[term], y).backward()
    for k, update in step.updates.items():
        for parameter, used in update.grad.params.items():
            assert torch.allclose(used, twin[k].get_parameter(parameter).grad, rtol=1e-10, atol=1e-14), (k, parameter)


def test_a_term_reaches_every_block_before_it_and_none_after_it():
    """With the loss of the output zero, the term alone trains the blocks up to its own."""
    state = state_of(config_of("tokens", "bp"))
    state.network.method.loss = lambda z, y: 0 * z.sum()
    with state.batches.sharded(0):
        _, _, step = a_step(state)
        truth = true_gradients(state.network.method, step)
    assert [any(g.any() for g in grad.params.values()) for grad in truth.grads] == [True, True, False, False, False]
    assert truth.loss > 0


def test_feedback_inside_a_block_is_what_the_point_is_given_and_below_it():
    state = state_of(config_of("tokens", "dfa inside"))
    model, method = state.network
    with state.batches.sharded(0):
        _, y, step = a_step(state)
        z = step.passes[-1].z
        (e,) = torch.autograd.grad(method.loss(z, y), z)
        p = step.passes[1]
        inner = {n: g for n, g in step.updates[1].grad.params.items() if n.startswith("1.")}
        mixed = p.block[0](p.x.detach())
        told = e @ method.matrix("1/2")
    assert torch.allclose(inner["1.weight"], told.flatten(0, 1).T @ mixed.flatten(0, 1), rtol=1e-10)
    assert torch.allclose(inner["1.bias"], told.sum((0, 1)), rtol=1e-10)
    assert all("feedback" not in vars(point) for point in feedback_points(model).values())


@pytest.mark.parametrize(("task", "name"), [("tokens", "dfa"), ("tokens", "dni"), ("tokens", "dgl")])
def test_auxiliary_modules_act_on_each_item_alone(task, name):
    """What a token is told by a local rule, or by feedback, depends on no other token's features or error."""
    state = state_of(config_of(task, name))
    method = state.network.method
    with state.batches.sharded(0):
        _, _, step = a_step(state)
        h = step.passes[1].z.detach().requires_grad_()
        if name == "dfa":
            z = step.passes[-1].z
            (e,) = torch.autograd.grad(method.loss(z, step.y), z)
            for n, t in [(0, 2), (3, 4)]:
                assert torch.allclose(step.updates[2].signal.delta[n, t], e[n, t] @ method.matrix(2), rtol=1e-12)
            return
        out = (method.heads["1"] if name == "dgl" else method.synthesisers[1].eval())(h)
    (slope,) = torch.autograd.grad(out[0, 2].sum(), h)
    others = torch.ones(h.shape[:2], dtype=torch.bool)
    others[0, 2] = False
    assert out.shape[:2] == h.shape[:2]
    assert not slope[others].any()


@each_rule_and_task(ALL, 1)
def test_every_row_of_a_diagnosed_step_is_a_number(task, name):
    state = state_of(config_of(task, name))
    method = state.network.method
    names = state.network.block_names()
    with state.batches.sharded(0):
        _, _, step = a_step(state)
        truth = true_gradients(method, step, keep=True)
        rows = [*step_rows(0, names, method, step, truth), *sparse_rows(0, names, method, step, truth)]
    ceilings = [row.value for row in rows if row.quantity == "noise_ceiling"]
    assert len(ceilings) == (0 if "replay_buffer" in method.depends_on else len([r for r in rows if r.quantity == "rule_ceiling"]))
    assert all(math.isfinite(v) for v in ceilings)
    assert {"cosine", "null_cosine"} <= {row.quantity for row in rows}


@each_rule_and_task(CASES, 2)
def test_a_block_that_waits_for_nothing_above_depends_on_no_bit_above_and_others_do(task, name):
    """Isolation: later blocks' parameters are changed, by which nothing moves up to a block that waits for none of them."""
    before, changed = state_of(config_of(task, name)), state_of(config_of(task, name))
    blocks, method = list(before.network.model), before.network.method
    free = [k for k in range(len(blocks) - 1) if not method.needs_above(k)]
    k = free[-1] if free else len(blocks) - 2
    with torch.no_grad():
        for p in (p for block in list(changed.network.model)[k + 1 :] for p in block.parameters()):
            p.mul_(-3).add_(0.1)
    found = []
    for state in (before, changed):
        with state.batches.sharded(0):
            _, _, step = a_step(state)
        found.append([{**u.grad.params, **u.aux_grads} for _, u in sorted(step.updates.items())])
    plain, other = found
    same = [same_state(a, b) for a, b in zip(plain, other, strict=True)]
    assert not same[-1]
    assert all(same[: k + 1]) if free else not all(same[:-1])


@each_rule_and_task(ALL, 3, slow=VARIANTS)
def test_recording_leaves_no_trace_and_a_run_resumes_bit_for_bit(task, name, tmp_path, monkeypatch):
    monkeypatch.setattr(language, "WRITTEN", 5)
    short = {} if name == "greedy" else {"epochs": 5 if task in ("ring", "graphs") else 2}  # 5 to 8 updates; of greedy every stage
    if task == "language":
        short["limit"] = 12
    config = config_of(task, name, keep_checkpoints=2, **short)
    whole = train_run(config, RunContext(out=tmp_path / "whole"))
    assert whole.finished
    assert whole.metrics[-1].score_name == {"ring": "accuracy", "graphs": "accuracy", "clicks": "auc"}.get(task, "perplexity")
    with pytest.raises(Stopped):
        train_run(config, RunContext(out=tmp_path), signal_at(3, signal.SIGINT))
    assert_same_bits(train_run(config, RunContext(out=tmp_path, resume=True)), whole)

    silent = train_run(config_of(task, name, record_every=0, **short), RunContext(out=tmp_path))
    assert not silent.gradients
    assert same_state(learned(silent), learned(whole))
    assert (whole.path / "metrics.csv").read_bytes() == (silent.path / "metrics.csv").read_bytes()


def test_perplexity_is_of_all_test_tokens_and_the_lowest_is_best(tmp_path):
    run = train_run(config_of("tokens", "bp", epochs=8, lr=0.03, record_every=0), RunContext(out=tmp_path))
    tests = [m for m in run.metrics if m.split == "test"]
    assert best_epoch(tests).score == min(m.score for m in tests)
    assert tests[-1].best == min(m.score for m in tests)
    assert run.summary["test"]["best_score"] == min(m.score for m in tests)
    state = build_state(run.config, load_data(run.config, RunContext()), torch.device("cpu"))
    state.network.load(run.checkpoint(), "it")
    model = state.network.model.eval()
    with state.batches.sharded(0), torch.no_grad():
        state.batches.batch(0)
        *_, z = outputs(model, state.test.x)
    known = state.test.y >= 0
    assert tests[-1].score == pytest.approx(float(F.cross_entropy(z[known], state.test.y[known]).exp()), rel=1e-6)


def trained(world, task, name):
    """Updates of 13 sequences, of tokens with unequal lengths, on one rank or two."""
    toy_tasks.register()
    shared = {"ranks": world.num_ranks, "parallel": "data"} if world.num_ranks > 1 else {}
    asked = {"batch_size": 13, **({"dropout": 0.0} if task == "language" else {})}
    if name == "dgl-async":  # batches of one size
        asked |= {"batch_size": 12, "limit": 24}
    config = config_of(task, name, optimizer="sgd", lr=0.1, **asked, **shared)
    state = build_state(config, load_data(config, RunContext()), torch.device("cpu"), world)
    for module in state.network:
        module.double()
        for parent in list(module.modules()):  # draws, and statistics of a batch, are each rank's own
            for child_name, child in parent.named_children():
                if isinstance(child, nn.Dropout | nn.modules.batchnorm._BatchNorm):
                    setattr(parent, child_name, nn.Identity())
    rows, losses = [], []
    for step in range(4):
        made, *_ = make_update(state, step)
        losses.append((float(made.loss), made.items, int(made.hits), int(made.answered)))
        rows += [tuple(row) for row in made.rows]
    return {"losses": losses, "rows": rows, "weights": {n: p.detach() for n, p in state.network.model.named_parameters()}}


TASKS_ON_RANKS = {"tokens", "language", "clicks"}  # whose batches can be divided


@pytest.mark.torchrun
@pytest.mark.parametrize(
    ("task", "name"),
    [pytest.param(*case, marks=[pytest.mark.slow] * (case != ("tokens", "bp"))) for case in CASES if not TASKS_ON_RANKS.isdisjoint(case)],
)
def test_two_ranks_with_unequal_numbers_of_items_are_one_process(task, name, tmp_path):
    one, two = alone(trained, task, name), together(2, trained, tmp_path, task, name)
    still = {row[1:3] for row in one["rows"] if row[3] == "true_norm" and row[4] < 1e-12}  # rounding noise: a key's bias
    for other in two:
        for a, b in zip(one["losses"], other["losses"], strict=True):
            assert b[0] == pytest.approx(a[0], rel=1e-10)
            assert b[1:] == a[1:]
        for n, w in one["weights"].items():
            assert torch.allclose(other["weights"][n], w, rtol=1e-9, atol=1e-12), n
        for a, b in zip(one["rows"], other["rows"], strict=True):
            assert a[:4] == b[:4]
            if a[1:3] in still or a[3] in (
                "zeros",
                "true_zeros",
                "sign_agreement",
            ):  # counts: another order of a sum turns exact zeros into 1e-18
                continue
            assert b[4] == pytest.approx(a[4], rel=1e-6, abs=1e-8, nan_ok=True), a


class Ascending(toy_tasks.Tokens):
    """A score that is no mean: how often the next item's log p is the higher one. It depends on all rows and their order."""

    def collect(self, z, y):
        known = y >= 0
        return z[known].log_softmax(-1).gather(1, y[known][:, None]).double()

    def score(self, collected):
        return float((collected[1:, 0] > collected[:-1, 0]).double().mean())


def scored(world, task):
    """The score of the training and of the test sequences, in batches of 4 that ranks take in turn."""
    toy_tasks.register()
    TASKS["ascending"] = Ascending()
    try:
        shared = {"ranks": world.num_ranks, "parallel": "data"} if world.num_ranks > 1 else {}
        settings = config_of("tokens" if task == "ascending" else task, "bp", **shared)
        config = settings.model_copy(update={"task": task})
        state = build_state(config, load_data(config, RunContext()), torch.device("cpu"), world)
        for module in state.network:
            module.double()
        splits = (state.data.train, state.test)
        found = [evaluate(state.network, split, state.batches.to_input, config, state.ranks) for split in splits]
        return found, state.network.model.state_dict()
    finally:
        del TASKS["ascending"]


@pytest.mark.torchrun
@pytest.mark.parametrize("task", ["ascending", pytest.param("language", marks=pytest.mark.slow)])
def test_a_score_is_that_of_all_ranks_items_in_their_order(task, tmp_path):
    (one, weights), two = alone(scored, task), together(2, scored, tmp_path, task)
    assert two[0][0] == two[1][0] == one
    state = state_of(config_of("language" if task == "language" else "tokens", "bp"))
    state.network.model.load_state_dict(weights)
    model = state.network.model.eval()
    for split, found in zip((state.data.train, state.test), one, strict=True):
        with state.batches.sharded(0), torch.no_grad():
            state.batches.batch(0)
            *_, z = outputs(model, split.x.long())
        y = split.y.long()
        logs = [z[n, t].log_softmax(0)[y[n, t]].item() for n in range(len(y)) for t in range(y.shape[1]) if y[n, t] >= 0]
        if task == "language":
            assert found.score == pytest.approx(math.exp(-math.fsum(logs) / len(logs)), rel=1e-6)  # summed in float32
        else:
            assert found.score == sum(b > a for a, b in pairwise(logs)) / (len(logs) - 1)


def reduced(world, task):
    """How many sums of one whole number each of three updates makes over ranks: those of the items' number."""
    toy_tasks.register()
    images = {"width": 4, "limit": 64, "batch_size": 13, "options": {}}
    shared = {"ranks": world.num_ranks, "parallel": "data", "record_every": 0}
    config = make_config(method="bp", **images, **shared) if task == "images" else config_of(task, "bp", **shared)
    state = build_state(config, load_data(config, RunContext()), torch.device("cpu"), world)
    plain, counts = dist.all_reduce, []

    def counted(tensor, *args, **kwargs):
        counts[-1] += tensor.ndim == 0 and not tensor.is_floating_point()
        return plain(tensor, *args, **kwargs)

    dist.all_reduce = counted
    try:
        for step in range(3):
            counts.append(0)
            make_update(state, step)
    finally:
        dist.all_reduce = plain
    return counts


@pytest.mark.torchrun
@pytest.mark.slow
@pytest.mark.parametrize(("task", "sums"), [("tokens", 1), ("language", 0), ("images", 0)])
def test_the_number_of_items_is_summed_over_ranks_once_a_step_where_no_rank_knows_it(task, sums, tmp_path):
    assert together(2, reduced, tmp_path, task) == [[sums] * 3] * 2


def over_layers(world, name):
    """Updates of all nodes of the ring, with blocks on one rank or two."""
    toy_tasks.register()
    shared = {"ranks": 2, "parallel": "layers", "split": [1, 2], "diagnose_every": 0} if world.num_ranks > 1 else {}
    config = config_of("ring", name, **{"diagnose_every": 0, **shared})
    state = build_state(config, load_data(config, RunContext()), torch.device("cpu"), world)
    made = [(step, make_update(state, step)[0]) for step in range(4)]
    made = state.stage.synchronize(made)
    return [(float(m.loss), m.items, int(m.hits)) for _, m in made], {n: p.detach() for n, p in state.network.model.named_parameters()}


@pytest.mark.torchrun
@pytest.mark.slow
@pytest.mark.parametrize("name", ["dgl", "dfa", "dni"])
def test_blocks_on_two_ranks_are_one_process_and_read_the_context_on_both(name, tmp_path):
    (reported, weights), two = alone(over_layers, name), together(2, over_layers, tmp_path, name)
    assert two[-1][0] == reported
    assert all(torch.equal(two[-1][1][n], w) for n, w in weights.items())


@pytest.mark.parametrize(("asked", "sentence"), [
    ({"task": "tokens", "method": "simclr"}, "simclr is a rule of the image task and cannot be used with --task tokens: it learns"),
    ({"task": "tokens", "method": "predsim"}, "it compares every item of a batch with every other"),
    ({"task": "tokens", "method": "bp", "model": "mlp"}, "--model mlp reads images, --task tokens has toy tokens: set one of toy-tokens"),
    ({"task": "images", "method": "bp", "model": "toy-ring"}, "--model toy-ring reads toy nodes, --task images has images"),
    ({"task": "ring", "method": "bp", "ranks": 2, "parallel": "data"}, "--parallel data cannot be used with --task ring: every node reads"),
    ({"task": "ring", "method": "bp", "augment": True}, "--augment has no meaning for --task ring"),
    ({"task": "ring", "method": "bp", "loss": "mse"}, "unknown loss of --task ring 'mse'"),
    ({"task": "rings", "method": "bp"}, "unknown task 'rings'"),
])  # fmt: skip
def test_what_does_not_fit_a_task_is_refused_in_a_sentence(asked, sentence):
    with pytest.raises(InputError) as refused:
        make_config(**asked)
    assert sentence in str(refused.value)


def test_a_runs_name_depends_on_its_task():
    names = {
        make_config(method="bp", task=task, data="digits", model=model).run_name()
        for task, model in (("tokens", "toy-tokens"), ("ring", "toy-ring"))
    }
    assert len(names | {make_config(method="bp", data="digits").run_name()}) == 3
    assert make_config(method="bp", task="images").digest() == make_config(method="bp").digest()


def test_a_rule_that_stores_what_blocks_give_refuses_a_network_that_skips_blocks():
    config = make_config(method="dgl-async", task="tokens")
    with pytest.raises(InputError, match="stores what each block gives to the next: block3 reads an earlier one too"):
        build_state(config, load_data(config, RunContext()), torch.device("cpu"))
