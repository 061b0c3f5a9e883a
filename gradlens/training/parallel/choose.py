"""How a process makes its updates: all blocks, a part of the batch, or some of the blocks; by what was asked for, and by the rule."""

from __future__ import annotations

from itertools import count

import torch

from gradlens.gradients.method import Method
from gradlens.runtime.errors import InputError
from gradlens.training.batches import Batches
from gradlens.training.build import ModelAndMethod
from gradlens.training.config import Config
from gradlens.training.parallel.async_queues import AsyncQueues, check_queues
from gradlens.training.parallel.block_costs import block_costs
from gradlens.training.parallel.data_parallel import DataParallel
from gradlens.training.parallel.layer_parallel import LayerParallel, check_layers
from gradlens.training.parallel.partition import require_separable, split_over
from gradlens.training.parallel.stage import LayerStage
from gradlens.training.step import Stage, UpdateProbe, WholeNetwork

_numbers = count(1)  # of trainings over layers in this process; all ranks begin them in one order; tag 0 is torch's own


def check_layer_parallel(config: Config, method: Method, images: int) -> None:
    """Refuse ``--parallel layers`` with a rule or settings that cannot be spread over ranks as asked.

    Args:
        config: the settings.
        method: the rule.
        images: that are learned from.

    Raises:
        InputError: what keeps the blocks from it.

    """
    if method.pipelined:
        _check_pipeline(config, images)
    elif "replay_buffer" in method.depends_on:
        check_queues(config, method, images)
    else:
        check_layers(config, method)


def _check_pipeline(config: Config, images: int) -> None:
    c = config.parallel
    if c.stale:
        raise InputError("--stale: a pipeline's gradients are exact; it waits")
    for n in {config.batch_size, images % config.batch_size} - {0, 1}:
        if n % c.microbatches:
            raise InputError(
                f"{n} images do not divide into {c.microbatches} microbatches of one size: choose --microbatches, or --batch-size"
                f" and --limit, so that whole and last batches ({images} images by {config.batch_size}) do"
            )
    if c.schedule == "1f1b" and c.microbatches < c.ranks:
        raise InputError(f"--schedule 1f1b keeps {c.ranks} ranks busy with --microbatches {c.ranks} or more, not {c.microbatches}")


def choose_stage(
    config: Config, network: ModelAndMethod, optimizer: torch.optim.Optimizer, batches: Batches, probe: UpdateProbe | None = None
) -> Stage:
    """What makes this process's updates; over layers the blocks' costs are measured for it, unless the config says who has which.

    Args:
        config: the settings.
        network: with its rule.
        optimizer: over both.
        batches: what is learned from, and the ranks that share it.
        probe: shown every update of a run in one process.

    Raises:
        InputError: a rule whose blocks cannot be spread as asked.

    """
    ranks = batches.ranks
    if ranks.is_single_process:
        return WholeNetwork(config, network, optimizer, batches, probe)
    if config.parallel.mode != "layers":
        return DataParallel(config, network, optimizer, batches, probe)
    check_layer_parallel(config, network.method, len(batches.images))
    costs = [1.0] * len(network.model) if config.parallel.split else _costs(config, network, batches)
    ranges = split_over(
        network.method, costs[: network.method.output_block + 1], ranks.num_ranks, network.block_names(), config.parallel.split
    )
    require_separable(network.model, ranges)
    return _stage_class(network.method)(config, network, optimizer, batches, ranges, next(_numbers))


def _stage_class(method: Method) -> type[LayerStage]:
    if method.pipelined:
        from gradlens.training.parallel.pipeline import Pipeline  # torch's engine, which takes a while to import

        return Pipeline
    return AsyncQueues if "replay_buffer" in method.depends_on else LayerParallel


def _costs(config: Config, network: ModelAndMethod, batches: Batches) -> list[float]:
    """Seconds of each block, as rank 0 measures them."""
    found = [cost.seconds for cost in block_costs(network, config, *batches.batch(0))] if batches.ranks.is_main else None
    costs: list[float] = batches.ranks.broadcast_object(found)
    return costs
