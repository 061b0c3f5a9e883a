"""Write docs/results/claims.md: one line a testable sentence, with its verdict, effect, seeds and corrected p; the other tests folded.

Reads the values that the scripts here have saved under figures/ and decides the tests that the scripts list; trains nothing. A sentence
that nothing tests yet says why, and what a test would take.

    python -m analyses.claims
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from analyses.training.study import HERE
from analyses.verdicts.bounds import benjamini_hochberg
from analyses.verdicts.decision import REFUTED, SUPPORTED, UNDECIDED, Decided
from analyses.verdicts.sentences import SENTENCES, STUDIES, Sentence, tests_of
from analyses.verdicts.stored import decided, results_of
from analyses.verdicts.wording import effect_in_words, in_words, notes_in_words, p_in_words, part_in_words, repeated
from gradlens.runtime.text_files import write_text

UNTESTED = "not tested"
TESTS_WRITTEN = "2026-12-01"  # values stored before this day were known when the tests were written
DASH = "–"


class Evidence(NamedTuple):
    """A decided test and the script that made its values."""

    found: Decided
    script: str
    study: str  # folder under figures/
    known: bool  # its values were stored before the test was written, or took its present form
    rate: float = math.nan  # false discovery rate over the page, of a primary test


def evidence(figures: Path) -> list[Evidence]:
    """Every test whose study has saved its values, decided; the primary ones with their rate over the page."""
    found = []
    for study, (script, _, _) in STUDIES.items():
        old = str(results_of(study, figures).get("written", "")) < TESTS_WRITTEN
        found += [Evidence(one, script, study, old or one.test.seen > 0) for one in decided(study, figures)]
    rates = benjamini_hochberg([e.found.p if e.found.test.primary_of else math.nan for e in found])
    return [e._replace(rate=rate) for e, rate in zip(found, rates, strict=True)]


HEAD = """\
# Claims, one by one

`python -m analyses.claims` writes this page from the values that the scripts saved; do not edit it. Each line is a testable sentence of
the [reference study](index.md#the-reference-study) or of a paper that the study discusses. Sentences of the field that the study does
not make stand apart, at the end.

**How a verdict is made.** Each sentence has one *primary test*, named in its script: a mean over seeds, most often a difference of runs
paired by seed, against a bound. *Supported*: the mean is on the wanted side of the bound, with p ≤ 0.05 after Holm's correction over the
primary tests of its script. *Not supported*: the same on the other side. *Undecided*: neither. A sentence that says several things has a
test of several parts: supported if all are (p is the largest of theirs), not supported if one fails (its p times their number); the table
shows the part that decides. A theorem about every run is tested on every run, without p: one exception refutes it. The folded
lines give what each test would have seen in 80 of 100 repetitions, and how many seeds would decide it at which cost. Intervals hold 95 %,
uncorrected; where a study has eight seeds or more and its differences vary alike (Brown and Forsythe's test), they share one spread.
Values that are the same with every seed have no interval but a sign test. *FDR* is the rate of Benjamini and Hochberg over all primary
tests of the page. One seed decides nothing. What is repeated are seeds, or what the column names: rounds of one measurement, trials.

**†**: the values, or those of its first seeds, were stored before the test was written, or took its present form, so it may have been
chosen after a look at them; a run with new seeds alone would be the better evidence. Values from before December 2026 are also of the
size that their `results.json` names (most often three seeds at a constant learning rate), not of the script's present settings. All
others hold for the size in the first lines of `analyses/SCRIPT.py`, with as many seeds as stand here, most often small networks on
subsets of CIFAR-10 (JPEG copy).
"""


def lines(figures: Path) -> Iterator[str]:
    """The lines of docs/results/claims.md."""
    found = evidence(figures)
    primary = {e.found.test.primary_of: e for e in found if e.found.test.primary_of}
    yield HEAD
    yield _counts(primary)
    for title, sentences in SENTENCES.items():
        yield from _section(title, [s for s in sentences if not s.of_field], found, primary)
    yield from ("", "## Of the field", "", "What the literature says and the reference study does not.")
    yield from _section("", [s for sentences in SENTENCES.values() for s in sentences if s.of_field], found, primary)


def _counts(primary: Mapping[str, Evidence]) -> str:
    """How many sentences have which verdict."""
    sentences = [s for group in SENTENCES.values() for s in group]
    words = [primary[s.key].found.verdict if s.key in primary else UNTESTED for s in sentences]
    listed = ", ".join(f"{words.count(word)} {word}" for word in (SUPPORTED, REFUTED, UNDECIDED, UNTESTED))
    return f"{len(sentences)} sentences: {listed}."


def _section(title: str, sentences: Sequence[Sentence], found: Sequence[Evidence], primary: Mapping[str, Evidence]) -> Iterator[str]:
    """A paper's sentences as a table, and below it, folded, all their tests."""
    if not sentences:
        return
    yield from ("", f"## {title}") if title else ()
    yield from ("", "| sentence | verdict | effect | repeated | p (Holm) | FDR | script |", "|---|---|---|---|---|---|---|")
    yield from (_line(sentence, primary.get(sentence.key)) for sentence in sentences)
    keys = [s.key for s in sentences]
    tests = [e for s in sentences if (e := primary.get(s.key))]
    tests += [e for key in keys for e in found if e.found.test.about == key]
    if tests:
        yield from ("", '<details markdown="1">', f"<summary>{len(tests)} test{'s' * (len(tests) > 1)}</summary>", "")
        for evidence_ in tests:
            yield from _test(evidence_)
        yield from ("", "</details>")


def _line(sentence: Sentence, evidence_: Evidence | None) -> str:
    if evidence_ is None:
        study = next((study for study in STUDIES if any(test.primary_of == sentence.key for test in tests_of(study))), "")
        cost = f": {STUDIES[study].minutes} minutes of one core" if study else ""
        why = sentence.untested or f"not run since its test was written{cost}"
        return f"| {sentence.text} | {UNTESTED} | {why} | | | | {f'`{STUDIES[study].script}`' if study else ''} |"
    found = evidence_.found
    verdict = f"{found.verdict} †" if evidence_.known else found.verdict
    ps = (p_in_words(found.p_holm), p_in_words(evidence_.rate))
    return f"| {' | '.join((sentence.text, verdict, effect_in_words(found), repeated(found), *ps, f'`{evidence_.script}`'))} |"


def _test(evidence_: Evidence) -> Iterator[str]:
    """A test, and below it its parts."""
    found = evidence_.found
    kind = "primary" if found.test.primary_of else "further"
    yield f"- {kind}, {found.verdict}: {found.test.says}: {in_words(found)}{_notes(found)} (`{evidence_.script}`)"
    yield from (f"    - part, {part.verdict}: {part.test.says}: {part_in_words(part)}{_notes(part)}" for part in found.parts)


def _notes(found: Decided) -> str:
    more = notes_in_words(found)
    return f". {more[0].upper()}{more[1:]}" if more else ""


def main() -> None:
    """Write docs/results/claims.md and print how many verdicts of each kind it holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", type=Path, default=HERE.parent / "figures", help="folder of the results")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "results" / "claims.md")
    args = parser.parse_args()
    text = "\n".join(lines(args.figures)) + "\n"
    write_text(args.out, text)
    print(next(line for line in text.splitlines() if " sentences: " in line))
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
