"""Layers of networks on rows of ids: the table of vectors, the term of pairs, cross layers, attention and logarithmic neurons."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gradlens.models.transformer import CausalAttention


class FieldVectors(nn.Module):
    """A vector of k numbers for each id of each field, and with ``single`` a weight too: ids [N, F] -> [N, F·k (+ F)].

    The vectors come first, field by field, then the weights, which only the output block reads (``exact_from``). Vectors are drawn
    uniformly from ±√(6 / (ids + k)) (Glorot); the weights begin at 0.

    Args:
        sizes: number of ids of each field.
        k: numbers of a vector.
        single: whether there are weights.
        exact_from: first feature that only the output block trains where feedback replaces the gradient; None: those of the weights.

    """

    def __init__(self, sizes: Sequence[int], k: int, single: bool, exact_from: int | None = None) -> None:
        super().__init__()
        total = sum(sizes)
        self.fields, self.k = len(sizes), k
        self.table = nn.Embedding(total, k)
        nn.init.xavier_uniform_(self.table.weight)
        self.single = nn.Embedding(total, 1) if single else None
        if self.single is not None:
            nn.init.zeros_(self.single.weight)
            self.exact_from = self.fields * k if exact_from is None else exact_from
        self.register_buffer("offsets", torch.tensor([0, *sizes[:-1]]).cumsum(0), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids [N, F] to [N, F·k], or [N, F·k + F] with weights."""
        rows = ids + self.get_buffer("offsets")
        vectors = self.table(rows).flatten(1)
        return vectors if self.single is None else torch.cat([vectors, self.single(rows)[..., 0]], 1)


def pairs(v: Tensor) -> Tensor:
    """Compute the sum over pairs of fields of their vectors' inner products, [N, F, k] -> [N]: ½ Σ_k ((Σ_f v_fk)² − Σ_f v_fk²).

    The term of second order of a factorisation machine (Rendle 2010).
    """
    return 0.5 * (v.sum(1).square() - v.square().sum(1)).sum(1)


class Hidden(nn.Module):
    """Linear–BatchNorm–activation–dropout on features [N, n] -> [N, width].

    Args:
        n: features that are read: the first ones of what comes.
        width: features of the output.
        act: the activation.
        dropout: probability.
        reads: earlier block whose output is read instead of the predecessor's; None: the predecessor's.

    """

    def __init__(self, n: int, width: int, act: nn.Module, dropout: float, reads: int | None = None) -> None:
        super().__init__()
        self.n, self.reads_blocks = n, () if reads is None else (reads,)
        self.linear, self.norm, self.act, self.drop = nn.Linear(n, width), nn.BatchNorm1d(width), act, nn.Dropout(dropout)

    def forward(self, h: Tensor, *instead: Tensor) -> Tensor:
        """Map h, or the output that is read instead, to [N, width]."""
        (h,) = instead or (h,)
        out: Tensor = self.drop(self.act(self.norm(self.linear(h[:, : self.n]))))
        return out


class Cross(nn.Module):
    """c' = x₀ (w·c) + b + c on the features x₀ [N, n] of the vectors (Wang et al. 2017, arXiv 1708.05123).

    Args:
        n: features.
        first: whether c is x₀ itself, the predecessor's output; else x₀ is read from the first block.

    """

    def __init__(self, n: int, first: bool) -> None:
        super().__init__()
        self.reads_blocks = () if first else (0,)
        self.weight, self.bias = nn.Linear(n, 1, bias=False), nn.Parameter(torch.zeros(n))

    def forward(self, c: Tensor, *x0: Tensor) -> Tensor:
        """Map c [N, n] to [N, n]."""
        (x,) = x0 or (c,)
        out: Tensor = x * self.weight(c) + self.bias + c
        return out


class Widened(nn.Module):
    """A linear layer on each field's vector: [N, F·k (+ more)] -> [N, F·width], the first block's weights left out."""

    def __init__(self, fields: int, k: int, width: int) -> None:
        super().__init__()
        self.fields, self.k, self.linear = fields, k, nn.Linear(k, width)

    def forward(self, h: Tensor) -> Tensor:
        """Map [N, F·k + …] to [N, F·width]."""
        out: Tensor = self.linear(h[:, : self.fields * self.k].unflatten(1, (self.fields, self.k))).flatten(1)  # type: ignore[no-untyped-call]
        return out


class FieldAttention(nn.Module):
    """Self-attention of each field over all, [N, F·width] -> the same (Song et al. 2019, AutoInt, arXiv 1810.11921).

    Args:
        fields: F.
        attention: [N, F, width] -> the same.
        residual: the last one of a network: added to a linear function of the first block's vectors, then ReLU; None: of the others.

    """

    def __init__(self, fields: int, attention: CausalAttention, residual: Widened | None) -> None:
        super().__init__()
        self.fields, self.attention, self.residual = fields, attention, residual
        self.reads_blocks = () if residual is None else (0,)

    def forward(self, h: Tensor, *first: Tensor) -> Tensor:
        """Map [N, F·width] to [N, F·width]."""
        out: Tensor = self.attention(h.unflatten(1, (self.fields, -1))).flatten(1)  # type: ignore[no-untyped-call]
        return out if self.residual is None else (out + self.residual(first[0])).relu()


class LogarithmicNeurons(nn.Module):
    """relu(expm1(W log1p(|e| + 1e-7) + b)) over the fields, for each of the k numbers of a vector: [N, F·k (+ more)] -> [N, neurons·k].

    Cheng, Shen & Huang 2020 (AFN, arXiv 1909.03276): a neuron is about a product of powers of vectors, with learned exponents.
    """

    def __init__(self, fields: int, k: int, neurons: int) -> None:
        super().__init__()
        self.fields, self.k, self.exponents = fields, k, nn.Linear(fields, neurons)

    def forward(self, h: Tensor) -> Tensor:
        """Map [N, F·k + …] to [N, neurons·k]."""
        logs = (h[:, : self.fields * self.k].unflatten(1, (self.fields, self.k)).abs() + 1e-7).log1p()  # type: ignore[no-untyped-call]
        out: Tensor = self.exponents(logs.transpose(1, 2)).expm1().relu().flatten(1)
        return out


class Logit(nn.Module):
    """The log odds [N, 1]: a linear function of the predecessor's and of other blocks' outputs, and what the first block keeps for it.

    Args:
        n: features of the predecessor.
        also: other blocks whose outputs are read, and how many features each has.
        vectors: the first block, if its weights of single ids are summed up here, and its index.
        with_pairs: whether the inner products of its vectors are too.

    """

    def __init__(self, n: int, also: Sequence[tuple[int, int]], vectors: FieldVectors | None = None, with_pairs: bool = False) -> None:
        super().__init__()
        self.reads_blocks = (*(() if vectors is None else (0,)), *(k for k, _ in also))
        self.shape = None if vectors is None else (vectors.fields, vectors.k)
        self.with_pairs = with_pairs
        self.out = nn.Linear(n + sum(size for _, size in also), 1)

    def forward(self, h: Tensor, *read: Tensor) -> Tensor:
        """Map h [N, n] and what else is read to [N, 1]."""
        first, others = (None, read) if self.shape is None else (read[0], read[1:])
        z: Tensor = self.out(torch.cat([h, *others], 1) if others else h)
        if first is not None and self.shape is not None:
            fields, k = self.shape
            z = z + first[:, fields * k :].sum(1, keepdim=True)
            if self.with_pairs:
                z = z + pairs(first[:, : fields * k].unflatten(1, (fields, k)))[:, None]  # type: ignore[no-untyped-call]
        return z
