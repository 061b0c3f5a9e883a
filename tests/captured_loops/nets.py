"""Small networks of four kinds, and batches for them. All weights and batches follow from a seed."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

PAD = 0


class Convolutions(nn.Module):
    """Three convolutions with BatchNorm (their biases have a gradient of zero but for rounding), pooling, and a linear top."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv1, self.norm1, self.act1 = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()
        self.conv2, self.norm2, self.act2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()
        self.conv3, self.norm3, self.act3 = nn.Conv2d(width, 2 * width, 3, padding=1, stride=2), nn.BatchNorm2d(2 * width), nn.ReLU()
        self.drop, self.head = nn.Dropout(0.0), nn.Linear(2 * width, 10)
        self.checkpointed, self.reentrant = False, False

    def middle(self, x):
        return self.act2(self.norm2(self.conv2(x)))

    def forward(self, x):
        x = self.act1(self.norm1(self.conv1(x)))
        x = checkpoint(self.middle, x, use_reentrant=self.reentrant) if self.checkpointed else self.middle(x)
        x = self.act3(self.norm3(self.conv3(x)))
        return self.head(self.drop(x.mean((2, 3))))


class GroupNormed(nn.Sequential):
    """Convolutions whose examples do not depend on one another."""

    def __init__(self) -> None:
        super().__init__()
        for i, (a, b) in enumerate(((3, 8), (8, 8), (8, 8)), 1):
            self.add_module(f"conv{i}", nn.Conv2d(a, b, 3, padding=1))
            self.add_module(f"norm{i}", nn.GroupNorm(2, b))
            self.add_module(f"act{i}", nn.GELU())
        self.add_module("pool", nn.AdaptiveAvgPool2d(1))
        self.add_module("flat", nn.Flatten())
        self.add_module("head", nn.Linear(8, 10))


class Encoder(nn.Module):
    """``nn.TransformerEncoder`` between an embedding and a head for every position."""

    def __init__(self, layers: int = 3, dropout: float = 0.0, batch_first: bool = True, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, width)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout, batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 40)
        for p in self.encoder.parameters():  # the layers begin as copies of one
            if p.ndim > 1:
                nn.init.xavier_uniform_(p)
        self.checkpointed: int | None = None  # the layer that is recomputed
        self.preserve = True

    def forward(self, tokens):
        h = self.embed(tokens)
        for i, layer in enumerate(self.encoder.layers):
            again = i == self.checkpointed
            h = checkpoint(layer, h, use_reentrant=False, preserve_rng_state=self.preserve) if again else layer(h)
        return self.head(h)


class SplitAttention(nn.Module):
    """Causal attention with separate projections: the key's bias has a gradient of zero but for rounding."""

    def __init__(self, width: int = 32, heads: int = 4, fused: bool = False) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.heads, self.fused = heads, fused

    def forward(self, h):
        q, k, v = (f(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
            later = torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1)
            mixed = logits.masked_fill(later, -torch.inf).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).flatten(-2))


class SplitAttentionBlocks(nn.Module):
    """Two blocks of attention with separate projections and a head."""

    def __init__(self, fused: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 32)
        self.attention = nn.ModuleList([SplitAttention(fused=fused) for _ in range(2)])
        self.norm = nn.ModuleList([nn.LayerNorm(32) for _ in range(2)])
        self.head = nn.Linear(32, 40)

    def forward(self, tokens):
        h = self.embed(tokens)
        for attention, norm in zip(self.attention, self.norm, strict=True):
            h = h + attention(norm(h))
        return self.head(h)


class Residual(nn.Module):
    """Twelve residual blocks of two linear layers, each with an activation that can be replaced."""

    def __init__(self, depth: int = 12, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Linear(20, width)
        self.blocks = nn.ModuleList()
        for _ in range(depth):
            block = nn.Module()
            block.norm, block.up, block.act, block.down = nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
            self.blocks.append(block)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        h = self.stem(x)
        for b in self.blocks:
            h = h + b.down(b.act(b.up(b.norm(h))))
        return self.head(h)


class LowRank(nn.Module):
    """A frozen linear layer and a trained difference of low rank."""

    def __init__(self, base: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down, self.up = nn.Linear(base.in_features, rank, bias=False), nn.Linear(rank, base.out_features, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


def gpt2(**options):
    """A small GPT-2 of transformers with random weights; its head's weight is its embedding's."""
    from transformers import GPT2Config, GPT2LMHeadModel

    rates = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    sizes = {"n_layer": 3, "n_embd": 32, "n_head": 4, "vocab_size": 40, "n_positions": 24, "bos_token_id": 1, "eos_token_id": 1}
    return GPT2LMHeadModel(GPT2Config(**sizes, **{**rates, "use_cache": False, **options}))


def llama(**options):
    """A small Llama of transformers with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, **{"vocab_size": 40, "use_cache": False, **options}))


def made(build, *args, seed: int = 0, **options):
    """A network whose weights follow from a seed, in training mode."""
    torch.manual_seed(seed)
    return build(*args, **options).train()


def images(n: int = 8, seed: int = 1):
    """Images [n, 3, 10, 10] and classes [n]."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, 10, 10, generator=g), torch.randint(10, (n,), generator=g)


def vectors(n: int = 16, seed: int = 1):
    """Vectors [n, 20] and classes [n]."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 20, generator=g), torch.randint(10, (n,), generator=g)


def tokens(n: int = 8, length: int = 12, seed: int = 1, padded: bool = False):
    """Tokens [n, length] and the next ones as targets; ``padded``: sequences end early, padding is PAD."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(1, 40, (n, length + 1), generator=g)
    if padded:
        ends = torch.randint(3, length, (n, 1), generator=g)
        x = x.masked_fill(torch.arange(length + 1) > ends, PAD)
    return x[:, :-1].contiguous(), x[:, 1:].contiguous()
