"""The commands that look at what finished runs have learned; ``cli.py`` takes them in. A thin shell, like it."""

from __future__ import annotations

import typer

learned = typer.Typer()
