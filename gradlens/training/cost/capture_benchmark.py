"""Cost of ``gradlens.capture`` in a training loop: time and memory of a transformer's step, plain, captured whole, and as sketches."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gradlens.gradients.capture import capture
from gradlens.training.cost.step_benchmark import added_memory, seconds_per_step

LAYERS, WIDTH, HEADS, LENGTH, BATCH, VOCABULARY = 6, 256, 4, 128, 16, 256
SKETCH, SELDOM = 4096, 100


@dataclass(frozen=True)
class CaptureCost:
    """What a step costs."""

    name: str
    seconds: float  # median over rounds
    time_ratio: float  # to the plain step of the same round, the median
    megabytes: float | None  # that a step adds at its peak; None: not known on this device
    memory_ratio: float | None
    file_megabytes: float | None  # None: it writes none


@dataclass(frozen=True)
class CaptureBench:
    """All rows, and where they were measured."""

    model: str
    device: str
    threads: int
    rounds: int
    torch: str
    rows: list[CaptureCost]

    def to_json(self) -> str:
        """Return the whole as a JSON object."""
        return json.dumps(asdict(self), indent=2) + "\n"


class _Transformer(nn.Module):
    """A causal transformer with GELU, without dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.0, F.gelu, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        """Compute logits [N, T, V] of tokens [N, T]."""
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], device=tokens.device)
        logits: Tensor = self.head(self.encoder(self.embed(tokens), mask, is_causal=True))
        return logits


def bench_capture(device: torch.device, rounds: int) -> CaptureBench:
    """Measure the plain step, the step captured whole and as sketches, in interleaved rounds.

    Args:
        device: of the network.
        rounds: number of rounds.

    """
    model = _Transformer().to(device)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    tokens = torch.randint(VOCABULARY, (BATCH, LENGTH + 1), device=device)

    def step(context: Callable[[], Any]) -> None:
        optimizer.zero_grad(set_to_none=True)
        with context():
            loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
            loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    with tempfile.TemporaryDirectory() as folder:
        files = {"captured whole": Path(folder) / "whole", "captured as sketches": Path(folder) / "sketches"}
        steps: dict[str, Callable[[], None]] = {
            "plain": partial(step, nullcontext),
            "captured whole": partial(step, partial(capture, model, files["captured whole"])),
            "captured as sketches": partial(step, partial(capture, model, files["captured as sketches"], sketch=SKETCH)),
        }
        for run in steps.values():
            run()
        times: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(rounds):
            for name, run in steps.items():
                times[name].append(seconds_per_step(run, device))
        memory = {name: added_memory(run, device) for name, run in steps.items()}
        sizes = {name: path.stat().st_size / 1e6 for name, path in files.items()}
    rows = [_cost(name, times[name], times["plain"], memory[name], memory["plain"], sizes.get(name)) for name in steps]
    seldom = [((SELDOM - 1) * p + c) / SELDOM for p, c in zip(times["plain"], times["captured as sketches"], strict=True)]
    rows.append(_cost(f"sketches of every {SELDOM}th step", seldom, times["plain"], memory["captured as sketches"], memory["plain"], None))
    about = f"{LAYERS}-layer transformer of width {WIDTH}, {BATCH} sequences of {LENGTH} tokens, sketches of {SKETCH}"
    return CaptureBench(about, device.type, torch.get_num_threads(), rounds, torch.__version__, rows)


def _cost(
    name: str, seconds: list[float], plain: list[float], memory: int | None, plain_memory: int | None, size: float | None
) -> CaptureCost:
    ratio = median(s / p for s, p in zip(seconds, plain, strict=True))
    megabytes = None if memory is None else memory / 1e6
    relative = memory / plain_memory if memory is not None and plain_memory else None
    return CaptureCost(name, median(seconds), ratio, megabytes, relative, size)
