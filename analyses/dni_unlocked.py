"""Completely unlocked DNI: does it learn, and does it matter where the gradient synthesiser is trained?

`dni-unlocked` computes each block's input from the image by a synthesiser, so block k+1 finds its gradient at a synthetic input, while
block k uses a synthetic gradient at its real output. Its synthesiser is trained at the real output, with the gradient at the synthetic
input as target; that of koz4k/dni-pytorch (BidirectionalInterface: `send` asks at the real output, `receive` attaches the regression to the
synthetic one) is trained at the synthetic input and asked at the real one. :class:`TrainedAtSyntheticInput` is that variant.

Digits, an MLP of three blocks of 64 and BasicCNN of width 8, batches of 64, 400 updates, Adam, each arm at its own rate
(analyses/training/tuned_arms.py), ten seeds. N·δ is regressed from a zero start in all arms, of which koz4k's code does neither.

Tests (chosen before looking; ten seeds at a paired sd of 5 points see 5 points):

- unlocked-learns: dni-unlocked is above blocks that stay as initialised (MLP).
- unlocked-near-dni: it is no more than two points below dni (MLP).
- where-trained: trained at the real output it is above the variant trained at the synthetic input (MLP).

With labels, and on BasicCNN, nothing is tested: these two comparisons have not been run (11 core-minutes).

    python -m analyses.dni_unlocked          # about 16 core-minutes; interrupted, it goes on
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from analyses.figures.drawing import title_where
from analyses.figures.synthetic_gradient_figures import ArmRow, accuracy_figure, arm_rows
from analyses.training.cost import announce_cost
from analyses.training.study import arguments, publish
from analyses.training.tuned_arms import Arm, Bench, Tuned, accuracy_values, cpu_minutes
from analyses.verdicts.decision import Test, details
from analyses.verdicts.wording import report
from gradlens.gradients.block_pass import Grad, Pass
from gradlens.gradients.method import Signal
from gradlens.methods.synthetic_gradients.dni import regression_gradients
from gradlens.methods.synthetic_gradients.dni_unlocked import DNIUnlocked
from gradlens.reporting.style import save_figure
from gradlens.runtime.batch_shard import global_count
from gradlens.runtime.csv_tables import read_table

SEEDS = 10
SHARED: dict[str, Any] = {"data": "digits", "epochs": 400, "steps": 400, "batch_size": 64}
MLP: dict[str, Any] = {"model": "mlp", "width": 64, "depth": 3}
CNN: dict[str, Any] = {"model": "basic-cnn", "width": 8}
VARIANT = f"{Path(__file__).resolve()}:TrainedAtSyntheticInput"
REAL, SYNTHETIC = "unlocked, trained at the real output", "unlocked, trained at the synthetic input"
UNTRAINED, LABELS = "untrained blocks", ", with labels"


class TrainedAtSyntheticInput(DNIUnlocked):
    """dni-unlocked whose S_k is fitted at the synthetic input of block k+1, where its target is found, and used at the real output."""

    def learn(self, k: int, p: Pass, signal: Signal, grad: Grad, received: tuple[Tensor, ...]) -> Mapping[str, Tensor]:
        """Compute the gradients of L_S at block k+1's synthetic input."""
        if k not in self.interfaces:
            return {}
        context = self.context(p.y)
        synthetic = self.synthesisers[k](self.inputs[k](p.image, context).detach(), context)
        error = synthetic.detach() - received[0] * self._scale(p)
        return regression_gradients(self.synthesisers[k], f"synthesisers.{k}", synthetic, 2 * error / global_count(len(p.y)))


def arms(labels: bool) -> list[Arm]:
    """The rules that are compared; with labels, those whose synthesisers read them."""
    if labels:
        read = {"context": True}
        return [Arm("cdni", "cdni", {}), Arm(REAL + LABELS, "dni-unlocked", read), Arm(SYNTHETIC + LABELS, VARIANT, read)]
    blind = [Arm("dni", "dni", {}), Arm(REAL, "dni-unlocked", {}), Arm(SYNTHETIC, VARIANT, {})]
    return [Arm("bp", "bp", {}), Arm(UNTRAINED, "shallow", {}), *blind]


COMPARISONS = (("MLP", MLP, arms(False)), ("MLP", MLP, arms(True)), ("CNN", CNN, arms(False)[3:]))


def trained(bench: Bench, comparisons: int) -> dict[str, Tuned]:
    """The first so many comparisons' arms: group -> its runs."""
    found = {}
    for name, net, compared in COMPARISONS[:comparisons]:
        print(name, flush=True)
        for arm in compared:
            found[f"{name}: {arm.name}"] = bench.tuned(arm, range(SEEDS), **net)
    return found


FINAL = "final test accuracy"


def _differ(name: str, a: str, b: str, at_least: float, primary_of: str = "") -> Test:
    """One arm of the MLP above another."""
    says = f"MLP: test accuracy, {a} − {b}"
    return Test(name, says, FINAL, {f"MLP: {a}": 1.0, f"MLP: {b}": -1.0}, "points", at_least=at_least, primary_of=primary_of)


TESTS: tuple[Test, ...] = (
    _differ("unlocked-learns", REAL, UNTRAINED, 0, "forward-unlocked-learns"),
    *details("forward-unlocked-learns", _differ("unlocked-near-dni", REAL, "dni", -2), _differ("where-trained", REAL, SYNTHETIC, 0)),
)


def unlocked_title(rows: Sequence[ArmRow]) -> str:
    """What the accuracies say of rules without labels, on the MLP."""
    mean = {r.arm: r.mean for r in rows if r.comparison == "MLP"}
    return title_where(
        max(mean[REAL], mean[SYNTHETIC]) < mean[UNTRAINED],
        "Completely unlocked DNI stays below blocks that are not trained at all",
        "Test accuracy of completely unlocked DNI",
    )


def draw(rows: Sequence[ArmRow], folder: Path) -> None:
    """Write the figure with its table."""
    order = [arm.name for arm in (*arms(False), *arms(True))]
    shown = list(dict.fromkeys(r.comparison for r in rows))
    note = f"digits, batches of 64, 400 updates of Adam, each arm at its own rate; mean and 95 % interval of {SEEDS} seeds"
    save_figure(accuracy_figure(rows, shown, order, unlocked_title(rows), note), rows, folder, "accuracy")


def main() -> None:
    """Train the arms, write figures/dni_unlocked."""
    args = arguments(__doc__ or "", data="digits", numbers={"comparisons": len(COMPARISONS)}, redraw=True)
    if args.redraw:
        draw(read_table(args.figures / "dni_unlocked" / "accuracy.csv", ArmRow), args.figures / "dni_unlocked")
        return
    announce_cost(16, "MLP 5, with labels 4, CNN 7")
    found = trained(Bench({**SHARED, "data": args.data}, args.out / "dni_unlocked"), args.comparisons)
    results = {
        "settings": {"shared": SHARED, "mlp": MLP, "cnn": CNN, "seeds": SEEDS},
        "values": accuracy_values(found),
        "minutes": {group: arm.minutes() for group, arm in found.items()},
        "rates": {group: {"chosen": arm.rate, "held-out accuracy": arm.tried} for group, arm in found.items()},
        "cpu_minutes": cpu_minutes(args.out / "dni_unlocked"),
    }
    rows = arm_rows(accuracy_values(found)[FINAL], {group: arm.rate for group, arm in found.items()})
    draw(rows, args.figures / "dni_unlocked")
    report(TESTS, results)
    publish("dni_unlocked", [], args, results, figures=False)


if __name__ == "__main__":
    main()
