"""What the worked examples of the pages print: their commands, run as they stand, in a folder of each page's own.

Scikit-learn's digits, networks of the first comparison's size and of width 32, one seed. A page's code blocks are saved first, under the
names that it gives them. ``figures/worked_examples`` then holds what every command printed (README's table is the first comparison's), and
the table behind the figure `alignment` of the comparison with a rule of one's own, from which two tutorials quote. A test
compares the pages with these files. Another processor or number of threads rounds sums differently, so a new call may ask for new pages.

    python -m tools.docs.worked_examples          # three minutes of one core
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from analyses.training.cost import announce_cost
from analyses.training.study import HERE, arguments, environment
from gradlens.runtime.text_files import write_text
from tools.docs.page_blocks import blocks_of, commands_of

DOCS = HERE.parent / "docs"
COMMANDS = (  # of the pages, in their order
    "gradlens compare-gradients",
    "gradlens check draft.py:RandomHeads",
    "gradlens check mine.py:RandomHeads",
    "gradlens compare-gradients bp dgl shallow mine.py:RandomHeads --width 32",
    "gradlens train bp --data pictures --width 32 --epochs 6",
    "gradlens compare-gradients bp dgl --data pictures --width 32 --epochs 6",
)
WITH_CHANCE = COMMANDS[3]  # the comparison whose chance and noise are kept


def examples() -> dict[str, list[str]]:
    """Page -> those of the commands that it shows, in its order."""
    found = {}
    for path in (DOCS / "getting-started" / "first-comparison.md", *sorted((DOCS / "tutorials").glob("*.md"))):
        blocks = [block for block in blocks_of(path.read_text(encoding="utf-8")) if block.language == "sh"]
        shown = [shlex.join(["gradlens", *words]) for block in blocks for words in commands_of(block)]
        if wanted := [command for command in shown if command in COMMANDS]:
            found[path.relative_to(HERE.parent).as_posix()] = wanted
    return found


def run(command: list[str], folder: Path, threads: int) -> str:
    """What a command prints, stdout before stderr; a check that fails is one that the page wants."""
    there = {**os.environ, "COLUMNS": "80", "PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, cwd=folder, env=there, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{shlex.join(command)} failed:\n{done.stderr}")
    return done.stdout + done.stderr


def printed(page: str, commands: Sequence[str], folder: Path, threads: int) -> dict[str, str]:
    """Command -> what it printed, after the page's files and data were made."""
    for block in blocks_of((HERE.parent / page).read_text(encoding="utf-8")):
        if block.file:
            (folder / block.file).write_text(block.text, encoding="utf-8")
        elif block.language == "python" and "Image.fromarray" in block.text:
            run([sys.executable, "-c", block.text], folder, threads)
    found = {}
    for command in commands:
        found[command] = run([sys.executable, "-m", *shlex.split(command)], folder, threads)
        print(f"{page}: {command}", flush=True)
    return found


def main() -> None:
    """Run all commands, write figures/worked_examples."""
    args = arguments(__doc__ or "", data="digits")
    announce_cost(3)
    target = args.figures / "worked_examples"
    target.mkdir(parents=True, exist_ok=True)
    pages = {}
    for page, commands in examples().items():
        with tempfile.TemporaryDirectory() as name:
            pages[page] = printed(page, commands, Path(name), args.threads or 2)
            if WITH_CHANCE in commands:
                (table,) = Path(name).glob("comparisons/*/figures/alignment.csv")
                shutil.copyfile(table, target / "alignment.csv")
    write_text(target / "results.json", json.dumps({"pages": pages, **environment()}, indent=1) + "\n")
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
