"""Runs on several ranks: who writes, what happens when a rank is killed, hangs, disagrees, or the disk is full. Real processes.

What concerns the launcher is started by torchrun (marked ``torchrun``, but for one launch that every run of the tests holds); all else
by forks of a process that has the libraries already, which costs a tenth of it.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from disk import small_disk
from processes import ENOUGH, ROOT, Program, alive, free_port, wait_for
from ranks import side_by_side

from gradlens.runtime import process_group
from gradlens.training.run_directory import load_run

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
SMALL = ["--model", "mlp", "--width", "8", "--limit", "192", "--batch-size", "64", "--record-every", "4", "--quiet"]
STARTS_RANKS = pytest.mark.torchrun


def start(folder: Path, *arguments: str, launcher: list[str] = TORCHRUN) -> subprocess.Popen[str]:
    """``gradlens ARGUMENTS`` by torchrun."""
    port = ["--master-port", str(free_port())] if "--rdzv-endpoint" not in launcher else []
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [*launcher, *port, "-m", "gradlens", *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=ENOUGH)
    except subprocess.TimeoutExpired:
        for pid in [*children(process.pid), process.pid]:
            os.kill(pid, signal.SIGKILL)
        raise
    return process.returncode, out, err


def sentences(err: str) -> list[str]:
    """What gradlens itself said, each once for each rank that said it."""
    return [line for line in err.splitlines() if line.startswith("gradlens: ")]


def children(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split()
    return [int(p) for p in found]


def workers(process: subprocess.Popen[str]) -> list[int]:
    """The ranks' processes, in the order of their ranks."""
    ranked = {}
    for pid in children(process.pid):
        words = Path(f"/proc/{pid}/environ").read_text().split("\0")
        if rank := next((word[5:] for word in words if word.startswith("RANK=")), None):
            ranked[int(rank)] = pid
    return [ranked[rank] for rank in sorted(ranked)]


def epochs(run: Path) -> int:
    """How many epochs a run has finished."""
    timing = run / "timing.csv"
    return max(0, len(timing.read_text().splitlines()) - 1) if timing.exists() else 0


def assert_same_run(a: Path, b: Path) -> None:
    for table in ("metrics.csv", "gradients.csv"):
        assert (a / table).read_bytes() == (b / table).read_bytes()
    one, two = (torch.load(run / "checkpoint.pt", weights_only=True) for run in (a, b))
    assert all(torch.equal(one["model"][name], w) for name, w in two["model"].items())


DATA = ["train", "dgl", *SMALL, "--epochs", "24", "--out", "runs"]  # long enough to be killed in its middle
LONG = [*DATA, "--record-ranks"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The long run on two ranks, left alone."""
    folder = tmp_path_factory.mktemp("undisturbed")
    command = [*LONG, "--run-name", "run"]
    ended = [rank.finished() for rank in side_by_side(folder, command, command)]
    assert [status for status, *_ in ended] == [0, 0], ended
    return folder / "runs" / "run"


@STARTS_RANKS
@pytest.mark.smoke
def test_rank_0_alone_writes_and_prints(tmp_path):
    status, out, err = finished(start(tmp_path, "train", "dgl", *SMALL, "--epochs", "2", "--record-ranks", "--run-name", "run"))
    assert status == 0, err
    assert "run: runs/run" in out
    run = load_run(tmp_path / "runs" / "run")
    assert run.finished
    assert (run.config.parallel.ranks, run.config.parallel.mode) == (2, "data")
    assert [p.name for p in run.path.parent.iterdir()] == ["run"]
    assert len(run.metrics) == 2 * 2 + 1
    own = {(row.kind, row.layer) for row in run.gradients if row.kind.startswith("rank")}
    assert own == {(f"rank{rank}", layer) for rank in (0, 1) for layer in ("block1", "block2", "block3", "top")}
    top = [row.value for row in run.gradients if row.kind in ("rank0", "rank1") and (row.layer, row.quantity) == ("top", "cosine")]
    assert 0.5 < sum(top) / len(top) < 1  # half a batch's gradient at the top, whose rule is exact, and the whole one's


class Story(NamedTuple):
    """What became of a run whose rank was killed, which torchrun began again, and which Ctrl-C then ended."""

    run: Path
    killed_after: int  # epochs
    status: int
    err: str
    ranks: list[int]  # of the second attempt


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    folder = tmp_path_factory.mktemp("story")
    run = folder / "runs" / "run"
    process = start(folder, *LONG, "--run-name", "run", launcher=[*TORCHRUN, "--max-restarts", "1"])
    wait_for(lambda: epochs(run) >= 3)
    first = workers(process)
    os.kill(first[1], signal.SIGKILL)
    wait_for(lambda: not any(map(alive, first)))
    killed_after = epochs(run)
    wait_for(lambda: epochs(run) >= killed_after + 2)
    ranks = workers(process)
    process.send_signal(signal.SIGINT)
    status, _, err = finished(process)
    return Story(run, killed_after, status, err, ranks)


@STARTS_RANKS
def test_a_killed_rank_ends_all_and_a_restart_goes_on(story, undisturbed):
    lines = (story.run / "metrics.csv").read_text().splitlines()
    assert len(lines) - 1 >= 2 * story.killed_after + 1
    assert lines == (undisturbed / "metrics.csv").read_text().splitlines()[: len(lines)]


@STARTS_RANKS
def test_ctrl_c_saves_and_leaves_no_process(story):
    assert story.status != 0
    *earlier, said = sentences(story.err)
    assert re.search(r"interrupted after \d+ of 72 updates; saved; `gradlens train .* --resume` continues", said)
    assert len(earlier) <= 1  # of the killed rank
    assert not any(map(alive, story.ranks))


@STARTS_RANKS
def test_what_was_killed_begun_again_and_interrupted_resumes_bit_for_bit(story, undisturbed):
    command = [*LONG, "--run-name", "run", "--resume"]
    for rank in side_by_side(story.run.parents[1], command, command):
        status, _, err = rank.finished()
        assert status == 0, err
    assert_same_run(story.run, undisturbed)


@STARTS_RANKS
def test_a_killed_rank_without_restarts_is_one_sentence_and_a_status(tmp_path):
    ranks = side_by_side(tmp_path, *[[*LONG, "--run-name", "run"]] * 2)
    wait_for(lambda: epochs(tmp_path / "runs" / "run") >= 1)
    began = time.monotonic()
    ranks[1].send(signal.SIGKILL)
    status, _, err = ranks[0].finished()
    assert status == 1
    assert time.monotonic() - began < 30
    (said,) = sentences(err)
    assert re.search(r"another rank is gone after about \d+ updates", said)
    assert not any(alive(rank.pid) for rank in ranks)


def soon_silent() -> None:
    """A rank is missed after 4 seconds instead of 12."""
    process_group.HEARTBEAT_INTERVAL, process_group.HEARTBEAT_TIMEOUT = 0.2, 4.0


@STARTS_RANKS
def test_a_rank_that_hangs_ends_all(tmp_path):
    ranks = side_by_side(tmp_path, *[[*LONG, "--run-name", "run"]] * 2, before=soon_silent)
    wait_for(lambda: epochs(tmp_path / "runs" / "run") >= 1)
    began = time.monotonic()
    ranks[1].send(signal.SIGSTOP)
    status, _, err = ranks[0].finished()
    assert status == 1
    assert 3 < time.monotonic() - began < 30
    (said,) = sentences(err)
    assert re.search("no heartbeat from rank 1 for 4 s: all ranks stop; --resume continues from the last checkpoint", said)
    ranks[1].finished()
    assert not any(alive(rank.pid) for rank in ranks)


@STARTS_RANKS
def test_blocks_on_ranks_interrupted_and_resumed_are_one_process_undisturbed(tmp_path):
    command = [*DATA, "--diagnose-every", "0"]
    alone = Program(tmp_path, *command, "--run-name", "alone", "--threads", "1")
    assert alone.finished()[0] == 0
    shared = [*command, "--run-name", "run", "--parallel", "layers"]
    ranks = side_by_side(tmp_path, shared, shared)
    run = tmp_path / "runs" / "run"
    wait_for(lambda: epochs(run) >= 2)
    for rank in ranks:
        rank.send(signal.SIGINT)
    ended = [rank.finished() for rank in ranks]
    (said,) = [line for _, _, err in ended for line in sentences(err)]
    assert "interrupted after" in said
    ended = [rank.finished() for rank in side_by_side(tmp_path, *[[*shared, "--resume"]] * 2)]
    assert [status for status, *_ in ended] == [0, 0], ended
    assert_same_run(run, tmp_path / "runs" / "alone")


@STARTS_RANKS
def test_ranks_with_different_configs_refuse_to_start(tmp_path):
    same = ["train", "dgl", *SMALL, "--epochs", "1"]
    ended = [rank.finished() for rank in side_by_side(tmp_path, [*same, "--lr", "0.001"], [*same, "--lr", "0.002"])]
    assert [status for status, *_ in ended] == [2, 2]
    assert sorted(line for _, _, err in ended for line in sentences(err)) == [
        "gradlens: rank 1 has another lr than rank 0: 0.002, rank 0 has 0.001; start all with the same"
    ]
    assert not (tmp_path / "runs").exists()


DATA_OF_RANK_0 = """import os

import torch

from gradlens.runtime.errors import InputError


def build(*_):
    if os.environ["RANK"] == "1":
        raise InputError("these files are on rank 0 alone")
    x, y = torch.zeros(200, 1, 8, 8, dtype=torch.uint8), torch.arange(200) % 4
    return (x, y), (x, y), tuple("abcd")
"""


@STARTS_RANKS
def test_what_one_rank_alone_refuses_ends_all_before_the_costs_of_blocks_are_measured(tmp_path):
    """Without ``--split`` rank 0 measures and the others wait for it: not before all have built their part."""
    (tmp_path / "of_rank_0.py").write_text(DATA_OF_RANK_0)
    command = ["train", "dgl", *SMALL, "--data", "of_rank_0.py:build", "--parallel", "layers"]
    ended = [rank.finished() for rank in side_by_side(tmp_path, command, command)]
    assert [status for status, *_ in ended] == [2, 2], ended
    (said,) = [line for _, _, err in ended for line in sentences(err)]
    assert "rank 1: " in said
    assert "these files are on rank 0 alone" in said
    assert not (tmp_path / "runs").exists()


def little_room_on_rank_0() -> None:
    """The checkpoint is larger than what there is."""
    if os.environ["RANK"] == "0":
        small_disk(40 * 1024)


@STARTS_RANKS
def test_a_full_disk_on_rank_0_stops_all(tmp_path):
    command = ["train", "dgl", *SMALL, "--width", "64"]
    ended = [rank.finished() for rank in side_by_side(tmp_path, command, command, before=little_room_on_rank_0)]
    assert all(status for status, *_ in ended)
    (said,) = [line for _, _, err in ended for line in sentences(err)]
    assert "cannot write" in said


@STARTS_RANKS
def test_the_same_command_on_two_machines(undisturbed, tmp_path):
    """Two launchers with a rendezvous, as on two machines: only the one with rank 0 has a run directory."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d"]
    launcher += ["--rdzv-id", "one", "--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    both = [start(folder, *LONG, "--run-name", "run", launcher=launcher) for folder in folders]
    ended = [finished(process) for process in both]
    assert [status for status, *_ in ended] == [0, 0], ended[0][2] + ended[1][2]
    (wrote,) = [folder for folder in folders if (folder / "runs").exists()]
    assert_same_run(wrote / "runs" / "run", undisturbed)


@STARTS_RANKS
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "dgl", *SMALL, "--parallel", "layers", "--split", "9"], "expected 2 numbers of blocks that add up to 4"),
        (["train", "fa", *SMALL, "--parallel", "layers"], "fa cannot work on several batches at once: it is backward-locked"),
        (["train", "dgl", *SMALL, "--model", "basic-cnn", "--limit", "66"], "the last batch of each epoch has 2 images for 2 ranks"),
        (["train", "dgl", *SMALL, "--seeds", "2"], "several ranks share one run"),
        (["compare-gradients", "bp", "dgl"], "only `gradlens train` and `gradlens bench` run on several ranks"),
    ],
    ids=["split", "locked", "uneven", "seeds", "command"],
)
def test_bad_input_on_several_ranks_is_one_sentence(tmp_path, arguments, said):
    ended = [rank.finished() for rank in side_by_side(tmp_path, arguments, arguments)]
    assert [status for status, *_ in ended] == [2, 2], ended
    (line,) = [line for _, _, err in ended for line in sentences(err)][:1]
    assert said in line
    assert "Traceback" not in ended[0][2] + ended[1][2]
