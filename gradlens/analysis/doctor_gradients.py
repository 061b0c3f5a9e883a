"""The doctor's checks of blocks' error signals: dead heads, lagging synthesisers, drift, gradients that vanish or explode, stale replay."""

from __future__ import annotations

import math
from statistics import fmean, median

from gradlens.analysis.doctor_evidence import (
    LAST_STEPS,
    WATCH,
    WRONG,
    MissingEvidence,
    RunView,
    Series,
    Symptom,
    graded,
    need_steps,
    step_range,
    values,
)
from gradlens.gradients.layer_names import is_norm

DEAD_SHARE = 0.97  # of the loss of guessing: live heads stood at 0.81 or below within an epoch of 6,000 images, dead ones at 1.00
SYNTH_WATCH = 0.0  # explained variance of a synthesiser: at 0 the batch's mean gradient would do as well
SYNTH_WRONG = -0.05  # … and here worse: synthesisers at zero scattered by 0.01 about it from seed to seed
SYNTH_BAND = (
    10.0  # norm ratio of a synthesised gradient, either way: the reference study's dni, at 14 to 320, learned by its output block alone
)
DRIFT_WATCH = 3.0  # feedback / weights, farther from 1 than at first: through four such layers a message is 81 times off; fa came to 2.2
DRIFT_WRONG = 10.0  # … and 10,000 times; fa at ten times a good learning rate came to 6 and still learned
SPREAD_WATCH = 100.0  # longest / shortest gradient of a run's blocks: of 18 rules on CIFAR-10 all but fa stayed below 30
SPREAD_WRONG = 1e4  # fa came to 1,800 and still learned, its optimiser (Adam) making up for it; twelve sigmoid layers come to 4e9
GROWTH_WATCH = 100.0  # a block's gradient at the end over the one at first: of 18 rules on CIFAR-10 none grew more than 8 times
GROWTH_WRONG = 1e4
STALE_WATCH = 1.0  # age of what a unit reads, in buffer lengths: about 1 where the unit below gives a batch every second round
STALE_WRONG = 3.0  # … about every sixth; a unit slowed three times cost 5 to 8 points
STARVED_SHARE = 0.5  # of the recorded rounds in which a unit had a turn


def dead_head(seen: RunView) -> list[Symptom] | None:
    """Check that every local loss has fallen, and where it is the plain loss of a classifier, below that of guessing."""
    rule = seen.run.config.rule
    if not rule.has_local_losses or seen.untrained or seen.run.config.data.label_noise:  # random labels are learned late
        return None
    seen.need_gradients()
    found = []
    for block, series in seen.of("rule", "loss").items():
        end, first = fmean(values(seen.late(series)) or [math.nan]), series[0][1]
        limit = DEAD_SHARE * seen.guessing if rule.plain_local_loss else first  # predsim's and infopro's are sums of several losses
        if (
            block == seen.blocks[-1] or end < limit or len(series) < LAST_STEPS
        ):  # the output block has no head; a loss before training is no evidence
            continue
        against = f"guessing gives {seen.guessing:.3g}" if rule.plain_local_loss else f"it began at {first:.3g}"
        text = f"the local loss of {block} is {end:.3g} at the end ({step_range(seen.late(series))}); {against}"
        found.append(Symptom(WRONG, block, series[-1][0], end, limit, text))
    return found


def silent(seen: RunView) -> list[Symptom] | None:
    """Check that no layer that the rule trains has a gradient of exactly zero all the time."""
    if seen.untrained:
        return None
    seen.need_gradients()
    found = []
    for layer, series in seen.of("weight", "norm").items():
        # a stage of greedy and a turn of dgl-async come to a block at some steps only: one of them must be there
        end = series if seen.run.config.rule.in_stages or "replay_buffer" in seen.depends_on else seen.late(series)
        if is_norm(layer) or any(v != 0 for _, v in end):
            continue
        if seen.run.config.rule.top_only and layer.partition(".")[0] != seen.blocks[-1]:
            continue  # that is the rule
        text = f"the gradient of {layer} is exactly zero at every one of {len(end)} recorded steps, {end[0][0]} to {end[-1][0]}"
        found.append(Symptom(WRONG, layer, end[-1][0], 0, 0, text))
    return found


def _explained(seen: RunView) -> dict[str, Series] | None:
    """Return a dict block -> how much of its target the block's synthesiser explained; None for rules without, and untrained runs."""
    if not seen.synthetic or seen.untrained:
        return None
    seen.need_gradients()
    return seen.of("rule", "synth_explained_variance")


def lagging(seen: RunView) -> list[Symptom] | None:
    """Check that synthesisers explain some of the gradient they predict."""
    if (explained_by_block := _explained(seen)) is None:
        return None
    found = []
    for block, series in explained_by_block.items():
        end, explained = seen.late_median(series)
        if grade := graded(explained, SYNTH_WATCH, SYNTH_WRONG):
            text = f"the synthesiser of {block} has an explained variance of {explained:.3g} ({step_range(end)})"
            found.append(Symptom(grade[0], block, end[-1][0], explained, grade[1], text))
    return found


def out_of_scale(seen: RunView) -> list[Symptom] | None:
    """Check that a synthesiser's gradient has the size of the true one, within a factor."""
    if (explained_by_block := _explained(seen)) is None:
        return None
    found = []
    for block in explained_by_block:
        end, ratio = seen.late_median(seen.series[block, "parameters", "norm_ratio"])
        if not 1 / SYNTH_BAND <= ratio <= SYNTH_BAND:
            text = f"the gradient of {block} is {ratio:.3g} times as long as the true one ({step_range(end)})"
            found.append(Symptom(WRONG, block, end[-1][0], ratio, SYNTH_BAND if ratio > 1 else 1 / SYNTH_BAND, text))
    return found


def feedback_drift(seen: RunView) -> list[Symptom] | None:
    """Check that feedback keeps its size relative to the weights it replaces."""
    if not seen.run.config.rule.has_feedback:
        return None
    seen.need_gradients()
    kind, of = ("feedback_jacobian", "the mean Jacobian") if "output_error" in seen.depends_on else ("feedback_transpose", "the weights")
    compared = seen.of(kind, "norm_ratio")
    if not compared:
        raise MissingEvidence("feedback was compared with weights at no step (--diagnose-every)")
    need_steps(max(map(len, compared.values())), 2)  # the first is what the last is compared with
    found = []
    for layer, series in compared.items():
        (began, first), (ended, last) = series[0], series[-1]
        before, after = (max(ratio, 1 / ratio) if ratio > 0 else math.inf for ratio in (first, last))
        if grade := graded(after / before, DRIFT_WATCH, DRIFT_WRONG):  # dfa's begins too long by any factor; farther is what counts
            text = f"the feedback of {layer} was {first:.3g} times as long as {of} at step {began} and is {last:.3g} times at step {ended}"
            found.append(Symptom(grade[0], layer, ended, after / before, grade[1], text))
    return found


def vanishing(seen: RunView) -> list[Symptom] | None:
    """Check that no block's gradient is shorter than another's by orders of magnitude."""
    if seen.untrained:
        return None
    seen.need_gradients()
    sizes = {block: median(values(seen.late(live))) for block, live in seen.live().items() if len(live) >= LAST_STEPS}
    if len(sizes) < 2:
        return []
    low, high = min(sizes, key=lambda b: sizes[b]), max(sizes, key=lambda b: sizes[b])
    spread = sizes[high] / sizes[low]
    if not (grade := graded(spread, SPREAD_WATCH, SPREAD_WRONG)):
        return []
    text = f"the gradient of {low} is {sizes[low]:.3g} long and that of {high} {sizes[high]:.3g}, {spread:.3g} times as much"
    return [Symptom(grade[0], low, seen.live()[low][-1][0], spread, grade[1], f"{text} (medians over the end)")]


def exploding(seen: RunView) -> list[Symptom] | None:
    """Check that no block's gradient grows by orders of magnitude."""
    if seen.untrained:
        return None
    seen.need_gradients()
    found = []
    for block, live in seen.live().items():
        if len(live) < LAST_STEPS:
            continue
        began, ended = median(values(live[:LAST_STEPS])), median(values(seen.late(live)))
        if grade := graded(ended / began, GROWTH_WATCH, GROWTH_WRONG):
            at_first, at_last = step_range(live[:LAST_STEPS]), step_range(seen.late(live))
            text = f"the gradient of {block} was {began:.3g} long ({at_first}) and is {ended:.3g} ({at_last})"
            found.append(Symptom(grade[0], block, live[-1][0], ended / began, grade[1], text))
    return found


def stale_replay(seen: RunView) -> list[Symptom] | None:
    """Check that units that read buffers get batches that are not long out of date, and have their turn often."""
    if "staleness" not in seen.run.config.rule.method_quantities or seen.untrained:
        return None
    seen.need_gradients()
    config = seen.run.config
    size, rounds = config.options.get("buffer", config.rule.replay_size), len({row.step for row in seen.run.gradients})
    found = []
    for block, series in seen.of("rule", "staleness").items():
        end = seen.late(series)
        age = median(values(end))
        if grade := graded(age / size, STALE_WATCH, STALE_WRONG):
            text = f"what {block} reads is {age:g} rounds old ({step_range(end)}), with buffers of {size} batches"
            found.append(Symptom(grade[0], block, end[-1][0], age / size, grade[1], text))
        if len(series) < STARVED_SHARE * rounds:
            text = f"{block} had a turn in {len(series)} of {rounds} recorded rounds"
            found.append(Symptom(WATCH, block, series[-1][0], len(series) / rounds, STARVED_SHARE, text))
    return found
