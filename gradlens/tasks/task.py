"""Define the interface of a task: what an example, a target, an item and a score are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pydantic import BaseModel
from torch import Tensor, nn

from gradlens.data.files import DataFiles
from gradlens.data.split import Data, Split
from gradlens.gradients.items import Items
from gradlens.gradients.losses import LOSSES, Loss
from gradlens.runtime.step_context import Context

if TYPE_CHECKING:
    import torch

    from gradlens.training.config import Config


class Batch(NamedTuple):
    """What a step works on.

    Attributes:
        x: [N, *] input of any dtype (tokens are whole numbers). A floating-point one may still be turned by :meth:`Task.to_input`.
        y: [N, *] targets; of classes -1 where there is none (:class:`gradlens.gradients.items.Items`).
        context: name -> tensor that every block may read in its ``forward`` through ``runtime.step_context.current_context()``, and that
            passes no gradient. It does not change in a step; with rules that store batches (``replay_buffer``) it must not change between
            steps either.

    """

    x: Tensor
    y: Tensor
    context: Context = {}  # noqa: RUF012 - never written to


class Picture(NamedTuple):
    """Examples whose outputs make a picture.

    Attributes:
        name: of the picture ("view 30").
        examples: one a pixel, row by row.
        size: height and width.

    """

    name: str
    examples: Split
    size: tuple[int, int]


class TaskOptions(BaseModel, frozen=True, extra="forbid"):
    """Options of a task without options; a task with options subclasses this."""


class Task(Items, ABC):
    """A task. It has no state: one instance in ``TASKS`` serves every run; what depends on a run comes as an argument.

    It defines :meth:`load` and :meth:`batch`; what its items are (:class:`gradlens.gradients.items.Items`: ``per_item``, :meth:`count`,
    :meth:`hits`, :meth:`permutation`, :meth:`halves`) where a row is not an item; and its score where that is not the accuracy.

    Attributes:
        summary: one line of ``gradlens list tasks``.
        item: name of an item, which the loss is the mean over ("image", "token", "labelled node").
        example: name of an example, a row of the training data ("image", "sequence", "node").
        reads: kind of input. A network fits if it reads the same kind (``models.zoo.INPUTS``; one that says nothing reads "images").
            Every rule fits that does not say it is one of images (``Method.images_only``), and every rule fits the image task.
        losses: name -> loss (z [N, *, C], y [N, *]) -> scalar: the sum over items divided by ``runtime.batch_items.global_items(y)``.
            ``--loss`` names one, by default the first.
        score_name: of the score, a key of ``tasks.scores.HIGHER_IS_BETTER``, which has its direction.
        defaults: flat name of a setting -> the task's own default ("model", "data", "batch_size"); a rule's own go before.
        rule_options: name of an option of rules -> its default in this task ("head"), for the rules that have it.
        settings: flat names of the data settings (``DataSettings``) that it reads, beside ``data``; others are refused if they are set.
        Options: a pydantic model of the task's own options; ``--set NAME.OPTION=VALUE`` sets one, NAME the task's; ``config.task_options``.
        least_classes: fewest classes with which there is something to learn; 1 where one output is a probability.
        blocks_alike: True: its networks' blocks are alike, so that tables and figures show quantities by kind of layer over depth.
        shows: what :meth:`sample` shows, sentences of the page; "": there are no samples.
        one_batch: True: an epoch is one batch of all examples, and ``--batch-size`` does not apply (a graph).
        not_data_parallel: why a batch cannot be divided over ranks, a clause; "": it can.
        settings_of_networks: whether the settings that a rule has for a network (``Method.defaults_on``) were found in this task.
        classes_of_items: whether y holds the class of each item; rules that read it (``Method.reads_classes``) are refused where not.

    """

    summary: ClassVar[str]
    item: ClassVar[str]
    example: ClassVar[str]
    reads: ClassVar[str]
    losses: ClassVar[Mapping[str, Loss]] = {"ce": LOSSES["ce"]}
    score_name: ClassVar[str] = "accuracy"
    defaults: ClassVar[Mapping[str, Any]] = {}
    rule_options: ClassVar[Mapping[str, Any]] = {}
    settings: ClassVar[frozenset[str]] = frozenset()
    Options: ClassVar[type[BaseModel]] = TaskOptions
    least_classes: ClassVar[int] = 2
    blocks_alike: ClassVar[bool] = False
    shows: ClassVar[str] = ""
    one_batch: ClassVar[bool] = False
    not_data_parallel: ClassVar[str] = ""
    settings_of_networks: ClassVar[bool] = True
    classes_of_items: ClassVar[bool] = True

    def __init_subclass__(cls, **more: Any) -> None:
        """Refuse a task of one batch that permutes and halves rows, as tasks do by default: its rows are not independent."""
        super().__init_subclass__(**more)
        missing = [name for name in ("halves", "permutation") if getattr(cls, name) is getattr(Items, name)]
        if cls.one_batch and missing:
            raise TypeError(
                f"{cls.__name__} is of one batch, whose rows are not divided or permuted as they are: define {', '.join(missing)}"
            )

    # ------------------------------------------------------------------------------------------------ what every task defines

    @abstractmethod
    def load(self, config: Config, files: DataFiles) -> Data:
        """Load the examples.

        Args:
            config: of the run; ``config.data.name`` is what ``--data`` names, ``config.task_options`` the task's options, resolved.
            files: where data sets lie (``files.data_dir``, None: the default folder) and how they are read.

        Returns:
            training and test examples (each a :class:`gradlens.data.split.Split`: x and y with a row an example, of any type, on the
            CPU), and the classes: the network's output has as many features. ``Data.shape`` is the shape of an example's x without the
            first dimension; a network is built from it. A loaded set should be kept (``lru_cache``): several runs of a command load it.

        Raises:
            InputError: one sentence: what is wrong with the data, what was found, what to set.

        """

    def data_sets(self) -> Mapping[str, str]:
        """Return the data that are named, not read from a path.

        Returns:
            name -> one line of ``gradlens list data``; by default none.

        """
        return {}

    def shape_and_classes(self, config: Config) -> tuple[tuple[int, ...], int] | None:
        """Return the shape of an example and the number of classes without loading anything.

        Args:
            config: of the run.

        Returns:
            by default None: the data must be loaded for it.

        """
        return None

    @abstractmethod
    def batch(self, examples: Split, step: int, config: Config) -> Batch:
        """Make a batch of chosen examples; on several ranks of this rank's part of them.

        Args:
            examples: the chosen ones, on the device; with ``one_batch`` all, in their order.
            step: number of the update, which keys random draws (``rng.generator(config.seed, purpose, step)``); negative in evaluation,
                where nothing is drawn.
            config: of the run.

        Returns:
            x and y, and the context. The items of y are counted right after (:meth:`count`), and summed over ranks, once.

        """

    @abstractmethod
    def blank(self, shape: Sequence[int]) -> Batch:
        """Make the smallest input that the network takes, on which shapes are found.

        Args:
            shape: ``Data.shape``.

        Returns:
            a batch of one or a few rows, zeros, with a context if there is one.

        """

    def defaults_for(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the task's own defaults for what was set: a task may have others for each network and rule.

        Args:
            given: flat name -> value of the settings that were set.

        Returns:
            flat name -> default; by default ``defaults``.

        """
        return self.defaults

    def with_items(self, clause: str) -> str:
        """Return what a rule declares (``Method.images_only``) with the task's items in the place of ``{items}``."""
        return clause.replace("{items}", f"{self.item}s")

    # ----------------------------------------------------------------------------------------------------------- input, loss

    def to_input(self, config: Config, data: Data, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Return the last step from a batch's x to the network's input, which is handed to rules (``Method.make_inputs``).

        Args:
            config: of the run.
            data: as they were loaded.
            device: that of the batches.

        Returns:
            by default the identity.

        """
        return _identity

    def terms(self, blocks: Sequence[nn.Module]) -> Mapping[int, Loss]:
        """Return the terms of the objective at blocks before the output block, whose own term is the loss.

        Args:
            blocks: the network's blocks, first to last.

        Returns:
            block -> (z [N, *out] its output, y [N, *]) -> scalar, a sum over items divided by ``global_items(y)``; by default none. The
            objective, and the loss that is recorded, is the sum of all terms.

        """
        return {}

    # ------------------------------------------------------------------------------------------------------------------ score

    def collect(self, z: Tensor, y: Tensor) -> Tensor:
        """Keep of a batch what the score needs; called in evaluation, without gradients.

        Args:
            z: [N, *, C] the network's output.
            y: [N, *] targets.

        Returns:
            [R, F] float64: rows that are concatenated over all batches and ranks, in the order of the examples; R may differ between
            batches (a row of sums is enough for a mean, a row per item for a rank statistic). By default hits and classified items.

        """
        hits, answered = self.hits(z, y)
        return _row(hits, answered)

    def score(self, collected: Tensor) -> float:
        """Compute the score of all that was collected.

        Args:
            collected: [R, F] float64 on the CPU.

        Returns:
            the score; by default the accuracy, NaN without classified items.

        """
        hits, answered = collected.sum(0).tolist()
        return hits / answered if answered else float("nan")

    def running_score(self, loss: float, accuracy: float) -> float:
        """Return the score of the training examples over an epoch, in train mode, from what is summed up on the way.

        Args:
            loss: mean over the epoch's items; NaN where the objective has further terms.
            accuracy: share of correct predictions, NaN without any.

        Returns:
            by default the accuracy; NaN for a score that these do not determine.

        """
        return accuracy

    def unknown_class(self, then: Sequence[str], now: Sequence[str]) -> str:
        """Name a class that a trained network does not know.

        Args:
            then: the classes it was trained on.
            now: those of other data.

        Returns:
            a clause; by default nothing, and the numbers of classes are compared.

        """
        return ""

    def sample(self, predict: Callable[[Tensor], Tensor], data: Data, config: Config) -> str:
        """Show in a text what a trained network does; summary.json and the page hold it.

        Args:
            predict: x [N, *] -> the network's output [N, *, C], both on the CPU, in eval mode.
            data: as they were loaded.
            config: of the run.

        Returns:
            by default nothing.

        """
        return ""

    def pictures(self, data: Data) -> Sequence[Picture]:
        """Return the pictures that a trained network makes, for ``gradlens render``.

        Args:
            data: as they were loaded.

        Returns:
            held-out ones; by default none. A task that makes some defines :meth:`colours` too.

        """
        return ()

    def colours(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the colours of a picture's pixels.

        Args:
            z: [N, *, C] the network's output.
            y: [N, *] targets.

        Returns:
            those that the network gives and the true ones, each [N, 3] between 0 and 1.

        Raises:
            NotImplementedError: a task that makes no pictures.

        """
        raise NotImplementedError


def _identity(x: Tensor) -> Tensor:
    return x


def _row(*sums: Tensor) -> Tensor:
    """Return scalars as one row [1, F] in float64."""
    import torch

    return torch.stack([s.double() for s in sums])[None]
