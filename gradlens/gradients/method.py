"""Define the interface of a learning rule (``Method``) and what it returns for one block (``Signal``)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, NamedTuple

from pydantic import BaseModel
from torch import Tensor, nn

from gradlens.gradients.block_pass import Grad, Pass, chain
from gradlens.gradients.locks import Locks
from gradlens.gradients.losses import Loss, slope
from gradlens.gradients.network_info import NetworkInfo
from gradlens.gradients.old_method_names import RefusesOldNames


class Signal(NamedTuple):
    """A rule's result for one block: its error signal and the message to block k−1, both with respect to the block's own output.

    Attributes:
        delta: [N, *out] gradient with respect to the block's output, from which its parameters' gradients are computed; no graph.
            None: the block is not trained on this batch.
        messages_below: each [N, *out]; pulled back through the block, it is block k−1's ``received`` [N, *out of k−1].
            A message that is ``delta`` itself (the same tensor) costs no second backward pass. (): nothing is sent, and no gradient of
            the block's input is computed. Only if block k−1 waits for it (``depends_on``).
        aux_grads: parameter of the rule's own modules (dotted name in the rule, "heads.0.weight") -> its gradient, of its shape. The
            training step passes them to the optimiser. Empty if this block has none, or if :meth:`Method.learn` computes them.
        saved: anything; used only by the rule's own ``learn`` and ``quantities``. Freed after the block's update.
        loss: scalar, no graph: the loss that ``delta`` is the gradient of. Recorded; that of the output block is the run's loss, and its
            ``delta`` is the start of the true gradient. None if the block has no loss.
        logits: [N, C], no graph: the network's output, from which the accuracy is computed. Only at the output block, else None.

    """

    delta: Tensor | None
    messages_below: tuple[Tensor, ...] = ()
    aux_grads: Mapping[str, Tensor] = {}
    saved: Any = None
    loss: Tensor | None = None
    logits: Tensor | None = None


def top_signal(loss: Loss, p: Pass, send: bool = True) -> Signal:
    """Compute the signal of the output block: gradient of the supervised loss, used for its update and passed down.

    Args:
        loss: (z [N, C], y [N]) -> scalar.
        p: the output block's pass.
        send: whether block k−1 is sent the gradient.

    Returns:
        delta [N, C], the same tensor as the message (or no message), the loss and the logits [N, C].

    """
    value, delta = slope(loss, p.z, p.y)
    return Signal(delta, (delta,) if send else (), loss=value, logits=p.z.detach())


def relay(received: tuple[Tensor, ...]) -> Signal:
    """Build a block's signal as in backpropagation: use the gradient from block k+1 for the update and pass it down.

    Args:
        received: the one message [N, *out] from block k+1.

    Returns:
        a signal whose ``delta`` and message are this tensor.

    """
    (delta,) = received
    return Signal(delta, (delta,))


class Update(NamedTuple):
    """One block's part of a step, as :func:`backward` yields it; read by the training step, the records and :meth:`Method.quantities`.

    Attributes:
        k: index of the block, 0 for the first.
        p: its forward pass; the graph is freed unless the step is recorded.
        signal: the result of :meth:`Method.signal`.
        grad: the result of the block's own backward pass from that signal.
        aux_grads: gradients of the rule's own modules by dotted name, from ``signal`` and :meth:`Method.learn` together.
        received: each [N, *out], messages of block k+1, pulled back to this block's output; () if there were none.

    """

    k: int
    p: Pass
    signal: Signal
    grad: Grad
    aux_grads: Mapping[str, Tensor]
    received: tuple[Tensor, ...]


class Options(BaseModel, frozen=True, extra="forbid"):
    """Options of a rule without options; a rule with options subclasses this."""


class Step(NamedTuple):
    """One executed step of a rule, graphs kept, for measuring.

    Attributes:
        blocks: the network's blocks, first to last.
        x: inputs from :meth:`Method.make_inputs`, [N, *].
        y: the targets that belong to them, [N, *].
        passes: in the order in which the rule ran them; fewer than blocks if the rule leaves some out.
        updates: block -> its update, for the blocks that were updated.

    """

    blocks: Sequence[nn.Module]
    x: Tensor
    y: Tensor
    passes: Sequence[Pass]
    updates: Mapping[int, Update]


class FeedbackPair(NamedTuple):
    """Two tensors of one shape to compare: one of the rule's own, and its counterpart in backpropagation.

    Attributes:
        layer: dotted path in the model, written to the rows.
        kind: kind of the rows: feedback_transpose, feedback_pseudoinverse, feedback_jacobian.
        mine: the rule's tensor.
        true: its counterpart in backpropagation, of the same shape.
        reference: name of ``true`` for the rows.

    """

    layer: str
    kind: str
    mine: Tensor
    true: Tensor
    reference: str


class Method(RefusesOldNames, ABC):
    """A learning rule; a subclass's docstring is its equation. Its own modules (heads, synthesisers) are its submodules.

    A rule defines two things: :meth:`signal`, the error signal of each block, and ``depends_on``, its dependencies. Everything else has
    a default that suits most rules:

    - facts: ``summary``, ``other_names``, ``Options``, ``defaults``, ``classifies``, ``unlabelled``, ``has_teacher``, ``least_batch``,
      ``in_stages``, ``top_only``, ``compiles``, ``pipelined``, ``saved_within_epochs``, ``has_local_losses``, ``has_windows``,
      ``plain_local_loss``, ``has_feedback``, ``inpaints``;
      refusals: :meth:`validate_epochs`
    - inputs of the blocks: :meth:`make_inputs`, :meth:`prepare_input`, :meth:`input_shape`; how they run: :meth:`forward`,
      :meth:`run_block`, :meth:`backward_context`
    - auxiliary modules: :meth:`learn`, :meth:`param_groups`; change over time: :meth:`start`
    - outside training: :meth:`predict`, :meth:`features`, :meth:`evaluate_objective`, :meth:`made`, :meth:`kept_head`
    - records: ``method_quantities`` and :meth:`quantities`, :meth:`feedback_pairs`, :attr:`objective`, :meth:`of_objective`
    - locking, and several ranks: :meth:`needs_above`, :meth:`waits_for_message`, :meth:`locking_reason`,
      :meth:`can_split_after`, :meth:`supports_delayed_target`, :meth:`block_of`, ``replay_size``, ``replay_reads``

    Attributes:
        num_blocks: number of blocks of the network; block 0 is the first, ``num_blocks - 1`` the last.
        output_block: the last block that is run; the objective is computed from its output, and the prediction too.
        num_probe_points: number of blocks, from the first, whose outputs :meth:`features` yields.
        loss: the supervised loss, (z [N, C], y [N]) -> scalar.
        seed: seed of the run.
        options: an instance of ``Options``.
        replay_size, replay_reads: with ``replay_buffer``: batches stored before each block, and how often one is used at most.

    """

    # ------------------------------------------------------------------------------ what every rule defines: these two

    depends_on: ClassVar[frozenset[str]] = frozenset({"input"})  # keys of DEPENDENCIES, for each block but the last

    @abstractmethod
    def signal(self, k: int, passes: Mapping[int, Pass], received: tuple[Tensor, ...]) -> Signal:
        """Compute block k's error signal and the message to block k−1; must depend only on the arguments.

        Args:
            k: index of the block, 0 for the first.
            passes: block -> its pass: k itself, the earlier blocks that wait for k's message, and the output block once it has run
                (rules that depend on ``output_error`` read the logits there). Others may be missing: updated and freed,
                not run yet, or on another rank.
            received: messages of block k+1, each [N, *out], pulled back to this block's output; () if it sent none.

        Returns:
            the error signal [N, *out], the messages, and what else :class:`Signal` lists.

        """

    # ----------------------------------------------------------------------------------------------- facts of the rule

    summary: ClassVar[str] = ""  # one line of `gradlens list methods`; default: the docstring's first sentence
    other_names: ClassVar[tuple[str, ...]] = ()  # its names in the literature: typed, the error suggests its name here
    Options: ClassVar[type[BaseModel]] = Options  # a pydantic model; ``--set RULE.NAME=VALUE`` sets a field
    defaults: ClassVar[Mapping[str, Any]] = {}  # this rule's defaults for settings of ``Config``
    classifies: ClassVar[bool] = True  # False: trained without labels, predicts no classes; scored by `evaluate_objective`
    unlabelled: ClassVar[bool] = False  # True: also trained on images without a label (label -1)
    has_teacher: ClassVar[bool] = False  # True: learns from the outputs of a trained network, `NetworkInfo.teacher`
    least_batch: ClassVar[int] = 1  # smallest batch for which the objective is defined
    in_stages: ClassVar[bool] = False  # True: each block is trained in its own stage only and frozen otherwise
    top_only: ClassVar[bool] = False  # True: only the output block is updated
    compiles: ClassVar[bool] = True  # whether blocks may be compiled: False for rules that change what happens inside them
    # True: plain backprop, which torch's pipelines compute if blocks are spread over ranks, calling no hook; not inherited
    pipelined: ClassVar[bool] = False
    saved_within_epochs: ClassVar[bool] = True  # False: its state is too large to be written every minute
    has_local_losses: ClassVar[bool] = False  # True: blocks wait for later ones inside the window of a loss, see `needs_above`
    has_windows: ClassVar[bool] = False  # True: a block waits for the later blocks of its loss's window only, not for all
    plain_local_loss: ClassVar[bool] = False  # True: each local loss is the network's own loss, of a head that classifies
    has_feedback: ClassVar[bool] = False  # True: errors are propagated by the rule's own matrices, which `feedback_pairs` compares
    inpaints: ClassVar[bool] = False  # True: images are corrupted, and `made` returns the network's reconstruction
    method_quantities: ClassVar[Mapping[str, str]] = {}  # quantities that `quantities` returns: name -> meaning

    replay_size, replay_reads = 8, 10

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Reset ``pipelined`` in subclasses: torch's pipelines would ignore what a subclass changes."""
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
        """Return one sentence that says why this rule cannot train for so few or so many epochs; None if it can."""
        return None

    # ---------------------------------------------------------------------------- inputs of the blocks, and forward pass

    @classmethod
    def input_shape(cls, image: tuple[int, int, int], options: Any) -> tuple[int, int, int]:
        """Return the first block's input shape (C, H, W): that of the image, unless the rule cuts it into patches.

        Args:
            image: (C, H, W) of the images.
            options: an instance of ``Options``.

        """
        return image

    def make_inputs(self, images: Tensor, labels: Tensor, step: int, to_input: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Turn a step's images and labels into the network's input and its targets.

        Args:
            images: [N, C, H, W] uint8.
            labels: [N], -1 if unknown.
            step: keys the random draws (views, masks); negative in evaluation.
            to_input: normalises images of 0 … 255, [N, C, H, W], uint8 or float.

        Returns:
            x [N, *] and y [N, *], one row per image: half of a batch is half of both.

        """
        return to_input(images), labels

    def prepare_input(self, x: Tensor) -> Tensor:
        """Turn the x [N, *] of :meth:`make_inputs` into the first block's input [M, *]: views or patches become rows of the batch."""
        return x

    def forward(self, blocks: Sequence[nn.Module], x: Tensor, y: Tensor) -> Iterator[Pass]:
        """Run one step's forward passes, first block to last: by default the plain chain up to the output block.

        If blocks are spread over several ranks, each rank runs the chain of its own blocks instead.

        Args:
            blocks: the network's blocks, first to last.
            x, y: [N, *] and [N, *], from :meth:`make_inputs`.

        """
        return chain(blocks[: self.output_block + 1], self.prepare_input(x), y, self.run_block)

    def run_block(self, block: nn.Module, x: Tensor) -> Tensor:
        """Compute one block's output [N, *out] from its input x [N, *in], for rules that change what happens inside a block."""
        h: Tensor = block(x)
        return h

    def backward_context(self) -> AbstractContextManager[None]:
        """Return the context of the rule's own backward passes (feedback rules replace Wᵀ in blocks); the true gradient runs outside."""
        return nullcontext()

    # ----------------------------------------------------------------------------------- auxiliary modules, and schedule

    def learn(self, k: int, p: Pass, signal: Signal, grad: Grad, received: tuple[Tensor, ...]) -> Mapping[str, Tensor]:
        """Compute gradients of the rule's own modules that need the block's gradient or the message of block k+1.

        Args:
            k: index of the block, 0 for the first.
            p: its pass.
            signal: the result of :meth:`signal`, ``saved`` included.
            grad: the result of the block's backward pass from that signal.
            received: messages of block k+1, each [N, *out].

        Returns:
            dotted name of a parameter in the rule -> gradient of its shape.

        """
        return {}

    def param_groups(self, blocks: Sequence[nn.Module]) -> list[dict[str, Any]]:
        """Return the optimiser's parameter groups: by default one of all blocks and the rule's own modules; shared parameters once."""
        return [{"params": list(dict.fromkeys(p for module in (*blocks, self) for p in module.parameters() if p.requires_grad))}]

    def start(self, epoch: int, step: int) -> None:
        """Prepare a step, for rules that change over time; called before each one (epoch counts from 1, step from 0)."""

    # ------------------------------------------------------------------------------------------------ outside training

    def predict(self, blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
        """Compute the network's logits [N, C] outside training, from x as in :meth:`make_inputs`: by default all blocks in turn.

        Raises:
            TypeError: a rule without ``classifies``.

        """
        if not self.classifies:
            raise TypeError(f"{type(self).__name__} is trained without labels and predicts no classes")
        for block in blocks:
            x = block(x)
        return x

    def features(self, blocks: Sequence[nn.Module], x: Tensor) -> Iterator[Tensor]:
        """Yield what probes read: the outputs [N, *out] of the first ``num_probe_points`` blocks on images x [N, C, H, W]."""
        for block in blocks[: self.num_probe_points]:
            x = block(x)
            yield x

    def evaluate_objective(self, blocks: Sequence[nn.Module], x: Tensor, y: Tensor) -> Tensor:
        """Compute the objective, a scalar, on x and y from :meth:`make_inputs`, in eval mode: for rules without ``classifies``."""
        raise NotImplementedError

    def made(self, blocks: Sequence[nn.Module], x: Tensor) -> Any:
        """Compute the reconstructed images [N, C, H, W] from the x of :meth:`make_inputs`: for rules with ``inpaints``."""
        raise NotImplementedError

    def kept_head(self, layers: int) -> nn.Module | None:
        """Return the first ``layers`` layers of the last projection head, [N, *out] -> [N, features]; None if it has fewer."""
        return None

    # ---------------------------------------------------------------------------------------------------- for the records

    @property
    def objective(self) -> str:
        """Name the loss that the true gradient is the gradient of, in a word or two for the rows."""
        return "loss"

    def of_objective(self, name: str) -> bool:
        """Return whether the gradient ``Signal.aux_grads[name]`` is one of the objective: a discriminator has a loss of its own."""
        return True

    def quantities(self, update: Update) -> Mapping[str, Tensor]:
        """Compute the rule's own numbers to record for one block (a synthesiser's error): name -> scalar tensor."""
        return {}

    def feedback_pairs(self, step: Step, passes: Sequence[Pass]) -> Iterator[FeedbackPair]:
        """Yield tensors of the rule (feedback matrices) with their counterparts in backpropagation, for the sparse records.

        Args:
            step: the executed step.
            passes: its plain chain of passes, first to last, graphs kept.

        """
        yield from ()

    # ------------------------------------------------------------------------------------------ locking, and several ranks

    def needs_above(self, k: int) -> bool:
        """Return whether block k must wait for block k+1; the output block never does."""
        return k < self.num_blocks - 1 and bool(self.depends_on & {"backward_message", "output_error", "delayed_message"})

    def waits_for_message(self) -> bool:
        """Return whether a block's update waits for the message of block k+1, because of ``depends_on`` or of the rule's options."""
        return "backward_message" in self.depends_on

    def locking_reason(self) -> str | None:
        """Name the lock that keeps blocks on different ranks from working on several batches at once; None if there is none."""
        if "backward_message" in self.depends_on:
            return "it is backward-locked: a block is updated after the backward pass of all later blocks"
        return None

    def can_split_after(self, k: int) -> bool:
        """Return whether block k and block k+1 may be on different ranks; called only if :meth:`locking_reason` is None."""
        return k < self.output_block

    def supports_delayed_target(self, k: int) -> bool:
        """Return whether block k can be updated now and :meth:`learn` later, from the delayed message of an earlier batch."""
        return False

    def block_of(self, name: str) -> int:
        """Return the block that a parameter or buffer of the rule belongs to: the first number in its dotted name, or the output block."""
        return next((int(part) for part in name.split(".") if part.isdigit()), self.output_block)

    @classmethod
    def locks(cls) -> Locks:
        """Derive from ``depends_on`` what a block waits for; not to be overridden."""
        update = bool(cls.depends_on & {"output_error", "backward_message"})
        return Locks("input" in cls.depends_on, update, "backward_message" in cls.depends_on, "labels" in cls.depends_on)
