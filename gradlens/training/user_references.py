"""Rules and networks from a user's own file in configs: their names, and what a config stores of the file.

A config keeps the file's path and the SHA-256 of its contents, so that a run can be read without running it, and continues (resume, probe,
measure) only with the code it was made with.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from gradlens.gradients.method import Method
from gradlens.methods import METHODS
from gradlens.methods.custom import ALWAYS_KEPT, FACTS, facts_of, rule_in, stand_in
from gradlens.models.custom import Sample, network_of
from gradlens.models.spec import ModelSpec
from gradlens.models.zoo import MODELS
from gradlens.runtime.errors import InputError, unknown
from gradlens.runtime.user_code import file_and_name, fingerprint, function_in, is_reference

SHIPPED = {"method": tuple(METHODS), "model": tuple(MODELS)}  # the names of this package; the registries also get those of users' files
KINDS = ("method", "model")  # settings that name code; data are identified by their own fingerprint
RULES: dict[tuple[str, str], type[Method]] = {}  # (name, SHA-256 of its file) -> a user's rule, or what stands in for it
TYPED: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in KINDS}  # what was named in this process: name -> what a config keeps


def reference_label(kind: str, path: Path, name: str) -> str:
    """Return the name of a user's own rule or network in run names and figures: file and name in lower case, without empty words.

    >>> reference_label("method", Path("rules/sign_bp.py"), "SignBP"), reference_label("method", Path("mine.py"), "Rule")
    ('signbp', 'mine-rule')
    >>> reference_label("model", Path("net.py"), "build")
    'net'
    """
    stem, word = re.sub(r"[^0-9a-z_.-]", "-", path.stem.lower()), name.lower()
    if kind != "method" and word == "build":
        label = stem
    else:
        label = word if re.sub(r"[^0-9a-z]", "", stem) == re.sub(r"[^0-9a-z]", "", word) else f"{stem}-{word}"
    return f"own-{label}" if any(label in names for names in SHIPPED.values()) else label


def short_reference(kind: str, text: str) -> str:
    """Return a setting's value as one word for a folder's name."""
    if is_reference(text):
        file, _, name = text.rpartition(":")
        return reference_label(kind, Path(file), name)
    return text.replace(":", "-")


def known_as(kind: str, text: str) -> str:
    """Register a user's own rule or network and return its name; other words stay as they are.

    Raises:
        InputError: it cannot be imported, or is none.

    """
    if not is_reference(text):
        return text
    path, name = file_and_name(kind, text)
    kept: dict[str, Any] = {"file": path.as_posix(), "name": name, "sha256": fingerprint(path)}
    if kind == "method":
        rule = rule_in(path, name)
        kept |= facts_of(rule)
        kept |= {"reads": sorted(rule.depends_on), "own_quantities": dict(rule.method_quantities)}
    else:
        function_in(path, name, "from a spec to a network")
    word = reference_label(kind, path, name)
    other = TYPED[kind].get(word)
    if other is not None and (other["file"], other["name"]) != (kept["file"], name):
        raise InputError(f"{other['file']}:{other['name']} and {path}:{name} would both be called {word}: rename one of them")
    TYPED[kind][word] = kept
    if kind == "method":
        METHODS[word] = RULES[word, kept["sha256"]] = rule
    else:
        MODELS[word] = partial(network_of, kept)
    return word


def _is_kept(kept: Any) -> bool:
    """Return whether this is what a config keeps of a user's file."""
    return isinstance(kept, Mapping) and all(isinstance(kept.get(part), str) for part in ("file", "name", "sha256"))


def settle_references(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings in which ``FILE.py:NAME`` has become a name, with what a config keeps of the file under ``own``.

    A name with its file kept beside it, as in a run's config, is settled without importing the file, and for this config alone.

    Raises:
        InputError: a file that cannot be imported, or does not define the name.

    """
    settled, kept = dict(values), values.get("own", {})
    if not isinstance(kept, Mapping):
        return settled
    own: dict[str, Any] = {}
    for kind in KINDS:
        word = values.get(kind)
        if not isinstance(word, str):
            continue
        if is_reference(word):
            word = settled[kind] = known_as(kind, word)
            own[kind] = TYPED[kind][word]
        elif _is_kept(kept.get(kind)) and reference_label(kind, Path(kept[kind]["file"]), kept[kind]["name"]) == word:
            own[kind] = kept[kind]
            if kind == "method" and (word, kept[kind]["sha256"]) not in RULES:
                RULES[word, kept[kind]["sha256"]] = stand_in(word, kept[kind])
        elif word in TYPED[kind]:
            own[kind] = TYPED[kind][word]
        if kind == "model" and word.startswith("torchvision:"):
            from gradlens.models.torchvision import register

            register(word)
    return {**settled, "own": own} if own or "own" in values else settled


def require_known(settled: Mapping[str, Any], command: str) -> None:
    """Refuse a rule or network that is neither in the registries nor what the config keeps a file of.

    Args:
        settled: as :func:`settle_references` gave it.
        command: the command that lists known names.

    Raises:
        InputError: the name is none.

    """
    known: dict[str, Mapping[str, Any]] = {"method": METHODS, "model": MODELS}
    for kind in KINDS:
        word = settled.get(kind)
        if isinstance(word, str) and word not in known[kind] and kind not in settled.get("own", {}):
            raise unknown(kind, word, known[kind], command)


def rule_of(name: str, own: Mapping[str, Any]) -> type[Method] | None:
    """Return the rule of a config: from a user's file the version that the config was made with, whichever was named last.

    Args:
        name: the config's method.
        own: the config's field of that name.

    """
    kept = own.get("method") if isinstance(own, Mapping) else None
    mine = RULES.get((name, kept["sha256"])) if kept is not None and _is_kept(kept) else None
    return mine or METHODS.get(name)


def reference(settings: Mapping[str, Any], kind: str) -> str | None:
    """Return ``FILE.py:NAME`` of a config's rule or network, where it is a user's own."""
    own = settings.get("own")
    kept = own.get(kind) if isinstance(own, Mapping) else None
    return f"{kept['file']}:{kept['name']}" if kept is not None and _is_kept(kept) else None


def activate(own: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]) -> None:
    """Import the rule that a config names, before it is built, and check that its files are unchanged.

    Args:
        own: the config's field of that name.
        names: kind -> the config's name for it.

    Raises:
        InputError: a file that is gone, or has changed since the config was made.

    """
    for kind, kept in own.items():
        path, _ = file_and_name(kind, f"{kept['file']}:{kept['name']}")
        if fingerprint(path) != kept["sha256"]:
            raise InputError(
                f"{path} has changed since this run was made with {names[kind]}: its tables and figures can be read, but to resume it"
                f" or to measure it needs the file as it was (sha256 {kept['sha256'][:12]}…); {path}:{kept['name']}, named anew, is the"
                " file as it is"
            )
        if kind == "method":
            RULES[names[kind], kept["sha256"]] = rule_in(path, kept["name"])


def builder(own: Mapping[str, Mapping[str, Any]], sample: Sample | None) -> Callable[[ModelSpec], nn.Sequential] | None:
    """Return the function that builds a config's network, if that is in a user's file; it is tried on ``sample``, or on images."""
    return partial(network_of, own["model"], sample=sample) if "model" in own else None


def named_by(own: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what identifies a config's files: all that version 0.1.0 kept; other facts follow from the file."""
    return {kind: {k: v for k, v in kept.items() if k in ALWAYS_KEPT or k not in FACTS} for kind, kept in own.items()}


def difference(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """Describe how two configs' files differ; None if they do not."""
    mine, theirs = named_by(mine), named_by(theirs)
    changed = [k for k in KINDS if mine.get(k) and theirs.get(k) and mine[k]["sha256"] != theirs[k]["sha256"]]
    phrases = [f"{mine[k]['file']}, which has changed" for k in changed]
    phrases += [f"the {k}'s file" for k in KINDS if k not in changed and mine.get(k) != theirs.get(k)]
    return " and ".join(phrases) or None
