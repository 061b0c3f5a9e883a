"""Read one step of any training loop: layers' outputs, the gradients at them, and parameters' gradients as backward passes end."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

from gradlens._version import __version__
from gradlens.gradients.captured_tensors import Series, Shard
from gradlens.gradients.fingerprints import Fingerprint, fingerprint
from gradlens.gradients.layer_reader import LayerReader
from gradlens.gradients.output_tensors import tensors_inside
from gradlens.gradients.recomputation import backward_number
from gradlens.runtime.errors import InputError


class Wanted(NamedTuple):
    """What is read of a step."""

    layers: Sequence[str]  # paths
    parameters: Sequence[str]  # names
    sketch: int | None  # buckets; None: whole tensors
    seed: int  # of the sketch
    batch: bool  # whether the inputs are kept
    scale: Callable[[], float]  # what the loss is multiplied by
    share: tuple[int, int] = (0, 1)  # rank and number of ranks that have parts of the batch and take the mean of their gradients


class CapturedStep:
    """One step while it is read. Passes before a backward pass and it are one micro-batch; the next forward pass begins another.

    Args:
        model: the network, unwrapped.
        wanted: what is read.

    """

    def __init__(self, model: nn.Module, wanted: Wanted) -> None:
        self._model, self._wanted = model, wanted
        self._structure = _structure(model)
        self._names: dict[int, str] = {}  # parameter -> its first name
        self._tied = {
            name: first
            for name, p in model.named_parameters(remove_duplicate=False)
            if (first := self._names.setdefault(id(p), name)) != name
        }
        self._parameters = {name: p for name, p in model.named_parameters() if name in set(wanted.parameters)}
        self._series: dict[str, Series] = {}  # key -> what was read
        self._gradients: dict[str, Series] = {}  # key -> the parameters' gradients after the last backward pass
        self._calls: list[str] = []  # labels in the order of the calls
        self._weights: dict[str, list[float]] = {}
        self._inputs: dict[str, Fingerprint] = {}
        self._had_gradient = sorted(name for name, p in self._parameters.items() if p.grad is not None)
        self._micro, self._backwards, self._backward, self._scale = 0, 0, -1, 1.0
        self._between = False  # whether a backward pass has ended since the last forward pass
        self._of_model = {id(module) for module in model.modules()}
        self._hooks: list[RemovableHandle] = []
        self._reader = LayerReader(model, wanted.layers, self._keep_output, self._keep_gradient)

    # ------------------------------------------------------------------------------------------------- on and off

    def start(self) -> None:
        """Start reading."""
        for name, p in self._parameters.items():
            self._weights[name] = fingerprint(Shard(p).local)
        self._hooks = [register_module_forward_pre_hook(self._before)]
        trained = [p for p in self._parameters.values() if p.requires_grad]
        self._hooks += [p.register_post_accumulate_grad_hook(self._accumulated) for p in trained]  # type: ignore[no-untyped-call]
        self._reader.start()
        self._hooks.append(register_module_forward_hook(self._after, with_kwargs=True))

    def stop(self) -> None:
        """Remove every hook."""
        self._reader.stop()
        for handle in self._hooks:
            handle.remove()
            nn.modules.module._global_forward_hooks_with_kwargs.pop(handle.id, None)  # torch does not remove these
        self._hooks.clear()

    @property
    def has_backward(self) -> bool:
        """Return whether a backward pass was seen."""
        return bool(self._backwards)

    # ------------------------------------------------------------------------------------------------- passes

    def _before(self, module: nn.Module, _: Any) -> None:
        """Begin a micro-batch with the first forward pass after a backward pass."""
        if self._between and id(module) in self._of_model and backward_number() == -1:
            self._between = False
            self._micro += 1
            self._reader.forget()

    def _after(self, module: nn.Module, args: Any, kwargs: Any, _: Any) -> None:
        """Take the fingerprints of what the model is called with."""
        if module is not self._model or backward_number() != -1 or torch.compiler.is_compiling():
            return
        named = [(str(i), value) for i, value in enumerate(args)] + sorted(kwargs.items())
        for place, value in named:
            for i, t in enumerate(tensors_inside((value,))):
                name = f"{place}.{i}" if i else place
                self._inputs.setdefault(name, Fingerprint()).add(Shard(t).local)
                if self._wanted.batch:
                    self._keep(f"batch/{name}", t, 1.0, whole=True)

    def _keep_output(self, label: str, output: Tensor) -> None:
        if not self._micro and label not in self._calls:
            self._calls.append(label)
        self._keep(f"activation/{label}", output, 1.0)

    def _keep_gradient(self, label: str, grad: Tensor) -> None:
        self._see_backward()
        self._keep(f"gradient/{label}", grad, self._scale * self._wanted.share[1])

    def _accumulated(self, _: Tensor) -> None:
        self._see_backward()

    def _keep(self, key: str, value: Tensor, divisor: float, whole: bool = False) -> None:
        made = self._series.get(key)
        if made is None:
            made = self._series[key] = Series(key, None if whole else self._wanted.sketch, self._wanted.seed, self._wanted.share)
        made.add(self._micro, value, divisor)

    def _see_backward(self) -> None:
        """Ask the engine to call back when this backward pass has ended, after all others that it is to call."""
        if (now := backward_number()) in (-1, self._backward):
            return
        self._backward, self._backwards, self._between = now, self._backwards + 1, True
        self._scale = self._wanted.scale()
        later = torch.autograd.Variable._execution_engine.queue_callback
        later(lambda: later(self._ended))  # those of DistributedDataParallel and FSDP are queued in between

    def _ended(self) -> None:
        """Keep the parameters' gradients: what comes later, as clipping, may change them."""
        self._gradients = {}
        for name, p in self._parameters.items():
            if p.grad is not None:
                made = self._gradients[f"parameter/{name}"] = Series(f"parameter/{name}", self._wanted.sketch, self._wanted.seed)
                grad = p.grad if p.grad.layout is torch.strided else p.grad.to_dense()
                made.add(0, grad, self._scale)

    # ------------------------------------------------------------------------------------------------- result

    def finished(self, step: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors of the step and the header of its file.

        Args:
            step: number of the step.

        Raises:
            InputError: no backward pass was seen, or the model's modules or parameters are others than at the start.

        """
        if _structure(self._model) != self._structure:
            raise InputError("the model's modules or parameters were changed inside capture; change the model before it")
        if not self._backwards:
            raise InputError("capture saw no backward pass of this model; call loss.backward() inside its context")
        stored = {key: series.stored() for key, series in {**self._series, **self._gradients}.items()}
        header = {
            "step": step,
            "sketch": None if self._wanted.sketch is None else {"size": self._wanted.sketch, "seed": self._wanted.seed},
            "model": type(self._model).__name__,
            "calls": self._calls,
            "modules": {path: type(module).__name__ for path, module in self._reader.layers.items()},
            "parameters": self._described_parameters(),
            "weights": self._weights,
            "inputs": {name: made.numbers() for name, made in self._inputs.items()},
            "forwards": self._micro + 1,
            "backwards": self._backwards,
            "unseen": self._unseen(),
            "versions": {"gradlens": __version__, "torch": torch.__version__, "python": platform.python_version()},
            "device": next((p.device.type for p in self._model.parameters()), "cpu"),
            "tf32": bool(torch.cuda.is_available() and (torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32)),
            "tensors": {key: fact for key, (_, fact) in stored.items()},
        }
        return {key: tensor for key, (tensor, _) in stored.items()}, header

    def _described_parameters(self) -> dict[str, dict[str, Any]]:
        """Return shape, type, whether it is trained, of each parameter; of a tied one's later names the first."""
        found: dict[str, dict[str, Any]] = {}
        for name, p in self._parameters.items():
            found[name] = {"shape": list(p.shape), "dtype": str(p.dtype).removeprefix("torch."), "trained": p.requires_grad}
        return found | {name: {"tied": first} for name, first in self._tied.items() if first in found}

    def _unseen(self) -> list[str]:
        """List what was not read, a sentence each."""
        found = [sentence for _, sentence in self._reader.complaints()]
        without = [n for n, p in self._parameters.items() if p.requires_grad and f"parameter/{n}" not in self._gradients]
        if without:
            found.append(f".grad is None after the last backward pass: {', '.join(without)}")
        if self._had_gradient:
            found.append(f".grad was there before the first backward pass and is counted in: {', '.join(self._had_gradient)}")
        return found if self._inputs else [*found, "the model's inputs: the model itself was not called"]


def _structure(model: nn.Module) -> list[tuple[str, int]]:
    """Return what may not change inside: which modules and parameters have which names."""
    modules = [(name, id(module)) for name, module in model.named_modules(remove_duplicate=False)]
    return modules + [(name, id(p)) for name, p in model.named_parameters(remove_duplicate=False)]
