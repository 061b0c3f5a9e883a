"""What a training step of each rule costs beside backpropagation's: time, multiply-adds, parameters and fixed numbers of its own modules.

BasicCNN on images of CIFAR-10's size, batches of 32, default options, one interleaved run of all rules. The table on each rule's page of
the documentation is read from the file that this writes.

    python -m analyses.method_costs          # some five minutes on a quiet machine
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from analyses.training.cost import announce_cost
from analyses.training.study import environment
from gradlens.runtime.csv_tables import write_csv
from gradlens.runtime.progress import no_progress
from gradlens.training.context import set_up_process
from gradlens.training.cost.method_cards import cards

FOLDER = Path(__file__).parents[1] / "figures" / "method_costs"
CARDS = FOLDER / "cards.csv"


class MethodCost(NamedTuple):
    """One rule's row."""

    method: str
    trained: int  # parameters of its own modules
    fixed: int  # numbers that it holds and does not train
    multiply_adds: float  # of a training step, an image
    flop_ratio: float  # the same / bp's
    rate_ratio: float  # images a second / bp's


def main() -> None:
    """Measure all rules and write the table, with the machine and the versions beside it."""
    announce_cost(5)
    context = set_up_process({"threads": 1})
    found = cards(context.device, no_progress)
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_csv(CARDS, [MethodCost(c.method, c.trained, c.fixed, c.multiply_adds, c.flop_ratio, c.rate_ratio) for c in found])
    (FOLDER / "environment.json").write_text(json.dumps(environment(), indent=1) + "\n", encoding="utf-8")
    print(f"wrote {CARDS}")


if __name__ == "__main__":
    main()
