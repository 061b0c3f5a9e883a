"""Tables of the pages about learning rules, and of what a script's tests decide. Pure functions of the files in ``figures``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

from tools.docs.markdown import table
from tools.docs.stored import BLOCKS, DASH, LAYERS, half_width, number, results, rows_of
from tools.docs.verdict_tables import tests

FEW = 3  # blocks that are probed


def every_rule() -> str:
    """Accuracy of every supervised rule, and costs of its step, measured by themselves."""
    found = results("all_methods")
    costs = {row["method"]: row for row in rows_of("method_costs/cards.csv")}
    finals = found["values"]["final accuracy"]
    lines = []
    for row in found["table"]:
        name = row["method"]
        cost = [number(float(costs[name][key])) for key in ("rate_ratio", "flop_ratio")]
        lines.append(
            [f"`{name}`", f"{row['lr']:g}", *(half_width(row[key], 1, 100) for key in ("best", "final")), len(finals[name]), *cost]
        )
    return table(["rule", "learning rate", "best %", "final %", "seeds", "images/s", "multiply-adds"], lines)


def every_rule_cosines() -> str:
    """Three cosines a layer of every supervised rule."""
    rows = results("all_methods")["table"]
    return table(["rule", *LAYERS[:4]], [[f"`{row['method']}`", *(_three_cosines(row, layer) for layer in LAYERS[:4])] for row in rows])


def _three_cosines(row: dict[str, Any], layer: str) -> str:
    """Cosine, noise-corrected cosine and chance; a dash where the rule trains no such layer or has no truth there."""
    cosine = row["cosine"].get(layer, [None])[0]
    if cosine is None:
        return DASH
    return " · ".join((number(cosine), number(row["corrected_cosine"][layer]), number(row["null_cosine"][layer][0])))


def blocks() -> str:
    """What a linear probe reads from each block."""
    found = results("linear_separability")
    points = {(p[0], p[1]): (half_width(p[2:5]), p[5]) for p in found["points"]}
    lines = []
    for rule in dict.fromkeys(rule for rule, _ in points):
        name = "blocks never trained" if rule == "shallow" else f"`{rule}`"
        mean, low, high = found["rise"][rule]
        rise = f"{mean:+.1f} [{number(low, 1)}, {number(high, 1)}]"
        lines.append([name, *(points[rule, block][0] for block in BLOCKS[:FEW]), rise, points[rule, BLOCKS[0]][1]])
    return table(["", *BLOCKS[:FEW], "block3 − block1", "seeds"], lines)


def block_contents() -> str:
    """What a head reads of the label and a decoder of the image, by rule and block."""
    found = [row for row in rows_of("representations/representation_by_depth.csv") if row["network"] == "trained"]
    lines = []
    for rule, quantity in dict.fromkeys((row["label"], row["quantity"]) for row in found):
        mine = {row["block"]: row for row in found if (row["label"], row["quantity"]) == (rule, quantity)}
        what = {"information_y_bits": "label (bits)", "reconstruction_r2": "image (R²)"}[quantity]
        cells = [half_width([float(mine[block][key]) for key in ("mean", "low", "high")], 2) for block in BLOCKS]
        lines.append([f"`{rule}`", what, *cells, mine[BLOCKS[0]]["seeds"]])
    return table(["rule", "what is read", *BLOCKS, "seeds"], lines)


def random_labels() -> str:
    """How fast and how far each rule fits random labels."""
    names = {"dgl head=linear pooled=no": "`dgl`, linear head", "dgl head=mlp pooled=yes": "`dgl`, pooled MLP head"}
    names |= {"bp": "`bp`", "dgl head=mlp pooled=no": "`dgl`, full MLP head"}
    lines = []
    for row in results("random_labels")["scores"]:
        area, final = ([row[key + end] for end in ("", "_low", "_high")] for key in ("area", "final"))
        best = (row["best"], row["best_low"], 2 * row["best"] - row["best_low"])
        cells = [half_width(area, 1, 100), number(row["epochs_to_90"], 1), half_width(final, 1, 100), half_width(best, 1, 100)]
        lines.append([names[row["label"]], *cells, f"{row['own_parameters']:,}"])
    return table(["", "mean over epochs, %", "epoch of 90 %", "final %", "best %", "parameters of the heads"], lines)


def slow_blocks() -> str:
    """Accuracy of dgl-async where one block is slowed down, and of dgl."""
    points = {(p[0], p[1]): p[2:6] for p in results("async_slowdown")["points"]}
    units = {1: "block1", 2: "block2", 3: "block3 and top"}
    words = {1.0: "not slowed", 1.2: "slowed 1.2 times", 3.0: "slowed 3 times"}
    head = ["slowed part", *(f"{text} ({points[1, f][3]} seeds)" for f, text in words.items())]
    lines = [[name, *(half_width(points[unit, f]) for f in (1.0, 1.2, 3.0))] for unit, name in units.items()]
    return table(head, [*lines, [f"none, `dgl` ({points[0, 1.0][3]} seeds)", half_width(points[0, 1.0]), DASH, DASH]])


def greedy_heads() -> str:
    """What greedy training comes to by the hidden layers of its heads: probes of the blocks, and the network."""
    points = {(p[0], p[1]): p[2:6] for p in results("greedy_heads")["points"]}
    names = [what for what in ("probe of block1", "probe of block2", "final accuracy") if (what, 1) in points]
    lines = [[h, *(half_width(points[what, h]) for what in names), points[names[-1], h][3]] for h in (1, 2, 3)]
    return table(["hidden layers", *("the whole network" if what == "final accuracy" else what for what in names), "seeds"], lines)


def two_processes() -> str:
    """What a second process brought, beside its simulation."""
    model = {"vgg16": "VGG16", "basic-cnn": "BasicCNN"}
    lines = []
    for row in results("locking")["two_processes"]:
        rule, _, how = row["schedule"].partition(" ")
        name = f"`{rule} --stale`" if how == "stale" else f"`{rule}`" + (f", {how}" if how else "")
        near = "yes" if row["verdict"] == "agrees" else "**no**"
        lines.append(
            [f"{model[row['model']]} {name}", row["split"].replace(",", " + "), number(row["gain"]), number(row["simulated"]), near]
        )
    return table(["", "split", "measured", "simulated", "within 15 %"], lines)


def gradient_similarity() -> str:
    """Cosines of local and global gradients beside the readings of the paper's figure."""
    rows = [row for row in results("gradient_similarity")["table"] if row["ours"] is not None]
    shown = [row["iteration"] for row in rows if row["layer"] == 5]
    lines = []
    for layer in (5, 4, 3, 2, 1):
        mine = {row["iteration"]: row for row in rows if row["layer"] == layer}
        cells = [_here_and_there(mine[i]) if i in mine else DASH for i in shown]
        lines.append([f"{layer}, the last" if layer == 5 else layer, *cells])
    return table(["layer", *(f"iteration {i:,}" for i in shown)], lines)


def _here_and_there(row: dict[str, Any]) -> str:
    """Our cosine with half its interval, and in brackets the figure's."""
    theirs = "–".join(number(v) for v in dict.fromkeys(row["reference"]))
    return f"{half_width((row['ours'], row['low'], row['high']), 2)} ({theirs})"


def what_was_run(study: str) -> str:
    """Size and cost of a study's runs."""
    found = results(study)
    settings = found["settings"]
    rate = {"constant": "constant", "cosine": "falls to 0"}[settings.get("lr_schedule", "constant")]
    counts = sorted({len(values) for groups in found["values"].values() for values in groups.values()})
    seeds = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    minutes = sum(run["training_minutes"] for run in found["runs"])
    row = [settings.get("width", 16), f"{settings['limit']:,}", settings["epochs"], rate, seeds]
    head = ["width", "training images", "epochs", "learning rate", "seeds", "runs", "minutes of training"]
    now = importlib.import_module(f"analyses.{study}").SHARED
    older = any(
        settings.get(name, "constant") != value for name, value in now.items() if name in ("width", "limit", "epochs", "lr_schedule")
    )
    said = "\nThe runs are older than the script, which has other settings by now: its first lines state them and what they cost.\n"
    return table(head, [[*row, len(found["runs"]), number(minutes, 0)]]) + said * older


STUDIES = (
    "all_methods", "linear_separability", "representations", "greedy_heads", "async_slowdown", "random_labels", "first_layer_filters",
    "locking",
)  # fmt: skip
RUN = ("all_methods", "greedy_heads", "async_slowdown", "random_labels")
RULE_TABLES: dict[str, Callable[[], str]] = {
    "every-rule": every_rule, "every-rule-cosines": every_rule_cosines, "blocks": blocks, "block-contents": block_contents,
    "random-labels": random_labels,
    "slow-blocks": slow_blocks, "greedy-heads": greedy_heads, "two-processes": two_processes, "gradient-similarity": gradient_similarity,
    **{f"tests-{study}": partial(tests, study) for study in (*STUDIES, "gradient_similarity")},
    **{f"run-{study}": partial(what_was_run, study) for study in RUN},
}  # fmt: skip
