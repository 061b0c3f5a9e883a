"""One step of any rule on a network cut into blocks, the true gradient on the same passes, and how far apart they are.

Imports ``runtime``.
"""
