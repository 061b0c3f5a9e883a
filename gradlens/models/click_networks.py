"""Build networks on rows of ids, as named blocks: ``embedding``, the layers of each branch, and ``top``, the log odds [N, 1].

The branches stand one after the other: a branch that begins with the vectors reads them from the first block instead of its predecessor.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import nn

from gradlens.models.click_layers import Cross, FieldAttention, FieldVectors, Hidden, LogarithmicNeurons, Logit, Widened
from gradlens.models.spec import ModelSpec
from gradlens.models.transformer import CausalAttention
from gradlens.runtime.errors import InputError

ATTENTION = 32  # features of a field in autoint's attention


def _hidden_layers(spec: ModelSpec, n: int, width: int, depth: int, reads: int | None = None) -> OrderedDict[str, nn.Module]:
    """Build ``depth`` hidden layers on n features, hidden1, hidden2, …"""
    found: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(1, depth + 1):
        found[f"hidden{i}"] = Hidden(n, width, spec.act(), spec.dropout, reads if i == 1 else None)
        n = width
    return found


def _checked(spec: ModelSpec, name: str) -> None:
    if spec.stem is not None:
        raise InputError(f"--stem sets the first convolution's kernel and {name} has no convolution")


def deepfm(spec: ModelSpec) -> nn.Sequential:
    """Vectors and a weight of each id; their pairs' inner products, the weights, and an MLP on the vectors, summed up.

    Guo et al. 2017 (arXiv 1703.04247). ``embedding`` = numbers of a vector (10), ``width`` = units (400) and ``depth`` = layers (3) of the
    MLP, Linear–BatchNorm–activation–dropout each. Under direct feedback the vectors learn from the pairs alone, as in Launay et al. 2020.
    """
    _checked(spec, "deepfm")
    k, width, depth = spec.embedding or 10, spec.width or 400, spec.depth or 3
    vectors = FieldVectors(spec.shape, k, single=True, exact_from=0)
    blocks: OrderedDict[str, nn.Module] = OrderedDict(embedding=vectors)
    blocks |= _hidden_layers(spec, vectors.fields * k, width, depth)
    return nn.Sequential(OrderedDict(blocks, top=Logit(width, (), vectors, with_pairs=True)))


def deep_cross(spec: ModelSpec) -> nn.Sequential:
    """Vectors of each id, ``interactions`` = 6 cross layers and an MLP beside them, and a linear function of both.

    Wang et al. 2017 (arXiv 1708.05123). ``embedding`` = numbers of a vector (16), ``width`` = units (1024) and ``depth`` = layers (2) of
    the MLP, Linear–BatchNorm–activation–dropout each.
    """
    _checked(spec, "deep-cross")
    k, width, depth = spec.embedding or 16, spec.width or 1024, spec.depth or 2
    vectors = FieldVectors(spec.shape, k, single=False)
    n, layers = vectors.fields * k, spec.interactions or 6
    blocks: OrderedDict[str, nn.Module] = OrderedDict(embedding=vectors)
    blocks |= {f"cross{i + 1}": Cross(n, first=i == 0) for i in range(layers)}
    blocks |= _hidden_layers(spec, n, width, depth, reads=0)
    return nn.Sequential(OrderedDict(blocks, top=Logit(width, [(layers, n)])))


def autoint(spec: ModelSpec) -> nn.Sequential:
    """Vectors and a weight of each id; ``interactions`` = 3 layers of attention over the fields, and an MLP beside them; summed up.

    Song et al. 2019 (arXiv 1810.11921). ``embedding`` = numbers of a vector (16), widened to 32 for the attention, of ``heads`` = 2;
    ``width`` = units (400) and ``depth`` = layers (3) of the MLP, Linear–BatchNorm–activation–dropout each.
    """
    _checked(spec, "autoint")
    k, width, depth, layers = spec.embedding or 16, spec.width or 400, spec.depth or 3, spec.interactions or 3
    if ATTENTION % (heads := spec.heads or 2):
        raise InputError(f"--heads {heads} do not divide the {ATTENTION} features of autoint's attention: set 1, 2, 4, 8, 16 or 32")
    vectors = FieldVectors(spec.shape, k, single=True)
    fields = vectors.fields
    blocks: OrderedDict[str, nn.Module] = OrderedDict(embedding=vectors, widened=Widened(fields, k, ATTENTION))
    for i in range(1, layers + 1):
        residual = Widened(fields, k, ATTENTION) if i == layers else None
        blocks[f"attention{i}"] = FieldAttention(fields, CausalAttention(ATTENTION, heads, 0.0, causal=False), residual)
    blocks |= _hidden_layers(spec, fields * k, width, depth, reads=0)
    return nn.Sequential(OrderedDict(blocks, top=Logit(width, [(layers + 1, fields * ATTENTION)], vectors)))


def afn(spec: ModelSpec) -> nn.Sequential:
    """Vectors and a weight of each id; ``interactions`` = 1500 logarithmic neurons, an MLP on them, and the weights, summed up.

    Cheng, Shen & Huang 2020 (arXiv 1909.03276). ``embedding`` = numbers of a vector (10), ``width`` = units (400) and ``depth`` = layers
    (3) of the MLP, Linear–BatchNorm–activation–dropout each.
    """
    _checked(spec, "afn")
    k, width, depth, neurons = spec.embedding or 10, spec.width or 400, spec.depth or 3, spec.interactions or 1500
    vectors = FieldVectors(spec.shape, k, single=True)
    blocks: OrderedDict[str, nn.Module] = OrderedDict(embedding=vectors, logarithms=LogarithmicNeurons(vectors.fields, k, neurons))
    blocks |= _hidden_layers(spec, neurons * k, width, depth)
    return nn.Sequential(OrderedDict(blocks, top=Logit(width, (), vectors)))


CLICK_NETWORKS: dict[str, Callable[[ModelSpec], nn.Sequential]] = {
    "deepfm": deepfm,
    "deep-cross": deep_cross,
    "autoint": autoint,
    "afn": afn,
}
