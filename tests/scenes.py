"""A small scene for tests: a folder in Blender's format and the same as arrays, photographed from the generated one."""

import json
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from gradlens.data.scene import cast_rays
from gradlens.data.solids import colours, dome

SIDE, ANGLE = 8, 0.75


def photographs(views, side=SIDE):
    """Photographs [V, side, side, 3] uint8, and their poses [V, 4, 4]."""
    poses, focal = dome(views), torch.tensor(0.5 * side / math.tan(0.5 * ANGLE))
    places = torch.cartesian_prod(*(torch.arange(side).float(),) * 2)
    images = [colours(*cast_rays(places, pose.expand(len(places), 3, 4), focal, (side, side))) for pose in poses]
    whole = torch.cat([poses, torch.tensor([[[0.0, 0, 0, 1]]]).expand(views, 1, 4)], 1)
    return (255 * torch.stack(images).view(views, side, side, 3)).round().to(torch.uint8), whole


def blender_folder(root: Path, counts=(("train", 4), ("test", 2))) -> Path:
    """A folder with transforms_train.json, … and images with an opaque alpha channel."""
    images, poses = photographs(sum(n for _, n in counts))
    start = 0
    for part, n in counts:
        (root / part).mkdir(parents=True)
        frames = []
        for i in range(n):
            opaque = np.full((SIDE, SIDE, 1), 255, np.uint8)
            Image.fromarray(np.concatenate([images[start + i].numpy(), opaque], 2), "RGBA").save(root / part / f"r_{i}.png")
            frames.append({"file_path": f"./{part}/r_{i}", "transform_matrix": poses[start + i].tolist()})
        (root / f"transforms_{part}.json").write_text(json.dumps({"camera_angle_x": ANGLE, "frames": frames}), encoding="utf-8")
        start += n
    return root


def scene_arrays(views=6, side=SIDE):
    """The arrays of an .npz file."""
    images, poses = photographs(views, side)
    return {"images": images.numpy(), "poses": poses.numpy(), "camera_angle_x": np.float32(ANGLE)}
