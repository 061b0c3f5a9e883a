"""The page of claims: one line a sentence, its verdict from the values that scripts saved."""

import importlib
import json
import math
from collections import Counter
from pathlib import Path
from statistics import fmean

import pytest

from analyses import claims
from analyses.verdicts.decision import REFUTED, SUPPORTED, Test, decide
from analyses.verdicts.sentences import SENTENCES, STUDIES, Sentence

ROOT = Path(claims.__file__).parents[1]
EVERY = [sentence for group in SENTENCES.values() for sentence in group]
TESTS = [test for study in STUDIES for test in claims.tests_of(study)]


def test_the_page_is_what_the_saved_values_say():
    """`python -m analyses.claims` has been run since a result, a test or a sentence changed."""
    assert (ROOT / "docs" / "results" / "claims.md").read_text(encoding="utf-8") == "\n".join(claims.lines(ROOT / "figures")) + "\n"


def test_the_page_is_short_enough_to_read():
    assert sum(not sentence.of_field for sentence in EVERY) <= 60


def test_every_sentence_has_one_primary_test_or_says_why_it_has_none():
    counts = Counter(test.primary_of for test in TESTS if test.primary_of)
    assert set(counts) <= {sentence.key for sentence in EVERY}
    assert max(counts.values()) == 1, counts.most_common(3)
    for sentence in EVERY:
        assert counts[sentence.key] or sentence.untested, sentence.key


def test_names_of_tests_and_keys_of_sentences_are_unique():
    assert max(Counter(test.name for test in TESTS).values()) == 1
    assert max(Counter(sentence.key for sentence in EVERY).values()) == 1


def made_up(test, effect):
    """Ten seeds of each group, all alike but for one, so that the test's effect is this on average."""
    few = abs(test.bound) / 100 or 0.01
    values = {group: [few * math.sin(7 * seed + 3 * i) for seed in range(10)] for i, group in enumerate(test.contrast)}
    group, weight = max(test.contrast.items(), key=lambda item: abs(item[1]))
    mean = math.fsum(w * fmean(values[g]) for g, w in test.contrast.items())
    values[group] = [value + (effect - mean) / weight for value in values[group]]
    return {"values": {test.metric: values}}


@pytest.mark.parametrize("test", TESTS, ids=lambda test: test.name)
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
    for test in claims.tests_of(study):
        assert set(test.contrast) <= set(values[test.metric]), test.name


def test_every_script_says_what_it_costs():
    for script in set(STUDIES.values()):
        doc = importlib.import_module(f"analyses.{script}").__doc__
        assert "minute" in doc or "second" in doc, script


# ------------------------------------------------------------------------------------------- a page of made-up studies


@pytest.fixture(params=["2027-01-01", "2026-11-24"])
def written(request):
    return request.param


@pytest.fixture
def page(tmp_path, monkeypatch, written):
    sentences = {
        "A paper": (Sentence("more", "More is better"), Sentence("never", "Never tested", "needs a larger machine")),
        "Another": (Sentence("field", "Said in the field", of_field=True),),
    }
    tests = {
        "one": (
            Test("b-a", "b − a", "accuracy", {"b": 1, "a": -1}, "points", at_least=0, primary_of="more"),
            Test("b", "b alone", "accuracy", {"b": 1}, "%", at_least=90),
        ),
        "two": (Test("c", "c alone", "accuracy", {"c": 1}, "%", within=1, primary_of="field"),),
    }
    monkeypatch.setattr(claims, "SENTENCES", sentences)
    monkeypatch.setattr(claims, "STUDIES", {"one": "script", "two": "script"})
    monkeypatch.setattr(claims, "tests_of", tests.get)
    (tmp_path / "one").mkdir()
    values = {"accuracy": {"a": [50.0, 51.0, 52.5], "b": [60.0, 61.5, 62.0]}}
    (tmp_path / "one" / "results.json").write_text(json.dumps({"values": values, "minutes": {"a": 1, "b": 2}, "written": written}))
    return "\n".join(claims.lines(tmp_path))


def test_a_sentence_is_a_line_with_its_primary_verdict(page, written):
    (line,) = [line for line in page.splitlines() if line.startswith("| More is better")]
    assert line.split(" | ")[1] == ("supported" if written > claims.TESTS_WRITTEN else "supported †")
    assert "10 [8.76, 11.2] points, wanted at least 0 | 3 |" in line
    assert "`script`" in line
    assert "3 sentences: 1 supported, 0 not supported, 0 undecided, 2 not tested." in page


def test_untested_sentences_say_why(page):
    assert "| Never tested | not tested | needs a larger machine |" in page
    assert "| Said in the field | not tested | not run since its test was written |" in page
    assert page.index("## Of the field") < page.index("Said in the field")


def test_further_tests_are_folded(page):
    folded = page[page.index("<details") : page.index("</details>")]
    assert "2 tests" in folded
    assert "- primary, supported: b − a" in folded
    assert "- further, not supported: b alone" in folded
