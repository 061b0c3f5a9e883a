"""From a config to a run directory: step, loop, checkpoints, parallelism, cost, sweeps.

Imports ``methods`` and the rooms below it.
"""
