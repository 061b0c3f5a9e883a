"""What tests of networks ask of one: its size, its modules of a kind, and some images to put in."""

import torch
from torch import nn

from gradlens.runtime.rng import generator


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def images(shape: tuple[int, ...], n: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, *shape, generator=generator(seed, "images"))


def modules(model: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, kind)]
