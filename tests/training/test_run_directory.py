"""The run directory: whole files or none, tables that read back bit for bit, and what is refused."""

import json
import math
import os
import pickle
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import shelf
import torch
from disk import full_disk
from hypothesis import given, settings
from hypothesis import strategies as st

from gradlens.gradients.rows import Measurement
from gradlens.runtime.csv_tables import csv_line, read_table
from gradlens.runtime.errors import InputError
from gradlens.training.checkpoint import load_checkpoint
from gradlens.training.config import make_config
from gradlens.training.context import RunContext
from gradlens.training.metrics import best_epoch
from gradlens.training.run_directory import TABLES, Metric, OnlineRow, Timing, commit_of, load_result, load_run, save_result
from gradlens.training.run_files import is_run, write
from gradlens.training.run_writer import Writer
from gradlens.training.runs.train_run import train_run

SMALL = {"width": 4, "limit": 64, "validation": 0.25, "batch_size": 16, "epochs": 2, "record_every": 2}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def run():
    """A finished run of dgl with two snapshots; not to be changed."""
    return shelf.trained(make_config(method="dgl", keep_checkpoints=2, **SMALL))


def refused(call, *args, **kwargs):
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ------------------------------------------------------------------------------------------------------- whole or not


def test_write_replaces_a_file(tmp_path):
    path = tmp_path / "file"
    write(path, b"old")
    write(path, b"new")
    assert contents(tmp_path) == {"file": b"new"}


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file"
    write(path, b"old")
    with full_disk(1000):
        text = refused(write, path, bytes(5000))
    assert str(path) in text
    assert contents(tmp_path) == {"file": b"old"}


@pytest.mark.parametrize(("owner", "name"), [(os, "fsync"), (Path, "replace")])
def test_a_failure_before_the_renaming_leaves_the_old_file_and_no_other(owner, name, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(5, "Input/output error")

    path = tmp_path / "file"
    write(path, b"old")
    monkeypatch.setattr(owner, name, fail)
    assert "input/output error" in refused(write, path, b"new")
    monkeypatch.undo()
    assert contents(tmp_path) == {"file": b"old"}


def test_the_new_content_is_on_disk_before_the_old_one_goes(tmp_path, monkeypatch):
    calls = []
    fsync, rename = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd)))
    monkeypatch.setattr(Path, "replace", lambda *a, **k: (calls.append("rename"), rename(*a, **k)))
    write(tmp_path / "file", b"x")
    assert calls == ["fsync", "rename"]


def test_a_place_that_is_no_folder_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("x")
    refused(write, tmp_path / "file" / "inside", b"x")
    refused(write, tmp_path / "none" / "inside", b"x")


# --------------------------------------------------------------------------------------------------------------- tables

values = {
    int: st.integers(-(2**63), 2**63),
    float: st.floats(allow_nan=True, allow_infinity=True),
    str: st.text(st.characters(exclude_categories=["C", "Z"]) | st.sampled_from([" ", ",", '"']), max_size=12),
}
KINDS = {
    "metrics": st.builds(Metric, values[str], values[int], values[int], *[values[float]] * 4, values[str]),
    "timing": st.builds(Timing, values[int], *[values[float]] * 3),
    "gradients": st.builds(Measurement, values[int], *[values[str]] * 3, values[float], values[str]),
    "online": st.builds(OnlineRow, values[int], *[values[str]] * 2, *[values[float]] * 3),
}


def bits(row):
    """A row with floats as their bits, all NaNs as one."""
    return [struct.pack("<d", math.nan if v != v else v) if isinstance(v, float) else v for v in row]


@pytest.mark.parametrize("table", TABLES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_tables_read_back_bit_for_bit(table, tmp_path_factory, data):
    rows = data.draw(st.lists(KINDS[table], max_size=5))
    cut = data.draw(st.integers(0, len(rows)))
    writer = Writer(tmp_path_factory.mktemp("run"), make_config())
    writer.append(table, rows[:cut])
    writer.close()  # as after an interruption
    writer.append(table, rows[cut:])
    back = read_table(writer.path / f"{table}.csv", TABLES[table])
    writer.close()
    assert [bits(r) for r in back] == [bits(r) for r in rows]
    assert all(type(r) is TABLES[table] for r in back)
    assert [type(v) for r in back for v in r] == [type(v) for r in rows for v in r]


def test_rows_are_on_disk_when_append_returns(tmp_path):
    writer = Writer(tmp_path, make_config())
    writer.append("timing", [Timing(1, 0.1, 2.0, 3.0)])
    assert (tmp_path / "timing.csv").read_text() == "epoch,seconds,images_per_s,memory_mb\n1,0.1,2.0,3.0\n"
    writer.close()


ROWS = [Measurement(i, "block1.conv", "weight", "cosine", i / 3, "loss, same passes") for i in range(3)]


def test_a_last_line_cut_off_anywhere_is_left_out(tmp_path):
    path = tmp_path / "gradients.csv"
    whole = "".join(csv_line(r) for r in [Measurement._fields, *ROWS]).encode()
    start = len(whole) - len(csv_line(ROWS[2]))
    for cut in range(start, len(whole)):
        path.write_bytes(whole[:cut])
        assert read_table(path, Measurement) == ROWS[:2]
    path.write_bytes(whole)
    assert read_table(path, Measurement) == ROWS


@pytest.mark.parametrize("content", [None, b"", b"step,lay", b"step,layer,kind,quantity,value,reference\n"])
def test_tables_without_rows(content, tmp_path):
    if content is not None:
        (tmp_path / "gradients.csv").write_bytes(content)
    assert read_table(tmp_path / "gradients.csv", Measurement) == []


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"h\n1,a,b,c,x,d\n", b"h\n1,a,b,c\n", b"h\n\n", b"\xff\xfe\n\x00\n", b"h\n\x00\n"])
def test_a_foreign_table_is_refused_by_name(content, tmp_path):
    path = tmp_path / "gradients.csv"
    path.write_bytes(content)
    assert str(path) in refused(read_table, path, Measurement)


def test_mark_and_rewind_cut_tables_back_and_remove_those_that_were_not_there(tmp_path):
    writer = Writer(tmp_path, make_config())
    writer.append("gradients", ROWS[:1])
    marks = writer.mark()
    before = (tmp_path / "gradients.csv").read_bytes()
    writer.append("gradients", ROWS[1:])
    writer.append("metrics", [Metric("test", 0, 0, 1.0, 0.5, 0.5)])
    writer.rewind(marks)
    assert contents(tmp_path) == {"gradients.csv": before}
    writer.append("gradients", ROWS[1:])
    writer.close()
    assert read_table(tmp_path / "gradients.csv", Measurement) == ROWS


def test_a_table_that_is_shorter_than_its_checkpoint_says_is_refused(tmp_path):
    writer = Writer(tmp_path, make_config())
    writer.append("gradients", ROWS)
    marks = writer.mark()
    writer.close()
    path = tmp_path / "gradients.csv"
    path.write_bytes(path.read_bytes()[:-20])
    assert str(path) in refused(writer.rewind, marks)
    path.unlink()
    assert str(path) in refused(writer.rewind, marks)


@pytest.mark.parametrize("rows", [3, 3000])  # less and more than the buffers of a file hold
def test_a_full_disk_under_a_table_is_one_sentence_and_closing_is_quiet(rows, tmp_path):
    writer, path = Writer(tmp_path, make_config()), tmp_path / "gradients.csv"
    writer.append("gradients", ROWS)
    with full_disk(path.stat().st_size + 40):
        text = refused(writer.append, "gradients", (ROWS * rows)[:rows])
        writer.close()
    assert str(path) in text
    assert path.stat().st_size > 0
    assert read_table(path, Measurement) == ROWS


# -------------------------------------------------------------------------------------------------------------- a run


def test_a_finished_run_reads_back(run):
    again = load_run(str(run.path))
    assert again.config == run.config
    assert again.finished
    assert again.metrics == run.metrics
    assert again.gradients == run.gradients
    assert [p.name for p in again.snapshots()] == ["step-00000003.pt", "step-00000006.pt"]
    assert again.checkpoint()["step"] == 6
    assert run.path.name == run.config.run_name()
    for name in ("versions", "threads", "command", "device", "data_fingerprint", "label_hash"):
        assert run.info[name]
    assert run.info["versions"]["torch"] == torch.__version__


def test_files_of_a_run_and_nothing_hidden(run):
    names = set(contents(run.path))
    assert names == {
        "config.json", "metrics.csv", "timing.csv", "gradients.csv", "checkpoint.pt", "summary.json",
        "snapshots/step-00000003.pt", "snapshots/step-00000006.pt",
    }  # fmt: skip


def test_config_json_and_summary_json_are_plain_json(run):
    def strict(name):
        raise AssertionError(name)

    content = json.loads((run.path / "config.json").read_text(), parse_constant=strict)
    assert make_config(**content["config"]) == run.config
    json.loads((run.path / "summary.json").read_text(), parse_constant=strict)


def test_a_summary_with_a_loss_that_is_not_finite_is_still_json(tmp_path):
    Writer(tmp_path, make_config()).finish({"updates": 1, "test": {"final_loss": math.nan, "best_accuracy": math.inf, "best_epoch": 2}})
    text = (tmp_path / "summary.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert json.loads(text)["test"] == {"final_loss": None, "best_accuracy": None, "best_epoch": 2}


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"3", b"{}", b'{"config": 3}', b'{"config": {"method": "nope"}}', b"\xff\xfe"])
def test_a_folder_whose_config_is_not_ours_is_no_run(content, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    assert str(tmp_path) in refused(load_run, tmp_path)


def test_what_is_no_run(tmp_path):
    (tmp_path / "file").write_text("x")
    for name, said in (
        (".", "is not a run directory"),
        ("none", "does not exist"),
        ("fil", "does not exist; nearest: "),
        ("file", "is not a run"),
    ):
        path = tmp_path / name
        assert not is_run(path)
        assert f"{path} {said}" in refused(load_run, path)


# --------------------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("settings", [{"method": "cdni"}, {"optimizer": "sgd", "momentum": 0.9}, {"optimizer": "rmsprop"}])
def test_checkpoints_load_without_running_code(settings, tmp_path):
    run = train_run(make_config(**{**SMALL, "keep_checkpoints": 1, "record_every": 0, **settings}), RunContext(out=tmp_path))
    for file in (run.path / "checkpoint.pt", *run.snapshots()):
        assert torch.load(file, weights_only=True)["step"] == 6


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_checkpoint_with_code_in_it_is_refused_and_the_code_not_run(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save({"model": Evil(str(tmp_path / "ran")), "method": {}, "step": 0}, path)
    assert str(path) in refused(load_checkpoint, path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("part", [0, 1, 0.1, 0.5, 0.99, -1])
def test_a_truncated_checkpoint_is_refused(part, run, tmp_path):
    content = (run.path / "checkpoint.pt").read_bytes()
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content[: int(part * len(content)) if isinstance(part, float) else part])
    assert str(path) in refused(load_checkpoint, path)


@pytest.mark.parametrize("content", [{"weights": torch.zeros(3)}, [1, 2], torch.zeros(3), {"model": {}, "step": 3}])
def test_a_foreign_checkpoint_is_refused(content, tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save(content, path)
    assert f"{path} is not a checkpoint of gradlens" in refused(load_checkpoint, path)


def test_files_that_are_no_checkpoint_at_all(tmp_path):
    path = tmp_path / "checkpoint.pt"
    assert "has no checkpoint.pt" in refused(load_checkpoint, path)
    for content in (b"hello", b"PK\x03\x04" + bytes(100), pickle.dumps({"model": 1, "method": 2, "step": 3}, protocol=2)):
        path.write_bytes(content)
        assert str(path) in refused(load_checkpoint, path)


def damaged(run, out, change):
    """A copy of a run, made unfinished, with a changed checkpoint, and the place to resume it in."""
    path = out / run.path.name
    path.mkdir(parents=True)
    for name in ("config.json", "metrics.csv", "timing.csv", "gradients.csv"):
        (path / name).write_bytes((run.path / name).read_bytes())
    state = change(load_checkpoint(run.path / "checkpoint.pt"))
    if isinstance(state, bytes):
        (path / "checkpoint.pt").write_bytes(state)
    else:
        torch.save(state, path / "checkpoint.pt")
    return path, RunContext(out=out, resume=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: b"garbage",
        lambda s: {k: v for k, v in s.items() if k != "optimizer"},
        lambda s: {k: v for k, v in s.items() if k != "position"},
        lambda s: {k: v for k, v in s.items() if k != "tables"},
        lambda s: {**s, "model": {k: v[:1] for k, v in s["model"].items() if v.ndim}},
        lambda s: {**s, "model": 3},
        lambda s: {**s, "method": {}},
        lambda s: {**s, "optimizer": {"state": {}, "param_groups": []}},
        lambda s: {**s, "optimizer": 3},
        lambda s: {**s, "position": {"step": 3}},
        lambda s: {**s, "position": 3},
        lambda s: {**s, "tables": 3},
    ],
)
def test_resuming_from_a_checkpoint_of_something_else_is_one_sentence_and_changes_nothing(change, run, tmp_path):
    path, context = damaged(run, tmp_path, change)
    before = contents(tmp_path)
    text = refused(train_run, run.config, context)
    assert "checkpoint" in text
    assert str(path) in text or "config" in text
    assert contents(tmp_path) == before


# --------------------------------------------------------------------------------------------------- what a run was made with


def git(folder, *words):
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main"]
    return subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_is_of_the_repository_that_tracks_the_package_and_of_no_other(tmp_path):
    tracked, installed = tmp_path / "gradlens", tmp_path / ".venv" / "site-packages" / "gradlens"
    for folder in (tracked, installed):
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("")
    assert commit_of(tracked) is None  # no repository at all
    git(tmp_path, "init")
    git(tmp_path, "add", "gradlens")
    git(tmp_path, "commit", "-m", "first")
    assert commit_of(tracked) == git(tmp_path, "rev-parse", "--short", "HEAD")
    assert commit_of(installed) is None  # in the folder of somebody's project, which says nothing of it
    (tracked / "__init__.py").write_text("changed")
    assert commit_of(tracked).endswith("-dirty")


def test_the_number_of_classes_is_that_of_the_data(run, tmp_path):
    assert run.info["classes"] == run.num_classes == 10
    older = shelf.copied(run, tmp_path)
    stored = {name: value for name, value in older.info.items() if name != "classes"}
    assert replace(older, info=stored).num_classes == 10  # by the data set's name
    elsewhere = replace(older, info=stored, config=older.config.replace(data="images"))
    assert elsewhere.num_classes == 10  # by the network
    state = elsewhere.checkpoint()
    state["model"] |= {"top.norm.running_var": torch.ones(7), "top.norm.num_batches_tracked": torch.tensor(3)}
    torch.save(state, elsewhere.path / "checkpoint.pt")
    assert elsewhere.num_classes == 7


# ------------------------------------------------------------------------------------------------- opening a directory

INFO = {"data_fingerprint": "00"}


def opened(config, out, name=None, resume=False, overwrite=False, info=INFO):
    return Writer.open(config, out, name, resume=resume, overwrite=overwrite, info=info)


def test_a_new_run_gets_its_name_and_its_config(tmp_path):
    config = make_config(method="dni")
    writer = opened(config, tmp_path / "deep" / "er")
    assert writer.path == tmp_path / "deep" / "er" / config.run_name()
    assert load_run(writer.path).config == config
    assert not load_run(writer.path).finished
    assert opened(config, tmp_path, "mine").path == tmp_path / "mine"


def test_an_empty_folder_may_become_a_run(tmp_path):
    (tmp_path / "mine").mkdir()
    assert is_run(opened(make_config(), tmp_path, "mine").path)


def test_a_run_is_not_touched_unless_requested(tmp_path):
    writer = opened(make_config(), tmp_path)
    before = contents(tmp_path)
    text = refused(opened, make_config(), tmp_path)
    assert str(writer.path) in text
    assert "unfinished" in text
    assert all(flag in text for flag in ("--resume", "--overwrite", "--run-name"))
    writer.finish({"updates": 0})
    text = refused(opened, make_config(), tmp_path)
    assert "a finished run" in text
    assert "--overwrite" in text
    (writer.path / "summary.json").unlink()
    assert contents(tmp_path) == before


def test_overwrite_starts_over(run, tmp_path):
    again = RunContext(out=tmp_path)
    first = train_run(run.config, again)
    measured = first.path / "measured.csv"
    measured.write_text("step,layer,kind,quantity,value,reference\n")
    other = replace(again, name=first.path.name, overwrite=True)
    second = train_run(run.config.replace(epochs=1, keep_checkpoints=0), other)
    assert second.config.epochs == 1
    assert [m.epoch for m in second.metrics] == [0, 1, 1]
    assert second.snapshots() == []
    assert not measured.exists()


def test_overwrite_leaves_no_result_of_the_run_that_was_there(tmp_path):
    config = make_config(width=2, limit=64, batch_size=32, epochs=1)
    path = train_run(config, RunContext(out=tmp_path)).path
    save_result(path, "probe", {"rows": []})
    assert load_result(path, "probe")["rows"] == []
    train_run(config, RunContext(out=tmp_path, overwrite=True))
    assert load_result(path, "probe") is None


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    before = contents(tmp_path)
    for name in ("mine", "file"):
        for flags in ({}, {"resume": True}, {"overwrite": True}):
            text = refused(opened, make_config(), tmp_path, name, **flags)
            assert f"{tmp_path / name} exists and is not a run directory" in text
    assert contents(tmp_path) == before


@pytest.mark.parametrize("content", ['{"architectures": ["BertModel"]}', "[]", "{", '{"config": 3}'])
@pytest.mark.parametrize("flags", [{}, {"resume": True}, {"overwrite": True}])
def test_a_foreign_folder_with_a_config_json_of_its_own_loses_nothing(content, flags, tmp_path):
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text(content)
    (tmp_path / "bert" / "weights.pt").write_text("years of work")
    before = contents(tmp_path)
    assert str(tmp_path / "bert") in refused(opened, make_config(), tmp_path, "bert", **flags)
    assert contents(tmp_path) == before


def test_an_out_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("x")
    text = refused(opened, make_config(), tmp_path / "file")
    assert f"cannot write to {tmp_path / 'file'}" in text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_out_is_one_sentence(tmp_path):
    tmp_path.chmod(0o555)
    assert "permission denied" in refused(opened, make_config(), tmp_path)
    tmp_path.chmod(0o755)
    assert contents(tmp_path) == {}


def test_a_file_system_that_is_read_only_is_one_sentence(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", fail)
    text = refused(opened, make_config(), tmp_path / "runs")
    assert f"cannot write to {tmp_path / 'runs'}: read-only file system" in text


READ_ONLY = OSError(30, "Read-only file system")


@pytest.mark.parametrize("what", ["results", "tables", "access"])
def test_a_folder_that_became_read_only_is_one_sentence_when_a_run_goes_on(what, tmp_path, monkeypatch):
    """What was found about it cannot be removed, its tables cannot be cut back, or the system says so when it is asked."""
    writer = opened(make_config(), tmp_path)
    writer.append("metrics", [Metric("test", 0, 0, 1.0, 0.5, 0.5)])
    marks = {"metrics": len(csv_line(Metric._fields))}
    writer.close()
    (writer.path / "probe.json").write_text("{}")

    def fail(*args, **kwargs):
        raise READ_ONLY

    with monkeypatch.context() as m:
        if what == "results":
            m.setattr(Path, "unlink", fail)
        if what == "tables":
            m.setattr(os, "truncate", fail)
        if what == "access":
            m.setattr(os, "access", lambda *_: False)
        text = refused(lambda: opened(make_config(), tmp_path, resume=True).rewind(marks))
    assert f"cannot write {'' if what == 'access' else 'to '}{writer.path}: " in text
    opened(make_config(), tmp_path, resume=True).rewind(marks)
    assert (writer.path / "metrics.csv").stat().st_size == marks["metrics"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_resuming_in_a_read_only_folder_is_one_sentence(tmp_path):
    path = opened(make_config(), tmp_path).path
    before = contents(tmp_path)
    path.chmod(0o555)
    assert f"cannot write {path}" in refused(opened, make_config(), tmp_path, resume=True)
    path.chmod(0o755)
    assert contents(tmp_path) == before


def test_resume_without_a_run_names_the_nearest_of_its_kin_and_the_fields(tmp_path):
    near, far = make_config(method="dgl", lr=1e-2), make_config(method="dgl", lr=1e-2, epochs=7, augment=True)
    opened(far, tmp_path, "far")
    opened(make_config(method="bp"), tmp_path, "bp")
    opened(make_config(method="dgl", seed=1), tmp_path, "seed")
    for name, content in (("junk", "{"), ("list", "[1]"), ("number", '{"config": 3}'), ("old", '{"config": {"gone": 1}}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(content)
    wanted = make_config(method="dgl")
    before = contents(tmp_path)
    assert "far differs in: augment" in refused(opened, wanted, tmp_path, resume=True)
    assert contents(tmp_path) == before
    opened(near, tmp_path, "near")
    text = refused(opened, wanted, tmp_path, resume=True)
    assert f"nothing to resume at {tmp_path / wanted.run_name()}" in text
    assert f"{tmp_path / 'near'} differs in: lr 0.01 there, 0.0003 here" in text
    assert not (tmp_path / wanted.run_name()).exists()
    assert "nothing to resume" in refused(opened, wanted, tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


def test_resume_with_another_config_names_the_fields(tmp_path):
    opened(make_config(lr=1e-2, width=4), tmp_path, "mine")
    before = contents(tmp_path)
    text = refused(opened, make_config(lr=1e-3, width=4, augment=True), tmp_path, "mine", resume=True)
    assert "augment False there, True here" in text
    assert "lr 0.01 there, 0.001 here" in text
    assert "width" not in text
    assert contents(tmp_path) == before


def test_resume_with_other_data_is_refused(tmp_path):
    opened(make_config(), tmp_path)
    text = refused(opened, make_config(), tmp_path, resume=True, info={"data_fingerprint": "11"})
    assert "the data 'digits' are not the ones" in text
    assert "it cannot be resumed" in text
    assert opened(make_config(), tmp_path, resume=True).path.exists()


def test_resume_of_a_finished_run_changes_no_number(run, tmp_path):
    context = RunContext(out=tmp_path)
    first = train_run(run.config, context)
    before = contents(first.path)
    train_run(run.config, replace(context, resume=True))
    assert contents(first.path) == before


def test_the_table_of_an_earlier_version_without_a_score_reads_and_goes_on_with_its_own_columns(tmp_path):
    config = make_config(method="bp", **SMALL)
    writer = Writer.open(config, tmp_path, "old", resume=False, overwrite=False, info={})
    first, second = Metric("test", 0, 0, 2.0, 0.5, 0.5), Metric("test", 1, 4, 1.0, 0.75, 0.75, 0.75, "accuracy")
    path = writer.path / "metrics.csv"
    path.write_text(csv_line(Metric._fields[:6]) + csv_line(first[:6]), encoding="utf-8")
    writer.append("metrics", [second])
    writer.close()
    assert [len(line.split(",")) for line in path.read_text(encoding="utf-8").splitlines()] == [6, 6, 6]
    rows = read_table(path, Metric)
    assert [row[:6] for row in rows] == [first[:6], second[:6]]
    assert [(math.isnan(row.score), row.score_name) for row in rows] == [(True, "")] * 2
    assert best_epoch(rows) == rows[1]
