"""Unfinished runs among others."""

from made_runs import made

from gradlens.reporting.unfinished import split_finished, unfinished_lines


def test_they_are_listed_and_set_aside_unless_there_is_nothing_else():
    bp, dgl = made(), made("dgl", seed=1, finished=False)
    assert split_finished([dgl, bp]) == ([bp], [dgl])
    assert split_finished([dgl]) == ([dgl], [dgl])
    assert unfinished_lines([bp]) == []
    assert unfinished_lines([bp, dgl]) == [
        "not finished, and so neither ranked nor in any mean:",
        "  dgl seed 1: 30 updates, epoch 2 of 2 (runs/dgl-s1)",
    ]
