"""A context in which layers' outputs and the gradients at them can be read, in any ``nn.Module`` and any training loop."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType

import torch
from torch import Tensor, nn

from gradlens.gradients.alignment import RECORDED, measure
from gradlens.gradients.layer_reader import LayerReader, named
from gradlens.gradients.measurements import Measurements
from gradlens.gradients.rows import Measurement
from gradlens.runtime.errors import InputError, kind_of, unknown


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

    The gradient is the one with respect to the layer's own output, whatever in-place operation follows the layer and whoever else
    uses what it handed on. Tensors in tuples, lists, dicts, dataclasses and other objects have names of their own: ``lstm[0]``,
    ``encoder[hidden]``. A module called several times gives ``name``, ``name#1``, ``name#2``… until :meth:`clear`; what gradient
    checkpointing computes again is not counted. The model, copies of it and files of it are as they would be without. When the context
    ends, a warning lists the layers that were never called, others name what could not be read. What was read stays; what is done under
    :meth:`paused` is not read.

    Args:
        model: any module.
        layers: dotted paths as in ``model.named_modules()`` (a shared module's second name too); default: every module without children
            or with parameters of its own, attention as one; of a model without children the model itself, ``""``.
        warn: False: only :meth:`unread` says what was asked for and not read, or left out of a comparison.

    Raises:
        InputError: no module, or a path that is no module of the model (the known ones are listed).

    """

    def __init__(self, model: nn.Module, layers: Sequence[str] | None = None, warn: bool = True) -> None:
        self._warn = warn
        self._reader = LayerReader(model, layers, self._keep_output, self._keep_gradient)
        self._tag = "backward"
        self._tagged: set[str] = set()  # backwards that were named, whether they reached a layer or not
        self._left_out: list[str] = []  # of comparisons, a sentence each
        self.activations: dict[str, Tensor] = {}  # layer -> its output [N, *out], without graph
        self.gradients: dict[str, dict[str, Tensor]] = {}  # backward -> layer -> gradient at its output [N, *out]

    def __repr__(self) -> str:
        read, asked = len(self._reader.called), len(self._reader.layers)
        passes = ", ".join(self.gradients) or "none"
        return f"<Lens: {read} of {asked} layers read; backward passes: {passes}; .activations, .gradients, .compare()>"

    def __enter__(self) -> Lens:
        self._reader.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._reader.stop()
        if error is None and self._warn:
            for sentence in self._reader.complaints():
                warnings.warn(f"Lens: {sentence}", stacklevel=2)

    def paused(self) -> AbstractContextManager[None]:
        """Forward and backward passes made inside are not read."""
        return self._reader.paused()

    def unread(self) -> list[str]:
        """What was asked for and not read so far, or left out of a comparison, a sentence each."""
        return [*self._reader.complaints(), *self._left_out]

    @contextmanager
    def backward(self, name: str) -> Iterator[None]:
        """Tag the gradients read inside with the name of their backward; untagged ones are called "backward".

        A second backward under the same name adds to the first, as ``.grad`` would.
        """
        before, self._tag = self._tag, name
        self._tagged.add(name)
        try:
            yield
        finally:
            self._tag = before

    def clear(self) -> None:
        """Forget what was read, for the next step."""
        self._reader.forget()
        self._tagged.clear()
        self.activations.clear()
        self.gradients.clear()

    def compare(self, used: str, true: str, quantities: tuple[str, ...] = RECORDED, step: int = 0) -> Measurements:
        """Rows that compare two backwards at every layer both reached (kind "activation").

        A layer that only one of them reached has no row; a warning and :meth:`unread` name it.

        Args:
            used: name of the backward whose gradient was used.
            true: name of the backward with the true gradient.
            quantities: names from ``alignment.QUANTITIES``.
            step: what to write in the rows' step.

        Raises:
            InputError: a backward that was not seen, or reached no layer.

        """
        for name in (used, true):
            self._must_be_seen(name)
        g, t = self.gradients[used], self.gradients[true]
        for name, here, there in ((used, g, t), (true, t, g)):
            if alone := [layer for layer in here if layer not in there]:
                self._leave_out(f"not compared: {', '.join(map(named, alone))}, which of {used!r} and {true!r} only {name!r} reached")
        return Measurements(
            Measurement(step, layer, "activation", quantity, value, true)
            for layer in self.activations  # bottom first
            if layer in t and layer in g
            for quantity, value in measure(g[layer], t[layer], quantities).items()
        )

    def _must_be_seen(self, name: object) -> None:
        if not isinstance(name, str):
            raise InputError(f"lens.compare() takes the names of two backward passes, got {kind_of(name)}")
        if name in self.gradients:
            return
        if name in self._tagged:
            raise InputError(
                f"the backward pass {name!r} reached no layer; make its loss from the model's outputs: lens.activations have no graph"
            )
        raise unknown("backward", name, self.gradients)

    def _leave_out(self, sentence: str) -> None:
        if sentence not in self._left_out:
            self._left_out.append(sentence)
            if self._warn:
                warnings.warn(f"Lens: {sentence}", stacklevel=3)

    def _keep_output(self, label: str, output: Tensor) -> None:
        self.activations[label] = output.clone()  # an in-place operation may follow

    def _keep_gradient(self, label: str, grad: Tensor) -> None:
        seen = self.gradients.setdefault(self._tag, {})
        seen[label] = grad + seen[label] if label in seen else grad.clone(memory_format=torch.preserve_format)
