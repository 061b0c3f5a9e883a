"""Understanding synthetic gradients: fixed points, convergence, implied losses, and what layers represent between synthesisers.

After Czarnecki et al. 2017 (arXiv 1703.00522), whose claims these are; of "supported" and "not supported" see analyses/study.py.

(a) Critical points are kept: where a joint fixed point of blocks and synthesisers has L_S = 0, the true gradient is zero; a spurious one
    needs L_S > 0. Linear nets without and with hidden layers, squared loss, one full batch of 60 points of a toy problem, float64: where
    linear synthesisers that read the label (`cdni linear=true`: enough for the true gradient) come to rest, and where ones that do not
    (`dni linear=true`: too few) do; beside spurious fixed points that are written down: W = the least-squares weights on some
    directions of x, zero on the others, S = 0.
(b) Convergence: the linear model and the deep linear one with synthesisers reach the least-squares optimum; the synthesiser of a frozen
    net goes to A = WᵀW, B = −Wᵀ, c = Wᵀv (nothing above: I, −I, 0; our loss is half the paper's and S regresses N·delta).
(c) Cross-entropy and a linear synthesiser, which cannot be exact, on 100 points of the plane: a separable labelling is fitted, random
    labels are fitted less than by bp (one hidden layer of 64).
(d) The loss implied by the synthetic gradient at the answer of a linear model, along the line between the two classes, over training.
(e) Digits, an MLP of ten hidden layers with BatchNorm: dissimilarity matrices and a linear probe at every layer, for bp, cdni with one
    synthesiser in the middle, and cdni with one after every layer. "Drastically different" is judged by the rank correlation of
    dissimilarity matrices of the same layer, bp with bp of another seed less bp with the other rule of that other seed.

    python -m analyses.synthetic_theory          # five minutes on two cores
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise, product
from multiprocessing import get_context
from statistics import fmean
from typing import Any, NamedTuple

import torch
from matplotlib import style
from matplotlib.figure import Figure
from torch import Tensor, nn

from analyses.study import arguments, judged, publish, say
from gradlens.analysis.activations import collect_activations, freeze_module
from gradlens.analysis.logistic_regression import Standard, fit_logistic_regression
from gradlens.analysis.representation_similarity import rdm, rdm_correlation
from gradlens.analysis.theory import synthetic_gradients as theory
from gradlens.data.datasets import load
from gradlens.gradients.losses import LOSSES
from gradlens.methods import METHODS
from gradlens.reporting import representations
from gradlens.reporting.representations import DepthPoint, RdmRow
from gradlens.reporting.statistics import interval
from gradlens.reporting.style import COLOURS, LOOK, save_figure
from gradlens.runtime.rng import generator, seeded
from gradlens.training.build import ModelAndMethod, make_network_info
from gradlens.training.step import training_step

SEEDS = 5
FULL, LESS = "cdni", "dni"  # linear synthesisers that can be exact in (a), (b), and ones that cannot: they do not see the label

# (a), (b)
POINTS, FEATURES, CLASSES, HIDDEN = 60, 6, 3, 5
LINEAR_UPDATES, LINEAR_LR = 4000, 0.2  # plain gradient descent
HIDDEN_LAYERS = (0, 1)  # as in the theorems
AT_REST = 1e-9  # norm of all gradients
CRITICAL = 1e-6  # norm of the true gradient
AT_OPTIMUM = 1e-6  # loss above the least-squares optimum

# (c), (d)
PLANE, PLANE_WIDTH, PLANE_UPDATES, PLANE_LR = 100, 64, 1500, 0.01  # Adam, full batch
LOOKS = (1, 10, 100, 1500)
GRID = 81

# (e)
DEPTH, WIDTH, EPOCHS, BATCH, LR = 10, 64, 40, 128, 1e-3
NET_SEEDS = 3
NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "bp": ("bp", {}),
    f"cdni at {DEPTH // 2}": ("cdni", {"at": [DEPTH // 2]}),
    "cdni everywhere": ("cdni", {}),
}
UNTRAINED = "untrained"
SHOWN, COMPARED = 60, 200  # test images in a drawn dissimilarity matrix, and in the compared ones
PROBE_L2 = 1e-3
UNLIKE = 0.1  # of rank correlation

Claim = dict[str, Any]


# ----------------------------------------------------------------------------------------------------- (a), (b) linear nets


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
    """Where a linear system came to rest, or a state that was written down."""

    system: str  # rule, or constructed
    hidden: int
    seed: int
    rank: int  # of the written-down W; -1 for the others
    updates: int
    told: float
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


def at_rest(system: str, hidden: int, seed: int, updates: int, found: theory.Stationarity, optimum: float, rank: int = -1) -> Rest:
    """A state's row."""
    return Rest(system, hidden, seed, rank, updates, found.blocks, found.regression, found.true, found.synth_loss, found.loss - optimum)


def linear_run(job: tuple[str, int, int]) -> tuple[Rest, list[LossPoint]]:
    """One rule on one linear net of one seed, to rest."""
    method, hidden, seed = job
    x, y = toy(seed)
    network = linear_net(hidden, method, seed, **({} if method == "bp" else {"linear": True}))
    optimizer = torch.optim.SGD(network.method.param_groups(list(network.model)), lr=LINEAR_LR)
    losses = theory.settle_synthesisers(network, optimizer, x, y, LINEAR_UPDATES, AT_REST)
    optimum = theory.least_squares_loss(x, y, CLASSES)
    shown = sorted({round(1.06**i) - 1 for i in range(143)} & set(range(len(losses))))
    points = [LossPoint(method, hidden, seed, i, losses[i] - optimum) for i in shown]
    if method == "bp":
        return Rest(method, hidden, seed, -1, len(losses), math.nan, math.nan, math.nan, math.nan, losses[-1] - optimum), points
    return at_rest(method, hidden, seed, len(losses), theory.stationarity(network, x, y), optimum), points


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
        found.append(at_rest("constructed", 0, seed, 0, theory.stationarity(network, x, y), optimum, rank))
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


@style.context(LOOK)
def fixed_points(rows: Sequence[Rest]) -> Figure:
    """Norm of the true gradient against L_S at fixed points, both on a log scale; what is below the axes' ends is drawn there."""
    figure = Figure(figsize=(7.2, 3.9), layout="constrained")
    ax = figure.subplots()
    floor = 1e-16, 1e-13
    words = {FULL: "label-reading linear synthesisers", LESS: "label-blind ones", "constructed": "label-blind, written down"}
    for i, (system, text) in enumerate(words.items()):
        for hidden, marker in zip(HIDDEN_LAYERS, "os", strict=True):
            mine = [r for r in rows if (r.system, r.hidden) == (system, hidden) and max(r.told, r.regression) <= 1e-6]
            if mine:
                at = [max(r.synth_loss, floor[0]) for r in mine], [max(r.true, floor[1]) for r in mine]
                said = f"{text}, {hidden_layers(hidden)}"
                ax.plot(*at, marker, color=COLOURS[(1, 2, 3)[i]], markersize=5, alpha=0.75, label=said)
    ax.axhline(CRITICAL, color="0.5", linewidth=0.8, linestyle=(0, (4, 2)))
    ax.set(xscale="log", yscale="log", xlabel="L_S, summed over synthesisers, log scale", ylabel="norm of the true gradient, log scale")
    ax.set_title(f"Fixed points: error signals of blocks and synthesisers are at most 1e-6 · {SEEDS} seeds", loc="left")
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, handlelength=1)
    return figure


@style.context(LOOK)
def convergence(rows: Sequence[LossPoint]) -> Figure:
    """The loss above the optimum over updates: a panel a depth, a thin line a seed."""
    depths = sorted({r.hidden for r in rows})
    figure = Figure(figsize=(3.1 * len(depths), 3.2), layout="constrained")
    words = {"bp": ("bp", COLOURS[0]), FULL: ("label-reading linear synthesisers", COLOURS[1]), LESS: ("label-blind ones", COLOURS[2])}
    for ax, hidden in zip(figure.subplots(1, len(depths), sharey=True, squeeze=False)[0], depths, strict=True):
        for method, (text, colour) in words.items():
            for seed in range(SEEDS):
                mine = [r for r in rows if (r.method, r.hidden, r.seed) == (method, hidden, seed)]
                shown = [max(r.above_optimum, 1e-15) for r in mine]
                ax.plot([r.update + 1 for r in mine], shown, color=colour, linewidth=0.9, alpha=0.8, label=text if seed == 0 else None)
        ax.set(xscale="log", yscale="log", xlabel="update")
        ax.set_title(hidden_layers(hidden), loc="left")
    figure.axes[0].set_ylabel("loss above least squares")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.suptitle(
        f"Linear nets, squared loss, full batch: loss above the optimum · a line a seed, {SEEDS} seeds", x=0.01, ha="left", fontsize=10
    )
    return figure


def linear_claims(rest: Sequence[Rest], closed: Sequence[dict[str, float]]) -> list[Claim]:
    """The theorems of §5.1 on linear nets; all bounds are on orders of magnitude, log10 of the quantity."""

    def log(values: Iterable[float]) -> list[float]:
        return [math.log10(max(v, 1e-16)) for v in values]

    unit, claims = "of log10", []
    resting = [r for r in rest if max(r.told, r.regression) <= 1e-6]
    for hidden in HIDDEN_LAYERS:
        mine = [r for r in resting if (r.system, r.hidden) == (FULL, hidden)]
        text = f"critical points are kept: at joint fixed points, {hidden_layers(hidden)}, the true gradient's norm is below {CRITICAL:g}"
        claims.append(judged(text, [-v for v in log(r.true for r in mine)], f"{unit}, negated", at_least=-math.log10(CRITICAL)))
    written = [r for r in resting if r.system == "constructed" and r.true > CRITICAL]
    by_seed = [min(r.synth_loss for r in written if r.seed == seed) for seed in range(SEEDS)]
    claims.append(
        judged("a spurious fixed point needs L_S > 0: the least L_S of those written down is above 1e-3", by_seed, "", at_least=1e-3)
    )
    blind = [r for r in resting if (r.system, r.hidden) == (LESS, 0)]
    claims.append(
        judged(
            "label-blind linear synthesisers come to rest where the true gradient is above 1e-3", [r.true for r in blind], "", at_least=1e-3
        )
    )
    for hidden in HIDDEN_LAYERS:
        mine = [r for r in rest if (r.system, r.hidden) == (FULL, hidden)]
        text = f"convergence: {hidden_layers(hidden)}, the loss comes within {AT_OPTIMUM:g} of least squares"
        claims.append(judged(text, [-v for v in log(r.above_optimum for r in mine)], f"{unit}, negated", at_least=-math.log10(AT_OPTIMUM)))
    for above, words in ((0, "A = I, B = −I, c = 0"), (1, "A = WᵀW, B = −Wᵀ, c = Wᵀv")):
        values = [-v for v in log(c[f"{above} above"] for c in closed)]
        claims.append(judged(f"closed form: a trained linear synthesiser is {words} to 1e-6", values, f"{unit}, negated", at_least=6))
    return claims


def linear_part(pool: ProcessPoolExecutor) -> tuple[list[Rest], list[LossPoint], list[dict[str, float]]]:
    """(a) and (b)."""
    jobs = [(m, h, s) for h, m, s in product(HIDDEN_LAYERS[::-1], ("bp", FULL, LESS), range(SEEDS))]
    rest, losses = [], []
    for one, points in pool.map(linear_run, jobs):
        rest.append(one)
        losses += points
    for seed in range(SEEDS):
        rest += spurious(seed)
    return rest, losses, list(pool.map(closed_form, range(SEEDS)))


# ------------------------------------------------------------------------------------ (c), (d) cross-entropy on the plane


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
    return PlanePoint(labelling, net, method, seed, accuracy, loss), implied if seed == 0 else [], looks


LABELLINGS, PLANE_NETS = ("separable", "random"), ("linear", f"{PLANE_WIDTH} hidden units")


@style.context(LOOK)
def plane_accuracy(rows: Sequence[PlanePoint]) -> Figure:
    """Training accuracy at the end: a panel a labelling, a dot a seed."""
    figure = Figure(figsize=(8.4, 3.0), layout="constrained")
    places = [(net, method) for net in PLANE_NETS for method in ("bp", FULL)]
    for ax, labelling in zip(figure.subplots(1, 2, sharey=True), LABELLINGS, strict=True):
        for i, (net, method) in enumerate(places):
            values = [100 * r.accuracy for r in rows if (r.labelling, r.net, r.method) == (labelling, net, method)]
            colour = COLOURS[0] if method == "bp" else COLOURS[1]
            ax.plot([i] * len(values), values, "o", color=colour, markersize=4, alpha=0.6)
            ax.plot(i, interval(values).mean, "_", color=colour, markersize=22, markeredgewidth=1.8)
        ax.set_xticks(range(len(places)), [f"{'bp' if m == 'bp' else 'synthetic'},\n{net.replace(' units', '')}" for net, m in places])
        ax.set_title(f"{labelling} labels", loc="left")
        ax.set_xlim(-0.5, len(places) - 0.5)
    figure.axes[0].set_ylabel("training accuracy (%)")
    text = f"{PLANE} points of the plane, cross-entropy, a linear synthesiser that reads the label · dots: {SEEDS} seeds, bars: mean"
    figure.suptitle(text, x=0.01, ha="left", fontsize=10)
    return figure


@style.context(LOOK)
def implied_losses(rows: Sequence[ImpliedPoint]) -> Figure:
    """True and implied loss along the line between the answers: a line of panels a labelling, a panel a time."""
    figure = Figure(figsize=(9.0, 4.6), layout="constrained")
    grid = figure.subplots(len(LABELLINGS), len(LOOKS), squeeze=False)
    for (i, labelling), (j, made) in product(enumerate(LABELLINGS), enumerate(LOOKS)):
        ax, here = grid[i, j], [r for r in rows if (r.labelling, r.update) == (labelling, made)]
        ax.axvspan(here[0].low, here[0].high, color="0.93", linewidth=0)
        for label in (0, 1):
            mine = [r for r in here if r.label == label]
            ax.plot([r.at for r in mine], [r.true for r in mine], color=COLOURS[1 + label], linewidth=1.6, label=f"true, label {label}")
            ax.plot(
                [r.at for r in mine], [r.implied for r in mine], color=COLOURS[1 + label], linewidth=1.6, linestyle=(0, (3, 1.5)),
                label=f"implied, label {label}",
            )  # fmt: skip
        true = [r.true for r in here]
        reach = max(true) - min(true)
        ax.set_ylim(min(true) - 0.35 * reach, max(true) + 0.15 * reach)
        if i == 0:
            ax.set_title(f"after {made} update{'s' * (made != 1)}", loc="left")
        else:
            ax.set_xlabel("(z₁ − z₀) / √2")
        if j == 0:
            ax.set_ylabel(f"{labelling} labels\nloss (nats)")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    text = "Loss implied by a linear synthesiser (equal to the true one at 0) · grey: where the answers are · one seed"
    figure.suptitle(text, x=0.01, ha="left", fontsize=10)
    return figure


def plane_claims(rows: Sequence[PlanePoint], looks: Sequence[Looked]) -> list[Claim]:
    """Separable labels are fitted, random ones less than by bp; the implied loss comes nearer to the true one."""

    def accuracy(labelling: str, net: str, method: str) -> list[float]:
        return [100 * r.accuracy for r in rows if (r.labelling, r.net, r.method) == (labelling, net, method)]

    def gap(labelling: str, made: int) -> list[float]:
        return [r.gap for r in looks if (r.labelling, r.update) == (labelling, made)]

    wide = PLANE_NETS[1]
    claims = [
        judged(f"log-loss: separable labels are fitted by a synthesiser, {net}", accuracy("separable", net, FULL), "%", at_least=99)
        for net in PLANE_NETS
    ]
    less = [a - b for a, b in zip(accuracy("random", wide, "bp"), accuracy("random", wide, FULL), strict=True)]
    claims.append(judged(f"log-loss: random labels are fitted less than by bp, {wide}", less, "points", at_least=0))
    for labelling in LABELLINGS:
        nearer = [a - b for a, b in zip(gap(labelling, LOOKS[0]), gap(labelling, LOOKS[-1]), strict=True)]
        text = f"implied loss: nearer to the true one after {LOOKS[-1]} updates than after {LOOKS[0]}, {labelling} labels"
        claims.append(judged(text, nearer, "of the true one's spread", at_least=0))
    return claims


# ------------------------------------------------------------------------------------------- (e) representations by depth


class Seen(NamedTuple):
    """What one network's layers are like on test images."""

    net: str
    seed: int
    train: float  # accuracy of the network's own answer
    test: float
    probes: list[float]  # test accuracy of a linear probe, layer by layer
    rdms: Any  # [layers, n, n] of the first COMPARED test images, sorted by label


def deep_net(net: str, seed: int) -> ModelAndMethod:
    """Ten layers Linear–BatchNorm–ReLU and a linear top on the digits' 64 pixels, with its rule; of one seed the same first weights."""
    method, options = NETS.get(net, ("bp", {}))
    sizes = [64, *[WIDTH] * DEPTH]
    with seeded(seed, "init"):
        layers = [nn.Sequential(nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()) for a, b in pairwise(sizes)]
        model = nn.Sequential(OrderedDict([*((f"{i + 1}", layer) for i, layer in enumerate(layers)), ("top", nn.Linear(WIDTH, 10))]))
    rule = METHODS[method]
    return ModelAndMethod(model, rule(make_network_info(model, (64,), 10, LOSSES["ce"], seed), rule.Options(**options)))


def deep_run(job: tuple[str, int]) -> Seen:
    """Train one net on the digits; probe and compare its layers on test images."""
    net, seed = job
    data = load("digits")
    (x, y), (z, w) = ((half.images.flatten(1).float() / 127.5 - 1, half.labels) for half in (data.train, data.test))
    network = deep_net(net, seed)
    optimizer = torch.optim.Adam(network.method.param_groups(list(network.model)), lr=LR)
    made = 0
    for epoch in range(0 if net == UNTRAINED else EPOCHS):
        order = torch.randperm(len(x), generator=generator(seed, "order", epoch))
        for part in torch.split(order, BATCH):
            network.method.start(epoch + 1, made)
            training_step(network, optimizer, x[part], y[part])
            made += 1
    frozen = freeze_module(network.model)
    inside, held = collect_activations(frozen, x), collect_activations(frozen, z)
    names = frozen.names[:DEPTH]
    probes = []
    for name in names:
        standard = Standard.of(inside[name])
        probes.append(fit_logistic_regression(standard(inside[name]), y, PROBE_L2).accuracy(standard(held[name]), w))
    train, test = (float((h["top"].argmax(1) == labels).float().mean()) for h, labels in ((inside, y), (held, w)))
    rdms = torch.stack([rdm(held[name][:COMPARED], w[:COMPARED]) for name in names])
    return Seen(net, seed, train, test, probes, rdms.numpy())


def likeness(a: Seen, b: Seen) -> list[float]:
    """Rank correlation of two networks' dissimilarity matrices, layer by layer."""
    return [rdm_correlation(torch.from_numpy(p), torch.from_numpy(q)) for p, q in zip(a.rdms, b.rdms, strict=True)]


def seen_by(found: Sequence[Seen]) -> dict[tuple[str, int], Seen]:
    """(net, seed) -> what was seen of it."""
    return {(s.net, s.seed): s for s in found}


def likenesses(found: Sequence[Seen]) -> dict[str, list[list[float]]]:
    """Net -> for each seed i, likeness of bp of seed i with that net of seed i + 1, layer by layer."""
    by = seen_by(found)
    return {net: [likeness(by["bp", i], by[net, (i + 1) % NET_SEEDS]) for i in range(NET_SEEDS)] for net in (*NETS, UNTRAINED)}


QUANTITIES = {"likeness": "rank correlation of dissimilarities\nwith bp of another seed", "probe": "linear probe,\ntest accuracy"}


def depth_points(found: Sequence[Seen], alike: dict[str, list[list[float]]]) -> list[DepthPoint]:
    """Both quantities layer by layer, over seeds."""
    points = []
    for net in (*NETS, UNTRAINED):
        network = UNTRAINED if net == UNTRAINED else "trained"
        probes = [s.probes for s in found if s.net == net]
        for quantity, rows in (("likeness", alike[net]), ("probe", probes)):
            points += [
                DepthPoint(net, network, str(k + 1), quantity, *interval(row[k] for row in rows)) for k in range(DEPTH)
            ]  # fmt: skip
    return points


def rdm_rows(found: Sequence[Seen]) -> list[RdmRow]:
    """Dissimilarities of every few of the compared images, still sorted by label, at every other layer, first seed."""
    labels = load("digits").test.labels[:COMPARED].sort(stable=True).values[:: COMPARED // SHOWN].tolist()
    rows = []
    for one in (seen_by(found)[net, 0] for net in NETS):
        for k in range(0, DEPTH, 2) if DEPTH % 2 else (0, *range(1, DEPTH, 2)):
            small = one.rdms[k][:: COMPARED // SHOWN, :: COMPARED // SHOWN]
            rows += [
                RdmRow(one.net, f"layer {k + 1}", i, label, " ".join(f"{v:.2f}" for v in row))
                for i, (label, row) in enumerate(zip(labels, small, strict=True))
            ]
    return rows


def deep_claims(found: Sequence[Seen], alike: dict[str, list[list[float]]]) -> list[Claim]:
    """Representations between synthesisers differ from bp's by more than two seeds of bp do, and it is not for want of training alone."""
    half = DEPTH // 2
    one, every = list(NETS)[1:]
    parts = (
        (one, "below the synthesiser", range(half)),
        (one, "above it", range(half, DEPTH)),
        (every, f"layers 1–{half}", range(half)),
        (every, f"layers {half + 1}–{DEPTH}", range(half, DEPTH)),
    )
    claims = []
    for net, words, layers in parts:
        less = [fmean(b[k] - s[k] for k in layers) for b, s in zip(alike["bp"], alike[net], strict=True)]
        text = f"representations of {net}, {words}: at least {UNLIKE:g} less like bp's than those of two seeds of bp are alike"
        claims.append(judged(text, less, "of rank correlation", at_least=UNLIKE))
    by = seen_by(found)
    for net in (one, every):
        lost = [100 * (by["bp", i].test - by[net, i].test) for i in range(NET_SEEDS)]
        claims.append(judged(f"test accuracy: bp above {net}", lost, "points", at_least=0))
    return claims


# ------------------------------------------------------------------------------------------------------------------- main


def main() -> None:
    """Run all parts, judge the claims, write figures/synthetic_theory."""
    args = arguments(__doc__ or "", data="digits")
    folder = args.figures / "synthetic_theory"
    with ProcessPoolExecutor(2, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        deep = list(pool.map(deep_run, [(net, seed) for net in (*reversed(NETS), UNTRAINED) for seed in range(NET_SEEDS)]))
        rest, losses, closed = linear_part(pool)
        jobs = product(LABELLINGS, PLANE_NETS[::-1], (FULL, "bp"), range(SEEDS))
        planes, implied, looks = (list(part) for part in zip(*pool.map(plane_run, jobs), strict=True))
    curves, looked = [row for part in implied for row in part], [row for part in looks for row in part]
    alike = likenesses(deep)
    claims = linear_claims(rest, closed) + plane_claims(planes, looked) + deep_claims(deep, alike)
    say(claims)
    for one in deep:
        print(f"{one.net:16} seed {one.seed}: training {100 * one.train:.1f} %, test {100 * one.test:.1f} %")
    title = f"digits, MLP of {DEPTH} layers"
    save_figure(fixed_points(rest), rest, folder, "fixed_points")
    save_figure(convergence(losses), losses, folder, "convergence")
    save_figure(plane_accuracy(planes), planes, folder, "plane_accuracy")
    save_figure(implied_losses(curves), curves, folder, "implied_loss")
    points, rows = depth_points(deep, alike), rdm_rows(deep)
    save_figure(representations.representation_by_depth(points, QUANTITIES, title=title), points, folder, "by_depth")
    save_figure(representations.rdm_figure(rows, title=f"{title}, one seed"), rows, folder, "rdm")
    settings = {
        "linear": {
            "points": POINTS,
            "features": FEATURES,
            "classes": CLASSES,
            "hidden": HIDDEN,
            "updates": LINEAR_UPDATES,
            "lr": LINEAR_LR,
        },
        "plane": {"points": PLANE, "width": PLANE_WIDTH, "updates": PLANE_UPDATES, "adam_lr": PLANE_LR},
        "deep": {"data": "digits", "depth": DEPTH, "width": WIDTH, "epochs": EPOCHS, "batch": BATCH, "adam_lr": LR, "probe_l2": PROBE_L2},
    }
    nets = [{"net": s.net, "seed": s.seed, "train": s.train, "test": s.test, "probes": s.probes} for s in deep]
    content = {
        "settings": settings, "seeds": {"linear, plane": SEEDS, "deep": NET_SEEDS}, "claims": claims,
        "rest": [r._asdict() for r in rest], "closed_form": closed, "plane": [p._asdict() for p in planes],
        "implied": [r._asdict() for r in looked], "deep": nets, "depth": [p._asdict() for p in points],
    }  # fmt: skip
    publish("synthetic_theory", [], args, content, figures=False)


if __name__ == "__main__":
    main()
