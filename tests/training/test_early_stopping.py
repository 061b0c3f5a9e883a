"""Early stopping: when a run ends against the rule in plain words, whose weights it has, and that it resumes bit for bit."""

import signal

import pytest
import torch
from tiny_runs import assert_same_bits, same_state, signal_at

from gradlens.runtime.errors import InputError, Stopped
from gradlens.training.config import make_config
from gradlens.training.context import RunContext
from gradlens.training.early_stopping import keep_if_best, stops_early
from gradlens.training.metrics import best_held_out
from gradlens.training.runs.train_run import train_run

SETTINGS = {"task": "graphs", "epochs": 40, "record_every": 5, "diagnose_every": 0, "dropout": 0.0}


def config(**more):
    return make_config(**{**SETTINGS, "early_stopping": 3, **more})


def scores(run, split="validation"):
    return [m.score for m in run.metrics if m.split == split]


def ends_at(history, patience):
    """The epoch after which a run ends, and the best one so far: epochs of a list of validation scores, the untrained network's first."""
    best, since = 0, 0
    for epoch, score in enumerate(history[1:], 1):
        best, since = (epoch, 0) if score > history[best] else (best, since + 1)
        if since == patience:
            return epoch, best
    return None


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    return train_run(config(), RunContext(out=tmp_path_factory.mktemp("stopped")))


def test_a_run_ends_when_the_validation_score_has_not_improved(stopped, tmp_path):
    whole = train_run(config(early_stopping=None), RunContext(out=tmp_path))
    last, best = ends_at(scores(whole), 3)
    assert 0 < best < last < 40
    assert scores(stopped) == scores(whole)[: last + 1]
    assert stopped.summary["stopped_early"] == {"epoch": last, "weights_of_epoch": best}
    assert stopped.summary["updates"] == last
    assert best_held_out(stopped.metrics).epoch == stopped.summary["test"]["best_epoch"] == best
    exact = train_run(config(epochs=best, early_stopping=None), RunContext(out=tmp_path))
    assert same_state(*({part: run.checkpoint()[part] for part in ("model", "method")} for run in (stopped, exact)))
    assert "stopped_early" not in whole.summary


def test_a_run_that_is_not_stopped_keeps_its_last_weights(tmp_path):
    patient, none = (train_run(config(epochs=6, early_stopping=patience), RunContext(out=tmp_path)) for patience in (7, None))
    assert same_state(patient.checkpoint()["model"], none.checkpoint()["model"])
    assert "stopped_early" not in patient.summary


@pytest.mark.parametrize("at", ["middle", "end"])
def test_a_run_that_was_interrupted_ends_alike(stopped, at, tmp_path):
    step = {"middle": 4, "end": stopped.summary["updates"]}[at]
    with pytest.raises(Stopped):
        train_run(config(), RunContext(out=tmp_path), signal_at(step, signal.SIGINT))
    resumed = train_run(config(), RunContext(out=tmp_path, resume=True))
    assert_same_bits(stopped, resumed)


def test_without_a_score_no_weights_are_kept_and_the_run_ends():
    from gradlens.training.context import load_data
    from gradlens.training.runs.build_state import build_state

    state = build_state(config(early_stopping=2), load_data(config(), RunContext()), torch.device("cpu"))
    state.position = state.position._replace(best={"validation": float("nan")})
    keep_if_best(state, 0)
    assert not stops_early(state)
    keep_if_best(state, 1)
    assert stops_early(state)
    assert state.best.model == {}


def test_what_has_no_validation_score_is_refused(tmp_path):
    with pytest.raises(InputError, match="--early-stopping 3 needs validation examples and digits has none beside its test examples"):
        train_run(make_config(early_stopping=3), RunContext(out=tmp_path))
    with pytest.raises(InputError, match="greedy trains its blocks in stages, of which it would leave some out"):
        make_config(method="greedy", early_stopping=3)
    with pytest.raises(InputError, match="simclr has no validation score"):
        make_config(method="simclr", early_stopping=3)


def test_a_validation_share_of_images_will_do(tmp_path):
    c = make_config(model="mlp", width=8, limit=200, validation=0.3, early_stopping=1, epochs=30, lr=0.0, record_every=0, batch_size=70)
    run = train_run(c, RunContext(out=tmp_path))
    assert run.summary["stopped_early"] == {"epoch": 1, "weights_of_epoch": 0}
