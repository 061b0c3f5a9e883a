"""The page of claims: one line a sentence, its verdict from the values that scripts saved."""

import importlib
import json
import math
import re
from collections import Counter
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest

from analyses import claims
from analyses.verdicts import stored
from analyses.verdicts.decision import REFUTED, SUPPORTED, UNDECIDED, Test, all_of, decide
from analyses.verdicts.sentences import SENTENCES, STUDIES, Sentence, Study
from gradlens.reporting.statistics import holm

ROOT = Path(claims.__file__).parents[1]
EVERY = [sentence for group in SENTENCES.values() for sentence in group]
TESTS = [test for study in STUDIES for test in claims.tests_of(study)]
LEAVES = [leaf for test in TESTS for leaf in test.leaves]
PAGE = (ROOT / "docs" / "results" / "claims.md").read_text(encoding="utf-8")


def test_the_page_is_what_the_saved_values_say():
    """`python -m analyses.claims` has been run since a result, a test or a sentence changed."""
    assert "\n".join(claims.lines(ROOT / "figures")) + "\n" == PAGE


def test_the_page_is_short_enough_to_read():
    assert sum(not sentence.of_field for sentence in EVERY) <= 60


def test_every_sentence_has_one_primary_test_or_says_why_it_has_none():
    counts = Counter(test.primary_of for test in TESTS if test.primary_of)
    assert set(counts) <= {sentence.key for sentence in EVERY}
    assert max(counts.values()) == 1, counts.most_common(3)
    for sentence in EVERY:
        assert counts[sentence.key] or sentence.untested, sentence.key


def test_every_further_test_is_a_detail_of_a_sentence():
    keys = {sentence.key for sentence in EVERY}
    for test in TESTS:
        assert bool(test.primary_of) != (test.about in keys), test.name
    assert not any(part.primary_of or part.about or part.parts or part.every for test in TESTS for part in test.parts)


def test_names_of_tests_and_keys_of_sentences_are_unique():
    names = Counter(test.name for test in TESTS) + Counter(part.name for test in TESTS for part in test.parts)
    assert max(names.values()) == 1, names.most_common(3)
    assert max(Counter(sentence.key for sentence in EVERY).values()) == 1


def made_up(test, effect):
    """Ten seeds of each group, all alike but for one, so that the test's effect is this on average."""
    few = abs(test.bound) / 100 or 0.01
    values = {group: [few * math.sin(7 * seed + 3 * i) for seed in range(10)] for i, group in enumerate(test.contrast)}
    group, weight = max(test.contrast.items(), key=lambda item: abs(item[1]))
    mean = math.fsum(w * fmean(values[g]) for g, w in test.contrast.items())
    values[group] = [value + (effect - mean) / weight for value in values[group]]
    return {"values": {test.metric: values}}


@pytest.mark.parametrize("test", [leaf for leaf in LEAVES if not leaf.every and not leaf.toward], ids=lambda test: test.name)
def test_a_test_has_one_bound_and_can_be_supported_and_refuted(test):
    assert (test.at_least is None) != (test.within is None)
    apart = abs(test.bound) or 1.0
    holds, fails = (test.bound + apart, [test.bound - apart]) if test.at_least is not None else (0.0, [2 * test.bound, -2 * test.bound])
    for effect, verdict in ((holds, SUPPORTED), *((effect, REFUTED) for effect in fails)):
        (found,) = decide([test], made_up(test, effect))
        assert found.effect.mean == pytest.approx(effect, abs=1e-9)
        assert (found.seeds, found.verdict) == (10, verdict)


@pytest.mark.parametrize("study", STUDIES)
def test_saved_values_hold_what_the_tests_read(study):
    file = ROOT / "figures" / study / "results.json"
    if not file.exists():
        pytest.skip(f"{study} has not been run")
    values = json.loads(file.read_text(encoding="utf-8")).get("values")
    if values is None:
        pytest.skip(f"{study} has not been run since its tests were written")
    for test in (leaf for whole in claims.tests_of(study) for leaf in whole.leaves):
        assert {*test.contrast, *test.toward} <= set(values[test.metric]), test.name


def test_every_script_says_what_it_costs():
    for script in {study.script for study in STUDIES.values()}:
        doc = importlib.import_module(f"analyses.{script}").__doc__
        assert "minute" in doc or "second" in doc, script


# ------------------------------------------------------------------------------------------------- what the page holds

LINES = re.findall(r"^( *- (?:primary|further|part), .*)$", PAGE, re.MULTILINE)
WHOLE = re.compile(r": all of \d+ parts")
POWER = re.compile(
    r"[Ss]ees [\d.e+-]+|[Ff]inds no difference within ±[\d.e+-]+|[Aa] sign test|[Oo]ne \w+ decides nothing|[Ss]o many \w+ show"
)
NEEDS = re.compile(r"\b\d+ (seeds|rounds|trials|pairs) would (decide it|see|show)|a finer measure would|; \d+ would show")
COST = re.compile(r"[\d,]+ minutes of training")


def test_every_verdict_of_the_page_has_its_power():
    """Of a test of several parts, each part has it."""
    verdicts = re.findall(r"^\| .* \| (?:supported|not supported|undecided)( †)? \|", PAGE, re.MULTILINE)
    assert sum("- primary, " in line for line in LINES) == len(verdicts)
    for line in LINES:
        assert POWER.search(line) or WHOLE.search(line), line


def test_every_undecided_test_of_the_page_names_what_would_decide_it_and_the_cost():
    undecided = [line for line in LINES if f", {UNDECIDED}: " in line]
    assert undecided
    for line in undecided:
        assert NEEDS.search(line), line
        assert COST.search(line), line


def test_untested_sentences_of_the_page_name_a_cost():
    for line in re.findall(r"^\| .* \| not tested \| .*$", PAGE, re.MULTILINE):
        assert re.search(r"\d+ (core-minutes|more for five seeds|minutes|hours)|images only so far", line), line


def test_rounds_are_not_called_seeds():
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and "`locking`" in line]
    assert len(rows) == 2
    assert all("| 3 rounds |" in row for row in rows)


def test_tests_of_one_script_are_corrected_together(tmp_path):
    """The three studies of simclr_ablations, each with one or two primary tests: five p values in all but one study."""
    rng = np.random.default_rng(0)
    scripts = Counter(study.script for study in STUDIES.values())
    studies = [name for name, study in STUDIES.items() if study.script == "simclr_ablations"]
    assert [script for script, n in scripts.items() if n > 1] == ["simclr_ablations"]
    for study in studies:
        groups = {group for test in claims.tests_of(study) for leaf in test.leaves for group in leaf.contrast}
        values = {"probe of block3": {group: list(rng.normal(size=5)) for group in sorted(groups)}}
        (tmp_path / study).mkdir()
        (tmp_path / study / "results.json").write_text(json.dumps({"values": values}))
    found = [one for study in studies for one in stored.decided(study, tmp_path) if one.test.primary_of]
    assert [one.p_holm for one in found] == pytest.approx(holm([one.p for one in found]))
    assert len(found) == 4


# ------------------------------------------------------------------------------------------- a page of made-up studies


@pytest.fixture(params=["2027-01-01", "2026-11-24"])
def written(request):
    return request.param


@pytest.fixture
def page(tmp_path, monkeypatch, written):
    sentences = {
        "A paper": (Sentence("more", "More is better"), Sentence("never", "Never tested", "needs a larger machine")),
        "A second": (Sentence("two", "Two things"),),
        "Another": (Sentence("field", "Said in the field", of_field=True),),
    }
    tests = {
        "one": (
            Test("b-a", "b − a", "accuracy", {"b": 1, "a": -1}, "points", at_least=0, primary_of="more"),
            Test("b", "b alone", "accuracy", {"b": 1}, "%", at_least=90, about="two"),
            all_of(
                "two",
                "b above a, a above 60",
                Test("ba", "b − a", "accuracy", {"b": 1, "a": -1}, "points", at_least=0),
                Test("a", "a alone", "accuracy", {"a": 1}, "%", at_least=60, repeats="round"),
                primary_of="two",
                seen=3,
            ),
        ),
        "two": (Test("c", "c alone", "accuracy", {"c": 1}, "%", within=1, primary_of="field"),),
    }
    monkeypatch.setattr(claims, "SENTENCES", sentences)
    for module in (claims, stored):
        monkeypatch.setattr(module, "STUDIES", {"one": Study("script", 7, 1), "two": Study("other", 9, 3)})
        monkeypatch.setattr(module, "tests_of", tests.get)
    (tmp_path / "one").mkdir()
    values = {"accuracy": {"a": [50.0, 51.0, 52.5], "b": [60.0, 61.5, 62.0]}}
    (tmp_path / "one" / "results.json").write_text(json.dumps({"values": values, "minutes": {"a": 1, "b": 2}, "written": written}))
    return "\n".join(claims.lines(tmp_path))


def test_a_sentence_is_a_line_with_its_primary_verdict(page, written):
    (line,) = [line for line in page.splitlines() if line.startswith("| More is better")]
    assert line.split(" | ")[1] == ("supported" if written > claims.TESTS_WRITTEN else "supported †")
    assert "10 [8.76, 11.2] points, wanted at least 0 | 3 seeds |" in line
    assert "`script`" in line
    assert "4 sentences: 1 supported, 1 not supported, 0 undecided, 2 not tested." in page


def test_untested_sentences_say_why(page):
    assert "| Never tested | not tested | needs a larger machine |" in page
    assert "| Said in the field | not tested | not run since its test was written: 9 minutes of one core |" in page
    assert page.index("## Of the field") < page.index("Said in the field")


def test_a_sentence_of_two_things_shows_the_part_that_decides(page):
    (line,) = [line for line in page.splitlines() if line.startswith("| Two things")]
    assert "not supported † | a alone: 51.2 [48" in line  # three seeds were stored when the test took this form
    assert "(the part that decides, of 2) | 3 rounds |" in line
    parts = [line for line in page.splitlines() if line.startswith("    - part, ")]
    assert [part.split(":")[0] for part in parts] == ["    - part, supported", "    - part, not supported"]


def test_further_tests_are_folded_below_the_sentence_that_they_are_about(page):
    first, second = (part.split("</details>")[0] for part in page.split("<details")[1:])
    assert "1 test<" in first
    assert "- primary, supported: b − a" in first
    assert "2 tests" in second
    assert "- further, not supported: b alone" in second
