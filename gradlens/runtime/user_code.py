"""Import users' Python files, named ``FILE.py:NAME``, under a private name, and report their errors in one sentence."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from gradlens._version import PACKAGE
from gradlens.runtime.errors import InputError, kind_of, nearest, unknown
from gradlens.runtime.old_names import hint
from gradlens.runtime.paths import is_file, is_folder
from gradlens.runtime.text_files import read_bytes, refuse_undeclared

WANTED = {"method": "FILE.py:Class", "model": "FILE.py:build", "data": "FILE.py:build"}


class UserCodeError(InputError):
    """An error in a user's code: one sentence, and a traceback of the user's own frames."""

    def __init__(self, message: str, trace: str) -> None:
        super().__init__(message)
        self.trace = trace


def is_reference(text: str) -> bool:
    """Return whether a word names something in a Python file: ``FILE.py:NAME``, or ``FILE.py`` with the name forgotten."""
    return bool(re.search(r"\.py(:[^/]*)?$", text)) and not is_folder(text)


def file_and_name(kind: str, text: str) -> tuple[Path, str]:
    """Return the file and the name in it.

    Raises:
        InputError: no name, no file.

    """
    file, colon, name = text.rpartition(":")
    if not colon or not name.isidentifier() or not file.endswith(".py"):
        raise InputError(f"{text}: wanted {WANTED[kind]}, a Python file and a name in it")
    path = Path(os.path.normpath(file))
    if not is_file(path):
        others = [other.name for other in path.parent.glob("*.py")] if is_folder(path.parent) else []
        here = "" if path.is_absolute() else f" in {Path.cwd()}"
        raise InputError(f"there is no file {path}{here}" + (f"; nearest: {', '.join(nearest(path.name, others))}" if others else ""))
    return path, name


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of a file's contents, in hex.

    Raises:
        InputError: it cannot be read.

    """
    return hashlib.sha256(read_bytes(path)).hexdigest()


def _is_ours(file: str) -> bool:
    return file.startswith("<frozen") or Path(file).is_relative_to(PACKAGE)


def trace_of(error: BaseException) -> str:
    """Return the traceback of an error from a user's file on, without gradlens' frames; empty where no frame of it is a user's."""
    report = traceback.TracebackException.from_exception(error, compact=True)
    files = {str(module.__file__) for module in _imported.values()}
    begin = next((i for i, frame in enumerate(report.stack) if frame.filename in files), None)
    in_file = isinstance(error, SyntaxError) and error.filename in files
    if begin is None and not in_file:
        return ""
    kept = [] if begin is None else [frame for frame in report.stack[begin:] if not _is_ours(frame.filename)]
    report.stack = traceback.StackSummary.from_list(kept)
    report.__cause__ = report.__context__ = None
    return "".join(report.format())


def _error_text(error: BaseException) -> str:
    first = next(iter(str(error).splitlines()), "")
    return (f"{type(error).__name__}: {first}" if first else type(error).__name__) + hint(error)


def raised(error: BaseException) -> str:
    """Describe an error that a user's code raised, in one sentence."""
    files = {str(module.__file__) for module in _imported.values()}
    frame = next((f for f in reversed(traceback.extract_tb(error.__traceback__)) if f.filename in files), None)
    if frame is None:
        return _error_text(error)
    return f"{os.path.relpath(frame.filename)}, line {frame.lineno}, raised {_error_text(error)}"


@contextmanager
def blamed(what: str) -> Iterator[None]:
    """Turn what a user's code raises into a :class:`UserCodeError` that begins with ``what``; an InputError of theirs stays."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise UserCodeError(f"{what}: {_error_text(error)}", trace_of(error)) from error


_imported: dict[tuple[str, str], ModuleType] = {}  # (absolute path, fingerprint) -> module


def module_of(path: Path) -> ModuleType:
    """Return a Python file as a module, imported once for each of its contents; what lies beside it can be imported by it.

    Raises:
        UserCodeError: importing it fails.

    """
    key = str(path.absolute()), fingerprint(path)
    if key in _imported:
        return _imported[key]
    name = f"_gradlens_own_{re.sub(r'[^0-9A-Za-z]', '_', path.stem)}_{hashlib.sha256(repr(key).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, key[0])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if (folder := str(path.absolute().parent)) not in sys.path:
        sys.path.append(folder)
    sys.modules[name] = _imported[key] = module  # dataclasses and pydantic look a class's module up
    try:
        content = read_bytes(path)
        refuse_undeclared(content, path)
        with blamed(f"{path} cannot be imported"):
            exec(compile(content, key[0], "exec", dont_inherit=True), module.__dict__)
    except BaseException:
        del sys.modules[name], _imported[key]
        raise
    return module


def found_in(path: Path, name: str, what: str, fits: Callable[[Any], bool]) -> Any:
    """Return a name of a file; where it has none such, the nearest of those that fit are named."""
    module = module_of(path)
    if hasattr(module, name):
        return getattr(module, name)
    near = [n for n, v in vars(module).items() if not n.startswith("_") and getattr(v, "__module__", "") == module.__name__ and fits(v)]
    raise InputError(f"{path} has no {name}: {unknown(what, name, near)}")


def function_in(path: Path, name: str, what: str) -> Callable[..., Any]:
    """Return a function of a file; ``what`` says what it is for."""
    found = found_in(path, name, "function", callable)
    if not callable(found) or isinstance(found, nn.Module):
        raise InputError(f"{path}:{name} is {kind_of(found)}: wanted a function {what}")
    function: Callable[..., Any] = found
    return function
