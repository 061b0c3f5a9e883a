"""The flags of commands: what was typed, or one sentence on a name that is not known. Nothing heavy is imported."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from gradlens.cli.flags import PANELS, RUN_FLAGS, Flag
from gradlens.cli.settings import DATASETS, METHODS, MODELS, SETTINGS
from gradlens.runtime.errors import unknown
from gradlens.runtime.text_files import read_json
from gradlens.runtime.torchrun_environment import is_launched

FLAGS = tuple(sorted((*SETTINGS, *RUN_FLAGS), key=lambda flag: PANELS.index(flag.panel)))
SYNONYMS = {f"--{word}": f"--{flag.name}" for flag in FLAGS for word in flag.synonyms}


def _option(flag: Flag) -> Any:
    name = f"--{flag.name}/--no-{flag.name}" if flag.paired else f"--{flag.name}"
    return typer.Option(name, help=flag.help, rich_help_panel=flag.panel, show_default=False)


def _reading_shown(quiet: bool) -> AbstractContextManager[None]:
    """Images that a command reads are counted on stderr, unless it is to be quiet."""
    from gradlens.cli.progress import Reading
    from gradlens.runtime.progress import no_progress, shows_reading

    return shows_reading(no_progress if quiet else Reading())


def with_flags(*names: str, rules: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command shared flags: those that were typed arrive in its ``given`` dict, names among them that are unknown are refused.

    Args:
        names: of flags, or of panels, which stand for all flags in them; none: all flags.
        rules: the command's argument that names rules.

    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "given"]
        flags = [f for f in FLAGS if not names or f.name in names or f.panel in names]
        shared = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[f.type | None, _option(f)])
            for f in flags
            for name in [f.name.replace("-", "_")]
        ]

        @functools.wraps(command)
        def run(**arguments: Any) -> None:
            given = {p.name: arguments.pop(p.name) for p in shared}
            given = {k: v for k, v in given.items() if v is not None and v != []}
            if not is_launched():  # several ranks first meet, so that one of them speaks
                typed = arguments.get(rules) if rules else None
                refuse_unknown_names([typed] if isinstance(typed, str) else typed or (), given)
            with _reading_shown(bool(given.get("quiet"))):
                command(**arguments, given=given)

        params = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + shared
        run.__signature__ = inspect.Signature(params)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in params}
        return run

    return decorate


# ---------------------------------------------------------------------------------------------------- names that are unknown


def refuse_unknown_names(rules: Iterable[str], given: Mapping[str, Any]) -> None:
    """Refuse what can be known to be wrong before torch is imported.

    Args:
        rules: names of rules, files of theirs, or run directories.
        given: flags, with underscores.

    Raises:
        InputError: a name that is none.

    """
    own = _names_in(given["config"]) if "config" in given else set()
    for name in rules:
        if name not in METHODS and name not in own and not _is_elsewhere(name):
            raise unknown("method", name, METHODS)
    for flag in FLAGS:
        value = given.get(flag.name.replace("-", "_"))
        if value is None or not flag.choices or value in flag.choices:
            continue
        if flag.name == "data":
            if not _is_elsewhere(value):
                raise unknown("data set", value, DATASETS)
        elif flag.name == "model":
            if value not in own and not _is_elsewhere(value):
                raise unknown("model", value, MODELS)
        else:
            raise unknown(flag.name.replace("-", " "), value, flag.choices, "gradlens train --help")


def _is_elsewhere(name: str) -> bool:
    """Whether a word is no bare name: a file or what is in it, a folder, ``torchvision:NAME``. Whether it is there is seen later."""
    return ":" in name or "/" in name or Path(name).suffix in (".py", ".npz") or Path(name).exists()


def _names_in(file: Path) -> set[str]:
    """The names under which a config file knows a user's own rule and network."""
    with suppress(ValueError, TypeError, AttributeError):  # of a file that is no config, the command tells
        content = read_json(file)
        settings = content.get("config", content)
        return {settings.get(kind) for kind in dict(settings.get("own", {}))}
    return set()


# ------------------------------------------------------------------------------------------------------- run directories


def without_figures(paths: list[Path]) -> list[Path]:
    """Run directories as ``runs/*`` gives them, without the folder ``figures`` that compare-gradients draws into beside them."""
    return [path for path in paths if path.name != "figures" or not path.is_dir() or (path / "config.json").exists()] or paths


def runs_given(help_: str) -> Any:
    """The argument of commands that read several run directories."""
    return typer.Argument(metavar="RUN_DIR...", callback=without_figures, help=help_)
