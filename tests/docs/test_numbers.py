"""The numbers of docs/results are those of the files in figures."""

import re
from collections import Counter

import numpy as np
import pytest
from stated_numbers import ROOT, SENTENCES, TYPED, pages, prose, typed_numbers, typed_on, without_code

from tools.docs import result_tables, rule_tables
from tools.docs.result_tables import PAGES, SCRIPTS, TABLES, number, results, with_marks, with_tables
from tools.docs.stored import FIGURES

pytestmark = pytest.mark.skipif(not FIGURES.is_dir(), reason="figures are not in the source distribution")
MARK = re.compile(r"<!-- table: (\S+) -->")


@pytest.mark.parametrize("path", with_marks(), ids=lambda path: path.stem)
def test_tables_are_those_of_the_files(path):
    page = path.read_text(encoding="utf-8")
    assert with_tables(page) == page, f"{path.name}: run `python -m tools.docs.result_tables`"


def test_every_table_stands_on_one_page():
    found = [name for path in with_marks() for name in MARK.findall(path.read_text(encoding="utf-8"))]
    assert sorted(name for name in found if name in TABLES) == sorted(TABLES)


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


# ----------------------------------------------------------------------------------------------------------------- prose


def sentences(page):
    return [make() for make in SENTENCES.get(page, ())]


@pytest.mark.parametrize("page", SENTENCES)
def test_sentences_hold_the_numbers_of_the_files(page):
    text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    missing = [expected for expected in sentences(page) if expected not in text]
    assert not missing, f"{page} lacks {missing}"


@pytest.mark.parametrize("page", pages())
def test_no_measured_number_is_typed(page):
    """One that looks measured stands in a table, a printed block, a sentence that is made from a file, or among those explained."""
    left = typed_numbers((ROOT / page).read_text(encoding="utf-8"), sentences(page), typed_on(page))
    assert not left, f"{page}: add a sentence to tests/stated_numbers.py that makes {left} from a file"


def test_typed_numbers_are_seen():
    page = "# A page\n\nIt takes 3.7 × the time, 12 s, and ends at 84.9 %\nor 0.24 ± 0.05, 2e-6 off, 5 points, 30°, 2 GB."
    found = typed_numbers(page + " A 95 % interval, Adam 3e-5.\n")
    assert found == [
        "3.7 ×",
        "12 s",
        "84.9 %",
        "0.24",
        "± 0.05",
        "2e-6",
        "5 points",
        "30°",
        "2 GB",
    ]
    hidden = (
        "`--lr 0.1`, [a page](page-0.5.md), <!-- 7.5 % -->\n\n<!-- table: a -->\n| 3.5 |\n<!-- end of table -->\n\n```sh\ntrain 0.4\n```\n"
    )
    assert typed_numbers(hidden) == []
    assert typed_numbers("It ends at 0.97 and 0.98.", ["ends at 0.97"]) == ["0.98"]
    assert typed_numbers("It ends at 0.97 and 0.98.\n\n```\nfinal 0.97\n```\n") == ["0.98"]


def test_what_may_be_typed_is_still_on_its_page():
    for page in TYPED:
        text = prose((ROOT / page).read_text(encoding="utf-8"))
        assert not [words for words in typed_on(page) if without_code(words) not in text], page


@pytest.mark.parametrize(("seeds", "wanted"), [(3, 76), (5, 84), (10, 90)])
def test_bootstrap_intervals_of_few_seeds_are_too_short_as_the_page_says(seeds, wanted):
    """Percentile intervals of normal values, 2,000 studies: 1,000 resamples each are enough for a point or two."""
    draw = np.random.default_rng(0)
    covered = 0
    for values in draw.normal(size=(2_000, seeds)):
        low, high = np.percentile(values[draw.integers(seeds, size=(1_000, seeds))].mean(1), (2.5, 97.5))
        covered += low <= 0 <= high
    assert 100 * covered / 2_000 == pytest.approx(wanted, abs=2.5)  # two and a half standard errors


@pytest.mark.parametrize(("script", "folder", "_", "size"), SCRIPTS)
def test_sizes_that_are_typed_are_those_of_the_files(script, folder, _, size):
    found = results(folder)
    settings = found.get("settings") or {}
    settings = settings.get("adam", settings)
    seeds = Counter(run["label"] for run in found.get("runs", [])).values()
    if stated := re.search(r"(\d+)(?: to \d+)? seeds?", size):
        assert not seeds or int(stated[1]) == max(seeds)
    for name, words in (("width", r"width (\d+)"), ("epochs", r"(\d+) epochs"), ("steps", r"([\d,]+) (?:iterations|updates)")):
        if name in settings and (stated := re.search(words, size)):
            assert int(stated[1].replace(",", "")) == settings[name]
