"""Build networks of coordinates, as named blocks: colour and density of points in space (NeRF), colours of an image's pixels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gradlens.models.spec import ModelSpec, numbered
from gradlens.models.volume_rendering import by_weights, intervals, weights
from gradlens.runtime.errors import InputError
from gradlens.runtime.step_context import current_context

POINTS, DIRECTIONS = "points", "directions"  # names in the context of what layers beyond the first read too: [N, S, 3] and [N, 1, 3]
RAYS, DEPTHS, DRAWS = "rays", "depths", "draws"  # ... of what a fine network reads: origins and directions [N, 6], [N, S], [N, F]
OF_PLACES, OF_DIRECTIONS = 10, 4  # frequencies of the encodings
WIDTH = 128  # of a layer
FIRST_DENSITY = 0.1  # bias of the density at the start
SKIP = 4  # every so many layers the encoded point is read again


class Encoding(nn.Module):
    """γ(v) = [v, sin(2⁰v), cos(2⁰v), …, sin(2^(L−1)v), cos(2^(L−1)v)] of each number, without a factor π: [*, D] -> [*, D (1 + 2L)].

    As in the code of Mildenhall et al. 2020 (arXiv 2003.08934, §5.1).
    """

    def __init__(self, frequencies: int) -> None:
        super().__init__()
        self.frequencies = frequencies

    def forward(self, v: Tensor) -> Tensor:
        """Encode v [*, D]."""
        angles = v[..., None, :] * (2.0 ** torch.arange(self.frequencies, device=v.device, dtype=v.dtype))[:, None]
        waves = torch.stack([angles.sin(), angles.cos()], -2)  # [*, L, 2, D]
        return torch.cat([v, waves.flatten(-3)], -1)


def encoded_size(numbers: int, frequencies: int) -> int:
    """Return how many numbers :class:`Encoding` makes."""
    return numbers * (1 + 2 * frequencies)


class ReadsContext(nn.Module):
    """act(Linear([h, γ(v)])), with v from the step's context: [N, S, width] -> [N, S, out]."""

    def __init__(self, name: str, frequencies: int, width: int, out: int, act: nn.Module) -> None:
        super().__init__()
        self.name = name
        self.encode = Encoding(frequencies)
        self.linear, self.act = nn.Linear(width + encoded_size(3, frequencies), out), act

    def forward(self, h: Tensor) -> Tensor:
        """Map h [N, S, width] to [N, S, out]."""
        v = self.encode(current_context()[self.name].to(h.dtype))
        out: Tensor = self.act(self.linear(torch.cat([h, v.expand(*h.shape[:-1], -1)], -1)))
        return out


class RadianceHead(nn.Module):
    """[rgb, density]: rgb from the block before, the density from the last layer of the trunk; [N, S, *] -> [N, S, 4], both linear.

    The density's bias begins at 0.1. With PyTorch's initialisation, as in the code of Launay et al., a third of all seeds give a density
    that is negative everywhere: then every ray is empty, and no weight has a gradient.
    """

    def __init__(self, colour_width: int, width: int, trunk: int) -> None:
        super().__init__()
        self.rgb, self.alpha = nn.Linear(colour_width, 3), nn.Linear(width, 1)
        nn.init.constant_(self.alpha.bias, FIRST_DENSITY)
        self.reads_blocks = (trunk,)

    def forward(self, d: Tensor, h: Tensor) -> Tensor:
        """Map d [N, S, width/2] and h [N, S, width] to [N, S, 4]."""
        return torch.cat([self.rgb(d), self.alpha(h)], -1)


def _refuse_images_options(spec: ModelSpec, name: str) -> None:
    if spec.stem is not None:
        raise InputError(f"--stem sets the first convolution's kernel and {name} has no convolution")


def _first_layer(spec: ModelSpec, width: int) -> nn.Sequential:
    numbers = spec.shape[-1]
    linear = nn.Linear(encoded_size(numbers, OF_PLACES), width)
    return nn.Sequential(OrderedDict(encode=Encoding(OF_PLACES), linear=linear, act=spec.act()))


def _layer(spec: ModelSpec, width: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(linear=nn.Linear(width, width), act=spec.act()))


def coordinate_mlp(spec: ModelSpec) -> nn.Sequential:
    """``depth`` (2) blocks of Linear(``width`` = 128)–activation on encoded coordinates, then Linear to colour.

    The encoding has ten frequencies.
    """
    _refuse_images_options(spec, "a network of coordinates")
    width = spec.width or WIDTH
    blocks = [_first_layer(spec, width), *(_layer(spec, width) for _ in range((spec.depth or 2) - 1))]
    return numbered(blocks, nn.Sequential(OrderedDict(out=nn.Linear(width, spec.classes))))


def nerf_tiny(spec: ModelSpec) -> nn.Sequential:
    """``depth`` (2) blocks of Linear(``width`` = 128)–activation on encoded points, then Linear to colour and density; no directions.

    25,220 parameters. The density's bias begins at 0.1, see :class:`RadianceHead`.
    """
    model = coordinate_mlp(spec)
    with torch.no_grad():
        model.get_parameter("top.out.bias")[-1] = FIRST_DENSITY
    return model


def nerf(spec: ModelSpec) -> nn.Sequential:
    """``depth`` (4) layers of ``width`` (128), then feature and direction layers; density from the last of them, colour from the top.

    Mildenhall et al. 2020 (arXiv 2003.08934): ``--width 256 --depth 8`` is theirs, in which layer 5 reads the encoded point again; 4 of
    128 is what the checkpoints of Launay et al. 2020 (arXiv 2006.12878) hold, 84,548 parameters.
    """
    _refuse_images_options(spec, "nerf")
    width, depth = spec.width or WIDTH, spec.depth or 4
    if width < 2:
        raise InputError(f"--width {width}: nerf's direction layer has half as many units: set 2 or more")
    trunk: list[nn.Module] = [_first_layer(spec, width)]
    for i in range(1, depth):
        again = i % SKIP == 0 and i < depth - 1
        trunk.append(ReadsContext(POINTS, OF_PLACES, width, width, spec.act()) if again else _layer(spec, width))
    direction = ReadsContext(DIRECTIONS, OF_DIRECTIONS, width, width // 2, spec.act())
    return numbered([*trunk, _layer(spec, width), direction], RadianceHead(width // 2, width, depth - 1))


# --------------------------------------------------------------------------------------------- a coarse and a fine network


def fine_depths(coarse: Tensor) -> Tensor:
    """Choose a fine network's depths by what the coarse one gives: [N, S, 4] -> [N, S + F], its own and F new ones, without gradient."""
    context = current_context()
    depths, directions = context[DEPTHS].to(coarse.dtype), context[RAYS][:, 3:].to(coarse.dtype)
    w = weights(coarse.detach()[..., 3], intervals(depths) * directions.norm(dim=1, keepdim=True))
    return torch.cat([depths, by_weights(depths, w, context[DRAWS].to(coarse.dtype))], 1).sort(1).values


def fine_points(coarse: Tensor) -> Tensor:
    """Return the places [N, S + F, 3] of a fine network's samples."""
    rays = current_context()[RAYS].to(coarse.dtype)
    return rays[:, None, :3] + fine_depths(coarse)[..., None] * rays[:, None, 3:]


class FineFirst(nn.Module):
    """act(Linear(γ(points))), the points chosen by the coarse output [N, S, 4], to which no gradient passes: -> [N, S + F, width]."""

    begins_part = True

    def __init__(self, layer: nn.Sequential) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, coarse: Tensor) -> Tensor:
        """Map the coarse output [N, S, 4] to [N, S + F, width]."""
        out: Tensor = self.layer(fine_points(coarse))
        return out


class ReadsPoints(nn.Module):
    """act(Linear([h, γ(points)])), the points those of the fine network: h [N, S + F, width], coarse [N, S, 4] -> [N, S + F, width]."""

    def __init__(self, width: int, act: nn.Module, coarse: int) -> None:
        super().__init__()
        self.encode, self.act = Encoding(OF_PLACES), act
        self.linear = nn.Linear(width + encoded_size(3, OF_PLACES), width)
        self.reads_blocks = (coarse,)

    def forward(self, h: Tensor, coarse: Tensor) -> Tensor:
        """Map h to [N, S + F, width]."""
        out: Tensor = self.act(self.linear(torch.cat([h, self.encode(fine_points(coarse))], -1)))
        return out


class FineHead(nn.Module):
    """The head of a network, and after its four numbers the length of the interval that begins at each sample: [N, S + F, 5].

    The lengths pass no gradient. They are part of the output since the loss reads nothing else of the fine samples.
    """

    def __init__(self, head: nn.Module, coarse: int, offset: int) -> None:
        super().__init__()
        self.head = head
        self.reads_blocks = (*(k + offset for k in reads_blocks_of(head)), coarse)

    def forward(self, h: Tensor, *read: Tensor) -> Tensor:
        """Map h [N, S + F, *], what the head reads, and the coarse output [N, S, 4] to [N, S + F, 5]."""
        *earlier, coarse = read
        length = current_context()[RAYS][:, 3:].to(coarse.dtype).norm(dim=1, keepdim=True)
        lengths = intervals(fine_depths(coarse)) * length
        return torch.cat([self.head(h, *earlier), lengths[..., None]], -1)


def reads_blocks_of(block: nn.Module) -> tuple[int, ...]:
    """Return the earlier blocks that a block of this module reads."""
    return tuple(getattr(block, "reads_blocks", ()))


def pair_of(build: Callable[[ModelSpec], nn.Sequential], name: str) -> Callable[[ModelSpec], nn.Sequential]:
    """Return the builder of two networks of one kind: a coarse one, and a fine one that samples where the coarse one found something."""

    def made(spec: ModelSpec) -> nn.Sequential:
        coarse, fine = list(build(spec)), list(build(spec))
        end = len(coarse) - 1
        blocks: OrderedDict[str, nn.Module] = OrderedDict((f"coarse{i}", block) for i, block in enumerate(coarse, 1))
        for i, block in enumerate(fine[:-1], 1):
            if i == 1:
                assert isinstance(block, nn.Sequential)
                block = FineFirst(block)
            elif isinstance(block, ReadsContext) and block.name == POINTS:
                block = ReadsPoints(spec.width or WIDTH, block.act, end)
            blocks[f"fine{i}"] = block
        blocks["top"] = FineHead(fine[-1], end, end + 1)
        return nn.Sequential(blocks)

    made.__doc__ = (
        f"A coarse {name} and a fine one, which also samples each ray at ``views.fine`` (128) depths where the coarse one is dense."
    )
    return made


RADIANCE_FIELDS: dict[str, Callable[[ModelSpec], nn.Sequential]] = {"nerf-tiny": nerf_tiny, "nerf": nerf}
PAIRS = {f"{name}-pair": pair_of(build, name) for name, build in RADIANCE_FIELDS.items()}
RADIANCE_FIELDS |= PAIRS
