"""Comparison of two captured steps: where their outputs and gradients part."""
