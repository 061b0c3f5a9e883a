"""What lies at a path that a user typed: nothing is an answer, what may not be looked at is an error in one sentence."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from gradlens.runtime.errors import InputError

Typed = str | Path
OF_THE_SYSTEM = frozenset(  # what a person mends at the file or the disk, not in the program; not every system has all of them
    getattr(errno, name, errno.EACCES)
    for name in "EACCES EPERM ENAMETOOLONG ELOOP ENOTDIR EISDIR ENOSPC EDQUOT EFBIG EROFS EIO ESTALE EMFILE".split()  # noqa: SIM905
)


def reason(error: OSError) -> str:
    """Why the system refused, in small letters."""
    return (error.strerror or str(error)).lower()


def unreadable(path: Typed, error: OSError, what: str = "") -> InputError:
    """The refusal of a file or folder that cannot be read; ``what`` it is stands before its name."""
    return InputError(f"cannot read {what}{' ' * bool(what)}{path}: {reason(error)}")


def _mode(path: Typed) -> int:
    """What is there, links followed; 0 where nothing is.

    Raises:
        InputError: it may not be looked at.

    """
    try:
        return os.stat(path).st_mode
    except ValueError:  # a zero byte
        return 0
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return 0
        raise unreadable(path, error) from error


def is_there(path: Typed) -> bool:
    """Whether anything is there."""
    return bool(_mode(path))


def is_file(path: Typed) -> bool:
    """Whether a regular file is there."""
    return stat.S_ISREG(_mode(path))


def is_folder(path: Typed) -> bool:
    """Whether a folder is there."""
    return stat.S_ISDIR(_mode(path))
