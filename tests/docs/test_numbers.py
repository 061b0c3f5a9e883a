"""The numbers of docs/results are those of the files in figures."""

import re

import pytest

from tools.docs import result_tables, rule_tables
from tools.docs.result_tables import PAGES, TABLES, number, results, rows_of, with_marks, with_tables
from tools.docs.stored import FIGURES

pytestmark = pytest.mark.skipif(not FIGURES.is_dir(), reason="figures are not in the source distribution")
MARK = re.compile(r"<!-- table: (\S+) -->")


def claim(folder, words, negated=False):
    """(mean, low, high) of the saved claim that holds some words."""
    found = [c["difference"] for c in results(folder)["claims"] if words in c["claim"]]
    assert len(found) == 1, (folder, words)
    mean, low, high = found[0]
    return (-mean, -high, -low) if negated else (mean, low, high)


def bracket(triple, digits=1, sign=False):
    """``mean [low, high]`` as pages print it: a true minus sign, a plus on request."""
    texts = [number(v, digits).replace("-", "−") for v in triple]
    plus = "+" if sign and triple[0] > 0 else ""
    return f"{plus}{texts[0]} [{texts[1]}, {texts[2]}]"


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


SENTENCES = {
    "../faq": [
        lambda: "`bp` takes {} × the time and {} × the added memory".format(*step_cost("bp")),
        lambda: "`dgl` {} and {}".format(*step_cost("dgl")),
        lambda: "recorded on every step {} and {}".format(*step_cost("dgl", 1)),
        lambda: "every 16th step {} and {}".format(*step_cost("dgl", 16)),
        lambda: "`dni` {} and {}".format(*step_cost("dni")),
        lambda: "is {} and the norm ratio {};".format(*dni_with("sum")),
        lambda: "{} and {} (`python -m analyses.dni_target`)".format(*dni_with("mean")),
    ],
    "iteration-1": [
        first_iteration_cosines,
        lambda: last_norm_ratios("dni"),
        lambda: last_norm_ratios("cdni"),
        *(lambda rule=rule: f"- {rule} {second_iteration('basic-cnn', rule)}" for rule in ("bp", "dgl")),
        lambda: f"{second_iteration('vgg16', 'bp').replace(', ', ' and ')} % (bp)",
        lambda: f"{second_iteration('vgg16', 'dgl').replace(', ', ' and ')} % (dgl)",
        lambda: second_losses("vgg16"),
    ],
    "full-size": [
        lambda: "{} (block 3) to {} (block 1) times longer than the true ones in the first epoch".format(*too_long(1)),
        lambda: "{} to {} times in the fourth".format(*too_long(4)),
        lambda: f"eight epochs ({best_full_size_bp()} %)",
    ],
    "blocks-and-separability": [lambda: bracket(claim("representations", "I(h, y): block2"), 3)],
    "random-labels": [
        lambda: spread(*(block("bp", "block3", key) for key in ("mean", "low", "high"))),
        lambda: spread(*(block("dgl", "block3", key) for key in ("mean", "low", "high"))),
        lambda: f"{number(block('bp', 'block1'), 1)} and {number(block('dgl', 'block1'), 1)} %",
        lambda: f"({number(block('bp', 'block1', 'untrained'), 1)} %)",
    ],
    "first-layer-filters": [
        *(lambda rule=rule: gabors(rule) for rule in ("bp", "chunked in two", "chunked in three", "overlap", "dgl")),
    ],
    "without-labels": [
        lambda: bracket(claim("inpainting", "centre: squared error"), 0).replace(" [", " % ["),
        lambda: bracket(claim("inpainting", "centre: block3 is read better than the untrained")).replace(" [", " points ["),
    ],
    "learning-curves": [chance_of_layer_1],
    "feedback": [
        lambda: f"the learning rate is {results('feedback_angles')['settings']['inferred']['lr']:g}.",
        lambda: "({limit:,} of 60,000 training images, {epochs} epochs, all".format(**results("feedback_tables")["parts"][1]),
        lambda: "scikit-learn's digits ({epochs} epochs,".format(**results("feedback_tables")["parts"][0]),
    ],
    "costs-and-parallel": [lambda: recording("bp"), lambda: recording("dgl"), lost_by_pipelines, share_of_machine],
}


@pytest.mark.parametrize("path", with_marks(), ids=lambda path: path.stem)
def test_tables_are_those_of_the_files(path):
    page = path.read_text(encoding="utf-8")
    assert with_tables(page) == page, f"{path.name}: run `python -m tools.docs.result_tables`"


def test_every_table_stands_on_one_page():
    found = [name for path in with_marks() for name in MARK.findall(path.read_text(encoding="utf-8"))]
    assert sorted(name for name in found if name in TABLES) == sorted(TABLES)


@pytest.mark.parametrize("page", SENTENCES)
def test_sentences_hold_the_numbers_of_the_files(page):
    text = " ".join((PAGES / f"{page}.md").read_text(encoding="utf-8").split())
    missing = [expected for make in SENTENCES[page] if (expected := make()) not in text]
    assert not missing, f"{page}.md lacks {missing}"


def test_a_wrong_cell_is_seen(monkeypatch):
    page = (PAGES / "every-rule.md").read_text(encoding="utf-8")
    assert with_tables(page.replace("0.56 · 0.69", "0.57 · 0.69").replace("54.1 ± 5.8", "54.1 ± 5.9")) == page
    monkeypatch.setattr(rule_tables, "number", lambda value, digits=2: "7")
    assert with_tables(page) != page


def test_numbers_are_rounded_once_and_zeros_have_no_sign():
    assert number(-0.001) == "0.00"
    assert number(-0.006) == "-0.01"
    assert number(None) == number(float("nan")) == "–"
    assert result_tables.half_width((48.15, 45.128, 51.172)) == "48.1 ± 3.0"  # the ends rounded first would give 3.1
    assert result_tables.half_width((0.6044, None, None), 1, 100) == "60.4"


def test_readme_and_first_comparison_print_one_table():
    """Both show the same command; its numbers come from one run."""
    root = PAGES.parents[1]
    shown = [
        text[text.index("final cosine of each layer's") :].split("```")[0]
        for name in ("README.md", "docs/getting-started/first-comparison.md")
        for text in [(root / name).read_text(encoding="utf-8")]
    ]
    assert shown[0] == shown[1]
