"""compare(): sparse, complex, tied and checkpointed parameters."""

import math
import re
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from gradlens import InputError, compare
from gradlens.gradients.alignment import measure

pytestmark = pytest.mark.filterwarnings("ignore:compare. no gradient given")


def found(rows):
    return {(r.layer, r.quantity): r.value for r in rows}


def agrees(rows):
    return all(
        math.isclose(value, 1, abs_tol=1e-6)
        for (_, quantity), value in found(rows).items()
        if quantity in ("cosine", "norm_ratio", "sign_agreement")
    )


class Looked(nn.Module):
    """A table, looked up, as bags, or multiplied."""

    def __init__(self, use):
        super().__init__()
        torch.manual_seed(0)
        self.use, self.table, self.out = use, nn.Parameter(torch.randn(10, 4)), nn.Linear(4, 2)

    def forward(self, i):
        return self.out(self.use(self.table, i))


SPARSE = {
    "embedding": lambda w, i: F.embedding(i, w, sparse=True),
    "bag": lambda w, i: F.embedding_bag(i[None], w, mode="mean", sparse=True),
    "sparse and dense": lambda w, i: F.embedding(i, w, sparse=True) + w[:3],
    "sparse matrix": lambda w, i: torch.sparse.mm(torch.eye(10)[i].to_sparse(), w),
}


@pytest.mark.parametrize("name", SPARSE)
def test_sparse_gradients_are_those_of_the_dense_table(name):
    net, i = Looked(SPARSE[name]), torch.tensor([1, 2, 1])
    loss = net(i).square().sum()
    loss.backward(retain_graph=True)
    rows = compare(net, loss)
    assert agrees(rows)
    dense = Looked(lambda w, i: net.use(w, i).to_dense())
    dense.use = {"embedding": lambda w, i: w[i], "bag": lambda w, i: w[i].mean(0)[None], "sparse and dense": lambda w, i: w[i] + w[:3]}.get(
        name, lambda w, i: torch.eye(10)[i] @ w
    )
    loss = dense(i).square().sum()
    loss.backward(retain_graph=True)
    for key, value in found(compare(dense, loss)).items():
        assert found(rows)[key] == pytest.approx(value, rel=1e-5, abs=1e-5), key  # an angle of 0 is one of 1e-6
    mine = {"table": net.table.grad, "out.weight": torch.ones(2, 4).to_sparse()}
    assert {r.value for r in compare(net, net(i).square().sum(), mine) if (r.kind, r.quantity, r.layer) == ("weight", "zeros", "out")} == {
        0
    }


def test_an_embedding_that_was_not_used_has_an_exactly_zero_gradient():
    net = nn.ModuleDict({"a": nn.Embedding(5, 2, sparse=True), "b": nn.Linear(2, 2)})
    with pytest.warns(UserWarning, match="no gradient of the loss reaches a: "):
        rows = found(compare(net, net["b"](torch.ones(1, 2)).sum()))
    assert rows["a", "true_zeros"] == 1
    assert math.isnan(rows["a", "cosine"])


class Spectral(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(5, dtype=torch.cdouble, generator=torch.Generator().manual_seed(0)))

    def forward(self, x):
        return torch.fft.irfft(torch.fft.rfft(x) * self.w, n=8)


def test_complex_parameters_are_compared_as_pairs_of_real_ones():
    net, x = Spectral(), torch.randn(3, 8, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    loss = net(x).square().sum()
    loss.backward(retain_graph=True)
    assert agrees(compare(net, loss))
    mine = torch.randn(5, dtype=torch.cdouble, generator=torch.Generator().manual_seed(2))
    rows, pair = found(compare(net, loss, {"w": mine})), [torch.view_as_real(v) for v in (mine, net.w.grad)]
    for quantity, value in measure(*pair, ("cosine", "norm_ratio", "norm", "true_norm", "angle")).items():
        assert rows["", quantity] == pytest.approx(value, rel=1e-12)
    product = (mine.conj() * net.w.grad).real
    assert rows["", "sign_agreement"] == (product > 0).double().mean()


@pytest.mark.parametrize("dtype", [torch.cfloat, torch.cdouble])
def test_measures_of_complex_vectors(dtype):
    g = torch.tensor([3 + 4j, 0, 1j, 0], dtype=dtype)
    assert measure(g, g, ("norm", "cosine", "zeros")) == pytest.approx({"norm": 26**0.5, "cosine": 1.0, "zeros": 0.5})
    assert measure(1j * g, g, ("cosine",)) == {"cosine": 0}  # as far as descent goes, no step at all
    assert measure(-2 * g, g, ("cosine", "norm_ratio")) == pytest.approx({"cosine": -1, "norm_ratio": 2})
    assert measure(g.conj(), g.conj().resolve_conj(), ("cosine",)) == pytest.approx({"cosine": 1})
    assert measure(g.real, g, ("cosine",)) == pytest.approx({"cosine": 3 / 26**0.5})
    assert measure(1e-200 * torch.ones(3, dtype=torch.cdouble), torch.ones(3), ("cosine",)) == pytest.approx({"cosine": 1})


@pytest.mark.parametrize("kind", ["whole", "first", "last"])
def test_reentrant_checkpointing_is_refused_in_one_sentence(kind):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.unused = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(1, 1)

        def run(self, part, x):
            return checkpoint(part, x.requires_grad_() if x.is_leaf else x, use_reentrant=True)

        def forward(self, x):
            if kind == "whole":
                return self.run(lambda x: self.b(self.a(x)), x)
            return self.b(self.run(self.a, x)) if kind == "first" else self.run(self.b, self.a(x))

    net = Net()
    with pytest.raises(InputError, match="was computed with reentrant gradient checkpointing.*use_reentrant=False"):
        compare(net, net(torch.randn(2, 4)).sum())


def test_checkpointing_that_is_not_reentrant_is_compared():
    net, x = nn.Linear(4, 4), torch.randn(2, 4)
    loss = checkpoint(net, x, use_reentrant=False).square().sum()
    loss.backward(retain_graph=True)
    assert agrees(compare(net, loss))


def test_a_tied_parameter_answers_to_each_of_its_names():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.enc, self.dec = nn.Linear(4, 4), nn.Linear(4, 4)
            self.dec.weight = self.enc.weight

        def forward(self, x):
            return self.dec(self.enc(x))

    net = Net()
    loss = net(torch.randn(2, 4)).square().sum()
    (g,) = torch.autograd.grad(loss, net.enc.weight, retain_graph=True)
    for mine in ({"enc.weight": g}, {"dec.weight": g}, {"enc.weight": g, "dec.weight": g}):
        rows = [r for r in compare(net, loss, mine) if r.kind == "weight"]
        assert {r.layer for r in rows} == {"enc"}
        assert agrees(rows)
    with pytest.raises(InputError, match=r"enc\.weight and dec\.weight are one parameter: give one gradient for both"):
        compare(net, loss, {"enc.weight": g, "dec.weight": 2 * g})
    with pytest.raises(InputError, match="not trainable parameters of the model: nope"):
        compare(net, loss, {"nope": g})


def test_a_compiled_model_is_compared_or_refused_in_one_sentence():
    torch._dynamo.reset()
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)), torch.randn(3, 4)
    fast = torch.compile(net, backend="aot_eager")
    fast(x).sum().backward()  # the backward pass is compiled for graphs that are not kept
    net.zero_grad()
    with pytest.raises(InputError, match=r"was computed by a compiled model.*set torch\._functorch\.config\.donated_buffer = False"):
        compare(net, fast(x).square().sum())
    torch._dynamo.reset()
    with torch._functorch.config.patch(donated_buffer=False):
        fast(x).sum().backward()
        net.zero_grad()
        loss = fast(x).square().sum()
        loss.backward(retain_graph=True)
        assert agrees(compare(net, loss))
    torch._dynamo.reset()


def test_a_loss_without_a_gradient_is_refused_in_one_sentence():
    net, x = nn.Linear(4, 2), torch.ones(3, 4)
    spent = net(x).square().sum()
    spent.backward()
    for loss, said in (
        (net(x), r"must be a tensor of one real number, got shape \[3, 2\] of torch\.float32; take its mean\(\) or sum\(\)"),
        (net(x).sum() * 1j, r"must be a tensor of one real number, got shape \[\] of torch\.complex64"),
        (1.5, "must be a tensor of one real number, got a float"),
        (net(x).sum().detach(), "has no graph"),
        (spent, "has no graph any more.*retain_graph=True"),
    ):
        with pytest.raises(InputError, match=f"^the loss {said}"):
            compare(net, loss)
    net.zero_grad()
    loss = net(x).sum().reshape(1)
    loss.backward(retain_graph=True)
    assert agrees(compare(net, loss))


def test_what_is_no_model_or_no_gradients_is_refused_in_one_sentence():
    net, x = nn.Linear(4, 2), torch.ones(3, 4)
    loss = net(x).sum()
    for given, said in (
        ((x, net), "the model must be a torch.nn.Module, got a Tensor; give the model first"),
        ((nn.Linear, loss), "the model must be a torch.nn.Module, got the class Linear; give the model first"),
        ((net, x, x), "the loss must be a tensor of one real number, got shape [3, 4] of torch.float32; take its mean() or sum()"),
        ((net, loss, x), "my_gradients must map names of parameters to tensors, got a Tensor; set {name: gradient}"),
        ((net, loss, {"weight": None}), "my_gradients must map names of parameters to tensors, got a NoneType for 'weight'; "),
        ((net, loss, {0: x}), "my_gradients must map names of parameters to tensors, got a Tensor for 0; "),
    ):
        with pytest.raises(InputError, match=f"^{re.escape(said)}"):
            compare(*given)


class Parts(nn.Module):
    """Two layers, the first one's bias and the second one's input cut or not, with layers between."""

    def __init__(self, cut, *between):
        super().__init__()
        self.cut, self.c1, self.between, self.c2 = cut, nn.Linear(4, 4), nn.Sequential(*between), nn.Linear(4, 2)

    def forward(self, x):
        h = nn.functional.linear(x, self.c1.weight) if self.cut == "bias" else self.c1(x)
        return self.c2(self.between(h.detach() if self.cut == "detach" else h)).square().mean()


@pytest.mark.parametrize(("cut", "names"), [("detach", "c1"), ("bias", "c1.bias"), ("", "")])
@pytest.mark.parametrize("given", [True, False])
def test_layers_that_the_loss_does_not_reach_are_named(cut, names, given):
    net = Parts(cut)
    loss = net(torch.randn(8, 4))
    loss.backward(retain_graph=True)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        compare(net, loss, {name: torch.ones_like(p) for name, p in net.named_parameters()} if given else None)
    want = f"compare: no gradient of the loss reaches {names}: their true gradient is zero; look for .detach(), torch.no_grad(), or a layer"
    assert [str(w.message) for w in said] == [f"{want} that the loss does not use"] * bool(names)


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(4)], ids=["dropout", "batch normalisation"])
def test_gradients_that_are_meant_to_differ_are_compared_without_a_warning(recwarn, layer):
    torch.manual_seed(0)
    net, x = Parts("", layer), torch.randn(64, 4)
    net.c2(net.between(net.c1(x)).sign()).sum().backward()  # another learning rule's
    assert not agrees(compare(net, net(x)))
    assert not recwarn.list


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(4)], ids=["dropout, reseeded", "batch normalisation"])
def test_two_training_passes_over_the_same_batch_agree_as_the_documentation_says(layer):
    net, x = Parts("", layer), torch.randn(64, 4)
    torch.manual_seed(1)
    net(x).backward()
    torch.manual_seed(1)
    assert agrees(compare(net, net(x)))
