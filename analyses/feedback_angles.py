"""Feedback alignment on the linear network of its paper: is it as fast as backprop, and where do its hidden updates point?

Lillicrap et al. 2016 (arXiv 1411.0247), the linear demonstration and figure 4, which the reference study shows: y = W h, h = W0 x,
30-20-10, a fixed linear teacher T ~ U[-1, 1], x ~ N(0, I), squared error, one example an update, B ~ U[-0.5, 0.5].

The race: W0, W ~ U[-0.01, 0.01], a learning rate for each rule. The angles of B e to Wᵀ e (backprop) and W⁺ e (pseudo-backprop): nine
scales w of the initial weights, 20,000 examples, in two settings. *As written*: W0, W ~ U[-w, w], learning rate 1e-3. *Inferred* from the
figure itself: W ~ U[-10w, 10w], W0 ~ U[-w, w], learning rate 5.5e-4; a small scan says what of that the figure decides. Readings of the
figure, by the colour of its lines at their right end, are good to some half a degree, of one network a line. Angles are signed, 0-180°: the
paper's formula has an absolute value, its figure has not. Its node perturbation is left out.

What is tested, in the setting as written, on networks of other seeds than those of earlier runs. Primary:

- "the network learns to learn": after 1,500 examples fa's error is at most a tenth of the least that any W on the initial W0 leaves. Ten
  networks with a standard deviation of 0.5 decades show 0.5 in 80 % of cases.
- "the angle to back-prop decreases to below 90°": at the end, at the scale where it is largest.
- "the angle to the pseudo-inverse goes to zero", which the paper says of small scales: within 3° of 0 at the end for w = 1e-4. Ten networks
  with a standard deviation of 1° show a distance of 1° from the bound.

Beside them: fa needs no more examples than bp to an error of 1 %; in the inferred setting the figure is no further from a network
(root mean square over 18 readings) than another network is, but for a degree; in the one as written it is.

    python -m analyses.feedback_angles          # two minutes of one core
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from analyses.figures.feedback_figures import PAPERS_WINDOW, AnglePoint, RacePoint, Reading, angle_figure, race_figure
from analyses.theory.linear_demonstration import Array, Nets, Rule, angle, examples, least_shallow, nse, online, stack, times
from analyses.training.cost import announce_cost
from analyses.training.study import arguments, environment
from analyses.verdicts.decision import Test
from analyses.verdicts.wording import report
from gradlens.reporting.statistics import interval
from gradlens.reporting.style import save_figure
from gradlens.runtime.text_files import write_text

SEEDS = tuple(range(10, 20))

# the race
SMALL = 0.01  # w
RACE = 1_500  # examples
GRID: dict[Rule, tuple[float, ...]] = {  # lr by hand in the paper: here the least mean NSE over the race, on networks of other seeds
    "shallow": (1.0, 2.0, 5.0, 10.0, 20.0, 50.0),  # large because its h never grows: |h|² is near 0.02
    "bp": (1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2),
    "fa": (1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2),
}
TRIAL_SEEDS = (100, 101, 102)

# the angles
SCALES = (1e-4, 1e-3, 1e-2, 0.05, 0.1, 0.125, 0.15, 0.2, 0.25)  # w
EXAMPLES = 20_000
LAST = 1_000  # examples that "at the end" averages over
LOOKS = (*range(200), *range(200, EXAMPLES, 10))  # examples at which the angles are taken
LAST_LOOKS = tuple(i for i in LOOKS if i >= EXAMPLES - LAST)
WINDOW = 10  # looks


class Setting(NamedTuple):
    """How the networks of the angles begin and learn."""

    ratio: float  # W ~ U[-ratio · w, ratio · w], W0 ~ U[-w, w]
    lr: float


SETTINGS = {"as written": Setting(1.0, 1e-3), "inferred": Setting(10.0, 5.5e-4)}
SCAN_RATIOS, SCAN_RATES, SCAN_SEEDS = (1.0, 3.0, 10.0, 30.0), (2.75e-4, 5.5e-4, 1.1e-3, 2.2e-3), (200, 201, 202)
FIGURE = {  # degrees at the end, w from small to large, read off the reference study's figure by the colour of its lines
    "backprop": (24.1, 24.1, 25.9, 42.6, 59.1, 63.2, 66.8, 69.3, 73.4),
    "pseudo-backprop": (0.9, 0.9, 7.5, 34.5, 54.9, 59.4, 62.6, 64.2, 67.7),
}
TO = tuple(FIGURE)

TESTS = (
    Test(
        "fa-learns", "decades between the error that the best W on the initial W0 leaves and fa's after 1,500 examples",
        "decades below the best shallow", {"fa": 1}, "decades", at_least=1, primary_of="learns-to-learn",
    ),
    Test(
        "fa-below-90", "90° − the angle to backprop at the end, at the scale where it is least", "below 90°", {"any w": 1}, "degrees",
        at_least=0, primary_of="angle-to-backprop",
    ),
    Test(
        "fa-pseudo-small", f"angle to pseudo-backprop at the end, w = {SCALES[0]:g}", "angle to pseudo-backprop", {f"w={SCALES[0]:g}": 1},
        "degrees", within=3, primary_of="angle-to-pseudo-backprop",
    ),
    Test(
        "fa-as-fast", "examples to an error of 1 %: bp − fa", "examples to 1 %", {"bp": 1, "fa": -1}, "examples", at_least=0,
        about="learns-to-learn",
    ),
    *(
        Test(
            f"fa-figure-{name.replace(' ', '-')}", f"{name}: distance to another network − distance to the reference study's figure",
            "nearness of the figure", {name: 1}, "degrees", at_least=-1, about="angle-to-backprop",
        )
        for name in SETTINGS
    ),
)  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- the race


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


# ----------------------------------------------------------------------------------------------------------- the angles


class Followed(NamedTuple):
    """What was seen of networks that learn by feedback alignment."""

    looks: Sequence[int]  # examples
    angles: Array  # [2, looks, ..., scales, seeds] degrees, to the two of TO
    nse: Array  # [looks, ..., scales, seeds]

    def of(self, to: str) -> Array:
        """One of the two angles, [looks, ..., scales, seeds]."""
        angles: Array = self.angles[TO.index(to)]
        return angles

    def since(self, example: int) -> int:
        """The first look at or after an example."""
        return next(n for n, i in enumerate(self.looks) if i >= example)

    def end(self, to: str) -> Array:
        """The mean of one of the two angles over the last examples, [..., scales, seeds]."""
        mean: Array = self.of(to)[self.since(EXAMPLES - LAST) :].mean(0)
        return mean


def follow(nets: Nets, xs: Array, looks: Sequence[int], lr: float | Array) -> Followed:
    """Learn by feedback alignment, and take the angles and the error before the updates on some examples; NaN where learning diverges."""
    wanted = set(looks)
    angles, errors = [], []
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for i, m in enumerate(online(nets, xs, lr, "fa")):
            if i in wanted:
                signal, w = times(nets.b, m.e), np.where(np.isfinite(m.w).all((-1, -2), keepdims=True), m.w, 0.0)
                angles.append([angle(signal, times(w.swapaxes(-1, -2), m.e)), angle(signal, times(np.linalg.pinv(w), m.e))])
                errors.append(nse(nets.teacher, m.w0, m.w))
    return Followed(looks, np.array(angles).swapaxes(0, 1), np.array(errors))


def smooth(looks: Array) -> Array:
    """[looks, ...]: each the mean over the window around it, which is shorter at both ends."""
    half = WINDOW // 2
    return np.array([looks[max(0, i - half) : i + half].mean(0) for i in range(len(looks))])


def angle_rows(setting: str, seen: Followed) -> list[AnglePoint]:
    """What the figure shows: looks about evenly spaced on its logarithmic axis."""
    shown = sorted({0, *(seen.since(int(i)) for i in np.geomspace(1, seen.looks[-1], 160))})
    rows = []
    for to in TO:
        smoothed = smooth(seen.of(to))
        for j, w in enumerate(SCALES):
            for n in shown:
                mean, low, high, seeds = interval(smoothed[n, j].tolist())
                rows.append(AnglePoint(setting, to, w, seen.looks[n], round(mean, 3), round(low, 3), round(high, 3), seeds))
    return rows


def compared(setting: str, seen: Followed) -> list[Reading]:
    """Ours at the end beside every reading of the figure."""
    found = []
    for to, theirs in FIGURE.items():
        for w, degrees, ours in zip(SCALES, theirs, seen.end(to), strict=True):
            found.append(Reading(setting, to, w, degrees, *interval(ours.tolist())[:3], float(ours.std(ddof=1))))
    return found


def rms(seen: Followed) -> Array:
    """How far the angles at the end are from the figure's, root mean square over its 18 readings: [..., seeds] degrees."""
    off = np.concatenate([seen.end(to) - np.reshape(theirs, (-1, 1)) for to, theirs in FIGURE.items()], axis=-2)
    root: Array = np.sqrt((off**2).mean(-2))
    return root


def nearness(seen: Followed) -> Array:
    """How much nearer the figure is to a network than the others are on average, root mean squares over the readings: [seeds] degrees."""
    ends = np.concatenate([seen.end(to) for to in TO])  # [18, seeds]
    apart = np.sqrt(((ends[:, :, None] - ends[:, None, :]) ** 2).mean(0))
    nearer: Array = apart.sum(0) / (len(apart) - 1) - rms(seen)
    return nearer


def of_means(readings: Sequence[Reading]) -> dict[str, float]:
    """How far the means over networks are from the figure, and how many of its readings one network could have given."""
    return {
        "rms": math.sqrt(fmean((r.ours - r.figure) ** 2 for r in readings)),
        "within_two_sd": sum(abs(r.ours - r.figure) <= 2 * r.sd for r in readings),
        "readings": len(readings),
    }


def scan() -> list[dict[str, float | None]]:
    """How far other settings are from the figure; None where a network diverges."""
    table: list[dict[str, float | None]] = []
    for ratio in SCAN_RATIOS:
        lrs = np.reshape(SCAN_RATES, (-1, 1, 1, 1, 1))
        seen = follow(stack(SCAN_SEEDS, SCALES, ratio), examples(SCAN_SEEDS, EXAMPLES), LAST_LOOKS, lrs)
        for lr, off in zip(SCAN_RATES, rms(seen), strict=True):
            table.append({"ratio": ratio, "lr": lr, "rms": float(off.mean()) if np.isfinite(off).all() else None})
    return table


# ---------------------------------------------------------------------------------------------------------------- script


def raced() -> tuple[list[RacePoint], dict[str, Any], dict[str, dict[str, list[float | None]]]]:
    """The race: the figure's rows, its numbers by rule, and the values that are tested."""
    rows: list[RacePoint] = []
    found: dict[str, Any] = {}
    needed: dict[str, list[float | None]] = {}
    least = least_shallow(stack(SEEDS, (SMALL,)))[0]
    below: dict[str, list[float | None]] = {}
    for rule in GRID:
        lr = choose_lr(rule)
        errors, angles = race(rule, lr)
        rows += race_rows(rule, lr, errors, angles)
        needed[rule] = [float(np.argmax(e < 0.01)) if e.min() < 0.01 else None for e in errors.T]
        below[rule] = np.log10(least / errors[-1]).tolist()
        reached = [n for n in needed[rule] if n is not None]
        found[rule] = {
            "lr": lr,
            "examples_to_nse_0.01": interval(reached)[:3] if len(reached) == len(SEEDS) else None,
            "final_nse": 10 ** float(np.log10(errors[-1]).mean()),
        }
        if rule == "fa":
            found["angle"] = {f"example {i}": interval(angles[i].tolist())[:3] for i in (0, 10, 100, 1_000)}
    found["shallow"]["least_nse_for_its_W0"] = float(least.mean())
    return rows, found, {"decades below the best shallow": below, "examples to 1 %": needed}


def angle_values(seen: dict[str, Followed]) -> dict[str, dict[str, list[float]]]:
    """The tested values of the angles: metric -> group -> one a network."""
    written = seen["as written"]
    values = {f"angle to {to}": {f"w={w:g}": written.end(to)[j].tolist() for j, w in enumerate(SCALES)} for to in TO}
    values["below 90°"] = {"any w": (90 - written.end("backprop").max(0)).tolist()}
    values["nearness of the figure"] = {name: nearness(one).tolist() for name, one in seen.items()}
    return values


def say(found: dict[str, Any], readings: Sequence[Reading]) -> None:
    """Print the race, and ours beside each reading of the figure."""
    for rule in GRID:
        needed = found[rule]["examples_to_nse_0.01"]
        when = f"after {needed[0]:.0f} examples [{needed[1]:.0f}, {needed[2]:.0f}]" if needed else "never"
        print(f"{rule:8} lr {found[rule]['lr']:<6g} NSE 0.01 {when}; NSE {found[rule]['final_nse']:.2g} after {RACE}")
    print(f"shallow: the best W on its W0 would leave {found['shallow']['least_nse_for_its_W0']:.3f}")
    print("angle of Be to Wᵀe:", ", ".join(f"{when} {mean:.0f}°" for when, (mean, *_) in found["angle"].items()))
    for r in readings:
        print(f"{r.setting:10} to {r.to:15} w = {r.scale:<6g} figure {r.figure:.1f}°  ours {r.ours:.1f}° [{r.low:.1f}, {r.high:.1f}]")


def main() -> None:
    """Simulate, compare with the figure, test, draw, write figures/feedback_angles."""
    args = arguments(__doc__ or "")
    folder = args.figures / "feedback_angles"
    announce_cost(2)
    began = time.process_time()
    points, found, values = raced()
    seen = {
        name: follow(stack(SEEDS, SCALES, s.ratio), examples(SEEDS, EXAMPLES), LOOKS, s.lr) for name, s in SETTINGS.items()
    }  # fmt: skip
    readings = [r for name, one in seen.items() for r in compared(name, one)]
    say(found, readings)
    rows = [row for name, one in seen.items() for row in angle_rows(name, one)]
    save_figure(race_figure(points), points, folder, "loss")
    words = {name: f"{name}: W0 in ±w, W in ±{s.ratio:g}w, lr {s.lr:g}".replace("±1w", "±w") for name, s in SETTINGS.items()}
    save_figure(angle_figure(rows, readings, words), rows, folder, "angles")
    results = {
        "seeds": SEEDS,
        "race": {"w": SMALL, "examples": RACE, "lr_grids": GRID, "lr_chosen_on_seeds": TRIAL_SEEDS, "found": found},
        "settings": {name: s._asdict() for name, s in SETTINGS.items()},
        "examples": EXAMPLES, "end_is_the_last": LAST,
        "readings": [r._asdict() for r in readings],
        "agreement": {name: of_means([r for r in readings if r.setting == name]) for name in SETTINGS},
        "largest_final_nse": {name: float(one.nse[-1].max()) for name, one in seen.items()},
        "scan": {"seeds": SCAN_SEEDS, "rms": scan()},
        "values": {**values, **angle_values(seen)},
        "not_done": "node perturbation, the paper's fourth rule in the race",
        "cpu_minutes": round((time.process_time() - began) / 60, 2),
        **environment(),
    }  # fmt: skip
    results["versions"]["numpy"] = np.__version__
    report(TESTS, results)
    write_text(folder / "results.json", json.dumps(results, indent=2) + "\n")
    print(f"wrote {folder}")


if __name__ == "__main__":
    main()
