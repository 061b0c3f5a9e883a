"""The command line: a thin shell. Nothing heavy is imported before a command runs, so that ``--help`` is fast."""

from __future__ import annotations

import os
import platform
import sys
import traceback
from contextlib import nullcontext
from importlib.metadata import version
from importlib.util import find_spec
from typing import Annotated, Any, NoReturn

import typer

from gradlens._version import __version__
from gradlens.cli.analysis import learned
from gradlens.cli.bench_command import benched
from gradlens.cli.diff import diffed
from gradlens.cli.export import exported
from gradlens.cli.list_command import listed
from gradlens.cli.options import SYNONYMS
from gradlens.cli.schematic import drawn
from gradlens.cli.sweep import studied
from gradlens.cli.timeline import seen
from gradlens.cli.train import trained
from gradlens.runtime.errors import InputError, nearest
from gradlens.runtime.paths import OF_THE_SYSTEM, reason
from gradlens.runtime.terminal import accept_all_text, one_line, printing, say, shell_command
from gradlens.runtime.torchrun_environment import is_launched

app = typer.Typer(
    name="gradlens",
    help="Train networks with backprop or a rule that replaces it; measure how far the gradient it used is from the true one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(trained)
app.add_typer(benched)
app.add_typer(listed)
app.add_typer(learned)
app.add_typer(exported)
app.add_typer(studied)
app.add_typer(seen)
app.add_typer(drawn)
app.add_typer(diffed)


def _print_versions(wanted: bool) -> None:
    """Print one line and leave; torch is not imported for it."""
    if wanted:
        torch = version("torch") if find_spec("torch") else "none"
        say(f"gradlens {__version__}, Python {platform.python_version()}, torch {torch}")
        raise typer.Exit


BEGIN = """gradlens COMMAND [OPTIONS], for example

  gradlens compare-gradients      train bp, dgl, dni and cdni on small digits and compare their gradients
  gradlens train dgl              train one rule
  gradlens list methods           the rules there are; also models, data, quantities
  gradlens show RUN_DIR           what a run is and how far it came

`gradlens --help` lists all commands, `gradlens COMMAND --help` what one takes."""


def _begin() -> int:
    """Print a few commands, if nothing is typed; return the exit status."""
    say(BEGIN)
    return 2


@app.callback()
def versions(
    show: Annotated[bool, typer.Option("--version", is_eager=True, callback=_print_versions, help="Print the versions and leave.")] = False,
) -> None:
    """Handle the options before a command."""


# -------------------------------------------------------------------------------------------------------------- main

NEAR = 0.6  # how like an option must be to what was typed, letter by letter, to be what was meant


def _sentence(error: Any) -> str:
    """Write a usage error of the command line as one sentence; an unknown flag gets the nearest known ones."""
    message = str(error.format_message()).replace("\n", " ").rstrip(".")
    name, ctx = getattr(error, "option_name", None), getattr(error, "ctx", None)
    if name and ctx and "No such option" in message:
        known = [o for p in ctx.command.params for o in [*p.opts, *p.secondary_opts] if o.startswith("--")]
        dashed = str(name).replace("_", "-")
        called = [o for o in (dashed, SYNONYMS.get(dashed, "")) if o in known] or nearest(dashed, known, NEAR)
        return f"no such option {name}{'; nearest: ' * bool(called)}{', '.join(called)} (`{ctx.command_path} --help` lists all)"
    return message[:1].lower() + message[1:]


RESUMED = (
    "train",
    "compare-gradients",
    "memorize",
)  # commands that take --resume; the others store what is done and continue by themselves


def _again() -> str:
    """Return the command line that continues what this one began."""
    words = [a for a in sys.argv[1:] if a not in ("--resume", "--overwrite")]
    return shell_command("gradlens", *words, *(["--resume"] if words[:1] and words[0] in RESUMED else []))


def _stopped_at_once() -> str:
    """Return what to do after Ctrl-C; a training that it meets once its run is begun is a ``Stopped`` instead."""
    if sys.argv[1:2] == ["train"]:
        return f"stopped while nothing was in training; `{shell_command('gradlens', *sys.argv[1:])}` starts again"
    kept = "from the last checkpoint of a run" if sys.argv[1:] and sys.argv[1] in RESUMED else "with what is not stored yet"
    return f"stopped at once; `{_again()}` continues {kept}"


def main() -> None:
    """Run the program: input that cannot be used is one sentence on stderr and exit status 2, without a traceback."""
    status = 0
    accept_all_text()
    try:
        if is_launched() and sys.argv[1:2] not in ([], ["train"], ["bench"]) and "-h" not in sys.argv and "--help" not in sys.argv:
            raise InputError("only `gradlens train` and `gradlens bench` run on several ranks")
        with printing() if {"-h", "--help"} & {*sys.argv} else nullcontext():  # typer prints that by itself
            status = (app(standalone_mode=False) or 0) if sys.argv[1:] else _begin()
    except (KeyboardInterrupt, typer.Abort):
        status = 130
    except Exception as error:  # noqa: BLE001 - reported to the user, or raised again
        status = _report(error) if _prints() else _status(error)
        _end(status)
    if status == 130 and _prints():
        say(f"gradlens: {_stopped_at_once()}", aside=True)
    _end(status)


def _prints() -> bool:
    """Return whether this process reports errors: only one of several ranks does."""
    process_group = sys.modules.get("gradlens.runtime.process_group")
    return process_group is None or process_group.current_process_group().claim_error_report()


def _end(status: int) -> NoReturn:
    """Leave: of several ranks without waiting for those that are gone."""
    process_group = sys.modules.get("gradlens.runtime.process_group")
    if process_group is not None and not process_group.current_process_group().is_single_process:
        if status:
            process_group.stop(status)
        process_group.leave()
    sys.exit(status)


def _status(error: Exception) -> int:
    """Return the exit status of an error: 2 for input that cannot be used, a stopped run's own, 1 for a bug."""
    from gradlens.runtime.errors import Stopped

    if isinstance(error, Stopped):
        return error.status
    return 2 if isinstance(error, InputError) or hasattr(error, "format_message") else 1


def _report(error: Exception) -> int:
    """Print an error in one line; an exception that is not one of gradlens's is a bug and keeps its traceback."""

    if isinstance(error, InputError):
        say(f"{error.trace}gradlens: {one_line(str(error))}", aside=True)
        return 2
    if hasattr(error, "format_message"):
        say(f"gradlens: {one_line(_sentence(error))}", aside=True)
        return 2
    from gradlens.runtime.errors import INTERRUPTED, Stopped

    if isinstance(error, Stopped):
        again = f"; `{_again()}` continues" if error.status == INTERRUPTED else ""
        say(f"gradlens: {one_line(str(error))}{again}", aside=True)
        return error.status
    user_code = sys.modules.get("gradlens.runtime.user_code")
    if user_code is not None and (trace := user_code.trace_of(error)):  # in a rule or network of the user's
        say(f"{trace}gradlens: {one_line(user_code.raised(error))}", aside=True)
        return 2
    if isinstance(error, OSError) and error.errno in OF_THE_SYSTEM:
        where = f" {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
        say(f"gradlens: cannot read or write{where}: {reason(error)}", aside=True)
        return 1
    if is_launched():  # the others wait for this process: it must end
        traceback.print_exception(error)
        return 1
    raise error
