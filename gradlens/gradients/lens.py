"""Hooks that read activations and the gradients at them inside any ``nn.Module`` and any training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradlens.gradients.alignment import RECORDED, measure
from gradlens.gradients.rows import Measurement
from gradlens.runtime.errors import unknown


class Lens:
    """A context in which every named layer's outputs, and the gradients with respect to them, can be read.

    ::

        with gradlens.Lens(model, ["block1", "block2"]) as lens:
            out = model(x)
            with lens.backward("local"):
                local_loss(out).backward(retain_graph=True)
            with lens.backward("true"):
                loss(out, y).backward()
        rows = lens.compare("local", "true")

    The gradient is the one with respect to the layer's own output, whatever in-place operation follows the layer: what
    goes on is a copy, so an in-place ReLU behind it overwrites neither the stored activation nor the place the gradient
    is read at. A module called several times gives ``name``, ``name#1``, ``name#2``… until :meth:`clear`. The hooks are
    gone when the context ends, and so is the copying; what was read stays.

    Args:
        model: any module.
        layers: dotted paths as in ``model.named_modules()``; default: every module without children.

    Raises:
        InputError: a path that is no module of the model (the known ones are listed).

    """

    def __init__(self, model: nn.Module, layers: Sequence[str] | None = None) -> None:
        modules = dict(model.named_modules())
        leaves = [name for name, m in modules.items() if name and not any(True for _ in m.children())]
        for name in layers or ():
            if name not in modules:
                raise unknown("layer", name, [n for n in modules if n])
        self._modules = {name: modules[name] for name in (leaves if layers is None else layers)}
        self._handles: list[RemovableHandle] = []
        self._calls: dict[str, int] = {}
        self._tag = "backward"
        self.activations: dict[str, Tensor] = {}  # layer -> its output [N, *out], without graph
        self.gradients: dict[str, dict[str, Tensor]] = {}  # backward -> layer -> gradient at its output [N, *out]

    def __enter__(self) -> Lens:
        self._handles = [m.register_forward_hook(self._forward_hook(name)) for name, m in self._modules.items()]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @contextmanager
    def backward(self, name: str) -> Iterator[None]:
        """Tag the gradients read inside with the name of their backward; untagged ones are called "backward".

        A second backward under the same name adds to the first, as ``.grad`` would.
        """
        before, self._tag = self._tag, name
        try:
            yield
        finally:
            self._tag = before

    def clear(self) -> None:
        """Forget what was read, for the next step."""
        self._calls.clear()
        self.activations.clear()
        self.gradients.clear()

    def compare(self, used: str, true: str, quantities: tuple[str, ...] = RECORDED, step: int = 0) -> list[Measurement]:
        """Rows that compare two backwards at every layer both reached (kind "activation").

        Args:
            used: name of the backward whose gradient was used.
            true: name of the backward with the true gradient.
            quantities: names from ``alignment.QUANTITIES``.
            step: what to write in the rows' step.

        Raises:
            InputError: a backward that was not seen.

        """
        for name in (used, true):
            if name not in self.gradients:
                raise unknown("backward", name, self.gradients)
        g, t = self.gradients[used], self.gradients[true]
        return [
            Measurement(step, layer, "activation", quantity, value, true)
            for layer in self.activations  # bottom first
            if layer in t and layer in g
            for quantity, value in measure(g[layer], t[layer], quantities).items()
        ]

    def _forward_hook(self, name: str) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            call = self._calls.get(name, 0)
            self._calls[name] = call + 1
            label = f"{name}#{call}" if call else name
            return self._read_all(label, output)

        return hook

    def _read_all(self, label: str, output: Any) -> Any:
        """Every tensor in an output of tuples, lists and dicts, each under its place: ``lstm[0]``, ``encoder[hidden]``."""
        if isinstance(output, Tensor):
            return self._read(label, output)
        if isinstance(output, Mapping):
            return type(output)({key: self._read_all(f"{label}[{key}]", o) for key, o in output.items()})  # type: ignore[call-arg]
        if isinstance(output, list | tuple):
            parts = [self._read_all(f"{label}[{i}]", o) for i, o in enumerate(output)]
            return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
        return output

    def _read(self, label: str, output: Tensor) -> Tensor:
        """Store an output, ask for its gradient, and hand on a copy."""
        self.activations[label] = output.detach()
        if output.requires_grad:
            output.register_hook(lambda grad: self._store(label, grad))  # type: ignore[no-untyped-call]
        return output.clone()

    def _store(self, label: str, grad: Tensor) -> None:
        if not self._handles:  # the context has ended: a graph made inside is used outside
            return
        seen = self.gradients.setdefault(self._tag, {})
        seen[label] = grad.detach() + seen[label] if label in seen else grad.detach().clone(memory_format=torch.preserve_format)
