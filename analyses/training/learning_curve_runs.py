"""The runs of ``analyses.learning_curves``: their settings, the order in which they are made, and what is read from each."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import Any, NamedTuple

from analyses.training.all_test_images import full_scores
from analyses.training.study import run_context_of, trained
from gradlens.training.config import Config, make_config
from gradlens.training.run_directory import Run

EPOCHS, IMAGES, WIDTH = 60, 1_000, 16
NET: dict[str, Any] = {
    "model": "basic-cnn", "width": WIDTH, "batch_size": 64, "limit": IMAGES, "epochs": EPOCHS, "lr_schedule": "cosine", "record_every": 0,
    "limit_test": 100,  # for the progress display; all 10,000 afterwards, of the weights that are kept
    "keep_checkpoints": 4,
}  # fmt: skip
ADAM: dict[str, Any] = {**NET, "lr": 1e-3}
SGD: dict[str, Any] = {**NET, "optimizer": "sgd", "momentum": 0.9, "augment": True}
PUBLISHED = {"target": "mean", "zero_bias": False}  # of dni and cdni

GROUPS: dict[str, dict[str, Any]] = {
    **{m: {**ADAM, "method": m} for m in ("bp", "dgl", "shallow")},
    **{m: {**ADAM, "method": m, "options": PUBLISHED} for m in ("dni", "cdni")},
    **{f"{m} augmented": {**ADAM, "method": m, "augment": True} for m in ("bp", "dgl")},
    **{f"{m} sgd {lr:g}": {**SGD, "method": m, "lr": lr} for m in ("bp", "dgl") for lr in (1e-3, 3e-3)},
    "bp unit gaussian": {**ADAM, "method": "bp", "normalize": "gaussian"},
    "bp [0, 1]": {**ADAM, "method": "bp", "normalize": "none"},
    **{f"{m} default": {**ADAM, "method": m} for m in ("dni", "cdni")},
}
MINUTES = {"bp": 0.45, "dgl": 0.6, "dni": 0.9, "cdni": 0.9, "shallow": 0.2}  # of one run on one free core, its tests included


class Stage(NamedTuple):
    """Runs of one seed that answer a question together."""

    groups: tuple[str, ...]
    seed: int


FITTING, AUGMENTED = ("bp", "dgl", "dni", "cdni"), ("bp augmented", "dgl augmented")
RATES = ("bp sgd 0.001", "bp sgd 0.003", "dgl sgd 0.001", "dgl sgd 0.003")
NORMALISED, DEFAULTS = ("bp unit gaussian", "bp [0, 1]"), ("dni default", "cdni default")
PLAN = (  # in the order of what they decide a minute
    ((*FITTING, *AUGMENTED), range(3)),
    (RATES, range(3)),
    (("shallow",), range(3)),
    ((*FITTING, *AUGMENTED), range(3, 5)),
    ((*RATES, "shallow"), range(3, 5)),
    (NORMALISED, range(5)),
    (DEFAULTS, range(3)),
    (("bp", "dgl", *AUGMENTED), range(5, 10)),
    (NORMALISED, range(5, 10)),
)
STAGES = tuple(Stage(groups, seed) for groups, seeds in PLAN for seed in seeds)  # stopped after any, what was made compares whole groups
Runs = dict[str, list[Run]]  # group -> its runs in the order of seeds


def config(group: str, seed: int, data: str) -> Config:
    """The settings of one run."""
    return make_config(**GROUPS[group], data=data, seed=seed)


def cost(stages: Sequence[Stage]) -> float:
    """Core-minutes of some stages, on a free core."""
    return sum(MINUTES[str(GROUPS[group]["method"])] for stage in stages for group in stage.groups)


def train(args: Namespace, stages: int = len(STAGES)) -> Runs:
    """Train or read the runs of the first stages, each tested on all images before the next stage begins."""
    found: Runs = {}
    for stage in STAGES[:stages]:
        made = trained([config(group, stage.seed, args.data) for group in stage.groups], args)
        for group, run in zip(stage.groups, made, strict=True):
            full_scores(run, run_context_of(args))
            found.setdefault(group, []).append(run)
    return found
