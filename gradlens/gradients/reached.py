"""Find layers that a training pass called and whose output a backward pass through that pass's graph did not reach (it was detached)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradlens.gradients.output_tensors import tensors_inside
from gradlens.gradients.recomputation import backward_number


class Reached:
    """Which layers' outputs a backward pass was to reach, and which it did reach.

    Silent where it is not known: only an output with a graph, in training mode and outside of an averaged copy of a model, is expected to
    be reached, and only by a backward pass that runs after it, through a graph of the block, and through the whole of it
    (``autograd.grad`` for some parameters does not). A layer counts once, however often it is called: an encoder that is called twice,
    the second time as a fixed target, is reached.

    Args:
        model: the module whose outputs show that a backward pass ran, even where it reached none of the layers.

    """

    def __init__(self, model: nn.Module) -> None:
        averaged = (m for m in model.modules() if isinstance(m, torch.optim.swa_utils.AveragedModel))
        self._averaged = {id(part) for m in averaged for part in m.modules()}
        self._path: dict[str, str] = {}  # label of an output that was expected to be reached -> its layer's path
        self._waiting: dict[str, None] = {}  # paths of which nothing is known yet, in the order of the calls
        self._reached: set[str] = set()  # paths
        self._passed: dict[str, None] = {}  # paths that were waiting when a whole backward pass began to be seen
        self._backward = -1  # the backward pass that was looked at last
        self._hooks: list[RemovableHandle] = []  # on the model's outputs

    def expect(self, paths: Sequence[str], labels: Iterable[str], module: nn.Module, output: Tensor) -> None:
        """Expect a gradient at an output, if it has a graph that training made."""
        if output.grad_fn is not None and torch.is_grad_enabled() and module.training and id(module) not in self._averaged:
            self._path |= zip(labels, paths, strict=True)
            self._waiting |= dict.fromkeys(p for p in paths if p not in self._reached and p not in self._passed)

    def watch(self, output: Any) -> None:
        """See a backward pass through the model's output."""
        if not torch.is_grad_enabled() or backward_number() != -1 or torch._C._get_tracing_state() is not None:
            return
        with suppress(Exception):  # a user's container may not be iterable
            for t in tensors_inside((output,)):
                if t.grad_fn is not None and not torch._C._functorch.is_functorch_wrapped_tensor(t):
                    self._hooks.append(t.register_hook(self._look))  # type: ignore[no-untyped-call]

    def found(self, label: str) -> None:
        """Take note that a backward pass reached an output."""
        if (path := self._path.get(label)) is not None:
            self._reached.add(path)
            self._waiting.pop(path, None)
        self._look()

    def missed(self, unread: Iterable[str]) -> list[str]:
        """List the paths of the layers that no backward pass reached so far, except those with unread labels."""
        return [path for path in self._passed if path not in self._reached and not any(_is_of(label, path) for label in unread)]

    def forget(self) -> None:
        """Start a new step: its backward pass is not expected to reach the outputs of the step before."""
        self._waiting.clear()
        self._hooks = [h for h in self._hooks if h.hooks_dict_ref() is not None]  # those of live graphs

    def stop(self) -> None:
        """Remove every hook and expect nothing more."""
        for handle in self._hooks:
            handle.remove()
        self._hooks.clear()
        self._waiting.clear()

    def _look(self, _: Tensor | None = None) -> None:
        """Look once per backward pass whether it is one that has to reach the waiting layers."""
        if self._backward == (now := backward_number()):
            return
        self._backward = now
        if self._waiting and _runs_whole(torch._C._current_autograd_node()):
            self._passed |= self._waiting
            self._waiting.clear()


def _is_of(label: str, path: str) -> bool:
    """Return whether a label is that of an output of the layer at a path."""
    return label == path or label.startswith((f"{path}#", f"{path}["))


def _runs_whole(node: Any) -> bool:
    """Return whether the backward pass that runs executes everything below a node; False if that is not known."""
    if node is None or not node.next_functions:  # a leaf
        return False
    todo, seen = [node], {node}
    try:
        while todo:
            new = {below for below, _ in todo.pop().next_functions if below is not None} - seen
            if not all(map(torch._C._will_engine_execute_node, new)):  # not asked of the first node, which runs: torch denies it of a loss
                return False
            todo += new
            seen |= new
    except Exception:  # noqa: BLE001 - torch raises for a leaf whose gradient autograd.grad returns; reading must not break a backward pass
        return False
    return True
