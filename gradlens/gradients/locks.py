"""List what a block's update can depend on, and the locks that follow."""

from __future__ import annotations

from typing import NamedTuple

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
