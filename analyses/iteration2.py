"""The reference study's second iteration: augmentation on BasicCNN, and VGG16, each with bp and dgl.

Claims: with flips and crops bp and dgl end within a tenth of a point of each other (86.5 %) and dgl's training loss falls more slowly; on
VGG16 dgl ends below bp (89.5 against 93.2 %). Here: short runs of the same settings as curves, on a seeded subset with --limit (the
reference study, with all 50,000 images, had 67.2 / 66.1 % after six epochs of BasicCNN). VGG16: batch 64, SGD 1e-3 with momentum 0.9 as
inferred from the reference study's code.

Cost: as committed (2,500 images of BasicCNN, 1,000 of VGG16) 2 core-minutes and 1; with all images 7 (bp) to 12 (dgl) an epoch of BasicCNN,
as ``analyses.iteration1`` measured, and VGG16 has 2.3 times as many multiply-adds. Whether the claims hold is not tested here: the first is
tested by ``analyses.learning_curves`` at a small size, the second needs an accelerator (``analyses.full_size``, priority 5).

    python -m analyses.iteration2 basic-cnn --data cifar10 [--limit 10000] [--precision bf16]
    python -m analyses.iteration2 vgg16 --data cifar10
    python -m analyses.iteration2 vgg16 --redraw          # the pictures anew, from the files in figures/iteration2-vgg16
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from analyses.figures.redrawn import Curve, Panels, draw_curves, draw_panels, draw_updates, ends_of, with_unit
from analyses.training.cost import announce_cost
from analyses.training.study import arguments, publish, shipped, test_accuracy, trained
from gradlens.reporting.aggregate import LayerPoint
from gradlens.reporting.numbers import short_number
from gradlens.runtime.text_files import read_json

SETTINGS: dict[str, dict[str, Any]] = {
    "basic-cnn": {"epochs": 6, "record_every": 16},
    "vgg16": {"epochs": 2, "record_every": 8},
}
ALL = 50_000  # images
MINUTES = {"basic-cnn": 19.0, "vgg16": 44.0}  # of an epoch of all images, bp and dgl together


CURVES = (
    Curve("test", "accuracy", lambda rows: f"Test accuracy, last epoch: {with_unit(ends_of(rows), ' %')}"),
    Curve("test", "loss", lambda rows: f"Test loss, last epoch, in nats: {with_unit(ends_of(rows), '', 2)}"),
    Curve("train", "accuracy", lambda rows: f"Training accuracy, last epoch: {with_unit(ends_of(rows), ' %')}"),
    Curve("train", "loss", lambda rows: f"Training loss, last epoch, in nats: {with_unit(ends_of(rows), '', 2)}"),
)


BLOCKS = ("block1.conv", "block2.conv", "block3.conv")
MESSAGES = {
    "cosine_over_training": "Where dgl's gradient differs from the true one, its cosine with it is {} to {}",
    "norm_ratio_over_training": "Where dgl's gradient differs from the true one, it is {} to {} times as long",
}
SAME = 1e-6  # from 1: gradients that are the true ones
Y_LABELS = {
    "cosine_over_training": "cosine with the true gradient",
    "norm_ratio_over_training": "length ÷ that of the true\ngradient (log scale)",
}


def differing(words: str, rows: Sequence[LayerPoint]) -> str:
    """The range of dgl's values where they are not 1, in words with two gaps."""
    values = [row.mean for row in rows if row.label == "dgl" and abs(row.mean - 1) > SAME]
    return words.format(short_number(min(values)), short_number(max(values)))


def redraw(what: str, folder: Path) -> None:
    """Draw the pictures from the csv files of a results folder."""
    used = read_json(folder / "results.json")["settings"]
    images = f"{used['limit']:,} images" if used["limit"] else "all images"
    about = f"CIFAR-10, {what}, flips and crops, {images}, {used['precision']}"
    draw_curves(folder, CURVES, [about, "one seed: how the curves begin"])
    for name, words in MESSAGES.items():
        said = partial(differing, words)
        if what == "vgg16":
            draw_updates(folder, name, "dgl", said, f"{about} · one seed")
        else:
            scale: Literal["linear", "log"] = "log" if name.startswith("norm") else "linear"
            panels = Panels(name, Y_LABELS[name], said, scale, float(scale == "log"), layers=BLOCKS, without=("bp",), updates="linear")
            draw_panels(folder, panels, f"{about} · one seed")


def main() -> None:
    """Train or read both runs of one network, print their test accuracies, write figures/iteration2-<network>."""
    args = arguments(__doc__ or "", what=sorted(SETTINGS), redraw=True)
    if not args.redraw:
        changes = {**SETTINGS[args.what], "limit": args.limit, "precision": args.precision}
        announce_cost(MINUTES[args.what] * changes["epochs"] * (args.limit or ALL) / ALL, "in fp32; less in bf16")
        configs = [shipped(f"iteration2-{args.what}-{m}", data=args.data, **changes) for m in ("bp", "dgl")]
        runs = trained(configs, args)
        table = {run.config.method: test_accuracy(run) for run in runs}
        losses = {run.config.method: {m.epoch: m.loss for m in run.metrics if m.split == "train"} for run in runs}
        slower = [epoch for epoch in losses["bp"] if losses["dgl"][epoch] > losses["bp"][epoch]]
        print(f"dgl's training loss is above bp's in epochs {slower} of {list(losses['bp'])}")
        for method, accuracy in table.items():
            print(f"{method:4} test accuracy by epoch: {', '.join(f'{a:.1f}' for a in accuracy.values())}")
        publish(
            f"iteration2-{args.what}",
            runs,
            args,
            {"test_accuracy": table, "train_loss": losses, "settings": changes},
            without=["cosine_heat_map"],
        )
    redraw(args.what, args.figures / f"iteration2-{args.what}")


if __name__ == "__main__":
    main()
