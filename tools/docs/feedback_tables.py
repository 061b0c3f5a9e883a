"""Tables of the pages on feedback and on certificates. Pure functions of the files in ``figures``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tools.docs.markdown import table
from tools.docs.stored import BLOCKS, DASH, FIGURES, half_width, number, results, rows_of
from tools.docs.verdict_tables import tests

HIDDEN = BLOCKS[:3]  # blocks that are certified


def _triple(row: dict[str, str]) -> tuple[float, float, float]:
    """Mean and interval of a row of a csv file."""
    return float(row["mean"]), float(row["low"]), float(row["high"])


def angle_readings() -> str:
    """Angles at the end: the reference study's figure beside both settings."""
    found = results("feedback_angles")
    reading = {(r["setting"], r["to"], r["scale"]): r for r in found["readings"]}
    scales = list(dict.fromkeys(r["scale"] for r in found["readings"]))
    lines = []
    for w in scales:
        line = [f"{w:g}"]
        for to in ("backprop", "pseudo-backprop"):
            line.append(f"{number(reading['inferred', to, w]['figure'], 1)}°")
            line += [f"{number(r['ours'], 1)} ± {number(r['sd'], 1)}°" for s in found["settings"] for r in (reading[s, to, w],)]
        lines.append(line)
    lines.append(["root mean square of 18 differences", "", *(_agreement(found, s) for s in found["settings"]), "", "", ""])
    return table(["w", *(f"{what}, {to}" for to in ("Wᵀe", "W⁺e") for what in ("figure", *found["settings"]))], lines)


def _agreement(found: dict[str, Any], setting: str) -> str:
    """How near a setting's means are to the figure."""
    near = found["agreement"][setting]
    return f"{number(near['rms'], 1)}°; {near['within_two_sd']} of {near['readings']} within 2 sd"


def angle_scan() -> str:
    """Distance from the figure by how much wider W begins than W0, and by learning rate."""
    rows = results("feedback_angles")["scan"]["rms"]
    value = {(r["ratio"], r["lr"]): r["rms"] for r in rows}
    ratios, lrs = (list(dict.fromkeys(r[key] for r in rows)) for key in ("ratio", "lr"))
    lines = [
        [f"±{ratio:g}w", *(f"{number(v, 1)}°" if (v := value[ratio, lr]) is not None else "diverges" for lr in lrs)] for ratio in ratios
    ]
    return table(["W begins in", *(f"rate {lr:g}" for lr in lrs)], lines)


def feedback_race() -> str:
    """The race of three rules on the linear network."""
    found = results("feedback_angles")["race"]["found"]
    lines = []
    for rule in ("bp", "fa", "shallow"):
        needed = found[rule]["examples_to_nse_0.01"]
        lines.append([f"`{rule}`", f"{found[rule]['lr']:g}", half_width(needed, 0) if needed else DASH, f"{found[rule]['final_nse']:.1g}"])
    return table(["rule", "learning rate", "examples to an error of 1 %", "error after 1,500"], lines)


def feedback_depth() -> str:
    """Test error of each rule by data and depth, with its learning rate."""
    cells = results("feedback_tables")["cells"]
    point = {(r["data"], r["rule"], int(r["depth"])): r for r in rows_of("feedback_tables/depth.csv")}
    rules = list(dict.fromkeys(c["rule"] for c in cells))
    rate = {(c["data"], c["rule"], c["depth"]): c["lr"] for c in cells}
    lines = []
    for data, depth in sorted({(c["data"], c["depth"]) for c in cells}):
        ours = [_triple(point[data, rule, depth]) for rule in rules]
        lines.append([data, depth, *(f"{half_width(v, 2)} ({rate[data, r, depth]:g})" for r, v in zip(rules, ours, strict=True))])
    return table(["data", "hidden layers", *(f"`{rule}`" for rule in rules)], lines)


def feedback_cosines() -> str:
    """Cosine of each rule's gradient with the true one in the lowest layer, by data and depth."""
    cells = results("feedback_tables")["cells"]
    rules = ("fa", "dfa", "usf")
    mean = {(c["data"], c["rule"], c["depth"]): c["cosine"].get("block1.linear") for c in cells}
    lines = [
        [data, depth, *(number(sum(v) / len(v)) if (v := mean[data, rule, depth]) else DASH for rule in rules)]
        for data, depth in sorted({(c["data"], c["depth"]) for c in cells})
    ]
    return table(["data", "hidden layers", *(f"`{rule}`" for rule in rules)], lines)


def n_star() -> str:
    """Points separated by rule and block, of classes and of dealt labels."""
    point = {(r["rule"], r["block"], r["labels"]): r for r in rows_of("certificates/n_star.csv")}
    rules = list(dict.fromkeys(rule for rule, _, _ in point))
    lines = []
    for rule in rules:
        cells = [_triple(point[rule, block, labels]) for labels in ("true", "dealt") for block in HIDDEN]
        name = "untrained" if rule == "shallow" else f"`{rule}`"
        lines.append([name, *(f"{number(m, 0)} [{number(low, 0)}, {number(high, 0)}]" for m, low, high in cells)])
    return table(["", *HIDDEN, *(f"{block}, dealt" for block in HIDDEN)], lines)


def regret() -> str:
    """Regret of gradient descent after 128 rounds, beside its bound, and the largest share of any bound."""
    rows = [r for r in rows_of("certificates/regret.csv") if r["rounds"] == "128"]
    share = results("certificates")["values"]["largest share of the bound"]
    lines = []
    for rule, values in share.items():
        mine = {r["block"]: _triple(r) for r in rows if r["rule"] == rule}
        name = "untrained" if rule == "shallow" else f"`{rule}`"
        lines.append([name, *(half_width(mine[block], 1) for block in HIDDEN), number(float(rows[0]["bound"]), 0), number(max(values), 2)])
    return table(["", *(f"{block}, nats" for block in HIDDEN), "bound, nats", "largest share of a bound"], lines)


def certificate_counts() -> str:
    """How many certificates were asked for, and how many decided nothing."""
    found = results("certificates")
    asked, undecided = found["certificates"], found["undecided_certificates"]
    return table(["certificates", "undecided", "seeds"], [[f"{asked:,}", undecided, found["seeds"]]])


OF_STUDY: dict[str, dict[str, Callable[[], str]]] = {
    "feedback_angles": {"angle-readings": angle_readings, "angle-scan": angle_scan, "feedback-race": feedback_race},
    "feedback_tables": {"feedback-depth": feedback_depth, "feedback-cosines": feedback_cosines},
    "certificates": {"n-star": n_star, "regret": regret, "certificate-counts": certificate_counts},
}
FEEDBACK_TABLES: dict[str, Callable[[], str]] = {}
for _study, _tables in OF_STUDY.items():
    if (FIGURES / _study / "results.json").exists():  # a study that has not been run yet leaves its tables empty
        FEEDBACK_TABLES |= {**_tables, f"tests-{_study}": partial(tests, _study)}
