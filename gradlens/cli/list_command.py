"""The command that lists methods, models, data sets and quantities; ``main.py`` registers it. A thin shell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from gradlens.cli.options import with_flags
from gradlens.cli.output import Output, TableFormat
from gradlens.runtime.errors import InputError

listed = typer.Typer()


@listed.command("list")
@with_flags("threads", "quiet")
def list_(
    what: Annotated[str, typer.Argument(metavar="methods|models|data|tasks|quantities", help="what to list")],
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="only these; of a method, or FILE.py:Class, all details")
    ] = None,
    long: Annotated[bool, typer.Option("--long", help="methods: measure each one's locking and cost card on this machine")] = False,
    full: Annotated[bool, typer.Option("--full", help="with --long: three rounds of measuring instead of one")] = False,
    form: TableFormat = "text",
    *,
    given: dict[str, Any],
) -> None:
    """List methods (of a NAME or FILE.py:Class its equation, options, paper and locks), models, data sets, tasks, quantities."""
    from gradlens.cli.listing import check_long, details, listing, must_be_listed

    output = Output(form)
    if long or full:
        check_long(what, names or ())
        must_be_listed(what, names or ())
        _cards(names, given, full, output)
    elif names and what == "methods":
        output.tables(list(details(names)))
    else:
        output.tables([listing(what, names or (), form)])


def _cards(names: Sequence[str] | None, given: dict[str, Any], full: bool, output: Output) -> None:
    """Measure and print what rules cost: those named, or all that need no teacher."""
    from gradlens.cli.progress import Display
    from gradlens.reporting.benchmarks import cards_table
    from gradlens.training.context import set_up_process
    from gradlens.training.cost.method_cards import CARDED, FULL_ROUNDS, ROUNDS, cards

    for name in names or ():
        if name not in CARDED:
            raise InputError(f"--long: {name} cannot be measured by itself: it learns from a trained network (--teacher RUN_DIR)")
    quiet, context, rounds = given.pop("quiet", False), set_up_process(given), FULL_ROUNDS if full else ROUNDS
    with Display(quiet) as display:
        found = cards(context.device, display.count("measuring"), names or CARDED, rounds)
    output.tables([cards_table(found, rounds)])
