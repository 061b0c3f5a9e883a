"""Part (e) of analyses.synthetic_theory: what the layers of a deep MLP represent between synthesisers, on the digits.

python -m analyses.synthetic_theory_depth          # trains the nets only: 10 core-minutes; analyses.synthetic_theory reads them
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from matplotlib import style
from matplotlib.figure import Figure
from torch import Tensor, nn

from analyses.figures.drawing import title_where
from analyses.training.cost import announce_cost
from analyses.training.stored import stored
from analyses.training.study import arguments
from analyses.training.tuned_arms import HELD_OUT, best_rate
from gradlens.analysis.activations import collect_activations, freeze_module
from gradlens.analysis.logistic_regression import Standard, fit_logistic_regression
from gradlens.analysis.representation_similarity import rdm, rdm_correlation
from gradlens.data.datasets import load
from gradlens.gradients.losses import LOSSES
from gradlens.methods import METHODS
from gradlens.reporting.representations import RdmRow
from gradlens.reporting.statistics import interval
from gradlens.reporting.style import COLOURS, LOOK, band, head
from gradlens.runtime.rng import generator, seeded
from gradlens.training.build import ModelAndMethod, make_network_info
from gradlens.training.step import training_step

DEPTH, WIDTH, EPOCHS, BATCH = 10, 64, 40, 128
PILOT = (0, 1)  # the seeds that the rates are chosen with; the bounds of the tests were set after an earlier look at them
SEEDS = tuple(range(3, 13))
EVERY = "cdni everywhere"
NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "bp": ("bp", {}),
    f"cdni at {DEPTH // 2}": ("cdni", {"at": [DEPTH // 2]}),
    EVERY: ("cdni", {}),
}
UNTRAINED = "untrained"
SHOWN, SHOWN_LAYERS, COMPARED = 40, (1, 5, 10), 200  # test images and layers of drawn dissimilarity matrices, images of compared ones
PROBE_L2 = 1e-3
SETTINGS = {"data": "digits", "depth": DEPTH, "width": WIDTH, "epochs": EPOCHS, "batch": BATCH, "probe_l2": PROBE_L2}


class Seen(NamedTuple):
    """What one network's layers are like on test images."""

    net: str
    seed: int
    train: float  # accuracy of the network's own answer
    test: float
    probes: list[float]  # test accuracy of a linear probe, layer by layer
    rdms: Tensor  # [layers, n, n] of the first COMPARED test images, sorted by label


def deep_net(net: str, seed: int) -> ModelAndMethod:
    """Ten layers Linear–BatchNorm–ReLU and a linear top on the digits' 64 pixels, with its rule; of one seed the same first weights."""
    method, options = NETS.get(net, ("bp", {}))
    sizes = [64, *[WIDTH] * DEPTH]
    with seeded(seed, "init"):
        layers = [nn.Sequential(nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()) for a, b in pairwise(sizes)]
        model = nn.Sequential(OrderedDict([*((f"{i + 1}", layer) for i, layer in enumerate(layers)), ("top", nn.Linear(WIDTH, 10))]))
    rule = METHODS[method]
    return ModelAndMethod(model, rule(make_network_info(model, (64,), 10, LOSSES["ce"], seed), rule.Options(**options)))


def train(network: ModelAndMethod, x: Tensor, y: Tensor, seed: int, rate: float) -> None:
    """Adam over batches, the rate falling to zero along a cosine."""
    optimizer = torch.optim.Adam(network.method.param_groups(list(network.model)), lr=rate)
    made, total = 0, EPOCHS * math.ceil(len(x) / BATCH)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(x), generator=generator(seed, "order", epoch))
        for part in torch.split(order, BATCH):
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 + math.cos(math.pi * made / total)) / 2
            network.method.start(epoch + 1, made)
            training_step(network, optimizer, x[part], y[part])
            made += 1


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pixels from −1 to 1 and labels, for training and for test."""
    data = load("digits")
    (x, y), (z, w) = ((half.images.flatten(1).float() / 127.5 - 1, half.labels) for half in (data.train, data.test))
    return x, y, z, w


def chosen_rate(net: str) -> tuple[float, dict[str, float]]:
    """The rate at which a net answers best on a fifth of the training images, held out, in the pilot's seeds; and what all rates gave."""
    x, y, *_ = digits()
    inside = len(x) - round(HELD_OUT * len(x))

    def score(rate: float) -> float:
        right = []
        for seed in PILOT:
            network = deep_net(net, seed)
            train(network, x[:inside], y[:inside], seed, rate)
            right.append(float((network.model.eval()(x[inside:]).argmax(1) == y[inside:]).float().mean()))
        return 100 * fmean(right)

    return best_rate(score)


def deep_run(net: str, seed: int, rate: float) -> Seen:
    """Train one net on the digits; probe and compare its layers on test images."""
    x, y, z, w = digits()
    network = deep_net(net, seed)
    if net != UNTRAINED:
        train(network, x, y, seed, rate)
    frozen = freeze_module(network.model)
    inside, held = collect_activations(frozen, x), collect_activations(frozen, z)
    names = frozen.names[:DEPTH]
    probes = []
    for name in names:
        standard = Standard.of(inside[name])
        probes.append(fit_logistic_regression(standard(inside[name]), y, PROBE_L2).accuracy(standard(held[name]), w))
    train_accuracy, test = (float((h["top"].argmax(1) == labels).float().mean()) for h, labels in ((inside, y), (held, w)))
    rdms = torch.stack([rdm(held[name][:COMPARED], w[:COMPARED]) for name in names])
    return Seen(net, seed, train_accuracy, test, probes, rdms.float())


def stored_run(folder: Path, net: str, seed: int, rate: float) -> tuple[Seen, float]:
    """What was seen of a net, and its minutes."""
    place = folder / f"{net.replace(' ', '-')}-s{seed}"
    matrices = place.with_suffix(".pt")

    def compute() -> dict[str, Any]:
        seen = deep_run(net, seed, rate)
        torch.save(seen.rdms.half(), matrices)
        print(f"{net}, rate {rate:g}, seed {seed}: training {100 * seen.train:.1f} %, test {100 * seen.test:.1f} %", flush=True)
        return {**seen._asdict(), "rdms": None}

    found = stored(place.with_suffix(".json"), {**SETTINGS, "net": NETS.get(net), "seed": seed, "rate": rate}, compute)
    content = {name: found[name] for name in Seen._fields} | {"rdms": torch.load(matrices, weights_only=True).float()}
    return Seen(**content), found["seconds"] / 60


class Deep(NamedTuple):
    """All nets."""

    found: list[Seen]
    rates: dict[str, dict[str, Any]]  # net -> chosen, and the held-out accuracy of those tried
    minutes: dict[str, float]  # of a run


def all_runs(out: Path) -> Deep:
    """All nets of all seeds, a seed after the other, each net at its own rate."""
    folder = out / "synthetic_theory"
    rates: dict[str, dict[str, Any]] = {UNTRAINED: {"chosen": 0.0}}
    for net in NETS:

        def choose(net: str = net) -> dict[str, Any]:
            best, tried = chosen_rate(net)
            return {"chosen": best, "held-out accuracy": tried}

        rates[net] = stored(folder / f"rate-{net.replace(' ', '-')}.json", {**SETTINGS, "net": NETS[net], "seeds": PILOT}, choose)
        print(f"{net}: rate {rates[net]['chosen']:g} of {rates[net]['held-out accuracy']}", flush=True)
    runs = {(net, seed): stored_run(folder, net, seed, rates[net]["chosen"]) for seed in SEEDS for net in (*NETS, UNTRAINED)}
    minutes = {net: fmean(runs[net, seed][1] for seed in SEEDS) for net in (*NETS, UNTRAINED)}
    return Deep([seen for seen, _ in runs.values()], rates, minutes)


def likeness(a: Seen, b: Seen) -> list[float]:
    """Rank correlation of two networks' dissimilarity matrices, layer by layer."""
    return [rdm_correlation(p, q) for p, q in zip(a.rdms, b.rdms, strict=True)]


def likenesses(found: Sequence[Seen]) -> dict[str, list[list[float]]]:
    """Net -> layer by layer, likeness of bp of one seed with that net of another; pairs of seeds share no run with each other."""
    by = {(s.net, s.seed): s for s in found}
    return {net: [likeness(by["bp", a], by[net, b]) for a, b in zip(SEEDS[::2], SEEDS[1::2], strict=True)] for net in (*NETS, UNTRAINED)}


def deep_values(found: Sequence[Seen], alike: dict[str, list[list[float]]]) -> dict[str, dict[str, list[float]]]:
    """Probe at the last layer and own accuracy in %, one a seed; likeness of the upper half, one a pair of seeds."""
    nets, half = (*NETS, UNTRAINED), DEPTH // 2
    return {
        f"linear probe at layer {DEPTH}": {net: [100 * s.probes[-1] for s in found if s.net == net] for net in nets},
        "deep net: test accuracy": {net: [100 * s.test for s in found if s.net == net] for net in NETS},
        f"likeness to bp of another seed, layers {half + 1} to {DEPTH}": {
            net: [sum(row[half:]) / (DEPTH - half) for row in rows] for net, rows in alike.items()
        },
    }


class DepthRow(NamedTuple):
    """A quantity at a layer, over seeds."""

    net: str
    layer: int
    quantity: str
    mean: float
    low: float
    high: float
    seeds: int


def depth_rows(found: Sequence[Seen], alike: dict[str, list[list[float]]]) -> list[DepthRow]:
    """Probe accuracy and likeness, layer by layer."""
    rows = []
    for net in (*NETS, UNTRAINED):
        probes = [s.probes for s in found if s.net == net]
        for quantity, values, scale in (("probe", probes, 100), ("likeness", alike[net], 1)):
            rows += [DepthRow(net, k + 1, quantity, *interval(scale * row[k] for row in values)) for k in range(DEPTH)]
    return rows


@style.context(LOOK)
def by_depth(rows: Sequence[DepthRow]) -> Figure:
    """Probe accuracy and likeness by layer, a line a net."""
    figure = Figure(figsize=(8.0, 3.7), layout="constrained")
    looks = dict(zip((*NETS, UNTRAINED), ((COLOURS[0], "o"), (COLOURS[5], "s"), (COLOURS[2], "^"), ("0.55", "D")), strict=True))
    names = {
        UNTRAINED: "untrained",
        f"cdni at {DEPTH // 2}": f"cdni, one synthesiser\nafter layer {DEPTH // 2}",
        EVERY: "cdni, a synthesiser\nafter every layer",
    }
    panels = (("probe", "linear probe: test accuracy (%)"), ("likeness", "likeness to bp of another seed\n(rank correlation)"))
    for ax, (quantity, label) in zip(figure.subplots(1, 2), panels, strict=True):
        for net, (colour, marker) in looks.items():
            mine = sorted((r for r in rows if (r.net, r.quantity) == (net, quantity)), key=lambda r: r.layer)
            x = [r.layer for r in mine]
            ax.plot(x, [r.mean for r in mine], color=colour, marker=marker, markersize=4, linewidth=1.6, label=names.get(net, net))
            band(ax, x, [r.low for r in mine], [r.high for r in mine], colour, 0.15)
        ax.set(xlabel=f"layer, of {DEPTH}", ylabel=label, xticks=range(1, DEPTH + 1))
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, handlelength=1.6)
    head(
        figure,
        depth_title(rows),
        f"digits, MLP of {DEPTH} layers of {WIDTH}; bands: 95 % interval of {len(SEEDS)} seeds (right: {len(SEEDS) // 2} pairs)",
    )
    return figure


def depth_title(rows: Sequence[DepthRow]) -> str:
    """What the probes of the last layer say: more than five points below bp, or within two of it."""
    mean = {r.net: r.mean for r in rows if (r.quantity, r.layer) == ("probe", DEPTH)}
    return title_where(
        mean["bp"] - mean[EVERY] > 5 and abs(mean["bp"] - mean[f"cdni at {DEPTH // 2}"]) < 2,
        "With a synthesiser after every layer, high layers are read worse; one in the middle costs nothing",
        "Linear probe and likeness to backpropagation, layer by layer",
    )


def rdm_rows(found: Sequence[Seen]) -> list[RdmRow]:
    """Dissimilarities of every few of the compared images, still sorted by label, at some layers, first seed."""
    every = COMPARED // SHOWN
    labels = load("digits").test.labels[:COMPARED].sort(stable=True).values[::every].tolist()
    rows = []
    for one in (s for net in NETS for s in found if (s.net, s.seed) == (net, SEEDS[0])):
        for layer in SHOWN_LAYERS:
            small = one.rdms[layer - 1][::every, ::every].tolist()
            rows += [
                RdmRow(one.net, f"layer {layer}", i, label, " ".join(f"{v:.1f}" for v in row))
                for i, (label, row) in enumerate(zip(labels, small, strict=True))
            ]
    return rows


def main() -> None:
    """Train the nets that analyses.synthetic_theory reads."""
    args = arguments(__doc__ or "", data="digits")
    announce_cost(10)
    all_runs(args.out)


if __name__ == "__main__":
    main()
