"""State what a rule, or a value of one of its options, needs of a network: checked when it is built, printed by ``gradlens list tasks``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from gradlens.gradients.items import Items
from gradlens.runtime.errors import InputError


class Need(NamedTuple):
    """What a rule needs of a network.

    Attributes:
        lacking: (name -> block, items of the task) -> what does not fit, a clause without a subject ("has no feedback for block1.conv
            (GATConv)"); "": it fits.
        remedy: what to do then, a clause.
        option: the option that needs it with the value ``value``; "": the rule itself does.
        value: of the option.

    """

    lacking: Callable[[Mapping[str, nn.Module], Items], str]
    remedy: str
    option: str = ""
    value: Any = None

    def typed(self) -> str:
        """Return the option as it is typed, "skip=exact"; "" for a need of the rule itself."""
        return f"{self.option}={str(self.value).lower() if isinstance(self.value, bool) else self.value}" if self.option else ""


def require(name: str, needs: Sequence[Need], options: Any, blocks: Mapping[str, nn.Module], items: Items) -> None:
    """Refuse a network that lacks what a rule needs with its options.

    Args:
        name: of the rule.
        needs: what it declares.
        options: of the rule.
        blocks: name -> block of the network, first to last.
        items: what an item of the task is.

    Raises:
        InputError: the network lacks something; the message says what, and what to do.

    """
    for need in needs:
        if need.option and getattr(options, need.option) != need.value:
            continue
        if why := need.lacking(blocks, items):
            raise InputError(f"{name}{f': {need.typed()}' * bool(need.option)} {why}; {need.remedy}")
