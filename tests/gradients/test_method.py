"""What a rule is: documented field by field, two things to override, at most two classes deep."""

import inspect
import re

import pytest
from oracles import case, rule

from gradlens.gradients.backward import backward
from gradlens.gradients.block_pass import Grad, Pass
from gradlens.gradients.locks import Locking
from gradlens.gradients.method import FeedbackPair, Method, Signal, Step, Update, top_signal
from gradlens.gradients.network_info import NetworkInfo
from gradlens.methods import METHODS

DEEPEST = 2  # classes below Method: a family and its rules


def depth(cls: type[Method], below: type = Method) -> int:
    """Steps of inheritance from a class up to ``below``, the longest way."""
    return 0 if cls is below else 1 + max(depth(base, below) for base in cls.__bases__ if issubclass(base, below))


def of_the_package(cls: type[Method]) -> list[type[Method]]:
    """All classes of the package below a rule, registered or there to be subclassed."""
    found = [sub for sub in cls.__subclasses__() if sub.__module__.startswith("gradlens.")]
    return [*found, *(deeper for sub in found for deeper in of_the_package(sub))]


def test_rules_inherit_at_most_two_deep():
    rules = {*of_the_package(Method), *METHODS.values()}
    assert set(METHODS.values()) <= rules
    assert len(rules) > len(METHODS)  # families, which are in no registry
    assert {cls.__name__: depth(cls) for cls in rules if depth(cls) > DEEPEST} == {}


def test_depth_counts_the_longest_way():
    class Family(Method):
        pass

    class Mixed(Family):
        pass

    class Deep(Mixed):
        pass

    assert [depth(cls) for cls in (Family, Mixed, Deep)] == [1, 2, 3]


# ------------------------------------------------------------------------------------------------------- documentation

RECORDS = (NetworkInfo, Signal, Update, Step, FeedbackPair, Pass, Grad)


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: r.__name__)
def test_every_field_is_documented(record):
    text = inspect.getdoc(record)
    fields = re.findall(r"^    (\w+): \S", text[text.index("Attributes:") :], re.M)
    assert tuple(fields) == record._fields


def test_tensors_are_documented_with_their_shape():
    for record in (Signal, Pass, Grad):
        text = inspect.getdoc(record)
        for field, kind in record.__annotations__.items():
            if "Tensor" in str(kind) and field not in ("aux_grads", "params"):  # of their parameters' shapes
                assert re.search(rf"^    {field}: .*(\[N|scalar)", text, re.M), (record.__name__, field)


def test_a_rule_must_say_its_signal_and_every_hook_is_listed():
    assert Method.__abstractmethods__ == {"signal"}
    text = inspect.getdoc(Method)
    attributes = re.findall(r"^    ([\w, ]+): \S", text[text.index("Attributes:") :], re.M)
    listed = {*re.findall(r"`(?:Method\.)?(\w+)`", text), *(name for names in attributes for name in names.split(", "))}
    named = {name: value for name, value in {**vars(Locking), **vars(Method)}.items() if not name.startswith("_")}
    hooks = {name for name, value in named.items() if callable(value) or isinstance(value, (classmethod, property))}
    hooks |= {name for name in Method.__annotations__ if name in named}
    assert hooks - listed == {"locks"}  # derived, not to be overridden


def test_a_rule_without_a_signal_cannot_be_made():
    class Mute(Method):
        pass

    with pytest.raises(TypeError, match="abstract.*signal"):
        Mute(NetworkInfo((), (), 10, 1, None, 0), None)


# ------------------------------------------------------------------------------------------------------ what `signal` reads


@pytest.mark.parametrize("name", ["bp", "dgl", "chunked", "dfa", "dni", "shallow"])
def test_signal_finds_its_block_those_that_wait_below_and_the_output(name):
    c = case("mlp")
    method, there = rule(name, c), {}
    said, top = method.signal, method.num_blocks - 1

    def seen(k, passes, received):
        there[k] = set(passes)
        return said(k, passes, received)

    method.signal = seen
    list(backward(method, method.forward(c.blocks, c.x, c.y)))
    for k in range(top + 1):
        lowest = k
        while lowest and method.needs_above(lowest - 1):
            lowest -= 1
        has_run = {top} if k == top or method.needs_above(k) else set()
        if name == "chunked" and k < lowest_of_top(method):
            has_run = set()  # the chunk is updated before the blocks above it are run
        assert there[k] == {*range(lowest, k + 1), *has_run}, k


def lowest_of_top(method):
    """The lowest block that waits, through others, for the top."""
    k = method.num_blocks - 1
    while k and method.needs_above(k - 1):
        k -= 1
    return k


@pytest.mark.parametrize("send", [True, False])
def test_the_top_sends_its_gradient_or_nothing(send):
    c = case("mlp")
    p = list(rule("bp", c).forward(c.blocks, c.x, c.y))[-1]
    said = top_signal(rule("bp", c).loss, p, send)
    assert said.messages_below == ((said.delta,) if send else ())
    assert said.delta.shape == p.z.shape
