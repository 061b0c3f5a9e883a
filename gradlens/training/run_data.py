"""The data that a run was trained on: what is stored of them, where they are now, and how others differ from them.

A run depends on its data, not on their path: the data are identified by their fingerprint, wherever they were read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradlens.data.geometric import GEOMETRIC
from gradlens.data.split import Data, Split, label_hash
from gradlens.runtime.errors import InputError
from gradlens.runtime.paths import is_there
from gradlens.runtime.user_code import is_reference
from gradlens.tasks.registry import TASKS
from gradlens.tasks.task import Task
from gradlens.training.config import Config


def is_place(name: str) -> bool:
    """Return whether data are named by a path, which may change: a folder, an ``.npz`` file, ``FILE.py:build``."""
    return not name.startswith(GEOMETRIC) and not any(name in task.data_sets() for task in TASKS.values())


def _split_place(place: str) -> tuple[Path, str]:
    """Return the file or folder of a place, and what stands behind its path."""
    if is_reference(place):
        file, _, name = place.rpartition(":")
        return Path(file), f":{name}"
    return Path(place), ""


def absolute(place: str) -> str:
    """Return a place by its absolute path."""
    path, rest = _split_place(place)
    return f"{path.absolute()}{rest}"


def data_info(name: str, data: Data) -> dict[str, Any]:
    """Return what a run's config.json holds of its data.

    Two fingerprints: ``data_fingerprint`` of the images and labels that were chosen, ``source_fingerprint`` of all that they were
    chosen from (not where only the chosen images of a folder were decoded).

    Args:
        name: of the data in the config.
        data: as they were loaded.

    """
    unlabelled = {} if data.unlabelled is None else {"unlabelled": len(data.unlabelled)}
    info: dict[str, Any] = {
        "data_fingerprint": data.fingerprint(),
        "label_hash": label_hash(data.train),
        "classes": len(data.classes),
        "images": {"train": _examples(data.train), data.test_name: _examples(data.test), **unlabelled},
    }
    if data.origin is not None:
        of_all = {"train": data.origin.train, "test": data.origin.test, "image": list(data.shape), "classes": list(data.classes)}
        info["source"] = {**({"path": absolute(name)} if is_place(name) else {}), **of_all}
    if of_all_images := data.source_fingerprint():
        info["source_fingerprint"] = of_all_images
    return info


def _examples(split: Split) -> int:
    """Count the examples of a part; of a graph, which is whole in every part, its labelled nodes."""
    return int((split.y >= 0).sum()) if split.context and split.y.ndim == 1 else len(split)


def place_now(config: Config, info: Mapping[str, Any], run: Path) -> str:
    """Return the name under which a run's data are found now: where they were, or by the same path below the folder we are in.

    Args:
        config: the run's.
        info: the rest of its config.json.
        run: its directory.

    Raises:
        InputError: they are in neither place.

    """
    name = config.data.name
    if not is_place(name):
        return name
    for place in (info.get("source", {}).get("path"), name):
        if place and is_there(_split_place(place)[0]):
            return str(place)
    raise InputError(f"{name}, the data of {run}, are not there: set --data PATH to where they are now")


def others(then: Mapping[str, Any], now: Mapping[str, Any], task: Task) -> str:
    """Return how data differ from those of a run, the first difference only.

    Args:
        then: the run's :func:`data_info`; runs of earlier versions have less of it.
        now: that of other data.
        task: the run's.

    """
    known, found = (info.get("source", {}).get("classes", ()) for info in (then, now))
    if strange := task.unknown_class(known, found):
        return strange
    before, here = _facts(then, task), _facts(now, task)
    for what, value in before.items():
        if here.get(what, value) != value:
            return f"{what}: {value} then, {here[what]} now"
    if then.get("source_fingerprint") and then["source_fingerprint"] == now.get("source_fingerprint"):
        return f"it is the same data set, from which other {task.example}s were chosen then"
    if then.get("label_hash") != now.get("label_hash"):
        return f"as many {task.example}s, with other labels or in another order"
    return f"as many {task.example}s with the same labels, but other {'pixels' if task.example == 'image' else 'content'}"


def _facts(info: Mapping[str, Any], task: Task) -> dict[str, str]:
    """Return the facts that identify data for people, the most informative first."""
    source, images = info.get("source", {}), info.get("images", {})
    shape = "images of C x H x W" if task.example == "image" else f"shape of a {task.example}"
    facts = {shape: "x".join(map(str, source["image"])) if "image" in source else None}
    facts |= {f"{half} {task.example}s in all": source.get(half) for half in ("train", "test")}
    facts |= {f"{half} {task.example}s": n for half, n in images.items()}
    facts |= {"number of classes": info.get("classes")} | {f"class {i}": name for i, name in enumerate(source.get("classes", ()))}
    return {what: str(value) for what, value in facts.items() if value is not None}
