"""Load learning rules from a user's own file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from gradlens.gradients.locks import DEPENDENCIES
from gradlens.gradients.method import Method
from gradlens.runtime import old_names
from gradlens.runtime.classes import is_subclass
from gradlens.runtime.errors import InputError, kind_of, unknown
from gradlens.runtime.user_code import found_in

# facts of a rule, stored so that its runs can be read without its file: every bool and int that `Method` declares; the first five always,
# as in version 0.1.0, others if they differ from Method's
FACTS = tuple(name for name, kind in Method.__annotations__.items() if kind in ("ClassVar[bool]", "ClassVar[int]"))
ALWAYS_KEPT = (
    "classifies",
    "unlabelled",
    "has_teacher",
    "compiles",
    "least_batch",
)


def rule_in(path: Path, name: str) -> type[Method]:
    """Import a rule by file and class name.

    Raises:
        InputError: no such class, or one that is no rule.

    """
    where = f"{path}:{name}"
    found = found_in(path, name, "rule", lambda v: is_subclass(v, Method))  # type: ignore[type-abstract]
    if not is_subclass(found, Method):  # type: ignore[type-abstract]
        raise InputError(f"{where} is {kind_of(found)}: a rule is a subclass of gradlens.Method")
    if found.signal is Method.signal:
        raise InputError(f"{where} must define `signal(...)`, the error signal of each block")
    if old := [word for word in found.depends_on if word in old_names.DEPENDENCIES]:
        raise InputError(old_names.renamed(old[0], old_names.DEPENDENCIES[old[0]], f"`depends_on` of {where}"))
    if isinstance(found.depends_on, str) or not set(found.depends_on) <= set(DEPENDENCIES):
        strange = next((word for word in found.depends_on if word not in DEPENDENCIES), str(found.depends_on))
        raise unknown(f"word in `depends_on` of {where}", strange, DEPENDENCIES)
    if not is_subclass(found.Options, BaseModel):
        raise InputError(f"{where}: Options is {kind_of(found.Options)}: options are a subclass of pydantic.BaseModel")
    return found


def facts_of(rule: type[Method]) -> dict[str, Any]:
    """Return the facts of a rule that its runs store."""
    return {name: getattr(rule, name) for name in FACTS if name in ALWAYS_KEPT or getattr(rule, name) != getattr(Method, name)}


def stand_in(name: str, kept: Mapping[str, Any]) -> type[Method]:
    """Build a rule from stored facts, without importing its file: enough to read its runs."""

    class AnyOptions(BaseModel, frozen=True, extra="allow"):
        """Options stored by the run."""

    facts = {fact: kept[fact] for fact in FACTS if fact in kept}
    about = {"__doc__": f"The rule of {kept['file']}, from the facts that a run stores.", "Options": AnyOptions}
    words = frozenset(old_names.DEPENDENCIES.get(word, word) for word in kept.get("reads", ()))  # of runs of version 0.1.0 too
    return type(name, (Method,), {**about, **facts, "depends_on": words, "method_quantities": kept.get("own_quantities", {})})
