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
    """A docstring's own marks as Markdown's: roles and doubled backticks are code, arXiv numbers and dois are links, <words> no tags."""
    text = ROLE.sub(r"`\1`", text).replace("``", "`")
    text = re.sub(r"`[^`]*`|<(?=[/a-zA-Z])(?!https?:)", lambda found: "&lt;" if found[0] == "<" else found[0], text)
    text = re.sub(r"arXiv[: ]+(\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)
    return re.sub(r"doi[: ]+(10\.[^\s,;)]+)", r"[doi \1](https://doi.org/\1)", text)


def between_marks(page: str, name: str, text: str) -> str:
    """Return a page with ``text`` between the marks ``<!-- table: NAME -->`` and ``<!-- end of table -->``.

    Raises:
        ValueError: a page without these marks.

    """
    begin, end = f"<!-- table: {name} -->", "<!-- end of table -->"
    before, after = page.split(begin)
    return f"{before}{begin}\n\n{text}\n{end}{after.partition(end)[2]}"


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
        is_code = bool(line.strip()) and (indent >= 4 or line.lstrip().startswith(">>>") or (code and lines[i - 1].startswith(">>>")))
        is_code = is_code or (code and not line.strip() and any(rest[:4] == "    " for rest in lines[i + 1 : i + 2]))
        if is_code != code:
            yield from ("", "```python") if is_code else ("```", "")
            code = is_code
        yield line[4:] if is_code and indent >= 4 else line if is_code else inline(re.sub("::$", ":", line))
    if code:
        yield "```"


def _item(line: str, indent: int, section: str) -> str:
    """One entry of a section, or a line that goes on with it."""
    if section in ("Returns", "Yields"):  # a sentence, which may take several lines
        return inline(line.strip())
    name, colon, rest = line.strip().partition(":")
    if indent == 4 and colon and re.fullmatch(r"[\w, *.]+", name):
        return f"- **{name}**:{inline(rest)}"
    return f"  {inline(line.strip())}"
