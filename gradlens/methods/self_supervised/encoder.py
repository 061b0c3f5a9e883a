"""Rules that learn from images alone: what they share. A rule says what becomes of an image, which loss is descended, and by which blocks.

The network's own top is neither run nor trained: the encoder is all blocks below it, and the objective is read off a head of the rule's
own. "True" is the end-to-end gradient of the loss at the topmost of these heads, whose value was computed once: neither negatives nor
masks are drawn again for it. A rule of one window is end-to-end; the same loss in smaller windows is its local twin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from gradlens.gradients.block_pass import Pass
from gradlens.gradients.method import Method, Signal, Update
from gradlens.gradients.network_info import NetworkInfo
from gradlens.methods.local.windows import InWindows, Local, LossWindows, Slopes, Window, differentiated, split
from gradlens.runtime.errors import InputError
from gradlens.runtime.rng import seeded


def modules_of(net: NetworkInfo, modules: int | Sequence[int] | None) -> list[Window]:
    """The encoder's blocks in disjoint modules: so many, or of these sizes; None: every block by itself."""
    units = len(net.blocks) - 1
    return split([1] * units if modules is None else modules, net, with_top=False, option="modules")


class PretextTask:
    """What a rule makes of an image, the head at the end of a window and its loss: the same for a rule and its local twins.

    A rule makes one before its heads. It holds no parameters and nothing that a checkpoint would have to keep; what it draws is
    named by (seed, purpose, step).
    """

    name: ClassVar[str] = "loss"  # in a word, for the rows
    inpaints: ClassVar[bool] = False  # as :attr:`Method.inpaints`

    def __init__(self, net: NetworkInfo, options: Any) -> None:
        self.seed = net.seed
        self.options = options
        self.step = 0  # names the draws of a step

    @classmethod
    def input_shape(cls, image: tuple[int, int, int], options: Any) -> tuple[int, int, int]:
        """(C, H, W) of what the first block reads, for images of shape ``image``."""
        return image

    def make_inputs(self, images: Tensor, labels: Tensor, step: int, to_input: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """As :meth:`Method.make_inputs`."""
        return to_input(images), labels

    def prepare_input(self, x: Tensor) -> Tensor:
        """As :meth:`Method.prepare_input`."""
        return x

    def make_head(self, k: int, net: NetworkInfo) -> nn.Module:
        """What reads block k's output [N, *shape] at the end of a window."""
        raise NotImplementedError

    def loss(self, k: int, head: nn.Module, z: Tensor, y: Tensor) -> Tensor:
        """The loss at block k, a scalar with its graph: z [N, *out] is the block's output, y [N, *] the targets."""
        raise NotImplementedError

    def differentiate(self, k: int, head: nn.Module, z: Tensor, y: Tensor) -> Slopes:
        """The loss with its gradients, with respect to the leaf ``z`` and to the head's parameters."""
        return differentiated(Local(self.loss(k, head, z, y)), z, head, k)

    def evaluate(self, k: int, head: nn.Module, z: Tensor, y: Tensor) -> Tensor:
        """The objective outside training: a scalar."""
        return self.loss(k, head, z, y)

    def features(self, h: Tensor) -> Tensor:
        """A block's output as a probe reads it, a row an image."""
        return h

    def probe_input(self, x: Tensor) -> Tensor:
        """What the first block reads of plain images [N, C, H, W], in the network's normalisation, where a probe reads the blocks."""
        return x

    def kept_head(self, head: nn.Module, layers: int) -> nn.Module | None:
        """As :meth:`Method.kept_head`, of the head at the end of the encoder."""
        return None

    def quantities(self, update: Update) -> Mapping[str, Tensor]:
        """As :meth:`Method.quantities`."""
        return {}

    def is_adversary(self, name: str) -> bool:
        """Whether a parameter of a head, by its dotted name, descends a loss of its own, at the rate of option ``discriminator_lr``."""
        return False


class SelfSupervised(InWindows, Method):
    """delta_k = Σ over the windows w that hold block k of d l_w/d h_k, l_w without labels; the top is not trained."""

    Pretext: ClassVar[type[PretextTask]] = PretextTask
    depends_on = frozenset({"input"})
    classifies = False
    unlabelled = True
    local: ClassVar[bool] = False  # True: trained in modules of blocks (option ``modules``), each with a head and a loss of its own

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """A rule inpaints where its pretext task does."""
        super().__init_subclass__(**kwargs)
        cls.inpaints = cls.Pretext.inpaints

    def __init__(self, net: NetworkInfo, options: Any) -> None:
        if len(net.blocks) < 2:
            raise InputError("a rule without labels needs a block below the top: this network has none")
        super().__init__(net, options)
        self.pretext = self.Pretext(net, options)
        self.num_probe_points = self.num_blocks - 1
        self.output_block = self.num_blocks - 2
        self.reach = LossWindows(self.windows(net), self.num_blocks - 1, with_top=False)
        with seeded(net.seed, "heads"):
            self.heads = nn.ModuleDict({str(k): self.pretext.make_head(k, net) for k in sorted(self.reach.first)})

    def windows(self, net: NetworkInfo) -> Sequence[Window]:
        """The modules, or one window from end to end."""
        return modules_of(net, self.options.modules) if self.local else [Window(0, len(net.blocks) - 2)]

    def signal(self, k: int, passes: Mapping[int, Pass], received: tuple[Tensor, ...]) -> Signal:
        """The sum of the windows' gradients at block k, and the partial sums for the block below."""
        if str(k) not in self.heads:
            return self.reach.signal(k, None, received, Signal(None))
        found = self.pretext.differentiate(k, self.heads[str(k)], passes[k].z, passes[k].y)
        said = Signal(None, aux_grads=found.aux_grads, saved=found.saved, loss=found.loss)
        return self.reach.signal(k, found.slope, received, said)

    # ------------------------------------------------------------------------------------------------------ the pretext task

    @property
    def objective(self) -> str:
        """The objective at the end of the encoder."""
        return f"{self.pretext.name} at the top of the encoder"

    @classmethod
    def input_shape(cls, image: tuple[int, int, int], options: Any) -> tuple[int, int, int]:
        """As the pretext task cuts images up."""
        return cls.Pretext.input_shape(image, options)

    def start(self, epoch: int, step: int) -> None:
        """Draws inside a step are named by it."""
        self.pretext.step = step

    def make_inputs(self, images: Tensor, labels: Tensor, step: int, to_input: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Views, patches or corrupted images, as the pretext task says."""
        return self.pretext.make_inputs(images, labels, step, to_input)

    def prepare_input(self, x: Tensor) -> Tensor:
        """What the first block reads of them."""
        return self.pretext.prepare_input(x)

    def features(self, blocks: Sequence[nn.Module], x: Tensor) -> Iterator[Tensor]:
        """The outputs [N, *out] of the encoder's blocks, of plain images x [N, C, H, W]."""
        for h in super().features(blocks, self.pretext.probe_input(x)):
            yield self.pretext.features(h)

    def encode(self, blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
        """The output [N, *out] of the encoder on what :meth:`make_inputs` gave."""
        h = self.prepare_input(x)
        for block in blocks[: self.output_block + 1]:
            h = block(h)
        return h

    def made(self, blocks: Sequence[nn.Module], x: Tensor) -> Any:
        """What the head at the end of the encoder makes of what :meth:`make_inputs` gave: of a context encoder the image [N, C, H, W]."""
        return self.heads[str(self.output_block)](self.encode(blocks, x))

    def evaluate_objective(self, blocks: Sequence[nn.Module], x: Tensor, y: Tensor) -> Tensor:
        """The loss at the end of the encoder."""
        return self.pretext.evaluate(self.output_block, self.heads[str(self.output_block)], self.encode(blocks, x), y)

    def kept_head(self, layers: int) -> nn.Module | None:
        """Of the head at the end of the encoder."""
        return self.pretext.kept_head(self.heads[str(self.output_block)], layers)

    def quantities(self, update: Update) -> Mapping[str, Tensor]:
        """Of the pretext task."""
        return self.pretext.quantities(update)

    def of_objective(self, name: str) -> bool:
        """The discriminator's gradient is of its own loss; that its step changes the decoder's loss too is not predicted."""
        return not self.pretext.is_adversary(name)

    def param_groups(self, blocks: Sequence[nn.Module]) -> list[dict[str, Any]]:
        """The discriminators in a group of their own, at their own learning rate."""
        theirs = {p for name, p in self.named_parameters() if self.pretext.is_adversary(name)}
        (group,) = super().param_groups(blocks)
        groups: list[dict[str, Any]] = [{"params": [p for p in group["params"] if p not in theirs]}]
        if theirs:
            mine = [p for p in group["params"] if p in theirs]
            groups.append({"params": mine, "lr": self.options.discriminator_lr})
        return groups


def stacked(x: Tensor, of_each: int) -> Tensor:
    """[N V, *] -> [N, V, *]: what belongs to one image in one row, so that a part of a batch is a part of its images."""
    return x.view(-1, of_each, *x.shape[1:])
