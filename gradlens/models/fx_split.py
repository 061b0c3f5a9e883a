"""Cut any module into blocks at the outputs of some of its submodules, using its torch.fx graph."""

from __future__ import annotations

import copy
import inspect
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from gradlens.runtime.errors import InputError, unknown
from gradlens.runtime.rng import forked, seed_global


class NoPlace(InputError):
    """A cut point without a unique place to cut."""

    def __init__(self, cut: str, where: str, why: str) -> None:
        super().__init__(f"{where}: cut point {cut} {why}")
        self.cut = cut


class _Tracer(fx.Tracer):
    """A tracer that traces only submodules with a cut point inside, and stores the output at each; others stay whole."""

    def __init__(self, cuts: Sequence[str]) -> None:
        super().__init__()
        self.cuts = cuts
        self.ends: dict[str, list[Any]] = {cut: [] for cut in cuts}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a submodule stays whole."""
        return not any(cut.startswith(module_qualified_name + ".") for cut in self.cuts)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Trace the call of a submodule."""
        out = super().call_module(m, forward, args, kwargs)
        path = self.path_of_module(m)
        if path in self.ends:
            self.ends[path].append(out)
        return out


def _traced(module: nn.Module, cuts: Sequence[str], where: str) -> tuple[fx.Graph, dict[str, fx.Node]]:
    """Trace a module (which is modified) and return its graph and the output node of each cut point."""
    parameters = list(inspect.signature(module.forward).parameters.values())
    if len([p for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]) != 1:
        raise InputError(f"{where} cannot be cut: the forward of {type(module).__name__} must have one required argument, the input tensor")
    fixed = {p.name: p.default for p in parameters if p.default is not p.empty}
    tracer = _Tracer(cuts)
    try:
        graph = tracer.trace(module, concrete_args=fixed or None)
    except Exception as error:  # fx raises whatever the forward raises for a tensor without values
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{where} cannot be cut: torch.fx cannot trace the forward of {type(module).__name__}: {reason}") from error
    if any(name.startswith("_tensor_constant") for name in vars(module)):
        raise InputError(
            f"{where} cannot be cut: the forward of {type(module).__name__} makes a tensor that does not depend on the image (as"
            " torch.arange and torch.randn do): make it a buffer, or move it into a submodule"
        )
    for node in [n for n in graph.nodes if n.op == "placeholder"][1:]:  # arguments fixed at their defaults, which fx asserts
        above = [node]
        for each in above:  # grows as it is walked
            above += [user for user in each.users if user not in above]
        for each in reversed(above):
            graph.erase_node(each)
    ends: dict[str, fx.Node] = {}
    for cut, outs in tracer.ends.items():
        if not outs:
            raise NoPlace(cut, where, f"is not called in the forward of {type(module).__name__}")
        if len(outs) > 1:
            raise NoPlace(cut, where, f"is called {len(outs)} times: there is no one place after it")
        if not isinstance(outs[0], fx.Proxy):
            raise NoPlace(cut, where, f"returns a {type(outs[0]).__name__}: a block's output must be one tensor")
        ends[cut] = outs[0].node
    return graph, ends


def _steady(module: nn.Module, cuts: Sequence[str], where: str) -> tuple[fx.Graph, dict[str, fx.Node]]:
    """Return the graph in training mode; reject a module whose graph differs between traces or in eval mode."""
    module, kind = copy.deepcopy(module).train(), type(module).__name__  # tracing runs the side effects of a forward
    graph, ends = _traced(module, cuts, where)
    again, _ = _traced(module, cuts, where)
    tested, _ = _traced(module.eval(), cuts, where)
    if str(again) != str(graph):
        raise InputError(f"{where} cannot be cut: the forward of {kind} differs from call to call; does it use Python's random?")
    if str(tested) != str(graph):
        raise InputError(
            f"{where} cannot be cut: the forward of {kind} depends on self.training; move that code (F.dropout) into a"
            " submodule (nn.Dropout)"
        )
    return graph, ends


def _named(node: fx.Node) -> str:
    """Name a node, for messages."""
    if node.op == "placeholder":
        return "the network's input"
    if node.op == "call_module":
        return str(node.target)
    scope = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values() if path]
    inside = f" in {scope[-1]}" if scope else ""
    return f"`{node.target if isinstance(node.target, str) else getattr(node.target, '__name__', node.name)}`{inside}"


def _refuse_skips(order: dict[fx.Node, int], cut: str, end: fx.Node, where: str) -> None:
    """Reject a cut point that another value crosses: computed before it and used after it."""
    for node in order:
        if node is end or node.op == "get_attr" or order[node] > order[end]:
            continue
        later = next((user for user in node.users if order[user] > order[end]), None)
        if later is not None:
            reader = "the network's output" if later.op == "output" else _named(later)
            raise InputError(f"{where}: a skip crosses the cut point {cut}: {_named(node)} is read by {reader} past it; cut elsewhere")


def _block(module: nn.Module, nodes: Sequence[fx.Node], read: fx.Node, given: fx.Node) -> nn.Module:
    """Build a module of the nodes between two cuts: the submodule itself if it is the only one, else a GraphModule."""
    whole = [node for node in nodes if node.op != "placeholder"]
    if len(whole) == 1 and whole[0].op == "call_module" and whole[0].args == (read,) and not whole[0].kwargs:
        return module.get_submodule(str(whole[0].target))
    graph, copied = fx.Graph(), dict[fx.Node, fx.Node]()
    copied[read] = graph.placeholder("x")

    def of(node: fx.Node) -> fx.Node:
        if node not in copied:  # a parameter, fetched where it is used
            copied[node] = graph.node_copy(node)
        return copied[node]

    for node in whole:
        if node.op != "get_attr":
            copied[node] = graph.node_copy(node, of)
    graph.output(copied[given])
    graph.lint()
    return fx.GraphModule(module, graph, class_name="Block")


def _reshaped(graph: fx.Graph, tripled: bool, out_of_place: bool) -> None:
    """Repeat one channel three times (``tripled``), and make in-place functions out-of-place (``out_of_place``).

    ``view`` becomes ``reshape``, since networks are trained on channels-last images.
    """
    if tripled:
        x = next(node for node in graph.nodes if node.op == "placeholder")
        with graph.inserting_after(x):
            three = graph.call_function(torch.cat, ([x, x, x], 1))
        x.replace_all_uses_with(three, delete_user_cb=lambda user: user is not three)
    for node in graph.nodes:
        if node.op == "call_method" and node.target == "view":
            node.target = "reshape"
        if out_of_place and node.kwargs.get("inplace"):
            node.kwargs = {**node.kwargs, "inplace": False}


def _refuse_unknown(module: nn.Module, cuts: Sequence[str], where: str) -> None:
    paths = [name for name, _ in module.named_modules() if name]
    for cut in cuts:
        if cut not in paths:
            raise InputError(f"{where}: cut point {cut!r} does not exist: {unknown('submodule', cut, paths)}")
    if twice := sorted({cut for cut in cuts if list(cuts).count(cut) > 1}):
        raise InputError(f"{where}: cut point {twice[0]} is named twice")
    if not cuts:
        raise InputError(f"{where} returns no cut points: set one or more")


def cuts_without_skips(module: nn.Module, cuts: Sequence[str], where: str) -> list[str]:
    """Select the cut points that are called once, return one tensor and are crossed by no skip, in the order of the forward pass.

    Raises:
        InputError: torch.fx cannot trace the module.

    """
    kept, module = list(cuts), copy.deepcopy(module)
    while kept:
        try:
            graph, ends = _traced(module, kept, where)
        except NoPlace as error:
            kept.remove(error.cut)
            continue
        order = {node: i for i, node in enumerate(graph.nodes)}
        crossed = []
        for cut, end in ends.items():
            try:
                _refuse_skips(order, cut, end, where)
            except InputError:
                crossed.append(cut)
        return sorted((cut for cut in kept if cut not in crossed), key=lambda cut: order[ends[cut]])
    return []


def _block_name(cut: str, taken: Sequence[str]) -> str:
    name = cut.replace(".", "_")
    while name in taken or hasattr(nn.Sequential, name):
        name += "_"
    return name


def cut_module(
    module: nn.Module,
    cuts: Sequence[str],
    shape: Sequence[int],
    where: str,
    names: Sequence[str] = (),
    tripled: bool = False,
    out_of_place: bool = False,
    x: Tensor | None = None,
) -> nn.Sequential:
    """Cut a module into a network of blocks, bit-identical to it in forward and backward; parameters are the module's own.

    A block is named after the cut point at its end (dots become underscores), the rest is ``top``. A block that is one submodule
    is that submodule; any other keeps the dotted paths of its submodules.

    Args:
        module: a module with one input [N, *shape] and one output tensor.
        cuts: dotted paths of submodules after whose output it is cut, in any order.
        shape: (C, H, W) of an image, for a comparison of the blocks with the uncut module.
        where: name of the module, for messages.
        names: names of the blocks except the last, if others are wanted.
        tripled: images have one channel and the module needs three.
        out_of_place: make functions that overwrite their input copy it instead.
        x: [N, *shape] an input for that comparison; None: images of noise.

    Raises:
        InputError: cut points that do not exist, are never or more than once called, or are crossed by a skip; a forward that torch.fx
            cannot trace, that depends on the training mode outside of submodules, or returns several tensors.

    """
    _refuse_unknown(module, cuts, where)
    graph, ends = _steady(module, cuts, where)
    _reshaped(graph, tripled, out_of_place)
    (image,) = [node for node in graph.nodes if node.op == "placeholder"]
    (output,) = [node for node in graph.nodes if node.op == "output"]
    if not isinstance(output.args[0], fx.Node):
        raise InputError(f"{where}: the forward of {type(module).__name__} returns several outputs: the output must be one tensor")
    order = {node: i for i, node in enumerate(graph.nodes)}
    ordered = sorted(ends, key=lambda cut: order[ends[cut]])
    for cut in ordered:
        _refuse_skips(order, cut, ends[cut], where)
    if ends[ordered[-1]] is output.args[0]:
        raise InputError(f"{where}: nothing comes after the cut point {ordered[-1]}: the output block would be empty; leave it out")
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    read, begin = image, -1
    for i, end in enumerate([*(ends[cut] for cut in ordered), output.args[0]]):
        last = order[output] - 1 if i == len(ordered) else order[end]
        nodes = [node for node in graph.nodes if begin < order[node] <= last and node.op != "placeholder"]
        if not nodes:
            raise InputError(f"{where}: cut points {ordered[i - 1]} and {ordered[i]} are at the same place")
        name = "top" if i == len(ordered) else names[i] if names else _block_name(ordered[i], [*blocks, "top"])
        blocks[name] = _block(module, nodes, read, end)
        read, begin = end, last
    model = nn.Sequential(blocks)
    weight = next(module.parameters(), torch.zeros(()))
    if x is None:
        x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(weight)
    _must_agree(module, model, x.to(weight.device), where, tripled)
    return model


def _must_agree(module: nn.Module, model: nn.Sequential, x: Tensor, where: str, tripled: bool) -> None:
    """Check on copies that blocks and module give bit-identical outputs on an input, in training and eval mode.

    On torch's meta device, which has no values, only the types of the outputs are checked.
    """
    whole, cut = copy.deepcopy((module, model))  # copied together, so that they share what they shared
    for training in (False, True):
        answers: list[Tensor] = []
        for net in (nn.Sequential(whole), cut):
            h: Any = torch.cat([x] * 3, 1) if tripled and net is not cut else x.clone()
            with forked(), torch.no_grad():
                seed_global(0)
                for name, block in copy.deepcopy(net).train(training).named_children():
                    h = block(h)
                    if not isinstance(h, Tensor):
                        whose = f"the block that ends with {name}" if net is cut else type(module).__name__
                        raise InputError(f"{where}: {whose} returns a {type(h).__name__}: its output must be one tensor")
            answers.append(h)
        if not x.is_meta and not torch.allclose(answers[0], answers[1], rtol=0, atol=0, equal_nan=True):
            raise InputError(
                f"{where} cannot be cut: its blocks do not compute the output of {type(module).__name__}; its forward depends on something"
                " that torch.fx does not trace, such as a hook on the whole module"
            )
