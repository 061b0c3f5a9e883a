"""Settings in a JSON file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from gradlens.runtime.errors import InputError
from gradlens.training.user_references import settle_references


def read_config_file(path: Path) -> dict[str, Any]:
    """The settings in a JSON file: a bare config, or a run's config.json.

    Raises:
        InputError: no such file, or not JSON of that form.

    """
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"cannot read the config file {path}: {os.strerror(error.errno or 0)}") from error
    except ValueError as error:
        raise InputError(f"{path} is not a JSON config: {error}") from error
    settings = content.get("config", content) if isinstance(content, dict) else content
    if not isinstance(settings, dict) or not isinstance(settings.get("options", {}), dict):
        raise InputError(f"{path} is not a JSON config: wanted an object of settings, its options an object too")
    return settle_references(settings)
