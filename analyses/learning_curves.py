"""What the reference study says of its own learning curves, each sentence tested with three seeds on a small net and a subset.

BasicCNN of width 16 on CIFAR-10, Adam, batches of 64, tested on 2,000 images. The reference study has width 128, all 50,000 images, 1,500
epochs and one run each, so a verdict here is one on the sentence at this size, not on their numbers.

fit          bp, dgl, dni, cdni on 1,500 images without augmentation, Adam 1e-3, 40 epochs. "Both DGL and the regular model
             completely overfitted the training data, but DNI didn't, and cDNI almost did it": final training accuracy (running,
             over the epoch).
augment      bp and dgl on 4,000 images with and without flips and crops, Adam 1e-3, 15 epochs. "Adding data-augmentations
             significantly improved performance - from 76%-77% to 85%-86%": best test accuracy. "DGL's train-loss decreased
             slower": mean training loss over epochs.
normalize    bp as in augment without augmentation, inputs in [-1, +1], to unit variance, or in [0, 1]. "Data normalization
             helped a little bit (about 0.5%)" and "no significant difference between normalizing to [-1,+1] or to a unit
             gaussian": within a point of each other.
rate         bp and dgl with augmentation at 1e-3 and 3e-3. "Increasing the learning-rate helped regular back-prop and harmed
             DGL training" (theirs: VGG16).
peaks        the fit runs of bp and dgl. "Ignore the sudden peaks, it is some sort of numerical issue with my accumulator of the
             loss and accuracy": a peak is an epoch whose training loss is three times the median of the five epochs before it or
             more. Losses are summed in float64 here; a peak of an accumulator would leave test accuracy, which is counted in
             eval mode after the epoch, where it was. Its interval is over peaks, not over seeds.

    python -m analyses.learning_curves --data cifar10          # about 45 minutes on one core; interrupted, it goes on
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

from analyses.study import arguments, data_name, judged, publish, say, trained
from gradlens.reporting.aggregate import curve_points
from gradlens.reporting.style import save_figure
from gradlens.reporting.training_figures import curve_figure
from gradlens.training.config import Config, make_config
from gradlens.training.run_directory import Run

SEEDS = 3
NET: dict[str, Any] = {"model": "basic-cnn", "width": 16, "batch_size": 64, "lr": 1e-3, "record_every": 0, "limit_test": 2_000}
FIT: dict[str, Any] = {**NET, "limit": 1_500, "epochs": 40}
LONG: dict[str, Any] = {**NET, "limit": 4_000, "epochs": 15}
STUDIES: dict[str, list[dict[str, Any]]] = {
    "fit": [{**FIT, "method": m} for m in ("bp", "dgl", "dni", "cdni")],
    "augment": [{**LONG, "method": m, "augment": a} for m in ("bp", "dgl") for a in (False, True)],
    "normalize": [{**LONG, "method": "bp", "normalize": n} for n in ("pm1", "gaussian", "none")],
    "rate": [{**LONG, "method": m, "augment": True, "lr": lr} for m in ("bp", "dgl") for lr in (1e-3, 3e-3)],
}
PEAK, BEFORE = 3.0, 5  # times the median of so many epochs before


class Peak(NamedTuple):
    """A sudden rise of the training loss, and what test accuracy did."""

    method: str
    seed: int
    epoch: int
    times: float  # training loss ÷ median of the epochs before
    test_change: float  # points of test accuracy against the mean of the epochs before


def series(run: Run, split: str, what: str) -> list[float]:
    """A run's loss, or accuracy in %, by epoch from the first on."""
    return [m.loss if what == "loss" else 100 * m.accuracy for m in run.metrics if m.split == split and m.epoch]


def final_fit(run: Run) -> float:
    """Training accuracy of the last epoch in %."""
    return series(run, "train", "accuracy")[-1]


def best_test(run: Run) -> float:
    """The best epoch's test accuracy in %."""
    return max(series(run, "test", "accuracy"))


def mean_loss(run: Run) -> float:
    """Training loss, mean over epochs: higher is slower."""
    return fmean(series(run, "train", "loss"))


def peaks(run: Run) -> list[Peak]:
    """The epochs whose training loss jumped."""
    losses, tests = series(run, "train", "loss"), series(run, "test", "accuracy")
    found = []
    for i in range(BEFORE, len(losses)):
        usual = median(losses[i - BEFORE : i])
        if losses[i] >= PEAK * usual:
            change = tests[i] - fmean(tests[i - BEFORE : i])
            found.append(Peak(run.config.method, run.config.seed, i + 1, losses[i] / usual, change))
    return found


Found = Callable[..., list[Run]]  # settings -> the runs that have them, by seed


def pick(runs: Sequence[Run]) -> Found:
    """A lookup of runs by some of their settings."""

    def found(**settings: Any) -> list[Run]:
        chosen = [r for r in runs if all(r.config.as_dict()[name] == value for name, value in settings.items())]
        return sorted(chosen, key=lambda r: r.config.seed)

    return found


def less(a: Sequence[Run], b: Sequence[Run], of: Callable[[Run], float]) -> list[float]:
    """of(a) − of(b), paired by seed."""
    return [of(x) - of(y) for x, y in zip(a, b, strict=True)]


def judge_fit(found: Found) -> list[dict[str, Any]]:
    """Who fits the training set."""
    of = {m: found(method=m, epochs=FIT["epochs"], limit=FIT["limit"]) for m in ("bp", "dgl", "dni", "cdni")}
    return [
        judged("bp completely fits the training set (99.5 % or more)", map(final_fit, of["bp"]), "%", at_least=99.5),
        judged("dgl completely fits the training set (99.5 % or more)", map(final_fit, of["dgl"]), "%", at_least=99.5),
        judged("dni does not fit the training set: bp above it", less(of["bp"], of["dni"], final_fit), "points", at_least=0),
        judged("cdni almost fits it: above dni", less(of["cdni"], of["dni"], final_fit), "points", at_least=0),
        judged("cdni not completely: bp above it", less(of["bp"], of["cdni"], final_fit), "points", at_least=0),
        judged("best test accuracy: bp above cdni", less(of["bp"], of["cdni"], best_test), "points", at_least=0),
        judged("best test accuracy: cdni above dni", less(of["cdni"], of["dni"], best_test), "points", at_least=0),
    ]


def judge_long(found: Found) -> list[dict[str, Any]]:
    """Augmentation, normalisation, speed and rate."""
    long = {"limit": LONG["limit"], "epochs": LONG["epochs"]}
    plain = {m: found(method=m, augment=False, normalize="pm1", lr=1e-3, **long) for m in ("bp", "dgl")}
    varied = {(m, lr): found(method=m, augment=True, lr=lr, **long) for m in ("bp", "dgl") for lr in (1e-3, 3e-3)}
    other = {n: found(method="bp", augment=False, normalize=n, lr=1e-3, **long) for n in ("gaussian", "none")}
    gain = {m: less(varied[m, 1e-3], plain[m], best_test) for m in ("bp", "dgl")}
    rise = {m: less(varied[m, 3e-3], varied[m, 1e-3], best_test) for m in ("bp", "dgl")}
    slower = less(varied["dgl", 1e-3], varied["bp", 1e-3], mean_loss)
    return [
        judged("best test accuracy without augmentation: dgl above bp", less(plain["dgl"], plain["bp"], best_test), "points", at_least=0),
        judged("augmented, dgl and bp end within a point", less(varied["dgl", 1e-3], varied["bp", 1e-3], best_test), "points", within=1),
        *(judged(f"augmentation helps {m}", gain[m], "points", at_least=0) for m in gain),
        *(judged(f"augmentation adds 9 points or more ({m})", gain[m], "points", at_least=9) for m in gain),
        judged("dgl's training loss falls more slowly than bp's (augmented)", slower, "nats", at_least=0),
        judged("[-1, +1] and unit gaussian end within a point", less(plain["bp"], other["gaussian"], best_test), "points", within=1),
        judged("normalising to [-1, +1] helps over [0, 1]", less(plain["bp"], other["none"], best_test), "points", at_least=0),
        judged("a three times higher learning rate helps bp", rise["bp"], "points", at_least=0),
        judged("a three times higher learning rate harms dgl", [-v for v in rise["dgl"]], "points", at_least=0),
    ]  # fmt: skip


def judge_peaks(found: list[Peak]) -> list[dict[str, Any]]:
    """Whether test accuracy stays where it was when the training loss peaks; one value a peak, not a seed."""
    if not found:
        return []
    claim = "at a peak test accuracy stays within a point of where it was (an accumulator's fault)"
    return [judged(claim, [p.test_change for p in found], "points", within=1)]


def configs(data: str) -> list[Config]:
    """All runs, seed by seed; settings that two studies share are trained once."""
    every = [make_config(**settings, data=data, seed=seed) for seed in range(SEEDS) for study in STUDIES.values() for settings in study]
    return list({config.run_name(): config for config in every}.values())


def main() -> None:
    """Train or read all runs, judge each sentence, write figures/learning_curves."""
    args = arguments(__doc__ or "")
    runs = trained(configs(args.data), args)
    found = pick(runs)
    spikes = [p for m in ("bp", "dgl") for run in found(method=m, epochs=FIT["epochs"], limit=FIT["limit"]) for p in peaks(run)]
    claims = judge_fit(found) + judge_long(found) + judge_peaks(spikes)
    say(claims)
    for p in spikes:
        print(
            f"peak: {p.method} seed {p.seed} epoch {p.epoch}: {p.times:.1f} x the median before, test accuracy {p.test_change:+.1f} points"
        )
    fitting = [r for m in ("bp", "dgl", "dni", "cdni") for r in found(method=m, epochs=FIT["epochs"], limit=FIT["limit"])]
    plain = {"normalize": "pm1", "lr": 1e-3, "limit": LONG["limit"]}
    moving = [r for m in ("bp", "dgl") for a in (False, True) for r in found(method=m, augment=a, **plain)]
    title = f"{data_name(args)} · BasicCNN, width 16"
    for name, group, split, what in (
        ("fit_train_accuracy", fitting, "train", "accuracy"),
        ("fit_train_loss", fitting, "train", "loss"),
        ("augment_test_accuracy", moving, "test", "accuracy"),
        ("augment_train_loss", moving, "train", "loss"),
    ):
        points = [p for p in curve_points(group) if (p.split, p.quantity) == (split, what)]
        save_figure(curve_figure(points, split, what, title=title), points, args.figures / "learning_curves", name)
    settings = {"fit": FIT, "long": LONG, "data": Path(args.data).name, "seeds": SEEDS}
    results = {"settings": settings, "claims": claims, "peaks": [p._asdict() for p in spikes]}
    publish("learning_curves", runs, args, results, figures=False)


if __name__ == "__main__":
    main()
