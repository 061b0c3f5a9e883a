"""A run that is interrupted or killed and gone on with is the same to the bit as one that was not."""

import signal

import pytest
import shelf
import torch
from rule_cases import EVERYWHERE, every_rule, holds
from tiny_runs import assert_same_bits, kill_at, learned, recorded_steps, same_state, signal_at, tiny

from gradlens.methods import METHODS
from gradlens.runtime.errors import Stopped
from gradlens.training.checkpoint import load_checkpoint
from gradlens.training.context import RunContext
from gradlens.training.run_directory import load_run
from gradlens.training.runs.train_run import train_run


@every_rule("resume")
def test_a_saved_state_is_all_that_a_rule_remembers(name, network):
    holds("resume", name, network)


READ_BY_OTHERS = {"dgl", "cdni", "greedy", *EVERYWHERE}  # of whose runs other tests read the whole; greedy's three stages take three epochs


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_run_without_recording_ends_in_the_bits_of_a_whole_one_with_it(method, tmp_path):
    """One run for what a user relies on: recording, the seed and the interruption each leave no trace; alone, each is tested elsewhere."""
    length = {} if method in READ_BY_OTHERS else {"epochs": 2}
    whole, config = shelf.trained(tiny(method, **length)), tiny(method, record_every=0, keep_checkpoints=0, **length)
    torch.manual_seed(12345)
    with pytest.raises(Stopped):
        train_run(config, RunContext(out=tmp_path), signal_at(8, signal.SIGINT))
    assert 8 <= load_checkpoint(tmp_path / config.run_name() / "checkpoint.pt")["step"] <= 9
    run = train_run(config, RunContext(out=tmp_path, resume=True))
    assert same_state(learned(whole), learned(run))
    assert (run.path / "metrics.csv").read_bytes() == (whole.path / "metrics.csv").read_bytes()
    assert run.gradients == []


KILLED = [(name, 9 + 3 * i % 8) for i, name in enumerate(METHODS)]


@pytest.mark.parametrize(
    ("method", "step"), [pytest.param(name, step, marks=[pytest.mark.slow] * (name not in EVERYWHERE)) for name, step in KILLED]
)
def test_killed_at_any_moment(method, step, processes, tmp_path):
    config = tiny(method)
    path = tmp_path / config.run_name()
    kill_at(processes, config, tmp_path, lambda: recorded_steps(path / "gradients.csv") >= step)
    assert 0 < load_checkpoint(path / "checkpoint.pt")["step"] < 24
    assert not load_run(path).finished
    run = train_run(config, RunContext(out=tmp_path, resume=True))
    assert run.finished
    assert_same_bits(shelf.trained(tiny(method)), run)
