"""Layers on graphs in plain torch: graph convolution (GCN), Chebyshev filters, GraphSAGE with the mean, graph attention (GAT).

A layer reads one row per node, [N, in], and takes the edges from the step's context, which carries no gradient. Every weight matrix
belongs to an ``nn.Linear``, so that it has rows in every table and feedback rules can replace it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from gradlens.runtime.errors import InputError
from gradlens.runtime.step_context import current_context


class WeightedEdges(NamedTuple):
    """A sparse matrix over nodes: row ``target`` sums ``weight`` times the row ``source`` of its argument."""

    source: Tensor  # [E]
    target: Tensor  # [E]
    weight: Tensor  # [E], or [E, heads]

    def __matmul__(self, x: Tensor) -> Tensor:
        """Compute the product with x [N, *], where a weight per head applies to x [N, heads, D]."""
        weight = self.weight.to(x.dtype).reshape(len(self.source), *self.weight.shape[1:], *[1] * (x.ndim - self.weight.ndim))
        return torch.zeros_like(x).index_add(0, self.target, x.index_select(0, self.source) * weight)


@dataclass(frozen=True, eq=False)
class Adjacency:
    """The edges of an undirected graph: each in both directions, once, without self-loops; weights are computed when first used.

    Attributes:
        source: [E] int64, node that an edge leaves.
        target: [E] int64, node that it enters.
        nodes: number of nodes N.

    """

    source: Tensor
    target: Tensor
    nodes: int

    @cached_property
    def degree(self) -> Tensor:
        """Return the number of neighbours of each node, [N] in float64."""
        return torch.bincount(self.target, minlength=self.nodes).double()

    @cached_property
    def loops(self) -> tuple[Tensor, Tensor]:
        """Return (source, target) of the edges and of one self-loop per node."""
        own = torch.arange(self.nodes, device=self.source.device)
        return torch.cat([self.source, own]), torch.cat([self.target, own])

    @cached_property
    def normalized(self) -> WeightedEdges:
        """Return D^-½ (A + I) D^-½, with D the degrees of A + I."""
        (source, target), scale = self.loops, (self.degree + 1).rsqrt()
        return WeightedEdges(source, target, scale[source] * scale[target])

    @cached_property
    def laplacian(self) -> WeightedEdges:
        """Return −D^-½ A D^-½: the symmetric Laplacian, rescaled with the largest eigenvalue 2; nodes without neighbours have zeros."""
        scale = self.degree.clamp(min=1).rsqrt()
        return WeightedEdges(self.source, self.target, -scale[self.source] * scale[self.target])

    @cached_property
    def mean(self) -> WeightedEdges:
        """Return D^-1 A, the mean over neighbours; zeros for nodes without neighbours."""
        return WeightedEdges(self.source, self.target, self.degree.clamp(min=1).reciprocal()[self.target])


EDGES = "edges"  # name of the edges [2, E] in a step's context: (source, target), each edge in both directions

_adjacencies = WeakTensorKeyDictionary()


def current_adjacency(nodes: int) -> Adjacency:
    """Return the graph of the step's context; its weights are computed once for each tensor of edges.

    Raises:
        InputError: there is none.

    """
    edges = current_context().get(EDGES)
    if edges is None:
        raise InputError("a graph layer ran on data without edges: graph networks need --task graphs")
    found: Adjacency | None = _adjacencies.get(edges)  # type: ignore[no-untyped-call]
    if found is None or found.nodes != nodes:
        found = _adjacencies[edges] = Adjacency(edges[0].clone(), edges[1].clone(), nodes)  # no views, which would keep the key alive
    return found


def _glorot(*weights: Tensor) -> None:
    for w in weights:
        nn.init.xavier_uniform_(w)


class GraphLayer(nn.Module, ABC):
    """A layer on the graph of the step's context: x [N, in] -> [N, out]. Weights are initialised by Glorot's rule, biases by 0."""

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer on the current graph."""
        return self.on_graph(x, current_adjacency(len(x)))

    @abstractmethod
    def on_graph(self, x: Tensor, graph: Adjacency) -> Tensor:
        """Compute the layer's output [N, out] from rows [N, in] of the nodes of a graph."""


class GraphConv(GraphLayer):
    """Graph convolution Â X Wᵀ + b with Â = D^-½ (A + I) D^-½ (Kipf & Welling 2017, arXiv 1609.02907, eq. 2)."""

    def __init__(self, features: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, out)
        _glorot(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def on_graph(self, x: Tensor, graph: Adjacency) -> Tensor:
        """Multiply by W before the sum over neighbours: it has fewer columns."""
        out: Tensor = graph.normalized @ F.linear(x, self.linear.weight) + self.linear.bias
        return out


class TwoTermConv(GraphLayer):
    """X W₀ᵀ + S X W₁ᵀ + b: a node's own row, and a weighted sum S over its neighbours'."""

    def __init__(self, features: int, out: int) -> None:
        super().__init__()
        self.own = nn.Linear(features, out)
        self.neighbours = nn.Linear(features, out, bias=False)
        _glorot(self.own.weight, self.neighbours.weight)
        nn.init.zeros_(self.own.bias)

    @abstractmethod
    def sums(self, graph: Adjacency) -> WeightedEdges:
        """Return S."""

    def on_graph(self, x: Tensor, graph: Adjacency) -> Tensor:
        """Add both terms."""
        out: Tensor = self.own(x) + self.sums(graph) @ self.neighbours(x)
        return out


class ChebConv(TwoTermConv):
    """Chebyshev filter of two terms, S = L̂ = −D^-½ A D^-½ (Defferrard et al. 2016, arXiv 1606.09375, K = 2)."""

    def sums(self, graph: Adjacency) -> WeightedEdges:
        """Return the rescaled Laplacian."""
        return graph.laplacian


class SAGEConv(TwoTermConv):
    """GraphSAGE with the mean over neighbours, S = D^-1 A (Hamilton et al. 2017, arXiv 1706.02216); outputs are not normalised."""

    def sums(self, graph: Adjacency) -> WeightedEdges:
        """Return the mean over neighbours."""
        return graph.mean


class GATConv(GraphLayer):
    """Graph attention (Veličković et al. 2018, arXiv 1710.10903): H heads, Σ_j α_ij W x_j over neighbours and the node itself, then + b.

    α_ij = softmax over j of LeakyReLU(a_target · W x_i + a_source · W x_j), slope 0.2; heads are concatenated.

    Args:
        features: input features.
        out: output features of each head.
        heads: number of heads.
        dropout: share of the attention coefficients that training sets to 0.

    """

    def __init__(self, features: int, out: int, heads: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.linear = nn.Linear(features, heads * out)
        self.attention_source = nn.Parameter(torch.empty(heads, out))
        self.attention_target = nn.Parameter(torch.empty(heads, out))
        self.drop = nn.Dropout(dropout)
        _glorot(self.linear.weight, self.attention_source, self.attention_target)
        nn.init.zeros_(self.linear.bias)

    def attention(self, h: Tensor, graph: Adjacency) -> WeightedEdges:
        """Compute α, one weight per edge and head, from h = W x [N, heads, out]; weights of the edges into a node sum to 1."""
        source, target = graph.loops
        scores = (h * self.attention_source).sum(2).index_select(0, source) + (h * self.attention_target).sum(2).index_select(0, target)
        scores = F.leaky_relu(scores, 0.2)
        into = target[:, None].expand_as(scores)
        largest = scores.detach().new_zeros(graph.nodes, self.heads).scatter_reduce(0, into, scores.detach(), "amax", include_self=False)
        weights = (scores - largest.index_select(0, target)).exp()
        total = weights.new_zeros(graph.nodes, self.heads).index_add(0, target, weights)
        return WeightedEdges(source, target, weights / total.index_select(0, target))

    def on_graph(self, x: Tensor, graph: Adjacency) -> Tensor:
        """Sum over neighbours with the attention's weights, some of them dropped in training."""
        h = F.linear(x, self.linear.weight).view(len(x), self.heads, -1)
        edges = self.attention(h, graph)
        out: Tensor = (edges._replace(weight=self.drop(edges.weight)) @ h).flatten(1) + self.linear.bias
        return out
