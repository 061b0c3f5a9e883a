"""Store the gradients of one step of any training loop in a file, to be compared with those of another."""

from __future__ import annotations

import re
import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from gradlens.gradients.capture_file import write_capture
from gradlens.gradients.captured_step import CapturedStep, Wanted
from gradlens.gradients.layer_choice import default_layers, must_be_module
from gradlens.runtime.errors import InputError, kind_of

_OPEN: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # models that are captured now


def capture(
    model: nn.Module,
    path: str | Path,
    *,
    every: int | None = None,
    sketch: int | None = None,
    seed: int = 0,
    scaler: Any = None,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    batch: bool = False,
) -> Capture:
    """Store a step's gradients and activations of every layer in a file, for ``gradlens diff``.

    ::

        with gradlens.capture(model, "a.safetensors"):
            loss(model(x), y).backward()

    Stored are each layer's output and the gradient with respect to it, each parameter's ``.grad`` as the last backward pass leaves it
    (before clipping), fingerprints of weights and inputs, the order of the calls, types, versions, and what was not seen and why. Several
    backward passes are accumulation: outputs and the gradients at them are concatenated along the first dimension in the order of the
    calls, so that the step compares with one of a large batch. What follows the optimizer's first step is not part of it. Of
    ``DistributedDataParallel`` and FSDP2, which take the mean over ranks, gradients at outputs are divided by their number.

    Args:
        model: any module; inside ``DistributedDataParallel`` and ``torch.compile`` the module in it.
        path: the file, replaced if it is there; of several ranks each writes its own, ``a.rank0.safetensors``.
        every: store steps 0, N, 2N, … in one file each, ``a.step0.safetensors``; a step ends when the optimizer that holds the model's
            parameters makes one, or with ``Capture.step()``. Default: one step, which ends with the context.
        sketch: keep count sketches of this many numbers instead of tensors; 4096 gives cosines to 0.03 (1 − c²) at 95 %.
        seed: of the sketches' hash.
        scaler: a ``GradScaler``, or the number that the loss is multiplied by; stored gradients are divided by it.
        include: regular expressions: only layers and parameters in whose names one is found; default: every layer as ``Lens`` has them.
        exclude: regular expressions of layers and parameters to leave out.
        batch: store the model's inputs too.

    Returns:
        a context manager; ``files`` lists what it wrote.

    Raises:
        InputError: no module, a value that cannot be used, or a pattern that no layer or parameter has.

    """
    must_be_module(model)
    return Capture(model, Path(path), every, Choice(include, exclude), _Kept(sketch, seed, batch), scaler)


class Choice:
    """Which layers and parameters are read.

    Args:
        include: regular expressions, one of which is found in the name; none: any name.
        exclude: regular expressions, none of which is found in it.

    Raises:
        InputError: one is no regular expression.

    """

    def __init__(self, include: str | Sequence[str], exclude: str | Sequence[str]) -> None:
        self._include, self._exclude = _patterns("include", include), _patterns("exclude", exclude)

    def layers(self, model: nn.Module) -> list[str]:
        """Return paths of layers: the default ones, or those of all modules that are included by name."""
        known = [name for name, _ in model.named_modules() if name] if self._include else list(default_layers(model))
        return self._chosen(known)

    def parameters(self, model: nn.Module) -> list[str]:
        """Return names of parameters."""
        return self._chosen([name for name, _ in model.named_parameters()])

    def must_fit(self, model: nn.Module) -> None:
        """Reject a pattern that is found in no name.

        Raises:
            InputError: its text.

        """
        names = [name for name, _ in (*model.named_modules(), *model.named_parameters())]
        for pattern in (*self._include, *self._exclude):
            if not any(pattern.search(name) for name in names):
                raise InputError(f"no layer or parameter of the model has {pattern.pattern!r} in its name; see model.named_modules()")

    def _chosen(self, names: Sequence[str]) -> list[str]:
        def wanted(name: str) -> bool:
            return (not self._include or any(p.search(name) for p in self._include)) and not any(p.search(name) for p in self._exclude)

        return [name for name in names if wanted(name)]


def _patterns(name: str, given: str | Sequence[str]) -> list[re.Pattern[str]]:
    found = []
    for text in [given] if isinstance(given, str) else given:
        try:
            found.append(re.compile(text))
        except (re.error, TypeError) as error:
            raise InputError(f"{name}: {text!r} is no regular expression ({error})") from error
    return found


class _Kept:
    """How tensors are kept: checked values of the arguments of the same names."""

    def __init__(self, sketch: int | None, seed: int, batch: bool) -> None:
        if sketch is not None and (not isinstance(sketch, int) or isinstance(sketch, bool) or not 16 <= sketch <= 1 << 24):
            raise InputError(f"sketch: must be a number of buckets from 16 to {1 << 24:,}, got {sketch!r}")
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise InputError(f"seed: must be a whole number of at least 0, got {seed!r}")
        self.sketch, self.seed, self.batch = sketch, seed, bool(batch)


class Capture(AbstractContextManager["Capture"]):
    """The context of ``gradlens.capture``.

    Args:
        model: any module.
        path: the file.
        every: number of steps from one that is stored to the next; None: one step.
        choice: which layers and parameters.
        kept: how tensors are kept.
        scaler: what the loss is multiplied by.

    Attributes:
        files: what was written so far.

    Raises:
        InputError: a value that cannot be used.

    """

    def __init__(self, model: nn.Module, path: Path, every: int | None, choice: Choice, kept: _Kept, scaler: Any) -> None:
        if every is not None and (not isinstance(every, int) or isinstance(every, bool) or every < 1):
            raise InputError(f"every: must be a number of steps of at least 1, got {every!r}")
        if not path.absolute().parent.is_dir():
            raise InputError(f"cannot write {path}: there is no folder {path.parent}")
        if path.is_dir():
            raise InputError(f"{path} is a folder: name the file of the capture")
        self._model, self._path, self._every, self._choice, self._kept = _unwrapped(model), path, every, choice, kept
        self._share = (_ranks()[0], _averaging_ranks(model))
        self._scale = _scale_of(scaler)
        choice.must_fit(self._model)
        self._number = 0  # of the step
        self._step: CapturedStep | None = None
        self._optimizer: weakref.ref[Any] | None = None  # the one whose steps are counted
        self._by_hand = False
        self._hook: RemovableHandle | None = None
        self.files: list[Path] = []

    def __repr__(self) -> str:
        return f"<capture of {type(self._model).__name__}: {len(self.files)} file{'s' * (len(self.files) != 1)} written>"

    def __enter__(self) -> Capture:
        if self._model in _OPEN:
            raise InputError("this model is captured already: end the first capture before a second one begins")
        self._begin()
        _OPEN.add(self._model)
        self._hook = register_optimizer_step_pre_hook(self._optimizer_steps)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _OPEN.discard(self._model)
        if self._hook is not None:
            self._hook.remove()
        step, self._step = self._step, None
        if step is None:
            return
        step.stop()
        if error is None and (self._every is None or step.has_backward):
            self._write(step)

    def step(self) -> None:
        """End a step, in a loop without a torch optimizer.

        Raises:
            InputError: an optimizer's steps are counted already.

        """
        if self._optimizer is not None:
            raise InputError("the optimizer's steps are counted already; leave out the calls of step()")
        self._by_hand = True
        self._end_step()

    def _optimizer_steps(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if self._optimizer is None:
            mine = {id(p) for p in self._model.parameters()}
            if self._by_hand or not any(id(p) in mine for group in optimizer.param_groups for p in group["params"]):
                return
            self._optimizer = weakref.ref(optimizer)
        if self._optimizer() is optimizer:
            self._end_step()

    def _end_step(self) -> None:
        if self._every is None:
            if self._step is not None and self._step.has_backward:
                self._step.stop()  # it is written when the context ends without an error
            return
        step, self._step = self._step, None
        if step is not None:
            step.stop()
            self._write(step)
        self._number += 1
        if self._number % self._every == 0:
            self._begin()

    def _begin(self) -> None:
        wanted = Wanted(
            self._choice.layers(self._model),
            self._choice.parameters(self._model),
            self._kept.sketch,
            self._kept.seed,
            self._kept.batch,
            self._scale,
            self._share,
        )
        self._step = CapturedStep(self._model, wanted)
        self._step.start()

    def _write(self, step: CapturedStep) -> None:
        tensors, header = step.finished(self._number)
        path, ranks = self._path, _ranks()
        if self._every is not None:
            path = path.with_name(f"{path.stem}.step{self._number}{path.suffix}")
        if ranks[1] > 1:
            path = path.with_name(f"{path.stem}.rank{ranks[0]}{path.suffix}")
        write_capture(path, tensors, {**header, "rank": ranks[0], "ranks": ranks[1]})
        self.files.append(path)


def _ranks() -> tuple[int, int]:
    """Return this process's rank and the number of ranks."""
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if there else (0, 1)


def _unwrapped(model: nn.Module) -> nn.Module:
    """Return the module in ``DistributedDataParallel``, ``DataParallel`` and ``torch.compile``, whose names are without a prefix."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def _averaging_ranks(model: nn.Module) -> int:
    """Return the number of ranks that have a part of the batch each and take the mean of their gradients."""
    while isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
        model = inner
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return int(model.process_group.size())
    return _ranks()[1] if any(hasattr(module, "set_requires_gradient_sync") for module in model.modules()) else 1  # FSDP2


def _scale_of(scaler: Any) -> Any:
    """Return a function of what the loss is multiplied by.

    Raises:
        InputError: no GradScaler and no positive number.

    """
    if scaler is None:
        return lambda: 1.0
    if hasattr(scaler, "get_scale"):
        return lambda: float(scaler.get_scale())
    if isinstance(scaler, int | float) and not isinstance(scaler, bool) and scaler > 0:
        return lambda: float(scaler)
    raise InputError(f"scaler: must be a GradScaler or the positive number that the loss is multiplied by, got {kind_of(scaler)}")
