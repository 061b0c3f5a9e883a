"""Flags on where and how runs are made, read and checked without torch, so that a typo is refused at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradlens.runtime.errors import InputError, unknown

DEVICES = ("auto", "cpu", "cuda", "cuda:1", "mps")  # as they are typed; every cuda device has its number


def check_device(name: str) -> None:
    """Refuse the name of a device that no machine has.

    Raises:
        InputError: it is none.

    """
    kind, colon, number = name.partition(":")
    if kind not in DEVICES or (colon and not number.isdecimal()):
        raise unknown("device", name, DEVICES, others={"gpu": "cuda", "nvidia": "cuda", "metal": "mps"})


def no_updates(epochs: object, steps: object) -> str | None:
    """Return what is wrong with a number of updates that are to be made in no epoch; None: nothing."""
    if epochs == 0 and isinstance(steps, int) and steps > 0:
        return f"--steps {steps} with --epochs 0: the untrained control makes no updates; leave one of them out"
    return None


def check_run_flags(given: Mapping[str, Any]) -> None:
    """Refuse flags of where and how that contradict each other or cannot be.

    Args:
        given: values of flags by name, with underscores.

    Raises:
        InputError: the first that is wrong.

    """
    if given.get("resume") and given.get("overwrite"):
        raise InputError("--resume continues a run and --overwrite starts it anew: give one of them")
    if (refusal := no_updates(given.get("epochs"), given.get("steps"))) is not None:
        raise InputError(refusal)
    name = given.get("run_name")
    if name is not None and (not name or Path(name).name != name):
        raise InputError(f"--run-name {name!r} is not the name of one folder; set its place with --out")
    for flag in ("threads", "seeds"):
        if isinstance(given.get(flag), int) and given[flag] < 1:
            raise InputError(f"--{flag}: must be 1 or more, got {given[flag]}")
    if isinstance(given.get("device"), str):
        check_device(given["device"])


def parse_numbers(flag: str, text: str) -> list[float]:
    """Return the numbers of a comma-separated flag.

    Raises:
        InputError: they are none.

    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{flag} {text!r}: expected numbers with commas between them, as in 1e-4,3e-4,1e-3") from None


def parse_whole_numbers(flag: str, text: str) -> list[int]:
    """Return the whole numbers of a comma-separated flag.

    Raises:
        InputError: they are none.

    """
    numbers = parse_numbers(flag, text)
    if not all(n.is_integer() for n in numbers):
        raise InputError(f"{flag} {text}: expected whole numbers of blocks, as in {flag} 2,2")
    return [int(n) for n in numbers]
