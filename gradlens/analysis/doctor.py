"""Diagnosis of a run from its directory: one small check for each way of failing, thresholds with their reasons.

A finding is *wrong* where the run does not do what its rule is meant to do, and something to *watch* where it may be meant so. A check
that lacks what it needs gives the reason; one that does not concern the rule (bp has no synthesiser) is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from gradlens.analysis.doctor_evidence import WATCH, WRONG, MissingEvidence, RunView, Symptom
from gradlens.analysis.doctor_gradients import (
    DEAD_SHARE,
    DRIFT_WATCH,
    DRIFT_WRONG,
    GROWTH_WATCH,
    GROWTH_WRONG,
    SPREAD_WATCH,
    SPREAD_WRONG,
    STALE_WATCH,
    STALE_WRONG,
    STARVED_SHARE,
    SYNTH_BAND,
    SYNTH_WATCH,
    SYNTH_WRONG,
    dead_head,
    exploding,
    feedback_drift,
    lagging,
    out_of_scale,
    silent,
    stale_replay,
    vanishing,
)
from gradlens.analysis.doctor_outcome import (
    CHANCE_ERRORS,
    IMAGES,
    OVERFIT_GAP,
    OVERFIT_WATCH,
    OVERFIT_WRONG,
    RANK_WATCH,
    RANK_WRONG,
    SPIKE_DEVIATIONS,
    SPIKE_EPOCH,
    SPIKE_MATERIAL,
    SPIKE_WIDTH,
    at_chance,
    collapse,
    not_finite,
    overfitting,
    spikes,
    unfinished,
)
from gradlens.runtime.progress import Progress, no_progress
from gradlens.training.context import RunContext
from gradlens.training.run_directory import Run

RESULT = "doctor"  # the name it is stored under in a run directory


class Finding(NamedTuple):
    """A symptom, with its check's threshold and advice."""

    check: str  # a check's name
    severity: str
    where: str
    step: int
    value: float
    limit: float
    evidence: str
    threshold: str  # in words
    advice: str  # one sentence
    why: str  # one sentence: what it does to the run


class Diagnosis(NamedTuple):
    """What :func:`examine` found in one run."""

    findings: list[Finding]  # the wrong ones first
    made: list[str]  # checks that were made
    unmade: dict[str, str]  # check -> why it could not be made
    not_applicable: list[str]  # checks that do not concern this rule

    @property
    def wrong(self) -> bool:
        """Return whether anything is wrong; things to watch do not count."""
        return any(finding.severity == WRONG for finding in self.findings)


class Check(NamedTuple):
    """One check: a way in which a run can fail."""

    name: str
    look: Callable[[RunView], list[Symptom] | None]  # None: it does not concern this rule
    threshold: str  # what is expected, in words
    advice: str  # one sentence
    why: str  # one sentence: what it does to the run


CHECKS: tuple[Check, ...] = (
    Check(
        "unfinished",
        unfinished,
        "all updates made",
        "If it is not running any more, continue it with --resume; if its loss became infinite, lower --lr.",
        "What is missing was never trained, so its numbers stand beside those of finished runs unfairly.",
    ),
    Check(
        "not finite",
        not_finite,
        "no loss or norm NaN or infinite",
        "Lower --lr or warm up (--warmup), and look for the layer whose norm was not finite first.",
        "From there on every number that depends on it is meaningless.",
    ),
    Check(
        "at chance",
        at_chance,
        f"accuracy above the share of the most frequent class by more than {CHANCE_ERRORS:g} standard errors",
        "Try another --lr and more --epochs; if the training accuracy is high, the labels or the test data are not what they should be.",
        "The network predicts no better than by guessing.",
    ),
    Check(
        "dead local head",
        dead_head,
        f"a local loss below {DEAD_SHARE:g} of that of guessing (of several terms: below its first value), mean over the last epoch",
        "This head gives its block no useful gradient: check that it is trained at all, then try another --lr or kind of head.",
        "The block learns from this loss alone, and a loss that does not fall gives it no direction.",
    ),
    Check(
        "silent layer",
        silent,
        "not exactly zero at every recorded step of the last epoch",
        "No gradient reaches this layer: a dead activation above it (a lower --lr avoids that), a head of zeros, or a rule that skips it.",
        "A gradient of zero changes no weight: this layer stays as it was.",
    ),
    Check(
        "lagging synthesiser",
        lagging,
        f"explained variance above {SYNTH_WATCH:g} (wrong from {SYNTH_WRONG:g}), median over the last epoch",
        "Its target moves faster than it learns: more epochs, a lower --lr, or instead of dni cdni, whose synthesisers read the label.",
        "1 is a perfect prediction of the incoming gradient, 0 is as good as its mean over the batch; below 0 the block "
        "is updated with something that is worse than a constant.",
    ),
    Check(
        "synthesiser out of scale",
        out_of_scale,
        f"norm ratio within a factor of {SYNTH_BAND:g}, median over the last epoch",
        "--set target=sum --set zero_bias=true keep a synthesiser's target at a size that its optimiser can reach.",
        "The block makes steps of the wrong length, whatever their direction.",
    ),
    Check(
        "feedback drift",
        feedback_drift,
        f"norm ratio less than {DRIFT_WATCH:g} times farther from 1 than at first (wrong from {DRIFT_WRONG:g})",
        "The weights grow larger than the feedback, or shrink: --weight-decay, a lower --lr, or kp, whose feedback follows the weights.",
        "The error signal has no longer the size that it would have through the weights, and that multiplies from layer to layer.",
    ),
    Check(
        "vanishing block",
        vanishing,
        f"blocks' gradients less than {SPREAD_WATCH:g} times apart (wrong from {SPREAD_WRONG:g}), medians over the last epoch",
        "It learns only as far as its optimiser rescales (Adam does, SGD does not): relu, normalisation, or a rule with local losses.",
        "One learning rate cannot suit both blocks.",
    ),
    Check(
        "exploding block",
        exploding,
        f"a block's gradient less than {GROWTH_WATCH:g} times what it was at first (wrong from {GROWTH_WRONG:g})",
        "A lower --lr, --weight-decay or a network with normalisation keeps weights from growing without end.",
        "Steps that grow like this end in a loss that is infinite.",
    ),
    Check(
        "collapsed features",
        collapse,
        f"effective rank of a block's activations {RANK_WATCH:g} or more (wrong below {RANK_WRONG:g}) on {IMAGES} held-out images",
        "This block's activations vary in one direction only: a lower --lr, normalisation, or less weight on its local loss.",
        "Blocks above cannot distinguish what this one maps to the same activations.",
    ),
    Check(
        "stale replay",
        stale_replay,
        f"batches younger than {STALE_WATCH:g} buffer length (wrong from {STALE_WRONG:g}), a turn in {STARVED_SHARE:.0%} of rounds",
        "Make the slow unit faster (slowdown), or keep fewer batches (buffer) and read each less often (reuse).",
        "The block learns from what the blocks below no longer give.",
    ),
    Check(
        "loss spike",
        spikes,
        f"an epoch's loss below {SPIKE_EPOCH:g} times its neighbours', a recorded one within {SPIKE_DEVIATIONS:g} deviations of the "
        f"median of the {SPIKE_WIDTH} before it, or nearer than {SPIKE_MATERIAL:g} of the loss of guessing",
        "A lower --lr, or --warmup where it happens early; look at what moved before blaming the data.",
        "A step there undid what had been learned, or a batch was unlike the others.",
    ),
    Check(
        "overfitting",
        overfitting,
        f"test loss below {OVERFIT_WATCH:g} times its best (wrong from {OVERFIT_WRONG:g} and {100 * OVERFIT_GAP:g} points of accuracy)",
        "More data, --augment, --weight-decay, or fewer epochs: the best epoch is the one to quote.",
        "The network memorizes the training data.",
    ),
)


def examine(run: Run, context: RunContext | None = None, progress: Progress = no_progress) -> Diagnosis:
    """Make every check on a run, finished or not.

    Args:
        run: from ``gradlens.load``.
        context: where its images are and what computes on them; default: the CPU, data in the default folder.
        progress: called with (done, in all, what comes next).

    """
    seen = RunView(run, context or RunContext())
    findings: list[Finding] = []
    made: list[str] = []
    foreign: list[str] = []
    unmade: dict[str, str] = {}
    for i, check in enumerate(CHECKS):
        progress(i, len(CHECKS), f"checks made, next: {check.name}")
        try:
            found = check.look(seen)
        except MissingEvidence as why:
            unmade[check.name] = str(why)
            continue
        (foreign if found is None else made).append(check.name)
        findings += [Finding(check.name, *symptom, check.threshold, check.advice, check.why) for symptom in found or []]
    return Diagnosis(sorted(findings, key=lambda f: f.severity != WRONG), made, unmade, foreign)


def diagnosis_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """Convert a diagnosis to what JSON can hold."""
    return {"wrong": diagnosis.wrong, **diagnosis._asdict(), "findings": [finding._asdict() for finding in diagnosis.findings]}


def diagnosis_line(diagnosis: Diagnosis) -> str:
    """Sum up in one line: how much is wrong, how much to watch, how many checks were made, and why others could not be."""
    wrong, watch = (sum(f.severity == severity for f in diagnosis.findings) for severity in (WRONG, WATCH))
    text = f"{wrong or 'nothing'} wrong" + f", {watch} to watch" * bool(watch) + f": {len(diagnosis.made)} checks"
    named: dict[str, list[str]] = {}
    for name, why in diagnosis.unmade.items():
        named.setdefault(why, []).append(name)
    why = "; ".join(f"{', '.join(names)}: {why}" for why, names in named.items())
    return text + (f", {len(diagnosis.unmade)} could not be made ({why})" if why else "")
