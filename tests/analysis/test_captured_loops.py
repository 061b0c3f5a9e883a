"""`diff` finds each seeded fault where it is, and accuses no sound loop (tests/captured_loops)."""

import pytest
import torch
from captured_loops.faults import FAULTS
from captured_loops.second_faults import SECOND_FAULTS
from captured_loops.sound import SOUND
from ranks import together

import gradlens

VARIANTS = {"first": FAULTS, "second": SECOND_FAULTS}
QUICK_FAULTS = ("unequal_micro_batches", "redrawn_dropout", "wrong_custom_backward", "batch_norm_in_the_wrong_mode")
OF_TRANSFORMERS = ("missing_accumulation_factor", "a_detach", "frozen_layer", "tied_weight_counted_once", "noise_of_its_own")
QUICK_SOUND = ("conv_under_autocast", "encoder_accumulated", "key_bias_fused_attention")


def captured(folder, name, one, other):
    for letter, loop in (("a", one), ("b", other)):
        loop(lambda model, letter=letter, **options: gradlens.capture(model, folder / f"{name}-{letter}.safetensors", **options))


def compared(folder, name):
    return gradlens.diff(folder / f"{name}-a.safetensors", folder / f"{name}-b.safetensors")


def on_a_rank(world, folder, name, which):
    pair = SOUND[name] if which == "sound" else VARIANTS[which][name]()
    captured(folder, name, *pair[:2])


def difference(folder, name, which, pair):
    """The difference of a pair of loops, on as many processes as it needs."""
    if pair.ranks > 1:
        together(pair.ranks, on_a_rank, folder, folder, name, which)
    else:
        captured(folder, name, *pair[:2])
    return compared(folder, name)


def marked(names, quick, of):
    """Names as parameters: what needs transformers, a second process or more than a moment is left out by default."""
    found = []
    for name in names:
        marks = [] if name in quick else [pytest.mark.torchrun if of(name).ranks > 1 else pytest.mark.slow]
        found.append(pytest.param(name, marks=marks))
    return found


def right_layer(found, fault):
    return not fault.layers or any(found.layer == each or (each.endswith(".") and found.layer.startswith(each)) for each in fault.layers)


def found_where_it_is(folder, name, variant):
    fault = VARIANTS[variant][name]()
    found = difference(folder, name, variant, fault).first
    assert found is not None
    assert found.part == fault.part, found.answer
    assert right_layer(found, fault), found.answer
    if fault.factor is not None:
        assert found.factor == pytest.approx(fault.factor, rel=5e-3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", marked(FAULTS, QUICK_FAULTS, lambda name: FAULTS[name]()))
def test_a_fault_is_found_where_it_is(name, tmp_path):
    if name in OF_TRANSFORMERS:
        pytest.importorskip("transformers")
    found_where_it_is(tmp_path, name, "first")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", marked(SECOND_FAULTS, ("frozen_layer",), lambda name: SECOND_FAULTS[name]()))
def test_its_second_variant_is_found_too(name, tmp_path):
    pytest.importorskip("transformers")
    found_where_it_is(tmp_path, name, "second")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", marked(SOUND, QUICK_SOUND, SOUND.get))
def test_a_sound_loop_is_not_accused(name, tmp_path):
    if "gpt2" in name or "llama" in name:
        pytest.importorskip("transformers")
    found = difference(tmp_path, name, "sound", SOUND[name])
    assert found.same, found.answer
    assert len(found.rows) >= 36


def test_there_are_fourteen_faults_and_thirty_sound_loops():
    assert len(FAULTS) == len(SECOND_FAULTS) == 14
    assert FAULTS.keys() == SECOND_FAULTS.keys()
    assert len(SOUND) == 30
    assert torch.get_num_threads() == 1
