"""The section of the page on what trained networks make (text), and on cosines by kind of layer over depth."""

from __future__ import annotations

import math

from gradlens.reporting.html.charts import line_chart, series
from gradlens.reporting.html.parts import ReportContext, ReportSection, Sample
from gradlens.reporting.layer_kinds import KindPoint, kind_points
from gradlens.tasks.registry import TASKS


def section(held: ReportContext) -> ReportSection | None:
    """Return the sample of each method's first seed beside its score, and the cosines; None where no task has either."""
    tasks = {run.config.task: TASKS[run.config.task] for run in held.runs}
    shows = [task.shows for task in tasks.values() if task.shows]
    if not shows and not any(task.blocks_alike for task in tasks.values()):
        return None
    shown = ReportSection("samples", "Samples and layers")
    for label, group in held.groups.items():
        written = [(run, text) for run in group if isinstance(text := run.summary.get("sample"), str)]
        for run, text in written[:1]:
            scores = [m.score for m in run.metrics if m.split not in ("train", "train-eval") and math.isfinite(m.score)]
            beside = f", {tasks[run.config.task].score_name} {scores[-1]:.2f}" if scores else ""
            shown.samples.append(Sample(f"{label}, seed {run.config.seed}{beside}", held.place(label), text))
    if shown.samples:
        shown.text += shows
    elif shows:
        shown.missing.append("There are no samples yet: a run makes one when it is finished.")
    points = kind_points(held.runs)
    shown.charts += [_chart(held, [p for p in points if p.kind == kind]) for kind in dict.fromkeys(p.kind for p in points)]
    if shown.charts:
        shown.text.append(
            "Charts: the cosine of each weight's gradient with the true one at the end of training, by kind of layer over the blocks."
        )
    return shown


def _chart(held: ReportContext, points: list[KindPoint]) -> dict[str, object]:
    """Return one kind of layer over depth, a line a label."""
    drawn = []
    for label in held.groups:
        mine = sorted((p for p in points if p.label == label), key=lambda p: p.block)
        if mine:
            drawn.append(series(label, [p.block for p in mine], mine))
    return line_chart(points[0].kind, "block", "cosine", drawn, zero=True)
