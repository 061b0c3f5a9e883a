"""Tasks whose examples are no images, with the rules that fit: short runs, a step in float64, and plain code that it is compared with."""

import copy
from collections.abc import Collection, Sequence

import pytest
import torch
import torch.nn.functional as F
import toy_tasks

from gradlens.gradients.backward import run_step
from gradlens.gradients.block_pass import outputs
from gradlens.methods import METHODS
from gradlens.models.feedback_point import FeedbackPoint
from gradlens.runtime.rng import key, seed_global
from gradlens.training.config import make_config
from gradlens.training.context import RunContext, load_data
from gradlens.training.runs.build_state import build_state

ANY = [name for name, rule in METHODS.items() if not rule.images_only]
REFUSED = {(task, "dgl-async"): "stores what each block gives to the next" for task in ("tokens", "clicks")}
CASES = [(task, name) for task in ("tokens", "ring", "graphs", "language", "clicks") for name in ANY if (task, name) not in REFUSED]
INSIDE = [
    (task, name) for task in ("tokens", "language") for name in ("dfa inside", "dfa features") if (task, name) != ("tokens", "dfa features")
]
TIED = [("language", f"{name} tied") for name in ("dgl", "overlap", "dgl-async")]
VARIANTS = [*INSIDE, *TIED]
ALL = [*CASES, *VARIANTS]
OPTIONS = {
    "greedy": {"stage_epochs": 1}, "dgl-async": {"order": "in-order", "buffer": 2}, "dfa inside": {"points": "inside"},
    "dfa features": {"points": "inside", "error": "features", "shared": True},
    "dgl tied": {"head": "tied"}, "overlap tied": {"head": "tied"}, "dgl-async tied": {"head": "tied", "order": "in-order", "buffer": 2},
}  # fmt: skip


def covering(cases: Sequence[tuple[str, str]], turn: int = 0) -> set[tuple[str, str]]:
    """Each rule once, the tasks in turn: every rule and every task is there. Another ``turn`` pairs them otherwise."""
    tasks = {name: [task for task, other in cases if other == name] for _, name in cases}
    chosen = {(fit[(i + turn) % len(fit)], name) for i, (name, fit) in enumerate(tasks.items())}
    assert {task for task, _ in chosen} == {task for task, _ in cases}
    return chosen


def each_rule_and_task(cases: Sequence[tuple[str, str]], turn: int, slow: Collection[tuple[str, str]] = ()) -> pytest.MarkDecorator:
    """All pairs of task and rule; by default those of :func:`covering`, without those that are ``slow`` here."""
    few = covering(cases, turn)
    found = [pytest.param(*case, marks=[pytest.mark.slow] * (case not in few or case in slow)) for case in cases]
    return pytest.mark.parametrize(("task", "name"), found)


def config_of(task, name, **more):
    method = name.split()[0]
    settings = {"epochs": 5, "lr": 0.01, "width": 6, "options": OPTIONS.get(name, {}), "record_every": 2, "diagnose_every": 1}
    own = {
        "language": {"task_options": {"length": 5}, "depth": 3, "heads": 2, "batch_size": 4, "dropout": 0.1},
        "graphs": {"data": "karate", "depth": 2, "dropout": 0.1},
        "clicks": {
            "task_options": {**toy_tasks.CLICK_COLUMNS, "rare": 3}, "batch_size": 24, "model": "autoint", "embedding": 4, "interactions": 1,
            "depth": 2,
        },
    }  # fmt: skip
    if task == "language":
        settings["data"] = str(toy_tasks.text_file())
    if task == "clicks":
        settings["data"] = str(toy_tasks.click_file())
    return make_config(**{"method": method, "task": task, **settings, **own.get(task, {}), **more})


def state_of(config, dtype=torch.float64):
    """A run in float64, in the middle of it: past its warm-up, in its last stage."""
    state = build_state(config, load_data(config, RunContext()), torch.device("cpu"))
    for module in state.network:
        module.to(dtype)
    return state


def a_step(state, step=0):
    """One step, with its batch's context set; the caller is inside ``batches.sharded``."""
    model, method = state.network
    x, y = state.batches.batch(step)
    x = x.double() if x.is_floating_point() else x
    method.start(99, 1 << 20)
    seed_global(key(0, "step", step))
    return x, y, run_step(method, list(model), x, y)


def mean_loss(z, y):
    """The loss in plain words: the sum over the items by their number; of one logit the log loss."""
    if z.shape[-1] == 1:
        return F.binary_cross_entropy_with_logits(z[:, 0], y.to(z))
    known = y >= 0
    return F.cross_entropy(z[known], y[known], reduction="sum") / known.sum()


def term_of_tokens(h, y):
    """The objective's term at a block of the toy tokens, in plain words."""
    return 0.3 * mean_loss(h[..., : toy_tasks.WORDS], y)


def backward_on_a_copy(state, x, y):
    """``loss.backward()`` on an uncut copy: (the copy, each block's output, the loss)."""
    twin = copy.deepcopy(state.network.model)
    seed_global(key(0, "step", 0))
    hs = []
    for h in outputs(twin, x):
        h.retain_grad()
        hs.append(h)
    loss = F.binary_cross_entropy_with_logits(hs[-1][:, 0], y.to(hs[-1])) if state.config.task == "clicks" else mean_loss(hs[-1], y)
    for k in state.network.method.terms:
        loss = loss + term_of_tokens(hs[k], y)
    loss.backward()
    return twin, hs, loss.detach()


def cut_copy(state, x, first, *, points=False):
    """A copy whose blocks run without a gradient to those before ``first``: (the copy, each block's output, the points' inputs by key).

    Args:
        state: the run.
        x: the network's input.
        first: block; None: no gradient from any block to another.
        points: whether feedback points, too, let no gradient through; else there are no inputs of theirs.

    """
    twin, hs, inside = copy.deepcopy(state.network.model), [], {}

    def cut(point):
        def forward(h):
            inside[point.key] = h
            return h.detach().requires_grad_()

        return forward

    for point in (m for m in twin.modules() if points and isinstance(m, FeedbackPoint) and m.key):
        point.forward = cut(point)
    seed_global(key(0, "step", 0))
    for k, block in enumerate(twin):
        read = [hs[k - 1] if k else x, *(hs[j] for j in getattr(block, "reads_blocks", ()))]
        hs.append(block(*([h.detach() for h in read] if first is None else read)))
        if first is not None and k < first:
            hs[k] = hs[k].detach()
        if hs[k].requires_grad:
            hs[k].retain_grad()
    return twin, hs, inside
