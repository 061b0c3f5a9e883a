"""Two tasks of a few numbers, and networks for them: padded sequences of tokens, and nodes on a ring of which some have a label.

The network of tokens reads an earlier block's output beside its predecessor's, and the step's context; its objective has a second term.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradlens.data.files import DataFiles
from gradlens.data.split import Data, Split
from gradlens.gradients.items import Half
from gradlens.gradients.losses import Loss
from gradlens.models.feedback_point import FeedbackPoint
from gradlens.models.spec import ModelSpec
from gradlens.models.zoo import INPUTS, MODELS
from gradlens.runtime.batch_items import global_items
from gradlens.runtime.step_context import Context, current_context
from gradlens.tasks.registry import TASKS
from gradlens.tasks.task import Batch, Task

LENGTH, WORDS, NODES, FEATURES, CLASSES = 5, 4, 12, 3, 3


def weighed(z: Tensor, y: Tensor) -> Tensor:
    """The term at a block: 0.3 times the cross-entropy of the first features as logits."""
    return 0.3 * F.cross_entropy(z[..., :WORDS].flatten(0, -2), y.flatten(), reduction="sum", ignore_index=-1) / global_items(y)


class Tokens(Task):
    """Say each token again: sequences of unequal length, padded with targets that are none."""

    summary, item, example, reads = "say each token again", "token", "sequence", "toy tokens"
    score_name = "perplexity"
    per_item = True
    defaults: ClassVar = {"model": "toy-tokens", "data": "words", "batch_size": 4}
    two_terms = True

    def data_sets(self) -> Mapping[str, str]:
        return {"words": "generated"}

    def load(self, config, files: DataFiles) -> Data:
        rng = torch.Generator().manual_seed(7)
        halves = []
        for n in (14, 6):
            x = torch.randint(WORDS, (n, LENGTH), generator=rng)
            lengths = torch.randint(1, LENGTH + 1, (n, 1), generator=rng)
            halves.append(Split(x, torch.where(torch.arange(LENGTH) < lengths, x.roll(1, 1), -1)))
        return Data(*halves, tuple("abcd"))

    def batch(self, examples: Split, step: int, config) -> Batch:
        return Batch(examples.x, examples.y, {"places": torch.linspace(0.5, 1.5, LENGTH)[:, None]})

    def blank(self, shape: Sequence[int]) -> Batch:
        zeros = torch.zeros(2, *shape, dtype=torch.long)
        return Batch(zeros, zeros, {"places": torch.ones(LENGTH, 1)})

    def count(self, y: Tensor) -> int:
        return int((y >= 0).sum())

    def terms(self, blocks: Sequence[nn.Module]) -> Mapping[int, Loss]:
        return {1: weighed} if self.two_terms else {}

    def collect(self, z: Tensor, y: Tensor) -> Tensor:
        nats = F.cross_entropy(z.flatten(0, -2), y.flatten(), reduction="none", ignore_index=-1)
        return torch.stack([nats, (y.flatten() >= 0).to(nats)], 1).double()

    def score(self, collected: Tensor) -> float:
        nats, items = collected.sum(0).tolist()
        return float(torch.tensor(nats / items).exp())

    def running_score(self, loss: float, accuracy: float) -> float:
        return float("nan")  # the recorded loss has a second term


class Mixed(nn.Module):
    """Each position adds the mean of those up to it."""

    def forward(self, h: Tensor) -> Tensor:
        return h + h.cumsum(1) / torch.arange(1, h.shape[1] + 1).to(h)[:, None]


class Joined(nn.Module):
    """Reads the first block's output too, and the context."""

    reads_blocks = (0,)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.below, self.first = nn.Linear(width, width), nn.Linear(width, width, bias=False)

    def forward(self, h: Tensor, first: Tensor) -> Tensor:
        return torch.tanh(self.below(h) + self.first(first) * current_context()["places"].to(h))


def toy_tokens(spec: ModelSpec) -> nn.Sequential:
    """Embedding, mixing, joining, output."""
    w = spec.width or 6
    blocks = OrderedDict(
        block1=nn.Sequential(nn.Embedding(spec.classes, w), nn.Linear(w, w), nn.Tanh()),
        block2=nn.Sequential(Mixed(), nn.Linear(w, w), FeedbackPoint(w), nn.Tanh(), nn.Linear(w, w)),
        block3=Joined(w),
        block4=nn.Sequential(nn.Linear(w, w), nn.LayerNorm(w), nn.Dropout(0.1)),
        top=nn.Sequential(nn.Linear(w, spec.classes)),
    )
    return nn.Sequential(blocks)


class Ring(Task):
    """Classify the nodes of a ring, of which every third has a label in training."""

    summary, item, example, reads = "classify nodes of a ring", "labelled node", "node", "toy nodes"
    defaults: ClassVar = {"model": "toy-ring", "data": "ring"}
    one_batch, not_data_parallel = True, "every node reads its neighbours"

    def data_sets(self) -> Mapping[str, str]:
        return {"ring": "generated"}

    def load(self, config, files: DataFiles) -> Data:
        rng = torch.Generator().manual_seed(3)
        y = torch.randint(CLASSES, (NODES,), generator=rng)
        x = torch.randn(NODES, FEATURES, generator=rng) + y[:, None]
        eye = torch.eye(NODES)
        context = {"edges": (eye + eye.roll(1, 0) + eye.roll(-1, 0)) / 3}
        labelled = torch.arange(NODES) % 3 != 0
        return Data(Split(x, torch.where(labelled, y, -1), context), Split(x, torch.where(labelled, -1, y), context), tuple("pqr"))

    def batch(self, examples: Split, step: int, config) -> Batch:
        return Batch(examples.x, examples.y, examples.context)

    def blank(self, shape: Sequence[int]) -> Batch:
        return Batch(torch.zeros(2, *shape), torch.zeros(2, dtype=torch.long), {"edges": torch.eye(2)})

    def count(self, y: Tensor) -> int:
        return int((y >= 0).sum())

    def permutation(self, delta: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        have = delta.flatten(1).any(1).nonzero()[:, 0]
        rows = torch.arange(len(delta))
        rows[have] = have[torch.randperm(len(have), generator=rng)]
        return rows

    def halves(self, x: Tensor, y: Tensor, context: Context, rng: torch.Generator) -> Iterator[Half] | None:
        have = (y >= 0).nonzero()[:, 0]
        have = have[torch.randperm(len(have), generator=rng)]
        parts = (have[: len(have) // 2], have[len(have) // 2 :])
        return (Half(x, torch.full_like(y, -1).index_copy(0, part, y[part]), context, None) for part in parts)


class Convolved(nn.Module):
    """A linear layer on the means of neighbours."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.linear = nn.Linear(a, b)

    def forward(self, h: Tensor) -> Tensor:
        return self.linear(current_context()["edges"].to(h) @ h)


def toy_ring(spec: ModelSpec) -> nn.Sequential:
    """Three graph convolutions."""
    w = spec.width or 5
    blocks = OrderedDict(
        block1=nn.Sequential(Convolved(spec.shape[0], w), nn.Tanh()),
        block2=nn.Sequential(Convolved(w, w), nn.Tanh()),
        top=Convolved(w, spec.classes),
    )
    return nn.Sequential(blocks)


@cache
def text_file() -> Path:
    """A text of a few words in random order, for the language task; one a process."""
    rng = torch.Generator().manual_seed(5)
    words = ("to ", "be ", "or ", "not ", "that ")
    path = Path(mkdtemp()) / "text.txt"
    path.write_text("".join(words[i] for i in torch.randint(len(words), (40,), generator=rng)), encoding="utf-8")
    return path


@cache
def click_file() -> Path:
    """A csv file of 120 rows for the click-through task: a column of numbers, two of categories, and a label; one a process."""
    rng = torch.Generator().manual_seed(5)
    path = Path(mkdtemp()) / "clicks.csv"
    ages, works, places = (torch.randint(n, (120,), generator=rng).tolist() for n in (60, 4, 3))
    clicks = [int(age + 15 * work + float(60 * torch.rand(1, generator=rng)) > 80) for age, work in zip(ages, works, strict=True)]
    rows = [f"{age},w{work},p{place},{click}" for age, work, place, click in zip(ages, works, places, clicks, strict=True)]
    path.write_text("\n".join(["age,work,place,click", *rows]), encoding="utf-8")
    return path


CLICK_COLUMNS = {"label": "click", "numeric": ["age"], "categorical": ["work", "place"]}


def register() -> None:
    """Put both into the registries, for processes of their own."""
    TASKS.update(tokens=Tokens(), ring=Ring())
    MODELS.update({"toy-tokens": toy_tokens, "toy-ring": toy_ring})
    INPUTS.update({"toy-tokens": "toy tokens", "toy-ring": "toy nodes"})


def forget() -> None:
    """Take them out again."""
    for registry in (TASKS, MODELS, INPUTS):
        for name in ("tokens", "ring", "toy-tokens", "toy-ring"):
            registry.pop(name, None)
