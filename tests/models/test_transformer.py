"""The transformer against torch's own encoder layer, against attention written out, and for causality."""

import math

import pytest
import torch
from torch import nn

from gradlens.models.feedback_point import FeedbackPoint
from gradlens.models.transformer import CausalAttention, TransformerLayer, sinusoids, transformer_blocks
from gradlens.runtime.errors import InputError

N, T, D, H, FF, V = 3, 7, 12, 3, 20, 11
TIGHT = {"rtol": 1e-10, "atol": 1e-10}


def inputs(seed=0):
    return torch.randn(N, T, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def tokens(seed=0, n=N):
    return torch.randint(V, (n, T), generator=torch.Generator().manual_seed(seed))


def network(depth=2, norm_first=False, dropout=0.0, seed=0, act=nn.ReLU):
    torch.manual_seed(seed)
    return transformer_blocks(V, T, D, depth, H, FF, act, norm_first, dropout).double()


def twin_of(layer, act, norm_first):
    """torch's encoder layer with the same weights."""
    twin = nn.TransformerEncoderLayer(D, H, FF, 0.0, act, batch_first=True, norm_first=norm_first).double()
    attention = layer.attention
    with torch.no_grad():
        three = (attention.query, attention.key, attention.value)
        twin.self_attn.in_proj_weight.copy_(torch.cat([m.weight for m in three]))
        twin.self_attn.in_proj_bias.copy_(torch.cat([m.bias for m in three]))
    pairs = [(twin.self_attn.out_proj, attention.out), (twin.linear1, layer.ff1), (twin.linear2, layer.ff2)]
    for theirs, ours in [*pairs, (twin.norm1, layer.norm1), (twin.norm2, layer.norm2)]:
        theirs.load_state_dict(ours.state_dict())
    return twin


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize(("name", "act"), [("relu", nn.ReLU), ("gelu", nn.GELU)])
def test_a_layer_is_torchs_encoder_layer_with_a_causal_mask(name, act, norm_first):
    torch.manual_seed(1)
    layer = TransformerLayer(D, H, FF, act(), norm_first, 0.0).double()
    twin = twin_of(layer, name, norm_first)
    mask = nn.Transformer.generate_square_subsequent_mask(T, dtype=torch.float64)
    x, again = inputs().requires_grad_(), inputs().requires_grad_()
    ours, theirs = layer(x), twin(again, src_mask=mask)
    torch.testing.assert_close(ours, theirs, **TIGHT)
    direction = inputs(5)
    ours.backward(direction)
    theirs.backward(direction)
    torch.testing.assert_close(x.grad, again.grad, **TIGHT)
    torch.testing.assert_close(layer.ff1.weight.grad, twin.linear1.weight.grad, **TIGHT)
    three = (layer.attention.query, layer.attention.key, layer.attention.value)
    torch.testing.assert_close(torch.cat([m.weight.grad for m in three]), twin.self_attn.in_proj_weight.grad, **TIGHT)


def test_attention_is_a_softmax_over_earlier_positions():
    torch.manual_seed(2)
    attention, x = CausalAttention(D, H, 0.0).double(), inputs()
    q, k, v = (m(x) for m in (attention.query, attention.key, attention.value))
    mixed, d = torch.zeros_like(x), D // H
    for n in range(N):
        for head in range(H):
            part = slice(head * d, (head + 1) * d)
            for t in range(T):
                scores = torch.stack([q[n, t, part] @ k[n, s, part] / math.sqrt(d) for s in range(t + 1)])
                weights = scores.exp() / scores.exp().sum()
                mixed[n, t, part] = sum(weights[s] * v[n, s, part] for s in range(t + 1))
    torch.testing.assert_close(attention(x), attention.out(mixed), **TIGHT)


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_token_changes_no_logits_before_it_and_its_own(norm_first):
    model, x = network(norm_first=norm_first), tokens()
    before = model(x)
    for t in range(T):
        changed = x.clone()
        changed[:, t] = (changed[:, t] + 1) % V
        after = model(changed)
        assert torch.equal(after[:, :t], before[:, :t])
        assert not torch.allclose(after[:, t], before[:, t])


@pytest.mark.parametrize("norm_first", [False, True])
def test_the_gradient_of_a_tokens_loss_is_zero_at_later_positions(norm_first):
    model = network(norm_first=norm_first)
    e = model.block1.embedding(tokens()).detach().requires_grad_()
    logits = model.top(model.block2(model.block1.layer(e)))
    for t in range(T):
        (g,) = torch.autograd.grad(logits[:, t].square().sum(), e, retain_graph=True)
        assert not g[:, t + 1 :].any()
        assert g[:, t].abs().min() > 0


def test_sequences_of_a_batch_do_not_touch_each_other():
    model, x, order = network(), tokens(n=4), torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(model(x)[order], model(x[order]), **TIGHT)


def test_positions_are_sines_and_cosines_and_enter_after_the_scale():
    table = sinusoids(T, D)
    for t in range(T):
        for i in range(0, D, 2):
            angle = t / 10_000 ** (i / D)
            assert table[t, i] == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[t, i + 1] == pytest.approx(math.cos(angle), abs=1e-6)
    assert sinusoids(T, 5).shape == (T, 5)
    model, x = network(), tokens()
    embedding = model.block1.embedding
    want = embedding.tokens.weight[x] * math.sqrt(D) + table.double()
    torch.testing.assert_close(embedding(x), want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("norm_first", [False, True])
def test_blocks_and_parameters_are_counted_by_hand(norm_first):
    model = network(depth=3, norm_first=norm_first)
    assert list(model._modules) == ["block1", "block2", "block3", "top"]
    layer = 4 * (D * D + D) + (D * FF + FF) + (FF * D + D) + 4 * D
    want = V * D + 3 * layer + (D * V + V) + (2 * D if norm_first else 0)
    assert sum(p.numel() for p in model.parameters()) == want
    assert model(tokens()).shape == (N, T, V)
    assert model(tokens()[:, :4]).shape == (N, 4, V)  # shorter than the context


def test_the_published_initialisation():
    model = transformer_blocks(200, 8, 64, 2, 4, 256, nn.ReLU)
    for weight in (model.block1.embedding.tokens.weight, model.top.vocabulary.weight):
        assert weight.abs().max() <= 0.1
        assert weight.std().item() == pytest.approx(0.1 / math.sqrt(3), rel=0.03)
    assert not model.top.vocabulary.bias.any()


def test_points_are_identities_after_embedding_attention_and_activation():
    model = network()
    points = {name: m.features for name, m in model.named_modules() if isinstance(m, FeedbackPoint)}
    assert points == {
        "block1.embedding.point": D,
        "block1.layer.point1": D,
        "block1.layer.point2": FF,
        "block2.point1": D,
        "block2.point2": FF,
    }
    seen = {}
    for name in ("point1", "point2"):
        getattr(model.block2, name).register_forward_hook(lambda m, args, out, name=name: seen.update({name: out}))
    x = inputs()
    model.block2(x)
    layer = model.block2
    torch.testing.assert_close(seen["point1"], layer.norm1(x + layer.attention(x)), **TIGHT)
    torch.testing.assert_close(seen["point2"], layer.ff1(seen["point1"]).clamp(min=0), **TIGHT)


def test_dropout_is_drawn_in_training_only():
    model, x = network(dropout=0.4), tokens()
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(InputError, match="--heads 5 do not divide the transformer's width of 12"):
        transformer_blocks(V, T, D, 2, 5, FF, nn.ReLU)
