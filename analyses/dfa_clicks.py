"""Direct feedback alignment on click-through: how far behind backprop, and how far ahead of frozen layers, in four networks?

Launay et al. 2020 (arXiv 2006.12878, §3.2) train DeepFM, Deep&Cross, AutoInt and AFN on Criteo's logs. There shallow training (what lies
above the last places of feedback) of DeepFM is within half a point of AUC of backprop, so that DeepFM proves little; that of Deep&Cross is
8 points behind, and dfa 1 point. Criteo's logs are not needed here: Adult (32,561 rows of a census, UCI, CC BY 4.0; is an income above
50K?) and a generated log whose best possible AUC is known. The networks have the paper's layers at a smaller size, the places of
feedback are the paper's but for AFN's vectors, which get feedback here and none there. Rules: bp, dfa, shallow (BatchNorm with batch
statistics, as in the paper), and dgl, local losses, on the first two networks. Each rule's learning rate is chosen on each network and log
by the best validation AUC of a seed that is not judged, on a grid that grows until the best rate is no end of it. Five epochs; what is
compared is the test AUC at the epoch of the best validation AUC.

What is tested was fixed before the first run of this script; known were a small table that a script without gradlens had measured before
(``BEFORE``, two seeds, open circles in the figure), and first trials of gradlens with Deep&Cross at its full size on Adult, one seed:

- In Deep&Cross bp is above dfa and dfa above shallow, on both logs (the primary test, of which all four parts must hold).
- dfa is within 1 point of AUC of bp, the mean over all networks and logs: about the paper's largest gap.
- Details: the same order in the other networks; the cosine at the embedding of Deep&Cross is above 0.

Five seeds; about 25 minutes of one core, which is said again before it starts.

    python -m analyses.dfa_clicks --data adult.csv         # or a folder that holds it; interrupted, it goes on
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch

from analyses.figures.click_figures import AucPoint, CosinePoint, auc_figure, cosine_figure
from analyses.training.cost import announce_cost
from analyses.training.stored import stored
from analyses.training.study import arguments, environment
from analyses.training.tuned_arms import best_rate
from analyses.verdicts.decision import Test, all_of, details
from analyses.verdicts.wording import report
from gradlens.data.click_log import GENERATED, bayes
from gradlens.data.split import Data
from gradlens.reporting.statistics import interval
from gradlens.reporting.style import save_figure
from gradlens.runtime.errors import Stopped
from gradlens.runtime.text_files import write_text
from gradlens.training.config import Config, make_config
from gradlens.training.context import RunContext, load_data
from gradlens.training.loop import fit
from gradlens.training.metrics import best_held_out
from gradlens.training.run_directory import Metric
from gradlens.training.runs.build_state import build_state

SHARED: Mapping[str, Any] = {"task": "clicks", "epochs": 5, "batch_size": 512, "width": 128, "embedding": 8, "diagnose_every": 0}
ADULT: Mapping[str, Any] = {
    "label": "income-per-year",
    "positive": ">50K",
    "numeric": "age,fnlwgt,education-num,capital-gain,capital-loss,hours-per-week",
    "categorical": "workclass,education,marital-status,occupation,relationship,race,sex,native-country",
}
LOGS = ("adult", GENERATED)
NETS: Mapping[str, Mapping[str, Any]] = {  # the paper's dropout
    "deep-cross": {},
    "deepfm": {"dropout": 0.5},
    "autoint": {},
    "afn": {"interactions": 128},
}
RULES: Mapping[str, Mapping[str, Any]] = {"bp": {}, "dfa": {}, "shallow": {"statistics": "batch"}, "dgl": {}}
WITH_DGL = ("deep-cross", "deepfm")
CHOOSING_SEED = 100
RECORD_EVERY = 20
UPDATE_MS = {"deep-cross": 14, "deepfm": 8, "autoint": 42, "afn": 14}  # CPU time of an update, for the cost that is printed
UPDATES = {"adult": 51, GENERATED: 79}  # of an epoch
TRIED = 4  # rates, about
NEAR = 1.0  # points of AUC behind bp that "near" allows
METRIC, COSINE = "test AUC, in points", "cosine at the embedding"
BESIDE = "Five epochs, rates chosen on validation rows, test AUC at the best validation AUC"
BEFORE: Mapping[tuple[str, str, str], float] = {  # measured by a script without gradlens, two seeds, three epochs, other sizes
    ("adult", "deep-cross", "bp"): 0.9138,
    ("adult", "deep-cross", "dfa"): 0.9112,
    ("adult", "deep-cross", "shallow"): 0.8672,
    ("adult", "deepfm", "bp"): 0.9130,
    ("adult", "deepfm", "dfa"): 0.8892,
    ("adult", "deepfm", "shallow"): 0.8484,
}


def cells() -> list[tuple[str, str, str]]:
    """(log, network, rule) of every group."""
    return [(log, net, rule) for net in NETS for log in LOGS for rule in RULES if rule != "dgl" or net in WITH_DGL]


def group(log: str, net: str, rule: str) -> str:
    """The name of a rule on a network and a log."""
    return f"{log} {net} {rule}"


def _above(log: str, net: str, better: str, worse: str) -> Test:
    """The test that one rule is above another."""
    contrast = {group(log, net, better): 1.0, group(log, net, worse): -1.0}
    says = f"test AUC on {log}, {net}: {better} − {worse}"
    return Test(f"clicks-{log}-{net}-{better}-{worse}", says, METRIC, contrast, "points", at_least=0.0)


PAIRS = (("bp", "dfa"), ("dfa", "shallow"))
EVERYWHERE = [(log, net) for net in NETS for log in LOGS]
TESTS = (
    all_of(
        "clicks-order",
        "test AUC of Deep&Cross on both logs: bp above dfa, and dfa above shallow",
        *(_above(log, "deep-cross", *pair) for log in LOGS for pair in PAIRS),
        primary_of="dfa-clicks",
    ),
    Test(
        "clicks-near",
        "test AUC: bp − dfa, mean over four networks and both logs",
        METRIC,
        {group(*cell, rule): sign / len(EVERYWHERE) for cell in EVERYWHERE for rule, sign in (("bp", 1.0), ("dfa", -1.0))},
        "points",
        within=NEAR,
        primary_of="dfa-clicks-near",
    ),
    *details(
        "dfa-clicks",
        *(_above(log, net, *pair) for net in NETS if net != "deep-cross" for log in LOGS for pair in PAIRS),
        *(
            Test(
                f"clicks-{log}-embedding",
                f"cosine of dfa's error signal with the true one at the embedding of Deep&Cross on {log}",
                COSINE,
                {group(log, "deep-cross", "dfa"): 1.0},
                at_least=0.0,
            )
            for log in LOGS
        ),
    ),
)


class Trained(NamedTuple):
    """What is kept of a run."""

    auc: float  # of the test rows, at the epoch of the best validation AUC; NaN: training diverged
    logloss: float  # at the same epoch, in nats
    epoch: int
    validation: float  # the best validation AUC
    final: float  # test AUC after the last epoch
    final_logloss: float
    cosines: Mapping[str, float]  # layer -> of the error signal at its output, mean over the second half of training
    weight_cosines: Mapping[str, float]  # layer -> of its parameters' gradient
    zeros: Mapping[str, float]  # layer -> share of exact zeros in the error signal
    seconds: float  # CPU time


DIVERGED = Trained(math.nan, math.nan, 0, math.nan, math.nan, math.nan, {}, {}, {}, 0.0)


class Clicks:
    """The runs on both logs, trained here or read from where they were stored."""

    def __init__(self, place: Path, out: Path, seeds: int) -> None:
        self.file, self.out, self.seeds = place / "adult.csv" if place.is_dir() else place, out / "dfa_clicks", seeds
        self.seconds = 0.0  # CPU time of all runs that were asked for

    def config(self, log: str, net: str, rule: str, lr: float, seed: int, record_every: int = 0) -> Config:
        """One run's settings."""
        here = {"data": str(self.file), "task_options": dict(ADULT)} if log == "adult" else {"data": log}
        dropout = {"dropout": 0.1} if rule == "shallow" and "dropout" in NETS[net] else {}
        settings = {**SHARED, **NETS[net], **dropout, **here, "options": dict(RULES[rule])}
        return make_config(**settings, model=net, method=rule, lr=lr, seed=seed, record_every=record_every)

    def run(self, log: str, net: str, rule: str, lr: float, seed: int, record_every: int = 0) -> Trained:
        """Train a run, or read what it gave."""
        config = self.config(log, net, rule, lr, seed, record_every)
        data = load_data(config, RunContext())
        key = {"config": config.as_dict(exclude={"data"}), "data": data.fingerprint()}
        name = f"{group(log, net, rule).replace(' ', '-')}-{lr:g}-s{seed}"
        content = stored(self.out / f"{name}.json", key, lambda: self.train(config, data)._asdict())
        values: Any = {field: math.nan if content[field] is None else content[field] for field in Trained._fields}
        found = Trained(**values)
        self.seconds += found.seconds
        return found

    def train(self, config: Config, data: Data) -> Trained:
        """Train a config by gradlens's loop; nothing is written."""
        began = time.process_time()
        state = build_state(config, data, torch.device("cpu"))
        metrics: list[Metric] = []
        rows: dict[tuple[str, str], dict[str, list[float]]] = {}

        def watch(event: str, found: dict[str, Any]) -> None:
            if event == "metric":
                metrics.append(Metric(**found))
            for row in found["rows"] if event == "rows" else ():
                if math.isfinite(row.value) and row.step >= state.batches.total / 2:
                    rows.setdefault((row.kind, row.quantity), {}).setdefault(row.layer, []).append(row.value)

        try:
            fit(state, None, watch)
        except Stopped as stopped:
            if stopped.status != 1:
                raise
            return DIVERGED._replace(seconds=time.process_time() - began)
        means = {what: {layer: fmean(values) for layer, values in each.items()} for what, each in rows.items()}
        best, last = best_held_out(metrics), [m for m in metrics if m.split == "test"][-1]
        validation = max(m.score for m in metrics if m.split == "validation")
        parts: Any = [means.get(what, {}) for what in (("activation", "cosine"), ("parameters", "cosine"), ("activation", "zeros"))]
        scores: Any = (best.score, best.loss, best.epoch, validation, last.score, last.loss)
        found: Any = (*scores, *parts, time.process_time() - began)
        return Trained(*found)

    def _validation(self, cell: tuple[str, str, str], lr: float) -> float:
        found = self.run(*cell, lr, CHOOSING_SEED).validation
        return -math.inf if math.isnan(found) else found

    def cells(self) -> Iterator[dict[str, Any]]:
        """Each rule on each network and log, at its rate, one number a seed."""
        for cell in cells():
            rate, tried = best_rate(partial(self._validation, cell))
            runs = [self.run(*cell, rate, seed, RECORD_EVERY) for seed in range(self.seeds)]
            yield {
                **dict(zip(("data", "net", "rule"), cell, strict=True)),
                "rate": rate,
                "tried": tried,
                **{name: [getattr(run, name) for run in runs] for name in Trained._fields if name != "seconds"},
                "minutes": fmean(run.seconds for run in runs) / 60,
            }


def as_values(found: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """The cells as metric -> group -> one number a seed."""
    groups = [(group(c["data"], c["net"], c["rule"]), c) for c in found]
    return {
        METRIC: {name: [100 * auc for auc in c["auc"]] for name, c in groups},
        "test AUC after the last epoch, in points": {name: [100 * auc for auc in c["final"]] for name, c in groups},
        "test log loss": {name: list(c["logloss"]) for name, c in groups},
        COSINE: {name: [run.get("embedding", math.nan) for run in c["cosines"]] for name, c in groups},
    }


def auc_points(found: Sequence[Mapping[str, Any]]) -> list[AucPoint]:
    """Each cell's AUC, beside what was measured before and the best that is possible."""
    best = bayes()[0]
    rows = []
    for c in found:
        cell, i = (c["data"], c["net"], c["rule"]), interval(c["auc"])
        most = best if c["data"] == GENERATED else None
        rows.append(AucPoint(*cell, i.mean, i.low, i.high, i.n, fmean(c["logloss"]), fmean(c["final"]), BEFORE.get(cell), most))
    return rows


def cosine_points(found: Sequence[Mapping[str, Any]]) -> list[CosinePoint]:
    """Cosines at each block's output, of the rules whose error signal is not the true one."""
    rows = []
    for c in found:
        for layer in c["cosines"][0] if c["rule"] in ("dfa", "dgl") else ():
            i = interval([run[layer] for run in c["cosines"] if layer in run])
            rows.append(CosinePoint(c["data"], c["net"], c["rule"], layer, i.mean, i.low, i.high, i.n))
    return rows


def cost(seeds: int) -> float:
    """Minutes of one core that all runs are expected to take."""
    updates: float = sum(UPDATE_MS[net] * UPDATES[log] for log, net, _ in cells()) * SHARED["epochs"]
    return updates * (seeds + TRIED) / 60_000


def main() -> None:
    """Train all runs, test, draw, write figures/dfa_clicks."""
    args = arguments(__doc__ or "", data="adult.csv", numbers={"seeds": 5})
    announce_cost(cost(args.seeds))
    clicks = Clicks(Path(args.data), args.out, args.seeds)
    found = []
    for c in clicks.cells():
        found.append(c)
        print(
            f"{group(c['data'], c['net'], c['rule'])}: rate {c['rate']:g}, AUC {fmean(c['auc']):.4f}, {c['minutes']:.2f} minutes",
            flush=True,
        )
    values = as_values(found)
    best, loss = bayes()
    folder = args.figures / "dfa_clicks"
    folder.mkdir(parents=True, exist_ok=True)
    results = {
        "seeds": args.seeds,
        "settings": {**SHARED, "networks": NETS, "rules": RULES},
        "best_possible": {"log": GENERATED, "auc": best, "log_loss": loss},
        "cells": found,
        "values": values,
        "minutes": {group(c["data"], c["net"], c["rule"]): c["minutes"] for c in found},
        "cpu_minutes": clicks.seconds / 60,
        **environment(),
    }
    report(TESTS, results)
    points, cosines = auc_points(found), cosine_points(found)
    save_figure(auc_figure(points, BESIDE), points, folder, "auc")
    save_figure(cosine_figure(cosines, "Second half of training"), cosines, folder, "cosines")
    write_text(folder / "results.json", json.dumps(results, indent=2) + "\n")
    print(f"wrote {folder}")


if __name__ == "__main__":
    main()
