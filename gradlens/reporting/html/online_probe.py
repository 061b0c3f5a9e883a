"""The section of the page on the online probes and their regret."""

from __future__ import annotations

import math
from typing import Any

from gradlens.reporting.html.cells import Cells, gathered, lines_of
from gradlens.reporting.html.charts import line_chart
from gradlens.reporting.html.parts import ReportContext, ReportSection, Table, TableCell, mean_cell
from gradlens.reporting.html.stored import Result, rows_of, stored, value
from gradlens.reporting.numbers import with_thousands
from gradlens.reporting.statistics import interval
from gradlens.training.run_directory import Run


def section(held: ReportContext) -> ReportSection:
    """Return the regret of the online probes."""
    shown = ReportSection("online", "Online probe and its regret")
    results = stored(held, shown, "online", "gradlens train … --online-probe")
    if not results:
        return shown
    shown.text.append(
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
        shown.charts.append(line_chart(f"{learner} on {block}", "rounds", "regret", drawn, log=True, log_x=True))
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
    shown.tables.append(Table("After the last round", columns, rows))
    return shown


def _positive(cells: Cells) -> Cells:
    return {key: [v if v > 0 else math.nan for v in values] for key, values in cells.items()}
