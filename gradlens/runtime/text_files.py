"""Read and write UTF-8 text in any locale, with or without a byte order mark; write characters outside an encoding in ASCII."""

from __future__ import annotations

import codecs
import io
import json
import re
import tokenize
import unicodedata
from pathlib import Path
from typing import Any, TextIO

from gradlens.runtime.errors import InputError
from gradlens.runtime.paths import reason, unreadable

MARKS = (  # how files of other encodings begin; UTF-32's mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


SPELLED = {
    "−": "-", "–": "-", "—": "-", "…": "...", "×": "x", "·": "*", "±": "+-", "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~", "√": "sqrt",
    "Σ": "sum", "∑": "sum", "∂": "d", "∇": "grad", "∈": "in", "→": "->", "←": "<-", "⇒": "=>", "‖": "||", "⟨": "<", "⟩": ">", "“": '"',
    "”": '"', "„": '"', "‘": "'", "’": "'", "⊙": "*", "⊗": "x", "∘": "o", "∞": "inf", "°": " degrees", "µ": "u", "▼": "v", "▲": "^",
}  # fmt: skip
GREEK = re.compile(r"GREEK (?:SMALL|CAPITAL) LETTER (?:FINAL )?([A-Z]+)$")


def spelled(sign: str) -> str:
    """Return a sign in ASCII: numbers keep their minus, letters lose their accents, Greek ones are named; a question mark for the others.

    >>> [spelled(sign) for sign in ("−", "é", "δ", "ᵀ", "\\udce9", "語")]
    ['-', 'e', 'delta', 'T', '\\\\xe9', '?']
    """
    if "\udc80" <= sign <= "\udcff":  # a byte of a path that is no UTF-8
        return f"\\x{ord(sign) - 0xDC00:02x}"
    if sign in SPELLED:
        return SPELLED[sign]
    if greek := GREEK.match(unicodedata.name(sign, "")):
        return greek[1].lower()
    return unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode() or "?"


def _spell(error: UnicodeError) -> tuple[str, int]:
    """Replace characters outside an encoding."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(spelled, error.object[error.start : error.end])), error.end


SPELL_OUT = "gradlens.spelled"  # error handler for characters outside an encoding
codecs.register_error(SPELL_OUT, _spell)


def decode(content: bytes, path: str | Path) -> str:
    """Decode a file: UTF-8, with or without a byte order mark; line ends of all systems become ``\\n``.

    Args:
        content: the file's bytes.
        path: its path, for the error.

    Raises:
        InputError: another encoding.

    """
    for mark, name in MARKS:
        if content.startswith(mark):
            raise InputError(f"{path} is {name}: save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        at = f"byte 0x{content[error.start]:02x} at position {error.start + 1:,}, in line {line}"
        raise InputError(f"{path} is not UTF-8 ({at}): save it as UTF-8") from error
    if "\0" in text:  # UTF-16 without a mark, or a binary file
        raise InputError(f"{path} is no text (line {text[: text.index(chr(0))].count(chr(10)) + 1} holds a zero byte): save it as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def refuse_undeclared(content: bytes, path: str | Path) -> None:
    """Reject Python code that is not UTF-8 and declares no encoding.

    Raises:
        InputError: another encoding than UTF-8, undeclared.

    """
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
    except SyntaxError:  # a first line that is not UTF-8, or an unknown encoding: Python reports it
        encoding = "utf-8"
    if encoding.startswith("utf-8"):
        decode(content, path)


def read_bytes(path: str | Path, what: str = "") -> bytes:
    """Read the bytes of a file; ``what`` is written before its path in the error.

    Raises:
        InputError: it cannot be read.

    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise unreadable(path, error, what) from error


def read_text(path: str | Path, what: str = "") -> str:
    """Return the text of a file, see :func:`decode`.

    Raises:
        InputError: it cannot be read, or is no UTF-8.

    """
    return decode(read_bytes(path, what), path)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of a JSON file, in which no key stands twice."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} occurs twice")
        found[key] = value
    return found


def read_json(path: str | Path, what: str = "", wanted: str = "JSON") -> Any:
    """Return the content of a JSON file.

    Args:
        path: the file.
        what: kind of file, for the error that it cannot be read.
        wanted: expected content, for the error that it is something else.

    Raises:
        InputError: it cannot be read, is no UTF-8, no JSON, or has an object with one key twice.

    """
    text = read_text(path, what)
    try:
        return json.loads(text, object_pairs_hook=_once)
    except ValueError as error:
        raise InputError(f"{path} is not {wanted}: {error if text.strip() else 'it is empty'}") from error
    except RecursionError as error:
        raise InputError(f"{path} is not {wanted}: it is nested too deeply") from error


def encode(text: str) -> bytes:
    """Encode text as UTF-8; what UTF-8 cannot hold (a byte of a path that is not UTF-8) is written as an escape.

    >>> encode("caf\\udce9, café")
    b'caf\\\\xe9, caf\\xc3\\xa9'
    """
    return text.encode("utf-8", SPELL_OUT)


def open_to_append(path: Path) -> TextIO:
    """Open a file for appending text: UTF-8, lines ending in ``\\n``, escapes as in :func:`encode`."""
    return path.open("a", encoding="utf-8", errors=SPELL_OUT, newline="")


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, see :func:`encode`.

    Raises:
        InputError: it cannot be written.

    """
    try:
        Path(path).write_bytes(encode(text))
    except OSError as error:
        raise InputError(f"cannot write {path}: {reason(error)}") from error
