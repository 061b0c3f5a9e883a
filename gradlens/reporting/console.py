"""Tables of runs: the comparison, results, findings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from gradlens.analysis.doctor import Diagnosis, diagnosis_line
from gradlens.analysis.doctor_evidence import WRONG
from gradlens.reporting.aggregate import FinalValue, Score, final_values, recorded_untrained, scores, truths
from gradlens.reporting.html.notices import by_value, differences
from gradlens.reporting.numbers import NONE, count_cell, mean_cell, short_number
from gradlens.reporting.reached import reached_table
from gradlens.reporting.task_words import items_of
from gradlens.runtime.tables import Cell, Table
from gradlens.tasks.scores import DIGITS
from gradlens.training.comparison import Comparison, as_runs
from gradlens.training.metrics import ACCURACY, TRAIN
from gradlens.training.run_directory import Run
from gradlens.training.run_groups import experiments, group_runs
from gradlens.training.run_progress import run_progress, split_finished, unfinished_text

WIDE = 8  # layers beyond which layers become rows and methods columns
DIVERGED = 100.0  # a mean loss per image that is written as a power of ten, and reported as diverged at the end of training


def _score_columns(results: Sequence[Score], last: str = "final") -> list[tuple[str, str]]:
    """Return the names and units of the columns of :func:`_scores`."""
    split = " or ".join(dict.fromkeys(score.split for score in results))
    names = list(dict.fromkeys(score.score_name for score in results))
    unit = "%" if names == [ACCURACY] else ""
    what = f"{split} {' or '.join(names)}"
    return [(f"best {what}", unit), ("best epoch", ""), (f"{last} {what}", unit)]


def _scores(score: Score) -> tuple[Cell, Cell, Cell]:
    """Return the best score (an accuracy in %), its epoch, and the score after the last epoch."""
    if math.isnan(score.best_score):  # a rule that makes no predictions
        return NONE, NONE, NONE
    digits, scale = (1, 100) if score.score_name == ACCURACY else (DIGITS.get(score.score_name, 2), 1)
    best = mean_cell(score.best_score, score.best_low, digits, scale, high=score.best_high)
    final = mean_cell(score.final_score, score.final_low, digits, scale, high=score.final_high)
    return best, Cell(f"{score.best_epoch:g}", score.best_epoch), final


def comparison_table(
    runs: Run | Comparison | str | Path | Sequence[Run | str | Path], *, whole: bool = False, rates: bool = False
) -> Table:
    """Tabulate groups of seeds: the final cosine of each layer's weight gradient with the true one, held-out accuracy, best and last.

    Args:
        runs: of several methods, several seeds each; or one run, a comparison, or paths of them.
        whole: with learning rate and number of seeds; else the rates stand in it where they differ.
        rates: with learning rates, also where they are equal.

    Returns:
        a table with one row per group of seeds; it prints itself, in notebooks too.

    Raises:
        InputError: a path that is not there, or stands for no run.

    """
    runs = as_runs(runs)
    results = scores(runs)
    cells: dict[str, dict[str, FinalValue]] = {}
    for value in final_values(runs, "cosine"):
        cells.setdefault(value.layer, {})[value.label] = value
    split = " or ".join(dict.fromkeys(score.split for score in results))  # a run with held-out training images beside others
    untrained = recorded_untrained(runs)  # runs shorter than --record-every
    begun = [run for run in runs if not run.finished]
    so_far = len(begun) == len(runs)
    when = "cosine at update 0" if len(untrained) == len(results) else "cosine so far" if so_far else "final cosine"
    scored = " or ".join(dict.fromkeys(score.score_name for score in results))
    title = f"{when} of each layer's weight gradient with the true one, and {split} {scored}{_not_finished(begun) if so_far else ''}"
    notes = [*_seeds_note(results), *truths(runs)]
    if untrained:
        short = ", ".join(untrained)
        notes.append(f"only update 0, the untrained network, was recorded of {short}: --record-every is longer than the run")
    if begun and not so_far:
        notes.append(unfinished_text(begun))
    table = Table(title, notes, turned=len(cells) > WIDE)
    table.add_column("method")
    rates = rates or whole or len({score.lr for score in results}) > 1
    if rates:
        table.add_column("lr")
    if whole:
        table.add_column("seeds")
    for i, layer in enumerate(cells):
        table.add_column(layer, apart=rates and not i)
    for i, (name, unit) in enumerate(_score_columns(results, "last" if so_far else "final")):
        table.add_column(name, unit, apart=not i)
    for score in results:
        found = [cells[layer].get(score.label) for layer in cells]
        cosines = [mean_cell(value.mean, value.low, high=value.high) if value else NONE for value in found]
        first = [Cell(f"{score.lr:g}", score.lr)] if rates else []
        table.add_row(score.label, *first, *([score.seeds] if whole else []), *cosines, *_scores(score))
    if so_far:
        _add_updates(table, results, begun)
    return table


def _not_finished(runs: Sequence[Run]) -> str:
    """Say for a title how far unfinished runs came: "at update 40 (not finished)"."""
    at = sorted({run_progress(run).updates for run in runs})
    return f", at update{'s' * (len(at) > 1)} {', '.join(map(str, at))} (not finished)"


def _add_updates(table: Table, results: Sequence[Score], runs: Sequence[Run]) -> None:
    """Add a last column, for csv too, which has no title: the number of updates each group's runs have made so far."""
    table.add_column("updates so far (not finished)")
    groups = group_runs(runs)
    for i, score in enumerate(results):
        at = sorted({run_progress(run).updates for run in groups[score.label]})
        table.rows[i] += (Cell(", ".join(map(str, at)), at[0] if len(at) == 1 else ", ".join(map(str, at))),)


def with_heading(tables: Iterable[Table], heading: str) -> list[Table]:
    """Return the tables with a heading before their titles, if there is one."""
    found = list(tables)
    for table in found if heading else ():
        table.title = f"{heading}: {table.title}" if table.title else heading
    return found


def comparison_tables(runs: Sequence[Run], *, whole: bool = False, rates: bool = False) -> list[Table]:
    """Make :func:`comparison_table` of the finished runs of each experiment; what its runs share stands above it where there are several.

    Of graphs the share of nodes that a rule reaches follows (:func:`gradlens.reporting.reached.reached_table`).

    Learning rates stand in all of them where they differ in any or between them.

    Where no run is finished, all are shown as far as they came.
    """
    finished, others = split_finished(runs)
    parts = experiments(finished or others)
    rates = rates or len({run.config.optimizer.lr for run in finished or others}) > 1
    tables = []
    for part in parts:
        made = [comparison_table(part.runs, whole=whole, rates=rates), reached_table(part.runs)]
        tables += with_heading(filter(None, made), part.heading if len(parts) > 1 else "")
    return tables


def unlike_settings(runs: Sequence[Run]) -> list[str]:
    """Describe how experiments differ besides rules and learning rates, which the table shows; a line an experiment."""
    lines, parts = [], experiments(runs)
    for part in parts:
        differ = [d for d in differences(group_runs(part.runs)) if d.kind in ("data", "network", "training") and d.name != "lr"]
        where = f"{part.heading}: " if len(parts) > 1 else ""
        lines += [f"{where}different besides the rule: {'; '.join(map(by_value, differ))}"] if differ else []
    return lines


def _seeds_note(results: Sequence[Score]) -> list[str]:
    """Return what ± means, where a table has it."""
    return ["±: half of the 95 % t-interval over seeds"] if any(score.seeds > 1 for score in results) else []


def results_table(runs: Sequence[Run]) -> Table:
    """Return best and final results of runs, one row a group of seeds."""
    results = scores(runs)
    split = " or ".join(dict.fromkeys(score.split for score in results))
    table = Table(notes=[*_seeds_note(results), *(sentence for run in runs if (sentence := diverged(run)))])
    table.add_column("method")
    for name, unit in _score_columns(results):
        table.add_column(name, unit)
    for name in ("train loss", f"{split} loss", f"{items_of(runs)}/s"):
        table.add_column(name)
    for score in results:
        losses = (Cell(_loss_text(loss), loss) for loss in (score.train_loss, score.test_loss))
        table.add_row(score.label, *_scores(score), *losses, count_cell(score.images_per_s))
    return table


def _loss_text(loss: float) -> str:
    """Return a loss with four digits behind the point; beyond DIVERGED as a power of ten.

    >>> _loss_text(0.1234567), _loss_text(579539.2)
    ('0.1235', '5.8e5')
    """
    if not math.isfinite(loss) or abs(loss) < DIVERGED:
        return short_number(loss, 4)
    digits, power = f"{loss:.1e}".split("e")
    return f"{digits}e{int(power)}"


def diverged(run: Run) -> str:
    """Return a sentence where a run's training loss is far above the untrained network's at its end, or no number at all; else nothing."""
    losses = [m.loss for m in run.metrics if m.split == TRAIN and m.epoch > 0]
    before = max((m.loss for m in run.metrics if m.epoch == 0 and math.isfinite(m.loss)), default=0.0)
    if not losses or (math.isfinite(losses[-1]) and losses[-1] < max(DIVERGED, 10 * before)):
        return ""
    loss = f"train loss {_loss_text(losses[-1])}" if math.isfinite(losses[-1]) else "a train loss that is NaN or infinite"
    return f"{run.path.name} diverged: {loss} at its end; try a lower --lr than {run.config.optimizer.lr:g}"


def diagnosis_table(title: str, diagnosis: Diagnosis) -> Table:
    """Tabulate the findings of one run, the wrong ones first: what was found, why it matters, what was expected, and the advice."""
    drawn = Table(f"{title}: {diagnosis_line(diagnosis)}")
    drawn.add_column("check")
    drawn.add_column("verdict", align="left")
    drawn.add_column("found, why, expected, advice", prose=True)
    for severity, check in dict.fromkeys((f.severity, f.check) for f in diagnosis.findings):
        mine = [f for f in diagnosis.findings if (f.severity, f.check) == (severity, check)]
        seen = "\n".join(f.evidence for f in mine)
        if drawn.rows:
            drawn.add_section()
        verdict = Cell(severity.upper() if severity == WRONG else severity, severity)
        drawn.add_row(check, verdict, f"{seen}\nwhy: {mine[0].why}\nexpected: {mine[0].threshold}\n{mine[0].advice}")
    return drawn
