"""Blocks on several ranks are blocks in one process: bit for bit where nothing from above is heard late."""

import json
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import shelf
import torch
from oracles import needed
from ranks import alone, together

from gradlens.data.datasets import load
from gradlens.gradients.block_pass import Pass
from gradlens.gradients.method import Signal
from gradlens.gradients.rows import Measurement
from gradlens.methods import METHODS
from gradlens.methods.backprop import Backprop
from gradlens.runtime.errors import InputError
from gradlens.runtime.process_group import ProcessGroup
from gradlens.training.build import ModelAndMethod
from gradlens.training.config import Config, make_config
from gradlens.training.context import RunContext
from gradlens.training.loop import fit
from gradlens.training.parallel import choose
from gradlens.training.parallel.partition import require_separable, split_over
from gradlens.training.parallel.stage import LayerStage
from gradlens.training.run_directory import load_run
from gradlens.training.runs.build_state import build_on_rank, build_state
from gradlens.training.runs.check import check
from gradlens.training.runs.remeasure import measure_run
from gradlens.training.saving import checkpoint_of

LIMIT, BATCH, EPOCHS = 100, 32, 2  # batches of 32, 32, 32, 4
LOCAL: dict[str, dict[str, Any]] = {  # hear nothing from above between ranks
    "dgl": {},
    "predsim": {},
    "infopro": {},
    "chunked": {"options": {"chunks": [1, 2]}},
    "simclr-local": {},
    "infomax": {"split": [1, 1]},
    "cpc-local": {"split": [1, 1]},
    "context-encoder-local": {},
    "overlap": {"model": "mlp", "depth": 5, "options": {"window": 1}},
}
WAITING: dict[str, dict[str, Any]] = {"dni": {}, "cdni": {}, "dfa": {}}


STARTS_RANKS = pytest.mark.torchrun


def settings(name: str, ranks: int, **more: Any) -> Config:
    asked = {"width": 4, "limit": LIMIT, "batch_size": BATCH, "epochs": EPOCHS, "record_every": 2, "diagnose_every": 0}
    shared = {"ranks": ranks, "parallel": "layers"} if ranks > 1 else {}
    own = {k: v for k, v in more.items() if ranks > 1 or k not in ("split", "stale", "schedule", "microbatches")}
    return make_config(method=name, **{**asked, **needed(name), **own, **shared})


def trained(world: ProcessGroup, cases: Sequence[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Each case trained by the loop itself, nothing written: its weights, state and rows."""
    found = []
    for name, more in cases:
        config = settings(name, world.num_ranks, **more)
        state = build_state(config, load("digits", limit=config.data.limit), torch.device("cpu"), world)
        rows: list[tuple[Any, ...]] = []
        metrics: list[tuple[Any, ...]] = []

        def watch(event: str, numbers: dict[str, Any], rows: Any = rows, metrics: Any = metrics) -> None:
            if event == "metric":
                metrics.append(tuple(numbers.values()))
            if event == "rows":
                rows += [tuple(row) for row in numbers["rows"]]

        fit(state, watch=watch)
        found.append({"state": checkpoint_of(state), "rows": rows, "metrics": metrics})
    return found


def same(a: Any, b: Any) -> bool:
    """The same to the bit, in whatever they are packed."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b) or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


CASES = [*LOCAL.items(), *WAITING.items()]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each rank has
    try:
        one = alone(trained, CASES)
    finally:
        torch.set_num_threads(threads)
    return one, together(2, trained, tmp_path_factory.mktemp("two"), CASES)


@STARTS_RANKS
@pytest.mark.parametrize("i", range(len(CASES)), ids=[name for name, _ in CASES])
def test_a_pipelined_run_is_the_run_of_one_process_bit_for_bit(both, i):
    one, ranks = both
    for two in ranks:
        assert same(two[i]["state"]["model"], one[i]["state"]["model"])
        assert same(two[i]["state"]["method"], one[i]["state"]["method"])
        assert same(two[i]["metrics"], one[i]["metrics"])
    assert same(ranks[0][i]["state"]["optimizer"], one[i]["state"]["optimizer"])
    assert same(ranks[0][i]["rows"], one[i]["rows"])
    assert len(one[i]["rows"]) > 20


LATE = [
    ("dni", {"stale": True, "split": [1, 1, 2]}),
    ("cdni", {"stale": True, "split": [2, 1, 1]}),
    ("dfa", {"stale": True, "split": [1, 2, 1]}),
    ("dgl", {"model": "mlp", "depth": 4, "split": [1, 2, 2]}),
    ("dgl-async", {"split": [1, 1, 2], "options": {"buffer": 3}, "limit": 96}),
    ("bp", {"model": "mlp", "record_every": 0, "schedule": "gpipe", "microbatches": 4}),
    ("bp", {"model": "mlp", "record_every": 0, "schedule": "1f1b", "microbatches": 4}),
]


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return together(3, trained, tmp_path_factory.mktemp("three"), LATE)


def named(rows: Sequence[tuple[Any, ...]], quantity: str) -> list[Measurement]:
    return [Measurement(*row) for row in rows if row[3] == quantity]


@STARTS_RANKS
def test_stale_runs_say_how_late_messages_are(three):
    dni, cdni, dfa, *_ = three[0]
    assert {(row.layer, row.value) for row in named(dni["rows"], "delay")} == {("block1", 1.0), ("block2", 1.0)}
    assert {(row.layer, row.value) for row in named(cdni["rows"], "delay")} == {("block2", 1.0), ("block3", 1.0)}
    assert {(row.layer, row.value) for row in named(dfa["rows"], "delay")} == {("block1", 2.0), ("block2", 1.0), ("block3", 1.0)}


@STARTS_RANKS
def test_stale_runs_are_deterministic_and_the_ranks_agree(three, tmp_path_factory):
    again = together(3, trained, tmp_path_factory.mktemp("again"), LATE[:3])
    for i in range(3):
        assert same(again[0][i], three[0][i])
        assert same(three[2][i]["state"]["model"], three[0][i]["state"]["model"])


# --------------------------------------------------------------------------------- stale messages, by slow and obvious code

SGD = {"model": "mlp", "depth": 2, "optimizer": "sgd", "lr": 0.05, "record_every": 0, "epochs": 1, "stale": True, "split": [1, 2]}


@pytest.fixture(scope="module")
def stale(tmp_path_factory):
    """One epoch of each, block1 on one rank, block2 and the top on the other."""
    return together(2, trained, tmp_path_factory.mktemp("stale"), [("dni", SGD), ("dfa", SGD)])[0]


def by_hand(name: str) -> tuple[ModelAndMethod, list[tuple[torch.Tensor, torch.Tensor]]]:
    state = build_state(settings(name, 1, **SGD), load("digits", limit=LIMIT), torch.device("cpu"))
    return state.network, [state.batches.batch(step) for step in range(state.batches.total)]


def descend(params: Sequence[torch.Tensor], loss: torch.Tensor, messages: torch.Tensor | None = None) -> None:
    grads = torch.autograd.grad(loss, list(params), messages, allow_unused=True)
    with torch.no_grad():
        for p, g in zip(params, grads, strict=True):
            if g is not None:
                p -= SGD["lr"] * g


@STARTS_RANKS
def test_a_stale_synthesiser_learns_from_the_batch_before(stale):
    network, batches = by_hand("dni")
    (one, two, top), method = list(network.model), network.method
    below, above = method.synthesisers[0], method.synthesisers[1]
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []  # what block1 gave, and what block2 sent back for it

    def regress(synthesiser: Any, h: torch.Tensor, message: torch.Tensor) -> None:
        descend(list(synthesiser.parameters()), (synthesiser(h) - message * len(h)).square().sum() / len(h))

    for x, y in [*batches, (None, None)]:
        if x is not None:
            h1 = one(x)
            z1 = h1.detach().requires_grad_()
            h2 = two(z1)
            z2 = h2.detach().requires_grad_()
            loss = torch.nn.functional.cross_entropy(top(z2), y)
            told1, told2 = below(z1.detach()).detach() / len(y), above(z2.detach()).detach() / len(y)
            (message2,) = torch.autograd.grad(loss, z2, retain_graph=True)
            (message1,) = torch.autograd.grad(h2, z1, told2, retain_graph=True)
            late = kept.pop() if kept else None
            steps = [(one, h1, told1), (two, h2, told2), (top, loss, None)]
            grads = [torch.autograd.grad(h, list(block.parameters()), m) for block, h, m in steps]
            if late:
                regress(below, *late)
            regress(above, z2.detach(), message2)
            with torch.no_grad():
                for (block, *_), found in zip(steps, grads, strict=True):
                    for p, g in zip(block.parameters(), found, strict=True):
                        p -= SGD["lr"] * g
            kept.append((z1.detach(), message1))
        else:  # the end of the epoch: what is under way is finished
            regress(below, *kept.pop())
    for module, kind in ((network.model, "model"), (network.method, "method")):
        for key, w in module.named_parameters():  # running statistics saw more here: S is run a second time for the late message
            assert torch.allclose(stale[0]["state"][kind][key], w, rtol=1e-4, atol=1e-6), key


@STARTS_RANKS
def test_a_late_error_meets_the_inputs_of_its_own_batch(stale):
    network, batches = by_hand("dfa")
    (one, two, top), method = list(network.model), network.method
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []  # an input and the error it made
    for x, y in [*batches, (None, None)]:
        late = kept.pop() if kept else None
        if x is not None:
            with torch.no_grad():
                z1 = one(x)
            h2 = two(z1)
            z2 = h2.detach()
            logits = top(z2)
            (error,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, y), logits, retain_graph=True)
            descend(list(top.parameters()), logits, error)
            descend(list(two.parameters()), h2, error @ method.matrix(1))
            kept.append((x, error))
        if late:
            descend(list(one.parameters()), one(late[0]), late[1] @ method.matrix(0))
    for key, w in network.model.state_dict().items():
        assert torch.allclose(stale[1]["state"]["model"][key], w, rtol=1e-4, atol=1e-6), key


@STARTS_RANKS
def test_three_ranks_pipeline_dgl_bit_for_bit(three):
    torch.set_num_threads(1)
    (one,) = alone(trained, [LATE[3]])
    assert same(three[0][3]["state"]["model"], one["state"]["model"])
    assert same(three[0][3]["rows"], one["rows"])


@STARTS_RANKS
def test_queues_record_staleness_and_train(three):
    found = three[0][4]
    staleness = named(found["rows"], "staleness")
    assert {row.layer for row in staleness} == {"block1", "block2", "block3"}
    assert all(row.value >= 0 for row in staleness)
    assert all(row.value == 0 for row in staleness if row.layer == "block1")
    assert {row.reference for row in staleness} == {"no truth: ranks work on different batches"}


@STARTS_RANKS
@pytest.mark.parametrize("i", [5, 6], ids=["gpipe", "1f1b"])
def test_torchs_pipelines_compute_backprop(three, i):
    """Without BatchNorm the microbatches' mean gradient is the batch's: the losses of one process, to rounding."""
    (one,) = alone(trained, [("bp", {"model": "mlp", "record_every": 0})])
    for key, w in one["state"]["model"].items():
        assert torch.allclose(three[0][i]["state"]["model"][key], w, rtol=1e-4, atol=1e-6), key


# ------------------------------------------------------------------------------------------------------------ refusals


def parts(name: str, **more: Any) -> Any:
    return build_state(settings(name, 1, **more), load("digits", limit=LIMIT), torch.device("cpu")).network


def test_blocks_are_split_where_the_rule_allows_it():
    network = parts("dgl", model="mlp", depth=4)
    assert split_over(network.method, [1, 1, 1, 1, 1], 2, network.block_names()) == [range(2), range(2, 5)]
    assert split_over(network.method, [9, 1, 1, 1, 1], 2, network.block_names()) == [range(1), range(1, 5)]
    assert split_over(network.method, [1.0] * 5, 2, network.block_names(), [3, 2]) == [range(3), range(3, 5)]


@pytest.mark.parametrize(
    ("name", "ranks", "sizes", "said"),
    [
        (
            "dgl",
            4,
            None,
            "4 ranks are too many: .* 4 blocks that can be split at 2 places, after block1, block2",
        ),
        ("dgl", 2, [3, 1], "splits the network after block3; it has 4 blocks"),
        ("dgl", 2, [1, 1], "expected 2 numbers of blocks that add up to 4"),
        ("chunked", 3, None, "3 ranks are too many"),
    ],
)
def test_splits_that_cannot_be(name, ranks, sizes, said):
    network = parts(name)
    with pytest.raises(InputError, match=said):
        split_over(network.method, [1.0] * 4, ranks, network.block_names(), sizes)


def test_a_split_that_parts_a_shared_parameter_is_refused():
    one, two, three = (torch.nn.Linear(3, 3) for _ in range(3))
    three.weight = one.weight
    model = torch.nn.Sequential(OrderedDict(one=one, two=two, three=three))
    with pytest.raises(InputError, match=r"three\.weight belongs to blocks on different ranks"):
        require_separable(model, [range(2), range(2, 3)])
    require_separable(model, [range(3)])
    three.weight = two.weight
    require_separable(model, [range(1), range(1, 3)])
    with pytest.raises(InputError, match=r"three\.weight"):
        require_separable(model, [range(1), range(1, 2)])  # the last block is on no rank, where its weight would stay behind


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("bp", {"record_every": 0, "microbatches": 5}, "32 images do not divide into 5 microbatches"),
        ("bp", {"record_every": 0, "microbatches": 1}, "--schedule 1f1b keeps 2 ranks busy"),
        ("bp", {"record_every": 0, "stale": True}, "--stale: pipelined backprop always waits"),
        ("dgl", {"stale": True}, "--stale: dgl waits for no backward message"),
        ("dgl-async", {"limit": 100}, "100 images by --batch-size 32 leave 4"),
        ("fa", {}, "fa cannot work on several batches at once: .*backward-locked"),
    ],
)
def test_what_cannot_run_on_ranks_is_refused_from_shapes_alone(name, more, said):
    with pytest.raises(InputError, match=said):
        check(settings(name, 2, **more), RunContext())


class Halved(Backprop):
    """Backprop whose messages are halved."""

    def signal(self, k: int, passes: Mapping[int, Pass], received: tuple[torch.Tensor, ...]) -> Signal:
        said = super().signal(k, passes, received)
        return said if k == self.num_blocks - 1 else said._replace(messages_below=(said.delta / 2,))


def test_a_rule_that_changes_backprop_is_not_given_to_torchs_pipeline(monkeypatch):
    monkeypatch.setitem(METHODS, "halved", Halved)
    assert METHODS["bp"].pipelined
    config = settings("halved", 2, split=[1, 3])
    with pytest.raises(InputError, match="halved cannot work on several batches at once: .*backward-locked"):
        check(config, RunContext())
    with pytest.raises(InputError, match="backward-locked"):
        build_on_rank(config, load("digits", limit=LIMIT), torch.device("cpu"), ProcessGroup(0, 2))


@pytest.mark.parametrize(("parallel", "ranks", "here"), [("layers", 2, 1), ("data", 4, 1), ("none", 1, 2), ("data", 2, 3)])
def test_a_config_of_more_or_fewer_ranks_than_there_are_is_refused(parallel, ranks, here):
    config = make_config(method="dgl", width=4, limit=96, batch_size=32, diagnose_every=0, parallel=parallel, ranks=ranks)
    said = rf"the config is of {ranks} ranks? .* and here (is 1 process|are {here} processes): "
    with pytest.raises(InputError, match=said):
        check(config, RunContext(ranks=ProcessGroup(0, here)))
    with pytest.raises(InputError, match=said):
        build_on_rank(config, load("digits", limit=96), torch.device("cpu"), ProcessGroup(0, here))


def test_a_run_of_several_ranks_is_measured_in_one_process(tmp_path):
    run = shelf.copied(shelf.trained(settings("dgl", 1, limit=96)), tmp_path)
    content = json.loads((run.path / "config.json").read_text())
    content["config"] |= {"ranks": 2, "parallel": "layers", "split": [1, 3]}
    (run.path / "config.json").write_text(json.dumps(content))
    assert measure_run(load_run(run.path), ("cosine",), RunContext())


@pytest.mark.parametrize("name", ["dgl", "dni", "dfa", "dgl-async"])
def test_making_a_stage_measures_and_sends_nothing_and_adding_one_measures_unless_the_config_says_who_has_what(name, monkeypatch):
    def fail(*_: object) -> None:
        raise AssertionError

    config = settings(name, 2, split=[1, 3], limit=96)
    monkeypatch.setattr(choose, "block_costs", fail)
    for rank in range(2):
        state = build_on_rank(config, load("digits", limit=96), torch.device("cpu"), ProcessGroup(rank, 2))  # no store, no messages
        stage = choose.make_stage(state)
        assert isinstance(stage, LayerStage)
        assert [len(r) for r in stage.ranges] == [1, 3]
        assert stage.bytes_sent() == 0
    by_cost = build_on_rank(config.replace(split=None), load("digits", limit=96), torch.device("cpu"), ProcessGroup(0, 2))
    for costs, split in (([9.0, 1.0, 1.0, 1.0], [1, 3]), ([1.0, 9.0, 1.0, 1.0], [2, 2])):
        assert [len(r) for r in choose.make_stage(by_cost, costs).ranges] == split
    monkeypatch.setattr(ProcessGroup, "fail_together", lambda self, act: act())
    with pytest.raises(AssertionError):  # without --split the costs decide
        choose.add_stage(by_cost)
    choose.add_stage(state)


@pytest.mark.parametrize("name", METHODS)
def test_every_rule_says_which_lock_keeps_it_from_running_on_ranks(name):
    rule = METHODS[name]
    if rule.has_teacher:
        return
    method = parts(name, epochs=3).method
    if name in {*LOCAL, *WAITING, "dgl-async"} - {"overlap"}:
        assert method.locking_reason() is None
    else:
        assert method.locking_reason()
    if "backward_message" in rule.depends_on and name != "chunked":
        assert "backward-locked" in str(method.locking_reason())
