"""Define a scene: photographs of one thing with their cameras, checked; and the rays through their pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from gradlens.runtime.errors import InputError

PARTS = ("train", "val", "test")
POSES, FOCAL = "poses", "focal"  # names of a scene's cameras in the context of its rays
ROUNDING = 1e-2  # by which a camera's axes may miss orthonormality


@dataclass(frozen=True)
class Scene:
    """Photographs of one size, and a pinhole camera each, in the axes of Blender and OpenGL: x right, y up, the camera looks along −z.

    Attributes:
        name: of the scene, for messages.
        images: [V, H, W, 3] uint8, over the background.
        poses: [V, 3, 4] float32, camera to world: a rotation and the camera's place.
        focal: focal length in pixels.
        parts: train, val and test -> numbers of views.
        near, far: distances from a camera, along its axis, between which the scene lies.

    """

    name: str
    images: Tensor
    poses: Tensor
    focal: float
    parts: Mapping[str, Tensor]
    near: float = 2.0
    far: float = 6.0

    def __post_init__(self) -> None:
        views, where = len(self.images), f"{self.name}:"
        if not views:
            raise InputError(f"{where} there are no images")
        if self.poses.ndim != 3 or self.poses.shape[1:] not in ((3, 4), (4, 4)):
            raise InputError(f"{where} poses must be matrices [views, 4, 4] or [views, 3, 4], got {list(self.poses.shape)}")
        if len(self.poses) != views:
            raise InputError(f"{where} {views} images and {len(self.poses)} poses: every image needs its camera's pose")
        object.__setattr__(self, "poses", self.poses[:, :3].to(torch.float32))
        if bad := self._bad_pose():
            raise InputError(f"{where} {bad}")
        if not 0 < self.focal < float("inf"):
            raise InputError(f"{where} the focal length is {self.focal:g} pixels; camera_angle_x must be between 0 and π")
        if not 0 <= self.near < self.far:
            raise InputError(f"{where} near is {self.near:g} and far {self.far:g}; set views.near and views.far so that 0 <= near < far")
        if missing := [part for part in ("train", "test") if not len(self.parts[part])]:
            raise InputError(f"{where} there are no views for {' and '.join(missing)}: {views} images are too few")

    def _bad_pose(self) -> str:
        """Say what is wrong with the first pose that is none."""
        if len(strange := (~self.poses.flatten(1).isfinite().all(1)).nonzero()):
            return f"the pose of view {int(strange[0])} holds numbers that are not finite"
        turns = self.poses[:, :, :3]
        off = (turns @ turns.mT - torch.eye(3)).abs().flatten(1).amax(1)
        if len(strange := (off > ROUNDING).nonzero()):
            return (
                f"the pose of view {int(strange[0])} is no rotation: its axes are off by {float(off[strange[0]]):.2g} from orthonormal ones"
            )
        return ""

    @property
    def size(self) -> tuple[int, int]:
        """Return the height and width of an image."""
        return self.images.shape[1], self.images.shape[2]

    def shrunk(self, factor: int) -> Scene:
        """Average boxes of pixels.

        Args:
            factor: width of a box, which divides both sides.

        Raises:
            InputError: it does not.

        """
        if factor == 1:
            return self
        return replace(self, images=box_average(self.images, factor, self.name, "views.shrink"), focal=self.focal / factor)

    def pixels(self, views: Tensor) -> Tensor:
        """List all pixels of some views.

        Args:
            views: [n] their numbers.

        Returns:
            [n·H·W, 3] int16: view, row, column; view by view, row by row.

        """
        rows, columns = (torch.arange(n) for n in self.size)
        return torch.cartesian_prod(views, rows, columns).to(torch.int16)


def box_average(images: Tensor, factor: int, name: str, option: str) -> Tensor:
    """Average boxes of ``factor`` x ``factor`` pixels of images [V, H, W, C] uint8, rounded.

    Raises:
        InputError: boxes that do not divide the image.

    """
    height, width = images.shape[1:3]
    if height % factor or width % factor:
        raise InputError(f"{name}: images of {height}x{width} (HxW) cannot be divided by {factor}: set {option} to a factor of both")
    parts = [F.avg_pool2d(some.movedim(-1, 1).float(), factor).round().to(torch.uint8).movedim(1, -1) for some in images.split(16)]  # type: ignore[no-untyped-call]
    return torch.cat(parts).contiguous()


def cast_rays(places: Tensor, poses: Tensor, focal: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Compute the rays through places of an image; whole numbers are the middles of pixels.

    Args:
        places: [N, 2] row, column.
        poses: [N, 3, 4] camera to world.
        focal: scalar, in pixels.
        size: height and width of the images.

    Returns:
        origins [N, 3] and directions [N, 3], which have length 1 along the camera's axis: depth is measured along it.

    """
    row, column = places.unbind(1)
    across, up = (column + 0.5 - 0.5 * size[1]) / focal, -(row + 0.5 - 0.5 * size[0]) / focal
    seen = torch.stack([across, up, -torch.ones_like(across)], 1)
    return poses[:, :, 3], (poses[:, :, :3] @ seen[:, :, None])[:, :, 0]


def every_nth(views: int, n: int) -> dict[str, Tensor]:
    """Hold out every n-th view for testing, the first one included; none is for validation."""
    numbers = torch.arange(views)
    held = numbers % n == 0
    return {"train": numbers[~held], "val": numbers[:0], "test": numbers[held]}


def over_background(rgb: Tensor, alpha: Tensor, white: bool, premultiplied: bool = False) -> Tensor:
    """Lay colours over white or black.

    Args:
        rgb: [*, 3] uint8.
        alpha: [*, 1] uint8.
        white: the background.
        premultiplied: whether the colours are multiplied by alpha already.

    Returns:
        [*, 3] uint8.

    """
    colours = rgb.float() if premultiplied else rgb.float() * alpha / 255
    return (colours + (255 - alpha.float() if white else 0)).round().clamp(0, 255).to(torch.uint8)


def numbered(sizes: Sequence[int]) -> dict[str, Tensor]:
    """Number the views of train, val and test, which lie one after the other."""
    return dict(zip(PARTS, torch.arange(sum(sizes)).split(list(sizes)), strict=True))  # type: ignore[no-untyped-call]
