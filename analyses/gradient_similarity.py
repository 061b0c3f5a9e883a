"""How far are the local gradients of greedy learning from the global one, layer by layer, while a network learns?

The reference study's figure of Laskin et al. 2020 (arXiv 2012.03837): five convolutional layers, greedy local learning, the cosine of
each layer's weight gradient with that of the global loss over 10,000 iterations. It says: the last layer's gradient is the global one,
the fourth's comes to it within some thousand iterations, the lower ones stay well below 90° but do not. The reference study gives no
optimiser, rate, width or batch; here: BasicCNN with five conv blocks of width 16 on CIFAR-10, dgl (its last block and the top are one
unit, so its fifth cosine is exactly 1), Adam 3e-4, batch 64. Both gradients are of the same weights, the same batch and the same forward
pass. The figure's three runs have 4,000 iterations; all 10,000 would take 65 minutes of one core.

Primary test of "gradients of earlier layers differ from the true gradients": 1 minus the cosine, averaged over layers 1 to 3 and the 300
iterations up to the 1,000th, at least 0.1, on five shorter runs of their own (of the figure's runs only means are stored). The fourth
layer, which is said to come near, and each layer by itself are further tests. Five seeds see 0.05 or so beyond the bound.

    python -m analyses.gradient_similarity --data cifar10                      # half an hour of one core; interrupted, it goes on
    python -m analyses.gradient_similarity --data cifar10 --seeds 0            # the tests' runs alone, ten minutes
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from analyses.figures.drawing import title_where
from analyses.training.cost import announce_cost
from analyses.training.study import arguments, data_name, minutes_of, publish, trained
from analyses.verdicts.decision import Test, details
from analyses.verdicts.wording import report
from gradlens.reporting.aggregate import final_values
from gradlens.reporting.statistics import interval
from gradlens.reporting.style import LOOK, head, save_figure, styles
from gradlens.runtime.text_files import read_json, write_text
from gradlens.training.config import Config, make_config
from gradlens.training.run_directory import Run, plain

LAYERS = {1: "block1.conv", 2: "block2.conv", 3: "block3.conv", 4: "block4.conv", 5: "block5.conv"}
SHARED: dict[str, Any] = {"method": "dgl", "model": "basic-cnn", "depth": 5, "width": 16, "batch_size": 64, "optimizer": "adam", "lr": 3e-4}
WINDOW = 300  # iterations up to the one shown: the reference study's first point lies there (a quarter of a run that is shorter than four)
SHOWN = 400  # points of a line, at most
WITHIN = 0.1


class Reading(NamedTuple):
    """A point read off the reference study's curves."""

    layer: int
    iteration: int
    low: float
    high: float  # equal to low but where they wander


READINGS = (
    *(Reading(5, i, 1.0, 1.0) for i in (WINDOW, 1_000, 4_000, 10_000)),
    *(Reading(4, i, c, c) for i, c in ((WINDOW, 0.17), (1_000, 0.85), (4_000, 0.96), (10_000, 0.99))),
    *(Reading(3, i, c, c) for i, c in ((WINDOW, 0.10), (1_000, 0.65))),
    *(Reading(3, i, 0.70, 0.75) for i in (2_000, 4_000, 6_000)),
    Reading(3, 10_000, 0.58, 0.58),
    *(Reading(2, i, c, c) for i, c in ((WINDOW, 0.30), (800, 0.55), (4_000, 0.50), (8_000, 0.40), (10_000, 0.32))),
    *(Reading(1, i, c, c) for i, c in ((WINDOW, 0.20), (800, 0.51))),
    *(Reading(1, i, 0.25, 0.40) for i in (2_000, 4_000, 8_000)),
    Reading(1, 10_000, 0.25, 0.25),
)


class Point(NamedTuple):
    """A layer's cosine, averaged over the window that ends at an iteration."""

    layer: int  # 1 at the bottom
    iteration: int
    mean: float  # over seeds
    low: float  # 95 % t-interval
    high: float
    seeds: int


class Compared(NamedTuple):
    """A reading and ours."""

    layer: int
    iteration: int
    reference: tuple[float, float]
    ours: float | None  # None: beyond our last iteration
    low: float | None
    high: float | None
    off: float | None  # outside the reference study's range by so much
    verdict: str


def cosines(run: Run, layer: int) -> dict[int, float]:
    """iteration -> cosine of a layer's weight gradient with the global one, as recorded."""
    wanted = (LAYERS[layer], "weight", "cosine")
    return {row.step: row.value for row in run.gradients if (row.layer, row.kind, row.quantity) == wanted}


def smooth(values: Mapping[int, float], window: int) -> dict[int, float]:
    """iteration -> mean over the recorded iterations of the window up to it, from the first whole window on."""
    return {i: fmean(v for j, v in values.items() if i - window < j <= i) for i in values if i >= window}


def points(runs: Sequence[Run], window: int) -> list[Point]:
    """The figure's table, bottom layer first."""
    rows = []
    for layer in LAYERS:
        series = [smooth(cosines(run, layer), window) for run in runs]
        stride = math.ceil(len(series[0]) / SHOWN)
        rows += [Point(layer, i, *interval(s[i] for s in series)) for i in list(series[0])[::stride]]
    return rows


def compared(rows: Sequence[Point]) -> list[Compared]:
    """Each reading beside our nearest point, if we got so far."""
    found = []
    for r in READINGS:
        mine = [p for p in rows if p.layer == r.layer]
        spacing = mine[1].iteration - mine[0].iteration if len(mine) > 1 else 0
        if r.iteration > mine[-1].iteration + spacing:
            found.append(Compared(r.layer, r.iteration, (r.low, r.high), None, None, None, None, "not reached"))
            continue
        p = min(mine, key=lambda p: abs(p.iteration - r.iteration))
        off = max(r.low - p.mean, p.mean - r.high, 0.0)
        verdict = "agrees" if off <= WITHIN else "differs"
        found.append(Compared(r.layer, r.iteration, (r.low, r.high), p.mean, p.low, p.high, off, verdict))
    return found


@style.context(LOOK)
def figure(rows: Sequence[Point], data: str, window: int) -> Figure:
    """All five layers in one plot, the reference study's points as open markers (a bar where their curve wanders).

    Args:
        rows: from :func:`points`.
        data: what to call the images.
        window: of the smoothing, in iterations.

    """
    drawing = Figure(figsize=(8, 4.6), layout="constrained")
    ax = drawing.subplots()
    end = max(p.iteration for p in rows)
    look = dict(zip(LAYERS, styles(f"dgl {layer}" for layer in LAYERS).values(), strict=True))
    ax.axhline(0, color="0.45", linewidth=0.9, zorder=1)
    for layer in reversed(LAYERS):
        mine = [p for p in rows if p.layer == layer]
        x, colour = [p.iteration for p in mine], look[layer].colour
        ax.plot(x, [p.mean for p in mine], color=colour, linewidth=1.6)
        ax.fill_between(x, [p.low for p in mine], [p.high for p in mine], color=colour, alpha=0.14, linewidth=0)
        name = f"  layer {layer}{' (last)' if layer == 5 else ''}"
        at = (end, mine[-1].mean)
        ax.annotate(name, at, (4, SHIFTS.get(layer, 0)), textcoords="offset points", color=colour, va="center", annotation_clip=False)
        read = [r for r in READINGS if r.layer == layer and r.iteration <= 1.03 * end]
        for r in read:
            ax.plot([r.iteration] * 2, [r.low, r.high], color=colour, linewidth=1.4, clip_on=False)
        middles = [(r.low + r.high) / 2 for r in read]
        ax.plot(
            [r.iteration for r in read], middles, linestyle="", marker="o", markersize=6.5, markerfacecolor="white",
            markeredgecolor=colour, markeredgewidth=1.5, clip_on=False, zorder=3,
        )  # fmt: skip
    ax.annotate("○ the paper's figure, as the reference study shows it", (0.13, 0.08), xycoords="axes fraction", color="0.3", fontsize=9.5)
    ax.set_xlim(0, 1.01 * end)
    ax.set_ylim(min(-0.05, *(p.mean for p in rows)), 1.04)
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.set(xlabel="iteration", ylabel="cosine with the global gradient")
    seeds = max(p.seeds for p in rows)
    over = f"mean of {seeds} seeds" if seeds > 1 else "one seed"
    head(
        drawing,
        similarity_title(rows),
        f"dgl, five conv layers · {data} · {over} over {window} iterations, 95 % t-interval",
    )
    return drawing


def similarity_title(rows: Sequence[Point]) -> str:
    """What the cosines say where the lines end: the last two layers above 0.75, the first two below 0.6."""
    ends = {p.layer: p.mean for p in sorted(rows, key=lambda p: p.iteration)}
    first, last = [ends.get(layer, 1.0) for layer in (1, 2)], [ends.get(layer, 0.0) for layer in (4, 5)]
    return title_where(
        max(first) < 0.6 and min(last) > 0.75,
        "With local losses the last layers come near the global gradient, the first stay far from it",
        "Cosine of local gradients with the global one, layer by layer",
    )


SHIFTS = {1: 6, 2: -6}  # points by which names near each other are moved

# ------------------------------------------------------------------------------------------------------------- tests

AWAY, FAR, TESTED_STEPS, TESTED_EVERY = "1 − cosine with the global gradient", 0.1, 1_000, 20


def away(name: str, says: str, layers: Sequence[int], primary_of: str = "") -> Test:
    """The test that the gradients of some layers are away from the global ones, on average."""
    contrast = {f"layer {layer}": 1 / len(layers) for layer in layers}
    return Test(name, f"{AWAY}, {says}", AWAY, contrast, "", at_least=FAR, primary_of=primary_of)


TESTS = (
    away("early-layers-away", "mean of layers 1 to 3", (1, 2, 3), "early-gradients"),
    *details(
        "early-gradients",
        *(away(f"layer-{layer}-away", f"layer {layer}", (layer,)) for layer in (1, 2, 3, 4)),
        Test("layer-1-further", f"{AWAY}, layer 1 − layer 4", AWAY, {"layer 1": 1, "layer 4": -1}, "", at_least=0),
        Test("layer-5-exact", f"{AWAY}, layer 5, the last", AWAY, {"layer 5": 1}, "", within=1e-6),
    ),
)


def values_of(runs: Sequence[Run], window: int = WINDOW) -> dict[str, dict[str, list[float]]]:
    """quantity -> layer -> one value a seed, averaged over the last window of a run."""
    last = {layer: [list(smooth(cosines(run, layer), window).values())[-1] for run in runs] for layer in LAYERS}
    return {AWAY: {f"layer {layer}": [1 - value for value in seeds] for layer, seeds in last.items()}}


def main() -> None:
    """Train or read the runs, test the sentence, print ours beside the reference study's points, write figures/gradient_similarity."""
    args = arguments(__doc__ or "", numbers={"steps": 4_000, "seeds": 3, "record-every": 10, "tested": 5})
    announce_cost(36, "26 for the figure's runs, ten for those of the tests")
    file = args.figures / "gradient_similarity" / "results.json"
    results = dict(read_json(file)) if file.exists() else {}
    if args.tested:
        tested = trained(configs(args.data, TESTED_STEPS, args.tested, TESTED_EVERY), args)
        cost = sum(minutes_of({"dgl": tested}).values())
        results |= {"values": values_of(tested), "minutes": {f"layer {k}": cost * (k == 1) for k in LAYERS}, "tested_steps": TESTED_STEPS}
        report(TESTS, results)
    if args.seeds:
        drawn = trained(configs(args.data, args.steps, args.seeds, args.record_every), args)
        results |= drawn_results(drawn, args)
        publish("gradient_similarity", drawn, args, results, figures=False)
    else:
        write_text(file, json.dumps(plain(results), indent=2) + "\n")


def configs(data: str, steps: int, seeds: int, every: int) -> list[Config]:
    """The runs of so many iterations and seeds, recorded every so many iterations."""
    epochs = 1 + steps * SHARED["batch_size"] // 50_000  # of CIFAR-10; the run ends with its steps
    settings = {**SHARED, "data": data, "epochs": epochs, "steps": steps, "record_every": every}
    return [make_config(**settings, seed=seed) for seed in range(seeds)]


def drawn_results(runs: Sequence[Run], args: Any) -> dict[str, Any]:
    """The figure of some runs, and what is to be kept of them."""
    data, window = data_name(args), min(WINDOW, args.steps // 4)
    rows = points(runs, window)
    table = compared(rows)
    for c in table:
        theirs = "-".join(f"{v:.2f}" for v in dict.fromkeys(c.reference))
        ours = "" if c.ours is None else f"ours {c.ours:.2f} [{c.low:.2f}, {c.high:.2f}]"
        print(f"layer {c.layer}  iteration {c.iteration:6,}  reference {theirs:9}  {ours:24} {c.verdict}")
    last = max(abs(1 - v) for run in runs for v in cosines(run, 5).values())
    null = {v.layer: (v.mean, v.low, v.high) for v in final_values(runs, "null_cosine") if v.layer in LAYERS.values()}
    print(f"layer 5 is 1 to {last:.1e} at every recorded iteration")
    for layer, (mean, *_) in null.items():
        print(f"chance at the end, {layer}: {mean:+.3f}")
    save_figure(figure(rows, data, window), rows, args.figures / "gradient_similarity", "gradient_similarity")
    return {
        "data": data,
        "settings": {**SHARED, "data": Path(args.data).name, "steps": args.steps, "record_every": args.record_every},
        "seeds": list(range(args.seeds)),
        "window": window,
        "within": WITHIN,
        "layer_5_off_1_by_at_most": last,
        "final_null_cosine": null,
        "table": [c._asdict() for c in table],
    }


if __name__ == "__main__":
    main()
