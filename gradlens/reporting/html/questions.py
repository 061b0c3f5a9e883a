"""Two questions answered from the page's own numbers: which rule to use, and whether a cosine is good."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from gradlens.methods import BASELINE
from gradlens.reporting.aggregate import final_values
from gradlens.reporting.html.notices import Notice
from gradlens.reporting.html.standings import MethodSummary
from gradlens.reporting.html.verdict import comparable, difference_is_chance, single_seed_limit
from gradlens.reporting.numbers import short_number
from gradlens.reporting.task_words import example_of

FAR = 0.9  # a cosine below it needs an explanation


class Answer(NamedTuple):
    """A question and its answer, a few sentences."""

    question: str
    text: str


def answers(found: Sequence[MethodSummary], notices: Sequence[Notice]) -> list[Answer]:
    """Answer which rule to use, and what a low cosine means; nothing where runs are unlike, or no rule stands beside backprop."""
    if any(notice.unlike for notice in notices) or not (compared := comparable(found)):
        return []
    far = [s for s, _ in compared if s.worst and s.method != BASELINE and s.trained and s.worst.mean < FAR]
    best = max(far, key=lambda s: s.accuracy.mean, default=None)
    replies = [Answer("Which rule should I use?", _which(compared))]
    return replies + ([_is_it_good(best, [s for s, _ in compared])] if best else [])


def _points(s: MethodSummary) -> float:
    """Return points against backprop; of what is compared, all have some."""
    return s.against.points.mean if s.against else -math.inf


def _which(compared: Sequence[tuple[MethodSummary, MethodSummary]]) -> str:
    """Answer which rule to use: backprop, or of the rules whose blocks do not wait for the blocks above the one that loses least."""
    limit = single_seed_limit(compared)
    best = max((s for s, _ in compared), key=_points)
    if _points(best) > 0 and not difference_is_chance(best, limit):
        own = "see whether that holds with each rule's own learning rate (`--lr-grid`)"
        sentences = [f"Here {best.label} is more accurate than backprop; {own}."]
    else:
        sentences = ["For accuracy alone, backprop: no rule here beats it by more than chance."]
    if free := [s for s, _ in compared if not s.runs[0].config.rule.locks().update]:
        least = max(free, key=_points)
        lost = short_number(-_points(least), 1, scale=100)
        how = "loses nothing" if _points(least) > 0 or lost == "0.0" else f"loses least ({lost} points)"
        why = "If blocks are to be trained without waiting for those above them, in parallel"
        sentences.append(f"{why}, {least.label} {how} here.")
    sentences.append("This is one data set and one network: compare on yours before you choose.")
    return " ".join(sentences)


def _is_it_good(s: MethodSummary, compared: Sequence[MethodSummary]) -> Answer:
    """Explain a low cosine: its bounds, chance and noise, and that it does not determine the network's accuracy."""
    assert s.worst is not None
    cosine, layer = short_number(s.worst.mean), s.worst.layer
    sentences = [f"1 is the true gradient, 0 a direction that is unrelated to it. {cosine} is {s.label} at {layer}."]
    if math.isfinite(s.chance.mean):
        sentences.append(f"Chance gives {short_number(s.chance.mean)} there (error signals shuffled over {example_of(s.runs)}s).")
    else:
        sentences.append("The cosine by chance was not recorded (`--diagnose-every`).")
    ceiling = next((v.mean for v in final_values(s.runs, "noise_ceiling") if v.layer == layer), math.nan)
    if math.isfinite(ceiling):
        sentences.append(f"Batches are noisy: the true gradients of two halves of one batch have cosine {short_number(ceiling)} there.")
    sentences.append(_not_accuracy([p for p in compared if p.counted == p.possible and p.trained]))
    return Answer(f"Is a cosine of {cosine} good?", " ".join(part for part in sentences if part))


def _not_accuracy(found: Sequence[MethodSummary]) -> str:
    """Explain that cosine and accuracy are different quantities, by the two rules that show it best, where two do."""
    pairs = [(a, b) for a in found for b in found if a.below.mean < b.below.mean and a.accuracy.mean >= b.accuracy.mean]
    text = "Cosine and accuracy are different things: any direction with a cosine above 0 goes downhill in small enough steps"
    if not pairs:
        return f"{text}."
    low, high = max(pairs, key=lambda pair: pair[1].below.mean - pair[0].below.mean)

    def both(s: MethodSummary) -> str:
        return f"{short_number(s.below.mean)} and {short_number(s.accuracy.mean, 1, scale=100)} %"

    return (
        f"{text}, and here {low.label} (cosine below output block, accuracy: {both(low)}) ends no lower than {high.label} ({both(high)})."
    )
