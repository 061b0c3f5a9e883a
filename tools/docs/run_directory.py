"""The reference page of the files that gradlens writes: columns from the row types, keys of the small JSON files from the lists below."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

from gradlens.analysis.of_runs.registry import ANALYSES
from gradlens.reporting.study_summary import Merged, SummaryLine
from gradlens.training.cost.simulation import CostRow
from gradlens.training.run_directory import TABLES
from tools.docs.markdown import inline, table

FIELD = re.compile(r"^    (\w+): [^#\n]+?(?:  # (.*))?$", re.M)
WRITTEN = {  # file of a run directory -> when it is written, and what it holds
    "config.json": "the resolved settings and what the run was made with; [keys](#configjson)",
    "metrics.csv": "a row for each split and epoch; nothing is smoothed; [columns](#metricscsv)",
    "gradients.csv": "a row for each measured number; [columns](#gradientscsv)",
    "timing.csv": "a row for each epoch; the part that differs from machine to machine; [columns](#timingcsv)",
    "checkpoint.pt": "all that is needed to go on: weights, the rule's own weights and buffers, optimiser; loads with `weights_only=True`",
    "summary.json": "best and final results; there once the run is finished; [keys](#summaryjson)",
    "snapshots/": "with `--keep-checkpoints N`: `step-00000000.pt`, weights along the way",
    "measured.csv": "rows added by `gradlens measure`; columns as `gradients.csv`",
    "tensorboard/": "with `--tensorboard`: one event file",
    "online.csv, online.json, online/": "with `--online-probe`: every learner's losses ([columns](#onlinecsv)), its regret "
    "and bound, and for each block what was read: a round is int32 step, N, d, then N int32 labels and N·d float32 features",
    "doctor.json": "what `gradlens doctor` found",
}
CONFIG = {  # key of config.json -> meaning
    "config": "every setting by its flat name, defaults included ([settings](settings.md)); `options`: those of the rule; "
    "`task_options`: those of the task; `own`: files of yours and their SHA-256",
    "versions": "of gradlens, Python, torch, torchvision and numpy",
    "git": "commit of gradlens, where it is a checkout",
    "threads": "CPU threads of torch; with other numbers a resumed run is not bit-identical",
    "command": "as typed",
    "device": "where it was computed",
    "data_fingerprint": "hash of the images and labels that were chosen",
    "label_hash": "hash of the training labels, label noise included",
    "classes": "number of classes",
    "images": "number of training and test images",
    "source": "what they were chosen from: numbers of images, shape (C, H, W), names of the classes",
    "source_fingerprint": "hash of all that they were chosen from; not where only a part of a folder was decoded",
    "passed_over": "of a folder of images: how many files were passed over, by reason",
    "source_weights": "with `--init-from` or `--teacher`: hash of the weights of that run",
}
SUMMARY = {  # key of summary.json -> meaning
    "updates": "number of updates made",
    "test, validation, train, train-eval": "for each split `best_accuracy`, `best_epoch`, `final_accuracy`, `final_loss`, `final_epoch`; "
    "of tasks with another score than the accuracy also its name (`score`), `best_score` and `final_score`",
}
COMPARISON = {  # key of comparison.json -> meaning
    "format": "of this file",
    "made_by": "`compare-gradients` or `sweep`",
    "request_digest": "digest of what was requested",
    "command": "as typed",
    "gradlens": "version",
    "finished": "whether the command came to its end",
    "methods": "in the order of the table",
    "seeds": "all seeds",
    "runs": "run directories, by paths relative to the folder",
    "searches": "runs of `--lr-grid`",
    "figures": "files",
    "learning_rates": "for each method with `--lr-grid`: `lr`, `grid`, and whether the rate is an end of the grid (`at_end`)",
}
MEANING = {  # columns whose row type has no comment beside them
    "loss": "mean over the split's images",
    "run": "name of the run directory",
    "method": "learning rule",
    "seed": "of the run",
    "split": "as in metrics.csv",
    "epoch": "number of the epoch",
    "step": "updates made",
    "accuracy": "share",
    "best": "best score of this split so far: of images the highest accuracy",
    "score": "the task's",
    "score_name": "of the score",
    "grid": "grid point, as `lr=0.001 width=8`, or empty",
    "quantity": "name of what was measured ([quantities](quantities.md))",
    "value": "the number; empty where it is not defined",
    "block": "of the network",
    "images_per_s": "images trained in a second",
    "learner": "`ogd`, `adagrad` or `newton`",
    "mean": "over seeds",
    "low": "lower end of the 95 % bootstrap interval",
    "high": "upper end of it",
    "seeds": "how many have the quantity",
    "difference_low": "lower end of its 95 % bootstrap interval",
    "difference_high": "upper end of it",
    "pairs": "seeds that both methods have",
    "model": "network",
    "batch_size": "images of one batch",
    "name": "of the block",
    "forward": "seconds of one batch: the block's pass",
    "backward": "seconds: its error signal (head, synthesiser), pull-back and `learn`",
    "update": "seconds: the optimiser's step over its parameters and those of its own modules",
    "activation_bytes": "of its output: what is sent up",
    "message_bytes": "of what it sends down; 0: nothing",
    "kept_bytes": "parameters, gradients, optimiser state and `graph_bytes`",
    "graph_bytes": "what a batch keeps between the block's forward and backward pass",
    "learn": "seconds, part of `backward`: what the rule's own modules learn from the message of the next block",
    "own_update": "seconds, part of `update`: their step",
}
TREE = """```
comparisons/bp-dgl-digits-1a2b3c/
  comparison.json   what belongs together
  runs/             a directory for each run
  searches/         the runs of --lr-grid
  figures/          png, svg, csv; figures.json: of which runs they are; labels.csv: every setting of every label
```"""


def columns(kind: type[Any]) -> Iterator[tuple[str, str]]:
    """The fields of a row type with the comments beside them.

    Raises:
        KeyError: a field has no comment, and no meaning here.

    """
    for name, comment in FIELD.findall(inspect.getsource(kind)):
        yield f"`{name}`", inline(comment or MEANING[name])


def run_directory() -> Iterator[str]:
    """The page, line by line."""
    written = WRITTEN | {f"{name}.json": f"what `gradlens {a.command}` found: [{a.command}]({_page(name)})" for name, a in ANALYSES.items()}
    written |= {
        f"{a.comparison}.json": f"`gradlens {a.command}`: the first run beside the others" for a in ANALYSES.values() if a.comparison
    }
    yield from ("# Files of runs and comparisons", "", "## A run directory", "")
    yield from ("`runs/<method>-<data>-<model>-s<seed>-<6 hex digits of the settings>/`, or in the `runs/` of a comparison folder.", "")
    yield table(("file", "what it holds"), [(_code(name), text) for name, text in written.items()])
    yield from (
        "", "`train` rows are running averages over the epoch in training mode, `test` rows are taken after it in evaluation mode. The",
        "best and the final epoch are reported; the best is a maximum over epochs of test accuracy, so it is an optimistic number.", "",
    )  # fmt: skip
    for name, kind in TABLES.items():
        yield from (f"### {name}.csv", "", table(("column", "meaning"), columns(kind)))
    yield from ("Kinds of rows and what each quantity is: [the true gradient](../concepts/true-gradient.md#what-is-compared).", "")
    for name, keys in {"config.json": CONFIG, "summary.json": SUMMARY}.items():
        yield from (f"### {name}", "", table(("key", "meaning"), [(_code(key), text) for key, text in keys.items()]))
    yield from ("## A comparison folder", "", TREE, "")
    yield "What such a folder stands for, and what is refused: [compare methods](../how-to/compare.md)."
    yield from ("", "### comparison.json", "", table(("key", "meaning"), [(_code(key), text) for key, text in COMPARISON.items()]))
    yield from ("## A study", "", "The folder of [`gradlens sweep`](../how-to/studies.md) also holds `study.json` and two tables.", "")
    yield from ("### rows.csv", "", table(("column", "meaning"), columns(Merged)))
    yield from ("### summary.csv", "", table(("column", "meaning"), columns(SummaryLine)))
    yield from ("## block_costs.csv", "", "Written by [`gradlens timeline`](../how-to/timeline.md).", "")
    yield table(("column", "meaning"), columns(CostRow))


def _code(names: str) -> str:
    return ", ".join(f"`{name}`" for name in names.split(", "))


def _page(name: str) -> str:
    return f"../analyses/{'probes' if name == 'probe' else name}.md"
