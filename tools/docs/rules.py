"""A page for every rule, in its family: equation, papers, schematic, what waits for what, options, cost."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from analyses.method_costs import CARDS, MethodCost
from gradlens.analysis.rule_structure import RuleStructure, rule_structure
from gradlens.cli.listing import family, first_sentence
from gradlens.gradients.locks import DEPENDENCIES
from gradlens.gradients.method import Method
from gradlens.methods import METHODS
from gradlens.reporting.schematic import THEMES, described, links, schematic
from gradlens.reporting.style import save_figure
from gradlens.runtime.csv_tables import read_csv
from tools.docs.markdown import docstring, inline, table

DIGITS = (1, 8, 8)  # scikit-learn's, the default data
FAMILIES = {  # as `gradlens list methods` names them -> title, in the order of the site
    "baselines": "Backpropagation and controls",
    "local": "Local losses",
    "synthetic gradients": "Synthetic gradients",
    "feedback": "Feedback alignment",
    "self supervised": "Without labels",
}
PAPER = re.compile(r"([A-Z][\w .,&'’øØåäöéèüÅ–-]*?\d{4})[^()]*\((?:[^()]*?)arXiv[: ]+(\d{4}\.\d{4,5})")


def papers(rule: type[Method]) -> list[tuple[str, str]]:
    """(authors and year, arXiv number) of the papers that a rule or the rule it extends names."""
    for kind in rule.__mro__:
        if found := PAPER.findall(" ".join((inspect.getdoc(kind) or "").split())):
            return [(authors.split(". ")[-1].strip(), number) for authors, number in found]
    return []


def write_rules(docs: Path) -> list[Path]:
    """Write the pages and their schematics below ``docs/rules``; returns the pages."""
    folder, pages = docs / "rules", list[Path]()
    for name, rule in METHODS.items():
        pages.append(folder / f"{name}.md")
        structure = rule_structure(name, rule)
        for theme in THEMES:
            save_figure(schematic([structure], theme), list(links(structure)), folder / "pictures", f"{name}-{theme}", formats=("svg",))
        pages[-1].write_text("\n".join(_page(name, rule, structure)), encoding="utf-8")
    pages.append(folder / "index.md")
    pages[-1].write_text(_index(), encoding="utf-8")
    return pages


def _index() -> str:
    """All rules by family, one line each."""
    lines = ["# Learning rules", "", f"{len(METHODS)} rules, each compared with its published reference in the tests.", ""]
    for key, title in FAMILIES.items():
        mine = [(name, rule) for name, rule in METHODS.items() if family(rule) == key]
        rows = [(f"[`{name}`]({name}.md)", inline(first_sentence(rule)), _linked(papers(rule))) for name, rule in mine]
        lines += [f"## {title}", "", table(("rule", "error signal of block k", "paper"), rows)]
    return "\n".join(lines)


def _linked(found: list[tuple[str, str]]) -> str:
    return ", ".join(f"[{authors}](https://arxiv.org/abs/{number})" for authors, number in found)


def _page(name: str, rule: type[Method], structure: RuleStructure) -> Iterator[str]:
    """The page of one rule, line by line."""
    first, _, rest = docstring(rule).partition("\n\n")
    yield from (f"# {name}", "", " ".join(first.split()), "")
    if found := papers(rule):
        yield from (f"Paper: {_linked(found)}.", "")
    words = described(structure).replace("[", "(").replace("]", ")")
    yield from (f"![{words}](pictures/{name}-light.svg#only-light)", f"![{words}](pictures/{name}-dark.svg#only-dark)", "")
    yield from ("The picture is drawn from one observed step of the rule itself:", "", f"```sh\ngradlens draw {name}\n```", "")
    if rest.strip():
        yield from (rest.strip(), "")
    yield from ("## What waits for what", "", *_waiting(rule), "")
    yield from ("## Options", "", *_options(name, rule), "")
    if rule.method_quantities:
        rows = [(f"`{quantity}`", inline(text)) for quantity, text in rule.method_quantities.items()]
        yield from ("## Recorded beside the gradients", "", table(("quantity", "meaning"), rows), "")
    if (cost := _cost(name)) is not None:
        yield from ("## Cost", "", *cost, "")
    yield from ("## Try it", "", f"```sh\n{_trial(name, rule)}\n```", "")


def _waiting(rule: type[Method]) -> Iterator[str]:
    locks = rule.locks()
    said = {
        "forward-locked (it runs after block k−1 has)": locks.forward,
        "update-locked (it is updated after all blocks above have run)": locks.update,
        "backward-locked (it is updated after all blocks above have gone backward)": locks.backward,
        "reads the labels": locks.labels,
    }
    yield table(("a block below the top", ""), [(text, "yes" if held else "no") for text, held in said.items()])
    yield from ("", "Each block depends on:", "")
    yield from (f"- `{word}`: {DEPENDENCIES[word]}" for word in sorted(rule.depends_on))


def _options(name: str, rule: type[Method]) -> Iterator[str]:
    fields = rule.Options.model_fields
    if not fields:
        yield "This rule has none."
        return
    rows = [(f"`{key}`", f"`{field.default}`", inline(field.description or "") + _choices(field)) for key, field in fields.items()]
    key, field = next(iter(fields.items()))
    yield f"Set with `--set {name}.NAME=VALUE`, as in `--set {name}.{key}={_value(field.default)}`."
    yield from ("", table(("option", "default", "meaning"), rows))
    if rule.defaults:
        own = " ".join(f"`--{setting.replace('_', '-')} {value}`" for setting, value in rule.defaults.items())
        yield from ("", f"Settings of its own, unless `--optimizer` names another: {own}.")


def _value(value: Any) -> str:
    return {None: "null", True: "true", False: "false"}.get(value, str(value)) if not isinstance(value, list) else str(value)


def _choices(field: Any) -> str:
    named = [v for kind in (field.annotation, *get_args(field.annotation)) if get_origin(kind) is Literal for v in get_args(kind)]
    return f"; one of {', '.join(f'`{v}`' for v in named)}" if named else ""


def _cost(name: str) -> Iterator[str] | None:
    """What a step costs beside backpropagation, as ``python -m analyses.method_costs`` measured it; None: not measured."""
    if not CARDS.exists():
        return None
    row = next((row for row in read_csv(CARDS, MethodCost) if row.method == name), None)
    if row is None:
        return None
    rows = [
        ("parameters of its own modules", f"{row.trained:,}"),
        ("fixed numbers (feedback matrices)", f"{row.fixed:,}"),
        ("multiply-adds of a training step, over bp's", f"{row.flop_ratio:.2f}"),
        ("images a second, over bp's", f"{row.rate_ratio:.2f}"),
    ]
    size = "Of `basic-cnn` on images of CIFAR-10's size, batches of 32, default options (`python -m analyses.method_costs`)."
    return iter([size, "", table(("", name), rows)])


def _trial(name: str, rule: type[Method]) -> str:
    if rule.has_teacher:
        return f"gradlens train bp --epochs 2\ngradlens train {name} --teacher RUN_DIR --epochs 2"
    if rule.in_stages:  # each has an epoch
        return f"gradlens compare-gradients bp {name} --epochs 3"
    small = " --depth 2" if min(rule.input_shape(DIGITS, rule.Options())[1:]) < 8 else ""  # patches of the digits
    return f"gradlens compare-gradients bp {name} --epochs 2" if rule.classifies else f"gradlens train {name} --epochs 2{small}"
