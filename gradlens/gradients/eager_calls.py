"""Make torch call modules one by one while layers are read, where it would otherwise fuse several and skip their hooks."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress

import torch
from torch import nn

_FUSED = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)


class _Shared:
    """A process-wide setting that is active while it has one or more users, in any order of entering and leaving.

    Args:
        setting: makes the context in which it is active.

    """

    def __init__(self, setting: Callable[[], AbstractContextManager[None]]) -> None:
        self._setting, self._users, self._lock = setting, 0, threading.Lock()
        self._held = ExitStack()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Activate the setting inside the context."""
        with self._lock:
            if self._users == 0:
                self._held.enter_context(self._setting())
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._held.close()


@contextmanager
def _without_fast_path() -> Iterator[None]:
    """Disable the fast path of transformer layers, so that they call their parts also in eval mode without gradients."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _without_new_compilation() -> Iterator[None]:
    """Run models that are not compiled yet eagerly, without torch's warning about hooks on compiled modules."""
    quiet = "Using `torch.compile"
    warnings.filterwarnings("ignore", message=quiet, category=UserWarning)
    entry = warnings.filters[0]
    try:
        if torch._dynamo.eval_frame._stance.stance == "default":
            with torch.compiler.set_stance("eager_on_recompile"):
                yield
        else:
            yield
    finally:
        with suppress(ValueError):  # a catch_warnings may have replaced the filters
            warnings.filters.remove(entry)  # type: ignore[attr-defined]


_FAST_PATH, _COMPILER = _Shared(_without_fast_path), _Shared(_without_new_compilation)


@contextmanager
def eager_calls(model: nn.Module) -> Iterator[None]:
    """Run models that are not compiled yet module by module inside the context.

    Models compiled before run compiled. A model that is compiled by ``torch.compile`` inside, as the first one of the process, is
    compiled without the hooks.
    """
    with ExitStack() as stack:
        if any(isinstance(m, _FUSED) for m in model.modules()):
            stack.enter_context(_FAST_PATH.held())
        if "torch._dynamo" in sys.modules:
            stack.enter_context(_COMPILER.held())
        yield
