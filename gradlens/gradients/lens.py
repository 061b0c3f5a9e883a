"""Read layers' outputs and the gradients with respect to them, in any ``nn.Module`` and any training loop."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType

import torch
from torch import Tensor, nn

from gradlens.gradients.alignment import RECORDED, measure
from gradlens.gradients.layer_names import named
from gradlens.gradients.layer_reader import LayerReader
from gradlens.gradients.measurements import Measurements
from gradlens.gradients.rows import Measurement
from gradlens.runtime.errors import InputError, kind_of, unknown


class Lens:
    """Record the outputs of named layers and the gradients with respect to them, inside a ``with`` block.

    ::

        with gradlens.Lens(model, ["block1", "block2"]) as lens:
            out = model(x)
            with lens.backward("local"):
                local_loss(out).backward(retain_graph=True)
            with lens.backward("true"):
                loss(out, y).backward()
        rows = lens.compare("local", "true")

    The gradient is that with respect to the layer's own output, regardless of in-place operations after the layer and of other
    modules that use a tensor which the layer only passes through. Tensors in tuples, lists, dicts, dataclasses and other objects get
    their own names: ``lstm[0]``, ``encoder[hidden]``. A module called several times is recorded as ``name``, ``name#1``, ``name#2``…
    until :meth:`clear`; recomputation by gradient checkpointing is not counted. The model, its copies and saved files are unaffected.
    When the context ends, a warning lists the layers that were never called, another those that were called in training mode and whose
    output the backward passes did not reach (it was detached, or is not part of the loss), further ones name outputs that could not be
    read. What was recorded stays; passes under :meth:`paused` are not recorded.

    Args:
        model: any module.
        layers: dotted paths as in ``model.named_modules()`` (a shared module's second name too); default: every module without children
            or with parameters of its own, attention as one; for a model without children the model itself, ``""``.
        warn: False: no warnings; :meth:`unread` lists the requested layers that were not read or left out of a comparison.

    Attributes:
        activations: layer -> its output [N, *out], without graph.
        gradients: name of a backward pass -> layer -> gradient with respect to its output [N, *out].

    Raises:
        InputError: no module, or a path that is no module of the model (the known ones are listed).

    """

    def __init__(self, model: nn.Module, layers: Sequence[str] | None = None, warn: bool = True) -> None:
        self._warn = warn
        self._reader = LayerReader(model, layers, self._keep_output, self._keep_gradient)
        self._tag = "backward"
        self._tagged: set[str] = set()  # names of backward passes, whether they reached a layer or not
        self._left_out: list[str] = []  # layers left out of comparisons, a sentence each
        self.activations: dict[str, Tensor] = {}  # layer -> its output [N, *out], without graph
        self.gradients: dict[str, dict[str, Tensor]] = {}  # backward -> layer -> gradient at its output [N, *out]

    def __repr__(self) -> str:
        read, requested = len(self._reader.called), len(self._reader.layers)
        passes = ", ".join(self.gradients) or "none"
        return f"<Lens: {read} of {requested} layers read; backward passes: {passes}; .activations, .gradients, .compare()>"

    def __enter__(self) -> Lens:
        self._reader.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._reader.stop()
        if error is None and self._warn:
            for kind_of_it, sentence in self._reader.complaints():
                warnings.warn(f"Lens: {sentence}{', or warn=False' if kind_of_it == 'missed' else ''}", stacklevel=2)

    def paused(self) -> AbstractContextManager[None]:
        """Stop recording inside this context.

        Returns:
            a context manager.

        """
        return self._reader.paused()

    def unread(self) -> list[str]:
        """List requested layers that were not read, reached by no backward pass so far, or left out of a comparison, a sentence each.

        Returns:
            the sentences; empty if nothing is missing.

        """
        return [*(sentence for _, sentence in self._reader.complaints()), *self._left_out]

    @contextmanager
    def backward(self, name: str) -> Iterator[None]:
        """Record the gradients read inside under the name of their backward pass; without this the name is "backward".

        A second backward pass under the same name adds to the first, as ``.grad`` would.

        Args:
            name: key of ``gradients``.

        Yields:
            nothing; a context manager.

        """
        before, self._tag = self._tag, name
        self._tagged.add(name)
        try:
            yield
        finally:
            self._tag = before

    def clear(self) -> None:
        """Delete what was recorded, before the next step."""
        self._reader.forget()
        self._tagged.clear()
        self.activations.clear()
        self.gradients.clear()

    def compare(self, used: str, true: str, quantities: tuple[str, ...] = RECORDED, step: int = 0) -> Measurements:
        """Compare two backward passes at every layer that both reached (rows of kind "activation").

        A layer that only one of them reached has no row; a warning and :meth:`unread` name it.

        Args:
            used: name of the backward pass whose gradient was used.
            true: name of the backward pass with the true gradient.
            quantities: names from ``alignment.QUANTITIES``.
            step: value for the rows' ``step``.

        Returns:
            one row per layer and quantity.

        Raises:
            InputError: a backward pass that was not recorded, or reached no layer.

        """
        for name in (used, true):
            self._must_be_seen(name)
        g, t = self.gradients[used], self.gradients[true]
        for name, here, there in ((used, g, t), (true, t, g)):
            if alone := [layer for layer in here if layer not in there]:
                self._leave_out(f"not compared: {', '.join(map(named, alone))}, which of {used!r} and {true!r} only {name!r} reached")
        return Measurements(
            Measurement(step, layer, "activation", quantity, value, true)
            for layer in self.activations  # in the order of the calls
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
                f"the backward pass {name!r} reached no layer; compute its loss from the model's outputs: lens.activations have no graph"
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
