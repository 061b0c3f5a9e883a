"""Whatever a layer returns: its tensors are read, the forward pass gets the same thing, and what cannot be read is named."""

import copy
import types
import warnings
from collections import OrderedDict, UserDict, UserList, defaultdict, deque, namedtuple
from dataclasses import dataclass, fields
from typing import NamedTuple

import pytest
import torch
from torch import nn

from gradlens import Lens


class Boxes(list):
    """A list with an argument in its constructor and an attribute."""

    def __init__(self, items, size):
        super().__init__(items)
        self.size = size


class Out(dict):
    """A dict that may have attributes."""


class Plain(NamedTuple):
    h: torch.Tensor
    n: int


class Own(namedtuple("Own", ["h", "n"])):
    """A named tuple with its own constructor and an attribute."""

    def __new__(cls, h):
        made = super().__new__(cls, h, len(h))
        made.note = "kept"
        return made


@dataclass
class Data:
    h: torch.Tensor
    n: int


@dataclass(frozen=True)
class Frozen:
    h: torch.Tensor
    n: int = 3


@dataclass(slots=True)
class Slotted:
    h: torch.Tensor
    n: int


class Handmade:
    __slots__ = ("__weakref__", "h")

    def __init__(self, h):
        self.h = h


@dataclass
class ModelOutput(OrderedDict):
    """A dict and a dataclass in one, as Hugging Face's models give it."""

    h: torch.Tensor = None

    def __post_init__(self):
        for field in fields(self):
            super().__setitem__(field.name, getattr(self, field.name))

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        super().__setattr__(key, value)

    def __reduce__(self):
        make, _, *rest = super().__reduce__()
        return make, tuple(getattr(self, field.name) for field in fields(self)), *rest


def defaulted(h):
    made = defaultdict(list)
    made["h"] = h
    return made


def with_mask(h):
    made = Out(h=h)
    made.mask = h > 0
    return made


def recursive(h):
    made = [h]
    made.append(made)
    return made


CONTAINERS = {  # name -> (h -> what the layer returns, what -> h in it, its place)
    "tensor": (lambda h: h, lambda o: o, ""),
    "tuple": (lambda h: (h, None), lambda o: o[0], "[0]"),
    "list": (lambda h: [1, h], lambda o: o[1], "[1]"),
    "nested": (lambda h: {"a": [(h,)]}, lambda o: o["a"][0][0], "[a][0][0]"),
    "dict": (lambda h: {"h": h}, lambda o: o["h"], "[h]"),
    "ordered dict": (lambda h: OrderedDict(h=h), lambda o: o["h"], "[h]"),
    "defaultdict": (defaulted, lambda o: o["h"], "[h]"),
    "dict of attributes": (with_mask, lambda o: o["h"] + 0 * o.mask, "[h]"),
    "keys that read alike": (lambda h: {0: None, "0": h}, lambda o: o["0"], "['0']"),
    "user dict": (lambda h: UserDict(h=h), lambda o: o["h"], "[h]"),
    "user list": (lambda h: UserList([h]), lambda o: o[0], "[0]"),
    "list subclass": (lambda h: Boxes([h], 1.0), lambda o: o[0] * o.size, "[0]"),
    "deque": (lambda h: deque([h], maxlen=2), lambda o: o[0], "[0]"),
    "named tuple": (lambda h: Plain(h, 1), lambda o: o.h, "[0]"),
    "own named tuple": (Own, lambda o: o.h + 0 * len(o.note), "[0]"),
    "dataclass": (lambda h: Data(h, 2), lambda o: o.h, "[h]"),
    "frozen dataclass": (Frozen, lambda o: o.h, "[h]"),
    "dataclass of slots": (lambda h: Slotted(h, 2), lambda o: o.h, "[h]"),
    "slots": (Handmade, lambda o: o.h, "[h]"),
    "namespace": (lambda h: types.SimpleNamespace(h=h), lambda o: o.h, "[h]"),
    "model output": (lambda h: ModelOutput(h=h), lambda o: (o.h + o["h"]) / 2, "[h]"),
    "distribution": (lambda h: torch.distributions.Normal(h, torch.ones(())), lambda o: o.loc, "[loc]"),
    "return type": (lambda h: torch.return_types.max((h, torch.zeros(3))), lambda o: o.values, "[0]"),
    "inside itself": (recursive, lambda o: o[0], "[0]"),
}


class Layer(nn.Module):
    """Returns a container: of its own result, or of what it was given."""

    def __init__(self, wrap, own):
        super().__init__()
        self.wrap, self.f = wrap, nn.Linear(4, 4) if own else nn.Identity()

    def forward(self, x):
        self.gave = self.f(x)
        return self.wrap(self.gave)


class Net(nn.Module):
    """Uses x beside the layer too; the gradient at the layer's output is 2 everywhere."""

    def __init__(self, name, own):
        super().__init__()
        torch.manual_seed(0)
        wrap, self.unwrap, _ = CONTAINERS[name]
        self.below, self.layer = nn.Linear(4, 4), Layer(wrap, own)

    def forward(self, x):
        x = self.below(x)
        self.got = self.layer(x)
        return 2 * self.unwrap(self.got) + x.sin()


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.parametrize("own", [True, False], ids=["own", "handed on"])
def test_a_container_is_read_and_goes_on_as_it_is(name, own):
    plain, seen, x = Net(name, own), Net(name, own), torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    want = plain(x)
    want.sum().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Lens(seen, ["layer"]) as lens:
            got = seen(x)
            got.sum().backward()
    place = "layer" + CONTAINERS[name][2]
    assert torch.equal(got, want)
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(plain.parameters(), seen.parameters(), strict=True))
    assert list(lens.gradients["backward"]) == [place]
    assert lens.gradients["backward"][place].eq(2).all()
    assert torch.equal(lens.activations[place], seen.layer.gave)
    assert type(seen.got) is type(plain.got)
    inner = seen.unwrap(seen.got)
    if own and not inner.grad_fn.name().startswith(("Add", "Mul", "Div")):  # not computed by unwrap
        assert inner is seen.layer.gave


def test_nothing_that_was_given_is_changed():
    """A list that is handed on belongs to the caller: it stays, with what is in it, and the layer is named."""
    net, x = nn.Identity(), torch.randn(3, 4, requires_grad=True)
    given = {"list": [x], "dict": {"x": x}, "object": types.SimpleNamespace(x=x), "inside": ({"x": [x]},)}
    for kind, value in given.items():
        before = copy.copy(value)
        with (
            pytest.warns(
                UserWarning, match=r"^Lens: the model itself\[.* could not be read: it returns a .* that is also referenced elsewhere"
            ),
            Lens(net),
        ):
            got = net(value)
        assert got is value, kind
        assert vars(value)["x"] is x if kind == "object" else value == before


def test_a_container_that_the_module_keeps_stays_its_own():
    class Memory(nn.Module):
        def __init__(self):
            super().__init__()
            self.kept = [nn.Parameter(torch.ones(2))]

        def forward(self):
            return self.kept

    net = Memory()
    with pytest.warns(UserWarning, match=r"itself\[0\] could not be read"), Lens(net):
        assert net() is net.kept
    assert type(net.kept[0]) is nn.Parameter


class NoCopy:
    def __init__(self, h):
        self.h = h

    def __copy__(self):
        raise TypeError("one of a kind")


SILENT = {
    "mapping proxy": (lambda h: types.MappingProxyType({"h": h}), r"layer\[h\] could not be read: its mappingproxy cannot be copied"),
    "no copy": (NoCopy, r"layer\[h\] could not be read: its NoCopy cannot be copied \(TypeError: one of a kind\)"),
    "generator": (lambda h: (part for part in [h]), r"layer could not be read: it returned a generator, in which no tensor was found"),
    "set": (lambda h: {h}, r"layer could not be read: it returned a set"),
    "none": (lambda h: None, r"layer could not be read: it returned a NoneType"),
    "number": (lambda h: 2.5, r"layer could not be read: it returned a float"),
    "function": (lambda h: lambda: h, r"layer could not be read: it returned a function"),
    "module": (lambda h: nn.ReLU(), r"layer could not be read: it returned a ReLU"),
}


@pytest.mark.parametrize("name", SILENT)
def test_what_cannot_be_read_is_named_and_goes_on(name):
    wrap, sentence = SILENT[name]
    net = nn.ModuleDict({"layer": Layer(wrap, own=False)})
    x = torch.randn(3, 4, requires_grad=True)
    with pytest.warns(UserWarning, match=sentence), Lens(net, ["layer"]):
        got = net["layer"](x)
    assert type(got) is type(wrap(x))
    if name == "generator":
        assert next(got) is x


def test_one_tensor_in_two_places_is_read_in_both():
    net = nn.ModuleDict({"layer": Layer(lambda h: (h, h), own=False)})
    with Lens(net, ["layer"]) as lens:
        a, b = net["layer"](torch.ones(2, requires_grad=True))
        (a + 3 * b).sum().backward()
    assert [lens.gradients["backward"][f"layer[{i}]"].tolist() for i in (0, 1)] == [[1, 1], [3, 3]]
