"""Write the tables of ``docs/results`` and of the FAQ from the files in ``figures``: ``python -m tools.docs.result_tables``.

A page holds each table between ``<!-- table: NAME -->`` and ``<!-- end of table -->``; a test compares both with the files.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tools.docs.feedback_tables import FEEDBACK_TABLES
from tools.docs.markdown import table
from tools.docs.rule_tables import RULE_TABLES
from tools.docs.stored import BLOCKS, DASH, LAYERS, PAGES, bounds, half_width, number, results, rows_of
from tools.docs.task_tables import TASK_TABLES
from tools.docs.theory_tables import THEORY_TABLES
from tools.docs.verdict_tables import tests

# ------------------------------------------------------------------------------------------------------------ the tables


def iteration1() -> str:
    """Accuracies of the first iteration beside the reference study's, and minutes."""
    found = results("iteration1")
    beside = {(r["method"], r["when"]): f"{number(r['ours'], 1)} ({number(r['documents'], 1)})" for r in found["table"]}
    lines = []
    for run in found["runs"]:
        name, test = run["label"], run["test"]
        ends = [f"{number(100 * test[key], 1)} ({test[epoch]})" for key, epoch in SCORES]
        middle = beside.get((name, "epochs 5-7"), DASH)
        lines.append([f"`{name}`", beside[name, "epoch 1"], middle, *ends, number(run["training_minutes"], 0)])
    return table(["rule", "test accuracy %, epoch 1", "mean of epochs 5–7", "best (epoch)", "final (epoch)", "minutes"], lines)


def iteration1_spread() -> str:
    """How much the accuracies of seeds differ where it was measured."""
    found = results("iteration1")["seed_sd"]
    lines = [[f"`{rule}`", number(row["sd"], 2), row["seeds"]] for rule, row in (found or {"points": {}})["points"].items()]
    return table(["rule", "standard deviation over seeds (points)", "seeds"], lines)


def iteration1_cosines() -> str:
    """Cosines of the first iteration's last epoch."""
    cosine = {(r["label"], r["layer"]): float(r["mean"]) for r in rows_of("iteration1/cosine_heat_map.csv")}
    rules = ("bp", "dgl", "dni", "cdni")
    return table(["rule", *LAYERS], [[f"`{rule}`", *(number(cosine[rule, layer]) for layer in LAYERS)] for rule in rules])


SCORES = (("best_accuracy", "best_epoch"), ("final_accuracy", "final_epoch"))


def iteration1_epochs() -> str:
    """Accuracies and losses of the first iteration by epoch."""
    value: dict[tuple[str, str, int], float] = {}
    for split, quantity in (("test", "accuracy"), ("train", "loss"), ("test", "loss")):
        for r in rows_of(f"iteration1/{split}_{quantity}.csv"):
            value[r["label"], f"{split} {quantity}", int(r["epoch"])] = float(r["mean"])
    rules = ("bp", "dgl", "dni", "cdni")
    head = [
        "epoch",
        *(f"{rule} test %" for rule in rules),
        *(f"{rule} {what}" for what in ("train loss", "test loss") for rule in rules[:2]),
    ]
    lines = []
    for epoch in range(8):
        accuracies = [value.get((rule, "test accuracy", epoch)) for rule in rules]
        losses = [value.get((rule, what, epoch)) for what in ("train loss", "test loss") for rule in rules[:2]]
        lines.append([epoch, *(number(a and 100 * a, 1) for a in accuracies), *(number(loss, 3) for loss in losses)])
    return table(head, lines)


LEARNED_ALONE = {  # rows of results without labels, as they are shown; "end to end": their gradient is the true one
    "simclr": "end to end", "loco": "", "simclr-local": "", "cpc": "end to end", "cpc-local": "", "infomax": "",
    "context-encoder": "end to end", "context-encoder-local": "", "autoencoder": "end to end", "bp": "end to end",
}  # fmt: skip


def without_labels() -> str:
    """Probes of each block, and cosines with the end-to-end gradient, of the rules with and without labels that were run."""
    found = results("self_supervised")
    probe = {(r["row"], r["column"]): half_width(bounds(r)) for r in found["accuracy"]}
    cosine = {(r["row"], r["column"]): half_width(bounds(r), 2) for r in found["cosine"]}
    lines = []
    for name, kind in LEARNED_ALONE.items():
        if (name, "block3") in probe:
            cosines = ["1" if kind else cosine.get((name, block), DASH) for block in BLOCKS[:2]]
            shown = {"autoencoder": "autoencoder", "bp": "`bp`, with labels"}.get(name, f"`{name}`")
            lines.append([shown, *(probe[name, block] for block in BLOCKS[:3]), *cosines])
    for name in dict.fromkeys(row for row, _ in probe if row.startswith("untrained")):
        lines.append([name, *(probe[name, b] for b in BLOCKS[:3]), DASH, DASH])
    pixels = probe.get(("raw pixels", "block3"), DASH)
    lines.append(["raw pixels", pixels, DASH, DASH, DASH, DASH])
    return table(["", *BLOCKS[:3], "cosine, block1", "cosine, block2"], lines)


def dni_target() -> str:
    """What a synthesiser regresses: cosine, norm ratio and accuracy of eight variants."""
    lines = []
    for label, row in results("dni_target")["table"].items():
        name, *options = label.replace("=yes", "=true").replace("=no", "=false").split()
        cells = [half_width(row["cosine"], 2), half_width(row["norm_ratio"], 1), half_width(row["final_accuracy"], 1, 100)]
        lines.append([f"`{name}` {', '.join(options)}", *cells])
    return table(["", "cosine of the blocks' gradients", "norm ratio (geometric mean)", "final test accuracy %"], lines)


def step_costs() -> str:
    """Time, multiply-adds and memory of a training step."""
    rows = {(r["method"], r["record_every"]): r for r in results("bench/basic-cnn.json")["rows"]}
    shown = {
        ("bp", 0): "`bp`", ("dgl", 0): "`dgl`", ("dgl", 1): "`dgl`, true gradient measured at every step",
        ("dgl", 16): "`dgl`, at every 16th step", ("dni", 0): "`dni`", ("cdni", 0): "`cdni`",
    }  # fmt: skip
    keys = ("time_ratio", "flop_ratio", "memory_ratio")
    return table(
        ["step", "time", "multiply-adds", "added memory"], [[text, *(number(rows[key][k]) for k in keys)] for key, text in shown.items()]
    )


def two_ranks() -> str:
    """What two processes gain over one."""
    order = (("vgg16", "dgl"), ("vgg16", "bp"), ("basic-cnn", "dgl"), ("basic-cnn", "dfa"), ("basic-cnn", "bp"))
    rule = {"dgl": "`dgl`", "dfa": "`dfa`, exact", "bp": "`bp`, 1F1B"}
    model = {"vgg16": "VGG16", "basic-cnn": "BasicCNN"}
    lines = []
    for network, name in order:
        row = next(r for r in results(f"parallel/{network}.json")["rows"] if r["method"] == name)
        gain = f"{number(row['gain'])} [{number(row['low'])}, {number(row['high'])}]"
        sent = number(row["megabytes_per_s"], 0)
        lines.append(
            [model[network], rule[name], row["split"].replace(",", " + "), gain, number(row["machine"]), number(row["bound"]), sent]
        )
    return table(["model", "rule", "blocks", "gain", "machine", "bound", "MB/s sent"], lines)


def bf16() -> str:
    """Cosine of the bf16 gradient with the fp32 one, by layer."""
    found = results("bf16")["cosine"]
    names = {"untrained": "untrained", "trained": "after 7 epochs"}
    return table(["bp on BasicCNN", *LAYERS], [[names[key], *(number(row[layer][0], 3) for layer in LAYERS)] for key, row in found.items()])


def scripts() -> str:
    """What each script trains, at what size, and the minutes that its saved results took."""
    return table(
        ["script", "what", "size of the saved results", "minutes"],
        [[f"`{s}`", what, size or stored_size(f), _minutes(f)] for s, f, what, size in SCRIPTS],
    )


def stored_size(folder: str) -> str:
    """Network, images, epochs and seeds of a folder's runs, of a file that states them."""
    found = results(folder)
    seeds = sorted(set(Counter(run["label"] for run in found["runs"]).values()))
    many = str(seeds[-1]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    return "width {width}, {limit:,} images, {epochs} epochs, ".format(**found["settings"]) + f"{many} seeds"


def _minutes(folder: str) -> str:
    """Minutes of training, or of computing where the script trains no runs of gradlens."""
    found = results(folder)
    runs = [run["training_minutes"] for run in found.get("runs", []) if run.get("training_minutes") is not None]
    if sum(runs) >= 0.1:
        beside = f", and {number(found['minutes_of_probes'], 0)} of probes" if "minutes_of_probes" in found else ""
        return number(sum(runs), 0) + beside
    if "cpu_minutes" in found:
        return number(found["cpu_minutes"], 0)
    by_the_clock = " by the clock" if folder == "predicting" else ""  # the one older file that does not hold CPU time
    return number(found.get("seconds", math.nan) / 60, 0) + by_the_clock


SMALL = "width 16, 3,000 images, 8 epochs, 3 seeds"
FIVE = "width 16, 3,000 images, 8 epochs, 5 seeds"
SCRIPTS = (  # script, folder of its results, what, size; "": as its file has it
    (
        "iteration1",
        "iteration1",
        "bp, dgl, dni and cdni with the settings of the reference study",
        "width 128, 50,000 images, 1 and 7 epochs, 1 seed",
    ),
    ("iteration2 basic-cnn", "iteration2-basic-cnn", "augmentation, bp and dgl", "2,500 images, 6 epochs, 1 seed"),
    ("iteration2 vgg16", "iteration2-vgg16", "VGG16, bp and dgl", "1,000 images, 2 epochs, 1 seed"),
    (
        "all_methods",
        "all_methods",
        "18 rules: accuracy, cosine, noise, chance",
        "",
    ),
    ("linear_separability", "linear_separability", "linear probes of every block", "width 32, 6,000 images, 5 epochs, 3 seeds"),
    ("representations", "representations", "rank, class separation, information, CKA", "width 32, 6,000 images, 5 epochs, 3 seeds"),
    ("random_labels", "random_labels", "random labels: bp and dgl with three heads", ""),
    ("random_labels", "partly_random", "a fifth of the labels random, by block", ""),
    (
        "first_layer_filters",
        "first_layer_filters",
        "first-layer filters of five rules",
        "width 32, 5 blocks, 590 updates, 4 seeds (5×5: 1)",
    ),
    (
        "gradient_similarity --steps 4000",
        "gradient_similarity",
        "cosine of five layers over training",
        "width 16, 4,000 iterations of 64, 3 seeds",
    ),
    (
        "learning_curves",
        "learning_curves",
        "sentences of the reference study about its curves",
        "width 16, 1,000 images, 60 epochs, 5 seeds of 10 so far",
    ),
    ("self_supervised", "self_supervised", "12 rules with and without labels: probes, gradients of local twins", SMALL),
    ("finetuning", "finetuning", "1, 10, 100 % of the labels from four starts and from scratch", "3,000 images, 90 to 150 updates"),
    ("simclr2", "simclr2", "pretrain, fine-tune, distil; three widths", "widths 8 to 32, 3,000 images, 3 seeds"),
    (
        "simclr_ablations augmentations",
        "simclr_augmentations",
        "cropping with and without colour",
        FIVE,
    ),
    ("simclr_ablations heads", "simclr_heads", "depth and width of the projection head", FIVE),
    ("simclr_ablations batches", "simclr_batches", "batch size and number of steps", SMALL),
    ("spoken_digits", "spoken_digits", "what CPC learns of speech", "2,250 recordings, 24 epochs, twelve seeds"),
    ("inpainting", "inpainting", "context encoders beside autoencoders", "width 16, 5,000 images, 8 epochs, 3 seeds"),
    ("async_slowdown", "async_slowdown", "accuracy against the slowdown of one block", ""),
    (
        "greedy_heads",
        "greedy_heads",
        "greedy heads of 1, 2, 3 hidden layers, in stages",
        "",
    ),
    ("feedback_angles", "feedback_angles", "the linear demonstration of feedback alignment", "as in the paper, 10 networks a scale"),
    ("feedback_tables", "feedback_tables", "five rules on tanh MLPs by depth", "digits; 8,000 images of MNIST, 10 seeds"),
    ("predicting", "predicting", "sample complexity of a pretext task, simulated", "30 trials"),
    ("provable", "provable", "layer by layer on hierarchical digits and CIFAR-10", "2,000 digits, 4 seeds"),
    ("synthetic_theory", "synthetic_theory", "fixed points, implied losses, layers between synthesisers", "toys and digits, 10 seeds"),
    ("synthetic_gradient_scale", "synthetic_gradient_scale", "length and units of synthetic gradients", "digits, 400 updates, 10 seeds"),
    ("dni_unlocked", "dni_unlocked", "synthetic inputs and gradients", "digits, 400 updates, 10 seeds"),
)

PURPOSES = (  # of the FAQ: what one wants, rules, what to know beside their accuracy
    ("a yardstick", ("bp",), ""),
    ("to train blocks in parallel, or with less memory, without waiting for those above", ("dgl", "overlap", "chunked"), ""),
    ("no transposed weights, as in models of the brain", ("usf", "frsf", "brsf", "kp"), "the first three know the weights' signs"),
    ("… and not even their signs", ("fa", "dfa"), ""),
    ("error signals that are predicted", ("cdni", "dni"), "{flop_ratio:.1f} × the multiply-adds of `bp`"),
    ("a control", ("shallow",), "its blocks stay untrained"),
)


def which_rule() -> str:
    """Final accuracy of the rules that serve a purpose."""
    final = {row["method"]: row["final"] for row in results("all_methods")["table"]}
    cost = {row["method"]: {"flop_ratio": float(row["flop_ratio"])} for row in rows_of("method_costs/cards.csv")}
    lines = [
        [
            want,
            ", ".join(f"`{rule}`" for rule in rules),
            ", ".join(half_width(final[rule], 1, 100) for rule in rules),
            note.format(**cost[rules[0]]),
        ]
        for want, rules, note in PURPOSES
    ]
    lines.append(["to learn without labels", "`simclr`, `loco`, `cpc`, `infomax`", "see [Without labels](results/without-labels.md)", ""])
    return table(["you want", "look at", "final test accuracy (%)", "note"], lines)


def command_costs() -> str:
    """CPU seconds and peak memory of commands."""
    rows = rows_of("command_costs/commands.csv")
    lines = [[f"`{row['command']}`", f"{float(row['cpu_seconds']):.2g} s", f"{float(row['peak_mb']):.0f} MB"] for row in rows]
    return table(["command", "CPU time", "peak memory"], lines)


WITHOUT_LABELS = ("self_supervised", "inpainting", "spoken_digits", "simclr_augmentations", "simclr_heads")
TABLES: dict[str, Callable[[], str]] = {
    "iteration1-spread": iteration1_spread, "learning-curves": partial(tests, "learning_curves"),
    "iteration1": iteration1, "iteration1-cosines": iteration1_cosines, "iteration1-epochs": iteration1_epochs,
    **{f"tests-{study}": partial(tests, study) for study in WITHOUT_LABELS},
    "without-labels": without_labels, "dni-target": dni_target, "step-costs": step_costs,
    "two-ranks": two_ranks, "bf16": bf16, "scripts": scripts,
    "which-rule": which_rule, "command-costs": command_costs, **RULE_TABLES, **THEORY_TABLES, **FEEDBACK_TABLES,
    **TASK_TABLES,
}  # fmt: skip


def with_marks() -> list[Path]:
    """The pages that may hold tables."""
    return [*sorted(PAGES.glob("*.md")), PAGES.parent / "faq.md", PAGES.parent / "how-to" / "timeline.md"]


def with_tables(page: str) -> str:
    """A page with each table between the marks that name it."""
    for name, make in TABLES.items():
        begin, end = f"<!-- table: {name} -->\n", "<!-- end of table -->"
        before, mark, rest = page.partition(begin)
        if mark:
            page = before + begin + "\n" + make() + "\n" + end + rest.partition(end)[2]
    return page


if __name__ == "__main__":
    for path in with_marks():
        path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
