"""Tables that the commands print: the comparison, results of runs, findings."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table

from gradlens.analysis.doctor import Diagnosis, diagnosis_line
from gradlens.analysis.doctor_evidence import WRONG
from gradlens.reporting.aggregate import FinalValue, Score, final_values, scores, truths
from gradlens.reporting.html.notices import by_value, differences
from gradlens.reporting.numbers import DASH, number_text, short_number, with_thousands
from gradlens.training.run_directory import Run
from gradlens.training.run_groups import group_runs

WIDE = 8  # layers beyond which layers become rows and methods columns


def _accuracies(score: Score) -> tuple[str, str]:
    if math.isnan(score.best_accuracy):  # a rule that gives no answers
        return DASH, DASH
    best = number_text(score.best_accuracy, score.best_low, 1, 100)
    return f"{best} (epoch {score.best_epoch:g})", number_text(score.final_accuracy, score.final_low, 1, 100)


def comparison_table(runs: Sequence[Run], rates: bool = False) -> Table:
    """Method × layer: the final cosine of the weight gradient with the true one, and test accuracy, best and final epoch.

    Nets of many layers are printed with a row for each layer; ``rates``: with the learning rates that were chosen.
    """
    results = scores(runs)
    cells: dict[str, dict[str, FinalValue]] = {}
    for value in final_values(runs, "cosine"):
        cells.setdefault(value.layer, {})[value.label] = value
    splits = dict.fromkeys(score.split for score in results)
    split = " or ".join(splits)  # a run with held-out training images beside others
    title = f"final cosine of each layer's weight gradient with the true one, and {split} accuracy in %"
    table = Table(title=title, title_justify="left", caption="\n".join(truths(runs)) or None, caption_justify="left")

    def cosine(layer: str, label: str) -> str:
        value = cells[layer].get(label)
        return number_text(value.mean, value.low) if value else DASH

    if len(cells) > WIDE:
        table.add_column("layer")
        for score in results:
            table.add_column(score.label, justify="right")
        for layer in cells:
            table.add_row(layer, *(cosine(layer, score.label) for score in results))
        table.add_section()
        for i, name in enumerate((f"best {split}", f"final {split}")):
            table.add_row(name, *(_accuracies(score)[i] for score in results))
        if rates:
            table.add_row("lr", *(f"{score.lr:g}" for score in results))
        return table
    table.add_column("method")
    for layer in cells:
        table.add_column(layer.replace(".", "\n"), justify="right")
    table.add_column(f"best {split}\naccuracy", justify="right")
    table.add_column("final\nepoch", justify="right")
    if rates:
        table.add_column("lr", justify="right")
    for score in results:
        chosen = [f"{score.lr:g}"] if rates else []
        table.add_row(score.label, *(cosine(layer, score.label) for layer in cells), *_accuracies(score), *chosen)
    return table


def unlike_settings(runs: Sequence[Run], rates: bool = False) -> list[str]:
    """What runs differ in besides their rules, in a line; ``rates``: learning rates stand in the table already."""
    groups = group_runs(runs)
    differ = [d for d in differences(groups) if d.kind in ("data", "network", "training") and not (rates and d.name == "lr")]
    if not differ:
        return []
    return [f"not alike but for the rule: {'; '.join(map(by_value, differ))}"]


def results_table(runs: Sequence[Run]) -> Table:
    """Best and final results of runs, one line a group of seeds."""
    table = Table()
    for column in ("method", "best", "final", "train loss", "test loss", "images/s"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for score in scores(runs):
        best, final = _accuracies(score)
        losses = (short_number(score.train_loss, 4), short_number(score.test_loss, 4))
        best, final = (f"{score.split} {best} %", f"{final} %") if best != DASH else (best, final)
        table.add_row(score.label, best, final, *losses, with_thousands(score.images_per_s))
    return table


def diagnosis_table(title: str, diagnosis: Diagnosis) -> Table:
    """The findings of one run, the wrong ones first: what was seen and what was wanted, and the advice; the title gives the verdict."""
    drawn = Table(title=f"{title}: {diagnosis_line(diagnosis)}", title_justify="left", show_lines=True)
    for column in ("", "check", "seen", "wanted", "advice"):
        drawn.add_column(column)
    for severity, check in dict.fromkeys((f.severity, f.check) for f in diagnosis.findings):
        mine = [f for f in diagnosis.findings if (f.severity, f.check) == (severity, check)]
        seen = "\n".join(f.evidence for f in mine)
        drawn.add_row(severity.upper() if severity == WRONG else severity, check, seen, mine[0].threshold, mine[0].advice)
    return drawn
