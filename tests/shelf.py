"""Trained runs that many tests read: made once, by whichever test of whichever worker asks first, and never changed.

Two tests that ask for the same settings read the same run, in whichever file they are: so, where it does not matter, ask for settings that
are already asked for (``tiny_runs.tiny`` gives those of a run of every rule). The runs lie in pytest's base folder, which the workers
share (conftest names it); a file lock lets one of them train and the others wait. A test that writes into a run takes a copy (``copied``).
"""

import hashlib
import json
import os
import shutil
from functools import lru_cache
from pathlib import Path

import torch
from filelock import FileLock

from gradlens.training.config import Config, make_config
from gradlens.training.context import RunContext
from gradlens.training.run_directory import Run, load_run
from gradlens.training.runs.train_run import train_run


def trained(config: Config) -> Run:
    """The finished run of a config, uninterrupted; not to be changed."""
    return _made(json.dumps(config.as_dict(), sort_keys=True))


@lru_cache(maxsize=256)
def _made(settings: str) -> Run:
    config = make_config(**json.loads(settings))
    out = Path(os.environ["GRADLENS_SHELF"]) / hashlib.sha256(settings.encode()).hexdigest()[:12]
    out.parent.mkdir(exist_ok=True)
    with FileLock(f"{out}.lock"):
        if not (out / "made").exists():
            shutil.rmtree(out, ignore_errors=True)  # of a test that failed in its middle
            with torch.random.fork_rng(devices=[]):
                train_run(config, RunContext(out=out))
            (out / "made").touch()
    return load_run(out / config.run_name())


def copied(run: Run, folder: Path) -> Run:
    """A run's directory, copied into a folder of the test's own, to be written into."""
    return load_run(shutil.copytree(run.path, folder / run.path.name))
