"""Do networks learn more from filling in what they cannot see than from copying what they see?

Claim (the reference study, of Pathak et al. 2016): inpainting learns semantically meaningful features where auto-encoders do not.
BasicCNN of width 16 on 5,000 CIFAR-10 images, eight epochs of Adam at 1e-3, three seeds of four tasks with one decoder and the squared
error alone (the paper trains features without the adversarial loss too): the centre quarter dropped, random shapes of as many pixels
dropped, nothing dropped (an autoencoder), noise of a fifth of the grey scale added (a denoising one). A linear probe reads each block
(512 features at most, fitted to 3,000 of the training images, tested on 2,000 test images); beside it raw pixels and the untrained
network.

Judged, paired by seed: each block's probe of the two inpainters above the autoencoder's, block3's above the denoising one's and the
untrained network's; the mean patch's squared error on the dropped pixels of 2,000 test images above the network's.

Draws `inpainting`, six test images as each network sees and completes them, and seed 0 of the centre with the adversarial loss too.

    python -m analyses.inpainting --data cifar10                  # interrupted, it goes on
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from analyses.study import arguments, data_name, judged, probed, publish, run_context_of, say, trained
from gradlens.analysis import inpainting
from gradlens.analysis.of_runs.inpainting import InpaintedImages, InpaintingOptions
from gradlens.analysis.of_runs.options import FULL_PROBE
from gradlens.reporting import inpainting as reporting_inpainting
from gradlens.reporting.analysis_report import save_figures
from gradlens.reporting.probes import probe_figures, probe_points, probe_table
from gradlens.reporting.style import save_figure
from gradlens.runtime.terminal import print_table
from gradlens.training.config import Config, make_config
from gradlens.training.run_directory import Run

TASKS = {"centre": "inpainting the centre", "random": "inpainting random shapes", "none": "autoencoder", "noise": "denoising autoencoder"}
ADVERSARIAL = "the centre, with a discriminator"
INPAINTERS = ("centre", "random")
BLOCKS = ("block1", "block2", "block3")
SHARED: dict[str, Any] = {"limit_test": 2_000, "model": "basic-cnn", "width": 16, "batch_size": 128, "lr": 1e-3, "record_every": 0}
ALONE = {"lambda_rec": 1.0, "lambda_adv": 0.0}

Found = Mapping[str, Sequence[Mapping[str, Any]]]  # task -> what a command stored, one a seed


def configs(args: argparse.Namespace) -> list[Config]:
    """The seeds of each task, and one run with the adversarial loss last."""
    shared = {**SHARED, "method": "context-encoder", "data": args.data, "epochs": args.epochs, "limit": args.limit}
    if args.data == "digits":
        del shared["limit_test"]
    found = [make_config(**shared, seed=seed, options={"corrupt": task, **ALONE}) for task in TASKS for seed in range(args.seeds)]
    return [*found, make_config(**shared, options={"corrupt": "centre"})]


def accuracy(result: Mapping[str, Any], block: str, network: str = "trained") -> float:
    """A probe's test accuracy in %."""
    (row,) = (r for r in result["rows"] if (r["block"], r["network"], r["labels"]) == (block, network, "true"))
    return 100 * float(row["test"])


def judge(probed: Found, filled: Found) -> list[dict[str, Any]]:
    """The claims, from what ``probe`` and ``inpaint`` stored in the runs of each task."""
    claims = []
    for task in INPAINTERS:
        for control, blocks in (("none", BLOCKS), ("noise", BLOCKS[-1:])):
            for block in blocks:
                pairs = zip(probed[task], probed[control], strict=True)
                gain = [accuracy(mine, block) - accuracy(theirs, block) for mine, theirs in pairs]
                claims.append(judged(f"{TASKS[task]}: {block} is read better than the {TASKS[control]}'s", gain, "points", at_least=0))
        block = BLOCKS[-1]
        gain = [accuracy(mine, block) - accuracy(mine, block, "untrained") for mine in probed[task]]
        claims.append(judged(f"{TASKS[task]}: {block} is read better than the untrained one", gain, "points", at_least=0))
        less = [100 * (1 - one["errors"]["network"]["l2"] / one["errors"]["mean_patch"]["l2"]) for one in filled[task]]
        claims.append(judged(f"{TASKS[task]}: squared error below the mean patch's", less, "% less", at_least=0))
    return claims


def _by_task(runs: Sequence[Run], results: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    return {task: [x for run, x in zip(runs, results, strict=True) if run.config.options["corrupt"] == task] for task in TASKS}


def _panels(filled: Found, adversarial: Mapping[str, Any]) -> list[reporting_inpainting.InpaintingPanel]:
    """Seed 0 of each task, the adversarial one after the first."""
    shown = [(name, filled[task][0]) for task, name in TASKS.items()]
    shown.insert(1, (ADVERSARIAL, adversarial))
    return [
        reporting_inpainting.InpaintingPanel(name, *(inpainting.unpacked(x, n) for n in ("original", "corrupted", "output")))
        for name, x in shown
    ]


def main() -> None:
    """Train or read 13 runs, probe them and let them fill in, judge the claim, write figures/inpainting."""
    args = arguments(__doc__ or "", numbers={"epochs": 8, "limit": 5_000, "seeds": 3})
    place = run_context_of(args)
    *runs, adversarial = trained(configs(args), args)
    test = 300 if args.data == "digits" else 2_000
    options = replace(FULL_PROBE, features=512, train_images=min(3_000, args.limit), test_images=test, separability=0)
    read = probed(runs, args, options)
    *filled, last = InpaintedImages().analyse([*runs, adversarial], place, InpaintingOptions(images=6))
    points = probe_points(runs, read)
    print_table(probe_table(points))
    names = [*TASKS.values(), ADVERSARIAL]
    found = reporting_inpainting.inpainting_rows([*runs, adversarial], [*filled, last])
    errors = [row._replace(label=name) for row, name in zip(found, names, strict=True)]
    print_table(reporting_inpainting.inpainting_table(errors))
    by_task = _by_task(runs, filled)
    claims = judge(_by_task(runs, read), by_task)
    say(claims)
    folder, title = args.figures / "inpainting", f"{data_name(args)} · BasicCNN, width 16"
    save_figures(probe_figures(points, title), folder)
    save_figure(reporting_inpainting.inpainting_grid(_panels(by_task, last), title=title), errors, folder, "inpainting")
    shown = {"protocol": read[0]["protocol"], "claims": claims, "accuracy": [p._asdict() for p in points]}
    shown["errors"] = [row._asdict() for row in errors]
    publish("inpainting", [*runs, adversarial], args, shown, figures=False)


if __name__ == "__main__":
    main()
