"""Arms of small nets whose learning rate is chosen for each, so that no arm's rate ends at an end of the grid; runs are kept as numbers.

The rate is chosen by the final accuracy on a fifth of the training images, held out, over seeds that are not judged; the grid of factors
of about three grows until its best rate is no end of it. The rate falls to zero along a cosine. A run directory for each of hundreds of
runs of a second would cost more than the runs: what is kept of one is a json file of its final and best accuracy, under the hash of its
config, so that an interrupted script goes on and a new way of judging costs no training. A rule in a user's file is trained anew when
the file has changed.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch

from analyses.training.stored import stored
from gradlens.data.datasets import load
from gradlens.runtime.errors import InputError
from gradlens.runtime.text_files import read_json
from gradlens.training.config import Config, make_config
from gradlens.training.evaluation import evaluate
from gradlens.training.loop import make_update
from gradlens.training.runs.build_state import build_state

RATES = (1e-3, 3e-3, 1e-2)  # where the grid begins
HELD_OUT = 0.2
CHOOSING_SEEDS = (100, 101)
LOOKS = 10  # at the test images along a run
LEAST, MOST = 1e-6, 100.0  # further the grid does not grow


class Arm(NamedTuple):
    """A rule with its options on one network and batch size; equal names are equal colours and rows."""

    name: str
    method: str
    options: Mapping[str, Any]


class Ended(NamedTuple):
    """What is kept of a run; NaN where its loss diverged."""

    final: float  # accuracy in %
    best: float  # of the looks along the run
    seconds: float


class Tuned(NamedTuple):
    """An arm's runs at its own rate."""

    rate: float
    tried: dict[str, float]  # rate -> mean accuracy on held-out images
    runs: list[Ended]  # one a seed

    def minutes(self) -> float:
        """What a run cost, in minutes of one core."""
        return fmean(run.seconds for run in self.runs) / 60


def beyond(rates: Sequence[float], best: float) -> float | None:
    """The next rate to try, where the best one is an end of the grid: 1, 3, 10, …; None: it is none, or the grid may not grow."""
    down, up = min(rates), max(rates)
    if best not in (down, up):
        return None
    place = round(2 * math.log10(best)) + (1 if best == up else -1)
    rate = float(f"{(1, 3)[place % 2] * 10.0 ** (place // 2):g}")
    return rate if LEAST <= rate <= MOST else None


def best_rate(score: Callable[[float], float]) -> tuple[float, dict[str, float]]:
    """The rate with the highest score, on a grid that grows until it is no end of it; and the scores of all rates tried.

    Args:
        score: of a rate; −∞ where training diverged.

    Raises:
        InputError: training diverged at every rate.

    """
    tried: dict[float, float] = {}
    todo: list[float] = list(RATES)
    while todo:
        tried |= {rate: score(rate) for rate in todo}
        best = max(tried, key=lambda rate: (tried[rate], -rate))
        further = beyond(list(tried), best)
        todo = [] if further is None else [further]
    if tried[best] == -math.inf:
        raise InputError(f"training diverges at every learning rate from {min(tried):g} to {max(tried):g}: none can be chosen")
    if best in (min(tried), max(tried)):
        print(f"the best learning rate, {best:g}, is an end of the grid, which grows no further", flush=True)
    return best, {f"{rate:g}": tried[rate] for rate in sorted(tried)}


def fingerprints(settings: Mapping[str, Any]) -> dict[str, str]:
    """What a run depends on beyond the settings that name its file: fingerprints of the rule or network in a user's file."""
    return {kind: kept["sha256"] for kind, kept in settings.get("own", {}).items()}


def cpu_minutes(folder: Path) -> float:
    """What everything that is stored in a folder cost."""
    return round(sum(float(read_json(file).get("seconds") or 0) for file in sorted(folder.glob("*.json"))) / 60, 1)


def accuracy_values(found: Mapping[str, Tuned]) -> dict[str, dict[str, list[float]]]:
    """Final and best test accuracy, one a seed."""
    return {
        "final test accuracy": {group: [run.final for run in arm.runs] for group, arm in found.items()},
        "best test accuracy": {group: [run.best for run in arm.runs] for group, arm in found.items()},
    }


@dataclass
class Bench:
    """Trains arms, or reads what they gave before.

    Attributes:
        shared: settings of every run.
        folder: where the numbers of runs lie.

    """

    shared: Mapping[str, Any]
    folder: Path

    def config(self, arm: Arm, **more: Any) -> Config:
        """The settings of one run."""
        return make_config(
            **{**self.shared, "record_every": 0, "lr_schedule": "cosine", **more}, method=arm.method, options=dict(arm.options)
        )

    def run(self, config: Config) -> Ended:
        """One run's numbers."""
        settings = config.as_dict()
        if settings.get("own"):
            settings["own"] = config.method  # wherever its file lies, and whatever else stands in it
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]
        file = self.folder / f"{digest}.json"
        key = {"config": settings, "user's file": (own := fingerprints(config.as_dict()))}
        found = stored(
            file,
            key,
            lambda: {**_trained(config)._asdict(), "config": config.as_dict()},
            without_key=lambda content: fingerprints(content["config"]) == own,  # the other settings are in the file's name
        )
        return Ended(*(math.nan if found[name] is None else float(found[name]) for name in Ended._fields))

    def chosen_rate(self, arm: Arm, **more: Any) -> tuple[float, dict[str, float]]:
        """The rate with the highest accuracy on held-out images, and that of all rates tried."""

        def score(rate: float) -> float:
            finals = [self.run(self.config(arm, lr=rate, seed=seed, validation=HELD_OUT, **more)).final for seed in CHOOSING_SEEDS]
            return -math.inf if any(map(math.isnan, finals)) else fmean(finals)  # a rate at which one run diverges is no rate

        return best_rate(score)

    def tuned(self, arm: Arm, seeds: Iterable[int], rate: float | None = None, **more: Any) -> Tuned:
        """An arm at the rate that suits it (or a given one), all seeds."""
        found = (rate, {}) if rate is not None else self.chosen_rate(arm, **more)
        runs = [self.run(self.config(arm, lr=found[0], seed=seed, **more)) for seed in seeds]
        print(f"{arm.name}: rate {found[0]:g}, final accuracy {fmean(run.final for run in runs):.1f} %", flush=True)
        return Tuned(*found, runs)


def _trained(config: Config) -> Ended:
    """Train one run; its test images are looked at ten times."""
    began = time.process_time()
    data = load(config.data.name, validation=config.data.validation, seed=config.seed)
    state = build_state(config, data, torch.device("cpu"))
    total, seen = state.batches.total, []
    for step in range(total):
        make_update(state, step)
        if (step + 1) * LOOKS // total > step * LOOKS // total:
            loss, accuracy, _ = evaluate(state.network, state.test, state.batches.to_input, config)
            seen.append(100 * accuracy if math.isfinite(loss) else math.nan)
    final, best = (math.nan, math.nan) if any(map(math.isnan, seen)) else (seen[-1], max(seen))
    return Ended(final, best, time.process_time() - began)
