"""Define the interface of a learning rule: ``Method``."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

from pydantic import BaseModel
from torch import Tensor, nn

from gradlens.gradients.block_pass import Grad, Pass, chain, outputs
from gradlens.gradients.items import ROWS, Items
from gradlens.gradients.locks import Locking
from gradlens.gradients.losses import Loss
from gradlens.gradients.needs import Need, require
from gradlens.gradients.network_info import NetworkInfo
from gradlens.gradients.old_method_names import RefusesOldNames
from gradlens.gradients.recorded import Recorded
from gradlens.gradients.signal import FeedbackPair as FeedbackPair
from gradlens.gradients.signal import Options as Options
from gradlens.gradients.signal import Signal as Signal
from gradlens.gradients.signal import Step as Step
from gradlens.gradients.signal import Update as Update
from gradlens.gradients.signal import relay as relay
from gradlens.gradients.signal import top_signal as top_signal


class Method(RefusesOldNames, Locking, Recorded, ABC):
    """A learning rule; a subclass's docstring is its equation. Its own modules (heads, synthesisers) are its submodules.

    A rule defines two things: :meth:`signal`, the error signal of each block, and ``depends_on``, its dependencies. Everything else has
    a default that suits most rules:

    - facts: the class attributes below; refusals: :meth:`validate_epochs`
    - inputs of the blocks: :meth:`make_inputs`, :meth:`prepare_input`, :meth:`input_shape`; how they run: :meth:`forward`,
      :meth:`run_block`, :meth:`backward_context`
    - auxiliary modules: :meth:`learn`, :meth:`param_groups`; change over time: :meth:`start`
    - outside training: :meth:`predict`, :meth:`features`, :meth:`evaluate_objective`, :meth:`made`, :meth:`kept_head`
    - records: :meth:`quantities`, :meth:`feedback_pairs`, :attr:`objective`, :meth:`of_objective`, :meth:`permuted`
    - locking, and several ranks: :meth:`needs_above`, :meth:`waits_for_message`, :meth:`locking_reason`,
      :meth:`can_split_after`, :meth:`supports_delayed_target`, :meth:`block_of`
    - networks in which a block reads several earlier ones: :meth:`arrange`

    Attributes:
        num_blocks: number of blocks of the network; block 0 is the first, ``num_blocks - 1`` the last.
        output_block: the last block that is run; the objective is computed from its output, and the prediction too.
        num_probe_points: number of blocks, from the first, whose outputs :meth:`features` yields.
        loss: the supervised loss, (z [N, *, C], y [N, *]) -> scalar.
        terms: the objective's further terms, at blocks before the output block: block -> loss. The step adds the gradient of such a term
            to the block's error signal and to the messages it sends; a rule does not.
        items: what an item of a batch is (image, token, labelled node).
        seed: seed of the run.
        options: an instance of ``Options``.
        depends_on: of the class, as all below: what a block's update depends on, for each block but the last; keys of ``DEPENDENCIES``.
        summary: one line of ``gradlens list methods``; default: the docstring's first sentence.
        other_names: its names in the literature; the error for such a name suggests the rule.
        Options: a pydantic model of the rule's options; ``--set RULE.NAME=VALUE`` sets a field.
        defaults: the rule's own defaults for settings of ``Config``, by their flat names.
        defaults_on: network -> the rule's own defaults on it.
        classifies: False: trained without labels, predicts no classes; scored by :meth:`evaluate_objective`.
        unlabelled: True: also trained on images without a label (label -1).
        has_teacher: True: learns from the outputs of a trained network, ``NetworkInfo.teacher``.
        least_batch: smallest batch for which the objective is defined.
        in_stages: True: each block is trained in its own stage only and frozen otherwise.
        top_only: True: only the output block is updated.
        compiles: whether blocks may be compiled; False for rules that change what happens inside them.
        pipelined: True: plain backpropagation, which torch's pipelines compute if blocks are spread over ranks, calling no hook.
            Not inherited.
        saved_within_epochs: False: its state is too large to be written every minute.
        has_local_losses: True: blocks wait for later ones inside the window of a loss, see :meth:`needs_above`.
        has_windows: True: a block waits for the later blocks of its loss's window only, not for all.
        plain_local_loss: True: each local loss is the network's own loss, of a head that classifies.
        has_feedback: True: errors are propagated by the rule's own matrices, which :meth:`feedback_pairs` compares.
        reads_classes: what it does with the class of each item, beside the loss, a clause; "": nothing.
        images_only: why the rule is of the image task only, a clause ("it compares two views of an image"; ``{items}``
            stands for the items of the task that it is refused on); "": it is of any task.
        needs: what the rule, or a value of an option, needs of a network; building refuses one that lacks it.
        inpaints: True: images are corrupted, and :meth:`made` returns the network's reconstruction.
        method_quantities: name -> meaning of the numbers that :meth:`quantities` returns.
        replay_size, replay_reads: with "replay_buffer": batches stored before each block, and how often one is used at most.

    """

    # ------------------------------------------------------------------------------ what every rule defines: these two

    depends_on: ClassVar[frozenset[str]] = frozenset({"input"})

    @abstractmethod
    def signal(self, k: int, passes: Mapping[int, Pass], received: tuple[Tensor, ...]) -> Signal:
        """Compute block k's error signal and the message to block k−1; must depend only on the arguments.

        Args:
            k: index of the block, 0 for the first.
            passes: block -> its pass: k itself, the earlier blocks that wait for k's message, and the output block once it has run
                (rules that depend on ``output_error`` read the logits there). Others may be missing: updated and freed,
                not run yet, or on another rank.
            received: messages of block k+1, each [N, *out], pulled back to this block's output; () if it sent none. Where other later
                blocks read this block's output too, the sum of what all of them sent.

        Returns:
            the error signal [N, *out], the messages, and what else :class:`Signal` lists.

        """

    # ------------------------------------------------------------------- facts of the rule, explained in the class's docstring

    summary: ClassVar[str] = ""
    other_names: ClassVar[tuple[str, ...]] = ()
    Options: ClassVar[type[BaseModel]] = Options
    defaults: ClassVar[Mapping[str, Any]] = {}
    defaults_on: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    classifies: ClassVar[bool] = True
    unlabelled: ClassVar[bool] = False
    has_teacher: ClassVar[bool] = False
    least_batch: ClassVar[int] = 1
    in_stages: ClassVar[bool] = False
    top_only: ClassVar[bool] = False
    compiles: ClassVar[bool] = True
    pipelined: ClassVar[bool] = False
    saved_within_epochs: ClassVar[bool] = True
    has_local_losses: ClassVar[bool] = False
    has_windows: ClassVar[bool] = False
    plain_local_loss: ClassVar[bool] = False
    has_feedback: ClassVar[bool] = False
    images_only: ClassVar[str] = ""
    reads_classes: ClassVar[str] = ""
    needs: ClassVar[Sequence[Need]] = ()
    inpaints: ClassVar[bool] = False
    method_quantities: ClassVar[Mapping[str, str]] = {}

    replay_size, replay_reads = 8, 10

    terms: Mapping[int, Loss] = {}
    items: Items = ROWS

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Reset ``pipelined`` in subclasses: torch's pipelines would ignore what a subclass changes."""
        super().__init_subclass__(**kwargs)
        cls.pipelined = cls.__dict__.get("pipelined", False)

    def __init__(self, net: NetworkInfo, options: Any) -> None:
        super().__init__()
        if self.needs:
            named = {net.name(k): block for k, block in enumerate(net.blocks)}
            require(re.sub("(?<=[A-Z])(?=[A-Z][a-z])", "-", type(self).__name__).lower(), self.needs, options, named, net.items)
        self.num_blocks = len(net.blocks)
        self.output_block = self.num_blocks - 1
        self.num_probe_points = self.num_blocks
        self.loss, self.terms, self.items = net.loss, net.terms, net.items
        self.seed = net.seed
        self.options = options

    def validate_epochs(self, epochs: int) -> str | None:
        """Check whether this rule can train for a number of epochs.

        Args:
            epochs: of the run; 0: the untrained network.

        Returns:
            one sentence with the reason why it cannot; None if it can.

        """
        return None

    # ---------------------------------------------------------------------------- inputs of the blocks, and forward pass

    @classmethod
    def input_shape(cls, image: tuple[int, ...], options: Any) -> tuple[int, ...]:
        """Return the first block's input shape (C, H, W): that of the image, unless the rule cuts it into patches.

        Args:
            image: (C, H, W) of the images.
            options: an instance of ``Options``.

        Returns:
            by default ``image``.

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
        """Turn the network's input into the first block's: views or patches become rows of the batch.

        Args:
            x: [N, *], from :meth:`make_inputs`.

        Returns:
            [M, *] input of the first block; by default x.

        """
        return x

    def forward(self, blocks: Sequence[nn.Module], x: Tensor, y: Tensor) -> Iterator[Pass]:
        """Run one step's forward passes, first block to last: by default the plain chain up to the output block.

        If blocks are spread over several ranks, each rank runs the chain of its own blocks instead.

        Args:
            blocks: the network's blocks, first to last.
            x, y: [N, *] and [N, *], from :meth:`make_inputs`.

        Yields:
            each block's pass, lazily: a block runs when its pass is requested.

        """
        return chain(blocks[: self.output_block + 1], self.prepare_input(x), y, self.run_block)

    def run_block(self, block: nn.Module, x: Tensor, *earlier: Tensor) -> Tensor:
        """Compute one block's output, for rules that change what happens inside a block.

        Args:
            block: the module.
            x: [N, *in] its input.
            earlier: outputs of other earlier blocks, if it reads some (``reads_blocks``).

        Returns:
            [N, *out] its output, with its graph.

        """
        h: Tensor = block(x, *earlier)
        return h

    def backward_context(self) -> AbstractContextManager[None]:
        """Return the context of the rule's own backward passes; the true gradient is computed outside.

        Returns:
            by default one that changes nothing; inside that of feedback rules Wᵀ is replaced in all blocks.

        """
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
        """Return the optimiser's parameter groups.

        Args:
            blocks: the network's blocks, first to last.

        Returns:
            by default one group of all trainable parameters of the blocks and of the rule's own modules; shared parameters once.

        """
        return [{"params": list(dict.fromkeys(p for module in (*blocks, self) for p in module.parameters() if p.requires_grad))}]

    def start(self, epoch: int, step: int) -> None:
        """Prepare a step, for rules that change over time; called before each one.

        Args:
            epoch: counts from 1.
            step: counts from 0 over the whole run.

        """

    # ------------------------------------------------------------------------------------------------ outside training

    def predict(self, blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
        """Compute the network's logits outside training: by default all blocks in turn.

        Args:
            blocks: the network's blocks, first to last.
            x: [N, *], from :meth:`make_inputs`.

        Returns:
            [N, *, C] logits.

        Raises:
            TypeError: a rule without ``classifies``.

        """
        if not self.classifies:
            raise TypeError(f"{type(self).__name__} is trained without labels and predicts no classes")
        for h in outputs(blocks, x):
            x = h
        return x

    def features(self, blocks: Sequence[nn.Module], x: Tensor) -> Iterator[Tensor]:
        """Yield what probes read: the outputs of the first ``num_probe_points`` blocks.

        Args:
            blocks: the network's blocks, first to last.
            x: [N, C, H, W] normalised images.

        Yields:
            each block's output [N, *out].

        """
        yield from outputs(blocks[: self.num_probe_points], x)

    def evaluate_objective(self, blocks: Sequence[nn.Module], x: Tensor, y: Tensor) -> Tensor:
        """Compute the objective in eval mode, for rules without ``classifies``; there is no default.

        Args:
            blocks: the network's blocks, first to last.
            x, y: [N, *] and [N, *], from :meth:`make_inputs`.

        Returns:
            a scalar.

        Raises:
            NotImplementedError: the rule does not define it.

        """
        raise NotImplementedError

    def made(self, blocks: Sequence[nn.Module], x: Tensor) -> Any:
        """Compute the reconstructed images, for rules with ``inpaints``; there is no default.

        Args:
            blocks: the network's blocks, first to last.
            x: [N, *], from :meth:`make_inputs`.

        Returns:
            [N, C, H, W] images.

        Raises:
            NotImplementedError: the rule does not define it.

        """
        raise NotImplementedError

    def kept_head(self, layers: int) -> nn.Module | None:
        """Return the first layers of the last projection head, which ``--keep-head`` keeps below a new output block.

        Args:
            layers: number of layers.

        Returns:
            a module [N, *out] -> [N, features]; None if the head has fewer layers, or there is none (the default).

        """
        return None
