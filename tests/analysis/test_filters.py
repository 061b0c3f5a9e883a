"""First-layer filters: numbers that are known for made-up filters, Gabors found where there are some, controls, and no trace left."""

import cmath
import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import shelf
import torch
from scipy.optimize import differential_evolution
from torch import nn

from gradlens.analysis import filter_measures, first_layer_filters
from gradlens.analysis.activations import freeze_module
from gradlens.analysis.filter_measures import (
    colour_shares,
    dead,
    filters_effective_rank,
    frequencies,
    frequency_entropies,
    hues,
    order,
    spectra,
)
from gradlens.analysis.first_layer_filters import (
    describe_filters,
    filter_statistics,
    filters_of,
    first_convolution,
    fit_gabors,
    random_filter_statistics,
)
from gradlens.analysis.gabor import bounds, fit_gabor
from gradlens.analysis.of_runs.filters import FilterOptions, Filters
from gradlens.analysis.of_runs.interface import Session
from gradlens.reporting import filters
from gradlens.runtime.errors import InputError
from gradlens.runtime.progress import no_progress
from gradlens.training.checkpoint import load_checkpoint
from gradlens.training.config import make_config
from gradlens.training.context import RunContext
from gradlens.training.run_directory import load_result, load_run

TINY = {"width": 4, "limit": 64, "batch_size": 32, "epochs": 2, "record_every": 0, "lr": 3e-3}


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def wave(k, x, y, angle, frequency, phase, along, across):
    """A Gabor function pixel by pixel, as the real part of a complex one."""
    patch = np.empty((k, k))
    turn = cmath.exp(-1j * angle)
    for row in range(k):
        for column in range(k):
            at = complex(column - (k - 1) / 2 - x, row - (k - 1) / 2 - y) * turn
            falloff = (at.real / along) ** 2 + (at.imag / across) ** 2
            patch[row, column] = cmath.exp(complex(-falloff / 2, 2 * math.pi * frequency * at.real + phase)).real
    return patch


def grating(fx, fy, k=7, axis=(1, 1, 1)):
    """A wave of fx and fy cycles in the kernel, of one colour: [3, k, k]."""
    y, x = np.mgrid[:k, :k]
    return np.multiply.outer(np.array(axis, float), np.cos(2 * np.pi * (fx * x + fy * y) / k + 0.3))


# --------------------------------------------------------------------------------------------------------- Gabor fits


def test_gabors_of_any_kind_are_found():
    rng = np.random.default_rng(1)
    for _ in range(20):
        made = (*rng.uniform(-2, 2, 2), rng.uniform(0, math.pi), rng.uniform(0.08, 0.47), rng.uniform(0, 6.28), *rng.uniform(1, 3.4, 2))
        assert fit_gabor(rng.uniform(0.01, 9) * wave(7, *made)).r2 > 0.99, made


@pytest.mark.parametrize("degrees", [0, 30, 90, 150])
def test_a_clear_gabors_parameters_are_recovered(degrees):
    made = 2.5 * wave(9, 0.4, -0.7, math.radians(degrees), 0.23, 0.9, 1.7, 2.4)
    found = fit_gabor(made)
    assert found.r2 == pytest.approx(1, abs=1e-3)
    assert abs((found.orientation - degrees + 90) % 180 - 90) < 2
    assert found.frequency == pytest.approx(0.23, abs=0.01)
    assert (found.along, found.across) == pytest.approx((1.7, 2.4), abs=0.1)
    again = wave(
        9, found.x, found.y, math.radians(found.orientation), found.frequency, math.radians(found.phase), found.along, found.across
    )
    np.testing.assert_allclose(found.amplitude * again, made, atol=0.1)  # what the parameters say is what was fitted


def test_the_r2_is_that_of_the_parameters():
    patch = drawn(7, 7, seed=5)
    g = fit_gabor(patch)
    said = g.amplitude * wave(7, g.x, g.y, math.radians(g.orientation), g.frequency, math.radians(g.phase), g.along, g.across)
    assert g.r2 == pytest.approx(1 - ((patch - said) ** 2).sum() / ((patch - patch.mean()) ** 2).sum(), abs=1e-9)
    low, high = bounds(7)
    assert (low <= (g.x, g.y, g.frequency, g.along, g.across)).all()
    assert ((g.x, g.y, g.frequency, g.along, g.across) <= high).all()


def test_hardly_any_noise_is_fitted_at_7_but_a_good_part_at_5():
    at7 = [fit_gabor(patch).r2 for patch in drawn(20, 7, 7, seed=2)]
    at5 = [fit_gabor(patch).r2 for patch in drawn(15, 5, 5, seed=2)]
    assert np.mean(np.array(at7) > 0.5) <= 1 / 20
    assert np.mean(at7) < 0.35
    assert np.mean(np.array(at5) > 0.5) > 0.1  # which is why 5x5 decides nothing


def test_the_fit_is_about_as_good_as_a_global_search():
    patch = drawn(7, 7, seed=7)
    low, high = bounds(7)
    y, x = np.mgrid[-3:4, -3:4]

    def misfit(p):
        angle, (x0, y0, frequency, along, across) = p[0], p[1:]
        u = (x - x0) * math.cos(angle) + (y - y0) * math.sin(angle)
        v = (y - y0) * math.cos(angle) - (x - x0) * math.sin(angle)
        envelope = np.exp(-(u**2) / 2 / along**2 - v**2 / 2 / across**2)
        pair = np.stack([(envelope * f(2 * math.pi * frequency * u)).ravel() for f in (np.cos, np.sin)], 1)
        return float(np.linalg.lstsq(pair, patch.ravel(), rcond=None)[1][0])

    within = [(0, math.pi), *zip(low, high, strict=True)]
    best = differential_evolution(misfit, within, maxiter=40, popsize=12, rng=3, polish=True)
    searched = 1 - best.fun / ((patch - patch.mean()) ** 2).sum()
    assert fit_gabor(patch).r2 > searched - 0.03


def test_what_has_no_luminance_has_no_gabor():
    assert fit_gabors(np.stack([grating(1, 1, axis=(1, -1, 0)), np.zeros((3, 7, 7)), np.ones((3, 7, 7))])) == [None] * 3
    assert filter_statistics(np.stack([grating(1, 1, axis=(1, -1, 0))]))["gabor_share"] == 0


def test_small_kernels_are_undecided():
    assert filter_statistics(drawn(4, 3, 5, 5))["gabor_share"] is None
    assert filter_statistics(drawn(4, 3, 7, 7))["gabor_share"] is not None


# ------------------------------------------------------------------------------------------------- spectra and colours


def test_gratings_have_the_frequency_they_have_and_no_entropy():
    made = np.stack([grating(2, 1), grating(0, 3), 5 + grating(2, 1), grating(1, -2, axis=(1, -1, 0))])
    np.testing.assert_allclose(frequency_entropies(made), 0, atol=1e-9)
    np.testing.assert_allclose(frequencies(made), np.array([math.hypot(2, 1), 3, math.hypot(2, 1), math.hypot(1, 2)]) / 7)
    both = (grating(2, 1) + grating(0, 1))[None]
    np.testing.assert_allclose(frequency_entropies(both), 1)  # two equal ones: one bit
    np.testing.assert_allclose(frequencies(both), (math.hypot(2, 1) + 1) / 14)


def test_one_pixel_has_all_frequencies_alike():
    for k, pairs in ((7, 24), (5, 12), (4, 9), (3, 4)):
        made = np.zeros((1, 1, k, k))
        made[0, 0, k // 2, k // 2] = 1
        shares, over = filter_measures.spectra(made)
        assert shares.shape == (1, pairs)
        assert over.shape == (pairs,)
        if k % 2:  # even sizes have frequencies that are their own mirror image, at half the power
            np.testing.assert_allclose(frequency_entropies(made), math.log2(pairs))


def test_the_spectrum_is_that_of_a_slow_transform():
    made = drawn(1, 2, 5, 5)
    power = {}
    for a in range(5):
        for b in range(5):
            for channel in made[0]:
                terms = [channel[y, x] * cmath.exp(-2j * math.pi * (a * y + b * x) / 5) for y in range(5) for x in range(5)]
                pair = min((a, b), (-a % 5, -b % 5))
                power[pair] = power.get(pair, 0) + abs(sum(terms)) ** 2
    del power[0, 0]
    shares = {u: p / sum(power.values()) for u, p in power.items()}
    assert frequency_entropies(made)[0] == pytest.approx(-sum(s * math.log2(s) for s in shares.values()))
    centred = {u: math.hypot(min(u[0], 5 - u[0]), min(u[1], 5 - u[1])) / 5 for u in shares}
    assert frequencies(made)[0] == pytest.approx(sum(s * centred[u] for u, s in shares.items()))


def test_filters_without_a_pattern_have_no_spectrum():
    made = np.stack([np.full((1, 7, 7), 0.7), np.zeros((1, 7, 7)), grating(1, 0)[:1]])
    assert np.isnan(frequency_entropies(made)).tolist() == [True, True, False]
    assert filter_statistics(made)["frequency"] == pytest.approx(1 / 7)
    assert filter_statistics(made[:2])["frequency"] is None


def test_colour_is_what_is_not_grey():
    made = np.stack([grating(1, 0, axis=(1, -1, 0)), grating(1, 0, axis=(1, 1, -2)), grating(1, 0), grating(1, 0, axis=(1, 0, 0))])
    np.testing.assert_allclose(colour_shares(made), [1, 1, 0, 2 / 3], atol=1e-12)
    noise = drawn(5, 3, 7, 7)
    grey = noise.mean(1, keepdims=True)
    np.testing.assert_allclose(colour_shares(noise), ((noise - grey) ** 2).sum((1, 2, 3)) / (noise**2).sum((1, 2, 3)))
    assert np.isnan(colour_shares(np.zeros((1, 3, 3, 3)))).all()
    assert filter_statistics(drawn(3, 1, 3, 3))["colour_share"] is None


@pytest.mark.parametrize(("colour", "degrees"), [((1, -1, 0), 0), ((1, 1, -2), 90), ((-1, 1, 0), 180), ((-1, -1, 2), 270)])
def test_hues(colour, degrees):
    made = np.multiply.outer(np.array([colour], float), np.ones((3, 3))) + 7  # grey beside it changes no hue
    assert (hues(made)[0] - degrees + 180) % 360 == pytest.approx(180, abs=1e-9)  # round a circle: some CPUs' -1e-15 is 360


def test_a_filter_without_a_colour_has_no_hue_and_none_is_360():
    flat = np.ones((1, 3, 4, 4))
    colours = np.array([[1.0, -1, 1e-16], [1, -1, -1e-16], [1, 1, 1], [0, 0, 0], [0.3, 0.3, 0.3 + 1e-9]])
    found = hues(colours[:, :, None, None] * flat)
    assert ((found >= 0) & (found < 360))[[0, 1, 4]].all()
    assert np.isnan(found[[2, 3]]).all()  # grey, and nothing at all
    assert found[4] == pytest.approx(270)


@pytest.mark.parametrize("k", [1, 2, 3, 7])
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_numbers_of_filters_keep_their_bounds_at_every_scale(k, scale):
    """Random filters, among them grey ones, flat ones and one of zeros; twice, so that some are alike."""
    g = np.random.default_rng(k)
    noise, grey, flat = (g.standard_normal((3, *shape)) for shape in ((3, k, k), (1, k, k), (3, 1, 1)))
    plain = np.concatenate([noise, grey + np.zeros_like(noise), flat + np.zeros_like(noise), np.zeros((1, 3, k, k)), noise])
    filters = scale * plain
    with np.errstate(invalid="raise"):
        shares, entropies, centroids, turns = colour_shares(filters), frequency_entropies(filters), frequencies(filters), hues(filters)
    most = spectra(filters)[0].shape[1]

    def within(values, low, high):
        return ((values >= low) & (values <= high * (1 + 1e-12)) | np.isnan(values)).all()

    assert within(shares, 0, 1)
    assert within(entropies, 0, math.log2(max(most, 1)))
    assert within(centroids, 0, 0.5**0.5)
    assert within(turns, 0, np.nextafter(360, 0) / (1 + 1e-12))
    assert 1 <= filters_effective_rank(filters) <= min(9, 3 * k * k)
    for measured in (colour_shares, frequency_entropies, frequencies, hues, dead):
        np.testing.assert_allclose(measured(filters), measured(plain), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(measured(filters[::-1]), measured(filters)[::-1], rtol=1e-12, atol=1e-12)
    assert filters_effective_rank(filters) == pytest.approx(filters_effective_rank(plain[::-1]), rel=1e-9)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_a_gabors_parameters_do_not_depend_on_the_scale_and_its_amplitude_is_in_it(scale):
    for seed in range(3):
        patch = np.random.default_rng(seed).standard_normal((7, 7))
        one, other = fit_gabor(patch), fit_gabor(scale * patch)
        assert one.r2 <= 1
        assert 0 <= one.orientation < 180
        assert other.amplitude / scale == pytest.approx(one.amplitude, rel=1e-6)
        assert other._replace(amplitude=0) == pytest.approx(one._replace(amplitude=0), rel=1e-5, abs=1e-6)


def test_filters_are_ordered_by_frequency_and_then_by_hue():
    flat = np.ones((7, 7))
    made = np.stack(
        [
            np.zeros((3, 7, 7)),
            np.multiply.outer([-1, -1, 2], flat),  # blue
            grating(3, 0),
            np.multiply.outer([1, -1, 0], flat),  # red
            grating(1, 0),
            np.multiply.outer([1, 1, -2], flat),  # yellow
        ]
    )
    assert order(made) == [4, 2, 3, 5, 1, 0]
    assert order(made[:, :1][[2, 4]]) == [1, 0]  # one channel: by frequency


# ------------------------------------------------------------------------------------------------- rank, dead, invariances


def test_effective_rank_counts_directions():
    orthogonal = np.linalg.qr(drawn(27, 27))[0].reshape(27, 3, 3, 3)
    assert filters_effective_rank(orthogonal[:6] * np.arange(1, 7)[:, None, None, None]) == pytest.approx(6)
    assert filters_effective_rank(np.repeat(drawn(1, 3, 3, 3), 5, 0)) == pytest.approx(1)
    assert math.isnan(filters_effective_rank(np.zeros((2, 3, 3, 3))))
    noise = drawn(5, 3, 3, 3)
    rows = (noise / np.sqrt((noise**2).sum((1, 2, 3), keepdims=True))).reshape(5, -1)
    values = np.sqrt(np.linalg.eigvalsh(rows @ rows.T))
    shares = values / values.sum()
    assert filters_effective_rank(noise) == pytest.approx(np.prod(shares**-shares))


def test_dead_filters():
    made = np.concatenate([drawn(5, 3, 5, 5), np.zeros((1, 3, 5, 5)), 1e-3 * drawn(1, 3, 5, 5)])
    assert dead(made).tolist() == [False] * 5 + [True] * 2
    silent = np.arange(7) == 2
    assert dead(made, silent).tolist() == [False, False, True, False, False, True, True]
    assert filter_statistics(made, silent=silent)["dead_share"] == pytest.approx(3 / 7)
    assert dead(np.zeros((3, 1, 3, 3))).all()


def test_filters_that_never_answer_are_dead():
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(3, 5, 5, padding=2), nn.ReLU())
    model = nn.Sequential(block, nn.Flatten())
    with torch.no_grad():
        block[0].bias[3] = -1e3  # below zero on all images: ReLU gives nothing
        block[0].bias[1] = 1e3  # large, but it still tells images apart
    seen = describe_filters(freeze_module(model), torch.randn(20, 3, 8, 8))
    assert seen.watched
    assert seen.numbers["dead_share"] == pytest.approx(1 / 5)
    narrowed = nn.Sequential(nn.Sequential(*block, nn.Conv2d(5, 2, 1)))  # its outputs are not the filters'
    assert not describe_filters(freeze_module(narrowed), torch.randn(20, 3, 8, 8)).watched


def test_scale_sign_and_order_of_filters_change_nothing():
    made = np.concatenate([drawn(3, 3, 7, 7), grating(1, 1)[None]])
    want = filter_statistics(made)
    factors = np.array([0.5, -1.0, 2.0, -1.5])[:, None, None, None]
    assert filter_statistics((made * factors)[[2, 0, 3, 1]]) == pytest.approx(want)
    assert want["gabor_share"] > 0


def test_random_filters_are_the_same_each_time_and_know_no_colour(monkeypatch):
    monkeypatch.setattr(first_layer_filters, "RANDOM", 12)
    first_layer_filters._random.cache_clear()
    first = random_filter_statistics(6, 3, 7)
    first_layer_filters._random.cache_clear()
    assert random_filter_statistics(6, 3, 7) == first
    assert first["colour_share"] == pytest.approx(2 / 3, abs=0.05)
    assert first["gabor_share"] <= 1 / 12
    assert first["dead_share"] is None
    first_layer_filters._random.cache_clear()


# ---------------------------------------------------------------------------------------------------- modules and runs


def test_the_first_convolution_of_any_module():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU(), nn.Conv2d(4, 2, 3)))
    name, convolution = first_convolution(model)
    assert name == "1.0"
    got = filters_of(model)
    np.testing.assert_array_equal(got, convolution.weight.detach().double().numpy())
    got[:] = 0
    assert convolution.weight.abs().sum() > 0  # a copy


def test_modules_that_cannot_be_looked_at():
    with pytest.raises(InputError, match="no convolution"):
        filters_of(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)))
    with pytest.raises(InputError, match="0 has kernels of 3x5"):
        filters_of(nn.Sequential(nn.Conv2d(1, 1, (3, 5))))
    broken = nn.Sequential(nn.Conv2d(1, 1, 3))
    with torch.no_grad():
        broken[0].weight[0] = math.nan
    with pytest.raises(InputError, match="weights of 0 are not finite"):
        filters_of(broken)


@pytest.fixture(autouse=True)
def few_random_filters(monkeypatch):
    """A fit takes some thirty milliseconds."""
    monkeypatch.setattr(first_layer_filters, "RANDOM", 4)


def finished(**changes):
    """The directory of a tiny run on the shelf; to be copied, not changed."""
    return shelf.trained(make_config(**{**TINY, **changes})).path


@pytest.fixture
def copied(tmp_path):
    return lambda **changes: Path(shutil.copytree(finished(**changes), tmp_path / "runs" / finished(**changes).name))


def looked_at(path, over_time=False):
    return Filters().measure(load_run(path), Session(RunContext(), FilterOptions(over_time)), no_progress)


def contents(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_without_training_everything_is_as_at_the_start(copied):
    found = looked_at(copied(epochs=0, stem=7))
    for name, values in found["numbers"].items():
        assert values["trained"] == values["untrained"], name
    assert found["weights"] == found["untrained_weights"]
    assert found["order"] == found["untrained_order"]
    assert found["numbers"]["moved"]["trained"] == 0
    assert found["step"] == 0


def test_a_run_is_looked_at_over_time_and_only_the_result_is_new(copied):
    path = copied(stem=5, keep_checkpoints=2, method="dgl")
    before = contents(path)
    found = looked_at(path, over_time=True)
    after = contents(path)
    assert after.pop(path / "filters.json")
    assert after == before
    assert [moment["step"] for moment in found["over_time"]] == [2, 4]
    assert found["over_time"][-1]["numbers"] == {name: values["trained"] for name, values in found["numbers"].items()}
    assert 0 < found["over_time"][0]["numbers"]["moved"] < found["numbers"]["moved"]["trained"]
    state = load_checkpoint(path / "checkpoint.pt")["model"]
    np.testing.assert_allclose(found["weights"], state["block1.conv.weight"].numpy(), rtol=1e-3)
    assert {name: found[name] for name in ("layer", "kernel", "filters", "channels", "gabor")} == {
        "layer": "block1.conv", "kernel": 5, "filters": 4, "channels": 1, "gabor": None,
    }  # fmt: skip
    assert found["numbers"]["gabor_share"] == dict.fromkeys(("trained", "change", "untrained", "random"))
    stored = load_result(path, "filters")
    assert stored["numbers"] == found["numbers"]
    assert stored["protocol"]["images"] == 364


def test_the_control_is_the_runs_own_beginning(copied):
    path = copied(stem=5, seed=3)
    start = load_checkpoint(finished(stem=5, seed=3, epochs=0) / "checkpoint.pt")["model"]["block1.conv.weight"].double()
    end = load_checkpoint(path / "checkpoint.pt")["model"]["block1.conv.weight"].double()
    found = looked_at(path)
    np.testing.assert_allclose(found["untrained_weights"], start.numpy(), rtol=1e-3)
    assert found["numbers"]["moved"]["trained"] == pytest.approx(float((end - start).norm() / start.norm()))
    assert found["numbers"]["frequency"]["untrained"] == pytest.approx(frequencies(start.numpy()).mean())
    assert found["numbers"]["frequency"]["change"] == pytest.approx(frequencies((end - start).numpy()).mean())


# ------------------------------------------------------------------------------------------------------------- figures


def result(label_seed, kernel=7, count=60):
    """Contents of a filters.json, made up."""
    weights = drawn(count, 3, kernel, kernel, seed=label_seed)
    made = {name: {"trained": label_seed + 0.5, "untrained": 0.25, "random": None} for name in filters.FILTER_NUMBERS}
    return {
        "kernel": kernel, "filters": count, "channels": 3, "weights": weights.tolist(), "untrained_weights": (weights / 2).tolist(),
        "order": list(range(count))[::-1], "untrained_order": list(range(count)), "numbers": made,
    }  # fmt: skip


def test_panels_are_in_the_order_of_the_reference_study_with_the_untrained_stem_last():
    results = {label: [result(1)] for label in ("dgl", "fa", "overlap", "chunked chunks=2", "chunked chunks=3", "bp")}
    panels = filters.filter_panels(results)
    assert [p.label for p in panels] == ["bp", "chunked chunks=2", "chunked chunks=3", "overlap", "dgl", "fa", "untrained"]
    assert all(len(p.filters) == 49 for p in panels)
    assert panels[0].filters[0] == results["bp"][0]["weights"][48]  # in the run's order, of the first 49
    added = filters.filter_panels(results, change=True)
    assert [p.label for p in added] == [p.label for p in panels[:-1]]
    np.testing.assert_allclose(added[0].filters[0], np.array(results["bp"][0]["weights"][0]) / 2)
    mixed = filters.filter_panels({"bp stem=5": [result(1, 5)], "bp stem=7": [result(1)]})
    assert [p.label for p in mixed[2:]] == ["untrained 5x5", "untrained 7x7"]


def test_each_filter_is_scaled_to_its_own_range():
    weights = drawn(5, 3, 7, 7)
    figure = filters.filter_grid([filters.FilterPanel("bp", (weights * 9 - 4).tolist())])
    canvas = figure.axes[0].images[0].get_array()
    assert canvas.shape == (15, 23, 3)  # two rows of three, a pixel between
    for i, (top, left) in enumerate([(0, 0), (0, 8), (0, 16), (8, 0), (8, 8)]):
        w = weights[i].transpose(1, 2, 0)
        np.testing.assert_allclose(canvas[top : top + 7, left : left + 7], (w - w.min()) / (w.max() - w.min()))
    assert (canvas[7] == 1).all()
    grey = filters.filter_grid([filters.FilterPanel("bp", [np.zeros((1, 5, 5)).tolist()])])
    assert (grey.axes[0].images[0].get_array() == 0.5).all()
    with pytest.raises(InputError, match="no filters to draw"):
        filters.filter_grid([])


def test_dots_stand_where_the_table_says():
    rows = filters.filter_numbers({"dgl": [result(3), result(5)], "bp": [result(1), result(2)]})
    first = rows[0]
    assert (first.label, first.number, first.mean, first.seeds, first.untrained) == ("bp", "gabor_share", 2.0, 2, 0.25)
    assert first.high - first.mean == pytest.approx(12.706 * 0.5, rel=1e-3)
    assert math.isnan(first.random)
    figure = filters.filter_dots(rows)
    gabors = figure.axes[0]
    assert gabors.get_title("left") == "Gabors (%)"
    assert [t.get_text() for t in gabors.get_yticklabels()] == ["bp", "dgl"]
    assert [c[0].get_xdata()[0] for c in gabors.containers] == [200, 450]
    assert gabors.lines[0].get_xdata()[0] == 25  # the untrained stems'
    with pytest.raises(InputError, match="no number of the filters"):
        filters.filter_dots([])


def test_what_no_label_has_is_reported_and_not_drawn():
    one = result(1)
    one["numbers"]["gabor_share"] = dict.fromkeys(("trained", "untrained", "random"))
    one["numbers"]["dead_share"] = {"trained": 0.0, "untrained": 0.0, "random": None}
    figure = filters.filter_dots(filters.filter_numbers({"bp": [one]}), title="here")
    titles = [ax.get_title("left") for ax in figure.axes]
    assert "Gabors (%)" not in titles
    assert "dead (%)" not in titles
    assert figure.get_suptitle() == "here · one seed · Gabors undecided: the kernel is too small · no dead filters"


# --------------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def gradlens(program, monkeypatch, tmp_path):
    """Run the program in this process, in an empty folder: (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    return program


@pytest.mark.slow
def test_the_command_prints_and_draws(gradlens, copied):
    paths = [copied(stem=5, method=method, seed=seed) for method in ("dgl", "bp") for seed in (0, 1)]
    status, out, err = gradlens("filters", *paths, "--out", "pics", "--threads", 1, "--quiet")
    assert (status, err) == (0, "")
    (gabors,) = (line.split() for line in out.splitlines() if line.startswith("Gabors"))  # methods are columns: too many numbers for a line
    assert gabors[2:4] == ["undecided", "undecided"]
    assert "±" in out
    want = np.mean([load_result(path, "filters")["numbers"]["frequency"]["trained"] for path in paths[2:]])
    assert f"{want:.3f}" in out
    for name in ("filter_grid", "filter_change", "filter_numbers"):
        for ending in ("png", "csv"):
            assert 0 < Path(f"pics/{name}.{ending}").stat().st_size < 300_000
    rows = list(csv.DictReader(Path("pics/filter_numbers.csv").read_text().splitlines()))
    assert [r["label"] for r in rows[:: len(filters.FILTER_NUMBERS)]] == ["bp", "dgl"]
    assert json.loads((paths[0] / "filters.json").read_text())["layer"] == "block1.conv"


@pytest.mark.parametrize(
    ("make_bad", "words"),
    [
        (lambda path: path.parent / "nowhere", "does not exist"),
        (lambda path: (path / "checkpoint.pt").unlink() or path, "has no checkpoint.pt"),
        (lambda path: (path / "checkpoint.pt").write_bytes(b"x") and path, "is not a checkpoint that can be read"),
    ],
)
def test_runs_that_cannot_be_looked_at(gradlens, copied, make_bad, words):
    good, bad = copied(stem=5), make_bad(copied(stem=5, seed=1))
    status, out, err = gradlens("filters", good, bad, "--quiet")
    assert (status, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert not (good / "filters.json").exists()
    assert not Path("figures").exists()


def test_networks_without_convolutions_and_other_mistakes(gradlens, copied):
    mlp, good = copied(model="mlp"), copied(stem=5)
    status, out, err = gradlens("filters", mlp, "--quiet")
    assert (status, out) == (2, "")
    assert f"{mlp}: mlp: this network has no convolution, and therefore no filters" in err
    assert "are the same run" in gradlens("filters", good, good.relative_to(Path.cwd()), "--quiet")[2]
    Path("taken").write_text("")
    assert "cannot write taken" in gradlens("filters", good, "--out", "taken", "--quiet")[2]
    assert gradlens("filters")[0] == 2
    assert not (good / "filters.json").exists()


def test_a_filter_of_one_pixel_has_no_spectrum():
    single = np.ones((3, 2, 1, 1))
    assert np.isnan(frequency_entropies(single)).all()
    assert np.isnan(filter_measures.frequencies(single)).all()
