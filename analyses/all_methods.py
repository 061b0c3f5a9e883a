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

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from analyses.study import arguments, judged, publish, run_context_of, trained
from gradlens.cli.progress import Display
from gradlens.gradients.backward import run_step
from gradlens.gradients.diagnostics import SPARSE, sparse_rows
from gradlens.gradients.rows import step_rows
from gradlens.gradients.true_gradient import preserve_buffers_and_rng, true_gradients
from gradlens.methods import METHODS
from gradlens.reporting.aggregate import scores, without_noise
from gradlens.reporting.statistics import interval
from gradlens.runtime.rng import seeded
from gradlens.runtime.text_files import read_json, write_text
from gradlens.training.comparison import ChosenRate
from gradlens.training.config import Config, make_config
from gradlens.training.run_directory import Run, plain
from gradlens.training.runs.lr_search import rates_beyond, search_lr
from gradlens.training.runs.train_run import prepare

SEEDS, EPOCHS, TRIAL_EPOCHS, BATCHES = 10, 5, 2, 8
SHARED: dict[str, Any] = {
    "limit": 6_000, "model": "basic-cnn", "width": 16, "batch_size": 128, "lr_schedule": "cosine", "record_every": 24, "diagnose_every": 2,
}  # fmt: skip
ADAM = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
GRIDS = {"kp": (0.003, 0.01, 0.03, 0.1, 0.3)}
WIDENED = 3  # times that a grid may be continued beyond the end at which its best rate lies
FEW, FEW_SEEDS = ("predsim", "infopro", "kp", "dni-unlocked"), 3  # rules that no sentence speaks of
LOOKED_AT = 3  # seeds whose final weights are measured on more batches
STAGES = {"greedy": 3}  # a rule that trains stage by stage has so many
LAYERS = ("block1.conv", "block2.conv", "block3.conv", "top.hidden", "top.out")


def chosen_lr(name: str, args: Any, display: Display) -> ChosenRate:
    """The learning rate that held-out images choose, from a grid that is continued until the best is no end of it."""
    settings = {"method": name, "data": args.data, "epochs": TRIAL_EPOCHS * STAGES.get(name, 1), **SHARED}
    place, grid = replace(run_context_of(args), out=args.out / "trials"), GRIDS.get(name, ADAM)
    for _ in range(WIDENED + 1):
        found = search_lr(make_config(**settings), grid, 0.2, place, lambda c: display.watch(f"{name} lr {c.optimizer.lr:g}", c.epochs))
        rate = found.rate(grid)
        if not rate.at_end:
            break
        beyond = [lr for lr in rates_beyond(rate) if (lr < rate.lr) == (rate.lr == min(grid))]
        grid = tuple(sorted({*grid, *beyond}))
    return rate


def configs_of(name: str, rate: ChosenRate, args: Any) -> list[Config]:
    """The configs of a rule's seeds."""
    settings = {"method": name, "data": args.data, "epochs": EPOCHS * STAGES.get(name, 1), **SHARED}
    return [make_config(**settings, lr=rate.lr, seed=seed) for seed in range(min(args.seeds, FEW_SEEDS) if name in FEW else args.seeds)]


Means = dict[tuple[str, str], float]  # (layer, quantity) -> mean over batches


def at_the_end(run: Run, args: Any) -> Means:
    """What :func:`measured` finds, which is kept beside the run."""
    file = run.path / "at_the_end.json"
    if not file.exists():
        rows = [[layer, quantity, value] for (layer, quantity), value in measured(run, args).items()]
        write_text(file, json.dumps(plain(rows)) + "\n")
    return {(layer, quantity): math.nan if value is None else value for layer, quantity, value in read_json(file)}


def measured(run: Run, args: Any) -> Means:
    """The quantities of a run's final weights, averaged over the batches that would follow its last one."""
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


def by_seed(groups: Mapping[str, Sequence[Config]]) -> list[Config]:
    """All configs, all rules of a seed before the next seed: stopped early, it leaves whole comparisons."""
    return sorted((config for group in groups.values() for config in group), key=lambda config: config.seed)


def main() -> None:
    """Choose learning rates, train or read all runs, test the claims, write figures/all_methods."""
    args = arguments(__doc__ or "", methods=True, numbers={"seeds": SEEDS})
    names = args.methods or [name for name, rule in METHODS.items() if rule.classifies and not rule.has_teacher]
    with Display(quiet=False) as display:
        rates = {name: chosen_lr(name, args, display) for name in names}
    for name, rate in rates.items():
        print(f"{name}: learning rate {rate.lr:g} of {', '.join(f'{lr:g}' for lr in rate.grid)}", flush=True)
    runs = trained(by_seed({name: configs_of(name, rate, args) for name, rate in rates.items()}), args)
    by_name = {name: [r for r in runs if r.config.method == name] for name in names}
    rows = table(by_name, {name: [at_the_end(run, args) for run in group[:LOOKED_AT]] for name, group in by_name.items()})
    settings = {**SHARED, "data": Path(args.data).name, "epochs": EPOCHS, "seeds": SEEDS}
    publish("all_methods", runs, args, {"settings": settings, "table": rows})


if __name__ == "__main__":
    main()
