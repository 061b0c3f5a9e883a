"""Sentences of the pages with numbers in them, each made from the file that the numbers come from, and the numbers that may be typed.

A page's prose may hold a measured number only in such a sentence, in a generated table or in a printed block: tests/docs/test_numbers.py
looks for all others.
"""

import math
import re
from pathlib import Path

from analyses import finetuning, inpainting, overview, provable, self_supervised, simclr2, simclr_ablations
from analyses.full_size.readings import EPOCHS, READINGS
from analyses.training.learning_curve_runs import STAGES, cost
from gradlens.runtime.batch_shard import BUCKET_BYTES
from gradlens.runtime.process_group import HEARTBEAT_TIMEOUT, MESSAGE_TIMEOUT
from tools.docs.result_tables import number, results, rows_of

ROOT = Path(__file__).parents[1]


def claim(folder, words):
    """(mean, low, high) of the saved claim that holds some words."""
    found = [c["difference"] for c in results(folder)["claims"] if words in c["claim"]]
    assert len(found) == 1, (folder, words)
    return tuple(found[0])


def bracket(triple, digits=1):
    """``mean [low, high]`` as pages print it, with a true minus sign."""
    texts = [number(v, digits).replace("-", "−") for v in triple]
    return f"{texts[0]} [{texts[1]}, {texts[2]}]"


def spread(mean, low, high, unit=" %"):
    return f"{number(mean, 1)}{unit} ± {number((high - low) / 2, 1)}"


def block(label, name, key="mean"):
    row = next(r for r in results("partly_random")["blocks"] if (r["label"], r["block"], r["quantity"]) == (label, name, "corrupted_noisy"))
    return 100 * row[key]


def gabors(rule):
    rows = results("first_layer_filters")["numbers"]["7x7"][rule]
    return f"{number(100 * sum(row['gabor_share']['trained'] for row in rows) / len(rows), 0)} %"


def recording(method):
    rows = {r["record_every"]: r["time_ratio"] for r in results("bench/basic-cnn.json")["rows"] if r["method"] == method}
    return f"{number(rows[16] / rows[0])} × ({method})"


def lost_by_pipelines():
    rows = [r for name in ("vgg16", "basic-cnn") for r in results(f"parallel/{name}.json")["rows"] if r["method"] == "bp"]
    return "loses {} to {} % of".format(*(number(100 * (1 - r["gain"] / r["machine"]), 0) for r in rows))


def share_of_machine():
    row = results("parallel/vgg16.json")["rows"][0]
    return f"reaches {number(100 * row['gain'] / row['machine'], 0)} % of the speed-up"


def first_iteration_cosines():
    rows = rows_of("iteration1/cosine_heat_map.csv")
    largest = max(abs(float(r["mean"])) for r in rows if r["label"] in ("dni", "cdni") and r["layer"].startswith("block"))
    return f"|cosine| < {number(largest + 0.0005, 3)}"


def first_iteration_cosine(rule, layer):
    return next(number(float(r["mean"])) for r in rows_of("iteration1/cosine_heat_map.csv") if (r["label"], r["layer"]) == (rule, layer))


def last_norm_ratios(rule):
    ends = {r["layer"]: float(r["mean"]) for r in rows_of("iteration1/norm_ratio_over_training.csv") if r["label"] == rule}
    return "{}, {} and {}".format(*(number(ends[f"block{k}.conv"], 0) for k in (1, 2, 3)))


def too_long(epoch):
    """How many times too long dni's gradients are, from the last block to the first."""
    row = next(r for r in rows_of("full_size/iteration1-fast-w32/fast-dni-published-s0-4epochs-w32.csv") if r["epoch"] == str(epoch))
    return [f"{float(row[f'norm_ratio:block{k}.conv']):,.0f}" for k in (3, 1)]


def best_full_size_bp():
    rows = rows_of("full_size/iteration1-fast-w32/fast-bp-s0-w32.csv")
    return number(100 * max(float(r["test_accuracy"]) for r in rows), 1)


def second_iteration(network, rule):
    rows = results(f"iteration2-{network}")["test_accuracy"][rule]
    return ", ".join(number(rows[str(epoch)], 1) for epoch in range(1, len(rows)))


def second_losses(network):
    losses = results(f"iteration2-{network}")["train_loss"]
    return "{} (bp) and {} (dgl)".format(*(number(list(losses[rule].values())[-1]) for rule in ("bp", "dgl")))


def chance_of_layer_1():
    return bracket(results("gradient_similarity")["final_null_cosine"]["block1.conv"], 2)


def step_cost(method, record_every=0):
    rows = {(r["method"], r["record_every"]): r for r in results("bench/basic-cnn.json")["rows"]}
    return tuple(number(rows[method, record_every][key]) for key in ("time_ratio", "memory_ratio"))


def dni_with(target):
    """Mean cosine and norm ratio of the blocks with a target of the synthesiser."""
    row = results("dni_target")["table"][f"dni target={target} zero_bias=yes"]
    texts = [
        (number(mean, digits), number((high - low) / 2, digits))
        for (mean, low, high), digits in ((row["cosine"], 2), (row["norm_ratio"], 1))
    ]
    return [f"{mean} ± {half}" for mean, half in texts]


def minutes(folder):
    """Of training, or of computing."""
    found = results(folder)
    return number(sum(run["training_minutes"] for run in found["runs"]) or found["cpu_minutes"], 0)


def rule_row(name):
    return next(row for row in results("all_methods")["table"] if row["method"] == name)


def cosine_of(rule, layer="block1.conv", quantity="cosine"):
    found = rule_row(rule)[quantity][layer]
    return number(found[0] if isinstance(found, list) else found)


def behind_dgl(rule):
    return number(100 * (rule_row("dgl")["final"][0] - rule_row(rule)["final"][0]), 1)


def chance_between(layer):
    found = [
        row["null_cosine"][layer][0] for row in results("all_methods")["table"] if row["null_cosine"].get(layer, [None])[0] is not None
    ]
    return " and ".join(number(v).replace("-", "−") for v in (min(found), max(found)))


def bench(name, method, key, **row):
    rows = results(f"bench/{name}.json")["rows"]
    return next(r[key] for r in rows if r["method"] == method and all(r[k] == v for k, v in {"record_every": 0, **row}.items()))


def ratio(name, method, key="time_ratio", **row):
    return number(bench(name, method, key, **row))


def vgg_memory():
    dgl, bp = (bench("vgg16", rule, "memory_mb") for rule in ("dgl", "bp"))
    return f"adds {number(dgl, 0)} MB where a `bp` step adds {number(bp, 0)} MB ({number(dgl / bp)} ×)"


def low_precision():
    speed, memory = (
        bench("bf16", "bp", key, precision="bf16") / bench("bf16", "bp", key, precision="fp32") for key in ("images_per_s", "memory_mb")
    )
    return f"gives {number(speed)} × the images/s of fp32 for `bp` and {number(memory)} × the memory"


def widest_bf16():
    widths = [(high - low) / 2 for layers in results("bf16")["cosine"].values() for _, low, high in layers.values()]
    return f"the 95 % intervals are within ± {math.ceil(1e4 * max(widths)) / 1e4:g}."


def simulated_well():
    pairs = results("locking")["two_processes"]
    within = {pair["within"] for pair in pairs}
    counts = {5: "five", 6: "six"}
    good = sum(pair["verdict"] == "agrees" for pair in pairs)
    return f"comes within {100 * within.pop():.0f} % of the measured gain in {counts[good]} cases of {counts[len(pairs)]}"


def pipeline_bubble():
    ranks, parts = 2, 4
    return f"(K−1)/(M+K−1), is {100 * (ranks - 1) / (parts + ranks - 1):.0f} %"


def fits(features, double=False):
    return [row for row in results("probe_speed")["fits"] if row["features"] == features and row["float64_for_scikit_learn"] is double]


def probe_speeds():
    chosen = results("probe_speed")["chosen_l2"]
    speed = {row["l2"]: row["times_as_fast"] for row in fits(2048)}
    others = [v for l2, v in speed.items() if l2 != chosen]
    return [
        f"finds the optimum {number(speed[chosen], 1)} × as fast",
        f"and {number(min(others), 1)} to {number(max(others), 1)} × as fast at its neighbours",
        f"the factor is {number(fits(2048, double=True)[0]['times_as_fast'], 1)}.",
        f"Accuracies are within {number(max(abs(row['accuracy_difference']) for row in results('probe_speed')['fits']))} points",
        "{} against {} s".format(*(number(fits(64)[0]["seconds"][who]) for who in ("scikit_learn", "gradlens"))),
        f"costs {number(results('probe_speed')['cost']['reading_over_inference'])} × one pass",
        f"another {number(results('probe_speed')['cost']['seconds']['choosing_l2_and_fitting'], 0)} s.",
    ]


def largest_away(when):
    away = [abs(row["ours"] - row["documents"]) for row in results("iteration1")["table"] if row["when"] == when]
    return math.ceil(max(away))


def first_norm_ratios():
    rows = rows_of("iteration1/norm_ratio_over_training.csv")
    last = {(r["label"], r["layer"]): float(r["mean"]) for r in rows if r["label"] in ("dni", "cdni") and r["layer"].startswith("block")}
    return f"{number(min(last.values()), 0)} to {math.ceil(max(last.values()) / 10) * 10} times too long"


def read_off(study, rule, epoch):
    """What the reference study's curve shows."""
    return number(READINGS[study][rule][EPOCHS.index(epoch)], 1)


def vgg_cosines():
    rows = rows_of("iteration2-vgg16/cosine_over_training.csv")
    own = [abs(float(r["mean"])) for r in rows if r["label"] == "dgl" and r["layer"].startswith("block") and r["layer"] != "block13.conv"]
    return f"within ± {math.ceil(100 * max(own)) / 100:g} of zero"


def time_to_fit():
    row = next(row for row in results("random_labels")["scores"] if row["label"] == "bp")
    took = number(results("random_labels")["minutes"]["bp"], 0)
    epochs = number(row["epochs_to_90"], 0)
    return f"One run of `bp` takes {took} minutes of a shared core and has fitted 90 % of the images after {epochs} epochs"


def untrained_gabors():
    row = next(r for r in rows_of("first_layer_filters/gabor_shares.csv") if r["label"] == "untrained")
    return f"{number(float(row['mean']), 0)} % of the untrained filters"


def few_labels():
    ends = [row["mean"] for row in results("finetuning")["accuracy"] if row["column"] == "1 % of the labels"]
    counts = {6: "six"}
    return f"the {counts[len(ends)]} starts end at {number(min(ends), 1)} to {number(max(ends), 1)} % there"


def making_views():
    shares = [100 * bench(name, "simclr", "task_share") for name in ("self_supervised", "self_supervised-width16")]
    return f"takes {number(shares[0], 1)} % of a SimCLR step on the full BasicCNN, and {number(shares[1], 0)} % at width 16"


def cost_of_self_supervised():
    rows = ("loco", "simclr", "simclr-local", "infomax", "context-encoder-local", "bp")
    return f"are estimated at {self_supervised.SEEDS * sum(self_supervised.MINUTES[row] for row in rows):.0f} core-minutes"


def rest_of_provable():
    done = len(next(iter(next(iter(results("provable")["values"].values())).values())))
    words = {4: "Four", 10: "ten"}
    left = 2 * (provable.SEEDS - done)
    return f"{words[done]} of {words[provable.SEEDS]} seeds have been run; the others are estimated at {left} core-minutes"


def cost_of_curves():
    runs = results("learning_curves")
    return [
        f"are estimated at {cost(STAGES):.0f} core-minutes of a free core",
        f"So far the first {runs['settings']['stages']} stages have been run",
        f"of the normalisations, {minutes('learning_curves')} minutes of training on shared cores",
    ]


def scale_factors():
    """Of the two formulas: N times the length of the default bias over that of the gradient of one image."""
    error = 1 - 1 / 10
    mlp = math.sqrt(1 / 3) / math.sqrt(error / 3)
    cnn = math.sqrt(1 / 75) / math.sqrt(error / 18)
    return [
        f"the ratio is N · {number(mlp, 3)} · 6^(j/2) for ten classes",
        f"the ratio below the output block is N · {number(cnn, 3)} · √P.",
        f"there are 4×4 pixels left: {number(4 * cnn, 1)} N, {number(4 * cnn * 256, 0)} for the reference study's batches of 256",
    ]


def finished_and_all(folder, estimate):
    return f"(what has been run took {minutes(folder)} core-minutes; all of it is estimated at {estimate})"


def command_seconds(command):
    row = next(row for row in rows_of("command_costs/commands.csv") if row["command"] == f"gradlens {command}")
    return f"{float(row['cpu_seconds']):.2g} s of CPU time"


def overview_alt():
    found = overview.standings(results("all_methods"))
    return f"{overview.message(found)}]"


def angle_of(page):
    """The angle of dgl's first cosine in the table that the page, or the first comparison, prints."""
    cosine = float(re.search(r"block1\.conv +1\.00 +(\S+)", (ROOT / page).read_text(encoding="utf-8"))[1])
    return f"{math.degrees(math.acos(cosine)):.0f}°"


FIRST, JUDGED = "docs/getting-started/first-comparison.md", "docs/tutorials/judge-a-rule.md"


def judged(row, rule):
    """A number of the table that the page about a rule of one's own prints."""
    lines = [re.split(r"\s{2,}", line.strip()) for line in printed((ROOT / JUDGED).read_text(encoding="utf-8")).splitlines()]
    column = next(line for line in lines if line[0] == "method").index({"mine": "mine-randomheads"}.get(rule, rule))
    return float(next(line for line in lines if line[0] == row)[column].replace("−", "-"))


def points_below(rule, other):
    return judged("final test accuracy (%)", other) - judged("final test accuracy (%)", rule)


def mean_cosine(rule):
    return number(sum(judged(f"block{k}.conv", rule) for k in (1, 2, 3)) / 3)


def by_chance():
    """Half the interval of Agresti and Caffo (2000) of two binomials, as gradlens.reporting.html.standings has it."""
    images, variance = 364, 0.0
    for rule in ("bp", "dgl"):
        share = (images * judged("final test accuracy (%)", rule) / 100 + 1) / (images + 2)
        variance += share * (1 - share) / (images + 2)
    return f"differences below {number(196 * math.sqrt(variance), 1)} points"


CHANCE = "figures/worked_examples, which tests/docs/test_worked_examples.py compares where it is there"
SENTENCES = {
    "README.md": [overview_alt],
    "docs/faq.md": [
        lambda: "`bp` takes {} × the time and {} × the added memory".format(*step_cost("bp")),
        lambda: "`dgl` {} and {}".format(*step_cost("dgl")),
        lambda: "recorded on every step {} and {}".format(*step_cost("dgl", 1)),
        lambda: "every 16th step {} and {}".format(*step_cost("dgl", 16)),
        lambda: "`dni` {} and {}".format(*step_cost("dni")),
        lambda: "is {} and the norm ratio {};".format(*dni_with("sum")),
        lambda: "{} and {} (`python -m analyses.dni_target`)".format(*dni_with("mean")),
        lambda: f"It is an angle of {angle_of(FIRST)}",
        lambda: f"predsim's first block has cosine {cosine_of('predsim')} and it ends {behind_dgl('predsim')} points below dgl",
    ],
    "docs/concepts/chance-and-noise.md": [
        lambda: f"it lies between {chance_between('block1.conv')} at block 1",
        lambda: f"and between {chance_between('top.hidden')} at the top's hidden layer",
        lambda: f'"{cosine_of("dgl")} where chance gives {cosine_of("dgl", quantity="null_cosine").replace("-", "−")}"',
        lambda: f"predsim's first block has cosine {cosine_of('predsim')} and dgl's {cosine_of('dgl')}",
        lambda: f"final accuracies are {behind_dgl('predsim')} points apart",
        lambda: f"±{number(1 / math.sqrt(128 * 128 * 25), 3)} for the {128 * 128 * 25:,} weights",
    ],
    FIRST: [
        lambda: command_seconds("compare-gradients"),
        lambda: f"An angle of {angle_of(FIRST)}",
        lambda: f"a direction at {angle_of(FIRST)} to",
    ],
    JUDGED: [by_chance, lambda: f"%, {number(points_below('mine', 'dgl'), 0)} points."],
    "docs/tutorials/read-the-report.md": [
        by_chance,
        lambda: f"dgl is {number(points_below('dgl', 'bp'), 1)} points worse than backprop ({judged('final test accuracy (%)', 'bp')} %)",
        lambda: f"mine-randomheads is {number(points_below('mine', 'bp'), 0)} points worse",
        lambda: f"(cosine {mean_cosine('dgl')})",
        lambda: f"({mean_cosine('mine')}).",
        lambda: f"({number(judged('block2.conv', 'dgl'))} for dgl's block 2)",
    ],
    "docs/how-to/rules.md": [lambda: f"30 batches of 256 on the full basic-cnn: {30 * 256 * 128 * (16**2 + 8**2) * 4 / 1e9:.1f} GB"],
    "docs/how-to/several-processes.md": [
        lambda: share_of_machine().replace("speed-up", "speed-up that two independent processes get"),
        lambda: f"in buckets of {BUCKET_BYTES // 10**6} MB",
        lambda: f"sends no heartbeat for {HEARTBEAT_TIMEOUT:.0f} seconds",
        lambda: f"does not answer ends them after {MESSAGE_TIMEOUT / 60:.0f} minutes",
    ],
    "docs/how-to/without-labels.md": [lambda: f"log(negatives + 1) = {math.log(17):.2f} for 16"],
    "docs/results/iteration-1.md": [
        first_iteration_cosines,
        first_norm_ratios,
        vgg_cosines,
        lambda: f"After one epoch all four rules are within {largest_away('epoch 1')} points",
        lambda: f"After five to seven epochs bp and dgl are within {largest_away('epochs 5-7')} points",
        lambda: f"has a cosine of {first_iteration_cosine('dgl', 'block1.conv')} only",
        lambda: last_norm_ratios("dni"),
        lambda: last_norm_ratios("cdni"),
        lambda: "BasicCNN reached {} (bp) and {} % (dgl)".format(*(read_off("iteration2-basic-cnn", rule, 6) for rule in ("bp", "dgl"))),
        lambda: "VGG16 {} and {} %".format(*(read_off("iteration2-vgg16", rule, 6) for rule in ("bp", "dgl"))),
        *(lambda rule=rule: f"- {rule} {second_iteration('basic-cnn', rule)}" for rule in ("bp", "dgl")),
        lambda: f"{second_iteration('vgg16', 'bp').replace(', ', ' and ')} % (bp)",
        lambda: f"{second_iteration('vgg16', 'dgl').replace(', ', ' and ')} % (dgl)",
        lambda: second_losses("vgg16"),
    ],
    "docs/results/full-size.md": [
        lambda: "{} (block 3) to {} (block 1) times longer than the true ones in the first epoch".format(*too_long(1)),
        lambda: "{} to {} times in the fourth".format(*too_long(4)),
        lambda: f"eight epochs ({best_full_size_bp()} %)",
        lambda: f"The script makes the decoded file ({math.ceil(60_000 * 32 * 32 * 3 / 1e6):.0f} MB)",
    ],
    "docs/results/random-labels.md": [
        time_to_fit,
        lambda: spread(*(block("bp", "block3", key) for key in ("mean", "low", "high"))),
        lambda: spread(*(block("dgl", "block3", key) for key in ("mean", "low", "high"))),
        lambda: f"{number(block('bp', 'block1'), 1)} and {number(block('dgl', 'block1'), 1)} %",
        lambda: f"({number(block('bp', 'block1', 'untrained'), 1)} %)",
    ],
    "docs/results/first-layer-filters.md": [
        lambda: f"took {number(results('first_layer_filters')['training_minutes'], 0)} minutes on crowded cores",
        untrained_gabors,
        *(lambda rule=rule: gabors(rule) for rule in ("bp", "chunked in two", "chunked in three", "overlap", "dgl")),
    ],
    "docs/results/without-labels.md": [
        lambda: bracket(claim("inpainting", "centre: squared error"), 0).replace(" [", " % ["),
        lambda: bracket(claim("inpainting", "centre: block3 is read better than the untrained")).replace(" [", " points ["),
        cost_of_self_supervised,
        making_views,
        few_labels,
        lambda: f"is estimated at {simclr_ablations.MINUTES['batches']} core-minutes",
        lambda: f"at {finetuning.MINUTES * finetuning.SEEDS} and {simclr2.MINUTES * simclr2.SEEDS} core-minutes",
        lambda: f"an estimated {inpainting.MINUTES * (len(inpainting.TASKS) * 5 + 1):.0f} core-minutes",
    ],
    "docs/results/learning-curves.md": [
        chance_of_layer_1,
        lambda: "a mean cosine of {} at most".format(
            number(max(abs(mean) for mean, *_ in results("gradient_similarity")["final_null_cosine"].values()))
        ),
        lambda: f"({minutes('gradient_similarity')} minutes of training)",
        *(lambda i=i: cost_of_curves()[i] for i in range(3)),
    ],
    "docs/results/feedback.md": [
        lambda: f"the learning rate is {results('feedback_angles')['settings']['inferred']['lr']:g}.",
        lambda: "({limit:,} of 60,000 training images, {epochs} epochs, all".format(**results("feedback_tables")["parts"][1]),
        lambda: "scikit-learn's digits ({epochs} epochs,".format(**results("feedback_tables")["parts"][0]),
    ],
    "docs/results/synthetic-gradient-scale.md": [
        *(lambda i=i: scale_factors()[i] for i in range(3)),
        lambda: finished_and_all("synthetic_gradient_scale", 30),
        lambda: finished_and_all("dni_unlocked", 16),
    ],
    "docs/results/theory.md": [rest_of_provable],
    "docs/results/costs-and-parallel.md": [
        lambda: recording("bp"),
        lambda: recording("dgl"),
        lost_by_pipelines,
        share_of_machine,
        lambda: f"PyTorch's default layout takes {ratio('basic-cnn', 'plain-default-layout')} × that loop's time",
        lambda: "make {} and {} × `bp`'s multiply-adds".format(*(ratio("basic-cnn", rule, "rate_share") for rule in ("dni", "cdni"))),
        lambda: "`fa` takes {}, `usf` {}, `frsf` {} and `bp` {} × the plain loop's time".format(
            *(ratio("feedback", rule) for rule in ("fa", "usf", "frsf", "bp"))
        ),
        lambda: f"`dfa` takes {ratio('feedback', 'dfa')} × the time and {ratio('feedback', 'dfa', 'flop_ratio')} × the multiply-adds",
        vgg_memory,
        low_precision,
        widest_bf16,
        simulated_well,
        pipeline_bubble,
        *(lambda i=i: probe_speeds()[i] for i in range(7)),
    ],
}  # fmt: skip


# ------------------------------------------------------------------------------------------------- numbers that are typed

MEASURED = re.compile(
    r"""
    [−+-]?\d[\d,]*(?:\.\d+)?(?:e[−-]?\d+)?\s?(?:%|×(?!\d)|°|(?:s|ms|seconds?|minutes?|core-minutes|hours?|times|points?|bits?|nats?|[GM]B|images/s)\b)
    | ±\s?\d[\d.]*
    | [−+-]?\b\d+\.\d+(?:e[−-]?\d+)?\b
    | \b\d+e[−-]\d+\b
    """,
    re.X,
)
NAMES = re.compile(  # of levels, papers and versions, settings, and a random cosine's size: no measurements
    r"""
    95\s%\s(?:t-)?intervals? | 95\s%\spercentile
    | arXiv\s\d+\.\d+ | (?:Theorem|Definition)\s\d+\.\d+ | §\d+(?:\.\d+)+
    | (?:Python|PyTorch|torch)\s\d+\.\d+
    | (?:Adam|SGD|rates?|l2)\s\d[\d.e-]*\d | --lr-grid\s\S+
    | ±1/√
    """,
    re.X,
)
GENERATED = ("claims.md", "changelog.md", "gallery.md", "their-figures.md", "contributing.md")  # by tools, from files
TYPED = {  # page -> why some may be typed -> the words around them
    "docs/index.md": {
        "how long a page takes to read and try": ("5 minutes", *["10 minutes"] * 3, *["15 minutes"] * 2),
    },
    "docs/analyses/doctor.md": {
        "thresholds, from gradlens/analysis/doctor_*.py": (
            "0.97 of that of guessing", "≤ −0.05", "10 times farther", "3 times", "gradients 10,000 times apart | 100 times",
            "gradient 10,000 times what it was at first | 100 times", "below 1.5 on", "ends 1.5 times", "epoch 1.5 times",
            "test loss 1.5 times", "20 points", "1.1 times",
        ),
    },
    "docs/analyses/filters.md": {
        "definition": ("R² > 0.5", "0 bits", "at most 1 %",),
    },
    "docs/analyses/inpainting.md": {
        "a setting": ("10 times",),
    },
    "docs/analyses/memorization.md": {
        "definition": ("100 %", "90 %",),
        "a setting": ("l2 1e-3",),
        "one in ten classes": ("10 % is chance",),
    },
    "docs/analyses/online-probe.md": {
        "most that a format holds": ("69 MB", "4 MB",),
    },
    "docs/analyses/probes.md": {
        "the grid of a protocol": ("1, 0.1, 0.01, 0.001", "1, 0.3, 0.1, …, 1e-4",),
        "a bound, tests/analysis/test_logistic_regression.py": ("is 3e-5 or less",),
    },
    "docs/analyses/report.md": {
        "size of a library": ("some 5 MB",),
    },
    "docs/analyses/theory.md": {
        "tests/docs/test_theory.py and tests/analysis/test_conditional_dependence.py": (
            "19 %", "2e-6", "4e-10", "(1e-9)", "norm 0.58", "0.61",
        ),
    },
    "docs/concepts/blocks-and-locking.md": {
        "exact: the global loss": ("1.00",),
    },
    "docs/concepts/chance-and-noise.md": {
        "an example": ("A cosine of 0.38",),
    },
    "docs/concepts/true-gradient.md": {
        "a limit of the code": ("above 0.99",),
    },
    "docs/faq.md": {
        "an example": ("Is 0.39 good", "to 0.3 only",),
        FIRST: ("with 0.39 in",),
    },
    FIRST: {
        "definition": ("is 1.00 everywhere", "of dgl is 1.00",),
        FIRST: ("What does 0.39 mean", "so 0.39 is",),
    },
    "docs/how-to/accumulation-bf16-clipping.md": {
        "tests/docs/test_page_commands.py": ("0.991 with 32 images, 0.970 with 4",),
        "a setting": ("2.3 nats",),
    },
    "docs/how-to/data.md": {
        "a format": ("16 bits",),
        "size of a published file": ("2.8 GB",),
    },
    "docs/how-to/models.md": {
        "a setting": ("0.001",),
    },
    "docs/how-to/rules.md": {
        "definition": ("0.25 for unit",),
    },
    "docs/how-to/several-processes.md": {
        "a tolerance of the tests": ("1e-10", "1e-6",),
        "a limit of the code": ("within 30 seconds",),
    },
    "docs/how-to/studies.md": {
        "tests/docs/test_numbers.py simulates it": ("76 % of cases with 3 seeds, 84 % with 5 and 90 % with 10",),
    },
    "docs/results/certificates.md": {
        "a setting": ("to 2 %",),
    },
    "docs/results/feedback.md": {
        "quoted: Lillicrap et al. 2016": ("(±1), B (±0.5)", "text's 0.001", "5 points behind fa",),
        "quoted: Nøkland 2016": ("0.04 to 0.16 points",),
        "quoted: biotorch": ("0.7 to 0.8",),
        "ratio of settings": ("450 times",),
    },
    "docs/results/full-size.md": {
        "size of an archive": ("19 MB for", "19 MB of", "35 MB"),
        "quoted: the reference study's best epoch of all": ("76.5 %",),
    },
    "docs/results/index.md": {
        "an estimate, of which the page says so": ("2 points",),
    },
    "docs/results/iteration-1.md": {
        "a network": ("3 × Conv",),
    },
    "docs/results/learning-curves.md": {
        "estimates of cost": ("90 core-minutes", "55 core-minutes", "600 core-minutes", "30 core-minutes", "300 core-minutes",),
        "quoted: the reference study's curve": ("50.8 %", "36.8 %",),
    },
    "docs/results/synthetic-gradient-scale.md": {
        "an estimate of cost": ("13 core-minutes",),
    },
    "docs/results/without-labels.md": {
        "a setting": ("1 % are three",),
    },
    JUDGED: {
        FIRST: ("0.39",),
        CHANCE: ("−0.02 and 0.05 beside −0.03 and 0.07", "0.20 where chance gives 0.04", "0.02 where chance gives 0.03",),
    },
    "docs/how-to/language.md": {
        "settings": ("U(±0.1)", "epsilon is 1e-8 and not 1e-9",),
    },
    "docs/tutorials/own-images.md": {
        "a format": ("16 bits",),
    },
    "docs/tutorials/own-loop.md": {
        "a setting": ("Smoothing of 0.2",),
        "the table above it": ("to 0.8 of",),
        "tests/docs/test_page_commands.py": (
            "| 0 | 1.000 | 0.800 | | 10 | 1.000 | 0.794 | | 20 | 1.000 | 0.782 | | 30 | 0.997 | 0.754 | | 40 | 0.985 | 0.716 |",
        ),
    },
    "docs/tutorials/read-the-report.md": {
        "size of a library": ("about 5 MB",),
        "an example": ("vary by 35 %",),
        CHANCE: ("| 0.02 | 0.03 | −0.07 |", "| 0.29 | 0.11 | 0.25 |", "| 0.20 | 0.04 | 0.18 |",),
    },
}  # fmt: skip


def pages():
    """The pages that are written by hand, by their path."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    kept = [path for path in found if path.name not in GENERATED and not {"rules", "reference"} & set(path.relative_to(ROOT).parts[1:-1])]
    return [path.relative_to(ROOT).as_posix() for path in kept]


def without_code(text):
    """One line, code spans emptied."""
    return " ".join(re.sub(r"`[^`\n]*`", "`", text).split())


def prose(page):
    """What a page says outside code, generated tables, comments and addresses."""
    page = re.sub(r"^ *```.*?^ *```", "", page, flags=re.S | re.M)
    page = re.sub(r"<!-- table: \S+ -->.*?<!-- end of table -->", "", page, flags=re.S)
    page = re.sub(r"<!--.*?-->", "", page, flags=re.S)
    return without_code(re.sub(r"\]\([^)\s]*\)", "]", page))


def printed(page):
    """What the page shows as printed: blocks of no language."""
    blocks = re.findall(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", page, re.S | re.M)
    return "\n".join(text for language, text in blocks if not language)


def typed_numbers(page, sentences=(), allowed=()):
    """Numbers of a page's prose that look measured, and stand in none of the given sentences nor in a printed block of the page."""
    text, shown = prose(page), printed(page)
    for sentence in (*sentences, *allowed):
        text = text.replace(without_code(sentence), " · ", 1)
    text = NAMES.sub(" · ", text)
    outputs = set(re.findall(r"[−-]?\d+\.\d+", shown))
    found = [match.group().strip() for match in MEASURED.finditer(text)]
    return [number for number in found if re.match(r"[−-]?[\d.]*\d", number)[0] not in outputs] if outputs else found


def typed_on(page):
    """The words of a page whose numbers may be typed."""
    return [words for those in TYPED.get(page, {}).values() for words in those]
