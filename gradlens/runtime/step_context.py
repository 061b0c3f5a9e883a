"""Hold the context of a step: tensors that all blocks may read, and no gradient passes through (adjacency, mask, coordinates)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

Context = Mapping[str, Tensor]

_current: Context = {}
_depth = 0  # of step_context


def in_step() -> bool:
    """Return whether a step or an evaluation of a task is running; not in losses that are called in other code."""
    return _depth > 0


def current_context() -> Context:
    """Return the context of the batch that is being worked on: a block reads it in its ``forward``.

    Returns:
        name -> tensor that passes no gradient, as ``edges`` of a graph; empty if there is none.

    """
    return _current


def set_context(context: Context) -> None:
    """Replace the context, up to the end of the surrounding :func:`step_context`."""
    global _current
    if any(t.requires_grad for t in context.values()):
        raise ValueError("a step's context passes no gradient: detach its tensors")
    _current = context


@contextmanager
def step_context(context: Context | None = None) -> Iterator[None]:
    """Set the context inside (None: as it is, to be replaced by :func:`set_context`), and restore that of before at the end."""
    global _current, _depth
    before = _current
    _depth += 1
    try:
        if context is not None:
            set_context(context)
        yield
    finally:
        _current = before
        _depth -= 1
