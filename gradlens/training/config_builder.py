"""From what was typed to configs: flags, a config file, and ``--set`` of each method's own options."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gradlens.gradients.method import Method
from gradlens.methods import METHODS
from gradlens.runtime.errors import InputError, unknown
from gradlens.runtime.paths import is_there
from gradlens.runtime.user_code import is_reference
from gradlens.tasks.registry import DEFAULT, TASKS
from gradlens.training.config import Config, make_config
from gradlens.training.config_file import read_config_file
from gradlens.training.context import RunContext, pick_precision
from gradlens.training.run_files import is_run
from gradlens.training.typed_flags import parse_numbers, parse_whole_numbers
from gradlens.training.user_references import known_as, reference


def _parse_sets(pairs: Sequence[str]) -> list[tuple[str | None, str, Any]]:
    """Return (method, task or None, option, value) of each ``--set``."""
    parsed: list[tuple[str | None, str, Any]] = []
    for pair in pairs:
        name, sign, text = pair.partition("=")
        if not sign or not name:
            raise InputError(f"--set {pair!r}: expected name=value or method.name=value")
        method, dot, option = name.rpartition(".")
        method = known_as("method", method)
        if dot and method not in METHODS and method not in TASKS:
            raise unknown("method", method, METHODS)
        try:
            value = json.loads(text)
        except ValueError:
            value = {"on": True, "off": False}.get(text, text)
        parsed.append((method or None, option, value))
    return parsed


def configs_of(
    methods: Sequence[str],
    given: dict[str, Any],
    context: RunContext,
    ranks: tuple[int, str] | None = None,
    with_default_batch: Callable[[Config], Config] = lambda config: config,
) -> list[list[Config]]:
    """Return the configs of each method, one per seed, from flags, config file and ``--set``.

    Args:
        methods: their names, or FILE.py:Class.
        given: the flags that were typed, with underscores.
        context: where they will run.
        ranks: how many processes share each run, and what they share (``data`` or ``layers``) where neither flags nor file set it.
        with_default_batch: sets the batch size of a config where neither flags nor file set it.

    """
    given = dict(given)
    path = given.pop("config", None)
    file = read_config_file(path) if path is not None else {}
    if file.get("method") in methods and (own := reference(file, "method")):
        known_as("method", own)  # a config's own rule, by the name it has there
    typed = {known_as("method", name): name for name in methods}  # FILE.py:Class, by the name it has from now on
    methods = list(typed)
    for name in methods:
        if name not in METHODS:
            raise unknown("method", name, METHODS)
    sets, seeds = _parse_sets(given.pop("set", [])), given.pop("seeds", 1)
    whole = dict(file)
    task = str(given.get("task", file.get("task", DEFAULT)))
    of_task = {option: value for owner, option, value in sets if owner in TASKS}
    if other := next((owner for owner, _, _ in sets if owner in TASKS and owner != task), None):
        raise InputError(f"--set {other}.…: the task is {task}; set --task {other}")
    sets = [one for one in sets if one[0] not in TASKS]
    if of_task:
        given["task_options"] = {**file.get("task_options", {}), **of_task}
    own_options, owner = file.pop("options", {}), file.pop("method", None)
    if isinstance(given.get("split"), str):
        given["split"] = parse_whole_numbers("--split", given["split"])
    if isinstance(given.get("attention_dropout"), str):
        given["attention_dropout"] = parse_numbers("--attention-dropout", given["attention_dropout"])
    if "precision" in (both := {**file, **given}):
        given["precision"] = pick_precision(both["precision"], context.device)
    _refuse_unknown_options(sets, typed)
    out: list[list[Config]] = []
    for name in methods:
        options = dict(own_options) if name == owner else {}
        fields = [*METHODS[name].Options.model_fields, "lr"]
        options |= {option: value for method, option, value in sets if option in fields and method in (None, name)}
        shared = {} if ranks is None else _of_ranks(METHODS[name], file, given, *ranks)
        try:
            first = make_config(**{**file, **given, **shared, "method": typed[name], "options": options})
        except InputError as error:
            raise _of_file(error, path, whole, given) from error
        if "batch_size" not in both:
            first = with_default_batch(first)
        out.append([first.replace(seed=first.seed + i) for i in range(seeds)])
    return out


def _of_file(error: InputError, path: Path | None, file: Mapping[str, Any], typed: Mapping[str, Any]) -> InputError:
    """Name the config file in the error of a setting that it sets and no flag does, and the setting by its name there."""
    found = re.match(r"--([\w-]+): |unknown option of \S+ '(\w+)'", str(error))
    if path is None or found is None:
        return error
    name, option = (found[1] or "").replace("-", "_"), found[2]
    if option in file.get("options", {}):
        return InputError(f"{path}: {error}")
    return InputError(f"{path}: {name}: {str(error)[found.end() :]}") if name in file and name not in typed else error


def _of_ranks(rule: type[Method], file: dict[str, Any], typed: dict[str, Any], num_ranks: int, default: str) -> dict[str, Any]:
    """Return the settings of a run on several ranks: flags win, then the file, unless it is of one process or another ``parallel``."""
    shared = typed.get("parallel") or file.get("parallel", "none")
    if shared == "none" and "parallel" not in typed:
        shared = default
    given_there = {**(file if file.get("parallel") == shared else {}), **typed}
    no_records = ("diagnose_every", *(["record_every"] if rule.pipelined else [])) if shared == "layers" else ()
    return {"ranks": num_ranks, "parallel": shared} | {name: 0 for name in no_records if name not in given_there}


def _refuse_unknown_options(sets: list[tuple[str | None, str, Any]], methods: Mapping[str, str]) -> None:
    """Refuse an option that none of the methods (name -> as it was typed) has."""
    known = {name: [*METHODS[name].Options.model_fields, "lr"] for name in methods}
    for method, option, _ in sets:
        if method is not None and method not in methods:
            raise InputError(f"--set {method}.{option}: {method} is not among the methods of this command ({', '.join(methods)})")
        asked = [method] if method else list(methods)
        if not any(option in known[name] for name in asked):
            some = dict.fromkeys(o for name in asked for o in known[name])
            of = " ".join(methods[name] for name in asked)
            raise unknown(f"option of {', '.join(asked)}", option, some, f"gradlens list methods {of}")


def methods_and_runs(what: Sequence[str]) -> tuple[list[str], list[str]]:
    """Sort arguments into names of methods and paths of run directories; what is neither is left to be refused as a method."""

    def is_method(name: str) -> bool:
        return name in METHODS or is_reference(name) or not (is_run(name) or is_there(name) or Path(name).name != name)

    once = list(dict.fromkeys(what))
    methods = [name for name in once if is_method(name)]
    return methods, [name for name in once if name not in methods]


def method_of(given: dict[str, Any]) -> str:
    """Return the method a config file names, for commands called without one."""
    settings = read_config_file(given["config"]) if "config" in given else {}
    method = reference(settings, "method") or settings.get("method")
    if not isinstance(method, str):
        raise InputError(f"which method? One of {', '.join(METHODS)}, or a --config that names one")
    return method
