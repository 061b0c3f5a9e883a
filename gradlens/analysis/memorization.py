"""Memorization: how fast and how far a rule fits labels that are partly or wholly random (Zhang et al. 2017, arXiv 1611.03530).

Labels are drawn once per seed, the same for every method; images are the same in every epoch; the training images are evaluated in eval
mode before the first and after each epoch. With all labels random nothing can be learned but the images themselves; with some of them
random, what fits the changed labels is memorized, and what gives their images the true label has generalised despite the noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from torch import Tensor

from gradlens.analysis.activations import FrozenModel, collect_activations, load_snapshots
from gradlens.analysis.logistic_regression import Standard, fit_logistic_regression
from gradlens.analysis.of_runs.interface import Result
from gradlens.data.split import Data, Split
from gradlens.data.transforms import input_of
from gradlens.methods import DEFAULT_COMPARISON
from gradlens.runtime.errors import InputError
from gradlens.runtime.progress import Progress, no_progress
from gradlens.training.build import build_model_and_method, load_model_and_method
from gradlens.training.config import Config
from gradlens.training.config_file import read_config_file
from gradlens.training.context import RunContext, load_data
from gradlens.training.evaluation import evaluate
from gradlens.training.metrics import TRAIN_EVAL, held_out
from gradlens.training.run_directory import Run

DEFAULT_METHODS = DEFAULT_COMPARISON[:2]  # backpropagation and a local rule
NOISE = 1.0  # the default
HALF, MOST = 0.5, 0.9  # training accuracies; the epoch that reaches them is reported

Curve = Sequence[tuple[int, float]]  # (epoch, accuracy as a share) with epochs rising


# ------------------------------------------------------------------------------------------------------------ measures


def curve_of(run: Run) -> list[tuple[int, float]]:
    """Return (epoch, accuracy of the training images in eval mode) from before the first epoch to the last."""
    return [(m.epoch, m.accuracy) for m in run.metrics if m.split == TRAIN_EVAL]


def area(curve: Curve) -> float:
    """Return the area under the curve by the trapezoid rule over the epochs it spans: the mean accuracy, 0 … 1; of one point its value.

    >>> area([(0, 0.0), (2, 1.0)])
    0.5
    """
    if len(curve) < 2:
        return curve[0][1] if curve else math.nan
    total = math.fsum((b - a) * (u + v) / 2 for (a, u), (b, v) in pairwise(curve))
    return total / (curve[-1][0] - curve[0][0])


def epochs_to(curve: Curve, share: float) -> float | None:
    """Return when the curve first reaches a share, linear between its points; None: it does not.

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
    """Add to the typed flags what memorizing needs: random labels, the training images evaluated, nothing recorded unless requested.

    A config file's label noise counts unless it is zero, as in every config that does not set noise.

    Raises:
        InputError: flags or a file that set augmentation, or no evaluation of the training images.

    """
    file = read_config_file(given["config"]) if "config" in given else {}
    if given.get("augment", file.get("augment")):
        raise InputError("memorize trains on the same images in every epoch, so augmentation must be off (--no-augment)")
    if given.get("evaluate_train") is False:
        raise InputError("memorize measures the training images' accuracy in eval mode: leave --no-evaluate-train out")
    noise = given.get("label_noise", file.get("label_noise") or NOISE)
    return {"record_every": 0, **given, "label_noise": noise, "evaluate_train": True}


def must_be_memorizable(config: Config, context: RunContext) -> None:
    """Check that a config's data have labels to be memorized.

    Raises:
        InputError: a rule without labels, one class only, or fewer training images than classes.

    """
    if not config.rule.classifies:
        raise InputError(f"memorize needs a method that uses labels; {config.method} does not")
    data = load_data(config, context)
    if len(data.classes) < 2:
        raise InputError(f"memorize needs two classes or more: {config.data.name} has {len(data.classes)}")
    if len(data.train) < len(data.classes):
        raise InputError(
            f"memorize needs an image a class: {len(data.train)} training images are fewer than the {len(data.classes)} classes"
        )


def not_memorizable(run: Run) -> str | None:
    """Return what a run lacks for its memorization to be read from it, as a sentence; None: nothing."""
    if not run.finished:
        return f"{run.path} is unfinished: its curve has no end yet; train it on with --resume"
    if run.config.data.augment:
        return f"{run.path} was trained with augmentation and no image was shown twice unchanged: it cannot show memorization"
    if not curve_of(run):
        return (
            f"{run.path} was trained without --evaluate-train: its training images were never evaluated in eval mode;"
            f" `gradlens memorize {run.config.method}` trains a run that has them"
        )
    return None


# -------------------------------------------------------------------------------------------------------- the noisy labels


class Noise(NamedTuple):
    """Training images and what became of their labels."""

    images: Tensor  # [N, C, H, W] uint8
    given: Tensor  # [N] labels as trained
    true: Tensor  # [N] labels as they were

    @property
    def changed(self) -> Tensor:
        """Return [N] bool: whether the noise gave the image another label; one that was drawn again as it was is clean for any learner."""
        return self.given != self.true


def noise_of(config: Config, context: RunContext) -> Noise:
    """Load the labels of a config with and without its noise: every draw has its own random stream, so that the rest stays the same."""
    noisy, clean = (load_data(c, context).train for c in (config, config.replace(label_noise=0.0)))
    return Noise(noisy.images, noisy.labels, clean.labels)


def _networks_own(run: Run, data: Data, noise: Noise, context: RunContext) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compute the network's final accuracy on images with a changed label, by given and by true label, and on the others."""
    network = load_model_and_method(run, data.shape, len(data.classes), context.device)
    to_input = input_of(run.config.data.normalize, data, context.device)

    def share(which: Tensor, labels: Tensor) -> float | None:
        part = Split(noise.images[which], labels[which]).to(context.device)
        return evaluate(network, part, to_input, run.config)[1] if len(part) else None

    changed, images = noise.changed, int(noise.changed.sum())
    corrupted = {"images": images, "noisy": share(changed, noise.given), "true": share(changed, noise.true)}
    return corrupted, {"images": len(changed) - images, "accuracy": share(~changed, noise.true)}


# -------------------------------------------------------------------------------------------------------- the result


def memorization_protocol(run: Run) -> dict[str, Any]:
    """Return what the numbers are, beside them."""
    protocol: dict[str, Any] = {
        "accuracy": "of the training images in eval mode, without augmentation, before the first and after each epoch",
        "labels": f"replaced with probability {run.config.data.label_noise:g} by a uniform draw over all classes, once for all",
        "area": "trapezoids over epochs, divided by the epochs: the mean accuracy",
        "epochs_to": "first crossing, linear between epochs; null: not reached",
        "corrupted": "training images whose label the noise changed, by the label given and by the true one; clean: the other ones",
        "label_noise": run.config.data.label_noise, "label_hash": run.info.get("label_hash"), "updates": run.summary.get("updates"),
    }  # fmt: skip
    return {**protocol, "probe": noisy_probe_protocol()} if _is_partial(run) else protocol


def _is_partial(run: Run) -> bool:
    """Return whether some labels are true and some random, so that blocks are probed."""
    return 0 < run.config.data.label_noise < 1


def method_parameters(run: Run, data: Data) -> tuple[int, int]:
    """Return (of the rule's own modules, of the network): numbers that are trained."""
    config = run.config.replace(init_from=None, keep_head=0, compile=False)
    model, method = build_model_and_method(config, data.shape, len(data.classes), RunContext().device)
    return sum(p.numel() for p in method.parameters()), sum(p.numel() for p in model.parameters())


def memorized(run: Run, context: RunContext, result: Result, progress: Progress = no_progress) -> Result:
    """Return what a finished run memorized.

    Args:
        run: one that is not :func:`not_memorizable`.
        context: device and data folder.
        result: what is computed already, and its ``protocol`` from :func:`memorization_protocol`; one of the same curve is returned.
        progress: called with (done, in all, what).

    Returns:
        protocol; curve [[epoch, accuracy]]; area; epochs_to_50, epochs_to_90 (None: not reached); final, best; held_out
        {split, final}; chance; own_parameters, network_parameters; with noise also corrupted {images, noisy, true} and clean
        {images, accuracy}: the network's own accuracies; with partial noise also blocks [{block, corrupted_noisy,
        corrupted_true, clean, held_out, bound, untrained {the same}}] of a linear probe fitted to the given labels. Accuracies are shares.

    Raises:
        InputError: data that are not the run's.

    """
    curve = curve_of(run)
    if result.get("curve") == [list(point) for point in curve]:
        return result  # the curve too: a run that was trained anew keeps its files
    data = run.data(context=context)
    held = held_out(run.metrics)
    own, network = method_parameters(run, data)
    found: dict[str, Any] = {
        "protocol": result["protocol"], "curve": curve, "area": area(curve),
        "epochs_to_50": epochs_to(curve, HALF), "epochs_to_90": epochs_to(curve, MOST),
        "final": curve[-1][1], "best": max(accuracy for _, accuracy in curve),
        "held_out": {"split": held[-1].split, "final": held[-1].accuracy},
        "chance": 1 / len(data.classes), "own_parameters": own, "network_parameters": network,
    }  # fmt: skip
    if run.config.data.label_noise:
        noise = noise_of(run.located(), context)
        found["corrupted"], found["clean"] = _networks_own(run, data, noise, context)
        if _is_partial(run):
            (frozen,), (untrained,) = load_snapshots(run, context), load_snapshots(run, context, "untrained")
            found["blocks"] = by_block(frozen, untrained, noise, data.test, len(data.classes), context, progress)
    return found


# -------------------------------------------------------------------------------------------------------- probes by block

FEATURES = 512  # of a block at most: so few beside the images that a probe memorizes little by their number alone
L2 = 1e-3  # half of it times the squared weights is added to the mean cross-entropy; features are standardised


def noisy_probe_protocol() -> dict[str, Any]:
    """Return how the blocks are read."""
    return {
        "what": "multinomial logistic regression on a block's output in eval mode, fitted to the training labels as given",
        "features": f"pooled to {FEATURES} at most, standardised by the training images", "l2": L2,
        "bound": "nats by which the probe's objective can be above its minimum at most",
        "untrained": "the same probe on the same network before training: what the number of features alone can fit",
    }  # fmt: skip


def _share(answers: Tensor, labels: Tensor) -> float | None:
    """Compute the accuracy; None where there are no images."""
    return float((answers == labels).double().mean()) if len(labels) else None


def _probed(train: Tensor, test: Tensor, noise: Noise, held_out: Tensor, classes: int) -> dict[str, float | None]:
    """Return a probe's accuracies on one block's features, [N, d] of the training images and [M, d] of held-out ones."""
    standard, changed = Standard.of(train), noise.changed
    x, z = standard(train), standard(test)
    probe = fit_logistic_regression(x, noise.given.to(x.device), L2, classes)
    answers = probe.answers(x).cpu()
    return {
        "corrupted_noisy": _share(answers[changed], noise.given[changed]),
        "corrupted_true": _share(answers[changed], noise.true[changed]),
        "clean": _share(answers[~changed], noise.true[~changed]),
        "held_out": _share(probe.answers(z).cpu(), held_out),
        "bound": probe.bound,
    }


def by_block(
    frozen: FrozenModel,
    untrained: FrozenModel,
    noise: Noise,
    test: Split,
    classes: int,
    context: RunContext,
    progress: Progress = no_progress,
) -> list[dict[str, Any]]:
    """Fit a linear probe on every block to the labels as given: what of them can be read there, and what of the true ones.

    Args:
        frozen: a network.
        untrained: the control.
        noise: the training images and their labels.
        test: held-out images with true labels.
        classes: number of classes.
        context: where to compute.
        progress: called with (done, in all, what).

    """
    found: list[dict[str, Any]] = [{"block": name} for name in frozen.names]
    steps = 2 * len(found)
    for i, network in enumerate((frozen, untrained)):
        progress(i * len(found), steps, "activations")
        train, held = (collect_activations(network, images.to(context.device), FEATURES) for images in (noise.images, test.images))
        for k, (name, row) in enumerate(zip(network.names, found, strict=True)):
            progress(i * len(found) + k, steps, name)
            accuracies = _probed(train.pop(name), held.pop(name), noise, test.labels, classes)
            row.update(accuracies if i == 0 else {"untrained": accuracies})
    progress(steps, steps, "done")
    return found
