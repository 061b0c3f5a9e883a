"""Find layers that a forward pass called and no backward pass reached: detached, under ``no_grad``, or no part of the loss."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn


class Reached:
    """Which layers' outputs a backward pass was to reach, and which it did reach.

    A layer counts once, however often it is called: an encoder that is called twice, the second time as a fixed target, is reached.
    A layer that does not learn and whose output needs no gradient (a frozen one, a flattened image) is not expected to be reached.

    Args:
        model: the module whose ``.grad`` fields show that a backward pass ran, even where it reached none of the layers.

    """

    def __init__(self, model: nn.Module) -> None:
        self.backward_seen = False  # whether a backward pass ran, as far as is known
        self._model = model
        self._grads: dict[int, tuple[Tensor | None, int]] = {}  # parameter -> its .grad at the start, and that tensor's version
        self._path: dict[str, str] = {}  # label of an output -> its layer's path, where a gradient is expected
        self._reached: set[str] = set()  # paths

    def start(self) -> None:
        """Remember what lies in ``.grad``."""
        self._grads = {id(p): (p.grad, _version(p.grad)) for p in self._model.parameters()}

    def expect(self, paths: Sequence[str], labels: Iterable[str], module: nn.Module, output: Tensor) -> None:
        """Expect a gradient at an output, if it has a graph or its layer learns."""
        if output.requires_grad or (
            (output.is_floating_point() or output.is_complex()) and any(p.requires_grad for p in module.parameters())
        ):
            self._path |= zip(labels, paths, strict=True)

    def found(self, label: str) -> None:
        """Take note that a backward pass reached an output."""
        self.backward_seen = True
        if label in self._path:
            self._reached.add(self._path[label])

    def missed(self) -> list[str]:
        """List the paths of the layers that no backward pass reached so far; none before a first backward pass."""
        self.look()
        return [path for path in dict.fromkeys(self._path.values()) if path not in self._reached] if self.backward_seen else []

    def look(self) -> None:
        """Look whether a backward pass has written ``.grad`` since the start; a later ``zero_grad`` would hide it."""
        self.backward_seen |= bool(self._grads) and any(
            p.grad is not None and (p.grad is not grad or _version(p.grad) != version)
            for p in self._model.parameters()
            for grad, version in [self._grads.get(id(p), (None, 0))]
        )


def _version(t: Tensor | None) -> int:
    return 0 if t is None else t._version
