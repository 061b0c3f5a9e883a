"""Define the hooks of a learning rule on what is recorded of its steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor

from gradlens.gradients.block_pass import Pass
from gradlens.gradients.signal import FeedbackPair, Step, Update


class Recorded:
    """The hooks of a rule (:class:`gradlens.gradients.method.Method`) on records: names, numbers of its own, chance."""

    @property
    def objective(self) -> str:
        """Name the loss that the true gradient is the gradient of, for the rows.

        Returns:
            a word or two; by default "loss".

        """
        return "loss"

    def of_objective(self, name: str) -> bool:
        """Return whether a gradient of the rule's own modules is one of the objective: a discriminator has a loss of its own.

        Args:
            name: a key of ``Signal.aux_grads``.

        Returns:
            by default True.

        """
        return True

    def quantities(self, update: Update) -> Mapping[str, Tensor]:
        """Compute the rule's own numbers to record for one block, such as a synthesiser's error.

        Args:
            update: the block's update.

        Returns:
            name, a key of ``method_quantities`` -> scalar tensor; by default none.

        """
        return {}

    def feedback_pairs(self, step: Step, passes: Sequence[Pass]) -> Iterator[FeedbackPair]:
        """Yield tensors of the rule (feedback matrices) with their counterparts in backpropagation, for the sparse records.

        Args:
            step: the executed step.
            passes: its plain chain of passes, first to last, graphs kept.

        Yields:
            each pair; by default none.

        """
        yield from ()

    def permuted(self, rows: Tensor) -> AbstractContextManager[None]:
        """Return the context in which what the rule gives to places inside blocks is permuted, for the chance level.

        Args:
            rows: [N] numbers of the global batch's rows, the one that each row of this rank gets.

        Returns:
            by default one that changes nothing: error signals at the ends of blocks are permuted without it.

        """
        return nullcontext()
