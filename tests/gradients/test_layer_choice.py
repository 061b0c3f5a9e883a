"""The layers that a person would name, and the names that a module answers to."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from gradlens import InputError, Lens
from gradlens.gradients.layer_choice import choose_layers, default_layers


class Scaled(nn.Module):
    """A layer with parameters of its own and a child."""

    def __init__(self):
        super().__init__()
        self.scale, self.act = nn.Parameter(torch.ones(4)), nn.ReLU()

    def forward(self, x):
        return self.act(x * self.scale)


class Half(nn.Module):
    def forward(self, w):
        return w / 2


class Lists(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks, self.empty, self.weights = nn.ModuleList([nn.Linear(4, 4)]), nn.ModuleList(), nn.ParameterList([torch.ones(4)])
        self.named, self.tables, self.shortcut = nn.ModuleDict(), nn.ParameterDict(), nn.Sequential()

    def forward(self, x):
        return self.shortcut(self.blocks[0](x)) * self.weights[0]


class WithToken(nn.Module):
    """The model itself has a parameter of its own, as vision transformers have."""

    def __init__(self):
        super().__init__()
        self.token, self.f = nn.Parameter(torch.zeros(1, 4)), nn.Linear(4, 4)

    def forward(self, x):
        return self.f(x + self.token)


def halved(bias):
    layer = nn.Linear(4, 4, bias=bias)
    parametrize.register_parametrization(layer, "weight", Half())
    parametrize.register_parametrization(layer, "weight", nn.Sequential(Half()))
    return layer


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.e, self.att = nn.Linear(4, 4), nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        h = self.e(x)[None]
        return self.att(h, h, h)[0]


quiet = warnings.catch_warnings


def old(norm):
    with quiet():
        warnings.simplefilter("ignore")
        return norm(nn.Linear(4, 4))


CHOSEN = {
    "plain": (lambda: nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 4))), ["0", "1.0", "1.1"]),
    "attention": (Attends, ["e", "att"]),
    "a transformer layer": (
        lambda: nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8)),
        [f"0.{n}" for n in ("self_attn", "linear1", "dropout", "linear2", "norm1", "norm2", "dropout1", "dropout2")],
    ),
    "attention alone": (lambda: nn.MultiheadAttention(4, 2), [""]),
    "weight norm": (lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)), nn.ReLU()), ["0", "1"]),
    "spectral norm": (lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 4))), ["0"]),
    "orthogonal, without bias": (lambda: nn.Sequential(parametrizations.orthogonal(nn.Linear(4, 4, bias=False))), ["0"]),
    "two parametrisations": (lambda: nn.Sequential(halved(True), halved(False)), ["0", "1"]),
    "parametrised alone": (lambda: halved(True), [""]),
    "old weight norm": (lambda: nn.Sequential(old(weight_norm)), ["0"]),
    "old spectral norm": (lambda: nn.Sequential(old(spectral_norm)), ["0"]),
    "pruned": (lambda: nn.Sequential(prune.random_unstructured(nn.Linear(4, 4), "weight", 0.5)), ["0"]),
    "parameters beside a child": (lambda: nn.Sequential(Scaled(), nn.Linear(4, 4)), ["0", "0.act", "1"]),
    "lists": (Lists, ["blocks.0", "shortcut"]),
    "a model with a parameter": (WithToken, ["f"]),
    "a leaf": (lambda: nn.Linear(4, 4), [""]),
    "a leaf without parameters": (nn.ReLU, [""]),
    "recurrent": (lambda: nn.ModuleDict({"lstm": nn.LSTM(4, 4)}), ["lstm"]),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(4)), ["0"]),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_the_default_layers_are_those_that_a_person_would_name_and_all_are_read(name):
    make, want = CHOSEN[name]
    net = make()
    assert list(default_layers(net)) == want
    if name in ("recurrent", "attention alone"):  # their arguments are others
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Lens(net) as lens:
            x = torch.randn(3, 4, requires_grad=True)
            net(x[None] if "transformer" in name else x).square().sum().backward()
    assert {label.partition("[")[0] for label in lens.activations} == set(want)
    assert {label.partition("[")[0] for label in lens.gradients["backward"]} == set(want)


@pytest.mark.filterwarnings("ignore")
def test_quantised_layers():
    net = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), {nn.Linear})
    assert list(default_layers(net)) == ["0", "1"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Lens(net) as lens:
            net(torch.randn(2, 4))
    assert list(lens.activations) == ["0", "1"]


class Tied(nn.Module):
    """One layer under two names, in two places."""

    def __init__(self):
        super().__init__()
        self.enc = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.dec, self.last = self.enc, nn.ModuleDict({"f": self.enc[0]})

    def forward(self, x):
        return self.dec(torch.relu(self.enc(x)))


def test_a_shared_module_answers_to_each_of_its_names():
    net, x = Tied(), torch.randn(3, 4)
    with Lens(net, ["enc.0"]) as lens:
        net(x).sum().backward()
    want = lens.gradients["backward"]
    for name in ("dec.0", "last.f"):
        with Lens(net, [name]) as lens:
            net(x).sum().backward()
        assert list(lens.activations) == [name, f"{name}#1"]
        assert all(torch.equal(g, want[label.replace(name, "enc.0")]) for label, g in lens.gradients["backward"].items())
    with Lens(net, ["last.f", "enc.0", "dec"]) as lens:
        net(x).sum().backward()
    assert set(lens.activations) == {f"{name}{call}" for name in ("last.f", "enc.0", "dec") for call in ("", "#1")}
    assert list(choose_layers(net)) == ["enc.0", "enc.1"]


def test_unknown_names_list_the_known_ones_and_a_text_is_no_list():
    with pytest.raises(InputError, match=r"unknown layer 'deck'; nearest: dec, dec\.0, dec\.1 \(of 8\)"):
        choose_layers(Tied(), ["deck"])
    with pytest.raises(InputError, match=r"layers: must be a list of paths, got the string 'enc'; set \['enc'\]"):
        Lens(Tied(), "enc")
    assert list(choose_layers(Tied(), [""])) == [""]
    assert list(choose_layers(Tied(), [])) == []
