"""The file of a captured step: safetensors with a json header. docs/how-to/capture-format.md describes it.

The tensors' keys are ``activation/LABEL`` (a layer's output), ``gradient/LABEL`` (the gradient with respect to it), ``parameter/NAME`` (a
parameter's gradient) and ``batch/PLACE``. The header is the entry ``gradlens`` of the file's metadata.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradlens.runtime.errors import InputError
from gradlens.runtime.paths import is_file, is_folder, reason, unreadable

FORMAT, VERSION = "gradlens capture", 1
KINDS = ("activation", "gradient", "parameter", "batch")
_FIELDS: dict[str, type] = {  # of the header -> their kind
    "tensors": dict,
    "calls": list,
    "modules": dict,
    "parameters": dict,
    "weights": dict,
    "inputs": dict,
    "unseen": list,
    "versions": dict,
    "step": int,
    "forwards": int,
    "backwards": int,
}


def write_capture(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write a captured step whole or not at all: under a temporary name, then renamed.

    Args:
        path: the file.
        tensors: key -> tensor.
        header: what json can hold.

    Raises:
        InputError: it cannot be written.

    """
    from safetensors.torch import save_file

    temporary = path.with_name(f".{path.name}.tmp")
    text = json.dumps({"format": FORMAT, "version": VERSION, **header}, separators=(",", ":"))
    whole = {key: t.contiguous().clone() if t.is_contiguous() is False or _shares(t) else t for key, t in tensors.items()}
    try:
        save_file(whole, temporary, metadata={"gradlens": text})
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise InputError(f"cannot write {path}: {reason(error)}") from error


def _shares(t: Tensor) -> bool:
    """Return whether a tensor is part of a larger memory, which safetensors does not write."""
    return t.untyped_storage().nbytes() != t.numel() * t.element_size()


class CaptureFile:
    """A captured step in a file; tensors are read when they are asked for. Reading executes nothing that the file holds.

    Args:
        path: the file.

    Attributes:
        header: the json header.

    Raises:
        InputError: it cannot be read, is cut off, is no safetensors file, or not one that ``gradlens.capture`` wrote.

    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = _opened(self.path)
        self.header = _header(self.path, self._file.metadata())
        stored = set(self._file.keys())
        if stored != set(self.header["tensors"]):
            raise InputError(
                f"{self.path} is damaged: its header lists {len(self.header['tensors'])} tensors, the file holds {len(stored)}"
            )

    def tensor(self, key: str) -> Tensor:
        """Read a tensor.

        Raises:
            InputError: its shape or type is not what the header says.

        """
        found: Tensor = self._file.get_tensor(key)
        return found


def _opened(path: Path) -> Any:
    """Open a safetensors file."""
    from safetensors import SafetensorError, safe_open

    if is_folder(path):
        raise InputError(f"{path} is a folder: name the file of a capture")
    if not is_file(path):
        raise InputError(f"there is no capture {path}")
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise InputError(f"{path} is no whole safetensors file, or it was cut off ({' '.join(str(error).split())})") from error
    except OSError as error:
        raise unreadable(path, error, "capture") from error


def _header(path: Path, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    """Return the checked header."""
    text = (metadata or {}).get("gradlens")
    if text is None:
        raise InputError(f"{path} is a safetensors file, but not one that gradlens.capture wrote")
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: its header is no json") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise InputError(f"{path} is a safetensors file, but not one that gradlens.capture wrote")
    if header.get("version") != VERSION:
        raise InputError(f"{path} has version {header.get('version')!r} of the format, this gradlens reads version {VERSION}; update it")
    for name, kind in _FIELDS.items():
        if not isinstance(header.get(name), kind):
            raise InputError(f"{path} is damaged: its header's {name!r} is {header.get(name)!r:.60}, expected a {kind.__name__}")
    for key, fact in header["tensors"].items():
        if key.partition("/")[0] not in KINDS or not _is_fact(fact):
            raise InputError(f"{path} is damaged: its header describes the tensor {key!r:.80} in an unknown way")
    for name in ("weights", "inputs"):
        if not all(isinstance(v, list) and all(isinstance(x, int | float) for x in v) for v in header[name].values()):
            raise InputError(f"{path} is damaged: its header's {name!r} are no fingerprints")
    if not all(isinstance(v, dict) for v in header["parameters"].values()) or not all(isinstance(v, str) for v in header["calls"]):
        raise InputError(f"{path} is damaged: its header's lists of parameters and calls hold something else")
    return header


def _is_fact(fact: Any) -> bool:
    """Return whether a tensor is described by its type, its shape, the rows of micro-batches and numbers."""
    if not isinstance(fact, dict) or not isinstance(getattr(torch, str(fact.get("dtype")), None), torch.dtype):
        return False
    lists = [fact.get(name, []) for name in ("rows", "whole", "offset")] + [fact.get("shape")]
    numbers = (fact.get("norm"), fact.get("nonfinite"))
    return all(isinstance(v, list) and all(isinstance(x, int) for x in v) for v in lists) and all(
        isinstance(x, int | float) and math.isfinite(x) for x in numbers
    )
