"""The language task: an example is a window of text, an item one of its tokens, the target the token that follows it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from gradlens.data.datasets import DEFAULT
from gradlens.data.split import Data, Split
from gradlens.data.subsets import choose
from gradlens.data.text import decoded, read_corpus, text_files, windows
from gradlens.runtime.errors import InputError
from gradlens.runtime.paths import is_there
from gradlens.runtime.rng import generator
from gradlens.tasks.task import Batch, Task, TaskOptions

if TYPE_CHECKING:
    from gradlens.data.files import DataFiles
    from gradlens.training.config import Config

WRITTEN = 200  # tokens that a trained network writes, for the page


class LanguageOptions(TaskOptions, frozen=True):
    """Options of the language task."""

    length: int = Field(64, ge=1, description="tokens of a window, the longest context of a prediction")
    tokens: Literal["characters", "bytes"] = Field("characters", description="what a token is; bytes take any file")


class Language(Task):
    """Predict the next token: x [N, T] and y [N, T] are windows of the text, y one token further; the loss is the mean over all N·T."""

    summary = "predict the next character or byte of a text"
    item, example = "token", "sequence"
    reads = "tokens"
    per_item = all_are_items = True
    blocks_alike = True
    shows = (
        "Each network was given the first window of the held-out text and continued it, one token at a time, each drawn from what it"
        " predicts (temperature 1) by the seed of its run. A mark ▸ stands where its own text begins."
    )
    score_name = "perplexity"
    settings = frozenset({"limit", "limit_test", "validation"})
    defaults: ClassVar[Mapping[str, Any]] = {"model": "transformer", "batch_size": 32}
    rule_options: ClassVar[Mapping[str, Any]] = {"head": "norm-linear"}
    Options: ClassVar[type[BaseModel]] = LanguageOptions

    def load(self, config: Config, files: DataFiles) -> Data:
        """Read a text file, or a folder of them, and cut it into windows; the last texts read are kept."""
        c, options = config.data, config.task_options
        if c.name == DEFAULT and not is_there(c.name):
            raise InputError("--task language reads a text: set --data to a text file, or to a folder of .txt files")
        place = Path(c.name).absolute()
        drawn = c.limit is not None or c.limit_test is not None
        choice = c.limit, c.limit_test, c.validation, config.seed if drawn else 0
        return _data(place, _state(place), options["length"], options["tokens"], *choice)

    def batch(self, examples: Split, step: int, config: Config) -> Batch:
        """Return the windows and the tokens that follow, as whole numbers of 64 bits."""
        return Batch(examples.x.long(), examples.y.long())

    def blank(self, shape: Sequence[int]) -> Batch:
        """Return one window of the first token."""
        return Batch(torch.zeros(1, *shape, dtype=torch.long), torch.zeros(1, *shape, dtype=torch.long))

    def collect(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the sum of −log p(token) over the batch, and the number of tokens, as one row."""
        nats = torch.nn.functional.cross_entropy(z.flatten(0, -2).float(), y.flatten(), reduction="sum")
        return torch.stack([nats.double(), torch.tensor(float(y.numel()), dtype=torch.float64, device=z.device)])[None]

    def score(self, collected: Tensor) -> float:
        """Return the perplexity: exp of the mean over tokens of −log p."""
        nats, tokens = collected.sum(0)
        return float((nats / tokens).exp())

    def running_score(self, loss: float, accuracy: float) -> float:
        """Return exp of the mean loss."""
        return float(torch.tensor(loss, dtype=torch.float64).exp())

    def unknown_class(self, then: Sequence[str], now: Sequence[str]) -> str:
        """Name the first token that is not in the vocabulary."""
        strange = next((token for token in now if token not in set(then)), None)
        return f"{strange!r} is not in its vocabulary of {len(then)} tokens" if then and strange is not None else ""

    def sample(self, predict: Callable[[Tensor], Tensor], data: Data, config: Config) -> str:
        """Continue the first window of the held-out text by ``WRITTEN`` tokens, each drawn from what the network predicts; ▸ between."""
        kind, length = config.task_options["tokens"], data.shape[0]
        assert data.first is not None
        given: list[int] = data.first.tolist()
        tokens, rng = list(given), generator(config.seed, "sample")
        for _ in range(WRITTEN):
            logits = predict(torch.tensor([tokens[-length:]]))[0, -1]
            tokens.append(int(torch.multinomial(logits.double().softmax(0), 1, generator=rng)))
        halves = (decoded(torch.tensor(part), data.classes, kind) for part in (given, tokens[len(given) :]))
        return "▸".join(halves)


def _state(place: Path) -> tuple[tuple[str, int, int], ...]:
    """Return the path, size and time of each file of a text, without reading them."""
    train, test, validation = text_files(place)
    found = [path for path in (*train, test, validation) if path is not None]
    states = [(path, os.stat(path)) for path in found]
    return tuple((str(path), state.st_size, state.st_mtime_ns) for path, state in states)


@lru_cache(maxsize=2)
def _data(
    place: Path,
    state: tuple[tuple[str, int, int], ...],
    length: int,
    tokens: Literal["characters", "bytes"],
    limit: int | None,
    limit_test: int | None,
    validation: float,
    seed: int,
) -> Data:
    """Cut a text into windows; with a validation share the end of the training text, or the folder's own file, replaces the test text."""
    corpus = read_corpus(place, tokens)
    train, test, name = corpus.train, corpus.test, "test"
    if validation:
        name = "validation"
        if corpus.validation is not None:
            test = corpus.validation
        else:
            kept = len(train) - round(len(train) * validation)
            train, test = train[:kept], train[kept:]
    halves = [Split(*windows(part, length, f"{place}: the {half} text")) for part, half in ((train, "training"), (test, name))]
    source = halves[0], halves[1], corpus.vocabulary
    return replace(choose(source, limit, limit_test=limit_test, seed=seed), test_name=name, first=halves[1].x[0])


def clear_text_cache() -> None:
    """Drop the loaded texts."""
    _data.cache_clear()
