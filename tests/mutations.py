"""Break the package on purpose, one thing at a time, and say which default test finds it: ``python tests/mutations.py [name ...]``.

Each change is a piece of text that stands in exactly one place of the package. It is made in a copy of the tree, where the default tests
of the files named with it run until the first failure. Not collected by pytest: it takes minutes.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Mutation(NamedTuple):
    """A change to one line, and the test files that should see it, by name."""

    old: str
    new: str
    files: tuple[str, ...]


MUTATIONS: dict[str, Mutation] = {
    "a sign: direct feedback alignment tells the opposite": Mutation(
        "delta = broadcast(e, self.matrix(k), p.h, self.items.per_item)",
        "delta = -broadcast(e, self.matrix(k), p.h, self.items.per_item)",
        ("test_dfa",),
    ),
    "a window one block too high": Mutation(
        "return [Window(first, first + window - 1) for first in firsts]",
        "return [Window(min(first + 1, first + window - 1), first + window - 1) for first in firsts]",
        ("test_windows",),
    ),
    "a missing detach: a synthetic gradient carries its graph": Mutation(
        "delta = synthetic.detach().to(p.h.dtype) / self._scale(p)", "delta = synthetic.to(p.h.dtype) / self._scale(p)", ("test_updates",)
    ),
    "a block is not cut off from the one below": Mutation(
        "return Pass(k, block, x, y, h, h.detach().requires_grad_(), src, image, also)",
        "return Pass(k, block, x, y, h, h, src, image, also)",
        ("test_isolation",),
    ),
    "a denominator: cross-entropy over N - 1 images": Mutation(
        'reduction="sum", ignore_index=NONE) / global_items(y)',
        'reduction="sum", ignore_index=NONE) / (global_items(y) - 1)',
        ("test_losses",),
    ),
    "an inverted norm ratio": Mutation("_ratio(p.norm, p.true_norm)", "_ratio(p.true_norm, p.norm)", ("test_alignment",)),
    "a wrong permutation in the null: every image keeps its own delta": Mutation(
        "mine = rows[global_offset(len(delta)) :][: len(delta)]",
        "mine = torch.arange(global_offset(len(delta)), global_offset(len(delta)) + len(delta))",
        ("test_diagnostics",),
    ),
    "alignment across halves is that within them": Mutation(
        "(cosine(g, u) + cosine(h, t)) / 2", "(cosine(g, t) + cosine(h, u)) / 2", ("test_diagnostics",)
    ),
    "the wrong positive of NT-Xent": Mutation(
        "F.cross_entropy(scores, own ^ 1,",
        "F.cross_entropy(scores, (own + 1) % len(everyone),",
        ("test_losses", "test_self_supervised"),
    ),
    "the denominator of unbiased HSIC": Mutation(
        "rows = a.sum(0) / (n - 2)", "rows = a.sum(0) / (n - 1)", ("test_representation_similarity",)
    ),
    "half the gradient of a synthesiser": Mutation("2 * error / self._rows(error)", "error / self._rows(error)", ("test_dni",)),
    "the predicted change backwards": Mutation(
        "(float64(module.get_parameter(n).detach()) - float64(before))",
        "(float64(before) - float64(module.get_parameter(n).detach()))",
        ("test_diagnostics",),
    ),
    "passes that measure write into the network's buffers": Mutation(
        "m._buffers[name] = b.clone()", "m._buffers[name] = b", ("test_rows", "test_recording")
    ),
    "a resumed run forgets the optimiser's state": Mutation(
        'state.optimizer.load_state_dict(saved["optimizer"])', 'saved["optimizer"]', ("test_resume",)
    ),
    "feedback drawn from too narrow a range": Mutation(
        "math.sqrt(3) * deviation", "math.sqrt(2) * deviation", ("test_weight_replacement",)
    ),
}


def files_with(text: str, tree: Path) -> list[Path]:
    """The package's modules in which a piece of text stands."""
    return [path for path in sorted((tree / "gradlens").rglob("*.py")) if text in path.read_text(encoding="utf-8")]


def outcome(mutation: Mutation, tree: Path) -> str:
    """What the default tests say of a tree in which this is changed: the first failing test, or that none failed."""
    places = files_with(mutation.old, tree)
    if len(places) != 1 or places[0].read_text(encoding="utf-8").count(mutation.old) != 1:
        return f"NOT MADE: the text stands in {[str(p.relative_to(tree)) for p in places]}, wanted one place"
    before = places[0].read_text(encoding="utf-8")
    tests = [str(path) for name in mutation.files for path in sorted((tree / "tests").rglob(f"{name}.py"))]
    places[0].write_text(before.replace(mutation.old, mutation.new), encoding="utf-8")
    try:
        command = [sys.executable, "-m", "pytest", "-n", "0", "-x", "--tb=no", "-rfE", f"--basetemp={tree}/pytest", *tests]
        environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    finally:
        places[0].write_text(before, encoding="utf-8")
    failed = [line.split(" - ")[0] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0] if failed else f"NOT FOUND ({done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr})"


def main(names: list[str]) -> int:
    """Make the named changes (all, without names), print a line for each; 1 where one was not found."""
    missed = 0
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", ".venv", "figures", "__pycache__", ".*_cache"))
        for name, mutation in MUTATIONS.items():
            if not names or any(part in name for part in names):
                found = outcome(mutation, tree)
                missed += found.startswith("NOT")
                print(f"{name}: {found}", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
