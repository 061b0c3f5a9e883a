"""The lists of `gradlens list`: methods with their options, models, data sets, quantities.

They are read from ``lists.py``, which is written from the registries; where a registry has changed since, from the registry itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from gradlens.runtime.errors import unknown
from gradlens.runtime.tables import Table


def first_sentence(thing: Any) -> str:
    """The first paragraph of a docstring, on one line."""
    return (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ")


def _methods() -> list[tuple[str, ...]]:
    from gradlens.methods import METHODS

    rows: list[tuple[str, ...]] = [("method", "rule, and options (default)")]
    seen: dict[Any, str] = {}
    for name, rule in METHODS.items():
        rows.append((name, f"{first_sentence(rule)} Each block depends on: {', '.join(sorted(rule.depends_on))}."))
        if rule.defaults:
            rows.append(("", f"  its own settings, unless --optimizer names another: {_settings(rule.defaults)}"))
        if rule.Options in seen:
            rows.append(("", f"  options as {seen[rule.Options]}"))
            continue
        rows += [
            ("", f"  {key} ({field.default}): {field.description}{_choices(field)}") for key, field in rule.Options.model_fields.items()
        ]
        if rule.Options.model_fields:
            seen[rule.Options] = name
    rows.append(
        (
            "FILE.py:Class",
            "your own: a subclass of gradlens.Method (docs/your-own.md); `gradlens check` checks what every rule must satisfy",
        )
    )
    return rows


def _choices(field: Any) -> str:
    """The values an option may have, where they are named in its type."""
    kinds = [field.annotation, *get_args(field.annotation)]
    named = [value for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]
    return f"; {', '.join(map(str, named))}" if named else ""


def _settings(values: Mapping[str, Any]) -> str:
    """Settings as flags."""
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
    rows.append(("FILE.py:build", "your own: a list of blocks, or any module and its cut points (docs/your-own.md)"))
    return rows


def _data() -> list[tuple[str, ...]]:
    from gradlens.data.datasets import DATASETS

    return [
        ("data", "what"),
        *((name, entry.sentence) for name, entry in DATASETS.items()),
        ("PATH", "a folder with train/<class>/ and test/<class>/, images of one size, or an .npz file of arrays"),
        ("FILE.py:build", "your own: a function that gives images and labels (docs/your-own.md)"),
    ]


def known_quantities() -> list[str]:
    """The names that `gradlens measure` knows."""
    from gradlens.gradients.alignment import QUANTITIES
    from gradlens.gradients.diagnostics import FEEDBACK, SPARSE
    from gradlens.methods import METHODS

    return list(dict.fromkeys([*QUANTITIES, *SPARSE, *FEEDBACK, *(name for rule in METHODS.values() for name in rule.method_quantities)]))


def _quantities() -> list[tuple[str, ...]]:
    from gradlens.gradients.alignment import QUANTITIES, RECORDED
    from gradlens.gradients.diagnostics import AFTER_THE_STEP, FEEDBACK, SPARSE
    from gradlens.methods import METHODS
    from gradlens.reporting.axes import ANGLES

    rows: list[tuple[str, ...]] = [("quantity", "of a used gradient g and the true gradient t", "recorded")]
    rows += [(name, text, "in training" if name in RECORDED else "by measure") for name, (_, text) in QUANTITIES.items()]
    when = {name: "in training, sparsely" + (" (not by measure)" if name in AFTER_THE_STEP else "") for name in SPARSE}
    rows += [(name, text, when[name]) for name, text in SPARSE.items()]
    for kind in FEEDBACK:
        rows.append((kind, f"a kind of rows, each with cosine, angle, norm_ratio …: {ANGLES[kind]}", "in training, sparsely"))
    own = {name: text for rule in METHODS.values() for name, text in rule.method_quantities.items()}
    of = {name: ", ".join(m for m, rule in METHODS.items() if name in rule.method_quantities) for name in own}
    rows.append(("loss", "the loss a block descends: its head's, or the top's", "in training"))
    return rows + [(name, f"{of[name]}: {text}", "in training") for name, text in own.items()]


LISTS = {"methods": _methods, "models": _models, "data": _data, "quantities": _quantities}


def listing(what: str) -> Table:
    """One of LISTS as a table; what is written of it is taken where its registry is as it was then.

    Raises:
        InputError: an unknown list.

    """
    from gradlens.cli.early_checks import is_current
    from gradlens.cli.lists import ROWS  # not by the tool that writes it

    if what not in LISTS:
        raise unknown("list", what, LISTS)
    header, *rows = ROWS[what] if is_current(what) else LISTS[what]()
    table = Table()
    for i, column in enumerate(header):
        table.add_column(column, align="left", prose=i == 1)
    for row in rows:
        table.add_row(*row)
    return table
