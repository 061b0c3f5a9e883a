"""The lists of `gradlens list`: a row for each rule, network, data set and quantity, and all details of one of them.

They are read from ``lists.py``, which is written from the registries; where a registry has changed since, from the registry itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from gradlens.runtime.errors import InputError, unknown
from gradlens.runtime.tables import Table

LOCKED = (
    "locked: fwd = block k runs after block k−1; upd = it is updated after all later blocks have run; bwd = … and have gone backward;"
    " win = both, but only for the later blocks of its window"
)
MORE = "`gradlens list methods NAME` prints the rest of a rule: its equation, options, paper and what a block's update depends on"
OWN_RULE = "FILE.py:Class"


def first_sentence(thing: Any) -> str:
    """Return the first paragraph of a docstring, on one line."""
    return _paragraphs(thing)[0]


def _paragraphs(thing: Any) -> list[str]:
    return [part.replace("\n", " ").replace("``", "") for part in (inspect.getdoc(thing) or "").split("\n\n")]


def family(rule: type[Any]) -> str:
    """Return the folder that a rule lies in, or ``baselines`` where it lies in none."""
    inside = rule.__module__.partition("gradlens.methods.")[2].split(".")
    return inside[0].replace("_", " ") if len(inside) > 1 else "baselines"


def lock_words(rule: type[Any]) -> str:
    """Return the locks of a rule's blocks in the words of ``LOCKED``."""
    locks = rule.locks()
    later = (locks.update and rule.has_windows, locks.update and not rule.has_windows, locks.backward and not rule.has_windows)
    return " ".join(word for word, held in zip(("fwd", "win", "upd", "bwd"), (locks.forward, *later), strict=True) if held) or "no"


def _methods() -> list[tuple[str, ...]]:
    from gradlens.methods import METHODS

    families = list(dict.fromkeys(map(family, METHODS.values())))
    rows: list[tuple[str, ...]] = [("method", "family", "locked", "in a line")]
    for name, rule in sorted(METHODS.items(), key=lambda item: families.index(family(item[1]))):
        rows.append((name, family(rule), lock_words(rule), _in_a_line(rule)))
    return [*rows, (OWN_RULE, "your own", "", "a subclass of gradlens.Method")]


def method_details() -> dict[str, tuple[tuple[str, str], ...]]:
    """Collect for each rule what `gradlens list methods NAME` prints: (what, text), in order."""
    from gradlens.methods import METHODS

    own = (("rule", "your own: a subclass of gradlens.Method (docs/extending/rule.md); `gradlens check FILE.py:Class` checks it"),)
    return {**{name: _of_rule(name, rule) for name, rule in METHODS.items()}, OWN_RULE: own}


def _of_rule(name: str, rule: Any) -> tuple[tuple[str, str], ...]:
    """Collect what is printed of a rule, from its class."""
    from gradlens.gradients.locks import DEPENDENCIES

    equation, *more = _paragraphs(rule)
    said = [("rule", equation), *(("", text) for text in more)]
    for i, word in enumerate(word for word in DEPENDENCIES if word in rule.depends_on):
        said.append(("" if i else "depends on", f"{word}: {DEPENDENCIES[word]}"))
    if rule.defaults:
        said.append(("settings", f"its own, unless --optimizer names another: {_settings(rule.defaults)}"))
    said.append(("options", f"--set {name}.OPTION=VALUE:"))
    for key, field in rule.Options.model_fields.items():
        default = "" if field.default is None or field.is_required() else f" (default {_typed(field.default)})"
        said.append(("", f"{key}{default}: {field.description or 'without a description'}{_choices(field)}"))
    said.append(("", "lr: learning rate of this method alone, instead of --lr"))
    return tuple(said)


def _typed(default: Any) -> str:
    """Return a default as it is typed."""
    return str(default).lower() if isinstance(default, bool) else str(default)


def _choices(field: Any) -> str:
    """Return the values an option may have, where they are named in its type."""
    kinds = [field.annotation, *get_args(field.annotation)]
    named = [value for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]
    return f"; {', '.join(map(str, named))}" if named else ""


def _settings(values: Mapping[str, Any]) -> str:
    """Return settings as flags."""
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in values.items())


def _models() -> list[tuple[str, ...]]:
    from gradlens.models.zoo import MODELS, VGG_LAYERS, vgg

    rows: list[tuple[str, ...]] = [("model", "what")]
    for name, builder in MODELS.items():
        if name in VGG_LAYERS:
            stages = " ".join(map(str, VGG_LAYERS[name]))
            rows.append((name, f"{first_sentence(vgg)} Convolutions in each resolution: {stages}."))
        else:
            rows.append((name, first_sentence(builder)))
    rows.append(("torchvision:NAME", "a classifier of torchvision, untrained: torchvision:resnet50, torchvision:convnext_tiny, …"))
    rows.append(("FILE.py:build", "your own: a list of blocks, or any module and its cut points (docs/extending/network-and-data.md)"))
    return rows


def _data() -> list[tuple[str, ...]]:
    from gradlens.data.datasets import DATASETS
    from gradlens.tasks.registry import DEFAULT, TASKS

    others = {task: TASKS[task].data_sets() for task in TASKS if task != DEFAULT}
    return [
        ("data", "what"),
        *((name, entry.sentence) for name, entry in DATASETS.items()),
        *((name, f"--task {task}: {sentence}") for task, known in others.items() for name, sentence in known.items()),
        ("PATH", "a folder with train/<class>/ and test/<class>/, images of one size, or an .npz file of arrays"),
        ("FILE.py:build", "your own: a function that gives images and labels (docs/extending/network-and-data.md)"),
    ]


def known_quantities() -> list[str]:
    """List the names that `gradlens measure` accepts."""
    from gradlens.gradients.alignment import QUANTITIES
    from gradlens.gradients.diagnostics import FEEDBACK, SPARSE
    from gradlens.gradients.rows import REACHED
    from gradlens.methods import METHODS

    return list(
        dict.fromkeys([*QUANTITIES, *REACHED, *SPARSE, *FEEDBACK, *(name for rule in METHODS.values() for name in rule.method_quantities)])
    )


def _quantities() -> list[tuple[str, ...]]:
    from gradlens.gradients.alignment import QUANTITIES, RECORDED
    from gradlens.gradients.diagnostics import AFTER_THE_STEP, FEEDBACK, SPARSE
    from gradlens.gradients.rows import REACHED
    from gradlens.methods import METHODS
    from gradlens.reporting.axes import ANGLES
    from gradlens.tasks.registry import TASKS

    rows: list[tuple[str, ...]] = [("quantity", "of a used gradient g and the true gradient t", "recorded")]
    rows += [(name, text, "in training" if name in RECORDED else "by measure") for name, (_, text) in QUANTITIES.items()]
    where = ", ".join(f"--task {name}" for name, task in TASKS.items() if task.records_reached)
    rows += [(name, text, f"in training, {where}") for name, text in REACHED.items()]
    when = {name: "in training, sparsely" + (" (not by measure)" if name in AFTER_THE_STEP else "") for name in SPARSE}
    rows += [(name, text, when[name]) for name, text in SPARSE.items()]
    for kind in FEEDBACK:
        rows.append((kind, f"a kind of rows, each with cosine, angle, norm_ratio …: {ANGLES[kind]}", "in training, sparsely"))
    own = {name: text for rule in METHODS.values() for name, text in rule.method_quantities.items()}
    of = {name: ", ".join(m for m, rule in METHODS.items() if name in rule.method_quantities) for name in own}
    rows.append(("loss", "the loss a block descends: its head's, or the output block's", "in training"))
    return rows + [(name, f"{of[name]}: {text}", "in training") for name, text in own.items()]


def _tasks() -> list[tuple[str, ...]]:
    """List tasks with the rules and networks that fit; why others do not is what they declare."""
    from gradlens.methods import METHODS
    from gradlens.models.zoo import INPUT, INPUTS, MODELS
    from gradlens.tasks.registry import DEFAULT, TASKS
    from gradlens.tasks.scores import HIGHER_IS_BETTER

    rows: list[tuple[str, ...]] = [("task", "what")]
    for name, task in TASKS.items():
        score = f"score: {task.score_name}" + ("" if HIGHER_IS_BETTER[task.score_name] else " (lower is better)")
        rows.append(
            (name, f"{task.summary}; an item is a{'n' * (task.item[0] in 'aeiou')} {task.item}; {score}; --loss {', '.join(task.losses)}")
        )
        if task.one_batch:
            rows.append(("", "an epoch is one batch, and --batch-size does not apply"))
        if task.not_data_parallel:
            rows.append(("", f"not with --parallel data: {task.not_data_parallel}"))
        options = task.Options.model_fields
        rows += [("", f"--set {name}.{option}: {field.description} (default {field.default})") for option, field in options.items()]
        whys = {
            key: task.with_items(rule.images_only) or ("" if task.classes_of_items else rule.reads_classes) for key, rule in METHODS.items()
        }
        without = {} if name == DEFAULT else {key: why for key, why in whys.items() if why}
        fitting = [key for key in METHODS if key not in without]
        rows.append(("", f"methods: {'all' if not without else ', '.join(fitting)}"))
        reasons = dict.fromkeys(without.values())
        rows += [("", f"not {', '.join(key for key, why in without.items() if why == reason)}: {reason}") for reason in reasons]
        models = [key for key in MODELS if INPUTS.get(key, INPUT) == task.reads]
        others = [key for key in MODELS if key not in models]
        rows.append(("", f"models: {', '.join(models)}" + (f"; the others read no {task.reads}" if others else "")))
        rows += [("", line) for line in _lacking(fitting, models, task)]
    return rows


def _lacking(methods: Sequence[str], models: Sequence[str], task: Any) -> Iterator[str]:
    """Yield a line for each need of rules, or of values of their options, that some networks of a task do not meet."""
    import torch

    from gradlens.methods import METHODS
    from gradlens.models.spec import ModelSpec
    from gradlens.models.zoo import MODELS, SHAPES

    with torch.device("meta"):
        networks = {name: dict(MODELS[name](ModelSpec(SHAPES[task.reads], task.least_classes)).named_children()) for name in models}
    found: dict[tuple[str, str], list[str]] = {}  # (networks, what they lack) -> rules, or values of options
    for method in methods:
        for need in METHODS[method].needs:
            whys = {name: why for name, blocks in networks.items() if (why := need.lacking(blocks, task))}
            for reason in dict.fromkeys(whys.values()):
                on = [name for name, why in whys.items() if why == reason]
                where = "" if len(on) == len(models) else f" with {', '.join(on)}"
                found.setdefault((where, reason), []).append(f"{method} {need.typed()}".strip())
    for (where, reason), who in found.items():
        yield f"not {', '.join(who)}{where}: {reason}"


LISTS = {"methods": _methods, "models": _models, "data": _data, "tasks": _tasks, "quantities": _quantities}
KINDS = {"methods": "method", "models": "model", "data": "data set", "tasks": "task", "quantities": "quantity"}  # what one of a list is


def _rows(what: str) -> Sequence[tuple[str, ...]]:
    """Return the rows of one of LISTS, its heading first, from the written list if its registry is unchanged since then."""
    from gradlens.cli.early_checks import is_current
    from gradlens.cli.lists import ROWS  # not by the tool that writes it

    if what not in LISTS:
        raise unknown("list", what, LISTS)
    read = ("tasks", "methods", "models") if what == "tasks" else (what,)
    return ROWS[what] if all(map(is_current, read)) else LISTS[what]()


def listing(what: str, names: Sequence[str] = (), form: str = "text") -> Table:
    """Make a table of one of LISTS, all of it or the rows of some names; methods by family, which programs read in a column of its own.

    Raises:
        InputError: an unknown list or name.

    """
    header, *rows = _rows(what)
    if names:
        must_be_listed(what, names)
        rows = list(_of_names(rows, names))
    grouped = "family" in header and form == "text"
    table = Table(notes=(LOCKED, MORE) if what == "methods" and not names else ())
    shown = [i for i, column in enumerate(header) if not (grouped and column == "family")]
    for i in shown:
        table.add_column(header[i], align="left", prose=i == (3 if what == "methods" else 1))
    family = ""
    for row in rows:
        if grouped and row[1] != family:
            family = row[1]
            table.add_row(f"{family}:", *[""] * (len(shown) - 1))
        table.add_row(*(row[i] for i in shown))
    return table


def _of_names(rows: Iterable[tuple[str, ...]], names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield the rows of some names; rows without a name belong to the one above."""
    name = ""
    for row in rows:
        name = row[0] or name
        if name in names:
            yield row


def must_be_listed(what: str, names: Sequence[str]) -> None:
    """Refuse names that a list does not hold.

    Raises:
        InputError: an unknown list or name.

    """
    from gradlens.cli.settings import OTHER_NAMES

    known = [row[0] for row in _rows(what)[1:] if row[0]]
    for name in names:
        if name not in known:
            raise unknown(KINDS[what], name, known, others=OTHER_NAMES if what == "methods" else None)


def details(names: Sequence[str]) -> Iterator[Table]:
    """Tabulate all details of some rules, a table each.

    Raises:
        InputError: an unknown name, or a file whose rule cannot be imported.

    """
    from gradlens.cli.early_checks import is_current, is_in_a_file
    from gradlens.cli.lists import METHOD_DETAILS

    must_be_listed("methods", [name for name in names if name == OWN_RULE or not is_in_a_file(name)])
    known = METHOD_DETAILS if is_current("methods") else method_details()
    lines = {row[0]: row for row in _rows("methods")[1:]}
    for name in names:
        if name in lines:
            _, group, locked, line = lines[name]
            cost = ("cost", f"`gradlens list methods {name} --long` measures it beside bp's")
            yield _details(name, line, [("family", group), *known[name], ("locked", locked), cost] if locked else known[name])
        else:
            yield _details(*_of_own_rule(name))


def _details(name: str, line: str, rows: Iterable[tuple[str, str]]) -> Table:
    table = Table()
    table.add_column(name)
    table.add_column(line, prose=True)
    for label, text in rows:
        table.add_row(label, text)
    return table


def _of_own_rule(typed: str) -> tuple[str, str, list[tuple[str, str]]]:
    """Return the name, one line and the details of a rule in a user's file.

    Raises:
        InputError: it cannot be imported, or is no rule.

    """
    from gradlens.methods import METHODS
    from gradlens.training.user_references import known_as

    name = known_as("method", typed)
    rule = METHODS[name]
    bench = ("cost", f"`gradlens bench {typed}` measures it beside bp's; `gradlens check {typed}` checks the rule")
    return name, _in_a_line(rule), [("file", typed), ("family", "your own"), *_of_rule(name, rule), ("locked", lock_words(rule)), bench]


def _in_a_line(rule: Any) -> str:
    return vars(rule).get("summary") or first_sentence(rule)


def check_long(what: str, names: Sequence[str]) -> None:
    """Refuse to measure what is no list of rules, or a rule that has no card.

    Raises:
        InputError: it is none, or a rule in a user's file.

    """
    from gradlens.cli.early_checks import is_in_a_file

    if what != "methods":
        raise InputError(f"--long measures what methods cost; it has no effect on {what}")
    for name in names:
        if is_in_a_file(name) and name != OWN_RULE:
            raise InputError(f"--long measures the rules of gradlens; `gradlens bench {name}` measures that one")
