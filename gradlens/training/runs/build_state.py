"""Build a run ready for training from a config and its data; incompatible settings are refused."""

from __future__ import annotations

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from gradlens.data.split import Data
from gradlens.runtime.errors import InputError
from gradlens.runtime.process_group import SINGLE_PROCESS, ProcessGroup
from gradlens.runtime.sync_batchnorm import synchronise
from gradlens.tasks.registry import TASKS
from gradlens.training.batches import Batches
from gradlens.training.build import ModelAndMethod, build_model_and_method, to_be_restored
from gradlens.training.config import Config
from gradlens.training.early_stopping import require_validation
from gradlens.training.online_probe.probe import OnlineProbe
from gradlens.training.optimizers import make_optimizer
from gradlens.training.other_runs import other_run
from gradlens.training.parallel.choose import add_stage, check_layer_parallel
from gradlens.training.state import TrainState
from gradlens.training.typed_flags import no_updates


def build_state(
    config: Config, data: Data, device: torch.device, ranks: ProcessGroup = SINGLE_PROCESS, restored: bool = False
) -> TrainState:
    """Make the network, the rule, the optimiser and the stage of a config, at the beginning of a run.

    Collective: call on every rank, with the same settings.

    Args:
        config: the settings.
        data: what is trained and tested on.
        device: where.
        ranks: that share the run.
        restored: a checkpoint's weights will be loaded into it, so that those of ``--init-from`` are not needed.

    Raises:
        InputError: a model that does not fit the images, a rule that does not fit the model, or see :func:`require_fit`.

    """
    state = ranks.fail_together(lambda: build_on_rank(config, data, device, ranks, restored))
    add_stage(state)
    return state


def build_on_rank(
    config: Config, data: Data, device: torch.device, ranks: ProcessGroup = SINGLE_PROCESS, restored: bool = False
) -> TrainState:
    """Return :func:`build_state` but for the stage: this rank's own part, in which it neither waits for other ranks nor sends to them."""
    built = to_be_restored(config) if restored else config
    require_same_classes(built, data)
    network = build_model_and_method(built, data.shape, len(data.classes), device)
    require_fit(config, network, data, ranks.num_ranks)
    method = network.method
    if config.parallel.sync_batchnorm:
        synchronise(*network)
    optimizer = make_optimizer(config, network)
    learned_from = data.everything if method.unlabelled else data.train
    batches = Batches(config, learned_from.to(device), method, TASKS[config.task].to_input(config, data, device), ranks)
    some_unknown = method.classifies and data.unlabelled is not None  # accuracy is of images with a label
    probe = OnlineProbe(network.block_names(), len(data.classes)) if config.record.online_probe else None
    return TrainState(
        config=config,
        data=data,
        network=network,
        optimizer=optimizer,
        base_lr=[group["lr"] for group in optimizer.param_groups],
        batches=batches,
        test=data.test.to(device),
        test_name=data.test_name,
        labelled=data.train.to(device) if some_unknown else batches.examples,
        selection=None if data.selection is None else data.selection.to(device),
        ranks=ranks,
        probe=probe,
    )


def require_same_classes(config: Config, data: Data) -> None:
    """Refuse to start from a run whose network has other classes where the task needs the same, or the same ones in another order.

    Raises:
        InputError: as many classes as the network has, which mean something else.

    """
    if config.pretrained.run is None:
        return
    begun, now = other_run(config.pretrained.run), data.classes
    then = begun.info.get("source", {}).get("classes", ())
    source = f"--init-from {config.pretrained.run}: {config.data.name}"
    unknown_class = TASKS[config.task].unknown_class
    if strange := unknown_class(then, now):
        raise InputError(f"{source} does not fit this run, for {strange}: set --data to what it was trained on")
    if len(then) > len(now) and (missing := unknown_class(now, then)):
        raise InputError(f"{source} has {len(now)} classes, this run {len(then)} ({missing}): set --data to what it was trained on")
    moved = next((i for i, (a, b) in enumerate(zip(then, now, strict=False)) if a != b), None)
    if moved is not None and begun.config.rule.classifies and not config.pretrained.keep_head and sorted(then) == sorted(now):
        order = f"class {moved} is {now[moved]!r} here and was {then[moved]!r} in this run"
        raise InputError(f"{source} has the classes of this run in another order, {order}: set --data to classes in its order")


def require_fit(config: Config, network: ModelAndMethod, data: Data, num_ranks: int) -> None:
    """Refuse settings that do not go with the network and rule they name, or with the processes that are there.

    Raises:
        InputError: epochs that make no sense for the rule, batch statistics of one image, batches or blocks that ranks cannot share,
            a config of more or fewer ranks than there are.

    """
    if refusal := no_updates(config.epochs, config.steps) or network.method.validate_epochs(config.epochs):
        raise InputError(refusal)
    require_validation(config, data)
    normalises = any(isinstance(m, _BatchNorm) for part in network for m in part.modules())
    if config.batch_size == 1 and normalises and not TASKS[config.task].one_batch:
        raise InputError("--batch-size 1: this network normalises over the batch, and one image has no batch statistics: set 2 or more")
    images = len(data.everything if network.method.unlabelled else data.train)
    if config.parallel.mode == "data":
        _require_divisible(config, images, normalises)
    if config.parallel.mode == "layers":
        check_layer_parallel(config, network, images)
    if config.parallel.ranks != num_ranks:
        here = f"{num_ranks} process{'es' * (num_ranks > 1)}"
        raise InputError(
            f"the config is of {config.parallel.ranks} rank{'s' * (config.parallel.ranks > 1)} (ranks, parallel) and here"
            f" {'are' if num_ranks > 1 else 'is'} {here}: start torchrun --nproc-per-node {config.parallel.ranks}, or leave both out"
        )


def _require_divisible(config: Config, images: int, normalises: bool) -> None:
    """Check that every rank has an image of every batch, and two if it normalises over its own part.

    Raises:
        InputError: the batch, or the rest at the end of an epoch, is too small for the ranks.

    """
    ranks = config.parallel.ranks
    least = 2 if normalises and not config.parallel.sync_batchnorm else 1
    why = ", of which each rank needs 2 for the batch statistics of its part (or --sync-batchnorm)" if least == 2 else ""
    if config.batch_size < least * ranks:
        raise InputError(f"--batch-size {config.batch_size} is too small for {ranks} ranks{why}")
    rest = images % config.batch_size
    if "replay_buffer" in config.rule.depends_on and (rest or config.batch_size % ranks):
        raise InputError(
            f"{config.method} keeps batches, which must be of one size on all {ranks} ranks: choose --batch-size, a multiple of"
            f" {ranks}, and --limit so that it divides the {images} training images"
        )
    if 1 < rest < least * ranks:
        raise InputError(
            f"the last batch of each epoch has {rest} images for {ranks} ranks{why}: another --batch-size or --limit leaves more"
        )
