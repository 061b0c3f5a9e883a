"""Rules in the middle of a run, on small networks, and the checks of `gradlens check` asked of them one by one."""

from collections.abc import Iterator, Mapping

import pytest
import torch
from oracles import SUPERVISED, UNLABELLED, VARIANTS, Case, case, method_class, needed, step, stirred
from torch import nn

from gradlens.data.transforms import normalizer
from gradlens.gradients.block_pass import Pass
from gradlens.gradients.losses import LOSSES, slope
from gradlens.gradients.method import Method, Options, Signal, Step, top_signal
from gradlens.gradients.network_info import NetworkInfo
from gradlens.gradients.rows import step_rows
from gradlens.gradients.true_gradient import true_gradients
from gradlens.methods import METHODS
from gradlens.models.block_boundaries import output_shapes
from gradlens.models.zoo import ModelSpec, build
from gradlens.training.build import ModelAndMethod, build_model_and_method, make_network_info
from gradlens.training.checks.method_checks import METHOD_CHECKS, failure_of
from gradlens.training.checks.trial import NETWORKS, CheckSkipped, Trial
from gradlens.training.config import make_config

RULES = [*SUPERVISED, *VARIANTS]  # VARIANTS: what a rule is with other options, where that changes who waits for whom
ISOLATED = [name for name in SUPERVISED if not METHODS[name].depends_on & {"backward_message", "output_error", "delayed_message"}]
LOCAL = [name for name in UNLABELLED if "backward_message" not in METHODS[name].depends_on]
FREEZING = {"greedy", "shallow"}  # rules that leave blocks as they are; in the tests greedy is in its last stage
OTHER_INPUTS = {"dgl-async", "dni-unlocked"}  # rules whose blocks need not read what the block below gave
IN_THE_GRAPH = {
    name for name, method in METHODS.items() if method.backward_context is not Method.backward_context
}  # what is pulled back is not W's


# ------------------------------------------------------------------------------------------- the checks of `gradlens check`

EVERYWHERE = ("bp", "dni", "dgl-async", "context-encoder")  # on the residual network, which takes longest, the others are slow


def asked(check: str, name: str) -> bool:
    """Whether a check applies to a rule."""
    rule = method_class(name)
    if check == "labels":
        return rule.classifies and not rule.depends_on & {"labels", "output_error"}
    return check != "truth" or (rule.classifies and name not in ("distil", "greedy"))  # whose objective is another one


def every_rule(check: str) -> pytest.MarkDecorator:
    """Parameters of a test: (name, network) for every rule, on every network."""
    return pytest.mark.parametrize(
        ("name", "network"),
        [
            pytest.param(name, network, marks=[pytest.mark.slow] * (network == "resnet" and name not in EVERYWHERE))
            for name in (*METHODS, *VARIANTS)
            for network in NETWORKS
            if asked(check, name) and (name in METHODS or network == "mlp")
        ],
    )


def trial(name: str, network: str) -> Trial:
    """A rule for the checks of `gradlens check`."""
    rule = method_class(name)
    return Trial(rule, rule.Options(**VARIANTS.get(name, ("", {}))[1]), network)


def holds(check: str, name: str, network: str) -> None:
    """The check finds nothing."""
    assert failure_of(METHOD_CHECKS[check], trial(name, network)) is None


def is_asked_of_no_other(check: str) -> None:
    """The rules left out of a check are those it does not apply to; a check passes over nothing else in silence."""
    for name in METHODS:
        if not asked(check, name):
            with pytest.raises(CheckSkipped):
                failure_of(METHOD_CHECKS[check], trial(name, "basic-cnn"))


# --------------------------------------------------------- a rule that is none of ours: its blocks read synthetic inputs


class SyntheticInputs(Method):
    """Block k reads I_k(image) instead of the h below; a head with BatchNorm and dropout answers on top."""

    depends_on = frozenset({"backward_message", "image"})

    def __init__(self, net: NetworkInfo, images: torch.Size) -> None:
        super().__init__(net, Options())
        size = images.numel()
        self.shapes = net.shapes[:-1]
        self.inputs = nn.ModuleList(nn.Linear(size, shape.numel()) for shape in self.shapes)
        width = net.shapes[-1][0]
        self.head = nn.Sequential(nn.Linear(width, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, net.classes))

    def forward(self, blocks, x, y) -> Iterator[Pass]:
        for k, block in enumerate(blocks):
            src = self.inputs[k - 1](x.flatten(1)).reshape(-1, *self.shapes[k - 1]) if k else None
            read = x if src is None else src.detach().requires_grad_()
            h = block(read)
            yield Pass(k, block, read, y, h, h.detach().requires_grad_(), src)

    def signal(self, k: int, passes: Mapping[int, Pass], received: tuple[torch.Tensor, ...]) -> Signal:
        if k < self.num_blocks - 1:
            return Signal(received[0], (received[0],))
        value, delta = slope(lambda z, y: self.loss(self.head(z), y), passes[k].z, passes[k].y)
        return Signal(delta, (delta,), loss=value)


def synthetic_inputs(dtype: torch.dtype = torch.float64) -> tuple[SyntheticInputs, Case]:
    c = case("basic-cnn", dtype)
    for block in c.blocks[:2]:
        block.append(nn.Dropout(0.3))
    net = NetworkInfo(c.blocks, output_shapes(c.model, c.shape), 10, 16, LOSSES["ce"], 3)
    return stirred(SyntheticInputs(net, c.shape).to(dtype)), c


class Silent(Method):
    """Trains the top alone: every other block is told nothing."""

    def signal(self, k, passes, received):
        return top_signal(self.loss, passes[k])._replace(messages_below=()) if k == self.num_blocks - 1 else Signal(None)


def silent(c: Case) -> Silent:
    """Such a rule on a case's network."""
    return Silent(NetworkInfo(c.blocks, output_shapes(c.model, c.shape), 10, 16, LOSSES["ce"], 3), Options())


# ------------------------------------------------------------------------------------------------- rules without labels

PLAN = ModelSpec((3, 16, 16), 10, width=4, depth=2)
IMAGES = torch.randint(0, 256, (6, 3, 16, 16), generator=torch.Generator().manual_seed(7), dtype=torch.uint8)


def posed(name: str, dtype: torch.dtype = torch.float64, step_: int = 5, **options: object) -> tuple[Method, Case]:
    """A rule in the middle of a run, and the task it makes of six images of noise."""
    model = build("basic-cnn", PLAN, seed=1).to(dtype)
    net = make_network_info(model, PLAN.shape, 10, LOSSES["ce"], 3, epochs=3)
    method = stirred(METHODS[name](net, METHODS[name].Options(**options)).to(dtype))
    method.start(2, step_)
    to_input = normalizer("pm1", IMAGES)
    x, y = method.make_inputs(IMAGES, torch.arange(6), step_, lambda images: to_input(images).to(dtype))
    return method, Case(model, x, y)


def recorded(method: Method, c: Case):
    passes, updates = step(method, c)
    run = Step(c.blocks, c.x, c.y, passes, updates)
    return step_rows(5, ["block1", "block2", "top"], method, run, true_gradients(method, run))


# ------------------------------------------------------------------------------------------------------ states


def everything(pair: ModelAndMethod, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    state = {f"model.{n}": t for n, t in pair.model.state_dict().items()}
    state |= {f"method.{n}": t for n, t in pair.method.state_dict().items() if isinstance(t, torch.Tensor)}
    for i, slots in optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{i}.{n}": torch.as_tensor(t) for n, t in slots.items()}
    return {**state, "stream": torch.get_rng_state()}


def tiny_pair(name: str) -> ModelAndMethod:
    pair = build_model_and_method(make_config(method=name, width=4, depth=2, **needed(name)), (1, 8, 8), 10, torch.device("cpu"))
    pair.model[0].append(nn.Dropout(0.3))  # draws from the global stream
    stirred(pair.method)
    return pair
