"""The checks that every rule passes, run on one rule with small networks in float64; each failure is one sentence.

The tests run the same checks over all of METHODS; here they are functions, so that ``gradlens check`` can run them on a user's rule.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gradlens._version import PACKAGE
from gradlens.gradients.method import Method
from gradlens.runtime.errors import InputError
from gradlens.runtime.old_names import hint
from gradlens.runtime.step_context import step_context
from gradlens.training.checks.run_checks import no_trace, resume, seed
from gradlens.training.checks.step_checks import answers, arguments, gradients, isolation, labels, optimiser, truth, works
from gradlens.training.checks.trial import (
    NETWORKS,
    CheckFailed,
    CheckSkipped,
    Trial,
)

METHOD_CHECKS: dict[str, Callable[[Trial], None]] = {
    "works": works,
    "gradients": gradients,
    "optimiser": optimiser,
    "arguments": arguments,
    "isolation": isolation,
    "labels": labels,
    "truth": truth,
    "answers": answers,
    "seed": seed,
    "leaves no trace": no_trace,
    "resume": resume,
}
PREREQUISITES = {
    "labels": "arguments",
    "seed": "gradients",
    "leaves no trace": "seed",
    "resume": "seed",
}  # check -> the one that must pass for it to mean anything


# -------------------------------------------------------------------------------------------------------- running them all


class CheckResult(NamedTuple):
    """The outcome of one check of a rule on one network."""

    check: str
    network: str
    message: str  # how it fails, or why it does not apply; empty: it passes
    applicable: bool = True

    @property
    def failed(self) -> bool:
        """Return whether the check applies and fails."""
        return self.applicable and bool(self.message)


def check_sentence(name: str) -> str:
    """Return what a check of this name requires, in words."""
    return " ".join((METHOD_CHECKS[name].__doc__ or "").split())


def failure_of(check: Callable[[Trial], None], trial: Trial) -> str | None:
    """Say in one sentence how a rule fails a check on a network; None if it passes.

    Raises:
        CheckSkipped: it does not apply.
        InputError: the rule refuses the network.

    """
    try:
        with torch.random.fork_rng(devices=[]), step_context():
            check(trial)
    except (CheckSkipped, InputError):
        raise
    except CheckFailed as found:
        return str(found)
    except Exception as error:  # noqa: BLE001 - whatever a user's rule raises
        return _raised(error)
    return None


def _raised(error: Exception) -> str:
    """Describe an exception in one sentence: where in the rule's own file it was raised, and its message."""
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if not Path(f.filename).is_relative_to(PACKAGE) and "torch" not in f.filename
    ]
    where = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    first = next(iter(str(error).splitlines()), "")
    more = ""
    if isinstance(error, KeyError) and error.args and isinstance(error.args[0], int):
        more = ": passes above a block are there only if it waits for them: `depends_on` must hold output_error or backward_message"
    return f"it raises {type(error).__name__}{f': {first}' if first else ''}{hint(error)}{where}{more}"


def run_method_checks(
    rule: type[Method],
    options: Any,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
    networks: Collection[str] = tuple(NETWORKS),
) -> Iterator[CheckResult]:
    """Run every check of a rule on every network; where a rule does not work at all on one, the other checks are skipped there.

    Args:
        rule: the class.
        options: as its ``Options`` gives them.
        progress: called with (done, in all, what comes next).
        networks: names of ALL_NETWORKS; only these are built, in this order.

    """
    total, done = len(METHOD_CHECKS) * len(networks), 0
    for network in networks:
        trial, why, lost = Trial(rule, options, network), "", set[str]()
        for name, check in METHOD_CHECKS.items():
            progress(done, total, f"{name} on {network}")
            done += 1
            if why:
                yield CheckResult(name, network, why, applicable=False)
                continue
            if PREREQUISITES.get(name) in lost:
                lost.add(name)
                yield CheckResult(name, network, f"{PREREQUISITES[name]} must hold first", applicable=False)
                continue
            try:
                message = failure_of(check, trial)
            except CheckSkipped as reason:
                yield CheckResult(name, network, str(reason), applicable=False)
                continue
            except InputError as refusal:
                why = f"it refuses {network}: {refusal}"
                yield CheckResult(name, network, why, applicable=False)
                continue
            if message:
                lost.add(name)
            if message and name == "works":
                why = f"it does not work on {network}"
            yield CheckResult(name, network, message or "")


class Verdict(NamedTuple):
    """Outcome of one check on all networks."""

    check: str
    outcome: str  # holds, FAILS, skipped
    failure: str  # where and how it fails, on the first network where it does; empty: nowhere
    skipped: tuple[str, ...]  # why it was skipped on some networks


def verdicts(results: Sequence[CheckResult]) -> list[Verdict]:
    """Collect the outcome of each check, in the order of METHOD_CHECKS."""
    found = []
    for name in METHOD_CHECKS:
        mine = [f for f in results if f.check == name]
        fails, skipped = [f for f in mine if f.failed], [f for f in mine if not f.applicable]
        too = f" (on {' and '.join(f.network for f in fails[1:])} too)" if len(fails) > 1 else ""
        outcome = "FAILS" if fails else "holds" if len(skipped) < len(mine) else "skipped"
        failure = f"on {fails[0].network}: {fails[0].message}{too}" if fails else ""
        found.append(Verdict(name, outcome, failure, tuple(dict.fromkeys(f.message for f in skipped))))
    return found


def _named(found: Sequence[Verdict], outcome: str) -> list[str]:
    return [v.check for v in found if v.outcome == outcome]


def _count(found: Sequence[Verdict]) -> str:
    fails, skipped = len(_named(found, "FAILS")), len(_named(found, "skipped"))
    number = f"{len(_named(found, 'holds'))} checks pass, {fails} fail{'s' if fails == 1 else ''}"
    return number + (f", {skipped} skipped" if skipped else "")


def result_lines(results: Sequence[CheckResult]) -> list[str]:
    """List for each check what it requires, how it fails, why it was skipped; then a count."""
    found, lines = verdicts(results), []
    for verdict in found:
        lines.append(f"{verdict.outcome:<10} {verdict.check}: {check_sentence(verdict.check)}")
        lines += [f"{'':<11}{text}" for text in (verdict.failure, *verdict.skipped) if text]
    return [*lines, _count(found)]


MOST_FAILURES = 5  # that are printed of a rule where not everything is


def summary_lines(results: Sequence[CheckResult]) -> list[str]:
    """Summarise the results in twelve lines at most: the first failure on the first line and on the last, which is where people look."""
    found = verdicts(results)
    fails = [v for v in found if v.failure]
    lines = [f"FAILS {v.check}, {v.failure}" for v in fails[:MOST_FAILURES]]
    if len(fails) > MOST_FAILURES:
        lines.append(f"FAILS {', '.join(v.check for v in fails[MOST_FAILURES:])}, too")
    for outcome, label in (("holds", "holds"), ("skipped", "skipped")):
        if names := _named(found, outcome):
            lines.append(f"{label}: {', '.join(names)}")
    reasons = [] if fails else list(dict.fromkeys(why for v in found for why in v.skipped))
    lines += [f"  {why}" for why in reasons[:3]]
    lines.append(f"{_count(found)}; --verbose lists what each check requires, and why some were skipped")
    return [*lines, *(f"first: {v.check} {v.failure}" for v in fails[:1])]
