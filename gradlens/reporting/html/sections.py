"""Sections of the page of some runs: sentences, tables and charts made from what the runs have stored.

A section without data is not left out: one sentence names the command that would make them. Nothing here trains or writes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any, NamedTuple

from gradlens.methods import BASELINE
from gradlens.reporting.aggregate import LayerPoint, alignment_values, curve_points, final_values, layer_points, truths
from gradlens.reporting.html.charts import by_layer, compact, cosine_bin, curve_chart, method_band
from gradlens.reporting.html.notices import Difference, differences
from gradlens.reporting.html.parts import ReportContext, ReportSection, Table, TableCell, mean_cell, ratio_cell
from gradlens.reporting.html.standings import MethodSummary
from gradlens.reporting.html.verdict import SAME_TO
from gradlens.reporting.html.wording import in_words, listed
from gradlens.reporting.numbers import number_text, short_number, with_thousands
from gradlens.reporting.reached import reached_columns, reached_title, reached_values
from gradlens.reporting.statistics import Interval, interval
from gradlens.reporting.task_words import example_of
from gradlens.training.metrics import ACCURACY, TRAIN, TRAIN_EVAL
from gradlens.training.run_directory import Run

RECORDS = "gradlens train … --record-every 10"
NO_COSINE = TableCell("–", none=True)

# ------------------------------------------------------------------------------------------- what every run directory has


def _worst_cell(s: MethodSummary) -> TableCell:
    """Return the layer of the lowest cosine, where one is lower than the others."""
    if s.worst is None or s.method == BASELINE or s.worst.mean >= SAME_TO:
        return TableCell("–")
    return TableCell(f"{s.worst.layer} {short_number(s.worst.mean)}", compact(s.worst.mean))


def summary(held: ReportContext) -> Table:
    """Return the verdict's numbers."""
    rows = []
    for s in held.standings:
        against = s.against
        rows.append(
            [
                held.named(s.label),
                TableCell(number_text(s.below.mean, s.below.low), compact(s.below.mean)) if s.counted else TableCell("–"),
                _worst_cell(s),
                mean_cell(s.accuracy, 1, 100),
                mean_cell(s.best, 1, 100),
                mean_cell(against.points, 1, 100, sign=True) if against else TableCell("–"),
                ratio_cell(against.time) if against else TableCell("–"),
                TableCell(str(len(s.runs)), len(s.runs)),
            ]
        )
    columns = [
        "method", "cosine below the output block", "worst layer", "final accuracy %", "best accuracy %", f"points against {BASELINE}",
        f"time against {BASELINE}", "seeds",
    ]  # fmt: skip
    note = (
        "Cosine between the weight gradients that were used and the true ones, mean of the last recorded epoch. ± is half a 95 % t-interval"
        " over seeds; points and times are compared seed by seed. Best accuracy is a maximum over epochs, so it is optimistic."
        f" {BASELINE}'s own cosine is 1 by construction. With one seed, a difference of accuracies is called chance below half the 95 %"
        f" interval of two binomial draws of the held-out {held.example}s (Agresti and Caffo, 2000); another seed's training may add"
        " to it."
    )
    return Table("The numbers behind the verdict", columns, rows, note)


def learning(held: ReportContext) -> ReportSection:
    """Return losses and accuracies over epochs."""
    section = ReportSection("curves", "Learning curves")
    points = curve_points(held.runs)
    splits = dict.fromkeys(p.split for p in points)
    held_out_first = [*(s for s in splits if s not in (TRAIN, TRAIN_EVAL)), *(s for s in (TRAIN_EVAL, TRAIN) if s in splits)]
    quantities = list(dict.fromkeys([*(p.quantity for p in points if p.quantity not in (ACCURACY, "loss")), ACCURACY, "loss"]))
    for quantity in quantities:
        section.charts += [c for s in held_out_first if (c := curve_chart(points, s, quantity, held.groups))]
    if not section.charts:
        section.missing.append("No epoch has been evaluated yet; `gradlens train … --resume` continues an unfinished run.")
        return section
    eval_mode = f"; {TRAIN_EVAL}: the training examples after the epoch, in evaluation mode" if TRAIN_EVAL in splits else ""
    section.text.append(
        f"Nothing is smoothed. {TRAIN}: running means over the epoch in training mode; held-out {held.example}s after it, in evaluation"
        f" mode{eval_mode}. Bands are 95 % t-intervals over seeds."
    )
    last = {(p.label, p.split, p.quantity): Interval(p.mean, p.low, p.high, p.seeds) for p in sorted(points, key=lambda p: p.epoch)}
    shown = [(split, quantity) for split in held_out_first for quantity in quantities]
    rows = []
    for label, group in held.groups.items():
        cells = [held.named(label)]
        for split, quantity in shown:
            value = last.get((label, split, quantity))
            percent = quantity == "accuracy"
            cells.append(mean_cell(value, 1 if percent else 3, 100 if percent else 1) if value else TableCell("–"))
        epochs = max((m.epoch for run in group for m in run.metrics), default=0)
        rows.append([*cells, TableCell(str(epochs), epochs)])
    columns = ["method", *(f"{split} {quantity}{' %' if quantity == 'accuracy' else ''}" for split, quantity in shown), "epochs"]
    section.tables.append(Table("After the last epoch", columns, rows))
    return section


def at_steps(points: Sequence[LayerPoint], order: Iterable[str]) -> dict[str, Any]:
    """Return the cosines of every method, layer and step, for the slider and the maps: lines by layer and the union of steps."""
    return {"layers": by_layer(points, order), "steps": sorted({p.step for p in points})}


def layers_to_draw(points: Sequence[LayerPoint]) -> list[str]:
    """Select the layers whose cosine is not 1.00 for every method at every step; if there are none, all."""
    layers = dict.fromkeys(p.layer for p in points)
    moving = {p.layer for p in points if not p.mean >= SAME_TO}
    return [layer for layer in layers if layer in moving] or list(layers)


def where_and_when(held: ReportContext) -> ReportSection:
    """Make the section of cosines by method, layer and step."""
    section = ReportSection("cosine", "Cosine by method, layer and step", kind="cosine")  # the template draws a slider and the maps
    if not held.cosines:
        section.command = RECORDS
        return section
    layers = list(dict.fromkeys(p.layer for p in held.cosines))
    section.text.append(
        "Cosine of each layer's weight gradient with the true one, on the same forward pass and the same batch. Blue is along the true"
        " gradient, red against it; striped cells have no value: nothing was recorded, or a gradient is exactly zero and has no"
        " direction."
    )
    if flat := [layer for layer in layers if layer not in layers_to_draw(held.cosines)]:
        section.text.append(f"Without a map: {listed(flat)}, where every method has the true gradient (1.00) at every recorded step.")
    section.text += [f"{sentence[0].upper()}{sentence[1:]}." for sentence in truths(held.runs)]
    finals = final_values(held.runs, "cosine")
    at = {(f.label, f.layer): f for f in finals}
    rows = []
    for label in held.groups:
        cells = [held.named(label)]
        for layer in layers:
            f = at.get((label, layer))
            cells.append(TableCell(number_text(f.mean, f.low), compact(f.mean), cosine_bin(f.mean)) if f and f.seeds else NO_COSINE)
        rows.append(cells)
    section.tables.append(
        Table("At the end: mean over the last recorded epoch", ["method", *layers], rows, "± is half a 95 % t-interval over seeds.")
    )
    section.tables += [t for t in [_reached(held)] if t]
    return section


def _reached(held: ReportContext) -> Table | None:
    found = reached_values(held.runs)
    columns = reached_columns(list(dict.fromkeys(block for _, block, _ in found)))
    rows = []
    for label in held.groups:
        cells = [found.get((label, block, quantity)) for block, quantity, _ in columns]
        if any(cells):
            rows.append(
                [held.named(label), *(mean_cell(Interval(v.mean, v.low, v.high, v.seeds), 1, 100) if v else TableCell("–") for v in cells)]
            )
    title = reached_title(held.runs)
    note = "Mean over the last recorded epoch; an error signal is there if any of its entries is not exactly zero."
    return Table(title[0].upper() + title[1:], ["method", *(f"{name} %" for *_, name in columns)], rows, note) if rows else None


def last_step_rows(held: ReportContext) -> list[tuple[TableCell, list[TableCell]]]:
    """Return the slice that is shown before the slider is moved: each method at its own last recorded step."""
    layers = list(dict.fromkeys(p.layer for p in held.cosines))
    last: dict[tuple[str, str], LayerPoint] = {}
    for p in held.cosines:
        last[p.label, p.layer] = max(last.get((p.label, p.layer), p), p, key=lambda q: q.step)
    rows = []
    for label in held.groups:
        cells = [last.get((label, layer)) for layer in layers]
        if any(cells):
            found = [TableCell(short_number(p.mean), None, cosine_bin(p.mean)) if p and p.seeds else NO_COSINE for p in cells]
            rows.append((held.named(label), found))
    return rows


def training(held: ReportContext) -> ReportSection:
    """Return cosines over training with chance and noise."""
    section = ReportSection("training", "Cosine over training, with chance and noise")
    if not held.cosines:
        section.command = RECORDS
        return section
    nulls, ceilings = layer_points(held.runs, "null_cosine"), layer_points(held.runs, "noise_ceiling")
    for layer in layers_to_draw(held.cosines):
        bands = []
        for name, points in (("chance", nulls), ("noise", ceilings)):
            if band := method_band([p for p in points if p.layer == layer]):
                bands.append({"name": name, **band})
        section.charts.append({"kind": "cosine", "title": layer, "bands": bands, "x": "updates", "y": "cosine", "layer": layer})
    section.text.append(
        "One chart a layer, bottom first, without those where every method has the true gradient throughout; bands of a line's own colour"
        " are 95 % t-intervals over seeds."
    )
    if nulls:
        section.text.append(
            "Grey band, chance: from the lowest to the highest cosine of any method when each"
            f" {held.example} gets another {held.example}'s error signal."
            " Hatched band, noise: cosine between the true gradients of two halves of a batch, lowest to highest of any method; where it is"
            " low, one batch's true gradient predicts little of another's."
        )
        section.tables += [t for t in [_beside_chance(held)] if t]
    else:
        section.missing.append("Without chance and noise: they were not recorded; `gradlens train … --diagnose-every 5` records them.")
    return section


def _beside_chance(held: ReportContext) -> Table | None:
    names = {"cosine": "cosine", "null_cosine": "by chance", "noise_corrected": "noise-corrected"}
    found: dict[tuple[str, str], dict[str, Interval]] = {}
    for row in alignment_values(held.runs):
        found.setdefault((row.label, row.layer), {})[row.quantity] = Interval(row.mean, row.low, row.high, row.seeds)
    layers = list(dict.fromkeys(layer for _, layer in found))
    rows = []
    for label, layer in sorted(found, key=lambda cell: (held.place(cell[0]), layers.index(cell[1]))):
        values = found[label, layer]
        cells = [mean_cell(values[q]) if q in values else TableCell("–") for q in names]
        rows.append([held.named(label), TableCell(layer, f"{layers.index(layer):04d}"), *cells])
    note = (
        f"By chance: each {held.example} gets another {held.example}'s error signal. Noise-corrected: what the cosine would be on a batch"
        " without noise (Spearman's correction, from half-batches); it may leave [−1, 1] where it is mostly noise."
    )
    return Table("Beside chance and noise, at the end", ["method", "layer", *names.values()], rows, note) if rows else None


def cost(held: ReportContext) -> ReportSection:
    """Tabulate time, memory and locks."""
    section = ReportSection("cost", "Cost card")
    against = {s.label: s.against for s in held.standings}
    rows = []
    for label, group in held.groups.items():
        locks = group[0].config.rule.locks()
        timing = [row for run in group for row in run.timing]
        rate = interval(median(r.images_per_s for r in run.timing) for run in group if run.timing)
        total = interval(sum(r.seconds for r in run.timing) for run in group if run.timing)
        memory = max((row.memory_mb for row in timing), default=math.nan)
        beside = against[label]
        rows.append(
            [
                held.named(label),
                *(TableCell("yes" if lock else "no", "yes" if lock else "no") for lock in locks),
                TableCell(with_thousands(rate.mean), compact(rate.mean)),
                ratio_cell(beside.time) if beside else TableCell("–"),
                TableCell(with_thousands(total.mean), compact(total.mean)),
                TableCell(with_thousands(memory), compact(memory)),
                TableCell(", ".join(dict.fromkeys(_machine(run) for run in group))),
            ]
        )
    columns = [
        "method", "forward locked", "update locked", "backward locked", "labels at every block", f"{held.items}/s",
        f"time × {BASELINE}", "seconds in all", "process's peak memory so far MB", "machine",
    ]  # fmt: skip
    note = (
        "Locked: block k runs after block k−1 (forward); it is updated after all later blocks have run (update) and have run backward"
        " (backward); with windows, the later blocks of its window only. Times are of these runs as they were made, recording included"
        " and evaluation left out, and hold other work of the machine; peak memory is the highest of the process, which trained other"
        " runs before this one, so it does not compare methods. `gradlens bench` measures them side by side, memory too."
    )
    if not any(run.timing for run in held.runs):
        section.missing.append("No epoch was timed yet.")
    section.tables.append(Table("What a method waits for, and what these runs took", columns, rows, note))
    return section


def _machine(run: Run) -> str:
    threads = run.info.get("threads")
    return f"{run.info.get('device') or 'device unknown'}{f', {threads} thread{chr(115) * (threads != 1)}' if threads else ''}"


def differing_settings(held: ReportContext) -> ReportSection:
    """Return the settings in which groups of runs differ, side by side."""
    section = ReportSection("differences", "Differences of the runs", kind="differences")
    if len(held.groups) == 1:
        section.missing.append("One method with one setting: nothing differs but the seed.")
        return section
    rows: list[Difference] = differences(held.groups)
    cells = [
        [
            TableCell(d.name.replace("_", " "), d.name),
            TableCell(d.kind, d.kind),
            *(TableCell(d.values[label], d.values[label]) for label in held.groups),
        ]
        for d in rows
    ]
    section.text.append("Settings and facts that are not the same everywhere; a dash is an option the method does not have.")
    section.tables.append(Table("Settings that differ", ["setting", "of", *held.groups], cells))
    return section


class Described(NamedTuple):
    """One run with all that was stored of how it was made."""

    name: str
    label: str
    method: int
    state: str
    settings: list[tuple[str, str]]
    facts: list[tuple[str, str]]


def described_runs(held: ReportContext) -> list[Described]:
    """Return every run's full config, versions, machine and command line."""
    found = []
    for label, group in held.groups.items():
        for run in group:
            updates = run.metrics[-1].step if run.metrics else 0
            state = "finished" if run.finished else f"not finished: {updates} updates at its last evaluation"
            options = {f"{run.config.method}.{name}": value for name, value in run.config.options.items()}
            config = {**run.config.as_dict(exclude={"options"}), **options}
            facts = {**run.info, **(run.info.get("versions") or {})}
            facts.pop("versions", None)
            for name, n in (facts.pop("images", None) or {}).items():
                facts[f"{name} {example_of([run])}s"] = n
            found.append(
                Described(
                    str(run.path), label, held.place(label), state, [(k.replace("_", " "), in_words(v)) for k, v in config.items()],
                    [(k.replace("_", " "), in_words(v)) for k, v in facts.items()],
                )
            )  # fmt: skip
    return found


def configs(held: ReportContext) -> ReportSection:
    """Return how each run was made."""
    return ReportSection("config", "Configurations and versions", kind="config")


def strip(s: MethodSummary, layers: Sequence[str]) -> list[tuple[str, str, int | None]]:
    """Return a line of squares, one a layer, bottom first: (layer, cosine in words, colour)."""
    at = {row.layer: row.mean for row in s.layers}
    return [(layer, short_number(at[layer]) if layer in at else "not recorded", cosine_bin(at.get(layer, math.nan))) for layer in layers]


def epoch_ends(held: ReportContext) -> list[int]:
    """Return the updates at the end of each epoch, where all runs have the same; they give a step's epoch."""
    ends = {tuple(sorted({m.step for m in run.metrics if m.epoch > 0})) for run in held.runs}
    longest = max(ends, key=len, default=())
    return list(longest) if all(longest[: len(e)] == e for e in ends) else []
