"""What ranks gain: the numbers are of what they say they are of."""

import json
from statistics import median

import pytest
import torch
from ranks import together

from gradlens.reporting.benchmarks import ranks_table
from gradlens.runtime.errors import InputError
from gradlens.runtime.process_group import SINGLE_PROCESS, ProcessGroup
from gradlens.training.config import make_config
from gradlens.training.cost.rank_benchmark import Gain, bench_ranks, to_json

SHARED = {"model": "mlp", "width": 16, "batch_size": 16, "record_every": 0, "diagnose_every": 0, "epochs": 1000, "ranks": 2}


def measured(world: ProcessGroup) -> list[Gain]:
    configs = [
        make_config(method="dgl", parallel="layers", split=[1, 3], **SHARED),
        make_config(method="dni", parallel="layers", stale=True, **SHARED),
        make_config(method="bp", parallel="layers", **SHARED),
        make_config(method="fa", parallel="data", **SHARED),
    ]
    return bench_ranks(configs, (1, 8, 8), 10, torch.device("cpu"), world, rounds=2, seconds=0.02)


@pytest.mark.torchrun
def test_every_way_of_sharing_is_measured(tmp_path):
    rows, _ = together(2, measured, tmp_path)
    assert [(row.method, row.how) for row in rows] == [("dgl", "layers"), ("dni", "stale"), ("bp", "1f1b, 4 microbatches"), ("fa", "data")]
    dgl, dni, bp, fa = rows
    assert dgl.split == "1,3"
    for row in rows:
        assert (row.ranks, row.threads) == (2, 1)
        assert 0 < row.low <= row.gain <= row.high
        assert row.alone > 0
        assert row.machine > 0
    assert all(1 <= row.bound <= 2 for row in (dgl, dni, bp))
    assert (fa.bound, fa.split, fa.megabytes_per_s, bp.megabytes_per_s) == (None, "", None, None)
    sent = 16 * 16 * 4 + 16 * 8 + 8  # activations, labels, the control word: bytes of a step
    assert dgl.megabytes_per_s * 1e6 * dgl.together == pytest.approx(sent, rel=0.5)  # of all steps over the median time of one
    for row, stored in zip(rows, json.loads(to_json(rows, {"model": "mlp"}))["rows"], strict=True):
        gains = [alone / together for alone, together, _ in stored["rounds"]]
        assert (min(gains), median(gains), max(gains)) == (row.low, row.gain, row.high)
        assert median(2 * alone / beside for alone, _, beside in stored["rounds"]) == row.machine
    assert len(ranks_table(rows, "about").rows) == 4


def test_one_process_has_no_process_to_share_with():
    with pytest.raises(InputError, match="torchrun --nproc-per-node N"):
        bench_ranks([], (1, 8, 8), 10, torch.device("cpu"), SINGLE_PROCESS, 1)
