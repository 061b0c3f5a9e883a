"""What users call is documented: each parameter in Args, what comes back in Returns or Yields, each field in Attributes."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass

import pytest
from pydantic import BaseModel

import gradlens
from gradlens import LensCallback, Method

NO_FUNCTION = {"METHODS", "__version__"}
NAMES = [name for name in gradlens.__all__ if name not in NO_FUNCTION]


def section(text: str, title: str) -> str:
    """The lines of one section of a docstring; empty if it has none."""
    found = re.search(rf"^{title}:\n((?:    .*\n|\n)*)", text + "\n", re.M)
    return found[1] if found else ""


def entries(text: str, title: str) -> set[str]:
    """The names that a section explains; "x, y: …" are two."""
    return {name for names in re.findall(r"^    ([\w, *]+): \S", section(text, title), re.M) for name in names.split(", ")}


def functions(cls: type) -> Iterator[tuple[str, object]]:
    """The public methods and properties of a class that this package defines."""
    for base in cls.__mro__:
        if base.__module__.startswith("gradlens."):
            for name, member in vars(base).items():
                function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
                if not name.startswith("_") and inspect.isfunction(function):
                    yield name, function


def callables() -> Iterator[tuple[str, object]]:
    """All exported functions, and the methods of exported classes but for those of Lightning's interface."""
    for name in NAMES:
        thing = getattr(gradlens, name)
        if not inspect.isclass(thing):
            yield name, thing
        elif thing is not LensCallback:
            yield from ((f"{name}.{method}", function) for method, function in functions(thing))


def missing(function: object) -> list[str]:
    """What the docstring of a function lacks."""
    text, signature = inspect.getdoc(function) or "", inspect.signature(function)
    parameters = [name for name in signature.parameters if name not in ("self", "cls")]
    lacks = [f"{name} in Args" for name in parameters if name not in entries(text, "Args")]
    returned = signature.return_annotation
    if returned not in (None, "None", inspect.Signature.empty) and not (section(text, "Returns") or section(text, "Yields")):
        lacks.append("Returns or Yields")
    return lacks


CALLABLES = dict(callables())


@pytest.mark.parametrize("name", CALLABLES)
def test_parameters_and_what_is_returned_are_explained(name):
    assert missing(CALLABLES[name]) == []


def test_no_hook_of_a_rule_is_left_out():
    assert {f"Method.{name}" for name in ("signal", "forward", "block_of", "objective", "input_shape")} <= set(CALLABLES)
    assert len([name for name in CALLABLES if name.startswith("Method.")]) >= 25


def fields_of(cls: type) -> set[str]:
    """The fields that a user reads or gives: of a named tuple, a dataclass or a model; of a rule its facts too."""
    if issubclass(cls, tuple):
        return set(cls._fields)
    if is_dataclass(cls):
        return {field.name for field in fields(cls)}
    if issubclass(cls, BaseModel):
        return set(cls.model_fields)
    return {name for name in cls.__annotations__ if name in vars(cls)} if cls is Method else set()


CLASSES = [name for name in NAMES if inspect.isclass(getattr(gradlens, name)) and fields_of(getattr(gradlens, name))]


@pytest.mark.parametrize("name", CLASSES)
def test_every_field_is_an_attribute_of_the_docstring(name):
    cls = getattr(gradlens, name)
    assert fields_of(cls) - entries(inspect.getdoc(cls), "Attributes") == set()


def test_classes_with_fields_are_found():
    assert {"Comparison", "Config", "LayerwisePlan", "Method", "RunContext", "Signal", "ViewMixture"} <= set(CLASSES)


def test_what_is_missing_is_found():
    def bare(x: int, y: int = 0) -> int:
        """Add.

        Args:
            x: a number.

        """

    def nothing(x: int) -> None:
        """Print.

        Args:
            x: a number.

        """

    assert missing(bare) == ["y in Args", "Returns or Yields"]
    assert missing(nothing) == []
