"""What layers of any module give, as a probe reads it: the right numbers whatever they return, or one sentence that names the layer."""

import itertools

import pytest
import torch
from torch import nn

from gradlens.analysis.activations import collect_activations, freeze_module
from gradlens.analysis.layer_outputs import LayerOutputs, layer_names
from gradlens.analysis.linear_probe import probe_module
from gradlens.analysis.of_runs.options import ProbeOptions
from gradlens.analysis.probe_block import PERMUTED, TRUE
from gradlens.runtime.errors import InputError

QUICK = ProbeOptions(separability=0, grid=(0.1, 0.01))


class Gives(nn.Module):
    """A layer whose output is a function of its input, whatever it returns."""

    def __init__(self, made):
        super().__init__()
        self.made = made

    def forward(self, x):
        return self.made(x)


class Then(nn.Module):
    """A layer called ``odd`` at the end, whose output nobody else reads."""

    def __init__(self, made):
        super().__init__()
        self.first, self.odd = nn.Linear(8, 6), made if isinstance(made, nn.Module) else Gives(made)

    def forward(self, x):
        h = self.first(x)
        self.odd(h)
        return h


def blobs(n=90, d=8, k=3, seed=0):
    """Inputs and labels of k classes that are easily told apart, as (train, test)."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % k
    x = torch.randn(n, d, generator=g) + 4 * torch.randn(k, d, generator=g)[y]
    return (x[: 2 * n // 3], y[: 2 * n // 3]), (x[2 * n // 3 :], y[2 * n // 3 :])


def sequence(h):
    """[N, 6] -> [N, 3, 2]."""
    return h.reshape(len(h), 3, 2)


READ = {  # what a layer gives -> the features [N, d] that are read
    "[N]": (lambda h: h.mean(1), lambda h: h.mean(1, keepdim=True)),
    "[N, T, D]": (sequence, lambda h: h),
    "[T, N, D]": (lambda h: sequence(h).transpose(0, 1), lambda h: h),
    "[T, D, N]": (lambda h: sequence(h).movedim(0, -1), lambda h: h),
    "[D, N]": (lambda h: h.T, lambda h: h),
    "[N, C, L]": (lambda h: sequence(h).transpose(1, 2), lambda h: sequence(h).transpose(1, 2)),
    "[N, a, b, c, d]": (lambda h: h.reshape(-1, 1, 3, 1, 2), lambda h: h),
    "int64": (lambda h: (100 * h).long(), lambda h: (100 * h).long()),
    "uint8": (lambda h: (100 * h).to(torch.uint8), lambda h: (100 * h).to(torch.uint8)),
    "bool": (lambda h: h > 0, lambda h: h > 0),
    "half": (lambda h: h.half(), lambda h: h.half()),
    "bfloat16": (lambda h: h.bfloat16(), lambda h: h.bfloat16()),
    "double": (lambda h: h.double(), lambda h: h),
    "complex": (lambda h: torch.complex(h, -h), lambda h: torch.stack([h, -h], 2)),
    "sparse": (lambda h: h.relu().to_sparse(), lambda h: h.relu()),
    "one in a tuple": (lambda h: (h, "text", None), lambda h: h),
    "one in a dict": (lambda h: {"hidden": h, "loss": None}, lambda h: h),
}


@pytest.mark.parametrize("what", READ)
@pytest.mark.parametrize("n", [1, 2, 3, 6, 7])
def test_features_are_those_that_were_given_with_the_inputs_first(what, n):
    """Batches as long as other axes among them, which must not be taken for the inputs."""
    gives, want = READ[what]
    model, x = Then(gives), torch.randn(7, 8)
    h = model.first(x).detach()
    got = collect_activations(freeze_module(model, ["odd"]), x[:n], batch=3)["odd"]
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want(h)[:n].float().flatten(1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("what", ["[N]", "[T, N, D]", "bool", "half", "one in a dict"])
def test_such_layers_are_probed(what):
    train, test = blobs()
    rows = probe_module(Then(READ[what][0]), ["first", "odd"], train, test, QUICK)
    assert [(row["block"], row["labels"]) for row in rows] == [(b, labels) for b in ("first", "odd") for labels in (TRUE, PERMUTED)]
    assert rows[0]["test"] > 0.9
    assert 0 <= rows[2]["test"] <= 1
    if what == "[T, N, D]":  # the same features in the same order
        assert rows[2]["test"] == rows[0]["test"]


class Recurrent(nn.Module):
    def __init__(self, batch_first=True):
        super().__init__()
        self.batch_first, self.lstm, self.top = batch_first, nn.LSTM(4, 5, batch_first=batch_first), nn.Linear(5, 3)

    def forward(self, x):
        x = x.reshape(len(x), 2, 4)
        out, _ = self.lstm(x if self.batch_first else x.transpose(0, 1))
        return self.top(out[:, -1] if self.batch_first else out[-1])


@pytest.mark.parametrize("batch_first", [True, False])
def test_a_tensor_of_several_is_read_by_its_name_and_requested_without_one(batch_first):
    model, x = Recurrent(batch_first), torch.randn(6, 8)
    got = collect_activations(freeze_module(model, ["lstm[0]", "lstm[1][0]", "top"]), x)
    sequences, (last, _) = model.lstm(x.reshape(6, 2, 4) if batch_first else x.reshape(6, 2, 4).transpose(0, 1))
    torch.testing.assert_close(got["lstm[0]"], (sequences if batch_first else sequences.transpose(0, 1)).flatten(1).detach())
    torch.testing.assert_close(got["lstm[1][0]"], last[0].detach())
    with pytest.raises(InputError, match=r"^lstm gives 3 tensors: name one of them, lstm\[0\], lstm\[1\]\[0\], lstm\[1\]\[1\]$"):
        collect_activations(freeze_module(model, ["lstm"]), x)
    with pytest.raises(InputError, match=r"^lstm\[7\] was not called in this model's forward pass, or gave no tensor"):
        collect_activations(freeze_module(model, ["lstm[7]"]), x)


def test_calls_of_one_module_have_names_of_their_own():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.same = nn.Linear(8, 8)

        def forward(self, x):
            return self.same(self.same(x))

    model, x = Twice(), torch.randn(5, 8)
    got = collect_activations(freeze_module(model, ["same", "same#1"]), x)
    torch.testing.assert_close(got["same"], model.same(x).detach())
    torch.testing.assert_close(got["same#1"], model.same(model.same(x)).detach())


# --------------------------------------------------------------------------------------------- which layers, by default


def test_default_layers_are_the_children_and_those_of_lists():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.blocks = nn.Linear(8, 8), nn.ModuleList([nn.Linear(8, 8), nn.ModuleDict({"a": nn.Linear(8, 8)})])

        def forward(self, x):
            return self.blocks[1]["a"](self.blocks[0](self.stem(x)))

    assert layer_names(Listed(), None) == ["stem", "blocks.0", "blocks.1.a"]
    assert list(collect_activations(freeze_module(Listed()), torch.randn(4, 8))) == ["stem", "blocks.0", "blocks.1.a"]


def test_a_module_without_children_is_probed_itself():
    train, test = blobs()
    rows = probe_module(nn.Linear(8, 3), None, train, test, QUICK)
    assert [(row["block"], row["features"]) for row in rows] == [("", 3), ("", 3)]
    assert rows[0]["test"] > 0.9
    whole = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 3))
    assert torch.equal(collect_activations(freeze_module(whole, [""]), test[0])[""], whole(test[0]).detach())


# -------------------------------------------------------------------------------------------- what cannot be read is said

SAID = {
    "a scalar": (lambda h: h.mean(), r"odd gives \[\] for 2 inputs and \[\] for 3: one axis must count the inputs"),
    "nothing of the inputs": (lambda h: torch.ones(60, 5), r"odd gives \[60, 5\] for 2 inputs and \[60, 5\] for 3"),
    "every pair of inputs": (lambda h: h @ h.T, r"odd gives \[2, 2\] for 2 inputs and \[3, 3\] for 3"),
    "several rows an input": (lambda h: h.reshape(-1, 2), r"odd gives \[6, 2\] for 2 inputs and \[9, 2\] for 3"),
    "one of two shapes": (lambda h: h if len(h) > 2 else h[None], r"odd gives \[1, 2, 6\] for 2 inputs and \[3, 6\] for 3"),
    "no features": (lambda h: h[:, :0], r"odd gives no numbers: its output is \[60, 0\]"),
    "maps without pixels": (lambda h: h[:, :, None, None][..., :0], r"odd gives no numbers: its output is \[60, 6, 1, 0\]"),
    "NaN": (lambda h: h / 0 * 0, r"odd gives numbers that are not finite"),
    "infinite": (lambda h: h.double() * 1e300, r"odd gives numbers that are not finite"),
    "text": (lambda h: "text", r"odd was not called in this model's forward pass, or gave no tensor"),
    "two tensors": (lambda h: (h, h), r"odd gives 2 tensors: name one of them, odd\[0\], odd\[1\]"),
    "sequences of different lengths": (lambda h: torch.nested.nested_tensor([h[0], h[1, :3]]), "odd gives sequences of different lengths"),
    "an error": (lambda h: h @ torch.ones(5, 5), r"the model's forward pass fails on inputs \[2, 8\] of torch.float32: mat1 and mat2"),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("what", SAID)
def test_what_a_layer_gives_that_cannot_be_probed_is_reported(what):
    gives, said = SAID[what]
    with pytest.raises(InputError, match=f"^{said}") as refused:
        probe_module(Then(gives), ["first", "odd"], *blobs(), QUICK)
    assert "\n" not in str(refused.value)


def test_layers_that_change_their_mind_are_reported():
    sizes = itertools.count(3)
    with pytest.raises(InputError, match=r"^odd gives \[7, 3\] for 7 inputs and \[2, 4\] for 2"):
        collect_activations(freeze_module(Then(lambda h: h[:, : next(sizes)]), ["odd"]), torch.randn(7, 8))
    widths = iter([3, 3, 4])
    with pytest.raises(InputError, match=r"^odd gives 3 numbers for some images and 4 for others"):
        collect_activations(freeze_module(Then(lambda h: h[:, : next(widths)]), ["odd"]), torch.randn(7, 8), batch=5)
    cut = iter([7, 2, 1])
    with pytest.raises(InputError, match=r"^odd gives \[1, 6\] for 2 inputs: axis 0 should count them"):
        collect_activations(freeze_module(Then(lambda h: h[: next(cut)]), ["odd"]), torch.randn(9, 8), batch=7)


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (["first", "nope"], "unknown layer 'nope'"),
        (["nope[0]"], "unknown layer 'nope'"),
        ([], "layers is an empty list"),
        ("first", r"layers: must be a list of paths, got the string 'first'; set \['first'\]"),
    ],
)
def test_layers_that_are_none_are_reported(layers, said):
    with pytest.raises(InputError, match=said):
        LayerOutputs(Then(lambda h: h), layers)


def test_a_child_that_is_never_called_is_reported():
    model = Then(lambda h: h)
    model.unused = nn.Linear(2, 2)
    with pytest.raises(InputError, match="^unused was not called"):
        probe_module(model, None, *blobs(), QUICK)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_of_another_precision_are_probed_or_their_input_is_refused(dtype):
    (x, y), (z, w) = blobs()
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU()).to(dtype)
    rows = probe_module(model, None, (x.to(dtype), y), (z.to(dtype), w), QUICK)
    assert rows[0]["test"] > 0.9
    with pytest.raises(InputError, match=r"fails on inputs \[2, 8\] of torch.float32: .*dtype"):
        probe_module(model, None, (x, y), (z, w), QUICK)


# --------------------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    "retold",
    [
        lambda y: y.to(torch.uint8),
        lambda y: y.to(torch.int16),
        lambda y: y.int(),
        lambda y: y.float(),
        lambda y: y.half(),
        lambda y: y + 7,
        lambda y: y - 2,
        lambda y: 1000 * y,
        lambda y: 10.0**9 * y.double(),
    ],
    ids=["uint8", "int16", "int32", "float", "half", "from 7", "from -2", "with gaps", "large"],
)
def test_labels_are_names_whatever_their_type(retold):
    (x, y), (z, w) = blobs()
    model = nn.Sequential(nn.Linear(8, 6))
    plain, other = (probe_module(model, None, (x, a), (z, b), QUICK) for a, b in ((y, w), (retold(y), retold(w))))
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in other] == [
        {k: v for k, v in row.items() if k != "seconds"} for row in plain
    ]


def test_two_truth_values_are_two_classes():
    (x, y), (z, w) = blobs(k=2)
    assert probe_module(nn.Sequential(nn.Linear(8, 6)), None, (x, y.bool()), (z, w.bool()), QUICK)[0]["test"] > 0.9


@pytest.mark.parametrize(
    ("train", "test", "classes", "said"),
    [
        ((torch.randn(60, 8), torch.arange(58) % 3), None, None, r"train: a probe is given inputs \[N, ...\] and labels \[N\], not"),
        (None, (torch.randn(30, 8), torch.zeros(30, 1)), None, r"test: .* not \[30, 8\] and \[30, 1\]"),
        ((torch.randn(0, 8), torch.zeros(0)), None, None, r"train: .* not \[0, 8\] and \[0\]"),
        ((torch.randn(60, 8), torch.arange(60) / 2), None, None, r"train: labels must be whole numbers, got 0.5"),
        ((torch.randn(60, 8), torch.full((60,), torch.nan)), None, None, r"train: labels must be whole numbers, got nan"),
        (None, (torch.randn(30, 8), torch.full((30,), torch.inf)), None, r"test: labels must be whole numbers, got inf"),
        ((torch.randn(60, 8), torch.full((60,), 4)), None, None, r"a probe needs two classes or more, but all 60 training labels are 4"),
        (None, None, 2, r"labels from 0 to 2 do not fit 2 classes: they count from 0"),
        ((torch.randn(60, 8), torch.arange(60) % 3 - 1), None, 3, r"labels from -1 to 2 do not fit 3 classes"),
        ((torch.randn(4, 8), torch.arange(4)), None, None, r"4 training images are too few"),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_used_are_reported(train, test, classes, said):
    good = blobs()
    with pytest.raises(InputError, match=f"^{said}") as refused:
        probe_module(nn.Sequential(nn.Linear(8, 6)), None, train or good[0], test or good[1], QUICK, classes)
    assert "\n" not in str(refused.value)
