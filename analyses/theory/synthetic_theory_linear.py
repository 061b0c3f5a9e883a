"""Parts (a) and (b) of analyses.synthetic_theory: fixed points and convergence of linear nets with linear synthesisers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any, NamedTuple

import torch
from matplotlib import style
from matplotlib.figure import Figure
from torch import Tensor, nn

from analyses.figures.drawing import title_where
from gradlens.analysis.theory import synthetic_gradients as theory
from gradlens.reporting.style import COLOURS, LOOK, head
from gradlens.runtime.rng import generator, seeded
from gradlens.training.build import ModelAndMethod

SEEDS = tuple(range(5, 15))  # 0 to 4 were looked at before the tests were written
FULL, LESS = "cdni", "dni"  # linear synthesisers that can be exact, and ones that cannot: they do not see the label
WRITTEN = "written down"
POINTS, FEATURES, CLASSES, HIDDEN = 60, 6, 3, 5
LINEAR_UPDATES, LINEAR_LR = 60_000, 0.2  # plain gradient descent, until it rests
HIDDEN_LAYERS = (0, 1)  # as in the theorems
AT_REST = 1e-9  # norm of all gradients
RESTING = 1e-6  # what counts as rest, of error signals and of the regression
CRITICAL = 1e-6  # norm of the true gradient
AT_OPTIMUM = 1e-6  # loss above the least-squares optimum
SETTINGS = {
    "points": POINTS, "features": FEATURES, "classes": CLASSES, "hidden": HIDDEN, "most_updates": LINEAR_UPDATES, "lr": LINEAR_LR,
}  # fmt: skip


def toy(seed: int) -> tuple[Tensor, Tensor]:
    """White, centred x [N, d] and noisy linear labels y [N]."""
    g = generator(seed, "toy regression")
    x = torch.randn(POINTS, FEATURES, generator=g, dtype=torch.float64)
    u, _, v = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    teacher, noise = (torch.randn(n, CLASSES, generator=g, dtype=torch.float64) for n in (FEATURES, POINTS))
    x = u @ v * POINTS**0.5
    return x, (x @ teacher + 2 * noise).argmax(1)


def hidden_layers(hidden: int) -> str:
    """How many hidden layers, in words."""
    return f"{('no', 'one', 'two')[hidden]} hidden layer{'s' * (hidden != 1)}"


def linear_net(hidden: int, method: str, seed: int, **options: Any) -> ModelAndMethod:
    """A linear model, synthesiser at its answer; or so many linear hidden layers, synthesisers after each."""
    with seeded(seed, "init"):
        sizes = [FEATURES, *[HIDDEN] * hidden, CLASSES]
        blocks: list[nn.Module] = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    return theory.small_pair([*blocks, *([] if hidden else [nn.Identity()])], FEATURES, CLASSES, method, seed=seed, **options)


class Rest(NamedTuple):
    """Where a linear system ended, or a state that was written down."""

    system: str  # rule, or written down
    hidden: int
    seed: int
    rank: int  # of the written-down W; -1 for the others
    updates: int
    blocks: float  # norm of the gradients that the blocks are given
    regression: float
    true: float
    synth_loss: float
    above_optimum: float  # loss


class LossPoint(NamedTuple):
    """A loss above the least-squares optimum, before an update."""

    method: str
    hidden: int
    seed: int
    update: int
    above_optimum: float


def ended(system: str, hidden: int, seed: int, updates: int, found: theory.Stationarity, optimum: float, rank: int = -1) -> Rest:
    """A state's row."""
    return Rest(system, hidden, seed, rank, updates, found.blocks, found.regression, found.true, found.synth_loss, found.loss - optimum)


def linear_run(job: tuple[str, int, int]) -> tuple[Rest, list[LossPoint]]:
    """One rule on one linear net of one seed, until nothing moves."""
    method, hidden, seed = job
    x, y = toy(seed)
    network = linear_net(hidden, method, seed, **({} if method == "bp" else {"linear": True}))
    optimizer = torch.optim.SGD(network.method.param_groups(list(network.model)), lr=LINEAR_LR)
    losses = theory.settle_synthesisers(network, optimizer, x, y, LINEAR_UPDATES, AT_REST)
    optimum = theory.least_squares_loss(x, y, CLASSES)
    shown = sorted({round(1.06**i) - 1 for i in range(190)} & set(range(len(losses))))
    points = [LossPoint(method, hidden, seed, i, losses[i] - optimum) for i in shown]
    if method == "bp":
        return Rest(method, hidden, seed, -1, len(losses), math.nan, math.nan, math.nan, math.nan, losses[-1] - optimum), points
    return ended(method, hidden, seed, len(losses), theory.stationarity(network, x, y), optimum), points


def spurious(seed: int) -> list[Rest]:
    """Fixed points of dni with a linear synthesiser that are no critical points: W best on the first r directions of x, S = 0.

    White x: W* P is least squares on P x, so Σ g = 0 and Σ g hᵀ = 0 with h = W* P x + b, and S = 0 is the best that sees h alone.
    """
    x, y = toy(seed)
    optimum, goal = theory.least_squares_loss(x, y, CLASSES), torch.eye(CLASSES, dtype=torch.float64)[y]
    found = []
    for rank in range(FEATURES + 1):
        network = linear_net(0, LESS, seed, linear=True)
        layer: Any = network.model[0]
        with torch.no_grad():
            layer.weight.copy_(goal.T @ x / POINTS)
            layer.weight[:, rank:] = 0
            layer.bias.copy_(goal.mean(0))
        found.append(ended(WRITTEN, 0, seed, 0, theory.stationarity(network, x, y), optimum, rank))
    return found


def closed_form(seed: int) -> dict[str, float]:
    """How far a synthesiser that was trained on a frozen net is from the closed form, with nothing and with a layer above it; and L_S."""
    found = {}
    x, y = toy(seed)
    for hidden in (0, 1):
        network = linear_net(hidden, FULL, seed, linear=True)
        s: Any = network.method.synthesisers[0]  # type: ignore[union-attr,index]
        optimizer = torch.optim.SGD([*s.parameters()], lr=0.25, momentum=0.95)
        theory.settle_synthesisers(network, optimizer, x, y, 3000, 1e-12)  # the blocks are in no optimiser
        want = theory.exact_linear_synthesiser(list(network.model)[1:], (HIDDEN, CLASSES)[hidden == 0])
        with torch.no_grad():
            first = s.map.weight - want.a
            both = s.context.weight + s.map.bias[:, None] - (want.b + want.c[:, None])  # labels are one-hot: B and c only together
        found[f"{hidden} above"] = max(float(first.abs().max()), float(both.abs().max()))
        found[f"{hidden} above, L_S"] = theory.stationarity(network, x, y).synth_loss
    return found


def rests(row: Rest) -> bool:
    """Whether nothing moves any more, neither blocks nor synthesisers."""
    return max(row.blocks, row.regression) <= RESTING


def linear_part(run_all: Any) -> tuple[list[Rest], list[LossPoint], list[dict[str, float]]]:
    """All runs, the states that are written down, and the closed forms; ``run_all`` is a ``map``."""
    jobs = [(m, h, s) for h, m, s in product(HIDDEN_LAYERS[::-1], ("bp", FULL, LESS), SEEDS)]
    rest, losses = [], []
    for one, points in run_all(linear_run, jobs):
        rest.append(one)
        losses += points
    for seed in SEEDS:
        rest += spurious(seed)
    return rest, losses, list(run_all(closed_form, SEEDS))


def linear_values(rest: Sequence[Rest], closed: Sequence[dict[str, float]]) -> dict[str, dict[str, list[float | None]]]:
    """One number a seed; None where the system still moved."""
    found: dict[str, dict[str, list[float | None]]] = {"true gradient at rest": {}, "loss above least squares": {}}
    for system, hidden in product((FULL, LESS), HIDDEN_LAYERS):
        mine = [r for r in rest if (r.system, r.hidden) == (system, hidden)]
        group = f"{system}, {hidden_layers(hidden)}"
        found["true gradient at rest"][group] = [r.true if rests(r) else None for r in mine]
        found["loss above least squares"][group] = [r.above_optimum for r in mine]
    words = {"0 above": "nothing above", "1 above": "a layer above"}
    found["distance from the closed form"] = {word: [c[key] for c in closed] for key, word in words.items()}
    return found


NAMES = {FULL: "synthesisers that read the label", LESS: "synthesisers that do not"}


@style.context(LOOK)
def fixed_points(rows: Sequence[Rest]) -> Figure:
    """Norm of the true gradient against L_S at fixed points, both on a log scale; what is below the axes' ends is drawn there."""
    figure = Figure(figsize=(7.6, 4.0), layout="constrained")
    ax = figure.subplots()
    floor = 1e-20, 1e-14
    looks = ((FULL, COLOURS[1]), (LESS, COLOURS[2]), (WRITTEN, COLOURS[3]))
    for (system, colour), (hidden, marker) in product(looks, zip(HIDDEN_LAYERS, "os", strict=True)):
        mine = [r for r in rows if (r.system, r.hidden) == (system, hidden) and rests(r)]
        at = [max(r.synth_loss, floor[0]) for r in mine], [max(r.true, floor[1]) for r in mine]
        ax.plot(*at, marker, color=colour, markersize=5, alpha=0.7, linewidth=0)
    ax.axhline(CRITICAL, color="0.5", linewidth=0.9, linestyle=(0, (4, 2)))
    ax.text(1e-10, 2 * CRITICAL, "below: a critical point of the loss", color="0.35", va="bottom", ha="center")
    ax.set(xscale="log", yscale="log", xlim=(3e-21, 30), ylim=(3e-15, 30))
    ax.set(xlabel="squared error of the synthesisers' regression", ylabel="norm of the true gradient")
    for x, y, text, colour, side in (
        (1e-19, 3e-8, "synthesisers that\nread the label", COLOURS[1], "left"),
        (3e-3, 0.3, "synthesisers that do not:\nthey rest where the loss still falls", COLOURS[2], "right"),
        (3e-3, 3e-14, "states written down by hand for these,\nwith weights of every rank", COLOURS[3], "right"),
    ):
        ax.text(x, y, text, color=colour, ha=side, va="center")
    head(
        figure,
        rest_title(rows),
        f"linear nets without (circles) and with (squares) a hidden layer; all fixed points of {len(SEEDS)} seeds",
    )
    return figure


def rest_title(rows: Sequence[Rest]) -> str:
    """What the fixed points of trained synthesisers that read the label say."""
    found = [r.true for r in rows if r.system == FULL and rests(r)]
    return title_where(
        bool(found) and max(found) < CRITICAL,
        "Where the synthesisers can be exact, training rests only at critical points of the loss",
        "True gradient at fixed points of training with synthesisers",
    )


@style.context(LOOK)
def convergence(rows: Sequence[LossPoint]) -> Figure:
    """The loss above the optimum over updates: a panel a depth, a thin line a seed."""
    figure = Figure(figsize=(7.8, 3.5), layout="constrained")
    words = {"bp": ("backpropagation", COLOURS[0]), FULL: (NAMES[FULL], COLOURS[1]), LESS: (NAMES[LESS], COLOURS[2])}
    for ax, hidden in zip(figure.subplots(1, 2, sharey=True), HIDDEN_LAYERS, strict=True):
        for method, (text, colour) in words.items():
            for seed in SEEDS:
                mine = [r for r in rows if (r.method, r.hidden, r.seed) == (method, hidden, seed)]
                shown = [max(r.above_optimum, 1e-15) for r in mine]
                label = text if seed == SEEDS[0] else None
                ax.plot([r.update + 1 for r in mine], shown, color=colour, linewidth=0.9, alpha=0.7, label=label)
        ax.set(xscale="log", yscale="log", xlabel="update")
        ax.set_title(hidden_layers(hidden), loc="left")
    figure.axes[0].set_ylabel("loss above least squares")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    head(
        figure,
        convergence_title(rows),
        f"squared loss, full batch of {POINTS} points; a line a seed, {len(SEEDS)} seeds",
    )
    return figure


def convergence_title(rows: Sequence[LossPoint]) -> str:
    """What the losses say at the end of each seed."""
    ends = {(r.method, r.hidden, r.seed): r.above_optimum for r in sorted(rows, key=lambda r: r.update)}
    read, blind = ([above for (method, *_), above in ends.items() if method == system] for system in (FULL, LESS))
    return title_where(
        bool(read and blind) and max(read) < CRITICAL <= min(blind),
        "Linear nets reach least squares with synthesisers that read the label, and stay above it with ones that do not",
        "Loss above least squares over updates",
    )
