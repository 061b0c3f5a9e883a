"""Tasks whose examples are no images: every rule that fits, on sequences of tokens and on nodes of a graph."""

import copy
import math
import signal

import pytest
import torch
import torch.nn.functional as F
import toy_tasks
from ranks import alone, together
from tiny_runs import same_state, signal_at
from torch import nn

from gradlens.gradients.backward import run_step
from gradlens.gradients.block_pass import outputs
from gradlens.gradients.diagnostics import sparse_rows
from gradlens.gradients.rows import step_rows
from gradlens.gradients.true_gradient import true_gradients
from gradlens.methods import METHODS
from gradlens.models.feedback_point import feedback_points
from gradlens.runtime.errors import InputError, Stopped
from gradlens.runtime.rng import key, seed_global
from gradlens.training.checkpoint import load_checkpoint
from gradlens.training.config import make_config
from gradlens.training.context import RunContext, load_data
from gradlens.training.loop import make_update
from gradlens.training.metrics import best_epoch
from gradlens.training.runs.build_state import build_state
from gradlens.training.runs.train_run import train_run

ANY = [name for name, rule in METHODS.items() if not rule.images_only]
REFUSED = {(task, "dgl-async"): "stores what each block gives to the next" for task in ("tokens", "clicks")}
CASES = [(task, name) for task in ("tokens", "ring", "language", "clicks") for name in ANY if (task, name) not in REFUSED]
INSIDE = [
    (task, name) for task in ("tokens", "language") for name in ("dfa inside", "dfa features") if (task, name) != ("tokens", "dfa features")
]
TIED = [("language", f"{name} tied") for name in ("dgl", "overlap", "dgl-async")]
OPTIONS = {
    "greedy": {"stage_epochs": 1}, "dgl-async": {"order": "in-order", "buffer": 2}, "dfa inside": {"points": "inside"},
    "dfa features": {"points": "inside", "error": "features", "shared": True},
    "dgl tied": {"head": "tied"}, "overlap tied": {"head": "tied"}, "dgl-async tied": {"head": "tied", "order": "in-order", "buffer": 2},
}  # fmt: skip
FEW = {("tokens", "bp"), ("tokens", "dfa"), ("tokens", "overlap"), ("ring", "dni"), ("ring", "dfa")}
FEW |= {("clicks", "bp"), ("clicks", "dfa"), ("clicks", "shallow")}
FEW |= {("language", "bp"), ("language", "fa"), ("language", "dgl tied"), ("language", "dfa features")}


@pytest.fixture(autouse=True)
def tasks():
    toy_tasks.register()
    yield
    toy_tasks.forget()


def some(cases, few=FEW):
    """All pairs of task and rule; by default only a few."""
    return [pytest.param(*case, marks=[pytest.mark.slow] * (case not in few)) for case in cases]


def config_of(task, name, **more):
    method = name.split()[0]
    settings = {"epochs": 5, "lr": 0.01, "width": 6, "options": OPTIONS.get(name, {}), "record_every": 2, "diagnose_every": 1}
    if task == "language":
        settings |= {
            "data": str(toy_tasks.text_file()),
            "task_options": {"length": 5},
            "depth": 3,
            "heads": 2,
            "batch_size": 4,
            "dropout": 0.1,
        }
    if task == "clicks":
        columns = {**toy_tasks.CLICK_COLUMNS, "rare": 3}
        settings |= {"data": str(toy_tasks.click_file()), "task_options": columns, "batch_size": 24, "model": "autoint", "embedding": 4}
        settings |= {"interactions": 1, "depth": 2}
    return make_config(**{"method": method, "task": task, **settings, **more})


def state_of(config, dtype=torch.float64):
    """A run in float64, in the middle of it: past its warm-up, in its last stage."""
    state = build_state(config, load_data(config, RunContext()), torch.device("cpu"))
    for module in state.network:
        module.to(dtype)
    return state


def a_step(state, step=0):
    """One step, with its batch's context set; the caller is inside ``batches.sharded``."""
    model, method = state.network
    x, y = state.batches.batch(step)
    x = x.double() if x.is_floating_point() else x
    method.start(99, 1 << 20)
    seed_global(key(0, "step", step))
    return x, y, run_step(method, list(model), x, y)


def backward_on_a_copy(state, x, y, terms=True):
    """``loss.backward()`` on an uncut copy, with the sums and the number of items in plain words."""
    twin = copy.deepcopy(state.network.model)
    seed_global(key(0, "step", 0))
    hs = []
    for h in outputs(twin, x):
        h.retain_grad()
        hs.append(h)
    known = y >= 0
    if state.config.task == "clicks":
        loss = F.binary_cross_entropy_with_logits(hs[-1][:, 0], y.to(hs[-1]))
    else:
        loss = F.cross_entropy(hs[-1][known], y[known], reduction="sum") / known.sum()
    if terms and state.config.task == "tokens":
        loss = loss + 0.3 * F.cross_entropy(hs[1][..., : toy_tasks.WORDS][known], y[known], reduction="sum") / known.sum()
    loss.backward()
    return twin, hs, loss.detach()


@pytest.mark.parametrize(("task", "name"), some([*CASES, *INSIDE, *TIED]))
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


@pytest.mark.parametrize("task", ["tokens", "ring"])
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
def test_windows_of_a_network_that_skips_blocks_are_losses_on_a_copy_cut_before_them(name, options, windows, monkeypatch):
    monkeypatch.setattr(toy_tasks.Tokens, "two_terms", False)
    state = state_of(config_of("tokens", name, options=options))
    model, method = state.network
    with state.batches.sharded(0):
        x, y, step = a_step(state)
        twin, heads = copy.deepcopy(model), copy.deepcopy(method.heads)
        known = y >= 0
        for first, last in windows:
            seed_global(key(0, "step", 0))
            hs = []
            for k, block in enumerate(twin):
                read = [hs[k - 1] if k else x, *(hs[j] for j in getattr(block, "reads_blocks", ()))]
                hs.append(block(*read))
                if k < first:
                    hs[k] = hs[k].detach()
            z = hs[last] if last == len(model) - 1 else heads[str(last)](hs[last])
            (F.cross_entropy(z[known], y[known], reduction="sum") / known.sum()).backward()
    for k, block in enumerate(twin):
        for parameter, p in block.named_parameters():
            assert torch.allclose(step.updates[k].grad.params[parameter], p.grad, rtol=1e-10, atol=1e-14), (k, parameter)


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


@pytest.mark.parametrize(("task", "name"), some([*CASES, *INSIDE, *TIED]))
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


@pytest.mark.parametrize(("task", "name"), some([*CASES, *INSIDE, *TIED], {("tokens", "dni"), ("ring", "dgl"), ("language", "dgl tied")}))
def test_recording_leaves_no_trace_and_a_run_resumes_bit_for_bit(task, name, tmp_path):
    whole = train_run(config_of(task, name), RunContext(out=tmp_path / "whole"))
    assert whole.finished
    assert whole.metrics[-1].score_name == {"ring": "accuracy", "clicks": "auc"}.get(task, "perplexity")
    silent = config_of(task, name, record_every=0)

    with pytest.raises(Stopped):
        train_run(silent, RunContext(out=tmp_path), signal_at(3, signal.SIGINT))
    resumed = train_run(silent, RunContext(out=tmp_path, resume=True))
    a, b = (load_checkpoint(run.path / "checkpoint.pt") for run in (whole, resumed))
    assert same_state({part: a[part] for part in ("model", "method")}, {part: b[part] for part in ("model", "method")})
    assert (whole.path / "metrics.csv").read_bytes() == (resumed.path / "metrics.csv").read_bytes()


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


def trained(world, name):
    """Updates of 13 sequences of unequal lengths, on one rank or two."""
    toy_tasks.register()
    shared = {"ranks": world.num_ranks, "parallel": "data"} if world.num_ranks > 1 else {}
    config = config_of("tokens", name, optimizer="sgd", lr=0.1, batch_size=13, **shared)
    state = build_state(config, load_data(config, RunContext()), torch.device("cpu"), world)
    for module in state.network:
        module.double()
        for m in module.modules():
            m.p = 0.0 if isinstance(m, nn.Dropout) else getattr(m, "p", None)
    rows, losses = [], []
    for step in range(4):
        made, *_ = make_update(state, step)
        losses.append((float(made.loss), made.items, int(made.hits), int(made.answered)))
        rows += [tuple(row) for row in made.rows]
    return {"losses": losses, "rows": rows, "weights": {n: p.detach() for n, p in state.network.model.named_parameters()}}


@pytest.mark.torchrun
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "bp")) for n in ("bp", "dfa", "dgl", "fa", "overlap")])
def test_two_ranks_with_unequal_numbers_of_items_are_one_process(name, tmp_path):
    one, two = alone(trained, name), together(2, trained, tmp_path, name)
    for other in two:
        for a, b in zip(one["losses"], other["losses"], strict=True):
            assert b[0] == pytest.approx(a[0], rel=1e-10)
            assert b[1:] == a[1:]
        for n, w in one["weights"].items():
            assert torch.allclose(other["weights"][n], w, rtol=1e-9, atol=1e-12), n
        for a, b in zip(one["rows"], other["rows"], strict=True):
            assert a[:4] == b[:4]
            assert b[4] == pytest.approx(a[4], rel=1e-6, abs=1e-8, nan_ok=True), a


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
