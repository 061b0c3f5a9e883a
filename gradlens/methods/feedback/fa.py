"""Train by feedback alignment: propagate the error through fixed random matrices."""

from __future__ import annotations

from gradlens.methods.feedback.weight_replacement import FeedbackRule


class FA(FeedbackRule):
    """delta_k = delta_{k+1}, pulled back through block k+1 with a fixed random B in the place of each layer's Wᵀ.

    Lillicrap, Cownden, Tweed & Akerman 2016 (arXiv 1411.0247). B is drawn from PyTorch's distribution of a weight, U(±1/√fan_in), times
    ``scale``.
    """

    summary = "random matrices in place of the weights"
    other_names = ("feedback alignment", "random feedback")
