"""Everything that waits for an accelerator, in order: the tests marked cuda, gradlens bench, then the list of analyses.full_size.

Bench: bp beside a hand-written loop in the same setting, eager and compiled, and images a second beside the rate at which the device
multiplies large bf16 matrices (measured here). The csv files, bench results and a summary are written to figures/; a test that
fails ends nothing, it is reported at the end and in the exit status.

    python -m analyses.accelerator --data cifar10-jpeg.tar.gz --minutes 9
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from analyses.training.cost import announce_cost
from analyses.training.study import environment
from gradlens.runtime.text_files import read_json, write_text

ROOT = Path(__file__).resolve().parents[1]
SIDE = 8192  # of the matrices that give the device's rate
NETWORKS: dict[str, list[str]] = {"basic-cnn": ["bp", "dgl", "dni", "cdni"], "vgg16": ["bp", "dgl"]}


def matmul_rate(device: torch.device, side: int = SIDE, rounds: int = 20) -> float:
    """Multiply-adds a second of bf16 products of two ``side`` × ``side`` matrices: the median of ``rounds``."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(rounds + 3):
        began = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return side**3 / median(seconds[3:])


def used_share(bench: Mapping[str, Any], rate: float) -> list[dict[str, Any]]:
    """For each unrecorded row of a bench result: images a second, time over the plain loop's, share of the device's rate."""
    return [
        {
            "method": row["method"], "precision": row["precision"], "images_per_s": row["images_per_s"], "time_ratio": row["time_ratio"],
            "share_of_device": row["images_per_s"] * row["multiply_adds"] / rate,
        }
        for row in bench["rows"]
        if not row["record_every"]
    ]  # fmt: skip


def steps(args: argparse.Namespace, left: float) -> list[tuple[str, list[str]]]:
    """(what it is, the command) of everything, in order; ``left``: minutes for the list."""
    python = [sys.executable, "-m"]
    tests = [*python, "pytest", "-m", "cuda", "-q", "-n", "0", str(ROOT / "tests" / "test_cuda.py")]
    found = [("tests marked cuda", tests)]
    for network, methods in NETWORKS.items():
        for mode in ("eager", "compiled"):
            flags = ["--data", "cifar10", "--model", network, "--device", args.device, "--precision", "bf16", "--rounds", str(args.rounds)]
            target = args.figures / "bench" / f"accelerator-{network}-{mode}.json"
            compiled = ["--compile"] if mode == "compiled" else []
            found.append((f"bench {network} {mode}", [*python, "gradlens", "bench", *methods, *flags, *compiled, "--json", str(target)]))
    listed = ["--data", args.data, "--device", args.device, "--out", str(args.out), "--results", str(args.figures / "full_size")]
    found.append(("the list", [*python, "analyses.full_size", *listed, "--minutes", f"{left:.2f}"]))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run all of it; the exit status is 1 if a step failed."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m analyses.accelerator", description=__doc__, formatter_class=form)
    parser.add_argument("--data", default="cifar10", help="as of analyses.full_size (default cifar10)")
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything together (default 9)")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds of gradlens bench (default 7)")
    parser.add_argument("--out", type=Path, default=Path("runs/full_size"), help="folder of run directories and decoded images")
    parser.add_argument("--archive", type=Path, default=None, help="after each step, put all results into this .tar.gz")
    parser.add_argument("--figures", type=Path, default=ROOT / "figures", help="folder of the results")
    args = parser.parse_args(argv)
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        print(f"error: --device {args.device}: torch finds no CUDA device here", file=sys.stderr)
        return 2
    announce_cost(args.minutes, "of the device, at most; what is done already is not done again")
    end = time.monotonic() + 60 * args.minutes
    (args.figures / "bench").mkdir(parents=True, exist_ok=True)
    if args.figures.resolve() != (ROOT / "figures").resolve():  # what is done already is not done again
        shutil.copytree(ROOT / "figures" / "full_size", args.figures / "full_size", dirs_exist_ok=True)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}
    failed = []
    rate = matmul_rate(torch.device(args.device)) if args.device.startswith("cuda") else math.nan
    for name, command in steps(args, 0.0):
        left = (end - time.monotonic()) / 60
        if left <= 0.1:
            failed.append(f"{name}: no time left")
            continue
        if name == "the list":
            command[-1] = f"{left:.2f}"
        print(f"\n== {name} ({left:.1f} minutes left)", flush=True)
        most = (
            60 * left + 60 if name == "the list" else max(60.0, 60 * left / 2)
        )  # no step before the list takes more than half of what is left
        try:
            status = subprocess.run(command, env=environ, check=False, timeout=most).returncode
        except subprocess.TimeoutExpired:
            status = 124
        if status not in (0, 5):  # 5: pytest found no test with that mark
            failed.append(f"{name}: exit status {status}")
        _summarise(args, rate)
        if args.archive:
            with tarfile.open(args.archive, "w:gz") as tar:
                for folder in ("bench", "full_size"):
                    if (args.figures / folder).exists():
                        tar.add(args.figures / folder, folder)
    print("\n".join(["", *(failed or ["all steps ended well"])]))
    return 1 if failed else 0


def _summarise(args: argparse.Namespace, rate: float) -> None:
    """What of the device's rate each loop used, from the bench results of this device."""
    found = {}
    for path in sorted((args.figures / "bench").glob("accelerator-*.json")):
        found[path.stem.removeprefix("accelerator-")] = used_share(read_json(path), rate)
    if found:
        name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        content = {"device": name, "bf16_multiply_adds_per_s": rate, "bench": found, **environment()}
        write_text(args.figures / "bench" / "accelerator.json", json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
