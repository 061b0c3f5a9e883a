"""Context encoders: masks, losses and gradients against loops and uncut ``backward()``s, and the laws of inpainting."""

import copy
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import shelf
import torch
from oracles import assert_near, assert_same_bits
from torch import nn

from gradlens.analysis import inpainting
from gradlens.analysis.of_runs.inpainting import InpaintedImages, InpaintingOptions
from gradlens.analysis.of_runs.interface import Session
from gradlens.data.datasets import load as load_data
from gradlens.data.transforms import normalizer
from gradlens.gradients.backward import backward
from gradlens.gradients.losses import LOSSES
from gradlens.gradients.method import Method
from gradlens.methods import METHODS
from gradlens.models.decoders import ChannelwiseLinear, context_decoder, discriminator
from gradlens.models.zoo import ModelSpec, build
from gradlens.reporting.gallery import draw_learned
from gradlens.reporting.inpainting import InpaintingPanel, inpainting_grid
from gradlens.runtime.errors import InputError
from gradlens.runtime.progress import no_progress
from gradlens.training.build import ModelAndMethod, build_model_and_method, make_network_info
from gradlens.training.config import make_config
from gradlens.training.config_file import read_config_file
from gradlens.training.context import RunContext
from gradlens.training.evaluation import evaluate
from gradlens.training.optimizers import make_optimizer
from gradlens.training.run_directory import load_result
from gradlens.training.runs.train_run import train_run
from gradlens.training.step import Recording, training_step

ROOT = Path(__file__).parents[2]
RULES = ("context-encoder", "context-encoder-local")
PLAN = ModelSpec((3, 16, 16), 10, width=4, depth=2)
IMAGES = torch.randint(0, 256, (5, 3, 16, 16), generator=torch.Generator().manual_seed(7), dtype=torch.uint8)
SMALL = {"discriminator_width": 4}


def to_input(images: torch.Tensor) -> torch.Tensor:
    return images.double() / 127.5 - 1


def posed(name: str = "context-encoder", images: torch.Tensor = IMAGES, step: int = 5, **options: object):
    """A rule with its network, and the task it makes of some images."""
    model = build("basic-cnn", PLAN, seed=1).double()
    net = make_network_info(model, PLAN.shape, 10, LOSSES["ce"], 3)
    method = METHODS[name](net, METHODS[name].Options(**{**SMALL, **options})).double()
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in method.parameters():
            p += 0.05 * torch.randn(p.shape, generator=g, dtype=torch.float64)
    return model, method, *method.make_inputs(images, torch.arange(len(images)), step, to_input)


def updates_of(model: nn.Module, method: Method, x: torch.Tensor, y: torch.Tensor):
    return {u.k: u for u in backward(method, method.forward(list(model), x, y))}


# ------------------------------------------------------------------------------------------------------------ the task


def test_the_centre_is_dropped_and_the_mean_colour_put_there():
    _, _, x, y = posed(size=0.5)
    for i in range(5):
        for r in range(16):
            for c in range(16):
                inside = 4 <= r < 12 and 4 <= c < 12
                assert float(y[i, 3, r, c]) == inside
                for channel, grey in enumerate((117, 104, 123)):
                    was = IMAGES[i, channel, r, c].item() / 127.5 - 1
                    assert y[i, channel, r, c].item() == pytest.approx(was, abs=1e-12)
                    assert x[i, channel, r, c].item() == pytest.approx(grey / 127.5 - 1 if inside else was, abs=1e-6)


def test_random_shapes_cover_as_many_pixels_and_are_each_images_own():
    _, method, x, y = posed(corrupt="random", size=0.5)
    mask = y[:, 3]
    assert mask.sum((1, 2)).tolist() == [64.0] * 5
    assert len({m.numpy().tobytes() for m in mask}) == 5
    assert torch.equal(mask, method.pretext.mask(5, 5)[:, 0].double())
    assert not torch.equal(mask, method.pretext.mask(5, 6)[:, 0].double())
    gone = mask[:, None].expand(-1, 3, -1, -1) > 0
    assert torch.equal(x[~gone], y[:, :3][~gone])
    assert {round(v, 4) for v in (x[gone] + 1).mul(127.5).tolist()} == {117.0, 104.0, 123.0}
    other = METHODS["context-encoder"](
        make_network_info(build("basic-cnn", PLAN), PLAN.shape, 10, LOSSES["ce"], 4), METHODS["context-encoder"].Options(corrupt="random")
    )
    assert not torch.equal(other.pretext.mask(5, 5)[:, 0].double(), mask)  # another seed


def test_fewer_cells_make_larger_shapes():
    def edges(cells):
        mask = posed(corrupt="random", cells=cells)[1].pretext.mask(200, 0)
        return (mask[..., 1:] != mask[..., :-1]).float().mean()

    assert edges(2) < edges(6) < edges(16)


def test_controls_drop_nothing_and_predict_all():
    _, _, x, y = posed(corrupt="none")
    assert torch.equal(x, y[:, :3])
    assert (y[:, 3] == 1).all()
    _, _, x, y = posed(corrupt="noise", noise=0.1)
    added = (x - y[:, :3]) * 127.5
    middle = (IMAGES > 80) & (IMAGES < 175)  # far from the ends of the grey scale, where it is clipped
    assert added[middle].std().item() == pytest.approx(25.5, rel=0.05)
    assert (x.abs() <= 1 + 1e-6).all()
    assert torch.equal(x, posed(corrupt="noise", noise=0.1)[2])
    assert not torch.equal(x, posed(corrupt="noise", noise=0.1, step=6)[2])


@pytest.mark.parametrize("corrupt", ["centre", "random"])
@pytest.mark.parametrize("name", RULES)
def test_the_output_does_not_depend_on_the_dropped_pixels(name, corrupt):
    model, method, x, y = posed(name, corrupt=corrupt)
    changed = torch.where(y[:, 3:] > 0, 255 - IMAGES, IMAGES)
    assert not torch.equal(changed, IMAGES)
    _, _, x_changed, y_changed = posed(name, changed, corrupt=corrupt)
    assert torch.equal(x, x_changed)
    assert not torch.equal(y, y_changed)
    model.eval(), method.eval()
    with torch.no_grad():
        assert torch.equal(method.made(list(model), x), method.made(list(model), x_changed))
    elsewhere = torch.where(y[:, 3:] > 0, IMAGES, 255 - IMAGES)  # and on the others it does
    with torch.no_grad():
        assert not torch.equal(method.made(list(model), x), method.made(list(model), posed(name, elsewhere, corrupt=corrupt)[2]))


# ---------------------------------------------------------------------------------------------------------- the losses


def squared_error_by_hand(made: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor, overlap: int) -> float:
    """Loops over pixels; a pixel within ``overlap`` rows and columns of a dropped one weighs 10."""
    each = []
    n, channels, high, wide = made.shape
    for i in range(n):
        total, pixels = 0.0, 0
        for r in range(high):
            for c in range(wide):
                near = [
                    mask[i, a, b] > 0
                    for a in range(max(0, r - overlap), min(high, r + overlap + 1))
                    for b in range(max(0, c - overlap), min(wide, c + overlap + 1))
                ]
                weight = 1 if mask[i, r, c] > 0 else 10 if any(near) else 0
                pixels += weight > 0
                total += weight * sum((made[i, k, r, c] - truth[i, k, r, c]).item() ** 2 for k in range(channels))
        each.append(total / (pixels * channels))
    return sum(each) / n


@pytest.mark.parametrize("overlap", [0, 2])
@pytest.mark.parametrize("corrupt", ["centre", "random", "none"])
def test_the_squared_error_is_that_of_a_loop_over_pixels(corrupt, overlap):
    _, method, _, y = posed(images=IMAGES[:2], corrupt=corrupt, overlap=overlap)
    made = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    want = squared_error_by_hand(made, y[:, :3], y[:, 3], overlap)
    assert method.pretext.reconstruction(made, y).item() == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("overlap", [0, 1])
@pytest.mark.parametrize("corrupt", ["centre", "random"])
def test_the_losses_gradient_is_zero_outside_the_mask_and_its_border(corrupt, overlap):
    model, method, x, y = posed(corrupt=corrupt, overlap=overlap, lambda_adv=0.5)
    made = torch.randn(5, 3, 16, 16, dtype=torch.float64, requires_grad=True)

    class Given(nn.Module):  # a decoder whose image is what it was given
        def forward(self, h):
            return made + 0 * h.sum()

    method.heads["1"].decoder = Given()
    p = list(method.forward(list(model), x, y))[1]
    (g,) = torch.autograd.grad(method.pretext.loss(1, method.heads["1"], p.z, p.y), made)
    region = method.pretext.predicted(y).expand_as(g) > 0
    dropped = int((y[:, 3:].expand_as(g) > 0).sum())
    assert int(region.sum()) == dropped if overlap == 0 else int(region.sum()) > dropped
    assert (g[~region] == 0).all()
    assert (g[region] != 0).all()


def bce_by_hand(logits: list[float], real: bool) -> float:
    sigma = [1 / (1 + math.exp(-v)) for v in logits]
    return -sum(math.log(s if real else 1 - s) for s in sigma) / len(sigma)


@pytest.mark.parametrize("corrupt", ["centre", "random", "none"])
def test_generator_and_discriminator_each_descend_their_own_loss_on_the_same_weights(corrupt):
    """Both by ``backward()`` on copies: the other's weights are frozen, images are detached for the discriminator."""
    model, method, x, y = posed(corrupt=corrupt, lambda_rec=0.7, lambda_adv=0.3)
    twin, other = copy.deepcopy(model), copy.deepcopy(method)
    updates = updates_of(model, method, x, y)
    head = other.heads["1"]
    made = head.decoder(twin[1](twin[0](x)))
    mask, truth = y[:, 3:], y[:, :3]

    def seen(images):
        return (images * mask)[:, :, 4:12, 4:12] if corrupt == "centre" else images * mask

    theirs = copy.deepcopy(head.discriminator)
    real, fake = theirs(seen(truth)), theirs(seen(made.detach()))
    loss = -(torch.log(torch.sigmoid(real)) + torch.log(1 - torch.sigmoid(fake))).mean()
    loss.backward()
    assert loss.item() == pytest.approx(bce_by_hand(real.flatten().tolist(), True) + bce_by_hand(fake.flatten().tolist(), False), rel=1e-10)
    judge = copy.deepcopy(head.discriminator).requires_grad_(False)
    mine = 0.7 * ((made - truth).square() * mask).sum((1, 2, 3)) / (3 * mask.sum((1, 2, 3)))
    adversarial = -torch.log(torch.sigmoid(judge(seen(made))))
    (mine.mean() + 0.3 * adversarial.mean()).backward()
    own = updates[1].aux_grads
    assert_near(_under(own, "heads.1.discriminator."), {n: p.grad for n, p in theirs.named_parameters()}, 1e-9)
    assert_near(_under(own, "heads.1.decoder."), {n: p.grad for n, p in head.decoder.named_parameters()}, 1e-9)
    for k in (0, 1):
        assert_near(updates[k].grad.params, {n: p.grad for n, p in twin[k].named_parameters()}, 1e-9)
    assert updates[1].signal.loss.item() == pytest.approx((mine.mean() + 0.3 * adversarial.mean()).item(), rel=1e-10)
    said = {name: float(value) for name, value in method.quantities(updates[1]).items()}
    want = {"reconstruction": mine.mean().item() / 0.7, "discriminator_loss": loss.item()}
    want |= {"real": real.sigmoid().mean().item(), "fake": fake.sigmoid().mean().item()}
    assert said == pytest.approx(want, rel=1e-9)
    assert method.quantities(updates[0]) == {}
    assert set(said) == set(method.method_quantities)


def _under(own: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): g for name, g in own.items() if name.startswith(prefix)}


def graph_parameters(tensor: torch.Tensor) -> set[torch.Tensor]:
    """Every leaf that a tensor's graph leads back to."""
    found, todo, seen = set(), [tensor.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(node.variable)
        todo += [n for n, _ in node.next_functions]
    return found


def test_neither_loss_has_a_way_to_the_others_network(monkeypatch):
    """Structural: of every gradient that is asked for, what the differentiated loss's graph leads to."""
    model, method, x, y = posed(lambda_adv=0.5)
    p = list(method.forward(list(model), x, y))[1]
    judge, decoder = set(method.heads["1"].discriminator.parameters()), {*method.heads["1"].decoder.parameters(), p.z}
    asked: list[tuple[set[torch.Tensor], set[torch.Tensor]]] = []
    real = torch.autograd.grad

    def watched(outputs, inputs, *args, **kwargs):
        asked.append((graph_parameters(outputs), set(inputs) if isinstance(inputs, list | tuple) else {inputs}))
        return real(outputs, inputs, *args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", watched)
    method.pretext.differentiate(1, method.heads["1"], p.z, p.y)
    (to_judge, to_image, to_decoder) = asked
    assert to_judge[1] == judge
    assert not to_judge[0] & decoder  # the discriminator's loss cannot reach the decoder or the encoder
    assert not to_image[1] & (judge | decoder)  # the other is differentiated by the image made alone
    assert to_decoder[1] == decoder
    assert not to_decoder[0] & judge  # ... and what is pulled back from there cannot reach the discriminator


def test_a_step_at_one_learning_rate_leaves_the_other_network_as_it_is():
    """With SGD at lr 0 for one of the two, and the other way round."""
    for still in ("generator", "discriminator"):
        model, method, x, y = posed(lambda_adv=0.5, discriminator_lr=0.0 if still == "discriminator" else 0.1)
        groups = method.param_groups(list(model))
        assert [len(groups), groups[1]["lr"]] == [2, 0.0 if still == "discriminator" else 0.1]
        before = {n: p.clone() for n, p in (*model.named_parameters(), *method.named_parameters())}
        optimizer = torch.optim.SGD(groups, lr=0.0 if still == "generator" else 0.1)
        training_step(ModelAndMethod(model, method), optimizer, x, y)
        for n, p in (*model.named_parameters(), *method.named_parameters()):
            moves = not n.startswith("top") and (".discriminator." in n) == (still == "generator")
            if not moves:
                assert torch.equal(p, before[n]), n
            elif n.endswith("weight"):  # not the biases that batch normalisation takes away
                assert not torch.equal(p, before[n]), n


@pytest.mark.parametrize("name", RULES)
def test_without_an_adversarial_loss_no_discriminator_is_made(name):
    model, method, x, y = posed(name, lambda_adv=0.0)
    assert not [n for n, _ in method.named_parameters() if "discriminator" in n]
    assert len(method.param_groups(list(model))) == 1
    u = updates_of(model, method, x, y)[1]
    assert set(method.quantities(u)) == {"reconstruction"}


def test_the_discriminators_learning_rate_arrives_and_follows_the_schedule():
    config = make_config(method="context-encoder", width=4, lr=0.01, beta1=0.5, options={"discriminator_lr": 0.002, **SMALL})
    pair = build_model_and_method(config, (1, 8, 8), 10, torch.device("cpu"))
    optimizer = make_optimizer(config, pair)
    assert [g["lr"] for g in optimizer.param_groups] == [0.01, 0.002]
    assert [g["betas"] for g in optimizer.param_groups] == [(0.5, 0.999)] * 2


def test_local_modules_receive_nothing_of_each_other():
    model, method, x, y = posed("context-encoder-local", lambda_adv=0.2)
    assert [sorted({n.split(".")[1] for n, _ in method.named_parameters()})] == [["0", "1"]]
    before = updates_of(copy.deepcopy(model), method, x, y)
    assert [u.signal.messages_below for _, u in sorted(before.items())] == [(), ()]
    changed = copy.deepcopy(method)
    with torch.no_grad():
        for p in changed.heads["1"].parameters():
            p.mul_(-3)
    after = updates_of(copy.deepcopy(model), changed, x, y)
    assert_same_bits(after[0].grad.params, before[0].grad.params)
    assert_same_bits(dict(after[0].aux_grads), dict(before[0].aux_grads))
    assert {n.split(".")[1] for n in before[0].aux_grads} == {"0"}


def test_evaluation_is_the_squared_error_alone_with_masks_that_stay():
    config = make_config(method="context-encoder", width=4, batch_size=32, options={"corrupt": "random", **SMALL})
    data = load_data("digits", limit=64, limit_test=40)
    pair = build_model_and_method(config, data.shape, 10, torch.device("cpu"))
    inputs = normalizer("pm1", data.train.images)
    first, accuracy, _ = evaluate(pair, data.test, inputs, config)
    pair.method.start(3, 99)
    assert (evaluate(pair, data.test, inputs, config)[0], math.isnan(accuracy)) == (first, True)
    pair.model.eval(), pair.method.eval()
    want = 0.0
    for i in (0, 32):
        x, y = pair.method.make_inputs(data.test.images[i : i + 32], data.test.labels, -1 - i, inputs)
        with torch.no_grad():
            made = pair.method.made(list(pair.model), x)
        want += squared_error_by_hand(made, y[:, :1], y[:, 1], 0) * len(x) / 40
    assert first == pytest.approx(want, rel=1e-5)


# ------------------------------------------------------------------------------------------------------- the networks


def test_channelwise_layer_has_m_n4_weights_and_a_block_diagonal_jacobian():
    layer = ChannelwiseLinear(3, (2, 4)).double()
    assert layer.weight.numel() == 3 * 8**2
    assert sum(p.numel() for p in layer.parameters()) == 3 * 8**2 + 3 * 8
    assert layer.weight.std().item() == pytest.approx(0.02, rel=0.2)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape)), layer.bias.copy_(torch.randn(layer.bias.shape))
    x = torch.randn(2, 3, 2, 4, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: layer(v[None])[0], x[0]).reshape(3, 8, 3, 8)
    for a in range(3):
        for b in range(3):
            assert torch.equal(jacobian[a, :, b], layer.weight[a].detach() if a == b else torch.zeros(8, 8, dtype=torch.float64))
    got = layer(x)
    for i in range(2):
        for c in range(3):
            want = [
                sum(layer.weight[c, o, p].item() * x[i, c].flatten()[p].item() for p in range(8)) + layer.bias[c, o].item()
                for o in range(8)
            ]
            assert got[i, c].flatten().tolist() == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize(
    ("shape", "image", "sizes"),
    [
        ((16, 4, 4), (3, 32, 32), [(4, 4), (8, 8), (16, 16), (32, 32)]),
        ((16, 16, 16), (3, 32, 32), [(8, 8), (16, 16), (32, 32)]),  # averaged to 8x8 first
        ((16, 3, 3), (1, 28, 28), [(3, 3), (7, 7), (14, 14), (28, 28)]),
        ((16, 6, 6), (3, 96, 96), [(6, 6), (12, 12), (24, 24), (48, 48), (96, 96)]),
        ((16, 8, 8), (3, 8, 8), [(8, 8), (8, 8)]),
        ((40, 1, 1), (3, 32, 32), [(4, 4), (8, 8), (16, 16), (32, 32)]),  # one pixel: a dense layer
        ((40,), (1, 8, 8), [(4, 4), (8, 8)]),
        ((5,), (1, 1, 30), [(1, 3), (1, 7), (1, 15), (1, 30)]),
    ],
)
def test_decoders_double_their_maps_up_to_the_image(shape, image, sizes):
    decoder = context_decoder(shape, image)
    seen = []
    for name, child in decoder.named_children():
        if name.startswith("up"):
            child.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape[2:])))
    out = decoder(torch.randn(2, *shape))
    assert out.shape == (2, *image)
    assert [*seen, tuple(out.shape[2:])] == sizes
    names = [name for name, _ in decoder.named_children()]
    assert ("context" in names) == (len(shape) == 3 and shape[1] > 1)
    assert ("pool" in names) == (shape[-1] == 16 and image[1] == 32 and len(shape) == 3)


def test_weights_start_as_dcgans():
    for module in (context_decoder((64, 4, 4), (3, 32, 32)), discriminator((3, 16, 16), 64)):
        for m in module.modules():
            if isinstance(m, nn.Conv2d | nn.ConvTranspose2d) and m.weight.numel() > 2000:
                assert m.weight.std().item() == pytest.approx(0.02, rel=0.1)
            if isinstance(m, nn.BatchNorm2d) and len(m.weight) > 30:
                assert m.weight.mean().item() == pytest.approx(1, abs=0.02)
                assert m.weight.std().item() == pytest.approx(0.02, rel=0.5)
            if getattr(m, "bias", None) is not None:
                assert not m.bias.any()


@pytest.mark.parametrize(("region", "layers"), [((3, 16, 16), 2), ((3, 64, 64), 4), ((1, 4, 4), 1), ((1, 2, 3), 1), ((3, 56, 33), 3)])
def test_the_discriminator_is_sized_to_the_region(region, layers):
    judge = discriminator(region, 4)
    assert judge(torch.randn(3, *region)).shape == (3, 1)
    assert [m.out_channels for m in judge if isinstance(m, nn.Conv2d)] == [*[4, 8, 16, 32, 64][:layers], 1]
    assert sum(isinstance(m, nn.BatchNorm2d) for m in judge) == layers - 1
    assert len([m for m in judge if isinstance(m, nn.LeakyReLU) and m.negative_slope == 0.2]) == layers


# ------------------------------------------------------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short training on the digits, its results stored."""
    settings = {"width": 8, "depth": 2, "epochs": 6, "lr": 5e-3, "batch_size": 64, "record_every": 50, "options": SMALL}
    return shelf.copied(shelf.trained(make_config(method="context-encoder", **settings)), tmp_path_factory.mktemp("runs"))


def inpainted(run):
    return InpaintedImages().measure(run, Session(RunContext(), InpaintingOptions(6)), no_progress)


@pytest.mark.slow
def test_a_short_training_beats_the_mean_patch(run):
    before = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    result = inpainted(run)
    assert {file: file.read_bytes() for file in before} == before
    assert set(run.path.rglob("*")) - set(before) == {run.path / "inpainting.json"}
    found = result["errors"]
    assert found["network"]["l2"] < 0.8 * found["mean_patch"]["l2"]
    assert found["dropped"] == 0.25
    # the same numbers from the data and the evaluation's own: pm1 doubles the grey scale, the loss's square is four times as large
    data = load_data("digits")
    images = data.test.images[:, :, 2:6, 2:6].double() / 255
    patch = data.train.images.double().mean(0)[:, 2:6, 2:6] / 255
    assert found["mean_patch"]["l2"] == pytest.approx((images - patch).square().mean().item(), rel=1e-5)
    assert found["mean_patch"]["l1"] == pytest.approx((images - patch).abs().mean().item(), rel=1e-5)
    assert found["mean_patch"]["psnr"] == pytest.approx(10 * math.log10(1 / (images - patch).square().mean().item()), rel=1e-5)
    test_loss = [m.loss for m in run.metrics if m.split == "test"][-1]
    assert found["network"]["l2"] <= test_loss / 4 + 1e-6  # clipped to the grey scale here, which only helps
    assert found["network"]["l2"] == pytest.approx(test_loss / 4, rel=0.2)


def test_the_pictures_are_what_they_are_called(run):
    result = load_result(run.path, "inpainting") or inpainted(run)
    original, corrupted, output = (inpainting.unpacked(result, name) for name in ("original", "corrupted", "output"))
    test = load_data("digits").test.images.numpy()
    assert original.shape == (6, 1, 8, 8)
    assert all((test == one).all((1, 2, 3)).any() for one in original)
    hole = np.zeros((8, 8), bool)
    hole[2:6, 2:6] = True
    for pictures in (corrupted, output):
        assert (pictures[..., ~hole] == original[..., ~hole]).all()
        assert (pictures[..., hole] != original[..., hole]).any()
    assert set(corrupted[..., hole].flatten().tolist()) == {110}  # the luma of (117, 104, 123)


def test_the_figure_is_drawn_from_what_is_stored(run, tmp_path):
    load_result(run.path, "inpainting") or inpainted(run)
    drawn, skipped = draw_learned([run], tmp_path)
    assert skipped == {}
    assert [path.name for path in drawn] == ["inpainting.png"]
    header, line = (tmp_path / "inpainting.csv").read_text().splitlines()
    assert header.split(",")[0] == "label"
    assert float(line.split(",")[2]) == pytest.approx(load_result(run.path, "inpainting")["errors"]["network"]["l2"], rel=1e-3)


def test_the_grid_shows_images_once_where_they_are_the_same():
    one = np.zeros((3, 1, 4, 4), np.uint8)
    panels = [InpaintingPanel("a", one, one, one), InpaintingPanel("b", one, one, one + 1), InpaintingPanel("c", one + 2, one, one)]
    axes = inpainting_grid(panels).axes
    assert [ax.get_title() for ax in axes] == ["images", "input", "output", "input", "output", "images", "input", "output"]
    assert [[text.get_text() for text in ax.texts] for ax in axes] == [[], ["a"], [], ["b"], [], [], ["c"], []]
    with pytest.raises(InputError, match="no inpainted images"):
        inpainting_grid([])


def test_what_the_rule_says_is_recorded(run):
    recorded = {r.quantity for r in run.gradients if r.kind == "rule" and r.layer == "block2"}
    assert recorded == {"reconstruction", "discriminator_loss", "real", "fake", "loss"}
    assert {r.reference for r in run.gradients} == {"inpainting loss at the top of the encoder, same passes"}


# ------------------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["size=1"], "drops 8x8 of 8x8 pixels: no context is left to predict them from"),
        (["size=2", "corrupt=random"], "drops 16x16 of 8x8 pixels: no context is left to predict them from"),
        (["size=0"], "drops 0x0 of 8x8 pixels: no pixel is left to predict"),
        (["size=-0.5"], "drops 0x0 of 8x8 pixels: no pixel is left to predict"),
        (["size=0.1"], "a discriminator needs a region of 2x2 pixels or more"),
        (["lambda_rec=0", "lambda_adv=0"], "no loss"),
        (["corrupt=center"], "nearest: centre"),
        (["size=wide"], "size"),
        (["overlap=-1"], "overlap"),
        (["modules=9"], "unknown option of context-encoder 'modules'"),
    ],
)
def test_what_cannot_be_masked_is_reported_in_one_sentence(program, tmp_path, sets, said):
    arguments = [part for one in sets for part in ("--set", one)]
    status, out, err = program("train", "context-encoder", "--width", "4", "--out", tmp_path / "runs", *arguments)
    assert (status, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_only_context_encoders_are_shown(program, tmp_path):
    other = train_run(make_config(width=4, epochs=0, limit=32, batch_size=32), RunContext(out=tmp_path))
    for arguments, said in (
        ([other.path], "bp drops no pixels"),
        ([tmp_path / "none"], "does not exist"),
    ):
        status, _, err = program("inpaint", *arguments, "--out", tmp_path / "f")
        assert status == 2
        assert said in err
        assert err.count("\n") == 1
    assert not (tmp_path / "f").exists()
    with pytest.raises(InputError, match="only runs of context-encoder"):
        inpainting.must_inpaint(METHODS["bp"])


def test_context_encoders_are_recognised_by_their_class():
    assert [name for name, rule in METHODS.items() if rule.inpaints] == ["context-encoder", "context-encoder-local"]


def test_the_command_prints_stores_and_draws(run, program, tmp_path):
    status, out, _ = program("inpaint", run.path, "--images", "3", "--out", tmp_path, "--quiet")
    assert status == 0
    assert "mean" in out
    assert "patch" in out  # a heading may break between them
    assert "inpainting.json" in out
    assert (tmp_path / "inpainting.png").stat().st_size > 5000
    assert load_result(run.path, "inpainting")["shape"] == [3, 1, 8, 8]
    status, _, err = program("inpaint", run.path, "--images", "4000", "--out", tmp_path)
    assert (status, err.count("\n")) == (2, 1)
    assert "--images 4000: there are 364 test images" in err


def test_the_papers_settings_are_a_config_that_builds():
    config = make_config(**read_config_file(ROOT / "analyses" / "configs" / "context-encoder.json"))
    assert (config.model.name, config.optimizer.lr, config.optimizer.beta1, config.batch_size) == ("dcgan", 2e-3, 0.5, 64)
    small = config.replace(width=2)
    method = build_model_and_method(small, (3, 128, 128), 10, torch.device("cpu")).method
    assert [s.stop - s.start for s in method.pretext.hole] == [56, 56]  # of the 64 that are predicted, 4 on each side are seen
    assert [s.stop - s.start for s in method.pretext.seen] == [64, 64]
    assert [type(m).__name__ for m in method.heads[str(method.output_block)].decoder][:3] == ["Flatten", "Linear", "Unflatten"]


def test_the_papers_settings_train():
    config = make_config(**read_config_file(ROOT / "analyses" / "configs" / "context-encoder.json")).replace(width=2)
    pair = build_model_and_method(config, (3, 32, 32), 10, torch.device("cpu"))
    optimizer = make_optimizer(config, pair)
    assert [(g["lr"], g["betas"][0]) for g in optimizer.param_groups] == [(2e-3, 0.5), (2e-4, 0.5)]
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    for step in range(2):
        pair.method.start(1, step)
        x, y = pair.method.make_inputs(images, torch.zeros(4), step, normalizer("pm1", images))
        assert training_step(pair, optimizer, x, y, Recording(step)).loss.isfinite()
