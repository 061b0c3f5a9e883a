"""Predicting what you already know helps: does predicting one view from another save labels, and how independent must the views be?

Claim (Lee, Lei, Saunshi & Zhuo 2021, arXiv 2008.01064): where two views are independent given the label, a linear layer on ψ, learned
without labels to predict X2 from X1, needs some k labels where one on X1 needs some d1; its error grows with the number k of classes and
with ε_CI, the conditional dependence of the views. Simulated as in their figure 1: k Gaussians in 50 and 40 dimensions, centres uniform on
[0, 10), X2 = (1 − α) X̂2 + α X1; ψ from 4,000 pairs, 1,000 labels, 30 trials, each with centres of its own. Errors are exact (by moments)
for everything linear in X1, and on 4,000 fresh samples for the rest.

- panels: (a) error over k, (b) over ε_CI for the linear ψ; (c), (d) the same for ψ* = E[X2 | X1], beside linear and RBF ridge regression.
- labels: excess risk over the number of labels for five α: on X1, on ψ, on ψ's k − 1 principal components, on ψ from endless pairs, and on
  the oracle E^L[Y | X1]. Whatever is learned from 4,000 pairs has all d2 = 40 directions, by noise; k is gained only without it.

Error is E‖one-hot Y − prediction‖², summed over classes. "Linear" is judged by the share of a trial's variance that a straight line
explains: at least 0.98, which a parabola from its vertex (15/16) does not reach. What a best linear predictor leaves is about
(k − 1) / (d1 s² (1 − k/d1)) with s² the centres' variance, so k is also judged where it is small beside d1, and ε_CI also by the power
with which it acts: Theorem 4.2 bounds the excess risk by its square. (Both were added after a look at the first results, so they are
further tests.) Primary tests: predicting-sample-complexity, X1 needs twice the labels or more for what ψ's components reach with 100;
predicting-linear, a straight line in ε_CI explains 0.98 of the error, and one in k; both must hold (k since 2026-12-01, when all of these
values were known). Thirty trials see a twentieth of their spread and less.

    python -m analyses.predicting          # two and a half minutes of one core
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.model_selection import GridSearchCV, ShuffleSplit

from analyses.figures.drawing import title_where
from analyses.figures.predicting_figures import (
    DEPENDENT,
    EXACT,
    KERNEL,
    LABELS,
    ORACLE,
    PANELS,
    PSI,
    RAW,
    TOP,
    UNIVERSAL,
    Point,
    label_figure,
    panel_figure,
)
from analyses.training.cost import announce_cost
from analyses.training.study import arguments, publish
from analyses.verdicts.decision import Test, all_of, details
from analyses.verdicts.wording import report
from gradlens.analysis.theory.conditional_dependence import (
    AffineArrays,
    Array,
    Sample,
    ViewMixture,
    conditional_dependence,
    fit_affine,
    principal,
)
from gradlens.cli.progress import Display
from gradlens.reporting.statistics import interval
from gradlens.reporting.style import save_figure
from gradlens.runtime.csv_tables import read_table
from gradlens.runtime.text_files import read_json


class Sizes(NamedTuple):
    """What is simulated."""

    trials: int = 30
    d1: int = 50
    d2: int = 40
    pairs: int = 4000  # n1, unlabelled
    labels: int = 1000  # n2 of the panels
    tested: int = 4000
    ks: tuple[int, ...] = (2, 5, 10, 15, 20, 25, 30)
    few_classes: int = 15  # up to which k is small beside d1
    k: int = 10  # where k is fixed
    alphas: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    sweep_alphas: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 1.0)
    sweep: tuple[int, ...] = (50, 100, 200, 500, 1000, 2000, 5000)
    slope_from: int = 200  # labels, where the slope over the number of labels is taken from
    few: tuple[int, ...] = (100, 200)  # labels at which ψ is to be better


Values = dict[tuple[str, str, float], list[float]]  # panel, label, k or α or labels -> one number a trial


def mixture(size: Sizes, k: int, alpha: float, trial: int) -> ViewMixture:
    """A trial's distribution: for every α the same centres and draws."""
    return ViewMixture.random(k, alpha, size.d1, size.d2, seed=trial)


def learned(x: Array, sample: Sample, k: int) -> AffineArrays:
    """The downstream layer on features of a sample."""
    return fit_affine(x, sample.onehot(k))


def kernel_ridge(sample: Sample, k: int) -> Callable[[Array], Array]:
    """RBF kernel ridge regression of the one-hot label; width and ridge are chosen on a quarter of the sample, then all of it is fitted."""
    width = 1 / float(np.median(euclidean_distances(sample.x1, squared=True)))
    grid = {"gamma": [width / 3, width, 3 * width], "alpha": [1e-4, 1e-2]}
    split = ShuffleSplit(1, test_size=0.25, random_state=0)
    found = GridSearchCV(KernelRidge(kernel="rbf"), grid, scoring="neg_mean_squared_error", cv=split)
    predict: Callable[[Array], Array] = found.fit(sample.x1, sample.onehot(k)).predict
    return predict


def error_of(predicted: Array, sample: Sample, k: int) -> float:
    """Mean of ‖one-hot y − prediction‖² over a sample."""
    return float(((sample.onehot(k) - predicted) ** 2).sum(1).mean())


def linear_error(m: ViewMixture, size: Sizes, trial: int) -> float:
    """Panels a and b: the linear ψ of a trial's pairs, then its labels."""
    pairs, labelled = m.draw(size.pairs, trial, "pairs"), m.draw(size.labels, trial, "labels")
    psi = fit_affine(pairs.x1, pairs.x2)
    return m.mse(learned(psi(labelled.x1), labelled, m.k).after(psi))


def universal_error(m: ViewMixture, size: Sizes, trial: int) -> float:
    """Panels c and d: ψ* in closed form, then the trial's labels."""
    labelled, tested = m.draw(size.labels, trial, "labels"), m.draw(size.tested, trial, "test")
    return error_of(learned(m.psi(labelled.x1), labelled, m.k)(m.psi(tested.x1)), tested, m.k)


def baselines(m: ViewMixture, size: Sizes, trial: int) -> dict[str, float]:
    """The errors without a pretext task; they do not depend on α."""
    labelled, tested = m.draw(size.labels, trial, "labels"), m.draw(size.tested, trial, "test")
    return {
        RAW: m.mse(learned(labelled.x1, labelled, m.k)),
        KERNEL: error_of(kernel_ridge(labelled, m.k)(tested.x1), tested, m.k),
    }


def panels(size: Sizes, trial: int) -> Iterator[tuple[str, str, float, float]]:
    """One trial's (panel, label, k or α, error); the rows "eps a" and so on are conditional dependences."""
    for k in size.ks:
        independent, dependent = (mixture(size, k, alpha, trial) for alpha in (0.0, 0.5))
        beside = baselines(independent, size, trial)
        yield "a", PSI, k, linear_error(independent, size, trial)
        yield "a", RAW, k, beside[RAW]
        yield "c", UNIVERSAL, k, universal_error(independent, size, trial)
        yield "c", DEPENDENT, k, universal_error(dependent, size, trial)
        yield from (("c", label, k, beside[label]) for label in (RAW, KERNEL))
    beside = baselines(mixture(size, size.k, 0.0, trial), size, trial)
    for alpha in size.alphas:
        m = mixture(size, size.k, alpha, trial)
        pairs = m.draw(size.pairs, trial, "pairs")
        found = conditional_dependence(pairs.x1, pairs.x2, pairs.y)
        yield "b", "corrected", alpha, found.corrected
        yield "b", "uncorrected", alpha, found.eps
        yield "b", "exact", alpha, m.eps_linear()
        yield "d", "exact", alpha, m.eps_universal(pairs.x1)
        yield "b", PSI, alpha, linear_error(m, size, trial)
        yield "d", UNIVERSAL, alpha, universal_error(m, size, trial)
        yield "b", RAW, alpha, beside[RAW]
        yield from (("d", label, alpha, beside[label]) for label in (RAW, KERNEL))


def sweep(size: Sizes, trial: int) -> Iterator[tuple[str, str, float, float]]:
    """One trial's (α, label, number of labels, excess risk)."""
    for alpha in size.sweep_alphas:
        m = mixture(size, size.k, alpha, trial)
        pairs = m.draw(size.pairs, trial, "pairs")
        psi = fit_affine(pairs.x1, pairs.x2)
        features = {PSI: psi, TOP: principal(psi, pairs.x1, m.k - 1), EXACT: m.linear_pretext(), ORACLE: m.best_linear()}
        for n in size.sweep:
            labelled = m.draw(n, trial, "labels")
            yield f"α = {alpha:g}", RAW, n, m.excess_risk(learned(labelled.x1, labelled, m.k))
            for label, f in features.items():
                yield f"α = {alpha:g}", label, n, m.excess_risk(learned(f(labelled.x1), labelled, m.k).after(f))


def simulated(size: Sizes) -> Values:
    """All trials."""
    found: Values = {}
    with Display(quiet=False) as display:
        report = display.count("trials")
        for trial in range(size.trials):
            report(trial, size.trials, "")
            for part in (panels, sweep):
                for panel, label, x, value in part(size, trial):
                    found.setdefault((panel, label, float(x)), []).append(value)
    return found


# --------------------------------------------------------------------------------------------------------------- verdicts


def by_trial(values: Values, panel: str, label: str) -> tuple[Array, Array]:
    """The x and the values [trials, x] of one line."""
    xs = sorted(x for p, name, x in values if (p, name) == (panel, label))
    return np.array(xs), np.array([values[panel, label, x] for x in xs]).T


def straight(x: Array, y: Array) -> float:
    """R² of a straight line."""
    return float(np.corrcoef(x, y)[0, 1] ** 2)


def slope(x: Array, y: Array) -> float:
    """Of log y over log x."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def growth(x: Array, y: Array) -> float:
    """The power of x with which y − y(0) grows, between a fifth and half of x's range; NaN where it does not."""
    part = (x >= 0.199 * x[-1]) & (x <= 0.501 * x[-1])
    above = y[part] - y[0]
    return slope(x[part], above) if (above > 0).all() else math.nan


def crossover(n: Array, raw: Array, psi: Array) -> float:
    """The number of labels from which on X1 has the smaller excess risk, interpolated; the ends of the range where that lies outside."""
    gap = np.log(raw) - np.log(psi)
    better = np.flatnonzero(gap > 0)  # ψ is better here
    if not len(better):
        return float(n[0])
    last = better[-1]
    if last == len(n) - 1:
        return float(n[-1])
    share = gap[last] / (gap[last] - gap[last + 1])
    return float(n[last] * (n[last + 1] / n[last]) ** share)


def labels_for(risk: float, n: Array, raw: Array) -> float:
    """How many labels X1 needs for an excess risk, interpolated where the curve first falls below it; the range's end if never."""
    below = np.flatnonzero(raw <= risk)
    if not len(below) or below[0] == 0:
        return float(n[-1] if not len(below) else n[0])
    i = below[0]
    share = np.log(raw[i - 1] / risk) / np.log(raw[i - 1] / raw[i])
    return float(n[i - 1] * (n[i] / n[i - 1]) ** share)


def crossovers(values: Values, size: Sizes, label: str) -> dict[float, list[float]]:
    """α -> each trial's number of labels from which on X1 is better."""
    found = {}
    for alpha in size.sweep_alphas:
        n, raw = by_trial(values, f"α = {alpha:g}", RAW)
        _, psi = by_trial(values, f"α = {alpha:g}", label)
        found[alpha] = [crossover(n, *pair) for pair in zip(raw, psi, strict=True)]
    return found


STRAIGHT, POWER, FALL, LESS = "R² of a straight line", "power of growth", "exponent of the excess risk over labels", "% less excess risk"
NEEDED, GAIN, EARLIER = "labels X1 needs, times as many", "error of ridge − that of ψ*", "halvings of X1's crossover"
CLASSES, FEW_CLASSES = "linear ψ over k", "linear ψ over few k"
LINE, LINE_STAR = "linear ψ over ε_CI", "ψ* over ε_CI"


def by_seed(values: Values, size: Sizes) -> dict[str, dict[str, list[float]]]:
    """What is tested, one number a trial."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in (STRAIGHT, POWER, FALL, LESS, NEEDED, GAIN, EARLIER)}
    ks, errors = by_trial(values, "a", PSI)
    small = ks <= size.few_classes
    found[STRAIGHT][CLASSES] = [straight(ks, e) for e in errors]
    found[STRAIGHT][FEW_CLASSES] = [straight(ks[small], e[small]) for e in errors]
    for panel, label, group in (("b", PSI, LINE), ("d", UNIVERSAL, LINE_STAR)):
        pairs = list(zip(by_trial(values, panel, "exact")[1], by_trial(values, panel, label)[1], strict=True))
        found[STRAIGHT][group] = [straight(x, e) for x, e in pairs]
        found[POWER][group] = [growth(x, e) for x, e in pairs]
    n, raw = by_trial(values, "α = 0", RAW)
    late = n >= size.slope_from
    for label in (EXACT, PSI, TOP):
        _, psi = by_trial(values, "α = 0", label)
        found[FALL][label] = [slope(n[late], er[late]) + 1 for er in psi]
        for few in size.few if label != EXACT else ():
            at = list(n).index(few)
            found[LESS][f"{label}, {few} labels"] = list(100 * (1 - psi[:, at] / raw[:, at]))
    _, top = by_trial(values, "α = 0", TOP)
    at = list(n).index(size.few[0])
    found[NEEDED][TOP] = [labels_for(er[at], n, r) / size.few[0] for er, r in zip(top, raw, strict=True)]
    errors, ridge = (by_trial(values, "c", label)[1] for label in (UNIVERSAL, KERNEL))
    found[GAIN]["mean over k"] = list((ridge - errors).mean(1))
    for label in (PSI, TOP):
        crossing = crossovers(values, size, label)
        for a, b in pairwise(alpha for alpha in size.sweep_alphas if alpha <= 0.5):
            found[EARLIER][f"{label}, α = {a:g} to {b:g}"] = list(np.log2(np.array(crossing[a]) / np.array(crossing[b])))
    return {quantity: {group: [float(v) for v in each] for group, each in groups.items()} for quantity, groups in found.items()}


def _test(
    name: str,
    says: str,
    metric: str,
    group: str,
    unit: str,
    primary_of: str = "",
    at_least: float | None = None,
    within: float | None = None,
) -> Test:
    return Test(name, says, metric, {group: 1.0}, unit, at_least, within, primary_of, repeats="trial")


def _straight(name: str, says: str, group: str) -> Test:
    """A straight line explains what a parabola's vertex would leave."""
    return _test(name, f"{says}: R² of a straight line", STRAIGHT, group, "", at_least=0.98)


FULL = Sizes()
TESTS: tuple[Test, ...] = (
    _test(
        "pretext-saves-labels", f"at α = 0, labels that X1 needs for the excess risk of {TOP} at {FULL.few[0]} labels", NEEDED, TOP,
        "times as many", "predicting-sample-complexity", at_least=2,
    ),
    all_of(
        "linear-in-both", "error of the linear ψ: a straight line in ε_CI and in k",
        _straight("linear-in-dependence", "error of the linear ψ over ε_CI", LINE),
        _straight("linear-in-classes", "error of the linear ψ over all k", CLASSES),
        primary_of="predicting-linear", seen=30,
    ),
    *details(
        "predicting-linear",
        _straight("linear-in-dependence-star", "error of ψ* over ε_CI", LINE_STAR),
        _test(
            "power-of-dependence", "power with which the error of the linear ψ grows above that at 0 (1: linear, 2: square)", POWER, LINE,
            "", at_least=1.5,
        ),
        _test("power-of-dependence-star", "power with which the error of ψ* grows above that at 0", POWER, LINE_STAR, "", at_least=1.5),
        _straight("linear-in-few-classes", f"error of the linear ψ over k ≤ {FULL.few_classes}", FEW_CLASSES),
    ),
    *details(
        "predicting-sample-complexity",
        *(
            _test(
                f"falls-{i}", f"at α = 0, from {FULL.slope_from} labels, exponent of the excess risk over labels + 1: {label}", FALL, label,
                "", within=0.2,
            )
            for i, label in enumerate((EXACT, PSI, TOP))
        ),
        *(
            _test(
                f"less-{i}-{few}", f"at α = 0 and {few} labels, excess risk below that of X1: {label}", LESS, f"{label}, {few} labels", "%",
                at_least=0,
            )
            for few in FULL.few
            for i, label in enumerate((PSI, TOP))
        ),
        _test("star-above-ridge", "at α = 0, error of RBF ridge on X1 − that of a linear layer on ψ*", GAIN, "mean over k", "", at_least=0),
        *(
            _test(
                f"earlier-{i}-{b:g}", f"X1 overtakes {label} with fewer labels at α = {b:g} than at {a:g}", EARLIER,
                f"{label}, α = {a:g} to {b:g}", "halvings", at_least=0,
            )
            for i, label in enumerate((PSI, TOP))
            for a, b in pairwise(alpha for alpha in FULL.sweep_alphas if alpha <= 0.5)
        ),
    ),
)  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------- figures


def points(values: Values) -> list[Point]:
    """The lines' means over trials; in panels b and d at the mean conditional dependence."""
    rows = []
    for (panel, label, x), trials in values.items():
        if label not in LABELS:
            continue
        at = {"b": "corrected", "d": "exact"}.get(panel)
        error = float(np.std(trials, ddof=1) / np.sqrt(len(trials))) if len(trials) > 1 else float("nan")
        where = float(np.mean(values[panel, at, x])) if at else x
        rows.append(Point(panel, label, where, float(np.mean(trials)), error, len(trials)))
    return rows


# ------------------------------------------------------------------------------------------------------------------- main


def dependence_table(values: Values, size: Sizes) -> list[dict[str, Any]]:
    """ε_CI of the linear class by α: exact, estimated, estimated and corrected; means and intervals over trials."""
    return [
        {"alpha": alpha, **{kind: interval(values["b", kind, alpha])[:3] for kind in ("exact", "uncorrected", "corrected")},
         "universal": interval(values["d", "exact", alpha])[:3]}
        for alpha in size.alphas
    ]  # fmt: skip


def growth_title(tested: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """What panels a and b say: R² of a line over few classes, power of the dependence."""
    r2, power = fmean(tested[STRAIGHT][FEW_CLASSES]), fmean(tested[POWER][LINE])
    return title_where(
        r2 >= 0.98 and 1.5 <= power <= 2.5,
        "Error grows in proportion to few classes, and about as the square of the views' dependence",
        "Error over classes and over the views' dependence",
    )


def labels_title(tested: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """What the sweep says: X1 needs more labels than ψ's components, and overtakes the sooner the more dependent the views."""
    return title_where(
        fmean(tested[NEEDED][TOP]) > 1 and all(fmean(earlier) > 0 for earlier in tested[EARLIER].values()),
        "A pretext task saves labels while the views are independent; the more dependent, the sooner it does not",
        "Excess risk over labels, by the views' dependence",
    )


def draw(rows: Sequence[Point], size: Sizes, tested: Mapping[str, Mapping[str, Sequence[float]]], folder: Path) -> None:
    """Write both figures with their tables, under what the tested values say."""
    panelled = [p for p in rows if p.panel in PANELS]
    save_figure(panel_figure(rows, size.k, size.pairs, size.labels, growth_title(tested)), panelled, folder, "panels")
    swept = [p for p in rows if p.panel.startswith("α")]
    save_figure(label_figure(rows, size.sweep_alphas, size.k, size.pairs, labels_title(tested)), swept, folder, "labels")


def reported(size: Sizes, args: Any) -> dict[str, Any]:
    """Simulate, judge, draw; write figures/predicting."""
    began = time.process_time()
    values = simulated(size)
    rows = points(values)
    table = dependence_table(values, size)
    for row in table:
        numbers = ", ".join(f"{kind} {row[kind][0]:.3f}" for kind in ("exact", "uncorrected", "corrected", "universal"))
        print(f"ε_CI at α = {row['alpha']:g}: {numbers}")
    crossing = {label: {f"{a:g}": interval(n)[:3] for a, n in crossovers(values, size, label).items()} for label in (PSI, TOP)}
    tested = by_seed(values, size)
    draw(rows, size, tested, args.figures / "predicting")
    results = {
        "settings": {**size._asdict(), "spread": 10.0, "error": "E|one-hot Y - prediction|^2, summed over classes"},
        "values": tested,
        "dependence": table,
        "labels_from_which_X1_is_better": {**crossing, "range": [size.sweep[0], size.sweep[-1]]},
        "cpu_minutes": round((time.process_time() - began) / 60, 2),
    }
    if size._replace(trials=FULL.trials) == FULL:  # the tests are of these sizes
        report(TESTS, results)
    publish("predicting", [], args, results, figures=False)
    return results


def main() -> None:
    """Simulate 30 trials, judge the claims, write figures/predicting."""
    args = arguments(__doc__ or "", numbers={"trials": Sizes().trials}, redraw=True)
    if args.redraw:
        folder = args.figures / "predicting"
        rows = [row for name in ("panels", "labels") for row in read_table(folder / f"{name}.csv", Point)]
        draw(rows, FULL, read_json(folder / "results.json")["values"], folder)
        return
    announce_cost(2.5 * args.trials / FULL.trials)
    reported(Sizes(trials=args.trials), args)


if __name__ == "__main__":
    main()
