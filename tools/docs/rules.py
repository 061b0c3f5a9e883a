"""A page for every rule, in its family: equation, papers, schematic, what waits for what, options, cost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from analyses.method_costs import CARDS, MethodCost
from gradlens.analysis.rule_structure import RuleStructure, rule_structure
from gradlens.cli.listing import family, first_sentence
from gradlens.gradients.method import Method
from gradlens.methods import BASELINE, METHODS
from gradlens.reporting.schematic import described
from gradlens.runtime.csv_tables import read_csv
from tools.docs.locking import waiting
from tools.docs.markdown import docstring, inline, table
from tools.docs.papers import linked, papers
from tools.docs.pictures import draw_rules

SYMBOLS = "The [symbols](../concepts/glossary.md#symbols-of-equations) of their equations are explained in the glossary."
DIGITS = (1, 8, 8)  # scikit-learn's, the default data
FAMILIES = {  # as `gradlens list methods` names them -> title, in the order of the site
    "baselines": "Backpropagation and controls",
    "local": "Local losses",
    "synthetic gradients": "Synthetic gradients",
    "feedback": "Feedback alignment",
    "self supervised": "Without labels",
}
SIDE_BY_SIDE: dict[str, dict[tuple[str, ...], str]] = {  # family -> rules drawn beside each other -> what to look at
    "baselines": {
        (
            "bp",
            "shallow",
            "distil",
        ): "All blocks get the loss's gradient; only the output block; all, with a loss that also reads a teacher.",
    },
    "local": {
        ("dgl", "overlap", "chunked"): "A loss for each block, for overlapping windows, and for chunks.",
        ("dgl", "greedy"): "All blocks at once against one after the other.",
    },
    "synthetic gradients": {
        ("dni", "dni-unlocked"): "Predicted error signals, which learn from the message of block k+1; and predicted inputs too.",
    },
    "feedback": {
        ("fa", "dfa", "kp"): "Fixed matrices from block to block, from the output to each block, and matrices that learn.",
    },
    "self supervised": {
        ("loco", "infomax"): "Overlapping units against modules between which no gradient passes.",
        ("simclr", "simclr-local"): "One contrastive loss at the end of the encoder against one for each module.",
        (
            "context-encoder",
            "context-encoder-local",
        ): "One decoder and discriminator at the end of the encoder against one for each module.",
    },
}


def write_rules(docs: Path) -> list[Path]:
    """Write the pages and their schematics below ``docs/rules``; returns the pages."""
    folder, pages = docs / "rules", list[Path]()
    structures = {name: rule_structure(name, rule) for name, rule in METHODS.items()}
    for name, structure in structures.items():
        pages.append(folder / f"{name}.md")
        draw_rules([structure], folder / "pictures", name)
        pages[-1].write_text("\n".join(rule_page(name, METHODS[name], structure)), encoding="utf-8")
    for rules in (rules for pictures in SIDE_BY_SIDE.values() for rules in pictures):
        draw_rules([structures[name] for name in rules], folder / "pictures", "-".join(rules))
    pages.append(folder / "index.md")
    pages[-1].write_text(index(), encoding="utf-8")
    return pages


def index() -> str:
    """All rules by family, one line each, and some of each drawn side by side."""
    lines = [
        "# Learning rules",
        "",
        f"{len(METHODS)} rules, each compared with its published reference in the tests. {SYMBOLS}",
        "",
    ]
    for key, title in FAMILIES.items():
        mine = [(name, rule) for name, rule in METHODS.items() if family(rule) == key]
        rows = [(f"[`{name}`]({name}.md)", inline(first_sentence(rule)), linked(papers(rule))) for name, rule in mine]
        lines += [f"## {title}", "", table(("rule", "error signal of block k", "paper"), rows)]
        for rules, sentence in SIDE_BY_SIDE[key].items():
            picture, words = f"pictures/{'-'.join(rules)}", f"{', '.join(rules)} side by side: {sentence}"
            lines += [sentence, "", f"![{words}]({picture}-light.svg#only-light)", f"![{words}]({picture}-dark.svg#only-dark)", ""]
            lines += [f"```sh\ngradlens draw {' '.join(rules)}\n```", ""]
    return "\n".join(lines)


def rule_page(name: str, rule: type[Method], structure: RuleStructure) -> Iterator[str]:
    """The page of one rule, line by line."""
    first, _, rest = docstring(rule).partition("\n\n")
    yield from (f"# {name}", "", " ".join(first.split()), "")
    if found := papers(rule):
        yield from (f"Paper{'s' * (len(found) > 1)}: {linked(found)}.", "")
    words = described(structure).replace("[", "(").replace("]", ")")
    yield from (f"![{words}](pictures/{name}-light.svg#only-light)", f"![{words}](pictures/{name}-dark.svg#only-dark)", "")
    yield from ("The picture is drawn from one observed step of the rule itself:", "", f"```sh\ngradlens draw {name}\n```", "")
    if rest.strip():
        yield from (rest.strip(), "")
    yield from ("## What waits for what", "", *waiting(rule, structure), "")
    yield from ("## Options", "", *_options(name, rule), "")
    if rule.method_quantities:
        rows = [(f"`{quantity}`", inline(text)) for quantity, text in rule.method_quantities.items()]
        yield from ("## Recorded beside the gradients", "", table(("quantity", "meaning"), rows), "")
    yield from ("## Cost", "", *_cost(name, rule), "")
    yield from ("## Try it", "", f"```sh\n{_trial(name, rule)}\n```", "")


def _options(name: str, rule: type[Method]) -> Iterator[str]:
    fields = rule.Options.model_fields
    if not fields:
        yield "This rule has none."
        return
    rows = [
        (f"`{key}`", "" if field.default is None else f"`{_value(field.default)}`", inline(field.description or "") + _choices(field))
        for key, field in fields.items()
    ]
    shown = next(((key, other) for key, field in fields.items() if (other := _other_value(field)) is not None), None)
    yield f"Set with `--set {name}.NAME=VALUE`" + (f", as in `--set {name}.{shown[0]}={_value(shown[1])}`." if shown else ".")
    yield from ("", table(("option", "default", "meaning"), rows))
    if rule.defaults:
        own = " ".join(f"`--{setting.replace('_', '-')} {value}`" for setting, value in rule.defaults.items())
        yield from ("", f"Settings of its own, unless `--optimizer` names another: {own}.")


def _value(value: Any) -> str:
    """Return a default as `--set` takes it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _named(field: Any) -> list[Any]:
    """Return the values that an option's type names."""
    return [v for kind in (field.annotation, *get_args(field.annotation)) if get_origin(kind) is Literal for v in get_args(kind)]


def _other_value(field: Any) -> Any:
    """Return a value that is not the option's default, where its type names some; None otherwise."""
    values = [not field.default] if isinstance(field.default, bool) else [v for v in _named(field) if v != field.default]
    return values[0] if values else None


def _choices(field: Any) -> str:
    named = _named(field)
    return f"; one of {', '.join(f'`{v}`' for v in named)}" if named else ""


def _cost(name: str, rule: type[Method]) -> Iterator[str]:
    """Yield what a step costs beside backpropagation, as ``python -m analyses.method_costs`` measured it."""
    if rule.has_teacher:
        yield f"Not measured: `{name}` needs a teacher's run (`--teacher RUN_DIR`)."
        return
    row = next((row for row in read_csv(CARDS, MethodCost) if row.method == name), None) if CARDS.exists() else None
    if row is None:
        yield "Not measured yet: `python -m analyses.method_costs` does it."
        return
    yield (
        "A training step of `basic-cnn` on images of CIFAR-10's size (3×32×32), batches of 32, default options: one interleaved run of all"
        f" rules on two shared cores, one thread (`python -m analyses.method_costs`).{' Its last stage.' * rule.in_stages}"
    )
    rows = [
        ("parameters of its own modules", f"{row.trained:,}", ""),
        ("fixed numbers (feedback matrices)", f"{row.fixed:,}", ""),
        ("multiply-adds of a step, an image", f"{row.multiply_adds / 1e6:,.0f}", "millions"),
        ("the same, relative to bp's", f"{row.flop_ratio:.2f}", "×"),
        ("images a second, relative to bp's", f"{row.rate_ratio:.2f}", "×"),
    ]
    yield from ("", table(("", name, "unit"), rows))


def _trial(name: str, rule: type[Method]) -> str:
    if rule.has_teacher:
        return f"gradlens train bp --epochs 2\ngradlens train {name} --teacher RUN_DIR --epochs 2"
    if name == BASELINE:
        return f"gradlens compare-gradients {name} dgl --epochs 2"
    if rule.in_stages:  # each has an epoch
        return f"gradlens compare-gradients bp {name} --epochs 3"
    small = " --depth 2" if min(rule.input_shape(DIGITS, rule.Options())[1:]) < 8 else ""  # patches of the digits
    return f"gradlens compare-gradients bp {name} --epochs 2" if rule.classifies else f"gradlens train {name} --epochs 2{small}"
