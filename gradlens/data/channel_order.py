"""Infer from the shape of images which of the four dimensions is the channels, or request it."""

from __future__ import annotations

from collections.abc import Sequence

from gradlens.runtime.errors import InputError

LAYOUTS = ("NCHW", "NHWC")
COLOUR = 3
LAST = (1, 2, 3, 4)  # possible numbers of channels in the last place: grey or colour, with or without transparency


def channel_order(shape: Sequence[int], what: str, settle: str, numbers: Sequence[int] | None = None) -> str:
    """Infer NCHW or NHWC from the shape of images [N, C, H, W] or [N, H, W, C].

    An order is possible if its number of channels is. A 3 in the last place with more than four in the second means channels last.

    Args:
        shape: the four sizes of the images.
        what: name of the images, for messages.
        settle: advice for the error if both orders are possible.
        numbers: allowed numbers of channels; None: any, but at most four if the channels are last.

    Raises:
        InputError: both orders are possible, or none.

    """
    _, second, _, last = shape
    if last == COLOUR and second > max(LAST):
        return "NHWC"
    places = (numbers is None or second in numbers, last in (LAST if numbers is None else numbers))
    possible = [name for name, is_possible in zip(LAYOUTS, places, strict=True) if is_possible]
    if len(possible) > 1:
        raise InputError(f"{what} of shape {list(shape)} can be read in two ways: {settle}")
    if not possible:
        raise InputError(f"{what} must have {' or '.join(map(str, numbers or ()))} channels, got the shape {list(shape)}")
    return possible[0]
