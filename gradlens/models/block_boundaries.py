"""Compute the output shapes of a network's blocks, and reject networks that cannot be cut between them: skips, in-place writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gradlens.runtime.autograd_graph import graph_nodes, is_reentrant
from gradlens.runtime.errors import InputError
from gradlens.runtime.eval_mode import eval_mode
from gradlens.runtime.rng import forked


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Use eval mode and forked random generators inside; afterwards restore each module's mode, buffers and stored tensors."""
    kept = [(m, dict(vars(m)), dict(m._buffers)) for m in model.modules()]
    contents = [(b, b._version, b.clone()) for b in model.buffers() if not is_lazy(b)]
    try:
        with eval_mode(model), forked():
            for m in model.modules():
                if isinstance(m, nn.modules.dropout._DropoutNd):
                    m.training = m.inplace  # in eval mode an in-place dropout does not overwrite
            yield
    finally:
        for m, attributes, buffers in kept:
            m._buffers.update(buffers)
            _put_back_tensors(vars(m), attributes)
        with torch.no_grad():
            for b, version, content in contents:
                if b._version != version:
                    b.copy_(content)


def _put_back_tensors(now: dict[str, object], before: dict[str, object]) -> None:
    """Remove tensors that a forward pass stored on a module: they would keep the blank image's graph alive, or affect the next pass."""
    for name in [*now, *(before.keys() - now.keys())]:
        was, value = before.get(name), now.get(name)
        if was is value or not (isinstance(was, Tensor) or isinstance(value, Tensor)):
            continue
        if name in before:
            now[name] = was
        else:
            del now[name]


def _refuse_what_is_no_tensor(h: object, name: str, is_top: bool) -> None:
    if isinstance(h, Tensor):
        if not h.is_floating_point():
            raise InputError(f"{name} returns {h.dtype}: a block's output must be floating point, to be differentiable")
        return
    kind = type(h).__name__
    what = "None" if h is None else f"a {kind} of {len(h)}" if isinstance(h, Sized) else f"a {kind}"
    if is_top:
        raise InputError(f"{name} returns {what}: the network's output must be one tensor")
    raise InputError(f"{name} returns {what}: a skip crosses the boundary to the next block; put both its ends into one block")


def _earlier(block: nn.Module, k: int, names: Sequence[str]) -> tuple[int, ...]:
    """Return the earlier blocks that block k reads beside its predecessor.

    Raises:
        InputError: one that is not before its predecessor.

    """
    earlier = tuple(getattr(block, "reads_blocks", ()))
    if wrong := [j for j in earlier if not 0 <= j < k - 1]:
        raise InputError(f"{names[k]}: reads_blocks has {wrong[0]}, which is no block before its predecessor: set indices of 0 to {k - 2}")
    return earlier


def _overwriter(block: nn.Module, x: Tensor, more: Sequence[Tensor]) -> str:
    """Return the dotted path of the innermost module of a block that overwrites the block's input; empty: the block itself."""
    x, running, found = x.clone(), list[int](), list[str]()  # running: the copy's version at the start of each running module

    def begin(*_: object) -> None:
        running.append(x._version)

    def end(path: str) -> Callable[..., None]:
        return lambda *_: found.append(path) if running.pop() != x._version else None

    handles = [m.register_forward_pre_hook(begin) for m in block.modules()]
    handles += [m.register_forward_hook(end(path)) for path, m in block.named_modules()]
    try:
        block(x, *more)
    finally:
        for handle in handles:
            handle.remove()
    return next(iter(found), "")  # a module ends after the modules within it


def _leaves(h: Tensor) -> list[Tensor]:
    """Return the leaves (parameters, block inputs) of a tensor's graph."""
    return [node.variable for node in graph_nodes(h) if isinstance(node, torch._C._functions.AccumulateGrad)]


def is_compiled(module: nn.Module) -> bool:
    """Return whether a module, or one within it, was given to ``torch.compile`` or compiled in place."""
    return any(type(m).__name__ == "OptimizedModule" or m._compiled_call_impl is not None for m in module.modules())


def keep_compiled_graphs() -> None:
    """Allow more than one backward pass through models compiled from now on in this process, as recorded steps need."""
    import torch._functorch.config  # not imported by `import torch`

    torch._functorch.config.donated_buffer = False


def refuse_reentrant(h: Tensor, name: str) -> None:
    """Reject a block's output that was computed under reentrant gradient checkpointing.

    Raises:
        InputError: it was.

    """
    if is_reentrant(h):
        raise InputError(
            f"{name} is checkpointed with use_reentrant=True, which supports loss.backward() only and no gradient of a block;"
            " set checkpoint(..., use_reentrant=False), which gives the same gradients"
        )


def _refuse_overwriting(inputs: Sequence[Tensor], block: nn.Module, name: str, lost: str) -> None:
    """Reject a block that wrote in place to one of ``inputs``, the copies that it read, the block's input first."""
    x, *more = inputs
    if any(t._version for t in more):
        raise InputError(f"{name} overwrites an earlier output that it reads, in place: use inplace=False")
    if not x._version:
        return
    path = _overwriter(block, x.detach(), [t.detach() for t in more])
    where = f" ({name}.{path})" if path else ""
    raise InputError(f"{name} begins with an in-place operation{where}, which would overwrite {lost}: use inplace=False")


def _refuse_skip(h: Tensor, k: int, owners: dict[Tensor, list[int]], names: Sequence[str]) -> None:
    """Reject an output that depends on another block's leaves; ``owners``: parameters and block inputs -> their blocks."""
    strange = [owners[leaf] for leaf in _leaves(h) if k not in owners.get(leaf, [k])]
    if not strange:
        return
    other = min(strange, key=len)[0]  # a parameter shared by several blocks identifies the block least
    raise InputError(
        f"{names[k]} depends on {names[other]} past its input: a skip crosses a boundary between them; put both its ends into one block"
    )


def output_shapes(model: nn.Sequential, shape: Sequence[int], blank: Tensor | None = None) -> list[torch.Size]:
    """Return each block's output shape without the batch dimension; reject a network that cannot be cut at its block boundaries.

    Runs one blank image in eval mode, each block on a leaf copy of the previous block's output, and walks back each output's
    graph. No trace is left: modes, buffers, tensors stored on modules, random generators and ``.grad`` do not change.

    Args:
        model: the blocks, first to last.
        shape: [*in] of one input.
        blank: [N, *in] an input, of any type; default: one of zeros.

    Raises:
        InputError: a block whose output is not one real tensor, that overwrites its input in place, depends on another block
            past its input, or uses reentrant checkpointing; a TorchScript module.

    """
    names = [f"block {name}" if name.isdigit() else name for name in model._modules]
    if scripted := next((path for path, m in model.named_modules() if isinstance(m, torch.jit.ScriptModule)), None):
        raise InputError(f"{scripted} is a TorchScript module, whose parameters and buffers cannot be replaced; pass the module itself")
    owners: dict[Tensor, list[int]] = {}
    for k, block in enumerate(model):
        for p in block.parameters():
            owners.setdefault(p, []).append(k)
    first = next(model.parameters())
    h = torch.zeros(1, *shape, dtype=first.dtype) if blank is None else blank
    h = h.to(first.device, first.dtype if h.is_floating_point() else None)
    shapes, made = [], list[Tensor]()
    with _as_it_was(model), torch.enable_grad():
        for k, block in enumerate(model):
            read = [h, *(made[j] for j in _earlier(block, k, names))]
            leaves = [t.detach().requires_grad_(t.is_floating_point()) for t in read]
            owners |= {leaf: [k] for leaf in leaves}
            inputs = [leaf.clone() for leaf in leaves]  # torch would raise its own error for an in-place write to a leaf
            h = block(*inputs)
            _refuse_what_is_no_tensor(h, names[k], k == len(model) - 1)
            _refuse_overwriting(inputs, block, names[k], "the output of the block before it" if k else "the network's input")
            made.append(h)
            refuse_reentrant(h, names[k])
            _refuse_skip(h, k, owners, names)
            shapes.append(h.shape[1:])
    return shapes
