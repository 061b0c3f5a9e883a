"""The command that compares two captured steps; ``main.py`` registers it. A thin shell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gradlens.cli.output import Output, TableFormat
from gradlens.runtime.terminal import say, shell_command

diffed = typer.Typer()


@diffed.command()
def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="a file of gradlens.capture, taken for right; of ranks the name without .rank0")],
    b: Annotated[Path, typer.Argument(metavar="B", help="another")],
    rules: Annotated[
        list[str] | None, typer.Option("--map", help="B=A: give B's layers A's names (a regular expression; q,k,v=qkv joins); repeatable")
    ] = None,
    floor: Annotated[
        list[Path] | None, typer.Option("--floor", help="a capture that repeats A's step: its spread is the same; repeatable")
    ] = None,
    others: Annotated[bool, typer.Option("--others", help="compare captures of other weights or inputs")] = False,
    every: Annotated[bool, typer.Option("--all", help="a line for every tensor, not for those that differ only")] = False,
    form: TableFormat = "text",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="a page as html, works offline")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a file that is no page of a difference")] = False,
) -> None:
    """Find the layer at which two captured steps part: exit status 0 if they are the same within the floor, 1 if not, 2 if unknown."""
    from gradlens.analysis.captures.difference import diff as find_difference
    from gradlens.reporting.html.difference_page import must_be_free, write_difference

    if out is not None:
        must_be_free(out, overwrite)
    found, output = find_difference(a, b, map=rules or (), floor=floor or (), others=others), Output(form)
    output.notice(found.answer)
    table = found.table(every or form != "text")
    if form == "text":
        table.title = ""  # it is the first line
    if table.rows or form != "text":
        output.tables([table])
    else:
        output.notice("\n".join(table.notes))
    if out is not None:
        write_difference(found, out)
        say(f"wrote {shell_command(out)}", aside=form != "text")
    if not found.same:
        raise typer.Exit(1)
