"""The command that draws schematics of rules; ``main.py`` registers it. A thin shell."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from gradlens.cli.options import with_flags
from gradlens.cli.output import FigureFormat, figure_formats
from gradlens.runtime.terminal import say

drawn = typer.Typer()


class Theme(str, Enum):
    """For which background."""

    light = "light"
    dark = "dark"


@drawn.command()
@with_flags("set", "quiet", rules="methods")
def draw(
    methods: Annotated[list[str], typer.Argument(metavar="METHOD...", help="rules, or FILE.py:Class, one panel each")],
    depth: Annotated[int, typer.Option("--depth", min=1, max=4, help="blocks of the network that is drawn, below its output block")] = 3,
    columns: Annotated[int, typer.Option("--columns", min=1, max=8, help="panels in a row")] = 4,
    theme: Annotated[Theme, typer.Option("--theme", help="colours for a light or a dark page")] = Theme.light,
    out: Annotated[Path, typer.Option("--out", help="folder of the figure")] = Path("figures"),
    figure_format: FigureFormat = None,
    *,
    given: dict[str, Any],
) -> None:
    """Draw which error signal each block of a rule uses and where it comes from, found by running one step of the rule."""
    from gradlens.analysis.rule_structure import rule_structure
    from gradlens.cli.progress import Display
    from gradlens.methods import METHODS
    from gradlens.reporting.schematic import described, links, schematic
    from gradlens.reporting.style import save_figure
    from gradlens.training.config_builder import configs_of
    from gradlens.training.context import RunContext
    from gradlens.training.run_files import must_be_writable
    from gradlens.training.user_references import known_as

    quiet, found = given.pop("quiet", False), []
    must_be_writable(out)
    taught = (
        {"teacher": "a function"} if any(METHODS[name].has_teacher for m in methods if (name := known_as("method", m)) in METHODS) else {}
    )
    with Display(quiet) as display:
        progress = display.count("draw")
        configs = [config for method in methods for (config,) in configs_of([method], {**given, **taught}, RunContext())]
        for i, config in enumerate(configs):
            progress(i, len(configs), config.method)
            found.append(rule_structure(config.method, config.rule, config.options, depth))
    rows = [link for structure in found for link in links(structure)]
    name = "_".join(["schematic", *(s.rule for s in found[:4])]) + (f"_and_{len(found) - 4}_more" if len(found) > 4 else "")
    files = save_figure(schematic(found, theme.value, columns), rows, out, name, formats=figure_formats(figure_format))
    for structure in found:
        say(described(structure))
    say(f"figure: {', '.join(map(str, files))}")
