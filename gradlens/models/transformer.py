"""Build causal transformers for sequences of tokens, as named blocks: block1 (embedding and first layer), block2, …, top (vocabulary)."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradlens.models.feedback_point import FeedbackPoint
from gradlens.models.spec import ModelSpec, numbered
from gradlens.runtime.errors import InputError

SPREAD = 0.1  # the embedding and the vocabulary projection are drawn from U(±SPREAD)


def sinusoids(length: int, width: int) -> Tensor:
    """Compute positions [length, width]: sin(t / 10000^(2i/width)) in feature 2i, its cosine in 2i + 1 (Vaswani et al. 2017, §3.5)."""
    t = torch.arange(length)[:, None]
    rates = torch.exp(-math.log(10_000) / width * torch.arange(0, width, 2))
    angles = t * rates
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)[:, :width]


class TokenEmbedding(nn.Module):
    """dropout(√width · E[token] + position): tokens [N, T] -> [N, T, width]; T at most the ``context``; ``point`` after the product."""

    def __init__(self, vocabulary: int, context: int, width: int, dropout: float) -> None:
        super().__init__()
        self.tokens, self.dropout = nn.Embedding(vocabulary, width), nn.Dropout(dropout)
        self.point = FeedbackPoint(width, of_embedding=True)
        nn.init.uniform_(self.tokens.weight, -SPREAD, SPREAD)
        self.register_buffer("positions", sinusoids(context, width), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [N, T] to [N, T, width]."""
        e = self.point(self.tokens(tokens) * math.sqrt(self.tokens.embedding_dim))
        positions = self.get_buffer("positions")[: tokens.shape[1]]
        out: Tensor = self.dropout(e + positions)
        return out


class CausalAttention(nn.Module):
    """out(softmax(q kᵀ / √d) v) in each head of d = width / heads features, each position over itself and those before it.

    With ``causal`` False each position is over all. q, k, v and out are Linear layers called one by one, so that each has rows and feedback
    rules reach it. [N, T, width] -> the same.
    """

    def __init__(self, width: int, heads: int, dropout: float, causal: bool = True) -> None:
        super().__init__()
        self.heads, self.dropout, self.causal = heads, dropout, causal
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, T, width] to [N, T, width]."""
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0, is_causal=self.causal)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class TransformerLayer(nn.Module):
    """Attention and a feed-forward network, each with a residual connection, [N, T, width] -> the same.

    Post-LN: a = norm1(x + attention(x)), h = norm2(a + ff2(act(ff1(a)))) (Vaswani et al. 2017, arXiv 1706.03762);
    pre-LN: a = x + attention(norm1(x)), h = a + ff2(act(ff1(norm2(a)))) (Xiong et al. 2020, arXiv 2002.04745).
    Dropout acts on each branch before its sum, on the attention's weights and after the activation. ``point1`` after a and ``point2``
    after the activation are identities where dfa can put its feedback.
    """

    def __init__(self, width: int, heads: int, hidden: int, act: nn.Module, norm_first: bool, dropout: float) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.attention, self.norm1 = CausalAttention(width, heads, dropout), nn.LayerNorm(width)
        self.point1 = FeedbackPoint(width)
        self.ff1, self.act = nn.Linear(width, hidden), act
        self.point2 = FeedbackPoint(hidden)
        self.ff2, self.norm2 = nn.Linear(hidden, width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, T, width] to [N, T, width]."""
        if self.norm_first:
            a = self.point1(x + self.dropout(self.attention(self.norm1(x))))
            h: Tensor = a + self._feed_forward(self.norm2(a))
        else:
            a = self.point1(self.norm1(x + self.dropout(self.attention(x))))
            h = self.norm2(a + self._feed_forward(a))
        return h

    def _feed_forward(self, a: Tensor) -> Tensor:
        hidden = self.point2(self.dropout(self.act(self.ff1(a))))
        out: Tensor = self.dropout(self.ff2(hidden))
        return out


def transformer_blocks(
    vocabulary: int,
    context: int,
    width: int,
    depth: int,
    heads: int,
    hidden: int,
    act: Callable[[], nn.Module],
    norm_first: bool = False,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Build block1 = embedding and layer 1, block2, …, top = [norm of pre-LN], vocabulary: tokens [N, T] -> logits [N, T, vocabulary].

    Embedding and vocabulary projection are drawn from U(±0.1), the projection's bias is 0, as in the code of Launay et al. 2020
    (arXiv 2006.12878, §3.4); the other layers have PyTorch's initialisation.

    Args:
        vocabulary: number of tokens.
        context: longest sequence.
        width: features of a position.
        depth: number of layers.
        heads: attention heads of a layer; they divide the width.
        hidden: features inside the feed-forward network.
        act: makes its activation.
        norm_first: pre-LN instead of post-LN.
        dropout: probability.

    Raises:
        InputError: heads that do not divide the width.

    """
    if width % heads:
        raise InputError(f"--heads {heads} do not divide the transformer's width of {width}; set --heads or --width so that they do")
    layers = [TransformerLayer(width, heads, hidden, act(), norm_first, dropout) for _ in range(depth)]
    embedding = TokenEmbedding(vocabulary, context, width, dropout)
    first = nn.Sequential(OrderedDict(embedding=embedding, layer=layers[0]))
    top: OrderedDict[str, nn.Module] = OrderedDict()
    if norm_first:
        top["norm"] = nn.LayerNorm(width)
    top["vocabulary"] = projection = nn.Linear(width, vocabulary)
    nn.init.uniform_(projection.weight, -SPREAD, SPREAD)
    nn.init.zeros_(projection.bias)
    return numbered([first, *layers[1:]], nn.Sequential(top))


def transformer(spec: ModelSpec) -> nn.Sequential:
    """Causal transformer on tokens: embedding, sinusoidal positions, layers of attention and feed-forward (4·width), vocabulary.

    Block = layer, the embedding with the first one. ``width`` = features (128), ``depth`` = layers (4), ``heads`` = 4; post-LN, or pre-LN
    with ``--pre-norm``; see :func:`transformer_blocks`.
    """
    if len(spec.shape) != 1:
        raise InputError(f"transformer reads sequences of tokens, and an example of these data is {'x'.join(map(str, spec.shape))}")
    if spec.stem is not None:
        raise InputError("--stem sets the first convolution's kernel and transformer has no convolution")
    width = spec.width or 128
    size = {"width": width, "depth": spec.depth or 4, "heads": spec.heads or 4, "hidden": 4 * width}
    return transformer_blocks(spec.classes, spec.shape[0], **size, act=spec.act, norm_first=spec.norm_first, dropout=spec.dropout)
