"""Build torchvision's classifiers as networks of blocks: ``torchvision:NAME``, untrained, cut after each stage's own blocks."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from gradlens.models.fx_split import cut_module, cuts_without_skips
from gradlens.models.spec import ModelSpec
from gradlens.models.zoo import MODELS
from gradlens.runtime.errors import InputError, unknown

PREFIX = "torchvision:"
TOP = ("avgpool", "classifier", "fc", "head", "heads")  # the output block of a torchvision model begins with the first of these
OPENED = {"encoder": "layers"}  # a part that is no list of blocks but contains one (vit)


def register(name: str) -> None:
    """Add ``torchvision:NAME`` to MODELS.

    Raises:
        InputError: torchvision has no such classifier.

    """
    from torchvision import models

    if name in MODELS:
        return
    known = models.list_models(module=models)
    if name.removeprefix(PREFIX) not in known:
        raise unknown("classifier of torchvision", name.removeprefix(PREFIX), known)
    MODELS[name] = partial(network, name)


def _units(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the parts of a model that may be blocks, by dotted path: lists of modules are opened, everything else stays whole."""
    opened = OPENED.get(name.rpartition(".")[2])
    if type(module) in (nn.Sequential, nn.ModuleList):
        for child, part in module.named_children():
            yield from _units(f"{name}.{child}", part)
    elif opened and hasattr(module, opened):
        yield from _units(f"{name}.{opened}", getattr(module, opened))
    else:
        yield name, module


def _weighs(module: nn.Module) -> bool:
    """Return whether a part has a matrix or a kernel: normalisations, activations and pools belong to the block they follow."""
    return any(p.ndim > 1 for p in module.parameters())


def cut_points(model: nn.Module) -> list[str]:
    """Return cut points after each part with weights and the parts without weights that follow it; the rest is the output block.

    >>> from torchvision.models import resnet18
    >>> cut_points(resnet18())[:3]
    ['maxpool', 'layer1.0', 'layer1.1']
    """
    parts: list[tuple[str, nn.Module]] = []
    for name, child in model.named_children():
        if name in TOP:
            break
        if not name.startswith("aux"):
            parts += _units(name, child)
    ends: list[str] = []
    for name, part in parts:
        if _weighs(part) or not ends:
            ends.append(name)
        else:
            ends[-1] = name
    return ends


def _refuse_settings(name: str, spec: ModelSpec) -> None:
    given = {
        "width": spec.width,
        "depth": spec.depth,
        "stem": spec.stem,
        "activation": None if spec.activation == "relu" else spec.activation,
    }
    for flag, value in given.items():
        if value is not None:
            raise InputError(f"--{flag} {value}: {name} is built by torchvision, without this setting; leave it out")


def network(name: str, spec: ModelSpec) -> nn.Sequential:
    """Build an untrained classifier of torchvision by ``torchvision:NAME`` for the data's number of classes, in blocks.

    Images of one channel are fed as three equal ones. In-place activations are switched off: a block must not overwrite its input.

    Raises:
        InputError: settings that it does not have, images that it cannot process, a model with several outputs in training.

    """
    from torchvision.models import get_model

    _refuse_settings(name, spec)
    channels, height, width = spec.shape
    if channels not in (1, 3):
        raise InputError(f"{name} needs images of 3 channels (or 1, repeated three times); these have {channels}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about initialisation in later releases
            model = get_model(name.removeprefix(PREFIX), weights=None, num_classes=spec.classes)
    except (TypeError, ValueError, ImportError) as error:
        raise InputError(f"torchvision cannot build {name}: {' '.join(str(error).split())}") from error
    for module in model.modules():
        if getattr(module, "inplace", False):
            module.inplace = False
    _must_take(model, name, (3, height, width))
    cuts = cuts_without_skips(model, cut_points(model), name)
    if not cuts:
        raise InputError(f"{name} cannot be cut into blocks: no cut point is free of skip connections; set another model")
    names = [cut.replace(".", "_") for cut in cuts]
    if "." not in cuts[0]:
        names[0] = "stem"
    return cut_module(model, cuts, spec.shape, name, names, tripled=channels == 1, out_of_place=True)


def _must_take(model: nn.Module, name: str, shape: tuple[int, ...]) -> None:
    """Check that a model accepts images of this shape and returns one tensor; the model does not change.

    Raises:
        InputError: it does not.

    """
    buffers = {key: b.clone() for key, b in model.named_buffers()}
    try:
        with torch.no_grad():
            answer = model(torch.zeros(4, *shape))
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{name} does not take images of {shape[1]}x{shape[2]} (HxW) pixels: {reason}") from error
    finally:
        for key, b in model.named_buffers():
            b.copy_(buffers[key])
    if not isinstance(answer, Tensor):
        raise InputError(f"{name} returns several outputs in training ({type(answer).__name__}): the network's output must be one tensor")
