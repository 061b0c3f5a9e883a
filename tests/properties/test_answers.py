"""Outside of training a rule answers as its network does, and changes nothing."""

import math

import pytest
import torch
from oracles import SUPERVISED, UNLABELLED, assert_same_bits, case, frozen, needed, rule
from rule_cases import IMAGES, every_rule, holds, posed

from gradlens.data.datasets import load as load_data
from gradlens.data.transforms import normalizer
from gradlens.models.block_boundaries import output_shapes
from gradlens.training.build import build_model_and_method
from gradlens.training.config import make_config
from gradlens.training.evaluation import evaluate


@every_rule("answers")
def test_outside_of_training_it_answers_and_changes_nothing(name, network):
    holds("answers", name, network)


@pytest.mark.parametrize("name", SUPERVISED)
def test_the_answer_outside_training_is_the_networks_own(name):
    c = case("basic-cnn")
    method = rule(name, c)
    c.model.eval()
    assert torch.equal(method.predict(c.blocks, c.x), c.model(c.x))
    features = list(method.features(c.blocks, c.x))
    assert [f.shape[1:] for f in features] == output_shapes(c.model, c.shape)
    assert torch.equal(features[-1], c.model(c.x))


@pytest.mark.parametrize("name", UNLABELLED)
def test_evaluation_draws_the_same_every_time_and_changes_nothing(name):
    config = make_config(**{"width": 4, **needed(name), "method": name, "batch_size": 32})
    data = load_data("digits", limit=40, limit_test=33)
    pair = build_model_and_method(config, data.shape, 10, torch.device("cpu"))
    before, stream = {**frozen(pair.model), **frozen(pair.method)}, torch.get_rng_state()
    to_input = normalizer("pm1", data.train.images)
    first = evaluate(pair, data.test, to_input, config)
    pair.method.start(1, 17)
    assert evaluate(pair, data.test, to_input, config)[0] == first[0]
    assert math.isfinite(first[0])
    assert math.isnan(first[1])
    assert_same_bits({**frozen(pair.model), **frozen(pair.method)}, before)
    assert torch.equal(torch.get_rng_state(), stream)


@pytest.mark.parametrize("name", UNLABELLED)
def test_what_a_probe_reads_is_the_encoders_blocks_image_by_image(name):
    method, c = posed(name, torch.float32)
    c.model.eval(), method.eval()
    x = normalizer("pm1", IMAGES)(IMAGES)
    with torch.no_grad():
        whole = list(method.features(c.blocks, x))
        parts = [torch.cat(f) for f in zip(*(method.features(c.blocks, x[i : i + 2]) for i in (0, 2, 4)), strict=True)]
    assert len(whole) == method.num_probe_points == 2
    for a, b in zip(whole, parts, strict=True):
        assert len(a) == 6
        torch.testing.assert_close(a, b)
