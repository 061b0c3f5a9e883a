"""Rules without labels, end to end and local: what a linear probe reads from them, how their gradients differ, what fine-tuning gains.

Claims (the reference study): self-supervised local learning reaches the end-to-end rule when units overlap (LoCo, Xiong et al. 2020) and
falls short when modules are isolated (Greedy InfoMax, Löwe et al. 2019); what is learned without labels saves labels (Chen et al. 2020).

`table`: every rule on BasicCNN of width 16, 3,000 images, eight epochs in batches of 128, Adam 1e-3, three seeds, recorded every 12th step.
A linear probe is fitted to the 3,000 labelled images on each block and tested on 2,000 test images, beside raw pixels, the untrained
network and backprop and dgl with labels. "True" gradient: the end-to-end gradient of the rule's own objective at the top of its encoder.

One learning rate for all, chosen for none. BatchNorm is in the network, also where patches predict each other (it can leak between them:
Greedy InfoMax's own encoder has none). The claims on backprop with labels, on the nearness of gradients and on the bound were added
after a first look.

`finetune`: backprop from the networks of `table` on 1, 10 and 100 % of the labels (90, 150 and 144 updates), beside the
untrained network with as many updates and with as many more as pretraining had (192, of batches of 128
images: more updates, not equal computing), tested on 1,000 images, three seeds.

    python -m analyses.self_supervised table --data cifar10       # 45 minutes on one core; interrupted, it goes on
    python -m analyses.self_supervised finetune --data cifar10    # after it, 15 minutes
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from analyses.drawing import Cell, dots
from analyses.study import arguments, data_name, judged, probe_accuracy, probed, publish, say, test_accuracy, trained
from gradlens.analysis.of_runs.options import FULL_PROBE
from gradlens.reporting.aggregate import final_values
from gradlens.reporting.statistics import interval
from gradlens.reporting.style import save_figure
from gradlens.training.config import Config, make_config
from gradlens.training.run_directory import Run
from gradlens.training.runs.train_run import find_run

SEEDS = 3
SHARED: dict[str, Any] = {
    "model": "basic-cnn", "width": 16, "limit": 3_000, "limit_test": 2_000, "epochs": 8, "batch_size": 128, "lr": 1e-3,
    "record_every": 12, "diagnose_every": 0,
}  # fmt: skip
RULES: dict[str, tuple[str, dict[str, Any]]] = {  # what the table calls it -> method and options
    "simclr": ("simclr", {"side": 2}),
    "loco": ("loco", {"side": 2}),
    "simclr-local": ("simclr-local", {"side": 2}),
    "cpc": ("cpc", {"layers": 2, "grey": False}),
    "cpc-local": ("cpc-local", {"layers": 2, "grey": False}),
    "infomax, one module": ("infomax", {"modules": 1, "grey": False}),
    "infomax": ("infomax", {"grey": False}),
    "context-encoder": ("context-encoder", {"discriminator_width": 16}),
    "context-encoder-local": ("context-encoder-local", {"discriminator_width": 16}),
    "autoencoder": ("context-encoder", {"corrupt": "none", "lambda_adv": 0.0}),
    "bp": ("bp", {}),
    "dgl": ("dgl", {}),
}
BLOCKS = ("block1", "block2", "block3")
PROBE = replace(FULL_PROBE, features=512, blocks=BLOCKS, controls=False, separability=0)
CONTROLLED = replace(PROBE, controls=True)  # raw pixels and the untrained network, read as the rule's own features
ON_PATCHES = ("cpc", "cpc-local", "infomax, one module", "infomax")  # whose features are maps of patches, as are their untrained network's
CONTROLS = {"bp": "untrained", "cpc": "untrained, on patches"}  # whose untrained network stands for its family's
STARTS = ("simclr", "loco", "cpc", "context-encoder")
FRACTIONS: dict[float, dict[str, Any]] = {  # share of the labels -> batches and epochs, 90 to 150 updates
    0.01: {"batch_size": 10, "epochs": 30},
    0.1: {"batch_size": 32, "epochs": 15},
    1.0: {"batch_size": 128, "epochs": 6},
}
PRETRAINING = 192  # updates of a run of the table

Found = dict[str, list[float]]  # row -> accuracy in %, one a seed


def configs(data: str) -> list[tuple[str, Config]]:
    """(row, config) of every run of the table."""
    return [
        (row, make_config(method=method, data=data, options=options, seed=seed, **SHARED))
        for row, (method, options) in RULES.items()
        for seed in range(SEEDS)
    ]


def paired(found: Mapping[str, Sequence[float]], more: str, less: str) -> list[float]:
    """The gain of one row over another, seed by seed, in points."""
    return [a - b for a, b in zip(found[more], found[less], strict=True)]


def judge(found: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """The orderings, on probes of the last block."""
    claims = [judged("LoCo is as good as end-to-end SimCLR (within 2 points)", paired(found, "loco", "simclr"), "points", within=2)]
    for more, less in (
        ("loco", "simclr-local"), ("simclr", "simclr-local"), ("cpc", "cpc-local"), ("infomax, one module", "infomax"),
        ("context-encoder", "context-encoder-local"),
    ):  # fmt: skip
        claims.append(judged(f"{more} is read better than {less}", paired(found, more, less), "points", at_least=0))
    claims.append(judged("cpc stays 5 points or more behind backprop with labels", paired(found, "bp", "cpc"), "points", at_least=5))
    for row in ("loco", "infomax"):
        said = f"local and without labels: {row} is as good as backprop with labels, or a point behind"
        claims.append(judged(said, paired(found, row, "bp"), "points", at_least=-1))
    for row in RULES:
        control = CONTROLS["cpc"] if row in ON_PATCHES else CONTROLS["bp"]
        claims.append(
            judged(f"{row} is read better than the untrained network ({control})", paired(found, row, control), "points", at_least=0)
        )
    return claims


def tightened(named: Sequence[tuple[str, Run]]) -> list[dict[str, Any]]:
    """Whether the bound on mutual information rises in training, at the top of each predictive rule's encoder."""
    claims = []
    for row in ("cpc", "cpc-local", "infomax"):
        rises = []
        for run in (run for name, run in named if name == row):
            bound = [r.value for r in run.gradients if (r.layer, r.quantity) == (BLOCKS[-1], "information_bound")]
            few = max(1, len(bound) // 5)
            rises.append(fmean(bound[-few:]) - fmean(bound[:few]))
        claims.append(judged(f"{row}: the bound on mutual information rises in training", rises, "nats", at_least=0))
    return claims


def nearer(named: Sequence[tuple[str, Run]]) -> list[dict[str, Any]]:
    """Whether overlapping units bring the gradients of the lower blocks nearer to the end-to-end ones than isolated modules do."""
    final = {
        (row, run.config.seed, value.layer): value.mean
        for row, run in named
        if row in ("loco", "simclr-local")
        for value in final_values([run], "cosine")
    }
    claims = []
    for block in BLOCKS[:-1]:
        gains = [final["loco", s, f"{block}.conv"] - final["simclr-local", s, f"{block}.conv"] for s in range(SEEDS)]
        said = f"{block}: loco's gradient is nearer to the end-to-end one than simclr-local's"
        claims.append(judged(said, gains, "of a cosine", at_least=0))
    return claims


def cosines(named: Sequence[tuple[str, Run]]) -> list[Cell]:
    """Each row's final cosine of the blocks' weight gradients with the true one."""
    found = []
    for row in dict.fromkeys(name for name, _ in named):
        group = [run for name, run in named if name == row]
        for value in final_values(group, "cosine"):
            if value.layer.endswith(".conv"):
                found.append(Cell(row, value.layer.split(".")[0], value.mean, value.low, value.high, value.seeds))
    return found


def table(args: argparse.Namespace) -> None:
    """Train, probe, judge, write figures/self_supervised."""
    named = configs(args.data)
    runs = trained([config for _, config in named], args)
    results = [r for (row, _), run in zip(named, runs, strict=True) for r in probed([run], args, CONTROLLED if row in CONTROLS else PROBE)]
    cells: list[Cell] = []
    last: Found = {}
    for block in BLOCKS:
        found: Found = {}
        for (row, _), result in zip(named, results, strict=True):
            found.setdefault(row, []).append(probe_accuracy(result, block))
        for owner, control in CONTROLS.items():
            mine = [result for (row, _), result in zip(named, results, strict=True) if row == owner]
            found[control] = [probe_accuracy(result, block, "untrained") for result in mine]
        if block == BLOCKS[-1]:
            mine = [result for (row, _), result in zip(named, results, strict=True) if row == "bp"]
            found["raw pixels"] = [probe_accuracy(result, "pixels", "pixels") for result in mine]
            last = found
        cells += [Cell(row, block, *interval(values)) for row, values in found.items()]
    for cell in cells:
        print(f"{cell.row:24} {cell.column:8} {cell.mean:5.1f} %  [{cell.low:.1f}, {cell.high:.1f}]")
    rows = [(row, run) for (row, _), run in zip(named, runs, strict=True)]
    claims = [*judge(last), *nearer(rows), *tightened(rows)]
    say(claims)
    near = cosines(rows)
    title = f"{data_name(args)} · BasicCNN, width 16"
    folder = args.figures / "self_supervised"
    save_figure(dots(cells, f"Linear probe by block · {title}", "test accuracy in %"), cells, folder, "probe_by_block")
    save_figure(dots(near, f"Local and end-to-end gradients · {title}", "final cosine with the true gradient"), near, folder, "cosines")
    shown = {"claims": claims, "accuracy": [c._asdict() for c in cells], "cosine": [c._asdict() for c in near]}
    publish("self_supervised", runs, args, shown, figures=False)


def finetuned(data: str, out: Path) -> list[tuple[str, float, Config]]:
    """(start, share of the labels, config) of every fine-tuning run."""
    pretrained = {(row, config.seed): config for row, config in configs(data)}
    changed = {**SHARED, "limit_test": 1_000, "record_every": 0}
    found = []
    for share, budget in FRACTIONS.items():
        for seed in range(SEEDS):
            settings = {**changed, **budget, "data": data, "seed": seed, "labels": share}
            for start in STARTS:
                run = find_run(pretrained[start, seed], out)
                if run is None or not run.finished:
                    raise SystemExit(f"{start}, seed {seed}, has not been trained yet: run the part `table` first")
                found.append((start, share, make_config(method="bp", init_from=str(run.path), **settings)))
            found.append(("untrained", share, make_config(method="bp", **settings)))
            updates = budget["epochs"] * -(-round(share * SHARED["limit"]) // budget["batch_size"])
            longer = round(budget["epochs"] * (updates + PRETRAINING) / updates)
            found.append(("untrained, longer", share, make_config(method="bp", **{**settings, "epochs": longer})))
    return found


def finetune(args: argparse.Namespace) -> None:
    """Fine-tune, judge, write figures/finetuning."""
    named = finetuned(args.data, args.out)
    runs = trained([config for *_, config in named], args)
    found: dict[tuple[str, float], list[float]] = {}
    for (start, share, _), run in zip(named, runs, strict=True):
        found.setdefault((start, share), []).append(list(test_accuracy(run).values())[-1])
    cells = [Cell(start, f"{100 * share:g} % of the labels", *interval(values)) for (start, share), values in found.items()]
    claims = []
    for share in FRACTIONS:
        for start in STARTS:
            for rival in ("untrained", "untrained, longer"):
                gain = [a - b for a, b in zip(found[start, share], found[rival, share], strict=True)]
                said = f"at {100 * share:g} % of the labels a start from {start} beats one from scratch ({rival})"
                claims.append(judged(said, gain, "points", at_least=0))
    for start in STARTS:
        few, all_ = ([a - b for a, b in zip(found[start, s], found["untrained", s], strict=True)] for s in (0.01, 1.0))
        more = [a - b for a, b in zip(few, all_, strict=True)]
        claims.append(judged(f"{start} gains more at 1 % of the labels than at 100 %", more, "points", at_least=0))
    print("\n".join(f"{c.row:20} {c.column:20} {c.mean:5.1f} %" for c in cells))
    say(claims)
    title = f"Fine-tuning · {data_name(args)} · BasicCNN, width 16"
    save_figure(dots(cells, title, "final test accuracy in %"), cells, args.figures / "finetuning", "finetuning")
    results = {"claims": claims, "accuracy": [c._asdict() for c in cells], "mean_gain": fmean(c["difference"][0] for c in claims)}
    publish("finetuning", runs, args, results, figures=False)


def main() -> None:
    """One of the two parts."""
    args = arguments(__doc__ or "", what=("table", "finetune"))
    {"table": table, "finetune": finetune}[args.what](args)


if __name__ == "__main__":
    main()
