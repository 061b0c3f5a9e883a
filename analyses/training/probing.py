"""Finished runs on all test images of their data, however few each epoch was tested on: linear probes, and their own accuracy."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace

import torch

from analyses.training.all_test_images import full_scores
from analyses.training.stored import data_of, keep, kept
from analyses.training.study import run_context_of
from gradlens.analysis.activations import checkpoint_digest, load_snapshots
from gradlens.analysis.linear_probe import probe_network, probe_pixels
from gradlens.analysis.of_runs.options import FULL_PROBE, ProbeOptions
from gradlens.data.split import Split
from gradlens.runtime.rng import generator
from gradlens.training.context import load_data
from gradlens.training.run_directory import Run

TRAINED, UNTRAINED, PIXELS = "trained", "untrained", "pixels"
OPTIONS = replace(FULL_PROBE, features=512, controls=False, separability=0)


def probe_accuracies(run: Run, blocks: Sequence[str], args: argparse.Namespace, network: str = TRAINED) -> dict[str, float]:
    """Block -> test accuracy in % of the run's network, at the end or before training; of raw pixels under the name ``pixels``.

    The probe is fitted to the run's training images (a fifth of them chooses l2) and tested on all test images of the data set. What was
    measured of the same weights and data with the same options is kept beside the run; files without key record the weights alone.
    """
    file, weights = run.path / "probe_all_test.json", checkpoint_digest(run)
    key = {"weights": weights, "options": asdict(OPTIONS), **data_of(run)}
    known = kept(file, key, without_key=lambda content: content.get("weights") == weights) or {}
    found = known.setdefault(network, {})
    wanted = [PIXELS] if network == PIXELS else list(blocks)
    if missing := [name for name in wanted if name not in found]:
        found |= _measured(run, missing, args, network)
        keep(file, key, known)
    return {name: found[name] for name in wanted}


def final_accuracy(run: Run, args: argparse.Namespace) -> float:
    """Test accuracy in % of a run's last weights on all test images of its data."""
    return full_scores(run, run_context_of(args))[-1].accuracy


def _measured(run: Run, blocks: Sequence[str], args: argparse.Namespace, network: str) -> dict[str, float]:
    context = run_context_of(args)
    data = load_data(run.config.replace(limit_test=None), context)
    train = _shuffled(data.train, run.config.seed)
    classes = len(data.classes)
    if network == PIXELS:
        results = [probe_pixels(train, data.test, classes, OPTIONS, run.config.seed)]
    else:
        frozen = next(load_snapshots(run, context, "last" if network == TRAINED else UNTRAINED))
        options: ProbeOptions = replace(OPTIONS, blocks=tuple(blocks))
        results = list(probe_network(frozen, train, data.test, classes, options, run.config.seed))
    return {row["block"]: 100 * float(row["test"]) for result in results for row in result.rows}


def _shuffled(split: Split, seed: int) -> Split:
    """In the order in which ``gradlens probe`` reads them, so that the same fifth chooses l2."""
    return split.take(torch.randperm(len(split), generator=generator(seed, "probe train")))
