"""A Lightning callback: what a ``Lens`` reads in a training, in whatever logger the ``Trainer`` has (extra ``lightning``).

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
_CALL = re.compile(r"#(\d+)")  # in a label: not the first call


def output_numbers(h: Tensor) -> dict[str, float]:
    """Of a layer's output [N, *out]: ``rms`` of its entries, share of exact ``zeros``, share of units that are ``dead``.

    An empty one has none of them. A unit is an index of dimension 1: a feature of [N, D], a channel of [N, C, …], but a place of a
    sequence [N, T, D]. Dead is one that is exactly zero everywhere in the batch.
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
    """A batch to be looked at, before its forward pass."""

    step: int  # updates made
    batch: Any
    versions: list[int]  # of the parameters
    random: list[Tensor]  # states of torch's global streams: the CPU's, then those of the CUDA devices in use


def parameter_versions(model: nn.Module) -> list[int]:
    """A number for each parameter that grows when it is changed."""
    return [p._version for p in model.parameters()]


def random_states() -> list[Tensor]:
    """The states of torch's global random streams."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [])]  # type: ignore[no-untyped-call]


def set_random_states(states: Sequence[Tensor]) -> None:
    """Put :func:`random_states` back."""
    torch.set_rng_state(states[0])
    if states[1:]:
        torch.cuda.set_rng_state_all(list(states[1:]))


def loss_scale(trainer: Trainer) -> float:
    """What Lightning multiplied the loss with before going backward; 1 but for 16-bit precision."""
    scaler = getattr(trainer.strategy.precision_plugin, "scaler", None)
    return float(scaler.get_scale()) if scaler is not None else 1.0


def pairs(used: Mapping[str, Tensor], true: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor | None, Tensor]]:
    """(label, used gradient, true gradient) at each output that both know; None where they do not fit.

    A layer that was called for one micro-batch after another, but once for the whole batch of the true loss, has the calls' gradients
    put behind one another.
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
    """The gradients of several calls behind one another; None where they do not fit."""
    fit = all(g.ndim for g in calls) and len({g.shape[1:] for g in calls}) == 1
    return torch.cat(list(calls)) if fit else None


def _by_output(gradients: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Label of the first call -> label of each call in order -> gradient."""
    found: dict[str, dict[str, Tensor]] = {}
    for label in sorted(gradients, key=lambda label: int((_CALL.search(label) or [0, 0])[1])):
        found.setdefault(_CALL.sub("", label, count=1), {})[label] = gradients[label]
    return found


class LensCallback(Callback):
    """Log, every so many batches, what layers give and the gradients at their outputs.

    ``rms/output/<layer>``, ``zeros/output/<layer>`` and ``dead/output/<layer>`` as in :func:`output_numbers`; ``norm/activation/<layer>``
    and ``zeros/activation/<layer>`` of the loss's gradient at the layer's output (several backwards of one batch add up); with a
    ``true_loss`` also ``cosine/activation/<layer>`` and ``norm_ratio/activation/<layer>``: the gradient that is trained with, against that
    of the true loss at the same weights, batch and random draws, by a second pass. The names are those of gradlens's own runs.

    The training is bit for bit the same with and without it: weights, buffers, random streams and ``.grad`` are left as they are. A
    failure, of a logger or in here, is one line on stderr, after which nothing is logged; a line, once, is what was asked for and could
    not be read or measured, while the others go on. Gradients are told in the loss's own units: Lightning's loss scale (16-bit precision)
    and its division by ``accumulate_grad_batches`` are taken out. Manual optimisation, with ``manual_backward`` or ``loss.backward()``, is
    read like the automatic one; a batch's micro-batches have names of their own (``<layer>``, ``<layer>#1``…) and are compared with the
    true loss together. With several processes the first one's batch is logged.

    Args:
        layers: dotted paths as in ``model.named_modules()``; default: as for ``Lens``.
        every: batches between two that are looked at; the first one is.
        true_loss: (the LightningModule, its batch) -> the scalar whose gradient is the true one; compared with what the batch's backwards
            before its first update have given.

    Raises:
        InputError: ``every`` below 1; when fitting begins: a path that is no module (the known ones are listed).

    """

    def __init__(self, layers: Sequence[str] | None = None, every: int = 50, true_loss: TrueLoss | None = None) -> None:
        if every < 1:
            raise InputError(f"every: must be 1 or more batches, got {every}")
        self.layers, self.every, self.true_loss = layers, every, true_loss
        self.batches = 0  # seen so far
        self.safe = Failsafe("LensCallback")
        self._lens: Lens | None = None
        self._seen: dict[str, float] = {}
        self._compared = False
        self._factor: float | None = None  # from the gradients that Lightning made to the loss's own
        self._begun = Begun(0, None, [], [])
        self._told: set[str] = set()

    # --------------------------------------------------------------------------------------------- Lightning's hooks

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Unknown layers are found before anything is trained."""
        Lens(pl_module, self.layers)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Look at this batch, if it is one to look at."""
        if self.batches % self.every == 0:
            self._try(lambda: self._enter(Begun(trainer.global_step, batch, parameter_versions(pl_module), random_states()), pl_module))
        self.batches += 1

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the scale of a loss that Lightning went backward from, before an update changes it."""
        if self._lens is not None and self._factor is None:
            self._try(lambda: setattr(self, "_factor", trainer.accumulate_grad_batches / loss_scale(trainer)))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Compare while the weights are those that the gradients were made with."""
        if self._lens is not None:
            self._try(lambda: self._compare(trainer, pl_module))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log what was seen."""
        if self._lens is not None:
            self._try(lambda: self._compare(trainer, pl_module))
            self._try(lambda: self._log(trainer))
            self._leave()
            self._begun = Begun(0, None, [], [])  # a batch may be large

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Take the hooks away."""
        self._leave()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the hooks away."""
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
            with suppress(Exception):  # removing a hook that is gone
                lens.__exit__(None, None, None)

    def _tell(self, sentence: str, kind: str | None = None) -> None:
        """One line on stderr, once a kind."""
        if (kind or sentence) not in self._told:
            self._told.add(kind or sentence)
            print(f"gradlens: LensCallback: {sentence}", file=sys.stderr)

    def _used(self) -> dict[str, Tensor]:
        """layer -> gradient at its output, of the loss itself."""
        assert self._lens is not None
        factor = 1.0 if self._factor is None else self._factor  # 1: the loss went backward without Lightning
        return {layer: factor * g for layer, g in self._lens.gradients.get("backward", {}).items()}

    def _compare(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._lens is not None
        used = self._used()
        if self.true_loss is None or self._compared or not used:
            return
        self._compared = True
        if self._begun.versions != parameter_versions(pl_module):
            self._tell("the weights were changed before the gradients could be compared with true_loss; step self.optimizers()", "changed")
            return
        with self._lens.paused():
            true = self._true(trainer, pl_module, self.true_loss)
        for layer, g, t in pairs({layer: g for layer, g in used.items() if not g.is_nested}, true):
            if g is None:
                self._tell(f"{layer} is not compared: true_loss gives an output of another shape, {list(t.shape)}", layer)
            else:
                self._add("activation", layer, measure, g, t, COMPARED)

    def _true(self, trainer: Trainer, pl_module: LightningModule, true_loss: TrueLoss) -> dict[str, Tensor]:
        """layer -> the true loss's gradient at its output, by a pass that draws what the training's pass drew."""
        parameters = [p for p in pl_module.parameters() if p.requires_grad]
        context = trainer.strategy.precision_plugin.train_step_context()
        with preserve_buffers_and_rng([pl_module]), context, torch.enable_grad(), Lens(pl_module, self.layers, warn=False) as lens:
            set_random_states(self._begun.random)
            loss = true_loss(pl_module, self._begun.batch)
            try:
                gradients_of(loss, parameters)
            except InputError as error:
                self._tell(f"not compared with true_loss: {error}")
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
        for sentence in self._lens.unread():
            self._tell(sentence, "never called" if sentence.startswith("never called") else None)

    def _add(self, kind: str, layer: str, numbers: Callable[..., Mapping[str, float]], *given: Any) -> None:
        """Have a layer's numbers logged; a layer that has none (a jagged tensor) is named, the others go on."""
        try:
            found = numbers(*given)
        except Exception as error:  # noqa: BLE001 - whatever a user's layer gives
            self._tell(f"{layer} is not logged: {' '.join(f'{type(error).__name__}: {error}'.split())}", f"odd {layer}")
        else:
            self._seen |= {f"{name}/{kind}/{layer}": value for name, value in found.items()}
