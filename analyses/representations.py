"""What blocks represent under five rules: what they keep of image and label, and how alike two networks' blocks are.

Claims tested, paired by seed (supported or not where the 95 % interval of the mean difference lies on one side of the bound):

- InfoPro (Wang et al. 2021): local training throws information about image and label away early. At each block, I(h, x) (R² of a small
  decoder on held-out images) and I(h, y) (bits, a head's lower bound) of bp are at least those of dgl. Theirs are ResNets of up to 16
  modules; here there are four, and dgl's heads are its default (one hidden layer).
- Czarnecki et al. 2017: synthetic gradients lead to drastically different representations. Here: at each block, linear CKA of bp with dni
  of another seed is at least 0.1 below that of bp with bp of that other seed. The same is reported for dgl.

The runs of all_methods (its settings; learning rates as in figures/all_methods/results.json): BasicCNN of width 32, 6,000 CIFAR-10
images, five epochs, three seeds. Numbers are of test images: 2,000 fit decoder and head, 1,000 are held out.

    python -m analyses.representations --data cifar10          # about eight minutes of one core beside the training
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analyses.all_methods import EPOCHS, SEEDS, SHARED
from analyses.study import arguments, data_name, judged, publish, run_context_of, say, trained
from gradlens.analysis.of_runs.interface import Session
from gradlens.analysis.of_runs.options import FULL_REPRESENTATIONS
from gradlens.analysis.of_runs.representations import Representations
from gradlens.analysis.representations import TRAINED
from gradlens.cli.progress import Display
from gradlens.reporting import representations
from gradlens.reporting.style import save_figure
from gradlens.runtime.terminal import print_table
from gradlens.runtime.text_files import read_json
from gradlens.training.config import Config, make_config
from gradlens.training.run_directory import Run

METHODS = ("bp", "dgl", "dni", "dfa", "shallow")
BLOCKS = ("block1", "block2", "block3", "top")
UNLIKE = 0.1  # of CKA
Result = Mapping[str, Any]


def configs(args: Any) -> list[Config]:
    """The runs of all_methods, with the learning rates that were chosen there."""
    table = read_json(args.figures / "all_methods" / "results.json")["table"]
    lr = {row["method"]: row["lr"] for row in table}
    settings = {"data": args.data, "epochs": EPOCHS, **SHARED}
    return [make_config(method=name, lr=lr[name], seed=seed, **settings) for name in METHODS for seed in range(SEEDS)]


def value(result: Result, block: str, quantity: str) -> float:
    """A number of a trained block."""
    (row,) = (row for row in result["rows"] if row["network"] == TRAINED and row["block"] == block)
    return float(row[quantity])


def likeness(pairs: Result, run: Run, block: str) -> float:
    """CKA of one block with the same block of another run."""
    (entry,) = (entry for entry in pairs["with"] if (entry["run"], entry["network"]) == (run.path.name, TRAINED))
    return float(entry["matrix"][entry["blocks"].index(block)][entry["with_blocks"].index(block)])


def kept(results: Mapping[str, Sequence[Result]]) -> list[dict[str, Any]]:
    """InfoPro's claim: what bp's blocks keep, less what dgl's do."""
    said = (
        ("reconstruction_r2", "R²", "I(h, x): {} of bp keeps at least what dgl's keeps of the image"),
        ("information_y_bits", "bits", "I(h, y): {} of bp keeps at least what dgl's keeps of the label"),
    )
    return [
        judged(
            claim.format(block),
            [value(bp, block, quantity) - value(dgl, block, quantity) for bp, dgl in zip(results["bp"], results["dgl"], strict=True)],
            unit,
            at_least=0.0,
        )
        for quantity, unit, claim in said
        for block in BLOCKS
    ]


def unlike(pairs: Sequence[Result], runs: Mapping[str, Sequence[Run]], other: str) -> list[dict[str, Any]]:
    """How much less alike bp and another rule are than two seeds of bp; seed i beside seed i + 1."""
    following = [(i + 1) % SEEDS for i in range(SEEDS)]
    return [
        judged(
            f"CKA at {block}: bp and {other} at least {UNLIKE:g} less alike than two seeds of bp",
            [likeness(p, runs["bp"][j], block) - likeness(p, runs[other][j], block) for p, j in zip(pairs, following, strict=True)],
            "of CKA",
            at_least=UNLIKE,
        )
        for block in BLOCKS
    ]


def main() -> None:
    """Train or read fifteen runs, measure and compare their blocks, test the claims, write figures/representations."""
    args = arguments(__doc__ or "")
    runs = trained(configs(args), args)
    place, options = run_context_of(args), FULL_REPRESENTATIONS
    analysis = Representations()
    by_name = {name: [r for r in runs if r.config.method == name] for name in METHODS}
    with Display(quiet=False) as display:
        session = Session(place, options, display.count)
        found = [analysis.measure(run, session, display.count(run.path.name)) for run in runs]
        results = {name: [f for f, r in zip(found, runs, strict=True) if r in by_name[name]] for name in METHODS}
        pairs = []
        for i, bp in enumerate(by_name["bp"]):
            j = (i + 1) % SEEDS
            others = [by_name[name][j] for name in METHODS[:3]]
            if i == 0:  # the figure's: the rest too, and dgl from the same first weights
                others = [others[0], by_name["dgl"][0], *others[1:], *(by_name[name][j] for name in METHODS[3:])]
            pairs.append(analysis.compare([bp, *others], session))
    points = representations.depth_points(runs, found)
    print_table(representations.representation_table(points))
    for i, result in enumerate(pairs):
        print_table(representations.pair_table(result, f"bp s{i}"))
    claims = kept(results) + unlike(pairs, by_name, "dni") + unlike(pairs, by_name, "dgl")
    say(claims)
    folder, title = args.figures / "representations", f"{data_name(args)}, BasicCNN of width {SHARED['width']}"
    points = [p for p in points if p.quantity in representations.REPRESENTATION_QUANTITIES]
    save_figure(
        representations.representation_by_depth(points, representations.REPRESENTATION_QUANTITIES, title=title),
        points,
        folder,
        "representation_by_depth",
    )
    cells = representations.similarity_cells(pairs[0], "bp s0")
    save_figure(representations.cka_figure(cells, title=title), cells, folder, "cka")
    few = [by_name[name][0] for name in METHODS[:3]]
    rows = representations.rdm_rows(few, [results[name][0] for name in METHODS[:3]])
    save_figure(representations.rdm_figure(rows, title=title), rows, folder, "rdm")
    protocol = {k: v for k, v in found[0]["protocol"].items() if k != "weights"}
    settings = {**SHARED, "data": data_name(args), "epochs": EPOCHS, "seeds": SEEDS}
    content = {
        "settings": settings,
        "protocol": protocol,
        "points": [p._asdict() for p in representations.depth_points(runs, found)],
        "claims": claims,
    }
    publish("representations", runs, args, content, figures=False)


if __name__ == "__main__":
    main()
