"""How far is a gradient computed in bfloat16 from the float32 one, layer by layer?

Same weights, same batch, backpropagation on BasicCNN: the cosine of each layer's weight gradient under --precision bf16 with the one under
fp32, on the untrained network and (with --run) on a trained one; mean and 95 % interval over eight batches of 256 images.

    python -m analyses.bf16 --data cifar10 [--run RUN_DIR]
"""

from __future__ import annotations

import json

import torch
from torch import Tensor

from analyses.training.cost import announce_cost
from analyses.training.study import arguments, environment
from gradlens.data.datasets import load
from gradlens.gradients.alignment import cosine
from gradlens.models.zoo import layers
from gradlens.reporting.statistics import interval
from gradlens.runtime.text_files import write_text
from gradlens.training.config import make_config
from gradlens.training.context import pick_device
from gradlens.training.run_directory import load_run as load_run
from gradlens.training.runs.build_state import build_state
from gradlens.training.state import TrainState
from gradlens.training.step import training_step

BATCHES = 8


def gradients(state: TrainState, step: int, bf16: bool) -> dict[str, Tensor]:
    """Weight gradients [*weight] of one batch by layer; the weights stay where they are (learning rate 0), buffers are put back."""
    model = state.network.model
    before = {name: b.clone() for name, b in model.named_buffers()}
    training_step(state.network, torch.optim.SGD(model.parameters(), 0.0), *state.batches.batch(step), bf16=bf16)
    for name, buffer in model.named_buffers():
        buffer.copy_(before[name])
    return {name: model.get_submodule(name).weight.grad.clone() for name in layers(model)}  # type: ignore[union-attr, operator]


def main() -> None:
    """Print and write figures/bf16/results.json: layer -> cosine, untrained and trained."""
    args = arguments(__doc__ or "", run=True)
    announce_cost(1, "for each of the two networks")
    data = load(args.data)
    found = {}
    for kind in ("untrained", *(["trained"] if args.run else [])):
        settings = {"method": "bp"} if kind == "untrained" else load_run(args.run).config.as_dict()
        state = build_state(make_config(**settings), data, pick_device(args.device))
        if kind == "trained":
            state.network.model.load_state_dict(load_run(args.run).checkpoint()["model"])
        cosines: dict[str, list[float]] = {}
        for step in range(BATCHES):
            low, full = (gradients(state, step, bf16) for bf16 in (True, False))
            for layer in full:
                cosines.setdefault(layer, []).append(cosine(low[layer], full[layer]))
        found[kind] = {layer: interval(values)[:3] for layer, values in cosines.items()}
        for layer, (mean, low_end, high_end) in found[kind].items():
            print(f"{kind:10} {layer:12} {mean:.5f}  [{low_end:.5f}, {high_end:.5f}]")
    folder = args.figures / "bf16"
    folder.mkdir(parents=True, exist_ok=True)
    content = {"batches": BATCHES, "batch_size": 256, "cosine": found, **environment()}
    write_text(folder / "results.json", json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
