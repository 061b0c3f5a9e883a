"""Rules, networks and data sets from a user's file: they do what shipped ones do, and what is wrong with them is one sentence."""

import copy
import inspect
import json
import random
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models

from gradlens.gradients.method import Method
from gradlens.methods import METHODS, custom
from gradlens.models.block_boundaries import output_shapes
from gradlens.models.fx_split import cut_module
from gradlens.models.spec import ModelSpec
from gradlens.models.torchvision import cut_points
from gradlens.models.zoo import MODELS, build, head_width
from gradlens.runtime import user_code
from gradlens.runtime.errors import InputError
from gradlens.runtime.rng import seeded
from gradlens.training import user_references
from gradlens.training.config import make_config
from gradlens.training.context import RunContext
from gradlens.training.run_directory import load_run
from gradlens.training.runs.check import check
from gradlens.training.runs.train_run import prepare, train_run

PAGES = [Path(__file__).parents[2] / page for page in ("docs/extending/rule.md",)]
MARK = r"<!-- example: tests/training/test_user_references.py runs this as sparse.py -->\n```python\n(.*?)```"
CODE = {page.name: found.group(1) for page in PAGES if (found := re.search(MARK, page.read_text(), re.S))}
SMALL = {"model": "mlp", "width": 8, "limit": 64, "batch_size": 16, "epochs": 1, "record_every": 2}


pytestmark = pytest.mark.usefixtures("own_code_forgotten")


def written(name: str, code: str) -> str:
    Path(name).write_text(code)
    return name


# -------------------------------------------------------------------------------------------------------- the worked example


def test_the_example_is_on_the_pages_once():
    assert list(CODE) == ["rule.md"]


def test_the_example_passes_the_checks_and_trains(program):
    written("sparse.py", CODE["rule.md"])
    assert len(CODE["rule.md"].splitlines()) <= 27
    status, out, err = program("check", "sparse.py:Sparse", "--quiet")
    assert (status, err) == (0, "")
    assert "11 checks pass, 0 fail" in out
    flags = ["--width", "16", "--epochs", "4", "--quiet", "--record-every", "4"]
    status, out, err = program("compare-gradients", "bp", "sparse.py:Sparse", "--set", "sparse.share=0.3", *flags)
    assert (status, err) == (0, "")
    (run,) = [load_run(p.parent) for p in Path().glob("comparisons/*/runs/sparse-digits-basic-cnn-s0-*/config.json")]
    assert run.config.options == {"share": 0.3}
    assert run.summary["test"]["best_accuracy"] > 0.5
    cosine = {r.layer: r.value for r in run.gradients if (r.step, r.kind, r.quantity) == (0, "weight", "cosine")}
    assert cosine["top.out"] == pytest.approx(1, abs=1e-12)
    assert 0.3 < cosine["block1.conv"] < 0.999
    assert "sparse" in (run.path.parents[1] / "figures" / "cosine_heat_map.csv").read_text()


def test_the_example_in_its_limit_is_backprop():
    written("sparse.py", CODE["rule.md"])
    ours, bp = (train_run(make_config(method=m, **SMALL), RunContext(out=Path("runs"))) for m in ("sparse.py:Sparse", "bp"))
    whole = train_run(make_config(method="sparse.py:Sparse", options={"share": 1}, **SMALL), RunContext(out=Path("runs")))
    for mine, theirs in zip(whole.checkpoint()["model"].values(), bp.checkpoint()["model"].values(), strict=True):
        assert torch.equal(mine, theirs)
    assert ours.metrics != bp.metrics


NOISY = re.search(MARK.replace("sparse.py", "noisy.py"), PAGES[0].read_text(), re.S).group(1)


def test_the_example_with_random_numbers_obeys_the_laws_and_trains(program):
    written("noisy.py", NOISY)
    status, out, err = program("check", "noisy.py:Noisy", "--quiet")
    assert (status, err) == (0, "")
    assert "11 checks pass, 0 fail" in out
    runs = [
        train_run(make_config(method="noisy.py:Noisy", options=options, **SMALL), RunContext(out=Path(out)))
        for options, out in (({}, "a"), ({}, "b"), ({"scale": 0}, "a"))
    ]
    assert runs[0].metrics == runs[1].metrics != runs[2].metrics


def test_a_rule_that_draws_from_the_global_stream_is_told_how_to_draw(program):
    written("noisy.py", NOISY.replace('with seeded(self.seed, "noise", self.step, k):', "if True:").replace("seeded, ", ""))
    status, out, _ = program("check", "noisy.py:Noisy", "--quiet")
    assert status != 0
    said = " ".join(out.split())
    assert "differ in the error signal" in said
    assert "draw inside `with seeded(self.seed, 'noise', self.step, k)`, where `start(epoch, step)` keeps the step" in said


# ------------------------------------------------------------------------------------------------------------ names and runs

RULE = """
from gradlens.gradients.method import Method, Signal, top_signal

class Half(Method):
    depends_on = frozenset({"input", "backward_message"})
    def signal(self, k, passes, received):
        if k == self.num_blocks - 1:
            return top_signal(self.loss, passes[k])
        return Signal(received[0] / 2, (received[0],))
"""


@pytest.mark.slow
def test_a_run_of_an_own_rule_is_read_without_its_file_and_goes_on_only_with_it(program):
    written("half.py", RULE)
    flags = ["--model", "mlp", "--width", "8", "--limit", "64", "--batch-size", "16", "--epochs", "2", "--quiet", "--run-name", "r"]
    status, _, err = program("train", "./half.py:Half", *flags)
    assert (status, err) == (0, "")
    stored = json.loads(Path("runs/r/config.json").read_text())["config"]
    assert stored["method"] == "half"
    assert stored["own"]["method"]["file"] == "half.py"
    assert program("measure", "runs/r", "--quantity", "cosine", "--quiet")[0] == 0
    assert program("train", "--config", "runs/r/config.json", "--run-name", "r", "--resume", "--quiet")[0] == 0

    Path("half.py").write_text(RULE + "# another thought\n")
    for command in (["measure", "runs/r", "--quantity", "cosine"], ["probe", "runs/r"]):
        status, _, err = program(*command, "--quiet")
        assert status == 2
        assert err.startswith("gradlens: half.py has changed since this run was made with half")
    status, _, err = program("train", "half.py:Half", *flags, "--resume")
    assert (status, err) == (2, "gradlens: cannot resume runs/r: its config differs in: half.py, which has changed\n")

    Path("half.py").unlink()
    METHODS.pop("half"), user_references.TYPED["method"].clear(), user_references.RULES.clear(), user_code._imported.clear()
    for command in (["show", "runs/r"], ["figures", "runs/r"], ["report", "runs/r"]):
        assert program(*command)[0] == 0
    assert load_run("runs/r").config.rule.depends_on == {"input", "backward_message"}
    status, _, err = program("measure", "runs/r", "--quantity", "cosine", "--quiet")
    assert (status, err.partition(";")[0].strip()) == (2, f"gradlens: there is no file half.py in {Path.cwd()}")


def test_two_versions_of_a_rule_are_two_lines_of_one_figure():
    from gradlens.training.run_groups import run_labels

    written("half.py", RULE)
    first = train_run(make_config(method="half.py:Half", **SMALL), RunContext(out=Path("runs")))
    Path("half.py").write_text(RULE.replace("/ 2", "/ 3"))
    second = train_run(make_config(method="half.py:Half", **SMALL), RunContext(out=Path("runs")))
    assert first.path != second.path
    a, b = run_labels([load_run(first.path), load_run(second.path)])
    assert re.fullmatch(r"half file=half\.py@[0-9a-f]{6}", a)
    assert re.fullmatch(r"half file=half\.py@[0-9a-f]{6}", b)
    assert a != b


def test_each_run_is_read_with_the_version_of_the_rule_that_made_it():
    """Two versions of a file may differ in what a run's tables ask of the rule, and in its options."""
    blind = RULE.replace("    def signal", "    classifies = True\n    unlabelled = True\n    def signal")
    written("half.py", RULE.replace('"backward_message"', '"backward_message", "labels"'))
    first = make_config(method="half.py:Half", **SMALL)
    Path("half.py").write_text(blind)
    second = make_config(method="half.py:Half", **SMALL)
    for stand_in in (False, True):
        if stand_in:  # as a process that only reads them has it
            METHODS.pop("half"), user_references.TYPED["method"].clear(), user_references.RULES.clear(), user_code._imported.clear()
        read = [make_config(**config.as_dict()) for config in (first, second, first)]
        assert [config.rule.unlabelled for config in read] == [False, True, False]
        assert ["labels" in config.rule.depends_on for config in read] == [True, False, True]
    Path("half.py").unlink()
    assert make_config(**second.as_dict()).rule.unlabelled


def test_a_run_keeps_options_that_its_rule_has_no_more():
    written("sparse.py", CODE["rule.md"])
    run = train_run(make_config(method="sparse.py:Sparse", options={"share": 0.5}, **SMALL), RunContext(out=Path("runs")))
    Path("sparse.py").write_text(RULE.replace("Half", "Sparse"))
    assert make_config(method="sparse.py:Sparse", **SMALL).options == {}
    again = load_run(run.path)
    assert again.config == run.config
    assert again.config.run_name() == run.path.name


def test_a_teacher_whose_top_ends_in_a_normalisation_has_as_many_classes_as_its_data():
    written("net.py", NORMED)
    small = {**SMALL, "width": None, "record_every": 0}
    teacher = train_run(make_config(**{**small, "model": "net.py:build"}), RunContext(out=Path("runs")))
    assert list(teacher.checkpoint()["model"])[-1] == "top.norm.num_batches_tracked"
    student = train_run(make_config(method="distil", teacher=str(teacher.path), **{**small, "model": "mlp"}), RunContext(out=Path("runs")))
    assert student.finished
    written("pictures.py", DATA)
    few = {**small, "data": "pictures.py:build", "limit": None, "batch_size": 10}
    with pytest.raises(InputError, match="has 10 classes and this data set has 3"):
        train_run(make_config(method="distil", teacher=str(teacher.path), **few), RunContext(out=Path("runs")))


def test_reading_a_run_runs_no_code():
    written("sparse.py", CODE["rule.md"])
    run = train_run(make_config(method="sparse.py:Sparse", options={"share": 0.5}, **SMALL), RunContext(out=Path("runs")))
    METHODS.pop("sparse"), user_references.TYPED["method"].clear(), user_references.RULES.clear(), user_code._imported.clear()
    written("sparse.py", "raise SystemExit('executed')")
    assert load_run(run.path).config == run.config
    assert load_run(run.path).config.options == {"share": 0.5}


def test_a_run_of_an_own_rule_with_options_is_measured_by_another_process(program):
    written("sparse.py", CODE["rule.md"])
    run = train_run(make_config(method="sparse.py:Sparse", options={"share": 0.5}, **SMALL), RunContext(out=Path("runs")))
    METHODS.pop("sparse"), user_references.TYPED["method"].clear(), user_references.RULES.clear(), user_code._imported.clear()
    assert program("measure", run.path, "--quantity", "cosine", "--quiet")[0] == 0
    assert load_run(run.path).config.rule.Options.model_fields  # the rule itself by now


def test_reading_and_building_a_config_leaves_the_registries_alone():
    written("sparse.py", CODE["rule.md"])
    written("net.py", NET)
    before = set(METHODS), set(MODELS)
    stored = make_config(method="sparse.py:Sparse", **{**SMALL, "model": "net.py:cut", "width": None}).as_dict()
    METHODS.pop("sparse"), MODELS.pop("net-cut"), user_references.RULES.clear(), user_code._imported.clear()
    user_references.TYPED["method"].clear(), user_references.TYPED["model"].clear()
    config = make_config(**stored)  # of a stand-in
    assert config.as_dict() == stored
    check(config, RunContext())
    assert prepare(config, RunContext()).network.block_names()[-1] == "top"
    assert (set(METHODS), set(MODELS)) == before
    for name, kind in (("sparse", "method"), ("net-cut", "model")):  # which without its file says nothing
        with pytest.raises(InputError, match=f"^unknown {kind} '{name}'"):
            make_config(**{kind: name})


LOCAL_RULE = """
from gradlens.methods.local.dgl import DGL

class Staged(DGL):
    in_stages = True
    saved_within_epochs = False
"""


def test_what_is_peculiar_to_a_rule_is_known_without_its_file_and_names_no_run():
    written("staged.py", LOCAL_RULE)
    config = make_config(method="staged.py:Staged", **SMALL)
    facts = {"in_stages": True, "saved_within_epochs": False, "has_local_losses": True, "plain_local_loss": True}
    assert facts.items() <= config.own["method"].items()
    assert "top_only" not in config.own["method"]  # as Method has it
    METHODS.pop("staged"), user_references.TYPED["method"].clear(), user_references.RULES.clear(), user_code._imported.clear()
    Path("staged.py").unlink()
    read = make_config(**config.as_dict())
    assert {name: getattr(read.rule, name) for name in facts} == facts
    stored = config.as_dict()  # as the version before kept it
    stored["own"] = {"method": {name: value for name, value in stored["own"]["method"].items() if name not in facts}}
    before = make_config(**stored)
    assert before.digest() == config.digest() == read.digest()
    assert config.differences(before) == []
    assert "has changed" in config.differences(make_config(**{**stored, "own": {"method": stored["own"]["method"] | {"sha256": "0"}}}))[0]


def test_every_fact_of_a_rule_is_kept_and_documented():
    declared = {name for name, value in vars(Method).items() if isinstance(value, bool | int)} - {"replay_size", "replay_reads"}
    assert declared - {name for name in declared if name.startswith("_") or hasattr(nn.Module, name)} == set(custom.FACTS)
    assert [name for name in custom.FACTS if f"    {name}: " not in inspect.getdoc(Method)] == []


def test_a_config_of_an_own_rule_is_trained_by_its_name_there(program):
    """As `gradlens sweep` starts its runs."""
    written("sparse.py", CODE["rule.md"])
    config = make_config(method="sparse.py:Sparse", options={"share": 0.5}, **SMALL)
    Path("point.json").write_text(json.dumps({"config": config.as_dict()}))
    METHODS.pop("sparse"), user_references.TYPED["method"].clear(), user_references.RULES.clear(), user_code._imported.clear()
    status, _, err = program("train", "sparse", "--config", "point.json", "--run-name", "r", "--quiet")
    assert (status, err) == (0, "")
    assert load_run("runs/r").config == config
    assert program("train", "sparse", "--config", "point.json", "--run-name", "s", "--set", "share=0.2", "--quiet")[0] == 0
    Path("sparse.py").write_text(CODE["rule.md"] + "# changed\n")
    assert "sparse.py has changed" in program("train", "sparse", "--config", "point.json", "--run-name", "t", "--quiet")[2]


def test_an_interrupted_run_of_an_own_rule_and_network_goes_on_to_the_same_bits():
    written("sparse.py", CODE["rule.md"])
    written("net.py", NET)
    config = make_config(method="sparse.py:Sparse", **{**SMALL, "model": "net.py:cut", "width": None, "epochs": 2})
    whole = train_run(config, RunContext(out=Path("runs"), name="whole"))

    def pull_the_plug(event, numbers):
        if event == "step" and numbers["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(config, RunContext(out=Path("runs"), name="cut"), pull_the_plug)
    (
        METHODS.pop("sparse"),
        MODELS.pop("net-cut"),
        user_references.TYPED["method"].clear(),
        user_references.TYPED["model"].clear(),
        user_references.RULES.clear(),
        user_code._imported.clear(),
    )
    begun = load_run("runs/cut")
    assert not begun.finished
    gone_on = train_run(begun.config, RunContext(out=Path("runs"), name="cut", resume=True))
    assert gone_on.gradients == whole.gradients
    for mine, theirs in zip(gone_on.checkpoint()["model"].values(), whole.checkpoint()["model"].values(), strict=True):
        assert torch.equal(mine, theirs)


def test_options_of_an_own_rule_are_checked_like_any(program):
    written("sparse.py", CODE["rule.md"])
    assert "unknown option of sparse 'shares'" in program("train", "sparse.py:Sparse", "--set", "shares=1", "--quiet")[2]
    assert "option of sparse: share: input should be less than" in program("check", "sparse.py:Sparse", "--set", "share=2")[2]
    assert make_config(method="sparse.py:Sparse", options={"share": 0.5}).options == {"share": 0.5}


def test_a_config_of_an_own_rule_serves_a_shipped_one_too():
    written("half.py", RULE)
    config = make_config(method="half.py:Half", **SMALL)
    again = make_config(**config.as_dict())
    assert again == config
    assert make_config(**{**config.as_dict(), "method": "bp"}).own == {}
    assert make_config(method="half") == make_config(method="half.py:Half")  # known by now
    assert config.differences(make_config(method="half.py:Half", **{**SMALL, "epochs": 3})) == ["epochs 3 there, 1 here"]


@pytest.mark.parametrize(
    ("kind", "file", "name", "label"),
    [
        ("method", "a/sign_bp.py", "SignBP", "signbp"),
        ("method", "mine.py", "Rule", "mine-rule"),
        ("method", "dgl.py", "DGL", "own-dgl"),
        ("model", "Net 2.py", "build", "net-2"),
        ("model", "net.py", "wide", "net-wide"),
        ("model", "mlp.py", "build", "own-mlp"),
    ],
)
def test_labels_are_single_words_that_are_no_shipped_name(kind, file, name, label):
    assert user_references.reference_label(kind, Path(file), name) == label


def test_run_names_are_names_of_folders():
    written("net.py", "from torch import nn\ndef build(plan): return [nn.Flatten()]")
    written("set.py", "")
    name = make_config(model="net.py:build", data="set.py:build").run_name()
    assert re.fullmatch(r"bp-set-net-s0-[0-9a-f]{6}", name)
    assert make_config(model="torchvision:resnet18").run_name().startswith("bp-digits-torchvision-resnet18-s0-")


def test_a_file_may_import_what_lies_beside_it_and_use_dataclasses():
    written("beside_it.py", "HALF = 2")
    code = "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom beside_it import HALF\n" + RULE
    written("half.py", code + "@dataclass\nclass Point:\n    x: int = HALF\n")
    assert custom.rule_in(Path("half.py"), "Half").__name__ == "Half"


# ------------------------------------------------------------------------------------------------------------------- cuts


class Skips(nn.Module):
    """Functions, a shared input, a residual sum outside of submodules, BatchNorm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.one = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
        self.join = nn.Identity()
        self.two = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("shift", torch.full((1,), 0.5))
        self.calls = 0
        self.drop = nn.Dropout(0.2)
        self.out = nn.Linear(4, 10)

    def forward(self, x, temper=1.0):
        self.calls += 1
        h = F.relu(self.stem(x)) + self.shift
        h = self.join(h + self.one(h))
        h = self.join2(h) if hasattr(self, "join2") else h
        h = h + self.two(h) * self.scale
        return self.out(self.drop(F.adaptive_avg_pool2d(h, 1).view(h.size(0), -1))) / temper


def uncut_step(module, x, y):
    """Forward and backward of a module as PyTorch has it."""
    torch.manual_seed(5)
    z = module(x)
    F.cross_entropy(z, y).backward()
    return z


CUT = {
    "functions and sums": (Skips, ["stem", "join"], (3, 8, 8)),
    "torchvision's resnet18": (lambda: models.resnet18(num_classes=10), ["layer1.0", "layer2", "layer4.0"], (3, 16, 16)),
    "containers in containers": (
        lambda: nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), nn.Sequential(nn.Flatten(), nn.Linear(144, 10))),
        ["0.0", "0.1", "1.0"],
        (3, 8, 8),
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CUT)
def test_cut_modules_are_the_uncut_ones_bit_for_bit(case, dtype):
    make_module, cuts, shape = CUT[case]
    module = make_module().to(dtype)
    twin = copy.deepcopy(module)
    before = {name: t.clone() for name, t in module.state_dict().items()}
    model = cut_module(module, cuts, shape, "net")
    assert len(model) == len(cuts) + 1
    assert list(model._modules)[-1] == "top"
    assert getattr(module, "calls", 0) == 0
    for name, t in module.state_dict().items():
        assert torch.equal(t, before[name])  # looking at it changed nothing
    assert {id(p) for p in model.parameters()} == {id(p) for p in module.parameters()}
    x = torch.randn(3, *shape, dtype=dtype)
    y = torch.tensor([1, 2, 3])
    z, want = uncut_step(model, x, y), uncut_step(twin, x, y)
    assert torch.equal(z, want)
    for mine, theirs in zip(module.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)
    for mine, theirs in zip(module.buffers(), twin.buffers(), strict=True):
        assert torch.equal(mine, theirs)
    model.eval(), twin.eval()
    assert torch.equal(model(x), twin(x))


def test_blocks_of_a_cut_module_are_modules_like_any():
    model = cut_module(Skips(), ["join", "stem"], (3, 8, 8), "net")
    assert list(model._modules) == ["stem", "join", "top"]
    names = [n for n, _ in model.named_parameters()]
    assert names[0] == "stem.weight"  # a block that is one submodule is that submodule
    assert {"join.one.0.weight", "top.two.1.bias", "top.scale", "top.out.weight"} <= set(names)
    x = torch.randn(2, 3, 8, 8)
    twin = copy.deepcopy(model)
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin.eval()(x), model.eval()(x))
    laid = twin.to(memory_format=torch.channels_last)
    torch.testing.assert_close(laid(x.to(memory_format=torch.channels_last)), model(x))
    assert [tuple(s) for s in output_shapes(model, (3, 8, 8))] == [(4, 8, 8), (4, 8, 8), (10,)]


class Dense(nn.Module):
    """A value from before the first layer is read at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 10)
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        x = x.flatten(1)[:, :4]
        h = self.a(x)
        return self.c(self.b(h) + x)


class Recalled(Dense):
    def forward(self, x):
        return self.c(self.a(self.a(x.flatten(1)[:, :4])))


class Asking(Dense):
    def forward(self, x):
        h = F.dropout(self.a(x.flatten(1)[:, :4]), 0.5, self.training)
        return self.c(self.b(h))


class Branching(Dense):
    def forward(self, x):
        h = self.a(x.flatten(1)[:, :4])
        return self.c(self.b(h)) if h.sum() > 0 else self.c(h)


class Several(Dense):
    def forward(self, x):
        h = self.a(x.flatten(1)[:, :4])
        return self.c(h), h


class Noisy(Dense):
    def forward(self, x):
        return self.c(self.a(x.flatten(1)[:, :4]) + torch.randn(4))


class Chain(Dense):
    def forward(self, x):
        return self.c(self.b(self.a(x.flatten(1)[:, :4])))


class Dicing(Dense):
    def forward(self, x):
        return self.c(self.a(x.flatten(1)[:, :4]) * random.random())


def hooked():
    module = Chain()
    module.register_forward_hook(lambda module, args, z: 2 * z)
    return module


class Two(Dense):
    def forward(self, x, other):
        return self.c(self.a(x) + other)


class Pair(nn.Module):
    def forward(self, x):
        return x, x


class Paired(Dense):
    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()

    def forward(self, x):
        h, g = self.pair(self.a(x.flatten(1)[:, :4]))
        return self.c(h + g)


@pytest.mark.parametrize(
    ("module", "cuts", "words"),
    [
        (Dense, ["a"], "a skip crosses the cut point a: `getitem` is read by `add` past it"),
        (Dense, ["a", "b"], "a skip crosses the cut point a"),
        (Dense, ["unused"], "cut point unused is not called in the forward of Dense"),
        (Dense, ["aa"], "cut point 'aa' does not exist: unknown submodule 'aa'; nearest: a, "),
        (Dense, ["b", "b"], "cut point b is named twice"),
        (Dense, ["c"], "nothing comes after the cut point c"),
        (Dense, [], "returns no cut points"),
        (Recalled, ["a"], "cut point a is called 2 times"),
        (Asking, ["a"], "the forward of Asking depends on self.training"),
        (Branching, ["a"], "torch.fx cannot trace the forward of Branching: symbolically traced variables"),
        (Several, ["a"], "the forward of Several returns several outputs"),
        (Noisy, ["a"], "makes a tensor that does not depend on the image"),
        (Dicing, ["a"], "the forward of Dicing differs from call to call"),
        (hooked, ["a"], "its blocks do not compute the output of Chain"),
        (Two, ["a"], "the forward of Two must have one required argument"),
        (Paired, ["pair"], "the block that ends with pair returns a tuple: its output must be one tensor"),
    ],
)
def test_cuts_that_are_none_are_refused_in_a_sentence(module, cuts, words):
    with pytest.raises(InputError, match=re.escape(words)) as refused:
        cut_module(module(), cuts, (1, 4, 4), "net.py:build")
    assert str(refused.value).startswith("net.py:build")
    assert "\n" not in str(refused.value)


def test_a_skip_inside_a_residual_block_is_named_with_its_block():
    net = models.resnet18(num_classes=10)
    with pytest.raises(InputError, match=r"cut point layer2\.0\.bn1: layer1 is read by layer2\.0\.downsample past it"):
        cut_module(net, ["layer2.0.bn1"], (3, 16, 16), "net")


# --------------------------------------------------------------------------------------------------------------- torchvision


@pytest.mark.slow
def test_resnet18_of_torchvision_has_its_stem_its_residual_blocks_and_its_top():
    model = build("resnet18", ModelSpec((3, 16, 16), 7))  # the shipped one keeps its name
    config = make_config(model="torchvision:resnet18", epochs=0, limit=32, batch_size=16)
    model = build("torchvision:resnet18", ModelSpec((3, 16, 16), 7), seed=4)
    layers = [f"layer{i}_{j}" for i in (1, 2, 3, 4) for j in (0, 1)]
    assert list(model._modules) == ["stem", *layers, "top"]
    assert [n for n, _ in model.stem.named_parameters()] == ["conv1.weight", "bn1.weight", "bn1.bias"]
    assert [n for n, _ in model.top.named_parameters()] == ["fc.weight", "fc.bias"]
    assert sum(p.numel() for p in model.parameters()) == 11_176_512 + 7 * 513
    assert not any(getattr(m, "inplace", False) for m in model.modules())
    again = build("torchvision:resnet18", ModelSpec((3, 16, 16), 7), seed=4)
    other = build("torchvision:resnet18", ModelSpec((3, 16, 16), 7), seed=5)
    assert torch.equal(again.stem.conv1.weight, model.stem.conv1.weight)
    assert not torch.equal(other.stem.conv1.weight, model.stem.conv1.weight)
    assert head_width(model) == 512
    prepare(config, RunContext())  # grey digits


@pytest.mark.parametrize("name", ["resnet18", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mobilenet_v2", "densenet121"))])
def test_torchvisions_own_network_gives_the_same_bits(name):
    """With its in-place activations, uncut, from the same stream: forward, backward, buffers; dropout draws the same masks."""
    make_config(model=f"torchvision:{name}")
    model = build(f"torchvision:{name}", ModelSpec((3, 32, 32), 10), seed=2)
    with seeded(2, "init"):
        twin = models.get_model(name, weights=None, num_classes=10)
    x, y = torch.randn(2, 3, 32, 32), torch.tensor([1, 2])
    assert torch.equal(uncut_step(model, x, y), uncut_step(twin, x, y))
    mine, theirs = list(model.parameters()), list(twin.parameters())
    assert len(mine) == len(theirs)
    assert all(torch.equal(a, b) and torch.equal(a.grad, b.grad) for a, b in zip(mine, theirs, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), twin.buffers(), strict=True))


def test_grey_images_are_fed_as_three_equal_channels():
    make_config(model="torchvision:resnet18")
    grey, colour = (build("torchvision:resnet18", ModelSpec((c, 16, 16), 10), seed=1).eval() for c in (1, 3))
    x = torch.randn(2, 1, 16, 16)
    assert torch.equal(grey(x), colour(x.expand(-1, 3, -1, -1).contiguous()))
    assert list(grey.state_dict()) == list(colour.state_dict())


def test_convolutions_take_what_follows_them_into_their_block():
    with torch.device("meta"):
        assert cut_points(models.vgg11_bn())[:3] == ["features.3", "features.7", "features.10"]


@pytest.mark.parametrize(
    ("name", "plan", "words"),
    [
        ("googlenet", ModelSpec((3, 32, 32), 10), "torchvision:googlenet returns several outputs in training (GoogLeNetOutputs)"),
        ("squeezenet1_1", ModelSpec((3, 8, 8), 10), "torchvision:squeezenet1_1 does not take images of 8x8 (HxW) pixels: "),
        ("resnet18", ModelSpec((2, 32, 32), 10), "needs images of 3 channels"),
        ("resnet18", ModelSpec((3, 32, 32), 10, width=8), "--width 8: torchvision:resnet18 is built by torchvision, without this setting"),
        ("resnet18", ModelSpec((3, 32, 32), 10, activation="gelu"), "--activation gelu"),
    ],
)
def test_what_torchvision_does_not_have_is_reported(name, plan, words):
    make_config(model=f"torchvision:{name}")
    with pytest.raises(InputError, match=re.escape(words)):
        build(f"torchvision:{name}", plan)


def test_unknown_classifiers_get_the_nearest():
    with pytest.raises(InputError, match=r"unknown classifier of torchvision 'resnet81'; nearest: resnet18, .*\(of \d+\)"):
        make_config(model="torchvision:resnet81")


# ------------------------------------------------------------------------------------------------------- own networks and data

NET = """
import random
import torch
from torch import nn

def build(plan):
    width = plan.width or 8
    return [nn.Sequential(nn.Flatten(), nn.Linear(plan.shape[1] * plan.shape[2], width), nn.ReLU()), nn.Linear(width, plan.classes)]

def named(plan):
    return nn.Sequential(*build(plan))

class Net(nn.Module):
    def __init__(self, plan):
        super().__init__()
        self.flat = nn.Flatten()
        self.one, self.two = nn.Linear(64, 8), nn.Linear(8, plan.classes)
    def forward(self, x):
        return self.two(torch.relu(self.one(self.flat(x))))

def cut(plan):
    return Net(plan), ["one"]

def skip(plan):
    return Net(plan), ["one", "tow"]

def raising(plan):
    return 1 // 0

def nothing(plan):
    pass

def module(plan):
    return Net(plan)

def strange(plan):
    return [nn.Linear(2, 2), "top"]

def single(plan):
    return [nn.Linear(2, 2)]

def empty(plan):
    return []

def wide(plan):
    return [nn.Flatten(), nn.Linear(64, 12)]

def small(plan):
    return [nn.Flatten(), nn.Linear(63, plan.classes)]

def bare(plan):
    return [nn.Flatten(), nn.Softmax(1)]

def inplace(plan):
    return [nn.Sequential(nn.Flatten(), nn.Linear(64, 8)), nn.Sequential(nn.ReLU(inplace=True), nn.Linear(8, 10))]

class View(nn.Module):
    def forward(self, x):
        return x.view(len(x), -1)

def viewed(plan):
    return [nn.Conv2d(1, 2, 3, padding=1), nn.Sequential(View(), nn.Linear(128, 10))]

class Crossing(Net):
    def forward(self, x):
        h = self.one(x.flatten(1))
        return self.two(h) + self.flat(x)[:, :10]

def crossing(plan):
    return Crossing(plan), ["one"]

def numpys(plan):
    blocks = nn.Sequential(*build(plan))
    nn.init.constant_(blocks[1].weight, random.random())
    return blocks

class Own(nn.Sequential):
    def __init__(self, plan):
        super().__init__(*build(plan))
    def forward(self, x):
        return 2 * super().forward(x)

def points(plan):
    return Net(plan), "one"

PLAN = 3
"""


@pytest.mark.parametrize(("name", "blocks"), [("build", ["block1", "top"]), ("named", ["0", "1"]), ("cut", ["one", "top"])])
def test_own_networks_train_and_are_read_again(program, name, blocks):
    written("net.py", NET)
    flags = ["--model", f"net.py:{name}", "--limit", "64", "--batch-size", "16", "--epochs", "1", "--quiet", "--run-name", "r"]
    status, _, err = program("train", "dgl", *flags)
    assert (status, err) == (0, "")
    run = load_run("runs/r")
    assert list(dict.fromkeys(n.split(".")[0] for n in run.checkpoint()["model"])) == blocks
    assert program("measure", "runs/r", "--quantity", "cosine", "--quiet")[0] == 0
    Path("net.py").write_text(NET + "\n")
    assert "net.py has changed" in program("probe", "runs/r", "--quiet")[2]


def test_an_own_network_is_drawn_from_the_runs_seed():
    written("net.py", NET)
    weights = [prepare(make_config(model="net.py:build", seed=s), RunContext()).network.model[1].weight for s in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("skip", "net.py:skip: cut point 'tow' does not exist: unknown submodule 'tow'; nearest: two"),
        ("raising", "net.py:raising raised: ZeroDivisionError: integer division or modulo by zero"),
        ("nothing", "net.py:nothing gives None: wanted a list of blocks"),
        ("module", "net.py:module gives a Net: wanted a list of blocks"),
        ("strange", "net.py:strange gives a list with a str in it"),
        ("single", "net.py:single gives 1 block: a network needs one or more and a top"),
        ("empty", "net.py:empty gives no blocks"),
        ("wide", "net.py:wide: its top gives 12 for each image; wanted 10"),
        ("small", "net.py:small: its network does not take images of 1x8x8: RuntimeError: mat1 and mat2"),
        ("bare", "net.py:bare gives a network without parameters"),
        ("inplace", "top begins with an in-place operation (top.0)"),
        (
            "viewed",
            "net.py:viewed: its network does not take images in channels-last layout, in which it is trained: RuntimeError: view size",
        ),
        ("crossing", "net.py:crossing: a skip crosses the cut point one: the network's input is read by flat past it"),
        ("numpys", "net.py:numpys gives another 1.weight each time: draw weights with torch"),
        ("Own", "net.py:Own gives a Own with a forward of its own"),
        ("points", "net.py:points gives cut points 'one': wanted a list"),
        ("Net", "net.py:Net gives a Net: wanted a list of blocks"),
        ("PLAN", "net.py:PLAN is an int: wanted a function"),
        ("bild", "net.py has no bild: unknown function 'bild'; nearest: build, "),
        ("", "net.py: wanted FILE.py:build"),
    ],
)
def test_networks_that_are_none_are_refused_in_a_sentence(program, name, words):
    written("net.py", NET)
    status, out, err = program("train", "bp", "--model", f"net.py:{name}" if name else "net.py", "--quiet")
    assert (status, out) == (2, "")
    (line,) = [line for line in err.splitlines() if line.startswith("gradlens: ")]
    assert words in line
    assert ("Traceback" in err) == (name in ("raising", "viewed"))
    assert not Path("runs").exists()


NORMED = """
from collections import OrderedDict
from torch import nn

def build(spec):
    below = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU())
    top = nn.Sequential(OrderedDict(out=nn.Linear(8, spec.classes), norm=nn.BatchNorm1d(spec.classes)))
    return nn.Sequential(OrderedDict(one=below, top=top))
"""

DATA = """
import numpy as np
import torch
from gradlens.data.split import Split

def build():
    x = torch.arange(40 * 64).reshape(40, 1, 8, 8).remainder(251).to(torch.uint8)
    y = torch.arange(40) % 3
    return (x[:30].numpy(), y[:30].numpy()), Split(x[30:], y[30:]), ["a", "b", "c"]
"""


def test_own_data_train_and_are_recognised_by_their_contents(program):
    written("pictures.py", DATA)
    flags = ["--data", "pictures.py:build", "--model", "mlp", "--width", "8", "--batch-size", "10", "--epochs", "1", "--quiet"]
    status, _, err = program("train", "bp", *flags, "--run-name", "r")
    assert (status, err) == (0, "")
    assert load_run("runs/r").info["images"] == {"train": 30, "test": 10}
    assert program("measure", "runs/r", "--quantity", "cosine", "--quiet")[0] == 0
    Path("pictures.py").write_text(DATA + "# the same data\n")
    assert program("measure", "runs/r", "--quantity", "cosine", "--quiet")[0] == 0
    Path("pictures.py").write_text(DATA.replace("251", "250"))
    status, _, err = program("measure", "runs/r", "--quantity", "cosine", "--quiet")
    differ = "as many images with the same labels, but other pixels"
    assert (status, err) == (2, f"gradlens: the data 'pictures.py:build' are not the ones runs/r was trained on ({differ})\n")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("to(torch.uint8)", "float()"), "images of the training half are float32: wanted uint8"),
        (("reshape(40, 1, 8, 8)", "reshape(40, 8, 8)"), "images of the training half are 30x8x8: wanted [N, C, H, W]"),
        (("x[30:], y[30:]", "x[30:, :, :4], y[30:]"), "training images are 1x8x8, test images 1x4x8"),
        (("y[:30].numpy()", "y[:29].numpy()"), "labels of the training half are 29 for 30 images"),
        (("% 3", "% 4"), "the training half has the label 3: with 3 class names labels are 0 to 2"),
        (("% 3", "% 3 - 1"), "the test half has the label -1"),
        (("% 3", "/ 3"), "labels of the training half are float32: wanted whole numbers"),
        (('["a", "b", "c"]', '"abc"'), "class names are 'abc': wanted a list"),
        (('Split(x[30:], y[30:]), ["a"', 'x[30:], ["a"'), "the test half is a Tensor: wanted (images, labels)"),
        (("(x[:30].numpy(), y[:30].numpy())", "('x', y)"), "images of the training half are a str: wanted a tensor"),
        ((', ["a", "b", "c"]', ""), "gives a tuple of 2: wanted"),
        (("return", "return None #"), "gives None: wanted"),
        (("return", "return undefined,"), "raised: NameError: name 'undefined' is not defined"),
        (("def build", "def biuld"), "has no build: unknown function 'build'; nearest: biuld"),
    ],
)
def test_data_that_are_none_are_refused_in_a_sentence(program, change, words):
    written("pictures.py", DATA.replace(*change))
    status, out, err = program("train", "bp", "--data", "pictures.py:build", "--model", "mlp", "--batch-size", "10", "--quiet")
    assert (status, out) == (2, "")
    (line,) = [line for line in err.splitlines() if line.startswith("gradlens: pictures.py")]
    assert words in line
    assert ("Traceback" in err) == ("raised" in words)


# ------------------------------------------------------------------------------------------------------ files that are wrong


@pytest.mark.parametrize("command", [["train", "RULE"], ["compare-gradients", "bp", "RULE"], ["bench", "RULE"], ["check", "RULE"]])
def test_a_rule_that_does_not_import_shows_its_own_traceback_and_not_ours(program, command):
    written("wrong.py", "import math\n\ndef area(r):\n    return math.pie * r\n\nAREA = area(2)\n")
    status, out, err = program(*[word.replace("RULE", "wrong.py:Rule") for word in command])
    assert (status, out) == (2, "")
    assert err.splitlines()[0] == "Traceback (most recent call last):"
    assert 'wrong.py", line 6, in <module>' in err
    assert 'wrong.py", line 4, in area' in err
    assert "math.pie" in err
    assert "gradlens/" not in err
    assert err.splitlines()[-1].startswith("gradlens: wrong.py cannot be imported: AttributeError: module 'math' has no attribute 'pie'")
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("code", "named", "words"),
    [
        (None, "rules.py:Half", "; nearest: rule.py"),
        (RULE, "rule.py:Haff", "rule.py has no Haff: unknown rule 'Haff'; nearest: Half"),
        (RULE, "rule.py", "rule.py: wanted FILE.py:Class, a Python file and a name in it"),
        (RULE, "rule.py:Half.x", "rule.py:Half.x: wanted FILE.py:Class"),
        ("class Half: pass", "rule.py:Half", "rule.py:Half is the class Half: a rule is a subclass of gradlens.Method"),
        ("Half = 3", "rule.py:Half", "rule.py:Half is an int: a rule is"),
        (RULE + "def make(): pass", "rule.py:make", "rule.py:make is a function: a rule is"),
        (
            "from gradlens.gradients.method import Method\nclass Half(Method): pass",
            "rule.py:Half",
            "rule.py:Half must define `signal(...)`",
        ),
        (
            RULE.replace('"backward_message"', '"backward_massage"'),
            "rule.py:Half",
            "unknown word in `depends_on` of rule.py:Half 'backward_massage'; nearest: backward_message",
        ),
        (
            RULE + "    Options = dict",
            "rule.py:Half",
            "rule.py:Half: Options is the class dict: options are a subclass of pydantic.BaseModel",
        ),
        ("def broken(:\n", "rule.py:Half", "rule.py cannot be imported: SyntaxError: invalid syntax"),
        ("import no_such_library", "rule.py:Half", "rule.py cannot be imported: ModuleNotFoundError: No module named 'no_such_library'"),
        ("raise SystemExit(3)", "rule.py:Half", "rule.py cannot be imported: SystemExit: 3"),
    ],
)
def test_rules_that_are_none_are_refused_in_a_sentence(program, code, named, words):
    written("rule.py", RULE if code is None else code)
    status, out, err = program("train", named, "--quiet")
    assert (status, out) == (2, "")
    (line,) = [line for line in err.splitlines() if line.startswith("gradlens: ")]
    assert words in line
    assert "gradlens/" not in err
    assert not Path("runs").exists()


def test_a_rule_that_raises_while_it_trains_shows_its_own_frames(program):
    after_an_update = "received[0] / (undefined if self.n > 1 else 2)"
    rule = RULE.replace("def signal", "n = 0\n    def start(self, e, s): self.n = s\n    def signal")
    written("half.py", rule.replace("received[0] / 2", after_an_update))
    status, _, err = program("train", "half.py:Half", "--model", "mlp", "--epochs", "1", "--quiet")
    assert status == 2
    assert err.splitlines()[1] == "Traceback (most recent call last):"
    assert 'half.py", line 11, in signal' in err
    assert "gradlens/" not in err
    assert err.splitlines()[-1] == "gradlens: half.py, line 11, raised NameError: name 'undefined' is not defined"
    assert " stopped after 2 updates: the same command goes on with --resume as long as the file is unchanged" in err


def test_two_rules_of_one_name_are_refused(program):
    for folder in ("a", "b"):
        Path(folder).mkdir()
        written(f"{folder}/half.py", RULE)
    status, _, err = program("compare-gradients", "a/half.py:Half", "b/half.py:Half", "--quiet")
    assert (status, err) == (2, "gradlens: a/half.py:Half and b/half.py:Half would both be called half: rename one of them\n")


def test_check_says_what_fails_and_exits_with_one(program):
    written(
        "half.py", RULE.replace("def signal", "n = 0\n    def start(self, e, s): self.n += 1\n    def signal").replace("/ 2", "/ self.n")
    )
    status, out, err = program("check", "half.py:Half", "--quiet", "--verbose")
    assert (status, err) == (1, "")
    assert "FAILS      resume: " in out
    status, out, err = program("check", "half.py:Half", "--quiet")
    assert (status, err) == (1, "")
    assert out.startswith("FAILS resume, on ")
    assert "10 checks pass, 1 fails" in out


@pytest.mark.slow
def test_check_takes_shipped_rules_and_their_options(program):
    status, out, _ = program("check", "dgl", "--set", "head=linear", "--quiet")
    assert status == 0
    assert "DGL on mlp, basic-cnn, resnet, float64:" in out
    assert "unknown method 'dlg'" in program("check", "dlg")[2]


def test_the_network_of_the_page_trains_on_data_that_need_no_download(program):
    (code,) = re.findall(
        r"<!-- example: .* trains this as small.py -->\n```python\n(.*?)```",
        (PAGES[0].parent / "network-and-data.md").read_text(encoding="utf-8"),
        re.S,
    )
    written("small.py", code)
    status, out, err = program("train", "dgl", "--model", "small.py:build", "--epochs", "1", "--limit", "256", "--quiet")
    assert (status, err) == (0, "")
    assert "next: gradlens figures" in out
