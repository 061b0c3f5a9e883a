"""The options that an analysis shares with the modules that compute it; the others are beside their analysis."""

from __future__ import annotations

from dataclasses import dataclass

from gradlens.analysis.of_runs.interface import option

QUICK_GRID = (1.0, 0.1, 0.01, 0.001)  # of l2 in a first look
GRID = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 3e-4, 1e-4)  # of l2, strong to weak: each fit begins where the one before ended


@dataclass(frozen=True)
class ProbeOptions:
    """What is probed, and with how much."""

    blocks: tuple[str, ...] = option((), "only this block; repeatable", "block")
    train_images: int | None = option(None, "fit to N training images, a seeded choice (all)")
    test_images: int | None = option(None, "test on N test images, a seeded choice (all)")
    features: int = option(512, "at most N features of a block: larger outputs are averaged over space")
    over_time: bool = option(False, "at the snapshots too (--keep-checkpoints)")
    controls: bool = option(True, "raw pixels, the untrained network, permuted labels")
    separability: int = option(0, "decide on every block whether the first N training images are strictly separable; 0: do not", least=0)
    overwrite: bool = option(False, "compute stored results anew")
    grid: tuple[float, ...] = QUICK_GRID


FULL_PROBE = ProbeOptions(features=2048, separability=200, grid=GRID)  # what is to be quoted


@dataclass(frozen=True)
class RepresentationOptions:
    """What is measured, and how much is spent on it."""

    images: int = option(1000, "test images; a third of each class is held out and measured on", least=1)
    steps: int = option(100, "updates of each block's decoder and head; 0: no information estimates", "information-steps", least=0)
    blocks: tuple[str, ...] = option((), "only this block; repeatable", "block")
    over_time: bool = option(False, "at the snapshots too (--keep-checkpoints)")
    overwrite: bool = option(False, "compute stored results anew")


FULL_REPRESENTATIONS = RepresentationOptions(images=3000, steps=300)  # what is to be quoted
