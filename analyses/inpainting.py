"""Do networks learn more from filling in what they cannot see than from copying what they see?

Sentence (the reference study, of Pathak et al. 2016): inpainting learns semantically meaningful features where auto-encoders do not.
BasicCNN of width 16 on 5,000 CIFAR-10 images, eight epochs of Adam at 1e-3 decayed to zero, five seeds of four tasks with one decoder and
the squared error alone (the paper trains features without the adversarial loss too): the centre quarter dropped, random shapes of as many
pixels dropped, nothing dropped (an autoencoder), noise of a fifth of the grey scale added (a denoising one). A linear probe reads each
block (512 features at most, fitted to the training images, tested on all 10,000 test images); beside it raw pixels and the untrained
network.

Primary test: block3's probe, the mean of the two inpainters above the autoencoder. Further tests: each above the denoising one and the
untrained network; the squared error on the dropped pixels of 2,000 test images below the mean patch's. Earlier differences of two tasks
varied by 2.5 points: five seeds would show 3.3 points between two tasks and 2.9 in the primary test (80 % power).

Draws `inpainting`, six test images as each network sees and completes them, and seed 0 of the centre with the adversarial loss too.

    python -m analyses.inpainting --data cifar10                  # 26 core-minutes; interrupted, it goes on
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from analyses.figures.drawing import Cell
from analyses.figures.ssl_figures import rows_figure
from analyses.training.cost import announce_cost
from analyses.training.probing import PIXELS, probe_accuracies
from analyses.training.study import arguments, data_name, minutes_of, publish, run_context_of, trained
from analyses.verdicts.decision import Test, details
from analyses.verdicts.wording import report
from gradlens.analysis import inpainting
from gradlens.analysis.of_runs.inpainting import InpaintedImages, InpaintingOptions
from gradlens.reporting import inpainting as reporting_inpainting
from gradlens.reporting.statistics import interval
from gradlens.reporting.style import head, save_figure
from gradlens.runtime.terminal import print_table
from gradlens.training.config import Config, make_config
from gradlens.training.run_directory import Run

TASKS = {"centre": "inpainting the centre", "random": "inpainting random shapes", "none": "autoencoder", "noise": "denoising autoencoder"}
ADVERSARIAL = "the centre, with a discriminator"
INPAINTERS = ("centre", "random")
BLOCKS = ("block1", "block2", "block3")
SHARED: dict[str, Any] = {
    "limit_test": 2_000, "model": "basic-cnn", "width": 16, "batch_size": 128, "lr": 1e-3, "lr_schedule": "cosine", "record_every": 0,
}  # fmt: skip
ALONE = {"lambda_rec": 1.0, "lambda_adv": 0.0}

UNTRAINED = "untrained"
ERRORS = "squared error on the dropped pixels"
MINUTES = 1.2  # of one core, a run with its probes

Values = dict[str, dict[str, list[float]]]  # quantity -> group -> one a seed


def _above(name: str, mine: dict[str, float], theirs: str, primary_of: str = "") -> Test:
    said = f"probe of block3: {' and '.join(TASKS[task] for task in mine)} − {TASKS.get(theirs, theirs)}"
    contrast = {**mine, theirs: -1.0}
    return Test(name, said, BLOCKS[-1], contrast, "points", at_least=0.0, primary_of=primary_of)


TESTS: tuple[Test, ...] = (
    _above("inpainting-above-autoencoder", dict.fromkeys(INPAINTERS, 0.5), "none", "inpainting-features"),
    *details(
        "inpainting-features",
        *(_above(f"inpainting-{task}-above-{theirs}", {task: 1.0}, theirs) for task in INPAINTERS for theirs in ("noise", UNTRAINED)),
        *(
            Test(
                f"inpainting-{task}-error", f"{ERRORS}, {TASKS[task]}: below the mean patch's", ERRORS, {task: 1.0}, "% less", at_least=0.0
            )
            for task in INPAINTERS
        ),
    ),
)


def configs(args: argparse.Namespace) -> list[Config]:
    """The seeds of each task, and one run with the adversarial loss last."""
    shared = {**SHARED, "method": "context-encoder", "data": args.data, "epochs": args.epochs, "limit": args.limit}
    if args.data == "digits":
        del shared["limit_test"]
    found = [make_config(**shared, seed=seed, options={"corrupt": task, **ALONE}) for task in TASKS for seed in range(args.seeds)]
    return [*found, make_config(**shared, options={"corrupt": "centre"})]


def measured(runs: Sequence[Run], filled: Sequence[Mapping[str, Any]], args: argparse.Namespace) -> Values:
    """Probes of every block of every task, of the untrained network and of raw pixels, and how much less error there is than the mean's."""
    values: Values = {name: {} for name in (*BLOCKS, PIXELS, ERRORS)}
    for run, shown in zip(runs, filled, strict=True):
        task = run.config.options["corrupt"]
        for block, accuracy in probe_accuracies(run, BLOCKS, args).items():
            values[block].setdefault(task, []).append(accuracy)
        if task in INPAINTERS:
            errors = shown["errors"]
            values[ERRORS].setdefault(task, []).append(100 * (1 - errors["network"]["l2"] / errors["mean_patch"]["l2"]))
        if task == INPAINTERS[0]:
            for block, accuracy in probe_accuracies(run, BLOCKS, args, UNTRAINED).items():
                values[block].setdefault(UNTRAINED, []).append(accuracy)
            values[PIXELS].setdefault("raw pixels", []).append(probe_accuracies(run, [], args, PIXELS)[PIXELS])
    return values


def _panels(
    filled: Mapping[str, Sequence[Mapping[str, Any]]], adversarial: Mapping[str, Any]
) -> list[reporting_inpainting.InpaintingPanel]:
    """Seed 0 of each task, the adversarial one after the first."""
    shown = [(name, filled[task][0]) for task, name in TASKS.items()]
    shown.insert(1, (ADVERSARIAL, adversarial))
    return [
        reporting_inpainting.InpaintingPanel(name, *(inpainting.unpacked(x, n) for n in ("original", "corrupted", "output")))
        for name, x in shown
    ]


def cells_of(values: Values) -> list[Cell]:
    """The probes' means with intervals, a row a task."""
    names = {**TASKS, UNTRAINED: "untrained"}
    return [Cell(names[task], block, *interval(found)) for block in BLOCKS for task, found in values[block].items()]


def main() -> None:
    """Train or read 21 runs, probe them and let them fill in, judge, write figures/inpainting."""
    args = arguments(__doc__ or "", numbers={"epochs": 8, "limit": 5_000, "seeds": 5})
    announce_cost(MINUTES * (len(TASKS) * args.seeds + 1))
    *runs, adversarial = trained(configs(args), args)
    *filled, last = InpaintedImages().analyse([*runs, adversarial], run_context_of(args), InpaintingOptions(images=6))
    names = [*TASKS.values(), ADVERSARIAL]
    found = reporting_inpainting.inpainting_rows([*runs, adversarial], [*filled, last])
    errors = [row._replace(label=name) for row, name in zip(found, names, strict=True)]
    print_table(reporting_inpainting.inpainting_table(errors))
    values = measured(runs, filled, args)
    by_task = {task: [x for run, x in zip(runs, filled, strict=True) if run.config.options["corrupt"] == task] for task in TASKS}
    minutes = minutes_of({task: [run for run in runs if run.config.options["corrupt"] == task] for task in TASKS}) | {UNTRAINED: 0.0}
    results: dict[str, Any] = {"values": values, "minutes": minutes}
    report(TESTS, results)
    folder, title = args.figures / "inpainting", f"{data_name(args)}, BasicCNN of width 16"
    grid = reporting_inpainting.inpainting_grid(_panels(by_task, last), title=title)
    best = next(row for row in errors if row.label == TASKS["centre"])
    message = f"Squared error of the filled-in centre: {100 * best.l2:.1f} %, of the mean patch {100 * best.mean_patch_l2:.1f} %"
    head(grid, message, f"held-out images, the network's input, and its prediction where pixels are missing · {title} · seed 0")
    save_figure(grid, errors, folder, "inpainting")
    cells = cells_of(values)
    message = "What a linear probe reads after each way of filling in"
    save_figure(rows_figure(cells, message, title, "test accuracy in %"), cells, folder, "probe_by_block")
    shown = {**results, "accuracy": [c._asdict() for c in cells], "errors": [row._asdict() for row in errors]}
    publish("inpainting", [*runs, adversarial], args, shown, figures=False)


if __name__ == "__main__":
    main()
