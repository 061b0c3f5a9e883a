"""Graph layers against dense matrices in float64, under renumbered nodes, and against torch_geometric's."""

import pytest
import torch
from torch import nn

from gradlens.models.graph_layers import EDGES, Adjacency, ChebConv, GATConv, GraphConv, SAGEConv, current_adjacency
from gradlens.runtime.errors import InputError
from gradlens.runtime.rng import generator, seeded
from gradlens.runtime.step_context import step_context

N, F_IN, OUT = 9, 5, 4
LAYERS = {
    "gcn": lambda: GraphConv(F_IN, OUT),
    "cheb": lambda: ChebConv(F_IN, OUT),
    "sage": lambda: SAGEConv(F_IN, OUT),
    "gat": lambda: GATConv(F_IN, OUT, heads=3),
    "gat-one-head": lambda: GATConv(F_IN, OUT),
}
ORDER = torch.randperm(N, generator=generator(0, "order"))


def made(name):
    """A layer with random biases, which start at 0."""
    with seeded(0, "layer"):
        layer = LAYERS[name]().double()
        for p in layer.parameters():
            if p.ndim == 1:
                nn.init.normal_(p)
    return layer


def dense_graph():
    """A symmetric matrix of zeros and ones, whose last node has no neighbour."""
    a = (torch.rand(N, N, generator=generator(0, "graph")) < 0.3).double().triu(1)
    a[:, -1] = 0
    return a + a.T


def adjacency(a):
    source, target = a.nonzero(as_tuple=True)
    return Adjacency(source, target, len(a))


@pytest.fixture
def x():
    return torch.randn(N, F_IN, dtype=torch.float64, generator=generator(0, "rows"))


def scaled(a):
    """D^-½ A D^-½, without a node's own row where it has no degree."""
    d = a.sum(1)
    half = torch.where(d > 0, d, 1).rsqrt()
    return half[:, None] * a * half


def test_convolutions_are_the_dense_products(x):
    a, graph, one = dense_graph(), adjacency(dense_graph()), torch.eye(N, dtype=torch.float64)
    gcn, cheb, sage = made("gcn"), made("cheb"), made("sage")
    torch.testing.assert_close(gcn.on_graph(x, graph), scaled(a + one) @ x @ gcn.linear.weight.T + gcn.linear.bias, rtol=1e-12, atol=1e-12)
    filtered = x @ cheb.own.weight.T - scaled(a) @ x @ cheb.neighbours.weight.T + cheb.own.bias
    torch.testing.assert_close(cheb.on_graph(x, graph), filtered, rtol=1e-12, atol=1e-12)
    means = torch.stack([x[a[i] > 0].mean(0) if a[i].any() else torch.zeros(F_IN, dtype=torch.float64) for i in range(N)])
    aggregated = x @ sage.own.weight.T + means @ sage.neighbours.weight.T + sage.own.bias
    torch.testing.assert_close(sage.on_graph(x, graph), aggregated, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("heads", [1, 3])
def test_attention_is_a_softmax_over_neighbours_and_the_node_itself(x, heads):
    a, layer = dense_graph(), made("gat" if heads == 3 else "gat-one-head")
    h = (x @ layer.linear.weight.T).view(N, heads, OUT)
    edges = layer.attention(h, adjacency(a))
    sums = torch.zeros(N, heads, dtype=torch.float64).index_add(0, edges.target, edges.weight)
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=1e-12, atol=1e-12)
    out = torch.zeros(N, heads, OUT, dtype=torch.float64)
    for k in range(heads):
        for i in range(N):
            near = [j for j in range(N) if a[i, j] or j == i]
            scores = [layer.attention_target[k] @ h[i, k] + layer.attention_source[k] @ h[j, k] for j in near]
            alpha = torch.stack([s if s > 0 else 0.2 * s for s in scores]).softmax(0)
            out[i, k] = sum(w * h[j, k] for w, j in zip(alpha, near, strict=True))
    torch.testing.assert_close(layer.on_graph(x, adjacency(a)), out.flatten(1) + layer.linear.bias, rtol=1e-12, atol=1e-12)


def test_attention_of_large_scores_is_finite(x):
    layer = made("gat")
    out = layer.on_graph(1e6 * x, adjacency(dense_graph()))
    out.sum().backward()
    assert out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("name", LAYERS)
def test_renumbered_nodes_give_renumbered_rows_and_the_same_gradients(x, name):
    layer, graph = made(name), adjacency(dense_graph())
    g = torch.randn(N, *layer.on_graph(x, graph).shape[1:], dtype=torch.float64, generator=generator(0, "slope"))
    place = ORDER.argsort()  # node ORDER[i] becomes node i
    renumbered = Adjacency(place[graph.source], place[graph.target], graph.nodes)
    plain, turned = layer.on_graph(x, graph), layer.on_graph(x[ORDER], renumbered)
    torch.testing.assert_close(turned, plain[ORDER], rtol=1e-12, atol=1e-12)
    params = list(layer.parameters())
    before, after = torch.autograd.grad(plain, params, g), torch.autograd.grad(turned, params, g[ORDER])
    torch.testing.assert_close(after, before, rtol=1e-12, atol=1e-12)
    assert all(torch.count_nonzero(grad) for grad in before)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_those_of_finite_differences(x, name):
    layer, graph = made(name), adjacency(dense_graph())
    names = [name for name, _ in layer.named_parameters()]

    def run(x, *values):
        with step_context({EDGES: torch.stack([graph.source, graph.target])}):
            return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x.requires_grad_(), *layer.parameters()))


def test_layers_run_on_the_graph_of_the_context_whose_weights_are_computed_once(x):
    layer, graph = made("gcn"), adjacency(dense_graph())
    edges = torch.stack([graph.source, graph.target])
    with step_context({EDGES: edges}):
        assert torch.equal(layer(x), layer.on_graph(x, graph))
        assert current_adjacency(N) is current_adjacency(N)
        assert current_adjacency(N) is not current_adjacency(N + 1)
    with step_context({EDGES: edges[:, :0]}):  # no edges: every node by itself
        torch.testing.assert_close(layer(x), layer.linear(x))
    with pytest.raises(InputError, match="a graph layer ran on data without edges: graph networks need --task graphs"):
        layer(x)


def copied(theirs, pairs):
    """Give torch_geometric's layer the parameters of ours; {its name: ours}."""
    theirs = theirs.double()
    state = {name: ours.detach().reshape(theirs.state_dict()[name].shape) for name, ours in pairs.items()}
    theirs.load_state_dict(state)
    return theirs


def twins_of(tg):
    """Each layer of ours beside torch_geometric's, and {its parameter's name: ours}."""
    gcn, cheb, sage, gat = (made(name) for name in ("gcn", "cheb", "sage", "gat"))
    pairs = {
        "gcn": {"lin.weight": gcn.linear.weight, "bias": gcn.linear.bias},
        "cheb": {"lins.0.weight": cheb.own.weight, "lins.1.weight": cheb.neighbours.weight, "bias": cheb.own.bias},
        "sage": {"lin_r.weight": sage.own.weight, "lin_l.weight": sage.neighbours.weight, "lin_l.bias": sage.own.bias},
        "gat": {
            "lin.weight": gat.linear.weight, "att_src": gat.attention_source, "att_dst": gat.attention_target, "bias": gat.linear.bias,
        },
    }  # fmt: skip
    theirs = {
        "gcn": tg.GCNConv(F_IN, OUT),
        "cheb": tg.ChebConv(F_IN, OUT, K=2),
        "sage": tg.SAGEConv(F_IN, OUT),
        "gat": tg.GATConv(F_IN, OUT, heads=3),
    }
    return [(layer, copied(theirs[name], pairs[name]), pairs[name]) for name, layer in zip(pairs, (gcn, cheb, sage, gat), strict=True)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_layers_and_their_gradients_are_those_of_torch_geometric(x):
    tg = pytest.importorskip("torch_geometric.nn", reason="torch_geometric is not installed (extra `graphs`)")
    graph = adjacency(dense_graph())
    edges = torch.stack([graph.source, graph.target])
    for ours, theirs, pairs in twins_of(tg):
        mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
        a, b = ours.on_graph(mine, graph), theirs(other, edges)
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
        assert len(pairs) == len(list(ours.parameters())) == len(list(theirs.parameters()))
        g = torch.randn(a.shape, dtype=torch.float64, generator=generator(0, "slope"))
        here = torch.autograd.grad(a, [mine, *pairs.values()], g)
        there = torch.autograd.grad(b, [other, *(theirs.get_parameter(name) for name in pairs)], g)
        for p, q in zip(here, there, strict=True):
            torch.testing.assert_close(p, q.reshape(p.shape), rtol=1e-10, atol=1e-10)
            assert p.any()
