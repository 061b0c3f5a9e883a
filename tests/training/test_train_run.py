"""What the commands do: runs reused, resumed and trained; learning rates chosen; quantities measured later."""

import copy
import json
import signal
from dataclasses import replace

import pytest
import torch
from oracles import needed

from gradlens.data import datasets
from gradlens.data.split import Split
from gradlens.gradients.alignment import QUANTITIES, RECORDED
from gradlens.gradients.diagnostics import SPARSE
from gradlens.gradients.method import Method, Signal, top_signal
from gradlens.methods import METHODS
from gradlens.runtime.errors import InputError, Stopped
from gradlens.runtime.progress import no_progress
from gradlens.training import build, context, loop, other_runs
from gradlens.training.config import make_config
from gradlens.training.context import RunContext, load_data, pick_device, pick_precision
from gradlens.training.run_directory import load_run
from gradlens.training.runs import build_state
from gradlens.training.runs import train_run as train_runs
from gradlens.training.runs.check import check
from gradlens.training.runs.lr_search import choose_lr
from gradlens.training.runs.remeasure import measure_run
from gradlens.training.runs.train_run import find_run, prepare, train_or_reuse, train_run

TINY = {"width": 4, "limit": 96, "batch_size": 32, "epochs": 2, "record_every": 2, "lr": 3e-3}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def other_data():
    """Forget the data sets that are kept in memory, before and after."""
    context.clear_data_cache()
    yield
    context.clear_data_cache()


def tiny(method="bp", **changes):
    return make_config(**{**TINY, **needed(method), "method": method, **changes})


def quiet(config):
    return no_progress


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def trained(call):
    """What a call trains: the configs it asked a display for."""
    seen = []

    def watch_for(config):
        seen.append(config)
        return no_progress

    return call(watch_for), seen


def refused(call, *args, **kwargs):
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def interrupted(config, context, step=2):
    """An unfinished run."""

    def watch(event, numbers):
        if event == "step" and numbers["step"] == step:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Stopped):
        train_run(config, context, watch)


# ----------------------------------------------------------------------------------------------------- train and reuse


def test_finished_runs_are_reused_unfinished_ones_gone_on_with_missing_ones_trained(tmp_path):
    context = RunContext(out=tmp_path / "runs")
    configs = [tiny("bp"), tiny("dgl"), tiny("dni")]
    train_run(configs[0], context)
    before = contents(context.out)
    interrupted(configs[1], context)
    steps = []

    def watch_for(config):
        return lambda event, numbers: steps.append((config.method, numbers["step"])) if event == "step" else None

    runs = train_or_reuse(configs, context, watch_for)
    assert [run.config for run in runs] == configs
    assert all(run.finished for run in runs)
    assert steps == [("dgl", s) for s in (4, 5, 6)] + [("dni", s) for s in range(1, 7)]
    assert {name: v for name, v in contents(context.out).items() if name in before} == before
    alone = train_run(configs[1], RunContext(out=tmp_path / "alone"))
    for name in ("metrics.csv", "gradients.csv"):
        assert (runs[1].path / name).read_bytes() == (alone.path / name).read_bytes()

    again, seen = trained(lambda watch: train_or_reuse(configs, context, watch))
    assert seen == []
    assert [r.path for r in again] == [r.path for r in runs]


def test_a_config_requested_twice_is_trained_once(tmp_path):
    runs, seen = trained(lambda watch: train_or_reuse([tiny(), tiny()], RunContext(out=tmp_path), watch))
    assert len(seen) == 1
    assert runs[0].path == runs[1].path


def test_a_run_under_another_name_is_found_and_foreign_folders_are_passed_over(tmp_path):
    for name, content in (("aaa", "{"), ("bbb", '{"architectures": []}'), ("ccc", "[]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(content)
    assert find_run(tiny(), tmp_path) is None
    assert find_run(tiny(), tmp_path / "none") is None
    mine = train_run(tiny(), RunContext(out=tmp_path, name="mine"))
    assert find_run(tiny(), tmp_path).path == mine.path
    assert find_run(tiny(lr=1e-4), tmp_path) is None
    _, seen = trained(lambda watch: train_or_reuse([tiny()], RunContext(out=tmp_path), watch))
    assert seen == []


def test_tables_of_other_runs_are_not_read_when_a_run_is_looked_for(tmp_path, monkeypatch):
    other, mine = (train_run(tiny(epochs=0), RunContext(out=tmp_path, name=name)).path for name in ("aaa", "zzz"))
    settings = json.loads((other / "config.json").read_text())
    settings["config"]["lr"] = 1e-4
    (other / "config.json").write_text(json.dumps(settings))
    read = []
    monkeypatch.setattr(train_runs, "load_run", lambda path: read.append(path) or load_run(path))
    assert find_run(tiny(epochs=0), tmp_path).path == mine
    assert find_run(tiny(epochs=0, lr=1e-2), tmp_path) is None
    assert read == [mine]


def test_a_finished_run_is_preferred_to_an_unfinished_one_of_the_same_config(tmp_path):
    interrupted(tiny(), RunContext(out=tmp_path))
    train_run(tiny(), RunContext(out=tmp_path, name="zzz"))
    assert find_run(tiny(), tmp_path).path == tmp_path / "zzz"


def test_an_unfinished_run_under_another_name_is_gone_on_with_there(tmp_path):
    interrupted(tiny(), RunContext(out=tmp_path, name="mine"))
    (run,) = train_or_reuse([tiny()], RunContext(out=tmp_path), quiet)
    assert run.path == tmp_path / "mine"
    assert run.finished


def test_resume_of_a_comparison_also_trains_what_was_not_begun(tmp_path):
    """Ctrl-C in the first of several runs says that --resume goes on: it does, with all of them."""
    interrupted(tiny("bp"), RunContext(out=tmp_path))
    runs = train_or_reuse([tiny("bp"), tiny("dgl")], RunContext(out=tmp_path, resume=True), quiet)
    assert [run.finished for run in runs] == [True, True]


@pytest.mark.parametrize("step", [0, 1])
def test_a_run_that_never_made_an_update_leaves_no_directory_and_one_that_did_is_kept(step, tmp_path, monkeypatch):
    made = loop.make_update

    def breaks(state, number, *rest):
        if number == step:
            raise RuntimeError("of another kind")
        return made(state, number, *rest)

    monkeypatch.setattr(loop, "make_update", breaks)
    with pytest.raises(RuntimeError, match="of another kind"):
        train_run(tiny(), RunContext(out=tmp_path))
    assert len(list(tmp_path.iterdir())) == step


def test_finished_runs_elsewhere_are_read_and_unfinished_ones_are_left_there(tmp_path):
    train_run(tiny("bp"), RunContext(out=tmp_path / "there"))
    interrupted(tiny("dgl"), RunContext(out=tmp_path / "there"))
    before, read, steps = contents(tmp_path / "there"), [], []
    context, checked = RunContext(out=tmp_path / "here"), lambda: steps.append("checked")
    found = train_or_reuse([tiny("bp"), tiny("dgl")], context, quiet, elsewhere=[tmp_path / "there"], checked=checked, reused=read.append)
    assert [run.path.parent.name for run in found] == ["there", "here"]
    assert ([run.config.method for run in read], steps) == (["bp"], ["checked"])
    assert contents(tmp_path / "there") == before


def test_a_run_that_fails_ends_the_others_unless_it_is_to_be_reported(tmp_path):
    configs, context = [tiny(lr=1e33), tiny("dgl")], RunContext(out=tmp_path)
    with pytest.raises(Stopped, match="the loss became"):
        train_or_reuse(configs, context, quiet)
    said = []
    found = train_or_reuse(configs, context, quiet, failed=said.append)
    assert [(run.config.method, run.finished) for run in found] == [("bp", False), ("dgl", True)]
    assert "the loss became" in str(*said)


def test_overwrite_trains_all_again(tmp_path):
    context = RunContext(out=tmp_path)
    train_or_reuse([tiny()], context, quiet)
    _, seen = trained(lambda watch: train_or_reuse([tiny()], replace(context, overwrite=True), watch))
    assert seen == [tiny()]


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "vgg11"}, {"batch_size": 97}, {"limit": 2000}, {"data": "no/such/folder"}, {"init_from": "no/such/run"},
        {"model": "mlp", "method": "dgl", "options": {"head": "cnn"}},
    ],
)  # fmt: skip
def test_nothing_is_written_when_any_config_cannot_be_trained(changes, tmp_path):
    bad = tiny(**changes)
    out = tmp_path / "runs"
    refused(train_or_reuse, [tiny("bp"), bad], RunContext(out=out), quiet)
    refused(train_run, bad, RunContext(out=out))
    refused(prepare, bad, RunContext(out=out))
    assert not out.exists()


def test_a_batch_as_large_as_the_data_is_fine_and_one_more_is_refused(tmp_path):
    assert prepare(tiny(batch_size=96), RunContext()).batches.per_epoch == 1
    assert "--batch-size 97" in refused(prepare, tiny(batch_size=97), RunContext())


def test_a_single_run_is_built_once_and_trials_of_learning_rates_are_checked_once(tmp_path, monkeypatch):
    built = []
    original = build.build_model_and_method

    def counted(config, shape, classes, device):
        built.append((config.optimizer.lr, device.type))
        return original(config, shape, classes, device)

    for module in (build, build_state):
        monkeypatch.setattr(module, "build_model_and_method", counted)
    config = tiny(epochs=0)
    train_or_reuse([config], RunContext(out=tmp_path / "one"), quiet)
    assert built == [(config.optimizer.lr, "cpu")]
    built.clear()
    train_or_reuse([tiny(epochs=0, seed=seed) for seed in (1, 2)], RunContext(out=tmp_path / "two"), quiet)
    assert (
        built == [(config.optimizer.lr, "meta")] * 2 + [(config.optimizer.lr, "cpu")] * 2
    )  # all are checked, as shapes, before the first is built
    built.clear()
    choose_lr(config, [1e-3, 1e-2], 0.2, RunContext(out=tmp_path / "three"), quiet)
    assert built == [(1e-3, "meta"), (1e-3, "cpu"), (1e-2, "cpu")]


def test_another_run_is_read_once_for_all_checks_and_runs_that_start_from_it_and_anew_when_it_changes(tmp_path, monkeypatch):
    read = []
    for name in ("load_run", "load_checkpoint"):
        original = getattr(other_runs, name)
        monkeypatch.setattr(other_runs, name, lambda path, name=name, original=original: (read.append(name), original(path))[1])
    start = train_run(tiny("bp", epochs=0), RunContext(out=tmp_path))
    configs = [tiny("bp", epochs=0, seed=seed, init_from=str(start.path)) for seed in (1, 2)]
    first, second = train_or_reuse(configs, RunContext(out=tmp_path / "both"), quiet)
    assert sorted(read) == ["load_checkpoint", "load_run"]
    weights = start.checkpoint()["model"]
    for run in (first, second):
        assert all(torch.equal(w, weights[name]) for name, w in run.checkpoint()["model"].items())
    train_run(tiny("bp", epochs=1, seed=3, init_from=str(start.path)), RunContext(out=tmp_path / "both"))  # which trains copies of them
    other = train_run(tiny("bp", epochs=0, seed=7), RunContext(out=tmp_path, name=start.path.name, overwrite=True))
    read.clear()
    again = train_run(configs[0], RunContext(out=tmp_path / "again"))
    assert sorted(read) == ["load_checkpoint", "load_run"]
    assert all(torch.equal(w, again.checkpoint()["model"][name]) for name, w in other.checkpoint()["model"].items())
    assert not all(torch.equal(w, weights[name]) for name, w in again.checkpoint()["model"].items())


@pytest.mark.parametrize("model", ["mlp", "basic-cnn"])
def test_what_is_checked_has_the_shapes_of_what_is_trained(model):
    for name in METHODS:
        config = tiny(name, model=model, limit=None)
        checked, built = (
            {key: t.shape for module in network for key, t in module.state_dict().items() if isinstance(t, torch.Tensor)}
            for network in (
                build.check_model_and_method(config, (1, 8, 8), 10),
                build.build_model_and_method(config, (1, 8, 8), 10, context.CPU),
            )
        )
        assert checked == built


def test_a_network_of_torchvision_is_checked_as_shapes():
    config = tiny(model="torchvision:resnet18", width=None)
    check(config, RunContext())
    assert all(p.is_meta for p in build.check_model_and_method(config, (1, 8, 8), 10).model.parameters())
    with pytest.raises(InputError, match="does not take images of 8x8"):
        check(config.replace(model="torchvision:squeezenet1_1"), RunContext())


def test_a_check_leaves_torchs_random_stream_alone():
    torch.manual_seed(3)
    want = torch.rand(1)
    torch.manual_seed(3)
    check(tiny("dni"), RunContext())
    assert torch.equal(torch.rand(1), want)


def test_data_are_loaded_once_for_all_methods(monkeypatch, other_data):
    calls = []
    real = datasets.DATASETS["digits"]
    monkeypatch.setitem(datasets.DATASETS, "digits", real._replace(load=lambda *args: calls.append(args) or real.load(*args)))
    context = RunContext()
    assert load_data(tiny("bp"), context) is load_data(tiny("dgl", lr=1.0), context)
    assert len(calls) == 1
    assert load_data(tiny("bp", seed=1), context) is not load_data(tiny("bp"), context)


# ------------------------------------------------------------------------------------------------------- learning rates


@pytest.mark.slow
def test_the_learning_rate_with_the_highest_validation_accuracy_is_chosen(tmp_path):
    context = RunContext(out=tmp_path)
    config = tiny(epochs=6, width=8, limit=300)
    grid = [1e-9, 3e-3, 1e-8]
    best, seen = trained(lambda watch: choose_lr(config, grid, 0.2, context, watch))
    assert best == 3e-3
    assert [c.optimizer.lr for c in seen] == grid
    assert {(c.data.validation, c.record.every) for c in seen} == {(0.2, 0)}
    scores = {c.optimizer.lr: find_run(c, tmp_path).summary["validation"]["final_accuracy"] for c in seen}
    assert scores[best] == max(scores.values())
    again, seen = trained(lambda watch: choose_lr(config, grid, 0.2, context, watch))
    assert (again, seen) == (best, [])


def test_the_choice_never_looks_at_the_test_images(tmp_path, monkeypatch, other_data):
    real = datasets.DATASETS["digits"]

    def spoilt(*args):
        train, test, classes = real.load(*args)
        return train, Split(255 - test.images, (test.labels + 1) % 10), classes

    config, grid = tiny(), [1e-3, 1e-2]
    first = choose_lr(config, grid, 0.25, RunContext(out=tmp_path / "a"), quiet)
    monkeypatch.setitem(datasets.DATASETS, "digits", real._replace(load=spoilt))
    context.clear_data_cache()
    assert choose_lr(config, grid, 0.25, RunContext(out=tmp_path / "b"), quiet) == first
    runs = [sorted((tmp_path / x).glob("*/metrics.csv")) for x in "ab"]
    assert len(runs[0]) == 2
    assert [p.read_bytes() for p in runs[0]] == [p.read_bytes() for p in runs[1]]
    assert {m.split for p in runs[0] for m in load_run(p.parent).metrics} == {"train", "validation"}


def test_a_trial_measures_and_keeps_nothing(tmp_path):
    config = tiny(epochs=1, keep_checkpoints=2, evaluate_train=True, online_probe=True)
    _, (trial,) = trained(lambda watch: choose_lr(config, [1e-3], 0.25, RunContext(out=tmp_path), watch))
    assert trial.record == trial.record.model_copy(
        update={"every": 0, "keep_checkpoints": 0, "evaluate_train": False, "online_probe": False}
    )


def test_of_equally_good_rates_the_smallest_is_chosen(tmp_path):
    assert choose_lr(tiny(epochs=0), [1e-2, 1e-4, 1e-3], 0.25, RunContext(out=tmp_path), quiet) == 1e-4


def test_a_rate_that_the_loss_does_not_survive_loses(tmp_path):
    config = tiny(lr=1.0)
    assert choose_lr(config, [1e33, 1e-3], 0.25, RunContext(out=tmp_path), quiet) == 1e-3
    assert choose_lr(config, [1e-3, 1e33], 0.25, RunContext(out=tmp_path), quiet) == 1e-3  # and again, with what is there


def test_ctrl_c_during_the_choice_stops_it(tmp_path):
    def watch_for(config):
        return lambda event, numbers: signal.raise_signal(signal.SIGINT) if numbers.get("step") == 1 else None

    with pytest.raises(Stopped) as caught:
        choose_lr(tiny(), [1e-3, 1e-2], 0.25, RunContext(out=tmp_path), watch_for)
    assert caught.value.status == 130


@pytest.mark.parametrize("bad", [-1e-3, float("nan"), float("inf")])
def test_a_grid_with_a_rate_that_is_none_trains_nothing(bad, tmp_path):
    assert "--lr" in refused(choose_lr, tiny(), [1e-3, bad], 0.25, RunContext(out=tmp_path / "runs"), quiet)
    assert not (tmp_path / "runs").exists()


# -------------------------------------------------------------------------------------------------------- measure later


def rows(run_rows):
    """Rows as text, NaNs included."""
    return sorted(map(repr, run_rows))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.slow
def test_measuring_snapshots_gives_the_rows_recorded_in_training(method, tmp_path):
    run = train_run(tiny(method, keep_checkpoints=3, augment=True, epochs=3), RunContext(out=tmp_path))
    before = contents(run.path)
    at = [int(p.stem.split("-")[1]) for p in run.snapshots()]
    assert at == [3, 6, 9]
    measured = measure_run(run, RECORDED, RunContext())
    assert sorted({r.step for r in measured}) == at
    sparse = {"descent", "feedback_transpose", "feedback_pseudoinverse", "feedback_jacobian"}
    recorded = [r for r in run.gradients if r.step == 6 and r.kind not in sparse and r.quantity not in SPARSE]
    assert recorded
    assert rows(r for r in measured if r.step == 6) == rows(recorded)
    after = contents(run.path)
    assert rows(load_run(run.path).measured) == rows(measured)
    assert after.pop("measured.csv")
    assert after == before


def test_measuring_sees_the_draws_of_the_training_step(tmp_path, monkeypatch):
    class Noisy(Method):
        """delta_k = (1 + noise) · what came from above, with fresh noise."""

        depends_on = frozenset({"backward_message"})

        def signal(self, k, passes, received):
            if k == self.num_blocks - 1:
                return top_signal(self.loss, passes[k])
            delta = received[0] * (1 + torch.randn_like(received[0]))
            return Signal(delta, (delta,))

    monkeypatch.setitem(METHODS, "noisy", Noisy)
    run = train_run(tiny("noisy", keep_checkpoints=3), RunContext(out=tmp_path))
    torch.manual_seed(5)
    want = torch.rand(1)
    torch.manual_seed(5)
    measured = measure_run(run, RECORDED, RunContext())
    assert torch.equal(torch.rand(1), want)
    assert rows(r for r in measured if r.step == 4) == rows(r for r in run.gradients if r.step == 4)


def test_new_quantities_are_added_and_old_ones_replaced(tmp_path):
    run = train_run(tiny("dgl", keep_checkpoints=2), RunContext(out=tmp_path))
    first = measure_run(run, ("projection",), RunContext())
    assert {r.quantity for r in first if r.kind != "rule"} == {"projection"}
    measure_run(run, ("relative_error",), RunContext())
    both = load_run(run.path).measured
    assert {r.quantity for r in both if r.kind != "rule"} == {"projection", "relative_error"}
    measure_run(run, ("projection", "relative_error"), RunContext())
    assert rows(load_run(run.path).measured) == rows(both)
    steps = [r.step for r in load_run(run.path).measured]
    assert steps == sorted(steps)


def test_without_snapshots_the_checkpoint_is_measured_also_of_an_unfinished_run(tmp_path):
    interrupted(tiny("dni"), RunContext(out=tmp_path))
    path = tmp_path / tiny("dni").run_name()
    state = (path / "checkpoint.pt").read_bytes()
    measured = measure_run(load_run(path), tuple(QUANTITIES), RunContext())
    assert {r.step for r in measured} == {3}
    assert (path / "checkpoint.pt").read_bytes() == state
    run = train_run(tiny("dni"), RunContext(out=tmp_path, resume=True))
    assert run.finished
    assert rows(run.measured) == rows(measured)


def test_what_cannot_be_measured(tmp_path, monkeypatch, other_data):
    run = train_run(tiny(), RunContext(out=tmp_path))
    before = contents(tmp_path)
    text = refused(measure_run, run, ("cosin",), RunContext())
    assert "unknown quantity 'cosin'; nearest: cosine" in text
    real = datasets.DATASETS["digits"]

    def other(*args):
        train, test, classes = real.load(*args)
        images = copy.copy(train.images)
        images += 1
        return Split(images, train.labels), test, classes

    monkeypatch.setitem(datasets.DATASETS, "digits", real._replace(load=other))
    context.clear_data_cache()
    assert "not the ones" in refused(measure_run, run, ("cosine",), RunContext())
    (run.path / "checkpoint.pt").rename(tmp_path / "checkpoint.pt")
    monkeypatch.undo()
    context.clear_data_cache()
    assert "has no checkpoint.pt" in refused(measure_run, run, ("cosine",), RunContext())
    (tmp_path / "checkpoint.pt").rename(run.path / "checkpoint.pt")
    assert contents(tmp_path) == before


# ---------------------------------------------------------------------------------------------------- device, precision


def has(monkeypatch, cuda=0, mps=False):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


def test_auto_is_the_best_device_there_is(monkeypatch):
    for cuda, mps, want in ((0, False, "cpu"), (0, True, "mps"), (2, True, "cuda")):
        has(monkeypatch, cuda, mps)
        assert pick_device("auto") == torch.device(want)


@pytest.mark.parametrize(("name", "cuda", "words"), [("cuda", 0, "no cuda device"), ("cuda:1", 1, "1 cuda device"), ("mps", 0, "no mps")])
def test_a_device_that_is_not_there(name, cuda, words, monkeypatch):
    has(monkeypatch, cuda)
    text = refused(pick_device, name)
    assert f"--device {name}" in text
    assert words in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_is_refused_here():
    assert "--device cuda" in refused(pick_device, "cuda")


def test_devices_that_are_there(monkeypatch):
    has(monkeypatch, 2)
    assert [str(pick_device(name)) for name in ("cpu", "cuda", "cuda:1")] == ["cpu", "cuda", "cuda:1"]


@pytest.mark.parametrize("name", ["gpu", "cuda1", "", "cuda:x", "meta", "xpu", "CPU:"])
def test_what_is_no_device_names_three_and_where_all_are(name):
    text = refused(pick_device, name)
    assert f"unknown device {name!r}; nearest: " in text
    assert sum(text.count(f" {known}") for known in ("auto", "cpu", "cuda", "mps")) == (
        1 if name.strip(":1").lower() in ("cpu", "cuda", "gpu") else 3
    )  # another spelling
    assert text.endswith("(of 5; `gradlens train --help` lists all)")


def test_precision(monkeypatch):
    cpu = torch.device("cpu")
    assert [pick_precision(p, cpu) for p in ("fp32", "bf16")] == ["fp32", "bf16"]
    for fast, want in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(context, "has_fast_bf16", lambda device, fast=fast: fast)
        assert pick_precision("auto", cpu) == want
    monkeypatch.undo()
    assert pick_precision("auto", torch.device("mps")) == "fp32"
    assert isinstance(context.has_fast_bf16(cpu), bool)
