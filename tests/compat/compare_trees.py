"""Train every rule with two source trees and compare what they leave behind bit for bit.

    python tests/compat/compare_trees.py BEFORE AFTER [--rules dgl dni] [--networks mlp cnn] [--work DIR] [--but angle classes]

BEFORE and AFTER are folders that hold ``gradlens/``. Each tree runs in a process of its own, through the command line, which stays
whatever happens to modules and names: 20 updates on digits, one thread, fp32, every second one recorded and every fourth diagnosed.
Each run is interrupted after 11 updates and resumed; AFTER also resumes what BEFORE had left half-done. Compared are the names of run
directories, their files, checkpoints and snapshots (weights, the rule's own, optimiser), tables, config.json and summary.json; left
out are times, versions and command lines, and what --but names: quantities of tables and entries of config.json that were changed on
purpose. One line a run; exit status 1 if anything differs.

What BEFORE computed is kept in --work and used again as long as its sources, this script and torch stay the same.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import io
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

TEACHER = "teacher/net"  # relative to the working directory, since configs keep it
NETWORKS = {"mlp": "--model mlp --width 4", "cnn": "--model basic-cnn --width 4 --depth 2"}
RULES = {
    "bp": "",
    "dgl": "--set width=8",
    "dgl-async": "--set width=8 --set warmup=0 --set buffer=2",
    "dni": "--set width=8",
    "cdni": "--set width=8",
    "dni-unlocked": "--set width=8",
    "chunked": "",
    "overlap": "",
    "greedy": "",
    "predsim": "",
    "infopro": "",
    "shallow": "",
    "fa": "",
    "usf": "",
    "brsf": "",
    "frsf": "",
    "kp": "",
    "dfa": "",
    "simclr": "",
    "simclr-local": "",
    "loco": "",
    "cpc": "",
    "cpc-local": "",
    "infomax": "",
    "context-encoder": "",
    "context-encoder-local": "",
    "distil": f"--teacher {TEACHER}",
}
MORE = {  # what the rules above leave out
    "bp on resnet20, online probe": "bp --model resnet20 --width 4 --online-probe",
    "dgl on resnet20, cnn heads, window 2": "dgl --model resnet20 --width 2 --set head=cnn --set width=8 --set layers=2",
    "dgl on mlp, linear heads, sgd": "dgl --model mlp --width 4 --set head=linear --optimizer sgd --momentum 0.9 --nesterov",
    "bp on cnn, noise, validation, mse": "bp --model basic-cnn --width 4 --label-noise 0.2 --validation 0.2 --loss mse",
    "dni on cnn, mean, mixed with bp": "dni --model basic-cnn --width 4 --set target=mean --set bp_lambda=0.5 --set width=8",
    "bp on hierarchical, lars": "bp --data hierarchical --model basic-cnn --width 4 --optimizer lars --momentum 0.9 --normalize gaussian",
    "simclr on few labels": "simclr --model basic-cnn --width 4 --labels 0.5",
}
COMMON = "--data digits --limit 160 --limit-test 80 --batch-size 32 --epochs 4 --lr 1e-3 --augment --lr-schedule cosine --warmup 3"
RECORDS = "--record-every 2 --diagnose-every 2 --keep-checkpoints 2 --evaluate-train"
MACHINE = "--threads 1 --device cpu --precision fp32 --quiet"
INTERRUPTED_AFTER = 11  # of 20 updates: in the middle of an epoch


class Job(NamedTuple):
    """One training: its line in the outcome, and what follows ``gradlens train``."""

    name: str
    arguments: list[str]


def jobs(rules: list[str], networks: list[str], more: bool) -> list[Job]:
    """What is trained with both trees."""
    each = [(f"{rule} on {net}", f"{rule} {NETWORKS[net]} {RULES[rule]}") for rule in rules for net in networks]
    every = [*each, *(MORE.items() if more else [])]
    # what is given last wins, so that a job can say otherwise than COMMON
    return [Job(name, [words.split()[0], *f"{COMMON} {RECORDS} {MACHINE}".split(), *words.split()[1:]]) for name, words in every]


# ------------------------------------------------------------------------------------------------- in a tree's own process


def program(*arguments: str) -> tuple[int, str]:
    """Run ``gradlens`` in this process: exit status, and what it printed."""
    before, sys.argv = sys.argv, ["gradlens", *arguments]
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            runpy.run_module("gradlens", run_name="__main__", alter_sys=True)
        return 0, said.getvalue()
    except SystemExit as end:
        return int(end.code or 0), said.getvalue()
    finally:
        sys.argv = before


@contextlib.contextmanager
def interrupted(after: int) -> Any:
    """Send this process SIGTERM in an update: a run then ends after it, saved."""
    from torch.optim import optimizer

    made = 0

    def count(*_: Any) -> None:
        nonlocal made
        made += 1
        if made == after:
            os.kill(os.getpid(), signal.SIGTERM)

    hook = optimizer.register_optimizer_step_post_hook(count)
    try:
        yield
    finally:
        hook.remove()


def must(status: int, wanted: int, said: str) -> None:
    """Refuse an exit status that is not the wanted one, with what was printed."""
    if status != wanted:
        raise RuntimeError(f"exit status {status}, not {wanted}: {said.strip()}")


def train(job: Job, folder: str) -> None:
    """A run, interrupted and resumed: half in ``halves/folder``, whole in ``runs/folder``."""
    command = ["train", *job.arguments, "--out", f"runs/{folder}"]
    with interrupted(INTERRUPTED_AFTER):
        must(*_in_order(program(*command), 130))
    shutil.copytree(f"runs/{folder}", f"halves/{folder}")
    must(*_in_order(program(*command, "--resume"), 0))


def carry(job: Job, folder: str, halves: Path) -> None:
    """Resume what another tree has left half-done, in ``carried/folder``."""
    shutil.copytree(halves / folder, f"carried/{folder}")
    must(*_in_order(program("train", *job.arguments, "--out", f"carried/{folder}", "--resume"), 0))


def _in_order(done: tuple[int, str], wanted: int) -> tuple[int, int, str]:
    return done[0], wanted, done[1]


def child(tree: Path, todo: list[Job], halves: Path | None) -> None:
    """Train all jobs in the working directory with the ``gradlens`` of a tree; ``failed.json`` tells what went wrong."""
    found = importlib.util.find_spec("gradlens")
    if found is None or not Path(str(found.origin)).resolve().is_relative_to(tree.resolve()):
        raise SystemExit(f"{tree} holds no gradlens: found {found and found.origin}")
    failed: dict[str, str] = {}
    if any("--teacher" in job.arguments for job in todo):
        out, name = TEACHER.split("/")
        short = f"--data digits --limit 160 --epochs 1 --batch-size 32 {NETWORKS['mlp']} {MACHINE} --out {out} --run-name {name}"
        must(*_in_order(program("train", "bp", *short.split()), 0))
    for number, job in enumerate(todo):
        folder = f"{number:02d}"
        try:
            train(job, folder)
            if halves:
                carry(job, folder, halves)
        except (RuntimeError, OSError) as error:
            failed[job.name] = str(error)
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    Path("failed.json").write_text(json.dumps(failed), encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------ comparing


def leaves(state: Any, path: str = "") -> dict[str, Any]:
    """Nested state as {path: tensor or value}."""
    parts = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list | tuple) else None
    if parts is None:
        return {path: state}
    return {k: v for name, part in parts for k, v in leaves(part, f"{path}/{name}").items()}


def same_bits(a: Any, b: Any) -> bool:
    """Whether two values are equal to the bit; NaN is equal to NaN."""
    import torch

    if not (torch.is_tensor(a) and torch.is_tensor(b)):
        return type(a) is type(b) and repr(a) == repr(b)
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    x, y = (t.contiguous().flatten().view(torch.uint8) for t in (a, b))
    return torch.equal(x, y)


TIMES = ("/position/seconds", "/tables/timing")  # in checkpoints
LATER = ("/config_digest", "source", "source_fingerprint")  # entries of checkpoints and of config.json that earlier versions lack


def checkpoint(path: Path, but: Collection[str]) -> dict[str, Any]:
    """What a checkpoint holds, without times; without the length of the tables of which something is left out."""
    import torch

    state = leaves(torch.load(path, map_location="cpu", weights_only=True))
    return {name: value for name, value in state.items() if name not in (*TIMES, *LATER) and not (but and name.startswith("/tables/"))}


def document(path: Path, but: Collection[str]) -> dict[str, Any]:
    """A JSON file's values, without versions, commit and command line."""
    left_out = ("versions", "git", "command", *LATER, *but)
    content = {k: v for k, v in json.loads(path.read_text(encoding="utf-8")).items() if k not in left_out}
    return {name: value for name, value in leaves(content).items() if name.split("/")[-1] not in but}


def named(differ: list[str]) -> str:
    """The first few of many."""
    return ", ".join(differ[:3]) + (f" and {len(differ) - 3} more" if len(differ) > 3 else "")


def lines_of(path: Path, but: Collection[str]) -> list[str]:
    """A table's lines, without those of quantities and without the columns that are left out."""
    whole = path.read_text(encoding="utf-8").splitlines()
    lines = whole[:1] + [line for line in whole[1:] if not any(f",{quantity}," in line for quantity in but)]
    kept = [i for i, column in enumerate(lines[0].split(",")) if column not in but] if lines else []
    if lines and len(kept) < len(lines[0].split(",")):
        lines = [",".join(line.split(",")[i] for i in kept) for line in lines]
    return lines


def difference(a: Path, b: Path, but: Collection[str]) -> str | None:
    """How two files of a run differ; None if they do not."""
    if a.suffix in (".pt", ".json"):
        mine, theirs = ((checkpoint if a.suffix == ".pt" else document)(p, but) for p in (a, b))
        if list(mine) != list(theirs):
            return f"has other entries, or in another order: {named(sorted(mine.keys() ^ theirs.keys()))}"
        differ = [name for name in mine if not same_bits(mine[name], theirs[name])]
        return f"differs in {named(differ)}" if differ else None
    if a.read_bytes() == b.read_bytes():
        return None
    if a.suffix != ".csv":
        return "differs"
    mine_, theirs_ = lines_of(a, but), lines_of(b, but)
    if mine_ == theirs_ and but:
        return None
    at = next((i for i, (x, y) in enumerate(zip(mine_, theirs_, strict=False)) if x != y), min(len(mine_), len(theirs_)))
    lines = [rows[at] if at < len(rows) else "its end" for rows in (mine_, theirs_)]
    count = sum(x != y for x, y in zip(mine_, theirs_, strict=False)) + abs(len(mine_) - len(theirs_))
    return f"differs in {count} of {len(mine_)} lines, first in line {at + 1}: {lines[0]} | {lines[1]}"


def differences(a: Path, b: Path, but: Collection[str] = ()) -> tuple[list[str], int]:
    """How two folders of runs differ, and how many files are compared."""
    files, others = ({p.relative_to(d).as_posix() for p in d.rglob("*") if p.is_file() and p.name != "timing.csv"} for d in (a, b))
    said = [f"{name} is only {'before' if name in files else 'after'}" for name in sorted(files ^ others)]
    for name in sorted(files & others):
        if told := difference(a / name, b / name, but):
            said.append(f"{name} {told}")
    return said, len(files & others)


# ------------------------------------------------------------------------------------------------------------ the parent


def fingerprint(tree: Path, todo: list[Job]) -> str:
    """Of all that decides what a tree computes on this machine."""
    import torch

    found = hashlib.sha256(repr((torch.__version__, todo)).encode())
    for path in [Path(__file__), *sorted((tree / "gradlens").rglob("*.py"))]:
        found.update(path.read_bytes())
    return found.hexdigest()


def run(tree: Path, todo: list[Job], out: Path, halves: Path | None) -> dict[str, str]:
    """Train all jobs with a tree in ``out``; what failed. Without ``halves``, what is there already is used again."""
    stamp, mark = out / "done", fingerprint(tree, todo)
    if halves or not stamp.exists() or stamp.read_text(encoding="utf-8") != mark:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        plan = {"tree": str(tree.resolve()), "jobs": todo, "halves": str(halves.resolve()) if halves else None}
        one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        environment = {**os.environ, **one, "PYTHONPATH": str(tree.resolve()), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, str(Path(__file__).resolve()), "--child", json.dumps(plan)]
        if status := subprocess.run(command, cwd=out, env=environment, check=False).returncode:
            raise SystemExit(f"{tree}: the process that trains ended with status {status}")
        stamp.write_text(mark, encoding="utf-8")
    failed: dict[str, str] = json.loads((out / "failed.json").read_text(encoding="utf-8"))
    return failed


def compare(before: Path, after: Path, todo: list[Job], work: Path, but: Collection[str] = ()) -> int:
    """Train with both trees, print a line for each run, and return how many differ."""
    began = time.monotonic()
    old = run(before, todo, work / "before", None)
    new = run(after, todo, work / "after", work / "before" / "halves")
    wrong = 0
    for number, job in enumerate(todo):
        folder = f"{number:02d}"
        said = [f"{which}: {failed[job.name]}" for which, failed in (("before", old), ("after", new)) if job.name in failed]
        count = 0
        if not said:
            pairs = (("", "runs"), ("interrupted: ", "halves"), ("resumed from before: ", "carried"))
            for prefix, where in pairs:
                told, files = differences(work / "before" / where.replace("carried", "runs") / folder, work / "after" / where / folder, but)
                said += [prefix + line for line in told]
                count += files
        wrong += bool(said)
        print(f"{job.name}: " + ("DIFFERENT\n  " + "\n  ".join(said) if said else f"same, {count} files"))
    seconds = time.monotonic() - began
    print(f"{wrong} of {len(todo)} runs differ" if wrong else f"all {len(todo)} runs are the same to the bit", f"({seconds:.0f} s)")
    return wrong


def main() -> None:
    """Read the command line."""
    if sys.argv[1:2] == ["--child"]:
        plan = json.loads(sys.argv[2])
        child(Path(plan["tree"]), [Job(*job) for job in plan["jobs"]], Path(plan["halves"]) if plan["halves"] else None)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--rules", nargs="+", choices=RULES, metavar="RULE", help="only these, and nothing besides")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--work", type=Path, help="folder for the runs, kept (default: a temporary one)")
    parser.add_argument("--but", nargs="+", default=[], metavar="NAME", help="quantities, columns and entries of config.json to leave out")
    given = parser.parse_args()
    todo = jobs(given.rules or list(RULES), given.networks, more=not given.rules)
    with contextlib.nullcontext(given.work) if given.work else tempfile.TemporaryDirectory() as work:
        sys.exit(bool(compare(given.before, given.after, todo, Path(work), given.but)))


if __name__ == "__main__":
    main()
