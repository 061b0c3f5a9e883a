"""What is trained, by what, and on which batches: all that an update's numbers depend on, and nothing of loops, files or displays."""

from __future__ import annotations

import torch
from torch import Tensor

from gradlens.data.split import Data
from gradlens.data.transforms import crop_and_flip, input_of
from gradlens.runtime.batch_shard import Shard, rank_rng_words, shard_of
from gradlens.runtime.process_group import SINGLE_PROCESS, ProcessGroup
from gradlens.runtime.rng import generator, key, seed_global
from gradlens.runtime.sync_batchnorm import synchronise
from gradlens.training.build import build_model_and_method
from gradlens.training.config import Config
from gradlens.training.optimizers import lr_factor, make_optimizer
from gradlens.training.step import batches_per_epoch


class TrainState:
    """Network, rule, optimiser, and the data in the order in which a config trains on them.

    Args:
        config: the settings.
        data: what is trained and tested on.
        device: where.
        world: the ranks that share the run.

    Raises:
        InputError: a model that does not fit the images, a rule that does not fit the model.

    """

    def __init__(self, config: Config, data: Data, device: torch.device, world: ProcessGroup = SINGLE_PROCESS) -> None:
        self.config, self.device, self.world = config, device, world
        self.pair = build_model_and_method(config, data.shape, len(data.classes), device)
        if config.sync_batchnorm:
            synchronise(*self.pair)
        self.optimizer = make_optimizer(config, self.pair)
        self.base_lr = [group["lr"] for group in self.optimizer.param_groups]
        learned_from = data.everything if self.pair.method.unlabelled else data.train
        self.train, self.test, self.test_name = learned_from.to(device), data.test.to(device), data.test_name
        some_unknown = self.pair.method.classifies and data.unlabelled is not None  # accuracy is of images whose label is known
        self.labelled = data.train.to(device) if some_unknown else self.train
        self.to_input = input_of(config.normalize, data, device)
        self.per_epoch = batches_per_epoch(len(self.train), config.batch_size)
        self.total = config.epochs * self.per_epoch
        if config.steps is not None:
            self.total = min(self.total, config.steps)
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def images(self, step: int) -> int:
        """How many there are in an update's batch."""
        return min(self.config.batch_size, len(self.train) - step % self.per_epoch * self.config.batch_size)

    def shard(self, step: int) -> Shard | None:
        """Which part of an update's batch this rank works on; None: all of it."""
        if self.config.parallel != "data" or self.world.is_single_process:
            return None
        return shard_of(self.images(step), self.world.rank, self.world.num_ranks)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """The input [N, *] and targets [N, *] of an update (images and labels, or the rule's task), or this rank's part of them.

        A pure function of config and step; inside ``sharded(self.shard(step))``, where the batch is shared.
        """
        epoch, i = divmod(step, self.per_epoch)
        if self._order[0] != epoch:
            order = torch.randperm(len(self.train), generator=generator(self.config.seed, "order", epoch))
            self._order = epoch, order.to(self.device)
        chosen, shard = self._order[1][i * self.config.batch_size : (i + 1) * self.config.batch_size], self.shard(step)
        if shard is not None:
            chosen = chosen[shard.start : shard.stop]
        taken = self.train.take(chosen)
        images = crop_and_flip(taken.images, self.config.seed, step) if self.config.augment else taken.images
        return self.pair.method.make_inputs(images, taken.labels, step, self.to_input)

    def prepare_step(self, step: int) -> tuple[int | None, bool]:
        """Ready for an update: its learning rate, its draws, the rule's start; whether it is recorded (its number) and diagnosed.

        Inside ``sharded(self.shard(step))``, where the batch is shared.
        """
        config = self.config
        for group, lr in zip(self.optimizer.param_groups, self.base_lr, strict=True):
            group["lr"] = lr * lr_factor(config, step, self.total)
        seed_global(key(config.seed, "step", *rank_rng_words(step)))  # dropout and the like
        self.pair.method.start(step // self.per_epoch + 1, step)
        recorded = bool(config.record_every) and step % config.record_every == 0
        diagnosed = recorded and bool(config.diagnose_every) and step // config.record_every % config.diagnose_every == 0
        return step if recorded else None, diagnosed
