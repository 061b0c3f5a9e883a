"""One self-contained page of some runs: a verdict to read in ten seconds, then everything the runs hold. Works offline.

The page is made of `template/report.html.j2`, its style and its script; plotly's script is embedded once. All text is escaped by jinja2,
the data of the charts are JSON in which no `<` is left, and a content security policy lets nothing run but the two scripts named by
their hashes and nothing be fetched at all.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gradlens._version import __version__
from gradlens.reporting.aggregate import runs_title, truths
from gradlens.reporting.figure_folder import mark, must_be_replaceable_page
from gradlens.reporting.html import doctor, samples, schematics, sections
from gradlens.reporting.html.charts import cosine_colours, looks
from gradlens.reporting.html.notices import notices, unfinished_notices
from gradlens.reporting.html.parts import ReportContext, ReportSection, with_empty_as_one
from gradlens.reporting.html.questions import answers
from gradlens.reporting.html.standings import below_top, method_summaries
from gradlens.reporting.html.verdict import headline, verdict_line
from gradlens.reporting.registry import REPORTS
from gradlens.reporting.style import styles
from gradlens.runtime.errors import InputError
from gradlens.runtime.text_files import encode
from gradlens.training.run_directory import Run
from gradlens.training.run_files import must_be_writable, write
from gradlens.training.run_groups import Experiment, experiments, group_runs
from gradlens.training.run_progress import split_finished

FIRST = (sections.learning, sections.where_and_when, sections.training)
LAST = (
    schematics.section,
    sections.cost,
    sections.differing_settings,
    sections.configs,
)  # those of the analyses are between the two


def _sections(here: ReportContext) -> list[ReportSection]:
    """Return all sections, in the order in which they are read."""
    analyses = (report.section for report in REPORTS.values() if report.section)
    made = [make(here) for make in (*FIRST, samples.section, *analyses, *LAST)]
    return with_empty_as_one([section for section in made if section is not None])


def make_report_context(runs: Sequence[Run], folder: Path | None = None) -> ReportContext:
    """Group the finished runs of a page by label, methods in the order of the figures; if none is finished, the unfinished ones.

    Raises:
        InputError: no runs, or the same run twice.

    """
    finished, others = split_finished(runs)
    found = group_runs(finished or others)
    look = styles(found)
    ordered = {label: found[label] for label in look}
    return ReportContext(ordered, look, method_summaries(ordered), others if finished else [], folder)


def as_json(content: Any) -> Markup:
    """Return JSON that can stand in a script element: no end tag, comment or entity can begin in it.

    >>> as_json({"name": "</script><!-- &amp;"})
    Markup('{"name":"\\\\u003c/script\\\\u003e\\\\u003c!-- \\\\u0026amp;"}')
    """
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)  # ASCII: U+2028 and its like are escaped too
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def in_code(text: str) -> Markup:
    """Return a sentence with what stands between backticks as code, everything escaped.

    >>> in_code("`gradlens <x>` does & more")
    Markup('<code>gradlens &lt;x&gt;</code> does &amp; more')
    """
    parts = [Markup("<code>{}</code>" if i % 2 else "{}").format(part) for i, part in enumerate(text.split("`"))]
    return Markup("").join(parts)


def script_hash(script: str) -> str:
    """Return a script's name in the content security policy."""
    return f"'sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def environment() -> Environment:
    """Return what fills the templates: everything is escaped, and a name that is not given is an error."""
    loader = PackageLoader("gradlens.reporting.html", "template")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters["code"] = in_code
    return made


def _title(runs: Sequence[Run], labels: Sequence[str]) -> str:
    count = f"{len(labels)} methods, " if len(labels) > 1 else ""
    return f"{runs_title(runs)} · {count}{len(runs)} run{'s' if len(runs) > 1 else ''}"


def page(runs: Sequence[Run], folder: Path | None = None) -> str:
    """Return the page as html.

    Args:
        runs: several methods, several seeds each.
        folder: the comparison folder that holds them, if one does.

    Raises:
        InputError: no runs, or the same run twice.

    """
    from plotly.offline import get_plotlyjs  # several megabytes

    here = make_report_context(runs, folder)
    parts = _sections(here)
    remarks = [*unfinished_notices(here.unfinished), *notices(here.groups), *doctor.wrong(here)]
    charts = {f"{part.id}-{i}": chart for part in parts for i, chart in enumerate(part.charts)}
    templates = files("gradlens.reporting.html") / "template"
    style, script = ((templates / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    plotly = get_plotlyjs()
    hashes = f"{script_hash(script)} {script_hash(plotly)}"
    look = looks(here.styles)
    layers = list(dict.fromkeys(p.layer for p in here.cosines))
    data = {
        "looks": look,
        "charts": charts,
        "cosine": sections.at_steps(here.cosines, here.groups),
        "scale": {name: [colour for colour, _ in cosine_colours(name == "dark")] for name in ("light", "dark")},
        "ends": sections.epoch_ends(here),
    }
    template = environment().get_template("report.html.j2")
    return template.render(
        version=__version__,
        title=_title(here.runs, list(here.groups)),
        policy=f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {hashes}",
        style=Markup(style),
        script=Markup(script),
        plotly=Markup(plotly),
        data=as_json(data),
        looks=look,
        colours={name: cosine_colours(name == "dark") for name in ("light", "dark")},
        headline=headline(here.standings, remarks),
        lines=[(here.place(s.label), s.label, verdict_line(s), sections.strip(s, layers)) for s in here.standings],
        answers=answers(here.standings, remarks),
        layers=layers,
        maps=sections.layers_to_draw(here.cosines),
        notices=remarks,
        summary=sections.summary(here),
        slice=sections.last_step_rows(here),
        sections=parts,
        runs=sections.described_runs(here),
        below=below_top(layers) if layers else [],
        truths=truths(here.runs),
    )


def overview(parts: Sequence[Experiment], pages: Sequence[str]) -> str:
    """Return a page of several experiments as html: a section each with its verdict and numbers, and a link to the experiment's own page.

    Args:
        parts: the experiments.
        pages: the names of their pages, beside this one.

    Raises:
        InputError: the same run twice.

    """
    shown = []
    for part, name in zip(parts, pages, strict=True):
        here = make_report_context(part.runs)
        layers = list(dict.fromkeys(p.layer for p in here.cosines))
        remarks = [*unfinished_notices(here.unfinished), *notices(here.groups)]
        lines = [(s.label, verdict_line(s), sections.strip(s, layers)) for s in here.standings]
        shown.append((part, name, headline(here.standings, remarks), lines, remarks, sections.summary(here), layers))
    style = (files("gradlens.reporting.html") / "template" / "report.css").read_text(encoding="utf-8")
    template = environment().get_template("overview.html.j2")
    return template.render(
        version=__version__,
        style=Markup(style),
        colours={name: cosine_colours(name == "dark") for name in ("light", "dark")},
        parts=shown,
        count=sum(len(part.runs) for part in parts),
    )


def write_page(runs: Sequence[Run], out: str | Path, overwrite: bool = False, folder: Path | None = None) -> list[Path]:
    """Write the page of some runs; of several experiments an overview, and the page of each beside it (``report-digits-mlp.html``).

    Args:
        runs: several methods, several seeds each.
        out: the file.
        overwrite: replace files that are there, whatever they are; a page of the same runs is replaced anyway.
        folder: the comparison folder that holds the runs, if one does.

    Returns:
        the pages, the one that was asked for first.

    Raises:
        InputError: no run, the same run twice, a file that exists, or a folder that cannot be written.

    """
    path = Path(out)
    if path.is_dir():
        raise InputError(f"{path} is a folder: -o names the file")
    if not runs:
        raise InputError("no run directory was given")
    parts = experiments(runs)
    own = [path.with_name(f"{path.stem}-{part.name}{path.suffix}") for part in parts] if len(parts) > 1 else []
    pages = {path: list(runs), **{file: part.runs for file, part in zip(own, parts, strict=False)}}
    for file, shown in pages.items():
        must_be_replaceable_page(file, [run.path for run in shown], overwrite)
    if not path.absolute().parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {path.parent}")
    must_be_writable(path)
    for file, shown in pages.items():
        text = overview(parts, [one.name for one in own]) if own and file == path else page(shown, folder)
        write(file, encode(f"{text.rstrip()}\n{mark([run.path for run in shown], file)}"))
    return list(pages)
