"""Generate a scene, always the same: three balls on a slab, lit from one side, seen from cameras on a dome."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradlens.data.scene import Scene, cast_rays, every_nth

SIZE, VIEWS, ACROSS = 40, 50, 0.75  # pixels of a side, cameras, the angle in radians that each sees across
FINER = 3  # rays a side of a pixel
DISTANCE = 4.0  # of a camera from the middle
BALLS = (  # middle, radius, colour
    ((-0.55, -0.35, 0.15), 0.55, (0.85, 0.20, 0.15)),
    ((0.60, -0.10, 0.00), 0.40, (0.15, 0.55, 0.85)),
    ((0.05, 0.65, -0.05), 0.35, (0.95, 0.75, 0.10)),
)
LOW, HIGH = (-1.0, -1.0, -0.6), (1.0, 1.0, -0.4)  # corners of the slab
TILES, LIGHT_TILE, DARK_TILE = 0.4, (0.75, 0.80, 0.70), (0.25, 0.45, 0.30)  # side of a square of its pattern, the two colours
LIGHT = (0.4, -0.5, 0.77)  # where it comes from
AMBIENT = 0.35


def dome(views: int) -> Tensor:
    """Place cameras on a dome, along a spiral of the golden angle, all of which look at the middle: poses [V, 3, 4]."""
    i = torch.arange(views, dtype=torch.float64)
    height = 0.15 + 0.75 * (i + 0.5) / views  # sine of the elevation: equal areas
    turn = i * math.pi * (3 - math.sqrt(5))
    flat = (1 - height**2).sqrt()
    back = torch.stack([flat * turn.cos(), flat * turn.sin(), height], 1)
    right = torch.stack([-turn.sin(), turn.cos(), torch.zeros_like(turn)], 1)
    up = torch.linalg.cross(back, right)
    return torch.stack([right, up, back, DISTANCE * back], 2).float()


def _hits_of_ball(origins: Tensor, directions: Tensor, middle: Tensor, radius: float) -> Tensor:
    """Return the depth [N] at which rays meet a ball from outside; inf where they do not."""
    to = origins - middle
    a, b, c = (directions**2).sum(1), (to * directions).sum(1), (to**2).sum(1) - radius**2
    root = b**2 - a * c
    depth = (-b - root.clamp(min=0).sqrt()) / a
    return torch.where((root > 0) & (depth > 0), depth, torch.inf)


def _hits_of_slab(origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Return the depth [N] at which rays meet the slab, inf where they do not, and the normals [N, 3] there."""
    ends = torch.stack([(torch.tensor(corner) - origins) / directions for corner in (LOW, HIGH)])
    first, last = ends.amin(0), ends.amax(0)
    depth, axis = first.max(1)
    normal = -directions.sign() * torch.nn.functional.one_hot(axis, 3)
    return torch.where((depth < last.amin(1)) & (depth > 0), depth, torch.inf), normal


def colours(origins: Tensor, directions: Tensor, white: bool = True) -> Tensor:
    """Compute what rays see: the first surface's colour, matt under one light, or the background.

    Args:
        origins: [N, 3].
        directions: [N, 3], of any length.
        white: the background.

    Returns:
        [N, 3] of 0 to 1.

    """
    light = torch.tensor(LIGHT) / torch.tensor(LIGHT).norm()
    nearest, normals = _hits_of_slab(origins, directions)
    at = origins + nearest.nan_to_num(posinf=0.0)[:, None] * directions
    dark = ((at[:, :2] / TILES).floor().sum(1) % 2).bool()
    paint = torch.where(dark[:, None], torch.tensor(DARK_TILE), torch.tensor(LIGHT_TILE))
    for middle, radius, colour in BALLS:
        depth = _hits_of_ball(origins, directions, torch.tensor(middle), radius)
        first = (depth < nearest)[:, None]
        on = (origins + depth.nan_to_num(posinf=0.0)[:, None] * directions - torch.tensor(middle)) / radius
        nearest = torch.minimum(nearest, depth)
        normals, paint = torch.where(first, on, normals), torch.where(first, torch.tensor(colour), paint)
    shade = AMBIENT + (1 - AMBIENT) * (normals @ light).clamp(min=0)
    return torch.where(nearest.isfinite()[:, None], paint * shade[:, None], float(white))


def solids(white: bool = True) -> Scene:
    """Make the scene: every fifth of its views is for testing."""
    poses, side = dome(VIEWS), FINER * SIZE
    focal = 0.5 * SIZE / math.tan(0.5 * ACROSS)
    fine = (torch.arange(side) + 0.5) / FINER - 0.5  # places within the image
    places = torch.cartesian_prod(fine, fine)
    images = []
    for pose in poses:
        rays = cast_rays(places, pose.expand(len(places), 3, 4), torch.tensor(focal), (SIZE, SIZE))
        seen = colours(*rays, white).view(SIZE, FINER, SIZE, FINER, 3).mean((1, 3))
        images.append((255 * seen).round().to(torch.uint8))
    return Scene("solids", torch.stack(images), poses, focal, every_nth(VIEWS, 5))
