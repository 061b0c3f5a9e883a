"""Marks of tests that need a newer torch than the oldest supported one."""

import pytest
import torch

VERSION = tuple(int(part) for part in torch.__version__.split(".")[:2])
needs_torch_2_8 = pytest.mark.skipif(VERSION < (2, 8), reason="torch 2.8 and later")
