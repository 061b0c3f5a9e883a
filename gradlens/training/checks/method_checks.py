"""Laws that every rule obeys, asked of one rule on small networks in float64; each answers with a sentence if it is broken.

The same laws are tested over all of METHODS; here they are functions, so that ``gradlens check`` can ask them of a user's rule.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gradlens.gradients.method import Method
from gradlens.runtime.errors import InputError
from gradlens.runtime.old_names import hint
from gradlens.training.checks.run_checks import no_trace, resume, seed
from gradlens.training.checks.step_checks import answers, arguments, gradients, isolation, labels, optimiser, truth, works
from gradlens.training.checks.trial import (
    NETWORKS,
    Broken,
    NotAsked,
    Trial,
)

LAWS: dict[str, Callable[[Trial], None]] = {
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
AFTER = {
    "labels": "arguments",
    "seed": "gradients",
    "leaves no trace": "seed",
    "resume": "seed",
}  # what must hold for a law to mean anything


# -------------------------------------------------------------------------------------------------------- asking them all


class Finding(NamedTuple):
    """What one law says of a rule on one network."""

    law: str
    network: str
    said: str  # how it is broken, or why it was not asked; empty: it holds
    asked: bool = True

    @property
    def fails(self) -> bool:
        """Whether the law is broken."""
        return self.asked and bool(self.said)


def sentence(law: str) -> str:
    """What a law says, in words."""
    return " ".join((LAWS[law].__doc__ or "").split())


def broken(law: Callable[[Trial], None], trial: Trial) -> str | None:
    """How a law is broken by a rule on a network, in one sentence, or None.

    Raises:
        NotAsked: it does not apply.
        InputError: the rule refuses the network.

    """
    try:
        with torch.random.fork_rng(devices=[]):
            law(trial)
    except (NotAsked, InputError):
        raise
    except Broken as found:
        return str(found)
    except Exception as error:  # noqa: BLE001 - whatever a user's rule raises
        return _raised(error)
    return None


def _raised(error: Exception) -> str:
    """One sentence on an exception: where in the rule's own file it was raised, what it says."""
    ours = Path(__file__).parent
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if not Path(f.filename).is_relative_to(ours) and "torch" not in f.filename
    ]
    where = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    first = next(iter(str(error).splitlines()), "")
    more = ""
    if isinstance(error, KeyError) and error.args and isinstance(error.args[0], int):
        more = ": passes above a block are there only if it waits for them, as `depends_on` must say: output_error or backward_message"
    return f"it raises {type(error).__name__}{f': {first}' if first else ''}{hint(error)}{where}{more}"


def check(
    rule: type[Method],
    options: Any,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
    networks: Collection[str] = tuple(NETWORKS),
) -> Iterator[Finding]:
    """Ask every law of a rule on every network; where a rule does not work at all on one, the other laws are not asked there.

    Args:
        rule: the class.
        options: as its ``Options`` gives them.
        progress: called with (done, in all, what comes next).
        networks: names of NETWORKS; only these are built and asked, in this order.

    """
    total, done = len(LAWS) * len(networks), 0
    for network in networks:
        trial, why, lost = Trial(rule, options, network), "", set[str]()
        for name, law in LAWS.items():
            progress(done, total, f"{name} on {network}")
            done += 1
            if why:
                yield Finding(name, network, why, asked=False)
                continue
            if AFTER.get(name) in lost:
                lost.add(name)
                yield Finding(name, network, f"{AFTER[name]} must hold first", asked=False)
                continue
            try:
                said = broken(law, trial)
            except NotAsked as reason:
                yield Finding(name, network, str(reason), asked=False)
                continue
            except InputError as refusal:
                why = f"it refuses {network}: {refusal}"
                yield Finding(name, network, why, asked=False)
                continue
            if said:
                lost.add(name)
            if said and name == "works":
                why = f"it does not work on {network}"
            yield Finding(name, network, said or "")


def said(findings: Sequence[Finding]) -> list[str]:
    """A line for each law: what holds, what fails and how (on the first network where it does), what was not asked and why; a count."""
    lines, counts = [], {"holds": 0, "FAILS": 0, "not asked": 0}
    for law in LAWS:
        mine = [f for f in findings if f.law == law]
        fails, skipped = [f for f in mine if f.fails], [f for f in mine if not f.asked]
        verdict = "FAILS" if fails else "holds" if len(skipped) < len(mine) else "not asked"
        counts[verdict] += 1
        lines.append(f"{verdict:<10} {law}: {sentence(law)}")
        if fails:
            too = f" (on {' and '.join(f.network for f in fails[1:])} too)" if len(fails) > 1 else ""
            lines.append(f"{'':<11}on {fails[0].network}: {fails[0].said}{too}")
        lines += [f"{'':<11}{why}" for why in dict.fromkeys(f.said for f in skipped)]
    number = f"{counts['holds']} laws hold, {counts['FAILS']} fail{'s' if counts['FAILS'] == 1 else ''}"
    return [*lines, number + (f", {counts['not asked']} not asked" if counts["not asked"] else "")]
