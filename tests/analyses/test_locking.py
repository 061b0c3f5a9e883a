"""The shipped figures of locking follow from the shipped costs; what the script says of a real run beside its simulation."""

import json
from argparse import Namespace
from pathlib import Path

import pytest

from analyses import locking
from gradlens.runtime.csv_tables import read_csv
from gradlens.training.cost.pipeline_schedules import Schedule, local
from gradlens.training.cost.simulation import Bar, ThroughputPoint, pictured, throughput_curves
from gradlens.training.parallel.block_costs import BlockCost

SHIPPED = Path(__file__).parents[2] / "figures"


@pytest.fixture(scope="module")
def basic_cnn():
    if not (SHIPPED / "locking" / "block_costs.csv").exists():
        pytest.skip("figures are not shipped with this copy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            locking, "MODELS", {"basic-cnn": locking.MODELS["basic-cnn"]}
        )  # the other one's operations take half a minute to count
        return locking.costs(Namespace(figures=SHIPPED), 1)["basic-cnn"]


def test_curves_follow_from_the_stored_costs(basic_cnn):
    stored = read_csv(SHIPPED / "locking" / "basic-cnn_workers.csv", ThroughputPoint)
    again = throughput_curves(basic_cnn, locking.ETHERNET, locking.BATCHES, locking.PARTS)
    assert [row[:5] for row in again] == [row[:5] for row in stored]
    for mine, theirs in zip(again, stored, strict=True):
        assert mine[5:] == pytest.approx(theirs[5:], rel=1e-9)


def test_the_timeline_follows_from_the_stored_costs(basic_cnn):
    stored = read_csv(SHIPPED / "locking" / "basic-cnn_who_waits.csv", Bar)
    seconds = 2.3 * sum(cost.seconds for cost in basic_cnn[0].costs)
    bars = pictured(basic_cnn, locking.MODELS["basic-cnn"], locking.ETHERNET, locking.PARTS, seconds)
    again = [bar for bar in bars if bar.schedule in locking.SHOWN]
    assert [row[:8] for row in again] == [row[:8] for row in stored]
    assert [row[8:] for row in again] == [pytest.approx(row[8:], rel=1e-9, abs=1e-12) for row in stored]


@pytest.mark.parametrize(
    ("rounds", "held", "gains"),
    [(3, None, [1.0, 2.0, 4.0]), (4, [[8.0, 4.0, 9.0], [4.0, 4.0, 9.0], [8.0, 2.0, 9.0], [6.0, 2.0, 9.0]], [2.0, 1.0, 4.0, 3.0])],
    ids=["older file", "rounds stored"],
)
def test_gains_are_those_of_the_rounds(tmp_path, rounds, held, gains):
    row = {"method": "dgl", "how": "layers", "gain": 2.0, "low": 1.0, "high": 4.0} | ({"rounds": held} if held else {})
    file = tmp_path / "bench.json"
    file.write_text(json.dumps({"model": "vgg16", "rounds": rounds, "rows": [row]}), encoding="utf-8")
    assert locking.rounds_of(file) == {"dgl, vgg16": gains}


def test_four_rounds_of_an_older_file_are_refused(tmp_path):
    file = tmp_path / "bench.json"
    file.write_text(json.dumps({"model": "vgg16", "rounds": 4, "rows": [{"method": "dgl", "how": "layers"}]}), encoding="utf-8")
    with pytest.raises(ValueError, match="4 rounds"):
        locking.rounds_of(file)


@pytest.mark.parametrize(("gain", "verdict"), [(2.0, "agrees"), (1.8, "agrees"), (1.7, "differs"), (2.4, "differs")])
def test_a_simulation_is_right_within_fifteen_percent(gain, verdict):
    costs = [BlockCost("b", 0.4, 0.6, 0.0, 0, 0, 0, 0, 0.0, 0.0)] * 4
    row = locking.Real("mlp", "dgl", "2,2", gain, gain, gain, 2.0)
    p = locking.simulated(row, type("Stored", (), {"costs": costs})(), Schedule("dgl", local, "below"))
    assert p.speedup == pytest.approx(2, rel=0.01)
    assert locking.beside(row, p)["verdict"] == verdict
