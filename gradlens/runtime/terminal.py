"""Write text to stdout and stderr that any console can show, and quote commands for pasting."""

from __future__ import annotations

import io
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradlens.runtime.errors import InputError
from gradlens.runtime.paths import reason
from gradlens.runtime.text_files import SPELL_OUT

if TYPE_CHECKING:
    from rich.console import Console


def accept_all_text() -> None:
    """Make stdout and stderr accept any text from now on: characters outside their encoding are written in ASCII."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=SPELL_OUT)


@contextmanager
def printing() -> Iterator[None]:
    """Handle errors of writing to stdout inside the context: a closed pipe (``| head``) exits quietly, a full disk is an InputError."""
    try:
        yield
    except OSError as error:
        with open(os.devnull, "wb") as nowhere:  # buffered output would fail once more at exit
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise SystemExit(1) from None
        raise InputError(f"cannot write to stdout: {reason(error)}") from error


def say(text: str, *, aside: bool = False) -> None:
    """Print to stdout, or with ``aside`` to stderr, where errors are ignored."""
    if aside:
        with suppress(OSError):
            print(text, file=sys.stderr, flush=True)
        return
    with printing():
        print(text, flush=True)


@cache
def notice(text: str) -> None:
    """Print one line on stderr, once per process, on rank 0 only."""
    if os.environ.get("RANK", "0") == "0":
        say(f"gradlens: {text}", aside=True)


def print_table(renderable: Any) -> None:
    """Print a table to stdout."""
    with printing():
        rich_console().print(renderable, crop=False)


def write_out(text: str) -> None:
    """Print a file's content to stdout unchanged."""
    with printing():
        print(text, end="", flush=True)


def rich_console(**options: Any) -> Console:
    """Return a rich console that prints text unchanged: no markup, no emoji; ``options`` are rich's."""
    from rich.console import Console

    return Console(**options, markup=False, highlight=False, emoji=False)


def one_line(text: str) -> str:
    """Escape control characters in a sentence (a line end in a path).

    >>> one_line("no a\\nb")
    'no a\\\\nb'
    """
    return re.sub(r"[\x00-\x1f\x7f]", lambda sign: repr(sign[0])[1:-1], text)


def shell_word(word: str | Path, encoding: str = "utf-8") -> str:
    r"""Quote a word of a command for the shell on one line; characters outside ``encoding`` are written for bash and zsh, $'\xe9'.

    >>> print(shell_word("my runs/one"), shell_word("a\nb"), shell_word(Path("-runs")))
    'my runs/one' $'a\nb' ./-runs
    """
    text = f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        plain = False
    else:
        plain = "`" not in text and all(sign.isprintable() for sign in text)  # sentences enclose commands in backticks
    if plain:
        return shlex.quote(text)
    names = {0x0A: "\\n", 0x09: "\\t", 0x0D: "\\r", 0x27: "\\'", 0x5C: "\\\\"}
    signs = (names.get(b) or (chr(b) if 0x20 <= b < 0x7F and b != 0x60 else f"\\x{b:02x}") for b in os.fsencode(text))
    return f"$'{''.join(signs)}'"


def shell_command(*words: str | Path) -> str:
    """Quote a command for pasting, in stdout's encoding."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return " ".join(shell_word(word, encoding) for word in words)
