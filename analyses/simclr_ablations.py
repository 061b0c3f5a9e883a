"""What makes contrastive learning work: the augmentations, the projection head, the batch and the number of steps.

Claims (the reference study, of Chen et al. 2020): the composition of several augmentations matters more than any one; a nonlinear
transformation between representation and loss helps; contrastive learning gains more from larger batches and from more steps than
supervised learning.

SimCLR on BasicCNN of width 16, 3,000 images, eight epochs in batches of 128 unless said otherwise, Adam 1e-3, heads on maps averaged to
2x2; judged by a linear probe of the last block (2,000 test images). Augmentations: each of four (colour is jitter and grey) alone, in
pairs, and all, three seeds.
Heads: one (linear), two and three layers, three seeds. Batches of 64 and 256 for 4 and 12 epochs (a larger batch
means fewer updates of the same length), SimCLR beside backprop, three seeds.

    python -m analyses.simclr_ablations augmentations --data cifar10    # 30 minutes on one core; interrupted, it goes on
    python -m analyses.simclr_ablations heads --data cifar10            # 8 minutes
    python -m analyses.simclr_ablations batches --data cifar10          # 20 minutes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from statistics import fmean
from typing import Any

from analyses.drawing import Cell, value_map
from analyses.study import arguments, data_name, judged, probe_accuracy, probed, publish, say, trained
from gradlens.analysis.of_runs.options import FULL_PROBE
from gradlens.reporting.statistics import interval
from gradlens.reporting.style import save_figure
from gradlens.training.config import Config, make_config
from gradlens.training.run_directory import Run

SHARED: dict[str, Any] = {
    "model": "basic-cnn", "width": 16, "limit": 3_000, "limit_test": 2_000, "epochs": 8, "batch_size": 128, "lr": 1e-3, "record_every": 0,
}  # fmt: skip
VIEWS: dict[str, dict[str, Any]] = {
    "crop": {"crop": True}, "flip": {"flip": True}, "colour": {"jitter": 0.5, "grey": 0.2}, "blur": {"blur": 0.5},
}  # fmt: skip
OFF = {"crop": False, "flip": False, "jitter": 0.0, "grey": 0.0, "blur": 0.0, "side": 2}
PROBE = replace(FULL_PROBE, features=512, blocks=("block3",), controls=False, separability=0)
BATCHES, EPOCHS = (64, 256), (4, 12)


def with_views(names: Sequence[str]) -> dict[str, Any]:
    """The options of some augmentations and no others."""
    return {**OFF, **{k: v for name in names for k, v in VIEWS[name].items()}}


def augmentations(data: str) -> dict[tuple[str, str], list[Config]]:
    """(row, column) -> one config a seed; the diagonal is an augmentation alone, ("all", "all") all four."""
    sets = {(a, a): (a,) for a in VIEWS} | {(a, b): (a, b) for a, b in combinations(VIEWS, 2)} | {("all", "all"): tuple(VIEWS)}
    return {
        key: [make_config(method="simclr", data=data, options=with_views(s), seed=i, **SHARED) for i in range(3)] for key, s in sets.items()
    }


def heads(data: str) -> dict[tuple[str, str], list[Config]]:
    """Projection heads of one to three layers."""
    return {
        ("layers", str(n)): [make_config(method="simclr", data=data, options={"side": 2, "layers": n}, seed=i, **SHARED) for i in range(3)]
        for n in (1, 2, 3)
    }


def setting(batch: int, epochs: int) -> str:
    """What a column is called."""
    return f"batches of {batch}\n{epochs} epochs"


def batches(data: str) -> dict[tuple[str, str], list[Config]]:
    """Batch sizes and epochs, SimCLR and backprop."""
    found = {}
    for method, options in (("simclr", {"side": 2}), ("bp", {})):
        for batch in BATCHES:
            for epochs in EPOCHS:
                changed = {**SHARED, "batch_size": batch, "epochs": epochs}
                found[method, setting(batch, epochs)] = [
                    make_config(method=method, data=data, options=options, seed=i, **changed) for i in range(3)
                ]
    return found


def by_seed(found: Mapping[tuple[str, str], Sequence[float]], more: tuple[str, str], less: tuple[str, str]) -> list[float]:
    """The gain of one setting over another, seed by seed, in points."""
    return [a - b for a, b in zip(found[more], found[less], strict=True)]


def judge(what: str, found: Mapping[tuple[str, str], Sequence[float]]) -> list[dict[str, Any]]:
    """The claims of one part."""
    if what == "augmentations":
        pairs = [key for key in found if key[0] != key[1]]
        seeds = range(len(found["all", "all"]))
        mean = {name: fmean(found[name, name]) for name in VIEWS}
        better = {(a, b): max((a, b), key=lambda name: mean[name]) for a, b in pairs}
        gains = [fmean(found[pair][i] - found[better[pair], better[pair]][i] for pair in pairs) for i in seeds]
        return [
            judged("a pair beats the better of its two alone, on average over the pairs", gains, "points", at_least=0),
            judged("all four beat cropping alone", by_seed(found, ("all", "all"), ("crop", "crop")), "points", at_least=0),
        ]
    if what == "heads":
        return [
            judged(f"a head of {n} layers beats a linear one", by_seed(found, ("layers", n), ("layers", "1")), "points", at_least=0)
            for n in ("2", "3")
        ]
    claims = []
    small, large = BATCHES
    short, long = EPOCHS
    gained: dict[str, dict[str, list[float]]] = {}
    for method in ("simclr", "bp"):
        gained[method] = {
            "a larger batch": by_seed(found, (method, setting(large, long)), (method, setting(small, long))),
            "more steps": by_seed(found, (method, setting(large, long)), (method, setting(large, short))),
        }
    for change in ("a larger batch", "more steps"):
        mine, theirs = gained["simclr"][change], gained["bp"][change]
        claims.append(judged(f"simclr gains from {change}", mine, "points", at_least=0))
        more = [a - b for a, b in zip(mine, theirs, strict=True)]
        claims.append(judged(f"simclr gains more from {change} than supervised backprop", more, "points", at_least=0))
    return claims


def main() -> None:
    """Train or read one part's runs, probe them, judge, write figures/simclr_<part>."""
    args = arguments(__doc__ or "", what=("augmentations", "heads", "batches"))
    wanted = {"augmentations": augmentations, "heads": heads, "batches": batches}[args.what](args.data)
    order = [(key, config) for key, configs in wanted.items() for config in configs]
    runs: list[Run] = trained([config for _, config in order], args)
    results = probed(runs, args, PROBE)
    found: dict[tuple[str, str], list[float]] = {}
    for (key, _), result in zip(order, results, strict=True):
        found.setdefault(key, []).append(probe_accuracy(result, "block3"))
    cells = [Cell(*key, *interval(values)) for key, values in found.items()]
    for cell in cells:
        print(f"{cell.row:12} {cell.column:10} {cell.mean:5.1f} %  [{cell.low:.1f}, {cell.high:.1f}]")
    claims = judge(args.what, found)
    say(claims)
    title = f"SimCLR, {args.what} · {data_name(args)} · BasicCNN, width 16"
    save_figure(value_map(cells, title, "probe accuracy in %"), cells, args.figures / f"simclr_{args.what}", args.what)
    publish(f"simclr_{args.what}", runs, args, {"claims": claims, "accuracy": [c._asdict() for c in cells]}, figures=False)


if __name__ == "__main__":
    main()
