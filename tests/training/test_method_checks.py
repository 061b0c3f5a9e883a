"""The checks of `gradlens check`: the shipped rules pass them; of rules that are broken on purpose they say what is wrong."""

import random
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from gradlens.gradients.block_pass import Pass
from gradlens.gradients.method import Method, Options, Signal, Update, top_signal
from gradlens.gradients.network_info import NetworkInfo
from gradlens.methods import METHODS
from gradlens.runtime.errors import InputError
from gradlens.runtime.rng import generator, seeded
from gradlens.tasks.registry import TASKS
from gradlens.training.checks import method_checks, step_checks
from gradlens.training.checks.method_checks import METHOD_CHECKS, CheckResult, failure_of, result_lines, run_method_checks, summary_lines
from gradlens.training.checks.trial import NETWORKS, Trial, networks_of


def failures(rule: type[Method], networks=NETWORKS) -> dict[str, str]:
    """The checks a rule fails, and how, on the first network where it does."""
    found: dict[str, str] = {}
    for f in run_method_checks(rule, rule.Options(), networks=networks):
        if f.failed:
            found.setdefault(f.check, f.message)
    return found


# ------------------------------------------------------------------------------------------------------ rules that hold


@pytest.mark.parametrize("name", ["bp", "greedy", "context-encoder"])
def test_every_check_is_asked_on_every_network_in_order(name):
    """The rules one by one, check by check: tests/properties."""
    networks = NETWORKS if name == "bp" else ("mlp",)
    findings = list(run_method_checks(METHODS[name], METHODS[name].Options(), networks=networks))
    assert [(f.check, f.network) for f in findings] == [(check, network) for network in networks for check in METHOD_CHECKS]
    assert [f for f in findings if f.failed] == []
    skipped = {f.check for f in findings if not f.applicable}  # nothing is passed over in silence
    assert skipped == {"bp": set(), "greedy": {"labels", "truth"}, "context-encoder": {"labels", "truth"}}[name]


def test_asking_changes_nothing_outside():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    list(run_method_checks(METHODS["dgl"], METHODS["dgl"].Options(), networks=["mlp"]))
    assert torch.equal(torch.get_rng_state(), before)


class Momentum(Method):
    """A message with a memory, kept where it belongs: nothing is broken."""

    depends_on = frozenset({"input", "backward_message"})

    def __init__(self, net: NetworkInfo, options: Options) -> None:
        super().__init__(net, options)
        self.register_buffer("mean", torch.ones(self.num_blocks))

    def start(self, epoch: int, step: int) -> None:
        self.mean.mul_(0.9)

    def signal(self, k: int, passes: Mapping[int, Pass], received: tuple[Tensor, ...]) -> Signal:
        if k == self.num_blocks - 1:
            return top_signal(self.loss, passes[k])
        return Signal(received[0] * self.mean[k], received)


def test_a_rule_with_a_memory_in_a_buffer_passes_the_checks():
    assert failures(Momentum, ["mlp", "basic-cnn"]) == {}


# ------------------------------------------------------------------------------------------- rules that are broken on purpose


class Plain(Method):
    """Backprop, for others to break."""

    depends_on = frozenset({"input", "backward_message"})

    def signal(self, k, passes, received):
        if k == self.num_blocks - 1:
            return top_signal(self.loss, passes[k])
        return Signal(received[0], (received[0],))


class Forgetful(Plain):
    """What it remembers is in no state_dict."""

    steps = 0

    def start(self, epoch, step):
        self.steps += 1

    def signal(self, k, passes, received):
        s = super().signal(k, passes, received)
        return s if k == self.num_blocks - 1 else s._replace(delta=s.delta / self.steps)


class Pickled(Plain):
    """Its state is no tensor."""

    def get_extra_state(self):
        return {"rng": random.Random(0)}

    def set_extra_state(self, state):
        pass


class Dice(Plain):
    """Python's dice."""

    def signal(self, k, passes, received):
        s = super().signal(k, passes, received)
        return s if k == self.num_blocks - 1 else s._replace(delta=s.delta * random.random())


class Unseeded(Plain):
    """Drawn from torch's own stream."""

    def __init__(self, net, options):
        super().__init__(net, options)
        self.register_buffer("b", torch.randn(3))


class OtherStart(Plain):
    """Begins anew each time, without touching the stream."""

    def __init__(self, net, options):
        super().__init__(net, options)
        self.register_buffer("b", torch.rand(3, generator=torch.Generator().manual_seed(random.getrandbits(60))))


class Louder(Plain):
    """The top is told twice the gradient."""

    def signal(self, k, passes, received):
        s = super().signal(k, passes, received)
        return s._replace(delta=2 * s.delta, messages_below=(2 * s.delta,)) if k == self.num_blocks - 1 else s


class Measured(Plain):
    """Being looked at changes it."""

    def __init__(self, net, options):
        super().__init__(net, options)
        self.register_buffer("looked", torch.ones(()))

    def signal(self, k, passes, received):
        s = super().signal(k, passes, received)
        return s if k == self.num_blocks - 1 else s._replace(delta=s.delta * self.looked)

    def quantities(self, update: Update):
        self.looked *= 0.5
        return {}


class Unheard(Method):
    """Sends what nobody waits for."""

    def signal(self, k, passes, received):
        return top_signal(self.loss, passes[k]) if k == self.num_blocks - 1 else Signal(passes[k].z.detach())


class Eavesdropper(Method):
    """Looks at weights above it."""

    def __init__(self, net, options):
        super().__init__(net, options)
        self.blocks = list(net.blocks)

    def signal(self, k, passes, received):
        if k == self.num_blocks - 1:
            return top_signal(self.loss, passes[k])._replace(messages_below=())
        return Signal(passes[k].z.detach() * next(self.blocks[-1].parameters()).detach().mean())


class Uncut(Plain):
    """Goes back through the graph of the block."""

    def signal(self, k, passes, received):
        if k < self.num_blocks - 1:
            return super().signal(k, passes, received)
        p = passes[k]
        value = self.loss(p.h, p.y)
        (delta,) = torch.autograd.grad(value, p.h, retain_graph=True)
        return Signal(delta, (delta,), loss=value.detach(), logits=p.z.detach())


class Adopted(Plain):
    """Takes the network's blocks for its own."""

    def __init__(self, net, options):
        super().__init__(net, options)
        self.first = net.blocks[0]


class Half(Plain):
    """Keeps its parameters from the optimiser."""

    def param_groups(self, blocks):
        return [{"params": list(blocks[0].parameters())}]


class Headed(Plain):
    """Gradients of its own modules, by names that a subclass spoils."""

    def __init__(self, net, options):
        super().__init__(net, options)
        with seeded(net.seed, "scale"):
            self.scale = nn.ParameterList(torch.ones(4) for _ in net.blocks)

    def aux_grads(self, k):
        return {f"scale.{k}": torch.ones(4, dtype=torch.float64)}

    def signal(self, k, passes, received):
        return super().signal(k, passes, received)._replace(aux_grads=self.aux_grads(k))


class Misnamed(Headed):
    def aux_grads(self, k):
        return {f"scales.{k}": torch.ones(4, dtype=torch.float64)}


class Misshapen(Headed):
    def aux_grads(self, k):
        return {f"scale.{k}": torch.ones(5, dtype=torch.float64)}


class Repeated(Headed):
    def aux_grads(self, k):
        return {"scale.0": torch.ones(4, dtype=torch.float64)}


class Infinite(Plain):
    def signal(self, k, passes, received):
        s = super().signal(k, passes, received)
        return s if k == self.num_blocks - 1 else s._replace(delta=s.delta / 0)


class Summed(Plain):
    """Loses the batch."""

    def signal(self, k, passes, received):
        s = super().signal(k, passes, received)
        return s if k == self.num_blocks - 1 else s._replace(delta=s.delta.sum(0))


class Live(Plain):
    """Hands out a gradient with its graph."""

    def signal(self, k, passes, received):
        s = super().signal(k, passes, received)
        return s if k == self.num_blocks - 1 else s._replace(delta=s.delta * passes[k].z)


class Bare(Plain):
    """Gives a tensor where a Signal is wanted."""

    def signal(self, k, passes, received):
        s = super().signal(k, passes, received)
        return s if k == self.num_blocks - 1 else s.delta


class Mute(Plain):
    """Says no answer."""

    def signal(self, k, passes, received):
        return super().signal(k, passes, received)._replace(logits=None)


class Peeking(Method):
    """Reads the top's pass and does not say so."""

    def signal(self, k, passes, received):
        if k == self.num_blocks - 1:
            return top_signal(self.loss, passes[k])._replace(messages_below=())
        return Signal(passes[k].z.detach() * passes[self.num_blocks - 1].z.detach().mean())


class Labelled(Method):
    """Reads labels and does not say so."""

    def signal(self, k, passes, received):
        if k == self.num_blocks - 1:
            return top_signal(self.loss, passes[k])._replace(messages_below=())
        p = passes[k]
        return Signal(p.z.detach() * p.y.reshape(-1, *[1] * (p.z.ndim - 1)))


class Scribbling(Plain):
    """Writes gradients itself."""

    def signal(self, k, passes, received):
        for p in passes[k].block.parameters():
            p.grad = torch.zeros_like(p)
        return super().signal(k, passes, received)


class Restless(Plain):
    """Changes in evaluation."""

    def __init__(self, net, options):
        super().__init__(net, options)
        self.register_buffer("asked", torch.zeros(()))

    def predict(self, blocks, x):
        self.asked += 1
        return super().predict(blocks, x)


class Crashing(Plain):
    def signal(self, k, passes, received):
        raise RuntimeError("no luck today")


@pytest.mark.parametrize(
    ("rule", "check", "words"),
    [
        (Forgetful, "resume", "state_dict"),
        (Pickled, "resume", "more than tensors and numbers"),
        (Unseeded, "seed", "inside `with seeded"),
        (OtherStart, "seed", "begins with another b"),
        (Louder, "truth", "not what loss.backward() gives"),
        (Measured, "leaves no trace", "recording changes"),
        (Unheard, "isolation", "top sends a backward message but block3 does not declare `backward_message`: `depends_on` is input"),
        (Eavesdropper, "isolation", "the error signal of block1 depends on later blocks"),
        (Uncut, "isolation", "a loss has a gradient w.r.t. top.out.weight, top.out.bias, beyond the block's error signal"),
        (Adopted, "optimiser", "of the network: keep blocks in a plain list"),
        (Half, "optimiser", "the optimiser gets block2.linear.weight 0 times: see `param_groups`, or `register_buffer` if it is fixed"),
        (Misnamed, "gradients", "a gradient for scales.3, which is none of its own parameters (scale.0, scale.1, scale.2 and 1 more)"),
        (Misshapen, "gradients", "the gradient of scale.3 is 5, the parameter 4"),
        (Repeated, "gradients", "the gradient of scale.0 is given twice, at top and at block3"),
        (Infinite, "gradients", "at block3 delta is not finite"),
        (Summed, "works", "at block3 delta is 12 and the block's output 6x12"),
        (Live, "works", "at block3 delta carries a graph"),
        (Bare, "works", "`signal` gives a Tensor at block3, not a Signal"),
        (Mute, "works", "the output block, gives no logits"),
        (Peeking, "works", "it raises KeyError: 3 in test_method_checks.py"),
        (Labelled, "labels", "the error signal of block1 depends on labels: `depends_on` (input) must hold 'labels'"),
        (Scribbling, "works", "it writes .grad of block1.linear.weight"),
        (Restless, "answers", "evaluation changes asked"),
        (Crashing, "works", "it raises RuntimeError: no luck today in test_method_checks.py, line"),
    ],
)
def test_a_broken_rule_fails_one_check_which_says_how(rule, check, words):
    found = failures(rule, ["mlp"])
    assert list(found) == [check], found
    assert words in found[check]


def test_dice_break_what_is_called_twice_and_two_runs_with_one_seed():
    found = failures(Dice, ["mlp"])
    assert set(found) == {"arguments", "seed"}
    assert "two calls at block1 differ" in found["arguments"]
    assert f"{generator.__module__}.{generator.__name__}(self.seed" in found["seed"]


def test_a_rule_that_refuses_a_network_is_not_broken_on_it():
    class OnlyFlat(Plain):
        def __init__(self, net, options):
            if any(len(shape) > 1 for shape in net.shapes):
                raise InputError("flat blocks only")
            super().__init__(net, options)

    findings = list(run_method_checks(OnlyFlat, Options()))
    assert not any(f.failed for f in findings)
    assert {f.network for f in findings if f.applicable} == {"mlp"}
    assert {f.message for f in findings if f.network == "resnet"} == {"it refuses resnet: flat blocks only"}


# ---------------------------------------------------------------------------------------------------------- the sentences


def test_what_is_reported_names_every_check_once_and_counts():
    found = [
        CheckResult(check, n, "it is odd" if (check, n) in {("truth", "mlp"), ("truth", "resnet")} else "")
        for n in NETWORKS
        for check in METHOD_CHECKS
    ]
    found = [f._replace(applicable=False, message="no labels") if f.check == "labels" else f for f in found]
    lines = result_lines(found)
    heads = [line for line in lines if not line.startswith(" ")][:-1]
    assert [line[11:].partition(":")[0] for line in heads] == list(METHOD_CHECKS)
    assert "           on mlp: it is odd (on resnet too)" in lines
    assert "           no labels" in lines
    assert lines[-1] == f"{len(METHOD_CHECKS) - 2} checks pass, 1 fails, 1 skipped"


def test_what_fails_is_reported_first_and_last_and_the_rest_in_twelve_lines():
    def found(failing, skipped=""):
        results = [CheckResult(c, n, f"{c} is odd" if c in failing else "") for n in NETWORKS for c in METHOD_CHECKS]
        return [f._replace(applicable=False, message="no labels") if f.check == skipped else f for f in results]

    lines = summary_lines(found({"truth"}, "labels"))
    assert lines[0] == "FAILS truth, on mlp: truth is odd (on basic-cnn and resnet too)"
    assert lines[-1] == "first: truth on mlp: truth is odd (on basic-cnn and resnet too)"
    assert "skipped: labels" in lines
    assert not any("truth" in line for line in lines[1:-1])
    lines = summary_lines(found(set(METHOD_CHECKS)))
    assert len(lines) <= 12
    assert all(any(check in line for line in lines) for check in METHOD_CHECKS)
    lines = summary_lines(found(set(), "labels"))
    assert lines[-2:] == [
        "  no labels",
        "10 checks pass, 0 fail, 1 skipped; --verbose lists what each check requires, and why some were skipped",
    ]


def test_every_check_is_a_sentence():
    for check in METHOD_CHECKS:
        assert method_checks.check_sentence(check).endswith(".")


def test_a_check_answers_with_a_sentence_or_none():
    trial = Trial(Plain, Options(), "mlp")
    assert failure_of(step_checks.truth, trial) is None
    assert "loss.backward()" in str(failure_of(step_checks.truth, Trial(Louder, Options(), "mlp")))


def test_a_trial_makes_the_same_twice():
    trial = Trial(METHODS["dni"], METHODS["dni"].Options(), "basic-cnn")
    a, b = trial.build(), trial.build()
    for mine, other in zip((*a.model.state_dict().values(), *a.method.state_dict().values()),
                           (*b.model.state_dict().values(), *b.method.state_dict().values()), strict=True):  # fmt: skip
        assert torch.equal(mine, other)
    assert torch.equal(trial.batch(a.method)[0], trial.batch(b.method)[0])


REFUSED = [("clicks", "dgl-async"), ("views", "dgl-async")]  # it stores what each block gives to the next one alone
ON_TASK = [
    (task, name)
    for task in ("language", "graphs", "clicks", "pictures", "views")
    for name, rule in METHODS.items()
    if not rule.images_only and (TASKS[task].classes_of_items or not rule.reads_classes) and (task, name) not in REFUSED
]


@pytest.mark.parametrize(
    ("task", "name"),
    [pytest.param(t, n, marks=[pytest.mark.slow] * (n != "dgl")) for t, n in ON_TASK],
)
def test_a_rule_of_any_task_passes_every_check_on_the_networks_of_other_tasks(task, name):
    first, *others = networks_of(task)
    found = list(run_method_checks(METHODS[name], METHODS[name].Options(), networks=[first, *others]))
    assert [(f.check, f.network, f.message) for f in found if f.failed] == []
    assert sum(f.applicable for f in found if f.network == first) >= 9
    refused = {  # by feedback rules: they have no matrix for attention vectors, or for cross layers
        "gat": "has no feedback for block1.conv (GATConv)",
        "deep-cross": "has no feedback for cross1 (Cross)",
    }
    assert all(f.applicable or f.check in ("labels", "truth") or refused.get(f.network, "applicable") in f.message for f in found)


@pytest.mark.parametrize(("task", "name"), REFUSED)
def test_a_rule_that_does_not_fit_is_not_checked_and_the_reason_is_named(task, name):
    found = list(run_method_checks(METHODS[name], METHODS[name].Options(), networks=networks_of(task)))
    assert not any(f.applicable or f.failed for f in found)
    assert all("dgl-async stores what" in f.message for f in found)


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("graphs", {"feedback": "propagated"}),
        pytest.param("language", {"points": "inside", "error": "features", "shared": True}, marks=pytest.mark.slow),
    ],
)
def test_options_for_other_tasks_pass_every_check(task, options):
    found = list(run_method_checks(METHODS["dfa"], METHODS["dfa"].Options(**options), networks=networks_of(task)))
    assert [(f.check, f.message) for f in found if f.failed] == []


class ByLabel(Plain):
    """Multiplies each node's message by its label, and does not declare it."""

    def signal(self, k, passes, received):
        signal = super().signal(k, passes, received)
        return signal if k == self.num_blocks - 1 else signal._replace(delta=signal.delta * (2 + passes[k].y[:, None]))


def test_what_fails_on_a_graph_is_named():
    found = [f for f in run_method_checks(ByLabel, Options(), networks=["gcn"]) if f.failed]
    assert [f.check for f in found] == ["labels"]


def test_a_rule_of_images_refuses_the_networks_of_other_tasks():
    for network in ("transformer", "gcn"):
        found = list(run_method_checks(METHODS["predsim"], METHODS["predsim"].Options(), networks=[network]))
        assert not any(f.applicable for f in found)
        assert "it is a rule of the image task: it compares" in found[0].message


def test_every_task_has_networks_to_check_on():
    for task in TASKS:
        assert networks_of(task)
    with pytest.raises(InputError, match="no small network for --task strange"):
        networks_of("strange")
