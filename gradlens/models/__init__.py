"""Networks as named blocks, and the auxiliary networks that learning rules attach to them. Imports ``runtime``."""
