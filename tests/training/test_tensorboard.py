"""The TensorBoard log, read back with TensorBoard itself: what the run's tables hold, once, and never in the training's way."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from disk import full_disk

from gradlens.gradients.rows import Measurement
from gradlens.runtime.errors import Failsafe, InputError
from gradlens.training import tensorboard as loggers
from gradlens.training.config import make_config
from gradlens.training.context import RunContext
from gradlens.training.run_directory import Metric, load_run
from gradlens.training.runs.train_run import train_run
from gradlens.training.tensorboard import EVENTS, FILTERS, check_export, export, filter_image, records, rewound

accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="pip install tensorboard")
TINY = {"width": 4, "limit": 120, "limit_test": 60, "epochs": 2, "batch_size": 30, "record_every": 2, "diagnose_every": 2}


def trained(folder, watch=lambda event, numbers: None, tensorboard=True, **more):
    context = {k: more.pop(k) for k in ("resume", "overwrite") if k in more}
    return train_run(make_config(**TINY | {"method": "dgl"} | more), RunContext(out=folder, tensorboard=tensorboard, **context), watch)


def read(folder):
    """(tag -> [(step, value)], tag -> [step] of the pictures) as TensorBoard shows them."""
    log = accumulators.EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    log.Reload()
    tags = log.Tags()
    return {t: [(e.step, e.value) for e in log.Scalars(t)] for t in tags["scalars"]}, {
        t: [e.step for e in log.Images(t)] for t in tags["images"]
    }


def expected(run):
    """The same from the run's tables, by plain loops."""
    found = {}
    for m in run.metrics:
        found.setdefault(f"loss/{m.split}", []).append((m.step, m.loss))
        found.setdefault(f"accuracy/{m.split}", []).append((m.step, m.accuracy))
    for r in run.gradients:
        found.setdefault(f"{r.quantity}/{r.kind}/{r.layer}", []).append((r.step, r.value))
    return found


def same(got, want):
    assert set(got) == set(want)
    for tag, points in want.items():
        assert [s for s, _ in got[tag]] == [s for s, _ in points], tag
        torch.testing.assert_close(
            torch.tensor([v for _, v in got[tag]]), torch.tensor([v for _, v in points]), rtol=0, atol=0, equal_nan=True, msg=tag
        )


def test_a_live_log_holds_the_tables_and_the_filters(tmp_path):
    run = trained(tmp_path)
    scalars, pictures = read(run.path / "tensorboard")
    same(scalars, expected(run))
    assert {"cosine/weight/block1.conv", "norm_ratio/weight/block2.conv", "loss/train", "accuracy/test", "loss/rule/block1"} <= set(scalars)
    assert pictures == {FILTERS: [0, 4, 8]}
    assert [p.name for p in (run.path / "tensorboard").iterdir()] == [EVENTS]
    plain = trained(tmp_path / "plain", tensorboard=False)
    assert not (plain.path / "tensorboard").exists()
    for name in ("gradients.csv", "metrics.csv"):
        assert (run.path / name).read_bytes() == (plain.path / name).read_bytes()
    mine, theirs = run.checkpoint()["model"], plain.checkpoint()["model"]
    assert all(torch.equal(mine[k], theirs[k]) for k in theirs)


def test_an_export_holds_the_same(tmp_path):
    run = trained(tmp_path, method="bp", tensorboard=False)
    before = {p: p.read_bytes() for p in run.path.iterdir() if p.is_file()}
    folder = export(run, tmp_path / "log")
    scalars, pictures = read(folder)
    same(scalars, expected(run))
    assert pictures == {FILTERS: [8]}
    assert folder == tmp_path / "log" / run.path.name
    assert [p.name for p in (tmp_path / "log").rglob("*") if p.is_file()] == [EVENTS]
    assert before == {p: p.read_bytes() for p in run.path.iterdir() if p.is_file()}


def test_what_was_measured_later_is_exported_where_nothing_was_recorded(tmp_path):
    run = trained(tmp_path, tensorboard=False)
    first = run.gradients[0]
    run.measured += [first._replace(value=7.0), Measurement(8, first.layer, first.kind, first.quantity, 9.0, "loss")]
    points = read(export(run, tmp_path / "log"))[0][f"{first.quantity}/{first.kind}/{first.layer}"]
    assert points[0] == (first.step, pytest.approx(first.value))
    assert points[-1] == (8, 9.0)


def test_a_run_that_goes_on_is_logged_once_in_one_file(tmp_path):
    whole = read(trained(tmp_path / "whole").path / "tensorboard")

    class Crash(Exception):
        pass

    for crash in (2, 4, 6):  # in the first epoch, at its end (evaluated, not yet saved), and in the second

        def watch(event, numbers, crash=crash):
            if event == ("metric" if crash == 4 else "step") and numbers["step"] == crash:
                raise Crash

        folder = tmp_path / str(crash)
        with pytest.raises(Crash):
            trained(folder, watch)
        (file,) = folder.glob(f"*/tensorboard/{EVENTS}")
        file.write_bytes(file.read_bytes()[:-5])  # a record torn off
        resumed = read(trained(folder, resume=True).path / "tensorboard")
        assert str(resumed) == str(whole), crash  # as text: NaN equals NaN there
        assert [p.name for p in file.parent.iterdir()] == [EVENTS]


def test_a_run_that_starts_anew_begins_its_log_anew(tmp_path):
    whole = read(trained(tmp_path).path / "tensorboard")
    again = trained(tmp_path, overwrite=True)
    assert str(read(again.path / "tensorboard")) == str(whole)
    bare = trained(tmp_path, overwrite=True, tensorboard=False)
    assert not (bare.path / "tensorboard" / EVENTS).exists()  # the log of a run that is gone


def test_rewinding_keeps_what_a_checkpoint_knows(tmp_path):
    events = loggers.Events(loggers.appending(tmp_path / EVENTS))
    for step in range(6):
        events.scalars(loggers.row_scalars([Measurement(step, "a.b", "weight", "cosine", 0.5, "loss")]))
        events.scalars(loggers.metric_scalars([Metric("test", 1, step, 1.0, math.nan, math.nan)]))
        events.filters(step, {"w": torch.rand(2, 3, 3, 3)})
    events.close()
    content = (tmp_path / EVENTS).read_bytes()
    assert b"".join(record for record, _ in records(content)) == content
    for torn in (1, 20, 300):
        assert content.startswith(b"".join(record for record, _ in records(content[:-torn])))
    assert rewound(content, 9) == content
    (tmp_path / EVENTS).write_bytes(rewound(content, 3))
    scalars, pictures = read(tmp_path)
    assert [s for s, _ in scalars["cosine/weight/a.b"]] == [0, 1, 2]  # a row of step 3 is of an update that is made again
    assert [s for s, _ in scalars["loss/test"]] == [0, 1, 2, 3]
    assert pictures[FILTERS] == [0, 1, 2, 3]
    assert "accuracy/test" not in scalars  # a rule without labels has none


def test_numbers_that_are_none_stay_so(tmp_path):
    events = loggers.Events(loggers.appending(tmp_path / EVENTS))
    events.scalars(loggers.row_scalars([Measurement(0, "a", "weight", "cosine", math.nan, "loss")]))
    events.close()
    ((_, value),) = read(tmp_path)[0]["cosine/weight/a"]
    assert math.isnan(value)


def test_filters_are_stretched_each_to_its_own_range():
    w = torch.stack([torch.arange(27.0).reshape(3, 3, 3), -5 * torch.arange(27.0).reshape(3, 3, 3) + 2])
    grid = filter_image({"stem.weight": w, "top.weight": torch.zeros(2, 2)})
    side, gap = 3 * loggers.MAGNIFIED, loggers.MAGNIFIED // 2
    for i, filter_ in enumerate(w):
        left = gap + i * (side + gap)
        shown = grid[:, gap : gap + side, left : left + side][:, :: loggers.MAGNIFIED, :: loggers.MAGNIFIED]
        torch.testing.assert_close(shown, (filter_ - filter_.min()) / (filter_.max() - filter_.min()), atol=1e-4, rtol=0)
    assert filter_image({"a.bias": torch.zeros(3), "a.weight": torch.zeros(3, 4)}) is None
    assert filter_image({"a.weight": torch.zeros(3, 2, 3, 3)}) is None  # two channels are no picture
    assert filter_image({"a.weight": torch.zeros(3, 1, 3, 3)}).shape[0] == 3


# ----------------------------------------------------------------------------------------- a log that cannot be written


def test_a_failing_log_is_one_line_and_stops_nothing(tmp_path, monkeypatch, capsys):
    plain = trained(tmp_path / "plain", tensorboard=False)
    calls = []

    def broken(self, points):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("the\nwriter broke")

    monkeypatch.setattr(loggers.Events, "scalars", broken)
    run = trained(tmp_path)
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "the TensorBoard log failed" in err
    assert "RuntimeError: the writer broke" in err
    assert len(calls) == 3
    assert run.finished
    assert (run.path / "gradients.csv").read_bytes() == (plain.path / "gradients.csv").read_bytes()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("buffering", [0, -1], ids=["at once", "when flushed"])
def test_a_full_disk_stops_nothing(tmp_path, monkeypatch, capsys, buffering):
    monkeypatch.setattr(loggers, "appending", lambda path: open("/dev/full", "ab", buffering=buffering))  # noqa: SIM115
    run = trained(tmp_path)
    err = capsys.readouterr().err
    assert run.finished
    assert err.count("\n") == 1
    assert "No space left on device" in err


def test_a_folder_that_cannot_be_made_stops_nothing(tmp_path, capsys):
    run = trained(tmp_path, tensorboard=False, epochs=1)
    (run.path / "tensorboard").write_text("a file of the user's")
    again = trained(tmp_path, overwrite=True, epochs=1)
    assert again.finished
    assert "the TensorBoard log failed" in capsys.readouterr().err


def test_failures_are_reported_once(capsys):
    safe, made = Failsafe("it"), []

    def fail():
        made.append(1)
        raise ValueError("no")

    safe(lambda: made.append(0))
    safe(fail)
    safe(fail)
    assert made == [0, 1]
    assert capsys.readouterr().err == "gradlens: it failed and is disabled; training continues (ValueError: no)\n"
    with pytest.raises(KeyboardInterrupt):
        Failsafe("it")(lambda: (_ for _ in ()).throw(KeyboardInterrupt))


# ------------------------------------------------------------------------------------------------------- the commands


@pytest.fixture
def gradlens(program, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return program


def test_the_package_is_required_before_anything_is_trained(tmp_path, monkeypatch, gradlens):
    run = trained(tmp_path / "here", tensorboard=False, epochs=0)
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    for arguments in (["train", "bp", "--tensorboard"], ["tensorboard", run.path]):
        status, out, err = gradlens(*arguments)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert "pip install " in err  # from a checkout or of the library itself
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "tensorboard").exists()


def test_commands_write_and_export(tmp_path, gradlens):
    flags = ["--width", 4, "--epochs", 1, "--limit", 60, "--limit-test", 60, "--batch-size", 30, "--quiet"]
    status, _, err = gradlens("train", "bp", *flags, "--tensorboard")
    assert (status, err) == (0, "")
    (run,) = [p.parent for p in tmp_path.glob("runs/*/config.json")]
    assert "tensorboard" not in (run / "config.json").read_text().split('"command"')[0]
    scalars, _ = read(run / "tensorboard")
    status, out, _ = gradlens("tensorboard", run, run, "--out", "log", "--quiet")
    assert status == 0
    assert "tensorboard --logdir log" in out
    exported, _ = read(tmp_path / "log" / run.name)
    assert str(sorted(exported.items())) == str(sorted(scalars.items()))


def test_an_export_leaves_what_is_there(tmp_path, gradlens):
    run = trained(tmp_path / "a", tensorboard=False, epochs=0)
    twin = load_run(shutil.copytree(run.path, tmp_path / "b" / run.path.name))
    log = tmp_path / "log"
    export(run, log)
    status, out, err = gradlens("tensorboard", run.path, "--out", log)
    assert (status, out) == (2, "")
    assert "--overwrite" in err
    status, _, _ = gradlens("tensorboard", run.path, "--out", log, "--overwrite", "--quiet")
    assert status == 0
    with pytest.raises(InputError, match="would both be"):
        check_export([run, twin], tmp_path / "other", overwrite=False)
    (log / run.path.name / EVENTS).unlink()
    with pytest.raises(InputError, match="no export of gradlens"):
        check_export([run], log, overwrite=True)
    status, _, err = gradlens("tensorboard", "nowhere")
    assert (status, err.count("\n")) == (2, 1)


def test_an_export_that_does_not_fit_leaves_nothing(tmp_path):
    run = trained(tmp_path, tensorboard=False)
    with full_disk(2000), pytest.raises(InputError, match="cannot write"):
        export(run, tmp_path / "log")
    assert not list((tmp_path / "log").iterdir())
