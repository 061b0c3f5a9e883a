"""SimCLRv2's recipe of three runs: pretrain without labels, fine-tune from the middle of the head on few, distil with the images again.

Sentences (the reference study, of Chen et al. 2020b, arXiv 2006.10029), each with its primary test:

- "the fewer the labels, the more a bigger model helps": what width 32 gains over width 8 at 1 % of the labels, less its gain at 100 %.
- "distillation with unlabelled images improves on the fine-tuned network": a student of the teacher's own width above its teacher.
- "a layer of the head is worth keeping", which the paper says and the reference study does not: with the head's first layer above
  without it, at 1 % of the labels, width 16 (a sentence by itself since 2026-12-01, before any such run).

1. `simclr` with a three-layer head on the 50,000 images, 20 epochs in batches of 128; BasicCNN of widths 8, 16 and 32, five seeds.
2. `bp --init-from RUN --keep-head 1 --labels P`, P = 1, 10 and 100 % (50, 500 and 5,000 a class), and at 1 % without the head.
3. `distil --teacher RUN --labels 0.01` on all images, ten epochs, students of width 16 (the teacher's own) and 8.

Rates decayed to zero, final accuracy on all 10,000 test images. If differences vary by 1.5 points, five seeds show 2.2 points, in a
difference of differences 3.1 (80 % power).

Not run at this size: 700 core-minutes. (An earlier run had 3,000 images, of which 1 % are three labels a class, and all its arms were
between 19 and 23 %; it is not judged.)

    python -m analyses.simclr2 --data cifar10       # 700 core-minutes; interrupted, it goes on
"""

from __future__ import annotations

import argparse
from typing import Any

from analyses.figures.drawing import Cell
from analyses.figures.ssl_figures import lines_figure
from analyses.finetuning import AXIS, FRACTIONS, labels
from analyses.training.cost import announce_cost
from analyses.training.probing import final_accuracy
from analyses.training.study import arguments, data_name, minutes_of, publish, trained
from analyses.verdicts.decision import Test
from analyses.verdicts.wording import report
from gradlens.reporting.statistics import interval
from gradlens.reporting.style import save_figure
from gradlens.training.config import Config, make_config
from gradlens.training.run_directory import Run

SEEDS = 5
WIDTHS = (8, 16, 32)
SHARED: dict[str, Any] = {"model": "basic-cnn", "limit_test": 1_000, "lr": 1e-3, "lr_schedule": "cosine", "record_every": 0}
PRETRAINING = {"options": {"side": 2, "layers": 3}, "epochs": 20, "batch_size": 128}
TEACHER, STUDENTS = 16, (16, 8)
DISTILLING: dict[str, Any] = {"epochs": 10, "batch_size": 128, "augment": True}
FEWEST = min(FRACTIONS)
MINUTES = 140  # of one core, a seed
APART = {"1 %, head thrown away": "1 %, without\nthe head's layer", "1 %, distilled": "1 %, distilled"}
METRIC = "final test accuracy"


def tuned_group(width: int, share: float, kept: int = 1) -> str:
    """What the fine-tuned networks of a width are called."""
    return f"width {width}, {labels(share)}" + ("" if kept else ", head thrown away")


def student_group(width: int) -> str:
    """What the students of a width are called."""
    return f"width {width}, distilled at {labels(FEWEST)}"


def _gain(share: float) -> dict[str, float]:
    return {tuned_group(WIDTHS[-1], share): 1.0, tuned_group(WIDTHS[0], share): -1.0}


def _fewer(share: float, primary_of: str = "") -> Test:
    contrast = {**_gain(FEWEST), **{group: -weight for group, weight in _gain(share).items()}}
    said = f"gain of width {WIDTHS[-1]} over width {WIDTHS[0]} at {labels(FEWEST)}, less that at {labels(share)}"
    about = "" if primary_of else "simclr2-fewer-labels"
    return Test(f"wider-at-1-than-{100 * share:g}", said, METRIC, contrast, "points", at_least=0.0, primary_of=primary_of, about=about)


TESTS: tuple[Test, ...] = (
    _fewer(1.0, "simclr2-fewer-labels"),
    Test(
        "student-above-teacher", f"a student of width {TEACHER} − its teacher, at {labels(FEWEST)}", METRIC,
        {student_group(TEACHER): 1.0, tuned_group(TEACHER, FEWEST): -1.0}, "points", at_least=0.0, primary_of="simclr2-distillation",
    ),
    _fewer(0.1),
    Test(
        "head-kept", f"the head's first layer kept − thrown away, width {TEACHER}, {labels(FEWEST)}", METRIC,
        {tuned_group(TEACHER, FEWEST): 1.0, tuned_group(TEACHER, FEWEST, 0): -1.0}, "points", at_least=0.0, primary_of="simclr2-kept-layer",
    ),
)  # fmt: skip


def pretraining(data: str, seed: int) -> dict[int, Config]:
    """Width -> step 1."""
    return {w: make_config(method="simclr", data=data, width=w, seed=seed, **SHARED, **PRETRAINING) for w in WIDTHS}


def fine_tuning(data: str, seed: int, begun: dict[int, Run]) -> dict[str, Config]:
    """Group -> step 2."""
    wanted = [(w, share, 1) for w in WIDTHS for share in FRACTIONS] + [(w, FEWEST, 0) for w in WIDTHS]
    found = {}
    for width, share, kept in wanted:
        start = {"keep_head": kept, "init_from": str(begun[width].path), "labels": share}
        found[tuned_group(width, share, kept)] = make_config(
            method="bp", data=data, width=width, seed=seed, **start, **SHARED, **FRACTIONS[share]
        )
    return found


def distilling(data: str, seed: int, teacher: Run) -> dict[str, Config]:
    """Group -> step 3."""
    settings = {"data": data, "seed": seed, "labels": FEWEST, "teacher": str(teacher.path), **SHARED, **DISTILLING}
    return {student_group(w): make_config(method="distil", width=w, **settings) for w in STUDENTS}


def steps(args: argparse.Namespace, seed: int) -> tuple[dict[str, Run], list[Run]]:
    """Train one seed's three steps: the runs with labels by group, and those without."""

    def train_all(configs: dict[Any, Config]) -> dict[Any, Run]:
        return dict(zip(configs, trained(list(configs.values()), args), strict=True))

    begun = train_all(pretraining(args.data, seed))
    tuned: dict[str, Run] = train_all(fine_tuning(args.data, seed, begun))
    return tuned | train_all(distilling(args.data, seed, tuned[tuned_group(TEACHER, FEWEST)])), list(begun.values())


def cells_of(values: dict[str, list[float]]) -> list[Cell]:
    """The figure's means: a row a width, a column a way of training."""
    rows = [(w, labels(share), tuned_group(w, share)) for share in FRACTIONS for w in WIDTHS]
    rows += [(w, "1 %, head thrown away", tuned_group(w, FEWEST, 0)) for w in WIDTHS]
    rows += [(w, "1 %, distilled", student_group(w)) for w in STUDENTS]
    return [Cell(f"width {w}", column, *interval(values[group])) for w, column, group in rows]


def main() -> None:
    """The three steps, their figure and tests."""
    args = arguments(__doc__ or "")
    announce_cost(MINUTES * SEEDS)
    values: dict[str, list[float]] = {}
    by_group: dict[str, list[Run]] = {}
    runs: list[Run] = []
    for seed in range(SEEDS):
        answered, begun = steps(args, seed)
        for group, run in answered.items():
            values.setdefault(group, []).append(final_accuracy(run, args))
            by_group.setdefault(group, []).append(run)
        runs += [*begun, *answered.values()]
    results: dict[str, Any] = {"values": {METRIC: values}, "minutes": minutes_of(by_group)}
    cells = cells_of(values)
    print("\n".join(f"{c.row:10} {c.column:24} {c.mean:5.1f} %" for c in cells))
    report(TESTS, results)
    setting = f"{data_name(args)}, BasicCNN, pretrained without labels on 50,000 images"
    figure = lines_figure(cells, "Fine-tuning and distilling by width", setting, AXIS, "final test accuracy in %", APART)
    save_figure(figure, cells, args.figures / "simclr2", "labels_and_width")
    publish("simclr2", runs, args, {**results, "accuracy": [c._asdict() for c in cells]}, figures=False)


if __name__ == "__main__":
    main()
