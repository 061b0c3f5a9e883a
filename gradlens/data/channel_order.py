"""Which of images' four dimensions holds the channels, told from their shape, or asked for."""

from __future__ import annotations

from collections.abc import Sequence

from gradlens.runtime.errors import InputError

LAYOUTS = ("NCHW", "NHWC")
COLOUR = 3
LAST = (1, 2, 3, 4)  # numbers of channels with which pictures have them last: grey or colour, with or without transparency


def channel_order(shape: Sequence[int], what: str, settle: str, numbers: Sequence[int] | None = None) -> str:
    """NCHW or NHWC, from the shape of images [N, C, H, W] or [N, H, W, C].

    An order is possible where its number of channels is. Three in the last place and more than four in the second are colours.

    Args:
        shape: of the images, four sizes.
        what: the images' name in a refusal.
        settle: what to do where both orders are possible.
        numbers: how many channels there may be; None: any number, of which pictures with the channels last have four at most.

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
