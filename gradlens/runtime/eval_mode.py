"""Switch modules to eval mode temporarily."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(*modules: nn.Module) -> Iterator[None]:
    """Put modules in eval mode inside the context; afterwards each submodule has the training flag it had before.

    ``module.train()`` at the end would not do: a network may be frozen in part (``shallow`` keeps blocks in eval mode).

    Args:
        modules: any modules; what they contain is included.

    """
    flags = [(m, m.training) for module in modules for m in module.modules()]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for m, training in flags:
            m.training = training
