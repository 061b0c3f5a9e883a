"""The section of the page on language models: text that each network wrote, and cosines by kind of layer over depth."""

from __future__ import annotations

import math

from gradlens.reporting.html.charts import line_chart, series
from gradlens.reporting.html.parts import ReportContext, ReportSection, Sample
from gradlens.reporting.layer_kinds import KindPoint, kind_points


def section(held: ReportContext) -> ReportSection | None:
    """Return text of each method's first seed beside its perplexity, and the cosines; None where no run is of the language task."""
    if not any(run.config.task == "language" for run in held.runs):
        return None
    shown = ReportSection("language", "Text and layers")
    for label, group in held.groups.items():
        written = [(run, text) for run in group if isinstance(text := run.summary.get("sample"), str)]
        for run, text in written[:1]:
            scores = [m.score for m in run.metrics if m.split not in ("train", "train-eval") and math.isfinite(m.score)]
            beside = f", perplexity {scores[-1]:.2f}" if scores else ""
            shown.samples.append(Sample(f"{label}, seed {run.config.seed}{beside}", held.place(label), text))
    if shown.samples:
        shown.text.append(
            "Each network was given the first window of the held-out text and continued it, one token at a time, each drawn from what it"
            " predicts (temperature 1) by the seed of its run. A mark ▸ stands where its own text begins."
        )
    else:
        shown.missing.append("No text was written yet: a run writes it when it is finished.")
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
