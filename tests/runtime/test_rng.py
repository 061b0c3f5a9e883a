"""Keyed randomness: a draw depends on its name and on nothing else."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradlens.runtime.rng import generator, key, seed_global, seeded

names = st.tuples(st.integers(0, 2**31), st.text("a1 ,'", max_size=8), st.lists(st.integers(0, 2**31), max_size=3))


@settings(deadline=None)
@given(a=names, b=names)
def test_different_names_have_different_keys_and_equal_names_equal_keys(a, b):
    keys = [key(seed, purpose, *index) for seed, purpose, index in (a, b)]
    assert (keys[0] == keys[1]) == (a == b)
    assert all(0 <= k < 2**63 for k in keys)


def test_numbers_do_not_run_together():
    assert key(0, "a", 1, 11) != key(0, "a", 11, 1)
    assert key(1, "a", 1) != key(0, "a", 1)
    assert key(0, "a 1") != key(0, "a", 1)


def test_keys_are_the_same_in_every_process_and_release():
    assert key(3, "order", 14) == 2069528868442832633


def test_generators_neither_read_nor_touch_the_global_stream():
    torch.manual_seed(1)
    a = torch.rand(4, generator=generator(0, "x", 5))
    after = torch.rand(1)
    torch.manual_seed(2)
    assert torch.equal(torch.rand(4, generator=generator(0, "x", 5)), a)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)


def test_draws_of_two_purposes_are_unrelated():
    a, b = (torch.randn(10_000, generator=generator(0, p)) for p in ("a", "b"))
    assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 0.05


def test_seeded_gives_module_constructors_a_keyed_stream_and_restores_the_global_one():
    torch.manual_seed(1)
    with seeded(0, "init"):
        a = torch.nn.Linear(3, 3).weight
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)
    torch.manual_seed(99)
    with seeded(0, "init"):
        assert torch.equal(torch.nn.Linear(3, 3).weight, a)
    with seeded(1, "init"):
        assert not torch.equal(torch.nn.Linear(3, 3).weight, a)


def test_the_global_stream_is_seeded_as_torch_does_it_for_every_number_a_key_can_be():
    for value in (0, 7, key(0, "step", 3), 2**63 - 1):
        torch.manual_seed(value)
        wanted = torch.get_rng_state()
        torch.rand(3)
        seed_global(value)
        assert torch.equal(torch.get_rng_state(), wanted)
        assert torch.initial_seed() == value


def test_seeded_restores_after_an_exception():
    torch.manual_seed(1)
    after = torch.rand(1)
    torch.manual_seed(1)
    with pytest.raises(KeyError), seeded(0, "x"):
        raise KeyError
    assert torch.equal(torch.rand(1), after)
