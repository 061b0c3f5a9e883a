"""Small pieces of Markdown, and docstrings as Markdown."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Any

SECTIONS = ("Args", "Returns", "Raises", "Attributes", "Yields", "Example", "Examples")
ROLE = re.compile(r":(?:meth|class|func|attr|data|mod|exc):`~?([^`]+)`")


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; bars in cells are escaped, line ends are spaces."""

    def line(cells: Sequence[Any]) -> str:
        return "| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in cells) + " |"

    return "\n".join([line(header), line(["---"] * len(header)), *map(line, rows)]) + "\n"


def inline(text: str) -> str:
    """A docstring's own marks as Markdown's: roles and doubled backticks are code, arXiv numbers are links."""
    text = ROLE.sub(r"`\1`", text).replace("``", "`")
    return re.sub(r"arXiv[: ]+(\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)


def docstring(thing: Any, level: int = 4) -> str:
    """A docstring as Markdown: sections become headings and lists, examples become code."""
    return "\n".join(_lines(inspect.getdoc(thing) or "", "#" * level)).strip() + "\n"


def _lines(text: str, hashes: str) -> Iterable[str]:
    lines, section, code = text.splitlines(), "", False
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        name = line.strip().removesuffix(":")
        if not indent and line.endswith(":") and name in SECTIONS:
            section = name
            yield from ("", f"{hashes} {name}" if name != "Args" else f"{hashes} Arguments", "")
            continue
        if line.strip() == "::":
            continue
        if line.strip() and not indent:
            section = ""
        if section and section not in ("Example", "Examples") and line.strip():
            yield _item(line, indent, section)
            continue
        is_code = bool(line.strip()) and (indent >= 4 or line.lstrip().startswith(">>>"))
        is_code = is_code or (code and not line.strip() and any(rest[:4] == "    " for rest in lines[i + 1 : i + 2]))
        if is_code != code:
            yield from ("", "```python") if is_code else ("```", "")
            code = is_code
        yield line[4:] if is_code and indent >= 4 else line if is_code else inline(line)
    if code:
        yield "```"


def _item(line: str, indent: int, section: str) -> str:
    """One entry of a section, or a line that goes on with it."""
    name, colon, rest = line.strip().partition(":")
    if indent == 4 and colon and section != "Returns" and re.fullmatch(r"[\w, *.]+", name):
        return f"- **{name}**:{inline(rest)}"
    return f"- {inline(line.strip())}" if indent == 4 and section == "Returns" else f"  {inline(line.strip())}"
