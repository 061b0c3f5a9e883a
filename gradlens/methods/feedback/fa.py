"""Feedback alignment: the gradient goes down through fixed random matrices."""

from __future__ import annotations

from gradlens.methods.feedback.weight_replacement import FeedbackRule


class FA(FeedbackRule):
    """delta_k = the message from above, pulled back with a fixed random B in the place of each layer's Wᵀ.

    Lillicrap, Cownden, Tweed & Akerman 2016 (arXiv 1411.0247). B is drawn as PyTorch draws a weight, U(±1/√fan_in), times ``scale``.
    """

    summary = "random matrices in place of the weights"
    other_names = ("feedback alignment", "random feedback")
