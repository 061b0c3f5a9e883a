"""Every supervised rule on the same network, data and epochs, each with its own learning rate: how good, how close, at what price.

BasicCNN of width 32, 6,000 CIFAR-10 images, batches of 128, five epochs, no augmentation, three seeds (one for the rules that no
claim speaks of). Learning rates: of a grid of three, the one with the best accuracy on a held-out fifth of the training images after
two epochs of the rest (first seed). Adam, but for kp, whose default is SGD with decoupled decay. greedy trains each of its three stages
for five epochs, so every parameter sees as many images as elsewhere. Images a second and memory are measured by ``gradlens bench`` in one
interleaved run at the end, against bp.

Claims tested, paired by seed (supported or not where the 95 % interval of the mean difference lies on one side of the bound): final
training loss bp <= chunked <= overlap <= dgl; sign-symmetric feedback far better than fa; cdni's cosine above dni's; dgl-async
without slowdown at most a point below dgl. Each rule has its own learning rate, so a training loss speaks of rule and rate together;
chunked has the chunks block1–block2 and block3–top, so its second block gets no gradient of the global loss, as overlap's does.

Cosines, noise-corrected cosines and nulls are measured at the final weights on the eight batches that would follow; where the batches'
halves agree too little to tell, there is no noise-corrected one. greedy's are left out: a block's truth is its own stage's loss, and frozen
blocks use nothing. Its cost is that of its last stage. Memory is what a step adds: dgl-async's buffers and the feedback matrices,
which are held between steps, are not in it. dgl-async's training loss is on stored batches.

    python -m analyses.all_methods --data cifar10          # about an hour on two cores; interrupted, it goes on
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from analyses.study import arguments, judged, publish, run_context_of, say, trained
from gradlens.cli.progress import Display
from gradlens.gradients.backward import run_step
from gradlens.gradients.diagnostics import SPARSE, sparse_rows
from gradlens.gradients.rows import step_rows
from gradlens.gradients.true_gradient import preserve_buffers_and_rng, true_gradients
from gradlens.methods import METHODS
from gradlens.reporting.aggregate import scores, without_noise
from gradlens.reporting.numbers import DASH, number_text, short_number
from gradlens.reporting.statistics import interval
from gradlens.runtime.rng import seeded
from gradlens.training.config import Config, make_config
from gradlens.training.cost.step_benchmark import bench
from gradlens.training.run_directory import Run
from gradlens.training.runs.lr_search import choose_lr
from gradlens.training.runs.train_run import prepare

SEEDS, EPOCHS, TRIAL_EPOCHS, BATCHES, ROUNDS = 3, 5, 2, 8, 5
SHARED: dict[str, Any] = {
    "limit": 6_000, "model": "basic-cnn", "width": 32, "batch_size": 128, "record_every": 20, "diagnose_every": 2,
}  # fmt: skip
ADAM = (3e-4, 1e-3, 3e-3)
GRIDS = {"kp": (0.01, 0.03, 0.1)}
ONE_SEED = ("greedy", "predsim", "infopro", "kp", "dni-unlocked")  # rules that no claim below speaks of: one seed, no interval
STAGES = {"greedy": 3}  # a rule that trains stage by stage has so many
LAYERS = ("block1.conv", "block2.conv", "block3.conv", "top.hidden", "top.out")


def tuned(name: str, args: Any, display: Display) -> list[Config]:
    """The configs of a rule's seeds, with the learning rate that the held-out images choose."""
    settings = {"method": name, "data": args.data, "epochs": EPOCHS * STAGES.get(name, 1), **SHARED}
    trial = make_config(**{**settings, "epochs": TRIAL_EPOCHS * STAGES.get(name, 1)})
    place = replace(run_context_of(args), out=args.out / "trials")
    lr = choose_lr(trial, GRIDS.get(name, ADAM), 0.2, place, lambda c: display.watch(f"{name} lr {c.optimizer.lr:g}", c.epochs))
    return [make_config(**settings, lr=lr, seed=seed) for seed in range(1 if name in ONE_SEED else SEEDS)]


Means = dict[tuple[str, str], float]  # (layer, quantity) -> mean over batches


def at_the_end(run: Run, args: Any) -> Means:
    """What is measured at a run's final weights, averaged over the batches that would follow its last one."""
    state, saved = prepare(run.config, run_context_of(args)), run.checkpoint()
    state.network.load(saved, str(run.path))
    model, method = state.network
    found: dict[tuple[str, str], list[float]] = {}
    for at in range(saved["step"], saved["step"] + BATCHES):
        method.start(run.config.epochs, at)
        with preserve_buffers_and_rng([model]), seeded(run.config.seed, "step", at):
            step = run_step(method, list(model), *state.batches.batch(at))
            truth = true_gradients(method, step, keep=True)
            rows = step_rows(at, state.network.block_names(), method, step, truth, ("cosine",))
            rows += sparse_rows(at, state.network.block_names(), method, step, truth, SPARSE)
        for row in (row for row in rows if row.kind == "weight"):
            found.setdefault((row.layer, row.quantity), []).append(row.value)
    return {key: interval(values).mean for key, values in found.items()}


def corrected(means: Sequence[Means], layer: str) -> float:
    """The noise-corrected cosine of a layer, of means over batches and seeds: single ceilings are too near zero to divide by."""
    parts = [interval(m.get((layer, name), math.nan) for m in means).mean for name in ("across_halves", "noise_ceiling", "rule_ceiling")]
    return without_noise(*parts)


def table(groups: dict[str, list[Run]], means: dict[str, list[Means]]) -> list[dict[str, Any]]:
    """One row a rule: accuracies, each layer's cosine and null as mean and interval over seeds, and its noise-corrected cosine."""
    rows = []
    for name, runs in groups.items():
        (score,) = scores(runs)
        row: dict[str, Any] = {"method": name, "lr": score.lr, "train_loss": score.train_loss}
        row["best"] = (score.best_accuracy, score.best_low, score.best_high, score.best_epoch)
        row["final"] = (score.final_accuracy, score.final_low, score.final_high)
        layers = () if name in STAGES else LAYERS
        for quantity in ("cosine", "null_cosine"):
            row[quantity] = {layer: interval(m.get((layer, quantity), math.nan) for m in means[name])[:3] for layer in layers}
        row["corrected_cosine"] = {layer: corrected(means[name], layer) for layer in layers}
        rows.append(row)
    return rows


def costs(configs: Sequence[Config], args: Any) -> dict[str, dict[str, float | None]]:
    """rule -> images a second, added memory and multiply-adds, relative to bp."""
    with Display(quiet=False) as display:
        result = bench(configs, (3, 32, 32), 10, run_context_of(args).device, ROUNDS, record_every=(), progress=display.count("bench"))
    rows = {row.method: row for row in result.rows}
    bp = rows["bp"]
    return {
        c.method: {
            "images_per_s": bp.time_ratio / rows[c.method].time_ratio,
            "memory": None if (mine := rows[c.method].memory_mb) is None or not bp.memory_mb else mine / bp.memory_mb,
            "multiply_adds": rows[c.method].flop_ratio / bp.flop_ratio,
        }
        for c in configs
    }


# ----------------------------------------------------------------------------------------------------------- claims


def train_loss(run: Run) -> float:
    """Mean loss over the last epoch."""
    return [m.loss for m in run.metrics if m.split == "train"][-1]


def accuracy(run: Run) -> float:
    """Final test accuracy in %."""
    return 100 * float(run.summary["test"]["final_accuracy"])


def blocks_cosine(run: Run) -> float:
    """Mean cosine of the blocks' convolutions over what was recorded in the second half of training."""
    half = run.summary["updates"] / 2
    return fmean(
        r.value
        for r in run.gradients
        if r.quantity == "cosine" and r.kind == "weight" and r.layer in LAYERS and r.layer.endswith(".conv") and r.step >= half
    )


CLAIMS = (  # (claim, quantity, larger, smaller, bound): mean of larger − smaller is at least the bound
    ("training loss: bp <= chunked", train_loss, "chunked", "bp", 0.0),
    ("training loss: chunked <= overlap", train_loss, "overlap", "chunked", 0.0),
    ("training loss: overlap <= dgl", train_loss, "dgl", "overlap", 0.0),
    ("accuracy: usf at least 10 points above fa", accuracy, "usf", "fa", 10.0),
    ("accuracy: brsf at least 10 points above fa", accuracy, "brsf", "fa", 10.0),
    ("accuracy: frsf at least 10 points above fa", accuracy, "frsf", "fa", 10.0),
    ("cosine of the blocks: cdni above dni", blocks_cosine, "cdni", "dni", 0.0),
    ("accuracy: dgl-async no more than a point below dgl", accuracy, "dgl-async", "dgl", -1.0),
    ("accuracy: dgl above untrained blocks (shallow)", accuracy, "dgl", "shallow", 0.0),
    ("accuracy: bp above dni", accuracy, "bp", "dni", 0.0),
    ("accuracy: dni above untrained blocks (shallow)", accuracy, "dni", "shallow", 0.0),
    ("accuracy: fa above untrained blocks (shallow)", accuracy, "fa", "shallow", 0.0),
    ("accuracy: dfa above untrained blocks (shallow)", accuracy, "dfa", "shallow", 0.0),
    ("accuracy: bp above dfa", accuracy, "bp", "dfa", 0.0),
    ("accuracy: overlap above dgl", accuracy, "overlap", "dgl", 0.0),
    ("cosine of the blocks: overlap above dgl", blocks_cosine, "overlap", "dgl", 0.0),
    ("cosine of the blocks: bp's (1) at least 0.1 above dgl's", blocks_cosine, "bp", "dgl", 0.1),
)


UNITS = {train_loss: "nats", accuracy: "points", blocks_cosine: "of cosine"}


def tested(groups: dict[str, list[Run]]) -> list[dict[str, Any]]:
    """Each claim whose rules were trained, judged by the differences between runs of the same seed."""
    return [
        judged(claim, [of(a) - of(b) for a, b in zip(groups[larger], groups[smaller], strict=True)], UNITS[of], at_least=bound)
        for claim, of, larger, smaller, bound in CLAIMS
        if larger in groups and smaller in groups
    ]


# -------------------------------------------------------------------------------------------------------------- main


def shown(row: dict[str, Any], cost: dict[str, float | None]) -> str:
    """One line of the README's table."""
    best, final = row["best"], row["final"]
    cells = [f"`{row['method']}`", f"{row['lr']:g}", number_text(best[0], best[1], 1, 100), number_text(final[0], final[1], 1, 100)]
    for layer in LAYERS[:4]:
        three = [row["cosine"].get(layer, (math.nan,))[0], row["corrected_cosine"].get(layer, math.nan)]
        three.append(row["null_cosine"].get(layer, (math.nan,))[0])
        cells.append(" · ".join(map(short_number, three)) if math.isfinite(three[0]) else DASH)
    cells += [short_number(cost[name]) for name in ("images_per_s", "memory", "multiply_adds")]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Choose learning rates, train or read all runs, test the claims, measure the costs, write figures/all_methods."""
    args = arguments(__doc__ or "", methods=True)
    names = list(dict.fromkeys(["bp", *(args.methods or METHODS)]))  # costs are relative to bp
    with Display(quiet=False) as display:
        groups = {name: tuned(name, args, display) for name in names}
    runs = trained([config for group in groups.values() for config in group], args)
    by_name = {name: [r for r in runs if r.config.method == name] for name in names}
    rows = table(by_name, {name: [at_the_end(run, args) for run in group] for name, group in by_name.items()})
    claims = tested(by_name)
    cost = costs([group[0] for group in groups.values()], args)
    for row in rows:
        print(shown(row, cost[row["method"]]))
    say(claims)
    settings = {**SHARED, "data": Path(args.data).name, "epochs": EPOCHS, "seeds": SEEDS}
    publish("all_methods", runs, args, {"settings": settings, "table": rows, "cost": cost, "claims": claims})


if __name__ == "__main__":
    main()
