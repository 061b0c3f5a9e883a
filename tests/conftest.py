"""Every test: one thread, a known global random stream, and hypothesis without a clock or a memory of earlier runs."""

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("gradlens", deadline=None, derandomize=True, database=None)
settings.load_profile("gradlens")


@pytest.fixture(autouse=True)
def known_stream():
    torch.manual_seed(0)
