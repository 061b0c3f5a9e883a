"""Data sets as uint8 tensors, and what happens to an image before a network sees it. Imports ``runtime``."""
