"""What a user typed and the system does not show or take is one sentence: a locked folder, a link, a name too long, a full disk."""

import builtins
import errno
import io
import os
import sys
from pathlib import Path

import pytest

from gradlens.cli import main
from gradlens.data import datasets
from gradlens.runtime import paths
from gradlens.runtime.errors import InputError

LONG = "a" * 300


@pytest.fixture
def locked(tmp_path, monkeypatch):
    """A folder that may not be searched, for root too."""
    folder = tmp_path / "locked"
    folder.mkdir()
    for name in ("x.npz", "x.py", "x.toml", "x.json", "x"):
        (folder / name).touch()

    def guarded(plain):
        def call(path, *args, **kwargs):
            if isinstance(path, str | Path) and folder in (Path(path), *Path(path).parents)[plain is state :]:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return plain(path, *args, **kwargs)

        return call

    state = os.stat
    for module, name in ((os, "stat"), (os, "scandir"), (io, "open"), (builtins, "open")):
        monkeypatch.setattr(module, name, guarded(getattr(module, name)))
    return folder


@pytest.mark.parametrize("asked", [paths.is_there, paths.is_file, paths.is_folder])
def test_nothing_is_an_answer_and_what_may_not_be_looked_at_an_error(asked, tmp_path, locked):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "file").touch()
    for nothing in ("none", "loop", "loop/x", "dangling", "file/x", "a\0b"):
        assert not asked(tmp_path / nothing), nothing
    assert asked(tmp_path / "file") == (asked is not paths.is_folder)
    assert asked(tmp_path) == (asked is not paths.is_file)
    for path, said in ((locked / "x", "permission denied"), (tmp_path / LONG, "file name too long")):
        with pytest.raises(InputError) as refused:
            asked(path)
        assert str(refused.value) == f"cannot read {path}: {said}"


@pytest.mark.parametrize("name", ["x.npz", "x.py:build", "x", ".", f"{LONG}.npz", f"{LONG}.py:build", LONG])
def test_data_that_may_not_be_looked_at_are_one_sentence(name, locked):
    with pytest.raises(InputError) as refused:
        datasets.read(str(locked / name) if name[0] != "a" else f"./{name}")
    assert str(refused.value).endswith(("permission denied", "file name too long"))


def run(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["gradlens", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        main.main()
    return left.value.code, capsys.readouterr().err


COMMANDS = {
    "rule": ("train", "{}.py:Rule"),
    "model": ("train", "bp", "--model", "{}.py:build"),
    "data": ("train", "bp", "--data", "{}.py:build"),
    "array file": ("train", "bp", "--data", "{}.npz"),
    "config": ("train", "bp", "--config", "{}.toml"),
    "study": ("sweep", "{}.toml", "--out", "o"),
    "run": ("show", "{}"),
    "page": ("report", "{}"),
    "resumed": ("train", "bp", "--init-from", "{}"),
}


@pytest.mark.parametrize("typed", COMMANDS)
def test_every_command_says_in_one_sentence_what_it_may_not_read(typed, locked, monkeypatch, capsys, own_code_forgotten):
    for stem, said in ((locked / "x", "permission denied"), (f"./{LONG}", "file name too long")):
        status, err = run(monkeypatch, capsys, *(word.format(stem) for word in COMMANDS[typed]))
        assert (status, err.count("\n")) == (2, 1), err
        assert said in err.lower()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_what_no_one_foresaw_of_a_disk_is_one_sentence_and_a_bug_keeps_its_traceback(code, monkeypatch, capsys):
    def breaks(*_, **__):
        raise OSError(code, os.strerror(code), "there")

    monkeypatch.setattr(main, "app", breaks)
    assert run(monkeypatch, capsys, "list") == (1, f"gradlens: cannot read or write there: {os.strerror(code).lower()}\n")
    code = errno.EBADF
    with pytest.raises(OSError, match="Bad file"):
        main.main()
