"""The script for accelerators: what it runs, in which order, and what it makes of bench results. No accelerator is needed here."""

import json
import subprocess
import tarfile

import pytest
import torch

from analyses import accelerator


def arguments(tmp_path, *more):
    return ["--data", "x.tar.gz", "--out", str(tmp_path / "runs"), "--figures", str(tmp_path / "figures"), "--minutes", "2", *more]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_without_a_device_it_is_refused(tmp_path, capsys):
    assert accelerator.main(arguments(tmp_path)) == 2
    assert "no CUDA device" in capsys.readouterr().err
    assert not (tmp_path / "figures").exists()


def ran(monkeypatch, tmp_path, statuses):
    commands = []

    def run(command, **settings):
        commands.append(command)
        return subprocess.CompletedProcess(command, statuses.get(next((w for w in statuses if w in command), None), 0))

    monkeypatch.setattr(accelerator.subprocess, "run", run)
    status = accelerator.main(arguments(tmp_path, "--device", "cpu"))
    return commands, status


def test_tests_then_bench_then_the_list(monkeypatch, tmp_path):
    commands, status = ran(monkeypatch, tmp_path, {})
    names = [c[2] for c in commands]
    assert names == ["pytest", "gradlens", "gradlens", "gradlens", "gradlens", "analyses.full_size"]
    assert commands[0][commands[0].index("-m", 2) + 1] == "cuda"
    assert ["--compile" in c for c in commands[1:5]] == [False, True, False, True]
    assert 1.5 < float(commands[-1][-1]) <= 2
    assert status == 0


def test_a_failing_test_stops_nothing_and_is_said(monkeypatch, tmp_path, capsys):
    commands, status = ran(monkeypatch, tmp_path, {"pytest": 1})
    assert len(commands) == 6
    assert status == 1
    assert "tests marked cuda: exit status 1" in capsys.readouterr().out


def test_no_test_with_the_mark_is_no_failure(monkeypatch, tmp_path):
    assert ran(monkeypatch, tmp_path, {"pytest": 5})[1] == 0


def test_share_of_the_device():
    rows = [
        {"method": "bp", "precision": "bf16", "record_every": n, "images_per_s": 1000.0, "multiply_adds": 2e6, "time_ratio": 1.01}
        for n in (0, 1)
    ]
    (found,) = accelerator.used_share({"rows": rows}, rate=1e10)
    assert found["share_of_device"] == pytest.approx(0.2)
    assert found["method"] == "bp"


def test_the_summary_is_written_beside_the_results(monkeypatch, tmp_path):
    folder = tmp_path / "figures" / "bench"
    folder.mkdir(parents=True)
    row = {"method": "bp", "precision": "bf16", "record_every": 0, "images_per_s": 10.0, "multiply_adds": 5.0, "time_ratio": 1.0}
    (folder / "accelerator-basic-cnn-eager.json").write_text(json.dumps({"rows": [row]}))
    ran(monkeypatch, tmp_path, {})
    assert list(json.loads((folder / "accelerator.json").read_text())["bench"]) == ["basic-cnn-eager"]


def test_the_rate_is_counted_in_multiply_adds(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(accelerator.time, "perf_counter", lambda: float(next(clock)))
    assert accelerator.matmul_rate(torch.device("cpu"), side=16, rounds=3) == 16**3


def test_results_are_kept_in_one_file(monkeypatch, tmp_path):
    monkeypatch.setattr(accelerator.subprocess, "run", lambda command, **settings: subprocess.CompletedProcess(command, 0))
    assert accelerator.main(arguments(tmp_path, "--device", "cpu", "--archive", str(tmp_path / "all.tar.gz"))) == 0
    with tarfile.open(tmp_path / "all.tar.gz") as tar:
        assert {"bench", "full_size", "full_size/rates.json"} <= set(tar.getnames())
