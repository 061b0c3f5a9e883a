"""Data sets as uint8 tensors, and the transforms of images to a network's input. Imports ``runtime``."""
