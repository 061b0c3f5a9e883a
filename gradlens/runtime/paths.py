"""Check what is at a user's path: nothing there is a valid result, an inaccessible path is an error."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from gradlens.runtime.errors import InputError

Typed = str | Path
OF_THE_SYSTEM = frozenset(  # errors of files and disks, not of the program; not every system has all of them
    getattr(errno, name, errno.EACCES)
    for name in "EACCES EPERM ENAMETOOLONG ELOOP ENOTDIR EISDIR ENOSPC EDQUOT EFBIG EROFS EIO ESTALE EMFILE".split()  # noqa: SIM905
)


def reason(error: OSError) -> str:
    """Return the operating system's reason, in lower case."""
    return (error.strerror or str(error)).lower()


def unreadable(path: Typed, error: OSError, what: str = "") -> InputError:
    """Make the error for a file or folder that cannot be read; ``what`` is written before its path."""
    return InputError(f"cannot read {what}{' ' * bool(what)}{path}: {reason(error)}")


def _mode(path: Typed) -> int:
    """Return the mode of what is at a path, links followed; 0 if nothing is.

    Raises:
        InputError: the path is not accessible.

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
    """Return whether anything is there."""
    return bool(_mode(path))


def is_file(path: Typed) -> bool:
    """Return whether a regular file is there."""
    return stat.S_ISREG(_mode(path))


def is_folder(path: Typed) -> bool:
    """Return whether a folder is there."""
    return stat.S_ISDIR(_mode(path))
