"""The type of a flag, and the flags on how and where runs are made. Those of settings are in ``settings.py``, written from ``Config``."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from gradlens._version import PACKAGE
from gradlens.training.typed_flags import DEVICES

PANELS = ("Data", "Model", "Training", "Course of training", "Machine", "Ranks", "Records")  # of --help, in this order


class Flag(NamedTuple):
    """A flag that commands share."""

    name: str  # as on the command line, without dashes
    type: Any
    help: str  # with the default, where there is one
    panel: str  # one of PANELS
    choices: tuple[str, ...] = ()  # the known names; of a model and of data others may be given
    paired: bool = False  # whether there is a --no- form
    synonyms: tuple[str, ...] = ()  # what others call it: suggested when it is typed


RUN_FLAGS = (
    Flag("data-dir", Path, "folder of the named data sets (default ~/.cache/gradlens)", "Data", synonyms=("data-root", "root")),
    Flag("download", bool, "fetch a named data set that is missing", "Data", paired=True),
    Flag(
        "no-cache",
        bool,
        "decode an image folder anew, keep nothing of it in ~/.cache/gradlens/images or $GRADLENS_CACHE/images (default off)",
        "Data",
    ),
    Flag(
        "seeds",
        int,
        "K runs, seeds from --seed on; tables show mean and 95% interval (default 1)",
        "Course of training",
        synonyms=("num-seeds", "seed-list"),
    ),
    Flag(
        "set",
        list[str],
        "name=value or method.name=value: a method's own option, or its own lr; task.name=value; repeatable",
        "Training",
    ),
    Flag("config", Path, "JSON file of settings, or a run's config.json; flags win over it", "Training"),
    Flag("device", str, f"{', '.join(DEVICES)} (default {DEVICES[0]})", "Machine", synonyms=("gpu", "gpus", "cuda", "accelerator")),
    Flag("threads", int, "CPU threads (default all)", "Machine", synonyms=("num-threads", "workers", "num-workers")),
    Flag("tensorboard", bool, "write scalars and filters to RUN_DIR/tensorboard while training (extra tensorboard)", "Records"),
    Flag(
        "out",
        Path,
        "folder of run directories (default runs)",
        "Records",
        synonyms=("output", "output-dir", "out-dir", "save-dir", "logdir"),
    ),
    Flag("run-name", str, "name of the run directory (default <method>-<data>-<model>-s<seed>-<config>)", "Records", synonyms=("name",)),
    Flag("resume", bool, "continue an interrupted run", "Records", synonyms=("continue",)),
    Flag("overwrite", bool, "replace an existing run", "Records", synonyms=("force",)),
    Flag("quiet", bool, "no progress display", "Records", synonyms=("silent",)),
)

REGISTRIES = {  # where the names of each kind stand, in files of the package
    "methods": ("methods/__init__.py",),
    "models": ("models/zoo.py",),
    "data": ("data/datasets.py",),
    "tasks": ("tasks/registry.py",),
    "quantities": ("gradients/alignment.py", "gradients/diagnostics.py"),
    "settings": ("training/config.py", "training/setting_groups.py", "models/spec.py", "gradients/losses.py", "data/transforms.py"),
}


def digest(file: str) -> str:
    """Return a hash of a file of the package, which shows whether what was written from it is stale; empty where there is none."""
    path = PACKAGE / file
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()[:12] if path.is_file() else ""
