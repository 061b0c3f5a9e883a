"""The one exception that means "what you gave cannot be used"."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from difflib import SequenceMatcher
from inspect import isclass, isroutine
from typing import Any


class InputError(ValueError):
    """Input that cannot be used, said in one sentence. The command line prints it and exits with status 2."""

    trace = ""  # where a user's own code raised: the traceback of their frames, printed above the sentence


def kind_of(value: object) -> str:
    """What a value is, for the sentence that refuses it.

    >>> kind_of(3), kind_of({}), kind_of(dict), kind_of(len)
    ('an int', 'a dict', 'the class dict', 'a function')
    """
    if isclass(value):
        return f"the class {value.__name__}"
    if isroutine(value):
        return "a function"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


LISTS = {  # commands that print all names of a kind
    "method": "gradlens list methods",
    "model": "gradlens list models",
    "data set": "gradlens list data",
    "quantity": "gradlens list quantities",
    "setting": "gradlens train --help",
    "device": "gradlens train --help",
}
NEAREST = 3  # names that are suggested


def letters(name: str) -> str:
    """A name without case, blanks and signs, by which two spellings of it are known to be one.

    >>> letters(" VGG-16"), letters("direct feedback_alignment")
    ('vgg16', 'directfeedbackalignment')
    """
    return re.sub(r"[^0-9a-z]", "", name.lower())


def nearest(name: str, known: Iterable[str], least: float = 0.0) -> list[str]:
    """The known names that are most like one, at most three; of two as like, that of the same letters comes first.

    Args:
        name: as it was given.
        known: the names there are.
        least: how like a name must be, from 0 (any) to 1 (equal); dashes before names do not count.

    >>> nearest("--foo", ["--force", "--version"], 0.6), nearest("--versio", ["--force", "--version"], 0.6)
    ([], ['--version'])
    """

    def distance(k: str) -> tuple[float, bool]:
        return -SequenceMatcher(None, name.lower(), k.lower()).ratio(), sorted(k.lower()) != sorted(name.lower())

    def is_like(k: str) -> bool:
        return SequenceMatcher(None, name.lstrip("-").lower(), k.lstrip("-").lower()).ratio() >= least

    return sorted(filter(is_like, known), key=distance)[:NEAREST]


def unknown(what: str, name: str, known: Iterable[str], command: str | None = None, others: Mapping[str, str] | None = None) -> InputError:
    """The error for a name that is not in a list: the nearest of it, and how to see all.

    Args:
        what: is named.
        name: as it was given.
        known: the names there are.
        command: prints them all; of what stands in LISTS it is known.
        others: what some of them are called elsewhere -> the name here, which is then the only one suggested.

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


INTERRUPTED = 130  # exit status of a run that was stopped from outside, as of a shell's Ctrl-C


class Stopped(Exception):
    """A run that ended before its time, for a reason that is no wrong input; ``status`` is the exit status."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


class Failsafe:
    """Calls that may fail without harm: the first failure is one line on stderr, and nothing is called any more after it.

    Args:
        what: fails, in a word or two.

    """

    def __init__(self, what: str) -> None:
        self.what, self.works = what, True

    def __call__(self, call: Callable[[], Any]) -> None:
        """Make a call, unless an earlier one failed."""
        if not self.works:
            return
        try:
            call()
        except Exception as error:  # noqa: BLE001 - a logger looks on; whatever goes wrong in it, days of training are not lost to it
            self.failed(error)

    def failed(self, error: Exception) -> None:
        """Say so, and stop."""
        if self.works:
            self.works = False
            said = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"gradlens: {self.what} failed and is off from here on; the training goes on ({said})", file=sys.stderr)
