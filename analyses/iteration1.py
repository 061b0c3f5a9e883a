"""The reference study's first iteration: bp, dgl, dni and cdni on BasicCNN, CIFAR-10 without augmentation.

Claim: after one epoch test accuracy is 54.5 / 52.3 / 41.6 / 41.2 % (bp / dgl / dni / cdni), after six 70.8 / 71.0 % (bp / dgl): the
reference study's own curves, one run each. Here: Adam 3e-5, batch 256, inputs in [-1, +1], dni and cdni as in the references
(target=mean, zero_bias=false); bp and dgl for seven epochs, so that epochs 5-7 can be averaged, dni and cdni for one.

The primary test is the largest of the six distances between ours and the study's: within 4 points. It is one number of one seed, so it
decides nothing: neither side has an interval. How much seeds differ was measured elsewhere: ``seed_sd`` in results.json is the standard
deviation over the seeds of ``analyses.learning_curves`` (width 16, 1,000 images, 60 epochs, a decaying rate, all test images). What would
decide it: five seeds of each rule, 16 core-hours at this size, minutes on an accelerator (`python -m analyses.full_size`).

    python -m analyses.iteration1 --data cifar10          # 196 core-minutes; interrupted, it goes on
    python -m analyses.iteration1 --redraw                # the tests and pictures anew, from the files in figures/iteration1
"""

from __future__ import annotations

import json
import math
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from analyses.figures.curve_drawing import READING
from analyses.figures.drawing import title_where
from analyses.figures.redrawn import Curve, Panels, draw_curves, draw_heat_map, draw_panels, ends_of, with_unit
from analyses.full_size.readings import EPOCHS as READ_AT
from analyses.full_size.readings import READINGS
from analyses.training.cost import announce_cost
from analyses.training.study import arguments, data_name, publish, shipped, test_accuracy, trained
from analyses.verdicts.decision import Test
from analyses.verdicts.wording import report
from gradlens.reporting.aggregate import CurvePoint, LayerPoint
from gradlens.reporting.numbers import short_number
from gradlens.runtime.text_files import read_json, write_text

DOCUMENTS = {"bp": (54.53, 70.80), "dgl": (52.25, 70.97), "dni": (41.60, None), "cdni": (41.16, None)}  # epoch 1, epoch 6
EPOCHS = {"bp": 7, "dgl": 7, "dni": 1, "cdni": 1}
WITHIN = {"epoch 1": 3.0, "epochs 5-7": 4.0}  # points
AWAY, LARGEST = "test accuracy, ours - the reference study's", "largest distance of the six"

TESTS: tuple[Test, ...] = (
    Test("iteration1-largest", LARGEST, LARGEST, {"all": 1}, "points", within=4, primary_of="iteration1-accuracies"),
    *(
        Test(
            f"iteration1-{m}-{when.replace(' ', '-')}", f"{m}, {when}: {AWAY}", AWAY, {f"{m}, {when}": 1}, "points", within=WITHIN[when],
            about="iteration1-accuracies",
        )
        for m, theirs in DOCUMENTS.items()
        for when, value in zip(WITHIN, theirs, strict=True)
        if value is not None
    ),
)  # fmt: skip


def values(results: Mapping[str, Any]) -> dict[str, dict[str, list[float]]]:
    """quantity -> group -> the one seed's value, from a results file's table."""
    away = {f"{row['method']}, {row['when']}": [row["ours"] - row["documents"]] for row in results["table"]}
    return {AWAY: away, LARGEST: {"all": [max((v for (v,) in away.values()), key=abs)]}}


def seed_sd(figures: Path) -> dict[str, Any] | None:
    """How much the accuracies of seeds differ where it was measured: rule -> standard deviation in points; None where nothing did."""
    file = figures / "learning_curves" / "results.json"
    final = read_json(file).get("values", {}).get("final test accuracy", {}) if file.exists() else {}
    measured = {rule: {"sd": stdev(final[rule]), "seeds": len(final[rule])} for rule in DOCUMENTS if len(final.get(rule, ())) > 1}
    return {"measured_by": "analyses.learning_curves", "points": measured} if measured else None


def readings() -> list[CurvePoint]:
    """The reference study's test accuracies at the epochs that we have, or nearly."""
    rows = []
    for rule, theirs in READINGS["iteration1"].items():
        rows += [CurvePoint(rule, READING, "accuracy", e, v, v, v, 1) for e, v in zip(READ_AT, theirs, strict=True) if e <= EPOCHS[rule]]
    return rows


def started(rows: Sequence[CurvePoint]) -> str:
    """What the accuracies after one epoch say beside the reference study's."""
    first = {r.label: r.mean for r in rows if r.epoch == 1}
    near = all(abs(first[rule] - theirs) <= WITHIN["epoch 1"] for rule, (theirs, _) in DOCUMENTS.items())
    return title_where(near, "Test accuracy starts as in the reference study", "Test accuracy beside the reference study's")


def losses(rows: Sequence[CurvePoint]) -> list[tuple[float, float]]:
    """Losses of bp and dgl, epoch by epoch."""
    by = {(r.label, r.epoch): r.mean for r in rows}
    return [(by["bp", epoch], by["dgl", epoch]) for label, epoch in sorted(by) if label == "bp"]


def fell(rows: Sequence[CurvePoint]) -> str:
    """What the test losses of bp and dgl say: never more than a tenth of a nat apart, and lower at the end."""
    pairs = losses(rows)
    alike = max(abs(bp - dgl) for bp, dgl in pairs) <= 0.1 and max(pairs[-1]) < min(pairs[0])
    return title_where(alike, "Test loss of bp and dgl falls alike", "Test loss")


def stayed_above(rows: Sequence[CurvePoint]) -> str:
    """What the training losses of bp and dgl say."""
    return title_where(all(dgl > bp for bp, dgl in losses(rows)), "dgl's training loss lies above bp's throughout", "Training loss")


CURVES = (
    Curve("test", "accuracy", lambda rows: f"{started(rows)}; last epoch: {with_unit(ends_of(rows), ' %')}"),
    Curve("test", "loss", lambda rows: f"{fell(rows)}; last epoch, in nats: {with_unit(ends_of(rows), '', 2)}"),
    Curve("train", "accuracy", lambda rows: f"Training accuracy, last epoch: {with_unit(ends_of(rows), ' %')}"),
    Curve("train", "loss", lambda rows: f"{stayed_above(rows)}; last epoch, in nats: {with_unit(ends_of(rows), '', 2)}"),
)
BLOCKS = ("block1.conv", "block2.conv", "block3.conv")
SYNTHETIC = ("dni", "cdni")


def lines_of(rows: Sequence[LayerPoint]) -> dict[tuple[str, str], list[float]]:
    """Rule and layer -> what was recorded, in the order of steps."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in sorted(rows, key=lambda row: row.step):
        if math.isfinite(row.mean):
            found.setdefault((row.label, row.layer), []).append(row.mean)
    return found


def pointing(rows: Sequence[LayerPoint]) -> str:
    """What the cosines of the last recorded step say: dgl's lower two between 0.2 and 0.9, those of dni and cdni within 0.1 of 0."""
    lines = lines_of(rows)
    partly = all(0.2 < lines["dgl", block][-1] < 0.9 for block in BLOCKS[:2])
    randomly = all(abs(lines[rule, block][-1]) < 0.1 for rule in SYNTHETIC for block in BLOCKS)
    return title_where(
        partly and randomly,
        "dgl's lower blocks point partly along the true gradient, the blocks of dni and cdni at random",
        "Cosine of each block's gradient with the true one",
    )


def too_long(rows: Sequence[LayerPoint]) -> str:
    """What the norm ratios of dni and cdni say at the first and the last recorded step."""
    mine = [values for (rule, layer), values in lines_of(rows).items() if rule in SYNTHETIC and layer in BLOCKS]
    first, last = [values[0] for values in mine], [values[-1] for values in mine]
    return title_where(
        min(first) > 2 and all(b < a for a, b in zip(first, last, strict=True)),
        f"The gradients of dni and cdni start {min(first):,.0f} to {max(first):,.0f} times too long and shrink as training goes on",
        "Length of each block's gradient over that of the true one",
    )


def explained(rows: Sequence[LayerPoint]) -> str:
    """What the explained variances say: all below 0, and lowest in block3 at every recorded step."""
    lines = lines_of(rows)
    negative = all(value < 0 for values in lines.values() for value in values)
    by_step = [values for rule in SYNTHETIC for values in zip(*(lines[rule, f"block{k}"] for k in (1, 2, 3)), strict=True)]
    lowest = all(min(values) == values[-1] for values in by_step)
    return title_where(
        negative and lowest,
        "The synthesisers explain less than nothing of the true gradient's variance, at worst in block3",
        "Share of the true gradient's variance that the synthesisers explain",
    )


PANELS = (
    Panels(
        "cosine_over_training", "cosine with the true gradient",
        lambda rows: f"{pointing(rows)} (bp: 1; top: 1 under every rule)",
        quantity="cosine", layers=BLOCKS, without=("bp",),
    ),
    Panels(
        "norm_ratio_over_training", "length ÷ that of the true\ngradient (log scale)",
        lambda rows: f"{too_long(rows)} (top: 1 under every rule)",
        "log", 1, "norm_ratio", BLOCKS,
    ),
    Panels(
        "explained_variance_over_training", "share of the gradient's\nvariance explained (symlog)",
        lambda rows: f"{explained(rows)} (1: all, 0: as much as a constant)",
        "symlog",
    ),
)  # fmt: skip


def nearness(cosines: Mapping[str, float]) -> str:
    """What the heat map says, from the cosines of the first layer."""
    said = ", ".join(f"{short_number(value)}\u00a0for\u00a0{label}" for label, value in cosines.items())
    return f"Cosine of the first layer's gradient with the true one: {said}"


def redraw(folder: Path) -> None:
    """Add values to a folder's results file, decide the tests, draw the pictures from the csv files."""
    results = read_json(folder / "results.json")
    minutes = {run["label"]: run["training_minutes"] for run in results["runs"]}
    results |= {"values": values(results), "seed_sd": seed_sd(folder.parent)}
    results["minutes"] = {f"{row['method']}, {row['when']}": minutes[row["method"]] for row in results["table"]}
    results["minutes"]["all"] = sum(minutes.values())
    write_text(folder / "results.json", json.dumps(results, indent=2) + "\n")
    report(TESTS, results)
    about = f"{results['data']}, BasicCNN of width 128, Adam 3e-5, batch 256"
    draw_curves(folder, CURVES, [about, "one seed"], readings())
    for panels in PANELS:
        draw_panels(folder, panels, f"{about} · one seed")
    draw_heat_map(folder, nearness, f"{about} · one seed", BLOCKS)


def compared(args: Namespace) -> None:
    """Train or read the four runs, save ours beside the reference study's accuracies."""
    configs = [shipped(f"iteration1-{m}", data=args.data, epochs=n, record_every=16) for m, n in EPOCHS.items()]
    runs = trained(configs, args)
    table = []
    for run in runs:
        accuracy = test_accuracy(run)
        ours = [accuracy[1], fmean(accuracy[e] for e in (5, 6, 7)) if 7 in accuracy else None]
        for when, value, theirs in zip(WITHIN, ours, DOCUMENTS[run.config.method], strict=True):
            if value is not None and theirs is not None:
                table.append({"method": run.config.method, "when": when, "ours": value, "documents": theirs})
    publish("iteration1", runs, args, {"data": data_name(args), "table": table})


def main() -> None:
    """Train or read the four runs, decide the tests, write figures/iteration1."""
    args = arguments(__doc__ or "", redraw=True)
    if not args.redraw:
        announce_cost(196)
        compared(args)
    redraw(args.figures / "iteration1")


if __name__ == "__main__":
    main()
