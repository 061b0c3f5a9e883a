"""From configs to finished runs: train one, alone or on several ranks, or reuse what is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from torch.nn.modules.batchnorm import _BatchNorm

from gradlens._version import __version__
from gradlens.data.datasets import DATASETS
from gradlens.data.split import Data, label_hash
from gradlens.runtime.errors import InputError
from gradlens.runtime.process_group import require_same_run
from gradlens.runtime.progress import Watch, no_progress
from gradlens.runtime.torchrun_environment import restarts
from gradlens.training import tensorboard
from gradlens.training.build import ModelAndMethod, build_model_and_method
from gradlens.training.checkpoint import load_checkpoint
from gradlens.training.config import Config
from gradlens.training.context import CPU, RunContext, load_data
from gradlens.training.dry_step import check_own_network
from gradlens.training.loop import Training
from gradlens.training.online_probe.probe import OnlineProbe
from gradlens.training.parallel.choose import stage_of
from gradlens.training.run_directory import Run, load_run
from gradlens.training.run_files import is_run
from gradlens.training.run_writer import Writer


def check_config(config: Config, place: RunContext) -> None:
    """Refuse a config that cannot be trained; network and rule are made for their shapes, on the CPU, and no images are moved.

    Raises:
        InputError: see :func:`prepare`.

    """
    data = _checked_data(config, place)
    pair = build_model_and_method(config, data.shape, len(data.classes), CPU)
    _must_fit(config, pair)
    check_own_network(config, pair, data.shape, len(data.classes))


def prepare(config: Config, place: RunContext) -> Training:
    """A training with nothing written yet: whatever is wrong with its settings is found here.

    Raises:
        InputError: data that cannot be loaded, a model that does not fit them, a batch larger than the data, ranks that are too many.

    """
    data = _checked_data(config, place)
    training = Training(config, data, place.device, world=place.world)
    _must_fit(config, training.pair)
    check_own_network(config, training.pair, data.shape, len(data.classes))
    if config.parallel == "data":
        _must_be_divisible(training)
    training.stage = stage_of(training)
    if config.online_probe:
        training.probe = OnlineProbe(training.pair.block_names(), len(data.classes))
    return training


def _checked_data(config: Config, place: RunContext) -> Data:
    """The data of a config, large enough for its batches.

    Raises:
        InputError: data that cannot be loaded, a batch larger than they are or too small for the rule.

    """
    if place.tensorboard:
        tensorboard.must_be_installed()
    data = load_data(config, place)
    rule = config.rule
    images = len(data.everything if rule.unlabelled else data.train)
    if config.batch_size > images:
        kind = "training" if config.labels is None or rule.unlabelled else f"labelled (--labels {config.labels:g})"
        raise InputError(f"--batch-size {config.batch_size} is larger than the {images} {kind} images there are")
    if config.batch_size < rule.least_batch:
        raise InputError(
            f"--batch-size {config.batch_size}: {config.method} tells a batch's images apart and needs {rule.least_batch} or more"
        )
    return data


def _must_fit(config: Config, pair: ModelAndMethod) -> None:
    """What network and rule say of the settings.

    Raises:
        InputError: epochs that make no sense for the rule, batch statistics of one image.

    """
    if objection := pair.method.validate_epochs(config.epochs):
        raise InputError(objection)
    if config.batch_size == 1 and any(isinstance(m, _BatchNorm) for part in pair for m in part.modules()):
        raise InputError("--batch-size 1: this network normalises over the batch, and one image has no batch statistics")


def _must_be_divisible(training: Training) -> None:
    """Every rank needs an image of every batch, and two where it normalises over its own part.

    Raises:
        InputError: the batch, or the rest at the end of an epoch, is too small for the ranks.

    """
    config, images = training.config, len(training.train)
    normalises = any(isinstance(m, _BatchNorm) for module in training.pair for m in module.modules())
    least = 2 if normalises and not config.sync_batchnorm else 1
    why = ", of which each rank needs 2 for the batch statistics of its part (or --sync-batchnorm)" if least == 2 else ""
    if config.batch_size < least * config.ranks:
        raise InputError(f"--batch-size {config.batch_size} is too small for {config.ranks} ranks{why}")
    rest = images % config.batch_size
    if "replay_buffer" in config.rule.depends_on and (rest or config.batch_size % config.ranks):
        raise InputError(
            f"{config.method} keeps batches, which must be of one size on all {config.ranks} ranks: choose --batch-size, a multiple of"
            f" {config.ranks}, and --limit so that it divides the {images} training images"
        )
    if 1 < rest < least * config.ranks:
        raise InputError(
            f"the last batch of each epoch has {rest} images for {config.ranks} ranks{why}: another --batch-size or --limit leaves more"
        )


def train_run(config: Config, place: RunContext, watch: Watch = no_progress, training: Training | None = None) -> Run:
    """Train a config in its run directory and read the run back.

    Args:
        config: the settings.
        place: where and how.
        watch: is told what happens.
        training: from :func:`prepare`, where there is one already.

    Raises:
        InputError: see :func:`prepare` and ``Writer.open``; nothing is written then.
        Stopped: interrupted, or a loss that is not finite.

    """
    training = training or prepare(config, place)
    writer = _opened(training, place)
    training.writer = writer
    try:
        if (writer.path / "checkpoint.pt").exists():
            training.restore(load_checkpoint(writer.path / "checkpoint.pt"))
        else:
            writer.rewind({})
        with tensorboard.logged(training, writer.path, watch) if place.tensorboard else nullcontext(watch) as seen:
            training.fit(seen)
    finally:
        writer.close()
    return load_run(writer.path)


def train_run_distributed(config: Config, place: RunContext, watch: Watch = no_progress) -> Run | None:
    """Train a config together with the other ranks of ``place.world``; rank 0 writes the run directory and reads it back.

    Raises:
        InputError: what any rank refuses, all refuse, in the same words; ranks that are not about the same run.
        Stopped: as :func:`train_run`, or another rank is gone.

    """
    world = place.world
    training = world.fail_together(lambda: prepare(config, place))
    require_same_run(world, {**config.model_dump(), "the data": training.data.fingerprint(), "gradlens": __version__})
    writer = world.fail_together(lambda: _opened(training, place) if world.is_main else None)
    training.writer = writer
    try:
        saved = writer.path / "checkpoint.pt" if writer else None
        state = world.fail_together(lambda: load_checkpoint(saved) if saved and saved.exists() else None)
        if state is None and writer:
            writer.rewind({})
        if (state := world.broadcast_object(state)) is not None:
            world.fail_together(lambda: training.restore(state))
        with tensorboard.logged(training, writer.path, watch) if place.tensorboard and writer else nullcontext(watch) as seen:
            training.fit(seen)
    finally:
        if writer:
            writer.close()
    return load_run(writer.path) if writer else None


def _opened(training: Training, place: RunContext) -> Writer:
    """The run directory of a training, with what is known of its data."""
    config, data = training.config, training.data
    unlabelled = {} if data.unlabelled is None else {"unlabelled": len(data.unlabelled)}
    info = {
        "device": str(place.device),
        "data_fingerprint": data.fingerprint(),
        "label_hash": label_hash(data.train),
        "classes": len(data.classes),
        "images": {"train": len(data.train), data.test_name: len(data.test), **unlabelled},
    }
    resume, overwrite = place.resume, place.overwrite
    if restarts() and is_run(place.out / (place.name or config.run_name())):  # torchrun has begun again what it had begun
        resume, overwrite = True, False
    return Writer.open(config, place.out, place.name, resume=resume, overwrite=overwrite, info=info)


def find_run(config: Config, out: Path) -> Run | None:
    """The run of exactly this config in a folder of runs: a finished one if there is one."""
    first, unfinished = out / config.run_name(), None
    for candidate in [first, *sorted(p.parent for p in out.glob("*/config.json"))]:
        if is_run(candidate):
            try:
                found = load_run(candidate)
            except InputError:
                continue  # a foreign or damaged folder among the runs is nobody's result
            if found.config == config and found.finished:
                return found
            if found.config == config:
                unfinished = unfinished or found
    return unfinished


def _must_be_of_these_data(run: Run, place: RunContext) -> None:
    """A folder of images may have changed since a run was trained on it; the named data sets do not."""
    if run.config.data not in DATASETS:
        run.require_data(load_data(run.config, place), "; --overwrite trains it anew")


def train_or_reuse(configs: Sequence[Config], place: RunContext, watch_for: Callable[[Config], Watch]) -> list[Run]:
    """One finished run for each config: a finished one is reused, an unfinished one gone on with, a missing one trained.

    All configs are checked before the first is trained.
    """
    wanted = {config.run_name(): config for config in configs}
    order = [config.run_name() for config in configs]
    found = {name: None if place.overwrite else find_run(config, place.out) for name, config in wanted.items()}
    missing = [name for name, run in found.items() if run is None or not run.finished]
    for name, run in found.items():
        if run is not None and run.finished:
            _must_be_of_these_data(run, place)
        elif len(missing) > 1:  # a single one is checked when it is trained
            check_config(wanted[name], place)
    done: dict[str, Run] = {}
    for name, run in found.items():
        if run is not None and run.finished:
            done[name] = run
            continue
        here = replace(place, resume=run is not None, name=place.name if run is None else run.path.name)
        done[name] = train_run(wanted[name], here, watch_for(wanted[name]))
    return [done[name] for name in order]
