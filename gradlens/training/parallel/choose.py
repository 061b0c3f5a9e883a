"""Choice of the stage of a process: all blocks, a part of the batch, or some of the blocks; by settings and rule."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from gradlens.gradients.block_pass import reads_blocks
from gradlens.gradients.method import Method
from gradlens.runtime.errors import InputError
from gradlens.runtime.step_context import step_context
from gradlens.tasks.registry import DEFAULT
from gradlens.training.build import ModelAndMethod
from gradlens.training.config import Config
from gradlens.training.parallel.async_queues import AsyncQueues, check_queues
from gradlens.training.parallel.block_costs import block_costs
from gradlens.training.parallel.data_parallel import DataParallel
from gradlens.training.parallel.layer_parallel import LayerParallel, check_layers
from gradlens.training.parallel.partition import require_separable, split_over
from gradlens.training.parallel.stage import LayerStage
from gradlens.training.state import TrainState
from gradlens.training.step import Stage, WholeNetwork

_numbers = count(1)  # of trainings over layers in this process; all ranks begin them in one order; tag 0 is torch's own


def check_layer_parallel(config: Config, network: ModelAndMethod, images: int) -> None:
    """Refuse ``--parallel layers`` with a network, a rule or settings that cannot be split over ranks.

    Args:
        config: the settings.
        network: with its rule.
        images: number of examples that are learned from.

    Raises:
        InputError: what keeps the blocks from it.

    """
    model, method = network
    if reader := next((name for name, block in zip(network.block_names(), model, strict=True) if reads_blocks(block)), None):
        raise InputError(f"--parallel layers: {reader} reads an earlier output, which only the next rank is sent; set another model")
    if method.pipelined and config.task != DEFAULT:
        raise InputError(f"--parallel layers: microbatches of --task {config.task} need not have equally many items: choose another method")
    if method.terms:
        raise InputError(f"--parallel layers: the objective of --task {config.task} has terms at several blocks: set --parallel data")
    if method.pipelined:
        _check_pipeline(config, images)
    elif "replay_buffer" in method.depends_on:
        check_queues(config, method, images)
    else:
        check_layers(config, method)


def _check_pipeline(config: Config, images: int) -> None:
    c = config.parallel
    if c.stale:
        raise InputError("--stale: pipelined backprop always waits for its messages: leave it out")
    for n in {config.batch_size, images % config.batch_size} - {0, 1}:
        if n % c.microbatches:
            raise InputError(
                f"{n} images do not divide into {c.microbatches} microbatches of one size: choose --microbatches, or --batch-size"
                f" and --limit, so that whole and last batches ({images} images by {config.batch_size}) do"
            )
    if c.schedule == "1f1b" and c.microbatches < c.ranks:
        raise InputError(f"--schedule 1f1b keeps {c.ranks} ranks busy with --microbatches {c.ranks} or more, not {c.microbatches}")


def add_stage(state: TrainState) -> None:
    """Set a run's stage; with ``--parallel layers`` the blocks' costs are measured first, unless the config assigns blocks to ranks.

    Collective: call on every rank, when all have their state and the same settings.

    Raises:
        InputError: see :func:`make_stage`.

    """
    config, ranks = state.config.parallel, state.ranks
    measured = config.mode == "layers" and not config.split and not ranks.is_single_process
    costs = measure_costs(state) if measured else None
    state.stage = ranks.fail_together(lambda: make_stage(state, costs))


def measure_costs(state: TrainState) -> list[float]:
    """Measure the seconds of one batch in each block, as rank 0 measures them. Collective: call on every rank."""
    ranks = state.ranks

    def measure() -> list[float] | None:
        if not ranks.is_main:
            return None
        with step_context():
            return [cost.seconds for cost in block_costs(state.network, state.config, *state.batches.batch(0))]

    costs: list[float] = ranks.broadcast_object(ranks.fail_together(measure))
    return costs


def make_stage(state: TrainState, costs: Sequence[float] | None = None) -> Stage:
    """Return what makes this process's updates of a run, by itself: nothing is measured or sent.

    Args:
        state: the run, which has no stage yet.
        costs: seconds of each block, the same on all ranks, by which layers are spread; None: evenly by their number.

    Raises:
        InputError: a rule whose blocks cannot be split over ranks as set.

    """
    config, network, ranks = state.config, state.network, state.ranks
    if ranks.is_single_process:
        return WholeNetwork(config, network, state.optimizer, state.batches, state.probe)
    if config.parallel.mode != "layers":
        return DataParallel(config, network, state.optimizer, state.batches, state.probe)
    check_layer_parallel(config, network, len(state.batches.examples))
    trained = (costs or [1.0] * len(network.model))[: network.method.output_block + 1]
    ranges = split_over(network.method, trained, ranks.num_ranks, network.block_names(), config.parallel.split)
    require_separable(network.model, ranges)
    return _stage_class(network.method)(state, ranges, next(_numbers))


def _stage_class(method: Method) -> type[LayerStage]:
    if method.pipelined:
        from gradlens.training.parallel.pipeline import Pipeline  # torch's engine, which takes a while to import

        return Pipeline
    return AsyncQueues if "replay_buffer" in method.depends_on else LayerParallel
