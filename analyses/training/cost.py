"""What a script costs, printed before it starts. Imports nothing, so that a script which measures memory may call it."""

from __future__ import annotations


def announce_cost(minutes: float, note: str = "") -> None:
    """Print the core-minutes that a script takes where nothing of it is stored yet.

    Args:
        minutes: of one free core.
        note: what they are of, or what they come beside.

    """
    print(f"cost: about {minutes:.3g} core-minutes where nothing is stored yet" + (f"; {note}" if note else ""), flush=True)
