"""What a step costs in all, and what of it no further worker can shorten: the critical path over measured blocks (a worker a window)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from gradlens.gradients.method import Method
from gradlens.runtime.progress import Progress, no_progress
from gradlens.training.context import RunContext, to_measure
from gradlens.training.cost.simulation import CostRow, measure_costs
from gradlens.training.parallel.block_costs import BlockCost
from gradlens.training.run_directory import Run
from gradlens.training.run_groups import group_runs


class StepCost(NamedTuple):
    """Seconds of one update.

    Attributes:
        total: of all blocks, one after the other: what is computed.
        sequential: of the longest chain of computations that wait for each other, where each window of blocks has a worker of its own.
        buffered: of that chain where the windows also work on different batches at the same time, with buffers between them.

    """

    total: float
    sequential: float
    buffered: float


def windows_of(method: Method, blocks: int) -> list[tuple[int, int]]:
    """Return the first and last block of the windows within which gradients are passed on: those of local losses, else locked blocks.

    Args:
        method: the rule.
        blocks: number of blocks of its network.

    """
    if method.has_local_losses:
        reach: Any = method.reach
        last = len(reach.sent) - 1  # the unit that ends with the output block
        return [(first, blocks - 1 if end == last and reach.with_top else end) for first, end in reach.windows]
    free = method.locking_reason() is None
    ends = [*(k for k in range(blocks - 1) if free and method.can_split_after(k)), blocks - 1]
    return list(zip([0, *(k + 1 for k in ends[:-1])], ends, strict=True))


def step_cost(method: Method, costs: Sequence[BlockCost]) -> StepCost:
    """Compute what an update costs with measured blocks.

    A window's chain is the forward pass of all blocks up to its end, then its own backward pass and update; with buffers its own
    forward pass is enough. A rule that projects the output error waits for the whole forward pass and the output block, then each block
    goes backward by itself: its buffers shorten nothing. Seconds of messages are not counted.

    Args:
        method: the rule.
        costs: of its blocks, first to last.

    """
    total = sum(c.seconds for c in costs)
    if "output_error" in method.depends_on and "backward_message" not in method.depends_on and method.locking_reason() is None:
        rest = max((c.backward + c.update for c in costs[:-1]), default=0.0)
        chain = sum(c.forward for c in costs) + costs[-1].backward + max(rest, costs[-1].update)
        return StepCost(total, chain, chain)
    chains, own = list[float](), list[float]()
    for first, last in windows_of(method, len(costs)):
        backward = sum(c.backward + c.update for c in costs[first : last + 1])
        chains.append(sum(c.forward for c in costs[: last + 1]) + backward)
        own.append(sum(c.forward for c in costs[first : last + 1]) + backward)
    return StepCost(total, max(chains), max(own))


def costs_of_groups(
    runs: Sequence[Run], context: RunContext, rounds: int = 3, progress: Progress = no_progress
) -> tuple[dict[str, StepCost], list[CostRow]]:
    """Measure here and now what an update of each group of runs costs; on generated images, or a batch of another task's data.

    Args:
        runs: several methods, several seeds each.
        context: the device, and where data lie.
        rounds: of measuring; the least of each cost is used.
        progress: is given (groups done, groups, what is measured).

    Returns:
        label of a group -> its costs, and the rows of its blocks, whose ``method`` is the label.

    """
    found, rows, groups = dict[str, StepCost](), list[CostRow](), group_runs(runs)
    for i, (label, group) in enumerate(groups.items()):
        progress(i, len(groups), f"measuring {label}")
        config = group[0].config.in_one_process()
        shape, classes, data = to_measure(config, context)
        measured = measure_costs(config, shape, classes, context.device, rounds, data)
        found[label] = step_cost(measured.method, measured.costs)
        rows += [row._replace(method=label) for row in measured.rows]
    return found, rows
