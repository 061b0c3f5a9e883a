"""Define the errors of wrong input and of stopped runs, and suggestions for unknown names."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from difflib import SequenceMatcher
from inspect import isclass, isroutine
from typing import Any


class InputError(ValueError):
    """Invalid input; the message is one sentence. The command line prints it and exits with status 2."""

    trace = ""  # where a user's own code raised: the traceback of their frames, printed above the sentence


def kind_of(value: object) -> str:
    """Name the kind of a value, for a sentence.

    >>> kind_of(3), kind_of({}), kind_of(dict), kind_of(len)
    ('an int', 'a dict', 'the class dict', 'a function')
    """
    if isclass(value):
        return f"the class {value.__name__}"
    if isroutine(value):
        return "a function"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


LISTS = {  # kind of name -> command that prints all
    "method": "gradlens list methods",
    "model": "gradlens list models",
    "data set": "gradlens list data",
    "quantity": "gradlens list quantities",
    "setting": "gradlens train --help",
    "device": "gradlens train --help",
}
NEAREST = 3  # names that are suggested
ALIKE = 0.5  # how like a name that lies beside must be to the one that was typed to be suggested


def letters(name: str) -> str:
    """Reduce a name to lower-case letters and digits, to compare spellings.

    >>> letters(" VGG-16"), letters("direct feedback_alignment")
    ('vgg16', 'directfeedbackalignment')
    """
    return re.sub(r"[^0-9a-z]", "", name.lower())


def nearest(name: str, known: Iterable[str], least: float = 0.0) -> list[str]:
    """Return the known names most similar to one, at most three; at equal similarity anagrams come first.

    Args:
        name: the given name.
        known: the known names.
        least: required similarity, from 0 (any) to 1 (equal); leading dashes do not count.

    >>> nearest("--foo", ["--force", "--version"], 0.6), nearest("--versio", ["--force", "--version"], 0.6)
    ([], ['--version'])
    """

    def distance(k: str) -> tuple[float, bool]:
        return -SequenceMatcher(None, name.lower(), k.lower()).ratio(), sorted(k.lower()) != sorted(name.lower())

    def is_like(k: str) -> bool:
        return SequenceMatcher(None, name.lstrip("-").lower(), k.lstrip("-").lower()).ratio() >= least

    return sorted(filter(is_like, known), key=distance)[:NEAREST]


def unknown(what: str, name: str, known: Iterable[str], command: str | None = None, others: Mapping[str, str] | None = None) -> InputError:
    """Make the error for an unknown name: the nearest known names, and the command that lists all.

    Args:
        what: kind of name.
        name: the given name.
        known: the known names.
        command: prints them all; default: that of LISTS.
        others: other name in the literature -> the name here, which is then the only suggestion.

    >>> str(unknown("method", "dlg", ["bp", "dgl", "dni"]))
    "unknown method 'dlg'; nearest: dgl, dni, bp"
    >>> str(unknown("block", "blok", [f"block{i}" for i in range(1, 9)]))
    "unknown block 'blok'; nearest: block1, block2, block3 (of 8)"
    >>> str(unknown("model", "vgg-16", ["vgg11", "vgg16"])), str(unknown("method", "Backprop", ["bp", "dgl"], others={"backprop": "bp"}))
    ("unknown model 'vgg-16'; nearest: vgg16", "unknown method 'Backprop'; nearest: bp")
    """
    known, command = list(known), LISTS.get(what, command)
    spelled = {letters(k): k for k in known} | {letters(other): k for other, k in (others or {}).items() if k in known}
    same = spelled.get(letters(name)) if letters(name) else None
    near = [same] if same else nearest(name, known)
    rest = f" (of {len(known)}{f'; `{command}` lists all' if command else ''})" if len(known) > NEAREST else ""
    return InputError(f"unknown {what} {name!r}; nearest: {', '.join(near) or 'none'}{rest}")


INTERRUPTED = 130  # exit status of an interrupted run, as after Ctrl-C in a shell


class Stopped(Exception):
    """A run that ended early for another reason than invalid input; ``status`` is the exit status."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class Failsafe:
    """Calls that may fail without harm: the first failure prints one line on stderr and disables further calls.

    Args:
        what: name of the calls, in a word or two.

    """

    def __init__(self, what: str) -> None:
        self.what, self.works = what, True

    def __call__(self, call: Callable[[], Any]) -> None:
        """Make a call, unless an earlier one failed."""
        if not self.works:
            return
        try:
            call()
        except Exception as error:  # noqa: BLE001 - an error in a logger must not end a training
            self.failed(error)

    def failed(self, error: Exception) -> None:
        """Print the failure once, and disable further calls."""
        if self.works:
            self.works = False
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"gradlens: {self.what} failed and is disabled; training continues ({reason})", file=sys.stderr)
