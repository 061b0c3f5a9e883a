"""The laws of schedules: the textbook's speed-ups and bubbles, nothing done before its time, memory; and the command."""

import csv
from collections import defaultdict
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradlens.gradients.method import Method
from gradlens.methods import METHODS
from gradlens.methods.backprop import Backprop
from gradlens.reporting.timeline import gantt, over_workers, unused_workers_text
from gradlens.runtime.errors import InputError
from gradlens.training.build import build_model_and_method
from gradlens.training.config import make_config
from gradlens.training.cost.pipeline_schedules import (
    AHEAD,
    Schedule,
    error_broadcast,
    gpipe,
    local,
    locked,
    one_f_one_b,
    queued,
    schedules,
    synthetic,
)
from gradlens.training.cost.simulation import (
    CostRow,
    Link,
    Measured,
    Span,
    balanced_split,
    costs_from_rows,
    gantt_bars,
    mean_delay,
    memory,
    pictured,
    simulate,
    throughput_curves,
    throughput_point,
)
from gradlens.training.parallel.block_costs import BlockCost

FREE = Link(float("inf"), 0.0)
SCHEDULES = {
    "locked": Schedule("locked", locked, ""),
    "gpipe": Schedule("gpipe", lambda c, s, n: gpipe(c, s, n, 4), "", parts=4),
    "1f1b": Schedule("1f1b", lambda c, s, n: one_f_one_b(c, s, n, 4), "", parts=4),
    "local": Schedule("local", local, ""),
    "windows": Schedule("windows", lambda c, s, n: local(c, s, n, [k % 2 == 0 for k in range(len(c))]), ""),
    "queued": Schedule("queued", queued, "", queue=3, delayed="input"),
    "synthetic": Schedule("synthetic", synthetic, ""),
    "synthetic stale": Schedule("synthetic stale", lambda c, s, n: synthetic(c, s, n, True), "", delayed="target"),
    "unlocked": Schedule("unlocked", lambda c, s, n: synthetic(c, s, n, False, True), ""),
    "unlocked stale": Schedule("unlocked stale", lambda c, s, n: synthetic(c, s, n, True, True), "", delayed="target"),
    "broadcast": Schedule("broadcast", error_broadcast, ""),
    "broadcast stale": Schedule("broadcast stale", lambda c, s, n: error_broadcast(c, s, n, True), "", delayed="error"),
}


def cost(forward=1.0, backward=2.0, update=0.0, learn=0.0, activation=100, message=50, graph=1000, always=10):
    return BlockCost("block", forward, backward, update, activation, message, always + graph, graph, learn, 0.0)


def one_each(n):
    return [range(k, k + 1) for k in range(n)]


def run(name, costs, stages, batches, link=FREE):
    return throughput_point(SCHEDULES[name], costs, stages, link, batches, len(stages))


# ---------------------------------------------------------------------------------------------------- textbook's numbers


@pytest.mark.parametrize("name", SCHEDULES)
def test_one_worker_needs_the_sum_of_all_work(name):
    costs = [cost(1, 3, 0.5, learn=1), cost(2, 5, 0.25, learn=2), cost(0.5, 1, 0.125)]
    assert run(name, costs, [range(3)], 4).batch_seconds == pytest.approx(sum(c.seconds for c in costs))


def test_local_losses_fill_a_pipeline_of_equal_stages():
    for n in (1, 2, 5, 8):
        for batches in (1, 3, 20):
            got = run("local", [cost(3, 0)] * n, one_each(n), batches)  # the next may begin when all the work below is done
            assert got.speedup == pytest.approx(n * batches / (n + batches - 1))


def test_a_local_block_hands_on_before_it_goes_backward():
    got = run("local", [cost(1, 2)] * 4, one_each(4), 10)
    assert got.batch_seconds * 10 == pytest.approx(3 * 10 + 3 * 1)  # the top's ten batches, after three forward passes


def test_backprop_gains_nothing_from_workers():
    assert run("locked", [cost()] * 5, one_each(5), 7).speedup == pytest.approx(1)
    assert run("locked", [cost()] * 5, one_each(5), 7).bubble == pytest.approx(1 - 1 / 5)


@pytest.mark.parametrize("schedule", [gpipe, one_f_one_b])
@pytest.mark.parametrize("n", [1, 2, 4, 7])
@pytest.mark.parametrize("parts", [1, 3, 4, 9])
def test_the_bubble_of_equal_stages_is_the_textbook_s(schedule, n, parts):
    plan = Schedule("", lambda c, s, b: schedule(c, s, b, parts), "", parts)
    for batches in (1, 3):
        got = throughput_point(plan, [cost(1, 2)] * n, one_each(n), FREE, batches, n)
        assert got.bubble == pytest.approx((n - 1) / (parts + n - 1))


def test_microbatches_held_at_each_stage():
    n, parts = 4, 6
    costs = [cost(graph=1200, always=0, activation=0, message=0)] * n
    for schedule, held in ((gpipe, [parts] * n), (one_f_one_b, [4, 3, 2, 1])):
        tasks = schedule(costs, one_each(n), 3, parts)
        assert memory(tasks, simulate(tasks, FREE), costs, one_each(n), parts) == [200 * m for m in held]


def test_synthetic_gradients_wait_for_their_neighbour_and_stale_ones_for_no_block():
    costs, batches = [cost(1, 3, learn=1)] * 6, 50  # backward 2 without the regression
    exact, stale = (run(name, costs, one_each(6), batches) for name in ("synthetic", "synthetic stale"))
    # exact: forward; the block above forward and backward meanwhile and sends; regression
    assert exact.batch_seconds * batches == pytest.approx(batches * (1 + 1 + 2 + 1) - 1 + 4, abs=1)
    assert stale.speedup == pytest.approx(6 * batches * 4 / (batches * 4 + 5 * 1))
    assert (stale.delay, exact.delay) == (1, 0)


def test_unlocked_blocks_run_side_by_side_from_the_start():
    got = run("unlocked stale", [cost(1, 3, learn=1)] * 6, one_each(6), 10)
    assert got.speedup == pytest.approx(6)
    assert got.bubble == pytest.approx(0)


def test_direct_feedback_goes_backward_side_by_side_after_the_whole_forward_pass():
    n, batches = 4, 10
    exact = run("broadcast", [cost(1, 2)] * n, one_each(n), batches)
    # all go backward when the error is there; the lowest begins the next batch then
    assert exact.batch_seconds * batches == pytest.approx(batches * (n * 1 + 2))
    stale = run("broadcast stale", [cost(1, 2)] * n, one_each(n), 200)
    assert stale.speedup > 0.98 * n * 3 / 4  # the forward pass is made twice
    assert stale.delay == pytest.approx(sum(range(n)) / n, rel=0.05)  # n − 1 updates at the bottom, none at the top


def test_queues_never_wait_and_a_fast_worker_reads_old_batches_again():
    costs = [cost(1, 7), cost(1, 1)]
    tasks = queued(costs, one_each(2), 12)
    spans = simulate(tasks, FREE)
    for worker in (0, 1):
        mine = sorted(s for s, t in zip(spans, tasks, strict=True) if t.worker == worker and t.to < 0)
        assert all(a.end == b.start for a, b in pairwise(mine))
    even = run("queued", [cost(1, 1)] * 2, one_each(2), 12).delay
    assert even == 0  # each batch is read when it has just come
    assert run("queued", costs, one_each(2), 12).delay > 0.5


def test_a_message_takes_its_time_and_a_link_carries_one_at_a_time():
    costs = [cost(1, 0, activation=100), cost(0.25, 0)]
    tasks = queued(costs, one_each(2), 3)
    spans = simulate(tasks, Link(50, 0.5))  # 2.5 s a message, a batch every second
    sent = [s for s, t in zip(spans, tasks, strict=True) if t.to >= 0]
    assert sent == [Span(1, 3.5), Span(3.5, 6), Span(6, 8.5)]


# ------------------------------------------------------------------------------------------------------------ any costs


def violations(tasks, spans, link, stages):
    """Everything that is done too early, twice at once, for too short or by the wrong one: by the definitions, pair by pair."""
    found, doers = [], defaultdict(list)
    of_block = {k: s for s, blocks in enumerate(stages) for k in blocks}
    for i, (task, span) in enumerate(zip(tasks, spans, strict=True)):
        wanted = link.latency + task.size / link.rate if task.kind == "send" else task.seconds
        if abs(span.end - span.start - wanted) > 1e-9 or of_block[task.block] != task.worker:
            found.append(i)
        found += [i for j in task.after if spans[j].end > span.start]
        doers[task.worker, task.to].append(span)
    for mine in doers.values():
        found += [(a, b) for a, b in pairwise(sorted(mine)) if a.end > b.start]
    return found


def must_follow(name, tasks, spans):
    """What each rule needs by its definition, whatever its schedule says: (later, earlier) that are the wrong way round."""
    when = {(t.kind, t.block, t.batch, t.part): s for t, s in zip(tasks, spans, strict=True) if t.to < 0}
    depth, batches = 1 + max(t.block for t in tasks), 1 + max(t.batch for t in tasks)
    parts = 1 + max(t.part for t in tasks)
    order = []
    for t in range(batches):
        for m in range(parts):
            for k in range(depth):
                order.append((("backward", k, t, m), ("forward", k, t, m)))
                if k and not name.startswith(("unlocked", "queued")):
                    order.append((("forward", k, t, m), ("forward", k - 1, t, m)))
                if k + 1 < depth and name in ("locked", "gpipe", "1f1b"):
                    order.append((("backward", k, t, m), ("backward", k + 1, t, m)))
                if k + 1 < depth and name.startswith("broadcast"):
                    order.append((("backward", k, t, m), ("forward", depth - 1, t, m)))
                if k + 1 < depth and name in ("synthetic", "unlocked"):
                    order.append((("learn", k, t, m), ("backward", k + 1, t, m)))
                order.append((("update", k, t, 0), ("backward", k, t, m)))
                if t and "stale" not in name:
                    order.append((("forward", k, t, m), ("update", k, t - 1, 0)))
    return [(a, b) for a, b in order if when[a].start < when[b].end]


@settings(max_examples=50)
@given(st.data())
@pytest.mark.parametrize("name", SCHEDULES)
def test_nothing_is_done_before_what_it_needs_or_twice_at_once(name, data):
    seconds = st.sampled_from([0.0, 0.25, 1.0, 1.5, 4.0])
    costs = [
        cost(data.draw(seconds) + 0.125, learned + data.draw(seconds), data.draw(seconds), learned, data.draw(st.integers(0, 300)))
        for learned in data.draw(st.lists(seconds, min_size=1, max_size=5))
    ]
    cuts = sorted(data.draw(st.sets(st.integers(1, 4)))) if len(costs) > 1 else []
    bounds = [0, *[c for c in cuts if c < len(costs)], len(costs)]
    stages = [range(a, b) for a, b in pairwise(bounds)]
    link = data.draw(st.sampled_from([FREE, Link(100, 0.0), Link(400, 0.5)]))
    batches = data.draw(st.integers(1, 4))
    tasks = SCHEDULES[name].tasks(costs, stages, batches)
    spans = simulate(tasks, link)
    assert not violations(tasks, spans, link, stages)
    if name != "windows":
        assert not must_follow(name, tasks, spans)
    got = throughput_point(SCHEDULES[name], costs, stages, link, batches, len(stages))
    assert got.bubble == pytest.approx(1 - got.speedup / len(stages))
    assert got.speedup <= 1 / got.busiest + 1e-9
    assert 0 <= got.delay <= batches


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_faster_link_never_slows_anything(name):
    costs = [cost(1, 3, 0.5, 1), cost(2, 1.5, 0.1, 0.5), cost(0.5, 4, 0.1, 1), cost(1, 1)]
    times = [run(name, costs, one_each(4), 6, Link(rate, 0.01)).batch_seconds for rate in (10, 50, 200, 1e4, float("inf"))]
    assert times == sorted(times, reverse=True)


def test_a_worker_is_at_most_two_batches_ahead_of_the_one_above():
    costs = [cost(1, 0, activation=100, always=0, graph=0), cost(10, 0, activation=0, always=0, graph=0)]
    tasks = local(costs, one_each(2), 8)
    assert max(memory(tasks, simulate(tasks, FREE), costs, one_each(2))) == AHEAD * 100  # the one being read and the next
    slow = run("local", costs, one_each(2), 8)
    assert slow.batch_seconds * 8 == 81  # and the slow worker never waits for it


def test_tasks_that_wait_for_each_other_are_refused():
    first, second = locked([cost()], [range(1)], 1)[:2]
    with pytest.raises(ValueError, match="wait for each other"):
        simulate([first._replace(after=(1,)), second._replace(after=(0,))], FREE)


def test_memory_is_what_is_held_at_the_peak():
    costs = [cost(graph=1000, always=10, activation=100, message=50), cost(graph=700, always=20, activation=30, message=50)]
    tasks = locked(costs, one_each(2), 2)
    # below: weights, graph, the message that comes when the graph is still there; above: the input is held until it went backward
    assert memory(tasks, simulate(tasks, FREE), costs, one_each(2)) == [10 + 1000 + 50, 20 + 700 + 100]
    assert memory(locked(costs, [range(2)], 1), simulate(locked(costs, [range(2)], 1), FREE), costs, [range(2)]) == [30 + 1700]
    tasks = queued(costs, one_each(2), 2)
    assert memory(tasks, simulate(tasks, FREE), costs, one_each(2), queue=3) == [1010, 20 + 700 + 300]


def test_delay_counts_updates_between_forward_and_backward():
    costs = [cost(1, 1, 0.5)] * 3
    for name in ("broadcast", "locked", "local"):
        assert run(name, costs, one_each(3), 5).delay == 0
    stale = SCHEDULES["broadcast stale"]
    tasks = error_broadcast(costs, one_each(3), 9, stale=True)
    assert 0.6 < mean_delay(stale, tasks, simulate(tasks, FREE), one_each(3)) <= 1


# ---------------------------------------------------------------------------------------------------------------- rules


def of_rule(name, **options):
    config = make_config(method=name, model="mlp", width=8, batch_size=4, options=options)
    return build_model_and_method(config, (1, 8, 8), 10, torch.device("cpu")).method


def test_a_rule_that_cannot_learn_from_a_late_message_has_no_stale_schedule(monkeypatch):
    """As --stale is refused on several ranks."""
    method = of_rule("dni")
    monkeypatch.setattr(type(method), "supports_delayed_target", lambda self, k: False)
    assert [s.label for s in schedules("mine", method)] == ["mine exact"]
    assert [s.label for s in schedules("warm", of_rule("dfa"))] == ["warm exact", "warm stale"]


def test_schedules_follow_from_what_a_rule_reads():
    found = {
        name: [s.label for s in schedules(name, of_rule(name))]
        for name, rule in METHODS.items()
        if name in ("bp", "fa", "dgl", "dgl-async", "dni", "cdni", "dni-unlocked", "dfa", "predsim", "chunked", "shallow")
    }
    pipelines = {name: [name, f"{name} gpipe", f"{name} 1f1b"] for name in ("bp", "fa")}
    modes = {name: [f"{name} exact", f"{name} stale"] for name in ("dni", "cdni", "dni-unlocked", "dfa")}
    assert found == {**pipelines, **modes, **{name: [name] for name in ("dgl", "dgl-async", "predsim", "chunked", "shallow")}}
    assert schedules("dni", of_rule("dni", bp_lambda=0.5))[0].label == "dni"  # it needs the message from above: locked
    assert schedules("dgl-async", of_rule("dgl-async", buffer=5))[0].queue == 5


class Late(Backprop):
    """Backprop that says its messages come late; it has no options."""

    depends_on = frozenset({"input", "delayed_message"})


class Queued(Backprop):
    """Backprop that says it reads stored batches; it has no options."""

    depends_on = frozenset({"replay_buffer", "labels"})


def test_a_rule_of_a_users_own_needs_no_options_of_ours(monkeypatch):
    for name, rule in (("late", Late), ("queued", Queued)):
        monkeypatch.setitem(METHODS, name, rule)
    assert [s.label for s in schedules("late", of_rule("late"))] == ["late exact"]
    assert [(s.label, s.queue) for s in schedules("queued", of_rule("queued"))] == [("queued", Method.replay_size)]


def rows_of(method, costs, names=("block1", "block2", "block3", "top")):
    return [CostRow(method, "mlp", 4, *c._replace(name=name)) for name, c in zip(names, costs, strict=True)]


def known(method):
    config = make_config(method=method, model="mlp", width=8, batch_size=4)
    return costs_from_rows(
        config, (1, 8, 8), 10, rows_of(method, [cost(1, 3, 0.25, 1), cost(2, 2, 0.25, 1), cost(1, 1, 0.25), cost(0.5, 0.5)])
    )


def test_workers_beyond_the_parts_get_nothing_and_are_named():
    found = [known("bp"), known("dgl")]
    points = throughput_curves(found, FREE, 4, 2, workers=(1, 3, 64))
    assert {(p.schedule, p.workers): p.used for p in points} == {
        **{(f"bp{kind}", n): min(n, 4) for kind in ("", " gpipe", " 1f1b") for n in (1, 3, 4, 64)},
        **{("dgl", n): min(n, 3) for n in (1, 3, 4, 64)},
    }
    many = [p for p in points if p.workers == 64]
    said = unused_workers_text(many)
    assert said[0].startswith("64 workers requested, 4 used by bp, bp gpipe, bp 1f1b")
    assert "64 workers requested, 3 used by dgl" in said[1]
    assert unused_workers_text([p for p in points if p.workers == 3]) == []
    assert balanced_split(found[0].costs, 2, found[0].cuts) == [range(1), range(1, 4)]


def test_costs_of_other_blocks_are_refused():
    config = make_config(method="bp", model="mlp", width=8, batch_size=4)
    with pytest.raises(InputError, match="bp on mlp are not among"):
        costs_from_rows(config, (1, 8, 8), 10, rows_of("dgl", [cost()] * 4))


def test_boxes_join_neighbours_of_one_kind_and_batch():
    found = gantt_bars(SCHEDULES["locked"], [cost(1, 2, 0.5)] * 3, [range(2), range(2, 3)], FREE, 2)
    boxes = [(b.worker, b.kind, b.batch, b.start, b.end) for b in found]
    assert sorted(boxes)[:3] == [(0, "backward", 0, 5, 9), (0, "backward", 1, 15, 19), (0, "forward", 0, 0, 2)]
    assert sorted(boxes)[-3:] == [(1, "forward", 1, 12, 13), (1, "update", 0, 5, 5.5), (1, "update", 1, 15, 15.5)]
    assert len(boxes) == 2 * 6


def test_figures_are_drawn_from_rows_alone():
    found = [known(name) for name in ("bp", "dgl", "dgl-async", "dni", "dfa")]
    link = Link(1e3, 0.01)
    boxes = pictured(found, 3, link, 2, 20.0)
    assert {b.schedule for b in boxes} == {
        "bp",
        "bp gpipe",
        "bp 1f1b",
        "dgl",
        "dgl-async",
        "dni exact",
        "dni stale",
        "dfa exact",
        "dfa stale",
    }
    assert all(b.start < 20 for b in boxes)
    for chosen in (boxes, [b for b in boxes if b.schedule == "dgl"]):
        figure = gantt(chosen, 20.0, title="rules")
        titles = [ax.get_title(loc="left").split("  ")[0] for ax in figure.axes]  # no panel is empty
        assert sorted(titles) == sorted({b.schedule for b in chosen})
    figure = over_workers(throughput_curves(found, link, 3, 2), title="rules")
    assert len(figure.axes) == 2
    for nothing in (lambda: gantt([], 1.0), lambda: over_workers([])):
        with pytest.raises(InputError, match="no timeline"):
            nothing()


# -------------------------------------------------------------------------------------------------------------- command


@pytest.fixture
def short_rounds(monkeypatch):
    monkeypatch.setattr("gradlens.training.parallel.block_costs.SHORTEST", 0.0)


@pytest.mark.slow
def test_the_command_measures_simulates_and_draws(program, tmp_path, short_rounds):
    status, out, err = program(
        "timeline", "bp", "dgl", "--workers", 8, "--model", "mlp", "--width", 8, "--batch-size", 16, "--batches", 4, "--rounds", 1,
        "--quiet", "--out", tmp_path,
    )  # fmt: skip
    assert status == 0, err
    assert "8 workers requested, 3 used by dgl" in out
    names = {f"{name}.{end}" for name in ("timeline", "workers") for end in ("png", "csv")} | {"block_costs.csv"}
    assert {p.name for p in tmp_path.iterdir()} == names
    rows = list(csv.DictReader((tmp_path / "block_costs.csv").open()))
    assert [(r["method"], r["name"]) for r in rows] == [(m, n) for m in ("bp", "dgl") for n in ("block1", "block2", "block3", "top")]
    assert all(float(r["forward"]) > 0 for r in rows)
    points = list(csv.DictReader((tmp_path / "workers.csv").open()))
    assert {r["schedule"] for r in points} == {"bp", "bp gpipe", "bp 1f1b", "dgl"}
    assert max(int(r["workers"]) for r in points) == 64


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--link", "0"], "--link: must be above 0 GB/s, got 0"),
        (["--micro-batches", "300"], "--micro-batches 300: a batch has 256 images"),
        (["dlg"], "unknown method 'dlg'; nearest: dgl"),
        (["--workers", "0"], "--workers"),
        (["distil"], "distil needs --teacher"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(program, tmp_path, flags, said):
    status, _, err = program("timeline", *flags, "--out", tmp_path / "figures")
    assert (status, err.count("\n")) == (2, 1)
    assert said in err.replace("'--workers'", "--workers")
    assert not (tmp_path / "figures").exists() or not list((tmp_path / "figures").iterdir())


def test_measured_is_a_plain_value():
    one = known("dgl")
    assert isinstance(one, Measured)
    assert one.cuts == [1, 2]
    assert [c.name for c in one.costs] == ["block1", "block2", "block3", "top"]
