"""Tables of the pages on language and graphs. Pure functions of the files in ``figures``."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from gradlens.reporting.statistics import interval
from tools.docs.markdown import table
from tools.docs.stored import bounds, half_width, number, results
from tools.docs.verdict_tables import tests

RUNGS = {"noam": "Noam's schedule, beta2 0.98", "constant": "constant, beta2 0.98", "beta2": "constant, beta2 0.999"}
KINDS = {
    "attention.query": "query", "attention.key": "key", "attention.value": "value", "attention.out": "out", "norm1": "norm 1",
    "ff1": "feed-forward 1", "ff2": "feed-forward 2", "norm2": "norm 2",
}  # fmt: skip


def language_ladder() -> str:
    """Perplexity of each rule by rung of the optimiser's ladder, beside the published ones."""
    rows = {(r["rule"], r["rung"]): r for r in results("dfa_transformer")["table"]}
    lines = []
    for rule in dict.fromkeys(rule for rule, _ in rows):
        cells = []
        for rung in RUNGS:
            row = rows.get((rule, rung))
            cells.append(half_width(bounds(row), 2) if row else "")
            cells.append(f"{row['published']:g}" if row and row["published"] is not None else "")
        lines.append([f"dfa, {rule}" if rule in ("macro", "micro") else f"`{rule}`", *cells])
    return table(["rule", *(head for name in RUNGS.values() for head in (name, "published"))], lines)


def language_losses() -> str:
    """Perplexity of the local rules, and what an update of theirs takes."""
    found = results("local_updates_language")
    cost = found["seconds_of_an_update"]
    lines = []
    for rule, each in found["values"]["held-out perplexity"].items():
        i = interval(each)
        loss = interval(found["values"]["held-out loss"][rule])
        seconds = [number(1000 * cost[rule][key], 1) for key in ("total", "sequential", "buffered")]
        lines.append([f"`{rule}`", half_width(i[:3], 2), half_width(loss[:3], 3), *seconds])
    head = ["rule", "held-out perplexity", "held-out loss (nats)", "ms an update, in all", "on the critical path", "with buffers"]
    return table(head, lines)


def language_cosines() -> str:
    """Cosine of each rule's gradient with the true one, by kind of layer and by block."""
    found = results("local_updates_language")["cosines"]
    at = {(p["label"], p["kind"], p["block"]): bounds(p) for p in found}
    rules, blocks = (list(dict.fromkeys(p[key] for p in found)) for key in ("label", "block"))
    shown = [rule for rule in rules if any(at[key][0] < 1 - 1e-6 for key in at if key[0] == rule)]  # type: ignore[operator]
    lines = [
        [f"`{rule}`", name, *(half_width(at[rule, kind, b], 2) if (rule, kind, b) in at else "" for b in blocks)]
        for rule in shown
        for kind, name in KINDS.items()
    ]
    return table(["rule", "layer", *(f"layer {b}" for b in blocks)], lines)


def graph_accuracies() -> str:
    """Accuracy of each rule, network and graph beside the replication in plain PyTorch, with what each rule reaches."""
    found = results("dfa_graphs")
    near = {row["group"]: row for row in found["beside_replication"]}
    lines = []
    for cell in found["cells"]:
        name = f"{cell['data']} {cell['net']} {cell['rule']}"
        beside = near.get(name)
        known = f"{number(beside['replication'], 1)}; {number(beside['standard_errors'], 1)}" if beside else ""
        cosine = [c for c in cell["cosine"] if c is not None and not math.isnan(c)]
        lines.append([
            cell["data"], cell["net"], f"`{cell['rule']}`",
            half_width(interval(cell["accuracy"])[:3], 1), half_width(interval(cell["final"])[:3], 1),
            known, number(interval(cell["reached"]).mean * 100, 0) + " %", half_width(interval(cosine)[:3], 2) if cosine else "",
        ])  # fmt: skip
    head = [
        "graph",
        "network",
        "rule",
        "test accuracy (%)",
        "after the last epoch",
        "replication; standard errors away",
        "nodes reached",
        "cosine, block 1",
    ]
    return table(head, lines)


def click_aucs() -> str:
    """AUC and log loss of each rule, network and log, with its rate and the cosine at the embedding."""
    lines = []
    for cell in results("dfa_clicks")["cells"]:
        cosine = [run["embedding"] for run in cell["cosines"] if "embedding" in run]
        lines.append([
            cell["data"], cell["net"], f"`{cell['rule']}`",
            half_width(interval(cell["auc"])[:3], 4), half_width(interval(cell["final"])[:3], 4),
            half_width(interval(cell["logloss"])[:3], 4), f"{cell['rate']:g}", half_width(interval(cosine)[:3], 2) if cosine else "",
        ])  # fmt: skip
    return table(["log", "network", "rule", "test AUC", "after the last epoch", "log loss (nats)", "rate", "cosine, embedding"], lines)


TASK_TABLES: dict[str, Callable[[], str]] = {
    "language-ladder": language_ladder, "language-losses": language_losses, "language-cosines": language_cosines,
    "graph-accuracies": graph_accuracies, "click-aucs": click_aucs, **{f"tests-{study}": partial(tests, study) for study in (
        "dfa_transformer", "local_updates_language", "dfa_graphs", "dfa_clicks",
    )},
}  # fmt: skip
