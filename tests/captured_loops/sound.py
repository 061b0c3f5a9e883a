"""Thirty pairs of sound loops: the same gradient but for rounding. Written before the detector."""

import torch
from torch import nn

from captured_loops.nets import (
    Convolutions,
    Encoder,
    GroupNormed,
    LowRank,
    SplitAttentionBlocks,
    gpt2,
    images,
    llama,
    made,
    tokens,
    vectors,
)
from captured_loops.nets import Residual as ResidualBlocks
from captured_loops.steps import Sound, autocast, mean_loss, step


def _plain(build, batch, *args, seed=None, **options):
    """A step of a network; the global stream is seeded where a seed is given."""

    def run(watch):
        model = made(build, *args, **{k: v for k, v in options.items() if k in MODEL})
        if seed is not None:
            torch.manual_seed(seed)
        step(model, batch(), watch, **{k: v for k, v in options.items() if k not in MODEL})

    return run


MODEL = ("dropout", "batch_first", "layers", "fused", "attn_implementation", "attention_bias", "tie_word_embeddings", "resid_pdrop")


def _changed(build, change, batch, **options):
    """A step of a network that is changed first."""

    def run(watch):
        model = made(build, **{k: v for k, v in options.items() if k in MODEL})
        x, y = batch()
        found = change(model, x)
        if found is not None:
            model, x = found
        torch.manual_seed(5)
        step(model, (x, y), watch, **{k: v for k, v in options.items() if k not in MODEL})

    return run


def _double(model, x):
    return model.double(), (x.double() if x.is_floating_point() else x)


def _half(model, x):
    return model.bfloat16(), (x.bfloat16() if x.is_floating_point() else x)


def _nothing(model, x):
    return None


def _channels_last(model, x):
    return model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)


def _checkpointed(model, x):
    if hasattr(model, "gradient_checkpointing_enable"):
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    else:
        model.checkpointed = 1


def _reentrant(model, x):
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})


def _compiled(model, x):
    return torch.compile(model, backend="eager"), x


def _frozen(model, x):
    model.encoder.layers[0].requires_grad_(False)


def _adapted(model, x):
    model.requires_grad_(False)
    for block in model.blocks:
        block.up = LowRank(block.up)
        nn.init.normal_(block.up.up.weight, generator=torch.Generator().manual_seed(3))


def _scaled(watch):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    step(made(Convolutions), images(), watch, loss=lambda z, y: scaler.scale(mean_loss(z, y)), scaler=scaler)


def _clipped(watch):
    model, (x, y) = made(Convolutions), images()
    with watch(model):
        mean_loss(model(x), y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1e-3)


def _updated(watch):
    """The optimiser's step and another forward and backward pass inside the block: only the first step counts."""
    model, (x, y) = made(Encoder), tokens()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with watch(model):
        mean_loss(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()


def _data_parallel(micro_batches):
    def run(watch):
        torch.manual_seed(0)
        model = nn.parallel.DistributedDataParallel(Encoder().train())
        x, y = tokens(8, seed=1 + torch.distributed.get_rank())
        with watch(model):
            for i, (inputs, targets) in enumerate(zip(x.chunk(micro_batches), y.chunk(micro_batches), strict=True)):
                if i < micro_batches - 1:
                    with model.no_sync():
                        (mean_loss(model(inputs), targets) / micro_batches).backward()
                else:
                    (mean_loss(model(inputs), targets) / micro_batches).backward()

    return run


def _pairs():
    conv, enc, gpt, lla = (Convolutions, images), (Encoder, tokens), (gpt2, tokens), (llama, tokens)
    split = (SplitAttentionBlocks, tokens)
    one = {"conv": conv, "encoder": enc, "gpt2": gpt, "llama": lla}
    for name, net in one.items():
        if name != "llama":
            yield f"{name}_again", Sound(_plain(*net), _plain(*net))
        yield f"{name}_in_float64", Sound(_plain(*net), _changed(net[0], _double, net[1]))
        yield f"{name}_under_autocast", Sound(_plain(*net), _plain(*net, around=autocast))
    yield "conv_channels_last", Sound(_plain(*conv), _changed(Convolutions, _channels_last, images))
    yield "gpt2_in_bfloat16", Sound(_plain(*gpt), _changed(gpt2, _half, tokens))
    yield "llama_in_bfloat16", Sound(_plain(*lla), _changed(llama, _half, tokens))
    yield "encoder_accumulated", Sound(_plain(*enc), _plain(*enc, sizes=[2, 2, 2, 2]))
    yield "gpt2_accumulated_unequally", Sound(_plain(*gpt), _plain(*gpt, sizes=[5, 3]))
    yield "groupnorm_accumulated", Sound(_plain(GroupNormed, images), _plain(GroupNormed, images, sizes=[1, 3, 4]))
    yield (
        "encoder_checkpointed",
        Sound(_changed(Encoder, _nothing, tokens, dropout=0.1), _changed(Encoder, _checkpointed, tokens, dropout=0.1)),
    )
    yield "gpt2_checkpointed", Sound(_plain(*gpt), _changed(gpt2, _checkpointed, tokens))
    yield "llama_checkpointed_reentrant", Sound(_plain(*lla), _changed(llama, _reentrant, tokens))
    yield "conv_scaled", Sound(_plain(*conv), _scaled)
    yield "conv_clipped", Sound(_plain(*conv), _clipped)
    yield "encoder_compiled", Sound(_plain(*enc), _changed(Encoder, _compiled, tokens))
    yield "encoder_updated_inside", Sound(_plain(*enc), _updated)
    yield "encoder_frozen_in_both", Sound(_changed(Encoder, _frozen, tokens), _changed(Encoder, _frozen, tokens, around=autocast))
    yield (
        "gpt2_attention_eager",
        Sound(_plain(*gpt, attn_implementation="sdpa"), _plain(*gpt, attn_implementation="eager", around=autocast)),
    )
    yield (
        "llama_attention_eager",
        Sound(_plain(*lla, attn_implementation="sdpa"), _plain(*lla, attn_implementation="eager", sizes=[4, 4], around=autocast)),
    )
    yield "key_bias_fused_attention", Sound(_plain(*split), _plain(*split, fused=True, around=autocast))
    yield (
        "adapters_of_low_rank",
        Sound(_changed(ResidualBlocks, _adapted, vectors), _changed(ResidualBlocks, _adapted, vectors, sizes=[4, 12])),
    )
    yield "two_processes", Sound(_data_parallel(1), _data_parallel(2), ranks=2)


SOUND = dict(_pairs())
