"""Sequences: which of their dimensions holds features, and networks on them: as on channels first, turned."""

import pytest
import torch
from torch import nn

from gradlens.methods.local.predsim import PredSimHead, pooled_size, similarity
from gradlens.models.heads import head, projection
from gradlens.models.layouts import channels_first, features_last, space_of
from gradlens.models.synthesizers import InputSynthesiser, LinearSynthesiser, Synthesiser
from gradlens.runtime.errors import InputError
from gradlens.runtime.rng import seeded

T, D, N = 6, 8, 5


@pytest.mark.parametrize(
    ("block", "shape", "last"),
    [
        (nn.TransformerEncoderLayer(D, 2, 16, batch_first=True), (T, D), True),
        (nn.Sequential(nn.Linear(3, D), nn.ReLU()), (T, D), True),
        (nn.LayerNorm(D), (D, D), True),
        (nn.Sequential(nn.Linear(D, D), nn.Conv1d(4, D, 3, padding=1)), (D, T), False),
        (nn.Sequential(nn.Conv1d(4, D, 3), nn.BatchNorm1d(D), nn.ReLU(), nn.MaxPool1d(2)), (D, D), False),
        (nn.Sequential(nn.Conv1d(4, D, 3), nn.Linear(T, T)), (D, T), True),
        (nn.Sequential(nn.Conv1d(4, 5, 3), nn.Linear(7, 9)), (D, T), True),  # of other sizes: nothing is known
        (nn.Identity(), (T, D), True),
        (nn.Conv2d(1, D, 3), (D, T, T), False),
        (nn.Linear(3, D), (D,), False),
    ],
)
def test_the_last_layer_that_fits_says_where_a_sequences_features_are(block, shape, last):
    assert features_last(block, shape) == last


def test_the_shape_with_features_first_and_its_space():
    assert channels_first((T, D), True) == (D, T)
    assert channels_first((D, T), False) == (D, T)
    assert [space_of(s) for s in ((D,), (T, D), (D, T, T))] == [0, 1, 2]
    for shape, said in (((), r"\[N\]"), ((2, 3, 4, 5), r"\[N, 2, 3, 4, 5\]")):
        with pytest.raises(InputError, match=f"a block's output is {said}"):
            space_of(shape)


def twins(make):
    """The same network for features first and last, from one stream."""
    found = []
    for last in (False, True):
        with seeded(0, "twins"):
            found.append(make((T, D) if last else (D, T), last).double().train())
    h = torch.randn(N, D, T, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return *found, h


@pytest.mark.parametrize(
    "make",
    [
        lambda shape, last: head("mlp", shape, 10, 12, 1, True, last),
        lambda shape, last: head("linear", shape, 10, 12, 1, True, last),
        lambda shape, last: projection(shape, 2, 7, 1, 0, last),
        lambda shape, last: projection(shape, 3, 7, 3, 0, last),
        lambda shape, last: PredSimHead(shape, 10, 0.5, 16, last),
    ],
)
def test_heads_read_features_last_as_they_read_them_first(make):
    first, last, h = twins(make)
    for a, b in zip(_listed(first(h)), _listed(last(h.transpose(1, 2))), strict=True):
        assert torch.equal(a, b)
        assert len(a) == N


def _listed(out):
    return out if isinstance(out, tuple) else (out,)


@pytest.mark.parametrize(
    "make",
    [
        lambda shape, last: Synthesiser(shape, 10, None, False, last),
        lambda shape, last: LinearSynthesiser(shape, 10, False, last),
    ],
)
def test_synthesisers_give_the_gradients_shape_in_either_layout(make):
    first, last, h = twins(make)
    for module in (first, last):
        g = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for p in module.parameters():
                p.copy_(torch.randn(p.shape, generator=g))
    y = torch.eye(10, dtype=torch.float64)[:N]
    turned = last(h.transpose(1, 2), y)
    assert turned.shape == (N, T, D)
    assert torch.equal(turned, first(h, y).transpose(1, 2))
    moved = h.clone()
    moved[:, :, 0] += 1  # a convolution along the sequence: what is five places away in three layers does not hear of it
    far = first(h, y)[:, :, 3:] - first(moved, y)[:, :, 3:]
    assert (far.abs().max() == 0) == isinstance(first, LinearSynthesiser)


@pytest.mark.parametrize(("image", "length"), [((2, 4, 6), 6), ((2, 4, 6), 24), ((1, 3, 5), 4)])
def test_an_input_synthesiser_cuts_the_image_into_as_many_parts_as_the_sequence_has(image, length):
    x = torch.randn(N, *image)
    net = InputSynthesiser(image, (length, D), 0, None, True)
    assert net(x).shape == (N, length, D)
    parts = net.fit(x)
    flat = x.flatten(2)
    for i in range(length if flat.shape[2] % length == 0 else 0):
        r = flat.shape[2] // length
        assert torch.equal(parts[:, :, i], flat[:, :, i * r : (i + 1) * r].flatten(1))


def test_predsims_similarity_of_sequences_is_that_of_maps_of_the_same_numbers():
    x = torch.randn(N, D, 12, dtype=torch.float64)
    torch.testing.assert_close(similarity(x), similarity(x.unflatten(2, (3, 4))))
    torch.testing.assert_close(similarity(x[:, :, :1]), similarity(x[:, :, 0]))
    assert pooled_size((8, 100), 128) == (13,)
    assert pooled_size((8, 5, 20), 128) == (3, 5)
    assert pooled_size((300,), 128) == ()
