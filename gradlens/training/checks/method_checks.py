"""The checks that every rule passes, run on one rule with small networks in float64; each says in a sentence how it fails.

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
        """Whether the check applies and fails."""
        return self.applicable and bool(self.message)


def check_sentence(name: str) -> str:
    """What a check of this name wants, in words."""
    return " ".join((METHOD_CHECKS[name].__doc__ or "").split())


def failure_of(check: Callable[[Trial], None], trial: Trial) -> str | None:
    """Say in one sentence how a rule fails a check on a network; None if it passes.

    Raises:
        CheckSkipped: it does not apply.
        InputError: the rule refuses the network.

    """
    try:
        with torch.random.fork_rng(devices=[]):
            check(trial)
    except (CheckSkipped, InputError):
        raise
    except CheckFailed as found:
        return str(found)
    except Exception as error:  # noqa: BLE001 - whatever a user's rule raises
        return _raised(error)
    return None


def _raised(error: Exception) -> str:
    """One sentence on an exception: where in the rule's own file it was raised, what it says."""
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if not Path(f.filename).is_relative_to(PACKAGE) and "torch" not in f.filename
    ]
    where = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    first = next(iter(str(error).splitlines()), "")
    more = ""
    if isinstance(error, KeyError) and error.args and isinstance(error.args[0], int):
        more = ": passes above a block are there only if it waits for them, as `depends_on` must say: output_error or backward_message"
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
        networks: names of NETWORKS; only these are built, in this order.

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


def result_lines(results: Sequence[CheckResult]) -> list[str]:
    """A line for each check: what holds, what fails and how (on the first network where it does), what was skipped and why; a count."""
    lines, counts = [], {"holds": 0, "FAILS": 0, "not asked": 0}
    for name in METHOD_CHECKS:
        mine = [f for f in results if f.check == name]
        fails, skipped = [f for f in mine if f.failed], [f for f in mine if not f.applicable]
        verdict = "FAILS" if fails else "holds" if len(skipped) < len(mine) else "not asked"
        counts[verdict] += 1
        lines.append(f"{verdict:<10} {name}: {check_sentence(name)}")
        if fails:
            too = f" (on {' and '.join(f.network for f in fails[1:])} too)" if len(fails) > 1 else ""
            lines.append(f"{'':<11}on {fails[0].network}: {fails[0].message}{too}")
        lines += [f"{'':<11}{why}" for why in dict.fromkeys(f.message for f in skipped)]
    number = f"{counts['holds']} checks pass, {counts['FAILS']} fail{'s' if counts['FAILS'] == 1 else ''}"
    return [*lines, number + (f", {counts['not asked']} not asked" if counts["not asked"] else "")]
