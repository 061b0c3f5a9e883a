"""List what a block's update can depend on, and the locks that follow; a rule's hooks on locking and several ranks."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from torch import Tensor

DEPENDENCIES: dict[str, str] = {
    "input": "the output of block k-1 in this step: block k cannot run before it (forward-locked)",
    "replay_buffer": "the output of block k-1 in an earlier step",
    "image": "the network's input",
    "labels": "the labels",
    "output_error": "the loss's gradient at the network's output: no update before all blocks have run (update-locked)",
    "backward_message": "the backward message of block k+1, before the update (update- and backward-locked)",
    "delayed_message": "the backward message of block k+1, after the update, for the rule's own modules",
}


class Locks(NamedTuple):
    """Locks of a block (Jaderberg et al. 2017, arXiv 1608.05343, §1), and whether it needs the labels."""

    forward: bool  # it runs after block k-1
    update: bool  # it is updated after all later blocks have run
    backward: bool  # ... and have run backward
    labels: bool  # the labels are needed at every block


class Locking:
    """The hooks of a rule (:class:`gradlens.gradients.method.Method`) on locking and several ranks."""

    depends_on: ClassVar[frozenset[str]]
    num_blocks: int
    output_block: int

    def needs_above(self, k: int) -> bool:
        """Return whether block k's pass is kept until block k+1 has run backward.

        Args:
            k: index of the block, 0 for the first.

        Returns:
            by default whether ``depends_on`` names anything of later blocks; the output block never waits.

        """
        return k < self.num_blocks - 1 and bool(self.depends_on & {"backward_message", "output_error", "delayed_message"})

    def waits_for_message(self) -> bool:
        """Return whether a block's update waits for the message of block k+1.

        Returns:
            by default whether ``depends_on`` has "backward_message"; a rule whose options decide it overrides this.

        """
        return "backward_message" in self.depends_on

    def locking_reason(self) -> str | None:
        """Name the lock that keeps blocks on different ranks from working on several batches at once.

        Returns:
            the rest of "RULE cannot work on several batches at once: …"; None: there is no such lock.

        """
        if "backward_message" in self.depends_on:
            return "it is backward-locked: a block is updated after the backward pass of all later blocks"
        return None

    def can_split_after(self, k: int) -> bool:
        """Return whether block k and block k+1 may be on different ranks; called only if :meth:`locking_reason` is None.

        Args:
            k: index of the block, 0 for the first.

        Returns:
            by default True for each block before the output block.

        """
        return k < self.output_block

    def supports_delayed_target(self, k: int) -> bool:
        """Return whether block k can be updated now, and ``learn`` be called later with the delayed message of an earlier batch.

        Args:
            k: index of the last block of a rank.

        Returns:
            by default False.

        """
        return False

    def arrange(self, j: int, k: int, messages: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
        """Arrange what block k sent to an earlier block j that it reads beside its predecessor, as block j+1's messages are.

        Args:
            j: index of the block that receives.
            k: index of the block that sent, k > j + 1.
            messages: those of block k, pulled back to block j's output.

        Returns:
            what is added to each of the messages of block j+1; None: nothing. By default ``messages``, in their order.

        """
        return messages

    def block_of(self, name: str) -> int:
        """Return the block that a parameter or buffer of the rule belongs to: the rank of this block trains it.

        Args:
            name: dotted name in the rule, "heads.0.weight".

        Returns:
            by default the first number in the name, or the output block if it has none.

        """
        return next((int(part) for part in name.split(".") if part.isdigit()), self.output_block)

    @classmethod
    def locks(cls) -> Locks:
        """Derive from ``depends_on`` what a block waits for; not to be overridden.

        Returns:
            whether a block is forward-, update- and backward-locked, and whether it needs the labels.

        """
        update = bool(cls.depends_on & {"output_error", "backward_message"})
        return Locks("input" in cls.depends_on, update, "backward_message" in cls.depends_on, "labels" in cls.depends_on)
