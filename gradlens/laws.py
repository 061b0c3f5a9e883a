"""Laws that every rule obeys, asked of one rule on small networks in float64; each answers with a sentence if it is broken.

The same laws are tested over all of METHODS; here they are functions, so that ``gradlens check`` can ask them of a user's rule.
"""

from __future__ import annotations

import copy
import io
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gradlens.errors import InputError
from gradlens.method import Method, Signal, Step, Update, backward
from gradlens.models import build
from gradlens.objectives import cross_entropy
from gradlens.passes import Pass
from gradlens.plan import Plan
from gradlens.recorder import true_updates
from gradlens.setup import Pair, make_net
from gradlens.train import update

NETWORKS: dict[str, tuple[str, Plan]] = {  # the smallest that have what matters: no normalisation, BatchNorm and pools, residual blocks
    "mlp": ("mlp", Plan((1, 8, 8), 10, width=12, depth=3)),
    "basic-cnn": ("basic-cnn", Plan((3, 8, 8), 10, width=4, depth=2)),
    "resnet": ("resnet20", Plan((3, 8, 8), 10, width=2)),
}
IMAGES, EPOCHS, STEPS = 6, 3, 4
NEAR = 1e-9  # how far a recorded truth may be from the one of an uncut copy, as a share of the largest entry
Bits = dict[str, Tensor]


class Broken(Exception):
    """A law is broken; the message says how."""


class NotAsked(Exception):
    """A law that does not apply to a rule; the message says why."""


class Made(NamedTuple):
    """A network and a rule on it."""

    model: nn.Sequential
    method: Method

    @property
    def blocks(self) -> list[nn.Module]:
        """Bottom first."""
        return list(self.model)

    def name(self, k: int) -> str:
        """A block's name."""
        return list(self.model._modules)[k]


@dataclass(frozen=True)
class Trial:
    """A rule with its options, on one of NETWORKS; whatever is made here twice is the same to the bit, if the rule obeys the laws."""

    rule: type[Method]
    options: Any
    network: str

    def made(self, loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy, awake: bool = True, dropout: bool = False) -> Made:
        """A fresh network and rule; ``awake``: as in the last epoch of a run, past its warm-up, its own parameters off their start."""
        name, plan = NETWORKS[self.network]
        read = self.rule.input_shape(plan.shape, self.options)
        model = build(name, Plan(read, plan.classes, plan.width, plan.depth), seed=1).double()
        net = make_net(model, read, plan.classes, loss, 3, EPOCHS)._replace(image=plan.shape, teacher=_teacher)
        made = Made(model, self.rule(net, self.options).double())
        if dropout and isinstance(model[0], nn.Sequential):
            model[0].append(nn.Dropout(0.3))
        if awake:
            self._wake(made)
        return made

    def _wake(self, made: Made) -> None:
        noise = torch.Generator().manual_seed(11)
        with torch.no_grad():
            for p in made.method.parameters():
                p.add_(torch.randn(p.shape, generator=noise, dtype=torch.float64), alpha=0.05)
        made.method.start(EPOCHS, 1 << 20)
        twins = copy.deepcopy(made.blocks)
        for i in (-2, -1):  # what fills its buffers, if it has some
            torch.manual_seed(i)
            list(made.method.forward(twins, *self.batch(made.method, i)))
        for block, twin in zip(made.blocks, twins, strict=True):
            for module, other in zip(block.modules(), twin.modules(), strict=True):
                module.training = other.training

    def batch(self, method: Method, step: int = 0) -> tuple[Tensor, Tensor]:
        """The input and targets of a step, as the rule makes them of images and labels."""
        plan, noise = NETWORKS[self.network][1], torch.Generator().manual_seed(5 + step)
        images = torch.randint(0, 256, (IMAGES, *plan.shape), generator=noise, dtype=torch.uint8)
        labels = torch.randint(0, plan.classes, (IMAGES,), generator=noise)
        return method.task(images, labels, step, lambda x: x.double() / 127.5 - 1)


def _teacher(images: Tensor) -> Tensor:
    return images.flatten(1)[:, :10]


def _bits(module: nn.Module) -> Bits:
    return {name: t.detach().clone() for name, t in module.state_dict().items() if isinstance(t, Tensor)}


def _differing(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors that are not the same to the bit (NaNs equal themselves)."""

    def same(x: Tensor, y: Tensor) -> bool:
        return x.shape == y.shape and torch.allclose(x, y, rtol=0, atol=0, equal_nan=True)

    return [name for name in (*a, *(b.keys() - a.keys())) if name not in a or name not in b or not same(a[name], b[name])]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _one_step(trial: Trial, made: Made, step: int = 0) -> dict[int, Update]:
    """One step with all graphs kept."""
    torch.manual_seed(step)
    x, y = trial.batch(made.method, step)
    passes = list(made.method.forward(made.blocks, x, y))
    return {u.k: u for u in backward(made.method, iter(passes), keep=True)}


# -------------------------------------------------------------------------------------------------------------- the laws


def works(trial: Trial) -> None:
    """A step runs as in training, each block at most once; the top is told the gradient of a loss, and answers."""
    made = trial.made()
    method, top = made.method, made.method.top
    plain = method.signal

    def checked(k: int, passes: Mapping[int, Pass], above: tuple[Tensor, ...]) -> Signal:
        signal = plain(k, passes, above)
        _must_be_a_signal(signal, made.name(k), passes[k])
        return signal

    method.signal = checked  # type: ignore[method-assign]
    seen: list[int] = []
    torch.manual_seed(0)
    for u in backward(method, method.forward(made.blocks, *trial.batch(method))):
        if u.k in seen:
            raise Broken(f"{made.name(u.k)} is updated twice in one step")
        seen.append(u.k)
        if u.k == top and (u.signal.delta is None or u.signal.loss is None):
            raise Broken(f"{made.name(top)}, the top, is told no {'gradient' if u.signal.delta is None else 'loss'}: see `top_signal`")
        if u.k == top and method.classifies and u.signal.answer is None:
            raise Broken(f"{made.name(top)}, the top, gives no answer (Signal.answer): see `top_signal`")
    if top not in seen:
        raise Broken(f"{made.name(top)}, the top, is not updated")
    if written := [n for n, p in (*made.model.named_parameters(), *method.named_parameters()) if p.grad is not None]:
        raise Broken(f"it writes .grad of {_listed(written)}: gradients are returned, only the training loop writes them")


def _must_be_a_signal(signal: Any, name: str, p: Pass) -> None:
    if not isinstance(signal, Signal):
        raise Broken(f"`signal` gives a {type(signal).__name__} at {name}, not a Signal")
    if not isinstance(signal.send, tuple):
        raise Broken(f"at {name} `send` is a {type(signal.send).__name__}: wanted a tuple of messages")
    for what, g in (("delta", signal.delta), *(("a message", m) for m in signal.send)):
        if g is not None and g.shape != p.h.shape:
            got, wanted = ("x".join(map(str, t.shape)) or "a scalar" for t in (g, p.h))
            raise Broken(f"at {name} {what} is {got} and the block's output {wanted}: they must have one shape")
        if g is not None and g.requires_grad:
            raise Broken(f"at {name} {what} carries a graph: a gradient is a plain value; read `passes[k].z` and use `.detach()`")


def gradients(trial: Trial) -> None:
    """Gradients are finite plain values of their parameter's shape; those of the rule's own modules go by the parameter's name."""
    made = trial.made()
    own = dict(made.method.named_parameters())
    told: dict[str, str] = {}
    for u in _one_step(trial, made).values():
        name = made.name(u.k)
        for param, g in u.own.items():
            if param not in own:
                raise Broken(
                    f"at {name} it gives a gradient for {param}, which is none of its own parameters ({_listed(list(own)) or 'none'})"
                )
            if param in told:
                raise Broken(f"the gradient of {param} is given twice, at {told[param]} and at {name}")
            told[param] = name
            if g.shape != own[param].shape:
                got, wanted = ("x".join(map(str, t.shape)) for t in (g, own[param]))
                raise Broken(f"at {name} the gradient of {param} is {got}, the parameter {wanted}")
            if g.requires_grad:
                raise Broken(f"at {name} the gradient of {param} carries a graph: it must be a plain value")
        values = {"delta": u.signal.delta, **{f"the gradient of {n}": g for n, g in {**u.grad.params, **u.own}.items()}}
        if wrong := [what for what, g in values.items() if g is not None and not g.isfinite().all()]:
            raise Broken(f"at {name} {wrong[0]} is not finite on plain noise")


def optimiser(trial: Trial) -> None:
    """The optimiser gets every parameter once; none of the rule's own is a block's."""
    made = trial.made()
    blocks = {id(p): name for name, p in made.model.named_parameters()}
    if shared := [f"{name} is {blocks[id(p)]} of the network" for name, p in made.method.named_parameters() if id(p) in blocks]:
        raise Broken(f"its parameter {shared[0]}: keep blocks in a plain list, not as submodules")
    given = [id(p) for group in made.method.param_groups(made.blocks) for p in group["params"]]
    params = {id(p): name for name, p in (*made.model.named_parameters(), *made.method.named_parameters())}
    for one, name in params.items():
        if given.count(one) != 1:
            raise Broken(f"the optimiser gets {name} {given.count(one)} times: see `param_groups`")


def arguments(trial: Trial) -> None:
    """What `signal` and `learn` say depends on their arguments only: asked twice, in any order, they say the same."""
    made = trial.made()
    torch.manual_seed(0)
    passes = list(made.method.forward(made.blocks, *trial.batch(made.method)))
    updates = {u.k: u for u in backward(made.method, iter(passes), keep=True)}
    known = {p.k: p for p in passes}
    for k in (*sorted(updates), *sorted(updates, reverse=True)):
        u = updates[k]
        torch.manual_seed(0)
        again = made.method.signal(k, known, u.above)
        learned = made.method.learn(k, known[k], again, u.grad, u.above)
        for what, a, b in (
            ("what it tells", _tensors(u.signal), _tensors(again)),
            ("the gradient of its own", dict(u.own), {**again.own, **learned}),
        ):
            if _differing(a, b):
                raise Broken(
                    f"asked twice at {made.name(k)}, {what} is not the same: it draws random numbers, or keeps something from call to call"
                )


def _tensors(signal: Signal) -> Bits:
    named = {"delta": signal.delta, "loss": signal.loss, "answer": signal.answer, **{f"send {i}": m for i, m in enumerate(signal.send)}}
    return {name: t for name, t in named.items() if t is not None}


def isolation(trial: Trial) -> None:
    """No loss reaches another block's parameters; a block that does not wait for the one above hears nothing of it, and is sent nothing."""
    reached: list[str] = []
    made: Made

    def spy(z: Tensor, y: Tensor) -> Tensor:
        value = cross_entropy(z, y)
        if value.requires_grad:
            params = dict(made.model.named_parameters())
            got = torch.autograd.grad(value, list(params.values()), allow_unused=True, retain_graph=True)
            reached.extend(name for name, g in zip(params, got, strict=True) if g is not None)
        return value

    made = trial.made(loss=spy)
    updates = _one_step(trial, made)
    if reached:
        raise Broken(f"a loss reaches {_listed(reached)} past what the block is told: read `passes[k].z`, which is cut off, not `.h`")
    for k, u in updates.items():
        if k and u.signal.send and not made.method.needs_above(k - 1):
            heard = f"`reads` ({_reads(trial)}) holds nothing from above"
            raise Broken(f"{made.name(k)} sends a message down and {made.name(k - 1)} waits for none: {heard}")
    for k in range(made.method.top):
        if made.method.needs_above(k):
            continue
        after = trial.made()
        with torch.no_grad():
            for p in (p for block in after.blocks[k + 1 :] for p in block.parameters()):
                p.mul_(-3)
        told, changed = updates.get(k), _one_step(trial, after).get(k)
        if told is None or changed is None:
            continue
        if _differing({**told.grad.params, **told.own}, {**changed.grad.params, **changed.own}):
            raise Broken(
                f"what {made.name(k)} is told changes with the blocks above it, and it does not wait for them: `reads` ({_reads(trial)})"
                " holds nothing from above"
            )


def _reads(trial: Trial) -> str:
    return ", ".join(sorted(trial.rule.reads))


def labels(trial: Trial) -> None:
    """A rule whose `reads` holds neither labels nor error says the same at every block but the top whatever the labels are."""
    if trial.rule.reads & {"labels", "error"}:
        raise NotAsked(f"its `reads` holds {' and '.join(sorted(trial.rule.reads & {'labels', 'error'}))}")
    if not trial.rule.classifies:
        raise NotAsked("it is trained without labels")
    made = trial.made()
    torch.manual_seed(0)
    passes = list(made.method.forward(made.blocks, *trial.batch(made.method)))
    updates = {u.k: u for u in backward(made.method, iter(passes), keep=True)}
    other = {p.k: p._replace(y=(p.y + 1) % 10) for p in passes}
    for k in range(made.method.top):
        if k in updates and _differing(_tensors(updates[k].signal), _tensors(made.method.signal(k, other, updates[k].above))):
            raise Broken(f"what {made.name(k)} is told changes with the labels: `reads` ({_reads(trial)}) must hold 'labels'")


def _trained(trial: Trial, made: Made, steps: Sequence[int], optimizer: torch.optim.Optimizer, record: bool = False) -> Bits:
    """Some steps as in training, and all that is left by them: weights, buffers, the optimiser's state, random state."""
    for i in steps:
        x, y = trial.batch(made.method, i)
        torch.manual_seed(i)
        made.method.start(1 + i // 2, i)
        update(Pair(*made), optimizer, x, y, i if record else None, diagnose=record and i == 1)
    return _state(made, optimizer)


def _state(made: Made, optimizer: torch.optim.Optimizer) -> Bits:
    state = {**_bits(made.model), **{f"the rule's {name}": t for name, t in _bits(made.method).items()}}
    for i, slots in optimizer.state_dict()["state"].items():
        state |= {f"the optimiser's {name} {i}": torch.as_tensor(t) for name, t in slots.items()}
    return {**state, "torch's random state": torch.get_rng_state()}


def _optimizer(made: Made) -> torch.optim.Optimizer:
    return torch.optim.Adam(made.method.param_groups(made.blocks), lr=0.01)


def no_trace(trial: Trial) -> None:
    """Training is the same to the bit with recording on and off: weights, buffers, random state."""
    ends = []
    for record in (False, True):
        made = trial.made(dropout=True, awake=False)
        ends.append(_trained(trial, made, range(STEPS), _optimizer(made), record))
    if differ := _differing(*ends):
        raise Broken(f"recording changes {_listed(differ)}: something is kept from call to call, or drawn in the passes that measure")


def seed(trial: Trial) -> None:
    """Two runs with one seed are the same to the bit, whatever was drawn before; making the rule draws nothing from torch's own stream."""
    ends = []
    for before in (0, 1):
        torch.manual_seed(before)
        stream = torch.get_rng_state()
        made = trial.made(awake=False)
        if not torch.equal(stream, torch.get_rng_state()):
            raise Broken("making it draws from torch's global random stream: make modules inside `with seeded(net.seed, 'purpose')`")
        ends.append((_bits(made.method), _trained(trial, made, range(STEPS), _optimizer(made))))
    if differ := _differing(ends[0][0], ends[1][0]):
        raise Broken(f"it begins with another {_listed(differ)} though the seed is the same")
    if differ := _differing(ends[0][1], ends[1][1]):
        raise Broken(f"two runs with one seed end with another {_listed(differ)}: draw from `seeding.generator(self.seed, …)`")


def resume(trial: Trial) -> None:
    """A run that is interrupted, saved and gone on with is the same to the bit as one that was not."""
    whole, first = trial.made(awake=False), trial.made(awake=False)
    want = _trained(trial, whole, range(STEPS), _optimizer(whole))
    optimizer = _optimizer(first)
    _trained(trial, first, range(STEPS // 2), optimizer)
    file = io.BytesIO()
    torch.save({"model": first.model.state_dict(), "method": first.method.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    try:
        saved = torch.load(file, weights_only=True)
    except Exception as error:  # torch raises a different type for every thing it does not load
        raise Broken("its saved state holds more than tensors and numbers, which a checkpoint does not load") from error
    second = trial.made(awake=False)
    second.model.load_state_dict(saved["model"])
    second.method.load_state_dict(saved["method"])
    optimizer = _optimizer(second)
    optimizer.load_state_dict(saved["optimizer"])
    if differ := _differing(want, _trained(trial, second, range(STEPS // 2, STEPS), optimizer)):
        raise Broken(
            f"gone on with after an interruption, it ends with another {_listed(differ)}: what it remembers from step to step must be in"
            " its state_dict (register_buffer, or get_extra_state)"
        )


def truth(trial: Trial) -> None:
    """The true gradient that is recorded is what loss.backward() gives on an uncut copy of the network."""
    made = trial.made()
    if not made.method.classifies:
        raise NotAsked("it gives no answers whose loss could be asked for")
    if made.method.objective != "loss":
        raise NotAsked(f"its objective is another one: {made.method.objective}")
    x, y = trial.batch(made.method)
    twin, outputs, h = copy.deepcopy(made.model), list[Tensor](), x
    for block in twin:
        h = block(h)
        h.retain_grad()
        outputs.append(h)
    cross_entropy(h, y).backward()  # type: ignore[no-untyped-call]
    torch.manual_seed(0)
    passes = list(made.method.forward(made.blocks, x, y))
    updates = {u.k: u for u in backward(made.method, iter(passes), keep=True)}
    found = true_updates(made.method, Step(made.blocks, x, y, sorted(passes, key=lambda p: p.k), updates))
    size = max(p.grad.abs().max().item() for p in twin.parameters() if p.grad is not None)
    for k, (grad, block) in enumerate(zip(found.grads, twin, strict=True)):
        pairs = [(f"{made.name(k)}.{n}", grad.params[n], p.grad) for n, p in block.named_parameters() if p.grad is not None]
        for name, mine, true in (*pairs, (f"the output of {made.name(k)}", grad.delta, outputs[k].grad)):
            assert mine is not None
            assert true is not None
            if (mine - true).abs().max().item() > NEAR * size:
                raise Broken(
                    f"the recorded truth at {name} is not what loss.backward() gives: at the top it must tell the gradient of the network's"
                    " own loss (`top_signal`), or name another `objective`"
                )


def answers(trial: Trial) -> None:
    """Outside of training it gives one answer for each image and changes nothing."""
    made = trial.made()
    x, y = trial.batch(made.method, -1)
    made.model.eval(), made.method.eval()
    before = {**_bits(made.model), **_bits(made.method)}
    with torch.no_grad():
        if not made.method.classifies:
            if made.method.assess(made.blocks, x, y).numel() != 1:
                raise Broken("`assess` gives no scalar")
        elif (z := made.method.predict(made.blocks, x)).shape != (IMAGES, 10):
            raise Broken(f"`predict` gives {'x'.join(map(str, z.shape))} for {IMAGES} images and 10 classes")
    if differ := _differing(before, {**_bits(made.model), **_bits(made.method)}):
        raise Broken(f"evaluation changes {_listed(differ)}")


LAWS: dict[str, Callable[[Trial], None]] = {
    "works": works,
    "gradients": gradients,
    "optimiser": optimiser,
    "arguments": arguments,
    "isolation": isolation,
    "labels": labels,
    "truth": truth,
    "answers": answers,
    "seed": seed,
    "leaves no trace": no_trace,
    "resume": resume,
}
AFTER = {
    "labels": "arguments",
    "seed": "gradients",
    "leaves no trace": "seed",
    "resume": "seed",
}  # what must hold for a law to mean anything


# -------------------------------------------------------------------------------------------------------- asking them all


class Finding(NamedTuple):
    """What one law says of a rule on one network."""

    law: str
    network: str
    said: str  # how it is broken, or why it was not asked; empty: it holds
    asked: bool = True

    @property
    def fails(self) -> bool:
        """Whether the law is broken."""
        return self.asked and bool(self.said)


def sentence(law: str) -> str:
    """What a law says, in words."""
    return " ".join((LAWS[law].__doc__ or "").split())


def broken(law: Callable[[Trial], None], trial: Trial) -> str | None:
    """How a law is broken by a rule on a network, in one sentence, or None.

    Raises:
        NotAsked: it does not apply.
        InputError: the rule refuses the network.

    """
    try:
        with torch.random.fork_rng(devices=[]):
            law(trial)
    except (NotAsked, InputError):
        raise
    except Broken as found:
        return str(found)
    except Exception as error:  # noqa: BLE001 - whatever a user's rule raises
        return _raised(error)
    return None


def _raised(error: Exception) -> str:
    """One sentence on an exception: where in the rule's own file it was raised, what it says."""
    ours = Path(__file__).parent
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if not Path(f.filename).is_relative_to(ours) and "torch" not in f.filename
    ]
    where = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    first = next(iter(str(error).splitlines()), "")
    more = ""
    if isinstance(error, KeyError) and error.args and isinstance(error.args[0], int):
        more = ": passes above a block are there only if it waits for them, as `reads` must say with 'error' or 'above'"
    return f"it raises {type(error).__name__}{f': {first}' if first else ''}{where}{more}"


def check(
    rule: type[Method],
    options: Any,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
    networks: Collection[str] = tuple(NETWORKS),
) -> Iterator[Finding]:
    """Ask every law of a rule on every network; where a rule does not work at all on one, the other laws are not asked there.

    Args:
        rule: the class.
        options: as its ``Options`` gives them.
        progress: called with (done, in all, what comes next).
        networks: names of NETWORKS; only these are built and asked, in this order.

    """
    total, done = len(LAWS) * len(networks), 0
    for network in networks:
        trial, why, lost = Trial(rule, options, network), "", set[str]()
        for name, law in LAWS.items():
            progress(done, total, f"{name} on {network}")
            done += 1
            if why:
                yield Finding(name, network, why, asked=False)
                continue
            if AFTER.get(name) in lost:
                lost.add(name)
                yield Finding(name, network, f"{AFTER[name]} must hold first", asked=False)
                continue
            try:
                said = broken(law, trial)
            except NotAsked as reason:
                yield Finding(name, network, str(reason), asked=False)
                continue
            except InputError as refusal:
                why = f"it refuses {network}: {refusal}"
                yield Finding(name, network, why, asked=False)
                continue
            if said:
                lost.add(name)
            if said and name == "works":
                why = f"it does not work on {network}"
            yield Finding(name, network, said or "")


def said(findings: Sequence[Finding]) -> list[str]:
    """A line for each law: what holds, what fails and how (on the first network where it does), what was not asked and why; a count."""
    lines, counts = [], {"holds": 0, "FAILS": 0, "not asked": 0}
    for law in LAWS:
        mine = [f for f in findings if f.law == law]
        fails, skipped = [f for f in mine if f.fails], [f for f in mine if not f.asked]
        verdict = "FAILS" if fails else "holds" if len(skipped) < len(mine) else "not asked"
        counts[verdict] += 1
        lines.append(f"{verdict:<10} {law}: {sentence(law)}")
        if fails:
            too = f" (on {' and '.join(f.network for f in fails[1:])} too)" if len(fails) > 1 else ""
            lines.append(f"{'':<11}on {fails[0].network}: {fails[0].said}{too}")
        lines += [f"{'':<11}{why}" for why in dict.fromkeys(f.said for f in skipped)]
    number = f"{counts['holds']} laws hold, {counts['FAILS']} fail{'s' if counts['FAILS'] == 1 else ''}"
    return [*lines, number + (f", {counts['not asked']} not asked" if counts["not asked"] else "")]
