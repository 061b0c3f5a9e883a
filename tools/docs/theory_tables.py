"""Tables of the pages on the theory papers and on synthetic gradients, for :mod:`tools.docs.result_tables`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from gradlens.reporting.numbers import DASH, number_text, short_number
from gradlens.reporting.statistics import interval
from tools.docs.markdown import table
from tools.docs.stored import results, rows_of
from tools.docs.verdict_tables import tests

VARIANTS = ("as published", "zero start", "N·δ", "N·δ, zero start")
STUDIES = ("synthetic_gradient_scale", "dni_unlocked", "predicting", "provable", "synthetic_theory")


def _over_seeds(values: Any, digits: int = 1) -> str:
    """Mean and half the interval of one number a seed; a dash where there is none."""
    kept = [v for v in values or () if v is not None]
    if not kept:
        return DASH
    mean, low, *_ = interval(kept)
    return number_text(mean, low, digits)


def scale_lengths() -> str:
    """Lengths of the first synthetic gradients beside the predicted ones."""
    rows = [r for r in rows_of("synthetic_gradient_scale/lengths.csv") if r["width"] == "32" and r["variant"] == VARIANTS[0]]
    nets = [
        ("mlp", "2", "MLP, block 1"),
        ("mlp", "1", "MLP, block 2"),
        ("mlp", "0", "MLP, block 3"),
        ("basic-cnn", "0", "BasicCNN, block 3"),
    ]
    lines = []
    for model, below, name in nets:
        here = {r["batch"]: r for r in rows if (r["model"], r["below"]) == (model, below)}
        cells = [f"{float(here[n]['ratio']):.3g} ({float(here[n]['predicted']):.3g})" for n in ("8", "64", "512")]
        lines.append([name, *cells])
    return table(["‖synthetic‖ / ‖true‖, measured (predicted)", "N = 8", "N = 64", "N = 512"], lines)


def scale_accuracy() -> str:
    """Final test accuracy of every arm, and the rate it chose."""
    found = results("synthetic_gradient_scale")
    values, rates = found["values"]["final test accuracy"], found["rates"]
    comparisons = list(dict.fromkeys(group.partition(": ")[0] for group in values))
    arms = ["bp", "untrained blocks", *(f"{rule}, {variant}" for rule in ("dni", "cdni") for variant in VARIANTS)]

    def cell(group: str) -> str:
        return f"{_over_seeds(values[group])} ({rates[group]['chosen']:g})" if group in values else DASH

    lines = [[arm, *(cell(f"{comparison}: {arm}") for comparison in comparisons)] for arm in arms]
    return table(["final test accuracy % (rate)", *comparisons], lines)


def scale_rates() -> str:
    """Accuracy on held-out images at every rate that was tried, batches of 256."""
    rates = results("synthetic_gradient_scale")["rates"]
    here = {group.partition(": ")[2]: found["held-out accuracy"] for group, found in rates.items() if group.startswith("MLP, N = 256: ")}
    tried = sorted({rate for found in here.values() for rate in found}, key=float)
    lines = [[arm, *(short_number(found.get(rate), 0) for rate in tried)] for arm, found in here.items()]
    return table(["held-out accuracy %, N = 256, at rate", *tried], lines)


def unlocked() -> str:
    """Final test accuracy of completely unlocked DNI."""
    found = results("dni_unlocked")
    values, rates = found["values"]["final test accuracy"], found["rates"]
    lines = [[group, _over_seeds(each), f"{rates[group]['chosen']:g}"] for group, each in values.items()]
    return table(["", "final test accuracy %", "rate"], lines)


def provable() -> str:
    """Accuracy of layerwise learning and its controls."""
    values = results("provable")["values"]
    digits, cifar = values["digits: test accuracy"], values["CIFAR-10: test accuracy"]
    where = (", noise 0, distractors 0", ", noise 0.15, distractors 0.05", ", noise 0.5, distractors 0.05")
    names = list(dict.fromkeys(group.partition(",")[0] for group in digits))
    lines = [[name, *(_over_seeds(digits.get(name + condition)) for condition in where), _over_seeds(cifar.get(name))] for name in names]
    return table(["test accuracy %", "digits, clean", "noise 0.15, distractors", "noise 0.5, distractors", "CIFAR-10, 3,000 images"], lines)


def crossovers() -> str:
    """Labels from which on one view alone is as good, by dependence of the views."""
    found = results("predicting")["labels_from_which_X1_is_better"]
    names = [name for name in found if name != "range"]
    alphas = list(found[names[0]])
    lines = [[name, *(short_number(found[name][alpha][0], 0) for alpha in alphas)] for name in names]
    return table(["labels from which on X1 alone does as well", *(f"α = {alpha}" for alpha in alphas)], lines)


THEORY_TABLES: dict[str, Callable[[], str]] = {
    "scale-lengths": scale_lengths, "scale-accuracy": scale_accuracy, "scale-rates": scale_rates, "unlocked": unlocked,
    "provable": provable, "crossovers": crossovers,
    **{f"tests-{study}": partial(tests, study) for study in STUDIES},
}  # fmt: skip
