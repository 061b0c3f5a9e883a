"""Reading activations: the same numbers as the plain network gives, one budget at every depth, and no trace left."""

import shutil

import pytest
import shelf
import torch
from sampling import one_in
from tiny_runs import tiny
from torch import nn

from gradlens.analysis.activations import collect_activations, freeze_module, frozen_eval_mode, load_snapshots
from gradlens.methods import METHODS
from gradlens.models.feature_pooling import described, pooled, side
from gradlens.runtime.errors import InputError
from gradlens.training.context import RunContext, load_data
from gradlens.training.runs.train_run import train_run


def plain_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(3 * 25, 4))


def test_activations_are_those_of_the_plain_forward_pass_whatever_the_batch():
    model, x = plain_net(), torch.randn(7, 2, 5, 5)
    names = [n for n, _ in model.named_children()]
    got = collect_activations(freeze_module(model, names), x, budget=None, batch=3)
    model.eval()
    h, want = x, {}
    for name, layer in zip(names, model, strict=True):
        h = nn.ReLU()(h) if isinstance(layer, nn.ReLU) else layer(h)
        want[name] = h.detach().flatten(1)
    assert list(got) == names
    for name in names:
        torch.testing.assert_close(got[name], want[name])


def test_nothing_of_a_module_is_changed():
    model = plain_net().train()
    model[1].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.random.get_rng_state()
    collect_activations(freeze_module(model), torch.randn(4, 2, 5, 5, generator=torch.Generator().manual_seed(1)))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model] == [True, False, True, True, True]
    assert model.training
    assert torch.equal(state, torch.random.get_rng_state())
    assert not any(m._forward_hooks for m in model.modules())


def test_a_module_without_children_gives_its_own_output():
    model, x = nn.Linear(4, 3), torch.randn(5, 4)
    assert list(collect_activations(freeze_module(model), x)) == [""]
    torch.testing.assert_close(collect_activations(freeze_module(model, [""]), x)[""], model(x).detach())
    tuples = nn.GRU(4, 3)
    with pytest.raises(InputError, match="the model itself gives 2 tensors: name one of them"):
        collect_activations(freeze_module(tuples), x)


def test_pooling_keeps_to_the_budget():
    h = torch.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4)
    assert side((3, 4, 4), 12) == 2
    want = h.reshape(2, 3, 2, 2, 2, 2).mean((3, 5)).flatten(1)
    torch.testing.assert_close(pooled(h, 12), want)
    assert torch.equal(pooled(h, 1000), h.flatten(1))
    assert torch.equal(pooled(h.flatten(1), 48), h.flatten(1))
    assert described((3, 4, 4), 12) == "3x4x4 averaged to 3x2x2"
    assert described((3, 4, 4), 99) == "3x4x4 as it is"


def test_projection_keeps_inner_products_on_average():
    x = torch.randn(40, 3000, generator=torch.Generator().manual_seed(0))
    p = pooled(x, 2048)
    assert p.shape == (40, 2048)
    assert torch.equal(p, pooled(x, 2048))
    error = (p @ p.T - x @ x.T) / 3000
    assert error.abs().mean() < 3 / 2048**0.5  # each inner product's standard deviation is about |a||b|/sqrt(budget)
    assert described((3000,), 2048) == "3000 projected to 2048"


@pytest.mark.parametrize("method", one_in(4, sorted(METHODS)))
def test_every_rules_run_can_be_read_and_its_checkpoint_stays(method):
    config, context = tiny(method), RunContext()
    run = shelf.trained(config)
    files = sorted(run.path.rglob("*.pt"))
    before = [f.read_bytes() for f in files]
    images = load_data(config, context).test.images[:20]
    last, *_ = load_snapshots(run, context)
    assert last.step == 24
    assert last.trained
    assert [f.step for f in load_snapshots(run, context, "all")] == [12, 24]
    (untrained,) = load_snapshots(run, context, "untrained")
    found, control = collect_activations(last, images), collect_activations(untrained, images)
    assert list(found) == last.names == list(control)
    assert ("top" in found) == METHODS[method].classifies
    assert all(len(h) == 20 and h.isfinite().all() for h in found.values())
    assert not METHODS[method].classifies or found["top"].shape == (20, 10)
    torch.testing.assert_close(found[last.names[0]], collect_activations(last, images, blocks=last.names[:1])[last.names[0]])
    assert [f.read_bytes() for f in files] == before


def test_blocks_that_are_not_there_and_numbers_that_are_none_are_named():
    model = plain_net()
    with pytest.raises(InputError, match="unknown block 'blok'; nearest"):
        collect_activations(freeze_module(model), torch.randn(4, 2, 5, 5), blocks=["blok"])
    with pytest.raises(InputError, match="unknown layer"):
        freeze_module(model, ["7"])
    with torch.no_grad():
        model[4].weight[0, 0] = float("nan")
    with pytest.raises(InputError, match="4 gives numbers that are not finite"):
        collect_activations(freeze_module(model), torch.randn(4, 2, 5, 5))


def test_modes_come_back_after_an_error():
    model = plain_net().train()
    with pytest.raises(RuntimeError), frozen_eval_mode(freeze_module(model)):
        raise RuntimeError
    assert model.training


def test_what_a_run_began_from_is_not_needed_to_read_it(tmp_path):
    begun = shelf.copied(shelf.trained(tiny("bp")), tmp_path / "begun")
    run = train_run(tiny("bp", init_from=str(begun.path), epochs=1, warmup=0), RunContext(out=tmp_path / "runs"))
    shutil.rmtree(begun.path)
    for which in ("last", "untrained"):
        (frozen,) = load_snapshots(run, RunContext(), which)
        state, saved = frozen.modules[0].state_dict(), run.checkpoint()["model"]
        assert all(torch.equal(state[name], saved[name]) for name in saved) == (which == "last")
