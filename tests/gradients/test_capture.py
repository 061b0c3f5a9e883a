"""capture: what the file holds is what autograd gives, whatever the loop; nothing is left behind."""

import copy

import pytest
import torch
from torch import nn

import gradlens
from gradlens.gradients.capture_file import CaptureFile
from gradlens.runtime.errors import InputError


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).double()


def batch(n=7):
    return torch.randn(n, 6, dtype=torch.float64), torch.randn(n, 4, dtype=torch.float64)


def loss_of(z, y):
    return (z - y).square().sum() / 7


def by_hand(model, x, y):
    """Key -> tensor, by running layer by layer with retained gradients."""
    found, h = {}, x
    for name, module in model.named_children():
        h = module(h)
        h.retain_grad()
        found[f"activation/{name}"] = h
    loss_of(h, y).backward()
    gradients = {f"gradient/{key.partition('/')[2]}": h.grad for key, h in found.items()}
    return found | gradients | {f"parameter/{name}": p.grad for name, p in model.named_parameters()}


def stored(path):
    file = CaptureFile(path)
    return {key: file.tensor(key) for key in file.header["tensors"]}


def assert_equal(found, wanted):
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value.detach(), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("sizes", [[7], [2, 4, 1]])
def test_a_step_of_one_or_of_several_micro_batches_is_that_of_the_whole_batch(sizes, tmp_path):
    x, y = batch()
    model = net()
    with gradlens.capture(model, tmp_path / "a"):
        for inputs, targets in zip(x.split(sizes), y.split(sizes), strict=True):
            loss_of(model(inputs), targets).backward()
    assert_equal(stored(tmp_path / "a"), by_hand(net(), x, y))
    header = CaptureFile(tmp_path / "a").header
    assert header["calls"] == ["0", "1", "2"]
    assert header["forwards"] == header["backwards"] == len(sizes)
    assert header["unseen"] == []


def test_the_gradient_is_stored_before_clipping_and_the_first_step_of_the_optimizer_ends_it(tmp_path):
    x, y = batch()
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with gradlens.capture(model, tmp_path / "a", scaler=8.0):
        for _ in range(2):
            optimizer.zero_grad()
            (8 * loss_of(model(x), y)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1e-6)
            optimizer.step()
    assert_equal(stored(tmp_path / "a"), by_hand(net(), x, y))


def test_every_third_step_has_a_file(tmp_path):
    x, y = batch()
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = []
    with gradlens.capture(model, tmp_path / "a.st", every=3) as capture:
        for _ in range(5):
            before.append(copy.deepcopy(model))
            optimizer.zero_grad()
            loss_of(model(x), y).backward()
            optimizer.step()
    assert [file.name for file in capture.files] == ["a.step0.st", "a.step3.st"]
    before[3].zero_grad()
    assert_equal(stored(tmp_path / "a.step3.st"), by_hand(before[3], x, y))


def test_steps_can_be_ended_by_hand_but_not_in_both_ways(tmp_path):
    x, y = batch()
    model = net()
    with gradlens.capture(model, tmp_path / "a", every=2) as capture:
        for _ in range(3):
            loss_of(model(x), y).backward()
            capture.step()
    assert [file.name for file in capture.files] == ["a.step0", "a.step2"]
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with gradlens.capture(model, tmp_path / "b", every=2) as capture:
        loss_of(model(x), y).backward()
        optimizer.step()
        with pytest.raises(InputError, match="counted already"):
            capture.step()


def test_nothing_is_left_on_the_model_and_training_is_the_same(tmp_path):
    x, y = batch()
    plain, seen = net(), net()
    loss_of(plain(x), y).backward()
    with gradlens.capture(seen, tmp_path / "a"):
        loss_of(seen(x), y).backward()
    for p, q in zip(plain.parameters(), seen.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)
        assert not q._post_accumulate_grad_hooks
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in seen.modules())
    assert not nn.modules.module._global_forward_hooks
    assert not nn.modules.module._global_forward_pre_hooks


def test_layers_are_chosen_by_regular_expression_and_the_batch_is_stored_when_asked_for(tmp_path):
    x, y = batch()
    model = net()
    with gradlens.capture(model, tmp_path / "a", include=r"^[02]", exclude=["bias$", "^2$"], batch=True):
        loss_of(model(x), y).backward()
    found = stored(tmp_path / "a")
    assert sorted(found) == ["activation/0", "batch/0", "gradient/0", "parameter/0.weight", "parameter/2.weight"]
    assert torch.equal(found["batch/0"], x)


def test_a_tied_parameter_is_stored_once_and_a_frozen_one_is_named(tmp_path):
    model = net()
    model.append(nn.Linear(4, 5).double())
    model.append(nn.Linear(5, 4).double())
    model[4].weight = model[2].weight
    model[0].requires_grad_(False)
    with gradlens.capture(model, tmp_path / "a"):
        model(batch()[0]).sum().backward()
    header = CaptureFile(tmp_path / "a").header
    assert header["parameters"]["4.weight"] == {"tied": "2.weight"}
    assert "parameter/4.weight" not in header["tensors"]
    assert header["parameters"]["0.weight"]["trained"] is False
    assert header["unseen"] == []


def test_what_was_not_seen_is_said(tmp_path):
    model = net()
    model.add_module("unused", nn.Linear(2, 2).double())
    model[2].weight.grad = torch.ones_like(model[2].weight)
    x, y = batch()
    with gradlens.capture(model, tmp_path / "a"):
        loss_of(model[2](model[1](model[0](x))), y).backward()
    never, none, before, inputs = CaptureFile(tmp_path / "a").header["unseen"]
    assert never.startswith("never called: unused")
    assert none == ".grad is None after the last backward pass: unused.weight, unused.bias"
    assert before.endswith("is counted in: 2.weight")
    assert inputs == "the model's inputs: the model itself was not called"


def failing(model, x):
    model(x).sum().backward()
    raise RuntimeError("boom")


def growing(model, x):
    model(x).sum().backward()
    model[2] = nn.Linear(5, 4)


def test_an_exception_leaves_no_file(tmp_path):
    model = net()
    with pytest.raises(RuntimeError, match="boom"), gradlens.capture(model, tmp_path / "a"):
        failing(model, batch()[0])
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_captured_is_refused_in_a_sentence(tmp_path):
    model, (x, _) = net(), batch()
    with pytest.raises(InputError, match="saw no backward pass"), gradlens.capture(model, tmp_path / "a"):
        model(x)
    with gradlens.capture(model, tmp_path / "a"):
        with pytest.raises(InputError, match="is captured already"), gradlens.capture(model, tmp_path / "b"):
            pass
        model(x).sum().backward()
    with pytest.raises(InputError, match="were changed inside"), gradlens.capture(model, tmp_path / "c"):
        growing(model, x)
    for options, message in (
        ({"every": 0}, "every: must be"),
        ({"sketch": 3}, "sketch: must be"),
        ({"seed": -1}, "seed: must be"),
        ({"scaler": "8"}, "scaler: must be a GradScaler or the positive number"),
        ({"include": "["}, "is no regular expression"),
        ({"exclude": "conv"}, "no layer or parameter of the model has 'conv' in its name"),
    ):
        with pytest.raises(InputError, match=message):
            gradlens.capture(model, tmp_path / "d", **options)
    with pytest.raises(InputError, match="there is no folder"):
        gradlens.capture(model, tmp_path / "none" / "d")
    with pytest.raises(InputError, match="must be a torch"):
        gradlens.capture(3, tmp_path / "d")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a"]


def test_sketches_are_those_of_the_stored_tensors(tmp_path):
    from gradlens.gradients.count_sketch import CountSketch

    x, y = batch()
    for name, options in (("whole", {}), ("sketched", {"sketch": 64, "seed": 2})):
        model = net()
        with gradlens.capture(model, tmp_path / name, **options):
            for inputs, targets in zip(x.split(3), y.split(3), strict=True):
                loss_of(model(inputs), targets).backward()
    found = stored(tmp_path / "sketched")
    for key, value in stored(tmp_path / "whole").items():
        made = CountSketch(key, 64, 2)
        made.add(value)
        assert found[key].tolist() == pytest.approx(made.buckets.tolist(), abs=1e-12)
        fact = CaptureFile(tmp_path / "sketched").header["tensors"][key]
        assert fact["shape"] == list(value.shape)
        assert fact["norm"] == pytest.approx(float(value.norm()))
