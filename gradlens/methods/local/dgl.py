"""Train by decoupled greedy learning: every block has an auxiliary head and a local loss."""

from __future__ import annotations

from gradlens.methods.local.windows import LocalLosses


class DGL(LocalLosses):
    """delta_k = d l_k/d h_k with l_k = loss(a_k(h_k), y), a_k an auxiliary head; no backward messages; the last two blocks are one unit.

    Belilovsky, Eickenberg & Oyallon 2020 (arXiv 1901.08164, algorithm 1); Laskin et al. 2020 (arXiv 2012.03837) call it greedy local.
    """

    summary = "each block has an auxiliary head of its own"
    other_names = ("decoupled greedy learning", "decoupled greedy", "greedy local")
