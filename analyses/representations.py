"""What blocks represent under three rules: what they keep of image and label, and how alike two networks' blocks are.

The runs of all_methods (its settings and seeds; learning rates as in figures/all_methods/results.json): BasicCNN on 6,000 CIFAR-10 images,
five epochs. Numbers are of test images: 2,000 fit decoder and head, 1,000 are held out. Each sentence with its primary test:

- Czarnecki et al. 2017: synthetic gradients lead to "drastically" different representations. Linear CKA of bp with dni of another seed
  is at least 0.1 below that of bp with bp of that seed, mean over the four blocks. Seeds are paired as 0 with 1, 2 with 3, ..., so that
  no network stands in two pairs; each block alone and the same of dgl are further tests. Five pairs show what lies 0.21
  from the bound with 80 % power if pairs differ by 0.1.
- InfoPro (Wang et al. 2021): local training loses information about image and label early. I(h, y) (bits, a head's lower bound) of bp's
  block2, the middle of the network, is at least that of dgl's, paired by seed; further, I(h, y) and I(h, x) (R² of a small decoder) of
  every block. Theirs are ResNets of up to 16 modules; here there are four, and dgl's heads are its default (one hidden layer).

    python -m analyses.representations --data cifar10          # 20 core-minutes beside the training (10 seeds of three rules)
    python -m analyses.representations --redraw                # the pictures anew, from the files in figures/representations
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from analyses.all_methods import EPOCHS, SEEDS, SHARED, settings_of
from analyses.figures.representation_figures import classes_apart, likeness_message
from analyses.training.cost import announce_cost
from analyses.training.study import arguments, data_name, minutes_of, publish, run_context_of, trained
from analyses.verdicts.decision import Test, details
from analyses.verdicts.wording import report
from gradlens.analysis.of_runs.interface import Session
from gradlens.analysis.of_runs.options import FULL_REPRESENTATIONS
from gradlens.analysis.of_runs.representations import Representations
from gradlens.analysis.representations import TRAINED
from gradlens.cli.progress import Display
from gradlens.reporting import representations
from gradlens.reporting.style import head, save_figure
from gradlens.runtime.csv_tables import read_table
from gradlens.runtime.text_files import read_json
from gradlens.training.config import Config, make_config
from gradlens.training.run_directory import Run

METHODS = ("bp", "dgl", "dni")
BLOCKS = ("block1", "block2", "block3", "top")
UNLIKE = 0.1  # of CKA
MEAN = "CKA, mean of the blocks"
KEPT = {"information_y_bits": "I(h, y)", "reconstruction_r2": "I(h, x)"}
PANELS = {"information_y_bits": "label: bits that a head reads\n(lower bound)", "reconstruction_r2": "image: R² of a decoder"}
UNITS = {"I(h, y)": "bits", "I(h, x)": "of R²"}
Result = Mapping[str, Any]
Values = dict[str, dict[str, list[float]]]  # quantity -> group -> one a seed or pair


def _unlike(metric: str, rule: str, primary_of: str = "") -> Test:
    said = f"{metric}: two seeds of bp − bp and {rule}"
    contrast = {"bp and bp": 1.0, f"bp and {rule}": -1.0}
    name = f"{rule}-unlike-{metric.split()[-1]}"
    return Test(name, said, metric, contrast, "of CKA", at_least=UNLIKE, primary_of=primary_of, repeats="pair")


def _kept(said: str, block: str, primary_of: str = "") -> Test:
    name = f"kept-{said[5]}-{block}"
    contrast = {"bp": 1.0, "dgl": -1.0}
    return Test(name, f"{said} at {block}: bp − dgl", f"{said}, {block}", contrast, UNITS[said], at_least=0.0, primary_of=primary_of)


TESTS: tuple[Test, ...] = (
    _unlike(MEAN, "dni", "layers-differ"),
    _kept("I(h, y)", "block2", "early-information"),
    *details("layers-differ", *(_unlike(f"CKA, {block}", "dni") for block in BLOCKS)),
    *details("filters-differ", *(_unlike(metric, "dgl") for metric in (MEAN, *(f"CKA, {block}" for block in BLOCKS)))),
    *details("early-information", *(_kept(said, block) for said in UNITS for block in BLOCKS if (said, block) != ("I(h, y)", "block2"))),
)


def configs(args: Any) -> list[Config]:
    """The runs of all_methods, with the learning rates that were chosen there."""
    table = read_json(args.figures / "all_methods" / "results.json")["table"]
    lr = {row["method"]: row["lr"] for row in table}
    return [make_config(**settings_of(name, EPOCHS, args.data), lr=lr[name], seed=seed) for name in METHODS for seed in range(args.seeds)]


def value(result: Result, block: str, quantity: str) -> float:
    """A number of a trained block."""
    (row,) = (row for row in result["rows"] if row["network"] == TRAINED and row["block"] == block)
    return float(row[quantity])


def likeness(pairs: Result, run: Run, block: str) -> float:
    """CKA of one block with the same block of another run."""
    (entry,) = (entry for entry in pairs["with"] if (entry["run"], entry["network"]) == (run.path.name, TRAINED))
    return float(entry["matrix"][entry["blocks"].index(block)][entry["with_blocks"].index(block)])


def kept(results: Mapping[str, Sequence[Result]]) -> Values:
    """What each block holds of image and label, one value a seed."""
    return {
        f"{said}, {block}": {rule: [value(one, block, quantity) for one in found] for rule, found in results.items()}
        for quantity, said in KEPT.items()
        for block in BLOCKS
    }


def alike(pairs: Sequence[Result], partners: Mapping[str, Sequence[Run]]) -> Values:
    """CKA of bp with another rule's network of the pair's other seed at each block and as their mean, one value a pair."""
    found: Values = {}
    for rule, runs in partners.items():
        rows = [[likeness(pair, run, block) for block in BLOCKS] for pair, run in zip(pairs, runs, strict=True)]
        for i, block in enumerate(BLOCKS):
            found.setdefault(f"CKA, {block}", {})[f"bp and {rule}"] = [row[i] for row in rows]
        found.setdefault(MEAN, {})[f"bp and {rule}"] = [fmean(row) for row in rows]
    return found


def title_of(data: str, settings: Mapping[str, Any]) -> str:
    """What all runs have in common."""
    return f"{data}, BasicCNN of width {settings['width']}"


def redraw(folder: Path) -> None:
    """Draw the figures from the csv files of a results folder."""
    settings = read_json(folder / "results.json")["settings"]
    points = read_table(folder / "representation_by_depth.csv", representations.DepthPoint)
    cells = read_table(folder / "cka.csv", representations.SimilarityCell)
    rows = read_table(folder / "rdm.csv", representations.RdmRow)
    draw(points, cells, rows, folder, title_of(settings["data"], settings))


def main() -> None:
    """Train or read the runs, measure and compare their blocks, judge, write figures/representations."""
    args = arguments(__doc__ or "", numbers={"seeds": SEEDS}, redraw=True)
    if args.redraw:
        redraw(args.figures / "representations")
        return
    announce_cost(2 * args.seeds, "beside the training")
    runs = trained(configs(args), args)
    place, options = run_context_of(args), FULL_REPRESENTATIONS
    analysis = Representations()
    by_name = {name: [r for r in runs if r.config.method == name] for name in METHODS}
    with Display(quiet=False) as display:
        session = Session(place, options, display.count)
        found = [analysis.measure(run, session, display.count(run.path.name)) for run in runs]
        results = {name: [f for f, r in zip(found, runs, strict=True) if r in by_name[name]] for name in METHODS}
        firsts = range(0, args.seeds - 1, 2)
        partners = {name: [by_name[name][i + 1] for i in firsts] for name in METHODS}
        pairs = [analysis.compare([by_name["bp"][i], *(by_name[name][i + 1] for name in METHODS)], session) for i in firsts]
    values = kept(results) | alike(pairs, partners)
    minutes = minutes_of(by_name)
    minutes |= {f"bp and {name}": minutes["bp"] + minutes[name] for name in METHODS}
    report(TESTS, {"values": values, "minutes": minutes})
    points = representations.depth_points(runs, found)
    cells = representations.similarity_cells(pairs[0], "bp s0")
    rows = representations.rdm_rows([by_name[name][0] for name in METHODS], [results[name][0] for name in METHODS])
    draw(points, cells, rows, args.figures / "representations", title_of(data_name(args), SHARED))
    content = {
        "settings": {**SHARED, "data": data_name(args), "epochs": EPOCHS, "seeds": args.seeds},
        "protocol": {k: v for k, v in found[0]["protocol"].items() if k != "weights"},
        "values": values,
        "minutes": minutes,
        "points": [p._asdict() for p in points],
    }
    publish("representations", runs, args, content, figures=False)


def by_depth(points: Sequence[representations.DepthPoint], folder: Path, title: str) -> None:
    """Write the figure of what each block holds of label and image; its title says what is read at the top."""
    shown = [p for p in points if p.quantity in PANELS]
    top = {p.label: p.mean for p in shown if (p.block, p.quantity) == (BLOCKS[-1], "information_y_bits")}
    said = ", ".join(f"{top[rule]:.1f} from {rule}" for rule in METHODS if rule in top)
    figure = representations.representation_by_depth(shown, PANELS, title=title)
    figure.set_figwidth(7.6)
    seeds = f"{title}; mean of {max(p.seeds for p in shown)} seeds, band: 95 % interval"
    head(figure, f"Bits of the label that a head reads at the top: {said}", seeds)
    save_figure(figure, shown, folder, "representation_by_depth")


def draw(
    points: Sequence[representations.DepthPoint],
    cells: Sequence[representations.SimilarityCell],
    rows: Sequence[representations.RdmRow],
    folder: Path,
    title: str,
) -> None:
    """Write the three figures: quantities by depth, CKA of the first pair, dissimilarities of one seed.

    Args:
        points: of all runs.
        cells: of the first pair of seeds.
        rows: of the first seed.
        folder: where they go.
        title: what the runs have in common.

    """
    by_depth(points, folder, title)
    figure = representations.cka_figure(cells, title=title)
    head(figure, likeness_message(cells), f"linear CKA of each block of {cells[0].run} (upward) and of another network (across)", title)
    save_figure(figure, cells, folder, "cka")
    figure = representations.rdm_figure(rows, title=title)
    count = len({r.sample for r in rows})
    about = f"{count} held-out images, sorted by label (ticks between classes)"
    head(figure, classes_apart(rows), f"dissimilarity of {about}", f"{title} · one seed")
    save_figure(figure, rows, folder, "rdm")


if __name__ == "__main__":
    main()
