"""Parameters of an own network that nothing here could train are refused by their path."""

import pytest

from gradlens.models.custom import network_of
from gradlens.models.spec import ModelSpec
from gradlens.runtime.errors import InputError

NETWORK = """
import torch
from torch import nn

class Part(nn.Module):
    def __init__(self):
        super().__init__()
        {part}

    def forward(self, x):
        return {forward}

def build(spec):
    return [nn.Flatten(), Part(), nn.Linear(16, spec.classes)]
"""
REFUSED = {
    "complex": (
        "self.w = nn.Parameter(torch.ones(9, dtype=torch.cfloat))",
        "torch.fft.irfft(torch.fft.rfft(x) * self.w, n=16)",
        r"build: block2\.w is complex \(torch\.complex64\); keep its real and imaginary part",
    ),
    "sparse table": (
        "self.table = nn.Embedding(4, 1, sparse=True)",
        "self.table(x.long().clamp(0, 3)).flatten(1)",
        r"build: block2\.table \(Embedding\) gives sparse gradients; set sparse=False",
    ),
    "sparse bag": (
        "self.bag = nn.EmbeddingBag(4, 16, sparse=True, mode='sum')",
        "self.bag(x.long().clamp(0, 3))",
        r"build: block2\.bag \(EmbeddingBag\) gives sparse gradients; set sparse=False",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_complex_parameters_and_sparse_gradients_are_refused_by_their_path(tmp_path, name):
    part, forward, sentence = REFUSED[name]
    file, spec = tmp_path / "net.py", ModelSpec(shape=(1, 4, 4), classes=3)
    file.write_text(NETWORK.format(part=part, forward=forward))
    with pytest.raises(InputError, match=sentence):
        network_of({"file": str(file), "name": "build"}, spec)
    file.write_text(
        NETWORK.format(part=part.replace("sparse=True", "sparse=False").replace("torch.cfloat", "torch.float"), forward=forward)
    )
    assert len(network_of({"file": str(file), "name": "build"}, spec)) == 3


SKIPPING = """
from torch import nn

class Joined(nn.Module):
    reads_blocks = (0,)

    def __init__(self, n):
        super().__init__()
        self.out = nn.Linear(n, 3)

    def forward(self, h, first):
        return self.out((h + first).flatten(1))

def build(spec):
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1), Joined(32))
"""


def test_a_block_of_a_users_network_may_read_an_earlier_one(tmp_path):
    file = tmp_path / "net.py"
    file.write_text(SKIPPING)
    assert len(network_of({"file": str(file), "name": "build"}, ModelSpec(shape=(1, 4, 4), classes=3))) == 3
