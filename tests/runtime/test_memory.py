"""Allocations of torch's CPU allocator during some work."""

from __future__ import annotations

import torch

from gradlens.runtime.memory import allocations


def test_allocations_and_releases_are_seen_in_their_order():
    def work():
        a = torch.empty(1000)
        b = torch.empty(10)
        del a
        del b

    assert allocations(work) == [4000, 40, -4000, -40]


def test_releases_of_what_was_allocated_before_are_left_out():
    kept = [torch.empty(1000)]
    assert allocations(lambda: kept.append(torch.empty(500))) == [2000]  # which torch now knows of
    assert allocations(lambda: kept.clear()) == []

    def work():
        kept.append(torch.empty(30))

    kept.append(torch.empty(100))
    assert allocations(work) == [120]
