"""Reference pages: commands, settings, quantities, and the names that ``gradlens`` exports."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path, PurePath
from typing import Any, ForwardRef

import torch
import typer

import gradlens
from gradlens.cli.listing import LISTS
from gradlens.cli.main import app
from gradlens.training.config import Config
from gradlens.training.config_fields import settings_of
from tools.docs.markdown import docstring, inline, table
from tools.docs.run_directory import run_directory

HEADINGS = {  # of the docstring of the package -> names, in the order of the page
    "Compare two training loops": ("capture", "Capture", "diff", "Difference"),
    "Measure in any code": ("compare", "Lens", "LensCallback", "measure", "cosine"),
    "Write a learning rule": (
        "Method", "Signal", "Pass", "Grad", "Update", "NetworkInfo", "top_signal", "relay", "seeded", "check_method", "CheckFailed",
    ),
    "Bring a network or data": ("ModelSpec", "Split"),
    "Train and read runs": ("Config", "make_config", "RunContext", "train_run", "load", "Comparison", "InputError"),
}  # fmt: skip

LINE = 100  # characters of a signature that stands on one line


def write_reference(docs: Path) -> list[Path]:
    """Write the pages below ``docs/reference``; returns them."""
    folder = docs / "reference"
    folder.mkdir(parents=True, exist_ok=True)
    pages = {"cli": _commands(), "settings": _settings(), "quantities": _quantities(), "api": _api(), "models-and-data": _models_and_data()}
    pages["run-directory"] = run_directory()
    for name, lines in pages.items():
        (folder / f"{name}.md").write_text("\n".join(lines), encoding="utf-8")
    return [folder / f"{name}.md" for name in pages]


def _commands() -> Iterator[str]:
    """Every command with its arguments and options."""
    group: Any = typer.main.get_command(app)
    yield from (
        "# Command line",
        "",
        "`gradlens COMMAND --help` prints the same. Options that many commands share are listed under each.",
        "",
    )
    for name, command in sorted(group.commands.items()):
        yield from (f"## gradlens {name}", "", inline(inspect.cleandoc(command.help or "")), "")
        shown = [p for p in command.params if not getattr(p, "hidden", False)]
        arguments = [p for p in shown if p.param_type_name == "argument"]  # typer brings its own click: no class says which is which
        usage = " ".join(("[OPTIONS]", *map(_metavar, arguments)))
        yield from (f"```sh\ngradlens {name} {usage}\n```", "")
        if arguments:
            yield from (
                "**Arguments**",
                "",
                table(("argument", "meaning"), [(f"`{_metavar(p)}`", inline(p.help or "")) for p in arguments]),
            )
        panels: dict[str, list[Any]] = {}
        for option in (p for p in shown if p.param_type_name == "option"):
            panels.setdefault(getattr(option, "rich_help_panel", None) or "Options", []).append(option)
        for panel, options in panels.items():
            yield from (f"**{panel}**", "", table(("option", "meaning"), map(_option, options)))


def _metavar(argument: Any) -> str:
    """Return an argument as usage shows it, one that may be left out in brackets."""
    return argument.metavar or (argument.name.upper() if argument.required else f"[{argument.name.upper()}]")


def _option(option: Any) -> tuple[str, str]:
    """Return the row of an option: its flags, and what it does with its default, where its help leaves that to typer."""
    flags = ", ".join(f"`{word}`" for word in (*option.opts, *option.secondary_opts))
    meaning = inline(option.help or "")
    default = option.default.value if isinstance(option.default, Enum) else option.default
    if not option.is_flag and default not in (None, "", (), []) and not callable(default):
        meaning += f" (default {default})"
    if option.multiple and "repeatable" not in meaning:
        meaning += " (repeatable)"
    return flags if option.is_flag else f"{flags} {option.metavar or 'VALUE'}", meaning


def _settings() -> Iterator[str]:
    """The settings of a run, as they stand in config.json and in a study."""
    yield from (
        "# Settings of a run", "",
        "Fields of `gradlens.Config`, keys of a run's `config.json` and of a `--config` file. Each has a flag of the same name.", "",
    )  # fmt: skip
    panels: dict[str, list[Any]] = {}
    for setting in settings_of(Config).values():
        if setting.text:
            panels.setdefault(setting.panel, []).append(setting)
    for panel, shown in panels.items():
        rows = [(f"`{s.name}`", f"`{s.default}`" if s.default not in (None, "") else "", _meaning(s)) for s in shown]
        yield from (f"## {panel}", "", table(("setting", "default", "meaning"), rows))


def _meaning(setting: Any) -> str:
    choices = (*setting.choices, *setting.names, *setting.typed)
    return inline(setting.text.replace("{choices}", ", ".join(f"`{c}`" for c in choices)))


def _quantities() -> Iterator[str]:
    header, *rows = LISTS["quantities"]()
    yield from (
        "# Quantities", "",
        "A row of a run's tables holds one number of one layer at one step; `gradlens measure RUN_DIR --quantity NAME` adds one later.", "",
        table(header, [(f"`{row[0]}`", *map(inline, row[1:])) for row in rows]),
    )  # fmt: skip


def _models_and_data() -> Iterator[str]:
    yield from ("# Networks and data sets", "")
    for what, title in {"models": "Networks", "data": "Data sets"}.items():
        header, *rows = LISTS[what]()
        yield from (f"## {title}", "", table(header, [(f"`{row[0]}`", *map(inline, row[1:])) for row in rows]))


def _api() -> Iterator[str]:
    """The exported names by what they are for, each with its signature and docstring."""
    listed = [name for names in HEADINGS.values() for name in names]
    rest = [n for n in gradlens.__all__ if n not in (*listed, "METHODS", "__version__")]
    yield from ("# Python", "", "Everything is imported from `gradlens`; the layout of modules inside is no interface.", "")
    for title, names in {**HEADINGS, "Analyse": rest}.items():
        yield from (f"## {title}", "")
        for name in names:
            yield from _entry(name, getattr(gradlens, name))


def _entry(name: str, thing: Any) -> Iterator[str]:
    yield from (f"### `{name}` {{ #{name.lower()} }}", "")
    if (signature := _signature(thing)) is not None:
        yield from ("```python", f"{name}{signature}", "```", "")
    yield docstring(thing)
    if inspect.isclass(thing) and name not in ("Config", "Split", "ModelSpec"):
        members = [pair for kind in thing.__mro__ if kind.__module__.startswith("gradlens.") for pair in vars(kind).items()]
        for attribute, member in members:
            if attribute.startswith("_") or not (inspect.isfunction(member) or isinstance(member, property | classmethod | staticmethod)):
                continue
            yield from (f"#### `{name}.{attribute}` {{ #{name.lower()}-{attribute} }}", "", docstring(getattr(thing, attribute), 5))


class _Text(str):
    """Text that a signature shows without quotation marks."""

    def __repr__(self) -> str:
        return str(self)


def _signature(thing: Any) -> str | None:
    """A signature without the package's own module names, on several lines where it is long; None where there is none to show."""
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return None
    empty = inspect.Parameter.empty
    shown = [
        p.replace(
            annotation=empty if p.annotation is empty else _annotation(p.annotation),
            default=empty if p.default is empty else _Text(_value(p.default)),
        )
        for p in signature.parameters.values()
    ]
    result = signature.return_annotation
    text = str(signature.replace(parameters=shown, return_annotation=empty if result is empty else _annotation(result)))
    if len(text) <= LINE or any(p.kind is p.POSITIONAL_ONLY for p in shown):
        return text
    first_named = next((p for p in shown if p.kind is p.KEYWORD_ONLY), None)
    starred = any(p.kind is p.VAR_POSITIONAL for p in shown)
    lines = [f"    *,\n    {p}," if p is first_named and not starred else f"    {p}," for p in shown]
    return "\n".join(("(", *lines, f"){text.rpartition(')')[2]}"))


def _annotation(annotation: Any) -> _Text:
    """An annotation as the code has it, without the modules of the names."""
    text = annotation.__forward_arg__ if isinstance(annotation, ForwardRef) else annotation
    text = text if isinstance(text, str) else inspect.formatannotation(text)
    for prefix in ("collections.abc.", "typing.", "torch.nn.modules.module.", "pathlib."):
        text = text.replace(prefix, "")
    return _Text(re.sub(r"\bgradlens\.[\w.]*\.(?=\w)", "", text))


def _value(default: Any) -> str:
    """A default as one would type it; three dots for what has no short form."""
    if isinstance(default, PurePath):
        return f"Path({default.as_posix()!r})"
    if isinstance(default, torch.device):
        return f"torch.device({str(default)!r})"
    if isinstance(default, Enum):
        return repr(default.value)
    if inspect.isroutine(default) or isinstance(default, type):
        return "…" if default.__name__ == "<lambda>" else default.__name__
    if type(default).__module__ == "builtins":
        return repr(default)
    return "…" if type(default).__name__.startswith("_") else f"{type(default).__name__}(…)"
