"""Read layers while a model is used: each returned output and each gradient at it, in any forward and backward pass.

Global module hooks (none on the model itself) check at every call whether the module is one of the layers: copies and saved files of the
model contain no hooks. The gradient is read by a hook on the very tensor that the layer returned. Only if that is not the layer's own
result (an input passed through, a parameter) it is replaced by another tensor on the same memory, so that the gradient of its other uses
is not included.
"""

from __future__ import annotations

import itertools
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

from gradlens.gradients.alignment import dense
from gradlens.gradients.eager_calls import eager_calls
from gradlens.gradients.kept_leaves import GIVEN_AGAIN, KeptLeaves, is_plain
from gradlens.gradients.layer_choice import choose_layers
from gradlens.gradients.layer_names import named
from gradlens.gradients.output_tensors import OutputTensors, is_inside, tensors_inside
from gradlens.gradients.reached import Reached
from gradlens.gradients.recomputation import Calls, backward_number

Took = Callable[[str, Tensor], None]  # (label, output or gradient without graph), not a copy
_WHY_NEVER = "(compiled and TorchScript models do not call their modules one by one, nor does code that only uses their weights)"
_WHY_MISSED = "(detached, or not part of the loss); if meant: requires_grad_(False), layers= without it"
_FIRST = 2**64 - 1  # backward runs a node with this sequence number next
_MADE = "gradlens.made"  # the true sequence number of a node that has another


class _Layer(NamedTuple):
    """A recorded layer."""

    paths: list[str]
    plain: bool  # it returns only tensors that it makes, or its one argument


@dataclass(slots=True)
class _Call:
    """A running call of a layer."""

    layer: _Layer
    module: nn.Module
    time: int  # number of calls begun before it
    start: int  # sequence number of the next node at its start
    versions: dict[int, int]  # version counters of its arguments and of the layer's tensors at its start
    behind: bool  # the layer has its own hooks: its output is read after them
    labels: list[str]  # one per path
    again: bool = False  # gradient checkpointing recomputes an earlier call


class _View(NamedTuple):
    """An output that is a view: in-place operations on it bypass its own node in the graph."""

    label: str
    watch: Tensor  # the same memory without graph: its version counts in-place operations
    version: int
    base: weakref.ref[Tensor]
    made: int  # sequence number of the base's node


class LayerReader:
    """Reader of some layers' outputs and gradients between :meth:`start` and :meth:`stop`.

    A label is the layer's path; the second call's is ``path#1``, the third's ``path#2`` until :meth:`forget`; for a tensor in a container
    its position is appended: ``lstm[0]``, ``encoder[hidden]``. Recomputation by gradient checkpointing is no second call: its gradients
    get the first call's label.

    Args:
        model: any module.
        layers: dotted paths; default: :func:`gradlens.gradients.layer_choice.default_layers`.
        on_output: called with every output tensor [N, *out] when it is returned.
        on_gradient: called with every gradient at an output, dense, each time a backward pass reaches it.

    Raises:
        InputError: a path that is no module of the model (the known ones are listed).

    """

    def __init__(self, model: nn.Module, layers: Sequence[str] | None, on_output: Took, on_gradient: Took) -> None:
        self.layers = choose_layers(model, layers)  # path -> module
        self.called: set[str] = set()  # paths
        self.unread: dict[str, str] = {}  # label -> why it was not read, or not wholly
        self._model, self._on_output, self._on_gradient = model, on_output, on_gradient
        self._reached = Reached(model)
        self._layers: dict[int, _Layer] = {}  # id of a module -> its layer
        for path, module in self.layers.items():
            self._layers.setdefault(id(module), _Layer([], is_plain(module))).paths.append(path)
        self._calls = Calls()
        self._running: dict[int, _Call] = {}  # id of the frame -> its call, including calls that ended in an error
        self._times = itertools.count()
        self._last: dict[int, RemovableHandle] = {}  # id of a module with its own hooks -> our hook after them, while it runs
        self._hooks: list[RemovableHandle] = []  # on all modules
        self._tensor_hooks: list[RemovableHandle] = []
        self._leaves = KeptLeaves(())
        self._views: list[_View] = []
        self._bases: list[Tensor] = []  # bases of the views, kept until the forward pass ends, to find in-place operations
        self._eager = ExitStack()
        self._paused = False
        self._backward = -1

    # ------------------------------------------------------------------------------------------------- on and off

    def start(self) -> None:
        """Start reading."""
        self._leaves = KeptLeaves(m for m in self.layers.values() if m._forward_hooks or not is_plain(m))
        self._hooks = [register_module_forward_pre_hook(self._before), register_module_forward_hook(self._after, with_kwargs=True)]
        self._eager.enter_context(eager_calls(self._model))

    def stop(self) -> None:
        """Remove every hook, from the tensors too."""
        self._eager.close()
        for handle in (*self._hooks, *self._last.values(), *self._tensor_hooks):
            handle.remove()
        for handle in self._hooks:  # torch does not remove these
            nn.modules.module._global_forward_hooks_with_kwargs.pop(handle.id, None)
        self._hooks, self._tensor_hooks = [], []
        self._last.clear()
        self._running.clear()
        self._reached.stop()
        self._settle_views()

    def forget(self) -> None:
        """Start a new step: count calls from 0."""
        self._calls.forget()
        self._reached.forget()
        self._running.clear()  # calls that ended in an error
        self._settle_views()
        self._tensor_hooks = [h for h in self._tensor_hooks if h.hooks_dict_ref() is not None]  # those of live graphs

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Read no passes inside the context."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def complaints(self) -> list[tuple[str, str]]:
        """List (kind, sentence) of layers never called, of those that no backward pass reached, of labels not read (a reason is a kind)."""
        never = [path for path in self.layers if path not in self.called]
        missing = ", ".join(map(named, never))
        sentences = [("never", f"never called: {missing} {_WHY_NEVER}")] if never else []
        if missed := self._reached.missed(self.unread):
            text = f"called, but no backward pass reached the output of {', '.join(map(named, missed))} {_WHY_MISSED}"
            sentences.append(("missed", text))
        for why in dict.fromkeys(self.unread.values()):
            labels = ", ".join(named(label) for label, w in self.unread.items() if w == why)
            sentences.append((why, f"{labels} could not be read: {why}"))
        return sentences

    # ---------------------------------------------------------------------------------------------- forward passes

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:  # compilation or TorchScript tracing
            return
        layer = self._layers.get(id(module))
        if layer is None:
            return
        caller = sys._getframe(1)
        frame = id(caller)
        self._running.pop(frame, None)  # a call that ended in an error may have had this id
        if id(module) in self._last:
            self._drop_failed(module)
        if self._paused or (backward_number() != -1 and not self._calls.may_be_repeated(module)):
            return
        if behind := bool(module._forward_hooks):
            self._last[id(module)] = self._last.get(id(module)) or module.register_forward_hook(self._behind, with_kwargs=True)
        there: Iterable[Tensor] = args  # tensors that the call may pass through
        if not (layer.plain and len(args) == 1 and isinstance(args[0], Tensor)):
            kwargs = caller.f_locals.get("kwargs", {})  # torch passes them to no global pre-hook
            there = chain((v for v in vars(module).values() if isinstance(v, Tensor)), tensors_inside((*args, *kwargs.values())))
        versions: dict[int, int] = {}
        try:
            for x in there if torch.is_grad_enabled() else ():
                if x.requires_grad:
                    versions[id(x)] = x._version
                    if x._is_view():
                        x.grad_fn  # noqa: B018 - after an in-place change its new node is made at the first access: now
        except Exception as error:  # noqa: BLE001 - a user's container may not be iterable
            self._failed(layer.paths[0], error)
        start = torch._C._autograd._get_sequence_nr()
        self._running[frame] = _Call(layer, module, next(self._times), start, versions, behind, layer.paths)

    def _after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():
            return None
        if id(module) in self._layers:
            frame = id(sys._getframe(1))
            call = self._running.get(frame)
            return None if call is None or call.behind else self._end(call, frame, (args, kwargs), output)
        if module is self._model and not self._paused:
            self._reached.watch(output)
        if self._bases:
            self._follow_in_place(ended=module is self._model)
        return None

    def _behind(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """Read the output after the module's own hooks, which may have replaced it."""
        frame = id(sys._getframe(1))
        call = self._running.get(frame)
        if call is None:
            return None
        goes_on = self._end(call, frame, (args, kwargs), output)
        self._remove_last(module)
        return goes_on

    def _remove_last(self, module: nn.Module) -> None:
        """Remove our hook after the module's own if no running call of the module needs it."""
        if not any(call.module is module and call.behind for call in self._running.values()):
            self._last.pop(id(module)).remove()

    def _drop_failed(self, module: nn.Module) -> None:
        """Delete the calls that ended in an error: no thread runs their frames any more."""
        failed = dict(self._running)
        for top in sys._current_frames().values():
            here: FrameType | None = top
            while here is not None:
                call = failed.get(id(here))
                if call is not None and here.f_locals.get("self") is call.module:  # a later frame may have a failed one's id
                    del failed[id(here)]
                here = here.f_back
        for frame in failed:
            self._running.pop(frame, None)
        self._remove_last(module)

    def _end(self, call: _Call, frame: int, given: tuple[Any, Any], output: Any) -> Any:
        """Read the output of a call.

        Returns:
            the output to return instead; None for the same one.

        """
        del self._running[frame]
        module, paths = call.module, call.labels
        try:
            counted = self._calls.number(module, call.start)
            if counted is None:
                return None
            number, call.again = counted
            if number:
                call.labels = [f"{path}#{number}" for path in paths]
            else:
                self.called.update(paths)
            goes_on = self._read(call, "", output) if isinstance(output, Tensor) else self._read_parts(call, (vars(module), given), output)
        except Exception as error:  # noqa: BLE001 - reading must not break a user's forward pass
            self._failed(paths[0], error)
            return None
        return None if goes_on is output else goes_on

    def _read_parts(self, call: _Call, others: Any, output: Any) -> Any:
        """Read an output that is no tensor and return its replacement; a container that is also among ``others`` is not replaced."""
        look = OutputTensors(partial(self._read, call), partial(is_inside, others))
        goes_on = look.replaced(output)
        if not look.found:
            kind = look.opaque[0] if look.opaque else type(output).__name__
            self.unread[call.labels[0]] = f"it returned a {kind}, in which no tensor was found"
        for place, why in look.unreplaced.items():
            self.unread[call.labels[0] + place] = why
        return goes_on

    def _read(self, call: _Call, place: str, t: Tensor) -> Tensor:
        """Read one tensor of an output and return its replacement."""
        if torch._C._functorch.is_functorch_wrapped_tensor(t):
            self.unread[call.labels[0] + place] = "it ran inside a transformation of torch.func"
            return t
        bare = t.detach()
        if not call.again:
            for label in call.labels:
                self._on_output(label + place, bare)
            self._reached.expect(call.layer.paths, [label + place for label in call.labels], call.module, t)
        if not t.requires_grad:
            return t
        if not torch.is_grad_enabled():
            if t.is_leaf:
                self._leaves.give(t, next(self._times))
            return t
        goes_on = t if self._is_own(t, call) else _alias(t)
        for label in call.labels:
            hook = goes_on.register_hook(partial(self._take, label + place))  # type: ignore[no-untyped-call]
            self._tensor_hooks.append(hook)
            if goes_on.is_leaf:
                self._leaves.give(t, next(self._times), call.layer, label + place, hook)
        base = goes_on._base
        if base is not None and base.grad_fn is not None:
            self._bases.append(base)
            number, made = t._version, base.grad_fn._sequence_nr()
            self._views += [_View(label + place, bare, number, weakref.ref(base), made) for label in call.labels]
        return goes_on

    def _is_own(self, t: Tensor, call: _Call) -> bool:
        """Return whether a tensor was made by its call and did not exist before."""
        node: Any = t.grad_fn
        if node is None:  # a leaf has no sequence number
            if self._leaves.was_there(t, call.time):
                self.unread |= dict.fromkeys(self._leaves.withdraw(t, call.layer), GIVEN_AGAIN)
                return False
            held = chain(self._model.parameters(), self._model.buffers())
            return not (id(t) in call.versions or isinstance(t, nn.Parameter) or any(t is other for other in held))
        if call.versions.get(id(t)) == t._version:
            return False
        number: int = node._sequence_nr()
        return (node.metadata.get(_MADE, number) if number == _FIRST else number) >= call.start

    # --------------------------------------------------------------------------------------------- backward passes

    def _take(self, label: str, grad: Tensor) -> None:
        self._reached.found(label)
        if self._paused or not self._hooks:
            return
        if self._views and self._backward != (now := backward_number()):
            self._backward = now
            self._follow_in_place(ended=True)
        try:
            grad = grad.detach() if grad.requires_grad else grad
            self._on_gradient(label, grad if grad.layout is torch.strided else dense(grad))
        except Exception as error:  # noqa: BLE001 - reading must not break a user's backward pass
            self._failed(label, error)

    def _failed(self, label: str, error: Exception) -> None:
        self.unread[label] = " ".join(f"{type(error).__name__}: {error}".split())

    # --------------------------------------------------------------------------------------- in-place operations on views

    def _follow_in_place(self, ended: bool) -> None:
        """Read the gradient at a view before the in-place operation that changed it since.

        Args:
            ended: whether the forward pass has ended.

        """
        for view in [v for v in self._views if v.watch._version != v.version]:
            base = view.base()
            node = None if base is None else _changed_by(base, view.made)
            if base is None or node is None:
                continue
            like = (base.shape, base.stride(), base.storage_offset())
            self._tensor_hooks.append(node.register_hook(partial(self._take_view, view, like)))
            self._views.remove(view)
        if ended:
            self._bases.clear()

    def _take_view(self, view: _View, like: tuple[Any, Any, Any], below: tuple[Tensor | None, ...], _: Any) -> None:
        size, stride, offset = like  # the base's
        if below[0] is not None:
            laid_out = below[0].new_empty_strided(size, stride).copy_(below[0])
            self._take(view.label, laid_out.as_strided(view.watch.shape, view.watch.stride(), view.watch.storage_offset() - offset))

    def _settle_views(self) -> None:
        """Add the views whose gradient could not be read to ``unread``."""
        for view in self._views:
            if view.watch._version != view.version:
                self.unread[view.label] = "its output is a view that was changed in place later, where the gradient could not be read"
        self._views.clear()
        self._bases.clear()


def _alias(t: Tensor) -> Tensor:
    """Make another tensor on the same memory, with the same class and attributes but its own gradient."""
    if type(t) is Tensor:
        twin = t.as_subclass(Tensor)
    elif type(t).__torch_dispatch__ is Tensor.__torch_dispatch__:
        with torch._C.DisableTorchFunctionSubclass():
            twin = Tensor.as_subclass(t, type(t))
    else:
        twin = t.view_as(t)
    if t.__dict__:
        twin.__dict__.update(t.__dict__)
    node: Any = twin.grad_fn
    if hasattr(node, "_set_sequence_nr"):  # first in backward's queue: gradients at ``t`` are summed in the original order
        node.metadata[_MADE] = node._sequence_nr()
        node._set_sequence_nr(_FIRST)
    return twin


def _changed_by(base: Tensor, made: int) -> Node | None:
    """Return the node of the first in-place operation on a tensor whose node had the sequence number ``made``."""
    node = base.grad_fn
    for _ in range(1000):  # in-place operations on one tensor
        if node is None or not node.next_functions:
            return None
        below = node.next_functions[0][0]
        if below is not None and below._sequence_nr() == made:
            return node
        node = below
    return None
