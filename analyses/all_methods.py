"""Every supervised rule on the same network, data and epochs, each with its own learning rate: how good, how close.

BasicCNN of width 16, 6,000 CIFAR-10 images, batches of 128, five epochs, no augmentation, a rate that falls to 0 (cosine); ten seeds,
three of the rules that no primary test speaks of. Learning rates: of a grid of five from 1e-4 to 1e-2 (kp, which has SGD with decoupled
decay: 3e-3 to 0.3), the one with the best accuracy on a held-out fifth of the training images after two epochs of the rest (first seed);
where that is an end of the grid, the grid goes on beyond it, three times at most. greedy trains its three stages for four, four and
seven epochs (its rate does not begin anew with each, so the last, which begins at less than half of it, gets more): every parameter sees
about as many images as elsewhere, the network three times as many. Test accuracies are of all 10,000 images. dni and cdni have gradlens's
defaults (target=sum, zero_bias=true), not the published ones, which analyses.learning_curves has.

One primary test a sentence, paired by seed (TESTS); the smallest visible effect of each is printed beside its verdict:

- "Training loss: back-prop, then chunked, overlapping, greedy": all three steps of this order (dgl stands for greedy). This network puts
  the middle one in doubt: chunked has the chunks block1-block2 and block3-top, so its second block gets no gradient of the global loss,
  as overlap's does.
- "Overlapping helps": final accuracy of overlap above dgl's. "Local optimisation works": greedy above untrained blocks (shallow).
- Synthetic gradients "work" (dni above shallow), "quite worse than backprop" (5 points or more), are nearer the truth if they see
  the label (cosine of cdni's blocks above dni's). What complete unlocking comes to is tested by analyses.dni_unlocked.
- "Far better with the weights' signs": the mean of usf, brsf and frsf at least 10 points above fa.
- dfa learns (above shallow) and is "slightly worse than backprop": below it, and by at most 5 points (Nøkland's convolutional network has
  4.4); both must hold. If differences vary by 1.4 points, as three seeds did, ten seeds see 2.4 points from a bound: a gap of up to 2.6
  is found slight, one from 7.4 on is not. Three points from the bound take 8 seeds, one point 39.

The order of losses and "slightly worse" have had their present form, of several parts, since 2026-12-01, before the ten-seed runs were
read; of three seeds at a constant rate they were known. Until then the middle step, and the size alone, stood for their sentences.

Each rule has its own learning rate, so a training loss speaks of rule and rate together. Cosines, noise-corrected cosines and nulls are
measured at the final weights of three seeds on the eight batches that would follow; where the batches' halves agree too little to tell,
there is no noise-corrected one. greedy's are left out: a block's truth is its own stage's loss, and frozen blocks use nothing.
dgl-async's training loss is on stored batches. What a step of each rule costs is measured by analyses.method_costs, on a quiet machine.

    python -m analyses.all_methods --data cifar10          # about 85 minutes of one core; interrupted, it goes on
    python -m analyses.all_methods --redraw                # the pictures anew, from the files in figures/all_methods
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from analyses.figures.rule_figures import draw
from analyses.training.cost import announce_cost
from analyses.training.stored import data_of, stored
from analyses.training.study import arguments, data_name, listed, minutes_of, publish, run_context_of, trained
from analyses.verdicts.decision import Test, all_of, by_seed, details
from analyses.verdicts.wording import report
from gradlens.analysis.activations import checkpoint_digest
from gradlens.cli.progress import Display
from gradlens.gradients.backward import run_step
from gradlens.gradients.diagnostics import SPARSE, sparse_rows
from gradlens.gradients.rows import step_rows
from gradlens.gradients.true_gradient import preserve_buffers_and_rng, true_gradients
from gradlens.methods import METHODS
from gradlens.reporting.aggregate import LayerPoint, layer_points, scores, without_noise
from gradlens.reporting.statistics import interval
from gradlens.runtime.csv_tables import read_table
from gradlens.runtime.rng import seeded
from gradlens.runtime.text_files import read_json
from gradlens.training.comparison import ChosenRate
from gradlens.training.config import Config, make_config
from gradlens.training.run_directory import Run
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
STAGED = {"greedy": {TRIAL_EPOCHS: (7, 2), EPOCHS: (15, 4)}}  # epochs of other rules -> its own, and those of all stages but the last
LAYERS = ("block1.conv", "block2.conv", "block3.conv", "top.hidden", "top.out")


def settings_of(name: str, epochs: int, data: str) -> dict[str, Any]:
    """A rule's settings where other rules have so many epochs."""
    settings = {"method": name, "data": data, "epochs": epochs, **SHARED}
    if name in STAGED:
        in_all, of_stage = STAGED[name][epochs]
        settings.update(epochs=in_all, options={"stage_epochs": of_stage})
    return settings


def chosen_lr(name: str, args: Any, display: Display) -> ChosenRate:
    """The learning rate that held-out images choose, from a grid that is continued until the best is no end of it."""
    trial = make_config(**settings_of(name, TRIAL_EPOCHS, args.data))
    place = replace(run_context_of(args), out=args.out / "trials")
    grid: Sequence[float] = GRIDS.get(name, ADAM)
    for _ in range(WIDENED + 1):
        found = search_lr(trial, grid, 0.2, place, lambda c: display.watch(f"{name} lr {c.optimizer.lr:g}", c.epochs))
        rate = found.rate(grid)
        if not rate.at_end:
            break
        beyond = [lr for lr in rates_beyond(rate) if (lr < rate.lr) == (rate.lr == min(grid))]
        grid = tuple(sorted({*grid, *beyond}))
    return rate


def configs_of(name: str, rate: ChosenRate, args: Any) -> list[Config]:
    """The configs of a rule's seeds."""
    seeds = min(args.seeds, FEW_SEEDS) if name in FEW else args.seeds
    return [make_config(**settings_of(name, EPOCHS, args.data), lr=rate.lr, seed=seed) for seed in range(seeds)]


Means = dict[tuple[str, str], float]  # (layer, quantity) -> mean over batches


def at_the_end(run: Run, args: Any) -> Means:
    """What :func:`measured` finds, which is kept beside the run; a file without key is read where it is younger than the weights."""
    file = run.path / "at_the_end.json"
    key = {"weights": checkpoint_digest(run), "batches": BATCHES, "quantities": ["cosine", *SPARSE], **data_of(run)}
    found = stored(
        file,
        key,
        lambda: {"rows": [[*name, value] for name, value in measured(run, args).items()]},
        without_key=lambda _: file.stat().st_mtime >= (run.path / "checkpoint.pt").stat().st_mtime,
    )
    return {(layer, quantity): math.nan if value is None else value for layer, quantity, value in found["rows"]}


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
        row["best"] = (score.best_score, score.best_low, score.best_high, score.best_epoch)
        row["final"] = (score.final_score, score.final_low, score.final_high)
        layers = () if name in STAGED else LAYERS
        for quantity in ("cosine", "null_cosine"):
            row[quantity] = {layer: interval(m.get((layer, quantity), math.nan) for m in means[name])[:3] for layer in layers}
        row["corrected_cosine"] = {layer: corrected(means[name], layer) for layer in layers}
        rows.append(row)
    return rows


# ------------------------------------------------------------------------------------------------------------- tests

LOSS, FINAL, BEST, COSINE = "training loss", "final accuracy", "best accuracy", "cosine of the blocks"
METRICS: dict[str, Callable[[Mapping[str, Any]], float]] = {  # of what a results file says of a run
    LOSS: lambda run: float(run["train"]["final_loss"]),  # mean over the last epoch
    FINAL: lambda run: 100 * float(run["test"]["final_accuracy"]),
    BEST: lambda run: 100 * float(run["test"]["best_accuracy"]),
}


def blocks_cosine(run: Run) -> float:
    """Mean cosine of the blocks' convolutions over what was recorded in the second half of training; NaN where there is none."""
    half = run.summary["updates"] / 2
    found = [
        r.value
        for r in run.gradients
        if r.quantity == "cosine" and r.kind == "weight" and r.layer in LAYERS and r.layer.endswith(".conv") and r.step >= half
    ]
    return fmean(found) if found else math.nan


def above(name: str, upper: str, lower: str, metric: str = FINAL, at_least: float = 0.0, primary_of: str = "") -> Test:
    """The test that one rule is above another."""
    says = f"{metric}: {upper} − {lower.replace('shallow', 'shallow (untrained blocks)')}"
    return Test(name, says, metric, {upper: 1, lower: -1}, UNITS[metric], at_least=at_least, primary_of=primary_of)


UNITS = {LOSS: "nats", FINAL: "points", BEST: "points", COSINE: "of cosine"}
SIGNED = ("usf", "brsf", "frsf")
FAR, QUITE, SLIGHTLY = 10.0, 5.0, 5.0  # points: what "far better", "quite worse" and "slightly worse" are taken to mean
TESTS: tuple[Test, ...] = (
    all_of(
        "loss-in-order",
        f"{LOSS}: back-prop, chunked, overlap, dgl, from the least on",
        above("loss-bp-chunked", "chunked", "bp", LOSS),
        above("loss-chunked-overlap", "overlap", "chunked", LOSS),
        above("loss-overlap-dgl", "dgl", "overlap", LOSS),
        primary_of="loss-order",
        seen=3,
    ),
    above("overlap-above-dgl", "overlap", "dgl", primary_of="overlap-helps"),
    *details("overlap-helps", above("overlap-nearer-than-dgl", "overlap", "dgl", COSINE)),
    above("greedy-above-shallow", "greedy", "shallow", primary_of="local-works"),
    *details("local-works", above("dgl-above-shallow", "dgl", "shallow")),
    *details("early-gradients", above("dgl-below-bp-cosine", "bp", "dgl", COSINE, at_least=0.1)),
    *details("dgl-parallel", above("async-near-dgl", "dgl-async", "dgl", at_least=-1.0)),
    above("dni-above-shallow", "dni", "shallow", primary_of="dni-works"),
    above("bp-above-dni", "bp", "dni", at_least=QUITE, primary_of="dni-worse"),
    above("cdni-nearer-than-dni", "cdni", "dni", COSINE, primary_of="cdni-closer"),
    *details("forward-unlocked-learns", above("unlocked-above-shallow", "dni-unlocked", "shallow")),
    Test(
        "signs-above-fa",
        f"{FINAL}: mean of usf, brsf and frsf − fa",
        FINAL,
        {**dict.fromkeys(SIGNED, 1 / 3), "fa": -1},
        "points",
        at_least=FAR,
        primary_of="sign-symmetry",
    ),
    *details("sign-symmetry", *(above(f"{rule}-above-fa", rule, "fa", at_least=FAR) for rule in SIGNED)),
    *details("sign-symmetry", above("fa-above-shallow", "fa", "shallow")),
    above("dfa-above-shallow", "dfa", "shallow", primary_of="dfa-works"),
    all_of(
        "dfa-slightly-below-bp",
        f"{FINAL}: dfa is below bp, but slightly",
        above("bp-above-dfa", "bp", "dfa"),
        above("dfa-near-bp", "dfa", "bp", at_least=-SLIGHTLY),
        primary_of="dfa-slightly-worse",
        seen=3,
    ),
)


def values_of(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """quantity -> rule -> one value a seed, of what a results file says of its runs (:func:`analyses.training.study.listed`)."""
    in_order = sorted(runs, key=lambda run: run["seed"])
    return {metric: by_seed((run["label"], of(run)) for run in in_order) for metric, of in METRICS.items()}


# -------------------------------------------------------------------------------------------------------------- main


def seed_after_seed(groups: Mapping[str, Sequence[Config]]) -> list[Config]:
    """All configs, all rules of a seed before the next seed: stopped early, it leaves whole comparisons."""
    return sorted((config for group in groups.values() for config in group), key=lambda config: config.seed)


def main() -> None:
    """Choose learning rates, train or read all runs, test the sentences, write figures/all_methods."""
    args = arguments(__doc__ or "", methods=True, numbers={"seeds": SEEDS}, redraw=True)
    if args.redraw:
        folder = args.figures / "all_methods"
        draw(read_json(folder / "results.json"), read_table(folder / "feedback_transpose.csv", LayerPoint), data_name(args), folder)
        return
    names = args.methods or [name for name, rule in METHODS.items() if rule.classifies and not rule.has_teacher]
    announce_cost(85, "seed after seed, so that what is there can be compared")
    with Display(quiet=False) as display:
        rates = {name: chosen_lr(name, args, display) for name in names}
    for name, rate in rates.items():
        print(f"{name}: learning rate {rate.lr:g} of {', '.join(f'{lr:g}' for lr in rate.grid)}", flush=True)
    runs = trained(seed_after_seed({name: configs_of(name, rate, args) for name, rate in rates.items()}), args)
    by_name = {name: [r for r in runs if r.config.method == name] for name in names}
    rows = table(by_name, {name: [at_the_end(run, args) for run in group[:LOOKED_AT]] for name, group in by_name.items()})
    results: dict[str, Any] = {
        "settings": {**SHARED, "data": Path(args.data).name, "epochs": EPOCHS, "seeds": args.seeds},
        "rates": {name: rate._asdict() for name, rate in rates.items()},
        "table": rows,
        "values": {**values_of(listed(runs)), COSINE: {name: [blocks_cosine(run) for run in group] for name, group in by_name.items()}},
        "minutes": minutes_of(by_name),
    }
    report([test for test in TESTS if set(test.contrast) <= set(names)], results)
    publish("all_methods", runs, args, results, figures=False)
    draw(results, layer_points(runs, "angle", "feedback_transpose"), data_name(args), args.figures / "all_methods")


if __name__ == "__main__":
    main()
