"""Decoupled greedy learning: every block learns from a classifier of its own."""

from __future__ import annotations

from gradlens.methods.local.windows import LocalLosses


class DGL(LocalLosses):
    """delta_k = d l_k/d h_k with l_k = loss(a_k(h_k), y), nothing sent below; the last block and the top are one unit.

    Belilovsky, Eickenberg & Oyallon 2020 (arXiv 1901.08164), algorithm 1; what Laskin et al. 2020 call greedy local.
    """

    summary = "each block has a classifier of its own"
    other_names = ("decoupled greedy learning", "decoupled greedy", "greedy local")
