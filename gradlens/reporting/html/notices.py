"""Notices to read before groups of runs are compared: settings and facts in which they differ, unfinished runs, single seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

from gradlens.methods import BASELINE
from gradlens.reporting.html.standings import MACHINE
from gradlens.reporting.html.wording import in_words, listed
from gradlens.reporting.task_words import example_of
from gradlens.training.run_groups import DATA, NETWORK, alike, settings
from gradlens.training.run_progress import run_progress

if TYPE_CHECKING:
    from gradlens.training.run_directory import Run


class Difference(NamedTuple):
    """A setting or fact in which groups of runs differ."""

    name: str
    kind: str  # data, network, training, method (its own options), made with (versions, machine)
    values: dict[str, str]  # label -> the group's value, in words; "–" where it has none


class Notice(NamedTuple):
    """A fact to read before comparing."""

    text: str
    unlike: bool = False  # the runs are not of one data set and network


def _facts(run: Run) -> dict[str, Any]:
    """Return what a run was made with, beside its settings."""
    images = run.info.get("images") or {}
    return {
        **{f"{example_of([run])}s: {split}": n for split, n in images.items()},
        **{f"version: {name}": version for name, version in (run.info.get("versions") or {}).items()},
        **{name: run.info.get(name) for name in ("git", *MACHINE)},
    }


def _kind(name: str) -> str:
    return "data" if name in DATA else "network" if name in NETWORK else "training"


def differences(groups: Mapping[str, Sequence[Run]]) -> list[Difference]:
    """Return every setting and fact in which the groups differ (seeds aside); a group whose own runs differ shows each value."""
    shared = set(next(iter(groups.values()))[0].config.as_dict())
    settled = {label: settings(group[0].config) for label, group in groups.items()}
    rows = []
    for name in dict.fromkeys(name for own in settled.values() for name in own):
        values = {label: in_words(own[name]) if name in own else "–" for label, own in settled.items()}
        rows.append(Difference(name, _kind(name) if name in shared else "method", values))
    facts = {label: [_facts(run) for run in group] for label, group in groups.items()}
    for name in dict.fromkeys(name for own in facts.values() for run in own for name in run):
        values = {label: ", ".join(dict.fromkeys(in_words(run.get(name)) for run in own)) for label, own in facts.items()}
        rows.append(Difference(name, "made with" if name in MACHINE or name == "git" or name.startswith("version: ") else "data", values))
    rows.append(Difference("data hash", "data", _hashes(groups)))
    order = ("data", "network", "training", "method", "made with")
    return sorted((row for row in rows if len(set(row.values.values())) > 1), key=lambda row: order.index(row.kind))


def _hashes(groups: Mapping[str, Sequence[Run]]) -> dict[str, str]:
    """Return a dict label -> hashes of the images for the seeds that all groups have: which images --limit takes depends on the seed."""
    seeds = set.intersection(*({run.config.seed for run in group} for group in groups.values()))
    return {
        label: ", ".join(
            in_words(run.info.get("data_fingerprint")) for run in sorted(group, key=lambda r: r.config.seed) if run.config.seed in seeds
        )
        for label, group in groups.items()
    }


def by_value(difference: Difference) -> str:
    """Write a difference, as in `lr 0.001 (bp and dgl) or 0.0003 (dni)`."""
    of: dict[str, list[str]] = {}
    for label, value in difference.values.items():
        of.setdefault(value, []).append(label)
    return f"{difference.name.replace('_', ' ')} {' or '.join(f'{value} ({listed(labels)})' for value, labels in of.items())}"


def unfinished_notices(runs: Sequence[Run]) -> list[Notice]:
    """List the unfinished runs that are left out of a page, and how far each was trained."""
    come = [f"{run.path.name} ({run_progress(run)})" for run in runs]
    return [Notice(f"Not finished, and therefore left out of every number on this page: {listed(come)}.")] if come else []


def notices(groups: Mapping[str, Sequence[Run]]) -> list[Notice]:
    """List the notices: different data, networks or settings, unfinished runs, single seeds."""
    found = []
    differ = differences(groups)
    for kind, what in (("data", "data"), ("network", "networks")):
        rows = [d for d in differ if d.kind == kind and d.name in (*DATA, *NETWORK)] or [d for d in differ if d.kind == kind]
        if rows and not all(alike(a, b) for a, b in combinations(groups.values(), 2)):
            found.append(Notice(f"These runs have different {what}: {'; '.join(map(by_value, rows))}.", unlike=True))
    if rows := [d for d in differ if d.kind == "training"]:
        found.append(Notice(f"Besides the rule, they differ in: {'; '.join(map(by_value, rows))}."))
    if unfinished := [run for group in groups.values() for run in group if not run.finished]:
        stopped = [f"{run.path.name} ({run_progress(run)})" for run in unfinished]
        found.append(Notice(f"Not finished, and shown as far as they were trained: {listed(stopped)}."))
    first_only = [
        label for label, group in groups.items() if (steps := {r.step for run in group for r in run.gradients}) and not max(steps)
    ]
    if first_only:
        text = f"Of {listed(first_only)} only the first update was recorded: all distances are those of untrained networks"
        found.append(Notice(f"{text} (a lower --record-every records later ones)."))
    silent = [
        label
        for label, group in groups.items()
        if group[0].config.method != BASELINE and not any(run.gradients or run.measured for run in group)
    ]
    if silent:
        found.append(
            Notice(f"No gradients were recorded (--record-every 0) of {listed(silent)}: their distance from the true gradient is unknown.")
        )
    single = [label for label, group in groups.items() if len(group) == 1]
    if 0 < len(single) < len(groups):  # where all have one seed, the verdict reports it
        found.append(Notice(f"One seed only, so without intervals: {listed(single)}. A small difference may be chance."))
    return found
