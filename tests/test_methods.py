"""Laws that hold for every rule in METHODS that gives answers; a new rule is tested by existing."""

import copy
import weakref
from collections.abc import Iterator, Mapping

import pytest
import torch
from oracles import SUPERVISED, Case, assert_near, assert_same_bits, batches, case, frozen, needed, nll, rows_of, rule, step, stirred, uncut
from pydantic import Field
from torch import nn

from gradlens.config import make
from gradlens.gradients_backward import backward, run_step
from gradlens.gradients_true_gradient import true_updates
from gradlens.local import LocalLosses
from gradlens.method import Method, Net, Options, Signal, Step, Update, top_signal
from gradlens.methods import METHODS
from gradlens.models_block_boundaries import output_shapes
from gradlens.objectives import LOSSES, slope
from gradlens.optimizers import make_optimizer
from gradlens.passes import Pass, is_chain, pull_back
from gradlens.setup import Pair, make_pair
from gradlens.training_step import update

ISOLATED = [name for name in SUPERVISED if not METHODS[name].reads & {"above", "error", "later"}]
FREEZING = {"greedy", "shallow"}  # rules that leave blocks as they are; in the tests greedy is in its last stage
OTHER_INPUTS = {"dgl-async", "dni-unlocked"}  # rules whose blocks need not read what the block below gave
IN_THE_GRAPH = {name for name, method in METHODS.items() if method.rule is not Method.rule}  # what is pulled back is not W's


# --------------------------------------------------------- a rule that is none of ours: its blocks read synthetic inputs


class SyntheticInputs(Method):
    """Block k reads I_k(image) instead of the h below; a head with BatchNorm and dropout answers on top."""

    reads = frozenset({"above", "image"})

    def __init__(self, net: Net, images: torch.Size) -> None:
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

    def signal(self, k: int, passes: Mapping[int, Pass], above: tuple[torch.Tensor, ...]) -> Signal:
        if k < self.depth - 1:
            return Signal(above[0], (above[0],))
        value, delta = slope(lambda z, y: self.loss(self.head(z), y), passes[k].z, passes[k].y)
        return Signal(delta, (delta,), loss=value)


def synthetic_inputs(dtype: torch.dtype = torch.float64) -> tuple[SyntheticInputs, Case]:
    c = case("basic-cnn", dtype)
    for block in c.blocks[:2]:
        block.append(nn.Dropout(0.3))
    net = Net(c.blocks, output_shapes(c.model, c.shape), 10, 16, LOSSES["ce"], 3)
    return stirred(SyntheticInputs(net, c.shape).to(dtype)), c


# -------------------------------------------------------------------------------------------------------------- the truth


@pytest.mark.parametrize("network", ["basic-cnn", "vgg11", "resnet20", "mlp"])
@pytest.mark.parametrize("name", SUPERVISED)
def test_truth_equals_backward_on_an_uncut_copy_bit_for_bit(name, network):
    c = case(network, torch.float32)
    method = rule(name, c)
    twin = uncut(c.model, c.x, c.y)
    passes, updates = step(method, c)
    assert is_chain(passes) or name in OTHER_INPUTS
    truth, *_, reference = true_updates(method, Step(c.blocks, c.x, c.y, passes, updates))
    assert reference == f"{method.objective}, {'same passes' if is_chain(passes) else 'clean chain pass'}"
    for k, grad in enumerate(truth):
        assert_same_bits(grad.params, twin.gradients(k))
        assert torch.equal(grad.delta, twin.outputs[k].grad)
    if is_chain(passes):
        assert_same_bits(frozen(c.model), frozen(twin.model))  # BatchNorm saw the batch once


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", SUPERVISED)
def test_truth_is_the_gradient_of_the_rules_own_loss(name, loss):
    c = case("mlp")
    method = rule(name, c, LOSSES[loss])
    twin = copy.deepcopy(c.model)
    LOSSES[loss](twin(c.x), c.y).backward()
    truth = true_updates(method, run_step(method, c.blocks, c.x, c.y)).grads
    for k, grad in enumerate(truth):
        assert_near(grad.params, {n: p.grad for n, p in twin[k].named_parameters()}, 1e-12)


def test_truth_of_synthetic_inputs_comes_from_a_clean_chain_pass_that_leaves_no_trace():
    method, c = synthetic_inputs()
    passes, updates = step(method, c)
    assert not is_chain(passes)
    before, stream = (frozen(c.model), frozen(method)), torch.get_rng_state()
    twin, head, x = copy.deepcopy(c.model), copy.deepcopy(method.head), c.x
    truth, *_, reference = true_updates(method, Step(c.blocks, c.x, c.y, passes, updates))
    assert reference == "loss, clean chain pass"
    assert torch.equal(torch.get_rng_state(), stream)  # its dropout masks were drawn aside
    assert_same_bits(frozen(c.model), before[0])
    assert_same_bits(frozen(method), before[1])  # the rule's own BatchNorm too
    nll(head(twin(x)), c.y).backward()  # the stream stands where the clean pass found it: the same masks
    for k, grad in enumerate(truth):
        assert_near(grad.params, {n: p.grad for n, p in twin[k].named_parameters()}, 1e-12)
    rows = rows_of(method, c)
    assert {row.reference for row in rows} == {reference}
    cosine = {(r.layer, r.kind): r.value for r in rows if r.quantity == "cosine"}
    assert abs(cosine["block1.conv", "weight"]) < 0.9  # what the rule used is the gradient of nothing


def test_truth_asks_for_a_trained_top():
    c = case("mlp")
    method = rule("bp", c)
    passes, updates = step(method, c)
    updates[4] = updates[4]._replace(signal=Signal(None))
    with pytest.raises(ValueError, match="not trained"):
        true_updates(method, Step(c.blocks, c.x, c.y, passes, updates))


@pytest.mark.parametrize("network", ["basic-cnn", "mlp"])
@pytest.mark.parametrize("name", [name for name in SUPERVISED if name != "dni-unlocked"])  # whose top reads another input
def test_the_top_unit_gets_the_true_gradient(name, network):
    """Every rule tells the top the loss's own gradient; the last unit of local rules is the last block with the top."""
    c = case(network, torch.float32)
    method, names = rule(name, c), [n for n, _ in c.model.named_children()]
    _, updates = step(method, c)
    for u in (
        *([] if name in IN_THE_GRAPH else [updates[len(names) - 1]]),
        *([updates[len(names) - 2]] if issubclass(METHODS[name], LocalLosses) else []),
    ):
        assert_same_bits(u.grad.params, uncut(c.model, c.x, c.y).gradients(u.k))
    exact = {"cosine": 1, "angle": 0, "norm_ratio": 1}
    rows = [r for r in rows_of(method, c) if r.kind != "rule"]
    top = [r for r in rows if r.layer.split(".")[0] == "top" and r.quantity in exact]
    if name in IN_THE_GRAPH - {"dfa"}:  # feedback acts inside the top too: its last layer is the exact one
        top = [r for r in top if r.layer == "top.out" or r.kind == "activation"]
    kinds = {r.kind for r in top}
    assert {"weight", "bias", "activation"} <= kinds
    assert {(r.kind, r.quantity) for r in top} == {(k, q) for k in kinds for q in exact}
    for r in top:
        assert r.value == pytest.approx(exact[r.quantity], abs=1e-12 if r.quantity != "angle" else 1e-5), r
    below = {r.layer: r.value for r in rows if r.layer.startswith("block1.") and (r.kind, r.quantity) == ("weight", "cosine")}
    assert all((v > 1 - 1e-12) == (name in ("bp", "distil")) for v in below.values())


# ------------------------------------------------------------------------------------------------------------ isolation


@pytest.mark.parametrize("network", ["basic-cnn", "mlp"])
@pytest.mark.parametrize("name", SUPERVISED)
def test_no_loss_reaches_a_blocks_parameters_but_through_what_the_block_is_told(name, network):
    """Structural: autograd finds no path (None, not zero) from any loss to any block, nor from a block to another one."""
    c = case(network)
    blocks = {f"{k}.{n}": p for k, b in enumerate(c.model) for n, p in b.named_parameters()}
    reached: list[list[str]] = []
    method: Method

    def spy(z, y):
        value = nll(z, y)
        own = dict(method.named_parameters())
        params = {**blocks, **own}
        got = torch.autograd.grad(value, list(params.values()), allow_unused=True, retain_graph=True)
        reached.append([n for n, g in zip(params, got, strict=True) if g is not None])
        return value

    method = rule(name, c, spy)
    assert not {id(p) for p in blocks.values()} & {id(p) for p in method.parameters()}  # nothing is shared
    passes, updates = step(method, c)
    assert reached
    for names in reached:
        assert not set(names) & set(blocks)
        assert len({n.rsplit(".", 2)[0].split(".")[1] for n in names}) <= 1  # one head at most: heads.<k>.…
    for k, p in enumerate(passes):
        got = torch.autograd.grad(p.h.sum(), list(blocks.values()), allow_unused=True, retain_graph=True)
        assert {n.split(".")[0] for n, g in zip(blocks, got, strict=True) if g is not None} == {str(k)}
        delta = updates[k].signal.delta
        assert name in FREEZING if delta is None else not delta.requires_grad
    owners = [set(u.own) for u in updates.values()]
    assert sum(map(len, owners)) == len(set().union(*owners))  # no parameter of the rule's own is told twice


@pytest.mark.parametrize("network", ["basic-cnn", "mlp"])
@pytest.mark.parametrize("name", ISOLATED)
def test_what_an_isolated_block_is_told_does_not_depend_on_the_blocks_above(name, network):
    c = case(network)
    method = rule(name, c)
    _, before = step(method, copy.deepcopy(c))
    for k in range(len(c.model) - 2):
        changed = copy.deepcopy(c)
        with torch.no_grad():
            for block in changed.blocks[k + 1 :]:
                for p in block.parameters():
                    p.mul_(-3)
        _, after = step(method, changed)
        assert_same_bits(after[k].grad.params, before[k].grad.params)
        assert_same_bits(dict(after[k].own), dict(before[k].own))
        assert not torch.equal(after[len(c.model) - 1].signal.delta, before[len(c.model) - 1].signal.delta)


@pytest.mark.parametrize("name", SUPERVISED)
def test_a_rule_that_does_not_read_labels_says_the_same_whatever_they_are(name):
    c = case("basic-cnn")
    method = rule(name, c)
    if name == "greedy":
        method.start(1, 0)  # in its last stage no block but the top hears a label
    passes, updates = step(method, c)
    differs = []
    for k in range(min(len(passes), len(c.model) - 1)):
        other = {p.k: p._replace(y=(p.y + 1) % 10) for p in passes}
        told, before = method.signal(k, other, updates[k].above).delta, updates[k].signal.delta
        differs.append(before is not None and not torch.equal(told, before))
    assert any(differs) == bool({"labels", "error"} & METHODS[name].reads)


# ------------------------------------------------------------------------------------------- what a signal and a step are


@pytest.mark.parametrize("name", SUPERVISED)
def test_signals_depend_on_their_arguments_only(name):
    c = case("basic-cnn")
    method = rule(name, c)
    passes, updates = step(method, c)
    order = [*range(len(passes)), *reversed(range(len(passes)))]
    for k in order:
        first = updates[k].signal
        again = method.signal(k, dict(enumerate(passes)), updates[k].above)
        assert (first.delta is None and again.delta is None) or torch.equal(first.delta, again.delta)
        assert len(first.send) == len(again.send)
        assert all(torch.equal(a, b) for a, b in zip(first.send, again.send, strict=True))
        assert_same_bits(dict(again.own), dict(first.own))
        assert (first.loss is None) == (again.loss is None)
        assert first.loss is None or torch.equal(first.loss, again.loss)
        assert (first.answer is None) == (again.answer is None)
        learned = method.learn(k, passes[k], again, updates[k].grad, updates[k].above)
        assert_same_bits({**again.own, **learned}, dict(updates[k].own))


@pytest.mark.parametrize("network", ["basic-cnn", "mlp"])
@pytest.mark.parametrize("name", SUPERVISED)
def test_a_step_trains_every_parameter_once_and_hands_out_plain_values(name, network):
    c = case(network)
    method = rule(name, c)
    updates = list(backward(method, method.forward(c.blocks, c.x, c.y)))
    assert sorted(u.k for u in updates) == list(range(len(c.model)))
    own: dict[str, torch.Tensor] = {}
    for u in updates:
        assert u.p.block is c.model[u.k]
        got, want = {**u.grad.params, **u.own}, dict(u.p.block.named_parameters())
        assert u.grad.delta is u.signal.delta
        if u.grad.delta is None:
            assert name in FREEZING
            assert u.grad.params == {}
            continue
        assert set(u.grad.params) == set(want)
        for name_, g in got.items():
            p = want[name_] if name_ in want else method.get_parameter(name_)
            assert g.shape == p.shape
            assert g.dtype == p.dtype
            assert not g.requires_grad
        assert u.grad.delta.shape == u.p.h.shape
        assert (u.signal.answer is not None) == (u.k == len(c.model) - 1)
        own |= u.own
    assert set(own) == {n for n, _ in method.named_parameters()} or name in FREEZING
    assert all(g.abs().sum() > 0 for n, g in own.items() if n.endswith("weight"))
    assert all(p.grad is None for p in (*c.model.parameters(), *method.parameters()))  # only train.py writes .grad


@pytest.mark.parametrize("name", [name for name in SUPERVISED if name not in IN_THE_GRAPH])
def test_messages_arrive_as_the_pull_back_of_what_was_sent(name):
    c = case("basic-cnn")
    _, updates = step(rule(name, c), c)
    for k, u in updates.items():
        above = updates.get(k + 1)
        sent = above.signal.send if above else ()
        assert len(u.above) == len(sent)
        for message, heard in zip(sent, u.above, strict=True):
            block, x = copy.deepcopy(c.model[k + 1]), above.p.x.detach().clone().requires_grad_()
            (block(x) * message).sum().backward()
            assert_near({"above": heard}, {"above": x.grad}, 1e-12)


@pytest.mark.parametrize("name", SUPERVISED)
def test_update_applies_what_backward_yields(name):
    """.grad after a step is the sum of nothing else; the loss and the right answers are the top's."""
    c = case("basic-cnn")
    method = rule(name, c)
    _, want = step(copy.deepcopy(method), copy.deepcopy(c))
    optimizer = torch.optim.SGD(method.param_groups(c.blocks)[0]["params"], lr=0.0)
    for p in (*c.model.parameters(), *method.parameters()):
        p.grad = torch.full_like(p, 1e6)  # leftovers of an earlier step
    z = copy.deepcopy(c.model)(c.x)
    outcome = update(Pair(c.model, method), optimizer, c.x, c.y)
    for k, block in enumerate(c.model):
        assert_same_bits({n: p.grad for n, p in block.named_parameters() if p.grad is not None}, want[k].grad.params)
    assert_same_bits(
        {n: p.grad for n, p in method.named_parameters() if p.grad is not None},
        dict(
            sorted(
                ((n, g) for u in want.values() for n, g in u.own.items()),
                key=lambda i: [m for m, _ in method.named_parameters()].index(i[0]),
            )
        ),
    )
    if name not in OTHER_INPUTS:
        assert torch.equal(outcome.loss, nll(z, c.y))
        assert outcome.hits == (z.argmax(1) == c.y).sum()


def test_a_block_that_is_told_nothing_does_not_move_on_leftovers():
    c = case("mlp")
    method = Silent(Net(c.blocks, output_shapes(c.model, c.shape), 10, 16, LOSSES["ce"], 3), Options())
    before = frozen(c.model)
    for p in c.model.parameters():
        p.grad = torch.ones_like(p)  # of an earlier step, or of somebody else's backward
    optimizer = torch.optim.SGD(method.param_groups(c.blocks), lr=0.1)
    update(Pair(c.model, method), optimizer, c.x, c.y)
    for n, p in c.model.named_parameters():
        assert torch.equal(p, before[n]) == (not n.startswith("top."))
        assert n.startswith("top.") or p.grad is None


def test_the_loss_reported_is_the_topmost_in_whichever_order_blocks_speak():
    class Talkative(METHODS["bp"]):
        def signal(self, k, passes, above):
            return super().signal(k, passes, above)._replace(loss=torch.tensor(float(k)))

    c = case("mlp")
    method = Talkative(Net(c.blocks, output_shapes(c.model, c.shape), 10, 16, LOSSES["ce"], 3), Options())
    optimizer = torch.optim.SGD(method.param_groups(c.blocks), lr=0.1)
    assert update(Pair(c.model, method), optimizer, c.x, c.y).loss == len(c.model) - 1


@pytest.mark.parametrize("name", SUPERVISED)
def test_the_optimiser_gets_every_parameter_exactly_once(name):
    c = case("basic-cnn")
    method = rule(name, c)
    params = [id(p) for group in method.param_groups(c.blocks) for p in group["params"]]
    assert sorted(params) == sorted(id(p) for p in (*c.model.parameters(), *method.parameters()))


@pytest.mark.parametrize("name", SUPERVISED)
def test_the_answer_outside_training_is_the_networks_own(name):
    c = case("basic-cnn")
    method = rule(name, c)
    c.model.eval()
    assert torch.equal(method.predict(c.blocks, c.x), c.model(c.x))
    features = list(method.features(c.blocks, c.x))
    assert [f.shape[1:] for f in features] == output_shapes(c.model, c.shape)
    assert torch.equal(features[-1], c.model(c.x))


@pytest.mark.parametrize("name", SUPERVISED)
def test_a_rules_start_depends_on_the_seed_alone(name):
    c = case("basic-cnn")
    stream = torch.get_rng_state()
    first = rule(name, c, awake=False)
    assert torch.equal(torch.get_rng_state(), stream)
    torch.rand(3)
    assert_same_bits(frozen(rule(name, c, awake=False)), frozen(first))


# -------------------------------------------------------------------------------------------------------------- laziness


class Saved:
    """What autograd keeps for a backward pass; alive as long as the graph that needs it."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor.detach()  # an output with its graph would hold the graph that holds it


class Silent(Method):
    """Trains the top alone: every other block is told nothing."""

    def signal(self, k, passes, above):
        return top_signal(self.loss, passes[k])._replace(send=()) if k == self.depth - 1 else Signal(None)


def events(method: Method, c: Case) -> list[tuple[str, int, int]]:
    """("run", k, kept tensors just before block k runs) and ("update", k, kept tensors when it is handed out)."""
    log, alive = [], weakref.WeakSet()

    def pack(tensor):
        alive.add(saved := Saved(tensor))
        return saved

    for k, block in enumerate(c.blocks):
        block.register_forward_pre_hook(lambda module, args, k=k: log.append(("run", k, len(alive))))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        for u in backward(method, method.forward(c.blocks, c.x, c.y)):
            k = u.k
            del u
            log.append(("update", k, len(alive)))
    return log


@pytest.mark.parametrize("name", [*ISOLATED, "silent"])
def test_an_isolated_block_is_run_finished_and_freed_before_the_next_is_run(name):
    c = case("mlp")
    n = len(c.model)
    net = Net(c.blocks, output_shapes(c.model, c.shape), 10, 16, LOSSES["ce"], 3)
    method = Silent(net, Options()) if name == "silent" else rule(name, c)
    waits = [k for k in range(n) if method.needs_above(k)]
    assert waits == ([] if name in ("silent", "shallow") else [n - 2])
    log = events(method, c)
    order = [(what, k) for what, k, _ in log]
    alone = [e for k in range(n - len(waits) - 1) for e in (("run", k), ("update", k))]
    last = [n - 1] if not waits else [n - 2, n - 1]
    assert order == [*alone, *(("run", k) for k in last), *(("update", k) for k in reversed(last))]
    assert [kept for what, k, kept in log if what == "run" and k <= last[0]] == [0] * (last[0] + 1)


@pytest.mark.parametrize("name", [name for name in SUPERVISED if name not in ISOLATED and name != "chunked"])
def test_a_rule_that_hears_from_above_goes_back_from_the_top_and_frees_as_it_goes(name):
    c = case("mlp")
    n = len(c.model)
    log = events(rule(name, c), c)
    assert [(what, k) for what, k, _ in log] == [*(("run", k) for k in range(n)), *(("update", k) for k in reversed(range(n)))]
    kept = [kept for what, _, kept in log if what == "update"]
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] == 0
    assert kept[0] > kept[-2]


@pytest.mark.parametrize("name", [name for name in ISOLATED if name != "dgl-async"])  # whose buffers hold what blocks gave
def test_nothing_of_a_finished_block_is_alive_while_the_next_runs(name):
    c = case("mlp")
    method, held, alive = rule(name, c), {}, []
    for k, block in enumerate(c.blocks):
        block.register_forward_pre_hook(
            lambda module, args, k=k: alive.extend((j, n, k) for (j, n), r in held.items() if j < k and r() is not None)
        )
    for u in backward(method, method.forward(c.blocks, c.x, c.y)):
        tensors = {"x": u.p.x, "h": u.p.h, "z": u.p.z, "delta": u.signal.delta}
        held.update({(u.k, n): weakref.ref(t) for n, t in tensors.items() if t is not None})
        del u, tensors
    # alive may be: the images themselves, the z that the running block reads, and what the last unit's first block read
    needed = {(0, "x"), *((k - 1, "z", k) for k in range(5)), (2, "z", 4)}
    assert alive
    assert not [(j, n, k) for j, n, k in alive if not {(j, n), (j, n, k)} & needed]


@pytest.mark.parametrize("name", SUPERVISED)
def test_input_gradients_are_computed_exactly_where_something_is_sent(name):
    log: list[int] = []

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, k):
            ctx.k = k
            return x.view_as(x)

        @staticmethod
        def backward(ctx, g):
            log.append(ctx.k)
            return g, None

    class AtTheInput(nn.Module):
        def __init__(self, k):
            super().__init__()
            self.k = k

        def forward(self, x):
            return Watched.apply(x, self.k)

    c = case("basic-cnn")
    method = rule(name, c)
    blocks = [nn.Sequential(AtTheInput(k), block) for k, block in enumerate(c.model)]
    updates = list(backward(method, method.forward(blocks, c.x, c.y)))
    assert sorted(log) == sorted(u.k for u in updates if u.signal.send and u.k)
    if name in ISOLATED:
        assert log == ([] if name == "shallow" else [len(blocks) - 1])  # inside the last unit only


# ------------------------------------------------------------------------------------------------- measuring leaves no trace


def everything(pair: Pair, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    state = {f"model.{n}": t for n, t in pair.model.state_dict().items()}
    state |= {f"method.{n}": t for n, t in pair.method.state_dict().items() if isinstance(t, torch.Tensor)}
    for i, slots in optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{i}.{n}": torch.as_tensor(t) for n, t in slots.items()}
    return {**state, "stream": torch.get_rng_state()}


def trained(pair: Pair, recorded: set[int], bf16: bool) -> tuple[dict[str, torch.Tensor], list[int], list[torch.Tensor]]:
    torch.manual_seed(4)
    optimizer = make_optimizer(make(lr=0.01), pair)
    rows, losses = [], []
    for i, (x, y) in enumerate(batches(case("mlp", torch.float32), 4)):
        pair.method.start(1, i)
        outcome = update(pair, optimizer, x, y, i if i in recorded else None, bf16)
        rows.append(len(outcome.rows))
        losses += [outcome.loss, outcome.hits]
    return everything(pair, optimizer), rows, losses


def tiny_pair(name: str) -> Pair:
    pair = make_pair(make(method=name, width=4, depth=2, **needed(name)), (1, 8, 8), 10, torch.device("cpu"))
    pair.model[0].append(nn.Dropout(0.3))  # draws from the global stream
    stirred(pair.method)
    return pair


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", SUPERVISED)
def test_recording_leaves_no_trace(name, bf16):
    """Weights, buffers, the rule's own state, the optimiser's, and the global random stream: bit-identical."""
    want, silent, losses = trained(tiny_pair(name), set(), bf16)
    assert silent == [0] * 4
    for recorded in ({0, 1, 2, 3}, {1, 3}):
        got, rows, same = trained(tiny_pair(name), recorded, bf16)
        assert {i for i, n in enumerate(rows) if n} == recorded
        assert_same_bits(got, want)
        assert all(torch.equal(a, b) for a, b in zip(same, losses, strict=True))
    trained_layer = "top.out" if name == "shallow" else "block1.conv"
    assert not torch.equal(want[f"model.{trained_layer}.weight"], tiny_pair(name).model.get_submodule(trained_layer).weight)


def test_recording_a_rule_whose_truth_needs_a_pass_of_its_own_leaves_no_trace():
    ends = []
    for recorded in (None, 0):
        torch.manual_seed(4)
        method, c = synthetic_inputs(torch.float32)
        pair = Pair(c.model, method)
        optimizer = torch.optim.Adam(method.param_groups(c.blocks), lr=0.01)
        for i, (x, y) in enumerate(batches(c, 3)):
            torch.manual_seed(i)
            assert bool(update(pair, optimizer, x, y, recorded).rows) == (recorded is not None)
        ends.append(everything(pair, optimizer))
    assert_same_bits(*ends)


@pytest.mark.parametrize("name", SUPERVISED)
def test_what_a_rule_uses_is_the_same_with_graphs_kept_or_freed(name):
    c = case("basic-cnn", torch.float32)
    _, freed = step(rule(name, c), copy.deepcopy(c), lazily=True)
    _, kept = step(rule(name, c), copy.deepcopy(c))
    for k, u in kept.items():
        assert_same_bits(u.grad.params, freed[k].grad.params)
        assert_same_bits(dict(u.own), dict(freed[k].own))


# -------------------------------------------------------------------------------------- backward, with a rule made of parts


def test_rule_is_active_while_the_methods_own_backward_runs_and_not_for_the_truth():
    from contextlib import contextmanager

    c, log = case("mlp"), []

    class Ruled(METHODS["bp"]):
        active = False

        @contextmanager
        def rule(self):
            self.active = True
            yield
            self.active = False

    net = Net(c.blocks, output_shapes(c.model, c.shape), 10, 16, LOSSES["ce"], 3)
    method = Ruled(net, Options())

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, g):
            log.append(method.active)
            return g

    class AtTheOutput(nn.Module):
        def forward(self, x):
            return Watched.apply(x)

    for block in c.blocks:
        block.append(AtTheOutput())
    passes, updates = step(method, c)
    assert log == [True] * 5
    true_updates(method, Step(c.blocks, c.x, c.y, passes, updates))
    assert log[5:] == [False] * 5


def test_blocks_may_wait_for_each_other_in_chunks():
    """A rule of later issues: backprop inside chunks of two blocks, a local loss at each chunk's end, two messages sent at once."""

    class Chunked(Method):
        def needs_above(self, k):
            return k % 2 == 0 and k < self.depth - 1

        def signal(self, k, passes, above):
            z = passes[k].z.detach()
            if k % 2 == 0 and k < self.depth - 1:
                told, extra = above
                return Signal(told + extra)
            return Signal(z, (z, 3 * z))  # d ½|z|² / dz, and another message

    c = case("mlp")
    c = c._replace(model=c.model[:4])
    method = Chunked(Net(c.blocks, output_shapes(c.model, c.shape), 10, 16, LOSSES["ce"], 3), Options())
    updates = list(backward(method, method.forward(c.blocks, c.x, c.y)))
    assert [u.k for u in updates] == [1, 0, 3, 2]
    h, twin = c.x, copy.deepcopy(c.model)
    for low, high in ((0, 1), (2, 3)):
        below = twin[low](h.detach())
        h = twin[high](below)
        (g,) = torch.autograd.grad(0.5 * h.square().sum(), below, retain_graph=True)
        (0.5 * h.square().sum()).backward(inputs=list(twin[high].parameters()))
        below.backward(4 * g)
    for u in updates:
        assert_near(u.grad.params, {n: p.grad for n, p in twin[u.k].named_parameters()}, 1e-12)


def test_untrained_blocks_are_measured_as_exact_zeros():
    c = case("mlp")
    net = Net(c.blocks, output_shapes(c.model, c.shape), 10, 16, LOSSES["ce"], 3)
    method = Silent(net, Options())
    rows = rows_of(method, c)
    zeros = {(r.layer, r.kind): r.value for r in rows if r.quantity == "zeros" and r.layer.startswith("block2")}
    assert set(zeros.values()) == {1.0}
    assert {k for _, k in zeros} == {"weight", "bias", "parameters", "activation"}
    assert all(r.value != r.value for r in rows if r.quantity == "cosine" and r.layer.startswith("block2"))  # NaN


def test_updates_carry_what_came_from_above():
    c = case("mlp")
    _, updates = step(rule("bp", c), c)
    assert isinstance(updates[0], Update)
    assert updates[4].above == ()
    for k in range(4):
        assert updates[k].above[0] is updates[k + 1].grad.below[0] is updates[k].signal.delta
    p = updates[4].p
    assert torch.equal(pull_back(p, updates[4].signal.delta, (updates[4].signal.delta,)).below[0], updates[3].signal.delta)


# ------------------------------------------------------------------------- a rule whose blocks are told things of two kinds


LAWS_BY_NETWORK = (
    test_truth_equals_backward_on_an_uncut_copy_bit_for_bit,
    test_the_top_unit_gets_the_true_gradient,
    test_no_loss_reaches_a_blocks_parameters_but_through_what_the_block_is_told,
    test_a_step_trains_every_parameter_once_and_hands_out_plain_values,
)
LAWS = (
    test_signals_depend_on_their_arguments_only,
    test_messages_arrive_as_the_pull_back_of_what_was_sent,
    test_update_applies_what_backward_yields,
    test_the_optimiser_gets_every_parameter_exactly_once,
    test_a_rules_start_depends_on_the_seed_alone,
    test_input_gradients_are_computed_exactly_where_something_is_sent,
    test_a_rule_that_hears_from_above_goes_back_from_the_top_and_frees_as_it_goes,
    test_what_a_rule_uses_is_the_same_with_graphs_kept_or_freed,
)


@pytest.mark.parametrize("linear_", [False, True])
@pytest.mark.parametrize("name", ["dni", "cdni"])
def test_synthesisers_after_one_block_only_obey_the_laws_too(name, linear_, monkeypatch):
    class Fewer(METHODS[name].Options, frozen=True):
        at: list[int] | None = Field([2])
        linear: bool = Field(linear_)

    monkeypatch.setitem(METHODS, "fewer", type("FewerInterfaces", (METHODS[name],), {"Options": Fewer}))
    assert rule("fewer", case("mlp")).interfaces == {1}
    for law in LAWS_BY_NETWORK:
        law("fewer", "mlp")
    for law in LAWS:
        law("fewer")
    test_recording_leaves_no_trace("fewer", bf16=False)
