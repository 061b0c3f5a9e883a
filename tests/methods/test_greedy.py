"""Sequential layerwise learning against a loop over stages on cached activations; the untrained control against a probe."""

import copy
from itertools import pairwise

import pytest
import torch
from oracles import assert_near, assert_same_bits, batches, case, frozen, nll, rows_of, rule, step, uncut
from torch import nn

from gradlens.data.datasets import load as load_data
from gradlens.gradients.block_pass import is_chain
from gradlens.gradients.losses import LOSSES
from gradlens.gradients.method import Step
from gradlens.gradients.network_info import NetworkInfo
from gradlens.gradients.true_gradient import true_gradients
from gradlens.methods import METHODS
from gradlens.models.block_boundaries import output_shapes
from gradlens.models.zoo import ModelSpec, build
from gradlens.runtime.errors import InputError
from gradlens.training.build import ModelAndMethod
from gradlens.training.config import make_config
from gradlens.training.evaluation import evaluate
from gradlens.training.loop import fit
from gradlens.training.runs.build_state import build_state
from gradlens.training.saving import checkpoint_of, restore_run
from gradlens.training.step import Recording, training_step

NETWORKS = pytest.mark.parametrize("network", ["basic-cnn", "mlp"])
SETTINGS = [
    {"optimizer": "adam", "weight_decay": 1e-2},
    {"optimizer": "adamw", "weight_decay": 1e-2},
    {"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 1e-2},
    {"optimizer": "sgdw", "momentum": 0.9, "weight_decay": 1e-2},
    {"optimizer": "rmsprop", "momentum": 0.5, "weight_decay": 1e-2},
]
OPTIMIZERS = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9, weight_decay=1e-2),
    "adam": lambda params: torch.optim.Adam(params, lr=0.01),
}


def stages_by_hand(model, heads, stream, epochs, optimizer):
    """Belilovsky et al.'s loop: each stage has an optimiser of its own and reads activations cached in eval mode."""
    model, heads = copy.deepcopy(model), copy.deepcopy(heads)
    todo = [([model[k]], head) for k, head in enumerate(heads.values())] + [([model[-2]], model[-1])]
    cached = [x for x, _ in stream]
    for blocks, head in todo:
        layer = nn.Sequential(*blocks, head)
        opt = optimizer(layer.parameters())
        for _ in range(epochs):
            for h, (_, y) in zip(cached, stream, strict=True):
                opt.zero_grad()
                nll(layer(h), y).backward()
                opt.step()
        layer.eval()
        with torch.no_grad():
            cached = [layer[0](h) for h in cached]
    return model, heads


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@NETWORKS
def test_stages_equal_a_loop_on_cached_activations(network, optimizer):
    c = case(network)
    method = rule("greedy", c, warmed_up=False, stage_epochs=2, hidden=2)
    stream = batches(c, 3)
    want_model, want_heads = stages_by_hand(c.model, method.heads, stream, 2, OPTIMIZERS[optimizer])
    start = frozen(c.model)
    opt = OPTIMIZERS[optimizer](method.param_groups(c.blocks)[0]["params"])
    for epoch in range(1, 1 + 2 * (len(c.model) - 1)):
        for i, (x, y) in enumerate(stream):
            method.start(epoch, (epoch - 1) * len(stream) + i)
            training_step(ModelAndMethod(c.model, method), opt, x, y)
    assert_near(frozen(c.model), frozen(want_model))
    assert_near(frozen(method.heads), frozen(want_heads))
    assert all(not torch.equal(p, start[n]) for n, p in c.model.named_parameters() if n.endswith("weight"))


def trained(settings, watch=lambda state, event, numbers: None, restore=None):
    """A run on a few digits with the whole loop around it, possibly from a saved state."""
    config = make_config(
        **{"method": "greedy", "width": 4, "epochs": 6, "batch_size": 32, "lr": 1e-2, "record_every": 2, "augment": True, **settings}
    )
    state = build_state(config, load_data("digits", limit=64), torch.device("cpu"))
    if restore is not None:
        restore_run(state, None, restore)
    fit(state, None, lambda event, numbers: watch(state, event, numbers))
    return state


def saved(state):
    return checkpoint_of(state)


def parts(state):
    """{unit: parameters and buffers of its blocks and its head}, of a three-unit net's state."""
    blocks = {"block1": 0, "block2": 1, "block3": 2, "top": 2}
    units = [{}, {}, {}]
    for name, t in state["model"].items():
        units[blocks[name.split(".")[0]]][name] = t
    for name, t in state["method"].items():
        if name.startswith("heads."):
            units[int(name.split(".")[1])][name] = t
    return units


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: s["optimizer"])
def test_what_is_not_in_training_keeps_its_bits_buffers_included_across_a_resume_too(settings):
    states = []

    def watch(state, event, numbers):
        if event == "metric" and numbers["split"] == "test":
            states.append(copy.deepcopy(saved(state)))

    end = trained(settings, watch)
    assert len(states) == 7  # before the first epoch, and after each
    for epoch, (before, after) in enumerate(pairwise(states)):
        for unit, (a, b) in enumerate(zip(parts(before), parts(after), strict=True)):
            if unit != epoch // 2:  # six epochs, three stages
                assert_same_bits(b, a)
            else:
                assert any("running_mean" in n for n in a)
                assert not [n for n in a if n.endswith((".weight", "running_mean")) and torch.equal(a[n], b[n])]
    again = trained(settings, restore=states[3])  # in the middle of the second stage
    assert_same_bits(parts(saved(again))[0], parts(states[3])[0])
    for a, b in zip(parts(saved(again)), parts(saved(end)), strict=True):
        assert_same_bits(a, b)


def test_frozen_blocks_and_heads_run_in_eval_mode_and_blocks_above_the_stage_do_not_run():
    c = case("basic-cnn")
    method, modes = rule("greedy", c, warmed_up=False), {}
    for name, module in [*c.model.named_children(), *((f"head{k}", head) for k, head in method.heads.items())]:
        module.register_forward_hook(lambda m, args, out, name=name: modes.update({name: m.training}))
    want = [
        {"block1": True, "head0": True},
        {"block1": False, "block2": True, "head1": True},
        {"block1": False, "block2": False, "block3": True, "top": True},
    ]
    for epoch in (1, 2, 3):
        modes.clear()
        c.model.train(), method.train()  # as an evaluation leaves them
        method.start(epoch, 0)
        _, updates = step(method, c)
        assert modes == want[epoch - 1]
        trained_blocks = [k for k, u in updates.items() if u.grad.params]
        assert trained_blocks == ([3, 2] if epoch == 3 else [epoch - 1])
        assert {n.split(".")[1] for u in updates.values() for n in u.aux_grads} == ({str(epoch - 1)} if epoch < 3 else set())
        assert [k for k, u in updates.items() if u.signal.messages_below] == ([3] if epoch == 3 else [])


@pytest.mark.parametrize(
    ("epochs", "stage_epochs", "want"),
    [
        (9, None, [0, 0, 0, 1, 1, 1, 2, 2, 2]),
        (7, None, [0, 0, 0, 1, 1, 2, 2]),
        (5, None, [0, 0, 1, 1, 2]),
        (2, None, [0, 1]),
        (0, None, []),
        (5, 1, [0, 1, 2, 2, 2]),
        (5, 4, [0, 0, 0, 0, 1]),
    ],
)
def test_the_stage_follows_from_the_epoch(epochs, stage_epochs, want):
    c = case("basic-cnn")
    net = NetworkInfo(c.blocks, output_shapes(c.model, c.shape), 10, 16, LOSSES["ce"], 3, epochs=epochs)
    method = METHODS["greedy"](net, METHODS["greedy"].Options(stage_epochs=stage_epochs))
    stages, tops = [], []
    assert (method.stage, method.output_block, method.objective) == (0, 0, "stage 1 loss")
    for epoch in range(1, epochs + 1):
        method.start(epoch, 0)
        stages.append(method.stage)
        tops.append(method.output_block)
    assert stages == want
    assert tops == [{0: 0, 1: 1, 2: 3}[j] for j in want]


@NETWORKS
def test_the_truth_is_the_gradient_of_the_stages_own_net(network):
    c = case(network, torch.float32)
    method, n = rule("greedy", c, warmed_up=False), len(c.model)
    for stage in range(n - 1):
        method.start(stage + 1, 0)
        passes, updates = step(method, c)
        assert is_chain(passes)
        truth, *_, reference = true_gradients(method, Step(c.blocks, c.x, c.y, passes, updates))
        assert reference == f"stage {stage + 1} loss, same passes"
        last = n if stage == n - 2 else stage + 1
        twin = copy.deepcopy(nn.Sequential(*c.model[:last], *([method.heads[str(stage)]] if last < n else [])))
        assert [m.training for m in twin[:last]] == [False] * stage + [True] * (last - stage)  # as the step left them
        nll(twin(c.x), c.y).backward()
        assert len(truth) == last
        for k, grad in enumerate(truth):
            assert_same_bits(grad.params, {name: p.grad for name, p in twin[k].named_parameters()})
            if k >= stage:  # what the rule used is the truth
                assert_same_bits(updates[k].grad.params, grad.params)
        if last < n:
            assert_same_bits(dict(updates[stage].aux_grads), {f"heads.{stage}.{name}": p.grad for name, p in twin[-1].named_parameters()})
        rows = rows_of(method, c)
        cosine = {r.layer: r.value for r in rows if (r.kind, r.quantity) == ("parameters", "cosine")}
        assert list(cosine) == [name for name, _ in list(c.model.named_children())[:last]]
        assert [abs(v - 1) < 1e-12 for v in cosine.values()] == [k >= stage for k in range(last)]
        assert [v != v for v in cosine.values()] == [k < stage for k in range(last)]  # frozen: an exact zero has no direction
        assert [(r.layer, r.value) for r in rows if r.quantity == "stage"] == [(list(cosine)[-1], stage + 1)]


@NETWORKS
def test_the_stages_head_answers_or_all_heads_so_far_with_powers_of_two(network):
    c = case(network)
    n = len(c.model)
    c.model.eval()
    for ensemble in (False, True):
        method = rule("greedy", c, warmed_up=False, ensemble=ensemble, hidden=3).eval()
        h, answers = c.x, []
        for stage in range(n - 1):
            h = c.model[stage](h)
            answers.append(method.heads[str(stage)](h) if stage < n - 2 else c.model[-1](h))
            method.start(stage + 1, 0)
            weights = [2.0 ** (j + 1) for j in range(stage + 1)]
            want = sum(w * z for w, z in zip(weights, answers, strict=True)) / sum(weights) if ensemble else answers[-1]
            assert_near({"z": method.predict(c.blocks, c.x)}, {"z": want}, 1e-12)
        assert [f.shape[1:] for f in method.features(c.blocks, c.x)] == output_shapes(c.model, c.shape)


def test_training_reports_the_stages_loss_and_answers():
    c = case("basic-cnn")
    method = rule("greedy", c, warmed_up=False)
    twin, head = copy.deepcopy(c.model[0]), copy.deepcopy(method.heads["0"])
    outcome = training_step(ModelAndMethod(c.model, method), torch.optim.SGD(method.param_groups(c.blocks), lr=0.0), c.x, c.y)
    z = head(twin(c.x))
    assert outcome.loss == pytest.approx(nll(z, c.y).item(), rel=1e-12)
    assert (int(outcome.hits), outcome.items, outcome.answered) == (int((z.argmax(1) == c.y).sum()), 6, 6)


@pytest.mark.parametrize("hidden", [1, 2, 3])
def test_a_head_has_one_convolution_less_than_hidden_layers(hidden):
    heads = rule("greedy", case("basic-cnn"), warmed_up=False, hidden=hidden).heads
    more = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * (hidden - 1)
    for head in heads.values():
        assert [type(m) for m in head] == [*more, nn.AdaptiveAvgPool2d, nn.BatchNorm2d, nn.Flatten, nn.Linear]
        assert {m.kernel_size for m in head if isinstance(m, nn.Conv2d)} <= {(3, 3)}
    flat = rule("greedy", case("mlp"), warmed_up=False, hidden=hidden).heads
    assert [type(m) for m in flat["2"]] == [nn.Flatten, *[nn.Linear, nn.ReLU] * (hidden - 1), nn.Linear]
    with pytest.raises(InputError, match="hidden"):
        make_config(method="greedy", options={"hidden": 4})


def test_a_net_of_one_unit_is_trained_as_by_backprop_bit_for_bit():
    c = case("mlp", torch.float32)._replace(model=build("mlp", ModelSpec((1, 8, 8), 10, width=12, depth=1)))
    twin = uncut(c.model, c.x, c.y)
    method = rule("greedy", c, warmed_up=False)
    assert list(method.parameters()) == []
    _, updates = step(method, c)
    for k in range(2):
        assert_same_bits(updates[k].grad.params, twin.gradients(k))


def test_a_checkpoint_knows_which_head_answers():
    said = []

    def watch(state, event, numbers):
        if event == "metric" and numbers["split"] == "test":
            said.append((numbers["loss"], numbers["accuracy"]))

    end = trained({"epochs": 6, "steps": 8, "options": {"stage_epochs": 2}}, watch)  # in the middle of the second stage of three
    fresh = build_state(end.config, load_data("digits", limit=64), torch.device("cpu"))
    restore_run(fresh, None, saved(end))
    assert (fresh.network.method.stage, fresh.network.method.output_block) == (1, 1)
    assert evaluate(fresh.network, fresh.test, fresh.batches.to_input, fresh.config)[:2] == said[-1]
    fresh.network.method.start(1, 0)
    assert evaluate(fresh.network, fresh.test, fresh.batches.to_input, fresh.config)[:2] != said[-1]


# ---------------------------------------------------------------------------------------------------- the untrained control


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: s["optimizer"])
def test_shallow_trains_the_top_and_keeps_every_bit_below_it(settings):
    states = []

    def watch(state, event, numbers):
        if event == "evaluate" and not states:
            states.append(copy.deepcopy(saved(state)["model"]))

    end = trained({"method": "shallow", "epochs": 2, **settings}, watch).network.model.state_dict()
    below = [n for n in end if not n.startswith("top.")]
    assert any("running_mean" in n for n in below)
    assert_same_bits({n: end[n] for n in below}, {n: states[0][n] for n in below})
    assert not [n for n in end if n.startswith("top.") and torch.equal(end[n], states[0][n])]


@NETWORKS
def test_shallow_is_a_probe_on_the_features_of_the_net_as_it_was_drawn(network):
    c = case(network)
    method, stream = rule("shallow", c, warmed_up=False), batches(c, 6)
    bottom, top = copy.deepcopy(nn.Sequential(*c.model[:-1])).eval(), copy.deepcopy(c.model[-1])
    opt = torch.optim.Adam(top.parameters(), lr=0.01)
    for x, y in stream:
        opt.zero_grad()
        nll(top(bottom(x).detach()), y).backward()
        opt.step()
    mine = torch.optim.Adam(method.param_groups(c.blocks), lr=0.01)
    for i, (x, y) in enumerate(stream):
        c.model.train()  # as an evaluation leaves it
        training_step(ModelAndMethod(c.model, method), mine, x, y, Recording(i))
    assert_near(frozen(c.model[-1]), frozen(top))
    assert_same_bits({f"{k}.{n}": t for k in range(len(bottom)) for n, t in frozen(c.model[k]).items()}, frozen(bottom))
    c.model.eval()
    assert torch.equal(method.predict(c.blocks, c.x), c.model(c.x))
    _, updates = step(method, c)
    assert [k for k, u in updates.items() if u.grad.params or u.signal.messages_below or u.signal.delta is not None] == [len(c.model) - 1]
