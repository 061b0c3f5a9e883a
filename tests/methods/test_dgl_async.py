"""Asynchronous greedy learning against a loop with buffers written by hand, in its limit (dgl), and what it keeps."""

import copy
import gc
import io
import weakref
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import Case, assert_near, assert_same_bits, batches, case, frozen, nll, rule, uncut

from gradlens.data.datasets import load as load_data
from gradlens.gradients.backward import backward, run_step
from gradlens.gradients.diagnostics import HALVES
from gradlens.gradients.method import Step
from gradlens.gradients.replay_buffer import Buffer
from gradlens.gradients.rows import step_rows
from gradlens.gradients.true_gradient import true_gradients
from gradlens.methods import METHODS
from gradlens.models.block_boundaries import output_shapes
from gradlens.models.zoo import ModelSpec, build
from gradlens.runtime.errors import InputError
from gradlens.training.build import ModelAndMethod, load_weights, make_network_info
from gradlens.training.checkpoint import load_checkpoint
from gradlens.training.config import make_config
from gradlens.training.runs.build_state import build_state
from gradlens.training.step import Recording, training_step


def fresh(c: Case, **options):
    """The rule before its first round, in random order."""
    return rule("dgl-async", c, warmed_up=False, **{"order": "random", "warmup": 0, **options})


def sgd(method, c):
    return torch.optim.SGD(method.param_groups(c.blocks), lr=0.05, momentum=0.9)


# -------------------------------------------------------------------------------------------------------------- the buffer


def numbers(buffer, times, limit=10**9):
    found = [buffer.sample(limit) for _ in range(times)]
    return [None if f is None else int(f.h) for f in found]


def test_the_newest_of_the_least_read_comes_first():
    buffer = Buffer(3)
    for i in range(5):
        buffer.write(torch.tensor(float(i)), torch.tensor(i), i)
    assert numbers(buffer, 7) == [4, 3, 2, 4, 3, 2, 4]
    buffer.write(torch.tensor(5.0), torch.tensor(5), 5)  # drops 2, the oldest
    assert numbers(buffer, 6) == [5, 5, 5, 3, 5, 4]  # 3 was read twice before, 4 three times


class Published:
    """The authors' ring (``buffer_experiments/cifar_buffer.py``, priority_lifo) from its description: which batch is read next."""

    def __init__(self, size):
        self.size, self.places, self.uses, self.next = size, [None] * size, [0] * size, 0

    def write(self, number):
        self.places[self.next], self.uses[self.next], self.next = number, 1, (self.next + 1) % self.size

    def sample(self):
        if self.size == 1:  # uses are not counted
            return self.places[0]
        held = [i for i in range(self.size) if self.places[i] is not None]
        least = [i for i in held if self.uses[i] == min(self.uses[k] for k in held)]
        best = max(
            i - self.size if len(held) == self.size and i > self.next else i for i in least
        )  # the oldest, at next, is not moved down
        self.uses[best] += 1
        return self.places[best]


def test_the_published_ring_differs_as_the_docstring_says():
    ours, theirs = Buffer(3), Published(3)
    for i in range(2):
        ours.write(torch.tensor(float(i)), torch.tensor(i), i), theirs.write(i)
    assert numbers(ours, 4) == [theirs.sample() for _ in range(4)] == [1, 0, 1, 0]
    for i in (2, 3):
        ours.write(torch.tensor(float(i)), torch.tensor(i), i), theirs.write(i)
    assert numbers(ours, 2) == [3, 2]
    assert [theirs.sample(), theirs.sample()] == [3, 2]  # 1, the oldest, was read before
    ours, theirs = Buffer(3), Published(3)
    for i in range(4):
        ours.write(torch.tensor(float(i)), torch.tensor(i), i), theirs.write(i)
    assert numbers(ours, 3) == [3, 2, 1]
    assert [theirs.sample() for _ in range(3)] == [1, 3, 2]  # all unread: the oldest first
    ours, theirs = Buffer(1), Published(1)
    ours.write(torch.tensor(7.0), torch.tensor(7), 0), theirs.write(7)
    assert numbers(ours, 4, limit=2) == [7, 7, None, None]
    assert [theirs.sample() for _ in range(4)] == [7] * 4


def test_a_batch_is_read_so_many_times_and_no_more():
    buffer = Buffer(2)
    assert buffer.sample(1) is None
    for i in range(2):
        buffer.write(torch.tensor(float(i)), torch.tensor(i), i)
    assert numbers(buffer, 6, limit=2) == [1, 0, 1, 0, None, None]
    buffer.write(torch.tensor(2.0), torch.tensor(2), 2)
    assert numbers(buffer, 3, limit=2) == [2, 2, None]


def sampled_by_hand(stored, limit):
    """The rule in words: keep those below the limit; of them those read least often; of them the one written last."""
    left = [s for s in stored if s["uses"] < limit]
    least = [s for s in left if s["uses"] == min(t["uses"] for t in left)]
    if not least:
        return None
    least[-1]["uses"] += 1
    return least[-1]


@given(size=st.integers(1, 4), limit=st.integers(1, 3), script=st.lists(st.booleans(), max_size=40))
@settings(deadline=None, max_examples=60)
def test_any_script_of_writes_and_reads_agrees_with_a_list(size, limit, script):
    buffer, stored = Buffer(size), []
    for i, write in enumerate(script):
        if write:
            buffer.write(torch.tensor(float(i)), torch.tensor(i), i)
            stored = [*stored, {"i": i, "uses": 0}][-size:]
        else:
            got, want = buffer.sample(limit), sampled_by_hand(stored, limit)
            assert (got and got.written) == (want and want["i"])


# -------------------------------------------------------------------------------------------- a loop with buffers, by hand


def asynchronous_by_hand(model, heads, stream, visits, optimizer, size, reuse):
    """One optimiser a unit, a list of dicts above each; returns what each round read: {unit: rounds since it was written}."""
    units = [*((f, a) for f, a in zip(model, heads, strict=False)), (model[-2], model[-1])]
    todo = [(f, a, optimizer([*f.parameters(), *a.parameters()])) for f, a in units]
    lists, log = [[] for _ in units], []
    for now, ((x, y), order) in enumerate(zip(stream, visits, strict=True)):
        log.append({})
        for k in order:
            f, a, opt = todo[k]
            entry = {"h": x, "y": y, "at": now} if k == 0 else sampled_by_hand(lists[k - 1], reuse)
            if entry is None:
                continue
            log[-1][k] = now - entry["at"]
            opt.zero_grad()
            h = f(entry["h"].clone())
            nll(a(h), entry["y"]).backward()
            lists[k] = [*lists[k], {"h": h.detach().clone(), "y": entry["y"], "at": now, "uses": 0}][-size:]
            opt.step()
    return log


def of_many_sizes(c, n):
    return [(x[: 6 - i % 3], y[: 6 - i % 3]) for i, (x, y) in enumerate(batches(c, n))]


@pytest.mark.parametrize(
    "options",
    [
        {"buffer": 1},
        {"buffer": 3, "warmup": 2},
        {"buffer": 2, "slowed": 1, "slowdown": 3, "reuse": 2},
        {"buffer": 2, "slowed": 2, "slowdown": 4, "reuse": 1},
        {"buffer": 4, "slowed": 3, "slowdown": 2},
        {"buffer": 2, "order": "in-order", "slowed": 2, "slowdown": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("network", ["basic-cnn", "mlp"])
def test_rounds_equal_a_loop_with_lists_whatever_the_order(network, options):
    c = case(network)
    method = fresh(c, **options)
    stream = of_many_sizes(c, 14)
    model, heads = copy.deepcopy(c.model), copy.deepcopy(list(method.heads.values()))
    optimizer, pair, visits, read = sgd(method, c), ModelAndMethod(c.model, method), [], []
    for i, (x, y) in enumerate(stream):
        method.start(1, i)
        visits.append(method.visited())
        training_step(pair, optimizer, x, y)
        read.append(method.staleness)
    log = asynchronous_by_hand(
        model, heads, stream, visits, lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9), method.options.buffer, method.options.reuse
    )
    assert read == log
    assert_near(frozen(c.model), frozen(model))
    for got, want in zip(method.heads.values(), heads, strict=True):
        assert_near(frozen(got), frozen(want))
    units = set(range(method.units))
    ages = {age for round_ in log for age in round_.values()}
    waited = [r for r, order in zip(log, visits, strict=True) if set(r) < set(order)]
    assert (len(ages) > 1) == (options.get("order") != "in-order" or options["slowed"] > 1)  # or nothing was tested
    assert bool(waited) == (options.get("reuse", 10) < 3)  # a unit found nothing left to read
    assert all(set(order) == units for order in visits) == ("slowed" not in options)


# ---------------------------------------------------------------------------------------------------- in order it is dgl


def states_equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(t, b[n]) for n, t in a.items() if isinstance(t, torch.Tensor))


@pytest.mark.parametrize("network", ["basic-cnn", "mlp", "linear"])
@pytest.mark.parametrize("buffer", [1, 4])
def test_in_order_without_warm_up_it_equals_dgl_bit_for_bit(network, buffer):
    """Through the trainer: weights, heads, optimiser, batch statistics, and what is recorded."""
    runs = []
    for name, options in (("dgl", {}), ("dgl-async", {"buffer": buffer, "order": "in-order", "warmup": 0})):
        config = make_config(
            method=name, options=options, model=network, width=4, limit=70, batch_size=32, epochs=3, lr=1e-2,
            augment=True, record_every=2, diagnose_every=2,
        )  # fmt: skip
        state = build_state(config, load_data("digits", limit=70), torch.device("cpu"))
        rows = []
        for i in range(9):  # the last batch of an epoch is smaller
            state.network.method.start(i // 3 + 1, i)
            number = i if i % 2 == 0 else None
            outcome = training_step(state.network, state.optimizer, *state.batches.batch(i), Recording(number, diagnose=i == 4))
            rows += [repr(r) for r in outcome.rows if r.quantity not in ("staleness", *HALVES)]  # stored batches have no halves
            assert {r.value for r in outcome.rows if r.quantity == "staleness"} <= {0.0}
        runs.append((state, rows))
    (dgl, want), (ours, got) = runs
    assert got == want
    assert all("same passes" in row for row in got)
    assert_same_bits(frozen(ours.network.model), frozen(dgl.network.model))
    assert_same_bits(frozen(ours.network.method), frozen(dgl.network.method))
    for mine, theirs in zip(ours.optimizer.state.values(), dgl.optimizer.state.values(), strict=True):
        assert states_equal(mine, theirs)


def test_a_network_of_one_unit_has_no_buffers():
    c = case("mlp")
    c = c._replace(model=build("mlp", ModelSpec((1, 8, 8), 10, width=12, depth=1)).double())
    method, twin = fresh(c), uncut(c.model, c.x, c.y)
    assert method.rings == []
    for u in backward(method, method.forward(c.blocks, c.x, c.y)):
        assert_same_bits(u.grad.params, twin.gradients(u.k))
    load_weights(fresh(c), method.state_dict(), "here")


# -------------------------------------------------------------------------------------------------------------- the order


def filled(c, **options):
    method = fresh(c, **options)
    list(method.forward(c.blocks, c.x, c.y))
    return method


def orders(method, rounds, first=1):
    found = []
    for i in range(first, first + rounds):
        method.start(1, i)
        found.append(method.visited())
    return found


def test_a_round_visits_every_unit_once_in_any_order_alike():
    method = filled(case("basic-cnn"))
    seen = Counter(map(tuple, orders(method, 3000)))
    assert len(seen) == 6  # 3!
    assert all(sorted(order) == [0, 1, 2] for order in seen)
    assert all(abs(n - 500) < 5 * (3000 * 5 / 36) ** 0.5 for n in seen.values())


@pytest.mark.parametrize("slowdown", [1.0, 1.25, 4.0])
@pytest.mark.parametrize("slowed", [1, 3])
def test_a_slowed_unit_runs_in_one_round_of_s(slowed, slowdown):
    method = filled(case("basic-cnn"), slowed=slowed, slowdown=slowdown)
    n = 3000
    counts = Counter(unit for order in orders(method, n) for unit in order)
    p = 1 / slowdown
    assert abs(counts[slowed - 1] - n * p) <= 5 * (n * p * (1 - p)) ** 0.5
    assert all(counts[unit] == n for unit in range(3) if unit != slowed - 1)


def test_the_order_depends_on_seed_and_round_alone():
    c = case("mlp")
    first, again = filled(c), filled(c)
    torch.manual_seed(99)
    stream = torch.get_rng_state()
    assert orders(first, 30) == orders(again, 40, first=1)[:30]
    assert torch.equal(torch.get_rng_state(), stream)
    net = make_network_info(c.model, c.shape, 10, nll, seed=4)
    other = METHODS["dgl-async"](net, METHODS["dgl-async"].Options(warmup=0)).double()
    assert orders(other, 30) == [list(range(4))] * 30  # nothing to read yet: in order
    list(other.forward(c.blocks, c.x, c.y))
    assert orders(other, 30) != orders(first, 30)
    slow = filled(c, slowed=2, slowdown=3)  # slowness takes units out and moves no other
    without = [[unit for unit in order if unit != 1] for order in orders(first, 30)]
    assert [[unit for unit in order if unit != 1] for order in orders(slow, 30)] == without


def test_warm_up_goes_in_order_and_skips_no_block():
    method = filled(case("mlp"), warmup=5, slowed=1, slowdown=1000)
    assert orders(method, 5, first=0) == [[0, 1, 2, 3]] * 5
    assert all(0 not in order for order in orders(method, 5, first=5))


# ------------------------------------------------------------------------------------------------------------- the records


def recorded(c, rounds=6, **options):
    """A rule in the middle of a run, and the first later round in which something stale was read."""
    method = fresh(c, **options)
    optimizer = sgd(method, c)
    for i, (x, y) in enumerate(batches(c, rounds)):
        method.start(1, i)
        training_step(ModelAndMethod(c.model, method), optimizer, x, y)
    for i in range(rounds, 99):
        method.start(1, i)
        trial = copy.deepcopy(method)
        list(trial.forward(copy.deepcopy(c.blocks), c.x, c.y))
        if max(trial.staleness.values()) > 1:
            return method, i
    raise AssertionError("nothing stale in a hundred rounds")


@pytest.mark.parametrize("network", ["basic-cnn", "mlp"])
def test_the_truth_of_a_stale_round_comes_from_a_clean_pass_and_staleness_is_recorded(network):
    c = case(network, torch.float32)
    method, number = recorded(c, slowed=1, slowdown=3)
    before = frozen(c.model)
    stale = copy.deepcopy(method)
    list(stale.forward(copy.deepcopy(c.blocks), c.x, c.y))
    model = copy.deepcopy(c.model)
    twin = uncut(model, c.x, c.y)
    run = run_step(method, c.blocks, c.x, c.y)
    after = frozen(c.model), method.get_extra_state()
    truth = true_gradients(method, run)
    assert truth.reference == "loss, clean chain pass"
    for k, grad in enumerate(truth.grads):
        assert_same_bits(grad.params, twin.gradients(k))
    assert_same_bits(frozen(c.model), after[0])
    assert all(torch.equal(before[n], after[0][n]) for n, _ in c.model.named_parameters())
    again = method.get_extra_state()
    assert str(again) == str(after[1])
    names = [n for n, _ in c.model.named_children()]
    rows = step_rows(number, names, method, run, truth)
    found = {r.layer: r.value for r in rows if r.quantity == "staleness"}
    assert found == {names[k]: age for k, age in stale.staleness.items()}
    assert max(found.values()) > 1
    cosine = {(r.layer, r.kind): r.value for r in rows if r.quantity == "cosine"}
    assert abs(cosine["top", "activation"]) < 1 - 1e-6  # what it used is another batch's


@pytest.mark.parametrize("images", [6, 4])
def test_recording_and_diagnosing_rounds_leaves_no_trace_in_the_buffers_either(images):
    ends = []
    for record in (False, True):
        c = case("basic-cnn", torch.float32)
        method = fresh(c, buffer=3, slowed=2, slowdown=2)
        optimizer = sgd(method, c)
        for i, (x, y) in enumerate(batches(c, 8)):
            method.start(1, i)
            n = 6 if i % 2 else images  # what is read may be of another size than the batch
            outcome = training_step(
                ModelAndMethod(c.model, method), optimizer, x[:n], y[:n], Recording(i, diagnose=True) if record else None
            )
            assert bool(outcome.rows) == record
        ends.append((frozen(c.model), frozen(method), method.get_extra_state()))
    assert_same_bits(ends[1][0], ends[0][0])
    assert_same_bits(ends[1][1], ends[0][1])
    assert_same_buffers(ends[1][2], ends[0][2])


# --------------------------------------------------------------------------------------------------------- saved, and memory


def assert_same_buffers(got, want):
    assert len(got) == len(want)
    for mine, theirs in zip(got, want, strict=True):
        assert len(mine) == len(theirs)
        for (h, y, *counts), (h2, y2, *counts2) in zip(mine, theirs, strict=True):
            assert torch.equal(h, h2)
            assert h.stride() == h2.stride()
            assert torch.equal(y, y2)
            assert counts == counts2


def test_a_rule_saved_in_the_middle_goes_on_in_the_same_bits(tmp_path):
    c = case("basic-cnn", torch.float32)
    options = {"buffer": 3, "reuse": 2, "slowed": 2, "slowdown": 2.5}
    method = fresh(c, **options)
    optimizer, stream = sgd(method, c), batches(c, 16)

    def go(pair, optimizer, rounds):
        for i in rounds:
            pair.method.start(1, i)
            training_step(pair, optimizer, *stream[i])

    pair = ModelAndMethod(c.model.to(memory_format=torch.channels_last), method)
    go(pair, optimizer, range(8))
    path = tmp_path / "checkpoint.pt"
    torch.save({"model": c.model.state_dict(), "method": method.state_dict(), "optimizer": optimizer.state_dict(), "step": 8}, path)
    state = load_checkpoint(path)  # runs no code of the file's
    other = case("basic-cnn", torch.float32)
    again = fresh(other, **options)
    load_weights(other.model.to(memory_format=torch.channels_last), state["model"], "here")
    load_weights(again, state["method"], "here")
    resumed = sgd(again, other)
    resumed.load_state_dict(state["optimizer"])
    assert_same_buffers(again.get_extra_state(), method.get_extra_state())
    assert [len(ring.batches) for ring in again.rings] == [3, 3]
    assert all(batch.h.is_leaf and batch.h.requires_grad for ring in again.rings for batch in ring.batches)
    go(pair, optimizer, range(8, 16))
    go(ModelAndMethod(other.model, again), resumed, range(8, 16))
    assert_same_bits(frozen(other.model), frozen(c.model))
    assert_same_bits(frozen(again), frozen(method))
    assert_same_buffers(again.get_extra_state(), method.get_extra_state())


def test_a_rule_that_has_not_begun_can_be_saved_and_a_begun_one_be_emptied():
    c = case("mlp")
    new, begun, file = fresh(c), filled(c), io.BytesIO()
    torch.save(new.state_dict(), file)
    file.seek(0)
    load_weights(begun, torch.load(file, weights_only=True), "here")
    assert begun.get_extra_state() == [[], [], []]


def test_buffers_of_another_network_are_refused():
    c, other = case("mlp"), case("mlp")
    other = other._replace(model=build("mlp", ModelSpec((1, 8, 8), 10, width=12, depth=3)).double())
    state = {**fresh(c).state_dict(), "_extra_state": filled(other).get_extra_state()}
    with pytest.raises(InputError, match=r"^there: its weights do not fit this model: buffers of 3 units, this model has 4$"):
        load_weights(fresh(c), state, "there")


@pytest.mark.slow
def test_memory_is_flat_over_a_thousand_rounds():
    c = case("mlp", torch.float32)
    method = fresh(c, buffer=4, slowed=2, slowdown=1.5)
    optimizer, graphs, alive = sgd(method, c), [], []
    for i in range(1000):
        method.start(1, i)
        optimizer.zero_grad(set_to_none=True)
        for u in backward(method, method.forward(c.blocks, c.x, c.y)):
            graphs.append(weakref.ref(u.p.h))
            for name, g in u.grad.params.items():
                u.p.block.get_parameter(name).grad = g
            del u, name, g
        optimizer.step()
        if i in (99, 999):
            optimizer.zero_grad(set_to_none=True)  # the slow unit's are there or not
            gc.collect()
            alive.append(sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects()))
    assert len(graphs) > 4000
    assert all(h() is None for h in graphs)  # a block's output with its graph is gone; what is kept is a leaf
    assert alive[0] == alive[1]
    stored = [batch.h for ring in method.rings for batch in ring.batches]
    assert len(stored) == 3 * 4
    assert all(h.grad_fn is None and h.untyped_storage().nbytes() == 4 * h.numel() for h in stored)


def test_the_memory_that_the_documentation_states():
    model = build("basic-cnn", ModelSpec((3, 32, 32), 10))
    a_batch = 4 * 256 * sum(shape.numel() for shape in output_shapes(model, (3, 32, 32))[:-2])  # two of its three units are read from
    assert f"{a_batch / 1e6:.0f} MB" == "42 MB"
    assert f"{30 * a_batch / 1e9:.1f} GB" == "1.3 GB"
    rule_ = METHODS["dgl-async"]
    assert "42 MB" in rule_.__doc__
    assert "1.3 GB" in rule_.Options.model_fields["buffer"].description
    assert rule_.saved_within_epochs is False
    c = case("basic-cnn", torch.float32)
    method = fresh(c, buffer=2)
    for i in range(3):
        method.start(1, i)
        list(method.forward(c.blocks, c.x, c.y))
    kept = sum(batch.h.nbytes for ring in method.rings for batch in ring.batches)
    assert kept == 2 * 4 * len(c.x) * sum(shape.numel() for shape in output_shapes(c.model, c.shape)[:-2])


# --------------------------------------------------------------------------------------------------------------- bad input


def test_options_that_cannot_be_used_are_refused_in_a_sentence():
    for options, words in (
        ({"buffer": 0}, ["buffer"]),
        ({"reuse": 0}, ["reuse"]),
        ({"slowdown": 0.5}, ["slowdown"]),
        ({"order": "sideways"}, ["order", "random"]),
    ):
        with pytest.raises(InputError) as caught:
            make_config(method="dgl-async", options=options)
        assert "\n" not in str(caught.value)
        assert all(word in str(caught.value) for word in words)
    with pytest.raises(InputError, match=r"slowed=5 is no unit of this model: set 1 to 4"):
        fresh(case("mlp"), slowed=5)
    with pytest.raises(InputError, match=r"slowdown=2 has no effect without slowed: set slowed to a unit, 1 to 4"):
        fresh(case("mlp"), slowdown=2)
    assert fresh(case("mlp"), slowed=4).options.slowdown == 1


def test_a_round_in_which_the_top_waits_is_recorded_too():
    c = case("mlp", torch.float32)
    method = filled(c, slowed=4, slowdown=1000)
    method.start(1, 1)
    run = run_step(method, c.blocks, c.x, c.y)
    assert {p.k for p in run.passes} == {0, 1, 2}
    assert isinstance(run, Step)
    truth = true_gradients(method, run)
    assert len(truth.grads) == 5
    assert {r.layer for r in step_rows(1, [n for n, _ in c.model.named_children()], method, run, truth)} >= {"top", "block4"}
