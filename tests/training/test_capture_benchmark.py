"""`gradlens bench --capture`: every row is measured, ratios are to the plain step."""

import json

import pytest

from gradlens.training.cost import capture_benchmark


def test_rows_are_ratios_to_the_plain_step(program, monkeypatch, tmp_path):
    for name, value in {"LAYERS": 1, "WIDTH": 8, "HEADS": 2, "LENGTH": 4, "BATCH": 2, "SKETCH": 64}.items():
        monkeypatch.setattr(capture_benchmark, name, value)
    status, out, _ = program("bench", "--capture", "--rounds", "1", "--json", tmp_path / "cost.json")
    assert status == 0
    rows = {row["name"]: row for row in json.loads((tmp_path / "cost.json").read_text())["rows"]}
    assert list(rows) == ["plain", "captured whole", "captured as sketches", "sketches of every 100th step"]
    assert rows["plain"]["time_ratio"] == 1
    for row in rows.values():
        assert row["seconds"] / rows["plain"]["seconds"] == pytest.approx(row["time_ratio"])
    seldom, each = (rows[name]["time_ratio"] for name in ("sketches of every 100th step", "captured as sketches"))
    assert seldom == pytest.approx(0.99 + 0.01 * each)
    assert "(99 plain + 1 captured) / 100" in " ".join(out.split())
