"""Values that took a while to compute, kept in JSON files beside a key of all that they depend on.

Where the key is another one (a rule's file was changed, other options, other data), the value is computed anew, and a line says so. Files
that were written before there were keys hold none: whoever reads them says by which of the facts they record they may still be read.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gradlens.runtime.text_files import read_json
from gradlens.training.run_directory import Run, plain
from gradlens.training.run_files import write

KEY = "key"

Content = dict[str, Any]
Facts = Callable[[Content], bool]


def always(_: Content) -> bool:
    """Accept a file without key, whatever it records."""
    return True


def kept(file: Path, key: Mapping[str, Any], without_key: Facts = always) -> Content | None:
    """What a file holds besides its key; None, with a line printed, where it was computed for another one.

    Args:
        file: need not exist.
        key: all that the value depends on: settings, fingerprints, numbers of images.
        without_key: whether a file without key may be read, by what it records.

    """
    if not file.exists():
        return None
    read = read_json(file)
    content: Content = {"rows": read} if isinstance(read, list) else read  # a list alone: rows without key
    wanted, found = _as_json(key), content.pop(KEY, None)
    if found is None:
        if without_key(content):
            return content
        print(f"{file}: computed anew, it has no key and does not record what is wanted now", flush=True)
        return None
    if found == wanted:
        return content
    differ = [name for name in sorted({*wanted, *found}) if wanted.get(name) != found.get(name)]
    print(f"{file}: computed anew, it was made with another {', '.join(differ)}", flush=True)
    return None


def keep(file: Path, key: Mapping[str, Any], value: Mapping[str, Any]) -> Content:
    """Write a value beside its key; return it as it will be read."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = _as_json(value)
    write(file, json.dumps({KEY: _as_json(key), **content}).encode())
    return content


def stored(file: Path, key: Mapping[str, Any], compute: Callable[[], Mapping[str, Any]], without_key: Facts = always) -> Content:
    """What a file holds for a key (:func:`kept`), or what is computed now and kept, with the CPU seconds that it took."""
    content = kept(file, key, without_key)
    if content is None:
        began = time.process_time()
        value = compute()
        content = keep(file, key, {"seconds": time.process_time() - began, **value})
    return content


def data_of(run: Run) -> dict[str, Any]:
    """What tells a run's data from others, for keys: fingerprints, and how many test images there are to choose from."""
    info = run.info
    return {
        "data": [info.get("data_fingerprint"), info.get("source_fingerprint")],
        "images": info.get("source", {}).get("test"),
    }


def _as_json(value: Mapping[str, Any]) -> Content:
    content: Content = json.loads(json.dumps(plain(value), default=str))
    return content
