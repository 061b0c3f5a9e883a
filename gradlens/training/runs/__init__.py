"""Whole runs: train or reuse them, choose learning rates, measure more of a finished one."""
