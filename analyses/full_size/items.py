"""The list: what is trained, in which order, and what it costs. Pure data; nothing here trains."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

from analyses.full_size.results import FULL_WIDTH
from analyses.training.study import shipped
from gradlens.training.build import build_model_and_method
from gradlens.training.config import Config, make_config
from gradlens.training.cost.flops import count
from gradlens.training.step import training_step

IMAGES, SHAPE, CLASSES = 50_000, (3, 32, 32), 10  # CIFAR-10
PUBLISHED = {"target": "mean", "zero_bias": False}  # a synthesiser as in the reference implementations


@dataclass(frozen=True)
class Item:
    """One training of the list, or a part of one: its epochs up to ``until``."""

    name: str  # of its csv file and run directory
    family: str  # folder of the csv, and what is drawn together
    label: str  # in figures
    priority: int  # 1 comes first
    config: Config
    until: int  # epochs after which this item is done; the config's own number is what a decay is stretched over
    rate: str = ""  # a key of RATE_TRIALS: the learning rate is the one chosen there; empty: the config's own

    @property
    def part(self) -> str:
        """How the item is called on the command line: its name, and where it ends if that is before the training's end."""
        return self.name if self.until == self.config.epochs else f"{self.name}@{self.until}"


def _fast(method: str, form: str, seed: int, cpu: bool) -> Item:
    """Item 1: eight epochs at a rate chosen for the rule, with warm-up and cosine decay to zero."""
    label = f"{method} {form}".strip()
    synthetic = method in ("dni", "cdni")
    config = make_config(
        method=method, options=PUBLISHED if form == "published" else {}, seed=seed, lr_schedule="cosine", warmup=100,
        epochs=4 if synthetic and cpu else 8, record_every=49, diagnose_every=2, data="cifar10",
    )  # fmt: skip
    shorter = "-4epochs" if config.epochs == 4 else ""  # another training than the one of eight: the rate decays sooner
    name = f"fast-{label.replace(' ', '-')}-s{seed}{shorter}"
    return Item(name, "iteration1-fast", label, 1 if seed == 0 else 2, config, config.epochs, label)


def _augmented(model: str, method: str) -> Item:
    """Item 3: flips and crops; BasicCNN with Adam, VGG16 with SGD and momentum."""
    vgg = model == "vgg16"
    shared = {"method": method, "model": model, "augment": True, "epochs": 12, "lr_schedule": "cosine", "warmup": 100, "data": "cifar10"}
    optimizer = {"optimizer": "sgd", "momentum": 0.9, "batch_size": 128} if vgg else {}
    every = {"record_every": 98, "diagnose_every": 2} if vgg else {"record_every": 49, "diagnose_every": 2}
    config = make_config(**shared, **optimizer, **every)
    rate = f"vgg16 {method}" if vgg else method
    return Item(f"fast-{model}-augmented-{method}-s0", f"iteration2-fast-{model}", method, 3, config, config.epochs, rate)


def _as_published(
    config_name: str, family: str, label: str, priority: int, epochs: int, ends: tuple[int, ...], **changes: Any
) -> list[Item]:
    """Items 4 and 5: a shipped config for its first epochs, in parts that each fit a few minutes of an accelerator."""
    config = shipped(config_name, data="cifar10", epochs=epochs, **changes)
    return [Item(f"{config_name}-s{config.seed}", family, label, priority, config, end) for end in ends]


def _scale() -> list[Item]:
    """Item 6: is the published gap of synthetic gradients a matter of units? Target, width and batch size, five seeds."""
    found = []
    for seed in range(5):
        for width in (16, 32, 64):
            for batch in (64, 256):
                for method in ("dni", "cdni"):
                    for target in ("sum", "mean"):
                        config = make_config(
                            method=method, options={"target": target, "zero_bias": True}, width=width, batch_size=batch, seed=seed,
                            limit=20_000, epochs=10, lr=1e-3, lr_schedule="cosine", warmup=100, data="cifar10",
                            record_every=20_000 // batch // 4, diagnose_every=2,
                        )  # fmt: skip
                        name = f"scale-{method}-{target}-w{width}-b{batch}-s{seed}"
                        label = f"{method} target={target}, width {width}, batch {batch}"
                        found.append(Item(name, "scale", label, 6, config, config.epochs))
    return found


def _rate_trials() -> dict[str, dict[str, Any]]:
    trial: dict[str, Any] = {"data": "cifar10", "limit": 10_000, "epochs": 3, "lr_schedule": "cosine", "warmup": 40, "record_every": 0}
    narrow = {**trial, "width": 32}
    found = {method: {**narrow, "method": method} for method in ("bp", "dgl", "dni", "cdni")}
    found |= {f"{method} published": {**narrow, "method": method, "options": PUBLISHED} for method in ("dni", "cdni")}
    vgg = {**trial, "model": "vgg16", "width": 16, "augment": True, "optimizer": "sgd", "momentum": 0.9, "batch_size": 128}
    return found | {f"vgg16 {method}": {**vgg, "method": method} for method in ("bp", "dgl")}


RATE_TRIALS = _rate_trials()  # key -> settings of the short trainings, on held-out images and a narrow network, that choose its rate
GRID = {"adam": (3e-4, 1e-3, 3e-3), "sgd": (0.01, 0.03, 0.1)}


def items(cpu: bool = True) -> list[Item]:
    """The whole list in the order in which it is worked through.

    Args:
        cpu: whether the machine has no accelerator: dni and cdni then train for 4 instead of 8 epochs in item 1.

    """
    forms = [("bp", ""), ("dgl", ""), ("dni", "published"), ("cdni", "published"), ("dni", ""), ("cdni", "")]
    found = [_fast(method, form, 0, cpu) for method, form in forms]
    found += [_fast(method, form, seed, cpu) for method, form in forms for seed in (1, 2)]
    found += [_augmented(model, method) for model in ("basic-cnn", "vgg16") for method in ("bp", "dgl")]
    recorded = {"record_every": 98, "diagnose_every": 2}
    for method in ("bp", "dgl", "dni", "cdni"):
        found += _as_published(f"iteration1-{method}", "iteration1", f"{method}", 4, 100, (50, 100), **recorded)
    for method in ("bp", "dgl"):
        found += _as_published(
            f"iteration2-vgg16-{method}", "iteration2-vgg16", method, 5, 31, (16, 31), record_every=391, diagnose_every=2
        )
    for method in ("bp", "dgl"):
        found += _as_published(f"iteration2-basic-cnn-{method}", "iteration2-basic-cnn", method, 5, 100, (50, 100), **recorded)
    return found + _scale()


def at_width(item: Item, width: int) -> Item:
    """The item with a network of another width, said so in its name: for machines that are too slow for the full one."""
    if item.family == "scale" or item.config.model.name != "basic-cnn" or width == (item.config.model.width or FULL_WIDTH):
        return item
    config = make_config(**{**item.config.as_dict(), "width": width})
    return replace(item, name=f"{item.name}-w{width}", family=f"{item.family}-w{width}", config=config)


@lru_cache(maxsize=64)
def _per_image(settings: str) -> float:
    """Multiply-adds of a training step by images, unrecorded: counted on a batch of two."""
    config = make_config(**json.loads(settings))
    network = build_model_and_method(config, SHAPE, CLASSES, torch.device("cpu"))
    x = torch.zeros(2, *SHAPE)
    y = torch.arange(2)
    optimizer = torch.optim.SGD(network.method.param_groups(list(network.model)), lr=0.0)
    network.method.start(1, 0)
    return count(lambda: training_step(network, optimizer, x, y)) / 2


def multiply_adds(item: Item, epochs: int | None = None) -> float:
    """Of the item's training steps; recorded steps and evaluation come on top (some 5 to 15 %)."""
    kept = ("method", "options", "model", "width", "depth", "stem", "activation", "attention", "cut", "loss")
    settings = json.dumps(item.config.as_dict(include=kept))
    images = item.config.data.limit or IMAGES
    return _per_image(settings) * images * (item.until if epochs is None else epochs)
