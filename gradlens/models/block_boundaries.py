"""What comes out of a network's blocks, and which networks cannot be cut between them: skips and overwriting are refused."""

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
    """Eval mode and random streams of its own inside; after it, each module's own mode, buffers and stashed tensors are back."""
    kept = [(m, dict(vars(m)), dict(m._buffers)) for m in model.modules()]
    contents = [(b, b._version, b.clone()) for b in model.buffers() if not is_lazy(b)]
    try:
        with eval_mode(model), forked():
            for m in model.modules():
                if isinstance(m, nn.modules.dropout._DropoutNd):
                    m.training = m.inplace  # in eval mode an in-place dropout does not show what it overwrites
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
    """Undo what a forward pass stashed on a module: it would keep the blank image's graph alive, or be read by the next pass."""
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
            raise InputError(f"{name} gives {h.dtype} numbers: a block must give floating-point ones, or no gradient goes back through it")
        return
    kind = type(h).__name__
    what = "None" if h is None else f"a {kind} of {len(h)}" if isinstance(h, Sized) else f"a {kind}"
    if is_top:
        raise InputError(f"{name} gives {what}: the network's answer must be one tensor")
    raise InputError(f"{name} gives {what}: a skip crosses the boundary to the block above; put both its ends into one block")


def _overwriter(block: nn.Module, x: Tensor) -> str:
    """The dotted path of the innermost module of a block that overwrites the block's input; empty: the block itself."""
    x, running, found = x.clone(), list[int](), list[str]()  # running: the copy's version when each running module began

    def begin(*_: object) -> None:
        running.append(x._version)

    def end(path: str) -> Callable[..., None]:
        return lambda *_: found.append(path) if running.pop() != x._version else None

    handles = [m.register_forward_pre_hook(begin) for m in block.modules()]
    handles += [m.register_forward_hook(end(path)) for path, m in block.named_modules()]
    try:
        block(x)
    finally:
        for handle in handles:
            handle.remove()
    return next(iter(found), "")  # a module ends after the modules within it


def _leaves(h: Tensor) -> list[Tensor]:
    """The leaves (parameters, block inputs) that a tensor's graph goes back to."""
    return [node.variable for node in graph_nodes(h) if isinstance(node, torch._C._functions.AccumulateGrad)]


def is_compiled(module: nn.Module) -> bool:
    """Whether a module, or one within it, was given to ``torch.compile`` or compiled in place."""
    return any(type(m).__name__ == "OptimizedModule" or m._compiled_call_impl is not None for m in module.modules())


def keep_compiled_graphs() -> None:
    """Let what is compiled from now on in this process go backward more than once, as recorded steps do."""
    import torch._functorch.config  # not there by `import torch` alone

    torch._functorch.config.donated_buffer = False


def refuse_reentrant(h: Tensor, name: str) -> None:
    """Refuse what a block gave where it was made under reentrant gradient checkpointing.

    Raises:
        InputError: it was.

    """
    if is_reentrant(h):
        raise InputError(
            f"{name} is checkpointed with use_reentrant=True, for which torch allows loss.backward() alone and no gradient of a block:"
            " checkpoint(..., use_reentrant=False) gives the same gradients"
        )


def _refuse_overwriting(x: Tensor, block: nn.Module, name: str, lost: str) -> None:
    """``x``: the fresh copy that the block has read."""
    if not x._version:
        return
    path = _overwriter(block, x.detach())
    where = f" ({name}.{path})" if path else ""
    raise InputError(f"{name} begins with an in-place operation{where}, which would overwrite {lost}: use inplace=False")


def _refuse_skip(h: Tensor, k: int, owners: dict[Tensor, list[int]], names: Sequence[str]) -> None:
    """``owners``: parameters and block inputs -> the blocks they belong to."""
    strange = [owners[leaf] for leaf in _leaves(h) if k not in owners.get(leaf, [k])]
    if not strange:
        return
    other = min(strange, key=len)[0]  # a parameter that several blocks share says least about which of them is read
    raise InputError(
        f"{names[k]} reads from {names[other]} past its input: a skip crosses a boundary between them; put both its ends into one block"
    )


def output_shapes(model: nn.Sequential, shape: Sequence[int]) -> list[torch.Size]:
    """Each block's output shape without the batch dimension; refuses a network that cannot be cut at its block boundaries.

    Found by running one blank image in eval mode, each block on a leaf copy of what the one below gave, and by walking back
    each output's graph. No trace is left: modes, buffers, tensors stashed on modules, random streams and ``.grad`` stay.

    Args:
        model: the blocks, bottom first.
        shape: [*in] of one input.

    Raises:
        InputError: a block that hands on something other than one tensor of reals, overwrites its input in place, reads from another
            block past its input, or is checkpointed in a way that gives no gradients of blocks; a TorchScript module.

    """
    names = [f"block {name}" if name.isdigit() else name for name in model._modules]
    if scripted := next((path for path, m in model.named_modules() if isinstance(m, torch.jit.ScriptModule)), None):
        raise InputError(f"{scripted} is a TorchScript module, whose parameters and buffers cannot be exchanged: give the module itself")
    owners: dict[Tensor, list[int]] = {}
    for k, block in enumerate(model):
        for p in block.parameters():
            owners.setdefault(p, []).append(k)
    first = next(model.parameters())
    h, shapes = torch.zeros(1, *shape, dtype=first.dtype, device=first.device), []
    with _as_it_was(model), torch.enable_grad():
        for k, block in enumerate(model):
            leaf = h.detach().requires_grad_()
            owners[leaf] = [k]
            x = leaf.clone()  # a leaf that takes a gradient cannot be overwritten: torch would complain in its own words
            h = block(x)
            _refuse_what_is_no_tensor(h, names[k], k == len(model) - 1)
            _refuse_overwriting(x, block, names[k], "what the block below gave" if k else "the network's input")
            refuse_reentrant(h, names[k])
            _refuse_skip(h, k, owners, names)
            shapes.append(h.shape[1:])
    return shapes
