"""How much of the image and of the label a block's activations still hold, as Wang et al. 2021 (InfoPro) estimate I(h, x) and I(h, y)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradlens.analysis.activations import FORWARD_BATCH
from gradlens.gradients.alignment import power_of_two
from gradlens.models.decoders import decoder
from gradlens.models.heads import head
from gradlens.runtime.rng import generator, seeded

STEPS = 300  # updates of a decoder and of a head
DECODER_LR, HEAD_LR, LINEAR_LR = 1e-2, 3e-3, 0.1  # Adam's, down to 0 along a cosine; a linear head's is divided by √features
DECODER_BATCH, HEAD_BATCH = 16, 32  # images in an update; each image is a thousand samples for a decoder


def _standard(fit: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
    """Standardise both parts of activations [N, C, ...] by each channel's statistics over the first; constant channels are only shifted."""
    dims = [d for d in range(fit.ndim) if d != 1]
    mean, std = fit.mean(dims, keepdim=True), fit.std(dims, keepdim=True, unbiased=False)
    std = torch.where(std > 1e-6 * mean.abs(), std, 1.0)
    return (fit - mean) / std, (held - mean) / std


def _read(reader: nn.Module, h: Tensor, loss: Callable[[Tensor, Tensor], Tensor], lr: float, batch: int, steps: int) -> None:
    """Train a reader of activations h [N, *shape]; ``loss`` takes its output and the indices of the images."""
    optimizer = torch.optim.Adam(reader.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.empty(0, dtype=torch.long)
    epoch = 0
    for _ in range(steps):
        if len(order) < min(batch, len(h)):
            order, epoch = torch.randperm(len(h), generator=generator(0, "reader's batches", epoch)), epoch + 1
        index, order = order[:batch].to(h.device), order[batch:]
        optimizer.zero_grad(set_to_none=True)
        loss(reader(h[index]), index).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    reader.eval()


def _answers(reader: nn.Module, h: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([reader(h[i : i + FORWARD_BATCH]) for i in range(0, len(h), FORWARD_BATCH)])


def _made(build: Callable[[], nn.Module], purpose: str, like: Tensor) -> nn.Module:
    """Build a decoder or head with its own random stream, on the activations' device."""
    with seeded(0, purpose):
        layout: Any = {"device": like.device, "memory_format": torch.channels_last}
        return build().to(**layout)


class Reconstruction(NamedTuple):
    """Measure how well a decoder reconstructs images from activations, on images that it was not trained on."""

    r2: float  # 1 − Σ (x − D(h))² / Σ (x − m)², m the mean image of those it was fitted on: 0 is no better than m; NaN: all images alike
    mse: float  # mean (x − D(h))², pixels in [0, 1] if they were uint8


def reconstruct(h: Tensor, x: Tensor, held_h: Tensor, held_x: Tensor, steps: int = STEPS) -> Reconstruction:
    """Train a decoder on frozen activations and measure it on held-out ones: the I(h, x) of InfoPro (Wang et al. 2021, §3.3 and app. D).

    Theirs is the negative loss of such a decoder, a lower bound up to a constant: I(h, x) = H(x) − H(x|h) ≥ H(x) − E[−log q(x|h)], here
    with q a Gaussian about D(h). It measures what *this* decoder finds in so many steps, so blocks of one shape can be compared between
    networks and a block without space (a linear decoder) cannot be compared with one that has it (a convolutional one).

    Args:
        h: activations [N, *shape].
        x: images [N, C, H, W], uint8 or float.
        held_h: activations of the held-out images.
        held_x: the held-out images.
        steps: updates of the reader.

    """
    targets, held = (_numbers(images, h) for images in (x, held_x))
    mean = targets.mean(0)
    unit = power_of_two(targets - mean)  # images of any scale have squares
    std = unit * ((targets - mean) / unit).square().mean().sqrt()
    fit, test = _standard(h, held_h)
    reader = _made(lambda: decoder(h.shape[1:], x.shape[1:]), "decoder", h)
    goal = (targets - mean) / torch.where(std > 0, std, 1.0)
    _read(reader, fit, lambda out, index: F.mse_loss(out, goal[index]), DECODER_LR, DECODER_BATCH, steps)
    mse = float((mean + std * _answers(reader, test) - held).cpu().double().square().mean())
    spread = float((held - mean).cpu().double().square().mean())
    return Reconstruction(1 - mse / spread if spread > 0 else math.nan, mse)


def _numbers(images: Tensor, like: Tensor) -> Tensor:
    """Convert images to float32 on the activations' device, uint8 ones to [0, 1]."""
    return images.to(like.device).float() / (255 if images.dtype == torch.uint8 else 1)


class LabelInformation(NamedTuple):
    """Measure what a head finds of the label, on images that it was not trained on."""

    bits: float  # H(y) − cross-entropy, of the held-out images
    accuracy: float  # share


def label_information(h: Tensor, y: Tensor, held_h: Tensor, held_y: Tensor, classes: int, steps: int = STEPS) -> LabelInformation:
    """Train a head on frozen activations; I(h, y) ≥ H(y) − E[−log q(y|h)], in bits (Barber & Agakov 2003; with it InfoPro's I(h, y)).

    The head is 3×3 conv–BN–ReLU, 2×2, BN, linear on activations with space, linear on others. Nothing is clipped: below zero the head is
    over-confident (it overfits), and the bound is empty.

    Args:
        h: activations [N, *shape].
        y: labels [N].
        held_h: activations of the held-out images.
        held_y: their labels.
        classes: how many there are.
        steps: updates of the reader.

    """
    labels = y.to(h.device)
    fit, test = _standard(h, held_h)
    kind, lr = ("cnn", HEAD_LR) if h.ndim == 4 else ("linear", LINEAR_LR / h.shape[1] ** 0.5)
    reader = _made(lambda: head(kind, h.shape[1:], classes, 0, 1, pooled=False), "head", h)
    _read(reader, fit, lambda out, index: F.cross_entropy(out, labels[index]), lr, HEAD_BATCH, steps)
    logits, held = _answers(reader, test).cpu().double(), held_y.cpu()
    share = held.bincount(minlength=classes).double() / len(held)
    entropy = float(-torch.special.xlogy(share, share).sum())
    nats = entropy - float(F.cross_entropy(logits, held))
    return LabelInformation(nats / math.log(2), float((logits.argmax(1) == held).double().mean()))
