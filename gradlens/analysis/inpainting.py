"""Inpainting of dropped pixels by context encoders: pictures, and the error beside that of the mean patch."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gradlens.data.split import Split
from gradlens.data.transforms import input_of
from gradlens.gradients.method import Method
from gradlens.methods import METHODS, SHIPPED
from gradlens.runtime.errors import InputError
from gradlens.runtime.eval_mode import eval_mode
from gradlens.runtime.progress import Progress, no_progress
from gradlens.runtime.rng import generator
from gradlens.training.build import ModelAndMethod, load_model_and_method
from gradlens.training.context import RunContext
from gradlens.training.run_directory import Run

INPAINTING_RULES = tuple(name for name in SHIPPED if METHODS[name].inpaints)
INPAINTING = " and ".join(INPAINTING_RULES)
SHOWN = -(1 << 40)  # the "step" that names the masks of the pictures
ToInput = Callable[[Tensor], Tensor]


class Inpainted(NamedTuple):
    """Some images and what became of them, each [K, C, H, W], 0 … 1."""

    original: Tensor
    corrupted: Tensor  # what the network saw
    output: Tensor  # what it made where pixels were dropped, the original elsewhere (in the controls all of it is made)
    dropped: Tensor  # [K, 1, H, W], 1 where pixels were dropped


def inpaint(network: ModelAndMethod, images: Tensor, to_input: ToInput, step: int = SHOWN) -> Inpainted:
    """Corrupt images as the rule does, and let the network predict the original; nothing is trained.

    Args:
        network: a network and its context encoder; their modes are put back.
        images: [K, C, H, W] uint8, on the network's device.
        to_input: as in training.
        step: names the masks drawn.

    """
    method = must_inpaint(network.method)
    with eval_mode(network.model, method), torch.no_grad():
        x, y = method.make_inputs(images, torch.full((len(images),), -1), step, to_input)
        made = method.made(list(network.model), x).to(y.dtype)
        low, high = (to_input(torch.full_like(images[:1], value)) for value in (0, 255))
        original, corrupted, output = (((v - low) / (high - low)).clamp(0, 1) for v in (y[:, :-1], x, made))
    mask = y[:, -1:]
    return Inpainted(original, corrupted, torch.where(mask > 0, output, original), mask)


def must_inpaint(method: Method) -> Method:
    """Return the rule, if it makes images.

    Raises:
        InputError: it is not.

    """
    if not method.inpaints:
        raise InputError(f"only runs of {INPAINTING} predict dropped regions")
    return method


def errors(
    network: ModelAndMethod, test: Split, mean: Tensor, to_input: ToInput, batch: int, progress: Progress = no_progress
) -> dict[str, Any]:
    """Return mean absolute and squared error (of grey scale 0 … 1) on all dropped pixels of held-out images, and their PSNR in dB.

    The masks are those that training evaluates with, where ``batch`` is its batch size.

    Args:
        network: a network and its context encoder.
        test: held-out images.
        mean: [C, H, W] the mean training image, 0 … 1: what one patch for all images can do.
        to_input: as in training.
        batch: images in a forward pass.
        progress: called with (done, in all, what).

    Returns:
        {"network": {l1, l2, psnr}, "mean_patch": {the same}, "dropped": share of the pixels}.

    """
    sums = torch.zeros(2, 2, dtype=torch.float64)
    count = pixels = 0.0
    for i in range(0, len(test), batch):
        progress(i, len(test), "held-out images")
        found = inpaint(network, test.images[i : i + batch], to_input, -1 - i)
        for row, guess in enumerate((found.output, mean.to(found.output))):
            off = (guess - found.original).double() * found.dropped
            sums[row] += torch.stack([off.abs().sum(), off.square().sum()]).cpu()
        count += float(found.dropped.sum())
        pixels += found.dropped.numel()
    sums /= count * test.images.shape[1]
    record = {}
    for name, (l1, l2) in zip(("network", "mean_patch"), sums.tolist(), strict=True):
        record[name] = {"l1": l1, "l2": l2, "psnr": -10 * math.log10(l2) if l2 > 0 else math.inf}
    return {**record, "dropped": count / pixels}


def drops_no_pixels(run: Run) -> str | None:
    """Return what a run lacks to be drawn, as a sentence: a rule that drops pixels."""
    if run.config.rule.inpaints:
        return None
    return f"{run.path}: {run.config.method} drops no pixels; {INPAINTING} do (`gradlens train context-encoder` trains one)"


def must_have_images(run: Run, images: int, context: RunContext) -> None:
    """Check, before anything costly, that a run's data are there and are so many.

    Raises:
        InputError: a checkpoint that cannot be read, other data than the run's, fewer images than requested.

    """
    run.checkpoint()
    data = run.data(context=context)
    if not 1 <= images <= len(data.test):
        raise InputError(f"--images {images}: there are {len(data.test)} {data.test_name} images")


def inpaint_run(run: Run, context: RunContext, images: int = 8, progress: Progress = no_progress) -> dict[str, Any]:
    """Return what a run's network makes of held-out images: a few pictures, and the errors on all of them.

    Args:
        run: of a context encoder, one that :func:`must_have_images`.
        context: device and data folder.
        images: pictures, the same ones for all runs on the same data.
        progress: called with (done, in all, what).

    Returns:
        {shape: [K, C, H, W], original, corrupted, output: their grey values, base64 of bytes, images: those measured on, split, errors:
        as :func:`errors`}.

    Raises:
        InputError: a checkpoint that cannot be read.

    """
    data = run.data(context=context)
    network = load_model_and_method(run, data.shape, len(data.classes), context.device)
    test, to_input = data.test.to(context.device), input_of(run.config.data.normalize, data, context.device)
    everything = data.everything.images
    mean = torch.stack([everything[:, c].double().mean(0) for c in range(everything.shape[1])]).to(torch.float32) / 255
    found = errors(network, test, mean, to_input, run.config.batch_size, progress)
    some = torch.randperm(len(test), generator=generator(0, "inpainting pictures"))[:images].to(context.device)
    shown = inpaint(network, test.images[some], to_input)
    result = {
        "shape": list(shown.original.shape),
        **{name: _packed(value) for name, value in shown._asdict().items() if name != "dropped"},
        "images": len(test),
        "split": data.test_name,
        "errors": found,
    }
    progress(len(test), len(test), "held-out images")
    return result


def _packed(images: Tensor) -> str:
    return base64.b64encode((255 * images).round().to(torch.uint8).cpu().contiguous().numpy().tobytes()).decode()


def unpacked(result: Mapping[str, Any], name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the stored ``original``, ``corrupted`` or ``output`` images, [K, C, H, W] uint8."""
    images: np.ndarray[Any, np.dtype[np.uint8]] = np.frombuffer(base64.b64decode(result[name]), np.uint8).reshape(result["shape"])
    return images
