"""Greedy layerwise learning with heads of one, two and three hidden layers: accuracy after each stage.

Claim (Belilovsky et al. 2019): the more hidden layers each stage's problem has, the better the network (CIFAR-10, full size: 88.3, 90.4 and
91.7 %). Here: BasicCNN of width 16, 5,000 CIFAR-10 images, batches of 100, four epochs a stage, Adam 1e-3, three seeds. The last stage's
head is the network's own top in all three.

    python -m analyses.greedy_heads --data cifar10          # about ten minutes on two cores
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import style
from matplotlib.figure import Figure

from analyses.study import arguments, data_name, probed, publish, trained, verdict
from gradlens.analysis.of_runs.options import FULL_PROBE
from gradlens.reporting.statistics import interval
from gradlens.reporting.style import COLOURS, LOOK, MARKERS, save_figure
from gradlens.training.config import make_config
from gradlens.training.run_directory import Run

SEEDS, STAGES, STAGE_EPOCHS, HIDDEN = 10, 3, 4, (1, 2, 3)
SHARED: dict[str, Any] = {
    "limit": 5_000, "width": 16, "batch_size": 100, "lr": 1e-3, "lr_schedule": "cosine", "epochs": STAGES * STAGE_EPOCHS, "record_every": 0,
}  # fmt: skip
OPTIONS = replace(FULL_PROBE, blocks=("block1", "block2"), features=512, train_images=3_000, separability=0, controls=False)


class Point(NamedTuple):
    """Test accuracy at the end of one stage."""

    hidden: int  # hidden layers of the stages' heads
    stage: int
    mean: float  # test accuracy in %, last epoch of the stage
    low: float
    high: float
    seeds: int


def after_stages(run: Run) -> list[float]:
    """Test accuracy in % at the last epoch of each stage."""
    accuracy = {m.epoch: 100 * m.accuracy for m in run.metrics if m.split == "test"}
    return [accuracy[stage * STAGE_EPOCHS] for stage in range(1, STAGES + 1)]


@style.context(LOOK)
def drawing(points: Sequence[Point], data: str) -> Figure:
    """Accuracy over stages, a line for each depth of head."""
    figure = Figure(figsize=(7.8, 3.8), layout="constrained")
    ax = figure.subplots()
    for hidden in HIDDEN:
        mine = [p for p in points if p.hidden == hidden]
        shift = 0.04 * (hidden - 2)  # so that error bars do not hide each other
        ax.errorbar(
            [p.stage + shift for p in mine], [p.mean for p in mine], yerr=[p.mean - p.low for p in mine], capsize=2.5, elinewidth=0.9,
            color=COLOURS[hidden], marker=MARKERS[hidden], label=f"{hidden} hidden layer{'s' * (hidden > 1)}",
        )  # fmt: skip
    ax.set(xlabel="stage (blocks trained so far)", ylabel="test accuracy (%)", xticks=range(1, STAGES + 1))
    ax.legend(title="head")
    ax.set_title(f"greedy · {data} · BasicCNN, width 16 · mean of {SEEDS} seeds, 95 % t-intervals", loc="left")
    return figure


def main() -> None:
    """Train or read nine runs, print accuracy by stage and what the claim comes to, write figures/greedy_heads."""
    args = arguments(__doc__ or "")
    configs = [make_config(method="greedy", options={"hidden": h}, data=args.data, seed=s, **SHARED) for s in range(SEEDS) for h in HIDDEN]
    runs = trained(configs, args)
    probed(runs, args, OPTIONS)
    found = {h: [after_stages(r) for r in runs if r.config.options["hidden"] == h] for h in HIDDEN}
    points = [Point(h, s + 1, *interval(a[s] for a in group)) for h, group in found.items() for s in range(STAGES)]
    for p in points:
        print(f"{p.hidden} hidden, stage {p.stage}: {p.mean:.1f} % [{p.low:.1f}, {p.high:.1f}]")
    gains = {}
    for more, fewer in ((2, 1), (3, 2)):
        for stage in range(STAGES):
            gain = interval(a[stage] - b[stage] for a, b in zip(found[more], found[fewer], strict=True))
            gains[f"stage {stage + 1}: {more} - {fewer} hidden"] = gain[:3]
            change = f"{gain.mean:+.1f} points [{gain.low:.1f}, {gain.high:.1f}]"
            print(f"stage {stage + 1}: {more} hidden layers against {fewer}: {change}, {verdict(gain, 0)}")
    save_figure(drawing(points, data_name(args)), points, args.figures / "greedy_heads", "accuracy_by_stage")
    settings = {**SHARED, "data": Path(args.data).name, "seeds": SEEDS}
    publish("greedy_heads", runs, args, {"settings": settings, "points": points, "gains": gains}, figures=False)


if __name__ == "__main__":
    main()
