"""How long gradlens's commands take and how much memory they need, on a comparison of digits: CPU seconds of one thread, peak memory.

bp, dgl and fa on BasicCNN of width 32, scikit-learn's digits. Each command runs in a process of its own, one after the other, in a
folder that is thrown away; the table of the FAQ is read from the file that this writes.

    python -m analyses.command_costs          # some five minutes on a quiet machine
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from analyses.training.cost import announce_cost

FOLDER = Path(__file__).parents[1] / "figures" / "command_costs"
COMPARISON = "comparisons/costs"
COMMANDS = (  # in the order in which a user would come to them; later ones read what earlier ones made
    "list methods",
    "draw bp dgl",
    "check dgl",
    "compare-gradients",
    f"compare-gradients bp dgl fa --width 32 --out {COMPARISON}",
    "train simclr --width 32",
    "train context-encoder --width 32",
    f"show {COMPARISON}",
    f"figures {COMPARISON}",
    f"measure {COMPARISON} --quantity angle",
    f"probe {COMPARISON}",
    f"representations {COMPARISON}",
    f"filters {COMPARISON}",
    f"report {COMPARISON}",
    f"doctor {COMPARISON}",
    f"export {COMPARISON}",
    "inpaint runs/context-encoder-*",
    "memorize bp dgl --width 32 --limit 500 --epochs 20",
    "timeline bp dgl --width 32",
    "bench bp dgl --width 32",
)


class CommandCost(NamedTuple):
    """What one command took."""

    command: str
    cpu_seconds: float
    peak_mb: float  # of resident memory


def measured(command: str, folder: Path) -> CommandCost:
    """Run a command in a folder; its CPU time and peak memory.

    Raises:
        SystemExit: the command failed.

    """
    words = [str(path.relative_to(folder)) for word in shlex.split(command) for path in sorted(folder.glob(word))[:1] if "*" in word]
    words = [word for word in shlex.split(command) if "*" not in word] + words
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "gradlens", *words], cwd=folder, env=env, stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, 1) or (code == 1 and words[0] != "doctor"):  # a doctor that finds something leaves with 1
        raise SystemExit(f"gradlens {command} left with {code}:\n{(folder / 'log').read_text(encoding='utf-8')[-2000:]}")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    return CommandCost(f"gradlens {command}", used.ru_utime + used.ru_stime, used.ru_maxrss * unit / 1e6)


def main() -> None:
    """Run all commands, print and write the table, with the versions beside it."""
    announce_cost(5)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for command in COMMANDS:
            rows.append(measured(command, Path(name)))
            print(f"{rows[-1].command:60} {rows[-1].cpu_seconds:6.1f} s {rows[-1].peak_mb:6.0f} MB", flush=True)
    from analyses.training.study import environment  # imports torch: a child process would count this one's memory as its own
    from gradlens.runtime.csv_tables import write_csv

    FOLDER.mkdir(parents=True, exist_ok=True)
    write_csv(FOLDER / "commands.csv", rows)
    (FOLDER / "environment.json").write_text(json.dumps(environment(), indent=1) + "\n", encoding="utf-8")
    print(f"wrote {FOLDER}")


if __name__ == "__main__":
    main()
