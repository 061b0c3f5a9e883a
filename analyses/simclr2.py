"""SimCLRv2's recipe of three runs: pretrain without labels, fine-tune from the middle of the head on few, distil with the images again.

Claims (the reference study, of Chen et al. 2020b, arXiv 2006.10029): the fewer the labels, the more is gained from a bigger network; the
head's first layer is worth keeping; a distilled student is at least as good as the fine-tuned network that teaches it.

1. `simclr` with a three-layer head on 3,000 images, eight epochs in batches of 128; BasicCNN of widths 8, 16 and 32, three seeds.
2. `bp --init-from RUN --keep-head 1 --labels P`, P = 1, 10 and 100 %, and at 1 % without the head (`--keep-head 0`).
3. `distil --teacher RUN --labels 0.01` on all images, ten epochs, students of width 16 (the teacher's own) and 8.

Tested on 1,000 images. Like everything here it is small: what it says is said of this size.

    python -m analyses.simclr2 --data cifar10       # 20 minutes on one core; interrupted, it goes on
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from analyses.drawing import Cell, dots
from analyses.self_supervised import FRACTIONS
from analyses.study import arguments, data_name, judged, publish, say, test_accuracy, trained
from gradlens.reporting.statistics import interval
from gradlens.reporting.style import save_figure
from gradlens.training.config import Config, make_config
from gradlens.training.run_directory import Run

SEEDS = 3
WIDTHS = (8, 16, 32)
SHARED: dict[str, Any] = {"model": "basic-cnn", "limit": 3_000, "limit_test": 1_000, "lr": 1e-3, "record_every": 0}
PRETRAINING = {"options": {"side": 2, "layers": 3}, "epochs": 8, "batch_size": 128}
TEACHER, STUDENTS = 16, (16, 8)
DISTILLING: dict[str, Any] = {"epochs": 10, "batch_size": 128, "augment": True}


def pretraining(data: str) -> dict[tuple[int, int], Config]:
    """(width, seed) -> step 1."""
    return {(w, s): make_config(method="simclr", data=data, width=w, seed=s, **SHARED, **PRETRAINING) for w in WIDTHS for s in range(SEEDS)}


def fine_tuning(data: str, begun: dict[tuple[int, int], Run]) -> dict[tuple[int, float, int, int], Config]:
    """(width, share of the labels, layers kept, seed) -> step 2."""
    wanted = [(w, share, 1) for w in WIDTHS for share in FRACTIONS] + [(w, 0.01, 0) for w in WIDTHS]
    return {
        (w, share, kept, s): make_config(
            method="bp",
            data=data,
            width=w,
            seed=s,
            labels=share,
            keep_head=kept,
            init_from=str(begun[w, s].path),
            **SHARED,
            **FRACTIONS[share],
        )
        for w, share, kept in wanted
        for s in range(SEEDS)
    }


def distilling(data: str, teachers: Sequence[Run]) -> dict[tuple[int, int], Config]:
    """(student's width, seed) -> step 3."""
    return {
        (w, s): make_config(method="distil", data=data, width=w, seed=s, labels=0.01, teacher=str(teachers[s].path), **SHARED, **DISTILLING)
        for w in STUDENTS
        for s in range(SEEDS)
    }


def train_all(configs: dict[Any, Config], args: argparse.Namespace) -> dict[Any, Run]:
    """The finished runs of some configs, under the same keys."""
    return dict(zip(configs, trained(list(configs.values()), args), strict=True))


def last(run: Run) -> float:
    """Final test accuracy in %."""
    return list(test_accuracy(run).values())[-1]


def main() -> None:
    """The three steps, their figure and the judged claims."""
    args = arguments(__doc__ or "")
    begun = train_all(pretraining(args.data), args)
    tuned = train_all(fine_tuning(args.data, begun), args)
    teachers = [tuned[TEACHER, 0.01, 1, s] for s in range(SEEDS)]
    taught = train_all(distilling(args.data, teachers), args)
    seeds = range(SEEDS)

    def gain(share: float) -> list[float]:
        return [last(tuned[WIDTHS[-1], share, 1, s]) - last(tuned[WIDTHS[0], share, 1, s]) for s in seeds]

    claims = [
        judged(
            f"the widest net gains more over the narrowest at 1 % of the labels than at {100 * share:g} %",
            [a - b for a, b in zip(gain(0.01), gain(share), strict=True)], "points", at_least=0,
        )
        for share in (0.1, 1.0)
    ]  # fmt: skip
    for w in WIDTHS:
        more = [last(tuned[w, 0.01, 1, s]) - last(tuned[w, 0.01, 0, s]) for s in seeds]
        claims.append(judged(f"width {w}, 1 % of the labels: keeping the head's first layer helps", more, "points", at_least=0))
    for w in STUDENTS:
        more = [last(taught[w, s]) - last(teachers[s]) for s in seeds]
        claims.append(
            judged(f"a distilled student of width {w} is as good as its teacher of width {TEACHER} or better", more, "points", at_least=0)
        )
    cells = [
        Cell(f"width {w}", f"{100 * share:g} % of the labels", *interval(last(tuned[w, share, 1, s]) for s in seeds))
        for share in FRACTIONS
        for w in WIDTHS
    ]
    cells += [Cell(f"width {w}", "1 %, head thrown away", *interval(last(tuned[w, 0.01, 0, s]) for s in seeds)) for w in WIDTHS]
    cells += [Cell(f"width {w}", "1 %, distilled", *interval(last(taught[w, s]) for s in seeds)) for w in STUDENTS]
    print("\n".join(f"{c.row:10} {c.column:24} {c.mean:5.1f} %" for c in cells))
    say(claims)
    title = f"SimCLRv2's three runs · {data_name(args)} · BasicCNN"
    save_figure(dots(cells, title, "final test accuracy in %"), cells, args.figures / "simclr2", "labels_and_width")
    runs = [*begun.values(), *tuned.values(), *taught.values()]
    publish("simclr2", runs, args, {"claims": claims, "accuracy": [c._asdict() for c in cells]}, figures=False)


if __name__ == "__main__":
    main()
