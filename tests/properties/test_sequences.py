"""Networks whose blocks give sequences, [N, C, L] or [N, T, D]: every rule passes the checks on them, or refuses them in a sentence."""

from collections import OrderedDict

import pytest
from rule_cases import asked, holds, trial
from torch import nn

from gradlens.methods import METHODS
from gradlens.models.spec import ModelSpec
from gradlens.models.zoo import MODELS
from gradlens.runtime.errors import InputError
from gradlens.training.checks import trial as trials


def convolved(spec):
    """[N, C, L]."""
    first = nn.Sequential(nn.Flatten(2), nn.Conv1d(spec.shape[0], 6, 3, stride=4), nn.BatchNorm1d(6), nn.ReLU())
    second = nn.Sequential(nn.Conv1d(6, 7, 3, stride=2), nn.Tanh())
    top = nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(7, spec.classes))
    return nn.Sequential(OrderedDict(block1=first, block2=second, top=top))


class Mean(nn.Module):
    def forward(self, x):
        return x.mean(1)


def tokens(spec):
    """[N, T, D], of layers that feedback rules know."""
    first = nn.Sequential(nn.Flatten(1, 2), nn.Linear(spec.shape[2], 8), nn.LayerNorm(8), nn.ReLU())
    second = nn.Sequential(nn.Linear(8, 7), nn.Tanh())
    return nn.Sequential(OrderedDict(block1=first, block2=second, top=nn.Sequential(Mean(), nn.Linear(7, spec.classes))))


NETS = {"convolved": convolved, "tokens": tokens}
CHECKS = ("works", "gradients", "isolation", "truth")
PATCHES = dict.fromkeys(("cpc", "cpc-local", "infomax"), "needs one vector per patch")
FEEDBACK = {name: f"{name} has no feedback for block1.1 (Conv1d); it supports" for name in ("fa", "kp", "usf", "brsf", "frsf")}
REFUSED = {"convolved": PATCHES | FEEDBACK, "tokens": PATCHES}


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", METHODS)
def test_every_rule_is_right_on_sequences_or_refuses_them(name, net, monkeypatch):
    monkeypatch.setitem(MODELS, net, NETS[net])
    monkeypatch.setitem(trials.ALL_NETWORKS, net, (net, ModelSpec((3, 8, 8), 10)))
    if said := REFUSED[net].get(name):
        with pytest.raises(InputError) as refused:
            trial(name, net).build()
        assert said in str(refused.value)
        return
    for check in CHECKS:
        if asked(check, name):
            holds(check, name, net)
