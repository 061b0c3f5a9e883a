"""Networks of a user's own: sequences, one block in several places, checkpointed and compiled blocks; what cannot be is one sentence."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from oracles import Case, nll, rule
from torch import nn

from gradlens.methods import METHODS
from gradlens.runtime.errors import InputError
from gradlens.training import user_references
from gradlens.training.build import ModelAndMethod
from gradlens.training.config import make_config
from gradlens.training.context import RunContext
from gradlens.training.loop import fit
from gradlens.training.runs.check import check
from gradlens.training.runs.train_run import prepare
from gradlens.training.step import Recording, training_step

NETS = """
import threading
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Rows(nn.Module):
    def __init__(self, columns):
        super().__init__()
        self.layer = nn.Linear(columns, 8)

    def forward(self, x):
        return self.layer(x.flatten(1, 2))


class Mean(nn.Module):
    def forward(self, x):
        return x.mean(1)


def tokens(spec):
    attention = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True, dropout=0.1)
    return [Rows(spec.shape[2]), attention, nn.Sequential(Mean(), nn.Linear(8, spec.classes))]


def mixed(spec):
    "Sequences without a layer that feedback rules do not know."
    return [Rows(spec.shape[2]), nn.Sequential(nn.Linear(8, 8), nn.ReLU()), nn.Sequential(Mean(), nn.Linear(8, spec.classes))]


def convolved(spec):
    c, h, w = spec.shape
    first = nn.Sequential(nn.Flatten(2), nn.Conv1d(c, 6, 3), nn.BatchNorm1d(6), nn.ReLU())
    second = nn.Sequential(nn.Conv1d(6, 7, 3, stride=2), nn.ReLU())
    return [first, second, nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(7, spec.classes))]


def ends(spec, *between):
    return [nn.Sequential(nn.Flatten(), nn.Linear(spec.shape[0] * spec.shape[1] * spec.shape[2], 8)), *between, nn.Linear(8, spec.classes)]


def twice(spec):
    again = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
    return ends(spec, again, again)


class Checkpointed(nn.Module):
    def __init__(self, block, reentrant=False, always=True):
        super().__init__()
        self.block, self.reentrant, self.always = block, reentrant, always

    def forward(self, x):
        if self.training or self.always:
            return checkpoint(self.block, x, use_reentrant=self.reentrant)
        return self.block(x)


def normed():
    return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 8))


def checkpointed(spec):
    return ends(spec, Checkpointed(normed()), nn.Sequential(nn.ReLU(), Checkpointed(nn.Linear(8, 8))))


def reentrant(spec):
    return ends(spec, Checkpointed(normed(), True))


def reentrant_in_training(spec):
    return ends(spec, nn.Sequential(nn.ReLU(), Checkpointed(normed(), True, False)))


def uncompiled(spec):
    return ends(spec, nn.Sequential(nn.Linear(8, 8), nn.ReLU()))


def compiled(spec):
    return ends(spec, torch.compile(nn.Sequential(nn.Linear(8, 8), nn.ReLU()), backend="aot_eager"))


def compiled_in_place(spec):
    blocks = uncompiled(spec)
    blocks[1].compile(backend="aot_eager")
    return blocks


def compiled_whole(spec):
    return torch.compile(nn.Sequential(*twice(spec)))


def double(spec):
    return nn.Sequential(*twice(spec)).double()


def half(spec):
    return nn.Sequential(*twice(spec)).half()


def brain(spec):
    return nn.Sequential(*twice(spec)).bfloat16()


def double_top(spec):
    return [*twice(spec)[:-1], nn.Linear(8, spec.classes).double()]


def complex_part(spec):
    blocks = twice(spec)
    blocks[1].register_parameter("phase", nn.Parameter(torch.zeros(2, dtype=torch.complex64)))
    return blocks


def weight_norm(spec):
    return ends(spec, nn.Sequential(nn.utils.weight_norm(nn.Linear(8, 8))))


def holding(thing):
    layer = nn.Linear(8, 8)
    layer.thing = thing
    return nn.Sequential(layer)


def lock(spec):
    return ends(spec, holding(threading.Lock()))


def file(spec):
    return ends(spec, holding(open(__file__)))


def generator(spec):
    return ends(spec, holding(i for i in "ab"))


def graph(spec):
    return ends(spec, holding(torch.ones(2, requires_grad=True) * 2))


class Alone(nn.Linear):
    def __deepcopy__(self, memo):
        raise NotImplementedError("there is one of me")


def alone(spec):
    return ends(spec, Alone(8, 8))


def scripted(spec):
    return ends(spec, torch.jit.script(nn.Linear(8, 8)))


def traced(spec):
    return ends(spec, nn.Sequential(torch.jit.trace(nn.Linear(8, 8), torch.zeros(1, 8))))


def lazy(spec):
    return ends(spec, nn.LazyLinear(8))


class Product(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return x @ self.layer.weight.t() + self.layer.bias


def product(spec):
    return ends(spec, Product())


class Sums(nn.Module):
    def forward(self, x):
        return x.sum(1)


class Wide(nn.Module):
    def forward(self, x):
        return x[:, None].expand(-1, 8)


def numbers(spec):
    return ends(spec, Sums(), Wide())
"""


@pytest.fixture(autouse=True)
def a_file_of_networks(own_code_forgotten):
    Path("net.py").write_text(NETS)
    with torch.random.fork_rng():
        yield


def config_of(name: str, net: str, **settings):
    unread = {} if METHODS[name].classifies else {"label_noise": 0.0}
    stages = 3 if METHODS[name].in_stages else 1
    small = {"limit": 24, "batch_size": 12, "epochs": stages, "record_every": 1, "diagnose_every": 1, **unread, **settings}
    return make_config(method=name, model=f"net.py:{net}", **small)


def trained(name: str, net: str, **settings) -> dict[str, torch.Tensor]:
    state = prepare(config_of(name, net, **settings), RunContext(out=Path("runs")))
    before = {n: t.clone() for n, t in state.network.model.state_dict().items()}
    fit(state, None)
    after = state.network.model.state_dict()
    assert any(not torch.equal(before[n], after[n]) for n in after)
    return after


FEEDBACK = ("fa", "kp", "usf", "brsf", "frsf")
PATCHES = ("cpc", "cpc-local", "infomax")
UNTAUGHT = [name for name in METHODS if not METHODS[name].has_teacher]


SEQUENCES = [(name, "tokens") for name in UNTAUGHT]
SEQUENCES += [(name, "mixed") for name in FEEDBACK]
SEQUENCES += [(name, "convolved") for name in ("bp", "dni", "predsim", "simclr-local", "fa", "cpc")]  # all in properties/test_sequences.py


@pytest.mark.parametrize(("name", "net"), SEQUENCES)
def test_sequences_are_trained_under_every_rule_or_refused_in_a_sentence(name, net):
    if name in PATCHES:
        with pytest.raises(InputError, match=r"spatial mean of maps \[N, C, H, W\]; the output of block1 is \[N, \d+, \d+\]"):
            trained(name, net)
    elif name in FEEDBACK and net != "mixed":
        with pytest.raises(InputError, match=r"has no feedback for block[12]\.(self_attn|1) \((MultiheadAttention|Conv1d)\)"):
            trained(name, net)
    else:
        trained(name, net)


@pytest.mark.parametrize("name", UNTAUGHT)
def test_one_block_in_two_places_is_trained_under_every_rule_or_refused_in_a_sentence(name):
    if name == "greedy":
        with pytest.raises(InputError, match="block2 and block3 share parameters"):
            trained(name, "twice")
        return
    after = trained(name, "twice")
    assert torch.equal(after["block2.0.weight"], after["block3.0.weight"])


def test_shallow_refuses_a_top_that_is_a_block_too():
    layer = nn.Linear(4, 4).double()
    c = Case(nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer), torch.randn(3, 4, dtype=torch.float64), torch.tensor([0, 1, 2]))
    with pytest.raises(InputError, match=r"1 shares parameters with it"):
        rule("shallow", c)


# ------------------------------------------------------------------------- gradients of a block that is in two places are added


def recurrent() -> Case:
    """Four steps of one block, from below to the top."""
    torch.manual_seed(4)
    again = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
    blocks = nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(6, 6)), again, again, again, nn.Linear(6, 10)).double()
    return Case(blocks, torch.randn(5, 6, 1, dtype=torch.float64), torch.arange(5))


def moved(c: Case, method) -> dict[str, torch.Tensor]:
    """What one step of SGD with learning rate 1 takes off each parameter: its gradient."""
    before = {n: p.detach().clone() for n, p in c.model.named_parameters()}
    training_step(ModelAndMethod(c.model, method), torch.optim.SGD(c.model.parameters(), lr=1.0), c.x, c.y, Recording(0, diagnose=True))
    return {n: before[n] - p.detach() for n, p in c.model.named_parameters()}


def gradients(c: Case, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    found = torch.autograd.grad(loss, list(c.model.parameters()))
    return dict(zip(dict(c.model.named_parameters()), found, strict=True))


def by_backprop(c: Case, method) -> torch.Tensor:
    return nll(c.model(c.x), c.y)


def by_feedback(c: Case, method) -> torch.Tensor:
    h = c.x.flatten(1)
    for path, block in (("0.1", c.model[0][1]), *[("1.0", c.model[1][0])] * 3, ("4", c.model[4])):
        slope = F.linear(h, method.matrix(path, block.weight.detach()))
        h = F.linear(h.detach(), block.weight, block.bias) + slope - slope.detach()
        h = torch.tanh(h) if path == "1.0" else h
    return nll(h, c.y)


def by_local_losses(c: Case, method) -> torch.Tensor:
    h, losses = c.x, []
    for k, block in enumerate(c.model):
        h = block(h if k == len(c.model) - 1 else h.detach())
        if k < len(c.model) - 2:
            losses.append(nll(method.heads[str(k)](h), c.y))
    return sum(losses) + nll(h, c.y)


def by_random_errors(c: Case, method) -> torch.Tensor:
    h, sums, e = c.x, [], None
    z = c.model(c.x).detach().requires_grad_()
    (e,) = torch.autograd.grad(nll(z, c.y), z)
    for k, block in enumerate(c.model):
        h = block(h.detach())
        sums.append((h * (e if k == len(c.model) - 1 else e @ method.matrix(k).to(e))).sum())
    return sum(sums)


ORACLES = {"bp": by_backprop, "fa": by_feedback, "usf": by_feedback, "kp": by_feedback, "dgl": by_local_losses, "dfa": by_random_errors}


@pytest.mark.parametrize("name", ORACLES)
def test_the_gradients_of_all_places_of_a_block_are_added_in_its_update(name):
    c = recurrent()
    method = rule(name, c, warmed_up=False)
    want = gradients(c, ORACLES[name](c, method))
    for n, got in moved(c, method).items():
        torch.testing.assert_close(got, want[n], rtol=1e-9, atol=1e-12, msg=lambda m, n=n: f"{n}: {m}")


def test_what_kp_keeps_of_a_block_learns_from_all_its_places():
    c = recurrent()
    method = rule("kp", c, warmed_up=False)
    want = gradients(c, by_feedback(c, method))
    before = {path: method.held(path).clone() for path in ("0.1", "1.0", "4")}
    optimizer = torch.optim.SGD([*c.model.parameters(), *method.parameters()], lr=1.0)
    training_step(ModelAndMethod(c.model, method), optimizer, c.x, c.y)
    for path, b in before.items():
        torch.testing.assert_close(b - method.held(path), want[f"{path}.weight"], rtol=1e-9, atol=1e-12)


# -------------------------------------------------------------------------------------------------- checkpointed and compiled


@pytest.mark.parametrize("name", ["bp", "dgl", "fa", "greedy"])
def test_recording_a_run_of_checkpointed_blocks_changes_nothing_of_it(name):
    """Their BatchNorm runs again in each backward pass: those of the records leave its statistics as they were."""
    recorded, not_recorded = trained(name, "checkpointed"), trained(name, "checkpointed", record_every=0, diagnose_every=0)
    for n, t in recorded.items():
        assert torch.equal(t, not_recorded[n]), n


@pytest.mark.parametrize("net", ["compiled", "compiled_in_place"])
@pytest.mark.parametrize("name", ["bp", "fa"])
def test_compiled_blocks_are_trained_and_recorded_as_they_are_uncompiled(net, name):
    for (n, a), b in zip(trained(name, net).items(), trained(name, "uncompiled").values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=lambda m, n=n: f"{n}: {m}")


# ------------------------------------------------------------------------------------------------------ what cannot be is said

COPY = "cannot be copied with copy.deepcopy, as checks and measurements do: "
REFUSED = {
    "reentrant": "block2 is checkpointed with use_reentrant=True",
    "reentrant_in_training": "block2 is checkpointed with use_reentrant=True",
    "compiled_whole": "net.py:compiled_whole gives a compiled network: compile its blocks",
    "double": "net.py:double gives a network of float64 numbers (0.1.weight): networks are trained in float32",
    "half": "gives a network of float16 numbers (0.1.weight): networks are trained in float32; --precision bf16",
    "brain": "gives a network of bfloat16 numbers (0.1.weight): networks are trained in float32; --precision bf16",
    "double_top": "gives a network of float64 numbers (top.weight)",
    "complex_part": "block2.phase is complex (torch.complex64)",
    "weight_norm": f"net.py:weight_norm: block2.0 (Linear) {COPY}Only Tensors created explicitly",
    "lock": f"net.py:lock: block2.0 (Linear) {COPY}cannot pickle '_thread.lock' object",
    "file": f"block2.0 (Linear) {COPY}cannot pickle '_io.TextIOWrapper' object",
    "generator": f"block2.0 (Linear) {COPY}cannot pickle 'generator' object",
    "graph": f"block2.0 (Linear) {COPY}Only Tensors created explicitly",
    "alone": f"block2 (Alone) {COPY}there is one of me",
    "scripted": "block2 is a TorchScript module",
    "traced": "block2.0 is a TorchScript module",
    "lazy": "net.py:lazy gives a network whose weight has no shape yet",
}


@pytest.mark.parametrize("net", REFUSED)
def test_networks_that_cannot_be_trained_are_refused_for_that_reason(net):
    with pytest.raises(InputError, match=re.escape(REFUSED[net])) as refused:
        prepare(config_of("bp", net), RunContext(out=Path("runs")))
    assert "\n" not in str(refused.value)
    assert ("parametrizations.weight_norm" in str(refused.value)) == (net == "weight_norm")
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("name", "net", "words"),
    [
        ("fa", "product", "fa: the weight of block2.layer is also used otherwise than by calling the layer (MmBackward0)"),
        ("fa", "reentrant_in_training", "is checkpointed with use_reentrant=True"),
        ("dni", "numbers", "a block's output is [N]"),
        ("simclr-local", "numbers", "a block's output is [N]"),
    ],
)
def test_rules_that_cannot_train_a_network_say_so_before_anything_is_written(name, net, words):
    for attempt in (prepare, check):
        with pytest.raises(InputError, match=re.escape(words)):
            attempt(config_of(name, net), RunContext(out=Path("runs")))
    assert not Path("runs").exists()


def test_the_dry_step_leaves_no_trace(monkeypatch):
    context, config = RunContext(out=Path("runs")), config_of("bp", "checkpointed")
    stream = torch.get_rng_state()
    looked_at = prepare(config, context)
    monkeypatch.setattr("gradlens.training.runs.train_run.check_first_step", lambda *_: None)
    torch.set_rng_state(stream)
    untouched = prepare(config, context)
    states = [t.network.model.state_dict() for t in (looked_at, untouched)]
    assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in states), strict=True))
    assert all(p.grad is None for p in looked_at.network.model.parameters())
    assert user_references.TYPED["model"]
