"""How long are the first synthetic gradients, and is the gap of DNI a matter of units or of principle?

The law. A synthesiser whose last layer has weight zero and PyTorch's default bias (as published) gives every image the same vector: of a
layer with fan-in f each of the D outputs is a bias of variance 1/(3f), so its length is √(D/3f). The true gradient of a mean loss over N
images is 1/N times the per-image gradient g. So

    ‖synthetic‖ / ‖true‖ = N · √(D/3f) / ‖g‖.

In an MLP D = f = width and, with default weights, every linear layer passes 1/3 of a gradient's squared length, every ReLU 1/2, from
‖softmax − label‖² = 1 − 1/C: N · 1.054 · 6^(j/2), j blocks below the top one, without a free parameter and the same at every width. In
BasicCNN, whose synthesiser is a 5×5 convolution, D/3f = P/75 with P pixels: N · 0.516 · √P below its output block. A regression of N·δ
removes the N; a bias of zero removes the vector, until the first step of Adam, which moves each weight by the rate, whatever the gradient:
then the length is at most about rate · f · √D, so it grows with the width to the power of 3/2 where all signs of a row agree (1, where
they are independent), and its ratio to δ with N unless N·δ is regressed.

Measured: the ratios before the first and the second update, ten seeds. Then accuracy: dni and cdni × regressed quantity × first bias, on
the digits, an MLP of three blocks of 64 and batches of 32 and 256; BasicCNN of width 8 with batches of 64; 400 updates, Adam, each arm at
its own rate (analyses/training/tuned_arms.py), ten seeds; four times the updates, at the same rates, for what is left.

Tests (chosen before looking; the smallest visible effect of ten seeds at a paired sd of 3 points is 3 points):

- cdni-is-units, dni-is-units: N·δ and a zero start close at least half of the published variant's gap to bp (MLP, batches of 256).
- dni-reaches-bp (primary: what is left would be the units' too), cdni-reaches-bp: they come within two points of bp; with N = 32 too.
- gap-grows-with-batch: the published cdni's gap to bp is larger at N = 256 than at 32, at equal updates.
- law-batch, law-width, law-constant: the exponents 1 and 0, and the constant within a fifth; law-adam: the same after a step of Adam.
- dni, cdni above untrained blocks: added after a look at the first arms.

    python -m analyses.synthetic_gradient_scale          # about 30 core-minutes; interrupted, it goes on
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch

from analyses.figures.drawing import title_where
from analyses.figures.synthetic_gradient_figures import ArmRow, LengthRow, accuracy_figure, arm_rows, lengths_figure
from analyses.training.cost import announce_cost
from analyses.training.stored import stored
from analyses.training.study import arguments, publish
from analyses.training.tuned_arms import Arm, Bench, Tuned, accuracy_values, cpu_minutes
from analyses.verdicts.decision import Test, details
from analyses.verdicts.wording import report
from gradlens.data.datasets import load
from gradlens.reporting.style import save_figure
from gradlens.runtime.csv_tables import read_table
from gradlens.training.config import make_config
from gradlens.training.runs.build_state import build_state

SEEDS = 10
RULES = ("dni", "cdni")
VARIANTS: dict[str, dict[str, Any]] = {
    "as published": {"target": "mean", "zero_bias": False},
    "zero start": {"target": "mean", "zero_bias": True},
    "N·δ": {"target": "sum", "zero_bias": False},
    "N·δ, zero start": {"target": "sum", "zero_bias": True},
}
PUBLISHED, OURS = "as published", "N·δ, zero start"
UNTRAINED = "untrained blocks"
SHARED: dict[str, Any] = {"data": "digits", "epochs": 400, "steps": 400}
MLP: dict[str, Any] = {"model": "mlp", "width": 64, "depth": 3}
CNN: dict[str, Any] = {"model": "basic-cnn", "width": 8}
SMALL, LARGE, CNN_BATCH, LONGER = 32, 256, 64, 1600
BATCHES = (8, 16, 32, 64, 128, 256, 512)
WIDTHS = (8, 16, 32, 64, 128)
FIXED_BATCH, FIXED_WIDTH = 64, 32
FIRST_RATE = 1e-3  # of the single update after which lengths are measured
CLASSES = 10


class Length(NamedTuple):
    """How long synthetic gradients are beside the true ones, of one network on one batch: ‖S‖ / ‖δ‖."""

    model: str
    width: int
    batch: int
    seed: int
    interface: int  # 0: after the first block
    updates: int  # made before: 0, or 1
    variant: str
    ratio: float


def lengths(model: str, width: int, batch: int, seed: int, variant: str, updates: int) -> list[Length]:
    """The ratio at each interface before an update; the batch is that of this update."""
    options = VARIANTS[variant]
    config = make_config(
        method="dni", options=options, model=model, width=width, data="digits", batch_size=batch, seed=seed, lr=FIRST_RATE, record_every=0,
        epochs=9, steps=max(1, updates),
    )  # fmt: skip
    state = build_state(config, load("digits"), torch.device("cpu"))
    for step in range(updates):
        state.stage.step(step, None, lambda: False, False)
    x, y = state.batches.batch(updates)
    method: Any = state.network.method
    seen = []
    z = x
    for block in state.network.model:
        z = block(z)
        z.retain_grad()
        seen.append(z)
    torch.nn.functional.cross_entropy(z, y).backward()  # type: ignore[no-untyped-call]
    rows = []
    for k, h in enumerate(seen[:-1]):
        with torch.no_grad():
            synthetic = method.synthesisers[k](h.detach()) / (len(y) if options["target"] == "sum" else 1)
        assert h.grad is not None
        rows.append(Length(model, width, batch, seed, k, updates, variant, float(synthetic.norm() / h.grad.norm())))
    return rows


def predicted(model: str, batch: int, below: int) -> float:
    """The law's ratio before the first update, so many blocks below the interface under the output block (BasicCNN: only there)."""
    error = 1 - 1 / CLASSES
    if model == "mlp":
        return batch * math.sqrt(1 / 3) / math.sqrt(error / 3 / 6**below)
    return batch * math.sqrt(1 / 75) / math.sqrt(error / 18)  # one pixel is left of the digits


def measured() -> Iterator[Length]:
    """All lengths: over N at one width, over widths at one N."""
    sizes = [(FIXED_WIDTH, n) for n in BATCHES] + [(w, FIXED_BATCH) for w in WIDTHS if w != FIXED_WIDTH]
    for model, (width, batch), seed in product(("mlp", "basic-cnn"), sizes, range(SEEDS)):
        yield from lengths(model, width, batch, seed, PUBLISHED, 0)
        for variant in ("zero start", OURS):
            yield lengths(model, width, batch, seed, variant, 1)[-1]


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of log y over log x."""
    x, y = (torch.tensor([math.log(v) for v in column], dtype=torch.float64) for column in zip(*points, strict=True))
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


FINAL, CONSTANT = "final test accuracy", "measured / predicted − 1"
OF_N, OF_WIDTH = "exponent of N − law", "exponent of the width − law"
LENGTHS, AFTER = "synthetic / true length, as published", "synthetic / true length, after a step of Adam from zero"
FIRST = (("as published", 0), ("zero start", 1), ("N·δ, zero start", 1))  # variants, and the updates made before one looks
EXPONENTS = {"as published": (1.0, 0.0), "zero start": (1.0, 1.5), "N·δ, zero start": (0.0, 1.5)}  # the law's, of N and of the width


def law_values(rows: Sequence[Length]) -> dict[str, dict[str, list[float]]]:
    """Distances from the law's exponents and constant, one a seed, under the output block and, of the constant, lower."""
    names = OF_N, OF_WIDTH, CONSTANT
    found: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    for model, (variant, updates), seed in product(("mlp", "basic-cnn"), FIRST, range(SEEDS)):
        here = [r for r in rows if (r.model, r.seed, r.variant, r.updates) == (model, seed, variant, updates)]
        top = max(r.interface for r in here)
        mine = [r for r in here if r.interface == top]
        over_n = slope([(r.batch, r.ratio) for r in mine if r.width == FIXED_WIDTH])
        over_width = slope([(r.width, r.ratio) for r in mine if r.batch == FIXED_BATCH])
        group = f"{model}, {variant}"
        for name, distance in zip(names, (over_n - EXPONENTS[variant][0], over_width - EXPONENTS[variant][1]), strict=False):
            found[name].setdefault(group, []).append(distance)
        for below in range(3 if (model, updates) == ("mlp", 0) else 1 if updates == 0 else 0):
            lower = [math.log(r.ratio / predicted(model, r.batch, below)) for r in here if r.interface == top - below]
            found[names[2]].setdefault(f"{model}, block {top + 1 - below}", []).append(math.exp(fmean(lower)) - 1)
    return found


def length_rows(rows: Sequence[Length]) -> list[LengthRow]:
    """Geometric means over seeds, beside the law."""
    found = []
    for key in dict.fromkeys(r._replace(seed=0, ratio=0.0) for r in rows):
        ratios = [r.ratio for r in rows if r._replace(seed=0, ratio=0.0) == key]
        below = 2 - key.interface
        known = key.updates == 0 and (key.model == "mlp" or below == 0)
        law = predicted(key.model, key.batch, below) if known else math.nan
        mean = math.exp(fmean(map(math.log, ratios)))
        found.append(LengthRow(key.model, key.width, key.batch, below, key.updates, key.variant, mean, law, len(ratios)))
    return found


def _reaches(name: str, comparison: str, rule: str, primary_of: str = "") -> Test:
    """With the units and the start mended, a rule comes within two points of bp."""
    contrast = {f"{comparison}: {rule}, {OURS}": 1.0, f"{comparison}: bp": -1.0}
    return Test(name, f"{comparison}: test accuracy, {rule} ({OURS}) − bp", FINAL, contrast, "points", at_least=-2, primary_of=primary_of)


def _share(name: str, rule: str) -> Test:
    """The units and the start close half of the gap or more."""
    where = f"MLP, N = {LARGE}"
    contrast = {f"{where}: {rule}, {OURS}": 1.0, f"{where}: {rule}, {PUBLISHED}": -0.5, f"{where}: bp": -0.5}
    return Test(
        name, f"{where}: {rule} ({OURS}) above the middle between {rule} as published and bp", FINAL, contrast, "points", at_least=0
    )


def _law(name: str, says: str, metric: str, group: str, within: float) -> Test:
    return Test(name, says, metric, {group: 1.0}, "", within=within)


HERE, THERE = f"MLP, N = {LARGE}", f"MLP, N = {SMALL}"
TESTS: tuple[Test, ...] = (
    _reaches("dni-reaches-bp", HERE, "dni", "scale"),
    *details(
        "scale",
        _reaches("cdni-reaches-bp", HERE, "cdni"),
        *(_reaches(f"{rule}-reaches-bp-small", THERE, rule) for rule in RULES),
        _share("dni-is-units", "dni"),
        _share("cdni-is-units", "cdni"),
        Test(
            "gap-grows-with-batch", f"cdni as published: its distance to bp with N = {LARGE} − that with N = {SMALL}, equal updates", FINAL,
            {f"{HERE}: bp": 1, f"{HERE}: cdni, {PUBLISHED}": -1, f"{THERE}: bp": -1, f"{THERE}: cdni, {PUBLISHED}": 1}, "points",
            at_least=0,
        ),
        *(
            Test(
                f"{rule}-above-untrained-{variant}", f"{HERE}: test accuracy, {rule} ({variant}) − untrained blocks", FINAL,
                {f"{HERE}: {rule}, {variant}": 1, f"{HERE}: {UNTRAINED}": -1}, "points", at_least=0,
            )
            for rule, variant in product(RULES, (PUBLISHED, OURS))
        ),
        _law("law-batch", f"{LENGTHS}, MLP: exponent of N − 1", OF_N, "mlp, as published", 0.05),
        _law("law-width", f"{LENGTHS}, MLP: exponent of the width", OF_WIDTH, "mlp, as published", 0.1),
        _law("law-constant", f"{LENGTHS}, MLP, block 3: measured / predicted − 1", CONSTANT, "mlp, block 3", 0.2),
        _law("law-constant-cnn", f"{LENGTHS}, BasicCNN, block 3: measured / predicted − 1", CONSTANT, "basic-cnn, block 3", 0.2),
        _law("law-adam", f"{AFTER}, MLP: exponent of N − 1", OF_N, "mlp, zero start", 0.1),
        _law("law-adam-units", f"{AFTER}, regressing N·δ, MLP: exponent of N", OF_N, "mlp, N·δ, zero start", 0.1),
        _law("law-adam-width", f"{AFTER}, regressing N·δ, MLP: exponent of the width − 3/2", OF_WIDTH, "mlp, N·δ, zero start", 0.1),
    ),
)  # fmt: skip
COMPARISONS: tuple[tuple[str, dict[str, Any], tuple[str, ...], dict[str, Any]], ...] = (  # name, network, variants, other settings
    (f"MLP, N = {LARGE}", MLP, (PUBLISHED, OURS), {"batch_size": LARGE}),
    (f"MLP, N = {SMALL}", MLP, (PUBLISHED, OURS), {"batch_size": SMALL}),
    (f"MLP, N = {LARGE}", MLP, ("zero start", "N·δ"), {"batch_size": LARGE}),
    (f"MLP, N = {SMALL}, {LONGER:,} updates", MLP, (OURS,), {"batch_size": SMALL, "steps": LONGER}),
    (f"CNN, N = {CNN_BATCH}", CNN, (PUBLISHED, OURS), {"batch_size": CNN_BATCH}),
)


def arms(variants: Sequence[str] = tuple(VARIANTS)) -> list[Arm]:
    """Bp, the control, and the variants of both rules."""
    found = [Arm("bp", "bp", {}), Arm(UNTRAINED, "shallow", {})]
    return found + [Arm(f"{rule}, {v}", rule, VARIANTS[v]) for v, rule in product(variants, RULES)]


def trained(bench: Bench, comparisons: int) -> dict[str, Tuned]:
    """The first so many comparisons' arms: group -> its runs. Longer runs take the rate of the short ones."""
    found: dict[str, Tuned] = {}
    for name, net, variants, more in COMPARISONS[:comparisons]:
        print(name, flush=True)
        for arm in arms(variants):
            short = found.get(f"MLP, N = {SMALL}: {arm.name}")
            rate = short.rate if short and more.get("steps") else None
            if f"{name}: {arm.name}" not in found:
                found[f"{name}: {arm.name}"] = bench.tuned(arm, range(SEEDS), rate, **net, **more)
    return found


def accuracy_title(rows: Sequence[ArmRow]) -> str:
    """What the accuracies say: with large batches both rules close more than half of the gap to bp, and stay two points below it."""
    mean = {r.arm: r.mean for r in rows if r.comparison == f"MLP, N = {LARGE}"}
    closed = [(mean[f"{rule}, {OURS}"] - mean[f"{rule}, {PUBLISHED}"]) / (mean["bp"] - mean[f"{rule}, {PUBLISHED}"]) for rule in RULES]
    return title_where(
        min(closed) > 0.5 and all(mean[f"{rule}, {OURS}"] < mean["bp"] - 2 for rule in RULES),
        "With large batches the right units close most of DNI's gap; backpropagation is not reached",
        "Test accuracy by regressed quantity and first bias",
    )


def draw(ratios: Sequence[LengthRow], found: Sequence[ArmRow], folder: Path) -> None:
    """Write both figures with their tables."""
    save_figure(lengths_figure(ratios, FIXED_WIDTH, FIXED_BATCH), ratios, folder, "lengths")
    order = ("bp", UNTRAINED, *(f"{rule}, {variant}" for rule in RULES for variant in VARIANTS))
    shown = list(dict.fromkeys(r.comparison for r in found if "updates" not in r.comparison))
    note = f"digits, 400 updates of Adam, each arm at its own rate; mean and 95 % interval of {SEEDS} seeds"
    save_figure(accuracy_figure(found, shown, order, accuracy_title(found), note), found, folder, "accuracy")


def main() -> None:
    """Measure the lengths, train the arms, write figures/synthetic_gradient_scale."""
    args = arguments(__doc__ or "", data="digits", numbers={"comparisons": len(COMPARISONS)}, redraw=True)
    if args.redraw:
        folder = args.figures / "synthetic_gradient_scale"
        draw(read_table(folder / "lengths.csv", LengthRow), read_table(folder / "accuracy.csv", ArmRow), folder)
        return
    announce_cost(30, "lengths 1, then the comparisons: 6, 5, 5, 4 and 9")
    place, folder = args.out / "synthetic_gradient_scale", args.figures / "synthetic_gradient_scale"
    key = {"widths": WIDTHS, "batches": BATCHES, "fixed": (FIXED_WIDTH, FIXED_BATCH), "seeds": SEEDS, "rate": FIRST_RATE, "arms": VARIANTS}
    lengths_ = stored(place / "lengths.json", key, lambda: {"rows": [r._asdict() for r in measured()]})
    rows = [Length(**row) for row in lengths_["rows"]]
    found = trained(Bench({**SHARED, "data": args.data}, place), args.comparisons)
    rates = {group: arm.rate for group, arm in found.items()}
    results = {
        "settings": {"shared": SHARED, "mlp": MLP, "cnn": CNN, "longer": LONGER, "seeds": SEEDS, "first_rate": FIRST_RATE},
        "values": {**law_values(rows), **accuracy_values(found)},
        "minutes": {group: arm.minutes() for group, arm in found.items()},
        "rates": {group: {"chosen": arm.rate, "held-out accuracy": arm.tried} for group, arm in found.items()},
        "cpu_minutes": cpu_minutes(place),
    }
    draw(length_rows(rows), arm_rows(accuracy_values(found)[FINAL], rates), folder)
    report(TESTS, results)
    publish("synthetic_gradient_scale", [], args, results, figures=False)


if __name__ == "__main__":
    main()
