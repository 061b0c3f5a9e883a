"""Lens: what hooks read equals what autograd says, in any module, and nothing is left behind."""

import copy

import pytest
import torch
from torch import nn

import gradlens
from gradlens.runtime.errors import InputError


def net(inplace=False):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=inplace), nn.Linear(5, 4), nn.ReLU(inplace=inplace), nn.Linear(4, 3)).double()


def by_hand(model, x, loss_of):
    """Outputs of every layer and the gradients at them, by running layer by layer with retained gradients; no in-place ReLU."""
    outputs, h = {}, x
    for name, module in model.named_children():
        h = torch.relu(h) if isinstance(module, nn.ReLU) else module(h)
        h.retain_grad()
        outputs[name] = h
    loss_of(h).backward()
    return {n: o.detach() for n, o in outputs.items()}, {n: o.grad for n, o in outputs.items()}


@pytest.mark.parametrize("inplace", [False, True])
def test_activations_and_gradients_equal_autograd_even_before_an_in_place_relu(inplace):
    x = torch.randn(7, 6, dtype=torch.float64)
    want_out, want_grad = by_hand(net(), x, lambda z: z.square().sum())
    model = net(inplace)
    with gradlens.Lens(model) as lens:
        model(x).square().sum().backward()
    for name in want_out:
        torch.testing.assert_close(lens.activations[name], want_out[name], rtol=0, atol=0)
        torch.testing.assert_close(lens.gradients["backward"][name], want_grad[name], rtol=1e-14, atol=1e-15)


def test_hooks_are_gone_after_the_context_and_weights_gradients_are_the_same_with_it():
    x = torch.randn(7, 6, dtype=torch.float64)
    plain, seen = net(True), net(True)
    plain(x).sum().backward()
    with gradlens.Lens(seen) as lens:
        seen(x).sum().backward()
    for p, q in zip(plain.parameters(), seen.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)
    assert not any(m._forward_hooks or m._backward_hooks or m._forward_pre_hooks for m in seen.modules())
    before = copy.copy(lens.activations)
    seen(x + 1).sum().backward()
    assert all(torch.equal(before[n], lens.activations[n]) for n in before)


def test_hooks_are_gone_after_an_exception_too():
    model = net()
    with pytest.raises(RuntimeError, match="boom"), gradlens.Lens(model):
        raise RuntimeError("boom")
    assert not any(m._forward_hooks for m in model.modules())


def test_a_graph_made_inside_and_used_outside_records_nothing():
    model = net()
    with gradlens.Lens(model) as lens:
        out = model(torch.randn(2, 6, dtype=torch.float64))
    out.sum().backward()
    assert lens.gradients == {}


def test_a_shared_module_gives_one_entry_per_call():
    shared = nn.Linear(4, 4).double()
    model = nn.Sequential(shared, nn.Tanh(), shared)
    x = torch.randn(3, 4, dtype=torch.float64)
    with gradlens.Lens(model, ["0"]) as lens:
        out = model(x)
        out.sum().backward()
    torch.testing.assert_close(lens.activations["0"], shared(x))
    torch.testing.assert_close(lens.activations["0#1"], out)
    torch.testing.assert_close(lens.gradients["backward"]["0#1"], torch.ones_like(out))
    first = shared(x).detach().requires_grad_()
    (want,) = torch.autograd.grad(shared(torch.tanh(first)).sum(), first)
    torch.testing.assert_close(lens.gradients["backward"]["0"], want)


def test_two_backwards_are_distinguished_and_compared():
    model, x = net(), torch.randn(5, 6, dtype=torch.float64)
    with gradlens.Lens(model, ["0", "2"]) as lens:
        out = model(x)
        with lens.backward("mine"):
            (2 * out.sum()).backward(retain_graph=True)
        with lens.backward("true"):
            out.sum().backward()
    rows = {(r.layer, r.quantity): r.value for r in lens.compare("mine", "true")}
    assert rows["0", "cosine"] == pytest.approx(1, abs=1e-12)
    assert rows["0", "norm_ratio"] == pytest.approx(2, abs=1e-12)
    assert {layer for layer, _ in rows} == {"0", "2"}
    with pytest.raises(InputError, match="unknown backward 'treu'.*true"):
        lens.compare("mine", "treu")


def test_same_name_adds_up_like_grad_and_clear_forgets():
    model, x = net(), torch.randn(5, 6, dtype=torch.float64)
    with gradlens.Lens(model, ["2"]) as lens:
        model(x).sum().backward(retain_graph=True)
        once = lens.gradients["backward"]["2"].clone()
        lens.clear()
        assert not lens.activations
        out = model(x)
        out.sum().backward(retain_graph=True)
        out.sum().backward()
    torch.testing.assert_close(lens.gradients["backward"]["2"], 2 * once)


def test_tuples_of_tensors_are_read_part_by_part():
    model = nn.Sequential()
    model.add_module("lstm", nn.LSTM(3, 4))
    with gradlens.Lens(model, ["lstm"]) as lens:
        out, _ = model.lstm(torch.randn(2, 1, 3))
        out.sum().backward()
    assert lens.activations["lstm[0]"].shape == (2, 1, 4)
    assert lens.gradients["backward"]["lstm[0]"].eq(1).all()


def test_an_unknown_layer_lists_the_known_ones():
    with pytest.raises(InputError, match="unknown layer 'one'.*0, 1, 2"):
        gradlens.Lens(net(), ["one"])


def test_inference_without_gradients_reads_activations_only():
    model = net()
    with gradlens.Lens(model) as lens, torch.no_grad():
        model(torch.randn(2, 6, dtype=torch.float64))
    assert len(lens.activations) == 5
    assert lens.gradients == {}


def test_importing_gradlens_is_instant():
    import subprocess
    import sys

    code = "import gradlens, gradlens.cli.main, sys; assert 'torch' not in sys.modules and 'pydantic' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert gradlens.METHODS
    with pytest.raises(AttributeError):
        gradlens.nothing  # noqa: B018


class Local(nn.Module):
    """Two layers; the second one reads a copy without graph."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.aux = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, x):
        h = self.a(x)
        return self.aux(h).sum(), self.b(h).sum()


@pytest.mark.parametrize("warn", [True, False])
def test_layers_that_only_one_backward_reached_are_named(recwarn, warn):
    model = Local()
    with gradlens.Lens(model, warn=warn) as lens:
        local, true = model(torch.randn(3, 4))
        with lens.backward("local"):
            local.backward(retain_graph=True)
        with lens.backward("true"):
            true.backward()
        for _ in range(2):
            assert {row.layer for row in lens.compare("local", "true")} == {"a"}
    want = [
        f"not compared: {layer}, which of 'local' and 'true' only '{name}' reached" for layer, name in (("aux", "local"), ("b", "true"))
    ]
    assert lens.unread() == want
    assert [str(w.message) for w in recwarn] == ([f"Lens: {sentence}" for sentence in want] if warn else [])


def test_what_a_lens_is_not_made_for_is_refused_in_one_sentence():
    with pytest.raises(InputError, match="^the model must be a torch.nn.Module, got a Tensor"):
        gradlens.Lens(torch.ones(3))
    model, probe = net(), nn.Linear(4, 1).double()
    with gradlens.Lens(model) as lens:
        out = model(torch.randn(7, 6, dtype=torch.float64))
        with lens.backward("true"):
            out.sum().backward()
        with lens.backward("local"):
            probe(lens.activations["2"]).sum().backward()  # of a copy without graph
    for used, said in (
        ("local", "^the backward pass 'local' reached no layer; compute its loss from the model's outputs"),
        ("lokal", "^unknown backward 'lokal'; nearest: true"),
        (out, "^lens.compare.. takes the names of two backward passes, got a Tensor"),
    ):
        with pytest.raises(InputError, match=said):
            lens.compare(used, "true")
    lens.clear()
    with pytest.raises(InputError, match="^unknown backward 'local'"):
        lens.compare("local", "true")


def test_a_lens_says_what_it_has_read():
    model = net()
    with gradlens.Lens(model) as lens:
        assert repr(lens).startswith("<Lens: 0 of 5 layers read; backward passes: none; ")
        with lens.backward("true"):
            model(torch.randn(7, 6, dtype=torch.float64)).sum().backward()
    assert repr(lens).startswith("<Lens: 5 of 5 layers read; backward passes: true; ")
