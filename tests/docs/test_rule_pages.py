"""The rules' pages: which papers, what waits for what, cost, what to try; and the table of all rules."""

import re
from pathlib import Path

import pytest

from analyses.method_costs import CARDS
from gradlens.analysis.rule_structure import RuleStructure, rule_structure
from gradlens.methods import METHODS
from tools.docs.locking import locking_table, waiting, waits
from tools.docs.markdown import between_marks
from tools.docs.papers import papers
from tools.docs.rules import FAMILIES, SIDE_BY_SIDE, index, rule_page

CONCEPTS = Path(__file__).parents[2] / "docs" / "concepts" / "blocks-and-locking.md"
UNSEEN = RuleStructure("", (), (), (), "")  # what most sections do not read


def page(name):
    return "\n".join(rule_page(name, METHODS[name], UNSEEN))


@pytest.mark.parametrize("name", METHODS)
def test_a_rule_has_papers_with_their_authors(name):
    found = papers(METHODS[name])
    assert found
    for paper in found:
        assert re.fullmatch(r"[A-ZØ][^\W\d_]*[^\d]* (19|20)\d\d", paper.name), paper
        assert not re.match(r"(Et|Al|In|The|Code|Their)\b", paper.name), paper
        assert re.match(r"https://(arxiv\.org/abs/\d{4}\.\d{4,5}|doi\.org/10\.\S+)$", paper.address) or paper.name == "Kolen & Pollack 1994"


def test_papers_are_those_that_the_docstrings_name():
    named = {name: [paper.name for paper in papers(METHODS[name])] for name in METHODS}
    assert named["bp"] == ["Rumelhart, Hinton & Williams 1986"]
    assert named["kp"] == ["Kolen & Pollack 1994", "Akrout et al. 2019"]
    assert named["dgl"] == ["Belilovsky, Eickenberg & Oyallon 2020", "Laskin et al. 2020"]
    assert named["dfa"] == ["Nøkland 2016", "Launay et al. 2020", "Zhao et al. 2024"]
    assert named["cpc"] == ["Van den Oord et al. 2018", "Löwe, O'Connor & Veeling 2019"]
    numbers = {name: {paper.address.rpartition("/")[2] for paper in papers(METHODS[name])} - {""} for name in METHODS}
    assert numbers["kp"] == {"1904.05391"}
    assert numbers == {name: set(re.findall(r"(?:arXiv |doi 10\.1038/)(\w+(?:\.\w+)?)", METHODS[name].__doc__)) for name in METHODS}


def test_a_block_waits_for_its_window_only_where_losses_have_windows():
    for name in ("chunked", "overlap", "loco"):
        assert waits(METHODS[name])[1:3] == ("inside its window",) * 2
    for name in ("simclr", "cpc", "context-encoder"):
        assert waits(METHODS[name])[1:3] == ("yes, those of the encoder",) * 2
    assert waits(METHODS["bp"]) == ("yes", "yes", "yes", "no")
    assert waits(METHODS["dfa"]) == ("yes", "yes", "no", "no")
    assert waits(METHODS["cdni"]) == ("yes", "no", "no", "yes")
    assert waits(METHODS["dgl-async"]) == ("no: it reads a replay buffer", "no", "no", "yes")
    assert waits(METHODS["dni-unlocked"]) == ("no: it reads a synthetic input", "no", "no", "no")
    assert waits(METHODS["shallow"]) == ("yes", "it is not trained", "it is not trained", "no")


@pytest.mark.parametrize("name", ["chunked", "overlap", "loco", "simclr", "dgl"])
def test_windows_are_declared_where_they_are_observed(name):
    rule = METHODS[name]
    observed = rule_structure(name, rule)
    assert rule.has_windows == bool(observed.windows)
    text = "\n".join(waiting(rule, observed))
    assert ("every pair of neighbouring blocks" in text) == (name in ("overlap", "loco"))
    assert ("one unit with the global loss" in text) == (name in ("chunked", "dgl"))
    assert ("neither run nor trained" in text) == (name == "simclr")


def test_the_table_of_the_concept_page_is_that_of_the_rules():
    text = CONCEPTS.read_text(encoding="utf-8")
    assert between_marks(text, "locking", locking_table()) == text, "run `python -m tools.docs`"
    cells = [line.split("|")[1] for line in locking_table().splitlines()[2:]]
    assert sorted(re.findall(r"`([\w-]+)`", "".join(cells))) == sorted(METHODS)


@pytest.mark.skipif(not CARDS.is_file(), reason="figures are not in the source distribution")
@pytest.mark.parametrize("name", METHODS)
def test_a_page_has_the_cost_of_its_rule_or_why_not(name):
    cost = page(name).partition("## Cost\n")[2].partition("\n## ")[0]
    if METHODS[name].has_teacher:
        assert "Not measured" in cost
        assert "teacher's run" in cost
        return
    assert "one interleaved run of all rules on two shared cores, one thread" in cost
    rows = dict(re.findall(r"^\| ([^|]+) \| ([\d,.]+) \|", cost, re.M))
    assert len(rows) == 5
    assert name != "bp" or rows["images a second, relative to bp's"] == "1.00"
    assert name == "bp" or rows != dict(re.findall(r"^\| ([^|]+) \| ([\d,.]+) \|", page("bp"), re.M))


@pytest.mark.parametrize("name", METHODS)
def test_what_to_try_does_not_compare_a_rule_with_itself(name):
    (words,) = re.findall(r"gradlens (?:compare-gradients|train) (.*) --epochs \d.*\n```\n$", page(name))
    rules = [word for word in words.split() if word in METHODS]
    assert len(set(rules)) == len(rules)
    assert name in rules


def test_defaults_stand_as_they_are_typed():
    text = page("dgl")
    assert "| `layers` | `1` | hidden layers" in text  # 1 == True
    assert "| `pooled` | `false` |" in text
    assert "| `width` |  | width" in text
    assert "as in `--set dgl.head=linear`" in text  # no default


def test_the_index_names_every_rule_and_draws_each_family():
    text = index()
    assert [name for name in METHODS if f"[`{name}`]({name}.md)" not in text] == []
    assert list(SIDE_BY_SIDE) == list(FAMILIES)
    for rules in (rules for pictures in SIDE_BY_SIDE.values() for rules in pictures):
        assert set(rules) <= set(METHODS)
        assert f"](pictures/{'-'.join(rules)}-light.svg#only-light)" in text
        assert f"gradlens draw {' '.join(rules)}\n" in text
