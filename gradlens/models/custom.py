"""Load networks from a user's own file."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gradlens.models.block_boundaries import is_compiled, keep_compiled_graphs, output_shapes
from gradlens.models.fx_split import cut_module
from gradlens.models.spec import ModelSpec, numbered
from gradlens.runtime.errors import InputError, kind_of
from gradlens.runtime.step_context import Context, step_context
from gradlens.runtime.user_code import blamed, function_in


class Sample(NamedTuple):
    """What a network is tried on where the examples are no images: an input, and what the task says of its items."""

    x: Tensor  # [N, *shape]
    context: Context  # what all blocks may read
    example: str  # "sequence", "node"
    item: str  # "token", "node"
    items: tuple[int, ...]  # dimensions of an example that count items: (T,) of tokens, () where it is one


def blocks_of(built: Any, shape: Sequence[int], where: str, x: Tensor | None = None) -> nn.Sequential:
    """Convert the result of a user's ``build(spec)`` to a network of named blocks.

    Args:
        built: an ``nn.Sequential`` of blocks; a list of blocks; or (module, cut points), see :func:`gradlens.models.fx_split.cut_module`.
        shape: of an example: (C, H, W) of an image.
        where: name of the function, for messages.
        x: [N, *shape] an input on which blocks and module are compared; None: images of noise.

    Raises:
        InputError: another type, or invalid cut points.

    """
    if isinstance(built, nn.Sequential):
        if type(built).forward is not nn.Sequential.forward:
            raise InputError(f"{where} gives a {type(built).__name__} with a forward of its own: return it with cut points, (module, cuts)")
        blocks = built
    elif isinstance(built, tuple) and len(built) == 2 and isinstance(built[0], nn.Module) and not isinstance(built[1], nn.Module):
        module, cuts = built
        if isinstance(cuts, str) or not isinstance(cuts, Sequence) or not all(isinstance(cut, str) for cut in cuts):
            raise InputError(f"{where} gives cut points {cuts!r}: wanted a list of dotted paths of submodules, as ['layer1.0', 'layer2.0']")
        return cut_module(module, cuts, shape, where, x=x)
    elif isinstance(built, list | tuple | nn.ModuleList):
        if strange := [block for block in built if not isinstance(block, nn.Module)]:
            raise InputError(f"{where} gives a list with {kind_of(strange[0])} in it: every block must be an nn.Module")
        if not len(built):
            raise InputError(f"{where} gives no blocks")
        blocks = numbered(list(built)[:-1], built[-1])
    else:
        what = "None" if built is None else kind_of(built)
        if type(built).__name__ == "OptimizedModule":
            raise InputError(f"{where} gives a compiled network: compile its blocks, or give it as it is and set --compile")
        raise InputError(
            f"{where} gives {what}: wanted a list of blocks, an nn.Sequential of named blocks, or (module, cut points), the dotted"
            " paths of the submodules after which it is cut"
        )
    if len(blocks) < 2:
        raise InputError(f"{where} gives {len(blocks) or 'no'} block{'s' * (len(blocks) != 1)}: a network needs one or more and a top")
    return blocks


def _must_be_alike(built: Any, again: Any, where: str) -> None:
    """Check that two networks built with the same seed have the same weights, so that runs are reproducible."""
    first, second = (
        [m for m in (thing if isinstance(thing, list | tuple) else [thing]) if isinstance(m, nn.Module)] for thing in (built, again)
    )
    for one, other in zip(first, second, strict=False):
        if lazy := next((name for name, p in one.named_parameters() if is_lazy(p)), None):
            raise InputError(f"{where} gives a network whose {lazy} has no shape yet: set the layer's input features, or run it once")
        mine, theirs = one.state_dict(), other.state_dict()
        for name in mine.keys() & theirs.keys():
            if isinstance(mine[name], Tensor) and not torch.equal(mine[name], theirs[name]):
                raise InputError(f"{where} gives another {name} each time: draw weights with torch, which --seed seeds")


def _must_be_real_and_dense(model: nn.Module, where: str) -> None:
    """Reject complex parameters and sparse gradients, which the optimisers here do not support."""
    for name, p in model.named_parameters():
        if p.is_complex():
            raise InputError(
                f"{where}: {name} is complex ({p.dtype}); keep its real and imaginary part as a real parameter (torch.view_as_real)"
            )
    for name, module in model.named_modules():
        if getattr(module, "sparse", False) is True:
            raise InputError(f"{where}: {name} ({type(module).__name__}) gives sparse gradients; set sparse=False")


def _refuse_other_dtypes(model: nn.Module, where: str) -> None:
    """Reject parameters that are not float32, the type of the images and the rules' own modules."""
    for name, p in model.named_parameters():
        if p.dtype != torch.float32 and (p.is_floating_point() or p.is_complex()):
            kind = str(p.dtype).removeprefix("torch.")
            more = "; --precision bf16 computes in bfloat16" if p.dtype in (torch.bfloat16, torch.float16) else ""
            raise InputError(f"{where} gives a network of {kind} numbers ({name}): networks are trained in float32{more}")


def _copied(model: nn.Sequential, where: str) -> nn.Sequential:
    """Make a deep copy of a network, as measurements do.

    Raises:
        InputError: it cannot be copied; the innermost module that fails is named.

    """
    try:
        return copy.deepcopy(model)
    except Exception as error:
        for path, m in reversed(list(model.named_modules())):  # from the inside
            try:
                copy.deepcopy(m)
            except Exception as why:  # noqa: BLE001 - a user's attribute may raise anything
                reason = str(why).splitlines()[0] if str(why) else type(why).__name__
                at = path or "the network"
                break
        else:
            raise AssertionError from error
        old = any(getattr(hook, "__module__", "") == "torch.nn.utils.weight_norm" for hook in m._forward_pre_hooks.values())
        hint = "; torch.nn.utils.parametrizations.weight_norm can be copied" if old else ""
        what = f"{where}: {at} ({type(m).__name__}) cannot be copied with copy.deepcopy, as checks and measurements do"
        raise InputError(f"{what}: {reason.rstrip('.')}{hint}") from error


def network_of(kept: Mapping[str, Any], spec: ModelSpec, sample: Sample | None = None) -> nn.Sequential:
    """Build the network of a user's ``build(spec)`` and check it on a blank image, or on a sample of another task."""
    path, name = Path(kept["file"]), kept["name"]
    where = f"{path}:{name}"
    build = function_in(path, name, "from a spec to a network")
    stream = torch.get_rng_state()
    with blamed(f"{where} raised"):
        built = build(spec)
        after = torch.get_rng_state()
        torch.set_rng_state(stream)
        _must_be_alike(built, build(spec), where)
        torch.set_rng_state(after)
    what, x = f"{sample.example if sample else 'image'}s", None if sample is None else sample.x
    with blamed(f"{where}: its network does not take {what} of {'x'.join(map(str, spec.shape))}"), step_context(sample and sample.context):
        model = blocks_of(built, spec.shape, where, x)
        if not any(p.requires_grad for p in model.parameters()):
            raise InputError(f"{where} gives a network without parameters to train")
        _must_be_real_and_dense(model, where)
        _refuse_other_dtypes(model, where)
        if is_compiled(model):
            keep_compiled_graphs()
        answer = tuple(output_shapes(model, spec.shape, x)[-1])
    copied = _copied(model, where)
    if sample is None:
        with blamed(f"{where}: its network does not take images in channels-last layout, in which it is trained"), torch.no_grad():
            twin: Any = copied.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            images = torch.zeros(2, *spec.shape).to(next(model.parameters())).contiguous(memory_format=torch.channels_last)
            output_shapes(twin, spec.shape, images)
    items, item = (sample.items, sample.item) if sample else ((), "image")
    if answer != (*items, spec.classes):
        got = "x".join(map(str, answer)) or "one number"
        each = f"{sample.example} of {'x'.join(map(str, items))} {item}s" if sample and items else item
        wanted = "x".join(map(str, (*items, spec.classes)))
        raise InputError(f"{where}: its top gives {got} for each {each}; wanted {wanted}, one number a class (spec.classes)")
    return model
