"""The command that writes the comparison of runs for papers and programs; ``main.py`` registers it. A thin shell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gradlens.cli.output import one_of_formats
from gradlens.cli.run_arguments import runs_given
from gradlens.runtime.tables import FORMATS, written
from gradlens.runtime.terminal import say, shell_command, write_out
from gradlens.runtime.text_files import encode

exported = typer.Typer()


@exported.command()
def export(
    run_dirs: Annotated[list[Path], runs_given("run directories, of one method or several, or a comparison folder")],
    form: Annotated[str, typer.Option("--format", callback=one_of_formats, help=f"{', '.join(FORMATS)}")] = "md",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="a file [stdout]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a file that is there")] = False,
) -> None:
    """Write the comparison of runs for a paper: cosine of each layer, accuracy best and final, lr, seeds, intervals."""
    from gradlens.reporting.console import comparison_tables
    from gradlens.runtime.errors import InputError
    from gradlens.training.run_directory import load_run
    from gradlens.training.run_files import write
    from gradlens.training.run_progress import unfinished_text

    if out is not None and not overwrite and (out.exists() or out.is_symlink()):
        raise InputError(f"{out} exists: --out names another file, --overwrite replaces it")
    runs = [load_run(path) for path in run_dirs]
    text = written(comparison_tables(runs, whole=True), form)
    if listed := unfinished_text(runs):
        say(listed, aside=True)
    if out is None:
        write_out(text)
        return
    write(out, encode(text))
    say(f"wrote {shell_command(out)}")
