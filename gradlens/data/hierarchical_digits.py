"""Generate digits level by level, and return all intermediate draws.

After Malach & Shalev-Shwartz, A Provably Correct Algorithm for Deep Learning that Actually Works (2018, arXiv:1803.09522).
A digit becomes a 3×3 grid of strokes, each stroke a 3×3 grid of parts, each part 3×3 pixels: 1×1 -> 3×3 -> 9×9 -> 27×27. What a cell
becomes depends on its class alone: one of the class's templates, each equally likely, drawn anew for every cell (the paper's D_c).
The paper's figure shows seven-segment digits with kinks, rings and distractors; classes and templates here are ours:

- a digit is the seven-segment one or a variant of it (an open 9, a 7 with a hook, a 1 in the middle column, …);
- a stroke is horizontal, vertical, one of four corners or two tees, each in two kinked or bevelled forms;
- a part is horizontal, vertical or a joint.

Blank has one template; what varies in it are noise and distractors. A distractor is a `plus` in a cell that was blank, with a fixed
probability, among the strokes (of the label's grid) and among the parts. It depends on no label. Pixels are 0.05 or 0.9, plus
Gaussian noise.

The templates of a level, all classes together and ``plus`` left out, are affinely independent: the paper's assumption that lets a
linear map take all templates of one class to one point and keep the classes apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gradlens.runtime.errors import InputError
from gradlens.runtime.rng import generator

SIZE = 3  # a cell becomes SIZE x SIZE cells
DARK, LIT = 0.05, 0.9  # values of the two kinds of pixel without noise
NOISE, DISTRACTORS = 0.15, 0.05  # of the data set

Template = tuple[str, str, str]  # three rows of three names of the next level, or of "." (dark) and "#" (lit)


class Level(NamedTuple):
    """Classes of one level and their templates."""

    classes: tuple[str, ...]
    table: Tensor  # [classes, most templates, 3, 3] int64: classes of the next level; 0 and 1 are dark and lit pixels
    counts: Tensor  # [classes] int64: number of templates


def _level(templates: dict[str, list[Template]], below: tuple[str, ...]) -> Level:
    """Convert templates of names to numbers."""
    most = max(map(len, templates.values()))
    table = torch.zeros(len(templates), most, SIZE, SIZE, dtype=torch.int64)
    for c, mine in enumerate(templates.values()):
        for t, rows in enumerate(mine):
            cells = [row.split() if len(row.split()) == SIZE else list(row) for row in rows]
            table[c, t] = torch.tensor([[below.index(cell) for cell in row] for row in cells])
    return Level(tuple(templates), table, torch.tensor([len(mine) for mine in templates.values()]))


# A stroke is named after the edges that it connects: h and v are straight, ne bends from the north to the east, nes is a tee.
_DIGITS: dict[str, list[Template]] = {
    "0": [("es h sw", "v . v", "ne h nw"), (". . .", "es h sw", "ne h nw")],
    "1": [(". . v", ". . v", ". . v"), (". v .", ". v .", ". v .")],
    "2": [("h h sw", "es h nw", "ne h h"), (". h sw", "es h nw", "ne h .")],
    "3": [("h h sw", "h h nsw", "h h nw"), ("h h sw", ". h nsw", "h h nw")],
    "4": [("v . v", "ne h nsw", ". . v"), ("es . v", "ne h nsw", ". . v")],
    "5": [("es h h", "ne h sw", "h h nw"), ("es h .", "ne h sw", ". h nw")],
    "6": [("es h .", "nes h sw", "ne h nw"), ("v . .", "nes h sw", "ne h nw")],
    "7": [("h h sw", ". . v", ". . v"), ("es h sw", ". . v", ". . v")],
    "8": [("es h sw", "nes h nsw", "ne h nw"), ("es h sw", "nes . nsw", "ne h nw")],
    "9": [("es h sw", "ne h nsw", "h h nw"), ("es h sw", "ne h nsw", ". . v")],
}
_STROKES: dict[str, list[Template]] = {
    ".": [(". . .", ". . .", ". . .")],
    "h": [(". . .", "h o h", ". . ."), (". . .", "h . h", ". h .")],
    "v": [(". v .", ". . v", ". v ."), (". v .", "v . .", ". v .")],
    "ne": [(". v o", ". . h", ". . ."), (". o .", ". . o", ". . .")],
    "es": [(". . .", ". h h", ". v ."), (". . .", ". . o", ". o .")],
    "sw": [(". . .", "h . .", ". v ."), (". . .", "h . .", "o v .")],
    "nw": [(". v .", "h h .", ". . ."), (". o .", "o . .", ". . .")],
    "nes": [(". v .", "o . h", ". v ."), (". v o", ". . h", ". v o")],
    "nsw": [(". v .", "o v .", ". v ."), (". v .", "h o .", ". v .")],
    "plus": [(". v .", "h o h", ". v ."), (". v .", "h . h", ". v .")],
}
_PARTS: dict[str, list[Template]] = {
    ".": [("...", "...", "...")],
    "h": [("###", "...", "..."), ("...", "...", "###")],
    "v": [("#..", "#..", "#.."), ("..#", "..#", "..#")],
    "o": [("###", "#.#", "###"), ("###", "###", "###")],
    "plus": [(".#.", "###", ".#."), ("#.#", ".#.", "#.#")],
}

LEVELS: tuple[Level, ...] = (
    _level(_DIGITS, tuple(_STROKES)),
    _level(_STROKES, tuple(_PARTS)),
    _level(_PARTS, (".", "#")),
)
BLANK = 0  # in every level but the first


@dataclass(frozen=True)
class Drawn:
    """Images and all their intermediate draws."""

    labels: Tensor  # [N] int64: the digit
    levels: tuple[Tensor, ...]  # classes [N, 1, 1], [N, 3, 3], [N, 9, 9] int64 by LEVELS, distractors in place
    distracted: tuple[Tensor, ...]  # bool of those shapes: the cell was blank and became a distractor
    templates: tuple[Tensor, ...]  # int64 of those shapes: index of each cell's template among its class's
    lit: Tensor  # [N, 27, 27] bool: the pixels before noise
    pixels: Tensor  # [N, 1, 27, 27] float32 with noise, not clipped: 0.05 and 0.9 without

    def __len__(self) -> int:
        return len(self.labels)

    def content(self, level: int) -> Tensor:
        """Return the classes of a level with distractors replaced by blanks, since they are independent of the label."""
        return self.levels[level].masked_fill(self.distracted[level], BLANK)

    def bytes(self) -> Tensor:
        """Return the images as uint8 [N, 1, 27, 27]: pixels clipped to [0, 1], times 255."""
        return (self.pixels.clamp(0, 1) * 255).round().to(torch.uint8)


def expand(classes: Tensor, templates: Tensor, table: Tensor) -> Tensor:
    """Replace each cell by its chosen 3×3 template: [N, H, W] -> [N, 3 H, 3 W]."""
    n, h, w = classes.shape
    return table[classes, templates].permute(0, 1, 3, 2, 4).reshape(n, SIZE * h, SIZE * w)


def draw(n: int, seed: int = 0, *, noise: float = NOISE, distractors: float = DISTRACTORS, purpose: str = "hierarchical digits") -> Drawn:
    """Draw ``n`` digits with uniform labels. Noise and distractors change no other draw: the same digits with more of either.

    Args:
        n: number of images.
        seed: keys the draws, together with ``purpose``.
        noise: standard deviation of the Gaussian noise on pixels between 0 and 1.
        distractors: probability that a blank cell of the strokes' or the parts' grid becomes a plus.
        purpose: part of the key: another one gives other digits for the same seed (training and test images).

    Returns:
        labels [n], pixels [n, 1, 27, 27] and all intermediate draws.

    Raises:
        InputError: ``n`` below 1, a negative noise, a probability outside 0 to 1.

    """
    if n < 1:
        raise InputError(f"n: must be 1 or more hierarchical digits, got {n}")
    if not noise >= 0 or noise == float("inf"):
        raise InputError(f"noise: must be a finite standard deviation of 0 or more, got {noise}")
    if not 0 <= distractors <= 1:
        raise InputError(f"distractors: must be a probability from 0 to 1, got {distractors}")
    classes = torch.randint(len(LEVELS[0].classes), (n, 1, 1), generator=generator(seed, f"{purpose}: labels"))
    levels, distracted, templates = [], [], []
    for i, level in enumerate(LEVELS):
        plus = torch.zeros_like(classes, dtype=torch.bool)
        if i:
            plus = (classes == BLANK) & (torch.rand(classes.shape, generator=generator(seed, f"{purpose}: distractors", i)) < distractors)
            classes = classes.masked_fill(plus, level.classes.index("plus"))
        share = torch.rand(classes.shape, generator=generator(seed, f"{purpose}: templates", i), dtype=torch.float64)
        chosen = (share * level.counts[classes]).long()  # share < 1, so the index is below the count
        levels.append(classes)
        distracted.append(plus)
        templates.append(chosen)
        classes = expand(classes, chosen, level.table)
    lit = classes.bool()
    pixels = torch.where(lit, LIT, DARK)
    if noise:
        pixels = pixels + noise * torch.randn(pixels.shape, generator=generator(seed, f"{purpose}: noise"))
    return Drawn(levels[0][:, 0, 0], tuple(levels), tuple(distracted), tuple(templates), lit, pixels[:, None])
