"""Direct feedback alignment on view synthesis: backprop, dfa and a trained output layer alone, on two scenes and a picture.

Launay, Poli, Boniface & Krzakala 2020 (arXiv 2006.12878, §3.1) train neural radiance fields with a feedback point after each hidden layer
and the error, the true gradient through rendering, read at colour and density of each point in space. Here: their small network (two
layers of 128, 25,220 parameters, 32 points a ray) on the Lego scene at 50x50 pixels and on a generated one, and its twin without
rendering, the same network on the places of a picture's pixels. Feedback is one matrix, shared by all layers (``shared``), as theirs.

The learning rate is chosen for each rule and scene: the PSNR of held-out views of the *training* part, one seed that is not used again,
a grid of factors of about three that grows until its best rate is no end of it. Rates fall to zero along a cosine. Then three seeds.

What is tested was fixed before the first run, on the PSNR of test views after the last update, seed by seed: on each scene dfa is at least
3 dB above shallow (the primary test: dfa trains the layers, not the output layer alone), and bp is above dfa. A small table was
measured before by a script without gradlens (Lego 50x50, 400 updates of a constant rate of 5e-3, one seed): 20.76, 18.97 and 11.62 dB
for bp, dfa and shallow; a white picture has 9.60 dB. SSIM and the picture are shown, and not tested.

Three seeds; about 40 minutes of one core, which is said again before it starts.

    python -m analyses.dfa_views --data lego100.npz     # the Lego scene: colours premultiplied; interrupted, it goes on
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from analyses.training.cost import announce_cost
from analyses.training.study import arguments, minutes_of, publish, run_context_of, trained
from analyses.training.tuned_arms import best_rate
from analyses.verdicts.decision import Test, all_of, details
from analyses.verdicts.wording import report
from gradlens.analysis.of_runs.rendering import RenderedPictures, RenderingOptions
from gradlens.reporting.rendering import panels, rendering_grid
from gradlens.reporting.statistics import interval
from gradlens.reporting.style import save_figure
from gradlens.tasks.psnr import decibels
from gradlens.training.config import Config, make_config
from gradlens.training.context import load_data
from gradlens.training.run_directory import Run, load_result

RULES: dict[str, dict[str, Any]] = {
    "bp": {"method": "bp"},
    "dfa": {"method": "dfa", "options": {"shared": True}},
    "shallow": {"method": "shallow"},
}
LEGO: dict[str, Any] = {"task": "views", "task_options": {"premultiplied": True, "shrink": 2}}
SCENES: dict[str, dict[str, Any]] = {
    "lego": {**LEGO, "steps": 1500},
    "solids": {"task": "views", "data": "solids", "steps": 1500},
    "china": {"task": "pictures", "data": "china", "task_options": {"shrink": 2}, "batch_size": 1024, "steps": 1500},
}
RENDERED = ("lego", "solids")
SHARED: dict[str, Any] = {"epochs": 100, "lr_schedule": "cosine", "diagnose_every": 0}
CHOOSING: dict[str, Any] = {"seed": 100, "validation": 0.1, "record_every": 0}  # of the runs by which a rate is chosen
SHORTER = 3  # they have a third of the updates
CREDIT = {"lego": "Lego scene: Blender model by Heinzelnisse (blendswap 11490), CC BY-NC; data set of Mildenhall et al. 2020"}
BEFORE = {"bp": 20.76, "dfa": 18.97, "shallow": 11.62}
MARGIN = 3.0  # dB
PSNR, SSIM, COSINE = "test PSNR", "SSIM", "cosine at block outputs"
UPDATE_MS = {"bp": 60.0, "dfa": 60.0, "shallow": 35.0}  # CPU time of an update of rays; of the picture's a quarter
TITLE = "Direct feedback renders the scene, behind backprop and far ahead of a trained output layer"
OTHERWISE = "Held-out pictures as photographed and as each rule's network renders them"


def group(scene: str, rule: str) -> str:
    """The name of a rule on a scene."""
    return f"{scene} {rule}"


def _above(scene: str, better: str, worse: str, at_least: float) -> Test:
    """The test that one rule's PSNR is above another's."""
    name = f"views-{scene}-{better}-{worse}"
    contrast = {group(scene, better): 1.0, group(scene, worse): -1.0}
    return Test(name, f"test PSNR on {scene}: {better} − {worse}", PSNR, contrast, "dB", at_least=at_least)


TESTS = (
    all_of(
        "views-dfa-shallow",
        f"test PSNR: dfa at least {MARGIN:g} dB above shallow, on both scenes",
        *(_above(scene, "dfa", "shallow", MARGIN) for scene in RENDERED),
        primary_of="dfa-views",
    ),
    *details("dfa-views", *(_above(scene, "bp", "dfa", 0.0) for scene in SCENES), _above("china", "dfa", "shallow", 0.0)),
)


class Views:
    """The runs on two scenes and a picture, trained here or read from where they were stored."""

    def __init__(self, args: Any) -> None:
        self.args = args
        self.scenes = {scene: {**settings, "steps": args.steps or settings["steps"]} for scene, settings in SCENES.items()}

    def config(self, scene: str, rule: str, rate: float, **more: Any) -> Config:
        """One run's settings."""
        settings = {**SHARED, "data": self.args.data, **self.scenes[scene], **RULES[rule], "lr": rate, **more}
        return make_config(**{"record_every": max(1, settings["steps"] // 15), **settings})

    def rate(self, scene: str, rule: str) -> tuple[float, dict[str, float]]:
        """The rate with the highest PSNR on views held out of the training ones, and that of all rates tried."""

        def score(rate: float) -> float:
            steps = max(1, self.scenes[scene]["steps"] // SHORTER)
            (run,) = trained([self.config(scene, rule, rate, **CHOOSING, steps=steps)], self.args)
            found = held_out(run)
            return found if math.isfinite(found) else -math.inf

        return best_rate(score)

    def white(self, scene: str) -> float:
        """The PSNR of a white picture, the mean over test views."""
        config = self.config(scene, "bp", 1e-3)
        context = run_context_of(self.args)
        pixels = load_data(config, context).test
        views = pixels.x[:, 0].unique()  # type: ignore[no-untyped-call]
        errors = [(1 - pixels.y[pixels.x[:, 0] == view].double() / 255).square().mean() for view in views]
        return fmean(float(decibels(error)) for error in errors)


class Row(NamedTuple):
    """A rule on a scene, means over seeds."""

    scene: str
    rule: str
    rate: float
    psnr: float
    psnr_low: float
    psnr_high: float
    ssim: float
    cosine: float | None  # shallow sends none
    seeds: int
    before: float | None  # of the small table


def held_out(run: Run) -> float:
    """A run's PSNR on held-out pixels after its last update."""
    return [m.score for m in run.metrics if m.split in ("test", "validation")][-1]


def block_cosines(run: Run) -> dict[str, float]:
    """Mean cosine of the error signal with the true one at each block's output but the last, second half of training; without shallow's."""
    rows = [row for row in run.gradients if (row.kind, row.quantity) == ("activation", "cosine") and row.layer != "top"]
    late = [row for row in rows if 2 * row.step >= run.config.steps and math.isfinite(row.value)]  # type: ignore[operator]
    return {layer: fmean(row.value for row in late if row.layer == layer) for layer in dict.fromkeys(row.layer for row in late)}


def all_cells() -> Iterator[tuple[str, str]]:
    """(scene, rule) of every group."""
    return ((scene, rule) for scene in SCENES for rule in RULES)


def cost(seeds: int, steps: int | None = None) -> float:
    """Minutes of one core that all runs are expected to take: seeds, and four rates of a third of the updates."""
    each = [(steps or SCENES[scene]["steps"]) * UPDATE_MS[rule] * (1 if scene in RENDERED else 0.25) for scene, rule in all_cells()]
    return sum(each) * (seeds + 4 / SHORTER) / 60_000


def main() -> None:
    """Choose rates, train all runs, render, test, draw, write figures/dfa_views."""
    args = arguments(__doc__ or "", data="lego100.npz", numbers={"seeds": 3, "steps": 0})
    announce_cost(cost(args.seeds, args.steps or None), f"{args.seeds} seeds")
    views = Views(args)
    runs, rates, rows, everyone = dict[tuple[str, str], list[Run]](), dict[str, Any](), list[Row](), list[Run]()
    metrics: dict[str, dict[str, list[float]]] = {PSNR: {}, SSIM: {}, COSINE: {}}
    cosines: dict[str, dict[str, float]] = {}
    for scene, rule in all_cells():
        name = group(scene, rule)
        rate, tried = views.rate(scene, rule)
        rates[name] = {"rate": rate, "tried": tried}
        found = trained([views.config(scene, rule, rate, seed=seed) for seed in range(args.seeds)], args)
        results = RenderedPictures().analyse(found, run_context_of(args), RenderingOptions(images=3), notify=print)
        runs[scene, rule] = found
        everyone += found
        metrics[PSNR][name] = [held_out(run) for run in found]
        metrics[SSIM][name] = [result["ssim"] for result in results]
        by_block = [block_cosines(run) for run in found]
        cosines[name] = {layer: fmean(one[layer] for one in by_block) for layer in by_block[0]}
        metrics[COSINE][name] = [fmean(one.values()) for one in by_block if one]
        psnr = interval(metrics[PSNR][name])
        cosine = fmean(metrics[COSINE][name]) if metrics[COSINE][name] else None
        before = BEFORE[rule] if scene == "lego" else None
        rows.append(Row(scene, rule, rate, *psnr[:3], fmean(metrics[SSIM][name]), cosine, args.seeds, before))
        beside = "" if cosine is None else f", cosine {cosine:.2f}"
        print(f"{name}: rate {rate:g}, PSNR {psnr.mean:.2f} dB, SSIM {rows[-1].ssim:.3f}{beside}", flush=True)
    report_all(args, views, runs, rates, rows, metrics, cosines, everyone)


def stored_renderings(runs: Sequence[Run]) -> list[Mapping[str, Any]]:
    """What `gradlens render` stored of some runs."""
    return [found for run in runs if (found := load_result(run.path, RenderedPictures.name)) is not None]


def report_all(
    args: Any,
    views: Views,
    runs: Mapping[tuple[str, str], Sequence[Run]],
    rates: Mapping[str, Any],
    rows: Sequence[Row],
    metrics: Mapping[str, Mapping[str, Sequence[float]]],
    cosines: Mapping[str, Mapping[str, float]],
    everyone: Sequence[Run],
) -> None:
    """Decide, draw and write what was found."""
    results: dict[str, Any] = {
        "data": Path(args.data).name,
        "seeds": args.seeds,
        "settings": {scene: {key: value for key, value in settings.items() if key != "data"} for scene, settings in views.scenes.items()},
        "rates": rates,
        "table": [row._asdict() for row in rows],
        "values": {metric: {name: list(found) for name, found in groups.items()} for metric, groups in metrics.items()},
        "cosines": cosines,
        "white": {scene: views.white(scene) for scene in RENDERED},
        "credit": CREDIT,
        "minutes": minutes_of({group(*cell): found for cell, found in runs.items()}),
    }
    report(TESTS, results)
    folder = args.figures / "dfa_views"
    for scene in SCENES:
        firsts = [runs[scene, rule][0] for rule in RULES]
        shown = [panel._replace(label=rule) for panel, rule in zip(panels(firsts, stored_renderings(firsts)), RULES, strict=True)]
        mine = [row for row in rows if row.scene == scene]
        ordered = [row.psnr for row in mine] == sorted((row.psnr for row in mine), reverse=True)
        beside = f"{scene}, {views.scenes[scene]['steps']:,} updates, seed 0 · PSNR over {args.seeds} seeds: " + ", ".join(
            f"{row.rule} {row.psnr:.2f} dB" for row in mine
        )
        text = TITLE if ordered and scene in RENDERED else OTHERWISE
        save_figure(rendering_grid(shown, text=text, title=beside, credit=CREDIT.get(scene, "")), mine, folder, f"rendered-{scene}")
    publish("dfa_views", everyone, args, results, figures=False)


if __name__ == "__main__":
    main()
