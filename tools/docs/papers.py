"""The papers that a rule's docstring names: authors, year, and where each is found."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import NamedTuple

from gradlens.gradients.method import Method

_NAME = r"(?:[Vv]an den )?[A-ZØ][\w'’-]+"
_AUTHORS = rf"{_NAME}(?:, {_NAME})*(?: & {_NAME}| et al\.)?"
_SOURCE = r"(?: \((?:arXiv (?P<arxiv>\d{4}\.\d{4,5})|doi (?P<doi>10\.[^\s,;)]+)))?"
PAPER = re.compile(rf"(?P<authors>{_AUTHORS}) (?P<year>(?:19|20)\d{{2}})(?!\d){_SOURCE}")


class Paper(NamedTuple):
    """One paper."""

    name: str  # authors and year, as a docstring writes them
    address: str  # of its abstract; "" where the docstring gives neither arXiv number nor doi


def papers(rule: type[Method]) -> list[Paper]:
    """Return the papers that a rule, or else the rule it extends, names in its docstring."""
    for kind in rule.__mro__:
        text = " ".join((inspect.getdoc(kind) or "").split())
        if found := [_paper(match) for match in PAPER.finditer(text)]:
            return list(dict.fromkeys(found))
    return []


def _paper(match: re.Match[str]) -> Paper:
    authors = match["authors"]
    address = f"https://arxiv.org/abs/{match['arxiv']}" if match["arxiv"] else f"https://doi.org/{match['doi']}" if match["doi"] else ""
    return Paper(f"{authors[0].upper()}{authors[1:]} {match['year']}", address)


def linked(found: Sequence[Paper]) -> str:
    """Return papers as Markdown links, those without an address as text."""
    return ", ".join(f"[{paper.name}]({paper.address})" if paper.address else paper.name for paper in found)
