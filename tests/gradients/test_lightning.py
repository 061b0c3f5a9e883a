"""The callback with the real Lightning: its numbers against plain torch, and a training that does not know it is watched."""

import csv
import functools
import importlib
import sys
import types

import pytest
import torch
import torch.utils.checkpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

pl = pytest.importorskip("lightning.pytorch", reason="pip install lightning")
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger  # noqa: E402
from lightning.pytorch.plugins import MixedPrecision  # noqa: E402
from torch_versions import needs_torch_2_8  # noqa: E402

from gradlens.gradients.lens import Lens  # noqa: E402
from gradlens.gradients.lightning import LensCallback, output_numbers, pairs  # noqa: E402
from gradlens.runtime.errors import InputError  # noqa: E402

LAYERS = ["net.0", "net.2", "net.4"]
pytestmark = pytest.mark.filterwarnings("ignore")


class Model(pl.LightningModule):
    """Small, with batch statistics and dropout: what a second look could disturb."""

    def __init__(self, crash=None):
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Dropout(0.3), nn.Flatten(), nn.Linear(3 * 16, 4)
        )
        self.crash = crash

    def loss(self, batch):
        x, y = batch
        return nn.functional.cross_entropy(self.net(x), y)

    def training_step(self, batch, i):
        if i == self.crash:
            raise RuntimeError("of the user's")
        loss = self.loss(batch)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def data():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(48, 1, 6, 6, generator=g), torch.randint(4, (48,), generator=g)
    return DataLoader(TensorDataset(x, y), batch_size=8)


def fit(folder, callbacks=(), model=None, logger=None, module=pl, **more):
    model = Model() if model is None else model
    torch.manual_seed(5)
    trainer = module.Trainer(
        accelerator="cpu", devices=1, max_epochs=2, logger=logger or CSVLogger(folder), callbacks=list(callbacks), log_every_n_steps=1,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, **more,
    )  # fmt: skip
    trainer.fit(model, data())
    return model, trainer


def rows(folder):
    """step -> tag -> value of the last csv written there."""
    (file,) = folder.rglob("metrics.csv")
    found = {}
    for row in csv.DictReader(file.open()):
        found.setdefault(int(row["step"]), {}).update({k: float(v) for k, v in row.items() if v and k not in ("step", "epoch")})
    return found


def same_weights(a, b):
    state = b.state_dict()
    return all(torch.equal(v, state[k]) for k, v in a.state_dict().items())


def test_numbers_are_those_of_plain_torch(tmp_path):
    fit(tmp_path, [LensCallback(LAYERS, every=4)])
    logged = rows(tmp_path)
    looked = [step for step, tags in logged.items() if "rms/output/net.0" in tags]
    assert looked == [0, 4, 8]
    model = Model()  # the same training by hand
    optimizer = model.configure_optimizers()
    torch.manual_seed(5)
    batches = (batch for _ in range(2) for batch in data())  # lazily: a loader draws when it begins
    for step, (x, y) in enumerate(batches):
        optimizer.zero_grad()
        h, outputs = x, {}
        for i, layer in enumerate(model.net):
            h = nn.functional.relu(h) if i == 2 else layer(h)
            outputs[f"net.{i}"] = h
        loss = nn.functional.cross_entropy(h, y)
        grads = dict(zip(LAYERS, torch.autograd.grad(loss, [outputs[name] for name in LAYERS], retain_graph=True), strict=True))
        if step in looked:
            for name in LAYERS:
                got, out, g = logged[step], outputs[name].detach().double(), grads[name].double()
                dead = [bool((out[:, c] == 0).all()) for c in range(out.shape[1])]
                want = {
                    f"rms/output/{name}": out.square().mean().sqrt(), f"zeros/output/{name}": (out == 0).double().mean(),
                    f"dead/output/{name}": sum(dead) / len(dead), f"norm/activation/{name}": g.square().sum().sqrt(),
                    f"zeros/activation/{name}": (g == 0).double().mean(),
                }  # fmt: skip
                for tag, value in want.items():
                    assert got[tag] == pytest.approx(float(value), rel=1e-5, abs=1e-12), (step, tag)
        loss.backward()
        optimizer.step()


def test_dead_units_are_channels_or_features():
    h = torch.ones(2, 4, 3, 3)
    h[:, 1] = 0
    h[0, 2] = 0
    assert output_numbers(h) == pytest.approx({"rms": (2.5 / 4) ** 0.5, "zeros": 3 / 8, "dead": 1 / 4})
    assert output_numbers(torch.tensor([[0.0, 2.0, 0.0], [0.0, 2.0, 1.0]]))["dead"] == pytest.approx(1 / 3)
    assert output_numbers(torch.tensor(3.0)) == {"rms": 3.0, "zeros": 0.0, "dead": 0.0}


@pytest.mark.parametrize("options", [{}, {"true_loss": lambda model, batch: model.loss(batch).square()}], ids=["plain", "true loss"])
def test_the_training_is_the_same_with_and_without(tmp_path, options):
    plain, _ = fit(tmp_path / "plain")
    state = torch.get_rng_state()
    watched, _ = fit(tmp_path / "watched", [LensCallback(every=1, **options)])
    assert same_weights(watched, plain)
    assert torch.equal(state, torch.get_rng_state())
    assert not any(m._forward_hooks for m in watched.modules())
    losses = [{step: tags["loss"] for step, tags in rows(tmp_path / name).items() if "loss" in tags} for name in ("plain", "watched")]
    assert losses[0] == losses[1]


def scaled():
    """16-bit precision, whose losses are scaled; on a CPU too."""
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))]}


SETTINGS = {
    "plain": dict,
    "accumulated": lambda: {"accumulate_grad_batches": 2},
    "bf16": lambda: {"precision": "bf16-mixed"},
    "fp16": scaled,
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_loss_against_itself_is_the_truth(tmp_path, name):
    more = SETTINGS[name]()
    fit(tmp_path, [LensCallback(LAYERS, every=1, true_loss=Model.loss)], **more)
    seen = [tags for tags in rows(tmp_path).values() if "cosine/activation/net.0" in tags]
    assert len(seen) == (6 if "accumulate_grad_batches" in more else 12)
    for tags in seen:
        for layer in LAYERS:
            assert tags[f"cosine/activation/{layer}"] == pytest.approx(1, abs=1e-3 if name == "fp16" else 1e-6)  # rounded after scaling
            assert tags[f"norm_ratio/activation/{layer}"] == pytest.approx(1, abs=1e-3 if name == "fp16" else 1e-6)


def test_a_true_loss_of_another_size_and_sign(tmp_path):
    fit(tmp_path, [LensCallback(LAYERS, every=3, true_loss=lambda model, batch: -4 * model.loss(batch))])
    tags = rows(tmp_path)[3]
    for layer in LAYERS:
        assert tags[f"cosine/activation/{layer}"] == pytest.approx(-1, abs=1e-6)
        assert tags[f"norm_ratio/activation/{layer}"] == pytest.approx(1 / 4, rel=1e-6)


def test_any_logger_takes_them(tmp_path):
    loggers = [CSVLogger(tmp_path / "csv"), TensorBoardLogger(tmp_path / "tb")]
    fit(tmp_path, [LensCallback(["net.5"], every=6)], logger=loggers)
    accumulators = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    (file,) = tmp_path.rglob("events.out.*")
    log = accumulators.EventAccumulator(str(file.parent))
    log.Reload()
    csv_rows = rows(tmp_path / "csv")
    for tag in ("rms/output/net.5", "norm/activation/net.5"):
        assert [(e.step, e.value) for e in log.Scalars(tag)] == [(s, pytest.approx(csv_rows[s][tag], rel=1e-6)) for s in (0, 6)]


# ------------------------------------------------------------------------------------------------------------ failures


class Broken(CSVLogger):
    def log_metrics(self, metrics, step=None):
        if any("output" in tag for tag in metrics):
            raise OSError(28, "No space left on device")
        super().log_metrics(metrics, step)


def fails(tmp_path, capsys, callback, **more):
    """The training ends as if nobody had looked; one line on stderr."""
    capsys.readouterr()
    model, _ = fit(tmp_path / "watched", [callback], **more)
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("gradlens")]
    assert len(err) == 1
    assert "LensCallback failed and is disabled" in err[0]
    assert not any(m._forward_hooks for m in model.modules())
    plain, _ = fit(tmp_path / "plain")
    assert same_weights(model, plain)
    return err[0]


def test_a_failing_logger_stops_nothing(tmp_path, capsys):
    assert "No space left" in fails(tmp_path, capsys, LensCallback(every=2), logger=Broken(tmp_path / "log"))


def test_a_failing_true_loss_stops_nothing(tmp_path, capsys):
    assert "ZeroDivisionError" in fails(tmp_path, capsys, LensCallback(every=2, true_loss=lambda model, batch: 1 / 0))


def lines(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("gradlens")]


def test_a_layer_that_cannot_be_read_is_named_once_and_the_others_are_logged(tmp_path, capsys, monkeypatch):
    plain, _ = fit(tmp_path / "plain")
    for method in ("_keep_output", "_keep_gradient"):
        keep = getattr(Lens, method)

        def broken(self, label, tensor, keep=keep):
            if label == "net.2":
                raise TypeError(f"{label} is odd")
            keep(self, label, tensor)

        with monkeypatch.context() as patch:
            patch.setattr(Lens, method, broken)
            capsys.readouterr()
            model, _ = fit(tmp_path / method, [LensCallback(LAYERS, every=1)])
        assert lines(capsys) == ["gradlens: LensCallback: net.2 could not be read: TypeError: net.2 is odd"]
        assert same_weights(model, plain)
        assert all("norm/activation/net.0" in tags for step, tags in rows(tmp_path / method).items() if "loss" not in tags)


class Jagged(nn.Module):
    """Gives rows of different lengths, as a nested tensor of torch's layouts."""

    def __init__(self, layout):
        super().__init__()
        self.layout = layout

    def forward(self, h):
        return torch.nested.as_nested_tensor([h[0], h[1, :2]], layout=self.layout)


class WithJagged(Model):
    def __init__(self, layout):
        super().__init__()
        self.jagged = Jagged(layout)

    def loss(self, batch):
        h = self.net(batch[0])
        return nn.functional.cross_entropy(h, batch[1]) + sum(part.square().sum() for part in self.jagged(h).unbind())


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged], ids=["strided", "jagged"])
def test_a_layer_without_numbers_is_named_once_and_the_others_are_logged(tmp_path, capsys, layout):
    plain, _ = fit(tmp_path / "plain", model=WithJagged(layout))
    capsys.readouterr()
    model, _ = fit(tmp_path / "watched", [LensCallback(every=1, true_loss=Model.loss)], WithJagged(layout))
    (line,) = lines(capsys)
    assert line.startswith("gradlens: LensCallback: jagged is not logged: ")
    assert same_weights(model, plain)
    for tags in looked(tmp_path / "watched"):
        assert {"rms/output/net.5", "norm/activation/net.5", "cosine/activation/net.5"} <= set(tags)


def test_calls_of_different_widths_are_not_put_together():
    g = {"f": torch.ones(2, 3), "f#1": torch.ones(2, 4)}
    assert [(label, used) for label, used, _ in pairs(g, {"f": torch.ones(4, 3)})] == [("f", None)]


def test_a_true_loss_without_graph_is_told_and_the_rest_goes_on(tmp_path, capsys):
    fit(tmp_path, [LensCallback(LAYERS, every=1, true_loss=lambda model, batch: model.loss(batch).detach())])
    (line,) = lines(capsys)
    assert "not compared with true_loss: the loss has no graph" in line
    assert len(looked(tmp_path)) == 12


@needs_torch_2_8
def test_a_compiled_true_loss_is_told_and_the_rest_goes_on(tmp_path, capsys):
    torch._dynamo.reset()
    model = Model()
    model.net = nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.Tanh(), nn.Linear(4, 4))
    fast = torch.compile(model.net, backend="aot_eager")
    fast(torch.randn(8, 1, 6, 6)).sum().backward()  # it is compiled before anybody looks
    true = lambda model, batch: nn.functional.cross_entropy(fast(batch[0]), batch[1])  # noqa: E731
    fit(tmp_path, [LensCallback(["net.1"], every=1, true_loss=true)], model)
    (line,) = lines(capsys)
    assert "not compared with true_loss: the loss was computed by a compiled model" in line
    assert len([tags for tags in rows(tmp_path).values() if "norm/activation/net.1" in tags]) == 12
    torch._dynamo.reset()


# ------------------------------------------------------------------------- manual optimisation, micro-batches, other trainings


class Manual(Model):
    """Manual optimisation in so many micro-batches; ``plain``: without Lightning's backward, ``bare``: without its optimiser."""

    def __init__(self, micro=1, plain=False, bare=False):
        super().__init__()
        self.automatic_optimization = False
        self.net[1], self.net[3] = nn.Identity(), nn.Identity()  # nothing that depends on the micro-batch
        self.micro, self.plain, self.bare = micro, plain, bare

    def training_step(self, batch, i):
        optimizer = self.optimizers(use_pl_optimizer=not self.bare)
        optimizer.zero_grad()
        for part in zip(*(half.chunk(self.micro) for half in batch), strict=True):
            loss = self.loss(part) / self.micro
            loss.backward() if self.plain else self.manual_backward(loss)
        optimizer.step()


def looked(folder):
    return [tags for _, tags in sorted(rows(folder).items()) if "rms/output/net.0" in tags]


@pytest.mark.parametrize("precision", [{}, {"precision": "bf16-mixed"}], ids=["32", "bf16"])
@pytest.mark.parametrize("kind", [{}, {"plain": True}], ids=["manual_backward", "backward"])
def test_manual_optimisation_logs_what_the_automatic_one_does(tmp_path, capsys, kind, precision):
    automatic = Model()
    automatic.net = Manual().net
    fit(tmp_path / "automatic", [LensCallback(LAYERS, every=1, true_loss=Model.loss)], automatic, **precision)
    fit(tmp_path / "manual", [LensCallback(LAYERS, every=1, true_loss=Model.loss)], Manual(**kind), **precision)
    assert looked(tmp_path / "manual") == [{k: v for k, v in tags.items() if k != "loss"} for tags in looked(tmp_path / "automatic")]
    assert looked(tmp_path / "manual")[0]["cosine/activation/net.0"] == pytest.approx(1, abs=1e-6)
    assert not lines(capsys)


@pytest.mark.parametrize("plain", [False, True])
def test_a_scaled_loss_is_told_in_its_own_units_only_where_it_was_scaled(tmp_path, plain):
    norms = []
    for name, more in (("32", {}), ("16", scaled())):
        fit(tmp_path / name, [LensCallback(LAYERS, every=20)], Manual(plain=plain, bare=plain), **more)
        norms.append(looked(tmp_path / name)[0]["norm/activation/net.0"])
    assert norms[1] == pytest.approx(norms[0], rel=2e-2)


@pytest.mark.parametrize("kind", [{}, {"plain": True}], ids=["manual_backward", "backward"])
def test_micro_batches_together_are_the_batch(tmp_path, capsys, kind):
    fit(tmp_path, [LensCallback(LAYERS, every=4, true_loss=Model.loss)], Manual(micro=4, **kind))
    for tags in looked(tmp_path):
        for layer in LAYERS:
            assert tags[f"cosine/activation/{layer}"] == pytest.approx(1, abs=1e-6)
            assert tags[f"norm_ratio/activation/{layer}"] == pytest.approx(1, rel=1e-5)
            assert {f"norm/activation/{layer}{call}" for call in ("", "#1", "#2", "#3")} <= set(tags)
    assert not lines(capsys)


def test_a_true_loss_in_micro_batches_is_compared_call_by_call_and_one_that_does_not_fit_is_named(tmp_path, capsys):
    halves = lambda model, batch: sum(model.loss(part) / 2 for part in zip(*(half.chunk(2) for half in batch), strict=True))  # noqa: E731
    fit(tmp_path / "same", [LensCallback(LAYERS, every=20, true_loss=halves)], Manual(micro=2))
    (tags,) = looked(tmp_path / "same")
    assert {tags[f"norm_ratio/activation/{layer}{call}"] for layer in LAYERS for call in ("", "#1")} == {1.0}
    fewer = lambda model, batch: model.loss((batch[0][:3], batch[1][:3]))  # noqa: E731
    fit(tmp_path / "other", [LensCallback(["net.0"], every=1, true_loss=fewer)], Manual(micro=2))
    assert lines(capsys) == [
        "gradlens: LensCallback: net.0 is not compared: true_loss gives an output of another shape, [3, 3, 4, 4]",
    ]
    assert "norm/activation/net.0" in looked(tmp_path / "other")[-1]


def test_weights_that_changed_before_the_callback_could_look_are_reported(tmp_path, capsys):
    fit(tmp_path, [LensCallback(LAYERS, every=1, true_loss=Model.loss)], Manual(plain=True, bare=True))
    (line,) = lines(capsys)
    assert "the weights were changed before the gradients could be compared with true_loss" in line
    assert all("norm/activation/net.0" in tags and "cosine/activation/net.0" not in tags for tags in looked(tmp_path))


class Adversarial(pl.LightningModule):
    """Two optimisers and two backwards a batch."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        torch.manual_seed(1)
        self.g, self.d = nn.Linear(3, 4), nn.Linear(4, 1)

    def training_step(self, batch, i):
        a, b = self.optimizers()
        x = batch[0].flatten(1)[:, :3]
        b.zero_grad()
        self.manual_backward(self.d(self.g(x).detach()).sum())
        b.step()
        a.zero_grad()
        self.manual_backward(-2 * self.d(self.g(x)).sum())
        a.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), lr=0.0) for part in (self.g, self.d)]


def test_every_backward_of_a_batch_is_read_also_with_a_true_loss(tmp_path, capsys):
    true = lambda model, batch: 3 * model.d(model.g(batch[0].flatten(1)[:, :3])).sum()  # noqa: E731
    for name, callback in (("plain", LensCallback(every=50)), ("true", LensCallback(every=50, true_loss=true))):
        fit(tmp_path / name, [callback], Adversarial())
        tags = rows(tmp_path / name)[0]
        assert tags["norm/activation/d"] == pytest.approx(8**0.5)
        assert tags["norm/activation/d#1"] == pytest.approx(2 * 8**0.5)
        assert tags["norm/activation/g#1"] == pytest.approx(2 * 8**0.5 * Adversarial().d.weight.norm().item(), rel=1e-6)
    assert tags["norm_ratio/activation/d"] == pytest.approx(1 / 3)
    assert not lines(capsys)


class Checkpointed(Model):
    """The network, or its middle, computed again in the backward pass."""

    def __init__(self, mode, whole=False):
        super().__init__()
        self.mode, self.whole = mode, whole

    def loss(self, batch):
        x, y = batch
        if self.mode is None:
            return nn.functional.cross_entropy(self.net(x), y)
        run = functools.partial(torch.utils.checkpoint.checkpoint, use_reentrant=self.mode)
        if self.whole:
            return nn.functional.cross_entropy(run(self.net, x.requires_grad_()), y)
        return nn.functional.cross_entropy(self.net[4:](run(self.net[1:4], self.net[0](x))), y)


@pytest.mark.parametrize("mode", [False, True], ids=["non-reentrant", "reentrant"])
@pytest.mark.parametrize("whole", [False, True], ids=["middle", "whole"])
def test_checkpointed_layers_are_logged_as_without(tmp_path, capsys, mode, whole):
    for name, model in (("plain", Checkpointed(None)), ("checkpointed", Checkpointed(mode, whole))):
        fit(tmp_path / name, [LensCallback(every=20)], model)
    plain, got = ({k: v for k, v in rows(tmp_path / name)[0].items() if k != "loss"} for name in ("plain", "checkpointed"))
    assert got == pytest.approx(plain, rel=1e-6)
    assert {f"norm/activation/net.{i}" for i in range(6)} <= set(got)
    assert not lines(capsys)


@pytest.mark.parametrize("whole", [False, True], ids=["middle", "whole"])
def test_a_true_loss_through_reentrant_checkpointing_is_told_and_the_rest_goes_on(tmp_path, capsys, whole):
    fit(tmp_path, [LensCallback(every=1, true_loss=Checkpointed.loss)], Checkpointed(True, whole))
    (line,) = lines(capsys)
    assert "not compared with true_loss: the loss was computed with reentrant gradient checkpointing" in line
    assert len(looked(tmp_path)) == 12
    assert all("norm/activation/net.2" in tags for tags in looked(tmp_path))


def test_layers_that_were_never_called_are_told_once(tmp_path, capsys):
    model = Model()
    model.spare, model.loss_of = nn.Linear(2, 2), nn.ModuleDict({"spare": nn.ReLU()})
    fit(tmp_path, [LensCallback(every=1)], model)
    (line,) = lines(capsys)
    assert line.startswith("gradlens: LensCallback: never called: spare, loss_of.spare (")


class Alternating(Model):
    """Calls one of two heads, in turns, and detaches what it returns."""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def training_step(self, batch, i):
        return nn.functional.cross_entropy(self.net(batch[0]) + 0 * self.heads[i % 2](torch.randn(8, 4)).detach(), batch[1])


def test_layers_that_no_backward_pass_reached_are_named_once(tmp_path, capsys):
    fit(tmp_path, [LensCallback(["net.0", "heads.0", "heads.1"], every=1)], Alternating())
    never, missed = lines(capsys)
    assert never.startswith("gradlens: LensCallback: never called: heads.1 (")
    assert missed.startswith("gradlens: LensCallback: called, but no backward pass reached the output of heads.0 (")


def test_two_callbacks_do_not_meet(tmp_path, capsys):
    model, _ = fit(tmp_path / "two", [LensCallback(["net.0"], every=1), LensCallback(["net.0", "net.2"], every=2, true_loss=Model.loss)])
    plain, _ = fit(tmp_path / "plain")
    assert same_weights(model, plain)
    assert not nn.modules.module._global_forward_hooks
    assert not lines(capsys)


def test_a_compiled_model_is_trained_as_it_is_and_reported(tmp_path, capsys):
    torch._dynamo.reset()
    model = Model()
    model.net.eval()
    fast = torch.compile(model.net, backend="eager")
    fast(torch.randn(8, 1, 6, 6)), model.net.train()
    model.net.requires_grad_()
    model.loss = lambda batch: nn.functional.cross_entropy(fast(batch[0]), batch[1])
    fit(tmp_path, [LensCallback(LAYERS, every=3)], model)
    plain, _ = fit(tmp_path / "plain")
    assert same_weights(model, plain)
    assert len(lines(capsys)) <= 1  # the first batch looked at runs before it is compiled
    torch._dynamo.reset()


def test_a_crash_of_the_training_takes_the_hooks_away(tmp_path):
    model = Model(crash=3)
    with pytest.raises(RuntimeError, match="of the user's"):
        fit(tmp_path, [LensCallback(every=1)], model)
    assert not any(m._forward_hooks for m in model.modules())


def test_wrong_input_is_found_before_anything_is_trained(tmp_path):
    with pytest.raises(InputError, match="every: must be 1 or more"):
        LensCallback(every=0)
    model = Model()
    with pytest.raises(InputError, match=r"unknown layer 'net\.9'.*net\.0"):
        fit(tmp_path, [LensCallback(["net.9"])], model)
    assert same_weights(model, Model())


def test_the_package_may_be_called_pytorch_lightning(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    monkeypatch.setitem(sys.modules, "pytorch_lightning", None)
    name = "gradlens.gradients.lightning"
    before = sys.modules.pop(name)
    try:
        with pytest.raises(ImportError, match=r"needs Lightning: `pip install "):
            importlib.import_module(name)
        stand_in = types.ModuleType("pytorch_lightning")
        stand_in.Callback, stand_in.LightningModule, stand_in.Trainer = pl.Callback, pl.LightningModule, pl.Trainer
        monkeypatch.setitem(sys.modules, "pytorch_lightning", stand_in)
        again = importlib.import_module(name)
        fit(tmp_path, [again.LensCallback(["net.0"])])
        assert "rms/output/net.0" in rows(tmp_path)[0]
    finally:
        sys.modules[name] = before
