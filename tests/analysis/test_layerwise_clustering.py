"""The layerwise algorithm: its parts against slow, obvious code, and what it must find where the classes are known."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradlens.analysis.representation_similarity import fisher_ratio as fisher_ratio
from gradlens.analysis.theory import layerwise_clustering
from gradlens.analysis.theory.layerwise_clustering import (
    LayerwisePlan,
    extract,
    layerwise_purities,
    learn_layerwise,
    purity,
    two_layer,
    whitening,
)
from gradlens.data.hierarchical_digits import draw
from gradlens.runtime.errors import InputError

SIZES, CLUSTERS = (3, 3, 3), (4, 9, 10)


def digits(n, noise, distractors=0.0, seed=0, purpose="train"):
    """Images [N, 1, 27, 27] float64, labels, and true classes, bottom first."""
    drawn = draw(n, seed, noise=noise, distractors=distractors, purpose=purpose)
    return drawn.pixels.double(), drawn.labels, [drawn.content(level) for level in (2, 1, 0)]


def plan(**changes):
    return LayerwisePlan(**{"sizes": SIZES, "clusters": CLUSTERS, **changes})


# -------------------------------------------------------------------------------------------------------------- patches


@pytest.mark.parametrize(
    ("shape", "size"), [((2, 1, 27, 27), 3), ((3, 3, 8, 12), 4), ((1, 5, 6, 6), 2), ((2, 2, 5, 5), 5), ((2, 3, 4, 4), 1)]
)
def test_patches_are_cut_where_they_are(shape, size):
    grid = torch.randn(shape)
    patches = extract(grid, size)
    n, c, h, w = shape
    assert patches.shape == (n, h // size, w // size, c * size * size)
    for i, j in itertools.product(range(h // size), range(w // size)):
        for image in range(n):
            by_hand = [
                grid[image, channel, i * size + a, j * size + b] for channel, a, b in itertools.product(range(c), range(size), range(size))
            ]
            assert patches[image, i, j].tolist() == [float(v) for v in by_hand]


@pytest.mark.parametrize("size", [0, 4, 28, 54])
def test_patches_that_do_not_fit_are_refused(size):
    with pytest.raises(InputError, match="cannot be cut"):
        extract(torch.zeros(1, 1, 27, 27), size)


def test_whitened_patches_have_mean_zero_and_covariance_one(monkeypatch):
    monkeypatch.setattr(layerwise_clustering, "RIDGE", 0.0)
    x = torch.randn(500, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64) + 3
    x = torch.cat([x, x[:, :2].sum(1, keepdim=True)], 1)  # a direction without variance of its own
    white = whitening(x)(x).numpy()
    assert white.shape == (500, 6)
    assert np.abs(white.mean(0)).max() < 1e-10
    assert np.abs(np.cov(white.T, ddof=0) - np.eye(6)).max() < 1e-9
    with pytest.raises(InputError, match="the same"):
        whitening(torch.ones(5, 3))


# ---------------------------------------------------------------------------------------------------- the gradient step


@pytest.mark.parametrize("steps", [1, 4])
def test_the_step_is_gradient_descent_of_a_convolution_and_a_linear_layer(steps):
    """Against torch's own layers, loss, gradients and SGD."""
    torch.manual_seed(1)
    n, size, side, classes, channels, lr = 12, 2, 3, 4, 5, 0.3
    images, y = torch.randn(n, 2, size * side, size * side, dtype=torch.float64), torch.randint(classes, (n,))
    x = extract(images, size).flatten(1, 2)
    got = two_layer(x, y, classes, channels, steps, lr, seed=8)
    v = (
        torch.randn(classes, side * side, channels, generator=layerwise_clustering.generator(8, "second layer"), dtype=torch.float64)
        / channels**0.5
    )
    conv = nn.Conv2d(2, channels, size, stride=size, bias=False, dtype=torch.float64)
    top = nn.Linear(channels * side * side, classes, dtype=torch.float64)
    with torch.no_grad():
        conv.weight.zero_()
        top.weight.copy_(v.permute(0, 2, 1).flatten(1))
        top.bias.copy_((F.one_hot(y, classes).double().mean(0)).clamp(min=1e-12).log())
    sgd = torch.optim.SGD([*conv.parameters(), *top.parameters()], lr)
    for _ in range(steps):
        sgd.zero_grad()
        F.cross_entropy(top(conv(images).flatten(1)), y).backward()
        sgd.step()
    torch.testing.assert_close(got, conv.weight.flatten(1).T.detach(), rtol=1e-10, atol=1e-12)


def test_one_step_takes_all_templates_of_a_class_to_one_point(monkeypatch):
    """The derivation in the module, on a whole population: every label, every class and every template as often as its chance."""
    monkeypatch.setattr(layerwise_clustering, "RIDGE", 0.0)
    templates = {"a": torch.randn(2, 7, dtype=torch.float64), "b": torch.randn(3, 7, dtype=torch.float64), "c": torch.randn(1, 7)}
    labels = {0: "aab", 1: "bca", 2: "cba"}  # classes at three positions
    rows, y = [], []
    for label, word in labels.items():
        for chosen in itertools.product(range(2), range(3)):
            pick = {"a": chosen[0], "b": chosen[1], "c": 0}
            rows += [torch.stack([templates[c][pick[c]].double() for c in word])]
            y.append(label)
    x, y = torch.stack(rows), torch.tensor(y)
    white = whitening(x.flatten(0, 1))
    w = two_layer(white(x), y, 3, 16, 1, 1.0, seed=0)
    points = {c: white(t.double()) @ w for c, t in templates.items()}
    for own in points.values():
        assert float((own - own[0]).abs().max()) < 1e-9
    far = min(float((points[a][0] - points[b][0]).norm()) for a, b in ("ab", "ac", "bc"))
    assert far > 1e-2


def test_too_large_a_learning_rate_is_reported():
    x, y, _ = digits(50, 0.1)
    with pytest.raises(InputError, match="diverged in 300 steps"):
        learn_layerwise(x, y, plan(steps=300, lr=1e4), 10)


# -------------------------------------------------------------------------------------------------------------- numbers


def test_purity_by_counting():
    rng = np.random.default_rng(0)
    found, true = torch.from_numpy(rng.integers(0, 5, (40, 3, 3))), torch.from_numpy(rng.integers(2, 6, (40, 3, 3)))
    pairs = list(zip(found.flatten().tolist(), true.flatten().tolist(), strict=True))
    best = {cluster: Counter(t for f, t in pairs if f == cluster).most_common(1)[0] for cluster, _ in pairs}
    assert purity(found, true) == pytest.approx(sum(n for _, n in best.values()) / len(pairs), abs=1e-15)
    relabelled = torch.tensor([3, 0, 4, 1, 2])[true - 2]
    assert purity(relabelled, true) == 1


def test_fisher_ratio_by_sums_over_points():
    x, y = torch.randn(60, 4, dtype=torch.float64), torch.arange(60) % 3
    x[y == 1] += 2
    between = within = 0.0
    for c in range(3):
        mine = x[y == c].numpy()
        between += len(mine) * ((mine.mean(0) - x.numpy().mean(0)) ** 2).sum()
        within += sum(((row - mine.mean(0)) ** 2).sum() for row in mine)
    assert fisher_ratio(x, y) == pytest.approx(between / within, rel=1e-12)
    assert fisher_ratio(7 * x + 1, y) == pytest.approx(between / within, rel=1e-12)
    assert fisher_ratio(y[:, None].double(), y) == float("inf")


# ------------------------------------------------------------------------------------------------------------- the laws


@pytest.fixture(scope="module")
def test_digits():
    return {noise: digits(300, noise, purpose="test") for noise in (0.0, 0.15, 0.3, 0.6)}


@pytest.fixture(scope="module")
def learned():
    """Noise -> what was learned at it."""
    torch.set_num_threads(1)
    return {noise: learn_layerwise(*digits(1200, noise)[:2], plan(), 10) for noise in (0.0, 0.15, 0.3, 0.6)}


@pytest.mark.parametrize("representation", ["one-hot", "soft"])
def test_without_noise_all_classes_are_found_and_all_images_right(learned, test_digits, representation):
    x, y, true = test_digits[0.0]
    found = learned[0.0] if representation == "one-hot" else learn_layerwise(*digits(1200, 0.0)[:2], plan(representation="soft"), 10)
    assert layerwise_purities(found, x, true) == [1.0, 1.0, 1.0]
    for clusters, classes in zip(found.clusters(x), true, strict=True):  # a permutation
        assert len(clusters.unique()) == len(classes.unique())
    assert found.accuracy(x, y) == 1.0


def test_purity_falls_with_noise_at_every_level(learned, test_digits):
    over_noise = [layerwise_purities(learned[noise], *test_digits[noise][::2]) for noise in sorted(learned)]
    for level in zip(*over_noise, strict=True):
        assert all(a > b for a, b in itertools.pairwise(level)), level


@pytest.mark.parametrize("noise", [0.0, 0.15, 0.3])
def test_the_step_raises_the_fisher_ratio_of_pixels(learned, test_digits, noise):
    x, _, true = test_digits[noise]
    stage = learned[noise].stages[0]
    before = fisher_ratio(extract(x, 3).flatten(0, 2), true[0].flatten())
    assert fisher_ratio(stage.embedded(x).flatten(0, 2), true[0].flatten()) > 1.5 * before


def test_shuffled_labels_lose_what_the_step_gains(learned, test_digits):
    x, y, true = test_digits[0.15]
    train, labels, _ = digits(1200, 0.15)
    dealt = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(3))]
    lost = learn_layerwise(train, labels, plan(), 10, stage_labels=dealt)
    right = learned[0.15]
    for got, want in zip(layerwise_purities(lost, x, true), layerwise_purities(right, x, true), strict=True):
        assert got < want - 0.05
    assert lost.accuracy(x, y) < right.accuracy(x, y) - 0.2
    ratios = [fisher_ratio(one.stages[0].embedded(x).flatten(0, 2), true[0].flatten()) for one in (lost, right)]
    assert ratios[0] < fisher_ratio(extract(x, 3).flatten(0, 2), true[0].flatten()) < ratios[1]


@pytest.mark.parametrize("name", ["pixels", "whitened", "random"])
def test_without_the_step_classes_are_not_found_even_without_noise(test_digits, name):
    x, y, true = test_digits[0.0]
    found = learn_layerwise(*digits(1200, 0.0)[:2], plan(map=name), 10)
    assert max(layerwise_purities(found, x, true)) < 0.98
    assert found.accuracy(x, y) < 0.95


def test_clusters_of_pixels_are_pure_where_there_is_one_a_template(test_digits):
    x, _, true = test_digits[0.0]
    found = learn_layerwise(*digits(1200, 0.0)[:2], LayerwisePlan((3,), (7,), map="pixels"), 10)
    assert layerwise_purities(found, x, true[:1]) == [1.0]


def test_learning_is_seeded_and_leaves_no_trace():
    x, y, _ = digits(200, 0.15)
    kept, state = x.clone(), torch.get_rng_state()
    one, two, other = (learn_layerwise(x, y, plan(seed=seed), 10) for seed in (0, 0, 1))
    assert torch.equal(one.stages[0].centres, two.stages[0].centres)
    assert not torch.equal(one.stages[0].centres, other.stages[0].centres)
    assert torch.equal(x, kept)
    assert torch.equal(state, torch.get_rng_state())


def test_what_a_stage_hands_on_is_its_clusters():
    x, y, _ = digits(100, 0.15)
    for representation in ("one-hot", "soft"):
        stage = learn_layerwise(x, y, plan(representation=representation), 10).stages[0]
        far = ((stage.embedded(x)[..., None, :] - stage.centres) ** 2).sum(-1).sqrt()
        out = stage(x)
        assert out.shape == (100, 4, 9, 9)
        assert torch.equal(out.argmax(1), far.argmin(-1))
        assert torch.equal(stage.assigned(x), far.argmin(-1))
        want = (far.mean(-1, keepdim=True) - far).clamp(min=0) if representation == "soft" else F.one_hot(far.argmin(-1), 4).double()
        torch.testing.assert_close(out.permute(0, 2, 3, 1), want, rtol=1e-5, atol=1e-9)


# -------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"map": "pca"}, "nearest"),
        ({"representation": "hard"}, "nearest"),
        ({"clusters": (4,)}, "3 patch sizes and 1 numbers of clusters"),
        ({"clusters": (4, 0, 10)}, "1 or more"),
        ({"sizes": (), "clusters": ()}, "expected one of each"),
    ],
)
def test_plans_that_cannot_be_followed_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        plan(**changes)


def test_images_that_cannot_be_learned_from_are_refused():
    x, y, _ = digits(8, 0.1)
    with pytest.raises(InputError, match="cannot be put into 10 clusters"):
        learn_layerwise(x, y, plan(), 10)  # 8 patches of the last stage
    with pytest.raises(InputError, match="cannot be cut into patches of 2x2"):
        learn_layerwise(x, y, plan(sizes=(2, 3, 3)), 10)
    with pytest.raises(InputError, match="float images"):
        learn_layerwise((255 * x).to(torch.uint8), y, plan(), 10)
    with pytest.raises(InputError, match="float images"):
        learn_layerwise(x, y[:5], plan(), 10)
