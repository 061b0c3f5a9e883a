"""Share what rules without labels have in common. A rule defines the transform of an image, the loss, and the blocks that it trains.

The network's output block is neither run nor trained: the encoder is all blocks before it, and the objective is the loss of an auxiliary
head. "True" is the end-to-end gradient of the loss at the last of these heads, whose value was computed once: neither negatives nor
masks are drawn again for it. A rule of one window is end-to-end; the same loss in smaller windows is its local variant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from gradlens.gradients.block_pass import Pass, outputs
from gradlens.gradients.method import Method, Signal, Update
from gradlens.gradients.network_info import NetworkInfo
from gradlens.methods.local.windows import InWindows, Local, LossWindows, Slopes, Window, differentiated, split
from gradlens.runtime.errors import InputError
from gradlens.runtime.rng import seeded


def modules_of(net: NetworkInfo, modules: int | Sequence[int] | None) -> list[Window]:
    """Split the encoder's blocks into disjoint modules: a number of them, or their sizes; None: every block is one."""
    units = len(net.blocks) - 1
    return split([1] * units if modules is None else modules, net, with_top=False, option="modules")


class PretextTask:
    """The transform of an image, the head at the end of a window and its loss: the same for a rule and its local variants.

    A rule creates one before its heads. It has no parameters and no state for a checkpoint; its random draws are
    keyed by (seed, purpose, step).
    """

    name: ClassVar[str] = "loss"  # name of the loss, for the rows
    inpaints: ClassVar[bool] = False  # as :attr:`Method.inpaints`

    def __init__(self, net: NetworkInfo, options: Any) -> None:
        self.seed = net.seed
        self.options = options
        self.step = 0  # keys the draws of a step

    @classmethod
    def input_shape(cls, image: tuple[int, ...], options: Any) -> tuple[int, ...]:
        """Return the first block's input shape (C, H, W), for images of shape ``image``."""
        return image

    def make_inputs(self, images: Tensor, labels: Tensor, step: int, to_input: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Turn a step's images and labels into the network's input and its targets, as :meth:`Method.make_inputs`."""
        return to_input(images), labels

    def prepare_input(self, x: Tensor) -> Tensor:
        """Turn the network's input into the first block's, as :meth:`Method.prepare_input`."""
        return x

    def make_head(self, k: int, net: NetworkInfo) -> nn.Module:
        """Build the head on block k's output [N, *shape] at the end of a window."""
        raise NotImplementedError

    def loss(self, k: int, head: nn.Module, z: Tensor, y: Tensor) -> Tensor:
        """Compute the loss at block k, a scalar with its graph: z [N, *out] is the block's output, y [N, *] the targets."""
        raise NotImplementedError

    def differentiate(self, k: int, head: nn.Module, z: Tensor, y: Tensor) -> Slopes:
        """Compute the loss and its gradients with respect to the leaf ``z`` and the head's parameters."""
        return differentiated(Local(self.loss(k, head, z, y)), z, head, k)

    def evaluate(self, k: int, head: nn.Module, z: Tensor, y: Tensor) -> Tensor:
        """Compute the objective outside training: a scalar."""
        return self.loss(k, head, z, y)

    def features(self, h: Tensor) -> Tensor:
        """Convert a block's output to a probe's input, a row per image."""
        return h

    def probe_input(self, x: Tensor) -> Tensor:
        """Convert normalised images [N, C, H, W] to the first block's input, for probes."""
        return x

    def kept_head(self, head: nn.Module, layers: int) -> nn.Module | None:
        """Return the first layers of the head at the end of the encoder, as :meth:`Method.kept_head`."""
        return None

    def quantities(self, update: Update) -> Mapping[str, Tensor]:
        """Compute the task's own numbers to record for one block, as :meth:`Recorded.quantities`."""
        return {}

    def is_adversary(self, name: str) -> bool:
        """Return whether a head's parameter has its own loss and learning rate (option ``discriminator_lr``), by its dotted name."""
        return False


class SelfSupervised(InWindows, Method):
    """delta_k = Σ over the windows w that hold block k of d l_w/d h_k, l_w without labels; the output block is not trained."""

    Pretext: ClassVar[type[PretextTask]] = PretextTask
    images_only = "it learns from images without labels"
    depends_on = frozenset({"input"})
    classifies = False
    unlabelled = True
    local: ClassVar[bool] = False  # True: trained in modules of blocks (option ``modules``), each with its own head and loss

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Set ``inpaints`` as in the pretext task."""
        super().__init_subclass__(**kwargs)
        cls.inpaints = cls.Pretext.inpaints

    def __init__(self, net: NetworkInfo, options: Any) -> None:
        if len(net.blocks) < 2:
            raise InputError("a rule without labels needs 2 or more blocks: this network has 1")
        super().__init__(net, options)
        self.pretext = self.Pretext(net, options)
        self.num_probe_points = self.num_blocks - 1
        self.output_block = self.num_blocks - 2
        self.reach = LossWindows(self.windows(net), self.num_blocks - 1, with_top=False)
        with seeded(net.seed, "heads"):
            self.heads = nn.ModuleDict({str(k): self.pretext.make_head(k, net) for k in sorted(self.reach.first)})

    def windows(self, net: NetworkInfo) -> Sequence[Window]:
        """Return the modules, or one window over the whole encoder."""
        return modules_of(net, self.options.modules) if self.local else [Window(0, len(net.blocks) - 2)]

    def signal(self, k: int, passes: Mapping[int, Pass], received: tuple[Tensor, ...]) -> Signal:
        """Compute the sum of the windows' gradients at block k, and the partial sums for block k−1."""
        if str(k) not in self.heads:
            return self.reach.signal(k, None, received, Signal(None))
        found = self.pretext.differentiate(k, self.heads[str(k)], passes[k].z, passes[k].y)
        signal = Signal(None, aux_grads=found.aux_grads, saved=found.saved, loss=found.loss)
        return self.reach.signal(k, found.slope, received, signal)

    # ------------------------------------------------------------------------------------------------------ the pretext task

    @property
    def objective(self) -> str:
        """Name the objective at the end of the encoder."""
        return f"{self.pretext.name} at the top of the encoder"

    @classmethod
    def input_shape(cls, image: tuple[int, ...], options: Any) -> tuple[int, ...]:
        """Return the shape from the pretext task."""
        return cls.Pretext.input_shape(image, options)

    def start(self, epoch: int, step: int) -> None:
        """Set the step that keys random draws."""
        self.pretext.step = step

    def make_inputs(self, images: Tensor, labels: Tensor, step: int, to_input: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Return views, patches or corrupted images from the pretext task."""
        return self.pretext.make_inputs(images, labels, step, to_input)

    def prepare_input(self, x: Tensor) -> Tensor:
        """Convert them to the first block's input."""
        return self.pretext.prepare_input(x)

    def features(self, blocks: Sequence[nn.Module], x: Tensor) -> Iterator[Tensor]:
        """Yield the outputs [N, *out] of the encoder's blocks on images x [N, C, H, W]."""
        for h in super().features(blocks, self.pretext.probe_input(x)):
            yield self.pretext.features(h)

    def encode(self, blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
        """Compute the output [N, *out] of the encoder from the x of :meth:`make_inputs`."""
        h = self.prepare_input(x)
        for out in outputs(blocks[: self.output_block + 1], h):
            h = out
        return h

    def made(self, blocks: Sequence[nn.Module], x: Tensor) -> Any:
        """Compute the output of the head at the end of the encoder: for a context encoder the images [N, C, H, W]."""
        return self.heads[str(self.output_block)](self.encode(blocks, x))

    def evaluate_objective(self, blocks: Sequence[nn.Module], x: Tensor, y: Tensor) -> Tensor:
        """Compute the loss at the end of the encoder."""
        return self.pretext.evaluate(self.output_block, self.heads[str(self.output_block)], self.encode(blocks, x), y)

    def kept_head(self, layers: int) -> nn.Module | None:
        """Return the first layers of the head at the end of the encoder."""
        return self.pretext.kept_head(self.heads[str(self.output_block)], layers)

    def quantities(self, update: Update) -> Mapping[str, Tensor]:
        """Return the pretext task's quantities."""
        return self.pretext.quantities(update)

    def of_objective(self, name: str) -> bool:
        """Return False for a discriminator's gradient, which is of its own loss; its effect on the decoder's loss is not predicted."""
        return not self.pretext.is_adversary(name)

    def param_groups(self, blocks: Sequence[nn.Module]) -> list[dict[str, Any]]:
        """Put the discriminators into their own group, with their own learning rate."""
        theirs = {p for name, p in self.named_parameters() if self.pretext.is_adversary(name)}
        (group,) = super().param_groups(blocks)
        groups: list[dict[str, Any]] = [{"params": [p for p in group["params"] if p not in theirs]}]
        if theirs:
            mine = [p for p in group["params"] if p in theirs]
            groups.append({"params": mine, "lr": self.options.discriminator_lr})
        return groups


def stacked(x: Tensor, of_each: int) -> Tensor:
    """Reshape [N V, *] to [N, V, *]: one row per image, so that a slice of the batch is a slice of the images."""
    return x.view(-1, of_each, *x.shape[1:])
