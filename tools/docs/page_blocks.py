"""The fenced blocks of a page, and what is written about them: for tests, and for scripts that run what a page shows."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

BLOCK = re.compile(r"((?:^<!--[^\n]*-->\n)*)^( *)```(\w*)[^\n]*\n(.*?)^ *```", re.S | re.M)
SAVED = re.compile(r"<!-- (?:file: |example: .*? as )([\w.-]+)")
ASKED = re.compile(r"<!-- test: (.*?) -->")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    language: str  # "": what is printed
    text: str
    comments: str

    @property
    def file(self) -> str | None:
        """The name that the block is saved under."""
        found = SAVED.search(self.comments)
        return found.group(1) if found else None

    @property
    def asked(self) -> str:
        """What the page says to its test about the block."""
        found = ASKED.search(self.comments)
        return found.group(1) if found else ""


def blocks_of(page: str) -> list[Block]:
    """The fenced blocks of a page, in its order."""
    return [
        Block(language, re.sub(rf"^{indent}", "", text, flags=re.M), comments) for comments, indent, language, text in BLOCK.findall(page)
    ]


def printed_blocks(page: str) -> list[str]:
    """What the page shows as printed."""
    return [block.text for block in blocks_of(page) if not block.language]


def commands_of(block: Block) -> Iterator[list[str]]:
    """The words of each ``gradlens`` command of a block, without comments; lines that end in a backslash go on."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["gradlens"] and "[OPTIONS]" not in words and words[1:]:
            yield words[1:]
