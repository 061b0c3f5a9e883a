"""Decode one image file to uint8 pixels as a viewer shows it: rotated by its EXIF tag, 16 bits and floats scaled to 8 bits."""

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
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # a TIFF's tag, which Pillow applies to 8 bits only


class DecodedImage(NamedTuple):
    """An image, and properties of its file."""

    pixels: Array  # uint8 [H, W] (grey) or [H, W, 3]
    scaled: bool = False  # from 16 bits or floats
    frames: bool = False  # the first of several images in the file


def decode(file: str) -> DecodedImage:
    """Read an image file. Transparency is dropped: pixels keep their stored colour.

    Raises:
        InputError: no image, or values of an unknown range; the message names the file.

    """
    from PIL import Image

    try:
        with open(file, "rb") as stream, Image.open(stream) as image:  # opened by name, Pillow confuses rotated uncompressed TIFFs
            several = bool(getattr(image, "is_animated", False)) and image.format != "MPO"  # an MPO's other images are previews
            pixels = _pixels(image)
            orientation = 1 if image.format == "TIFF" else _orientation(image)  # Pillow rotates TIFFs itself
            return DecodedImage(_turned(pixels, orientation), image.mode.startswith(("I", "F")), several)
    except Exception as error:
        raise _refusal(file, error) from error


def decode_rgba(file: str) -> Array:
    """Read an image file with its transparency, as it is stored: uint8 [H, W, 4], 255 where nothing is transparent.

    Raises:
        InputError: no image; the message names the file.

    """
    from PIL import Image

    try:
        with open(file, "rb") as stream, Image.open(stream) as image:
            return np.asarray(image.convert("RGBA"))
    except Exception as error:
        raise _refusal(file, error) from error


def is_grey(file: str) -> bool:
    """Return whether :func:`decode` returns [H, W]; the pixels are decoded only if the file's header is not sufficient.

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
    """Make the error for a file that cannot be read."""
    from PIL import UnidentifiedImageError

    if os.path.islink(file) and not os.path.exists(file):
        return InputError(f"{file} is a link to {os.readlink(file)}, which does not exist")
    if isinstance(error, PermissionError):
        return InputError(f"{file} cannot be read: permission denied")
    if isinstance(error, UnidentifiedImageError):
        empty = os.path.exists(file) and not os.path.getsize(file)
        return InputError(f"{file} is not a readable image: " + ("it is empty" if empty else "its content is of no known image type"))
    return InputError(f"{file} is not a readable image: {' '.join(str(error).split()) or type(error).__name__}")


def _orientation(image: Any) -> int:
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - Pillow raises many types for damaged tags; viewers then show the image as stored
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
    """Return the pixels as stored: uint8 [H, W] if they are grey by value or type, else [H, W, 3]."""
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
    if mode in ("P", "PA") and (colour == colour[:, :, :1]).all():  # a palette may contain unused colours
        return colour[:, :, 0]
    return colour


def _high_byte(values: Array) -> Array:
    """Convert 16-bit grey to 8 bits: the high byte, as Pillow does for 16-bit colours."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 0xFFFF:
        raise ValueError(f"its whole numbers range from {low} to {high}; save 0 to 255 (8 bits) or 0 to 65535 (16 bits)")
    high_byte: Array = (values >> 8).astype(np.uint8)
    return high_byte


def _from_floats(values: Array) -> Array:
    """Convert grey floats from 0 (black) to 1 (white) to 8 bits."""
    if not np.isfinite(values).all():
        raise ValueError("its floats are not all finite; save floats from 0 to 1")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        raise ValueError(f"its floats range from {low:g} to {high:g}; scale them to 0 to 1, or save 8 bits")
    scaled: Array = np.rint(values * 255).astype(np.uint8)
    return scaled
