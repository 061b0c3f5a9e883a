"""The structure of the cost table and its exact columns; never a timing."""

import json
from statistics import median

import pytest
import torch
from torch import nn

from gradlens.gradients.lens import Lens
from gradlens.reporting.benchmarks import bench_table, protocol
from gradlens.runtime.errors import InputError
from gradlens.training.config import make_config
from gradlens.training.context import RunContext, load_data
from gradlens.training.cost import step_benchmark
from gradlens.training.cost.step_benchmark import SHORTEST, Cost, added_memory, bench, plain_step, seconds_per_step

CPU = torch.device("cpu")
SMALL = {"width": 8, "batch_size": 16}


@pytest.fixture(scope="module")
def seen():
    return []


@pytest.fixture(scope="module")
def result(seen):
    configs = [
        make_config(method="bp", **SMALL),
        make_config(method="dgl", options={"head": "linear"}, **SMALL),
        make_config(method="dni", **SMALL),
        make_config(method="bp", precision="bf16", **SMALL),
    ]
    return bench(configs, (1, 8, 8), 10, CPU, rounds=2, record_every=(1, 4), progress=lambda *event: seen.append(event))


def pick(result, method, record_every=0, precision="fp32"):
    (row,) = [r for r in result.rows if (r.method, r.record_every, r.precision) == (method, record_every, precision)]
    return row


def test_a_row_for_every_loop_and_interval(result):
    plain = [("plain", "fp32"), ("plain", "bf16"), ("plain-default-layout", "fp32"), ("plain-in-lens", "fp32")]
    ours = [("bp", "fp32"), ("dgl", "fp32"), ("dni", "fp32"), ("bp", "bf16")]
    assert [(r.method, r.precision) for r in result.rows] == plain + [loop for loop in ours for _ in range(3)]
    assert [r.record_every for r in result.rows] == [0] * 4 + [0, 1, 4] * 4
    assert all(r.images_per_s > 0 and r.time_ratio > 0 and r.rate_share > 0 for r in result.rows)


def test_ratios_are_to_the_plain_loop_and_rates_to_bp(result):
    plain = pick(result, "plain")
    assert (plain.time_ratio, plain.memory_ratio, plain.flop_ratio) == (1, 1, 1)
    assert pick(result, "bp").rate_share == 1
    assert pick(result, "bp").flop_ratio == pick(result, "plain-default-layout").flop_ratio == 1
    assert pick(result, "dgl").flop_ratio == pick(result, "dgl").multiply_adds / plain.multiply_adds
    assert pick(result, "dgl").options == {"head": "linear"}


def test_the_plain_loop_in_a_lens_computes_the_same_and_keeps_what_is_read(result):
    plain, read = pick(result, "plain"), pick(result, "plain-in-lens")
    assert read.flop_ratio == 1
    assert read.memory_mb > plain.memory_mb
    assert "plain-in-lens: " in protocol(result)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_lens_is_entered_only_while_its_own_step_is_measured(monkeypatch, compiled):
    entered, inside = [], []
    for name, change in (("__enter__", 1), ("__exit__", -1)):
        inner = getattr(Lens, name)
        monkeypatch.setattr(Lens, name, lambda lens, *a, inner=inner, change=change: (entered.append(change), inner(lens, *a))[1])
    monkeypatch.setattr(step_benchmark, "seconds_per_step", lambda run, device: (inside.append(sum(entered)), run(), 1.0)[-1])
    found = bench([make_config(method="bp", compile=compiled, **SMALL)], (1, 8, 8), 10, CPU, rounds=1, record_every=(1,))
    assert inside == ([0, 0, 0, 0] if compiled else [0, 0, 1, 0, 0])
    assert ("plain-in-lens" in [row.method for row in found.rows]) is not compiled


def test_recording_every_fourth_step_is_three_plain_steps_and_a_recorded_one(result):
    for method in ("bp", "dgl", "dni"):
        never, always, fourth = (pick(result, method, n) for n in (0, 1, 4))
        assert fourth.multiply_adds == pytest.approx((3 * never.multiply_adds + always.multiply_adds) / 4, rel=1e-12)
        assert fourth.memory_mb == always.memory_mb > never.memory_mb
        assert never.multiply_adds < always.multiply_adds


def test_without_bp_rates_are_to_the_plain_loop():
    only = bench([make_config(method="dgl", **SMALL)], (1, 8, 8), 10, CPU, rounds=1, record_every=())
    assert [r.method for r in only.rows] == ["plain", "plain-default-layout", "dgl"]
    assert pick(only, "plain").rate_share == 1


def test_progress_counts_every_measurement_once(seen, result):
    done, total, _ = zip(*seen, strict=True)
    assert list(done) == list(range(total[0] + 1))
    assert set(total) == {(4 + 2 * 4) * (1 + result.rounds)}


def test_json_holds_every_row(result):
    read = json.loads(result.to_json())
    assert read["model"] == "basic-cnn"
    assert read["batch_size"] == 16
    assert read["threads"] == torch.get_num_threads()
    assert [Cost(**row) for row in read["rows"]] == result.rows


def test_medians_follow_from_the_rounds_that_are_stored(result):
    read = json.loads(result.to_json())
    plain = read["rows"][0]
    for row in read["rows"]:
        assert len(row["seconds"]) == read["rounds"]
        assert row["time_ratio"] == median(a / b for a, b in zip(row["seconds"], plain["seconds"], strict=True))
        assert row["images_per_s"] == 16 / median(row["seconds"])


def test_files_of_earlier_versions_have_no_rounds(result):
    older = [{name: value for name, value in row.items() if name != "seconds"} for row in json.loads(result.to_json())["rows"]]
    assert [Cost(**row).seconds for row in older] == [[]] * len(result.rows)


def test_table_and_protocol(result):
    text = bench_table(result).text(200)
    assert "dgl head=linear" in text
    assert "plain-default-layout" in text
    assert len([line for line in text.splitlines() if "fp32" in line or "bf16" in line]) == len(result.rows)
    assert "((n-1) unrecorded + 1 recorded)/n" in protocol(result)


def test_refusals():
    with pytest.raises(ValueError, match="one model"):
        bench([make_config(batch_size=4), make_config(batch_size=8)], (1, 8, 8), 10, CPU)
    with pytest.raises(InputError, match="32x32"):
        bench([make_config(model="vgg11")], (1, 8, 8), 10, CPU)


# ---------------------------------------------------------------------------------------------------------- measurements


def test_memory_of_a_hand_case():
    """Kept: a, then b beside it; a goes before c, twice as wide, comes: 4000, 8000, 4000, 12000 bytes."""

    def step():
        a = torch.ones(1000)
        b = a * 2
        a.mul_(3)
        del a
        c = b.double()
        return c.view(10, 100)

    assert added_memory(step, CPU) == 12000


def test_memory_of_a_training_step():
    """Linear(100, 50) without bias on ten rows: at the peak live its output, the loss's gradient of it, and the weight's."""
    layer, x = nn.Linear(100, 50, bias=False), torch.randn(10, 100)
    told = torch.randn(10, 50)
    assert added_memory(lambda: layer(x).backward(told), CPU) == 4 * (10 * 50 + 50 * 100)


def test_short_steps_are_repeated():
    calls = []
    seconds = seconds_per_step(lambda: calls.append(1), CPU)
    assert len(calls) > 1
    assert seconds * len(calls) >= SHORTEST


def test_the_plain_loop_trains():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=True)
    x, y = torch.randn(20, 1, 8, 8), torch.arange(20) % 10
    loss = nn.functional.cross_entropy
    before = loss(model(x), y)
    for _ in range(20):
        plain_step(model, optimizer, loss, x, y)
    assert loss(model(x), y) < before / 2


def test_making_views_is_part_of_the_step_and_its_share_is_reported():
    small = {**SMALL, "options": {}}
    found = bench([make_config(method="bp", **small), make_config(method="simclr", **small)], (1, 8, 8), 10, CPU, rounds=2, record_every=())
    simclr, bp = pick(found, "simclr"), pick(found, "bp")
    assert bp.task_share is None
    assert 0 < simclr.task_share < 1
    assert "views" in [column.name for column in bench_table(found).columns]
    alone = bench([make_config(method="bp", **small)], (1, 8, 8), 10, CPU, rounds=1, record_every=())
    assert "views" not in [column.name for column in bench_table(alone).columns]


def test_a_task_of_its_own_data_is_measured_beside_a_loop_of_the_same_network(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("the same words again and again, " * 40)
    small = {"task": "language", "data": str(path), "width": 16, "depth": 3, "batch_size": 8, "task_options": {"length": 16}}
    configs = [make_config(method=name, **small) for name in ("bp", "dgl")]
    data = load_data(configs[0], RunContext())
    found = bench(configs, data.shape, len(data.classes), CPU, rounds=2, record_every=(1,), data=data)
    assert (found.example, found.input) == ("sequence", (16,))
    plain, bp, dgl = (pick(found, name) for name in ("plain", "bp", "dgl"))
    assert bp.multiply_adds == plain.multiply_adds
    assert bp.options == dgl.options == {}
    assert dgl.memory_mb < bp.memory_mb  # blocks and heads are freed one by one
    assert bp.memory_ratio < 1.6
    assert pick(found, "bp", 1).memory_ratio < 1.6
    assert "batches of 8 sequences of a.txt, 16" in protocol(found)
    assert "sequences/s" in bench_table(found).columns[3].name
