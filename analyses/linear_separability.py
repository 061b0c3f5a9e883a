"""How well a linear probe reads the labels from each block, for rules that train blocks by their own losses and for others.

Claim (the reference study, of Belilovsky et al. 2019): "layerwise training increases linear separability of the different layers'
activations". The runs are those of `analyses.all_methods` (BasicCNN of width 32, 6,000 CIFAR-10 images, five epochs, learning rates
as chosen there), three seeds of each rule; greedy's three stages take five epochs each. Each block's activations are pooled to 512
features at most; probes are fitted to 3,000 of the run's training images and tested on 2,000 test images; beside them raw pixels, the
untrained network and permuted labels.

Judged, paired by seed: each hidden block's probe of dgl (and greedy) above bp's; block1 of dgl and bp above the untrained one; each
rule's third block above its first (accuracy rises with depth).

    python -m analyses.linear_separability --data cifar10          # after all_methods 15 minutes on one core; interrupted, it goes on
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from analyses.all_methods import EPOCHS, SEEDS, SHARED, STAGES
from analyses.study import arguments, data_name, judged, probe_accuracy, probed, publish, say, trained
from gradlens.analysis.of_runs.options import FULL_PROBE
from gradlens.reporting.analysis_report import save_figures
from gradlens.reporting.probes import probe_figures, probe_points, probe_table
from gradlens.runtime.terminal import print_table
from gradlens.runtime.text_files import read_json
from gradlens.training.config import Config, make_config
from gradlens.training.run_directory import Run

RULES = ("bp", "dgl", "greedy", "chunked", "overlap", "dni", "cdni", "fa", "dfa", "shallow")
BLOCKS = ("block1", "block2", "block3")
OPTIONS = replace(FULL_PROBE, features=512, train_images=3_000, test_images=2_000, separability=0)

Results = Mapping[str, Sequence[Mapping[str, Any]]]  # rule -> contents of probe.json, one a seed


def configs(data: str, figures: Path) -> list[Config]:
    """The configs of all_methods' runs, at the learning rates that its results name."""
    runs = read_json(figures / "all_methods" / "results.json")["runs"]
    lrs = {run["label"]: run["lr"] for run in runs}
    return [
        make_config(method=name, data=data, epochs=EPOCHS * STAGES.get(name, 1), lr=lrs[name], seed=seed, **SHARED)
        for name in RULES
        for seed in range(SEEDS)
    ]


def judge(found: Results) -> list[dict[str, Any]]:
    """The claims."""
    claims = []
    for rule in ("dgl", "greedy"):
        pairs = list(zip(found[rule], found["bp"], strict=True))
        for block in BLOCKS:
            gain = [probe_accuracy(mine, block) - probe_accuracy(bp, block) for mine, bp in pairs]
            claims.append(judged(f"{rule}'s {block} is read better than bp's", gain, "points", at_least=0))
    for rule in ("dgl", "bp"):
        gain = [probe_accuracy(mine, BLOCKS[0]) - probe_accuracy(mine, BLOCKS[0], "untrained") for mine in found[rule]]
        claims.append(judged(f"{rule}'s block1 is read better than the untrained one", gain, "points", at_least=0))
    for rule in RULES:
        gain = [probe_accuracy(mine, BLOCKS[-1]) - probe_accuracy(mine, BLOCKS[0]) for mine in found[rule]]
        claims.append(judged(f"{rule}: block3 is read better than block1", gain, "points", at_least=0))
    return claims


def main() -> None:
    """Train or read the runs, probe them, judge the claim, write figures/linear_separability."""
    args = arguments(__doc__ or "")
    runs: list[Run] = trained(configs(args.data, args.figures), args)
    results = probed(runs, args, OPTIONS)
    points = probe_points(runs, results)
    print_table(probe_table(points))
    claims = judge({rule: [x for run, x in zip(runs, results, strict=True) if run.config.method == rule] for rule in RULES})
    say(claims)
    save_figures(probe_figures(points, f"{data_name(args)} · BasicCNN, width 32"), args.figures / "linear_separability")
    shown = {
        "protocol": results[0]["protocol"],
        "claims": claims,
        "accuracy": [p._asdict() for p in points],
        "minutes": round(sum(sum(x["seconds"].values()) for x in results) / 60, 1),
    }
    publish("linear_separability", runs, args, shown, figures=False)


if __name__ == "__main__":
    main()
