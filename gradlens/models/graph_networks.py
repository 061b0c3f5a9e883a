"""Build networks on graphs, as named blocks: a graph layer with its activation each, and the output block ``top``, a graph layer too.

Nodes are classified [N, features] -> [N, classes]. Without ``--depth`` there is one block below the output block.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import nn

from gradlens.models.graph_layers import ChebConv, GATConv, GraphConv, GraphLayer, SAGEConv
from gradlens.models.spec import ModelSpec, numbered
from gradlens.runtime.errors import InputError

HEADS = 8  # of gat, each of 8 features


def _refuse_images_options(spec: ModelSpec, name: str) -> None:
    if spec.stem is not None:
        raise InputError(f"--stem sets the first convolution's kernel and {name} has no kernel")


def convolutional(layer: Callable[[int, int], GraphLayer], name: str, what: str) -> Callable[[ModelSpec], nn.Sequential]:
    """Return the builder of a network whose layers all are of one kind; blocks are layer(``width`` = 16)–activation–dropout."""

    def build(spec: ModelSpec) -> nn.Sequential:
        _refuse_images_options(spec, name)
        (size,), blocks = spec.shape, list[nn.Module]()
        for _ in range(spec.depth or 1):
            inside: OrderedDict[str, nn.Module] = OrderedDict(conv=layer(size, spec.width or 16), act=spec.act())
            if spec.dropout:
                inside["drop"] = nn.Dropout(spec.dropout)
            blocks.append(nn.Sequential(inside))
            size = spec.width or 16
        return numbered(blocks, nn.Sequential(OrderedDict(out=layer(size, spec.classes))))

    build.__doc__ = f"``depth`` (1) blocks of {what}(``width`` = 16)–activation–dropout, then such a layer to the classes."
    return build


def gat(spec: ModelSpec) -> nn.Sequential:
    """``depth`` (1) blocks of dropout–graph attention–ELU (8 ``heads`` of ``width`` = 8 features), then dropout and one head.

    ``relu``, the default activation, is ELU here. ``attention_dropout`` is that of the attention coefficients, one number for all layers,
    or the hidden layers' and the output layer's.
    """
    _refuse_images_options(spec, "gat")
    heads, width, depth = spec.heads or HEADS, spec.width or 8, spec.depth or 1
    given = spec.attention_dropout or (0.0,)
    if len(given) > 2:
        raise InputError(f"--attention-dropout has {len(given)} numbers: give one, or one of the hidden layers and one of the output layer")
    (size,), blocks = spec.shape, list[nn.Module]()
    for _ in range(depth):
        conv = GATConv(size, width, heads, given[0])
        act = nn.ELU() if spec.activation == "relu" else spec.act()
        blocks.append(nn.Sequential(OrderedDict(drop=nn.Dropout(spec.dropout), conv=conv, act=act)))
        size = heads * width
    return numbered(blocks, nn.Sequential(OrderedDict(drop=nn.Dropout(spec.dropout), out=GATConv(size, spec.classes, 1, given[-1]))))


GRAPH_NETWORKS: dict[str, Callable[[ModelSpec], nn.Sequential]] = {
    "gcn": convolutional(GraphConv, "gcn", "graph convolution"),
    "cheb": convolutional(ChebConv, "cheb", "Chebyshev filter of two terms"),
    "sage": convolutional(SAGEConv, "sage", "GraphSAGE with the mean"),
    "gat": gat,
}
