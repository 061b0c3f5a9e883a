"""Whole runs in the tests: the tiny one of each rule, what makes two the same to the bit, and how one is killed in its middle."""

import os
import signal
import time
from pathlib import Path

import torch
from oracles import needed

from gradlens.training import saving
from gradlens.training.checkpoint import load_checkpoint
from gradlens.training.config import make_config
from gradlens.training.context import RunContext
from gradlens.training.run_writer import Writer
from gradlens.training.runs.train_run import train_run

# 192 images in batches of 32: 6 updates an epoch, 24 in all; everything that draws or changes over time is on
TINY = {
    "width": 4, "limit": 192, "limit_test": 64, "batch_size": 32, "epochs": 4, "record_every": 2, "lr": 1e-3, "augment": True,
    "lr_schedule": "cosine", "warmup": 3, "keep_checkpoints": 2, "label_noise": 0.1,
}  # fmt: skip


def tiny(method="bp", **changes):
    """The config of a short run of a rule."""
    return make_config(**{**TINY, **needed(method), "method": method, **changes})


def flat(state, prefix=""):
    """Nested state as {path: tensor or number}."""
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list | tuple) else None
    if items is None:
        return {prefix: state}
    return {k: v for name, part in items for k, v in flat(part, f"{prefix}/{name}").items()}


def same_state(a, b):
    a, b = flat(a), flat(b)
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) if torch.is_tensor(v) else v == b[k] for k, v in a.items())


def learned(run):
    """Weights, the rule's own weights and the optimiser's state at the end of a run."""
    return {name: run.checkpoint()[name] for name in ("model", "method", "optimizer", "step")}


def assert_same_bits(a, b):
    for name in ("metrics.csv", "gradients.csv"):
        assert (a.path / name).read_bytes() == (b.path / name).read_bytes(), name
    assert same_state(learned(a), learned(b))
    assert [p.name for p in a.snapshots()] == [p.name for p in b.snapshots()]
    for p, q in zip(a.snapshots(), b.snapshots(), strict=True):
        assert same_state(load_checkpoint(p), load_checkpoint(q))
    assert a.summary == b.summary


# ------------------------------------------------------------------------------------------------- interrupted and killed


def signal_at(step, number, times=1):
    """A watcher that signals its own process when an update is done."""

    def watch(event, numbers):
        if event == "step" and numbers["step"] == step:
            for _ in range(times):
                os.kill(os.getpid(), number)

    return watch


def hang(marker):
    marker.write_text("hung", encoding="utf-8")
    time.sleep(600)


def victim(settings, out, resume, where):
    """Runs in a process of its own, to be killed: trains, saving often, and stands still before its end at the latest."""
    torch.set_num_threads(1)
    saving.CHECKPOINT_SECONDS = 0.02
    config, marker = make_config(**settings), out / "hung"
    saves = 0

    def watch(event, numbers):
        if event == "step" and numbers["step"] == numbers["total"] - 1:
            hang(marker)

    if where == "first save":
        Writer.save = lambda *args, **kwargs: hang(marker)
    if where == "renaming":
        rename = Path.replace

        def stop_at_the_third(self, target):
            nonlocal saves
            saves += self.name == ".checkpoint.pt.tmp"
            return hang(marker) if saves == 3 else rename(self, target)

        Path.replace = stop_at_the_third
    train_run(config, RunContext(out=out, resume=resume), watch)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.002)


def recorded_steps(path):
    """The last step in a gradients.csv that is being written, or -1."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return -1
    return int(lines[-2].split(",")[0]) if len(lines) > 2 else -1


def kill_at(processes, config, out, ready, where="", resume=False):
    """Start a run in another process and kill it as soon as ``ready`` is true."""
    (out / "hung").unlink(missing_ok=True)
    child = processes.Process(target=victim, args=(config.as_dict(), out, resume, where), daemon=True)
    child.start()
    try:
        wait_for(lambda: ready() or not child.is_alive())
    finally:
        child.kill()
        child.join()
    assert child.exitcode == -signal.SIGKILL
    assert not (out / config.run_name() / "summary.json").exists()
