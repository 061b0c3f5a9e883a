"""Classes are told from what only looks like one."""

import re
from abc import ABCMeta, abstractmethod
from pathlib import Path

import pytest

import gradlens
from gradlens.runtime.classes import is_subclass


class Base(metaclass=ABCMeta):
    @abstractmethod
    def answer(self): ...


class Below(Base):
    pass


@pytest.mark.parametrize(("found", "answer"), [(Below, True), (Base, True), (int, False), (list[int], False), (3, False), ("Below", False)])
def test_what_is_a_class_below_another(found, answer):
    assert is_subclass(found, Base) is answer


def test_nothing_else_in_the_package_asks_by_itself():
    """`issubclass(list[int], Base)` is a TypeError on Python 3.10, even after `isinstance(list[int], type)`."""
    package = Path(gradlens.__file__).parent
    asking = [path for path in package.rglob("*.py") if re.search(r"\bissubclass\(", path.read_text(encoding="utf-8"))]
    assert asking == [package / "runtime" / "classes.py"]
