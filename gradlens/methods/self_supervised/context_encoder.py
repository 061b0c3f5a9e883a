"""Train context encoders: reconstruct a part of the image that is missing from the network's input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BaseModel, Field
from torch import Tensor, nn

from gradlens.gradients.block_pass import trainable
from gradlens.gradients.method import Update
from gradlens.gradients.network_info import NetworkInfo
from gradlens.methods.local.windows import Slopes
from gradlens.methods.self_supervised.encoder import PretextTask, SelfSupervised
from gradlens.models.decoders import context_decoder, discriminator
from gradlens.runtime.batch_shard import all_reduce_sum, draw_sharded, global_count, sharded_mean
from gradlens.runtime.errors import InputError
from gradlens.runtime.rng import generator

MEAN_COLOUR = (117.0, 104.0, 123.0)  # fill of dropped pixels, in 0 … 255 (the authors' code)
GREY = 0.299 * MEAN_COLOUR[0] + 0.587 * MEAN_COLOUR[1] + 0.114 * MEAN_COLOUR[2]  # ... in images that are not RGB: its luma
BORDER = 10.0  # weight of context pixels that are predicted too; dropped ones have 1


class ContextOptions(BaseModel, frozen=True, extra="forbid"):
    """Options of context-encoder."""

    corrupt: Literal["centre", "random", "none", "noise"] = Field(
        "centre", description="drop the centre, or random shapes; controls: none (autoencoder), noise (denoising autoencoder)"
    )
    size: float = Field(
        0.5, allow_inf_nan=False, description="side of the dropped centre, relative to the image's; random shapes cover as many pixels"
    )
    cells: int = Field(6, ge=1, description="random shapes: the fewer, the larger and rounder they are")
    noise: float = Field(
        0.2, gt=0, allow_inf_nan=False, description="standard deviation of the noise (corrupt=noise), as a share of the grey scale"
    )
    overlap: int = Field(0, ge=0, description="width in pixels of the predicted border around dropped pixels, with 10 times their weight")
    lambda_rec: float = Field(0.999, ge=0, allow_inf_nan=False, description="weight of the squared error")
    lambda_adv: float = Field(0.001, ge=0, allow_inf_nan=False, description="weight of the adversarial loss; 0: no discriminator is made")
    discriminator_lr: float = Field(2e-4, ge=0, allow_inf_nan=False, description="learning rate of the discriminator")
    discriminator_width: int = Field(64, ge=1, description="channels of the discriminator's first layer")


class LocalContextOptions(ContextOptions, frozen=True):
    """Options of context-encoder-local."""

    modules: int | list[int] | None = Field(None, description="parts of the encoder, or their sizes in blocks; default: each block")


class ContextSignal(NamedTuple):
    """One step's quantities of a decoder and its discriminator; scalars without graph, each rank's share of a global mean."""

    reconstruction: Tensor
    discriminator_loss: Tensor | None = None
    real: Tensor | None = None
    fake: Tensor | None = None


class ContextHead(nn.Module):
    """The decoder of a block's output and, for an adversarial loss, the discriminator of its images."""

    def __init__(self, decoder: nn.Module, discriminator: nn.Module | None) -> None:
        super().__init__()
        self.decoder = decoder
        self.discriminator = discriminator

    def forward(self, h: Tensor) -> Tensor:
        """Map activations [N, *shape] to images [N, C, H, W]."""
        image: Tensor = self.decoder(h)
        return image


def shapes_of(n: int, size: tuple[int, int], pixels: int, cells: int, rng: torch.Generator) -> Tensor:
    """Draw random shapes [n, 1, H, W] of 0 and 1 that cover exactly ``pixels`` pixels, another for each image.

    They are the lowest values of uniform noise of cells × cells, enlarged bicubically, as in the authors' random-region code, which
    uses one shape for all images of a batch and draws until it covers 20 to 30 %.
    """
    noise = draw_sharded(n, lambda m: torch.rand(m, 1, cells, cells, generator=rng))
    fine = F.interpolate(noise, size, mode="bicubic", align_corners=False).flatten(1)
    return torch.zeros_like(fine).scatter_(1, fine.argsort(dim=1, stable=True)[:, :pixels], 1.0).view(n, 1, *size)


QUANTITIES = {
    "reconstruction": "mean squared error on the dropped pixels, in the units of the network's input",
    "discriminator_loss": "-log A(real) - log(1 - A(generated)), mean over images, in nats",
    "real": "the discriminator's mean probability that real regions are real",
    "fake": "the discriminator's mean probability that generated regions are real",
}


class Inpainting(PretextTask):
    """Drop a part of each image; a decoder reconstructs the image from a block's output, the loss is on the dropped part.

    With an adversarial loss a discriminator's input is that part only, and neither loss has a gradient with respect to the other's network.
    """

    name = "inpainting loss"
    inpaints = True

    def __init__(self, net: NetworkInfo, options: Any) -> None:
        super().__init__(net, options)
        height, width = net.image[1:]
        self.size = (height, width)
        sides = round(options.size * height), round(options.size * width)
        if options.corrupt in ("centre", "random"):
            _must_leave_something(sides, self.size, options.size)
        self.dropped = sides
        top, left = (height - sides[0]) // 2, (width - sides[1]) // 2
        self.hole = slice(top, top + sides[0]), slice(left, left + sides[1])
        o = options.overlap
        self.seen = (slice(None), slice(None))  # rows and columns of the discriminator's input
        if options.corrupt == "centre":
            ends = [(max(0, s.start - o), min(side, s.stop + o)) for s, side in zip(self.hole, self.size, strict=True)]
            self.seen = slice(*ends[0]), slice(*ends[1])
        if not options.lambda_rec and not options.lambda_adv:
            raise InputError("context-encoder has no loss: lambda_rec and lambda_adv are both 0; set one of them")

    def make_head(self, k: int, net: NetworkInfo) -> nn.Module:
        """Build a decoder, and a discriminator if ``lambda_adv`` is not 0."""
        o = self.options
        decoder = context_decoder(net.shapes[k], net.image)
        if not o.lambda_adv:
            return ContextHead(decoder, None)
        region = (net.image[0], *(len(range(side)[part]) for part, side in zip(self.seen, self.size, strict=True)))
        if min(region[1:]) < 2:
            raise InputError(f"a discriminator needs a region of 2x2 pixels or more; size={o.size:g} leaves it {region[1]}x{region[2]}")
        return ContextHead(decoder, discriminator(region, o.discriminator_width))

    def mask(self, n: int, step: int) -> Tensor:
        """Make masks [n, 1, H, W] float, 1 where pixels are dropped (everywhere in the controls); random ones keyed by (seed, step)."""
        if self.options.corrupt == "random":
            pixels = self.dropped[0] * self.dropped[1]
            return shapes_of(n, self.size, pixels, self.options.cells, generator(self.seed, "mask", step))
        mask = torch.zeros(n, 1, *self.size)
        rows, columns = self.hole if self.options.corrupt == "centre" else self.seen
        mask[:, :, rows, columns] = 1
        return mask

    def make_inputs(self, images: Tensor, labels: Tensor, step: int, to_input: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Return corrupted images x [N, C, H, W] and y [N, C + 1, H, W], the original images and the mask; labels are not used."""
        mask = self.mask(len(images), step).to(images.device)
        pixels = images.float()
        if self.options.corrupt == "noise":
            rng = generator(self.seed, "noise", step)
            noise = draw_sharded(len(images), lambda n: torch.randn(n, *images.shape[1:], generator=rng)).to(images.device)
            pixels = (pixels + 255 * self.options.noise * noise).clamp(0, 255)
        elif self.options.corrupt != "none":
            c = images.shape[1]
            fill = torch.tensor(MEAN_COLOUR if c == 3 else (GREY,) * c, device=images.device).view(1, c, 1, 1)
            pixels = torch.where(mask > 0, fill, pixels)
        clean = to_input(images)
        return to_input(pixels), torch.cat([clean, mask.to(clean.dtype)], 1)

    def predicted(self, y: Tensor) -> Tensor:
        """Return R [N, 1, H, W], 0 or 1: the mask with its border."""
        mask, o = y[:, -1:], self.options.overlap
        return F.max_pool2d(mask, 2 * o + 1, 1, o) if o else mask

    def reconstruction(self, image: Tensor, y: Tensor) -> Tensor:
        """Compute the weighted squared error, a scalar, of generated images [N, C, H, W], given y from :meth:`make_inputs`."""
        mask, region = y[:, -1:], self.predicted(y)
        weight = mask + BORDER * (region - mask)
        return _mean_over(weight * (image.to(y.dtype) - y[:, :-1]).square(), region)

    def region(self, image: Tensor, y: Tensor) -> Tensor:
        """Return the discriminator's input from images [N, C, H, W]: R, cut out if it is a rectangle, else with zeros around it."""
        rows, columns = self.seen
        return (image * self.predicted(y).to(image.dtype))[:, :, rows, columns]

    def loss(self, k: int, head: nn.Module, z: Tensor, y: Tensor) -> Tensor:
        """Compute the decoder's loss, with the graph through the discriminator."""
        assert isinstance(head, ContextHead)
        o, image = self.options, head(z)
        loss: Tensor = o.lambda_rec * self.reconstruction(image, y)
        if head.discriminator is not None:
            loss = loss + o.lambda_adv * _bce(head.discriminator(self.region(image, y)), 1.0)
        return loss

    def differentiate(self, k: int, head: nn.Module, z: Tensor, y: Tensor) -> Slopes:
        """Differentiate with a cut at the generated image, so that neither network gets a gradient of the other's loss."""
        assert isinstance(head, ContextHead)
        o, prefix = self.options, f"heads.{k}"
        graph = head(z)
        made = graph.detach().requires_grad_()
        loss = o.lambda_rec * self.reconstruction(made, y)
        aux_grads: dict[str, Tensor] = {}
        error = _mean_over((made.detach().to(y.dtype) - y[:, :-1]).square() * y[:, -1:], y[:, -1:])
        values = ContextSignal(error)
        if head.discriminator is not None:
            real, fake = (head.discriminator(self.region(image, y)) for image in (y[:, :-1], made))
            theirs = _bce(real, 1.0) + _bce(fake, 0.0)
            params = trainable(head.discriminator, f"{prefix}.discriminator")
            aux_grads |= zip(params, torch.autograd.grad(theirs, list(params.values()), retain_graph=True), strict=True)
            loss = loss + o.lambda_adv * _bce(fake, 1.0)
            values = ContextSignal(error, theirs.detach(), sharded_mean(real.detach().sigmoid()), sharded_mean(fake.detach().sigmoid()))
        (wanted,) = torch.autograd.grad(loss, made)
        params = trainable(head.decoder, f"{prefix}.decoder")
        slope, *grads = torch.autograd.grad(graph, [z, *params.values()], wanted)
        aux_grads |= zip(params, grads, strict=True)
        return Slopes(loss.detach(), slope, aux_grads, saved=values)

    def evaluate(self, k: int, head: nn.Module, z: Tensor, y: Tensor) -> Tensor:
        """Compute the weighted squared error at the end of the encoder, without lambda_rec and without the adversarial loss."""
        image: Tensor = head(z)
        return self.reconstruction(image, y)

    def is_adversary(self, name: str) -> bool:
        """Return whether a parameter belongs to a discriminator."""
        return ".discriminator." in name

    def quantities(self, update: Update) -> Mapping[str, Tensor]:
        """Return the reconstruction error, and the discriminator's loss and mean outputs."""
        values: ContextSignal | None = update.signal.saved
        return {} if values is None else {name: all_reduce_sum(value) for name, value in values._asdict().items() if value is not None}


class ContextEncoder(SelfSupervised):
    """delta_K = d [lambda_rec · mean_R w (D(h_K) − x)² − lambda_adv · log A(D(h_K))] / d h_K, delta_k = (dh_{k+1}/dh_k)ᵀ delta_{k+1}.

    Pathak et al. 2016 (arXiv 1604.07379). The input is x without a region M (filled with the mean colour); a decoder D generates an
    image from the output of the encoder's last block K. The loss covers R only: M and ``overlap`` pixels around it, with w = 10, not 1.
    The discriminator A has R only as input and descends −log A(x) − log(1 − A(D(h_K))) on the same weights and the same generated images;
    neither loss has a gradient with respect to the other's network.

    The squared error is a mean over the pixels and channels of R (border pixels count 10 times in the numerator, once in the denominator),
    then over images, as in the authors' code; their equation has the sum, with which lambda_rec would depend on the region's size.
    """

    summary = "reconstruct a missing part of the image"
    other_names = ("inpainting", "inpaint")
    Options: ClassVar[type[BaseModel]] = ContextOptions
    Pretext = Inpainting
    depends_on = frozenset({"input", "backward_message"})
    method_quantities: ClassVar[Mapping[str, str]] = QUANTITIES


class ContextEncoderLocal(SelfSupervised):
    """delta_k = d l_m/d h_k inside each module m of blocks, l_m the loss of context-encoder with m's own decoder and discriminator.

    The loss is that of Pathak et al. 2016 (arXiv 1604.07379), the gradient-isolated modules are those of Löwe, O'Connor & Veeling 2019
    (arXiv 1905.11786): a module sends no backward message.
    """

    summary = "context-encoder, a local loss per module"
    other_names = ("local context encoder",)
    Options: ClassVar[type[BaseModel]] = LocalContextOptions
    Pretext = Inpainting
    method_quantities: ClassVar[Mapping[str, str]] = QUANTITIES
    local = True


def _must_leave_something(sides: tuple[int, int], image: tuple[int, int], share: float) -> None:
    """Reject a mask of all or of no pixels."""
    mask = f"size={share:g} drops {max(0, sides[0])}x{max(0, sides[1])} of {image[0]}x{image[1]} pixels"
    if min(sides) < 1:
        raise InputError(f"{mask}: no pixel is left to predict; set a larger size")
    if all(side >= most for side, most in zip(sides, image, strict=True)):
        raise InputError(f"{mask}: no context is left to predict them from; set a smaller size")


def _mean_over(error: Tensor, region: Tensor) -> Tensor:
    """Sum errors [N, C, H, W] over each image, divide by its region's [N, 1, H, W] pixels times channels, average over images."""
    each = error.sum((1, 2, 3)) / (error.shape[1] * region.sum((1, 2, 3)))
    return each.sum() / global_count(len(each))


def _bce(logits: Tensor, real: float) -> Tensor:
    """Average over the global batch −log σ(logits) if ``real`` is 1, −log (1 − σ(logits)) if it is 0."""
    wide = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    return sharded_mean(F.binary_cross_entropy_with_logits(wide, torch.full_like(wide, real), reduction="none"))
