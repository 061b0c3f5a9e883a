"""Read text as sequences of tokens: characters or bytes of a file or folder, its vocabulary, and windows of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gradlens.runtime.errors import InputError
from gradlens.runtime.paths import is_folder, is_there
from gradlens.runtime.text_files import decode, read_bytes

TokenKind = Literal["characters", "bytes"]
HELD_OUT = 0.1  # share of a text, its end, that is for testing, unless the folder has files for it
TRAIN, VALIDATION, TEST = ("train",), ("valid", "validation", "val"), ("test",)  # names of a text's files
ENDINGS = ("txt", "tokens", "raw")  # of them; before the name may stand that of the text: wiki.train.tokens, ptb.train.txt


class Corpus(NamedTuple):
    """A text as tokens, in its order.

    Attributes:
        train: [n] tokens to train on.
        test: [m] tokens to test on.
        validation: [k] tokens of the folder's own validation file; None: it has none.
        vocabulary: what each token stands for: characters, or all 256 bytes as ``0x00`` … ``0xff``.

    """

    train: Tensor
    test: Tensor
    validation: Tensor | None
    vocabulary: tuple[str, ...]


def _named(root: Path, names: Sequence[str], prefixed: bool) -> Path | None:
    """Return the file of one of these names in a folder, as ``train.txt``; with ``prefixed`` else one as ``wiki.train.tokens``.

    Raises:
        InputError: there are several of the latter.

    """
    if there := next((root / f"{name}.txt" for name in names if is_there(root / f"{name}.txt")), None):
        return there
    pattern = re.compile(rf"(?:[\w-]+\.)?(?:{'|'.join(names)})\.(?:{'|'.join(ENDINGS)})")
    found = sorted(path for path in root.iterdir() if pattern.fullmatch(path.name)) if prefixed else []
    if len(found) > 1:
        raise InputError(f"{root} holds {' and '.join(path.name for path in found)}: keep one of them, or set --data to one file")
    return found[0] if found else None


def text_files(place: Path) -> tuple[list[Path], Path | None, Path | None]:
    """Find a text's files.

    Args:
        place: a file; a folder with ``train.txt`` and ``test.txt`` (and ``valid.txt``), or with such files as ``wiki.train.tokens`` and
            ``ptb.train.txt``; or one with any ``.txt`` files, which are read one after the other by path.

    Returns:
        the files to train on, that of the test (None: the end of those), and that of the validation, if there is one.

    Raises:
        InputError: nothing is there, or a test or validation file without one to train on.

    """
    if not is_there(place):
        raise InputError(f"{place} does not exist: set --data to a text file, or to a folder of .txt files")
    if not is_folder(place):
        return [place], None, None
    train = _named(place, TRAIN, prefixed=True)
    validation, test = (_named(place, names, prefixed=train is not None) for names in (VALIDATION, TEST))
    if train is not None:
        return [train], test, validation
    if held_out := test or validation:
        raise InputError(f"{place} holds {held_out.name} and no train.txt: add it, or set --data to one file")
    files = sorted(path for path in place.rglob("*.txt") if path.is_file() and not path.name.startswith("."))
    if not files:
        raise InputError(f"{place} holds no .txt file: set --data to a text file, or to a folder of .txt files")
    return files, None, None


def encode(text: str, vocabulary: Sequence[str]) -> Tensor:
    """Turn text into tokens [n], positions in a vocabulary of its characters in the order of their code points."""
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    places = np.array([ord(c) for c in vocabulary], np.uint32).searchsorted(points)
    return torch.from_numpy(places.astype(np.uint8 if len(vocabulary) <= 256 else np.int32))


def decoded(tokens: Tensor, vocabulary: Sequence[str], kind: TokenKind) -> str:
    """Turn tokens [n] into text; bytes that are no UTF-8 become U+FFFD."""
    if kind == "bytes":
        return bytes(tokens.tolist()).decode("utf-8", "replace")
    return "".join(vocabulary[t] for t in tokens.tolist())


def _characters(files: Sequence[Path]) -> str:
    try:
        return "".join(decode(read_bytes(path), path) for path in files)
    except InputError as error:
        raise InputError(f"{error}, or --set language.tokens=bytes") from error


def _bytes(files: Sequence[Path]) -> Tensor:
    content = b"".join(read_bytes(path) for path in files)
    return torch.from_numpy(np.frombuffer(content, np.uint8).copy())


def read_corpus(place: Path, kind: TokenKind = "characters") -> Corpus:
    """Read a text as tokens.

    Args:
        place: a file or folder, see :func:`text_files`; without a test file the last tenth of the text is for testing.
        kind: ``characters`` of UTF-8 text, those of all files being the vocabulary; or ``bytes``.

    Raises:
        InputError: files that cannot be read, bytes that are no UTF-8.

    """
    train_files, test_file, validation_file = text_files(place)
    groups = [train_files, *([path] if path else [] for path in (test_file, validation_file))]
    if kind == "bytes":
        parts, known = [_bytes(files) for files in groups], tuple(f"0x{byte:02x}" for byte in range(256))
    else:
        texts = [_characters(files) for files in groups]
        known = tuple(sorted(set().union(*texts)))
        parts = [encode(text, known) for text in texts]
    train, test, validation = parts
    if test_file is None:
        kept = len(train) - round(len(train) * HELD_OUT)
        train, test = train[:kept], train[kept:]
    return Corpus(train, test, validation if validation_file else None, known)


def windows(tokens: Tensor, length: int, what: str) -> tuple[Tensor, Tensor]:
    """Cut tokens into windows, one after the other, and the tokens that follow each position.

    Args:
        tokens: [n]; what is left at its end is not used.
        length: T, tokens of a window.
        what: name of the tokens, for the error.

    Returns:
        inputs [N, T] and targets [N, T], both views of ``tokens``: the target of a position is the next token.

    Raises:
        InputError: fewer than T + 1 tokens.

    """
    if len(tokens) <= length:
        raise InputError(
            f"{what} has {len(tokens):,} tokens and a window needs {length + 1:,}, its {length:,} and the one that follows:"
            " --set language.length=N sets a smaller one, or take a longer text"
        )
    both = tokens.unfold(0, length + 1, length)
    return both[:, :-1], both[:, 1:]
