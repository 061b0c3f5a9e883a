"""How the blocks of one network work together on several ranks: by the rule, and by what was asked for."""

from __future__ import annotations

from gradlens.training.parallel.async_queues import AsyncQueues
from gradlens.training.parallel.layer_parallel import LayerParallel
from gradlens.training.parallel.stage import Stage
from gradlens.training.state import TrainState


def stage_of(state: TrainState) -> Stage | None:
    """This rank's part of a network whose blocks are spread over several; None where each rank runs all of them.

    Raises:
        InputError: a rule whose blocks cannot be spread as asked.

    """
    if state.config.parallel != "layers" or state.world.is_single_process:
        return None
    if state.pair.method.pipelined:
        from gradlens.training.parallel.pipeline import Pipeline  # torch's engine, which takes a while to import

        return Pipeline(state)
    return (AsyncQueues if "replay_buffer" in state.pair.method.depends_on else LayerParallel)(state)
