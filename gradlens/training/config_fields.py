"""Metadata of the fields of ``Config``: help, choices, panel. ``tools/write_settings.py`` makes flags of them.

In code settings stand in groups (``config.optimizer.lr``); config.json, flags and run names use one flat name each (``lr``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any, ClassVar, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError, field_validator

from gradlens.runtime.classes import is_subclass
from gradlens.runtime.errors import InputError, unknown

EVERYTHING = "gradlens train --help"  # prints all settings and choices


def setting(
    default: Any,
    text: str,
    *,
    flat: str = "",
    panel: str = "",
    choices: Collection[str] = (),
    names: Collection[str] = (),
    typed: Collection[str] = (),
    synonyms: Collection[str] = (),
    since: str | None = None,
    own: bool = False,
    **limits: Any,
) -> Any:
    """Define a field that is a flag.

    Args:
        default: its value if it is not set.
        text: its help; ``{choices}`` in it is replaced by the known names, and the default is added unless it is None.
        flat: its name in config.json and as a flag; default: the field's.
        panel: the heading of `gradlens train --help` under which it stands; default: that of its group.
        choices: what it may be; a registry is kept, not copied, so that names added later count.
        names: the known names where other values may be given too.
        typed: what may be typed besides, and is resolved before a config is made.
        synonyms: what others call the flag: suggested when it is typed.
        own: the value may name code in a user's file too; whether it is known is checked on the whole config.
        since: the version that added it, for a setting later than 0.1.0 (:meth:`Config.digest`).
        limits: pydantic's: ``ge``, ``lt`` …

    """
    meta: dict[str, Any] = {"flat": flat, "panel": panel, "choices": choices, "names": names, "typed": typed, "synonyms": synonyms}
    meta |= {"since": since} if since else {}
    return Field(default, description=text, json_schema_extra=meta | ({"own": own} if own else {}), **limits)


class Settings(BaseModel, frozen=True, extra="forbid"):
    """Settings that belong together."""

    PANEL: ClassVar[str] = ""  # of --help, under which they stand

    @field_validator("*")
    @classmethod
    def _known(cls, value: Any, info: Any) -> Any:
        meta = extra_of(cls.model_fields[info.field_name])
        if meta.get("choices") and not meta.get("own") and value not in meta["choices"]:
            raise unknown((meta["flat"] or info.field_name).replace("_", " "), value, meta["choices"], EVERYTHING)
        return value


class Setting(NamedTuple):
    """Metadata of one setting."""

    name: str  # in config.json
    path: tuple[str, ...]  # in code: its group, if it has one, and its name there
    default: Any
    type: type  # of its flag
    text: str  # empty: no flag
    panel: str
    choices: Collection[Any]
    names: Collection[str]
    typed: Collection[str]
    synonyms: Collection[str]
    since: str | None
    own: bool


def _type_of_flag(annotation: Any) -> type:
    """Return the type of what is typed; lists are typed with commas."""
    (kind,) = {a for a in get_args(annotation) if a is not type(None)} if type(None) in get_args(annotation) else {annotation}
    if get_origin(kind) is Literal:
        return type(get_args(kind)[0])
    return kind if kind in (bool, int, float) else str


def _named_values(annotation: Any) -> tuple[Any, ...]:
    """Return the values that a type names: those of its ``Literal``."""
    return next((get_args(kind) for kind in (annotation, *get_args(annotation)) if get_origin(kind) is Literal), ())


def extra_of(field: Any) -> Mapping[str, Any]:
    """Return a field's metadata beyond pydantic's own."""
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


UNSET: Mapping[str, Any] = {
    "flat": "", "panel": "", "choices": (), "names": (), "typed": (), "synonyms": (), "since": None, "own": False
}  # fmt: skip


@lru_cache
def settings_of(kind: type[Settings]) -> Mapping[str, Setting]:
    """Return the settings of a config by their flat names, in the order of config.json."""
    found: dict[str, Setting] = {}
    for name, field in kind.model_fields.items():
        if is_subclass(field.annotation, Settings):
            inside = settings_of(field.annotation)
            found |= {flat: setting._replace(path=(name, *setting.path)) for flat, setting in inside.items()}
            continue
        meta = {**UNSET, **extra_of(field)}
        meta["choices"] = meta["choices"] or _named_values(field.annotation)
        flat, panel, default = meta.pop("flat") or name, meta.pop("panel") or kind.PANEL, field.get_default(call_default_factory=True)
        found[flat] = Setting(flat, (name,), default, _type_of_flag(field.annotation), field.description or "", panel, **meta)
    return found


def nested(kind: type[Settings], flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by their flat names, in their groups.

    Raises:
        InputError: a setting that there is none of.

    """
    known, out = settings_of(kind), dict[str, Any]()
    for name, value in flat.items():
        if name not in known:
            raise unknown("setting", name, known, EVERYTHING)
        *group, last = known[name].path
        (out.setdefault(group[0], {}) if group else out)[last] = value
    return out


def flattened(config: Settings) -> dict[str, Any]:
    """Return settings by their flat names, in the order of config.json."""
    groups, out = config.model_dump(), dict[str, Any]()
    for name, setting in settings_of(type(config)).items():
        value: Any = groups
        for part in setting.path:
            value = value[part]
        out[name] = value
    return out


def later_defaults(kind: type[BaseModel], values: Mapping[str, Any]) -> set[str]:
    """List the options marked as added after version 0.1.0 (``since``, see :meth:`Config.digest`) whose value is their default."""
    later = {name: field for name, field in kind.model_fields.items() if "since" in extra_of(field)}
    return {name for name, field in later.items() if values.get(name) == field.get_default(call_default_factory=True)}


def sentence(error: ValidationError, kind: type[Settings] | None = None, command: str | None = None) -> str:
    """Describe pydantic's first error in one sentence that names the field, or its flag if it is one of these settings.

    Args:
        error: pydantic's.
        kind: the settings that were given, of which each has a flag.
        command: lists the values that a field may have; of such settings it is known.

    """
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        return str(cause)
    named = [s.name for s in (settings_of(kind).values() if kind else ()) if first["loc"][: len(s.path)] == s.path]
    label = f"--{named[0].replace('_', '-')}: " if named else f"{first['loc'][0] if first['loc'] else 'config'}: "
    if first["type"] == "literal_error":
        wanted = re.findall(r"'([^']+)'|(\d+)", first["ctx"]["expected"])
        known = [word or number for word, number in wanted]
        return label + str(unknown("value", str(first["input"]), known, EVERYTHING if kind else command))
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"{label}{message}, got {first['input']!r}"
