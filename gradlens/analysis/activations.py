"""Activations of a frozen network's blocks on some images: one pass over them, pooled to one number of features at every depth.

Everything that looks at what was learned (probes, CKA, class separation) reads activations here, from a run directory at any of its
saved steps or from any ``nn.Module``. Nothing is changed by it: eval mode, no gradients, weights, buffers and modes as they were.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from gradlens.analysis.layer_outputs import LayerOutputs
from gradlens.data.split import Data
from gradlens.gradients.true_gradient import preserve_buffers_and_rng
from gradlens.models.feature_pooling import BUDGET, pooled
from gradlens.runtime.errors import InputError, unknown
from gradlens.runtime.eval_mode import eval_mode
from gradlens.runtime.progress import Progress, no_progress
from gradlens.tasks.registry import TASKS
from gradlens.training.build import build_model_and_method, load_model_and_method
from gradlens.training.context import RunContext
from gradlens.training.run_directory import Run

FORWARD_BATCH = 500  # images in a forward pass


@dataclass(frozen=True)
class FrozenModel:
    """A network as it was saved, and how its blocks' outputs are read."""

    names: list[str]  # the blocks', bottom first
    read: Callable[[Tensor], Iterable[Tensor]]  # [N, *in] -> each block's output [N, *out], bottom first
    modules: Sequence[nn.Module]  # their modes and buffers must not change
    to_input: Callable[[Tensor], Tensor]  # images [N, C, H, W] uint8 -> what the network reads
    step: int = 0  # updates it had been trained for
    trained: bool = True  # False: the untrained control

    def block(self, name: str) -> int:
        """Return a block's place.

        Raises:
            InputError: no block of that name; the message lists the known ones.

        """
        if name not in self.names:
            raise unknown("block", name, self.names)
        return self.names.index(name)


def last_step(run: Run) -> int:
    """Count the updates of the weights in a run's checkpoint; only an unfinished run must read it for that."""
    return int(run.summary["updates"] if "updates" in run.summary else run.checkpoint()["step"])


def _saved(run: Run) -> list[tuple[int, Path]]:
    """Return (step, file) of each set of weights that a run kept, in order; the checkpoint last."""
    last = last_step(run)
    kept = [(int(path.stem.split("-")[1]), path) for path in run.snapshots()]
    return [*((step, path) for step, path in kept if step != last), (last, run.path / "checkpoint.pt")]


def checkpoint_digest(run: Run) -> str:
    """Return 16 hex digits of the bytes of a run's checkpoint file; they show whether a stored result is of the present weights.

    Raises:
        InputError: no checkpoint, or one that cannot be read.

    """
    run.checkpoint()
    return hashlib.sha256((run.path / "checkpoint.pt").read_bytes()).hexdigest()[:16]


def load_snapshots(run: Run, context: RunContext, which: str = "last") -> Iterator[FrozenModel]:
    """Yield a run's network as it was at the end (``last``), at every saved step (``all``), or before training (``untrained``).

    Raises:
        InputError: a run without checkpoint, or weights that do not fit its config.

    """
    data = run.data(context=context)
    if which == "untrained":
        yield _frozen(run, data, context, 0, None)
        return
    saved = _saved(run)
    for step, file in saved if which == "all" else saved[-1:]:
        yield _frozen(run, data, context, step, file)


def _frozen(run: Run, data: Data, context: RunContext, step: int, file: Path | None) -> FrozenModel:
    """Load the network of a file of weights; None: as it was before training."""
    if file is not None:
        model, method = load_model_and_method(run, data.shape, len(data.classes), context.device, file)
    else:
        config = run.config.replace(init_from=None, keep_head=0, compile=False)
        model, method = build_model_and_method(config, data.shape, len(data.classes), context.device)
        model.eval(), method.eval()
    names = list(model._modules)[: method.num_probe_points]

    def read(x: Tensor) -> Iterator[Tensor]:
        return method.features(list(model), x)

    to_input = TASKS[run.config.task].to_input(run.config, data, context.device)
    return FrozenModel(names, read, [model, method], to_input, step, file is not None)


def freeze_module(model: nn.Module, layers: Sequence[str] | None = None, to_input: Callable[[Tensor], Tensor] = lambda x: x) -> FrozenModel:
    """Return the same for any module: the outputs of its named layers (default: its direct children, or itself), read by hooks.

    Args:
        model: any module.
        layers: dotted paths as in ``model.named_modules()``, in the order in which they run; more about names and default, and
            about layers that give sequences, tuples or other than float numbers: :class:`gradlens.analysis.layer_outputs.LayerOutputs`.
        to_input: from what :func:`collect_activations` is given to what the model reads.

    Returns:
        the module with its layers' names, for :func:`collect_activations`, ``cka_matrix`` and ``represent``.

    Raises:
        InputError: a path that is no module of the model (the message lists the known ones).

    """
    outputs = LayerOutputs(model, layers, to_input)
    return FrozenModel(outputs.names, outputs, [model], lambda x: x)


@contextmanager
def frozen_eval_mode(frozen: FrozenModel) -> Iterator[None]:
    """Set eval mode inside; restore modes, buffers and random streams after it."""
    with preserve_buffers_and_rng(list(frozen.modules)), torch.no_grad(), eval_mode(*frozen.modules):
        yield


def collect_activations(
    frozen: FrozenModel,
    images: Tensor,
    budget: int | None = BUDGET,
    batch: int = FORWARD_BATCH,
    blocks: Sequence[str] | None = None,
    progress: Progress = no_progress,
    rows: bool = False,
) -> dict[str, Tensor]:
    """Return each block's activations [N, d] float32 for some images [N, C, H, W], all blocks in one pass, on the images' device.

    Args:
        frozen: from :func:`load_snapshots` or :func:`freeze_module`.
        images: what ``frozen.to_input`` takes: uint8 images of a run's data set, or the module's own input.
        budget: features of a block at most, by :func:`pooled`; None: all of them, flattened.
        batch: images in a forward pass.
        blocks: only these; default: all.
        progress: called with (images done, in all, what).
        rows: every item of a sequence is a row, [N · T, d].

    Raises:
        InputError: a block that is not there, or one (named) that gives nothing, NaN or infinite numbers, or more numbers for some images.

    """
    chosen = [frozen.block(name) for name in blocks] if blocks is not None else list(range(len(frozen.names)))
    found: dict[str, Tensor] = {}
    with frozen_eval_mode(frozen):
        for i in range(0, len(images), batch):
            progress(i, len(images), "images")
            outputs = frozen.read(frozen.to_input(images[i : i + batch]))
            for k, h in enumerate(outputs):
                if k not in chosen:
                    continue
                name = frozen.names[k]
                part = _flattened(name, h.flatten(0, -2) if rows else h, budget, frozen.step)
                each = len(part) // len(h)  # rows an image
                if name not in found:
                    found[name] = torch.empty(each * len(images), part.shape[1], device=part.device)
                if part.shape[1] != found[name].shape[1]:
                    raise InputError(f"{name} gives {found[name].shape[1]} numbers for some images and {part.shape[1]} for others")
                found[name][each * i : each * (i + batch)] = part
    progress(len(images), len(images), "images")
    return {frozen.names[k]: found[frozen.names[k]] for k in sorted(chosen)}


def _flattened(name: str, h: Tensor, budget: int | None, step: int) -> Tensor:
    """Return a block's output [N, *out] as float32 features [N, d]."""
    if not h.numel():
        raise InputError(f"{name} gives no numbers: its output is {list(h.shape)}")
    part = (h.flatten(1) if budget is None else pooled(h, budget)).float()
    if not part.isfinite().all():
        raise InputError(f"{name} gives numbers that are not finite (NaN or infinite) after {step} updates")
    return part
