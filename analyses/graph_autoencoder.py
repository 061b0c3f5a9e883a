"""Direct feedback alignment in a graph autoencoder: it predicts edges that were removed, by backprop, by dfa and by its last layer alone.

The encoder is a graph convolution to 32 features, relu, and one to 16; a pair of nodes is linked with the probability sigmoid⟨z_i, z_j⟩.
Dfa reads the error at z, 16 numbers a node, and feeds it back to the 32 features. 5 % of the edges are for validation and 10 % for
testing; a step has all other edges and as many pairs that are none, drawn anew. Cora (400 epochs) and CiteSeer (200), Adam 0.01 (dfa on
CiteSeer 0.02), without dropout and weight decay: settings of the code of Launay et al. 2020 (arXiv 2006.12878). Area under the ROC curve
and average precision are of the test edges after the *last* epoch. Five seeds, each with its own parts.

What is tested was fixed before the first run of this script; a replication of the same settings in plain PyTorch, three seeds a cell, was
known (``REPLICATION`` below, and open circles in the figure):

- bp and dfa differ by at most 2 points of AUC, on average over both graphs.
- dfa is at least 15 points of AUC above shallow, on each graph.

Beside these each mean is compared with the replication's: within 2.5 combined standard errors or not.

Costs about 13 minutes of one core, which is said again before it starts.

    python -m analyses.graph_autoencoder --data FOLDER     # holds cora/cora.npz and citeseer/citeseer.npz; interrupted, it goes on
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import torch

from analyses.figures.graph_figures import AccuracyPoint, accuracy_figure
from analyses.training.cost import announce_cost
from analyses.training.stored import stored
from analyses.training.study import arguments, environment
from analyses.verdicts.decision import Test, all_of
from analyses.verdicts.wording import report
from gradlens.data.split import Data
from gradlens.reporting.statistics import interval
from gradlens.reporting.style import save_figure
from gradlens.runtime.eval_mode import eval_mode
from gradlens.runtime.step_context import step_context
from gradlens.runtime.text_files import write_text
from gradlens.tasks.links import pair_logits, ranked
from gradlens.training.config import Config, make_config
from gradlens.training.context import RunContext, load_data
from gradlens.training.loop import fit
from gradlens.training.runs.build_state import build_state

GRAPHS = ("cora", "citeseer")
RULES = ("bp", "dfa", "shallow")
EPOCHS: Mapping[str, int] = {"cora": 400, "citeseer": 200}
RATES: Mapping[tuple[str, str], float] = {("citeseer", "dfa"): 0.02}  # others: the task's 0.01
RECORDED: Mapping[str, Any] = {"record_every": 50, "diagnose_every": 0}
CPU_SECONDS: Mapping[str, float] = {"cora": 24, "citeseer": 26}  # of a run; the latter by its size
NEAR, FAR = 2.0, 15.0  # points of AUC
STANDARD_ERRORS = 2.5  # within which a mean agrees with the replication's
AUC, PRECISION = "AUC", "AP"
BESIDE = "Edges held out, graph convolutions 32 and 16, settings of Launay et al. 2020, after the last epoch"

Replicated = tuple[float, float, int]  # mean %, standard deviation, seeds
REPLICATION: Mapping[tuple[str, str], Mapping[str, Replicated]] = {  # the released settings in plain PyTorch, by us
    ("cora", AUC): {"bp": (90.4, 0.7, 3), "dfa": (89.9, 1.8, 3), "shallow": (62.9, 0.7, 3)},
    ("cora", PRECISION): {"bp": (91.0, 0.6, 3), "dfa": (89.9, 2.4, 3), "shallow": (65.3, 1.7, 3)},
    ("citeseer", AUC): {"bp": (87.5, 0.4, 3), "dfa": (87.4, 0.4, 3), "shallow": (58.5, 2.7, 3)},
    ("citeseer", PRECISION): {"bp": (88.1, 0.5, 3), "dfa": (87.9, 0.3, 3), "shallow": (61.6, 1.9, 3)},
}


def group(data: str, rule: str) -> str:
    """The name of a rule on a graph."""
    return f"{data} {rule}"


TESTS = (
    Test(
        "links-near",
        "AUC of held-out edges: bp − dfa, mean over both graphs",
        AUC,
        {group(data, rule): sign / len(GRAPHS) for data in GRAPHS for rule, sign in (("bp", 1.0), ("dfa", -1.0))},
        "points",
        within=NEAR,
        primary_of="dfa-links",
    ),
    all_of(
        "links-shallow",
        "AUC of held-out edges on both graphs: dfa − shallow",
        *(
            Test(
                f"links-{data}-dfa-shallow",
                f"AUC of held-out edges of {data}: dfa − shallow",
                AUC,
                {group(data, "dfa"): 1.0, group(data, "shallow"): -1.0},
                "points",
                at_least=FAR,
            )
            for data in GRAPHS
        ),
        primary_of="dfa-links-shallow",
    ),
)


class Trained(NamedTuple):
    """What is kept of a run, of its test edges after the last epoch."""

    auc: float  # %
    precision: float  # %, average
    cosine: float | None  # of the first layer's gradient with the true one, mean over the second half of training; None: it has none
    reached: float  # share of nodes that have an error signal at the first layer's output, mean over the recorded steps
    seconds: float  # CPU time


class Links:
    """The runs on both graphs, trained here or read from where they were stored."""

    def __init__(self, folder: Path, out: Path, seeds: int) -> None:
        self.folder, self.out, self.seeds = folder, out / "graph_autoencoder", seeds
        self.seconds = 0.0  # CPU time of all runs that were asked for

    def config(self, data: str, rule: str, seed: int) -> Config:
        """One run's settings."""
        rate = {"lr": RATES[data, rule]} if (data, rule) in RATES else {}
        file = str(self.folder / data / f"{data}.npz")
        return make_config(**{"task": "links", "data": file, "method": rule, "seed": seed, "epochs": EPOCHS[data], **rate, **RECORDED})

    def run(self, data: str, rule: str, seed: int) -> Trained:
        """Train a run, or read what it gave."""
        config = self.config(data, rule, seed)
        graph = load_data(config, RunContext())
        key = {"config": config.as_dict(exclude={"data"}), "data": graph.fingerprint()}
        content = stored(self.out / f"{data}-{rule}-s{seed}.json", key, lambda: self.train(config, graph)._asdict())
        found = Trained(*(content[name] for name in Trained._fields))
        self.seconds += found.seconds
        return found

    def train(self, config: Config, graph: Data) -> Trained:
        """Train a config by gradlens's loop; nothing is written."""
        began = time.process_time()
        state = build_state(config, graph, torch.device("cpu"))
        rows: dict[tuple[str, str], list[float]] = {}

        def watch(event: str, found: dict[str, Any]) -> None:
            for row in found["rows"] if event == "rows" else ():
                late = row.step >= state.batches.total / 2
                if row.layer == "block1" and math.isfinite(row.value) and (row.quantity != "cosine" or late):
                    rows.setdefault((row.kind, row.quantity), []).append(row.value)

        fit(state, None, watch)
        with torch.no_grad(), eval_mode(*state.network), step_context(dict(graph.test.context)):
            z = state.network.method.predict(list(state.network.model), graph.test.x)
        scored = torch.stack([pair_logits(z, graph.test.y).double(), graph.test.y[:, 2].double()], 1)
        auc, precision = ranked(scored)
        cosines = rows.get(("parameters", "cosine"), [])
        reached = 1 - fmean(rows["activation", "zeros"])
        return Trained(100 * auc, 100 * precision, fmean(cosines) if cosines else None, reached, time.process_time() - began)

    def cells(self) -> Iterator[dict[str, Any]]:
        """Each rule on each graph, one number a seed."""
        for data in GRAPHS:
            for rule in RULES:
                runs = [self.run(data, rule, seed) for seed in range(self.seeds)]
                numbers = {name: [getattr(run, name) for run in runs] for name in Trained._fields if name != "seconds"}
                yield {"data": data, "rule": rule, **numbers, "minutes": fmean(run.seconds for run in runs) / 60}


def as_values(found: Sequence[Mapping[str, Any]]) -> tuple[dict[str, dict[str, list[float]]], dict[str, float]]:
    """The cells as metric -> group -> one number a seed, and as group -> minutes of a run."""
    groups = [(group(cell["data"], cell["rule"]), cell) for cell in found]
    values = {metric: {name: cell[field] for name, cell in groups} for metric, field in ((AUC, "auc"), (PRECISION, "precision"))}
    return values, {name: cell["minutes"] for name, cell in groups}


def score_points(found: Sequence[Mapping[str, Any]]) -> list[AccuracyPoint]:
    """Both scores of each cell, beside the replication's."""
    rows = []
    for cell in found:
        for metric, field in ((AUC, "auc"), (PRECISION, "precision")):
            mean, low, high, seeds = interval(cell[field])
            sd = stdev(cell[field]) if seeds > 1 else math.nan
            rows.append(
                AccuracyPoint(
                    cell["data"], metric, cell["rule"], mean, low, high, sd, seeds, *REPLICATION[cell["data"], metric][cell["rule"]]
                )
            )
    return rows


def beside_replication(points: Sequence[AccuracyPoint]) -> list[dict[str, Any]]:
    """Each mean beside the replication's: their difference in combined standard errors, and whether it is small."""
    rows = []
    for p in points:
        if p.seeds < 2 or p.reference is None or p.reference_sd is None or p.reference_seeds is None:
            continue
        errors = abs(p.mean - p.reference) / math.sqrt(p.reference_sd**2 / p.reference_seeds + p.sd**2 / p.seeds)
        where = f"{group(p.data, p.rule)} {p.net}"
        near = errors <= STANDARD_ERRORS
        rows.append({"group": where, "ours": p.mean, "replication": p.reference, "standard_errors": errors, "near": near})
    return rows


def title(points: Sequence[AccuracyPoint]) -> str:
    """What the figure shows, where the means support it."""
    mean = {(p.data, p.net, p.rule): p.mean for p in points}
    gaps = [(mean[a, b, "bp"] - mean[a, b, "dfa"], mean[a, b, "dfa"] - mean[a, b, "shallow"]) for a, b in {(p.data, p.net) for p in points}]
    if all(abs(near) <= NEAR and far >= FAR for near, far in gaps):
        return "A graph autoencoder learns by direct feedback as by backprop, and far better than its last layer alone"
    return "A graph autoencoder by direct feedback, beside backprop and its last layer alone"


def main() -> None:
    """Train all runs, test, draw, write figures/graph_autoencoder."""
    args = arguments(__doc__ or "", data=".", numbers={"seeds": 5})
    announce_cost(sum(CPU_SECONDS[data] * len(RULES) * args.seeds for data in GRAPHS) / 60)
    links = Links(Path(args.data), args.out, args.seeds)
    found = []
    for cell in links.cells():
        found.append(cell)
        scores = f"AUC {fmean(cell['auc']):.1f} %, AP {fmean(cell['precision']):.1f} %"
        print(f"{group(cell['data'], cell['rule'])}: {scores}, {fmean(cell['reached']):.1%} of the nodes reached", flush=True)
    values, minutes = as_values(found)
    points = score_points(found)
    near = beside_replication(points)
    folder = args.figures / "graph_autoencoder"
    folder.mkdir(parents=True, exist_ok=True)
    about = {"seeds": args.seeds, "cells": found, "beside_replication": near, "cpu_minutes": links.seconds / 60}
    results = {**about, "values": values, "minutes": minutes, **environment()}
    report(TESTS, results)
    far = [row["group"] for row in near if not row["near"]]
    agree = f"{len(near) - len(far)} of {len(near)} means are within {STANDARD_ERRORS} standard errors of the replication"
    print(f"{agree}; not: {far or 'none'}")
    save_figure(accuracy_figure(points, title(points), BESIDE), points, folder, "scores")
    write_text(folder / "results.json", json.dumps(results, indent=2) + "\n")
    print(f"wrote {folder}")


if __name__ == "__main__":
    main()
