"""Checks that refuse a config before anything is trained or written."""

from __future__ import annotations

from gradlens.data.split import Data
from gradlens.runtime.errors import InputError
from gradlens.runtime.terminal import notice
from gradlens.runtime.torchrun_environment import restarts
from gradlens.tasks.registry import TASKS
from gradlens.training import tensorboard
from gradlens.training.build import check_model_and_method, to_be_restored
from gradlens.training.config import Config
from gradlens.training.context import RunContext, load_data
from gradlens.training.dry_step import check_first_step
from gradlens.training.runs.build_state import require_fit, require_same_classes


def check(config: Config, context: RunContext) -> None:
    """Refuse a config that cannot be trained. Network and rule are made as shapes only: no weights, no images on the device.

    Raises:
        InputError: data that cannot be loaded, a model that does not fit them, a batch larger than the data, ranks that are too many.

    """
    data = checked_data(config, context)
    built = to_be_restored(config) if goes_on(config, context) else config
    require_same_classes(built, data)
    network = check_model_and_method(built, data.shape, len(data.classes))
    require_fit(config, network, data, context.ranks.num_ranks)
    check_first_step(config, network, data.shape, len(data.classes))


def goes_on(config: Config, context: RunContext) -> bool:
    """Return whether a config's run is resumed from a checkpoint, which replaces its initial weights."""
    return bool(context.resume or restarts()) and (context.path_of(config) / "checkpoint.pt").exists()


def images_learned_from(config: Config, data: Data) -> int:
    """Count the training images that a config's rule learns from: unlabelled ones count if it uses no labels."""
    return len(data.train) + (len(data.unlabelled) if config.rule.unlabelled and data.unlabelled is not None else 0)


def with_smaller_batch(config: Config, context: RunContext, quiet: bool = False) -> Config:
    """Copy a config with batches no larger than the number of training images; a change is reported, for all methods once.

    Raises:
        InputError: data that cannot be loaded.

    """
    images = images_learned_from(config, load_data(config, context))
    if config.batch_size <= images or TASKS[config.task].one_batch:
        return config
    if not quiet:
        who = f"{config.method} has" if config.rule.unlabelled else "there are"
        notice(f"{who} {images} {TASKS[config.task].example}s to learn from: --batch-size {images} in place of {config.batch_size}")
    return config.replace(batch_size=images)


def checked_data(config: Config, context: RunContext) -> Data:
    """Load the data of a config, large enough for its batches.

    Raises:
        InputError: data that cannot be loaded, one class alone, a batch larger than the data are or too small for the rule.

    """
    if context.tensorboard:
        tensorboard.must_be_installed()
    data = load_data(config, context)
    rule, task = config.rule, TASKS[config.task]
    if len(data.classes) < task.least_classes and rule.classifies:
        raise InputError(f"{config.data.name} has one class only ({', '.join(data.classes)}): {config.method} needs two or more")
    images = images_learned_from(config, data)
    if task.one_batch:
        return data
    if config.batch_size > images:
        kind = "training" if config.data.labels is None or rule.unlabelled else f"labelled (--labels {config.data.labels:g})"
        raise InputError(f"--batch-size {config.batch_size} is larger than the {images} {kind} {task.example}s there are")
    if config.batch_size < rule.least_batch:
        raise InputError(
            f"--batch-size {config.batch_size}: {config.method} compares the images of a batch and needs {rule.least_batch} or more"
        )
    return data
