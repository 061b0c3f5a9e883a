"""Local updates on a language model: do they train it, at what cost, and how far are their gradients from the true ones, by kind of layer?

Laskin et al. 2020 (arXiv 2012.03837) train transformers with windows of layers that each have a loss of their own (an auxiliary head on
the window's last layer that predicts the same next token): chunks (two here), overlapping windows of two layers, and single layers
(greedy, here dgl). They report that backprop reaches the lowest losses, and that local rules, chunks first, reach a given loss with less
*sequential* compute. No table of gradients' cosines on transformers is known to us; here it is, for each kind of layer (query, key,
value, out, the two feed-forward layers, normalisation) over depth.

Here: characters of tiny Shakespeare (or any text), four post-LN layers of width 64, four heads, windows of 32, batches of 16, Adam 1e-3,
five epochs of 6,400 windows (2,000 updates), heads of LayerNorm and a projection of their own. Sequential and total seconds are those of
measured blocks: an update's critical path with a worker for each window, and the sum over all blocks.

What is tested was fixed before the first run, on the held-out loss after the last update, seed by seed. Primary: bp − dgl is at least
−0.2 nats (the most local rule trains the language model, too, and is near). Further: chunked − bp, overlap − chunked and dgl − overlap
are at least 0 (each a test), and the mean cosine of the first layer's weights with the true gradient is higher with chunks than with dgl.
That all three differences are at least 0 together is a test of its own, written down after the first runs had begun. Controls that
are absent: a learning rate chosen for each rule (all have one), and shallow, which `analyses.dfa_transformer` has at nearly the same size.

Five seeds; about 18 minutes of one core.

    python -m analyses.local_updates_language --data input.txt               # tiny Shakespeare; interrupted, it goes on
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from analyses.dfa_transformer import held_out, perplexity
from analyses.training.cost import announce_cost
from analyses.training.study import arguments, minutes_of, publish, run_context_of, trained
from analyses.verdicts.decision import Test, all_of, details
from analyses.verdicts.wording import report
from gradlens.gradients.layer_names import depth_and_kind
from gradlens.reporting.layer_kinds import kind_points, over_depth
from gradlens.reporting.pareto import levels, pareto_figure, pareto_points
from gradlens.reporting.style import save_figure
from gradlens.runtime.csv_tables import write_csv
from gradlens.training.config import Config, make_config
from gradlens.training.cost.critical_path import costs_of_groups
from gradlens.training.run_directory import Run

SHARED: dict[str, Any] = {
    "task": "language", "task_options": {"length": 32}, "model": "transformer", "width": 64, "depth": 4, "heads": 4, "batch_size": 16,
    "lr": 1e-3, "limit": 6400, "epochs": 5, "limit_test": 800, "record_every": 50,
}  # fmt: skip
HEAD = {"head": "norm-linear"}
RULES: dict[str, dict[str, Any]] = {"bp": {}, "chunked": HEAD, "overlap": HEAD, "dgl": HEAD}
LOSS, FIRST = "held-out loss", "cosine of the first layer"
NEAR = 0.2  # nats behind bp
UPDATE_MS = 27.0  # CPU time of an update with what is recorded, for the cost that is printed


def _behind(better: str, worse: str) -> Test:
    """The test that a rule's loss is no lower than another's."""
    says = f"{LOSS}: {worse} − {better}"
    return Test(f"language-{worse}-{better}", says, LOSS, {worse: 1, better: -1}, "nats", at_least=0.0)


TESTS = (
    Test("language-dgl-near", f"{LOSS}: bp − dgl", LOSS, {"bp": 1, "dgl": -1}, "nats", at_least=-NEAR, primary_of="local-language"),
    *details(
        "local-language",
        _behind("bp", "chunked"),
        _behind("chunked", "overlap"),
        _behind("overlap", "dgl"),
        Test("language-first-layer", f"{FIRST}: chunked − dgl", FIRST, {"chunked": 1, "dgl": -1}, "", at_least=0.0),
    ),
    all_of(
        "language-order",
        f"{LOSS}: bp no higher than chunked, chunked no higher than overlap, overlap no higher than dgl",
        *(replace(_behind(better, worse), name=f"language-order-{worse}") for better, worse in pairwise(RULES)),
        primary_of="local-language-order",
    ),
)


def config_of(data: str, rule: str, seed: int, **more: Any) -> Config:
    """One run's settings."""
    return make_config(**{**SHARED, "method": rule, "options": RULES[rule], "data": data, "seed": seed, **more})


def first_layer_cosine(run: Run) -> float:
    """The mean cosine of the first layer's weight matrices with the true gradient, over the second half of training."""
    half = max(row.step for row in run.gradients) / 2
    found = [
        row.value
        for row in run.gradients
        if (row.kind, row.quantity) == ("weight", "cosine") and row.step >= half and math.isfinite(row.value)
        and (place := depth_and_kind(row.layer)) and place[0] == 1 and not place[1].startswith(("norm", "embedding"))
    ]  # fmt: skip
    return fmean(found)


def main() -> None:
    """Train all runs, measure the blocks, test, draw, write figures/local_updates_language."""
    args = arguments(__doc__ or "", data="input.txt", numbers={"seeds": 5, "epochs": SHARED["epochs"]})
    updates = args.epochs * SHARED["limit"] / SHARED["batch_size"]
    announce_cost(len(RULES) * args.seeds * updates * UPDATE_MS / 60_000, f"{args.seeds} seeds")
    configs = [config_of(args.data, rule, seed, epochs=args.epochs) for rule in RULES for seed in range(args.seeds)]
    found = trained(configs, args)
    runs = {rule: found[i * args.seeds : (i + 1) * args.seeds] for i, rule in enumerate(RULES)}
    costs, blocks = costs_of_groups(found, run_context_of(args))
    points, front = kind_points(found), pareto_points(found, costs, levels(found))
    results = {
        "data": Path(args.data).name,
        "settings": {**SHARED, "epochs": args.epochs},
        "options": RULES,
        "seconds_of_an_update": {label: cost._asdict() for label, cost in costs.items()},
        "cosines": [point._asdict() for point in points],
        "front": [point._asdict() for point in front],
        "values": {
            LOSS: {rule: [held_out(run) for run in group] for rule, group in runs.items()},
            "held-out perplexity": {rule: [perplexity(run) for run in group] for rule, group in runs.items()},
            FIRST: {rule: [first_layer_cosine(run) for run in group] for rule, group in runs.items()},
        },
        "minutes": minutes_of(runs),
    }
    report(TESTS, results)
    folder = args.figures / "local_updates_language"
    title = f"transformer, {SHARED['depth']} layers of {SHARED['width']} · characters of {Path(args.data).absolute().parent.name}"
    save_figure(over_depth(points, title=title), points, folder, "cosine_over_depth")
    save_figure(pareto_figure(front, title=title), front, folder, "pareto")
    write_csv(folder / "block_costs.csv", blocks)
    publish("local_updates_language", found, args, results, figures=False)


if __name__ == "__main__":
    main()
