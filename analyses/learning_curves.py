"""What the reference study says of its own learning curves, each sentence tested on a small net and a subset.

BasicCNN of width 16 on 1,000 images of CIFAR-10, batches of 64, 60 epochs (960 updates), learning rate decayed to zero along a cosine;
accuracies are those of all 10,000 test images, of the weights kept at a quarter, half, three quarters and the end ("best" is the best of
these four, "final" the last). The reference study has width 128, all 50,000 images, 1,500 epochs, a constant rate and one run of each, so a
verdict is one on the sentence at this size, not on its numbers. dni and cdni are the published ones (``target=mean zero_bias=false``);
gradlens's defaults stand beside them.

Each sentence has one primary test (``primary_of`` in TESTS). Those of fit, of "cDNI above DNI", of the difference with augmentation, of
the rate and of the normalisations were given their present form on 2026-12-01, before the ten-seed runs were read; the first three seeds
(no rates, no normalisations) had been seen. Until then two were seed-wise minima of two effects, which noise draws down, one compared
sizes |dgl - bp| per seed, which noise draws apart where spreads differ, and three covered half of their sentence.

fit          "Both DGL and the regular model completely overfitted the training data, but DNI didn't, and cDNI almost did it but not
             completely": training accuracy of the last epoch. Completely: 99.5 % or more, of bp and of dgl. DNI didn't: 10 points or more
             below bp (theirs: 15 to 27). Almost, not completely: 95 % or more (theirs: 99.7 % at best, 96 % at the end), and half a point
             or more below bp. "Synthetic gradients don't use the full capacity of the model", a further test: training the top alone on
             untrained blocks (``shallow``) fits as well as dni does.
accuracy     "DGL slightly outperformed the regular model": final test accuracy, difference above zero. "cDNI reached 73.7 %, DNI lags
             behind with 65.6 %": best against best, above zero ("later degraded" is a sentence by itself, not tested). "DGL causes some
             sort of regularization" although both reach zero loss, a further test: its gap of test and training loss is below bp's.
augment      "Adding data-augmentations significantly improved performance": above zero for bp (9 points or more: a further test). "Now
             there is even less difference between DGL and regular back-prop": with p = dgl - bp without augmentation, a with it, means over
             seeds, |a| < |p|. That is p - a > 0 and p + a > 0 where p > 0, both reversed where p < 0; a test of each, of which both must
             hold, calls no more than 5 % wrong, whatever the spreads (simulated in tests/analyses/test_verdicts.py). "DGL's train-loss
             decreased slower": mean training loss over epochs ("eventually 0" is a sentence by itself, not tested).
rate         "Increasing the learning-rate helped regular back-prop and harmed DGL training": SGD with momentum 0.9, augmented, 1e-3 (what
             the study's code had, and low) against 3e-3; theirs was VGG16. bp gains and dgl loses: both must hold.
normalize    "Data normalization helped a little bit (about 0.5%)": [-1, +1] above [0, 1], "but there was no significant difference between
             normalizing to [-1,+1] or to a unit gaussian": within a point of each other, about twice what normalising is said to gain. Both
             must hold.

Planned seeds: 10 of bp and dgl, plain and augmented, and of the normalisations; 5 of dni, cdni, shallow and the rates; 3 of the defaults.
Smallest visible effect (80 % power, two-sided 5 %, before Holm's correction): 1.0 standard deviations of the paired difference with 10
seeds, 1.7 with 5. Of test accuracies that is about 1 and 2 points (their paired deviation was 1 to 1.5 points on 2,000 test images).

Cost: about 56 core-minutes, in stages of one seed of a whole comparison each; ``--stages N`` stops after the first N; results.json says how
many it holds. Not tested, and what it would cost in core-minutes of a free core (2,400 images a second of bp):

- "cDNI ... later slightly degraded", "DNI ... later degraded": a constant rate and some hundred epochs after the peak; 2 rules x 5 seeds x
  600 epochs: 90; at the study's size (width 128, 50,000 images, 1,500 epochs) an accelerator.
- "Eventually both reached (almost) 0 loss" with augmentation: bp and dgl x 5 seeds x 600 epochs: 55.
- "VGG in the same ballpark", "VGG16 93.2 %": `python -m analyses.full_size` (priority 5): 400 to 600, minutes on an accelerator.
- "Different auxiliary networks may increase DGL's performance": five heads x 10 seeds at this size: 30.
- ten seeds of dni, cdni, shallow and the rates: 26.

    python -m analyses.learning_curves --data cifar10          # interrupted, it goes on
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from analyses.figures.curve_drawing import labelled_curves
from analyses.figures.redrawn import with_unit
from analyses.training.all_test_images import FullScore, full_scores
from analyses.training.cost import announce_cost
from analyses.training.learning_curve_runs import ADAM, GROUPS, SGD, STAGES, Runs, cost, train
from analyses.training.study import arguments, data_name, minutes_of, publish, run_context_of
from analyses.verdicts.decision import Test, all_of, details
from analyses.verdicts.wording import report
from gradlens.reporting.aggregate import CurvePoint
from gradlens.reporting.statistics import interval
from gradlens.reporting.style import save_figure, styles
from gradlens.training.run_directory import Run

FIT, FINAL, BEST = "final training accuracy", "final test accuracy", "best test accuracy"
LOSS, GAP = "mean training loss", "test loss - training loss"
PLAIN = {"dgl": 1, "bp": -1}
AUGMENTED = {"dgl augmented": 1, "bp augmented": -1}
FITS = 99.5  # % of the training images: completely


def _fits(name: str, rule: str, at_least: float) -> Test:
    """A rule fits so much of the training data."""
    return Test(name, f"{rule}'s training accuracy", FIT, {rule: 1}, "%", at_least=at_least)


def _above(
    name: str, says: str, metric: str, upper: str, lower: str, unit: str = "points", at_least: float = 0, primary_of: str = ""
) -> Test:
    """One group is above another."""
    return Test(name, says, metric, {upper: 1, lower: -1}, unit, at_least=at_least, primary_of=primary_of)


def _shrinks(name: str, says: str, sign: int) -> Test:
    """The un-augmented difference less (plus) the augmented one, in the direction of the un-augmented one."""
    contrast = {**PLAIN, **{group: -sign * weight for group, weight in AUGMENTED.items()}}
    return Test(name, f"final test accuracy, dgl - bp, {says}", FINAL, contrast, "points", at_least=0, toward=PLAIN)


TESTS: tuple[Test, ...] = (
    all_of(
        "both-fit", "training accuracy of bp and of dgl", _fits("bp-fits", "bp", FITS), _fits("dgl-fits", "dgl", FITS),
        primary_of="overfits", seen=3,
    ),
    _above("dni-under-bp", "training accuracy, bp - dni", FIT, "bp", "dni", at_least=10, primary_of="dni-does-not-fit"),
    *details(
        "dni-does-not-fit",
        _above("shallow-fits-as-dni", "training accuracy, shallow (the top alone is trained) - dni", FIT, "shallow", "dni"),
        _above("dni-default-fits-more", "training accuracy, dni with gradlens's defaults - as published", FIT, "dni default", "dni"),
    ),
    all_of(
        "cdni-almost", "training accuracy of cdni: almost all, but not completely", _fits("cdni-share", "cdni", 95),
        _above("cdni-not-completely", "training accuracy, bp - cdni", FIT, "bp", "cdni", at_least=0.5),
        primary_of="cdni-almost-fits", seen=3,
    ),
    *details(
        "cdni-almost-fits",
        _above("shallow-fits-as-cdni", "training accuracy, shallow - cdni", FIT, "shallow", "cdni"),
        _above("cdni-default-fits-more", "training accuracy, cdni with gradlens's defaults - as published", FIT, "cdni default", "cdni"),
    ),
    _above("dgl-above-bp", "final test accuracy, dgl - bp", FINAL, "dgl", "bp", primary_of="dgl-outperforms"),
    *details(
        "dgl-outperforms",
        _above("dgl-above-bp-best", "best test accuracy of four, dgl - bp", BEST, "dgl", "bp"),
        _above(
            "dgl-regularises", "test loss - training loss at the end, bp - dgl: dgl over-fits less at the same fit", GAP, "bp", "dgl",
            "nats",
        ),
    ),
    replace(_above("cdni-above-dni", "best test accuracy of four, cdni - dni", BEST, "cdni", "dni", primary_of="dni-lags"), seen=3),
    *details(
        "dni-lags",
        _above("cdni-above-dni-final", "final test accuracy, cdni - dni", FINAL, "cdni", "dni"),
        _above("bp-above-cdni", "final test accuracy, bp - cdni", FINAL, "bp", "cdni"),
    ),
    _above("augmentation-bp", "final test accuracy of bp, augmented - plain", FINAL, "bp augmented", "bp", primary_of="augmentation-helps"),
    *details(
        "augmentation-helps",
        _above("augmentation-bp-9", "the same, 9 points or more", FINAL, "bp augmented", "bp", at_least=9),
        _above("augmentation-dgl", "final test accuracy of dgl, augmented - plain", FINAL, "dgl augmented", "dgl"),
    ),
    all_of(
        "augmentation-less-difference", "the size of dgl - bp in final test accuracy is larger without augmentation",
        _shrinks("augmentation-shrinks", "plain minus augmented, in the direction of plain", 1),
        _shrinks("augmentation-not-reversed", "plain plus augmented, in the direction of plain", -1),
        primary_of="augmentation-less-difference", seen=3,
    ),
    _above(
        "dgl-slower", "mean training loss over the epochs, augmented, dgl - bp", LOSS, "dgl augmented", "bp augmented", "nats",
        primary_of="dgl-slower",
    ),
    all_of(
        "rate-both", "final test accuracy, SGD from 1e-3 to 3e-3: bp gains and dgl loses",
        _above("rate-helps-bp", "final test accuracy of bp, SGD 3e-3 - 1e-3", FINAL, "bp sgd 0.003", "bp sgd 0.001"),
        _above("rate-harms-dgl", "final test accuracy of dgl, SGD 1e-3 - 3e-3", FINAL, "dgl sgd 0.001", "dgl sgd 0.003"),
        primary_of="higher-rate",
    ),
    all_of(
        "normalising", "final test accuracy of bp: normalising helps, and it does not matter how",
        _above("normalising-helps", "final test accuracy of bp, [-1, +1] - [0, 1]", FINAL, "bp", "bp [0, 1]"),
        Test(
            "normalisations-alike", "final test accuracy of bp, [-1, +1] - unit gaussian", FINAL, {"bp": 1, "bp unit gaussian": -1},
            "points", within=1,
        ),
        primary_of="normalisations",
    ),
)  # fmt: skip


def training(run: Run, what: str) -> list[float]:
    """A run's training loss, or accuracy in %, by epoch from the first on: running, in train mode, over the epoch."""
    return [m.loss if what == "loss" else 100 * m.accuracy for m in run.metrics if m.split == "train" and m.epoch]


def values(runs: Runs, scores: Callable[[Run], list[FullScore]]) -> dict[str, dict[str, list[float]]]:
    """quantity -> group -> one value a seed, in the order of seeds.

    Args:
        runs: group -> its runs.
        scores: of a run on all test images, at each epoch whose weights were kept.

    """
    of: dict[str, Callable[[Run], float]] = {
        FIT: lambda run: training(run, "accuracy")[-1],
        FINAL: lambda run: scores(run)[-1].accuracy,
        BEST: lambda run: max(t.accuracy for t in scores(run)),
        LOSS: lambda run: fmean(training(run, "loss")),
        GAP: lambda run: scores(run)[-1].loss - training(run, "loss")[-1],
    }
    # a group whose stage was left out has no values
    return {metric: {group: [read(run) for run in runs.get(group, ())] for group in GROUPS} for metric, read in of.items()}


# ------------------------------------------------------------------------------------------------------------ pictures


def over_epochs(runs: Runs, groups: Iterable[str], what: str) -> list[CurvePoint]:
    """Training loss or accuracy (%) of some groups by epoch."""
    rows = []
    for group in groups:
        series = [training(run, what) for run in runs.get(group, [])]
        rows += [CurvePoint(group, "train", what, epoch, *interval(seeds)) for epoch, seeds in enumerate(zip(*series, strict=True), 1)]
    return rows


def tested_points(runs: Runs, groups: Iterable[str], scores: Callable[[Run], list[FullScore]]) -> list[CurvePoint]:
    """Accuracy (%) on all test images of some groups at the epochs whose weights were kept."""
    rows = []
    for group in groups:
        for at in zip(*(scores(run) for run in runs.get(group, [])), strict=True):
            rows.append(CurvePoint(group, "test", "accuracy", at[0].epoch, *interval(t.accuracy for t in at)))
    return rows


def last(rows: Iterable[CurvePoint]) -> dict[str, float]:
    """Each group's mean at its last epoch."""
    return {p.label: p.mean for p in sorted(rows, key=lambda p: p.epoch)}


def listed(ends: Mapping[str, float], unit: str, digits: int = 0) -> str:
    """The ends of curves in words, highest first."""
    return with_unit(dict(sorted(ends.items(), key=lambda item: -item[1])), unit, digits)


FITTING = ("bp", "dgl", "cdni", "dni", "shallow", "cdni default", "dni default")
EXPLAINED = {"shallow": "shallow: only the top is trained", "default": "default: gradlens's own options"}
AUGMENTING = ("bp", "dgl", "bp augmented", "dgl augmented")


def draw(runs: Runs, scores: Callable[[Run], list[FullScore]], data: str, folder: Path) -> None:
    """Write the four pictures with their tables."""
    net = f"{data}, BasicCNN of width {ADAM['width']}, {ADAM['limit']:,} images, Adam {ADAM['lr']:g} decayed to 0"
    fit, loss = over_epochs(runs, FITTING, "accuracy"), over_epochs(runs, FITTING, "loss")
    slower, test = over_epochs(runs, AUGMENTING[2:], "loss"), tested_points(runs, AUGMENTING, scores)
    messages = {
        "fit_train_accuracy": (fit, f"Training accuracy at the end: {listed(last(fit), ' %')}", "training accuracy (%)"),
        "fit_train_loss": (loss, f"Training loss at the end, in nats: {listed(last(loss), '', 2)}", "training loss (nats)"),
        "augment_test_accuracy": (
            test,
            f"Test accuracy at the end: {listed(last(test), ' %', 1)}",
            "test accuracy (%, all 10,000 images)",
        ),
        "augment_train_loss": (slower, f"Training loss at the end, in nats: {listed(last(slower), '', 2)}", "training loss (nats)"),
    }
    for name, (rows, message, y_label) in messages.items():
        groups = list(dict.fromkeys(p.label for p in rows))
        seeds = sorted({p.seeds for p in rows})
        many = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        explained = [text for group, text in EXPLAINED.items() if any(group in label for label in groups)]
        notes = [net, f"mean of {many} seeds, band: 95 % t-interval", *explained]
        figure = labelled_curves(rows, styles(groups), message, notes, y_label, "log" if name == "fit_train_loss" else "linear")
        save_figure(figure, rows, folder, name)


def main() -> None:
    """Train or read the runs of all stages, decide each test, write figures/learning_curves."""
    args = arguments(__doc__ or "", numbers={"stages": len(STAGES)})
    announce_cost(cost(STAGES[: args.stages]), f"{sum(len(stage.groups) for stage in STAGES[: args.stages])} runs")
    runs = train(args, args.stages)
    every = {id(run): full_scores(run, run_context_of(args)) for mine in runs.values() for run in mine}

    def scores(run: Run) -> list[FullScore]:
        return every[id(run)]

    results = {
        "settings": {"adam": ADAM, "sgd": SGD, "data": Path(args.data).name, "stages": args.stages},
        "values": values(runs, scores),
        "minutes": minutes_of(runs),
    }
    report(TESTS, results)
    if runs:
        draw(runs, scores, data_name(args), args.figures / "learning_curves")
    publish("learning_curves", [run for mine in runs.values() for run in mine], args, results, figures=False)


if __name__ == "__main__":
    main()
