"""A field of ``Config`` with all that is said of it: its help, its choices, its panel. ``tools/write_settings.py`` makes flags of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel, Field


def setting(
    default: Any,
    text: str,
    panel: str = "",
    *,
    choices: Collection[str] = (),
    names: Collection[str] = (),
    typed: Collection[str] = (),
    synonyms: Collection[str] = (),
    since: str | None = None,
    **limits: Any,
) -> Any:
    """A field that is a flag.

    Args:
        default: its value where nothing is said.
        text: its help; ``{choices}`` in it is replaced by what is known, and the default is added unless it is None.
        panel: the heading of `gradlens train --help` under which it stands.
        choices: what it may be; a registry is kept, not copied, so that names added later count.
        names: what is known where other values may be given too.
        typed: what may be typed besides, and is resolved before a config is made.
        synonyms: what others call the flag: suggested when it is typed.
        since: the version that added it, for a setting later than 0.1.0 (:meth:`Config.digest`).
        limits: pydantic's: ``ge``, ``lt`` …

    """
    said: dict[str, Any] = {"panel": panel, "choices": choices, "names": names, "typed": typed, "synonyms": synonyms}
    return Field(default, description=text, json_schema_extra=said | ({"since": since} if since else {}), **limits)


class Setting(NamedTuple):
    """What is said of one setting."""

    name: str  # in config.json
    default: Any
    type: type  # of its flag
    text: str  # empty: no flag
    panel: str
    choices: Collection[str]
    names: Collection[str]
    typed: Collection[str]
    synonyms: Collection[str]


def _type_of_flag(annotation: Any) -> type:
    """The type of what is typed; lists are typed with commas."""
    (kind,) = {a for a in get_args(annotation) if a is not type(None)} if type(None) in get_args(annotation) else {annotation}
    if get_origin(kind) is Literal:
        return type(get_args(kind)[0])
    return kind if kind in (bool, int, float) else str


def extra_of(field: Any) -> Mapping[str, Any]:
    """What is said of a field beyond pydantic's own."""
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


def settings_of(config: type[BaseModel]) -> dict[str, Setting]:
    """The settings of a config, in the order of config.json."""
    found = {}
    for name, field in config.model_fields.items():
        said = {"panel": "", "choices": (), "names": (), "typed": (), "synonyms": (), **extra_of(field)}
        said.pop("since", None)
        found[name] = Setting(name, field.default, _type_of_flag(field.annotation), field.description or "", **said)
    return found
