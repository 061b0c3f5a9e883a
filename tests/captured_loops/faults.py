"""Fourteen faults, first variants. Written before the detector."""

import copy

import torch
from torch import nn
from torch.nn import functional as F

from captured_loops.nets import PAD, Convolutions, Encoder, Residual, gpt2, images, llama, made, tokens, vectors
from captured_loops.steps import Fault, mean_loss, step


def unequal_micro_batches():
    def loop(weights):
        return lambda watch: step(made(Encoder), tokens(), watch, sizes=[6, 2], weights=weights)

    return Fault(loop(None), loop([0.5, 0.5]), "loss", ("head",))


def missing_accumulation_factor():
    def loop(weights):
        return lambda watch: step(made(gpt2), tokens(), watch, sizes=[2, 2, 2, 2], weights=weights)

    return Fault(loop(None), loop([1.0] * 4), "scale", factor=4.0)


def unscaled_amp():
    def loop(unscaled):
        def run(watch):
            scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
            step(
                made(Convolutions),
                images(),
                watch,
                loss=lambda z, y: scaler.scale(mean_loss(z, y)),
                **({"scaler": scaler} if unscaled else {}),
            )

        return run

    return Fault(loop(True), loop(False), "scale", factor=1024.0)


def redrawn_dropout():
    def loop(preserve):
        def run(watch):
            model = made(Encoder, dropout=0.2)
            model.checkpointed, model.preserve = 1, preserve
            torch.manual_seed(5)
            step(model, tokens(), watch)

        return run

    return Fault(loop(True), loop(False), "backward", ("encoder.layers.1.",))


def recomputed_in_another_mode():
    def loop(wrong):
        def run(watch):
            model = made(Convolutions)
            model.checkpointed = model.reentrant = True  # the other kind of checkpointing may see it by itself
            step(model, images(), watch, between=model.norm2.eval if wrong else lambda: None)

        return run

    return Fault(loop(False), loop(True), "backward", ("norm2", "conv2", "act2"))


def a_detach():
    def loop(wrong):
        def run(watch):
            model = made(llama)
            if wrong:
                mlp = model.model.layers[1].mlp
                mlp.forward = lambda x: mlp.down_proj((mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x)).detach())
            step(model, tokens(), watch)

        return run

    names = tuple(f"model.layers.1.mlp.{name}" for name in ("down_proj", "act_fn", "up_proj", "gate_proj"))
    return Fault(loop(False), loop(True), "backward", names)


class _WrongGelu(torch.autograd.Function):
    """The right value, and the derivative of another activation."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return F.gelu(x)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * (x > 0)


class _WrongActivation(nn.Module):
    def forward(self, x):
        return _WrongGelu.apply(x)


def wrong_custom_backward():
    def loop(wrong):
        def run(watch):
            model = made(Residual)
            if wrong:
                model.blocks[6].act = _WrongActivation()
            step(model, vectors(), watch)

        return run

    return Fault(loop(False), loop(True), "backward", ("blocks.6.act",))


def frozen_layer():
    def loop(wrong):
        def run(watch):
            model = made(gpt2)
            if wrong:
                model.transformer.h[0].mlp.c_fc.requires_grad_(False)
            step(model, tokens(), watch)

        return run

    return Fault(loop(False), loop(True), "backward", ("transformer.h.0.mlp.c_fc",))


def tied_weight_counted_once():
    def loop(wrong):
        def run(watch):
            model = made(gpt2)
            if wrong:
                head, table = model.lm_head, model.transformer.wte
                head.forward = lambda h: F.linear(h, table.weight.detach())
            step(model, tokens(), watch)

        return run

    return Fault(loop(False), loop(True), "backward", ("transformer.wte", "lm_head"))


def padding_in_the_loss():
    def loop(**options):
        return lambda watch: step(made(Encoder), tokens(padded=True), watch, loss=lambda z, y: mean_loss(z, y, **options))

    return Fault(loop(ignore_index=PAD), loop(), "loss", ("head",))


def no_sync_on_the_last_micro_batch():
    def loop(wrong):
        def run(watch):
            torch.manual_seed(0)
            model = nn.parallel.DistributedDataParallel(Encoder().train())
            x, y = tokens(8, seed=1 + torch.distributed.get_rank())
            with watch(model):
                for i, (inputs, targets) in enumerate(zip(x.split(4), y.split(4), strict=True)):
                    if i == 0 or wrong:
                        with model.no_sync():
                            (mean_loss(model(inputs), targets) / 2).backward()
                    else:
                        (mean_loss(model(inputs), targets) / 2).backward()

        return run

    return Fault(loop(False), loop(True), "parameters", ranks=2)


def batch_norm_in_the_wrong_mode():
    def loop(wrong):
        def run(watch):
            model = made(Convolutions)
            if wrong:
                model.norm2.eval()
            step(model, images(), watch)

        return run

    return Fault(loop(False), loop(True), "forward", ("norm2",))


class _SummedInBfloat16(torch.autograd.Function):
    """A linear layer whose weight gradient is a running sum over rows in bfloat16."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx, g):
        x, weight = ctx.saved_tensors
        total = torch.zeros_like(weight, dtype=torch.bfloat16)
        for gi, xi in zip(g.flatten(0, -2), x.flatten(0, -2), strict=True):
            total += torch.outer(gi, xi).bfloat16()
        return g @ weight, total.to(weight.dtype), g.flatten(0, -2).sum(0)


def long_sum_in_bfloat16():
    def loop(wrong):
        def run(watch):
            model = made(Encoder)
            if wrong:
                layer = model.encoder.layers[1].linear1
                layer.forward = lambda x: _SummedInBfloat16.apply(x, layer.weight, layer.bias)
            step(model, tokens(32, 16), watch)

        return run

    return Fault(loop(False), loop(True), "backward", ("encoder.layers.1.linear1",))


class _Noise(nn.Module):
    """Adds noise of a stream of its own."""

    def __init__(self, inner, seed):
        super().__init__()
        self.inner, self.stream = inner, torch.Generator().manual_seed(seed)

    def forward(self, x):
        h = self.inner(x)
        return h + 0.05 * torch.randn(h.shape, generator=self.stream)


def noise_of_its_own():
    def loop(seed):
        def run(watch):
            model = made(llama)
            model.model.layers[1].mlp = _Noise(copy.deepcopy(model.model.layers[1].mlp), seed)
            step(model, tokens(), watch)

        return run

    # the noise is added to what the block's last layer returned: the first output that differs is the next layer's
    return Fault(loop(1), loop(2), "forward", ("model.layers.1.mlp", "model.layers.2.input_layernorm"))


FAULTS = {
    fault.__name__: fault
    for fault in (
        unequal_micro_batches,
        missing_accumulation_factor,
        unscaled_amp,
        redrawn_dropout,
        recomputed_in_another_mode,
        a_detach,
        wrong_custom_backward,
        frozen_layer,
        tied_weight_counted_once,
        padding_in_the_loss,
        no_sync_on_the_last_micro_batch,
        batch_norm_in_the_wrong_mode,
        long_sum_in_bfloat16,
        noise_of_its_own,
    )
}
