"""The flags of commands, and the arguments that several share. Nothing heavy is imported."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Annotated, Any

import typer

from gradlens.cli.early_checks import check_given, only_place
from gradlens.cli.flags import PANELS, RUN_FLAGS, Flag
from gradlens.cli.settings import DEFAULT_RULES, SETTINGS
from gradlens.runtime.torchrun_environment import is_launched

FLAGS = tuple(sorted((*SETTINGS, *RUN_FLAGS), key=lambda flag: PANELS.index(flag.panel)))
OF_AN_UPDATE = ("data", "data-dir", "download", "no-cache", "Model", "Training", "device", "threads", "quiet")  # what timing one takes
SYNONYMS = {f"--{word}": f"--{flag.name}" for flag in FLAGS for word in flag.synonyms}


def _option(flag: Flag) -> Any:
    name = f"--{flag.name}/--no-{flag.name}" if flag.paired else f"--{flag.name}"
    return typer.Option(name, help=flag.help, rich_help_panel=flag.panel, show_default=False)


def _reading_shown(quiet: bool) -> AbstractContextManager[None]:
    """Count the images that a command reads on stderr, unless it is to be quiet."""
    from gradlens.runtime.progress import Reading, no_progress, shows_reading

    return shows_reading(no_progress if quiet else Reading())


def with_flags(
    *names: str, rules: str | None = None, or_runs: bool = False, needed: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command shared flags: those that were typed arrive in its ``given`` dict, what is wrong among them is refused.

    Args:
        names: of flags, or of panels, which stand for all flags in them; none: all flags.
        rules: the command's argument that names rules.
        or_runs: whether that may name run directories, too.
        needed: whether a rule must be named, there or in a config file.

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
            if not is_launched():  # several ranks first synchronise, so that only one reports
                typed = arguments.get(rules) if rules else None
                check_given([typed] if isinstance(typed, str) else typed or (), given, or_runs=or_runs, needed=needed)
            with _reading_shown(bool(given.get("quiet"))):
                command(**arguments, given=given)

        params = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + shared
        run.__signature__ = inspect.Signature(params)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in params}
        return run

    return decorate


# ------------------------------------------------------------------------------------------------------------ arguments


def default_help(command: str) -> str:
    """Return the help of an argument that may be left out: the rules that a command then takes."""
    return f"default: {' '.join(DEFAULT_RULES.get(command, ()))}"


def data_given() -> Any:
    """Return the option of commands that read runs' images again: where these lie now."""
    return typer.Option(
        "--data",
        callback=only_place,
        rich_help_panel="Data",
        help="where the runs' images are now, if they were moved: a folder, an .npz file, FILE.py:build",
    )
