"""The gradient at a layer's own output: against one that autograd gives at a zero added to it, in a model that nobody looks at."""

import contextlib
import copy
import io
import pickle
import subprocess
import sys
import threading
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.utils.checkpoint import checkpoint, checkpoint_sequential
from torch_versions import needs_torch_2_8

from gradlens import Lens


def data(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def by_taps(model, x, layers, loss_of):
    """path -> gradients [calls] with respect to a zero added to the layer's output; layers that give one tensor."""
    taps = {path: [] for path in layers}

    def hook(path):
        def add(module, inputs, output):
            taps[path].append(torch.zeros_like(output, requires_grad=True))
            return output + taps[path][-1]

        return add

    model = copy.deepcopy(model)
    for path in layers:
        model.get_submodule(path).register_forward_hook(hook(path))
    loss_of(model(x)).backward()
    return {path: [tap.grad for tap in found] for path, found in taps.items()}


def check(make, x, layers, loss_of=lambda z: z.square().sum(), oracle=None):
    """Gradients, activations, outputs, parameters' gradients and random stream are those of the model alone; no hook is left."""
    torch.manual_seed(0)
    made = make().double()
    plain, seen, truth = copy.deepcopy(made), copy.deepcopy(made), (oracle or make)().double()
    truth.load_state_dict(made.state_dict())
    truth.train(made.training)
    torch.manual_seed(5)
    want = by_taps(truth, x, layers, loss_of)
    torch.manual_seed(5)
    out = plain(x)
    loss_of(out).backward()
    state = torch.get_rng_state()
    torch.manual_seed(5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="None of the inputs have requires_grad")
        with Lens(seen, layers) as lens:
            got = seen(x)
            loss_of(got).backward()
    assert torch.equal(got, out)
    assert torch.equal(torch.get_rng_state(), state)
    for (name, p), q in zip(plain.named_parameters(), seen.parameters(), strict=True):
        assert (p.grad is None and q.grad is None) or torch.equal(p.grad, q.grad), name
    expected = {f"{path}#{i}" if i else path: g for path, found in want.items() for i, g in enumerate(found) if g is not None}
    assert set(lens.gradients["backward"]) == set(expected)
    for label, g in expected.items():
        torch.testing.assert_close(lens.gradients["backward"][label], g, rtol=1e-12, atol=1e-14, msg=lambda m, label=label: f"{label}: {m}")
    assert set(lens.activations) == {f"{path}#{i}" if i else path for path, found in want.items() for i in range(len(found))}
    assert clean(seen)
    assert not any(t._backward_hooks for t in (got, *seen.parameters()))
    return lens


def clean(model):
    everywhere = (nn.modules.module._global_forward_hooks, nn.modules.module._global_forward_pre_hooks)
    return not any(m._forward_hooks or m._backward_hooks or m._forward_pre_hooks for m in model.modules()) and not any(everywhere)


# ------------------------------------------------------------------------------------- layers that hand on what they were given


class Function(nn.Module):
    """A module of one expression."""

    def __init__(self, run, **parts):
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args):
        return self.run(self, *args)


class Shared:
    """What a layer hands on by another way than its arguments."""

    kept = None


def keep_and_return(m, x):
    Shared.kept = m.below(x)
    return m.out(m.pop(x)) + Shared.kept


def in_place_behind(m, x):
    h = m.short(m.below(x))
    h.relu_()
    return m.out(h)


def in_place_while_used(m, x):
    below = m.below(x)
    h = m.short(below)
    h += 1
    return below + m.out(h).sin()  # ``below`` has grown too


def part_in_place(m, x):
    h = m.short(m.below(x))
    h[:, 1:3] *= 2
    return m.out(h)


def used_then_in_place(m, x):
    h = m.short(m.below(x))
    return m.out(h.clone()) + h.mul_(3)


def twice_in_place(m, x):
    h = m.short(m.below(x))
    h.mul_(3)
    return m.out(h.sub_(1).sigmoid_())


def linear():
    return nn.Linear(4, 4)


def residual(short, forward=None):
    forward = forward or (lambda m, x: (lambda h: m.out(h) + m.short(h))(m.below(x)))
    return lambda: Function(forward, below=linear(), short=short(), out=linear())


HANDED_ON = {
    "identity": residual(nn.Identity),
    "identity called first": residual(nn.Identity, lambda m, x: (lambda h: m.short(h) * m.out(h) + h.sin() + h.exp())(m.below(x))),
    "dropout in eval": lambda: residual(nn.Dropout)().eval(),
    "dropout of nothing": residual(lambda: nn.Dropout(0.0)),
    "empty sequential": residual(nn.Sequential),
    "sequential of identities": residual(lambda: nn.Sequential(nn.Identity(), nn.Identity())),
    "flatten of the flat": residual(nn.Flatten),
    "a view": residual(lambda: Function(lambda m, x: x.view(-1, 4))),
    "a transposed view": residual(lambda: Function(lambda m, x: x.t()), lambda m, x: (lambda h: m.out(h) + m.short(h).t())(m.below(x))),
    "a part": residual(lambda: Function(lambda m, x: x[:, :2]), lambda m, x: (lambda h: m.out(h)[:, :2] + m.short(h))(m.below(x))),
    "what lies in a list": residual(lambda: Function(lambda m, x: x[0]), lambda m, x: (lambda h: m.out(h) + m.short([h]))(m.below(x))),
    "by name": residual(
        lambda: Function(lambda m, x=None: x), lambda m, x: (lambda h: m.out(h) + nn.Module.__call__(m.short, h))(m.below(x))
    ),
    "twice": residual(nn.Identity, lambda m, x: (lambda h: m.out(h) + 2 * m.short(h) + 3 * m.short(h))(m.below(x))),
    "one behind the other": residual(nn.Identity, lambda m, x: (lambda h: m.out(h) + m.short(m.short(h)) + m.short(h).sin())(m.below(x))),
    "one in a list behind": residual(
        lambda: Function(lambda m, x: x[0] if isinstance(x, list) else x),
        lambda m, x: (lambda h: (lambda i: m.out(i) + m.short([i]))(m.short(h)))(m.below(x)),
    ),
    "identity, in place behind": residual(nn.Identity, in_place_behind),
    "view, in place behind": residual(lambda: Function(lambda m, x: x.view(-1, 4)), in_place_behind),
    "flatten, in place behind": residual(nn.Flatten, in_place_behind),
    "view of its own, in place behind": residual(lambda: Function(lambda m, x: m.f(x).view(-1, 4), f=linear()), in_place_behind),
    "identity, part in place": residual(nn.Identity, part_in_place),
    "identity, used and in place": residual(nn.Identity, used_then_in_place),
    "identity, twice in place": residual(nn.Identity, twice_in_place),
    "own result, part in place": residual(linear, part_in_place),
    "own result, twice in place": residual(linear, twice_in_place),
    "in place itself": residual(lambda: nn.ReLU(inplace=True), lambda m, x: m.out(m.short(m.below(x).sin()))),
}


@pytest.mark.parametrize("name", HANDED_ON)
def test_a_layer_that_hands_on(name):
    check(HANDED_ON[name], data(4, 4), ["short", "below"] if "in place" not in name else ["short"])


@pytest.mark.parametrize("relu", [nn.ReLU(inplace=True), nn.Sequential(nn.ReLU(inplace=True)), Function(lambda m, x: F.relu_(x))])
@pytest.mark.parametrize("middle", [nn.Identity(), nn.Flatten(), nn.Dropout(0.0)])
@pytest.mark.parametrize("layers", [["1"], ["0", "1", "2"], ["0", "1", "2", "3"]])
def test_in_place_activations_behind_views(relu, middle, layers):
    check(lambda: nn.Sequential(linear(), copy.deepcopy(middle), relu, linear()), data(4, 4), layers)


def test_what_the_layer_takes_from_elsewhere_is_not_its_own():
    def make():
        return Function(keep_and_return, below=linear(), pop=Function(lambda m, x: Shared.kept), out=linear())

    check(make, data(4, 4), ["pop"])


def test_in_place_on_what_was_handed_on_changes_both_as_without_the_lens():
    torch.manual_seed(0)
    plain = residual(nn.Identity, in_place_while_used)().double()
    seen = copy.deepcopy(plain)
    want = plain(data(3, 4))
    want.sum().backward()
    with Lens(seen, ["short", "below"]) as lens:
        got = seen(data(3, 4))
        got.sum().backward()
    assert torch.equal(got, want)
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(plain.parameters(), seen.parameters(), strict=True))
    assert torch.equal(lens.activations["short"], lens.activations["below"])  # as they were when they were returned


def test_an_own_result_goes_on_as_the_same_object_and_another_with_its_class_and_attributes():
    class Tagged(torch.Tensor):
        pass

    made = {}

    def own(m, x):
        made["own"] = m.below(x)
        return made["own"]

    inner = Function(own, below=nn.Linear(4, 4))
    with Lens(Function(lambda m, x: m.inner(x), inner=inner), ["inner"]):
        assert inner(torch.randn(2, 4)) is made["own"]
    x = torch.randn(2, 4).as_subclass(Tagged).requires_grad_()
    p = nn.Parameter(torch.randn(2, 4))
    x.note = p.note = "kept"
    with Lens(nn.Identity()) as lens:
        for given in (x, p):
            got = lens._reader.layers[""](given)
            assert type(got) is type(given)
            assert isinstance(got, nn.Parameter) == isinstance(given, nn.Parameter)
            assert got.note == "kept"
            assert got.data_ptr() == given.data_ptr()
            assert got is not given


def test_what_needs_no_gradient_goes_on_as_the_same_object():
    class Memory(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("state", torch.zeros(3))

        def forward(self):
            return self.state

    net = Memory()
    with Lens(net) as lens:
        net().add_(1)  # the caller's own update
    assert net.state.eq(1).all()
    assert lens.activations[""].eq(0).all()
    p = nn.Identity()
    with Lens(p), torch.no_grad():
        x = torch.randn(2, requires_grad=True)
        assert p(x) is x


class Position(nn.Module):
    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.ones(1, 4))

    def forward(self):
        return self.p


def test_a_parameter_that_is_handed_on_has_no_memory_of_earlier_steps():
    net = Function(lambda m, x: m.f(x + m.position()) + m.position.p, position=Position(), f=nn.Linear(4, 4))
    x = torch.ones(3, 4)
    norms = []
    with Lens(net) as lens:
        for _ in range(3):
            lens.clear()
            net.zero_grad()
            net(x).sum().backward()
            norms.append(lens.gradients["backward"]["position"].norm().item())
            assert len(lens._reader._tensor_hooks) <= 2 * len(lens.activations)
    assert norms == [pytest.approx((3 * net.f.weight.sum(0)).norm().item(), rel=1e-5)] * 3
    assert not net.position.p._backward_hooks


def test_sparse_gradients_pass_and_are_read_dense():
    def forward(m, i):
        return m.out(F.embedding(i, m.table(), sparse=True))

    net = Function(forward, table=Position(), out=nn.Linear(4, 2))
    net.table.p = nn.Parameter(torch.randn(9, 4))
    with Lens(net) as lens:
        net(torch.tensor([1, 2, 1])).sum().backward()
    want = torch.zeros(9, 4)
    want[1], want[2] = 2 * net.out.weight.sum(0), net.out.weight.sum(0)
    assert net.table.p.grad.is_sparse
    torch.testing.assert_close(lens.gradients["backward"]["table"], want.detach())


def test_complex_outputs():
    def make():
        return Function(lambda m, x: m.act(m.fft(x)).abs(), fft=Function(lambda m, x: torch.fft.rfft(x)), act=nn.Identity())

    net, x = make(), data(2, 8).requires_grad_()
    with Lens(net) as lens:
        net(x).square().sum().backward()
    torch.testing.assert_close(lens.gradients["backward"]["fft"], 2 * torch.fft.rfft(x.detach()))


def test_a_users_forward_hook_that_replaces_the_output_is_behind_or_before():
    net, order = nn.Sequential(nn.Linear(4, 4), nn.ReLU()), []
    net[0].register_forward_hook(lambda m, x, h: order.append("user") or h * 2)
    for _ in range(2):
        with Lens(net, ["0"]) as lens:
            net(torch.randn(3, 4)).sum().backward()
        assert torch.equal(lens.activations["0"].relu() > 0, lens.gradients["backward"]["0"] > 0)
        assert len(net[0]._forward_hooks) == 1
    x = torch.randn(3, 4)
    assert torch.equal(net[0](x), net[0].forward(x) * 2)


def test_an_error_in_the_model_leaves_nothing():
    def fail(m, x):
        raise ArithmeticError("user's")

    net = nn.Sequential(nn.Linear(2, 2), Function(fail))
    net[1].register_forward_hook(lambda *a: None)
    count = len(net[1]._forward_hooks)
    with Lens(net) as lens:
        for _ in range(2):
            with pytest.raises(ArithmeticError):
                net(torch.randn(1, 2))
        net[1].run = lambda m, x: x
        net(torch.randn(1, 2)).sum().backward()
    assert set(lens.activations) == {"0", "0#1", "0#2", "1"}
    assert len(net[1]._forward_hooks) == count


def test_what_fails_inside_is_reported_and_stops_nothing(monkeypatch):
    def broken(self, label, value):
        raise TypeError(f"{label} is odd")

    net, order = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), {"_keep_output": "01", "_keep_gradient": "10"}
    for method in ("_keep_output", "_keep_gradient"):
        with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            patch.setattr(Lens, method, broken)
            with Lens(net):
                net(torch.ones(1, 2)).sum().backward()
        assert [str(w.message) for w in said] == [f"Lens: {i} could not be read: TypeError: {i} is odd" for i in order[method]]
        assert clean(net)


def test_inside_transformations_of_torch_func_it_is_reported():
    net, x = nn.Linear(3, 2), torch.randn(4, 3)

    def loss(params, x):
        return torch.func.functional_call(net, params, (x,)).sum()

    params = {n: p.detach() for n, p in net.named_parameters()}
    with (
        pytest.warns(UserWarning, match=r"the model itself could not be read: it ran inside a transformation of torch\.func"),
        Lens(net) as lens,
    ):
        got = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(params, x)
    assert got["bias"].shape == (4, 2)
    assert not lens.activations
    with Lens(net) as lens:
        torch.func.functional_call(net, dict(net.named_parameters()), (x,)).sum().backward()
    assert lens.gradients["backward"][""].eq(1).all()


def test_in_place_behind_a_view_where_nothing_sees_it_is_reported():
    net, x = nn.Flatten(), torch.randn(3, 4, requires_grad=True)
    with pytest.warns(UserWarning, match=r"itself could not be read: its output is a view that was changed in place"), Lens(net) as lens:
        F.relu_(net(x * 2)).sum().backward()
    assert not lens.gradients


# -------------------------------------------------------------------------------------------------------- gradient checkpointing


class Checkpointed(nn.Module):
    """below, some segments, out; ``mode``: None (no checkpointing), False, True (reentrant)."""

    def __init__(self, segments, mode):
        super().__init__()
        self.below, self.f, self.g, self.drop, self.out = linear(), linear(), linear(), nn.Dropout(0.5), linear()
        self.skip = nn.Identity()
        self.segments, self.mode = segments, mode

    def run(self, f, x):
        return f(x) if self.mode is None else checkpoint(f, x, use_reentrant=self.mode)

    def forward(self, x):
        h = self.below(x)
        for segment in self.segments:
            h = self.run(lambda h, segment=segment: segment(self, h), h)
        return self.out(h)


SEGMENTS = {
    "one layer": [lambda m, x: m.f(x)],
    "the layer itself": [lambda m, x: m.f.forward(m.g(x))],
    "several layers": [lambda m, x: torch.tanh(m.g(torch.tanh(m.f(x))))],
    "one module twice in one": [lambda m, x: m.f(torch.tanh(m.f(x)))],
    "one module in two": [lambda m, x: torch.tanh(m.f(x)), lambda m, x: m.f(x).sin()],
    "one module in three, and twice": [lambda m, x: torch.tanh(m.f(x)), lambda m, x: m.f(m.f(x).sin()), lambda m, x: m.g(m.f(x))],
    "dropout": [lambda m, x: m.f(m.drop(x)), lambda m, x: m.drop(m.g(x))],
    "handed on": [lambda m, x: m.f(x) + m.skip(x)],
    "one in another": [lambda m, x: m.f(m.run(lambda y: m.g(m.f(y)).tanh(), m.f(x)))],
    "two in another, twice": [lambda m, x: m.f(m.run(lambda y: m.f(y).tanh(), m.run(lambda y: m.f(y).sin(), x)))] * 2,
    "in place": [lambda m, x: m.g(F.relu_(m.f(x)))],
    "in place behind a view": [lambda m, x: m.g(F.relu_(m.skip(m.f(x))))],
}


@pytest.mark.parametrize("mode", [False, True], ids=["non-reentrant", "reentrant"])
@pytest.mark.parametrize("name", SEGMENTS)
def test_checkpointed_layers_have_the_gradients_and_names_that_they_have_without(name, mode):
    segments = SEGMENTS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Lens(Checkpointed(segments, None).double(), ["f", "g", "skip", "drop"]) as lens:
            lens._reader._model(data(3, 4))
    used = [n for n in ("f", "g", "skip", "drop") if n in lens.activations]
    check(lambda: Checkpointed(segments, mode), data(3, 4), ["below", *used, "out"], oracle=lambda: Checkpointed(segments, None))


@pytest.mark.parametrize("mode", [False, True], ids=["non-reentrant", "reentrant"])
def test_two_backwards_through_a_checkpointed_segment(mode):
    torch.manual_seed(0)
    net = Checkpointed(SEGMENTS["one module in three, and twice"], mode).double()
    plain = copy.deepcopy(net)
    plain.mode = None
    found = []
    for model in (net, plain):
        with Lens(model, ["below", "f", "g"]) as lens:
            y = model(data(3, 4))
            with lens.backward("local"):
                y[:, 0].sum().backward(retain_graph=True)
            with lens.backward("true"):
                y.square().sum().backward()
        found.append(lens)
    for name in ("local", "true"):
        assert set(found[0].gradients[name]) == set(found[1].gradients[name]) == {"below", "g", "f", "f#1", "f#2", "f#3"}
        for label, g in found[1].gradients[name].items():
            torch.testing.assert_close(found[0].gradients[name][label], g)


@pytest.mark.parametrize("name", SEGMENTS)
def test_a_backward_pass_in_another_thread_as_on_a_gpu(name):
    """Threads number their nodes each from 0."""
    torch.manual_seed(0)
    net = Checkpointed(SEGMENTS[name], None).double()
    found = []
    for mode in (None, True):
        net.mode = mode
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Lens(net) as lens:
                for _ in range(2):
                    lens.clear()
                    torch.manual_seed(3)
                    loss = net(data(3, 4)).square().sum()
                    thread = threading.Thread(target=loss.backward)
                    thread.start(), thread.join()
        found.append(lens.gradients["backward"])
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(g, found[1][label]) for label, g in found[0].items())


def test_several_steps_with_and_without_clear():
    torch.manual_seed(0)
    net = Checkpointed(SEGMENTS["one module in two"], True).double()
    with Lens(net, ["f"]) as lens:
        for _ in range(3):
            net(data(3, 4)).sum().backward()
        assert set(lens.gradients["backward"]) == {"f", *(f"f#{i}" for i in range(1, 6))}
        for i in range(2):
            for k in (2, 4):
                later = lens.gradients["backward"][f"f#{i + k}"]
                torch.testing.assert_close(later, lens.gradients["backward"][f"f#{i}" if i else "f"])
        lens.clear()
        net(data(3, 4)).sum().backward()
        assert set(lens.gradients["backward"]) == {"f", "f#1"}


def test_torch_s_own_ways_of_checkpointing():
    wrapper = pytest.importorskip("torch.distributed.algorithms._checkpoint.checkpoint_wrapper").checkpoint_wrapper
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh()).double()
    x = data(3, 4).requires_grad_()
    with Lens(net) as plain:
        net(x).sum().backward()
    with Lens(net) as sequential:
        checkpoint_sequential(net, 2, x, use_reentrant=True).sum().backward()
    wrapped = nn.Sequential(*(wrapper(m) for m in net))
    with Lens(wrapped) as inner:
        wrapped(x).sum().backward()
    with Lens(net) as whole:
        checkpoint(net, x, use_reentrant=True).sum().backward()
    for lens in (sequential, inner, whole):
        got = {label.replace("._checkpoint_wrapped_module", ""): g for label, g in lens.gradients["backward"].items()}
        assert got.keys() == plain.gradients["backward"].keys()
        assert all(torch.equal(g, plain.gradients["backward"][label]) for label, g in got.items())


def test_a_teacher_under_no_grad_and_a_checkpointed_student_in_one_module():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(4, 4), nn.Tanh()).double(), data(3, 4).requires_grad_()
    for mode in (False, True):
        with Lens(net, ["0"]) as lens:
            with torch.no_grad():
                target = net(x)
            (checkpoint(net, x, use_reentrant=mode) - 2 * target).square().sum().backward()
        assert set(lens.activations) == {"0", "0#1"}
        assert set(lens.gradients["backward"]) == {"0#1"}


# ------------------------------------------------------------------------------------------------------------ compiled models


def three():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))


COMPILED = {
    "before, not run": (lambda net: torch.compile(net, backend="eager"), False, True),
    "before, run": (lambda net: torch.compile(net, backend="eager"), True, False),
    "before, run, whole graph": (lambda net: torch.compile(net, backend="eager", fullgraph=True), True, False),
    "before, not run, whole graph": (lambda net: torch.compile(net, backend="eager", fullgraph=True), False, True),
    "in place, run": (lambda net: (net.compile(backend="eager"), net)[1], True, False),
    "in place, not run": (lambda net: (net.compile(backend="eager"), net)[1], False, True),
    "one layer, run": (lambda net: nn.Sequential(net[0], net[1], torch.compile(net[2], backend="eager")), True, False),
}


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_models_are_read_or_it_is_reported(name):
    wrap, run, read = COMPILED[name]
    torch._dynamo.reset()
    net, x = three(), torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    fast = wrap(net)
    if run:
        fast(x).sum().backward()
    want = fast(x) if run else three()(x)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with Lens(net) as lens:
            out = fast(x)
            out.sum().backward()
            fast(torch.randn(5, 4)).sum().backward()  # another shape: where torch would compile again, it must not die of the hooks
    torch.testing.assert_close(out, want)
    if read:
        assert not said
        assert {"0", "1", "2"} <= set(lens.gradients["backward"])
    elif name == "one layer, run":
        assert {"0", "1"} <= set(lens.gradients["backward"])
    else:
        assert [str(w.message) for w in said] == [s for s in map(str, [w.message for w in said]) if "never called" in s]
        assert said or lens.gradients  # another shape may have run uncompiled
    n = len(lens.activations)
    fast(x).sum().backward()
    fast(torch.randn(7, 4)).sum().backward()
    assert len(lens.activations) == n
    assert clean(net)
    torch._dynamo.reset()


@needs_torch_2_8
def test_a_compiled_model_that_ran_before_names_every_layer():
    torch._dynamo.reset()
    net, x = three(), torch.randn(3, 4)
    fast = torch.compile(net, backend="eager")
    fast(x)
    with pytest.warns(UserWarning, match=r"^Lens: never called: 0, 1, 2 \(compiled") as said, Lens(net):
        fast(x).sum().backward()
    assert len(said) == 1


def test_two_lenses_put_the_process_s_settings_back_in_any_order():
    torch._dynamo.reset()
    net = nn.TransformerEncoderLayer(4, 2, 8)
    before = list(warnings.filters)
    a, b = Lens(net, warn=False), Lens(net, warn=False)
    for lens in (a, b):
        lens.__enter__()
    for lens in (a, b):
        lens.__exit__(None, None, None)
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch._dynamo.eval_frame._stance.stance == "default"
    assert warnings.filters == before


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_named():
    net, x = three(), torch.randn(3, 4)
    for scripted in (torch.jit.trace(net, x), torch.jit.script(net)):
        with pytest.warns(UserWarning, match="never called: 0"), Lens(scripted, ["0"]):
            scripted(x).sum().backward()


# ------------------------------------------------------------------------------------------------------- copies and files inside


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "make",
    [
        copy.deepcopy,
        copy.copy,
        lambda net: pickle.loads(pickle.dumps(net)),
        lambda net: torch.optim.swa_utils.AveragedModel(net).module,
        lambda net: (net.load_state_dict(copy.deepcopy(net.state_dict())), copy.deepcopy(net[0]))[1],
        lambda net: torch.jit.script(net),
        lambda net: torch.jit.trace(net, torch.randn(2, 4), check_trace=False),
        pytest.param(lambda net: torch.export.export(net, (torch.randn(2, 4),)).module(), marks=needs_torch_2_8),
    ],
    ids=["deepcopy", "copy", "pickle", "average", "one layer", "script", "trace", "export"],
)
def test_a_copy_made_inside_is_no_part_of_the_lens(make):
    net, x = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), torch.randn(2, 4)
    with Lens(net) as lens:
        net(x).sum().backward()
        twin = make(net)
        assert not any("gradlens" in repr(hook) for m in twin.modules() for hook in getattr(m, "_forward_hooks", {}).values())
        read = {label: h.clone() for label, h in lens.activations.items()}
        if twin.__class__ is not nn.Sequential or not any(a is b for a in twin for b in net):  # copy.copy shares its layers
            twin(x)
    assert set(lens.activations) == set(read) == {"0", "1"}
    twin(x)
    assert len(lens.activations) == 2


def test_a_file_saved_inside_is_loaded_without_gradlens():
    net = nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 2))
    file = io.BytesIO()
    with Lens(net, ["0"]):
        net[0](torch.randn(2, 4)).sum().backward()
        torch.save(net, file)
    assert b"gradlens" not in file.getvalue()
    assert clean(torch.load(io.BytesIO(file.getvalue()), weights_only=False))


# ------------------------------------------------------------------------------------------------------- what torch layers do


def test_a_transformer_is_read_in_eval_mode_without_gradients_too():
    torch.manual_seed(0)
    net, x = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2), torch.randn(2, 5, 8)
    net.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Lens(net) as lens, torch.no_grad():
            net(x)
    assert {f"layers.{k}.{part}" for k in (0, 1) for part in ("linear1", "linear2", "norm1", "norm2")} <= set(lens.activations)
    assert "layers.0.self_attn[0]" in lens.activations
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_padded_and_packed(kind):
    torch.manual_seed(0)
    net, x = kind(3, 4, batch_first=True), torch.randn(2, 5, 3)
    with Lens(net) as lens:
        out, last = net(x)
        (out.sum() + (last[0] if kind is nn.LSTM else last).sum()).backward()
    assert lens.gradients["backward"]["[0]"].eq(1).all()
    assert set(lens.activations) == ({"[0]", "[1][0]", "[1][1]"} if kind is nn.LSTM else {"[0]", "[1]"})
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([5, 3]), batch_first=True)
    with Lens(net) as lens:
        out, _ = net(packed)
        assert isinstance(out, nn.utils.rnn.PackedSequence)
        out.data.sum().backward()
    assert lens.gradients["backward"]["[0][0]"].shape == (8, 4)


def test_frozen_layers_and_parts_without_gradient():
    net, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Identity(), nn.Linear(4, 2)), torch.randn(3, 4)
    net[:2].requires_grad_(False)
    with Lens(net) as lens:
        net(x).sum().backward()
    assert set(lens.gradients["backward"]) == {"2", "3", "4"}
    assert set(lens.activations) == {"0", "1", "2", "3", "4"}


def test_the_gradients_of_one_output_by_autograd_grad_are_read_too():
    net, x = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(3, 4)
    with Lens(net) as lens:
        h = net[0](x)
        torch.autograd.grad(net[2](net[1](h)).sum(), h)
    assert set(lens.gradients["backward"]) == {"0", "1", "2"}


def test_data_parallel_and_wrapped_modules():
    net, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.randn(3, 4)
    wrapped = nn.DataParallel(net)  # on a CPU it calls the module
    with Lens(net) as lens:
        wrapped(x).sum().backward()
    assert set(lens.gradients["backward"]) == {"0", "1"}
    with Lens(wrapped) as lens:
        wrapped(x).sum().backward()
    assert set(lens.gradients["backward"]) == {"module.0", "module.1"}


DISTRIBUTED = """
import torch, torch.distributed as dist, warnings
from torch import nn
from gradlens import Lens
warnings.simplefilter("error", UserWarning)
warnings.filterwarnings("ignore", message="(?s).*(?:device|backend|barrier|NO_SHARD|deprecated).*")
dist.init_process_group("gloo", init_method="file://" + FILE, rank=0, world_size=1)
def made():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Identity(), nn.Linear(4, 2))
x = torch.randn(3, 4)
def read(net):
    with Lens(net) as lens:
        net(x).square().sum().backward()
    return {n.replace("module.", ""): g for n, g in lens.gradients["backward"].items()}
want = read(made())
got = {"ddp": read(nn.parallel.DistributedDataParallel(made()))}
from torch.distributed.fsdp import fully_shard
from torch.distributed.device_mesh import init_device_mesh
net = made(); mesh = init_device_mesh("cpu", (1,))
for layer in (net[0], net[2]): fully_shard(layer, mesh=mesh)
got["fsdp2"] = read(fully_shard(net, mesh=mesh))
for kind, found in got.items():
    assert found.keys() == want.keys(), (kind, found.keys())
    for name, g in want.items():
        torch.testing.assert_close(found[name], g)
dist.destroy_process_group()
"""


@needs_torch_2_8
def test_distributed_wrappers(tmp_path):
    code = f"FILE = {str(tmp_path / 'store')!r}\n{DISTRIBUTED}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_weights_used_without_a_call_are_named():
    net = Function(lambda m, x: F.linear(x, m.f.weight), f=nn.Linear(4, 4))
    with pytest.warns(UserWarning, match="never called: f"), Lens(net):
        net(torch.randn(2, 4)).sum().backward()


def test_an_error_in_the_context_is_not_covered_by_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(KeyError), Lens(nn.Linear(2, 2)):
            raise KeyError


def test_a_module_that_calls_itself():
    net = nn.ModuleDict({"r": Function(lambda m, x, n=2: m.f(x) if n == 0 else m(m.f(x), n - 1), f=nn.Linear(2, 2))})
    with Lens(net, ["r"]) as lens:
        net["r"](torch.ones(1, 2)).sum().backward()
    assert set(lens.gradients["backward"]) == {"r", "r#1", "r#2"}
    assert all(g.eq(1).all() for g in lens.gradients["backward"].values())


def test_a_gradient_penalty_and_its_first_pass_are_distinguished():
    net, x = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1)).double(), data(3, 2).requires_grad_()
    h = net[0](x)
    (g,) = torch.autograd.grad(net[2](net[1](h)).sum(), x, create_graph=True)
    (want,) = torch.autograd.grad(g.square().sum(), h)
    with Lens(net) as lens:
        with lens.backward("first"):
            (g,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        with lens.backward("penalty"):
            g.square().sum().backward()
    torch.testing.assert_close(lens.gradients["penalty"]["0"], want)
    assert not lens.gradients["first"]["0"].requires_grad


def test_a_long_loop_keeps_nothing():
    net, kept = nn.Sequential(nn.Linear(4, 4), nn.Identity(), nn.Flatten(), nn.ReLU(inplace=True)), []
    with Lens(net) as lens:
        for _ in range(20):
            lens.clear()
            checkpoint(net, torch.ones(2, 4), use_reentrant=False).sum().backward()
            reader = lens._reader
            kept.append((len(reader._tensor_hooks), len(reader._views), len(reader._bases), len(reader._running)))
    assert kept[1:] == [kept[1]] * 19
    assert kept[1][2:] == (0, 0)


def test_paused_passes_are_not_read():
    net, x = nn.Sequential(nn.Linear(2, 2)), torch.ones(1, 2)
    with Lens(net) as lens:
        net(x).sum().backward()
        with lens.paused():
            net(x).sum().backward()
        net(x).sum().backward()
    assert set(lens.gradients["backward"]) == {"0", "0#1"}


def test_paused_inside_of_paused_is_still_paused():
    net, x = nn.Sequential(nn.Linear(2, 2)), torch.ones(1, 2)
    with Lens(net) as lens:
        with lens.paused():
            with lens.paused():
                net(x)
            net(x)
        assert not lens.activations
        net(x)
    assert set(lens.activations) == {"0"}


# ------------------------------------------------------------------------------------------------ leaves, keywords, and failed calls


def test_a_fresh_leaf_goes_on_as_the_same_object_and_has_its_grad():
    made = {}

    def decoupled(m, x):
        made["leaf"] = m.leaf = m.f(x).detach().requires_grad_()
        return m.leaf

    net = nn.Sequential(Function(decoupled, f=nn.Linear(4, 4)), nn.Identity(), nn.Linear(4, 2))
    plain = copy.deepcopy(net)
    plain(data(3, 4).float()).square().sum().backward()
    want = made["leaf"].grad
    with Lens(net, ["0", "1"]) as lens:
        for _ in range(2):
            lens.clear()
            given = []
            handle = net[1].register_forward_pre_hook(lambda m, args, given=given: given.append(args[0]))
            net(data(3, 4).float()).square().sum().backward()
            handle.remove()
            assert given[0] is made["leaf"]
            assert torch.equal(made["leaf"].grad, want)
            assert all(torch.equal(lens.gradients["backward"][layer], want) for layer in ("0", "1"))
    assert not made["leaf"]._backward_hooks


def test_a_leaf_that_is_kept_out_of_sight_is_read_alike_in_every_step():
    kept = data(1, 4).requires_grad_()

    class Hands(nn.Module):
        def forward(self, x):
            return kept

    net = nn.Sequential(nn.Linear(4, 4).double(), Hands(), nn.Linear(4, 2).double())
    read = []
    with Lens(net, ["1"]) as lens:
        for _ in range(4):
            lens.clear()
            net(data(5, 4)).sum().backward()
            read.append(lens.gradients["backward"]["1"])
    want = net[2].weight.detach().sum(0, keepdim=True)
    assert all(torch.equal(g, read[0]) for g in read)
    torch.testing.assert_close(read[0], want)
    assert not kept._backward_hooks


class Gives(nn.Module):
    """Gives a leaf that it was not given."""

    def __init__(self, find):
        super().__init__()
        self.find = find

    def forward(self, x):
        return self.find(self)


WITHIN_REACH = data(1, 4).requires_grad_()


def giver(where, leaf):
    """A layer that keeps a leaf somewhere."""
    if where == "forward hook":
        layer = nn.Identity()
        layer.register_forward_hook(lambda m, args, h: leaf)
        return layer
    find = {
        "list attribute": lambda m: m.kept[0],
        "closure": lambda m: leaf,
        "object in a closure": lambda m, box=None: box,
        "class attribute": lambda m: m.shared,
        "default": lambda m, h=leaf: h,
        "global": lambda m: WITHIN_REACH,
    }[where]
    if where == "object in a closure":
        box = Kept(leaf)
        find = lambda m: box.h  # noqa: E731
    layer = type("Gives", (Gives,), {"shared": leaf} if where == "class attribute" else {})(find)
    if where == "list attribute":
        layer.kept = [leaf]
    return layer


@pytest.mark.parametrize(
    "where", ["list attribute", "closure", "object in a closure", "class attribute", "default", "global", "forward hook"]
)
def test_a_leaf_within_a_layers_reach_is_not_its_own(where):
    leaf = WITHIN_REACH if where == "global" else data(1, 4).requires_grad_()
    net = Function(lambda m, x: m.out(x + m.pop(x)) + 7 * leaf, pop=giver(where, leaf), out=nn.Linear(4, 4).double())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Lens(net, ["pop"]) as lens:
            for _ in range(2):
                lens.clear()
                net(data(3, 4)).sum().backward()
                torch.testing.assert_close(lens.gradients["backward"]["pop"], 3 * net.out.weight.sum(0, keepdim=True).detach())
    assert not leaf._backward_hooks


@pytest.mark.parametrize("clear", [True, False], ids=["steps", "micro-batches"])
def test_a_leaf_that_two_layers_give_has_the_gradient_at_each(clear):
    leaf = data(1, 4).requires_grad_()
    net = Function(lambda m, x: 2 * m.a(x) + 3 * m.b(x) + 5 * m.b(x) + 7 * leaf, a=giver("closure", leaf), b=giver("closure", leaf))
    with Lens(net, ["a", "b"]) as lens:
        for step in range(3):
            if clear:
                lens.clear()
            net(data(1, 4)).sum().backward()
            k = 0 if clear else step
            want = {"a" if k == 0 else f"a#{k}": 2.0, "b" if k == 0 else f"b#{2 * k}": 3.0, f"b#{2 * k + 1}": 5.0}
            assert {label: lens.gradients["backward"][label].mean().item() for label in want} == want


def test_a_leaf_from_where_nobody_looks_is_reported_when_it_is_given_again():
    store = {}
    net = Function(lambda m, x: 2 * m.pop(x) + 7 * store["find"](), pop=Gives(lambda m: store["find"]()))
    found = []
    with Lens(net, ["pop"], warn=False) as lens:
        leaf = data(1, 4).requires_grad_()
        store["find"] = lambda: leaf
        for _ in range(3):
            lens.clear()
            net(data(1, 4)).sum().backward()
            found.append(lens.gradients["backward"]["pop"].mean().item())
    assert found[1:] == [2.0, 2.0]
    assert [why.partition(",")[0] for why in lens.unread()] == [
        "pop could not be read: it returned the same tensor without graph in several calls"
    ]
    leaf = data(1, 4).requires_grad_()
    with Lens(net, ["pop"]) as lens:
        with torch.no_grad():
            net(data(1, 4))
        net(data(1, 4)).sum().backward()
    assert lens.gradients["backward"]["pop#1"].eq(2).all()


def test_a_fresh_leaf_keeps_what_is_read_at_it_where_another_layer_hands_it_on_later():
    made = {}

    def decoupled(m, x):
        made["leaf"] = m.f(x).detach().requires_grad_()
        return made["leaf"]

    def forward(m, x):
        h, y = m.a(x), x.sin()  # a node in between
        return m.skip(h).sum() * 2 + y.sum() + 5 * h.sum()

    net = Function(forward, a=Function(decoupled, f=linear().double()), skip=nn.Identity())
    with Lens(net, ["a", "skip"]) as lens:
        net(data(3, 4).requires_grad_()).backward()
    assert lens.gradients["backward"]["a"].eq(7).all()
    assert lens.gradients["backward"]["skip"].eq(2).all()
    assert made["leaf"].grad.eq(7).all()


@pytest.mark.parametrize("how", ["parameter of a child", "buffer elsewhere", "attribute", "given", "in a dict", "by keyword"])
def test_a_leaf_that_was_there_before_is_not_the_layers_own(how):
    leaf = data(1, 4).requires_grad_()

    def forward(m, x):
        give = {"given": lambda: m.pop(leaf), "in a dict": lambda: m.pop({"a": [leaf]}), "by keyword": lambda: m.pop(None, x=leaf)}
        h = give.get(how, lambda: m.pop(None))()
        return m.out(x + h) + 7 * leaf

    class Pop(nn.Module):
        def forward(self, first, x=None):
            first = x if first is None else first
            return leaf if first is None else first["a"][0] if isinstance(first, dict) else first

    net = Function(forward, pop=Pop(), out=nn.Linear(4, 4).double())
    if how == "parameter of a child":
        leaf = nn.Parameter(leaf.detach())
        net.pop.child = nn.Module()
        net.pop.child.p = leaf
    elif how == "buffer elsewhere":
        net.register_buffer("b", leaf)
    elif how == "attribute":
        net.pop.kept = leaf
    with Lens(net, ["pop"]) as lens:
        for _ in range(2):
            lens.clear()
            net(data(3, 4)).sum().backward()
            torch.testing.assert_close(lens.gradients["backward"]["pop"], 3 * net.out.weight.sum(0, keepdim=True).detach())
    assert not leaf._backward_hooks


class Kept:
    """An object with an attribute."""

    def __init__(self, h):
        self.h = h


GIVEN = {
    "by place": lambda m, v: m(v),
    "by keyword": lambda m, v: m(x=v),
    "in a list": lambda m, v: m([v]),
    "in a dict by keyword": lambda m, v: m(x={"a": (v,)}),
    "in an object": lambda m, v: m(Kept(v)),
}


@pytest.mark.parametrize("name", GIVEN)
def test_a_view_that_was_changed_in_place_and_is_handed_on_is_not_the_layers_own(name):
    class Pop(nn.Module):
        def forward(self, x):
            x = x.h if isinstance(x, Kept) else x
            return x[0] if isinstance(x, list) else x["a"][0] if isinstance(x, dict) else x

    def forward(m, x):
        h = m.below(x)
        v = h.view(-1, 4)
        h.mul_(2)  # v's node is made anew when it is first asked for
        return m.out(GIVEN[name](m.short, v)) + v.sin()

    check(lambda: Function(forward, below=linear(), short=Pop(), out=linear()), data(4, 4), ["short"])


def test_a_call_that_failed_is_not_taken_for_the_next_one_that_is_not_read():
    def fail_once(m, x):
        if m.fails:
            raise MemoryError
        return m.f(x)

    net, x = nn.Sequential(Function(fail_once, f=nn.Linear(4, 4)), nn.Linear(4, 2)), torch.ones(3, 4)
    count = lambda: len(net[0]._forward_hooks)  # noqa: E731
    net[0].register_forward_hook(lambda m, args, h: None)
    with Lens(net, ["0", "1"]) as lens:
        net[0].fails = True
        with pytest.raises(MemoryError):
            net(x)
        net[0].fails = False
        with lens.paused():
            net(x)
        assert not lens.activations
        assert count() == 1
        net(x).sum().backward()
    assert set(lens.activations) == set(lens.gradients["backward"]) == {"0", "1"}
    torch.testing.assert_close(lens.gradients["backward"]["0"], net[1].weight.sum(0).expand(3, 4).detach())
    assert count() == 1
    assert not any(m._forward_pre_hooks_with_kwargs for m in net.modules())


@pytest.mark.parametrize("doubles", [False, True], ids=["plain", "with a hook of its own"])
def test_a_module_that_calls_itself_and_is_called_again_after_an_error(doubles):
    """What it gives then was made before the call that failed: its own all the same, and read behind its own hooks."""
    fails = []

    def run(m, x, n=2):
        h = m.f(x)
        if n == 0 and len(fails) < 2:
            fails.append(n)
            raise MemoryError
        while n:
            try:
                return h if m(h, n - 1) is None else h.mul(m(h, n - 1).detach() * 0 + 1)
            except MemoryError:
                continue
        return h

    net = Function(lambda m, x: m.out(m.r(x)), r=Function(run, f=linear()), out=linear()).double()
    if doubles:
        net.r.register_forward_hook(lambda m, args, h: h * 2)
    hooks = len(net.r._forward_hooks)
    with Lens(net, ["r", "out"]) as lens:
        h = net.r(data(3, 4))
        label = [name for name in lens.activations if name.startswith("r")][-1]
        assert torch.equal(lens.activations[label], h)  # the outermost call ends last
        net.out(h).sum().backward()
        assert not lens._reader._running
        assert len(net.r._forward_hooks) == hooks
    torch.testing.assert_close(lens.gradients["backward"][label], net.out.weight.sum(0).expand(3, 4).detach())
    assert len(fails) == 2


def test_what_a_call_made_before_one_within_it_failed_is_its_own():
    def run(m, x, n=1):
        h = m.f(x)
        if n == 0:
            raise MemoryError
        with contextlib.suppress(MemoryError):
            m(h, n - 1)
        made.append(h)
        return h

    made = []
    net = Function(lambda m, x: m.out(m.r(x)), r=Function(run, f=linear()), out=linear())
    with Lens(net, ["r"]) as lens:
        handle = net.out.register_forward_pre_hook(lambda m, args: made.append(args[0]))
        net(torch.randn(3, 4)).sum().backward()
        handle.remove()
    assert made[0] is made[1]  # and so goes on as the same object
    assert list(lens.activations) == ["r"]


def test_parametrised_and_pruned_layers():
    class Double(nn.Module):
        def forward(self, w):
            return 2 * w

    pruned = prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5)
    doubled = nn.Linear(4, 4)
    parametrize.register_parametrization(doubled, "weight", Double())
    net = nn.Sequential(pruned, doubled, nn.utils.parametrizations.orthogonal(nn.Linear(4, 4)))
    with Lens(net) as lens:
        net(torch.randn(3, 4)).sum().backward()
    assert list(lens.activations) == ["0", "1", "2"]
    assert set(lens.gradients["backward"]) == {"0", "1", "2"}
