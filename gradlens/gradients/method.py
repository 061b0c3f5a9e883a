"""What a training rule is (Method), and what it says at one block (Signal)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from gradlens.gradients.block_pass import Grad, Pass, chain
from gradlens.gradients.losses import Loss, slope
from gradlens.runtime import old_names
from gradlens.runtime.errors import InputError


class NetworkInfo(NamedTuple):
    """What a rule may know of the network it trains."""

    blocks: Sequence[nn.Module]  # bottom first
    shapes: Sequence[torch.Size]  # each block's output, without the batch dimension
    classes: int
    head_width: int  # width of the network's own top: the default for auxiliary heads
    loss: Loss
    seed: int
    names: Sequence[str] = ()  # the blocks', bottom first
    image: Sequence[int] = ()  # (C, H, W) of the network's input
    epochs: int = 1  # of the run: rules that train stage by stage divide them
    teacher: Callable[[Tensor], Tensor] | None = None  # [N, C, H, W] -> logits [N, C]: a trained network, where one is given

    def name(self, k: int) -> str:
        """What to call block k when speaking to a person."""
        return self.names[k] if self.names else f"block {k + 1}"


class Signal(NamedTuple):
    """A block's error signal and its message to the block below, at the block's output."""

    delta: Tensor | None  # [N, *out] error signal of the block's parameters; None: not trained on this batch
    messages_below: tuple[Tensor, ...] = ()  # [N, *out] pulled back to the block below; (): no input gradient is computed
    aux_grads: Mapping[str, Tensor] = {}  # gradients of the rule's own modules (auxiliary networks), by their name in the rule
    saved: Any = None  # what `learn` needs later
    loss: Tensor | None = None  # scalar: the loss this signal descends, for the records
    logits: Tensor | None = None  # [N, C] the network's answer, where this block gives it


def top_signal(loss: Loss, p: Pass) -> Signal:
    """Signal of the output block: gradient of the supervised loss, used for its update and passed down."""
    value, delta = slope(loss, p.z, p.y)
    return Signal(delta, (delta,), loss=value, logits=p.z.detach())


def relay(received: tuple[Tensor, ...]) -> Signal:
    """The signal of a block in backpropagation: the gradient that came from the block above, used for its update and passed down."""
    (delta,) = received
    return Signal(delta, (delta,))


class Update(NamedTuple):
    """One block's part of a step, as :func:`backward` yields it."""

    k: int
    p: Pass
    signal: Signal
    grad: Grad
    aux_grads: Mapping[str, Tensor]  # gradients of the rule's own modules, from `signal` and `learn` together
    received: tuple[Tensor, ...]  # [N, *out] messages from block k+1, pulled back to this block's output


class Options(BaseModel, frozen=True, extra="forbid"):
    """The options of a rule that has none; a rule with options subclasses this."""


class Step(NamedTuple):
    """One step of a rule as it was run, graphs kept: what measuring reads."""

    blocks: Sequence[nn.Module]  # bottom first
    x: Tensor  # [N, *in] the network's input
    y: Tensor  # [N]
    passes: Sequence[Pass]  # as the rule made them
    updates: Mapping[int, Update]  # by block


class FeedbackPair(NamedTuple):
    """Two tensors of one shape to be compared: something of the rule's own, and what it would be in backpropagation."""

    layer: str  # dotted path in the model
    kind: str  # of the rows: feedback_transpose, feedback_pseudoinverse, feedback_jacobian
    mine: Tensor
    true: Tensor
    reference: str  # what ``true`` is, in words


DEPENDENCIES: dict[str, str] = {  # what a block's update can depend on, and what it must wait for by it
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


class Method(nn.Module):
    """A training rule; a subclass's docstring is its equation. Its own modules (heads, synthesisers) are its submodules.

    A rule overrides :meth:`signal`, and of the other methods only what it needs.
    """

    Options: ClassVar[type[BaseModel]] = Options
    depends_on: ClassVar[frozenset[str]] = frozenset({"input"})  # keys of DEPENDENCIES, of each block but the top
    method_quantities: ClassVar[Mapping[str, str]] = {}  # what `quantities` gives: name -> meaning
    defaults: ClassVar[Mapping[str, Any]] = {}  # settings of ``Config`` that this rule wants where the user says nothing
    saved_within_epochs: ClassVar[bool] = True  # False: its state is too large to be written every minute
    compiles: ClassVar[bool] = True  # whether blocks may be compiled: False for rules that change what happens inside them
    classifies: ClassVar[bool] = True  # False: trained without labels, gives no answers; `evaluate_objective` tells how well it does
    unlabelled: ClassVar[bool] = False  # True: also trained on the images whose label is not known (label -1)
    has_teacher: ClassVar[bool] = False  # True: learns from the answers of a trained network, `NetworkInfo.teacher`
    pipelined: ClassVar[bool] = False  # True: plain backprop, which torch's pipeline schedules compute where blocks are spread over ranks
    least_batch: ClassVar[int] = 1  # images a batch must have for the objective to mean anything
    in_stages: ClassVar[bool] = False  # True: a block is trained in its stage only, the others lie still
    top_only: ClassVar[bool] = False  # True: the blocks below the top are never updated

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a rule that overrides methods by their names of version 0.1.0, which nothing would call."""
        super().__init_subclass__(**kwargs)
        if old := [name for name in old_names.METHOD if hasattr(cls, name)]:
            said = "; ".join(old_names.renamed(name, old_names.METHOD[name], cls.__name__) for name in old)
            reads = getattr(cls, "reads", ())
            words = [word for word in sorted(old_names.DEPENDENCIES) if isinstance(reads, Collection) and word in reads]
            more = f", and {', '.join(words)} in it {', '.join(old_names.DEPENDENCIES[word] for word in words)}" if words else ""
            raise InputError(said + more)

    def __init__(self, net: NetworkInfo, options: Any) -> None:
        super().__init__()
        self.num_blocks = len(net.blocks)
        self.output_block = self.num_blocks - 1  # the block whose output the objective is of, and which gives the answer
        self.num_probe_points = self.num_blocks  # blocks that `features` reads, from the bottom
        self.loss = net.loss
        self.seed = net.seed
        self.options = options

    def __getattr__(self, name: str) -> Any:
        """Answer an attribute's name of version 0.1.0 with the new one."""
        try:
            return super().__getattr__(name)
        except AttributeError as error:
            if name in old_names.METHOD:
                raise AttributeError(old_names.renamed(name, old_names.METHOD[name], type(self).__name__)) from None
            raise error from None

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse the numbers that version 0.1.0 called ``top``, ``depth`` and ``readable``: nothing would read them."""
        if name in ("top", "depth", "readable") and isinstance(value, int):
            raise AttributeError(old_names.renamed(name, old_names.METHOD[name], type(self).__name__))
        super().__setattr__(name, value)

    @classmethod
    def locks(cls) -> Locks:
        """What a block of this rule waits for, from what it reads."""
        update = bool(cls.depends_on & {"output_error", "backward_message"})
        return Locks("input" in cls.depends_on, update, "backward_message" in cls.depends_on, "labels" in cls.depends_on)

    @classmethod
    def input_shape(cls, image: tuple[int, int, int], options: Any) -> tuple[int, int, int]:
        """(C, H, W) of what the first block reads, for images of shape ``image``: the image, unless the rule cuts it up."""
        return image

    @property
    def objective(self) -> str:
        """What the true gradient is the gradient of, in a word or two for the rows."""
        return "loss"

    def make_inputs(self, images: Tensor, labels: Tensor, step: int, to_input: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """What a step's images and labels become: the network's input and the targets that travel with it.

        Args:
            images: [N, C, H, W] uint8.
            labels: [N], -1 where unknown.
            step: names the draws (views, masks); below zero in evaluation.
            to_input: normalises images of 0 … 255, [N, C, H, W], uint8 or float.

        Returns:
            x [N, *] and y [N, *], image by image: halves of a batch are halves of both.

        """
        return to_input(images), labels

    def prepare_input(self, x: Tensor) -> Tensor:
        """What the first block reads of the input that :meth:`make_inputs` gave: views or patches come to lie in the batch."""
        return x

    def forward(self, blocks: Sequence[nn.Module], x: Tensor, y: Tensor) -> Iterator[Pass]:
        """The passes of one step, bottom first: the plain chain unless the rule changes what blocks read.

        Where blocks are spread over several ranks, each makes the chain of its own blocks instead.
        """
        return chain(blocks, self.prepare_input(x), y, self.run)

    def run(self, block: nn.Module, x: Tensor) -> Tensor:
        """One block's output [N, *out], for rules that change what happens inside a block."""
        h: Tensor = block(x)
        return h

    def locking_reason(self) -> str | None:
        """Why blocks cannot work on several batches at once, each on a rank of its own: which lock; None if they can."""
        if "backward_message" in self.depends_on:
            return "it is backward-locked: a block is updated after all blocks above it have gone backward"
        return None

    def can_split_after(self, k: int) -> bool:
        """Whether block k and the one above it may be on different ranks; only asked where :meth:`locking_reason` is None."""
        return k < self.output_block

    def supports_delayed_target(self, k: int) -> bool:
        """Whether block k can be updated now and :meth:`learn` from the message of an earlier batch, which came late."""
        return False

    def block_of(self, name: str) -> int:
        """The block with which a parameter or buffer of the rule's own is trained: the first number in its dotted name, or the top."""
        return next((int(part) for part in name.split(".") if part.isdigit()), self.output_block)

    def evaluate_objective(self, blocks: Sequence[nn.Module], x: Tensor, y: Tensor) -> Tensor:
        """For rules that give no answers: the objective on what :meth:`make_inputs` gave, a scalar, in eval mode without gradients."""
        raise NotImplementedError

    def signal(self, k: int, passes: Mapping[int, Pass], received: tuple[Tensor, ...]) -> Signal:
        """Compute block k's error signal and the message to block k−1; must depend only on the arguments.

        Args:
            k: the block, 0 at the bottom.
            passes: passes by block; holds k and, for rules that wait for the block above, those below k.
            received: [N, *out] what block k+1 sent, pulled back to this block's output; () where it sent nothing.

        """
        raise NotImplementedError

    def learn(self, k: int, p: Pass, signal: Signal, grad: Grad, received: tuple[Tensor, ...]) -> Mapping[str, Tensor]:
        """Gradients of the rule's own modules that need the block's gradient or the message from above."""
        return {}

    def start(self, epoch: int, step: int) -> None:
        """Called before each step (epoch counts from 1, step from 0), for rules that change over time."""

    def validate_epochs(self, epochs: int) -> str | None:
        """Why a run of so many epochs makes no sense for this rule, in one sentence; None if it does."""
        return None

    def needs_above(self, k: int) -> bool:
        """Whether block k must wait for the block above it; the top block never does."""
        return k < self.num_blocks - 1 and bool(self.depends_on & {"backward_message", "output_error", "delayed_message"})

    def predict(self, blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
        """The network's answer [N, C] outside training: all blocks in turn."""
        for block in blocks:
            x = block(x)
        return x

    def features(self, blocks: Sequence[nn.Module], x: Tensor) -> Iterator[Tensor]:
        """What a probe reads: each block's output [N, *out], bottom first."""
        for block in blocks:
            x = block(x)
            yield x

    def kept_head(self, layers: int) -> nn.Module | None:
        """The first layers of the projection head at the top, [N, *top] -> [N, features]; None where there are not so many."""
        return None

    def of_objective(self, name: str) -> bool:
        """Whether a gradient in ``Signal.aux_grads`` is the objective's: a discriminator descends a loss of its own."""
        return True

    def backward_context(self) -> AbstractContextManager[None]:
        """Active while the method's own backward runs (feedback rules replace Wᵀ inside blocks); the truth runs without."""
        return nullcontext()

    def quantities(self, update: Update) -> Mapping[str, Tensor]:
        """Numbers of the rule's own to record for one block (a synthesiser's error): name -> scalar tensor."""
        return {}

    def feedback_pairs(self, step: Step, passes: Sequence[Pass]) -> Iterator[FeedbackPair]:
        """Tensors of the rule's own beside what they would be in backpropagation (feedback matrices), for the sparse records.

        Args:
            step: the step as it was run.
            passes: its plain chain of passes, bottom first, graphs kept.

        """
        yield from ()

    def param_groups(self, blocks: Sequence[nn.Module]) -> list[dict[str, Any]]:
        """The optimiser's parameter groups: blocks and the rule's own modules, one group; a parameter that blocks share comes once."""
        return [{"params": list(dict.fromkeys(p for module in (*blocks, self) for p in module.parameters() if p.requires_grad))}]
