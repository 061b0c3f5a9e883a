"""Read a graph from one ``.npz`` file of arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradlens.data.array_file import read_arrays
from gradlens.data.graph import PARTS, Graph
from gradlens.runtime.errors import InputError


def read_graph_file(path: Path) -> Graph:
    """Read an ``.npz`` file: ``edges`` [E, 2], ``y`` [N], ``train``, ``val``, ``test`` (numbers of nodes), and the features.

    Features are one array ``features`` [N, F], or those of a sparse matrix by rows (CSR): ``indptr``, ``indices``, ``shape`` and, where
    they are not all 1, ``values``. ``classes`` names the classes, if it is there.

    Raises:
        InputError: no such file or arrays, or a graph that :class:`Graph` rejects.

    """
    arrays = read_arrays(path, ("edges", "y", "train", "val", "test"), ("features", "indptr", "indices", "shape", "values", "classes"))
    for name in ("edges", "y", "train", "val", "test"):
        if arrays[name].dtype.kind not in "iu":
            raise InputError(f"{path}: {name} must be whole numbers, got {arrays[name].dtype}")
    edges, y, *parts = (torch.from_numpy(arrays[name].astype(np.int64)) for name in ("edges", "y", "train", "val", "test"))
    names = tuple(map(str, arrays["classes"].tolist())) if "classes" in arrays else None
    return Graph(str(path), _features(path, arrays), edges, y, dict(zip(PARTS, parts, strict=True)), names)


def _features(path: Path, arrays: dict[str, Any]) -> Tensor:
    """Return the features of a file, [N, F]."""
    from scipy.sparse import csr_array

    for name in ("features", "values", "indptr", "indices", "shape"):
        if name in arrays and arrays[name].dtype.kind not in ("fiub" if name in ("features", "values") else "iu"):
            what = "numbers" if name in ("features", "values") else "whole numbers"
            raise InputError(f"{path}: {name} must be {what}, got {arrays[name].dtype}")
    if "features" in arrays:
        return torch.from_numpy(arrays["features"].astype(np.float32))
    if missing := [name for name in ("indptr", "indices", "shape") if name not in arrays]:
        raise InputError(f"{path} lacks the array features, or {', '.join(missing)} of a sparse matrix by rows")
    values = arrays.get("values", np.ones(len(arrays["indices"]), np.float32))
    try:
        matrix = csr_array((values, arrays["indices"].astype(np.int64), arrays["indptr"]), shape=tuple(arrays["shape"].tolist()))
        matrix.check_format()
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: indptr, indices and shape are no sparse matrix by rows: {error}") from error
    return torch.from_numpy(matrix.toarray().astype(np.float32))
