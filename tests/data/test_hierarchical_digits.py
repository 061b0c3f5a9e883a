"""Digits generated level by level: what is drawn follows the templates and their chances, and is the data set that commands train on."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from gradlens.data import datasets
from gradlens.data.hierarchical_digits import BLANK, LEVELS, draw
from gradlens.runtime.errors import InputError


def templates_of(level, name):
    """The templates [T, 3, 3] of a class: classes of the next level, or 0 and 1 for pixels."""
    classes, table, counts = LEVELS[level]
    c = classes.index(name)
    return table[c, : counts[c]]


def own_templates(level):
    """(class, template as tuple) of a level, ``plus`` left out."""
    return [(name, tuple(map(int, t.flatten()))) for name in LEVELS[level].classes if name != "plus" for t in templates_of(level, name)]


def patch(grid, i, j):
    """The 3x3 cells below cell (i, j), cut out by hand."""
    return tuple(int(grid[3 * i + a, 3 * j + b]) for a, b in itertools.product(range(3), range(3)))


# -------------------------------------------------------------------------------------------------------- the templates


def test_every_class_but_blank_has_two_to_four_templates_and_no_two_are_alike():
    for level in range(3):
        counts = {name: len(templates_of(level, name)) for name in LEVELS[level].classes}
        assert counts.pop(".", 1) == 1
        assert all(2 <= n <= 4 for n in counts.values())
        everything = [tuple(map(int, t.flatten())) for name in LEVELS[level].classes for t in templates_of(level, name)]
        assert len(set(everything)) == len(everything)


def test_templates_only_use_classes_of_the_next_level_and_never_the_distractor():
    for level in (0, 1):
        below = LEVELS[level + 1].classes
        used = {int(v) for name in LEVELS[level].classes for v in templates_of(level, name).flatten()}
        assert used == set(range(len(below))) - {below.index("plus")}


@pytest.mark.parametrize("level", [0, 1, 2])
def test_templates_are_affinely_independent(level):
    below = int(LEVELS[level].table.max()) + 1
    points = np.array([np.eye(below)[list(t)].ravel() for _, t in own_templates(level)])
    assert np.linalg.matrix_rank(points[1:] - points[0]) == len(points) - 1


# --------------------------------------------------------------------------------------------------------- the drawing


def test_each_cell_becomes_the_template_that_is_listed():
    drawn = draw(20, seed=3, noise=0.1, distractors=0.2)
    assert [tuple(level.shape) for level in drawn.levels] == [(20, side, side) for side in (1, 3, 9)]
    assert torch.equal(drawn.labels, drawn.levels[0][:, 0, 0])
    below = [drawn.content(1), drawn.content(2), drawn.lit]
    for level, (n, side) in enumerate(((20, 1), (20, 3), (20, 9))):
        for image, i, j in itertools.product(range(n), range(side), range(side)):
            name = LEVELS[level].classes[int(drawn.levels[level][image, i, j])]
            want = templates_of(level, name)[int(drawn.templates[level][image, i, j])]
            assert patch(below[level][image], i, j) == tuple(map(int, want.flatten()))


def test_distractors_are_a_plus_where_there_was_a_blank_and_nowhere_else():
    drawn = draw(50, seed=1, distractors=0.3)
    assert not drawn.distracted[0].any()
    for level in (1, 2):
        plus = LEVELS[level].classes.index("plus")
        assert torch.equal(drawn.levels[level] == plus, drawn.distracted[level])
        assert drawn.distracted[level].any()
        assert bool((drawn.content(level)[drawn.distracted[level]] == BLANK).all())
    assert not any(d.any() for d in draw(50, seed=1, distractors=0.0).distracted)


def test_noise_and_distractors_change_nothing_else():
    clean, other = draw(30, seed=5, noise=0.0, distractors=0.0), draw(30, seed=5, noise=0.4, distractors=0.3)
    assert torch.equal(clean.labels, other.labels)
    assert torch.equal(clean.levels[1], other.content(1))
    assert torch.equal(clean.templates[0], other.templates[0])
    assert torch.equal(clean.pixels, torch.where(clean.lit, 0.9, 0.05)[:, None])


def test_draws_are_seeded():
    a, b, other, test = draw(30, seed=2), draw(30, seed=2), draw(30, seed=4), draw(30, seed=2, purpose="test")
    assert torch.equal(a.pixels, b.pixels)
    for changed in (other, test):
        assert not torch.equal(a.labels, changed.labels)
        assert not torch.equal(a.pixels, changed.pixels)
    state = torch.get_rng_state()
    draw(3)
    assert torch.equal(state, torch.get_rng_state())


def test_images_are_clipped_bytes():
    drawn = draw(40, seed=0, noise=0.5)
    want = np.clip(drawn.pixels.numpy(), 0, 1) * 255
    assert drawn.bytes().dtype == torch.uint8
    assert np.abs(drawn.bytes().numpy().astype(float) - want).max() <= 0.5 + 1e-4
    assert (drawn.bytes() == 0).any()
    assert (drawn.bytes() == 255).any()


# --------------------------------------------------------------------------------------------------- chances, by chi²


def template_chances(drawn):
    """level, class -> p of a chi² test that its templates, read off the cells below, are equally likely."""
    found, below = {}, [drawn.levels[1], drawn.levels[2], drawn.lit.long()]
    for level in range(3):
        cells = drawn.levels[level]
        n, side, _ = cells.shape
        patches = below[level].numpy().reshape(n, side, 3, side, 3).transpose(0, 1, 3, 2, 4).reshape(-1, 9)
        for c, name in enumerate(LEVELS[level].classes):
            known = [tuple(map(int, t.flatten())) for t in templates_of(level, name)]
            here = patches[cells.flatten().numpy() == c]
            counts = [int((here == np.array(t)).all(1).sum()) for t in known]
            assert sum(counts) == len(here)  # nothing else is ever drawn
            if len(known) > 1 and len(here):
                found[level, name] = stats.chisquare(counts).pvalue
    return found


def test_templates_are_equally_likely():
    chances = template_chances(draw(3000, seed=0, distractors=0.0))
    assert len(chances) == 10 + 8 + 3
    assert min(chances.values()) > 0.01 / len(chances)  # Bonferroni
    drawn = draw(3000, seed=0, distractors=0.0)
    often = drawn.labels * 0 + 1
    often[::3] = 0  # the same test sees chances of a third and two thirds
    assert stats.chisquare(np.bincount(often.numpy())).pvalue < 1e-6


def test_labels_are_equally_likely_and_templates_independent_of_each_other():
    drawn = draw(3000, seed=7, distractors=0.0)
    assert stats.chisquare(np.bincount(drawn.labels.numpy(), minlength=10)).pvalue > 0.001
    threes = (drawn.levels[1][:, 0, 0] == LEVELS[1].classes.index("h")) & (drawn.levels[1][:, 0, 1] == LEVELS[1].classes.index("h"))
    left, right = drawn.templates[1][threes][:, 0, 0], drawn.templates[1][threes][:, 0, 1]
    assert stats.chi2_contingency(np.histogram2d(left, right, bins=2)[0]).pvalue > 0.001


def test_distractors_come_with_the_probability_that_was_requested():
    drawn = draw(2000, seed=0, distractors=0.07)
    for level in (1, 2):
        blanks = int((drawn.content(level) == BLANK).sum())
        assert stats.binomtest(int(drawn.distracted[level].sum()), blanks, 0.07).pvalue > 0.001


def test_noise_is_gaussian_around_dark_and_lit():
    drawn = draw(200, seed=0, noise=0.15)
    for value, mask in ((0.05, ~drawn.lit), (0.9, drawn.lit)):
        away = (drawn.pixels[:, 0][mask] - value).numpy()
        assert stats.kstest(away, "norm", args=(0, 0.15)).pvalue > 0.001


@pytest.mark.parametrize(
    ("n", "settings", "said"),
    [
        (0, {}, "must be 1 or more"),
        (5, {"noise": -0.1}, "standard deviation"),
        (5, {"noise": float("nan")}, "standard deviation"),
        (5, {"distractors": 1.5}, "0 to 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(n, settings, said):
    with pytest.raises(InputError, match=said):
        draw(n, **settings)


# --------------------------------------------------------------------------------------------------------- the data set


def test_the_data_set_is_always_the_same_and_of_the_documented_shape():
    one, two = datasets.load("hierarchical"), datasets.load("hierarchical")
    assert one.fingerprint() == two.fingerprint()
    assert (len(one.train), len(one.test)) == (5000, 1000)
    assert (one.shape, len(one.classes)) == datasets.DATASETS["hierarchical"][1:3]
    assert one.train.images.dtype == torch.uint8
    assert not torch.equal(one.train.images[:1000], one.test.images)


@pytest.mark.parametrize("model", ["mlp", "basic-cnn"])
def test_commands_train_on_it(program, tmp_path, model):
    size = ("--width", 4) if model == "basic-cnn" else ("--width", 16)
    where = ("--out", tmp_path, "--run-name", "r", "--quiet", "--record-every", 0)
    status, out, err = program("train", "bp", "--data", "hierarchical", "--model", model, *size, "--epochs", 1, "--limit", 500, *where)
    assert (status, err) == (0, "")
    assert "test" in out
    assert (tmp_path / "r" / "summary.json").exists()


def test_it_is_listed(program):
    status, out, _ = program("list", "data")
    assert status == 0
    assert "hierarchical" in out
