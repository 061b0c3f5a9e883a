"""Settings in a JSON file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gradlens.runtime.errors import InputError
from gradlens.runtime.text_files import read_json


def read_settings(path: Path) -> dict[str, Any]:
    """Read the settings in a JSON file as they are there: a bare config, or a run's config.json. Needs no torch.

    Raises:
        InputError: no such file, or not JSON of that form.

    """
    content = read_json(path, "the config file", "a JSON config")
    settings = content.get("config", content) if isinstance(content, dict) else content
    if not isinstance(settings, dict) or not isinstance(settings.get("options", {}), dict):
        raise InputError(f"{path} is not a JSON config: expected an object of settings, with options an object too")
    return settings


@contextmanager
def named(path: Path | None) -> Iterator[None]:
    """Name the config file in errors that are raised inside; None: name no file."""
    try:
        yield
    except InputError as error:
        if path is None or str(path) in str(error):
            raise
        raise InputError(f"{path}: {error}") from error


def read_config_file(path: Path) -> dict[str, Any]:
    """Read the settings in a JSON file, and register the rules and networks of a user's files that it names.

    Raises:
        InputError: no such file, not JSON of that form, or a file of the user's that cannot be imported.

    """
    from gradlens.training.user_references import settle_references  # with torch, which `read_settings` does not wait for

    return settle_references(read_settings(path))
