"""Memorization: how fast and how far a rule fits labels that are partly or wholly random (Zhang et al. 2017, arXiv 1611.03530).

Labels are drawn once per seed, the same for every method; images are the same in every epoch; the training images are evaluated in eval
mode before the first and after each epoch. With all labels random nothing can be learned but the images themselves; with some of them
random, what fits the changed labels is memorized, and what gives their images the true label has generalised despite the noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table
from torch import Tensor

from gradlens.activations import Frozen, collect, networks
from gradlens.config import Config, read
from gradlens.data_split import Data, Split, label_hash
from gradlens.errors import InputError
from gradlens.logistic import Standard, fit
from gradlens.methods import METHODS
from gradlens.run import Run, load_result, save_result
from gradlens.runtime_progress import Progress, no_progress
from gradlens.screen import number
from gradlens.setup import make_pair, put_weights
from gradlens.tables import CurvePoint, curve_points, interval
from gradlens.train import Training
from gradlens.training_context import Place, data_of
from gradlens.training_metrics import TRAIN, TRAIN_EVAL
from gradlens.training_run_groups import groups, labels
from gradlens.training_step import evaluate

NAME = "memorization"  # of the file in the run directory
DEFAULT_METHODS = ("bp", "dgl")
NOISE = 1.0  # where the user says nothing
HALF, MOST = 0.5, 0.9  # training accuracies whose epoch is told
APART = {  # settings that say what rule it is, which draw, or what is looked at: no part of the schedule
    "method", "options", "seed", "record_every", "diagnose_every", "keep_checkpoints", "evaluate_train", "online_probe", "limit_test",
    "compile",
}  # fmt: skip

Curve = Sequence[tuple[int, float]]  # (epoch, accuracy as a share) with epochs rising


# ------------------------------------------------------------------------------------------------------------ measures


def curve_of(run: Run) -> list[tuple[int, float]]:
    """(epoch, accuracy of the training images in eval mode) from before the first epoch to the last."""
    return [(m.epoch, m.accuracy) for m in run.metrics if m.split == TRAIN_EVAL]


def area(curve: Curve) -> float:
    """Area under the curve by the trapezoid rule over the epochs it spans: the mean accuracy, 0 … 1; of one point its value.

    >>> area([(0, 0.0), (2, 1.0)])
    0.5
    """
    if len(curve) < 2:
        return curve[0][1] if curve else math.nan
    total = math.fsum((b - a) * (u + v) / 2 for (a, u), (b, v) in pairwise(curve))
    return total / (curve[-1][0] - curve[0][0])


def epochs_to(curve: Curve, share: float) -> float | None:
    """When the curve first reaches a share, linear between its points; None: it does not.

    >>> epochs_to([(0, 0.1), (1, 0.4), (2, 0.6)], 0.5), epochs_to([(0, 0.1), (1, 0.4)], 0.5)
    (1.5, None)
    """
    if curve and curve[0][1] >= share:
        return float(curve[0][0])
    for (a, u), (b, v) in pairwise(curve):
        if v >= share:
            return a + (b - a) * (share - u) / (v - u)
    return None


# -------------------------------------------------------------------------------------------------- what is to be trained


def wanted(given: Mapping[str, Any]) -> dict[str, Any]:
    """The typed flags with what memorizing needs: random labels, the training images evaluated, nothing recorded unless asked for.

    A config file's label noise counts unless it is zero, as every config says that does not mention noise.

    Raises:
        InputError: flags or a file that ask for augmentation, or for no evaluation of the training images.

    """
    file = read(given["config"]) if "config" in given else {}
    if given.get("augment", file.get("augment")):
        raise InputError("memorize trains on the same images in every epoch, so augmentation must be off (--no-augment)")
    if given.get("evaluate_train") is False:
        raise InputError("memorize is about the training images' accuracy in eval mode: leave --no-evaluate-train out")
    noise = given.get("label_noise", file.get("label_noise") or NOISE)
    return {"record_every": 0, **given, "label_noise": noise, "evaluate_train": True}


def must_be_memorizable(config: Config, place: Place) -> None:
    """Check that a config's data have labels to be memorized.

    Raises:
        InputError: a rule without labels, one class only, or fewer training images than classes.

    """
    if not METHODS[config.method].classifies:
        raise InputError(f"memorize asks how labels are learned by heart, and {config.method} reads none")
    data = data_of(config, place)
    if len(data.classes) < 2:
        raise InputError(f"memorize needs two classes or more: {config.data} has {len(data.classes)}")
    if len(data.train) < len(data.classes):
        raise InputError(
            f"memorize needs an image a class: {len(data.train)} training images are fewer than the {len(data.classes)} classes"
        )


def must_be_memorized(run: Run) -> None:
    """Check that a finished run holds what memorization is read from.

    Raises:
        InputError: unfinished, augmented, or trained without ``--evaluate-train``.

    """
    if not run.finished:
        raise InputError(f"{run.path} is unfinished: its curve has no end yet; train it on with --resume")
    if run.config.augment:
        raise InputError(f"{run.path} was trained with augmentation and never saw an image twice: it says nothing of memorization")
    if not curve_of(run):
        raise InputError(f"{run.path} was trained without --evaluate-train: its training images were never evaluated in eval mode")


# -------------------------------------------------------------------------------------------------------- the noisy labels


class Noise(NamedTuple):
    """Training images and what became of their labels."""

    images: Tensor  # [N, C, H, W] uint8
    given: Tensor  # [N] labels as trained
    true: Tensor  # [N] labels as they were

    @property
    def changed(self) -> Tensor:
        """[N] bool: the noise gave the image another label. One that was drawn again as it was is a clean one for any learner."""
        return self.given != self.true


def noise_of(config: Config, place: Place) -> Noise:
    """The labels of a config with and without its noise: every draw has its own name, so that without noise the rest stays as it is."""
    noisy, clean = (data_of(c, place).train for c in (config, config.model_copy(update={"label_noise": 0.0})))
    return Noise(noisy.images, noisy.labels, clean.labels)


def _networks_own(run: Run, data: Data, noise: Noise, place: Place) -> tuple[dict[str, Any], dict[str, Any]]:
    """The network's accuracy at the end on images whose label was changed, by given and by true label, and on the others."""
    training = Training(run.config.model_copy(update={"init_from": None, "compile": False}), data, place.device)
    state = run.checkpoint()
    for module, name in zip(training.pair, ("model", "method"), strict=True):
        put_weights(module, state[name], str(run.path))

    def share(which: Tensor, labels: Tensor) -> float | None:
        part = Split(noise.images[which], labels[which]).to(place.device)
        return evaluate(training.pair, part, training.to_input, training.config)[1] if len(part) else None

    changed, images = noise.changed, int(noise.changed.sum())
    corrupted = {"images": images, "noisy": share(changed, noise.given), "true": share(changed, noise.true)}
    return corrupted, {"images": len(changed) - images, "accuracy": share(~changed, noise.true)}


# -------------------------------------------------------------------------------------------------------- the result


def _protocol(run: Run, probed: bool) -> dict[str, Any]:
    """What the numbers are, beside them."""
    said: dict[str, Any] = {
        "accuracy": "of the training images in eval mode, without augmentation, before the first and after each epoch",
        "labels": f"replaced with probability {run.config.label_noise:g} by a uniform draw over all classes, once for all",
        "area": "trapezoids over epochs, divided by the epochs: the mean accuracy",
        "epochs_to": "first crossing, linear between epochs; null: not reached",
        "corrupted": "training images whose label the noise changed, by the label given and by the true one; clean: the other ones",
        "label_noise": run.config.label_noise, "label_hash": run.info.get("label_hash"), "updates": run.summary.get("updates"),
    }  # fmt: skip
    return {**said, "probe": probe_protocol()} if probed else said


def own_parameters(run: Run, data: Data) -> tuple[int, int]:
    """(of the rule's own modules, of the network): numbers that are trained."""
    config = run.config.model_copy(update={"init_from": None, "compile": False})
    model, method = make_pair(config, data.shape, len(data.classes), Place().device)
    return sum(p.numel() for p in method.parameters()), sum(p.numel() for p in model.parameters())


def memorized(run: Run, place: Place, progress: Progress = no_progress) -> dict[str, Any]:
    """What a finished run memorized; stored as ``memorization.json`` in its directory, and read from there where it is.

    Args:
        run: trained with ``evaluate_train``.
        place: device and data folder.
        progress: called with (done, in all, what).

    Returns:
        protocol; curve [[epoch, accuracy]]; area; epochs_to_50, epochs_to_90 (None: not reached); final, best; held_out
        {split, final}; chance; own_parameters, network_parameters; with noise also corrupted {images, noisy, true} and clean
        {images, accuracy}: the network's own accuracies; with partial noise also blocks [{block, corrupted_noisy,
        corrupted_true, clean, held_out, bound, untrained {the same}}] of a linear probe fitted to the given labels. Accuracies are shares.

    Raises:
        InputError: :func:`must_be_memorized`, or data that are not the run's.

    """
    must_be_memorized(run)
    partial = 0 < run.config.label_noise < 1
    protocol = _protocol(run, partial)
    curve, stored = curve_of(run), load_result(run.path, NAME)
    if stored is not None and stored.get("protocol") == protocol and stored.get("curve") == [list(point) for point in curve]:
        return stored  # the curve too: a run that was trained anew keeps its files
    data = data_of(run.config, place)
    if run.info.get("data_fingerprint") != data.fingerprint() or run.info.get("label_hash") != label_hash(data.train):
        raise InputError(f"the data {run.config.data!r} are not the ones {run.path} was trained on")
    held = next(m.split for m in run.metrics if m.split not in (TRAIN, TRAIN_EVAL))
    own, network = own_parameters(run, data)
    found: dict[str, Any] = {
        "protocol": protocol, "curve": curve, "area": area(curve),
        "epochs_to_50": epochs_to(curve, HALF), "epochs_to_90": epochs_to(curve, MOST),
        "final": curve[-1][1], "best": max(accuracy for _, accuracy in curve),
        "held_out": {"split": held, "final": [m.accuracy for m in run.metrics if m.split == held][-1]},
        "chance": 1 / len(data.classes), "own_parameters": own, "network_parameters": network,
    }  # fmt: skip
    if run.config.label_noise:
        noise = noise_of(run.config, place)
        found["corrupted"], found["clean"] = _networks_own(run, data, noise, place)
        if partial:
            (frozen,), (untrained,) = networks(run, place), networks(run, place, "untrained")
            found["blocks"] = by_block(frozen, untrained, noise, data.test, len(data.classes), place, progress)
    save_result(run.path, NAME, found)
    return load_result(run.path, NAME) or found  # as a later call reads it


# -------------------------------------------------------------------------------------------------------- probes by block

FEATURES = 512  # of a block at most: so few beside the images that a probe memorizes little by their number alone
L2 = 1e-3  # half of it times the squared weights is added to the mean cross-entropy; features are standardised


def probe_protocol() -> dict[str, Any]:
    """How the blocks are read."""
    return {
        "what": "multinomial logistic regression on a block's output in eval mode, fitted to the training labels as given",
        "features": f"pooled to {FEATURES} at most, standardised by the training images", "l2": L2,
        "bound": "nats by which the probe's objective can be above its minimum at most",
        "untrained": "the same probe on the same network before training: what the number of features alone can fit",
    }  # fmt: skip


def _share(answers: Tensor, labels: Tensor) -> float | None:
    """Share of right answers; None where there are none."""
    return float((answers == labels).double().mean()) if len(labels) else None


def _probed(train: Tensor, test: Tensor, noise: Noise, held_out: Tensor, classes: int) -> dict[str, float | None]:
    """A probe's accuracies on one block's features, [N, d] of the training images and [M, d] of held-out ones."""
    standard, changed = Standard.of(train), noise.changed
    x, z = standard(train), standard(test)
    probe = fit(x, noise.given.to(x.device), L2, classes)
    answers = probe.answers(x).cpu()
    return {
        "corrupted_noisy": _share(answers[changed], noise.given[changed]),
        "corrupted_true": _share(answers[changed], noise.true[changed]),
        "clean": _share(answers[~changed], noise.true[~changed]),
        "held_out": _share(probe.answers(z).cpu(), held_out),
        "bound": probe.bound,
    }


def by_block(
    frozen: Frozen, untrained: Frozen, noise: Noise, test: Split, classes: int, place: Place, progress: Progress = no_progress
) -> list[dict[str, Any]]:
    """A linear probe on every block, fitted to the labels as given: what of them can be read there, and what of the true ones.

    Args:
        frozen: a network.
        untrained: the control.
        noise: the training images and their labels.
        test: held-out images with true labels.
        classes: number of classes.
        place: where to compute.
        progress: called with (done, in all, what).

    """
    found: list[dict[str, Any]] = [{"block": name} for name in frozen.names]
    steps = 2 * len(found)
    for i, network in enumerate((frozen, untrained)):
        progress(i * len(found), steps, "activations")
        train, held = (collect(network, images.to(place.device), FEATURES) for images in (noise.images, test.images))
        for k, (name, row) in enumerate(zip(network.names, found, strict=True)):
            progress(i * len(found) + k, steps, name)
            accuracies = _probed(train.pop(name), held.pop(name), noise, test.labels, classes)
            row.update(accuracies if i == 0 else {"untrained": accuracies})
    progress(steps, steps, "done")
    return found


# ---------------------------------------------------------------------------------------------------- over seeds, to print


class Memorized(NamedTuple):
    """What one group of runs memorized; shares, each a mean over seeds with its 95 % t-interval."""

    label: str
    seeds: int
    epochs: int
    area: float
    area_low: float
    area_high: float
    epochs_to_50: float  # over the seeds that reached it; NaN: none did
    reached_50: int
    epochs_to_90: float
    reached_90: int
    final: float
    final_low: float
    final_high: float
    best: float
    best_low: float
    held_out: float
    held_out_low: float
    own_parameters: int  # of the rule's own modules: heads, synthesisers, feedback that learns


class BlockPoint(NamedTuple):
    """A probe's accuracy on one block (or the network's own), a mean over seeds."""

    label: str
    block: str  # "network": its own answer
    quantity: str  # corrupted_noisy, corrupted_true, clean, held_out
    mean: float
    low: float
    high: float
    seeds: int
    untrained: float  # the same probe on the untrained network, mean over seeds; NaN for the network's own answer


QUANTITIES = {  # what is read on partial noise -> in words
    "corrupted_noisy": "changed labels, as given (memorized)",
    "corrupted_true": "changed labels, the true ones",
    "clean": "labels that were kept",
    "held_out": "held-out images",
}


def _values(results: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [math.nan if r[name] is None else float(r[name]) for r in results]


def scores(runs: Sequence[Run], results: Sequence[Mapping[str, Any]]) -> list[Memorized]:
    """One row a group of seeds, of runs and what :func:`memorized` found of each."""
    of = {run.path: result for run, result in zip(runs, results, strict=True)}
    rows = []
    for label, group in groups(runs).items():
        mine = [of[run.path] for run in group]
        half, most = (interval(_values(mine, name)) for name in ("epochs_to_50", "epochs_to_90"))
        final, best = interval(_values(mine, "final")), interval(_values(mine, "best"))
        held = interval(r["held_out"]["final"] for r in mine)
        rows.append(
            Memorized(
                label, len(mine), mine[0]["curve"][-1][0], *interval(_values(mine, "area"))[:3], half.mean, half.n, most.mean, most.n,
                *final[:3], *best[:2], *held[:2], mine[0]["own_parameters"],
            )
        )  # fmt: skip
    return rows


def block_points(runs: Sequence[Run], results: Sequence[Mapping[str, Any]]) -> list[BlockPoint]:
    """The probes' accuracies by block, and the network's own as a last block; of runs with partial noise only."""
    of = {run.path: result for run, result in zip(runs, results, strict=True) if "blocks" in result}
    rows = []
    for label, group in groups([run for run in runs if run.path in of]).items() if of else ():
        mine = [of[run.path] for run in group]
        for k, block in enumerate(row["block"] for row in mine[0]["blocks"]):
            for quantity in QUANTITIES:
                here = interval(_values([r["blocks"][k] for r in mine], quantity))
                control = interval(_values([r["blocks"][k]["untrained"] for r in mine], quantity))
                rows.append(BlockPoint(label, block, quantity, *here, control.mean))
        networks_own = {
            "corrupted_noisy": [r["corrupted"]["noisy"] for r in mine], "corrupted_true": [r["corrupted"]["true"] for r in mine],
            "clean": [r["clean"]["accuracy"] for r in mine], "held_out": [r["held_out"]["final"] for r in mine],
        }  # fmt: skip
        for quantity, values in networks_own.items():
            rows.append(BlockPoint(label, "network", quantity, *interval(math.nan if v is None else v for v in values), math.nan))
    return rows


def curves(runs: Sequence[Run]) -> list[CurvePoint]:
    """The training images' accuracy in eval mode by epoch: the rows of the figure."""
    return [p for p in curve_points(runs) if (p.split, p.quantity) == (TRAIN_EVAL, "accuracy")]


def cautions(runs: Sequence[Run], results: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader of the table must know: other settings, other labels, ordinary labels, and what the heads can hold."""
    said = []
    configs = [run.config.model_dump(exclude=APART) for run in runs]
    for name, first in configs[0].items():
        if any(config[name] != first for config in configs):
            values = ", ".join(dict.fromkeys(f"{config[name]}" for config in configs))
            said.append(f"not one schedule: {name} is {values}")
    for seed in sorted({run.config.seed for run in runs}):
        if len({run.info.get("label_hash") for run in runs if run.config.seed == seed}) > 1:
            said.append(f"not the same labels: the runs of seed {seed} differ in theirs")
    if any(not run.config.label_noise for run in runs):
        said.append("label noise 0: these labels are the true ones, and fitting them is learning as well as memorizing")
    network = max(int(r["network_parameters"]) for r in results)
    said.append(
        f"own: numbers trained in the rule's own modules (heads, synthesisers), beside {network:,} of the network;"
        " what heads can hold is a confounder: compare a rule with heads of several kinds"
    )
    return said


def _when(mean: float, reached: int, row: Memorized) -> str:
    """An epoch, and of how many seeds where not all got there; beyond the last one where none did."""
    if not reached:
        return f"> {row.epochs}"
    return f"{mean:.1f}" if reached == row.seeds else f"{mean:.1f} ({reached} of {row.seeds})"


def table(runs: Sequence[Run], results: Sequence[Mapping[str, Any]]) -> Table:
    """What each group memorized, and under it what to mind."""
    held = " or ".join(dict.fromkeys(r["held_out"]["split"] for r in results))
    chances = " or ".join(f"{c:.1%}" for c in dict.fromkeys(r["chance"] for r in results))
    caption = "\n".join([f"{held}: {chances} is chance", *cautions(runs, results)])
    title = "accuracy in % of the training images, labels as given, in eval mode; area: its mean over the epochs"
    printed = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for column in ("method", "area", "epochs\nto 50 %", "epochs\nto 90 %", "final", "best", held, "own"):
        printed.add_column(column, justify="left" if column == "method" else "right", overflow="fold")
    for r in scores(runs, results):
        when = [_when(r.epochs_to_50, r.reached_50, r), _when(r.epochs_to_90, r.reached_90, r)]
        ends = [number(m, low, 1, 100) for m, low in ((r.final, r.final_low), (r.best, r.best_low), (r.held_out, r.held_out_low))]
        printed.add_row(r.label, number(r.area, r.area_low, 1, 100), *when, *ends, f"{r.own_parameters:,}")
    return printed


def block_table(points: Sequence[BlockPoint]) -> Table:
    """Partial noise: what a linear probe on each block, fitted to the labels as given, reads of them and of the true ones."""
    title = "linear probe on each block, fitted to the labels as given; accuracy in % (the same on the untrained network)"
    printed = Table(title=title, title_justify="left")
    printed.add_column("method")
    printed.add_column("block")
    for text in QUANTITIES.values():
        printed.add_column(text, justify="right")
    for label, block in dict.fromkeys((p.label, p.block) for p in points):
        mine = {p.quantity: p for p in points if (p.label, p.block) == (label, block)}
        cells = []
        for quantity in QUANTITIES:
            p = mine[quantity]
            control = f" ({100 * p.untrained:.1f})" if math.isfinite(p.untrained) else ""
            cells.append(number(p.mean, p.low, 1, 100) + control)
        printed.add_row(label, "its own answer" if block == "network" else block, *cells)
    return printed


def draw(runs: Sequence[Run], results: Sequence[Mapping[str, Any]], folder: Path, title: str = "", name: str = NAME) -> list[Path]:
    """Write the figures of some runs, each as png, svg and csv; returns the png files.

    Raises:
        InputError: the folder cannot be written.

    """
    from gradlens import pictures  # matplotlib, which only this needs
    from gradlens.plots import save, styles

    look = styles(labels(runs))
    title = title or " · ".join(dict.fromkeys(f"{Path(run.config.data).name} · {run.config.model}" for run in runs))
    chance = float(results[0]["chance"])
    points = curves(runs)
    files = save(pictures.memorization_curve(points, chance, title=title, look=look), points, folder, name)[:1]
    if blocks := block_points(runs, results):
        figure = pictures.noise_by_block(blocks, QUANTITIES, chance, title=title)
        files += save(figure, blocks, folder, f"{name}_by_block")[:1]
    return files
