"""How many points each block separates, with a proof, and what an online probe of it loses: certificates and regrets by rule and depth.

Certificates. BasicCNN of width 16 learns 2,000 CIFAR-10 images, four epochs, batches of 64, Adam at 3e-3 with cosine decay, by bp, dgl,
greedy (four epochs a stage), fa and shallow, whose blocks stay untrained; seven seeds. Of each block the 16 channel means of 1,000 test
images are read, which no rule learned from. The ten classes are parted five against five, twice (the same parts for all rules and
blocks of a seed). N* is how many of the images, taken one after the other, are strictly linearly separable: found by bisection, each
answer a certificate of `gradlens.certify_separability`, to 2 %. Of labels that are shuffled over images N* has a median of Cover's
2 (d + 1) = 34, which is checked, too.

Regrets. BasicCNN of width 8 learns scikit-learn's digits, three epochs of batches of 32, with `--online-probe`; seven seeds of bp, dgl, fa
and shallow. Regret is measured after 1, 2, 4, … rounds beside its theorem's bound (docs/analyses/online-probe.md).

What is tested was fixed before the runs; only regrets of one run of bp, of width 16 and a seed not used here, had been seen. Primary:

- "a block's activations are separable, or a certificate shows that they are not": at least 99 % of all certificates decide.
- "an online learner's regret grows no faster than √T": regret / √T of gradient descent after 128 rounds is not above that after 32, mean
  over blocks and rules. Seven seeds see 1.3 of their standard deviation in 80 % of cases.

Beside them:

- "layerwise training increases the linear separability of the layers' activations" (Belilovsky et al. 2019): log2 N* of greedy's block3 is
  above that of its block1. Seven seeds with a standard deviation of 0.3 doublings show 0.4 in 80 % of cases. Beside it the same of dgl,
  bp and fa, each step by itself, and the rise less that of untrained blocks.
- certificates agree with Cover's theorem: log2 (N* of shuffled labels / 34) of untrained blocks is within 0.25 doublings of 0.
- the regret stays below its bound at all T: in each single run the largest share of the bound, over blocks, learners and rounds, is at
  most 1 (of each run, not of their mean, since 2026-12-01, when these values were known).
- a learner loses less to the best fixed probe on a block that learns than on one that stays: regret on block3 below shallow's.

    python -m analyses.certificates --data cifar10          # 10 minutes of one core; interrupted, it goes on
    python -m analyses.certificates --redraw                # the pictures anew, from the files in figures/certificates
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from analyses.figures.certificate_figures import NStarPoint, RegretPoint, n_star_figure, regret_figure
from analyses.training.cost import announce_cost
from analyses.training.stored import stored
from analyses.training.study import arguments, environment, run_context_of
from analyses.verdicts.decision import Test, details
from analyses.verdicts.wording import report
from gradlens.analysis.linear_separability import SEPARABLE, UNDECIDED, certify_separability
from gradlens.data.datasets import load
from gradlens.data.split import Data
from gradlens.models.feature_pooling import pooled
from gradlens.reporting.statistics import interval
from gradlens.reporting.style import save_figure
from gradlens.runtime.csv_tables import read_table
from gradlens.runtime.progress import no_progress
from gradlens.runtime.rng import generator
from gradlens.runtime.text_files import read_json, write_text
from gradlens.training.config import Config, make_config
from gradlens.training.context import RunContext
from gradlens.training.loop import fit
from gradlens.training.run_directory import Run
from gradlens.training.runs.build_state import build_state
from gradlens.training.runs.train_run import train_or_reuse

BLOCKS = ("block1", "block2", "block3")

RULES = ("bp", "dgl", "greedy", "fa", "shallow")
SEEDS = 7
NET: dict[str, Any] = {
    "model": "basic-cnn", "width": 16, "limit": 2_000, "limit_test": 1_000, "batch_size": 64, "lr": 3e-3, "lr_schedule": "cosine",
    "record_every": 0,
}  # fmt: skip
EPOCHS, STAGES = 4, {"greedy": 3}
FEATURES = 16  # of a block: its channels, averaged over space
CAPACITY = 2 * (FEATURES + 1)
PARTS = 2  # of the ten classes, five against five
PRECISION = 1.02  # of N*

REGRET_RULES = ("bp", "dgl", "fa", "shallow")
FIRST_REGRET_SEED = 1
REGRET_NET: dict[str, Any] = {
    "data": "digits", "model": "basic-cnn", "width": 8, "batch_size": 32, "epochs": 3, "lr": 3e-3, "lr_schedule": "cosine",
    "record_every": 0, "online_probe": True,
}  # fmt: skip
LATE, EARLY = 128, 32  # rounds between which regret / √T is compared
MINUTES = {"a net and its certificates": 0.16, "a net with online probe": 0.09}  # of one core


def _rise(rule: str, low: str = "block1", high: str = "block3") -> dict[str, float]:
    """A contrast: a rule's deeper block less a lower one."""
    return {f"{rule} {high}": 1, f"{rule} {low}": -1}


LEARNING = tuple(rule for rule in RULES if rule != "shallow")
UNIT = "doublings of N*"


def _points(name: str, says: str, contrast: dict[str, float]) -> Test:
    """A contrast of how many points blocks separate."""
    return Test(name, says, "log2 N*", contrast, UNIT, at_least=0)


TESTS = (
    Test(
        "certificates-decide", "share of certificates that prove one or the other, all rules", "certificates that decide",
        {rule: 1 / len(RULES) for rule in RULES}, "%", at_least=99, primary_of="certificates",
    ),
    Test(
        "regret-root", f"regret / √T after {EARLY} rounds − after {LATE}, gradient descent, mean over blocks and rules", "slowing",
        {rule: 1 / len(REGRET_RULES) for rule in REGRET_RULES}, "nats", at_least=0, primary_of="regret",
    ),
    *details(
        "separability-rises",
        *(_points(f"n-star-{rule}", f"points separated: {rule}'s block3 − its block1", _rise(rule)) for rule in RULES),
        *(
            _points(
                f"n-star-{rule}-over-untrained", f"rise from block1 to block3: {rule} − untrained blocks",
                {**_rise(rule), **{group: -weight for group, weight in _rise("shallow").items()}},
            )
            for rule in LEARNING
        ),
        *(
            _points(f"n-star-{rule}-{high}", f"points separated: {rule}'s {high} − its {low}", _rise(rule, low, high))
            for rule in ("greedy", "dgl")
            for low, high in pairwise(BLOCKS)
        ),
    ),
    Test(
        "n-star-dealt", f"labels shuffled over images: N* over Cover's {CAPACITY}, untrained blocks",
        "log2 N* of dealt labels over capacity", {f"shallow {block}": 1 / len(BLOCKS) for block in BLOCKS}, UNIT, within=0.25,
        about="certificates",
    ),
    *details(
        "regret",
        Test(
            "regret-bound", "each run's regret, the largest share of its bound over blocks, learners and rounds",
            "largest share of the bound", dict.fromkeys(REGRET_RULES, 1), "of the bound", within=1, every=True, repeats="run",
            seen=len(REGRET_RULES) * SEEDS,
        ),
        *(
            Test(
                f"regret-{rule}-below-untrained", f"regret on block3 after {LATE} rounds: untrained − {rule}", "regret on block3",
                {"shallow": 1, rule: -1}, "nats", at_least=0,
            )
            for rule in REGRET_RULES
            if rule != "shallow"
        ),
    ),
)  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- certificates


def parts(classes: int, seed: int) -> list[Tensor]:
    """Halves of the classes, drawn by seed."""
    return [torch.randperm(classes, generator=generator(seed, "halves of the classes", i))[: classes // 2] for i in range(PARTS)]


def largest_separable(x: Tensor, y: Tensor) -> dict[str, Any]:
    """How many points, taken one after the other, are separable with a proof: of points x [N, d] with labels y [N].

    Returns:
        ``separable``: the most points proven separable; ``not_separable``: the fewest proven not to be, None if all are separable;
        ``undecided``: certificates that decided nothing, which count as not separable; ``asked``: all certificates.

    """
    low, high, asked, undecided = x.shape[1] + 1, None, 0, 0
    while high is None or high - low > max(1, (PRECISION - 1) * low):
        n = min(2 * low, len(x)) if high is None else max(low + 1, round(math.sqrt(low * high)))
        one_class = bool((y[:n] == y[0]).all())
        verdict = SEPARABLE if one_class else certify_separability(x[:n], y[:n], seconds=5.0, tolerance=0.999).verdict
        asked, undecided = asked + 1, undecided + (verdict == UNDECIDED)
        if verdict == SEPARABLE:
            low = n
            if n == len(x):
                break
        else:
            high = n
    return {"separable": low, "not_separable": high, "undecided": undecided, "asked": asked}


def certified(config: Config, data: Data) -> dict[str, Any]:
    """Train a net and certify its blocks: block -> what :func:`largest_separable` found for each part of the classes, and dealt labels."""
    began = time.process_time()
    state = build_state(config, data, torch.device("cpu"))
    fit(state)
    model, method = state.network
    model.eval(), method.eval()
    y, found = data.test.labels, {}
    dealt = torch.randperm(len(y), generator=generator(config.seed, "dealt labels"))
    halves = [torch.isin(y, half).long() for half in parts(len(data.classes), config.seed)]
    with torch.no_grad():
        outputs = list(method.features(list(model), state.batches.to_input(data.test.images)))
    for name, h in zip(BLOCKS, outputs, strict=False):
        x = pooled(h, FEATURES)
        found[name] = {"true": [largest_separable(x, half) for half in halves], "dealt": [largest_separable(x, halves[0][dealt])]}
    return {"blocks": found, "seconds": time.process_time() - began}


def config_of(data: str, rule: str, seed: int) -> Config:
    """The settings of a net whose blocks are certified."""
    return make_config(method=rule, data=data, epochs=EPOCHS * STAGES.get(rule, 1), seed=seed, **NET)


def stored_certificates(data: Callable[[], Data], rule: str, seed: int, out: Path) -> dict[str, Any]:
    """What :func:`certified` found for a rule and seed, computed where it is not stored.

    A file without key has config, features and parts in its name, and is read.
    """
    config = config_of("cifar10", rule, seed)
    file = out / "certificates" / f"{config.run_name()}-d{FEATURES}-p{PARTS}.json"

    def compute() -> dict[str, Any]:
        found = certified(config, data())
        print(f"certified {rule} seed {seed}", flush=True)
        return found

    key = {"config": config.as_dict(), "features": FEATURES, "parts": PARTS, "precision": PRECISION, "data": data().fingerprint()}
    return stored(file, key, compute)


def doublings(results: Sequence[dict[str, Any]]) -> float:
    """Mean of log2 N*, each between the most points proven separable and the fewest that were not."""
    return fmean(0.5 * (math.log2(r["separable"]) + math.log2(r["not_separable"] or r["separable"])) for r in results)


# --------------------------------------------------------------------------------------------------------------- regrets


def online_runs(seed: int, context: RunContext) -> dict[str, Run]:
    """rule -> a seed's run with online probe, trained where there is none."""
    configs = [make_config(method=rule, seed=FIRST_REGRET_SEED + seed, **REGRET_NET) for rule in REGRET_RULES]
    return {run.config.method: run for run in train_or_reuse(configs, context, lambda _: no_progress)}


def at(rows: Sequence[dict[str, Any]], block: str, rounds: int, learner: str = "ogd") -> float:
    """A block's regret after some rounds, an upper end."""
    (row,) = [r for r in rows if (r["block"], r["learner"], r["rounds"]) == (block, learner, rounds)]
    return float(row["regret_high"])


def slowing(rows: Sequence[dict[str, Any]]) -> float:
    """Regret / √T after EARLY rounds less that after LATE ones, in nats; mean over blocks."""
    return fmean(at(rows, block, EARLY) / math.sqrt(EARLY) - at(rows, block, LATE) / math.sqrt(LATE) for block in BLOCKS)


# ---------------------------------------------------------------------------------------------------------------- script


def values(nets: dict[str, list[dict[str, Any]]], online: dict[str, list[list[dict[str, Any]]]]) -> dict[str, dict[str, list[float]]]:
    """metric -> group -> one number a seed."""
    points: dict[str, list[float]] = {}
    dealt: dict[str, list[float]] = {}
    for rule, seeds in nets.items():
        for block in BLOCKS:
            points[f"{rule} {block}"] = [doublings(seed["blocks"][block]["true"]) for seed in seeds]
            dealt[f"{rule} {block}"] = [doublings(seed["blocks"][block]["dealt"]) - math.log2(CAPACITY) for seed in seeds]
    share = {rule: [decided_share(seed) for seed in seeds] for rule, seeds in nets.items()}
    return {
        "certificates that decide": share,
        "log2 N*": points,
        "log2 N* of dealt labels over capacity": dealt,
        "largest share of the bound": {
            rule: [max(r["regret_high"] / r["bound"] for r in rows) for rows in seeds] for rule, seeds in online.items()
        },
        "slowing": {rule: [slowing(rows) for rows in seeds] for rule, seeds in online.items()},
        "regret on block3": {rule: [at(rows, "block3", LATE) for rows in seeds] for rule, seeds in online.items()},
    }


def n_star_points(nets: dict[str, list[dict[str, Any]]]) -> list[NStarPoint]:
    """N* by rule, block and kind of labels."""
    points = []
    for rule, seeds in nets.items():
        for block in BLOCKS:
            for labels in ("true", "dealt"):
                mean, low, high, n = interval([doublings(seed["blocks"][block][labels]) for seed in seeds])
                points.append(NStarPoint(rule, block, labels, 2**mean, 2**low, 2**high, n))
    return points


def regret_points(online: dict[str, list[list[dict[str, Any]]]]) -> list[RegretPoint]:
    """Regret of gradient descent by rule, block and round."""
    points = []
    for rule, seeds in online.items():
        for block in BLOCKS:
            bounds = {r["rounds"]: r["bound"] for r in seeds[0] if (r["block"], r["learner"]) == (block, "ogd")}
            for rounds, bound in bounds.items():
                mean, low, high, n = interval([at(rows, block, rounds) for rows in seeds])
                points.append(RegretPoint(rule, block, rounds, mean, low, high, bound, n))
    return points


def searches(result: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All searches for N* in a net."""
    for block in result["blocks"].values():
        yield from (*block["true"], *block["dealt"])


def decided_share(result: dict[str, Any]) -> float:
    """How many of a net's certificates decide, in %."""
    found = list(searches(result))
    undecided, asked = (sum(int(s[key]) for s in found) for key in ("undecided", "asked"))
    return 100 * (1 - undecided / asked)


def draw(points: Sequence[NStarPoint], over_rounds: Sequence[RegretPoint], folder: Path) -> None:
    """Write both figures with their tables."""
    beside = f"BasicCNN of width {NET['width']}, {NET['limit']:,} CIFAR-10 images, {FEATURES} channel means a block, proven"
    save_figure(n_star_figure(points, CAPACITY, beside), points, folder, "n_star")
    beside = f"BasicCNN of width {REGRET_NET['width']} on digits, projected gradient descent, batches of {REGRET_NET['batch_size']}"
    save_figure(regret_figure(over_rounds, beside), over_rounds, folder, "regret")


def main() -> None:
    """Train, certify, measure regrets, test, draw, write figures/certificates."""
    args = arguments(__doc__ or "", numbers={"seeds": SEEDS}, redraw=True)
    if args.redraw:
        folder = args.figures / "certificates"
        draw(read_table(folder / "n_star.csv", NStarPoint), read_table(folder / "regret.csv", RegretPoint), folder)
        return
    a_net, a_probe = MINUTES.values()
    minutes = args.seeds * (a_net * (len(RULES) + 2) + a_probe * len(REGRET_RULES))
    announce_cost(minutes)
    context = replace(run_context_of(args), out=args.out / "certificates" / "online")
    online: dict[str, list[list[dict[str, Any]]]] = {rule: [] for rule in REGRET_RULES}
    nets: dict[str, list[dict[str, Any]]] = {rule: [] for rule in RULES}
    seconds = 0.0  # of training with online probe
    for seed in range(args.seeds):  # one is finished before the next begins
        for rule, run in online_runs(seed, context).items():
            online[rule].append(read_json(run.path / "online.json")["rows"])
            seconds += sum(epoch.seconds for epoch in run.timing)
        data = cache(partial(load, args.data, limit=NET["limit"], limit_test=NET["limit_test"], seed=seed))
        for rule in RULES:
            nets[rule].append(stored_certificates(data, rule, seed, args.out))
    found = [s for seeds in nets.values() for seed in seeds for s in searches(seed)]
    results = {
        "network": {**NET, "epochs": EPOCHS}, "features": FEATURES, "capacity": CAPACITY, "parts_of_the_classes": PARTS,
        "online": REGRET_NET, "seeds": args.seeds, "first_online_seed": FIRST_REGRET_SEED,
        "certificates": sum(s["asked"] for s in found), "undecided_certificates": sum(s["undecided"] for s in found),
        "values": values(nets, online),
        "cpu_minutes": (seconds + sum(net["seconds"] for seeds in nets.values() for net in seeds)) / 60,
        "minutes": {rule: fmean(seed["seconds"] for seed in seeds) / 60 for rule, seeds in nets.items()},
        **environment(),
    }  # fmt: skip
    report(TESTS, results)
    folder = args.figures / "certificates"
    folder.mkdir(parents=True, exist_ok=True)
    draw(n_star_points(nets), regret_points(online), folder)
    write_text(folder / "results.json", json.dumps(results, indent=2) + "\n")
    print(f"wrote {folder}")


if __name__ == "__main__":
    main()
