"""Log a ``Lens``'s measurements from Lightning, to any logger of the ``Trainer`` (extra ``lightning``).

::

    from gradlens import LensCallback
    Trainer(callbacks=[LensCallback(["encoder", "head"], every=100)], logger=CSVLogger("logs")).fit(model, data)
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gradlens.gradients.alignment import dense, measure
from gradlens.gradients.compare import gradients_of
from gradlens.gradients.lens import Lens
from gradlens.gradients.true_gradient import preserve_buffers_and_rng
from gradlens.runtime.errors import Failsafe, InputError
from gradlens.runtime.extras import install_command

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError:
    try:
        from pytorch_lightning import Callback, LightningModule, Trainer  # type: ignore[assignment]
    except ImportError as error:
        raise ImportError(f"gradlens.LensCallback needs Lightning: `{install_command('lightning')}`") from error

TrueLoss = Callable[[Any, Any], Tensor]  # (the LightningModule, its batch) -> scalar
COMPARED = ("cosine", "norm_ratio")
_CALL = re.compile(r"#(\d+)")  # in the label of a second or later call


def output_numbers(h: Tensor) -> dict[str, float]:
    """Summarise a layer's output [N, *out]: ``rms`` of its entries, share of exact ``zeros``, share of units that are ``dead``.

    An empty output has no summary. A unit is an index of dimension 1: a feature of [N, D], a channel of [N, C, …], but a position of a
    sequence [N, T, D]. A unit is dead if it is exactly zero in the whole batch.
    """
    if not h.numel():
        return {}
    h = dense(h)
    units = h.flatten(2).transpose(1, 2).flatten(0, 1) if h.ndim > 2 else h.reshape(len(h) if h.ndim else 1, -1)
    alone = measure(h, h, ("norm", "zeros"))
    return {
        "rms": alone["norm"] / h.numel() ** 0.5,
        "zeros": alone["zeros"],
        "dead": float((units == 0).all(0).double().mean()),
    }


class Begun(NamedTuple):
    """State before the forward pass of a batch that is measured."""

    step: int  # updates so far
    batch: Any
    versions: list[int]  # version counters of the parameters
    random: list[Tensor]  # states of torch's global generators: the CPU's, then those of the CUDA devices in use


def parameter_versions(model: nn.Module) -> list[int]:
    """Return each parameter's version counter, which grows with every in-place change."""
    return [p._version for p in model.parameters()]


def random_states() -> list[Tensor]:
    """Return the states of torch's global random generators."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [])]  # type: ignore[no-untyped-call]


def set_random_states(states: Sequence[Tensor]) -> None:
    """Restore states from :func:`random_states`."""
    torch.set_rng_state(states[0])
    if states[1:]:
        torch.cuda.set_rng_state_all(list(states[1:]))


def loss_scale(trainer: Trainer) -> float:
    """Return the factor by which Lightning scaled the loss before its backward pass; 1 except in 16-bit precision."""
    scaler = getattr(trainer.strategy.precision_plugin, "scaler", None)
    return float(scaler.get_scale()) if scaler is not None else 1.0


def pairs(used: Mapping[str, Tensor], true: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor | None, Tensor]]:
    """Yield (label, used gradient, true gradient) of each output in both; the used gradient is None if the shapes do not match.

    If a layer was called once per micro-batch, but only once for the whole batch of the true loss, its gradients are concatenated.
    """
    calls, true_calls = _by_output(used), _by_output(true)
    for label, t in true_calls.items():
        g = calls.get(label)
        if g is None:
            continue
        if [v.shape for v in g.values()] == [v.shape for v in t.values()]:
            yield from ((call, g[call], t[call]) for call in g if call in t)
        else:
            whole, true_whole = (_joined(list(v.values())) for v in (g, t))
            fits = whole is not None and true_whole is not None and whole.shape == true_whole.shape
            yield label, whole if fits else None, next(iter(t.values())) if true_whole is None else true_whole


def _joined(calls: Sequence[Tensor]) -> Tensor | None:
    """Concatenate the gradients of several calls; None if their shapes do not match."""
    fit = all(g.ndim for g in calls) and len({g.shape[1:] for g in calls}) == 1
    return torch.cat(list(calls)) if fit else None


def _by_output(gradients: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Group gradients by output: label of the first call -> label of each call in order -> gradient."""
    found: dict[str, dict[str, Tensor]] = {}
    for label in sorted(gradients, key=lambda label: int((_CALL.search(label) or [0, 0])[1])):
        found.setdefault(_CALL.sub("", label, count=1), {})[label] = gradients[label]
    return found


class LensCallback(Callback):
    """Log statistics of layers' outputs, and of the gradients with respect to them, every so many batches.

    ``rms/output/<layer>``, ``zeros/output/<layer>`` and ``dead/output/<layer>`` as in :func:`output_numbers`; ``norm/activation/<layer>``
    and ``zeros/activation/<layer>`` of the loss's gradient at the layer's output (several backward passes of one batch add up); with a
    ``true_loss`` also ``cosine/activation/<layer>`` and ``norm_ratio/activation/<layer>``: the gradient that is trained with, against that
    of the true loss at the same weights, batch and random draws, from a second pass. The names are those of gradlens's own runs.

    Training is bit-identical with and without the callback: weights, buffers, random generators and ``.grad`` do not change. After a
    failure, of a logger or of the callback, one line is printed on stderr and nothing more is logged; a layer that cannot be read or
    measured is named once on stderr and the others are logged. Gradients are in the loss's own units: Lightning's loss scale
    (16-bit precision) and its division by ``accumulate_grad_batches`` are removed. Manual optimisation, with ``manual_backward`` or
    ``loss.backward()``, is read like the automatic one; micro-batches of a batch have their own names (``<layer>``, ``<layer>#1``…) and
    are compared with the true loss together. With several processes the first one's batch is logged.

    Args:
        layers: dotted paths as in ``model.named_modules()``; default: as for ``Lens``.
        every: number of batches from one logged batch to the next; the first batch is logged.
        true_loss: (the LightningModule, its batch) -> the scalar whose gradient is the true one; compared with the sum of the batch's
            backward passes before its first update.

    Raises:
        InputError: ``every`` below 1; at the start of ``fit``: a path that is no module (the known ones are listed).

    """

    def __init__(self, layers: Sequence[str] | None = None, every: int = 50, true_loss: TrueLoss | None = None) -> None:
        if every < 1:
            raise InputError(f"every: must be 1 or more batches, got {every}")
        self.layers, self.every, self.true_loss = layers, every, true_loss
        self.batches = 0  # so far
        self.safe = Failsafe("LensCallback")
        self._lens: Lens | None = None
        self._seen: dict[str, float] = {}
        self._compared = False
        self._factor: float | None = None  # from Lightning's scaled gradients to the loss's own
        self._begun = Begun(0, None, [], [])
        self._warned: set[str] = set()

    # --------------------------------------------------------------------------------------------- Lightning's hooks

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reject unknown layers before training starts."""
        Lens(pl_module, self.layers)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start recording, if this batch is to be logged."""
        if self.batches % self.every == 0:
            self._try(lambda: self._enter(Begun(trainer.global_step, batch, parameter_versions(pl_module), random_states()), pl_module))
        self.batches += 1

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Store the loss scale of Lightning's backward pass before an update changes it."""
        if self._lens is not None and self._factor is None:
            self._try(lambda: setattr(self, "_factor", trainer.accumulate_grad_batches / loss_scale(trainer)))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Compare while the weights are still those of the gradients."""
        if self._lens is not None:
            self._try(lambda: self._compare(trainer, pl_module))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the batch's measurements."""
        if self._lens is not None:
            self._try(lambda: self._compare(trainer, pl_module))
            self._try(lambda: self._log(trainer))
            self._leave()
            self._begun = Begun(0, None, [], [])  # a batch may be large

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the hooks."""
        self._leave()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the hooks."""
        self._leave()

    # ------------------------------------------------------------------------------------------------- what they do

    def _try(self, call: Callable[[], None]) -> None:
        self.safe(call)
        if not self.safe.works:
            self._leave()

    def _enter(self, begun: Begun, pl_module: LightningModule) -> None:
        self._begun, self._seen, self._compared, self._factor = begun, {}, False, None
        self._lens = Lens(pl_module, self.layers, warn=False)
        self._lens.__enter__()

    def _leave(self) -> None:
        lens, self._lens = self._lens, None
        if lens is not None:
            with suppress(Exception):  # a hook may be removed already
                lens.__exit__(None, None, None)

    def _warn_once(self, sentence: str, kind: str | None = None) -> None:
        """Print one line on stderr, once per kind."""
        if (kind or sentence) not in self._warned:
            self._warned.add(kind or sentence)
            print(f"gradlens: LensCallback: {sentence}", file=sys.stderr)

    def _used(self) -> dict[str, Tensor]:
        """Return layer -> gradient of the unscaled loss at its output."""
        assert self._lens is not None
        factor = 1.0 if self._factor is None else self._factor  # 1: the backward pass was not Lightning's
        return {layer: factor * g for layer, g in self._lens.gradients.get("backward", {}).items()}

    def _compare(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._lens is not None
        used = self._used()
        if self.true_loss is None or self._compared or not used:
            return
        self._compared = True
        if self._begun.versions != parameter_versions(pl_module):
            self._warn_once(
                "the weights were changed before the gradients could be compared with true_loss; step self.optimizers()", "changed"
            )
            return
        with self._lens.paused():
            true = self._true(trainer, pl_module, self.true_loss)
        for layer, g, t in pairs({layer: g for layer, g in used.items() if not g.is_nested}, true):
            if g is None:
                self._warn_once(f"{layer} is not compared: true_loss gives an output of another shape, {list(t.shape)}", layer)
            else:
                self._add("activation", layer, measure, g, t, COMPARED)

    def _true(self, trainer: Trainer, pl_module: LightningModule, true_loss: TrueLoss) -> dict[str, Tensor]:
        """Return layer -> gradient of the true loss at its output, from a pass with the random draws of the training pass."""
        parameters = [p for p in pl_module.parameters() if p.requires_grad]
        context = trainer.strategy.precision_plugin.train_step_context()
        with preserve_buffers_and_rng([pl_module]), context, torch.enable_grad(), Lens(pl_module, self.layers, warn=False) as lens:
            set_random_states(self._begun.random)
            loss = true_loss(pl_module, self._begun.batch)
            try:
                gradients_of(loss, parameters)
            except InputError as error:
                self._warn_once(f"not compared with true_loss: {error}")
                return {}
        return lens.gradients.get("backward", {})

    def _log(self, trainer: Trainer) -> None:
        assert self._lens is not None
        for layer, g in self._used().items():
            self._add("activation", layer, measure, g, g, ("norm", "zeros"))
        for layer, h in self._lens.activations.items():
            if h.is_floating_point() or h.is_complex():
                self._add("output", layer, output_numbers, h)
        for logger in trainer.loggers:
            logger.log_metrics(dict(self._seen), step=self._begun.step)
        for kind, sentence in self._lens._reader.complaints():
            self._warn_once(sentence, kind)

    def _add(self, kind: str, layer: str, numbers: Callable[..., Mapping[str, float]], *given: Any) -> None:
        """Add a layer's numbers to the log; a layer without any (a jagged tensor) is named on stderr."""
        try:
            found = numbers(*given)
        except Exception as error:  # noqa: BLE001 - a user's layer may return anything
            self._warn_once(f"{layer} is not logged: {' '.join(f'{type(error).__name__}: {error}'.split())}", f"odd {layer}")
        else:
            self._seen |= {f"{name}/{kind}/{layer}": value for name, value in found.items()}
