"""Which tensor of one capture belongs to which of another: equal names, renames, and fused parameters against separate ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gradlens.analysis.captures.loaded import LoadedCapture
from gradlens.runtime.errors import InputError, unknown


class There(NamedTuple):
    """Where a tensor of a is in b."""

    keys: tuple[str, ...]  # of b's file
    read: Callable[[Sequence[int] | None], Tensor]  # shape of a's -> the tensor


class Names:
    """Which of b's tensors belong to which of a's.

    A rule ``THERE=HERE`` renames: a regular expression that is found in b's names, and what it is replaced by to make them a's.
    ``q,k,v=qkv`` maps layers that b has separately to one that a has fused; their outputs are concatenated along the last dimension, their
    parameters along the first (``q,k,v=qkv@1``: along the second, as GPT-2's ``Conv1D`` needs).

    Args:
        rules: as typed.
        b: the capture whose names are mapped.

    Raises:
        InputError: a rule without ``=``, no regular expression, or one that is found in no name.

    """

    def __init__(self, rules: Sequence[str], b: LoadedCapture) -> None:
        self._b = b
        self._renames: list[tuple[re.Pattern[str], str]] = []
        self._fused: list[tuple[tuple[str, ...], str, int]] = []  # words of b, word of a, dimension of a parameter
        names = sorted({*b.header["modules"], *b.header["parameters"]})
        for rule in rules:
            there, sign, here = rule.partition("=")
            if not sign or not there or not here:
                raise InputError(f"--map {rule!r}: expected B=A, the name in b and that in a")
            words = there.split(",")
            if len(words) > 1:
                here, _, dim = here.partition("@")
                self._fused.append((tuple(words), here, _dimension(rule, dim)))
            else:
                self._renames.append((_pattern(rule, there), here))
            for word in words:
                if not any(re.search(word if len(words) == 1 else re.escape(word), name) for name in names):
                    raise unknown("layer of b in --map", word, names)
        self._there: dict[str, list[str]] = {}  # key of a -> keys of b
        for key in b.keys:
            self._there.setdefault(self.in_a(key), []).append(key)

    def in_a(self, key: str) -> str:
        """Return a key of b under a's names."""
        of, _, name = key.partition("/")
        for pattern, here in self._renames:
            name = pattern.sub(here, name)
        for words, word, _ in self._fused:
            for one in words:
                if (changed := _with(name, one, word)) is not None:
                    return f"{of}/{changed}"
        return f"{of}/{name}"

    def in_b(self, key: str) -> There | None:
        """Return where a tensor of a is in b; None: nowhere."""
        theirs, b = self._there.get(key, []), self._b
        if not theirs:
            return None
        if len(theirs) == 1:
            return There((theirs[0],), lambda like: b.tensor(theirs[0], like))
        words, dim = next(((w, d) for w, _, d in self._fused if len(w) == len(theirs)), ((), 0))
        ordered = sorted(theirs, key=lambda one: next((i for i, w in enumerate(words) if _with(one, w, "") is not None), 0))
        along = dim if key.startswith("parameter/") and b.tensor(ordered[0]).ndim > 1 else 0 if key.startswith("parameter/") else -1
        return There(tuple(ordered), lambda _: torch.cat([b.tensor(one) for one in ordered], along))


def _with(name: str, word: str, other: str) -> str | None:
    """Return a name in which a whole word between dots is another; None if it is not in it."""
    found = re.search(rf"(?<![^./]){re.escape(word)}(?![^.#\[])", name)
    return None if found is None else name[: found.start()] + other + name[found.end() :]


def _dimension(rule: str, text: str) -> int:
    if text not in ("", "0", "1"):
        raise InputError(f"--map {rule!r}: after @ comes the dimension of a parameter, 0 or 1")
    return int(text or 0)


def _pattern(rule: str, text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise InputError(f"--map {rule!r}: {text!r} is no regular expression ({error})") from error
