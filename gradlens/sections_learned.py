"""The sections of the page that show what the commands about finished runs have stored: probes, memorization, filters, representations …

Read with :func:`gradlens.run.load_result`. A row that lacks what is asked of it is left out, never guessed; a run without a result, or with
half of one, is named with the command that makes it.
"""

from __future__ import annotations

import io
import math
import shlex
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gradlens.charts import compact, lines, matrix
from gradlens.errors import InputError
from gradlens.run import Run, load_result
from gradlens.sections import Cell, Held, Picture, Section, Table, grouped, mean_cell, number
from gradlens.tables import Interval, interval
from gradlens.verdict import Notice, in_words, listed, short

MATRICES = 12  # CKA matrices on the page at most
Result = Mapping[str, Any]


# ------------------------------------------------------------------------------------------------------ stored results


def stored(held: Held, section: Section, name: str, command: str) -> dict[Path, Result]:
    """run directory -> what a command stored there; what is missing or unreadable is said in the section."""
    found: dict[Path, Result] = {}
    without = []
    for run in held.runs:
        try:
            result = load_result(run.path, name)
        except InputError as error:
            section.missing.append(f"Left out: {error}.")
            continue
        if result is None:
            without.append(run)
        else:
            found[run.path] = result
    if without:
        paths = " ".join(shlex.quote(str(run.path)) for run in without[:2]) + (" …" if len(without) > 2 else "")
        whose = "" if not found else f" for {len(without)} of {len(held.runs)} runs"
        section.missing.append(f"Not measured{whose}: `{command.format(paths)}` does.")
    return found


def value(row: Mapping[str, Any], *names: str) -> float:
    """A stored number, by the names on the way to it; NaN where there is none (null, or missing)."""
    at: Any = row
    for name in names:
        at = at.get(name) if isinstance(at, Mapping) else None
    return float(at) if isinstance(at, int | float) and not isinstance(at, bool) else math.nan


def rows_of(result: Result, name: str, *needed: str) -> list[Mapping[str, Any]]:
    """A result's rows that hold all that is asked of them."""
    rows = result.get(name)
    return [row for row in rows if isinstance(row, Mapping) and all(key in row for key in needed)] if isinstance(rows, list) else []


def protocol(section: Section, results: Iterable[Result]) -> None:
    """How the numbers were made, as stored beside them; where runs were measured differently, that is said."""
    said: dict[str, list[str]] = {}
    for result in results:
        for name, how in _flat(result.get("protocol") or {}):
            if how not in said.setdefault(name, []):
                said[name].append(how)
    if said:
        section.facts = [(name, how[0]) for name, how in said.items() if len(how) == 1]
        if several := [name for name, how in said.items() if len(how) > 1 and name not in OWN]:
            section.text.append(f"Not all were measured alike: {listed(several)} differ.")


OWN = ("weights", "label hash", "labels", "pictures", "updates", "seed", "read")  # what is each run's own in a protocol


def _flat(content: Any, path: str = "") -> list[tuple[str, str]]:
    if isinstance(content, Mapping):
        return [pair for name, inner in content.items() for pair in _flat(inner, f"{path} {name}".strip().replace("_", " "))]
    if isinstance(content, list):
        content = ", ".join(map(in_words, content))
    return [(path, in_words(content))]


# ------------------------------------------------------------------------------------------------- tables over seeds

Cells = dict[tuple[str, Any], list[float]]  # (label, block or step or other place) -> one value a seed


def gathered(held: Held, results: Mapping[Path, Result], values: Any) -> Cells:
    """What ``values(run, result)`` yields as (place, number), by label and place, one number a seed."""
    found: Cells = {}
    for label, group in held.groups.items():
        for run in group:
            if run.path in results:
                for place, v in values(run, results[run.path]):
                    found.setdefault((label, place), []).append(v)
    return found


def _line(label: str | None, x: Sequence[Any], cells: Sequence[Interval], **more: Any) -> dict[str, Any]:
    line: dict[str, Any] = {"label": label, "x": list(x), "y": [compact(c.mean) for c in cells], **more}
    if any(math.isfinite(c.low) for c in cells):
        line["low"], line["high"] = [compact(c.low) for c in cells], [compact(c.high) for c in cells]
    return line


def lines_of(held: Held, cells: Cells, **more: Any) -> list[dict[str, Any]]:
    """A line a label over the places that it has, in the order in which they came."""
    drawn = []
    for label in held.groups:
        x = [place for name, place in cells if name == label]
        if x:
            drawn.append(_line(label, x, [interval(cells[label, place]) for place in x], **more))
    return drawn


def pooled(cells: Cells, name: str, dash: str = "dot") -> list[dict[str, Any]]:
    """One line over all runs, in no method's colour: a control."""
    at: dict[Any, list[float]] = {}
    for (_, place), values in cells.items():
        at.setdefault(place, []).extend(v for v in values if math.isfinite(v))
    x = [place for place, values in at.items() if values]
    return [{"label": None, "name": name, "x": x, "y": [compact(float(np.mean(at[p]))) for p in x], "dash": dash}] if x else []


def _by_block(held: Held, caption: str, columns: Mapping[str, tuple[Cells, int, int]], note: str = "") -> Table:
    """A row for each label and block; ``columns``: name -> (numbers, digits, scale)."""
    order = list(dict.fromkeys(block for cells, *_ in columns.values() for _, block in cells))
    rows = []
    for label in held.groups:
        for k, block in enumerate(order):
            own = [(cells.get((label, block)), digits, scale) for cells, digits, scale in columns.values()]
            if any(values for values, *_ in own):
                numbers = [mean_cell(interval(values), digits, scale) if values else Cell("–") for values, digits, scale in own]
                rows.append([held.named(label), Cell(block, f"{k:04d}"), *numbers])
    return Table(caption, ["method", "block", *columns], rows, note)


def last(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows of the last step among them."""
    end = max((value(row, "step") for row in rows if math.isfinite(value(row, "step"))), default=math.nan)
    return [row for row in rows if value(row, "step") == end or math.isnan(end)]


# -------------------------------------------------------------------------------------------------------- the sections


def separability(held: Held) -> Section:
    """What a linear probe reads on every block, beside its controls; whether the classes are strictly separable."""
    section = Section("separability", "Linear separability")
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
        section.charts.append(lines("linear probe, held-out accuracy", "block", "accuracy (%)", drawn, percent=True, categories=True))
        columns = {
            "held-out %": trained, "training %": accuracy("trained", "true", "train"), "untrained network, held-out %": untrained,
            "permuted labels, training %": accuracy("trained", "permuted", "train"),
        }  # fmt: skip
        note = f"Raw pixels: {short(100 * float(np.mean(reached)), 1)} % held-out." if reached else ""
        note += " What permuted labels reach in training is how much of any labelling so many features can hold."
        section.tables.append(_by_block(held, "Linear probe", {name: (cells, 1, 100) for name, cells in columns.items()}, note.strip()))

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
            section.charts.append(lines(f"linear probe on {block}", "updates", "accuracy (%)", lines_of(held, mine), percent=True))
    section.tables += [t for t in [_certificates(held, results)] if t]
    protocol(section, results.values())
    return section


def _certificates(held: Held, results: Mapping[Path, Result]) -> Table | None:
    rows = []
    for label, group in held.groups.items():
        for run in group:
            for r in rows_of(results.get(run.path, {}), "separability", "block", "verdict"):
                low, high = (r.get("gap") or [None, None])[:2]
                gap = "–" if low is None or high is None or r["verdict"] == "not separable" else f"{low:.3g} to {high:.3g}"
                words = [str(r.get(key, "–")) for key in ("block", "network", "labels")]
                rows.append(
                    [
                        held.named(label), Cell(str(run.config.seed), run.config.seed), *(Cell(w, w) for w in words),
                        Cell(str(r["verdict"]), str(r["verdict"])), Cell(gap, compact(value(r, "margin"))),
                        *(Cell(grouped(value(r, key)), compact(value(r, key))) for key in ("n", "features", "cover_capacity")),
                        number(value(r, "n_per_feature")),
                    ]
                )  # fmt: skip
    columns = ["method", "seed", "block", "network", "labels", "verdict", "largest margin between", "n", "d", "Cover's capacity", "n/d"]
    note = (
        "Few points in many dimensions are separable whatever their labels: below Cover's capacity, 2 (d + 1) points, most two-class"
        " labellings are."
    )
    return Table("Strictly linearly separable?", columns, rows, note) if rows else None


def memorization(held: Held) -> Section:
    """How fast and how far random labels are fitted."""
    section = Section("memorization", "Memorization of random labels")
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
    section.charts.append(lines("training images, labels as given, in evaluation mode", "epoch", "accuracy (%)", drawn, percent=True))
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
            cells.append(Cell(short(mean, 1) + some if reached else "not reached", compact(mean)))
        own = value(mine[0], "own_parameters")
        rows.append([*cells, mean_cell(interval(value(r, "held_out", "final") for r in mine), 1, 100), Cell(grouped(own), compact(own))])
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
            section.charts.append(lines(f"linear probe: {words}", "block", "accuracy (%)", both, percent=True, categories=True))
    protocol(section, results.values())
    return section


def filters(held: Held) -> Section:
    """The first layer's filters, and numbers that say how they look."""
    section = Section("filters", "First-layer filters")
    results = stored(held, section, "filters", "gradlens filters {}")
    names: dict[str, None] = {}
    for label, group in held.groups.items():
        for run in group:
            result = results.get(run.path, {})
            names |= dict.fromkeys(result.get("numbers") or {})
            if any(picture.method == held.place(label) for picture in section.pictures):
                continue
            if drawn := picture_of(result):
                kernel = result.get("kernel", "?")
                name = f"{label}, {kernel}×{kernel}, seed {run.config.seed}"
                section.pictures.append(Picture(name, held.place(label), drawn))
    if section.pictures:
        section.text.append(
            "Each filter is scaled to its own largest weight (grey is zero), in the stored order; one run of each method."
            f"{' Filters of other than 1 or 3 channels are shown as their mean over channels.' if _folded(results.values()) else ''}"
        )
    rows = []
    for label, group in held.groups.items():
        mine = [results[run.path] for run in group if run.path in results]
        for name in names:
            values = [interval(value(r, "numbers", name, state) for r in mine) for state in ("trained", "untrained", "random")]
            if mine and any(v.n for v in values):
                rows.append([held.named(label), Cell(name.replace("_", " "), name), *map(mean_cell, values)])
            elif mine and name == "gabor_share":  # the kernel is too small for it to say anything
                rows.append([held.named(label), Cell("gabor share", name), *[Cell("undecided")] * 3])
    if rows:
        meaning = next((m for r in results.values() if isinstance(m := (r.get("protocol") or {}).get("numbers"), Mapping)), {})
        note = " ".join(f"{name.replace('_', ' ')}: {meaning[name]}." for name in names if name in meaning)
        section.tables.append(
            Table("Beside the untrained stem and random filters", ["method", "number", "trained", "untrained", "random"], rows, note)
        )
    protocol(section, ({"protocol": {k: v for k, v in (r.get("protocol") or {}).items() if k != "numbers"}} for r in results.values()))
    return section


def _folded(results: Iterable[Result]) -> bool:
    return any(r.get("channels") not in (None, 1, 3) for r in results)


def picture_of(result: Result) -> str:
    """Stored weights [F][C][k][k] as a PNG in a data URI, one pixel a weight; "" where there are none.

    A filter's weights are divided by its largest magnitude, so that grey is zero; red, green and blue are its three channels.
    """
    try:
        weights = np.array(result.get("weights"), float)
    except (TypeError, ValueError):
        return ""
    if weights.ndim != 4 or not weights.size:
        return ""
    order = [i for i in result.get("order") or range(len(weights)) if isinstance(i, int) and 0 <= i < len(weights)]
    shown = weights[order] if weights.shape[1] in (1, 3) else weights[order].mean(1, keepdims=True)
    largest = np.abs(shown).max((1, 2, 3), keepdims=True)
    levels = np.nan_to_num(127.5 + 127.5 * shown / np.where(largest > 0, largest, 1), nan=127.5)
    pixels = levels.round().astype(np.uint8).transpose(0, 2, 3, 1).repeat(3 // shown.shape[1], 3)  # [F, k, k, 3]
    k, columns = pixels.shape[1], math.ceil(math.sqrt(2 * len(pixels)))
    grid = np.zeros((math.ceil(len(pixels) / columns) * (k + 1) + 1, columns * (k + 1) + 1, 4), np.uint8)
    for i, one in enumerate(pixels):
        y, x = (i // columns) * (k + 1) + 1, (i % columns) * (k + 1) + 1
        grid[y : y + k, x : x + k] = np.concatenate([one, np.full((k, k, 1), 255, np.uint8)], 2)
    buffer = io.BytesIO()
    Image.fromarray(grid).save(buffer, format="png", optimize=True)
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"


DEPTH = {  # quantity -> title, y axis
    "effective_rank": ("effective rank", "rank"),
    "participation_ratio": ("participation ratio", "directions"),
    "fisher": ("class separation (Fisher)", "between ÷ within"),
    "reconstruction_r2": ("what is left of the image", "R² of a decoder"),
    "information_y_bits": ("information about the label", "bits, at least"),
    "head_accuracy": ("a head's accuracy", "accuracy (%)"),
}


def representations(held: Held) -> Section:
    """Rank, class separation and information of every block; how alike two networks' blocks are."""
    section = Section("representations", "Representations")
    results = stored(held, section, "representations", "gradlens representations {}")

    def by_block(network: str, quantity: str) -> Cells:
        def of(_: Run, result: Result) -> Any:
            rows = [r for r in rows_of(result, "rows", "block", "network", quantity) if r["network"] == network]
            return [(str(r["block"]), value(r, quantity)) for r in last(rows)]

        return gathered(held, results, of)

    if results:
        section.text.append("Of each block's output on held-out images; the dotted grey line is the untrained networks' mean.")
    columns: dict[str, tuple[Cells, int, int]] = {}
    for quantity, (title, axis) in DEPTH.items():
        trained = by_block("trained", quantity)
        if any(math.isfinite(v) for values in trained.values() for v in values):
            drawn = lines_of(held, trained) + pooled(by_block("untrained", quantity), "untrained network")
            percent = quantity == "head_accuracy"
            section.charts.append(lines(title, "block", axis, drawn, percent=percent, categories=True))
            columns[f"{title}{' %' if percent else ''}"] = (trained, 1 if percent else 2, 100 if percent else 1)
    if columns:
        section.tables.append(_by_block(held, "Of each block's output", columns))
    _likeness(held, section)
    protocol(section, results.values())
    return section


def _likeness(held: Held, section: Section) -> None:
    """CKA of pairs of networks: one table of equal blocks, and the first matrices."""
    pairs = {run.path: result for run in held.runs if (result := _read(run, "cka"))}
    if not pairs:
        section.missing.append("No two networks were compared (CKA): `gradlens representations RUN_DIR RUN_DIR` does.")
        return
    rows, charts = [], []
    for label, group in held.groups.items():
        for run in group:
            for entry in rows_of(pairs.get(run.path, {}), "with", "blocks", "matrix"):
                mine, theirs = list(entry["blocks"]), list(entry.get("with_blocks") or entry["blocks"])
                z = [[math.nan if v is None else float(v) for v in line] for line in entry["matrix"]]
                if len(z) != len(mine) or any(len(line) != len(theirs) for line in z):
                    continue
                own, other = f"{label} s{run.config.seed}", _other(entry)
                shared = [(block, z[mine.index(block)][theirs.index(block)]) for block in mine if block in theirs]
                text = ", ".join(f"{block} {short(v)}" for block, v in shared)
                mean = interval(v for _, v in shared).mean
                rows.append([held.named(label), Cell(str(run.config.seed), run.config.seed), Cell(other, other), number(mean), Cell(text)])
                charts.append(matrix(f"{own} and {other}", theirs, mine, z, "CKA"))
    section.charts += charts[:MATRICES]
    if len(charts) > MATRICES:
        section.text.append(f"{MATRICES} of {len(charts)} CKA matrices are drawn; the table has all pairs.")
    if rows:
        columns = ["method", "seed", "compared with", "mean CKA of equal blocks", "by block"]
        section.tables.append(Table("How alike two networks' blocks are (linear CKA, unbiased)", columns, rows))


def _other(entry: Mapping[str, Any]) -> str:
    label, seed = entry.get("label"), entry.get("seed")
    if entry.get("network") == "untrained":
        return "its untrained network"
    return f"{label} s{seed}" if label is not None and seed is not None else str(entry.get("run", "another run"))


def _read(run: Run, name: str) -> Result | None:
    try:
        return load_result(run.path, name)
    except InputError:
        return None


def online(held: Held) -> Section:
    """Regret of the online probes."""
    section = Section("online", "Online probe and its regret")
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
        section.charts.append(lines(f"{learner} on {block}", "rounds", "regret", drawn, log=True, log_x=True))
        loss, best = of("loss", block, learner), of("best_in_hindsight", block, learner)
        for label in held.groups:
            rounds = max((t for name, t in regret if name == label), default=0)
            if rounds:
                at = (label, rounds)
                each = [mean_cell(interval(v / rounds for v in c.get(at, [])), 3) for c in (loss, best)]
                total = [mean_cell(interval(c.get(at, [])), 2) for c in (regret, bound)]
                rows.append([held.named(label), Cell(block, block), Cell(learner, learner), Cell(grouped(rounds), rounds), *each, *total])
    columns = ["method", "block", "learner", "rounds", "loss a round", "best fixed probe a round", "regret", "bound"]
    section.tables.append(Table("After the last round", columns, rows))
    return section


def _positive(cells: Cells) -> Cells:
    return {key: [v if v > 0 else math.nan for v in values] for key, values in cells.items()}


def _findings(held: Held, results: Mapping[Path, Result]) -> list[tuple[str, Run, Mapping[str, Any]]]:
    """(label, run, finding) of every finding, the wrong ones first."""
    found = [
        (label, run, finding)
        for label, group in held.groups.items()
        for run in group
        for finding in rows_of(results.get(run.path, {}), "findings", "check", "severity")
    ]
    return sorted(found, key=lambda row: row[2]["severity"] != "wrong")


def doctor(held: Held) -> Section:
    """What `gradlens doctor` found."""
    section = Section("doctor", "What the doctor found")
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
        words = [Cell(str(f.get(key, "–")), str(f.get(key, "–")), words=True) for key in ("evidence", "threshold", "advice")]
        rows.append(
            [
                held.named(label), Cell(str(run.config.seed), run.config.seed), Cell(str(f["severity"]), str(f["severity"])),
                Cell(str(f["check"]), str(f["check"])), Cell(str(f.get("where", "–")), str(f.get("where", "–"))),
                Cell(grouped(step), compact(step)), *words,
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


def wrong(held: Held) -> list[Notice]:
    """What the doctor calls wrong, for the verdict."""
    results = {run.path: result for run in held.runs if (result := _read(run, "doctor"))}
    of: dict[str, dict[str, None]] = {}
    for label, _, finding in _findings(held, results):
        if finding["severity"] == "wrong":
            of.setdefault(label, {})[str(finding["check"])] = None
    said = "; ".join(f"{listed(checks)} in {label}" for label, checks in of.items())
    return [Notice(f"The doctor finds something wrong: {said}.")] if said else []
