"""What a training rule is (Method), and what it says at one block (Signal)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from gradlens.gradients.block_pass import Grad, Pass, chain
from gradlens.gradients.locks import Locks
from gradlens.gradients.losses import Loss, slope
from gradlens.gradients.old_method_names import RefusesOldNames


class NetworkInfo(NamedTuple):
    """What a rule is told of the network it trains, when it is made.

    Attributes:
        blocks: the network's blocks, bottom first, the last one the top. Not to be kept: a rule's attributes are its own modules.
        shapes: shape of each block's output without the batch dimension: [C, H, W], [features], or of sequences [T, D] or [C, L].
        classes: number of classes C, the width of the network's output [N, C].
        head_width: width of the network's own top, the default width of auxiliary heads.
        loss: the supervised loss, (z [N, C], y [N]) -> scalar: a sum over the images there, divided by the global batch's size.
        seed: the run's; names every draw a rule makes (``with seeded(net.seed, "purpose")``).
        names: the blocks' names, bottom first; empty where they have none.
        image: (C, H, W) of the images, before :meth:`Method.make_inputs`; empty where it is not known.
        epochs: of the run, for rules that train stage by stage and divide them.
        teacher: a trained network, images [N, C, H, W] as the network reads them -> logits [N, C]; None but for rules with ``has_teacher``.
        features_last: of each block whether it gives sequences [T, D], features last; empty: none does.

    """

    blocks: Sequence[nn.Module]
    shapes: Sequence[torch.Size]
    classes: int
    head_width: int
    loss: Loss
    seed: int
    names: Sequence[str] = ()
    image: Sequence[int] = ()
    epochs: int = 1
    teacher: Callable[[Tensor], Tensor] | None = None
    features_last: Sequence[bool] = ()

    def turned(self, k: int) -> bool:
        """Whether block k gives sequences whose features come last."""
        return bool(self.features_last) and self.features_last[k]

    def sharing(self) -> tuple[str, str] | None:
        """Two blocks, by name, that have a parameter in common (or are one module); None where there are none."""
        owner: dict[nn.Parameter, int] = {}
        for k, block in enumerate(self.blocks):
            for p in block.parameters():
                if owner.setdefault(p, k) != k:
                    return self.name(owner[p]), self.name(k)
        return None

    def name(self, k: int) -> str:
        """What to call block k when speaking to a person."""
        return self.names[k] if self.names else f"block {k + 1}"


class Signal(NamedTuple):
    """What a rule says at one block: its error signal and the message to the block below, both at the block's own output.

    Attributes:
        delta: [N, *out] gradient with respect to the block's output, from which its parameters' gradients are computed; no graph.
            None: the block is not trained on this batch.
        messages_below: each [N, *out] and pulled back through the block, to arrive at block k−1 as ``received`` [N, *out of k−1].
            A message that is ``delta`` itself (the same tensor) costs no second backward pass. (): nothing is sent, and no gradient of
            the block's input is computed. Only where block k−1 waits for it (``depends_on``).
        aux_grads: parameter of the rule's own modules (dotted name in the rule, "heads.0.weight") -> its gradient, of its shape. The
            training step gives them to the optimiser. Empty where this block has none, or where :meth:`Method.learn` computes them.
        saved: anything; read by nobody but the rule's own ``learn`` and ``quantities``. Lives until the block's update is done.
        loss: scalar, no graph: the loss that ``delta`` is the gradient of. Recorded; that of the output block is the run's loss, and there
            the true gradient is read off ``delta``. None where the block has no loss.
        logits: [N, C], no graph: the network's answer, of which the accuracy is counted. Only at the output block, else None.

    """

    delta: Tensor | None
    messages_below: tuple[Tensor, ...] = ()
    aux_grads: Mapping[str, Tensor] = {}
    saved: Any = None
    loss: Tensor | None = None
    logits: Tensor | None = None


def top_signal(loss: Loss, p: Pass, send: bool = True) -> Signal:
    """Signal of the output block: gradient of the supervised loss, used for its update and passed down unless ``send`` is False."""
    value, delta = slope(loss, p.z, p.y)
    return Signal(delta, (delta,) if send else (), loss=value, logits=p.z.detach())


def relay(received: tuple[Tensor, ...]) -> Signal:
    """The signal of a block in backpropagation: the gradient that came from the block above, used for its update and passed down."""
    (delta,) = received
    return Signal(delta, (delta,))


class Update(NamedTuple):
    """One block's part of a step, as :func:`backward` yields it; read by the training step, the records and :meth:`Method.quantities`.

    Attributes:
        k: the block, 0 at the bottom.
        p: its forward pass; its graph is freed unless the step is recorded.
        signal: what :meth:`Method.signal` said.
        grad: what the block's own backward pass gave under that signal.
        aux_grads: gradients of the rule's own modules by dotted name, from ``signal`` and :meth:`Method.learn` together.
        received: each [N, *out], what block k+1 sent, pulled back to this block's output; () where nothing came.

    """

    k: int
    p: Pass
    signal: Signal
    grad: Grad
    aux_grads: Mapping[str, Tensor]
    received: tuple[Tensor, ...]


class Options(BaseModel, frozen=True, extra="forbid"):
    """The options of a rule that has none; a rule with options subclasses this."""


class Step(NamedTuple):
    """One step of a rule as it was run, graphs kept: what measuring reads.

    Attributes:
        blocks: the network's, bottom first.
        x: what :meth:`Method.make_inputs` gave, [N, *].
        y: the targets that travel with it, [N, *].
        passes: in the order in which the rule made them; fewer than blocks where it leaves some out.
        updates: by block, of the blocks that were updated.

    """

    blocks: Sequence[nn.Module]
    x: Tensor
    y: Tensor
    passes: Sequence[Pass]
    updates: Mapping[int, Update]


class FeedbackPair(NamedTuple):
    """Two tensors of one shape to be compared: something of the rule's own, and what it would be in backpropagation.

    Attributes:
        layer: dotted path in the model, of the rows.
        kind: of the rows: feedback_transpose, feedback_pseudoinverse, feedback_jacobian.
        mine: the rule's tensor.
        true: what it would be.
        reference: what ``true`` is, in words.

    """

    layer: str
    kind: str
    mine: Tensor
    true: Tensor
    reference: str


class Method(RefusesOldNames, ABC):
    """A training rule; a subclass's docstring is its equation. Its own modules (heads, synthesisers) are its submodules.

    A rule says two things: :meth:`signal`, the error signal of each block, and ``depends_on``, what that depends on. Everything else has
    a default that is right for most rules:

    - facts: ``summary``, ``other_names``, ``Options``, ``defaults``, ``classifies``, ``unlabelled``, ``has_teacher``, ``least_batch``,
      ``in_stages``, ``top_only``, ``compiles``, ``pipelined``, ``saved_within_epochs``, ``has_local_losses``, ``plain_local_loss``,
      ``has_feedback``, ``inpaints``;
      refusals: :meth:`validate_epochs`
    - what blocks read: :meth:`make_inputs`, :meth:`prepare_input`, :meth:`input_shape`; how they run: :meth:`forward`,
      :meth:`run_block`, :meth:`backward_context`
    - modules of its own: :meth:`learn`, :meth:`param_groups`; change over time: :meth:`start`
    - outside training: :meth:`predict`, :meth:`features`, :meth:`evaluate_objective`, :meth:`made`, :meth:`kept_head`
    - records: ``method_quantities`` and :meth:`quantities`, :meth:`feedback_pairs`, :attr:`objective`, :meth:`of_objective`
    - who waits for whom, and several ranks: :meth:`needs_above`, :meth:`waits_for_message`, :meth:`locking_reason`,
      :meth:`can_split_after`, :meth:`supports_delayed_target`, :meth:`block_of`, ``replay_size``, ``replay_reads``

    Attributes:
        num_blocks: of the network; block 0 is at the bottom, ``num_blocks - 1`` the top.
        output_block: the highest block that is run; the objective is of its output, and it gives the answer.
        num_probe_points: blocks that :meth:`features` reads, from the bottom.
        loss: the supervised loss, (z [N, C], y [N]) -> scalar.
        seed: the run's.
        options: an instance of ``Options``.
        replay_size, replay_reads: with ``replay_buffer``: batches that lie before each block, and how often one is read at most.

    """

    # --------------------------------------------------------------------------------- what every rule says: these two

    depends_on: ClassVar[frozenset[str]] = frozenset({"input"})  # keys of DEPENDENCIES, of each block but the top

    @abstractmethod
    def signal(self, k: int, passes: Mapping[int, Pass], received: tuple[Tensor, ...]) -> Signal:
        """Compute block k's error signal and the message to block k−1; must depend only on the arguments.

        Args:
            k: the block, 0 at the bottom.
            passes: by block: k itself, the blocks below that wait for k's message, and that of the output block once it has run
                (so rules that depend on ``output_error`` find the logits there). Others may be missing: updated and freed,
                not run yet, or on another rank.
            received: [N, *out] what block k+1 sent, pulled back to this block's output; () where it sent nothing.

        """

    # ----------------------------------------------------------------------------------------------- facts of the rule

    summary: ClassVar[str] = ""  # one line of `gradlens list methods`; where there is none, the docstring's first sentence
    other_names: ClassVar[tuple[str, ...]] = ()  # what it is called elsewhere: typed, they lead to its name here
    Options: ClassVar[type[BaseModel]] = Options  # a pydantic model; ``--set RULE.NAME=VALUE`` sets a field
    defaults: ClassVar[Mapping[str, Any]] = {}  # settings of ``Config`` that this rule wants where the user says nothing
    classifies: ClassVar[bool] = True  # False: trained without labels, gives no answers; `evaluate_objective` tells how well it does
    unlabelled: ClassVar[bool] = False  # True: also trained on the images whose label is not known (label -1)
    has_teacher: ClassVar[bool] = False  # True: learns from the answers of a trained network, `NetworkInfo.teacher`
    least_batch: ClassVar[int] = 1  # images a batch must have for the objective to mean anything
    in_stages: ClassVar[bool] = False  # True: a block is trained in its stage only, the others lie still
    top_only: ClassVar[bool] = False  # True: the blocks below the top are never updated
    compiles: ClassVar[bool] = True  # whether blocks may be compiled: False for rules that change what happens inside them
    # True: plain backprop, which torch's pipelines compute where blocks are spread over ranks, calling no hook; not inherited
    pipelined: ClassVar[bool] = False
    saved_within_epochs: ClassVar[bool] = True  # False: its state is too large to be written every minute
    has_local_losses: ClassVar[bool] = False  # True: blocks wait for those above inside the window of a loss, as `needs_above` says
    plain_local_loss: ClassVar[bool] = False  # True: each local loss is the network's own loss, of a head that classifies
    has_feedback: ClassVar[bool] = False  # True: errors come down by matrices of the rule's own, which `feedback_pairs` compares
    inpaints: ClassVar[bool] = False  # True: an image is corrupted, and `made` is what the network says was there
    method_quantities: ClassVar[Mapping[str, str]] = {}  # what `quantities` gives: name -> meaning

    replay_size, replay_reads = 8, 10

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let no rule inherit ``pipelined``: torch's pipelines would leave out what it changes."""
        super().__init_subclass__(**kwargs)
        cls.pipelined = cls.__dict__.get("pipelined", False)

    def __init__(self, net: NetworkInfo, options: Any) -> None:
        super().__init__()
        self.num_blocks = len(net.blocks)
        self.output_block = self.num_blocks - 1
        self.num_probe_points = self.num_blocks
        self.loss = net.loss
        self.seed = net.seed
        self.options = options

    def validate_epochs(self, epochs: int) -> str | None:
        """Why a run of so many epochs makes no sense for this rule, in one sentence; None if it does."""
        return None

    # ------------------------------------------------------------------------------- what blocks read and how they run

    @classmethod
    def input_shape(cls, image: tuple[int, int, int], options: Any) -> tuple[int, int, int]:
        """(C, H, W) of what the first block reads, for images of shape ``image``: the image, unless the rule cuts it up."""
        return image

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
        """The passes of one step, bottom first: the chain up to the output block unless the rule changes what blocks read.

        Where blocks are spread over several ranks, each makes the chain of its own blocks instead.
        """
        return chain(blocks[: self.output_block + 1], self.prepare_input(x), y, self.run_block)

    def run_block(self, block: nn.Module, x: Tensor) -> Tensor:
        """One block's output [N, *out], for rules that change what happens inside a block."""
        h: Tensor = block(x)
        return h

    def backward_context(self) -> AbstractContextManager[None]:
        """Active while the method's own backward runs (feedback rules replace Wᵀ inside blocks); the truth runs without."""
        return nullcontext()

    # ------------------------------------------------------------------------------------ modules of its own, and time

    def learn(self, k: int, p: Pass, signal: Signal, grad: Grad, received: tuple[Tensor, ...]) -> Mapping[str, Tensor]:
        """Gradients of the rule's own modules that need the block's gradient or the message from above, by dotted name."""
        return {}

    def param_groups(self, blocks: Sequence[nn.Module]) -> list[dict[str, Any]]:
        """The optimiser's parameter groups: blocks and the rule's own modules, one group; a parameter that blocks share comes once."""
        return [{"params": list(dict.fromkeys(p for module in (*blocks, self) for p in module.parameters() if p.requires_grad))}]

    def start(self, epoch: int, step: int) -> None:
        """Called before each step (epoch counts from 1, step from 0), for rules that change over time."""

    # ------------------------------------------------------------------------------------------------ outside training

    def predict(self, blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
        """The network's answer [N, C] outside training: all blocks in turn."""
        if not self.classifies:
            raise TypeError(f"{type(self).__name__} is trained without labels and gives no answers")
        for block in blocks:
            x = block(x)
        return x

    def features(self, blocks: Sequence[nn.Module], x: Tensor) -> Iterator[Tensor]:
        """What a probe reads: the outputs [N, *out] of the lowest ``num_probe_points`` blocks, bottom first."""
        for block in blocks[: self.num_probe_points]:
            x = block(x)
            yield x

    def evaluate_objective(self, blocks: Sequence[nn.Module], x: Tensor, y: Tensor) -> Tensor:
        """For rules that give no answers: the objective on what :meth:`make_inputs` gave, a scalar, in eval mode without gradients."""
        raise NotImplementedError

    def made(self, blocks: Sequence[nn.Module], x: Tensor) -> Any:
        """For rules that inpaint: the images [N, C, H, W] that they make of what :meth:`make_inputs` gave."""
        raise NotImplementedError

    def kept_head(self, layers: int) -> nn.Module | None:
        """The first layers of the projection head at the top, [N, *top] -> [N, features]; None where there are not so many."""
        return None

    # ---------------------------------------------------------------------------------------------------- for the records

    @property
    def objective(self) -> str:
        """What the true gradient is the gradient of, in a word or two for the rows."""
        return "loss"

    def of_objective(self, name: str) -> bool:
        """Whether a gradient in ``Signal.aux_grads`` is the objective's: a discriminator descends a loss of its own."""
        return True

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

    # ------------------------------------------------------------------------------ who waits for whom, and several ranks

    def needs_above(self, k: int) -> bool:
        """Whether block k must wait for the block above it; the top block never does."""
        return k < self.num_blocks - 1 and bool(self.depends_on & {"backward_message", "output_error", "delayed_message"})

    def waits_for_message(self) -> bool:
        """Whether a block is updated after the message of the block above has come, by its options if not by ``depends_on``."""
        return "backward_message" in self.depends_on

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

    @classmethod
    def locks(cls) -> Locks:
        """What a block of this rule waits for, from ``depends_on``; not to be overridden."""
        update = bool(cls.depends_on & {"output_error", "backward_message"})
        return Locks("input" in cls.depends_on, update, "backward_message" in cls.depends_on, "labels" in cls.depends_on)
