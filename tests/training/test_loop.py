"""The loop: same bits whatever is recorded, interrupted or resumed; what it reports; when it stops."""

import math
import os
import re
import shutil
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import shelf
import torch
import torch.nn.functional as F
from disk import full_disk
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import SUPERVISED
from sampling import one_in
from tiny_runs import assert_same_bits, kill_at, learned, recorded_steps, same_state, signal_at, tiny, wait_for

from gradlens.data.datasets import load as load_data
from gradlens.methods import METHODS
from gradlens.models.zoo import ModelSpec, build
from gradlens.runtime.errors import InputError, Stopped
from gradlens.training import build as setup
from gradlens.training import loop, run_log
from gradlens.training import state as training_state
from gradlens.training import step as training_step
from gradlens.training.batches import batches_per_epoch
from gradlens.training.checkpoint import load_checkpoint
from gradlens.training.config import make_config
from gradlens.training.context import RunContext
from gradlens.training.evaluation import Evaluation, evaluate
from gradlens.training.loop import fit
from gradlens.training.run_directory import load_run
from gradlens.training.runs.build_state import build_state
from gradlens.training.runs.train_run import train_run
from gradlens.training.saving import checkpoint_of, snapshot_steps

CPU = torch.device("cpu")


def training(config):
    data = load_data(
        config.data.name, limit=config.data.limit, label_noise=config.data.label_noise, validation=config.data.validation, seed=config.seed
    )
    return build_state(config, data, CPU)


@pytest.fixture
def whole():
    """The uninterrupted tiny run of each method, from the shelf; not to be changed."""
    return lambda method: shelf.trained(tiny(method))


def test_the_best_accuracy_outlives_an_epoch_without_answers():
    state, best = training(tiny(limit=64, label_noise=0.0)), []
    log = run_log.RunLog(state, None, lambda event, numbers: best.append(numbers["best"]))
    for accuracy in (math.nan, 0.25, math.nan, 0.5, 0.375):
        log._metric("train", 1, Evaluation(1.0, accuracy, accuracy))
    assert math.isnan(best[0])
    assert best[1:] == [0.25, 0.25, 0.5, 0.5]


def test_an_interrupted_run_without_a_directory_does_not_say_that_it_is_saved():
    with pytest.raises(Stopped, match=r"^interrupted after 3 of 8 updates$"):
        fit(training(tiny(limit=64, label_noise=0.0)), watch=signal_at(2, signal.SIGINT))


# ----------------------------------------------------------------------------------------------------------- same bits


def test_another_seed_gives_other_bits(whole, tmp_path):
    other = train_run(tiny("bp", seed=1), RunContext(out=tmp_path))
    assert not same_state(learned(whole("bp"))["model"], learned(other)["model"])


def test_a_row_is_recorded_every_so_many_updates(whole):
    assert sorted({r.step for r in whole("bp").gradients}) == list(range(0, 24, 2))


def test_a_writer_does_not_change_what_is_learned(whole):
    alone = training(tiny("dni"))
    fit(alone)
    state = checkpoint_of(alone)
    assert same_state({k: state[k] for k in ("model", "method", "optimizer", "step")}, learned(whole("dni")))


# ----------------------------------------------------------------------------------------- killed, and resumed in bits


def test_killed_three_times_and_a_line_torn(whole, processes, tmp_path):
    config = tiny("cdni")
    path = tmp_path / config.run_name()
    for i, step in enumerate((7, 11, 16)):
        kill_at(processes, config, tmp_path, lambda s=step: recorded_steps(path / "gradients.csv") >= s, resume=i > 0)
        with (path / "gradients.csv").open("a") as file:
            file.write("17,block1.co")
    assert_same_bits(whole("cdni"), train_run(config, RunContext(out=tmp_path, resume=True)))


def test_killed_before_the_first_checkpoint(whole, processes, tmp_path):
    config = tiny("dgl")
    path = tmp_path / config.run_name()
    kill_at(processes, config, tmp_path, (tmp_path / "hung").exists, where="first save")
    assert not (path / "checkpoint.pt").exists()
    assert len(load_run(path).metrics) == 1
    assert_same_bits(whole("dgl"), train_run(config, RunContext(out=tmp_path, resume=True)))


def test_killed_while_a_checkpoint_was_being_written(whole, processes, tmp_path):
    config = tiny("bp")
    path = tmp_path / config.run_name()
    kill_at(processes, config, tmp_path, (tmp_path / "hung").exists, where="renaming")
    assert (path / ".checkpoint.pt.tmp").exists()
    run = train_run(config, RunContext(out=tmp_path, resume=True))
    assert_same_bits(whole("bp"), run)
    assert not (path / ".checkpoint.pt.tmp").exists()


# --------------------------------------------------------------------------------------------------------- interrupted


# each signal by default at two of the four moments; the other pairs are slow
MOMENTS = [(1, signal.SIGINT), (5, signal.SIGTERM), (8, signal.SIGINT), (22, signal.SIGTERM)]
OTHERS = [(step, signal.SIGTERM if number == signal.SIGINT else signal.SIGINT) for step, number in MOMENTS]


@pytest.mark.parametrize(("step", "number"), [*MOMENTS, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in OTHERS)])
def test_a_signal_saves_and_resuming_ends_in_the_same_bits(number, step, whole, tmp_path):
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as caught:
        train_run(tiny("dgl"), RunContext(out=tmp_path), signal_at(step, number))
    assert caught.value.status == 130
    assert re.search(r"interrupted after \d+ of 24 updates; saved", str(caught.value))
    assert signal.getsignal(number) is before
    path = tmp_path / tiny("dgl").run_name()
    assert step <= load_checkpoint(path / "checkpoint.pt")["step"] <= step + 1
    assert_same_bits(whole("dgl"), train_run(tiny("dgl"), RunContext(out=tmp_path, resume=True)))


def test_a_signal_during_the_first_evaluation_saves_too(whole, tmp_path):
    def watch(event, numbers):
        if event == "evaluate" and numbers["epoch"] == 0:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped, match="interrupted after 1 of 24 updates; saved"):
        train_run(tiny("bp"), RunContext(out=tmp_path), watch)
    assert_same_bits(whole("bp"), train_run(tiny("bp"), RunContext(out=tmp_path, resume=True)))


def test_a_second_ctrl_c_stops_at_once_and_the_run_can_still_go_on(whole, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train_run(tiny("bp"), RunContext(out=tmp_path), signal_at(8, signal.SIGINT, times=2))
    path = tmp_path / tiny("bp").run_name()
    assert load_checkpoint(path / "checkpoint.pt")["step"] == 6  # the last epoch's end
    assert_same_bits(whole("bp"), train_run(tiny("bp"), RunContext(out=tmp_path, resume=True)))


def test_a_signal_during_the_last_evaluation_lets_the_run_finish_and_no_other_begin(whole, tmp_path):
    with pytest.raises(Stopped, match="finished") as stopped:
        train_run(tiny("bp"), RunContext(out=tmp_path), signal_at(24, signal.SIGINT))
    assert stopped.value.status == 130
    (path,) = tmp_path.iterdir()
    assert_same_bits(whole("bp"), load_run(path))


def test_training_in_a_thread_that_gets_no_signals(whole, tmp_path):
    runs = []
    thread = threading.Thread(target=lambda: runs.append(train_run(tiny("bp"), RunContext(out=tmp_path))))
    thread.start()
    thread.join()
    assert_same_bits(whole("bp"), runs[0])


def program(arguments, out):
    """The command line in a process of its own, its messages in a file."""
    torch.set_num_threads(1)
    os.dup2(os.open(out / "stderr", os.O_CREAT | os.O_WRONLY), 2)
    sys.argv = ["gradlens", *arguments]
    from gradlens.cli.main import main

    main()


def test_ctrl_c_on_the_command_line_says_how_to_go_on(processes, tmp_path):
    flags = ["train", "bp", "--width", "4", "--epochs", "100000", "--record-every", "1", "--threads", "1", "--quiet"]
    child = processes.Process(target=program, args=([*flags, "--out", str(tmp_path), "--run-name", "mine"], tmp_path), daemon=True)
    child.start()
    wait_for(lambda: recorded_steps(tmp_path / "mine" / "gradients.csv") >= 3 or not child.is_alive())
    os.kill(child.pid, signal.SIGINT)
    child.join(30)
    said = (tmp_path / "stderr").read_text()
    assert child.exitcode == 130
    assert f"gradlens {' '.join(flags)}" in said
    assert "--resume" in said
    assert "Traceback" not in said
    assert load_checkpoint(tmp_path / "mine" / "checkpoint.pt")["step"] >= 3


# ----------------------------------------------------------------------------------------------------------- full disk


def test_a_disk_full_of_rows_leaves_a_run_that_reads_and_goes_on(whole, tmp_path):
    size, checkpoint = ((whole("bp").path / name).stat().st_size for name in ("gradients.csv", "checkpoint.pt"))
    config, free = tiny("bp"), size * 2 // 3
    assert checkpoint < free  # so that it is the table that does not fit
    with full_disk(free), pytest.raises(InputError) as caught:
        train_run(config, RunContext(out=tmp_path))
    assert "gradients.csv" in str(caught.value)
    assert "\n" not in str(caught.value)
    half = load_run(tmp_path / config.run_name())
    assert not half.finished
    assert len(half.gradients) > 100
    assert [repr(r) for r in half.gradients] == [repr(r) for r in whole("bp").gradients[: len(half.gradients)]]
    assert half.checkpoint()["step"] > 0
    assert_same_bits(whole("bp"), train_run(config, RunContext(out=tmp_path, resume=True)))


def test_a_disk_too_full_for_the_first_checkpoint(whole, tmp_path):
    with full_disk(20_000), pytest.raises(InputError, match="checkpoint.pt"):
        train_run(tiny("bp"), RunContext(out=tmp_path))
    path = tmp_path / tiny("bp").run_name()
    assert not path.exists()  # it never made an update that was kept
    assert_same_bits(whole("bp"), train_run(tiny("bp"), RunContext(out=tmp_path)))


# -------------------------------------------------------------------------------------------------------- how it counts


@pytest.mark.parametrize(("images", "batch", "updates"), [(50_000, 256, 196), (50_000, 64, 782), (1433, 256, 6), (10, 10, 1)])
def test_updates_in_an_epoch(images, batch, updates):
    assert batches_per_epoch(images, batch) == updates


@given(images=st.integers(1, 3000), batch=st.integers(1, 300))
@settings(deadline=None)
def test_updates_in_an_epoch_are_the_batches_that_are_more_than_one_image(images, batch):
    sizes = [min(batch, images - i) for i in range(0, images, batch)]
    alone = len(sizes) > 1 and sizes[-1] == 1 and batch > 1
    assert batches_per_epoch(images, batch) == len(sizes) - alone


def test_a_last_batch_of_one_image_is_left_out_and_one_of_two_is_not():
    for limit, sizes in ((65, [32, 32]), (66, [32, 32, 2]), (64, [32, 32])):
        t = training(make_config(width=4, limit=limit, batch_size=32))
        assert t.batches.per_epoch == len(sizes)
        assert [len(t.batches.batch(i)[1]) for i in range(t.batches.per_epoch)] == sizes


def test_an_epoch_reads_every_image_once_in_another_order_each_time_and_steps_do_not_depend_on_history():
    t, again = (training(make_config(width=4, limit=100, batch_size=32, normalize="none")) for _ in range(2))
    epochs = [torch.cat([t.batches.batch(e * 4 + i)[0] for i in range(4)]).flatten(1) for e in range(2)]
    images = t.batches.examples.images.flatten(1).tolist()
    for x in epochs:
        assert sorted(map(tuple, (255 * x).round().int().tolist())) == sorted(map(tuple, images))
    assert not torch.equal(*epochs)
    assert torch.equal(again.batches.batch(6)[0], t.batches.batch(6)[0])
    assert torch.equal(again.batches.batch(1)[1], t.batches.batch(1)[1])


@pytest.mark.parametrize("method", SUPERVISED)
def test_a_learning_rate_of_zero_changes_no_parameter_but_the_running_statistics(method, tmp_path):
    config = tiny(method, lr=0, epochs=3 if method == "greedy" else 1, keep_checkpoints=0, lr_schedule="constant", warmup=0)
    start, run = checkpoint_of(training(config)), train_run(config, RunContext(out=tmp_path))
    end = run.checkpoint()
    names = [n for n, _ in training(config).network.model.named_parameters()]
    assert all(torch.equal(start["model"][n], end["model"][n]) for n in names)
    own = [n for n, _ in training(config).network.method.named_parameters()]
    assert all(torch.equal(start["method"][n], end["method"][n]) for n in own)
    buffers = [n for n in start["model"] if "running" in n]
    assert len(buffers) == 6
    run_in_eval_mode = ("block1", "block2", "block3") if method == "shallow" else ()
    for n in buffers:
        assert torch.equal(start["model"][n], end["model"][n]) == n.startswith(run_in_eval_mode), n
    assert end["model"]["block1.norm.num_batches_tracked"] == (0 if method == "shallow" else 6)


def test_no_epochs_is_the_untrained_control(tmp_path):
    run = train_run(tiny("dgl", epochs=0), RunContext(out=tmp_path))
    (row,) = run.metrics
    assert (row.split, row.epoch, row.step) == ("test", 0, 0)
    assert run.summary["updates"] == 0
    assert run.summary["test"]["final_accuracy"] == run.summary["test"]["best_accuracy"] == row.accuracy
    assert same_state(run.checkpoint()["model"], training(tiny("dgl")).network.model.state_dict())
    assert run.gradients == []


@pytest.mark.parametrize(
    ("steps", "updates", "epochs"), [(0, 0, [0]), (4, 4, [0, 1]), (6, 6, [0, 1]), (8, 8, [0, 1, 2]), (99, 24, [0, 1, 2, 3, 4])]
)
def test_steps_stops_after_so_many_updates(steps, updates, epochs, tmp_path):
    run = train_run(tiny("bp", steps=steps, record_every=1), RunContext(out=tmp_path))
    assert run.summary["updates"] == updates == run.checkpoint()["step"]
    assert [m.epoch for m in run.metrics if m.split == "test"] == epochs
    assert [m.step for m in run.metrics if m.split == "test"] == [min(6 * e, updates) for e in epochs]
    assert [t.epoch for t in run.timing] == epochs[1:]
    assert all(t.seconds > 0 and t.images_per_s > 0 for t in run.timing)
    assert {r.step for r in run.gradients} == set(range(updates))


def test_snapshots_hold_the_weights_of_their_step(tmp_path):
    settings = {"lr_schedule": "constant", "warmup": 0, "record_every": 0}
    run = train_run(tiny("dni", steps=10, keep_checkpoints=3, **settings), RunContext(out=tmp_path))
    assert [p.name for p in run.snapshots()] == [f"step-{s:08d}.pt" for s in (3, 7, 10)]
    for snapshot, step in zip(run.snapshots(), (3, 7, 10), strict=True):
        shorter = train_run(tiny("dni", steps=step, keep_checkpoints=0, **settings), RunContext(out=tmp_path)).checkpoint()
        kept = load_checkpoint(snapshot)
        assert kept["step"] == step
        assert same_state(kept["model"], shorter["model"])
        assert same_state(kept["method"], shorter["method"])


@given(total=st.integers(0, 500), n=st.integers(0, 60))
@settings(deadline=None, max_examples=50)
def test_snapshots_are_evenly_spread_and_the_last_is_the_end(total, n):
    steps = sorted(snapshot_steps(total, n))
    if n and total:
        assert steps[-1] == total
        assert n > total or len(steps) == n
        gaps = [b - a for a, b in zip([0, *steps], steps, strict=False)]
        assert n > total or max(gaps) - min(gaps) <= 1
    else:
        assert steps == []


# ------------------------------------------------------------------------------------------------------- learning rate


def test_the_optimiser_gets_the_scheduled_rate():
    t = training(tiny("dni", lr=0.01))
    used = []
    t.optimizer.register_step_pre_hook(lambda optimizer, *_: used.append({g["lr"] for g in optimizer.param_groups}))
    fit(t)
    assert [len(rates) for rates in used] == [1] * 24
    want = [0.01 * (s + 1) / 3 for s in range(3)] + [0.005 * (1 + math.cos(math.pi * s / 21)) for s in range(21)]
    assert [rate for rates in used for rate in rates] == pytest.approx(want, abs=1e-15)


# ---------------------------------------------------------------------------------------------- against a loop by hand


def test_reported_numbers_are_those_of_a_plain_loop_and_not_smoothed(tmp_path):
    """Loss and accuracy of the train rows are means over the epoch's images as they were met, of the test rows exact."""
    config = make_config(width=4, limit=150, batch_size=32, epochs=3, lr=3e-3, record_every=0)
    run = train_run(config, RunContext(out=tmp_path))
    data = load_data("digits", limit=150)
    model = build("basic-cnn", ModelSpec((1, 8, 8), 10, width=4), seed=0).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, fused=True)
    batches, want = training(config).batches, []

    def test_row():
        model.eval()
        with torch.no_grad():
            z = model((data.test.images / 127.5 - 1).to(memory_format=torch.channels_last))
        model.train()
        hits = (z.argmax(1) == data.test.labels).sum().item()
        return F.cross_entropy(z.double(), data.test.labels).item(), hits / 364

    want.append(("test", 0, 0, *test_row()))
    for epoch in (1, 2, 3):
        losses, hits = [], 0
        for i in range(5):
            x, y = batches.batch(5 * (epoch - 1) + i)
            z = model(x)
            loss = F.cross_entropy(z, y, reduction="sum") / len(y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses += [loss.item()] * len(y)
            hits += (z.argmax(1) == y).sum().item()
        want += [("train", epoch, 5 * epoch, sum(losses) / 150, hits / 150), ("test", epoch, 5 * epoch, *test_row())]
    assert same_state(run.checkpoint()["model"], model.state_dict())
    assert [m[:3] for m in run.metrics] == [w[:3] for w in want]
    assert [m.loss for m in run.metrics] == pytest.approx([w[3] for w in want], rel=1e-5)
    loop = [(m.loss, m.accuracy) for m in run.metrics if m.split == "train"]
    assert loop == [pytest.approx(w[3:], rel=1e-12) for w in want if w[0] == "train"]
    tests = [w[4] for w in want if w[0] == "test"]  # of other batches: a tie may fall the other way
    assert [m.accuracy for m in run.metrics if m.split == "test"] == pytest.approx(tests, abs=1.01 / 364)
    for split in ("train", "test"):
        rows = [m for m in run.metrics if m.split == split]
        assert [m.best for m in rows] == [max(r.accuracy for r in rows[: i + 1]) for i in range(len(rows))]


def test_evaluation_in_batches_is_evaluation_at_once_and_leaves_no_trace():
    t = training(tiny("dgl", batch_size=32))
    before = {n: v.clone() for n, v in t.network.model.state_dict().items()}
    loss, accuracy, _ = evaluate(t.network, t.test, t.batches.to_input, t.config)
    assert all(torch.equal(v, before[n]) for n, v in t.network.model.state_dict().items())
    assert t.network.model.training
    assert t.network.method.training
    model = t.network.model.double().eval()
    z = model(t.test.images.double() / 127.5 - 1)
    assert loss == pytest.approx(F.cross_entropy(z, t.test.labels).item(), rel=1e-5)
    assert accuracy == (z.argmax(1) == t.test.labels).double().mean().item()


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("method", ["bp", "dgl"])
def test_the_untrained_loss_is_that_of_guessing(seed, method):
    t = training(make_config(method=method, seed=seed))
    loss, *_ = evaluate(t.network, t.test, t.batches.to_input, t.config)
    assert loss == pytest.approx(math.log(10), rel=0.02)


@pytest.mark.parametrize("method", ["bp", "dgl"])
@pytest.mark.slow
def test_512_images_are_learned_by_heart_within_200_updates(method, tmp_path):
    config = make_config(method=method, width=8, limit=512, batch_size=128, epochs=30, lr=5e-3, record_every=0)
    run = train_run(config, RunContext(out=tmp_path))
    assert run.summary["updates"] == 120
    assert run.summary["train"]["final_accuracy"] > 0.99
    assert run.summary["test"]["final_accuracy"] > 0.8


def test_best_and_final_are_both_in_the_summary(tmp_path, monkeypatch):
    accuracies = iter([0.1, 0.5, 0.75, 0.75, 0.25])
    monkeypatch.setattr(run_log, "evaluate", lambda *_: Evaluation(1.0, accuracy := next(accuracies), accuracy))
    run = train_run(tiny("bp"), RunContext(out=tmp_path))
    assert run.summary["test"] == {
        "best_accuracy": 0.75, "best_epoch": 2, "final_accuracy": 0.25, "final_loss": 1.0, "final_epoch": 4,
    }  # fmt: skip
    assert [m.best for m in run.metrics if m.split == "test"] == [0.1, 0.5, 0.75, 0.75, 0.75]
    rows = [m for m in run.metrics if m.split == "train"]
    assert run.summary["train"]["best_accuracy"] == max(m.accuracy for m in rows)
    assert run.summary["train"]["final_loss"] == rows[-1].loss


def test_what_a_watcher_receives(tmp_path):
    told = []
    run = train_run(tiny("bp", epochs=2), RunContext(out=tmp_path), lambda event, numbers: told.append((event, numbers)))
    steps = [n for event, n in told if event == "step"]
    assert [n["step"] for n in steps] == list(range(1, 13))
    assert {n["total"] for n in steps} == {12}
    assert [n["epoch"] for n in steps] == [1] * 6 + [2] * 6
    assert all(n["images_per_s"] > 0 and n["loss"] > 0 for n in steps)
    assert [n for event, n in told if event == "metric"] == [m._asdict() for m in run.metrics]
    assert [event for event, _ in told][:4] == ["evaluate", "metric", "rows", "step"]  # the first update is a recorded one


KINDS = ({"model": "mlp"}, {"cut": "before-pool"}, {"loss": "mse", "precision": "bf16"}, {"loss": "bce"})


@pytest.mark.parametrize(("method", "changes"), one_in(4, SUPERVISED, KINDS))
def test_every_method_trains_every_kind_of_net(method, changes, tmp_path):
    settings = {"epochs": 3, "lr": 1e-2, "augment": False, "label_noise": 0, "record_every": 9, "width": 8, **changes}
    if method == "greedy":
        settings["epochs"] = 9  # three a stage: the losses of different stages are of different heads
    if method == "dgl-async":
        settings["options"] = {"order": "in-order"}  # eighteen updates are few where what is read is old
    run = train_run(tiny(method, **settings), RunContext(out=tmp_path))
    losses = [m.loss for m in run.metrics if m.split == "train"]
    assert losses[2] < losses[0]
    assert {r.step for r in run.gradients} == set(range(0, 6 * settings["epochs"], 9))


# ---------------------------------------------------------------------------------------------- losses that are not finite


@pytest.mark.parametrize(("method", "every"), one_in(2, SUPERVISED, (0, 1)))
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_what_was_saved(method, every, tmp_path, monkeypatch):
    monkeypatch.setattr(training_state, "lr_factor", lambda config, step, total: 1e33 if step >= 8 else 1.0)
    config = tiny(method, record_every=every, keep_checkpoints=0)
    with pytest.raises(Stopped) as caught:
        train_run(config, RunContext(out=tmp_path))
    text, path = str(caught.value), tmp_path / config.run_name()
    assert caught.value.status == 1
    assert re.search(rf"^{method}: the loss became (nan|inf) in epoch 2, step (9|10|11) \(lr 0\.001\)", text)
    assert str(path) in text
    run = load_run(path)
    assert not run.finished
    assert [(m.split, m.epoch) for m in run.metrics] == [("test", 0), ("train", 1), ("test", 1)]
    assert run.checkpoint()["step"] == 6
    assert all(v.isfinite().all() for v in run.checkpoint()["model"].values())
    early = [r for r in run.gradients if r.step < 7 and r.kind == "weight" and r.quantity == "true_norm"]
    assert len(early) == (2 if method == "greedy" else 8) * 7 * every  # five layers and three norms; of greedy's first stage, one each
    assert all(math.isfinite(r.value) for r in early)


def test_the_last_update_cannot_invalidate_a_run_unnoticed(tmp_path):
    config = tiny("bp", lr=1e33, steps=1, lr_schedule="constant", warmup=0)
    with pytest.raises(Stopped, match=r"^bp: the test loss became (nan|inf) in epoch 1, step 1"):
        train_run(config, RunContext(out=tmp_path))
    run = load_run(tmp_path / config.run_name())
    assert not run.finished
    assert run.checkpoint()["step"] == 0


def test_a_huge_learning_rate_from_the_start(tmp_path):
    with pytest.raises(Stopped, match="in epoch 1, step 1 "):
        train_run(tiny("bp", lr=1e33, lr_schedule="constant", warmup=0), RunContext(out=tmp_path))


# ---------------------------------------------------------------------------------------------------------- init-from


def test_init_from_starts_where_another_run_ended(whole, tmp_path):
    start = whole("dgl")
    run = train_run(tiny("bp", epochs=0, init_from=str(start.path)), RunContext(out=tmp_path))
    assert same_state(run.checkpoint()["model"], start.checkpoint()["model"])
    assert run.metrics[0].accuracy == start.metrics[-1].accuracy
    assert run.metrics[0].loss == start.metrics[-1].loss


def test_init_from_what_does_not_fit_or_is_not_there(whole, tmp_path):
    path = str(whole("bp").path)
    for changes, words in (
        ({"init_from": path, "width": 5}, [path, "do not fit"]),
        ({"init_from": path, "model": "mlp"}, [path, "do not fit"]),
        ({"init_from": str(tmp_path)}, [str(tmp_path), "not a run directory"]),
    ):
        with pytest.raises(InputError) as caught:
            train_run(tiny("bp", **changes), RunContext(out=tmp_path / "out"))
        assert "\n" not in str(caught.value)
        assert all(word in str(caught.value) for word in words)
    assert not (tmp_path / "out").exists()


def test_init_from_the_same_classes_in_another_order(whole):
    config = tiny("bp", init_from=str(whole("bp").path))
    data = load_data("digits")
    with pytest.raises(InputError, match=r"in another order, class 0 is '9' here and was '0' in this run: set --data to"):
        build_state(config, replace(data, classes=data.classes[::-1]), CPU)
    build_state(config, replace(data, classes=tuple("abcdefghij")), CPU)  # other classes: a new top would learn them


# -------------------------------------------------------------------------------------------------------------- design


def test_the_loop_knows_no_method_by_name():
    source = "".join(Path(module.__file__).read_text() for module in (loop, run_log, training_step, training_state, setup))
    names = [*METHODS, *(rule.__name__ for rule in METHODS.values())]
    assert [name for name in names if re.search(rf"\b{name}\b", source)] == []


def test_only_the_loop_writes_grad():
    package = Path(loop.__file__).parents[1]
    files = [file for room in ("data", "models", "gradients", "methods", "training") for file in (package / room).rglob("*.py")]
    writers = [file.stem for file in files if re.search(r"\.grad\s*=[^=]", file.read_text())]
    # block_costs times an optimiser step on networks of its own; optimizers clips for the step alone and puts back what is measured
    assert sorted(writers) == ["block_costs", "optimizers", "step"]


def test_a_gradient_of_another_layout_reaches_the_fused_optimiser_right():
    """The fused kernels read memory in order: a transposed gradient must be laid out like its parameter first."""
    from gradlens.training.step import _write_grad

    p, q = (torch.nn.Parameter(torch.zeros(3, 5)) for _ in range(2))
    grad = torch.randn(5, 3).T
    _write_grad(p, grad)
    q.grad = grad.contiguous()
    for parameter in (p, q):
        torch.optim.Adam([parameter], lr=0.1, fused=True).step()
    assert torch.equal(p, q)
    _write_grad(p, grad)
    torch.testing.assert_close(p.grad, 2 * grad)


WITH_GPP = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler: install g++")


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=[pytest.mark.slow, WITH_GPP])])
@pytest.mark.slow
def test_compiled_blocks_and_heads_train_as_eager_ones(backend, monkeypatch):
    plain = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: plain(self, backend=backend))
    runs = [
        build_state(
            make_config(method="dgl", model="mlp", depth=2, width=8, compile=compiled, steps=2, record_every=1),
            load_data("digits"),
            torch.device("cpu"),
        )
        for compiled in (False, True)
    ]
    for run in runs:
        fit(run)
    assert runs[1].network.model[0]._compiled_call_impl is not None
    for p, q in zip(runs[0].network.model.parameters(), runs[1].network.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)  # float32, operations fused in another order


def test_an_error_of_a_single_process_is_not_reported_by_others(monkeypatch):
    """Its words may be those of a lost rank: it stays what it is."""
    t = build_state(tiny(limit=64, label_noise=0.0), load_data("digits", limit=64), torch.device("cpu"))

    def broken(*_):
        raise RuntimeError("Connection to my database failed")

    monkeypatch.setattr(t.stage, "step", broken)
    with pytest.raises(RuntimeError, match="database"):
        fit(t)
