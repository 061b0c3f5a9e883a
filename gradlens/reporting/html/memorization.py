"""The section of the page on memorization of random labels."""

from __future__ import annotations

import math

from gradlens.reporting.html.cells import control_line, gathered, lines_of
from gradlens.reporting.html.charts import compact, line_chart
from gradlens.reporting.html.parts import ReportContext, ReportSection, Table, TableCell, mean_cell
from gradlens.reporting.html.stored import protocol, rows_of, stored, value
from gradlens.reporting.html.wording import listed
from gradlens.reporting.numbers import short_number, with_thousands
from gradlens.reporting.statistics import interval


def section(held: ReportContext) -> ReportSection:
    """Return how fast and how far random labels are fitted."""
    shown = ReportSection("memorization", "Memorization of random labels")
    results = stored(held, shown, "memorization", "gradlens memorize {}")
    if not results:
        if not any(run.config.data.label_noise and run.config.record.evaluate_train for run in held.runs):
            shown.command = shown.command and "gradlens memorize METHOD…"  # it trains runs on random labels
        return shown
    curve = gathered(held, results, lambda _, r: [(int(e), float(a)) for e, a in r.get("curve") or [] if a is not None])
    ordered = dict(sorted(curve.items(), key=lambda cell: cell[0][1]))
    drawn = lines_of(held, ordered)
    if chance := [value(r, "chance") for r in results.values() if math.isfinite(value(r, "chance"))]:
        ends = [min(p for _, p in curve), max(p for _, p in curve)] if curve else []
        drawn.append({"label": None, "name": "chance", "x": ends, "y": [compact(chance[0])] * len(ends), "dash": "dash"})
    shown.charts.append(line_chart("training images, labels as given, in evaluation mode", "epoch", "accuracy (%)", drawn, percent=True))
    noise = listed(dict.fromkeys(f"{run.config.data.label_noise:g}" for run in held.runs if run.path in results))
    shown.text.append(f"Share of labels drawn at random: {noise}. Accuracy is that of the training images with the labels they were given.")
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
    shown.tables.append(Table("Memorized", columns, rows, note))
    for name, words in (
        ("corrupted_noisy", "changed labels, as given"), ("corrupted_true", "changed labels, the true ones"),
        ("clean", "labels that were kept"), ("held_out", "held-out images"),
    ):  # fmt: skip
        probed = gathered(held, results, lambda _, r, n=name: [(str(b["block"]), value(b, n)) for b in rows_of(r, "blocks", "block")])
        plain = gathered(
            held, results, lambda _, r, n=name: [(str(b["block"]), value(b, "untrained", n)) for b in rows_of(r, "blocks", "block")]
        )
        if probed:
            both = lines_of(held, probed) + control_line(plain, "untrained network")
            shown.charts.append(line_chart(f"linear probe: {words}", "block", "accuracy (%)", both, percent=True, categories=True))
    protocol(shown, results.values())
    return shown
