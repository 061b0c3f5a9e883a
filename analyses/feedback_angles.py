"""Feedback alignment on the linear network of its paper: is it as fast as backprop, and where do its hidden updates point?

Lillicrap et al. 2016 (arXiv 1411.0247), the linear demonstration and figure 4, which the reference study shows: y = W h, h = W0 x,
30-20-10, a fixed linear teacher T ~ U[-1, 1], x ~ N(0, I), squared error, one example an update, B ~ U[-0.5, 0.5].

Claims: (1) with W0, W ~ U[-0.01, 0.01] and a learning rate for each rule, feedback alignment is as fast as backprop, and its angle to
backprop begins near 90° and falls. (2) with W0, W ~ U[-w, w] and learning rate 1e-3, the angle of B e to Wᵀ e (backprop) ends near 23° for
small w, after a rise, and at 65-73° for w = 0.2-0.25; the angle to W⁺ e (pseudo-backprop) ends near 0, 8, 34 and 55-67°, small w first.
Angles are signed, 0-180°: the paper's formula has an absolute value, its figure has not. Its node perturbation is left out.

    python -m analyses.feedback_angles          # about a minute
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from analyses.study import arguments, environment
from gradlens.reporting.statistics import interval
from gradlens.reporting.style import LOOK, save_figure, styles
from gradlens.runtime.rng import generator
from gradlens.runtime.text_files import write_text

Array = NDArray[np.floating[Any]]
Rule = Literal["bp", "fa", "shallow"]

INPUTS, HIDDEN, OUTPUTS = 30, 20, 10
SEEDS = tuple(range(10))

# claim 1
SMALL = 0.01  # w
RACE = 1_500  # examples
GRID: dict[Rule, tuple[float, ...]] = {  # lr by hand in the paper: here the least mean NSE over the race, on networks of other seeds
    "shallow": (1.0, 2.0, 5.0, 10.0, 20.0, 50.0),  # large because its h never grows: |h|² is near 0.02
    "bp": (1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2),
    "fa": (1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2),
}
TRIAL_SEEDS = (100, 101, 102)
PAPERS_WINDOW = 10  # examples

# claim 2
SCALES = (1e-4, 1e-3, 1e-2, 0.05, 0.1, 0.125, 0.15, 0.2, 0.25)  # w
LR = 1e-3
EXAMPLES = 20_000
LAST = 1_000  # examples that "at the end" averages over
LOOKS = (*range(200), *range(200, EXAMPLES, 10))  # examples at which the angles are taken
LAST_LOOKS = tuple(i for i in LOOKS if i >= EXAMPLES - LAST)
WINDOW = 10  # looks
TEACHERS = (0.3, 0.1)  # T ~ U[-t, t]: looked at after the large scales had ended outside the reference study's readings


class Nets(NamedTuple):
    """Linear networks y = W W0 x with their teachers and feedback, stacked over any leading dimensions (here scales and seeds)."""

    teacher: Array  # [..., 10, 30] T: y* = T x
    w0: Array  # [..., 20, 30] W0: h = W0 x
    w: Array  # [..., 10, 20] W: y = W h
    b: Array  # [..., 20, 10] B


class Moment(NamedTuple):
    """One example, before the update it causes: W + lr · dW, W0 + lr · dW0."""

    w0: Array  # [..., 20, 30]
    w: Array  # [..., 10, 20]
    e: Array  # [..., 10] y* − y
    dw0: Array  # [..., 20, 30]
    dw: Array  # [..., 10, 20]


def draw(seed: int, scales: Sequence[float], teacher: float = 1.0) -> Nets:
    """A seed's networks, one a scale: the same draws at every scale, times the scale."""

    def uniform(what: str, *shape: int) -> Array:
        unit: Array = torch.rand(shape, generator=generator(seed, what), dtype=torch.float64).numpy()
        return 2 * unit - 1

    size = np.reshape(scales, (-1, 1, 1))
    same = np.ones_like(size)
    return Nets(
        teacher * same * uniform("teacher", OUTPUTS, INPUTS),
        size * uniform("W0", HIDDEN, INPUTS),
        size * uniform("W", OUTPUTS, HIDDEN),
        0.5 * same * uniform("B", HIDDEN, OUTPUTS),
    )


def stack(seeds: Sequence[int], scales: Sequence[float], teacher: float = 1.0) -> Nets:
    """The networks of several seeds, [scales, seeds, ...]."""
    return Nets(*(np.stack(parts, axis=1) for parts in zip(*(draw(s, scales, teacher) for s in seeds), strict=True)))


def examples(seeds: Sequence[int], n: int) -> Array:
    """x ~ N(0, I), [n, seeds, 30]: each seed's sequence is the same for every rule, scale and learning rate."""
    drawn = (torch.randn(n, INPUTS, generator=generator(s, "examples"), dtype=torch.float64).numpy() for s in seeds)
    return np.stack(list(drawn), axis=1)


def times(matrix: Array, vector: Array) -> Array:
    """[..., m, n] · [..., n] -> [..., m]."""
    product: Array = (matrix @ vector[..., None])[..., 0]
    return product


def outer(a: Array, b: Array) -> Array:
    """[..., m], [..., n] -> [..., m, n]."""
    return a[..., :, None] * b[..., None, :]


def online(nets: Nets, xs: Iterable[Array], lr: float | Array, rule: Rule) -> Iterator[Moment]:
    """Train all networks at once, one example an update: dW = e hᵀ; dW0 = (B e) xᵀ (fa), (Wᵀ e) xᵀ (bp) or 0 (shallow).

    Args:
        nets: where they start.
        xs: [..., 30] the examples, one after the other.
        lr: of all networks, or an array [..., 1, 1] that tells them apart.
        rule: which one.

    """
    teacher, w0, w, b = nets
    for x in xs:
        h = times(w0, x)
        e = times(teacher, x) - times(w, h)
        told = times(b, e) if rule == "fa" else times(w.swapaxes(-1, -2), e) if rule == "bp" else np.zeros_like(h)
        moment = Moment(w0, w, e, outer(told, x), outer(e, h))
        yield moment
        w0, w = w0 + lr * moment.dw0, w + lr * moment.dw


def angle(a: Array, b: Array) -> Array:
    """The angle of two vectors [..., n] in degrees, 0 to 180."""
    cosine = (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    degrees: Array = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    return degrees


def nse(teacher: Array, w0: Array, w: Array) -> Array:
    """E|y* − y|² / E|y*|², exactly: for white inputs it is |T − W W0|² / |T|² (Frobenius)."""
    share: Array = ((teacher - w @ w0) ** 2).sum((-1, -2)) / (teacher**2).sum((-1, -2))
    return share


# ------------------------------------------------------------------------------------------------------ claim 1, the race


class RacePoint(NamedTuple):
    """One example of the race."""

    rule: str
    lr: float
    quantity: str  # nse, or angle (degrees, of B e to Wᵀ e)
    example: int
    mean: float  # nse: geometric
    low: float  # nse: 95 % t-interval over networks (of the logarithms); angle: 2 standard deviations over window and networks
    high: float
    seeds: int


def choose_lr(rule: Rule) -> float:
    """The learning rate of the grid with the least NSE, averaged over the race and networks that are not shown."""
    lrs = np.reshape(GRID[rule], (-1, 1, 1, 1))
    nets = stack(TRIAL_SEEDS, [SMALL] * len(lrs))
    with np.errstate(over="ignore", invalid="ignore"):  # a rate that is too large is found by its NaN
        mean = np.mean([nse(nets.teacher, m.w0, m.w) for m in online(nets, examples(TRIAL_SEEDS, RACE), lrs, rule)], axis=(0, 2))
    return GRID[rule][int(np.nanargmin(np.where(np.isfinite(mean), mean, np.nan)))]


def race(rule: Rule, lr: float) -> tuple[Array, Array]:
    """NSE and angle to backprop at every example, both [examples, seeds]."""
    nets = stack(SEEDS, (SMALL,))
    errors, angles = [], []
    for m in online(nets, examples(SEEDS, RACE), lr, rule):
        errors.append(nse(nets.teacher, m.w0, m.w)[0])
        angles.append(angle(times(nets.b, m.e), times(m.w.swapaxes(-1, -2), m.e))[0])
    return np.array(errors), np.array(angles)


def race_rows(rule: Rule, lr: float, errors: Array, angles: Array) -> list[RacePoint]:
    """What the figure shows of one rule: every tenth example; the angle only of feedback alignment."""
    rows = []
    for i in range(0, RACE, PAPERS_WINDOW):
        mean, low, high, n = interval(np.log10(errors[i]).tolist())
        rows.append(RacePoint(rule, lr, "nse", i, 10**mean, 10**low, 10**high, n))
        if rule == "fa":
            window = angles[i : i + PAPERS_WINDOW]
            mean, spread = float(window.mean()), 2 * float(window.std())
            rows.append(RacePoint(rule, lr, "angle", i, mean, mean - spread, mean + spread, window.shape[1]))
    return rows


# ---------------------------------------------------------------------------------------------------- claim 2, the angles


class AnglePoint(NamedTuple):
    """The angle of B e to what another rule would tell the hidden layer, around one example."""

    to: str  # backprop (Wᵀ e) or pseudo-backprop (W⁺ e)
    scale: float  # w
    example: int
    mean: float  # degrees
    low: float  # 95 % t-interval over networks
    high: float
    seeds: int


TO = ("backprop", "pseudo-backprop")


class Followed(NamedTuple):
    """What was seen of networks that learn by feedback alignment."""

    looks: Sequence[int]  # examples
    angles: Array  # [2, looks, scales, seeds] degrees, to the two of TO
    nse: Array  # [looks, scales, seeds]

    def of(self, to: str) -> Array:
        """One of the two angles, [looks, scales, seeds]."""
        angles: Array = self.angles[TO.index(to)]
        return angles

    def since(self, example: int) -> int:
        """The first look at or after an example."""
        return next(n for n, i in enumerate(self.looks) if i >= example)


def follow(nets: Nets, xs: Array, looks: Sequence[int]) -> Followed:
    """Learn by feedback alignment, and take the angles and the error before the updates on some examples."""
    wanted = set(looks)
    angles, errors = [], []
    for i, m in enumerate(online(nets, xs, LR, "fa")):
        if i in wanted:
            told = times(nets.b, m.e)
            angles.append([angle(told, times(m.w.swapaxes(-1, -2), m.e)), angle(told, times(np.linalg.pinv(m.w), m.e))])
            errors.append(nse(nets.teacher, m.w0, m.w))
    return Followed(looks, np.array(angles).swapaxes(0, 1), np.array(errors))


def smooth(looks: Array) -> Array:
    """[looks, ...]: each the mean over the window around it, which is shorter at both ends."""
    half = WINDOW // 2
    return np.array([looks[max(0, i - half) : i + half].mean(0) for i in range(len(looks))])


def angle_rows(seen: Followed) -> list[AnglePoint]:
    """What the figure shows: looks about evenly spaced on its logarithmic axis."""
    shown = sorted({0, *(seen.since(int(i)) for i in np.geomspace(1, seen.looks[-1], 160))})
    rows = []
    for to in TO:
        smoothed = smooth(seen.of(to))
        rows += [AnglePoint(to, w, seen.looks[n], *interval(smoothed[n, j].tolist())) for j, w in enumerate(SCALES) for n in shown]
    return rows


class Reading(NamedTuple):
    """A number read off the reference study's figure (one network a scale), and ours."""

    to: str
    scale: str
    when: str
    documents: tuple[float, float]  # degrees, from – to
    ours: float  # mean over networks
    low: float  # 95 % t-interval
    high: float
    off: float  # degrees outside the reference study's range
    verdict: str


WITHIN = 5.0  # degrees
SMALLEST = "1e-4, 1e-3, 1e-2"  # the figure has no room to tell them apart
TRANSIENT = ("first dip", "rise after it")
READINGS = (  # the scales of 8 and 34 are not named in the figure: taken to be the next ones
    ("backprop", "1e-4", "first dip", (20.0, 20.0)),
    ("backprop", "1e-4", "rise after it", (42.0, 42.0)),
    ("backprop", SMALLEST, "end", (23.0, 23.0)),
    ("backprop", "0.2", "end", (65.0, 73.0)),
    ("backprop", "0.25", "end", (65.0, 73.0)),
    ("pseudo-backprop", SMALLEST, "from 15,000 on", (0.0, 3.0)),
    ("pseudo-backprop", "0.05", "end", (8.0, 8.0)),
    ("pseudo-backprop", "0.1", "end", (34.0, 34.0)),
    *(("pseudo-backprop", w, "end", (55.0, 67.0)) for w in ("0.125", "0.15", "0.2", "0.25")),
)


def of_seeds(seen: Followed, to: str, scale: str, when: str) -> list[float]:
    """One number a network: what a reading is compared with."""
    chosen = [SCALES.index(float(w)) for w in scale.split(",")]
    looks = seen.of(to)[:, chosen].mean(1)  # [looks, seeds]
    if when in TRANSIENT:
        smoothed = smooth(looks)
        dip = smoothed[: seen.since(1_000)].argmin(0)
        found = [smoothed[d, s] if when == "first dip" else smoothed[d:, s].max() for s, d in enumerate(dip)]
        return [float(v) for v in found]
    mean: list[float] = looks[seen.since(15_000 if when == "from 15,000 on" else EXAMPLES - LAST) :].mean(0).tolist()
    return mean


def compared(seen: Followed) -> list[Reading]:
    """Ours beside every reading."""
    found = []
    for to, scale, when, (low, high) in READINGS:
        ours = interval(of_seeds(seen, to, scale, when))
        off = max(low - ours.mean, ours.mean - high, 0.0)
        found.append(Reading(to, scale, when, (low, high), *ours[:3], off, "within" if off <= WITHIN else "outside"))
    return found


# --------------------------------------------------------------------------------------------------------------- figures

DASHES: dict[float, Any] = {1e-3: (0, (4, 1.6)), 1e-2: (0, (1.2, 1.2))}  # the three smallest scales lie on each other
BLUE_TO_RED = LinearSegmentedColormap.from_list("scales", ["#1f4fa8", "#5b8fd0", "#8e6bb0", "#d0668a", "#c0202c"])


def shade(scale: float) -> str:
    """A scale's colour, from blue to red."""
    return to_hex(BLUE_TO_RED(SCALES.index(scale) / (len(SCALES) - 1)))


DEGREES = [0, 15, 30, 45, 60, 75, 90]


def _degrees(ax: Axes) -> None:
    ax.set_ylim(-2, 98)
    ax.set_yticks(DEGREES, [f"{d}°" for d in DEGREES])


@style.context(LOOK)
def angle_figure(rows: Sequence[AnglePoint], readings: Sequence[Reading]) -> Figure:
    """Both angles over the examples, one line a scale; the reference study's readings at the right end."""
    figure = Figure(figsize=(9, 4.7))
    places = {"left": 0.06, "right": 0.985, "top": 0.84, "bottom": 0.2, "wspace": 0.06}
    axes: Sequence[Axes] = figure.subplots(1, 2, sharey=True, gridspec_kw=places)
    titles = {"backprop": "b   to what backprop tells, Wᵀe", "pseudo-backprop": "c   to what pseudo-backprop tells, W⁺e"}
    for ax, to in zip(axes, TO, strict=True):
        for w in SCALES:
            mine = [r for r in rows if (r.to, r.scale) == (to, w)]
            x = [r.example + 1 for r in mine]
            dash = DASHES.get(w, "-")
            ax.plot(x, [r.mean for r in mine], color=shade(w), linewidth=1.5, linestyle=dash)
            ax.fill_between(x, [r.low for r in mine], [r.high for r in mine], color=shade(w), alpha=0.1, linewidth=0)
        for r in readings:
            if r.to == to and r.when not in TRANSIENT:
                _reading(ax, r, 1.3 * EXAMPLES)
        ax.set_xscale("log")
        ax.set_xlim(1, 1.6 * EXAMPLES)
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        ax.set_xlabel("example, log scale")
        ax.set_title(titles[to], loc="left", pad=5)
        _degrees(ax)
    handles = [Line2D([], [], color=shade(w), linestyle=DASHES.get(w, "-"), linewidth=1.8, label=f"{w:g}") for w in SCALES]
    handles = [Line2D([], [], linestyle="", label="w ="), *handles]
    handles += [Line2D([], [], color="0.35", marker="o", markerfacecolor="white", linestyle="", label="documents")]
    spacing: dict[str, Any] = {"handlelength": 1.7, "columnspacing": 1.0, "handletextpad": 0.5}
    figure.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 0), ncols=len(handles), **spacing)
    seeds = max(r.seeds for r in rows)
    lines = (
        "Angle of what feedback alignment tells the hidden layer, Be, by the size of the initial weights, drawn from [−w, w]",
        f"Linear 30-20-10 · lr {LR:g} · mean of {seeds} networks over a window of 10 to 100 examples · band: 95 % t-interval",
    )
    figure.suptitle("\n".join(lines), x=0.011, y=0.985, ha="left", fontsize=10)
    return figure


def _reading(ax: Axes, r: Reading, x: float) -> None:
    """A reading of the reference study as an open marker, or a bar where it is a range, in the colour of its (largest) scale."""
    low, high = r.documents
    colour = shade(float(r.scale.split(",")[-1]))
    if low == high:
        ax.plot([x], [low], marker="o", markersize=6, markerfacecolor="white", markeredgecolor=colour, markeredgewidth=1.5, clip_on=False)
    else:
        ax.plot([x, x], [low, high], marker="_", markersize=8, color=colour, linewidth=1.5, clip_on=False)


@style.context(LOOK)
def race_figure(rows: Sequence[RacePoint]) -> Figure:
    """NSE of the three rules, and feedback alignment's angle to backprop."""
    figure = Figure(figsize=(9, 3.9))
    places = {"left": 0.065, "right": 0.975, "top": 0.8, "bottom": 0.125, "wspace": 0.16}
    axes: Sequence[Axes] = figure.subplots(1, 2, gridspec_kw=places)
    colours: dict[str, str] = {"shallow": "0.55", **{name: look.colour for name, look in styles(("bp", "fa")).items()}}
    names = {"bp": "backprop", "fa": "feedback alignment", "shallow": "shallow: W only"}
    for rule in GRID:
        mine = [r for r in rows if (r.rule, r.quantity) == (rule, "nse")]
        x, colour = [r.example for r in mine], colours[rule]
        axes[0].plot(x, [r.mean for r in mine], color=colour, label=f"{names[rule]}, lr {mine[0].lr:g}")
        axes[0].fill_between(x, [r.low for r in mine], [r.high for r in mine], color=colour, alpha=0.16, linewidth=0)
    axes[0].set_yscale("log")
    axes[0].set_ylim(1e-8, 3)
    axes[0].set_title("error: |y* − y|² ÷ |y*|² (NSE), log scale", loc="left", pad=5)
    axes[0].legend(loc="center right", bbox_to_anchor=(1, 0.7))
    mine = [r for r in rows if r.quantity == "angle"]
    x = [r.example for r in mine]
    axes[1].plot(x, [r.mean for r in mine], color=colours["fa"])
    axes[1].fill_between(x, [r.low for r in mine], [r.high for r in mine], color=colours["fa"], alpha=0.16, linewidth=0)
    axes[1].set_title("angle of Be (feedback alignment) to Wᵀe (backprop)", loc="left", pad=5)
    _degrees(axes[1])
    for ax in axes:
        ax.set_xlim(0, RACE)
        ax.set_xlabel("example")
    seeds = max(r.seeds for r in rows)
    lines = (
        f"Linear 30-20-10 network, one example an update, initial weights in [−{SMALL:g}, {SMALL:g}], a learning rate for each rule",
        f"Mean of {seeds} networks · bands: left 95 % t-interval, right 2 s.d. over networks and a window of {PAPERS_WINDOW} examples",
    )
    figure.suptitle("\n".join(lines), x=0.011, y=0.98, ha="left", fontsize=10)
    return figure


# ---------------------------------------------------------------------------------------------------------------- script


def raced() -> tuple[list[RacePoint], dict[str, Any]]:
    """Claim 1: the figure's rows, and its numbers by rule."""
    rows: list[RacePoint] = []
    found: dict[str, Any] = {}
    for rule in GRID:
        lr = choose_lr(rule)
        errors, angles = race(rule, lr)
        rows += race_rows(rule, lr, errors, angles)
        needed = [int(np.argmax(e < 0.01)) for e in errors.T if e.min() < 0.01]
        found[rule] = {
            "lr": lr,
            "examples_to_nse_0.01": interval(needed)[:3] if len(needed) == len(SEEDS) else None,
            "final_nse": 10 ** float(np.log10(errors[-1]).mean()),
        }
        if rule == "fa":
            found["angle"] = {f"example {i}": interval(angles[i].tolist())[:3] for i in (0, 10, 100, 1_000)}
    found["shallow"]["least_nse_for_its_W0"] = float(least_shallow(stack(SEEDS, (SMALL,))).mean())
    return rows, found


def least_shallow(nets: Nets) -> Array:
    """The NSE of the best W on top of a W0 that stays: what of T lies outside the row space of W0."""
    rows, _ = np.linalg.qr(nets.w0.swapaxes(-1, -2))  # [..., 30, 20]
    return nse(nets.teacher, rows.swapaxes(-1, -2), nets.teacher @ rows)


def smaller_teachers() -> list[dict[str, Any]]:
    """The angles at the end where the teacher is smaller, so that less has to be learned over the same initial weights."""
    table = []
    for t in TEACHERS:
        seen = follow(stack(SEEDS, SCALES, t), examples(SEEDS, EXAMPLES), LAST_LOOKS)
        for to in TO:
            end = {f"{w:g}": interval(seen.of(to)[:, j].mean(0).tolist())[:3] for j, w in enumerate(SCALES)}
            table.append({"teacher": t, "to": to, "end": end})
    return table


def main() -> None:
    """Simulate, print ours beside the reference study's readings, write figures/feedback_angles."""
    args = arguments(__doc__ or "")
    folder = args.figures / "feedback_angles"
    began = time.perf_counter()

    points, found = raced()
    for rule in GRID:
        needed = found[rule]["examples_to_nse_0.01"]
        when = f"after {needed[0]:.0f} examples [{needed[1]:.0f}, {needed[2]:.0f}]" if needed else "never"
        print(f"{rule:8} lr {found[rule]['lr']:<6g} NSE 0.01 {when}; NSE {found[rule]['final_nse']:.2g} after {RACE}")
    print(f"shallow: the best W on its W0 would leave {found['shallow']['least_nse_for_its_W0']:.3f}")
    print("angle of Be to Wᵀe:", ", ".join(f"{when} {mean:.0f}°" for when, (mean, *_) in found["angle"].items()))

    seen = follow(stack(SEEDS, SCALES), examples(SEEDS, EXAMPLES), LOOKS)
    readings = compared(seen)
    for r in readings:
        theirs = "–".join(f"{d:g}" for d in dict.fromkeys(r.documents))
        ours = f"{r.ours:.1f}° [{r.low:.1f}, {r.high:.1f}]"
        print(f"to {r.to:15} w = {r.scale:16} {r.when:14}  reference {theirs:>5}°  ours {ours:20} {r.verdict}, {r.off:.0f}° off")
    teachers = smaller_teachers()
    for row in teachers:
        print(f"teacher ±{row['teacher']:g}, to {row['to']:15} {'  '.join(f'{w}: {mean:.0f}°' for w, (mean, *_) in row['end'].items())}")

    rows = angle_rows(seen)
    save_figure(race_figure(points), points, folder, "loss")
    save_figure(angle_figure(rows, readings), rows, folder, "angles")
    results = {
        "seeds": SEEDS,
        "race": {"w": SMALL, "examples": RACE, "lr_grids": GRID, "lr_chosen_on_seeds": TRIAL_SEEDS, "found": found},
        "angles": {
            "lr": LR, "examples": EXAMPLES, "end_is_the_last": LAST, "within_degrees": WITHIN,
            "readings": [r._asdict() for r in readings],
            "largest_final_nse": {f"{w:g}": float(seen.nse[-1, j].max()) for j, w in enumerate(SCALES)},
        },
        "smaller_teachers_looked_at_afterwards": teachers,
        "not_done": "node perturbation, the paper's fourth rule in the race",
        "seconds": round(time.perf_counter() - began, 1),
        **environment(),
    }  # fmt: skip
    results["versions"]["numpy"] = np.__version__
    write_text(folder / "results.json", json.dumps(results, indent=2) + "\n")
    print(f"wrote {folder}")


if __name__ == "__main__":
    main()
