"""Runs with numbers that are known, for what is made of runs: no training."""

import math
from pathlib import Path

from gradlens.gradients.rows import Measurement
from gradlens.training.config import make_config
from gradlens.training.run_directory import Metric, Run, Timing
from gradlens.training.run_files import write

LAYERS = ("block1.conv", "block2.conv", "block3.conv", "top.hidden", "top.out")
VERSIONS = {"gradlens": "0.1.0", "torch": "2.14.1"}


def rows(step, layer, **quantities):
    """Rows of one layer's weight at one step."""
    return [Measurement(step, layer, "weight", name, value, "loss, same passes") for name, value in quantities.items()]


def made(
    method="bp",
    seed=0,
    accuracy=0.5,
    cosines=(1.0, 1.0, 1.0, 1.0, 1.0),
    nulls=None,
    speed=100.0,
    steps=(0, 10, 20),
    finished=True,
    path=None,
    device="cpu",
    norm_ratio=None,
    fingerprint="f00d",
    **settings,
):
    """A run of two epochs of 15 updates: at every recorded step each layer has its cosine, accuracy is reached in the last epoch.

    A cosine of NaN goes with a gradient that is exactly zero.
    """
    gradients = []
    for step in steps:
        for i, (layer, cosine) in enumerate(zip(LAYERS, cosines, strict=False)):
            ratio = norm_ratio if norm_ratio is not None else 0.0 if math.isnan(cosine) else 1.0
            gradients += rows(step, layer, cosine=cosine, norm_ratio=ratio)
            if nulls is not None:
                gradients += rows(step, layer, null_cosine=nulls[i], noise_ceiling=0.5)
    metrics = [Metric("test", 0, 0, 2.3, 0.1, 0.1)]
    for epoch in (1, 2):
        now = accuracy - 0.1 * (2 - epoch)
        metrics += [Metric("train", epoch, 15 * epoch, 1.0 / epoch, now, now), Metric("test", epoch, 15 * epoch, 1.2 / epoch, now, now)]
    timing = [Timing(epoch, 10.0, speed * factor, 100.0) for epoch, factor in ((1, 0.99), (2, 1.01))]
    config = make_config(method=method, seed=seed, **{"epochs": 2, **settings})
    info = {"versions": VERSIONS, "device": device, "threads": 1, "git": "abc", "data_fingerprint": fingerprint, "images": {"train": 1000}}
    info["command"] = f"gradlens train {method}"
    summary = {"updates": 30} if finished else {}
    return Run(Path(path or f"runs/{method}-s{seed}"), config, info, metrics, timing, gradients, [], summary)


def stored(run, folder):
    """The run as a directory of files, read by `gradlens.load`."""
    import json

    from gradlens.runtime.csv_tables import csv_line

    path = folder / run.path.name
    path.mkdir(parents=True)
    write(path / "config.json", json.dumps({"config": run.config.as_dict(), **run.info}).encode())
    for name, table in (("metrics", run.metrics), ("timing", run.timing), ("gradients", run.gradients)):
        if table:
            write(path / f"{name}.csv", "".join(csv_line(row) for row in (table[0]._fields, *table)).encode())
    if run.summary:
        write(path / "summary.json", json.dumps(run.summary).encode())
    return path


def many(methods, layers=5, steps=500, seeds=1):
    """Runs that are as large as the page must bear: every step of every layer is another number, and has its interval with two seeds."""
    found = []
    names = [f"block{i}.conv" for i in range(1, layers)] + ["top.out"]
    for m, method in enumerate(methods):
        for seed in range(seeds):
            run = made(method, seed, steps=())
            for step in range(0, 10 * steps, 10):
                for i, layer in enumerate(names):
                    value = math.sin(1.7 * m + 0.013 * step + i + 0.1 * seed)
                    quantities = {"cosine": value, "norm_ratio": 1.0}
                    if step % 50 == 0:
                        quantities |= {"null_cosine": 0.1 * value, "noise_ceiling": abs(value)}
                    run.gradients.extend(rows(step, layer, **quantities))
            found.append(run)
    return found
