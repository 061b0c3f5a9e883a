"""What makes contrastive learning work: the augmentations, the projection head, the batch and the number of steps.

SimCLR (Chen et al. 2020) on BasicCNN of width 16 and 3,000 images of CIFAR-10, eight epochs in batches of 128 (192 updates) unless said
otherwise, Adam 1e-3 decayed to zero, heads on maps averaged to 2x2, five seeds. What is compared is the representation, never the head:
a linear probe of block3, fitted to the 3,000 labelled images, tested on all 10,000.

- `heads`: "a nonlinear transformation between representation and loss helps". No head (NT-Xent of the averaged maps, 64 numbers), one
  layer (linear), two (nonlinear), three (SimCLRv2's), each with projections of 16 and of 64 numbers, as in the paper's figure 8. Primary
  test: two layers above one, mean of the two widths. Of SimCLRv2's "bigger, deeper heads": three layers above two, mean of the widths,
  and projections of 64 above those of 16; both must hold (fixed on 2026-12-01, before the five-seed runs were read).
- `augmentations`: "their composition is important". Primary test: the paper's best pair, cropping with colour, above cropping alone,
  which is the best single one there; both named before looking. `--all 1` trains every single one and every pair for the figure (33
  core-minutes more); without it the figure has the primary test's rows alone.
- `batches`: "contrastive learning gains more from larger batches and more steps than supervised learning". Batches of 64 and 256 for the
  same numbers of updates, 188 and 564, the larger with twice the rate (Adam: by the root of the batch), SimCLR beside backprop. Primary
  test: what a larger batch, and what more updates gain SimCLR less what they gain backprop; both must hold (fixed on 2026-12-01,
  before any such run). Not run: 45 core-minutes. (An earlier run compared them at equal
  epochs and one rate, where the larger batch has a quarter of the updates; it is not judged.)

Smallest visible effects (80 % power), where seeds differ by the 1.2 points of earlier runs: 1.3 points in the tests of heads, which compare
means of two settings, 2.9 in that of augmentations.

    python -m analyses.simclr_ablations heads --data cifar10            # 21 core-minutes; interrupted, it goes on
    python -m analyses.simclr_ablations augmentations --data cifar10    # 6 core-minutes
    python -m analyses.simclr_ablations batches --data cifar10          # 45 core-minutes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from analyses.figures.drawing import Cell
from analyses.figures.ssl_figures import HeadPoint, heads_figure, lines_figure, pairs_figure, rows_figure
from analyses.training.cost import announce_cost
from analyses.training.probing import UNTRAINED, probe_accuracies
from analyses.training.study import arguments, data_name, publish, trained
from analyses.verdicts.decision import Test, all_of, decide, details
from analyses.verdicts.stored import siblings
from analyses.verdicts.wording import report
from gradlens.reporting.statistics import interval
from gradlens.reporting.style import save_figure
from gradlens.training.config import Config, make_config
from gradlens.training.run_directory import Run

SEEDS = 5
BLOCK = "block3"
METRIC = "probe of block3"
SHARED: dict[str, Any] = {
    "model": "basic-cnn", "width": 16, "limit": 3_000, "limit_test": 1_000, "epochs": 8, "batch_size": 128, "lr": 1e-3,
    "lr_schedule": "cosine", "record_every": 0,
}  # fmt: skip
VIEWS: dict[str, dict[str, Any]] = {
    "crop": {"crop": True}, "flip": {"flip": True}, "colour": {"jitter": 0.5, "grey": 0.2}, "blur": {"blur": 0.5},
}  # fmt: skip
OFF = {"crop": False, "flip": False, "jitter": 0.0, "grey": 0.0, "blur": 0.0, "side": 2}
LAYERS = {"no head": 0, "linear": 1, "two layers": 2, "three layers": 3}
PROJECTIONS = (16, 64)
BATCHES, UPDATES = (64, 256), (188, 564)
RATES = {64: 1e-3, 256: 2e-3}
MINUTES = {"heads": 21, "augmentations": 6, "batches": 45}  # of one core

Settings = dict[str, list[Config]]  # group of the results -> one config a seed


def head(name: str, width: int) -> str:
    """What a head's group is called."""
    return name if LAYERS[name] == 0 else f"{name}, {width}"


def over_widths(more: str, less: str) -> dict[str, float]:
    """The contrast of two kinds of heads, mean over the widths of the projection."""
    contrast: dict[str, float] = {}
    for name, sign in ((more, 1.0), (less, -1.0)):
        for width in PROJECTIONS:
            contrast[head(name, width)] = contrast.get(head(name, width), 0.0) + sign / len(PROJECTIONS)
    return contrast


def batch(method: str, size: int, updates: int) -> str:
    """What a group of `batches` is called."""
    return f"{method}, batches of {size}, {updates} updates"


def gains(change: str) -> dict[str, dict[str, float]]:
    """For each method the contrast of a larger batch, or of more updates."""
    (small, large), (few, many) = BATCHES, UPDATES
    less = (small, many) if change == "a larger batch" else (large, few)
    return {method: {batch(method, large, many): 1.0, batch(method, *less): -1.0} for method in ("simclr", "bp")}


def _head_test(name: str, says: str, contrast: dict[str, float], primary_of: str = "") -> Test:
    return Test(name, f"probe of the representation: {says}", METRIC, contrast, "points", at_least=0.0, primary_of=primary_of)


def _batch_tests(change: str, name: str) -> tuple[Test, Test]:
    """What a change gains SimCLR, less what it gains backprop, and by itself."""
    mine, theirs = gains(change)["simclr"], gains(change)["bp"]
    more = {**mine, **{group: -weight for group, weight in theirs.items()}}
    said = f"probe of block3: what {change} gains simclr"
    return (
        Test(f"{name}-more-than-bp", f"{said}, less what it gains backprop", METRIC, more, "points", at_least=0.0),
        Test(name, said, METRIC, mine, "points", at_least=0.0),
    )


BATCH_TESTS, UPDATE_TESTS = _batch_tests("a larger batch", "larger-batch"), _batch_tests("more updates", "more-updates")
TESTS: dict[str, tuple[Test, ...]] = {
    "simclr_heads": (
        _head_test("nonlinear-head", "two layers − linear, both widths", over_widths("two layers", "linear"), "simclr-nonlinear-head"),
        *details(
            "simclr-nonlinear-head",
            _head_test("nonlinear-head-none", "two layers − no head, both widths", over_widths("two layers", "no head")),
            _head_test("linear-head-none", "linear − no head, both widths", over_widths("linear", "no head")),
        ),
        all_of(
            "bigger-deeper-head", "probe of the representation: deeper and bigger heads are better",
            _head_test("deeper-head", "three layers − two, both widths", over_widths("three layers", "two layers")),
            _head_test("wider-projection", "projections of 64 − of 16, two layers", {"two layers, 64": 1.0, "two layers, 16": -1.0}),
            primary_of="simclr2-deeper-heads",
        ),
    ),
    "simclr_augmentations": (
        Test(
            "crop-and-colour", "probe of block3: cropping with colour − cropping alone", METRIC, {"crop + colour": 1.0, "crop": -1.0},
            "points", at_least=0.0, primary_of="simclr-composition",
        ),
    ),
    "simclr_batches": (
        all_of(
            "batches-and-updates", "probe of block3: what a larger batch, and what more updates gain simclr beyond backprop",
            BATCH_TESTS[0], UPDATE_TESTS[0], primary_of="simclr-batches",
        ),
        *details("simclr-batches", BATCH_TESTS[1], UPDATE_TESTS[1]),
    ),
}  # fmt: skip


def with_views(names: Sequence[str]) -> dict[str, Any]:
    """The options of some augmentations and no others."""
    return {**OFF, **{k: v for name in names for k, v in VIEWS[name].items()}}


def simclr(data: str, options: Mapping[str, Any]) -> list[Config]:
    """One config a seed."""
    return [make_config(method="simclr", data=data, options=dict(options), seed=seed, **SHARED) for seed in range(SEEDS)]


def heads(data: str, everything: bool = False) -> Settings:
    """No head, and one to three layers with narrow and wide projections."""
    found: Settings = {}
    for name, layers in LAYERS.items():
        for width in PROJECTIONS:
            options = {"side": 2, "layers": layers, **({"out": width} if layers else {})}
            found.setdefault(head(name, width), simclr(data, options))
    return found


def augmentations(data: str, everything: bool = False) -> Settings:
    """Cropping alone and with colour; with ``everything`` each augmentation alone, in pairs, and all four."""
    sets: list[tuple[str, ...]] = [("crop",), ("crop", "colour")]
    if everything:
        sets += [(name,) for name in VIEWS] + list(combinations(VIEWS, 2)) + [tuple(VIEWS)]
    return {" + ".join(names): simclr(data, with_views(names)) for names in sets}


def batches(data: str, everything: bool = False) -> Settings:
    """Batch sizes and numbers of updates, SimCLR and backprop."""
    found: Settings = {}
    for method, options in (("simclr", {"side": 2}), ("bp", {})):
        for size in BATCHES:
            for updates in UPDATES:
                epochs = -(-updates * size // SHARED["limit"])
                changed = {**SHARED, "batch_size": size, "lr": RATES[size], "epochs": epochs, "steps": updates}
                found[batch(method, size, updates)] = [
                    make_config(method=method, data=data, options=options, seed=seed, **changed) for seed in range(SEEDS)
                ]
    return found


def matrix(values: Mapping[str, Sequence[float]]) -> list[Cell]:
    """The cells of the table of all single augmentations and pairs; [] if not all of them were trained."""
    keys = {(a, b): a if a == b else f"{a} + {b}" for i, a in enumerate(VIEWS) for b in list(VIEWS)[i:]}
    keys["all", "all"] = " + ".join(VIEWS)
    return [Cell(*place, *interval(values[key])) for place, key in keys.items()] if set(keys.values()) <= set(values) else []


def signed(test: str, results: Mapping[str, Any], study: str) -> str:
    """The effect, in points with its interval, of a test or a part of one, for a title."""
    (found,) = (d for whole in decide(TESTS[study], results) for d in (whole, *whole.parts) if d.test.name == test)
    return f"{found.effect.mean:+.1f} points [{found.effect.low:.1f}, {found.effect.high:.1f}]".replace("-", "−")


def draw(what: str, results: Mapping[str, Any], figures: Path, data: str) -> None:
    """Write a part's figure."""
    study, values, setting = f"simclr_{what}", results["values"][METRIC], f"SimCLR on 3,000 images, {data}, BasicCNN of width 16"
    folder = figures / study
    if what == "heads":
        points = [
            HeadPoint(name, width if layers else 64, *interval(values[head(name, width)]))
            for name, layers in LAYERS.items()
            for width in (PROJECTIONS if layers else PROJECTIONS[:1])
        ]
        message = f"A nonlinear head above a linear one: {signed('nonlinear-head', results, study)}"
        save_figure(heads_figure(points, interval(values[UNTRAINED]), message, setting), points, folder, what)
    elif what == "augmentations":
        message = f"Cropping with colour above cropping alone: {signed('crop-and-colour', results, study)}, {SEEDS} seeds"
        unit = "probe of block3, test accuracy in %"
        if cells := matrix(values):
            figure = pairs_figure(cells, message, setting, unit)
        else:
            cells = [Cell(name, "block3", *interval(found)) for name, found in values.items()]
            figure = rows_figure(cells, message, setting, unit)
        save_figure(figure, cells, folder, what)
    else:
        cells = [
            Cell(f"{method}, batches of {size}", f"{updates} updates", *interval(values[batch(method, size, updates)]))
            for method in ("simclr", "bp")
            for size in BATCHES
            for updates in UPDATES
        ]
        message = f"A larger batch gains SimCLR more than backprop by {signed('larger-batch-more-than-bp', results, study)}"
        unit = "probe of block3, test accuracy in %"
        save_figure(lines_figure(cells, message, setting, "updates, with either batch", unit), cells, folder, what)


def main() -> None:
    """Train or read one part's runs, probe them, judge, write figures/simclr_<part>."""
    args = arguments(__doc__ or "", what=("augmentations", "heads", "batches"), numbers={"all": 0})
    announce_cost(MINUTES[args.what])
    wanted = {"augmentations": augmentations, "heads": heads, "batches": batches}[args.what](args.data, bool(args.all))
    runs: list[Run] = []
    values: dict[str, list[float]] = {group: [] for group in wanted}
    minutes: dict[str, list[float]] = {group: [] for group in wanted}
    for seed in range(SEEDS):  # a seed of every group before the next, so that stopping early leaves whole comparisons
        found = trained([configs[seed] for configs in wanted.values()], args)
        for group, run in zip(wanted, found, strict=True):
            values[group].append(probe_accuracies(run, [BLOCK], args)[BLOCK])
            minutes[group].append(sum(t.seconds for t in run.timing) / 60)
        values.setdefault(UNTRAINED, []).append(probe_accuracies(found[0], [BLOCK], args, UNTRAINED)[BLOCK])
        runs += found
    for group, accuracies in values.items():
        print(f"{group:40} {fmean(accuracies):5.1f} %")
    results: dict[str, Any] = {
        "values": {METRIC: values},
        "minutes": {group: fmean(m) for group, m in minutes.items()} | {"untrained": 0.0},
    }
    study = f"simclr_{args.what}"
    report(TESTS[study], results, siblings(study, args.figures))
    draw(args.what, results, args.figures, data_name(args))
    publish(study, runs, args, results, figures=False)


if __name__ == "__main__":
    main()
