"""Runs that torchrun starts: who writes, what happens when a rank is killed, hangs, disagrees, or the disk is full. Real processes."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ranks import free_port

from gradlens.run import load

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
SMALL = ["--model", "mlp", "--width", "8", "--limit", "192", "--batch-size", "32", "--record-every", "4", "--quiet"]
ROOT = Path(__file__).resolve().parent.parent
ENOUGH = 100  # seconds for anything here on a busy machine


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def start(folder: Path, *arguments: str, launcher: list[str] = TORCHRUN, **more: str) -> subprocess.Popen[str]:
    port = ["--master-port", str(free_port())] if launcher == TORCHRUN or "--max-restarts" in launcher else []
    command = [*launcher, *port, "-m", "gradlens", *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment(**more), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


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


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + ENOUGH
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


def epochs(run: Path) -> int:
    """How many epochs a run has finished."""
    timing = run / "timing.csv"
    return max(0, len(timing.read_text().splitlines()) - 1) if timing.exists() else 0


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def assert_same_run(a: Path, b: Path) -> None:
    for table in ("metrics.csv", "gradients.csv"):
        assert (a / table).read_bytes() == (b / table).read_bytes()
    one, two = (torch.load(run / "checkpoint.pt", weights_only=True) for run in (a, b))
    assert all(torch.equal(one["model"][name], w) for name, w in two["model"].items())


DATA = ["train", "dgl", *SMALL, "--epochs", "40", "--out", "runs"]  # long enough to be killed in its middle
LONG = [*DATA, "--record-ranks"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The long run on two ranks, left alone."""
    folder = tmp_path_factory.mktemp("undisturbed")
    status, out, err = finished(start(folder, *LONG, "--run-name", "run"))
    assert status == 0, err
    assert "run: runs/run" in out
    return folder / "runs" / "run"


def test_rank_0_alone_writes_and_speaks(undisturbed):
    run = load(undisturbed)
    assert run.finished
    assert (run.config.ranks, run.config.parallel) == (2, "data")
    assert [p.name for p in undisturbed.parent.iterdir()] == ["run"]
    assert len(run.metrics) == 2 * 40 + 1
    own = {(row.kind, row.layer) for row in run.gradients if row.kind.startswith("rank")}
    assert own == {(f"rank{rank}", layer) for rank in (0, 1) for layer in ("block1", "block2", "block3", "top")}
    top = [row.value for row in run.gradients if row.kind in ("rank0", "rank1") and (row.layer, row.quantity) == ("top", "cosine")]
    assert 0.5 < sum(top) / len(top) < 1  # half a batch's gradient at the top, whose rule is exact, and the whole one's


def test_a_killed_rank_ends_all_and_a_restart_goes_on_bit_for_bit(undisturbed, tmp_path):
    process = start(tmp_path, *LONG, "--run-name", "run", launcher=[*TORCHRUN, "--max-restarts", "1"])
    run = tmp_path / "runs" / "run"
    wait_for(lambda: epochs(run) >= 3)
    killed = workers(process)[1]
    os.kill(killed, signal.SIGKILL)
    status, out, err = finished(process)
    assert status == 0, err
    assert "run: runs/run" in out
    assert_same_run(run, undisturbed)


def test_a_killed_rank_without_restarts_is_one_sentence_and_a_status(tmp_path):
    process = start(tmp_path, *LONG, "--run-name", "run")
    wait_for(lambda: epochs(tmp_path / "runs" / "run") >= 1)
    ranks = workers(process)
    began = time.monotonic()
    os.kill(ranks[1], signal.SIGKILL)
    status, _, err = finished(process)
    assert status != 0
    assert time.monotonic() - began < 30
    assert len(sentences(err)) <= 1  # the launcher's polite signal may come before the connection is seen to break
    assert not any(map(alive, ranks))


def test_a_rank_that_hangs_ends_all(tmp_path):
    process = start(tmp_path, *LONG, "--run-name", "run")
    wait_for(lambda: epochs(tmp_path / "runs" / "run") >= 1)
    ranks = workers(process)
    began = time.monotonic()
    os.kill(ranks[1], signal.SIGSTOP)
    status, _, err = finished(process)
    assert status != 0
    assert time.monotonic() - began < 30
    (said,) = sentences(err)
    assert re.search("nothing was heard of rank 1 for 12 seconds: all ranks stop; --resume goes on from the last checkpoint", said)
    assert not any(map(alive, ranks))


def test_ctrl_c_saves_leaves_no_process_and_resumes_bit_for_bit(undisturbed, tmp_path):
    process = start(tmp_path, *LONG, "--run-name", "run")
    run = tmp_path / "runs" / "run"
    wait_for(lambda: epochs(run) >= 2)
    ranks = workers(process)
    process.send_signal(signal.SIGINT)
    status, _, err = finished(process)
    assert status != 0
    (said,) = sentences(err)
    assert re.search(r"interrupted after \d+ of 240 updates; saved; `gradlens train .* --resume` goes on", said)
    assert not any(map(alive, ranks))
    status, _, err = finished(start(tmp_path, *LONG, "--run-name", "run", "--resume"))
    assert status == 0, err
    assert_same_run(run, undisturbed)


def test_blocks_on_ranks_interrupted_and_resumed_are_one_process_undisturbed(tmp_path):
    command = [*DATA, "--diagnose-every", "0"]
    alone = subprocess.run(
        [sys.executable, "-m", "gradlens", *command, "--run-name", "alone", "--threads", "1"], cwd=tmp_path, env=environment(), check=False
    )
    assert alone.returncode == 0
    process = start(tmp_path, *command, "--run-name", "run", "--parallel", "layers")
    run = tmp_path / "runs" / "run"
    wait_for(lambda: epochs(run) >= 2)
    process.send_signal(signal.SIGINT)
    _, _, err = finished(process)
    assert "interrupted after" in sentences(err)[0]
    status, _, err = finished(start(tmp_path, *command, "--run-name", "run", "--parallel", "layers", "--resume"))
    assert status == 0, err
    assert_same_run(run, tmp_path / "runs" / "alone")


def by_hand(folder: Path, *commands: list[str]) -> list[tuple[int, str, str]]:
    """Ranks started without a launcher, each with its own command line."""
    port = str(free_port())
    started = []
    for rank, arguments in enumerate(commands):
        shared = {"RANK": str(rank), "WORLD_SIZE": str(len(commands)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        started.append(start(folder, *arguments, launcher=[sys.executable], **shared))
    return [finished(process) for process in started]


def test_ranks_with_different_configs_refuse_to_start(tmp_path):
    same = ["train", "dgl", *SMALL, "--epochs", "1"]
    ended = by_hand(tmp_path, [*same, "--lr", "0.001"], [*same, "--lr", "0.002"])
    assert [status for status, *_ in ended] == [2, 2]
    assert sorted(line for _, _, err in ended for line in sentences(err)) == [
        "gradlens: rank 1 is about another run than rank 0: lr is 0.002 there and 0.001 here"
    ]
    assert not (tmp_path / "runs").exists()


def test_a_full_disk_on_rank_0_stops_all(tmp_path):
    limited = f'[ $RANK = 0 ] && ulimit -f 40; exec {sys.executable} "$@"'  # blocks of 1,024 bytes: the checkpoint is larger
    launcher = [*TORCHRUN, "--master-port", str(free_port()), "--no-python", "bash", "-c", limited, "bash"]
    status, _, err = finished(start(tmp_path, "train", "dgl", *SMALL, "--width", "64", launcher=launcher))
    assert status != 0
    (said,) = sentences(err)
    assert "cannot write" in said


def test_the_same_command_on_two_machines(undisturbed, tmp_path):
    """Two launchers with a rendezvous, as on two machines: only the one with rank 0 has a run directory."""
    port = free_port()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d"]
    launcher += ["--rdzv-id", "one", "--rdzv-endpoint", f"127.0.0.1:{port}"]
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    both = [start(folder, *LONG, "--run-name", "run", launcher=launcher) for folder in folders]
    ended = [finished(process) for process in both]
    assert [status for status, *_ in ended] == [0, 0], ended[0][2] + ended[1][2]
    (wrote,) = [folder for folder in folders if (folder / "runs").exists()]
    assert_same_run(wrote / "runs" / "run", undisturbed)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "dgl", *SMALL, "--parallel", "layers", "--split", "9"], "wanted 2 numbers of blocks that add up to 4"),
        (["train", "fa", *SMALL, "--parallel", "layers"], "fa cannot work on several batches at once: it is backward-locked"),
        (["train", "dgl", *SMALL, "--model", "basic-cnn", "--limit", "98"], "the last batch of each epoch has 2 images for 2 ranks"),
        (["train", "dgl", *SMALL, "--seeds", "2"], "several ranks share one run"),
        (["compare-gradients", "bp", "dgl"], "only `gradlens train` and `gradlens bench` run on several ranks"),
    ],
    ids=["split", "locked", "uneven", "seeds", "command"],
)
def test_bad_input_on_several_ranks_is_one_sentence(tmp_path, arguments, said):
    ended = by_hand(tmp_path, arguments, arguments)
    assert [status for status, *_ in ended] == [2, 2], ended
    (line,) = [line for _, _, err in ended for line in sentences(err)][:1]
    assert said in line
    assert "Traceback" not in ended[0][2] + ended[1][2]
