"""What a block's update can depend on, and what the block must wait for by it."""

from __future__ import annotations

from typing import NamedTuple

DEPENDENCIES: dict[str, str] = {
    "input": "what the block below gave in this step: it cannot run before that block (forward-locked)",
    "replay_buffer": "what the block below gave in an earlier step",
    "image": "the network's input",
    "labels": "the labels",
    "output_error": "the loss's gradient at the network's output: not updated before all blocks have run (update-locked)",
    "backward_message": "the message of the block above, before its own update (update- and backward-locked)",
    "delayed_message": "the message of the block above, after its own update, for the rule's own modules",
}


class Locks(NamedTuple):
    """What a block waits for (Jaderberg et al. 2017, §1), and whether it reads the labels."""

    forward: bool  # it runs after the block below has
    update: bool  # it is updated after all blocks above have run
    backward: bool  # ... and have gone backward
    labels: bool  # the labels are needed at every block
