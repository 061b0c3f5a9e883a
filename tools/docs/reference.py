"""Reference pages: commands, settings, quantities, and the names that ``gradlens`` exports."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import typer

import gradlens
from gradlens.cli.listing import LISTS
from gradlens.cli.main import app
from gradlens.training.config import Config
from gradlens.training.config_fields import settings_of
from tools.docs.markdown import docstring, inline, table
from tools.docs.run_directory import run_directory

HEADINGS = {  # of the docstring of the package -> names, in the order of the page
    "Measure in any code": ("compare", "Lens", "LensCallback", "measure", "cosine"),
    "Write a learning rule": (
        "Method", "Signal", "Pass", "Grad", "Update", "NetworkInfo", "top_signal", "relay", "seeded", "check_method", "CheckFailed",
    ),
    "Bring a network or data": ("ModelSpec", "Split"),
    "Train and read runs": ("Config", "make_config", "RunContext", "train_run", "load", "Comparison", "InputError"),
}  # fmt: skip


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
        usage = " ".join(p.make_metavar(click.Context(command)) for p in command.params if isinstance(p, click.Argument))
        yield from (f"```sh\ngradlens {name} [OPTIONS] {usage}".rstrip(), "```", "")
        options = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
        panels: dict[str, list[Any]] = {}
        for option in options:
            panels.setdefault(getattr(option, "rich_help_panel", None) or "Options", []).append(option)
        for panel, shown in panels.items():
            yield from (f"**{panel}**", "", table(("option", "meaning"), [(_flag(p), inline(p.help or "")) for p in shown]))


def _flag(option: Any) -> str:
    both = ", ".join(f"`{word}`" for word in (*option.opts, *option.secondary_opts))
    return both if option.is_flag else f"{both} {option.type.name}"


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


def _signature(thing: Any) -> str | None:
    """A signature without the package's own module names; None where there is none to show."""
    try:
        signature = str(inspect.signature(thing))
    except (TypeError, ValueError):
        return None
    for prefix in ("collections.abc.", "typing.", "torch.nn.modules.module.", "pathlib."):
        signature = signature.replace(prefix, "")
    return None if len(signature) > 600 else signature
