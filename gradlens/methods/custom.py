"""Rules from a user's own file."""

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

# of a rule, kept so that its runs can be read without it: all that `Method` declares, whether or how much; the first five always, as by
# version 0.1.0, others where they differ from Method's
FACTS = tuple(name for name, kind in Method.__annotations__.items() if kind in ("ClassVar[bool]", "ClassVar[int]"))
ALWAYS_KEPT = (
    "classifies",
    "unlabelled",
    "has_teacher",
    "compiles",
    "least_batch",
)


def rule_in(path: Path, name: str) -> type[Method]:
    """A rule by file and class.

    Raises:
        InputError: no such class, or one that is no rule, in one sentence.

    """
    where = f"{path}:{name}"
    found = found_in(path, name, "rule", lambda v: is_subclass(v, Method))  # type: ignore[type-abstract]
    if not is_subclass(found, Method):  # type: ignore[type-abstract]
        raise InputError(f"{where} is {kind_of(found)}: a rule is a subclass of gradlens.Method")
    if found.signal is Method.signal:
        raise InputError(f"{where} has no method `signal`, which says what each block is told")
    if old := [word for word in found.depends_on if word in old_names.DEPENDENCIES]:
        raise InputError(old_names.renamed(old[0], old_names.DEPENDENCIES[old[0]], f"`depends_on` of {where}"))
    if isinstance(found.depends_on, str) or not set(found.depends_on) <= set(DEPENDENCIES):
        strange = next((word for word in found.depends_on if word not in DEPENDENCIES), str(found.depends_on))
        raise unknown(f"word in `depends_on` of {where}", strange, DEPENDENCIES)
    if not is_subclass(found.Options, BaseModel):
        raise InputError(f"{where}: Options is {kind_of(found.Options)}: options are a subclass of pydantic.BaseModel")
    return found


def facts_of(rule: type[Method]) -> dict[str, Any]:
    """What is kept of a rule."""
    return {name: getattr(rule, name) for name in FACTS if name in ALWAYS_KEPT or getattr(rule, name) != getattr(Method, name)}


def stand_in(name: str, kept: Mapping[str, Any]) -> type[Method]:
    """What is known of a rule whose file has not been imported: enough to read its runs."""

    class AnyOptions(BaseModel, frozen=True, extra="allow"):
        """Options as they were when the run was made."""

    facts = {fact: kept[fact] for fact in FACTS if fact in kept}
    about = {"__doc__": f"The rule of {kept['file']}, as a run remembers it.", "Options": AnyOptions}
    words = frozenset(old_names.DEPENDENCIES.get(word, word) for word in kept.get("reads", ()))  # of runs of version 0.1.0 too
    return type(name, (Method,), {**about, **facts, "depends_on": words, "method_quantities": kept.get("own_quantities", {})})
