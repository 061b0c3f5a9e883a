"""Checks for tests of training code.

::

    def test_the_fused_kernel(tmp_path):
        for name, model in (("a", reference), ("b", fused)):
            with gradlens.capture(model, tmp_path / name):
                loss(model(x), y).backward()
        assert_gradients_match(tmp_path / "a", tmp_path / "b")
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gradlens.analysis.captures.difference import diff

__all__ = ["assert_gradients_match"]


def assert_gradients_match(
    a: str | Path,
    b: str | Path,
    *,
    floor: str | Path | Sequence[str | Path] = (),
    map: Sequence[str] = (),
    others: bool = False,
) -> None:
    """Fail unless two captured steps are the same within the floor; the message says where they part.

    Args:
        a: a file of ``gradlens.capture``, taken for right.
        b: another.
        floor: captures that repeat a's step.
        map: rules that give b's layers a's names, as ``gradlens.diff`` has them.
        others: compare captures of other weights or inputs too.

    Raises:
        AssertionError: they part.
        InputError: they cannot be compared.

    """
    __tracebackhide__ = True  # pytest shows the line of the test
    found = diff(a, b, map=map, floor=floor, others=others)
    if found.first is not None:
        raise AssertionError(f"{found.answer}\n{found.table(every=False).text(120)}")
