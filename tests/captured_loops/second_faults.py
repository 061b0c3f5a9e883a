"""The fourteen faults once more, in other networks and places: second variants, written after the detector was last changed."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from captured_loops.faults import FAULTS
from captured_loops.nets import PAD, Convolutions, Encoder, GroupNormed, Residual, gpt2, images, llama, made, tokens, vectors
from captured_loops.steps import Fault, autocast, mean_loss, step


def unequal_micro_batches():
    def loop(weights):
        return lambda watch: step(made(GroupNormed), images(9), watch, sizes=[4, 4, 1], weights=weights)

    return Fault(loop(None), loop([1 / 3] * 3), "loss", ("head",))


def missing_accumulation_factor():
    def loop(weights):
        return lambda watch: step(made(llama), tokens(6), watch, sizes=[2, 2, 2], weights=weights, around=autocast)

    return Fault(loop(None), loop([1.0] * 3), "scale", factor=3.0)


def unscaled_amp():
    def loop(scale):
        def run(watch):
            scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
            options = {"scaler": scaler} if scale else {}
            step(made(Encoder), tokens(), watch, around=autocast, loss=lambda z, y: scaler.scale(mean_loss(z, y)), **options)

        return run

    return Fault(loop(True), loop(False), "scale", factor=2.0**16)


def redrawn_dropout():
    """In GPT-2: a whole block is recomputed."""

    def loop(preserve):
        def run(watch):
            model = made(gpt2, resid_pdrop=0.1)
            block = model.transformer.h[2]
            inner = block.forward
            block.forward = lambda *args, **kwargs: checkpoint(inner, *args, use_reentrant=False, preserve_rng_state=preserve, **kwargs)
            torch.manual_seed(3)
            step(model, tokens(), watch)

        return run

    return Fault(loop(True), loop(False), "backward", ("transformer.h.2.",))


def recomputed_in_another_mode():
    """Dropout is off when a layer of the encoder is recomputed."""

    def loop(wrong):
        def run(watch):
            model = made(Encoder, dropout=0.2)
            model.checkpointed = 0
            layer = model.encoder.layers[0]
            inner, calls = layer.linear2.forward, []

            def forward(x):
                calls.append(1)
                kept = torch.ones_like(x) if wrong and len(calls) > 1 else (torch.rand_like(x) > 0.2) / 0.8
                return inner(x * kept)

            layer.linear2.forward = forward
            torch.manual_seed(5)
            step(model, tokens(), watch)

        return run

    return Fault(loop(False), loop(True), "backward", ("encoder.layers.0.",))


def a_detach():
    """Under no_grad: the middle of a convolutional network."""

    def loop(wrong):
        def run(watch):
            model = made(Convolutions)
            if wrong:
                inner = model.act1.forward
                model.act1.forward = lambda x: inner(x).detach()
            step(model, images(), watch)

        return run

    return Fault(loop(False), loop(True), "backward", ("conv2", "act1", "norm1"))


class _Halved(torch.autograd.Function):
    """Layer normalisation whose gradient leaves out that the mean depends on the input."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        scale = (x.var(-1, unbiased=False, keepdim=True) + 1e-5).rsqrt()
        normed = (x - x.mean(-1, keepdim=True)) * scale
        ctx.save_for_backward(normed, scale, weight)
        return normed * weight + bias

    @staticmethod
    def backward(ctx, g):
        normed, scale, weight = ctx.saved_tensors
        d = g * weight
        return scale * (d - normed * (d * normed).mean(-1, keepdim=True)), (g * normed).flatten(0, -2).sum(0), g.flatten(0, -2).sum(0)


def wrong_custom_backward():
    def loop(wrong):
        def run(watch):
            model = made(Encoder, layers=12, width=16)
            if wrong:
                norm = model.encoder.layers[6].norm1
                norm.forward = lambda x: _Halved.apply(x, norm.weight, norm.bias)
            step(model, tokens(), watch)

        return run

    return Fault(loop(False), loop(True), "backward", ("encoder.layers.6.norm1",))


def frozen_layer():
    def loop(wrong):
        def run(watch):
            model = made(Convolutions)
            if wrong:
                model.norm2.requires_grad_(False)
            step(model, images(), watch)

        return run

    return Fault(loop(False), loop(True), "backward", ("norm2",))


def tied_weight_counted_once():
    """In a tied Llama the embedding's gradient is left out instead of the head's."""

    def loop(wrong):
        def run(watch):
            model = made(llama, tie_word_embeddings=True)
            if wrong:
                table = model.model.embed_tokens
                table.forward = lambda x: F.embedding(x, table.weight.detach()).requires_grad_()
            step(model, tokens(), watch)

        return run

    return Fault(loop(False), loop(True), "backward", ("model.embed_tokens", "lm_head"))


def padding_in_the_loss():
    def loop(count_all):
        def loss(z, y):
            z = z if isinstance(z, torch.Tensor) else z.logits
            each = F.cross_entropy(z.flatten(0, -2), y.flatten(), reduction="none")
            keep = (y.flatten() != PAD).float()
            return (each * keep).sum() / (len(keep) if count_all else keep.sum())

        return lambda watch: step(made(gpt2), tokens(padded=True), watch, loss=loss)

    _, y = tokens(padded=True)
    return Fault(loop(False), loop(True), "scale", factor=float((y != PAD).float().mean()))


def no_sync_on_the_last_micro_batch():
    def loop(wrong):
        def run(watch):
            torch.manual_seed(0)
            model = nn.parallel.DistributedDataParallel(Residual(4).train())
            x, y = vectors(12, seed=1 + torch.distributed.get_rank())
            with watch(model):
                for i, (inputs, targets) in enumerate(zip(x.split(4), y.split(4), strict=True)):
                    model.require_backward_grad_sync = i == 2 and not wrong
                    (mean_loss(model(inputs), targets) / 3).backward()

        return run

    return Fault(loop(False), loop(True), "parameters", ranks=2)


def batch_norm_in_the_wrong_mode():
    """All of a network, in micro-batches."""

    def loop(wrong):
        def run(watch):
            model = made(Convolutions)
            if wrong:
                model.eval()
            step(model, images(8), watch, sizes=[4, 4], around=autocast)

        return run

    return Fault(loop(False), loop(True), "forward", ("norm1",))


def long_sum_in_bfloat16():
    """The bias of GPT-2's first feed-forward layer, over many positions."""

    class Summed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, bias):
            return x + bias

        @staticmethod
        def backward(ctx, g):
            total = torch.zeros(g.shape[-1], dtype=torch.bfloat16)
            for row in g.flatten(0, -2):
                total += row.bfloat16()
            return g, total.float()

    def loop(wrong):
        def run(watch):
            model = made(gpt2)
            if wrong:
                layer = model.transformer.h[0].mlp.c_fc
                layer.forward = lambda x: Summed.apply(x @ layer.weight, layer.bias)
            step(model, tokens(64, 20), watch)

        return run

    return Fault(loop(False), loop(True), "backward", ("transformer.h.0.mlp.c_fc",))


def noise_of_its_own():
    """Dropout drawn from a generator that a loop does not seed, in the last layer."""

    def loop(seed):
        def run(watch):
            model, stream = made(Convolutions), torch.Generator().manual_seed(seed)
            model.drop.forward = lambda x: x * (torch.rand(x.shape, generator=stream) > 0.1) / 0.9
            step(model, images(), watch)

        return run

    return Fault(loop(1), loop(2), "forward", ("drop",))


SECOND_FAULTS = {name: globals()[name] for name in FAULTS}  # each fault has its second variant here, under the same name
