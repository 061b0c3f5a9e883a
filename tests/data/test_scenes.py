"""Scenes: photographs with cameras, from a folder in Blender's format, from arrays, generated."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scenes import ANGLE, SIDE, blender_folder, photographs, scene_arrays

from gradlens.data.scene import Scene, box_average, cast_rays, every_nth, over_background
from gradlens.data.scenes import load_scene
from gradlens.data.solids import solids
from gradlens.runtime.errors import InputError


def test_a_folder_in_blenders_format_and_its_arrays_are_the_same_scene(tmp_path):
    folder = load_scene(str(blender_folder(tmp_path / "scene", (("train", 4), ("val", 1), ("test", 2)))), True, 10)
    np.savez(tmp_path / "scene.npz", **scene_arrays(7), test=np.array([5, 6]), val=np.array([4]))
    file = load_scene(str(tmp_path / "scene.npz"), True, 10)
    assert torch.equal(folder.images, file.images)
    torch.testing.assert_close(folder.poses, file.poses)
    assert folder.focal == pytest.approx(file.focal)
    assert folder.focal == pytest.approx(0.5 * SIDE / math.tan(0.5 * ANGLE))
    assert {part: views.tolist() for part, views in folder.parts.items()} == {"train": [0, 1, 2, 3], "val": [4], "test": [5, 6]}
    assert all(torch.equal(folder.parts[part], views) for part, views in file.parts.items())


def test_without_test_views_every_nth_is_held_out(tmp_path):
    np.savez(tmp_path / "scene.npz", **scene_arrays(6))
    assert load_scene(str(tmp_path / "scene.npz"), True, 3).parts["test"].tolist() == [0, 3]
    folder = load_scene(str(blender_folder(tmp_path / "scene", (("train", 4),))), True, 2)
    assert folder.parts["test"].tolist() == [0, 2]
    assert sorted(torch.cat(list(every_nth(7, 3).values())).tolist()) == list(range(7))


def test_transparent_pixels_are_laid_over_the_background():
    rgb, alpha = torch.tensor([[200, 100, 0]], dtype=torch.uint8), torch.tensor([[51]], dtype=torch.uint8)
    assert over_background(rgb, alpha, True).tolist() == [[244, 224, 204]]  # 0.2 · rgb + 0.8 · 255
    assert over_background(rgb, alpha, False).tolist() == [[40, 20, 0]]
    premultiplied = torch.tensor([[40, 20, 0]], dtype=torch.uint8)
    assert over_background(premultiplied, alpha, True, premultiplied=True).tolist() == [[244, 224, 204]]


def test_a_ray_passes_through_what_its_pixel_sees():
    """The pinhole camera the other way round: a point of a ray, in the camera's axes, projects to the middle of its pixel."""
    _, poses = photographs(3)
    focal, size = 9.3, (6, 10)
    places = torch.tensor([[0.0, 0.0], [2.0, 7.0], [5.0, 9.0]])
    origins, directions = cast_rays(places, poses[:, :3], torch.tensor(focal), size)
    for i in range(3):
        point = torch.cat([origins[i] + 2.7 * directions[i], torch.ones(1)])
        x, y, z, _ = torch.linalg.solve(poses[i], point).tolist()
        assert z == pytest.approx(-2.7, rel=1e-5)  # depth along the camera's axis
        assert size[1] / 2 + focal * x / -z == pytest.approx(float(places[i, 1]) + 0.5, abs=1e-3)
        assert size[0] / 2 - focal * y / -z == pytest.approx(float(places[i, 0]) + 0.5, abs=1e-3)


def test_the_generated_scene_is_always_the_same_and_its_middle_lies_where_cameras_look():
    first, again = solids(), solids()
    assert torch.equal(first.images, again.images)
    assert len(first.images) == 50
    assert (first.images.float().mean((0, 3))[18:22, 18:22] < 200).all()  # something is in the middle of all views
    assert (first.images[:, 0] == 255).all()  # and nothing at the upper edge


def test_boxes_are_averages():
    images = torch.arange(2 * 4 * 6 * 3, dtype=torch.uint8).view(2, 4, 6, 3)
    small = box_average(images, 2, "it", "views.shrink")
    assert small.shape == (2, 2, 3, 3)
    assert small[1, 1, 2, 0] == images[1, 2:4, 4:6, 0].float().mean().round()
    with pytest.raises(InputError, match="it: images of 4x6 \\(HxW\\) cannot be divided by 4: set views.shrink"):
        box_average(images, 4, "it", "views.shrink")


# ------------------------------------------------------------------------------------------------------------- bad input


def changed(**more):
    arrays = {**scene_arrays(4, 4), **more}
    return {name: array for name, array in arrays.items() if array is not None}


def broken_pose(value):
    poses = scene_arrays(4, 4)["poses"].copy()
    poses[2, 0, 0] = value
    return poses


@pytest.mark.parametrize(("arrays", "sentence"), [
    (changed(poses=scene_arrays(3)["poses"]), "4 images and 3 poses: every image needs its camera's pose"),
    (changed(poses=np.zeros((4, 3, 3), np.float32)), r"poses must be matrices \[views, 4, 4\] or \[views, 3, 4\], got \[4, 3, 3\]"),
    (changed(poses=broken_pose(np.nan)), "the pose of view 2 holds numbers that are not finite"),
    (changed(poses=broken_pose(3.0)), "the pose of view 2 is no rotation: its axes are off by"),
    (changed(camera_angle_x=None), "has images without cameras: it lacks camera_angle_x, the angle that is seen across, or focal"),
    (changed(camera_angle_x=np.float32(4)), "the focal length is 0 pixels; camera_angle_x must be between 0 and π"),
    (changed(poses=None), "lacks the array poses"),
    (changed(images=np.zeros((4, 4, 4), np.uint8)), r"images must be \[views, H, W, 3 or 4\], got \[4, 4, 4\]"),
    (changed(images=np.zeros((0, 4, 4, 3), np.uint8)), r"images must be \[views, H, W, 3 or 4\], got \[0, 4, 4, 3\]"),
    (changed(images=np.full((4, 4, 4, 3), 2.0)), "images of floats must lie between 0 and 1, got 2 to 2"),
    (changed(images=np.zeros((4, 4, 4, 3), np.int32)), "images must be uint8, or floats of 0 to 1, got int32"),
    (changed(test=np.array([7])), "test must hold numbers of views, from 0 to 3"),
    (changed(test=np.array([1, 1])), "a view stands twice in val and test"),
    (changed(test=np.arange(4)), "there are no views for train: 4 images are too few"),
    (changed(near=np.float32(6)), "near is 6 and far 6; set views.near and views.far so that 0 <= near < far"),
])  # fmt: skip
def test_a_wrong_array_file_is_refused_in_one_sentence(arrays, sentence, tmp_path):
    np.savez(tmp_path / "scene.npz", **arrays)
    with pytest.raises(InputError, match=sentence):
        load_scene(str(tmp_path / "scene.npz"), True, 10)


def rewritten(folder, change):
    file = folder / "transforms_train.json"
    cameras = json.loads(file.read_text())
    change(cameras)
    file.write_text(json.dumps(cameras))


@pytest.mark.parametrize(("change", "sentence"), [
    (lambda c: c.update(frames=[]), "transforms_train.json holds no cameras: wanted camera_angle_x and a list frames"),
    (lambda c: c.pop("camera_angle_x"), "camera_angle_x must be a number, got nothing"),
    (lambda c: c["frames"][1].pop("file_path"), "frame 1 has no file_path"),
    (lambda c: c["frames"][1].update(transform_matrix=[[1, 2], [3]]), "the transform_matrix of frame 1 must be 4 rows of 4 numbers"),
    (lambda c: c["frames"][0].update(file_path="train/none"), "none.png"),
    (lambda c: c.update(camera_angle_x=0.5), r"transforms_test.json: camera_angle_x, near and far are \(0.75, 2.0, 6.0\)"),
])  # fmt: skip
def test_a_wrong_folder_is_refused_in_one_sentence(change, sentence, tmp_path):
    folder = blender_folder(tmp_path / "scene")
    rewritten(folder, change)
    with pytest.raises(InputError, match=sentence):
        load_scene(str(folder), True, 10)


def test_images_of_two_sizes_are_refused(tmp_path):
    folder = blender_folder(tmp_path / "scene")
    Image.new("RGBA", (4, 8)).save(folder / "train" / "r_2.png")
    with pytest.raises(InputError, match=r"the image of frame 2 is 8x4 \(HxW\) and the first one 8x8; all must be of one size"):
        load_scene(str(folder), True, 10)
    other = blender_folder(tmp_path / "other")
    for file in (other / "test").iterdir():
        Image.new("RGBA", (4, 8)).save(file)
    with pytest.raises(InputError, match=r"transforms_test.json: its images are 8x4 \(HxW\), those of transforms_train.json 8x8"):
        load_scene(str(other), True, 10)


def test_a_place_that_is_no_scene_is_refused(tmp_path):
    with pytest.raises(InputError, match="unknown scene"):
        load_scene("solid", True, 10)
    with pytest.raises(InputError, match="is no scene: it holds no transforms_train.json"):
        load_scene(str(tmp_path), True, 10)
    with pytest.raises(InputError, match="there are no images"):
        Scene("it", torch.zeros(0, 2, 2, 3), torch.zeros(0, 3, 4), 1.0, every_nth(0, 2))
