"""Direct feedback alignment on graphs: backprop, then dfa, then a trained output layer alone, in every network of the paper's settings.

GCN, Chebyshev filters and graph attention on Cora, GCN and Chebyshev filters on CiteSeer, with the settings that Launay et al. 2020
(arXiv 2006.12878) released: 250 epochs of the whole graph, the test accuracy at the best validation accuracy (the public split of
Planetoid). Four rules: bp, dfa, dfa whose feedback also goes along the edges (``feedback=propagated``, GCN only), and shallow. Ten seeds.
A control that no test is about, on GCN and Chebyshev filters: backprop with dfa's lighter dropout and decay (``bp less regularised``).

A node receives the projection of its own error, and only the labelled nodes have one: 140 of Cora's 2,708. Backprop also reaches their
neighbours. The share of nodes that each rule reaches is kept beside the accuracies, and the cosine of the first block's gradient.

What is tested was fixed before the first run of this script; a replication of the same settings in plain PyTorch, five or ten seeds a cell,
was known (``REPLICATION`` below, and open circles in the figure):

- bp is above dfa, and dfa above shallow, in each of the five cells (one primary test, of which all ten parts must hold).
- On GCN and on attention dfa is at most 3 points behind bp on average: "nearly matches", in the paper's words.
- Propagated feedback is not below a node's own, on average over GCN on both graphs.

Beside these each mean is compared with the replication's: within 2.5 combined standard errors or not. The replication froze nothing: its
shallow networks keep dropout below the output layer, where ours are in eval mode.

Costs about 48 minutes of one core, which is said again before it starts, and four more for the t-SNE maps of Cora's hidden layer
(perplexity 20, learning rate 100, 5,000 iterations, seed 0).

    python -m analyses.dfa_graphs --data FOLDER     # holds cora/cora.npz and citeseer/citeseer.npz; interrupted, it goes on
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np
import torch

from analyses.figures.graph_figures import AccuracyPoint, MapPoint, accuracy_figure, accuracy_title, map_figure
from analyses.training.cost import announce_cost
from analyses.training.stored import stored
from analyses.training.study import arguments, environment
from analyses.verdicts.decision import Test, all_of, details
from analyses.verdicts.wording import report
from gradlens.data.graph_file import read_graph_file
from gradlens.data.split import Data
from gradlens.methods import METHODS
from gradlens.reporting.statistics import interval
from gradlens.reporting.style import save_figure
from gradlens.runtime.eval_mode import eval_mode
from gradlens.runtime.step_context import step_context
from gradlens.runtime.text_files import write_text
from gradlens.training.config import Config, make_config
from gradlens.training.context import RunContext, load_data
from gradlens.training.loop import fit
from gradlens.training.metrics import best_held_out
from gradlens.training.run_directory import Metric
from gradlens.training.runs.build_state import build_state
from gradlens.training.state import TrainState

CELLS = (("cora", "gcn"), ("cora", "cheb"), ("cora", "gat"), ("citeseer", "gcn"), ("citeseer", "cheb"))
CONTROL = "bp less regularised"  # backprop with the dropout and the weight decay that dfa has
RULES = ("bp", CONTROL, "dfa", "dfa propagated", "shallow")
NETWORKS_OF = {"dfa propagated": ("gcn",), CONTROL: ("gcn", "cheb")}  # of rules that not every network is trained with
OPTIONS: Mapping[str, Mapping[str, Any]] = {"dfa propagated": {"feedback": "propagated"}}
RECORDED: Mapping[str, Any] = {"record_every": 25, "diagnose_every": 0}
CPU_SECONDS = {("cora", "gcn"): 6, ("cora", "cheb"): 10, ("cora", "gat"): 23, ("citeseer", "gcn"): 12, ("citeseer", "cheb"): 22}  # of a run
MAPPED = ("bp", "dfa", "shallow")  # rules whose hidden layer is mapped
MAP_MINUTES = 4
NEAR = 3.0  # points behind bp that "nearly" allows
STANDARD_ERRORS = 2.5  # within which a mean agrees with the replication's
METRIC = "test accuracy"
BESIDE = "Whole-graph training, 250 epochs, settings of Launay et al. 2020, test accuracy at the best validation accuracy"

Replicated = tuple[float, float, int]  # mean %, standard deviation, seeds
REPLICATION: Mapping[tuple[str, str], Mapping[str, Replicated]] = {  # the released settings in plain PyTorch, by us
    ("cora", "gcn"): {"bp": (81.0, 1.0, 10), "dfa": (78.8, 1.0, 10), "shallow": (36.5, 4.9, 10)},
    ("cora", "cheb"): {"bp": (79.0, 0.9, 10), "dfa": (74.9, 0.9, 10), "shallow": (25.1, 3.4, 10)},
    ("cora", "gat"): {"bp": (82.2, 0.6, 5), "dfa": (80.0, 0.8, 5), "shallow": (65.9, 0.9, 5)},
    ("citeseer", "gcn"): {"bp": (70.8, 0.5, 10), "dfa": (69.2, 1.6, 10), "shallow": (30.4, 2.9, 10)},
    ("citeseer", "cheb"): {"bp": (69.6, 1.0, 10), "dfa": (68.2, 0.8, 5), "shallow": (25.0, 1.9, 5)},
}


def rules_of(net: str) -> list[str]:
    """The rules that a network is trained with."""
    return [rule for rule in RULES if net in NETWORKS_OF.get(rule, (net,))]


def group(data: str, net: str, rule: str) -> str:
    """The name of a rule on a network and a graph."""
    return f"{data} {net} {rule}"


def _above(data: str, net: str, better: str, worse: str) -> Test:
    """The test that one rule is above another."""
    contrast = {group(data, net, better): 1.0, group(data, net, worse): -1.0}
    name = f"{data}-{net}-{better}-{worse}".replace(" ", "-")
    return Test(name, f"test accuracy on {data}, {net}: {better} − {worse}", METRIC, contrast, "points", at_least=0.0)


def _mean_difference(cells: Sequence[tuple[str, str]], better: str, worse: str) -> dict[str, float]:
    """The contrast of two rules, the mean over cells."""
    signs = ((better, 1.0), (worse, -1.0))
    return {group(*cell, rule): sign / len(cells) for cell in cells for rule, sign in signs}


NEAR_CELLS = (("cora", "gcn"), ("citeseer", "gcn"), ("cora", "gat"))
GCN_CELLS = (("cora", "gcn"), ("citeseer", "gcn"))
TESTS = (
    all_of(
        "graphs-order",
        "test accuracy of five networks on graphs: bp above dfa, and dfa above shallow",
        *(_above(*cell, *pair) for cell in CELLS for pair in (("bp", "dfa"), ("dfa", "shallow"))),
        primary_of="dfa-graphs",
    ),
    Test(
        "graphs-near",
        "test accuracy: bp − dfa, mean over GCN on both graphs and attention on Cora",
        METRIC,
        _mean_difference(NEAR_CELLS, "bp", "dfa"),
        "points",
        within=NEAR,
        primary_of="dfa-graphs-near",
    ),
    Test(
        "graphs-propagated",
        "test accuracy: feedback along the edges − a node's own, mean over GCN on both graphs",
        METRIC,
        _mean_difference(GCN_CELLS, "dfa propagated", "dfa"),
        "points",
        at_least=0.0,
        primary_of="dfa-graphs-propagated",
    ),
    *details(
        "dfa-graphs-near",
        Test(
            "graphs-cheb-gap",
            "test accuracy on Cora: bp − dfa of Chebyshev filters, less that of GCN",
            METRIC,
            {**_mean_difference((("cora", "cheb"),), "bp", "dfa"), **_mean_difference((("cora", "gcn"),), "dfa", "bp")},
            "points",
            at_least=0.0,
        ),
    ),
)


class Trained(NamedTuple):
    """What is kept of a run."""

    accuracy: float  # %, of the test nodes at the best validation accuracy
    validation: float  # %, the best
    epoch: int  # of it
    final: float  # %, of the test nodes after the last epoch
    cosine: float | None  # of the first block's gradient with the true one, mean over the second half of training; None: it has none
    output_cosine: float | None  # of the signal at the first block's output with the true one, as above
    reached: float  # share of nodes that have an error signal at the first block's output, mean over the recorded steps
    reached_by_backprop: float
    seconds: float  # CPU time


class Graphs:
    """The runs on both graphs, trained here or read from where they were stored."""

    def __init__(self, folder: Path, out: Path, seeds: int) -> None:
        self.folder, self.out, self.seeds = folder, out / "dfa_graphs", seeds
        self.seconds = 0.0  # CPU time of all runs that were asked for

    def config(self, data: str, net: str, rule: str, seed: int) -> Config:
        """One run's settings: the task's own for this network and rule."""
        file = self.folder / data / f"{data}.npz"
        options = dict(OPTIONS.get(rule, {}))
        settings = {**RECORDED, **(METHODS["dfa"].defaults_on[net] if rule == CONTROL else {})}
        return make_config(task="graphs", data=str(file), model=net, method=rule.split()[0], options=options, seed=seed, **settings)

    def run(self, data: str, net: str, rule: str, seed: int) -> Trained:
        """Train a run, or read what it gave."""
        config = self.config(data, net, rule, seed)
        graph = load_data(config, RunContext())
        key = {"config": config.as_dict(exclude={"data"}), "data": graph.fingerprint()}
        name = f"{group(data, net, rule).replace(' ', '-')}-s{seed}"
        content = stored(self.out / f"{name}.json", key, lambda: self.train(config, graph)[0]._asdict())
        found = Trained(*(content[field] for field in Trained._fields))
        self.seconds += found.seconds
        return found

    def train(self, config: Config, graph: Data) -> tuple[Trained, TrainState]:
        """Train a config by gradlens's loop; nothing is written."""
        began = time.process_time()
        state = build_state(config, graph, torch.device("cpu"))
        metrics: list[Metric] = []
        rows: dict[tuple[str, str], list[float]] = {}

        def watch(event: str, found: dict[str, Any]) -> None:
            if event == "metric":
                metrics.append(Metric(**found))
            for row in found["rows"] if event == "rows" else ():
                late = row.step >= state.batches.total / 2
                if row.layer == "block1" and math.isfinite(row.value) and (row.quantity != "cosine" or late):
                    rows.setdefault((row.kind, row.quantity), []).append(row.value)

        fit(state, None, watch)
        best = best_held_out(metrics)
        tests = [m for m in metrics if m.split == "test"]
        cosine, output_cosine = (fmean(found) if (found := rows.get((kind, "cosine"))) else None for kind in ("parameters", "activation"))
        reached, true = (fmean(rows["activation", quantity]) for quantity in ("reached", "true_reached"))
        trained = Trained(
            100 * best.accuracy, 100 * max(m.accuracy for m in metrics if m.split == "validation"), best.epoch, 100 * tests[-1].accuracy,
            cosine, output_cosine, reached, true, time.process_time() - began,
        )  # fmt: skip
        return trained, state

    def cells(self) -> Iterator[dict[str, Any]]:
        """Each rule on each network and graph, one number a seed."""
        for data, net in CELLS:
            for rule in rules_of(net):
                runs = [self.run(data, net, rule, seed) for seed in range(self.seeds)]
                yield {
                    "data": data,
                    "net": net,
                    "rule": rule,
                    **{name: [getattr(run, name) for run in runs] for name in Trained._fields if name != "seconds"},
                    "minutes": fmean(run.seconds for run in runs) / 60,
                }

    def maps(self) -> list[MapPoint]:
        """The t-SNE maps of the hidden layer of GCN on Cora, seed 0: the network trained anew, or the stored map."""
        rows = []
        for rule in MAPPED:
            config = self.config("cora", "gcn", rule, 0)
            graph = load_data(config, RunContext())
            key = {"config": config.as_dict(exclude={"data"}), "data": graph.fingerprint(), "map": TSNE_SETTINGS}
            content = stored(self.out / f"map-{rule}.json", key, lambda config=config, graph=graph: self._map(config, graph))  # type: ignore[misc]
            shown = zip(content["x"], content["y"], read_graph_file(Path(config.data.name)).labels.tolist(), strict=True)
            rows += [MapPoint(rule, i, graph.classes[c], x, y) for i, (x, y, c) in enumerate(shown) if c >= 0]
        return rows

    def _map(self, config: Config, graph: Data) -> dict[str, list[float]]:
        _, state = self.train(config, graph)
        with torch.no_grad(), eval_mode(*state.network), step_context(dict(graph.train.context)):
            hidden = state.network.model[0](graph.train.x)
        x, y = tsne(hidden.numpy()).T.tolist()
        return {"x": [round(v, 2) for v in x], "y": [round(v, 2) for v in y]}


TSNE_SETTINGS: Mapping[str, Any] = {"perplexity": 20, "learning_rate": 100, "max_iter": 5000, "random_state": 0}


def tsne(hidden: Any) -> Any:
    """A map [N, 2] of rows [N, D]."""
    from sklearn.manifold import TSNE

    return TSNE(**TSNE_SETTINGS).fit_transform(np.asarray(hidden, np.float32))


def as_values(found: Sequence[Mapping[str, Any]]) -> tuple[dict[str, dict[str, list[float]]], dict[str, float]]:
    """The cells as metric -> group -> one number a seed, and as group -> minutes of a run."""
    groups = [(group(cell["data"], cell["net"], cell["rule"]), cell) for cell in found]
    return {METRIC: {name: cell["accuracy"] for name, cell in groups}}, {name: cell["minutes"] for name, cell in groups}


def beside_replication(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each mean beside the replication's: their difference in combined standard errors, and whether it is small."""
    rows = []
    for cell in found:
        known = REPLICATION[cell["data"], cell["net"]].get(cell["rule"])
        if known is None or len(cell["accuracy"]) < 2:
            continue
        mean, sd, n = known
        ours, spread, seeds = fmean(cell["accuracy"]), stdev(cell["accuracy"]), len(cell["accuracy"])
        errors = abs(ours - mean) / math.sqrt(sd**2 / n + spread**2 / seeds)
        where = group(cell["data"], cell["net"], cell["rule"])
        rows.append({"group": where, "ours": ours, "replication": mean, "standard_errors": errors, "near": errors <= STANDARD_ERRORS})
    return rows


def accuracy_points(found: Sequence[Mapping[str, Any]]) -> list[AccuracyPoint]:
    """Each cell's accuracy, beside the replication's."""
    rows = []
    for c in found:
        mean, low, high, seeds = interval(c["accuracy"])
        sd = stdev(c["accuracy"]) if seeds > 1 else math.nan
        known = REPLICATION[c["data"], c["net"]].get(c["rule"], (None, None, None))
        rows.append(AccuracyPoint(c["data"], c["net"], c["rule"], mean, low, high, sd, seeds, *known))
    return rows


def cost(seeds: int) -> float:
    """Minutes of one core that all runs and maps are expected to take."""
    return sum(CPU_SECONDS[cell] * len(rules_of(cell[1])) * seeds for cell in CELLS) / 60 + MAP_MINUTES


def main() -> None:
    """Train all runs, test, draw, write figures/dfa_graphs."""
    args = arguments(__doc__ or "", data=".", numbers={"seeds": 10})
    announce_cost(cost(args.seeds))
    graphs = Graphs(Path(args.data), args.out, args.seeds)
    found = []
    for cell in graphs.cells():
        found.append(cell)
        where = group(cell["data"], cell["net"], cell["rule"])
        print(f"{where}: {fmean(cell['accuracy']):.1f} %, {fmean(cell['reached']):.1%} of the nodes reached", flush=True)
    values, minutes = as_values(found)
    near = beside_replication(found)
    folder = args.figures / "dfa_graphs"
    folder.mkdir(parents=True, exist_ok=True)
    results = {
        "seeds": args.seeds,
        "cells": found,
        "values": values,
        "minutes": minutes,
        "beside_replication": near,
        "cpu_minutes": graphs.seconds / 60,
        **environment(),
    }
    report(TESTS, results)
    far = [row["group"] for row in near if not row["near"]]
    print(
        f"{len(near) - len(far)} of {len(near)} means are within {STANDARD_ERRORS} standard errors of the replication; not: {far or 'none'}"
    )
    points = accuracy_points(found)
    save_figure(accuracy_figure(points, accuracy_title(points), BESIDE), points, folder, "accuracy")
    maps = graphs.maps()
    about = "t-SNE, seed 0: perplexity 20, learning rate 100, 5,000 iterations"
    save_figure(map_figure(maps, "The hidden layer of GCN on Cora, a dot a node, coloured by class", about), maps, folder, "tsne")
    write_text(folder / "results.json", json.dumps(results, indent=2) + "\n")
    print(f"wrote {folder}")


if __name__ == "__main__":
    main()
