"""Run one step of any rule on a network cut into blocks, and compare its gradient with the true one on the same passes.

Imports ``runtime``.
"""
