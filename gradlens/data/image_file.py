"""One image file as uint8 pixels, as a viewer shows it: turned as its tag says, 16 bits and floats scaled to 8 bits."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np

from gradlens.runtime.errors import InputError

Array = np.ndarray[Any, Any]

ORIENTATION = 0x0112  # the EXIF tag
TURNS = {  # its value -> (swap rows and columns, then flip top and bottom, then flip left and right); EXIF 2.3, table 4.6.4 A
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


GREY = ("1", "L", "LA", "I", "I;16", "I;16L", "I;16B", "I;16N", "F")  # Pillow's modes
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # a TIFF's tag, which Pillow minds for 8 bits only


class DecodedImage(NamedTuple):
    """An image, and what to know of its file."""

    pixels: Array  # uint8 [H, W] (grey) or [H, W, 3]
    scaled: bool = False  # from 16 bits or floats
    frames: bool = False  # it holds more images: this is the first


def decode(file: str) -> DecodedImage:
    """Read an image file. Transparency is dropped: pixels have the colour that is stored under it.

    Raises:
        InputError: no image, or one whose values have no known range; in one sentence that names the file.

    """
    from PIL import Image

    try:
        with open(file, "rb") as stream, Image.open(stream) as image:  # by its name, Pillow mixes up turned TIFFs without compression
            several = bool(getattr(image, "is_animated", False)) and image.format != "MPO"  # an MPO's others are previews of the first
            pixels = _pixels(image)
            orientation = 1 if image.format == "TIFF" else _orientation(image)  # Pillow turns TIFFs itself
            return DecodedImage(_turned(pixels, orientation), image.mode.startswith(("I", "F")), several)
    except Exception as error:
        raise _refusal(file, error) from error


def is_grey(file: str) -> bool:
    """Return whether :func:`decode` gives [H, W]; the pixels are decoded only where the file's header does not say.

    Raises:
        InputError: no image.

    """
    from PIL import Image

    try:
        with open(file, "rb") as stream, Image.open(stream) as image:
            return _pixels(image).ndim == 2 if image.mode.startswith("P") else image.mode in GREY
    except Exception as error:
        raise _refusal(file, error) from error


def _refusal(file: str, error: Exception) -> InputError:
    """Why a file cannot be read, in one sentence."""
    from PIL import UnidentifiedImageError

    if os.path.islink(file) and not os.path.exists(file):
        return InputError(f"{file} is a link to {os.readlink(file)}, which is not there")
    if isinstance(error, PermissionError):
        return InputError(f"{file} cannot be read: permission denied")
    if isinstance(error, UnidentifiedImageError):
        empty = os.path.exists(file) and not os.path.getsize(file)
        return InputError(f"{file} is not a readable image: " + ("it is empty" if empty else "what it holds is of no known image type"))
    return InputError(f"{file} is not a readable image: {' '.join(str(error).split()) or type(error).__name__}")


def _orientation(image: Any) -> int:
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - Pillow raises many types on damaged tags; viewers then show the image as it is stored
        return 1
    return found if isinstance(found, int) else 1


def _turned(pixels: Array, orientation: int) -> Array:
    swap, upside_down, mirrored = TURNS.get(orientation, (False, False, False))
    if swap:
        pixels = pixels.swapaxes(0, 1)
    if upside_down:
        pixels = pixels[::-1]
    return pixels[:, ::-1] if mirrored else pixels


def _pixels(image: Any) -> Array:
    """Return the pixels as stored: uint8 [H, W] of what is grey to the eye or by its type, else [H, W, 3]."""
    mode = image.mode
    if mode == "L":
        return np.asarray(image)
    if mode in ("1", "LA"):
        return np.asarray(image.convert("L"))
    if mode.startswith("I"):
        grey = _high_byte(np.asarray(image))
        return 255 - grey if getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO else grey
    if mode == "F":
        return _from_floats(np.asarray(image))
    colour = np.asarray(image.convert("RGB"))
    if mode in ("P", "PA") and (colour == colour[:, :, :1]).all():  # a palette says nothing of the colours that are used
        return colour[:, :, 0]
    return colour


def _high_byte(values: Array) -> Array:
    """Grey of 16 bits in 8: the high byte, which is what Pillow keeps of colours of 16 bits."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 0xFFFF:
        raise ValueError(f"its whole numbers go from {low} to {high}; 0 to 255 (8 bits) and 0 to 65535 (16 bits) are read")
    high_byte: Array = (values >> 8).astype(np.uint8)
    return high_byte


def _from_floats(values: Array) -> Array:
    """Grey floats from 0 (black) to 1 (white) in 8 bits."""
    if not np.isfinite(values).all():
        raise ValueError("its floats are not all finite; floats from 0 to 1 are read")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        raise ValueError(f"its floats go from {low:g} to {high:g}; floats from 0 to 1 are read: scale them, or save 8 bits")
    scaled: Array = np.rint(values * 255).astype(np.uint8)
    return scaled
