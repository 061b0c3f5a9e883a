"""Checks of a command before torch is imported: names, paths, numbers, flags that contradict each other.

A name is refused here only if the registries are unchanged since ``settings.py`` was written; the command itself checks later names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from gradlens._version import PACKAGE
from gradlens.cli.flags import REGISTRIES, digest
from gradlens.cli.settings import DATASETS, DIGESTS, IN_CONFIG, METHODS, MODELS, OPTIONS, OTHER_NAMES, QUANTITIES, SETTINGS
from gradlens.data.folder_listing import must_be_folder, unknown_data_set
from gradlens.runtime.errors import InputError, unknown
from gradlens.runtime.paths import is_file, is_there
from gradlens.runtime.progress import no_progress
from gradlens.runtime.text_files import read_json
from gradlens.training.comparison import must_be_one_run, runs_of
from gradlens.training.config_file import named, read_settings
from gradlens.training.sweep.study_file import read_study
from gradlens.training.typed_flags import check_run_flags, parse_numbers, parse_whole_numbers

DEFAULT_TASK = "images"
CHOICES = {flag.name.replace("-", "_"): flag for flag in SETTINGS if flag.choices}


def is_current(kind: str) -> bool:
    """Return whether the files of a kind of names (``REGISTRIES``) are unchanged since their names were written."""
    return all(digest(file) == DIGESTS.get(file) for file in REGISTRIES[kind])


def is_in_a_file(name: str) -> bool:
    """Return whether a word names something in a Python file, or a file whose name was forgotten."""
    return name.partition(":")[0].endswith(".py")


def _is_elsewhere(name: str) -> bool:
    """Return whether a word is no bare name: a file or a name in it, a folder, ``torchvision:NAME``; existence is checked later."""
    return ":" in name or "/" in name or Path(name).suffix in (".py", ".npz") or is_there(name)


def check_given(rules: Sequence[str], given: Mapping[str, Any], *, or_runs: bool = False, needed: bool = False) -> None:
    """Check what was typed.

    Args:
        rules: names of rules, or files of theirs.
        given: flags, with underscores.
        or_runs: whether run directories may stand among the rules.
        needed: whether there must be a rule, or a config file that names one.

    Raises:
        InputError: something is wrong; the first error.

    """
    check_run_flags(given)
    if isinstance(given.get("split"), str):
        parse_whole_numbers("--split", given["split"])
    file = read_settings(given["config"]) if "config" in given else {}
    with named(given.get("config")):
        _check_file(file)
    own = _own(file)
    if needed and not rules and not isinstance(file.get("method"), str):
        raise InputError(f"which method? One of {', '.join(METHODS)}, or a --config that names one")
    for name in rules:
        _check_rule(name, own, or_runs)
    check_choices(given, own)
    typed = rules or [name for name in (file.get("method"),) if isinstance(name, str)]
    if not any(name in own or is_in_a_file(name) for name in typed):
        _check_options(given.get("set", ()), [name for name in typed if name in METHODS])
    for flag in ("init_from", "teacher"):
        if flag in given:
            must_be_one_run(given[flag])


def _own(file: Mapping[str, Any]) -> set[str]:
    """List the names of a user's rule and network in a config file."""
    return {str(file.get(kind)) for kind in file["own"]} if isinstance(file.get("own"), dict) else set()


def _check_file(file: Mapping[str, Any]) -> None:
    """Check the names of settings in a config file, and those of their values that are names."""
    own = _own(file)
    if isinstance(file.get("method"), str):
        _check_rule(file["method"], own, or_runs=False)
    for name in file:
        if name not in IN_CONFIG and is_current("settings"):
            raise unknown("setting", name, IN_CONFIG)
    check_choices(file, own)


def _check_rule(name: str, own: Collection[str], or_runs: bool) -> None:
    if name in METHODS or name in own or is_in_a_file(name):
        return
    if or_runs and (is_there(name) or Path(name).name != name):
        runs_of([name], no_progress)
    elif "," in name:
        raise InputError(f"unknown method {name!r}; give methods with blanks between them: {' '.join(name.replace(',', ' ').split())}")
    elif is_there(f"{name.partition(':')[0]}.py"):
        file, _, inside = name.partition(":")
        raise InputError(f"unknown method {name!r}; a rule of your own is named {file}.py:{inside or 'Class'}")
    elif is_current("methods"):
        raise unknown("method", name, METHODS, others=OTHER_NAMES)


def _check_options(pairs: Sequence[str], rules: Sequence[str]) -> None:
    """Check the names in ``--set name=value`` and ``--set method.name=value``.

    Args:
        pairs: as they were typed.
        rules: of the command; none: those that it takes by itself, which may be any.

    Raises:
        InputError: no value, or a name that no file of a rule holds.

    """
    for pair in pairs:
        typed, sign, _ = pair.partition("=")
        if not sign or not typed:
            raise InputError(f"--set {pair!r}: expected name=value or method.name=value")
        rule, dot, option = typed.rpartition(".")
        if dot and rule not in METHODS:
            if rule in CHOICES["task"].choices:
                continue
            if not _is_elsewhere(rule) and is_current("methods"):
                raise unknown("method", rule, METHODS, others=OTHER_NAMES)
            continue
        rules_meant = [rule] if dot else rules or METHODS
        known = list(dict.fromkeys(one for name in rules_meant for one in OPTIONS[name]))
        if option not in known and not _in_a_rule(rf"(?m)^ +{re.escape(option)}: "):
            what, of = (f"option of {', '.join(rules_meant)}", " ".join(rules_meant)) if dot or rules else ("option", "NAME")
            raise unknown(what, option, known, f"gradlens list methods {of}")


def check_choices(settings: Mapping[str, Any], own: Collection[str] = ()) -> None:
    """Check the settings that have choices.

    Args:
        settings: by name, with underscores.
        own: names of a user's rule and network that are known, too.

    Raises:
        InputError: a value that is none of them.

    """
    for name, flag in CHOICES.items():
        value = settings.get(name)
        if not isinstance(value, str | int) or str(value) in flag.choices:
            continue
        text = str(value)
        if name == "data":
            if settings.get("task", DEFAULT_TASK) != DEFAULT_TASK:
                continue  # its data are read by the task
            if not _is_elsewhere(text):
                if is_current("data"):
                    raise unknown_data_set(text, DATASETS)
            elif not is_in_a_file(text) and not text.endswith(".npz"):
                must_be_folder(text)
        elif name == "model":
            if text not in own and not _is_elsewhere(text) and is_current("models"):
                raise unknown("model", text, MODELS)
        elif is_current("tasks" if name == "task" else "settings"):
            named = flag.name.replace("-", " ") if flag.type is str else "value"
            refusal = unknown(named, text, flag.choices, "gradlens train --help")
            raise refusal if flag.type is str else InputError(f"--{flag.name}: {refusal}")


# ----------------------------------------------------------------------------------------------- of single commands


def numbers_of(flag: str) -> Callable[[str | None], str | None]:
    """Return a callback that refuses a flag's text unless it is a list of several numbers, read by :func:`parse_numbers`."""

    def check(text: str | None) -> str | None:
        if text is not None:
            numbers = parse_numbers(flag, text)
            if len(set(numbers)) == 1:
                raise InputError(f"{flag} {text}: one rate is no grid to choose from; --lr {numbers[0]:g} trains with it")
        return text

    return check


def check_study(path: Path) -> None:
    """Check a study file: its form, its rules and flags, and the values that have choices.

    Raises:
        InputError: something is wrong; the first error.

    """
    current = is_current("methods") and is_current("settings")
    try:
        study = read_study(path, METHODS, {flag.name: flag.panel for flag in SETTINGS})
    except InputError:
        if not current and path.exists():  # it may use what was added since
            return
        raise
    for settings in (study.settings, *({name: value} for name, values in study.grid.items() for value in values)):
        check_run_flags(settings)
        check_choices(settings)


def check_quantities(run_dir: Path, names: Sequence[str]) -> None:
    """Check the names of quantities to be measured of a run; a rule in a user's file may have its own.

    Raises:
        InputError: one is none.

    """
    info = read_json(run_dir / "config.json")
    config = info.get("config") if isinstance(info, dict) else None
    if not isinstance(config, dict) or config.get("own") or not is_current("quantities"):
        return
    for name in names:
        if name not in QUANTITIES and not _in_a_rule(f'"{re.escape(name)}"'):
            raise unknown("quantity", name, QUANTITIES)


def _in_a_rule(pattern: str) -> bool:
    """Return whether the file of a rule holds a quantity or an option of its own, perhaps added since the names were written."""
    return any(re.search(pattern, path.read_text(encoding="utf-8")) for path in (PACKAGE / "methods").rglob("*.py"))


def only_place(name: str | None) -> str | None:
    """Return the path of data, at which there is something.

    Raises:
        InputError: it is the name of a data set, or nothing is there.

    """
    if name is None:
        return None
    if name in DATASETS:
        raise InputError(f"--data {name}: a named data set has no path that changes; set --data-dir to the folder of its files")
    if not (is_in_a_file(name) or name.endswith(".npz") or is_file(Path(name))):  # what a file holds, the run's task says
        must_be_folder(name)
    elif not is_there(name.rpartition(":")[0] if is_in_a_file(name) and ":" in name else name):
        raise InputError(f"--data {name}: there is no such file")
    return name
