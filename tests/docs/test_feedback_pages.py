"""The tables of the pages on feedback and certificates, from made-up files."""

import pytest

from tools.docs import feedback_tables as pages


@pytest.fixture
def files(monkeypatch):
    """Results and csv rows by name, which the tables read instead of ``figures``."""
    found = {}
    monkeypatch.setattr(pages, "results", lambda name: found[name])
    monkeypatch.setattr(pages, "rows_of", lambda name: found[name])
    return found


def cells(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


def test_angles_stand_beside_the_figure_s(files):
    reading = {"figure": 24.1, "low": 0, "high": 0, "sd": 6.66}
    settings = {"as written": {}, "inferred": {}}
    rows = [
        {**reading, "setting": s, "to": to, "scale": 0.05, "ours": ours}
        for s, ours in (("as written", 28.52), ("inferred", 45.1))
        for to in ("backprop", "pseudo-backprop")
    ]
    agreement = {"rms": 2.357, "within_two_sd": 16, "readings": 18}
    files["feedback_angles"] = {"readings": rows, "settings": settings, "agreement": dict.fromkeys(settings, agreement)}
    first, last = cells(pages.angle_readings())
    assert first == ["0.05", "24.1°", "28.5 ± 6.7°", "45.1 ± 6.7°", "24.1°", "28.5 ± 6.7°", "45.1 ± 6.7°"]
    assert last[2] == "2.4°; 16 of 18 within 2 sd"


def test_a_setting_that_diverges_says_so(files):
    files["feedback_angles"] = {"scan": {"rms": [{"ratio": 1.0, "lr": lr, "rms": rms} for lr, rms in ((1e-3, 26.66), (1.0, None))]}}
    assert cells(pages.angle_scan()) == [["±1w", "26.7°", "diverges"]]


def test_errors_stand_by_data_and_depth_with_their_rates(files):
    rules = ("bp", "fa", "dfa", "usf")
    keys = [(data, rule, depth) for data, depth in (("mnist", 7), ("digits", 1)) for rule in rules]
    files["feedback_tables"] = {
        "cells": [{"data": d, "rule": r, "depth": k, "lr": 1e-3, "cosine": {"block1.linear": [0.1, 0.3]}} for d, r, k in keys]
    }
    files["feedback_tables/depth.csv"] = [
        {"data": d, "rule": r, "depth": str(k), "mean": "2.5", "low": "2.25", "high": "2.75"} for d, r, k in keys
    ]
    assert cells(pages.feedback_depth()) == [["digits", "1", *["2.50 ± 0.25 (0.001)"] * 4], ["mnist", "7", *["2.50 ± 0.25 (0.001)"] * 4]]
    assert cells(pages.feedback_cosines())[0] == ["digits", "1", "0.20", "0.20", "0.20"]


def test_points_and_regrets_stand_by_rule_and_block(files):
    files["certificates/n_star.csv"] = [
        {"rule": rule, "block": block, "labels": labels, "mean": str(30 + k), "low": "28", "high": "36.4"}
        for rule in ("greedy", "shallow")
        for k, block in enumerate(pages.HIDDEN)
        for labels in ("true", "dealt")
    ]
    lines = cells(pages.n_star())
    assert [line[0] for line in lines] == ["`greedy`", "untrained"]
    assert lines[0][1:4] == ["30 [28, 36]", "31 [28, 36]", "32 [28, 36]"]
    files["certificates"] = {"values": {"largest share of the bound": {"bp": [0.1, 0.255]}}}
    files["certificates/regret.csv"] = [
        {"rule": "bp", "block": block, "rounds": rounds, "mean": "9.5", "low": "9", "high": "10", "bound": "480"}
        for block in pages.HIDDEN
        for rounds in ("64", "128")
    ]
    assert cells(pages.regret()) == [["`bp`", "9.5 ± 0.5", "9.5 ± 0.5", "9.5 ± 0.5", "480", "0.26"]]
