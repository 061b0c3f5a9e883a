"""What is learned without labels saves labels: backprop from pretrained networks on few labels, beside a start from scratch.

Sentence (the reference study, of Chen et al. 2020). BasicCNN of width 16, pretrained on the 50,000 images of CIFAR-10 without labels, 20
epochs in batches of 128 (7,820 updates), then fine-tuned by `bp` on 1, 10 and 100 % of the labels, 50, 500 and 5,000 a class (1,500 to
1,955 updates); beside it the untrained network with as many updates, and with as many more as pretraining had (more updates, not equal
computing). Rates decayed to zero, five seeds, final accuracy on all 10,000 test images.

Primary test: at 1 % of the labels a start from `simclr` is above the untrained network that is trained longer. Further tests: the other
starts and shares. If differences vary by 1.5 points, five seeds show 2.0 points (80 % power).

Not run at this size: 370 core-minutes (74 a seed, of which pretraining takes 50). An earlier run had 3,000 images, of which 1 % are three
labels a class, too few for any start to differ measurably from another; it is not judged.

    python -m analyses.finetuning --data cifar10       # 370 core-minutes; interrupted, it goes on
"""

from __future__ import annotations

from typing import Any

from analyses.figures.drawing import Cell
from analyses.figures.ssl_figures import lines_figure
from analyses.self_supervised import RULES
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
SHARED: dict[str, Any] = {
    "model": "basic-cnn", "width": 16, "limit_test": 1_000, "lr": 1e-3, "lr_schedule": "cosine", "record_every": 0,
}  # fmt: skip
PRETRAINING: dict[str, Any] = {"epochs": 20, "batch_size": 128}
UPDATES, IMAGES = 7_820, 50_000  # of pretraining
STARTS = ("simclr", "loco", "context-encoder")
UNTRAINED, LONGER = "untrained", "untrained, longer"
FRACTIONS: dict[float, dict[str, int]] = {  # share of the labels -> batches and epochs
    0.01: {"batch_size": 10, "epochs": 30},
    0.1: {"batch_size": 64, "epochs": 20},
    1.0: {"batch_size": 128, "epochs": 5},
}
AXIS = "share of the labels that are kept"
MINUTES = 74  # of one core, a seed


def labels(share: float) -> str:
    """What the accuracies at a share of the labels are called."""
    return f"{100 * share:g} % of the labels"


def _test(share: float, start: str, rival: str, primary_of: str = "") -> Test:
    said = f"final test accuracy at {labels(share)}: from {start} − {rival}"
    contrast = {start: 1.0, rival: -1.0}
    about = "" if primary_of else "saves-labels"
    return Test(f"from-{start}-{share:g}", said, labels(share), contrast, "points", at_least=0.0, primary_of=primary_of, about=about)


TESTS: tuple[Test, ...] = (
    _test(0.01, "simclr", LONGER, "saves-labels"),
    *(_test(share, start, LONGER) for share in FRACTIONS for start in STARTS if (share, start) != (0.01, "simclr")),
)


def pretraining(data: str, seed: int) -> dict[str, Config]:
    """Start -> its run without labels."""
    found = {}
    for start in STARTS:
        method, options, _ = RULES[start]
        found[start] = make_config(method=method, data=data, options=options, seed=seed, **SHARED, **PRETRAINING)
    return found


def fine_tuning(data: str, seed: int, begun: dict[str, Run]) -> dict[tuple[str, float], Config]:
    """(start, share of the labels) -> the run with labels."""
    found = {}
    for share, budget in FRACTIONS.items():
        settings = {**SHARED, **budget, "data": data, "seed": seed, "labels": share}
        for start, run in begun.items():
            found[start, share] = make_config(method="bp", init_from=str(run.path), **settings)
        found[UNTRAINED, share] = make_config(method="bp", **settings)
        updates = budget["epochs"] * -(-round(share * IMAGES) // budget["batch_size"])
        longer = round(budget["epochs"] * (updates + UPDATES) / updates)
        found[LONGER, share] = make_config(method="bp", **{**settings, "epochs": longer})
    return found


def main() -> None:
    """Pretrain, fine-tune, judge, write figures/finetuning."""
    args = arguments(__doc__ or "")
    announce_cost(MINUTES * SEEDS)
    values: dict[str, dict[str, list[float]]] = {labels(share): {} for share in FRACTIONS}
    tuned: dict[str, list[Run]] = {}
    runs: list[Run] = []
    for seed in range(SEEDS):
        first = pretraining(args.data, seed)
        begun = dict(zip(first, trained(list(first.values()), args), strict=True))
        second = fine_tuning(args.data, seed, begun)
        for (start, share), run in zip(second, trained(list(second.values()), args), strict=True):
            values[labels(share)].setdefault(start, []).append(final_accuracy(run, args))
            tuned.setdefault(start, []).append(run)
            runs.append(run)
        runs += begun.values()
    cells = [Cell(start, share, *interval(found)) for share, groups in values.items() for start, found in groups.items()]
    results: dict[str, Any] = {"values": values, "minutes": minutes_of(tuned)}
    report(TESTS, results)
    setting = f"{data_name(args)}, BasicCNN of width 16, pretrained without labels on 50,000 images"
    figure = lines_figure(cells, "Fine-tuning from each start", setting, AXIS, "final test accuracy in %")
    save_figure(figure, cells, args.figures / "finetuning", "finetuning")
    publish("finetuning", runs, args, {**results, "accuracy": [c._asdict() for c in cells]}, figures=False)


if __name__ == "__main__":
    main()
