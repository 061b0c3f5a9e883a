"""The sections of the page that show what the commands about finished runs have stored: probes, memorization, online probes, the doctor."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gradlens.reporting.aggregate import interval
from gradlens.reporting.html.charts import compact, line_chart
from gradlens.reporting.html.notices import Notice
from gradlens.reporting.html.parts import ReportContext, ReportSection, Table, TableCell, mean_cell, number_cell, with_thousands
from gradlens.reporting.html.stored import (
    Cells,
    Result,
    block_cells_table,
    gathered,
    last,
    lines_of,
    pooled,
    protocol,
    result_of,
    rows_of,
    stored,
    value,
)
from gradlens.reporting.html.wording import listed, short_number
from gradlens.training.run_directory import Run


def separability(held: ReportContext) -> ReportSection:
    """What a linear probe reads on every block, beside its controls; whether the classes are strictly separable."""
    section = ReportSection("separability", "Linear separability")
    results = stored(held, section, "probe", "gradlens probe {}")
    if not results:
        return section

    def accuracy(network: str, labels: str, half: str = "test") -> Cells:
        def of(_: Run, result: Result) -> Any:
            rows = [r for r in rows_of(result, "rows", "block", "network") if r["network"] == network and r.get("labels", "true") == labels]
            return [(str(r["block"]), value(r, half)) for r in last(rows) if half in r]

        return gathered(held, results, of)

    begun = [path for path, result in results.items() if not any(r["network"] == "trained" for r in rows_of(result, "rows", "network"))]
    if begun:
        paths = " ".join(shlex.quote(str(path)) for path in begun)
        section.missing.append(f"Interrupted before the trained network was probed: `gradlens probe {paths}` goes on.")
    trained = accuracy("trained", "true")
    blocks = {place: place for _, place in trained}
    pixels = accuracy("pixels", "true")
    untrained = accuracy("untrained", "true")
    drawn = lines_of(held, trained) + pooled(untrained, "untrained network")
    if reached := [v for values in pixels.values() for v in values if math.isfinite(v)]:
        drawn.append(
            {"label": None, "name": "raw pixels", "x": list(blocks), "y": [compact(float(np.mean(reached)))] * len(blocks), "dash": "dash"}
        )
    drawn += pooled(accuracy("trained", "permuted"), "permuted labels", "longdashdot")
    if blocks:
        section.text.append(
            "Held-out accuracy of a multinomial logistic regression on each block's frozen activations. Grey: the same on the untrained"
            " network (dotted), on raw pixels (dashed) and with permuted labels (dash-dotted)."
        )
        section.charts.append(line_chart("linear probe, held-out accuracy", "block", "accuracy (%)", drawn, percent=True, categories=True))
        columns = {
            "held-out %": trained, "training %": accuracy("trained", "true", "train"), "untrained network, held-out %": untrained,
            "permuted labels, training %": accuracy("trained", "permuted", "train"),
        }  # fmt: skip
        note = f"Raw pixels: {short_number(100 * float(np.mean(reached)), 1)} % held-out." if reached else ""
        note += " What permuted labels reach in training is how much of any labelling so many features can hold."
        section.tables.append(
            block_cells_table(held, "Linear probe", {name: (cells, 1, 100) for name, cells in columns.items()}, note.strip())
        )

    def over_time(_: Run, result: Result) -> Any:
        rows = [
            r
            for r in rows_of(result, "rows", "block", "network", "step")
            if r.get("labels", "true") == "true" and r["network"] == "trained"
        ]
        return [((str(r["block"]), int(r["step"])), value(r, "test")) for r in rows if "test" in r]

    steps = gathered(held, results, over_time)
    if len({step for _, (_, step) in steps}) > 1:
        for block in blocks:
            mine = {(label, step): values for (label, (b, step)), values in sorted(steps.items(), key=lambda c: c[0][1][1]) if b == block}
            section.charts.append(line_chart(f"linear probe on {block}", "updates", "accuracy (%)", lines_of(held, mine), percent=True))
    section.tables += [t for t in [_certificates(held, results)] if t]
    protocol(section, results.values())
    return section


def _certificates(held: ReportContext, results: Mapping[Path, Result]) -> Table | None:
    rows = []
    for label, group in held.groups.items():
        for run in group:
            for r in rows_of(results.get(run.path, {}), "separability", "block", "verdict"):
                low, high = (r.get("gap") or [None, None])[:2]
                gap = "–" if low is None or high is None or r["verdict"] == "not separable" else f"{low:.3g} to {high:.3g}"
                words = [str(r.get(key, "–")) for key in ("block", "network", "labels")]
                rows.append(
                    [
                        held.named(label), TableCell(str(run.config.seed), run.config.seed), *(TableCell(w, w) for w in words),
                        TableCell(str(r["verdict"]), str(r["verdict"])), TableCell(gap, compact(value(r, "margin"))),
                        *(TableCell(with_thousands(value(r, key)), compact(value(r, key))) for key in ("n", "features", "cover_capacity")),
                        number_cell(value(r, "n_per_feature")),
                    ]
                )  # fmt: skip
    columns = ["method", "seed", "block", "network", "labels", "verdict", "largest margin between", "n", "d", "Cover's capacity", "n/d"]
    note = (
        "Few points in many dimensions are separable whatever their labels: below Cover's capacity, 2 (d + 1) points, most two-class"
        " labellings are."
    )
    return Table("Strictly linearly separable?", columns, rows, note) if rows else None


def memorization(held: ReportContext) -> ReportSection:
    """How fast and how far random labels are fitted."""
    section = ReportSection("memorization", "Memorization of random labels")
    results = stored(held, section, "memorization", "gradlens memorize {}")
    if not results:
        if not any(run.config.label_noise and run.config.evaluate_train for run in held.runs):
            section.missing = [said for said in section.missing if not said.startswith("Not measured")]
            section.missing += ["No run here was trained on random labels; `gradlens memorize METHOD…` trains and measures such runs."]
        return section
    curve = gathered(held, results, lambda _, r: [(int(e), float(a)) for e, a in r.get("curve") or [] if a is not None])
    ordered = dict(sorted(curve.items(), key=lambda cell: cell[0][1]))
    drawn = lines_of(held, ordered)
    if chance := [value(r, "chance") for r in results.values() if math.isfinite(value(r, "chance"))]:
        ends = [min(p for _, p in curve), max(p for _, p in curve)] if curve else []
        drawn.append({"label": None, "name": "chance", "x": ends, "y": [compact(chance[0])] * len(ends), "dash": "dash"})
    section.charts.append(line_chart("training images, labels as given, in evaluation mode", "epoch", "accuracy (%)", drawn, percent=True))
    noise = listed(dict.fromkeys(f"{run.config.label_noise:g}" for run in held.runs if run.path in results))
    section.text.append(
        f"Share of labels drawn at random: {noise}. Accuracy is that of the training images with the labels they were given."
    )
    rows = []
    for label, group in held.groups.items():
        mine = [results[run.path] for run in group if run.path in results]
        if not mine:
            continue
        cells = [held.named(label), *(mean_cell(interval(value(r, n) for r in mine), 1, 100) for n in ("area", "final", "best"))]
        for name in ("epochs_to_50", "epochs_to_90"):
            reached = [v for r in mine if math.isfinite(v := value(r, name))]
            some = f" ({len(reached)} of {len(mine)})" if 0 < len(reached) < len(mine) else ""
            mean = interval(reached).mean
            cells.append(TableCell(short_number(mean, 1) + some if reached else "not reached", compact(mean)))
        own = value(mine[0], "own_parameters")
        rows.append(
            [*cells, mean_cell(interval(value(r, "held_out", "final") for r in mine), 1, 100), TableCell(with_thousands(own), compact(own))]
        )
    columns = ["method", "area %", "final %", "best %", "epochs to 50 %", "epochs to 90 %", "held-out %", "own parameters"]
    note = (
        "Area: the mean accuracy over epochs. Own parameters: of the rule's heads and synthesisers; what heads can hold is a confounder"
        " of memorization."
    )
    section.tables.append(Table("Memorized", columns, rows, note))
    for name, words in (
        ("corrupted_noisy", "changed labels, as given"), ("corrupted_true", "changed labels, the true ones"),
        ("clean", "labels that were kept"), ("held_out", "held-out images"),
    ):  # fmt: skip
        probed = gathered(held, results, lambda _, r, n=name: [(str(b["block"]), value(b, n)) for b in rows_of(r, "blocks", "block")])
        plain = gathered(
            held, results, lambda _, r, n=name: [(str(b["block"]), value(b, "untrained", n)) for b in rows_of(r, "blocks", "block")]
        )
        if probed:
            both = lines_of(held, probed) + pooled(plain, "untrained network")
            section.charts.append(line_chart(f"linear probe: {words}", "block", "accuracy (%)", both, percent=True, categories=True))
    protocol(section, results.values())
    return section


def online(held: ReportContext) -> ReportSection:
    """Regret of the online probes."""
    section = ReportSection("online", "Online probe and its regret")
    results = stored(held, section, "online", "gradlens train … --online-probe")
    if not results:
        return section
    section.text.append(
        "A linear learner on each block, updated every step: its cumulative loss minus that of the best fixed probe in hindsight (regret),"
        " and the bound of theory (dotted). Regret at or below zero is not on a log axis; the table has it."
    )

    def of(name: str, block: str, learner: str) -> Cells:
        def values(_: Run, result: Result) -> Any:
            rows = rows_of(result, "rows", "block", "learner", "rounds", name)
            return [(int(r["rounds"]), value(r, name)) for r in rows if (r["block"], r["learner"]) == (block, learner)]

        return gathered(held, results, values)

    kinds = dict.fromkeys((str(r["learner"]), str(r["block"])) for x in results.values() for r in rows_of(x, "rows", "block", "learner"))
    rows = []
    for learner, block in sorted(kinds, key=lambda kind: list(dict.fromkeys(name for name, _ in kinds)).index(kind[0])):
        regret, bound = of("regret", block, learner), of("bound", block, learner)
        drawn = lines_of(held, _positive(regret)) + lines_of(held, _positive(bound), name="bound", dash="dot")
        section.charts.append(line_chart(f"{learner} on {block}", "rounds", "regret", drawn, log=True, log_x=True))
        loss, best = of("loss", block, learner), of("best_in_hindsight", block, learner)
        for label in held.groups:
            rounds = max((t for name, t in regret if name == label), default=0)
            if rounds:
                at = (label, rounds)
                each = [mean_cell(interval(v / rounds for v in c.get(at, [])), 3) for c in (loss, best)]
                total = [mean_cell(interval(c.get(at, [])), 2) for c in (regret, bound)]
                rows.append(
                    [
                        held.named(label),
                        TableCell(block, block),
                        TableCell(learner, learner),
                        TableCell(with_thousands(rounds), rounds),
                        *each,
                        *total,
                    ]
                )
    columns = ["method", "block", "learner", "rounds", "loss a round", "best fixed probe a round", "regret", "bound"]
    section.tables.append(Table("After the last round", columns, rows))
    return section


def _positive(cells: Cells) -> Cells:
    return {key: [v if v > 0 else math.nan for v in values] for key, values in cells.items()}


def _findings(held: ReportContext, results: Mapping[Path, Result]) -> list[tuple[str, Run, Mapping[str, Any]]]:
    """(label, run, finding) of every finding, the wrong ones first."""
    found = [
        (label, run, finding)
        for label, group in held.groups.items()
        for run in group
        for finding in rows_of(results.get(run.path, {}), "findings", "check", "severity")
    ]
    return sorted(found, key=lambda row: row[2]["severity"] != "wrong")


def doctor(held: ReportContext) -> ReportSection:
    """What `gradlens doctor` found."""
    section = ReportSection("doctor", "What the doctor found")
    results = stored(held, section, "doctor", "gradlens doctor {}")
    if not results:
        return section
    found = _findings(held, results)
    ill = {run.path for _, run, _ in found}
    well = [
        label for label, group in held.groups.items() if any(r.path in results for r in group) and not any(r.path in ill for r in group)
    ]
    wrong = sum(finding["severity"] == "wrong" for *_, finding in found)
    section.text.append(
        f"{len(results)} run{'s' * (len(results) != 1)} examined: {wrong or 'nothing'} wrong, {len(found) - wrong or 'nothing'} to watch."
        + (f" Nothing was found in {listed(well)}." if well else "")
    )
    rows = []
    for label, run, f in found:
        step = value(f, "step")
        words = [TableCell(str(f.get(key, "–")), str(f.get(key, "–")), words=True) for key in ("evidence", "threshold", "advice")]
        rows.append(
            [
                held.named(label), TableCell(str(run.config.seed), run.config.seed), TableCell(str(f["severity"]), str(f["severity"])),
                TableCell(str(f["check"]), str(f["check"])), TableCell(str(f.get("where", "–")), str(f.get("where", "–"))),
                TableCell(with_thousands(step), compact(step)), *words,
            ]
        )  # fmt: skip
    if rows:
        columns = ["method", "seed", "severity", "check", "where", "step", "seen", "wanted", "advice"]
        section.tables.append(Table("Findings", columns, rows))
    unmade: dict[str, None] = {}
    for result in results.values():
        unmade |= dict.fromkeys(f"{name} ({why})" for name, why in (result.get("unmade") or {}).items())
    if unmade:
        section.missing.append(f"Checks that could not be made for some runs: {'; '.join(unmade)}.")
    return section


def wrong(held: ReportContext) -> list[Notice]:
    """What the doctor calls wrong, for the verdict."""
    results = {run.path: result for run in held.runs if (result := result_of(run, "doctor"))}
    of: dict[str, dict[str, None]] = {}
    for label, _, finding in _findings(held, results):
        if finding["severity"] == "wrong":
            of.setdefault(label, {})[str(finding["check"])] = None
    said = "; ".join(f"{listed(checks)} in {label}" for label, checks in of.items())
    return [Notice(f"The doctor finds something wrong: {said}.")] if said else []
