"""The shipped configs of the papers on language and graphs: their numbers, typed here again from the papers, and two steps of each."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from gradlens.data.graphs import load_graph
from gradlens.training.config import make_config
from gradlens.training.config_file import read_config_file
from gradlens.training.context import RunContext, load_data
from gradlens.training.loop import make_update
from gradlens.training.runs.build_state import build_state

FOLDER = Path(__file__).parents[2] / "analyses" / "configs"
OF_PAPERS = sorted(path for name in ("dfa-transformer", "local-updates-language", "dfa-graphs") for path in FOLDER.glob(f"{name}*.json"))
TEXT = "the quick brown fox jumps over the lazy dog; a cat sat on the mat. " * 60


def config(name):
    """The config of a file, its number of layers' parameters in millions beside it."""
    c = make_config(**read_config_file(FOLDER / f"{name}.json"))
    return c, 12 * (c.model.depth or 0) * (c.model.width or 0) ** 2 / 1e6


LADDER = {  # Launay et al., table of optimisers: file -> (schedule, beta2, learning rate)
    "bp-baseline": ("inverse-sqrt", 0.98, (512 * 4000) ** -0.5),
    "bp": ("inverse-sqrt", 0.999, (512 * 4000) ** -0.5),
    "shallow": ("inverse-sqrt", 0.999, (512 * 4000) ** -0.5),
    **{f"{place}-baseline": ("inverse-sqrt", 0.98, (512 * 4000) ** -0.5) for place in ("macro", "micro")},
    **{f"{place}-adam": ("constant", 0.98, 5e-5) for place in ("macro", "micro")},
    **dict.fromkeys(("macro", "micro"), ("constant", 0.999, 5e-05)),
}


@pytest.mark.parametrize("name", LADDER)
def test_transformers_of_direct_feedback_have_the_papers_numbers(name):
    (c, millions), (schedule, beta2, lr) = config(f"dfa-transformer-{name}"), LADDER[name]
    o = c.optimizer
    assert millions == pytest.approx(18.9, rel=0.01)
    assert (c.model.name, c.model.depth, c.model.heads, c.model.dropout, c.model.pre_norm) == ("transformer", 6, 8, 0.1, False)
    assert (c.batch_size, c.task_options["length"], c.epochs) == (64, 128, 100)
    assert (o.name, o.beta1, o.clip, o.lr_schedule, o.beta2) == ("adam", 0.9, 0.5, schedule, beta2)
    assert o.lr == pytest.approx(lr, rel=1e-4)
    assert o.warmup == (4000 if schedule == "inverse-sqrt" else 0)
    if c.method == "dfa":
        places = "inside" if name.startswith("micro") else "blocks"
        assert (c.options["points"], c.options["error"], c.options["shared"]) == (places, "features", True)


LOCAL = {"bp": "bp", "chunked": "chunked", "chunked-4": "chunked", "chunked-8": "chunked", "overlap": "overlap", "dgl": "dgl"}


@pytest.mark.parametrize("size", ["", "13m-"])
@pytest.mark.parametrize("name", LOCAL)
def test_transformers_of_local_updates_have_the_two_sizes(name, size):
    c, millions = config(f"local-updates-language-{size}{name}")
    assert millions == pytest.approx(12.6 if size else 6.3, rel=0.01)
    assert c.method == LOCAL[name]
    assert (c.batch_size, c.task_options["length"], c.model.dropout, c.optimizer.clip) == (256, 128, 0.0, None)
    assert (c.optimizer.lr_schedule, c.optimizer.beta2) == ("constant", 0.999)
    assert c.model.depth % 8 == 0
    if c.method == "chunked":
        assert c.options["chunks"] == int(name.rpartition("-")[2]) if "-" in name else 2
    if c.method == "overlap":
        assert (c.options["window"], c.options["stride"]) == (2, 1)


GRAPHS = {  # Launay et al., released settings: (network, rule) -> dropout, attention's, weight decay, learning rate, decayed blocks
    ("gcn", "bp"): (0.5, None, 5e-4, 0.01, 1), ("gcn", "dfa"): (0.1, None, 1e-4, 0.01, 1), ("gcn", "shallow"): (0.5, None, 5e-4, 0.01, 1),
    ("cheb", "bp"): (0.5, None, 5e-4, 0.01, 1), ("cheb", "dfa"): (0.0, None, 1e-4, 0.01, 1),
    ("cheb", "shallow"): (0.5, None, 5e-4, 0.01, 1), ("gat", "bp"): (0.6, [0.6], 5e-4, 0.005, None),
    ("gat", "dfa"): (0.1, [0.6, 0.0], 1e-4, 0.005, None), ("gat", "shallow"): (0.6, [0.6], 5e-4, 0.005, None),
}  # fmt: skip


@pytest.mark.parametrize(("net", "rule"), GRAPHS)
def test_graph_networks_have_the_papers_numbers(net, rule):
    c, _ = config(f"dfa-graphs-{net}-{rule}")
    o, m = c.optimizer, c.model
    assert (m.dropout, m.attention_dropout, o.weight_decay, o.lr, o.decay_blocks) == GRAPHS[net, rule]
    assert (c.method, m.name, o.name, c.epochs) == (rule, net, "adam", 250)
    assert (m.width, m.heads) == ((8, 8) if net == "gat" else (16, None))


def test_every_config_of_these_papers_is_checked_above():
    checked = {f"dfa-transformer-{name}" for name in LADDER} | {f"dfa-graphs-{net}-{rule}" for net, rule in GRAPHS}
    checked |= {f"local-updates-language-{size}{name}" for name in LOCAL for size in ("", "13m-")}
    assert {path.stem for path in OF_PAPERS} == checked


@pytest.mark.slow
@pytest.mark.parametrize("path", OF_PAPERS, ids=lambda path: path.stem)
def test_the_papers_networks_take_two_steps(path, tmp_path):
    settings = {**read_config_file(path), "record_every": 1, "diagnose_every": 0}
    if settings["task"] == "graphs":
        graph = load_graph("blocks", tmp_path)
        parts = dict(zip(("train", "val", "test"), (nodes.numpy() for nodes in graph.parts.values()), strict=True))
        arrays = {"features": graph.features.numpy(), "edges": graph.edges.T.numpy(), "y": graph.labels.numpy()}
        np.savez(tmp_path / "cora.npz", **arrays, **parts)
        c = make_config(**settings | {"data": str(tmp_path / "cora.npz")})
    else:
        (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
        c = make_config(**settings | {"data": str(tmp_path / "text.txt"), "batch_size": 2})
    state = build_state(c, load_data(c, RunContext()), torch.device("cpu"))
    before = {name: p.detach().clone() for name, p in state.network.model.named_parameters()}
    for step in range(2):
        made, *_ = make_update(state, step)
        assert math.isfinite(float(made.loss))
        assert made.rows
    moved = {name for name, p in state.network.model.named_parameters() if not torch.equal(p, before[name])}
    assert any(name.startswith("top.") for name in moved)
    assert any(name.startswith("block1.") for name in moved) is (c.method != "shallow")
