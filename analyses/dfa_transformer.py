"""Direct feedback alignment on a transformer: how far behind backprop, and does its placement and the optimiser matter?

Launay, Poli, Boniface & Krzakala 2020 (arXiv 2006.12878, §3.4) train a causal transformer on WikiText-103 with feedback after each layer
(macro) or at three places inside each (micro), the error read before the vocabulary projection. Their published order of validation
perplexities is bp, dfa macro, dfa micro, and shallow (the vocabulary alone) above 400; backprop's schedule does not suit dfa, and a slower
second moment of Adam does. Here: characters of tiny Shakespeare, three post-LN layers of width 64, four heads, windows of 32, batches of
16, clipping at 0.5, 800 updates, and three rungs of the paper's ladder: Noam's schedule (to a peak of 2e-3 at update 200) with
beta2 0.98, a constant 1e-3 with beta2 0.98, and with beta2 0.999. Shallow is trained on the last rung.

What is tested was fixed before the first run, on the held-out loss after the last update, seed by seed, on the last rung: shallow − micro
is at least 0.2 nats (the primary test: dfa trains the layers, not only the vocabulary above them), macro − bp and micro − macro are
above 0. On the other rungs the same order, and of dfa the gain of each rung. That the order bp, macro, micro, shallow holds on the last
rung is a test of its own, which was written down after the first runs had begun. Beside them stands a small table that was measured before
by a script without gradlens (one seed, the same sizes): perplexities of 7.98, 9.26 (9.19), 10.56 (10.53) and 15.41 for bp, macro, micro and
shallow, with beta2 0.98 (0.999). Controls: shallow stands for random features with a trained top, and chance is in each run's rows (error
signals permuted); absent is a learning rate chosen for each rule: all rules of a rung have one.

Five seeds; about 13 minutes of one core.

    python -m analyses.dfa_transformer --data input.txt                      # tiny Shakespeare; interrupted, it goes on
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import style
from matplotlib.figure import Figure

from analyses.figures.drawing import title_where
from analyses.training.cost import announce_cost
from analyses.training.rule_summary import rule_summary
from analyses.training.study import arguments, minutes_of, publish, trained
from analyses.verdicts.decision import Test, all_of, details
from analyses.verdicts.wording import report
from gradlens.reporting.statistics import interval
from gradlens.reporting.style import LOOK, MORE_COLOURS, head, over_seeds, save_figure, styles
from gradlens.training.config import Config, make_config
from gradlens.training.run_directory import Run

SHARED: dict[str, Any] = {
    "task": "language", "task_options": {"length": 32}, "model": "transformer", "width": 64, "depth": 3, "heads": 4, "batch_size": 16,
    "clip": 0.5, "epochs": 1, "steps": 800, "limit_test": 1600, "record_every": 80,
}  # fmt: skip
RUNGS: dict[str, dict[str, Any]] = {
    "noam": {"lr": 2e-3, "lr_schedule": "inverse-sqrt", "warmup": 200, "beta2": 0.98},
    "constant": {"lr": 1e-3, "beta2": 0.98},
    "beta2": {"lr": 1e-3, "beta2": 0.999},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "bp": {"method": "bp"},
    "macro": {"method": "dfa", "options": {"shared": True, "error": "features"}},
    "micro": {"method": "dfa", "options": {"shared": True, "error": "features", "points": "inside"}},
    "shallow": {"method": "shallow"},
}
LAST = "beta2"
BEFORE = {  # (rule, rung) -> perplexity of the small table measured before
    ("bp", "constant"): 7.98, ("macro", "constant"): 9.26, ("macro", LAST): 9.19, ("micro", "constant"): 10.56, ("micro", LAST): 10.53,
    ("shallow", LAST): 15.41,
}  # fmt: skip
PUBLISHED = {  # recalled from the paper's table 5: validation perplexity by BPE tokens of WikiText-103
    ("bp", "noam"): 34.4, ("macro", "noam"): 95.0, ("macro", "constant"): 77.1, ("macro", LAST): 55.0, ("micro", "noam"): 182.0,
    ("micro", "constant"): 166.0, ("micro", LAST): 99.9,
}  # fmt: skip
LOSS = "held-out loss"
UPDATE_MS = 20.0  # CPU time of an update with what is recorded, for the cost that is printed
TITLE = "Direct feedback trains a transformer's layers, behind backprop and ahead of its vocabulary alone"
OTHERWISE = "Perplexity of a transformer with direct feedback after each layer (macro) and inside it (micro)"


def cells() -> list[tuple[str, str]]:
    """(rule, rung) of every group."""
    return [(rule, rung) for rule in SETTINGS for rung in RUNGS if rule != "shallow" or rung == LAST]


def group(rule: str, rung: str) -> str:
    """The name of a rule on a rung."""
    return f"{rule} {rung}"


def _above(name: str, better: tuple[str, str], worse: tuple[str, str], at_least: float = 0.0, primary_of: str = "") -> Test:
    """The test that one group's loss is above another's."""
    says = f"{LOSS}: {' '.join(worse)} − {' '.join(better)}"
    return Test(name, says, LOSS, {group(*worse): 1, group(*better): -1}, "nats", at_least=at_least, primary_of=primary_of)


TESTS = (
    _above("dfa-transformer-shallow", ("micro", LAST), ("shallow", LAST), 0.2, "dfa-language"),
    *details(
        "dfa-language",
        *(_above(f"dfa-transformer-macro-{rung}", ("bp", rung), ("macro", rung)) for rung in RUNGS),
        *(_above(f"dfa-transformer-micro-{rung}", ("macro", rung), ("micro", rung)) for rung in RUNGS),
        *(_above(f"dfa-transformer-{rule}-less-schedule", (rule, "constant"), (rule, "noam")) for rule in ("macro", "micro")),
        *(_above(f"dfa-transformer-{rule}-longer-average", (rule, LAST), (rule, "constant")) for rule in ("macro", "micro")),
    ),
    all_of(
        "dfa-transformer-order",
        f"{LOSS} on the last rung: bp below macro, macro below micro, micro below shallow",
        *(_above(f"dfa-transformer-order-{worse}", (better, LAST), (worse, LAST)) for better, worse in pairwise(SETTINGS)),
        primary_of="dfa-language-order",
    ),
)


def config_of(data: str, rule: str, rung: str, seed: int, **more: Any) -> Config:
    """One run's settings."""
    return make_config(**{**SHARED, **SETTINGS[rule], **RUNGS[rung], "data": data, "seed": seed, **more})


class Bar(NamedTuple):
    """A group's perplexity."""

    rule: str
    rung: str
    mean: float
    low: float
    high: float
    seeds: int
    before: float | None  # of the small table
    published: float | None  # of another network on another text


def held_out(run: Run) -> float:
    """A run's held-out loss after its last update, in nats per character."""
    return [m.loss for m in run.metrics if m.split == "test"][-1]


def perplexity(run: Run) -> float:
    """A run's held-out perplexity after its last update."""
    return [m.score for m in run.metrics if m.split == "test"][-1]


def bars(runs: Mapping[tuple[str, str], Sequence[Run]]) -> list[Bar]:
    """The table."""
    return [
        Bar(*cell, i.mean, i.low, i.high, i.n, BEFORE.get(cell), PUBLISHED.get(cell))
        for cell, group in runs.items()
        for i in [interval([perplexity(run) for run in group])]
    ]


def ordered(rows: Sequence[Bar]) -> bool:
    """Whether bp, macro, micro and shallow stand in this order on the last rung."""
    at = {r.rule: r.mean for r in rows if r.rung == LAST}
    return list(at) == list(SETTINGS) and list(at.values()) == sorted(at.values())


@style.context(LOOK)
def ladder(rows: Sequence[Bar], beside: str) -> Figure:
    """Perplexity of each rule on each rung, the small table measured before as open markers.

    Args:
        rows: from :func:`bars`.
        beside: what the runs have in common.

    """
    figure = Figure(figsize=(7.6, 4.2), layout="constrained")
    ax, looks = figure.subplots(), styles(("bp", "dfa", "shallow"))
    macro = looks["dfa"]
    names = {"bp": looks["bp"], "macro": macro, "micro": macro._replace(colour=MORE_COLOURS[2], marker="D"), "shallow": looks["shallow"]}
    places = {rung: i for i, rung in enumerate(RUNGS)}
    for rule, mine in names.items():
        here = [r for r in rows if r.rule == rule]
        if not here:
            continue
        x = [places[r.rung] for r in here]
        low, high = ([max(0.0, s * (r.mean - e)) for r, e in zip(here, ends, strict=True)] for s, ends in (
            (1, [r.low for r in here]), (-1, [r.high for r in here])
        ))  # fmt: skip
        ax.errorbar(x, [r.mean for r in here], yerr=(low, high), color=mine.colour, marker=mine.marker, linestyle=mine.dash, capsize=3)
        ax.annotate(f"  {rule}", (x[-1], here[-1].mean), (6, 0), textcoords="offset points", color=mine.colour, va="center")
        known = [(places[r.rung], r.before) for r in here if r.before is not None]
        ax.plot([i for i, _ in known], [v for _, v in known], "o", markersize=9, markerfacecolor="none", markeredgecolor=mine.colour)
    ax.set(yscale="log", ylabel="held-out perplexity, log scale", xticks=list(places.values()))
    ax.set_xticklabels(["Noam, beta2 0.98", "constant, beta2 0.98", "constant, beta2 0.999"])
    ax.set_xlim(-0.3, len(RUNGS) - 0.5)
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("{x:g}")
    over = over_seeds(max(r.seeds for r in rows), "95 % t-interval")
    head(figure, title_where(ordered(rows), TITLE, OTHERWISE), f"{beside} · {over} · ○ measured before, one seed")
    return figure


def main() -> None:
    """Train all runs, test, draw, write figures/dfa_transformer."""
    args = arguments(__doc__ or "", data="input.txt", numbers={"seeds": 5, "steps": SHARED["steps"]})
    announce_cost(len(cells()) * args.seeds * args.steps * UPDATE_MS / 60_000, f"{args.seeds} seeds")
    configs = {
        cell: [config_of(args.data, *cell, seed, steps=args.steps) for seed in range(args.seeds)] for cell in cells()
    }  # fmt: skip
    found = trained([config for group in configs.values() for config in group], args)
    runs = {cell: found[i * args.seeds : (i + 1) * args.seeds] for i, cell in enumerate(configs)}
    rows = bars(runs)
    for row in rows:
        known = (("before", row.before), ("published, WikiText-103", row.published))
        beside = "".join(f", {what} {value:g}" for what, value in known if value is not None)
        print(f"{group(row.rule, row.rung):15} perplexity {row.mean:6.2f}{beside}", flush=True)
    named = {group(*cell): group_ for cell, group_ in runs.items()}
    results = {
        "data": Path(args.data).name,
        "settings": {**SHARED, "steps": args.steps},
        "rungs": RUNGS,
        "rules": SETTINGS,
        "table": [row._asdict() for row in rows],
        "values": {
            LOSS: {name: [held_out(run) for run in each] for name, each in named.items()},
            "held-out perplexity": {name: [perplexity(run) for run in each] for name, each in named.items()},
        },
        "by_rule": [
            rule_summary(
                "language", Path(args.data).stem, "transformer", rule, "perplexity", [perplexity(run) for run in each], each
            )._asdict()
            for (rule, rung), each in runs.items()
            if rung == LAST
        ],
        "minutes": minutes_of(named),
    }
    report(TESTS, results)
    net = f"transformer, {SHARED['depth']} layers of {SHARED['width']}, {args.steps} updates · {Path(args.data).absolute().parent.name}"
    save_figure(ladder(rows, net), rows, args.figures / "dfa_transformer", "ladder")
    publish("dfa_transformer", found, args, results, figures=False)


if __name__ == "__main__":
    main()
