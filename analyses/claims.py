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
from analyses.verdicts.decision import (
    REFUTED,
    SUPPORTED,
    UNDECIDED,
    Decided,
    decide,
    effect_in_words,
    in_words,
    measured,
    notes_in_words,
    p_in_words,
)
from analyses.verdicts.sentences import MINUTES, SENTENCES, STUDIES, Sentence, tests_of
from gradlens.reporting.statistics import benjamini_hochberg
from gradlens.runtime.text_files import read_json, write_text

UNTESTED = "not tested"
TESTS_WRITTEN = "2026-12-01"  # values stored before this day were known when the tests were written
DASH = "–"


class Evidence(NamedTuple):
    """A decided test and the script that made its values."""

    found: Decided
    script: str
    study: str  # folder under figures/
    known: bool  # its values were stored before the tests were written
    rate: float = math.nan  # false discovery rate over the page, of a primary test


def evidence(figures: Path) -> list[Evidence]:
    """Every test whose study has saved its values, decided; the primary ones with their rate over the page."""
    found = []
    for study, script in STUDIES.items():
        file = figures / study / "results.json"
        results = read_json(file) if file.exists() else {}  # without values where its script has not been run since it saves them
        known = str(results.get("written", "")) < TESTS_WRITTEN
        found += [Evidence(decided, script, study, known) for decided in decide(measured(tests_of(study), results), results)]
    rates = benjamini_hochberg([e.found.p if e.found.test.primary_of else math.nan for e in found])
    return [e._replace(rate=rate) for e, rate in zip(found, rates, strict=True)]


HEAD = """\
# Claims, one by one

`python -m analyses.claims` writes this page from the values that the scripts saved; do not edit it. Each line is a testable sentence of
the [reference study](index.md#the-reference-study) or of a paper that the study discusses. Sentences of the field that the study does
not make stand apart, at the end.

**How a verdict is made.** Each sentence has one *primary test*, named in its script: a mean over seeds, most often a difference of runs
paired by seed, against a bound. *Supported*: the mean is on the wanted side of the bound, with p ≤ 0.05 after Holm's correction over the
primary tests of its study. *Not supported*: the same on the other side. *Undecided*: neither. The folded lines say what each test would
have seen in 80 of 100 repetitions, and how many seeds would decide it. Intervals hold 95 %, uncorrected; where a study has eight seeds or
more and its differences vary alike (Brown and Forsythe's test), they share one spread. Values that are the same with every seed have
no interval but a sign test. *FDR* is the rate of Benjamini and Hochberg over all primary tests of the page. One seed decides nothing.

**†**: the values were stored before the test was written, so its bound may have been chosen after a look at them; a run with new seeds
would be the better evidence. Those values are also of the size that their `results.json` names (most often three seeds
at a constant learning rate), not of the script's present settings. All others hold for the size in the first lines of
`analyses/SCRIPT.py`, most often small networks on subsets of CIFAR-10 (JPEG copy).
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
    yield from ("", "| sentence | verdict | effect | seeds | p (Holm) | FDR | script |", "|---|---|---|---|---|---|---|")
    yield from (_line(sentence, primary.get(sentence.key)) for sentence in sentences)
    scripts = dict.fromkeys((e.study, e.script) for s in sentences if (e := primary.get(s.key)))
    tests = [e for s in sentences if (e := primary.get(s.key))]
    tests += [e for e in found if not e.found.test.primary_of and (e.study, e.script) in scripts and _belongs(e, sentences, primary)]
    if tests:
        yield from ("", '<details markdown="1">', f"<summary>{len(tests)} test{'s' * (len(tests) > 1)}</summary>", "")
        yield from map(_test, tests)
        yield from ("", "</details>")


def _belongs(further: Evidence, sentences: Sequence[Sentence], primary: Mapping[str, Evidence]) -> bool:
    """Whether a further test is folded here: below the first sentence, in the page's order, that its study tests."""
    order = [s.key for group in SENTENCES.values() for s in group]
    first = next(key for key in order if key in primary and primary[key].study == further.study)
    return first in {s.key for s in sentences}


def _line(sentence: Sentence, evidence_: Evidence | None) -> str:
    if evidence_ is None:
        study = next((study for study in STUDIES if any(test.primary_of == sentence.key for test in tests_of(study))), "")
        cost = f": {MINUTES[study]} minutes of one core" if study in MINUTES else ""
        why = sentence.untested or f"not run since its test was written{cost}"
        return f"| {sentence.text} | {UNTESTED} | {why} | | | | {f'`{STUDIES[study]}`' if study else ''} |"
    found = evidence_.found
    verdict = f"{found.verdict} †" if evidence_.known else found.verdict
    cells = (verdict, effect_in_words(found), found.seeds, p_in_words(found.p_holm), p_in_words(evidence_.rate), f"`{evidence_.script}`")
    return f"| {sentence.text} | {' | '.join(map(str, cells))} |"


def _test(evidence_: Evidence) -> str:
    found = evidence_.found
    kind = "primary" if found.test.primary_of else "further"
    more = notes_in_words(found)
    more = f". {more[0].upper()}{more[1:]}" if more else ""
    return f"- {kind}, {found.verdict}: {found.test.says}: {in_words(found)}{more} (`{evidence_.script}`)"


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
