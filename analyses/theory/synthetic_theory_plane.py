"""Parts (c) and (d) of analyses.synthetic_theory: the log-loss and a linear synthesiser, and the loss that it implies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise, product
from statistics import fmean
from typing import Any, NamedTuple

import torch
from matplotlib import style
from matplotlib.figure import Figure
from torch import Tensor, nn

from analyses.figures.drawing import title_where
from analyses.theory.synthetic_theory_linear import FULL, SEEDS
from gradlens.analysis.theory import synthetic_gradients as theory
from gradlens.reporting.statistics import interval
from gradlens.reporting.style import COLOURS, LOOK, band, head
from gradlens.runtime.rng import generator, seeded
from gradlens.training.build import ModelAndMethod

PLANE, PLANE_WIDTH, PLANE_UPDATES, PLANE_LR = 100, 64, 1500, 0.01  # Adam, full batch
FIRST, MIDDLE, LAST = 1, 100, PLANE_UPDATES
LOOKS = (FIRST, 3, 10, 30, MIDDLE, 300, 700, LAST)
PICTURED = (FIRST, 10, MIDDLE, LAST)
GRID = 81
LABELLINGS, PLANE_NETS = ("separable", "random"), ("linear", f"{PLANE_WIDTH} hidden units")
SETTINGS = {"points": PLANE, "width": PLANE_WIDTH, "updates": PLANE_UPDATES, "adam_lr": PLANE_LR}


def plane(seed: int, labelling: str) -> tuple[Tensor, Tensor]:
    """Points [N, 2] at least 0.2 from a line through zero, labelled by its sides or at random."""
    g = generator(seed, "plane")
    x, normal = torch.randn(4 * PLANE, 2, generator=g, dtype=torch.float64), torch.randn(2, generator=g, dtype=torch.float64)
    side = x @ (normal / normal.norm())
    clear = (side.abs() > 0.2).nonzero()[:PLANE, 0]
    labels = (side > 0).long() if labelling == "separable" else torch.randint(0, 2, (len(x),), generator=g)
    return x[clear], labels[clear]


class PlanePoint(NamedTuple):
    """Share of the 100 points that are answered as labelled, at the end."""

    labelling: str
    net: str
    method: str
    seed: int
    accuracy: float
    loss: float


class ImpliedPoint(NamedTuple):
    """The true loss of an answer, and the one its synthetic gradient implies, both less their least value on the grid."""

    labelling: str
    label: int
    update: int  # updates made
    at: float  # (z_1 − z_0) / √2
    true: float
    implied: float
    low: float  # the answers given then lie between low and high
    high: float


class Looked(NamedTuple):
    """What one look at a synthesiser found, over both labels."""

    labelling: str
    seed: int
    update: int
    gap: float  # ‖implied − true‖ / ‖true‖ over the answers' range, each less its mean there
    twist: float


DIRECTION = torch.tensor([-1.0, 1.0], dtype=torch.float64) / 2**0.5


def look(network: ModelAndMethod, x: Tensor, y: Tensor, labelling: str, seed: int, made: int) -> tuple[list[ImpliedPoint], Looked]:
    """The implied loss of a linear model's synthesiser beside the true one, along the line between its two answers, through zero."""
    with torch.no_grad():
        at = theory.affine([network.model[0]], 2)
        answers = (x @ at.weight.T + at.bias) @ DIRECTION
    low, high = float(answers.min()), float(answers.max())
    reach = 1.25 * max(abs(low), abs(high))
    grid = torch.linspace(-reach, reach, GRID, dtype=torch.float64)
    path = grid[:, None] * DIRECTION
    synthesiser: Any = network.method.synthesisers[0]  # type: ignore[union-attr,index]
    rows, apart, size, twists = [], 0.0, 0.0, []
    within = (grid >= low) & (grid <= high)
    for label in (0, 1):
        context = torch.eye(2, dtype=torch.float64)[label]

        def field(h: Tensor, context: Tensor = context) -> Tensor:
            found: Tensor = synthesiser(h, context.expand(len(h), 2))
            return found

        implied = theory.implied_loss(field, path)
        true = nn.functional.cross_entropy(path, torch.full((GRID,), label), reduction="none")
        a, b = (v[within] - v[within].mean() for v in (implied, true))
        apart, size = apart + float((a - b).square().sum()), size + float(b.square().sum())
        twists.append(theory.field_twist(field, torch.zeros(2, dtype=torch.float64)))
        implied = implied - implied[GRID // 2] + true[GRID // 2]  # one constant is free: equal at zero
        rows += [
            ImpliedPoint(labelling, label, made, float(t), float(p), float(q), low, high)
            for t, p, q in zip(grid, true, implied, strict=True)
        ]
    return rows, Looked(labelling, seed, made, math.sqrt(apart / size), max(twists))


def plane_run(job: tuple[str, str, str, int]) -> tuple[PlanePoint, list[ImpliedPoint], list[Looked]]:
    """One rule on one labelling: end accuracy, and what the synthesiser of a linear model implied on the way."""
    labelling, net, method, seed = job
    x, y = plane(seed, labelling)
    hidden = net != "linear"
    with seeded(seed, "init"):
        sizes = [2, PLANE_WIDTH, 2] if hidden else [2, 2]
        linears = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    blocks = [nn.Sequential(linears[0], nn.ReLU()), linears[1]] if hidden else [linears[0], nn.Identity()]
    network = theory.small_pair(blocks, 2, 2, method, "ce", seed, **({} if method == "bp" else {"linear": True}))
    optimizer = torch.optim.Adam(network.method.param_groups(list(network.model)), lr=PLANE_LR)
    implied: list[ImpliedPoint] = []
    looks: list[Looked] = []

    def see(made: int) -> None:
        if made in LOOKS and method != "bp" and not hidden:
            rows, numbers = look(network, x, y, labelling, seed, made)
            implied.extend(rows)
            looks.append(numbers)

    theory.settle_synthesisers(network, optimizer, x, y, PLANE_UPDATES, see=see)
    with torch.no_grad():
        z = network.model(x)
    accuracy = float((z.argmax(1) == y).double().mean())
    loss = float(nn.functional.cross_entropy(z, y))
    return PlanePoint(labelling, net, method, seed, accuracy, loss), implied if seed == SEEDS[0] else [], looks


def plane_part(run_all: Any) -> tuple[list[PlanePoint], list[ImpliedPoint], list[Looked]]:
    """All runs; ``run_all`` is a ``map``."""
    jobs = product(LABELLINGS, PLANE_NETS[::-1], (FULL, "bp"), SEEDS)
    points, curves, looks = (list(part) for part in zip(*run_all(plane_run, list(jobs)), strict=True))
    return points, [row for part in curves for row in part], [row for part in looks for row in part]


def plane_values(points: Sequence[PlanePoint], looks: Sequence[Looked]) -> dict[str, dict[str, list[float]]]:
    """Training accuracy in %, and the gap between implied and true loss after some updates, one number a seed."""
    found: dict[str, dict[str, list[float]]] = {}
    for labelling, net, method in product(LABELLINGS, PLANE_NETS, ("bp", FULL)):
        values = [100 * p.accuracy for p in points if (p.labelling, p.net, p.method) == (labelling, net, method)]
        found.setdefault(f"{labelling} labels: training accuracy", {})[f"{method}, {net}"] = values
    for labelling, made in product(LABELLINGS, LOOKS):
        values = [r.gap for r in looks if (r.labelling, r.update) == (labelling, made)]
        found.setdefault("implied loss: gap", {})[f"{labelling} labels, update {made}"] = values
    return found


@style.context(LOOK)
def plane_accuracy(rows: Sequence[PlanePoint]) -> Figure:
    """Training accuracy at the end: a panel a labelling, a dot a seed."""
    figure = Figure(figsize=(7.8, 3.2), layout="constrained")
    places = [(net, method) for net in PLANE_NETS for method in ("bp", FULL)]
    for ax, labelling in zip(figure.subplots(1, 2, sharey=True), LABELLINGS, strict=True):
        for i, (net, method) in enumerate(places):
            values = [100 * r.accuracy for r in rows if (r.labelling, r.net, r.method) == (labelling, net, method)]
            colour = COLOURS[0] if method == "bp" else COLOURS[1]
            ax.plot([i] * len(values), values, "o", color=colour, markersize=4, alpha=0.6)
            ax.plot(i, interval(values).mean, "_", color=colour, markersize=22, markeredgewidth=1.8)
        names = [f"{'bp' if m == 'bp' else 'cdni'}\n{net.replace(' units', '')}" for net, m in places]
        ax.set_xticks(range(len(places)), names)
        ax.set_title(f"{labelling} labels", loc="left")
        ax.set_xlim(-0.5, len(places) - 0.5)
    figure.axes[0].set_ylabel("training accuracy (%)")
    head(
        figure,
        plane_title(rows),
        f"{PLANE} points of the plane, log-loss; dots: {len(SEEDS)} seeds, bars: mean",
    )
    return figure


def plane_title(rows: Sequence[PlanePoint]) -> str:
    """What the accuracies on random labels say; a point of difference is none."""
    mean = {
        (net, method): interval(100 * r.accuracy for r in rows if (r.labelling, r.net, r.method) == ("random", net, method)).mean
        for net, method in product(PLANE_NETS, ("bp", FULL))
    }
    less = {net: mean[net, "bp"] - mean[net, FULL] for net in PLANE_NETS}
    return title_where(
        less["linear"] < 1 <= min(value for net, value in less.items() if net != "linear"),
        "A linear synthesiser fits random labels as well as backpropagation in a linear model, less in a wider net",
        "Training accuracy with linear synthesisers",
    )


class GapRow(NamedTuple):
    """Gap between implied and true loss after some updates, over seeds."""

    labelling: str
    update: int
    mean: float
    low: float
    high: float
    seeds: int


def gap_rows(looks: Sequence[Looked]) -> list[GapRow]:
    """The gaps' means and intervals."""
    return [
        GapRow(labelling, made, *interval(r.gap for r in looks if (r.labelling, r.update) == (labelling, made)))
        for labelling, made in product(LABELLINGS, LOOKS)
    ]


@style.context(LOOK)
def implied_gaps(rows: Sequence[GapRow]) -> Figure:
    """The gap over updates, a line a labelling."""
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    ax = figure.subplots()
    for labelling, colour, marker in zip(LABELLINGS, COLOURS[1:], "os", strict=False):
        mine = [r for r in rows if r.labelling == labelling]
        x = [r.update for r in mine]
        ax.plot(x, [r.mean for r in mine], color=colour, marker=marker, markersize=4, linewidth=1.7)
        band(ax, x, [r.low for r in mine], [r.high for r in mine], colour, 0.2)
        ax.annotate(f"{labelling} labels", (x[-1], mine[-1].mean), (8, 3), textcoords="offset points", color=colour, va="center")
    ax.set(xscale="log", xlim=(0.8, 12_000), ylim=(-0.03, 1.15), xlabel="update", ylabel="gap to the true loss\n(share of its spread)")
    head(
        figure,
        gap_title({(r.labelling, r.update): r.mean for r in rows}),
        f"linear model and synthesiser, {PLANE} points; mean and 95 % interval of {len(SEEDS)} seeds",
    )
    return figure


def gap_title(gaps: Mapping[tuple[str, int], float]) -> str:
    """What the gaps between implied and true loss say, by labelling and update: a tenth of the true loss's spread is a change."""
    last = max(made for _, made in gaps)
    nears = all(gaps[labelling, 100] < gaps[labelling, 1] - 0.1 for labelling in LABELLINGS)
    left = {labelling: gaps[labelling, last] - gaps[labelling, 100] for labelling in LABELLINGS}
    return title_where(
        nears and left["separable"] > 0.1 >= left["random"],
        "The implied loss approaches the true one, and leaves it again where labels are separable",
        "How far the implied loss is from the true one",
    )


def gaps_of(rows: Sequence[ImpliedPoint]) -> dict[tuple[str, int], float]:
    """Labelling and update -> ‖implied − true‖ / ‖true‖ where the answers are, each less its mean there, as :func:`look` has it."""
    found = {}
    for labelling, made in dict.fromkeys((r.labelling, r.update) for r in rows):
        squares = [0.0, 0.0]
        for label in (0, 1):
            mine = [r for r in rows if (r.labelling, r.update, r.label) == (labelling, made, label) and r.low <= r.at <= r.high]
            implied, true = ([v - fmean(each) for v in each] for each in ([r.implied for r in mine], [r.true for r in mine]))
            squares[0] += sum((a - b) ** 2 for a, b in zip(implied, true, strict=True))
            squares[1] += sum(b**2 for b in true)
        found[labelling, made] = math.sqrt(squares[0] / squares[1])
    return found


@style.context(LOOK)
def implied_losses(rows: Sequence[ImpliedPoint]) -> Figure:
    """True and implied loss along the line between the answers: a line of panels a labelling, a panel a time."""
    figure = Figure(figsize=(8.0, 4.6), layout="constrained")
    grid = figure.subplots(len(LABELLINGS), len(PICTURED), squeeze=False)
    for (i, labelling), (j, made) in product(enumerate(LABELLINGS), enumerate(PICTURED)):
        ax, here = grid[i, j], [r for r in rows if (r.labelling, r.update) == (labelling, made)]
        ax.axvspan(here[0].low, here[0].high, color="0.93", linewidth=0)
        for label in (0, 1):
            mine = [r for r in here if r.label == label]
            for values, what, dashes in ((("true"), "true", None), ("implied", "implied", (3, 1.5))):
                ax.plot(
                    [r.at for r in mine], [getattr(r, values) for r in mine], color=COLOURS[1 + label], linewidth=1.6,
                    linestyle=(0, dashes or ()), label=f"{what}, label {label}",
                )  # fmt: skip
        true = [r.true for r in here]
        reach = max(true) - min(true)
        ax.set_ylim(min(true) - 0.35 * reach, max(true) + 0.15 * reach)
        if i == 0:
            ax.set_title(f"after {made:,} update{'s' * (made != 1)}", loc="left")
        else:
            ax.set_xlabel("(z₁ − z₀) / √2")
        if j == 0:
            ax.set_ylabel(f"{labelling} labels\nloss (nats)")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    head(
        figure,
        gap_title(gaps_of(rows)),
        "loss at an answer, equal to the true one at 0; grey: where the answers are; one seed",
    )
    return figure
