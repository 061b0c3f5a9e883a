"""Load scenes: the generated one, a folder in Blender's format, an ``.npz`` file of arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gradlens.data.array_file import read_arrays
from gradlens.data.image_file import decode_rgba
from gradlens.data.scene import PARTS, Scene, every_nth, numbered, over_background
from gradlens.data.solids import SIZE, solids
from gradlens.runtime.errors import InputError, unknown
from gradlens.runtime.paths import is_folder, is_there
from gradlens.runtime.text_files import read_json


class SceneSet(NamedTuple):
    """A named scene: its loader, and the sentence of `gradlens list data`."""

    load: Callable[[bool], Scene]  # whether the background is white
    sentence: str


SCENES: dict[str, SceneSet] = {
    "solids": SceneSet(solids, f"a generated scene of three balls on a slab, 50 views of {SIZE}x{SIZE} pixels, 10 of them for test"),
}


def load_scene(name: str, white: bool, held_out: int, premultiplied: bool = False) -> Scene:
    """Load a scene: a key of ``SCENES``, a folder with ``transforms_train.json``, or an ``.npz`` file.

    Args:
        name: of the scene.
        white: whether transparent pixels are laid over white; otherwise over black.
        held_out: where nothing says which views are for testing, every n-th one is.
        premultiplied: whether colours of transparent pixels are multiplied by their opacity already.

    Raises:
        InputError: anything that cannot be loaded.

    """
    if name in SCENES:
        return SCENES[name].load(white)
    place = Path(name)
    if not is_there(place):
        raise unknown("scene", name, SCENES, "gradlens list data")
    read = read_folder if is_folder(place) else read_scene_file
    return read(place, white, held_out, premultiplied)


def focal_of(angle: float, width: int) -> float:
    """Return the focal length in pixels of a camera that sees ``angle`` across; 0 where there is none."""
    return 0.5 * width / math.tan(0.5 * angle) if 0 < angle < math.pi else 0.0


# ------------------------------------------------------------------------------------------------------- Blender's format


class _Part(NamedTuple):
    """What one file of cameras holds."""

    file: Path
    images: Tensor  # [V, H, W, 3] uint8
    poses: Tensor  # [V, 4, 4]
    angle: float
    near: float
    far: float


def read_folder(root: Path, white: bool, held_out: int, premultiplied: bool = False) -> Scene:
    """Read ``transforms_train.json`` and, if they are there, those of val and test; or one ``transforms.json``.

    Each holds ``camera_angle_x``, the angle in radians that is seen across, and ``frames``, a list of ``file_path`` (from the folder, .png
    may be left out) and ``transform_matrix`` (4x4, camera to world); ``near`` and ``far`` if they are not 2 and 6.

    Raises:
        InputError: no such files, no cameras, images that are missing or of another size.

    """
    files = {part: root / f"transforms_{part}.json" for part in PARTS if is_there(root / f"transforms_{part}.json")}
    if not files and is_there(root / "transforms.json"):
        files = {"train": root / "transforms.json"}
    if "train" not in files:
        raise InputError(
            f"{root} is no scene: it holds no transforms_train.json; set --data to a folder in Blender's format, or an .npz file"
        )
    parts = {part: _part(root, file, white, premultiplied) for part, file in files.items()}
    first = parts["train"]
    for other in parts.values():
        if other.images.shape[1:] != first.images.shape[1:]:
            sizes = ["x".join(map(str, part.images.shape[1:3])) for part in (other, first)]
            raise InputError(
                f"{other.file}: its images are {sizes[0]} (HxW), those of {first.file.name} {sizes[1]}; all must be of one size"
            )
        if other[3:] != first[3:]:
            raise InputError(
                f"{other.file}: camera_angle_x, near and far are {other[3:]}, in {first.file.name} {first[3:]}; they must be equal"
            )
    numbers = numbered([len(parts[part].images) if part in parts else 0 for part in PARTS])
    if "test" not in parts:
        numbers |= {part: some for part, some in every_nth(len(first.images), held_out).items() if part != "val"}
    images, poses = (torch.cat([getattr(part, what) for part in parts.values()]) for what in ("images", "poses"))
    return Scene(str(root), images, poses, focal_of(first.angle, images.shape[2]), numbers, first.near, first.far)


def _part(root: Path, file: Path, white: bool, premultiplied: bool) -> _Part:
    cameras = read_json(file)
    frames = cameras.get("frames") if isinstance(cameras, dict) else None
    if not isinstance(frames, list) or not frames:
        raise InputError(f"{file} holds no cameras: wanted camera_angle_x and a list frames of file_path and transform_matrix")
    images: list[Tensor] = []
    for i, frame in enumerate(frames):
        if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
            raise InputError(f"{file}: frame {i} has no file_path")
        images.append(_image(root / frame["file_path"], white, premultiplied))
        if images[i].shape != images[0].shape:
            sizes = ["x".join(map(str, image.shape[:2])) for image in (images[i], images[0])]
            raise InputError(f"{file}: the image of frame {i} is {sizes[0]} (HxW) and the first one {sizes[1]}; all must be of one size")
    poses = torch.stack([_pose(frame, file, i) for i, frame in enumerate(frames)])
    return _Part(file, torch.stack(images), poses, *(_number(cameras, name, usual, file) for name, usual in NUMBERS))


NUMBERS = (("camera_angle_x", None), ("near", 2.0), ("far", 6.0))  # name in a file of cameras, its value where it is missing


def _number(cameras: Mapping[str, Any], name: str, usual: float | None, file: Path) -> float:
    value = cameras.get(name, usual)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{file}: {name} must be a number, got {'nothing' if value is None else repr(value)}")
    return float(value)


def _pose(frame: Mapping[str, Any], file: Path, i: int) -> Tensor:
    try:
        pose = torch.tensor(frame.get("transform_matrix"), dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        pose = torch.empty(0)
    if pose.shape != (4, 4):
        raise InputError(f"{file}: the transform_matrix of frame {i} must be 4 rows of 4 numbers")
    return pose


def _image(path: Path, white: bool, premultiplied: bool) -> Tensor:
    """Read an image [H, W, 3]; its transparency is laid over the background."""
    if not path.suffix or not is_there(path):
        path = path.with_name(f"{path.name}.png") if not is_there(path) else path
    pixels = torch.from_numpy(decode_rgba(str(path)).copy())
    return over_background(pixels[..., :3], pixels[..., 3:], white, premultiplied)


# ------------------------------------------------------------------------------------------------------------ array files


def read_scene_file(path: Path, white: bool, held_out: int, premultiplied: bool = False) -> Scene:
    """Read ``images`` [V, H, W, 3 or 4], ``poses`` [V, 4, 4] and ``camera_angle_x`` or ``focal`` of an ``.npz`` file.

    Images are uint8, or floats of 0 to 1; four channels are colours and opacity. ``near`` and ``far`` are 2 and 6 if they are missing;
    ``test`` (and ``val``) hold numbers of views.

    Raises:
        InputError: no such arrays, or others than these.

    """
    others = ("camera_angle_x", "focal", "near", "far", "test", "val")
    arrays = read_arrays(path, ("images", "poses"), others)
    images = _pixels(arrays["images"], path)
    if images.shape[-1] == 4:
        images = over_background(images[..., :3], images[..., 3:], white, premultiplied)
    for name in ("poses", *others[:4]):
        if name in arrays and (arrays[name].dtype.kind not in "fiu" or (name != "poses" and arrays[name].size != 1)):
            raise InputError(f"{path}: {name} must be {'numbers' if name == 'poses' else 'one number'}, got {arrays[name].dtype}")
    if "focal" not in arrays and "camera_angle_x" not in arrays:
        raise InputError(f"{path} has images without cameras: it lacks camera_angle_x, the angle that is seen across, or focal")
    near, far = (float(arrays.get(name, usual)) for name, usual in NUMBERS[1:])
    focal = float(arrays["focal"]) if "focal" in arrays else focal_of(float(arrays["camera_angle_x"]), images.shape[2])
    poses = torch.from_numpy(arrays["poses"].astype(np.float32))
    return Scene(str(path), images, poses, focal, _parts(arrays, len(images), held_out, path), near, far)


def _pixels(array: Any, path: Path) -> Tensor:
    if array.ndim != 4 or array.shape[-1] not in (3, 4) or not array.size:
        raise InputError(f"{path}: images must be [views, H, W, 3 or 4], got {list(array.shape)}")
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise InputError(f"{path}: images of floats must lie between 0 and 1, got {array.min():g} to {array.max():g}")
        array = np.rint(255 * array).astype(np.uint8)
    if array.dtype != np.uint8:
        raise InputError(f"{path}: images must be uint8, or floats of 0 to 1, got {array.dtype}")
    return torch.from_numpy(array)


def _parts(arrays: Mapping[str, Any], views: int, held_out: int, path: Path) -> dict[str, Tensor]:
    """Return the views of each part: as the file says, or every n-th one for testing."""
    if "test" not in arrays:
        return every_nth(views, held_out)
    chosen = {}
    for part in ("val", "test"):
        numbers = arrays.get(part, np.zeros(0, np.int64))
        if numbers.dtype.kind not in "iu" or numbers.ndim != 1 or (len(numbers) and not 0 <= numbers.min() <= numbers.max() < views):
            raise InputError(f"{path}: {part} must hold numbers of views, from 0 to {views - 1}")
        chosen[part] = torch.from_numpy(numbers.astype(np.int64))
    held = torch.cat(list(chosen.values()))
    if len(held) != len(held.unique()):  # type: ignore[no-untyped-call]
        raise InputError(f"{path}: a view stands twice in val and test")
    everything = torch.arange(views)
    return {"train": everything[~torch.isin(everything, held)], **chosen}
