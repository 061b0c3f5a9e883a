"""Write ``gradlens/cli/settings.py`` and ``lists.py``: what ``Config`` and the registries say, to be read without torch.

``python tools/write_settings.py`` after a change of a setting, or of the names and sentences of rules, networks, data sets or quantities.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout's package, whichever is installed

from gradlens._version import PACKAGE
from gradlens.analysis.of_runs.interface import AnalysisWithTraining
from gradlens.analysis.of_runs.registry import ANALYSES
from gradlens.cli.flags import REGISTRIES, digest
from gradlens.cli.listing import LISTS, known_quantities, method_details
from gradlens.data.datasets import DATASETS
from gradlens.methods import DEFAULT_COMPARISON, DEFAULT_SIMULATION, METHODS, OTHER_NAMES
from gradlens.training.config import Config
from gradlens.training.config_fields import Setting, settings_of
from gradlens.training.user_references import SHIPPED

WRITTEN = PACKAGE / "cli" / "settings.py"
LISTED = PACKAGE / "cli" / "lists.py"
SAYS = "Written by tools/write_settings.py from what ``Config`` and the registries say."


def flag(setting: Setting) -> str:
    """The line of a setting."""
    choices = tuple(map(str, (*SHIPPED.get(setting.name, (*setting.choices, *setting.names)), *setting.typed)))
    said = setting.text.replace("{choices}", ", ".join(choices))
    if setting.default not in (None, ""):
        default = {True: "on", False: "off"}.get(setting.default) if setting.type is bool else setting.default
        said += f" (default {default:g})" if isinstance(default, float) else f" (default {default})"
    more = [f"choices={choices!r}"] if choices else []
    more += ["paired=True"] if setting.type is bool else []
    more += [f"synonyms={tuple(setting.synonyms)!r}"] if setting.synonyms else []
    words = [repr(setting.name.replace("_", "-")), setting.type.__name__, repr(said), repr(setting.panel), *more]
    return f"    Flag({', '.join(words)}),\n"


def default_rules() -> dict[str, tuple[str, ...]]:
    """The rules that a command takes where none is typed."""
    trained = {a.command: tuple(a.default_methods()) for a in ANALYSES.values() if isinstance(a, AnalysisWithTraining)}
    return {"compare-gradients": DEFAULT_COMPARISON, "bench": DEFAULT_COMPARISON, "timeline": DEFAULT_SIMULATION, **trained}


def settings_text(config: type[Config] = Config) -> str:
    """``settings.py``, as it should be."""
    settings = settings_of(config)
    names = {
        "METHODS": SHIPPED["method"],
        "OPTIONS": {name: (*METHODS[name].Options.model_fields, "lr") for name in SHIPPED["method"]},  # of each rule, for --set
        "OTHER_NAMES": OTHER_NAMES,  # of rules -> the name here
        "MODELS": SHIPPED["model"],
        "DATASETS": tuple(DATASETS),
        "QUANTITIES": tuple(known_quantities()),
        "IN_CONFIG": tuple(settings),
        "DEFAULT_RULES": default_rules(),  # of a command that is given none
        "RULES_READ": {a.command: tuple(rules) for a in ANALYSES.values() if (rules := a.rules()) is not None},  # by an analysis
    }
    return "".join(
        [
            f'"""Settings as flags, and known names. {SAYS}"""\n\n',
            "from __future__ import annotations\n\nfrom gradlens.cli.flags import Flag\n\n",
            *(f"{name} = {known!r}\n" for name, known in names.items()),
            "\nDIGESTS = {  # of the files that say so; where one has changed since, a name is not refused before torch is imported\n",
            *(f"    {file!r}: {digest(file)!r},\n" for files in REGISTRIES.values() for file in files),
            "}\n\nSETTINGS = (\n",
            *(flag(setting) for setting in settings.values() if setting.text),
            ")\n",
        ]
    )


def lists_text() -> str:
    """``lists.py``, as it should be."""
    said = "The rows of `gradlens list`, the first of each its heading, and the details of each rule"
    head = f'"""{said}. {SAYS}"""\n\nfrom __future__ import annotations\n\n'
    lines = [head, "ROWS: dict[str, tuple[tuple[str, ...], ...]] = {\n"]
    for what, rows in LISTS.items():
        lines += [f"    {what!r}: (\n", *(f"        {row!r},\n" for row in rows()), "    ),\n"]
    lines += ["}\n\nMETHOD_DETAILS: dict[str, tuple[tuple[str, str], ...]] = {\n"]
    lines += [f"    {name!r}: {said!r},\n" for name, said in method_details().items()]
    return "".join([*lines, "}\n"])


def texts() -> dict[Path, str]:
    """The modules, as they should be."""
    return {WRITTEN: settings_text(), LISTED: lists_text()}


if __name__ == "__main__":
    for path, text in texts().items():
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path}")
