"""Render the pictures that a trained network makes, and compare them with the true ones: PSNR and SSIM."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gradlens.runtime.eval_mode import eval_mode
from gradlens.runtime.progress import Progress, no_progress
from gradlens.runtime.step_context import step_context
from gradlens.tasks.psnr import decibels
from gradlens.tasks.registry import TASKS
from gradlens.tasks.task import Picture, Task
from gradlens.training.build import ModelAndMethod, load_model_and_method
from gradlens.training.config import Config
from gradlens.training.context import RunContext
from gradlens.training.run_directory import Run

WINDOW, SIGMA = 11, 1.5  # of SSIM: pixels a side, and the deviation of its gaussian weights
K1, K2 = 0.01, 0.03  # its constants, relative to the range of colours, 1


def ssim(made: Tensor, true: Tensor) -> float:
    """Compute the structural similarity of two pictures, the mean over pixels and channels; 1 where they are equal.

    Wang et al. 2004 (IEEE Trans. Image Processing 13(4), eq. 13): gaussian windows that lie within the picture. In a smaller picture than a
    window the window is the largest odd one that fits.

    Args:
        made, true: [H, W, C] of 0 to 1.

    """
    x, y = (t.double().movedim(-1, 0)[:, None] for t in (made, true))
    side = min(WINDOW, *((n - 1) // 2 * 2 + 1 for n in made.shape[:2]))
    place = torch.arange(side, dtype=torch.float64) - side // 2
    line = torch.exp(-(place**2) / (2 * SIGMA**2))
    window = torch.outer(line, line)[None, None] / line.sum() ** 2

    def mean(t: Tensor) -> Tensor:
        return F.conv2d(t, window)

    mx, my = mean(x), mean(y)
    vx, vy, both = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = K1**2, K2**2
    return float(((2 * mx * my + c1) * (2 * both + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())


@torch.no_grad()
def render_picture(network: ModelAndMethod, picture: Picture, config: Config, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return a picture as the network makes it, and the true one: each [H, W, 3] of 0 to 1, on the CPU.

    Args:
        network: a trained one; its modes are restored.
        picture: of the config's task.
        config: of the run; a batch has as many examples as in training.
        device: that of the network.

    """
    task, found = TASKS[config.task], []
    with eval_mode(*network), step_context():
        for rows in torch.arange(len(picture.examples)).split(config.batch_size):  # type: ignore[no-untyped-call]
            made = task.batch(picture.examples.take(rows).to(device), -1, config)
            with step_context(made.context):
                found.append(task.colours(network.method.predict(list(network.model), made.x), made.y))
    rendered_, true = (torch.cat(parts).clamp(0, 1).cpu().view(*picture.size, 3) for parts in zip(*found, strict=True))
    return rendered_, true


def render_run(run: Run, context: RunContext, shown: int = 4, progress: Progress = no_progress) -> dict[str, Any]:
    """Render all pictures of a run, and keep some of them.

    Args:
        run: finished, of a task that makes pictures.
        context: device and data folder.
        shown: pictures to keep, evenly spaced.
        progress: called with (done, in all, what).

    Returns:
        {split, size: [H, W], pictures: [{name, psnr, ssim}], psnr, ssim: their means, shown: names of those that are kept, made, true:
        base64 of their bytes [K, H, W, 3]}.

    Raises:
        InputError: other data than the run's, a checkpoint that cannot be read.

    """
    data = run.data(context=context)
    network = load_model_and_method(run, data.shape, len(data.classes), context.device)
    pictures = TASKS[run.config.task].pictures(data)
    return {"split": data.test_name, **rendered(network, pictures, run.config, context.device, shown, progress)}


def rendered(
    network: ModelAndMethod, pictures: Sequence[Picture], config: Config, device: torch.device, shown: int, progress: Progress
) -> dict[str, Any]:
    """Return :func:`render_run` of a network."""
    scores, kept = [], chosen(len(pictures), shown)
    psnrs, ssims = list[float](), list[float]()
    made, true = list[Tensor](), list[Tensor]()
    for i, picture in enumerate(pictures):
        progress(i, len(pictures), "pictures")
        a, b = render_picture(network, picture, config, device)
        psnrs.append(float(decibels((a - b).double().square().mean())))
        ssims.append(ssim(a, b))
        scores.append({"name": picture.name, "psnr": psnrs[i], "ssim": ssims[i]})
        if i in kept:
            made.append(a)
            true.append(b)
    progress(len(pictures), len(pictures), "pictures")
    means = {"psnr": fmean(psnrs), "ssim": fmean(ssims)}
    names = [pictures[i].name for i in kept]
    images = {"made": _packed(torch.stack(made)), "true": _packed(torch.stack(true))}
    return {"size": list(pictures[0].size), "pictures": scores, **means, "shown": names, **images}


def chosen(count: int, shown: int) -> list[int]:
    """Choose numbers below ``count``, evenly spaced."""
    some = min(count, shown)
    return [math.floor((i + 0.5) * count / some) for i in range(some)]


def _packed(images: Tensor) -> str:
    return base64.b64encode((255 * images).round().to(torch.uint8).contiguous().numpy().tobytes()).decode()


def unpacked(result: Mapping[str, Any], name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the stored ``made`` or ``true`` pictures, [K, H, W, 3] uint8."""
    images: np.ndarray[Any, np.dtype[np.uint8]] = np.frombuffer(base64.b64decode(result[name]), np.uint8)
    return images.reshape(-1, *result["size"], 3)


def makes_no_pictures(run: Run) -> str | None:
    """Return what a run lacks to be rendered, as a sentence: a task that makes pictures."""
    makers = [name for name, task in TASKS.items() if type(task).colours is not Task.colours]
    if run.config.task in makers:
        return None
    return f"{run.path} is a run of --task {run.config.task}, which makes no pictures; {' and '.join(makers)} do"
