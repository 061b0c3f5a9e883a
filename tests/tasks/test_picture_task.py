"""The picture task: pixels are items, their places the input, and the score is the PSNR of pixels that were not trained on."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import learned, same_state

from gradlens.analysis.of_runs.rendering import RenderedPictures
from gradlens.analysis.rendering import unpacked
from gradlens.gradients.backward import run_step
from gradlens.gradients.true_gradient import true_gradients
from gradlens.runtime.errors import InputError
from gradlens.tasks.pictures import picture
from gradlens.tasks.registry import TASKS
from gradlens.training.config import make_config
from gradlens.training.context import RunContext, load_data
from gradlens.training.runs.build_state import build_state
from gradlens.training.runs.train_run import train_run

HEIGHT, WIDTH = 8, 12


@pytest.fixture
def file(tmp_path):
    """A picture of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return str(tmp_path / "picture.png"), pixels


def config_of(name, method="bp", **more):
    settings = {"task": "pictures", "width": 8, "batch_size": 10, "epochs": 2, "record_every": 2, "diagnose_every": 1}
    return make_config(**{**settings, "data": name, "method": method, **more})


def test_every_second_pixel_of_every_second_row_is_trained_on(file):
    name, pixels = file
    data = load_data(config_of(name), RunContext())
    assert (len(data.train), len(data.test)) == (HEIGHT * WIDTH // 4, HEIGHT * WIDTH * 3 // 4)
    assert np.array_equal(data.train.y.numpy().reshape(HEIGHT // 2, WIDTH // 2, 3), pixels[::2, ::2])
    assert data.train.x[0].tolist() == pytest.approx([-1 + 1 / HEIGHT, -1 + 1 / WIDTH])
    assert data.test.x.abs().max() <= 1 - 1 / WIDTH + 1e-6
    (whole,) = TASKS["pictures"].pictures(data)
    assert whole.size == (HEIGHT, WIDTH)
    assert np.array_equal(whole.examples.y.numpy().reshape(HEIGHT, WIDTH, 3), pixels)


@pytest.mark.parametrize("method", ["bp", "dfa", pytest.param("dgl", marks=pytest.mark.slow), pytest.param("fa", marks=pytest.mark.slow)])
def test_the_truth_is_the_gradient_of_the_mean_squared_error(method, file):
    state = build_state(config_of(file[0], method, depth=3), data := load_data(config_of(file[0]), RunContext()), torch.device("cpu"))
    assert data.shape == (2,)
    model = state.network.model
    with state.batches.sharded(0):
        x, y = state.batches.batch(0)
        step = run_step(state.network.method, list(model), x, y)
        truth = true_gradients(state.network.method, step)
    loss = (model(x).sigmoid() - y).square().mean()
    wanted = torch.autograd.grad(loss, list(model.parameters()))
    found = [truth.grads[k].params[name] for k, block in enumerate(model) for name, _ in block.named_parameters()]
    for g, t in zip(found, wanted, strict=True):
        torch.testing.assert_close(g, t, rtol=1e-4, atol=1e-7)
    if method == "dfa":
        assert state.network.method.matrix(0).shape == (3, 8)


def test_the_score_is_of_the_held_out_pixels_and_a_run_is_the_same_with_recording_off(file, tmp_path):
    config = config_of(file[0])
    run = train_run(config, RunContext(out=tmp_path / "a"))
    silent = train_run(config.replace(record_every=0), RunContext(out=tmp_path / "b"))
    assert same_state(learned(run), learned(silent))
    (result,) = RenderedPictures().analyse([run], RunContext())
    made, true = (unpacked(result, name)[0].astype(float) / 255 for name in ("made", "true"))
    held = np.ones((HEIGHT, WIDTH), bool)
    held[::2, ::2] = False
    assert run.metrics[-1].score == pytest.approx(-10 * math.log10(((made - true)[held] ** 2).mean()), abs=0.05)


def test_a_validation_share_is_of_the_training_pixels(file):
    data = load_data(config_of(file[0], validation=0.25), RunContext())
    assert (len(data.train), len(data.test), data.test_name) == (18, 6, "validation")


def test_named_pictures_are_scikit_learns():
    whole = picture("china")
    assert whole.shape == (427, 640, 3)
    assert picture("china", 2).shape == (213, 320, 3)  # the last row is left out
    assert not torch.equal(whole, picture("flower"))


def test_what_is_no_picture_is_refused_in_one_sentence(tmp_path, program):
    (tmp_path / "text.png").write_text("no")
    Image.new("L", (3, 9)).save(tmp_path / "small.png")
    for data, words in (
        (tmp_path / "none.png", "unknown picture"),
        (tmp_path / "text.png", "text.png is not a readable image"),
        (tmp_path / "small.png", "has 9x3 pixels: a picture needs 4 a side, after pictures.shrink=1"),
        (tmp_path, "is a folder: --task pictures reads one image file"),
    ):
        status, _, err = program("train", "bp", "--task", "pictures", "--data", data, "--out", tmp_path / "runs")
        assert (status, err.count("gradlens:")) == (2, 1)
        assert words in " ".join(err.split())
    with pytest.raises(InputError, match="cdni cannot be used with --task pictures"):
        config_of("china", "cdni")
