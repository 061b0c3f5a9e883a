"""Checkpoints: the state of a training as one file of tensors and plain values, written atomically and read without running code."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradlens.runtime.errors import InputError
from gradlens.runtime.paths import OF_THE_SYSTEM, is_there, unreadable
from gradlens.training.run_files import unwritable, write


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint or snapshot whole or not at all; its folder is made.

    Raises:
        InputError: the disk is full or the folder cannot be written; what was there before stays.

    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error
    write(path, buffer.getbuffer())  # type: ignore[arg-type]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint's contents, tensors on the CPU; loaded without running any code from the file.

    Raises:
        InputError: missing, truncated, or not a checkpoint of gradlens.

    """
    if not is_there(path):
        raise InputError(f"{path.parent} has no {path.name}: the run saved none")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a different type for every way a file can be wrong, a system's "invalid argument" among them
        if isinstance(error, OSError) and error.errno in OF_THE_SYSTEM:
            raise unreadable(path, error) from error
        raise InputError(f"{path} is not a checkpoint that can be read (truncated, or not written by gradlens)") from error
    if not isinstance(state, dict) or not {"model", "method", "step"} <= set(state):
        raise InputError(f"{path} is not a checkpoint of gradlens: it holds no model, method and step")
    return state


def weights_digest(saved: Mapping[str, Any]) -> str:
    """Return SHA-256 of the network's and the rule's weights and buffers in a checkpoint, whatever else it holds."""
    digest = hashlib.sha256()

    def add(name: str, value: Any) -> None:
        if isinstance(value, Mapping | list | tuple):
            for key, part in value.items() if isinstance(value, Mapping) else enumerate(value):
                add(f"{name}/{key}", part)
        elif isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        else:
            digest.update(f"{name} {value!r}\n".encode())

    for part in ("model", "method"):
        add(part, saved[part])
    return digest.hexdigest()
