"""The reading of images is told of where it takes long and somebody can see it; a notice is said once."""

import builtins
import io
import sys
from types import SimpleNamespace

import pytest

from gradlens.runtime import progress
from gradlens.runtime.terminal import notice


@pytest.fixture
def now(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    return clock


def test_reading_is_reported_after_a_moment_and_ever_more_seldom(capsys, now):
    reading = progress.Reading()
    for done in range(100, 2001, 100):
        reading(done, 2000, "birds")
        now[0] += 1.0
    assert capsys.readouterr().err.splitlines() == [
        "gradlens: reading birds: 300 of 2,000 images, about 11 s left",
        "gradlens: reading birds: 800 of 2,000 images, about 10 s left",
        "gradlens: reading birds: 1,800 of 2,000 images, about 2 s left",
    ]
    for done in (500, 1000):  # another one, which is short
        reading(done, 1000, "birds")
        now[0] += 1.9
    assert capsys.readouterr().err == ""
    for done in (1, 2):  # and one whose last image is late
        reading(done, 2, "birds")
        now[0] += 3.0
    assert capsys.readouterr().err == "gradlens: reading birds: 2 of 2 images, 3 s\n"


def test_an_hour_of_reading_is_a_line_a_minute(capsys, now):
    reading = progress.Reading()
    for done in range(3600):
        reading(done + 1, 3600, "birds")
        now[0] += 1.0
    assert 60 <= len(capsys.readouterr().err.splitlines()) <= 64


class Screen(io.StringIO):
    def isatty(self):
        return True


def notebook(shell):
    return SimpleNamespace(get_ipython=lambda: shell)


@pytest.mark.parametrize(
    ("stderr", "ipython", "rank", "shown"),
    [
        (Screen(), None, "0", True),
        (Screen(), None, "1", False),
        (io.StringIO(), None, "0", False),
        (io.StringIO(), notebook(SimpleNamespace(kernel="a notebook")), "0", True),
        (io.StringIO(), notebook(SimpleNamespace()), "0", False),  # a terminal's, piped
        (io.StringIO(), notebook(None), "0", False),  # imported by a script
        (None, None, "0", False),
    ],
)
def test_in_python_reading_is_reported_on_a_terminal_and_in_a_notebook(stderr, ipython, rank, shown, monkeypatch, now):
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setenv("RANK", rank)
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    if ipython:
        monkeypatch.setitem(sys.modules, "IPython", ipython)
    report = progress.reading_progress()
    report(1, 2, "birds")
    now[0] += 3.0
    report(2, 2, "birds")
    assert ("reading birds" in stderr.getvalue() if stderr else False) == shown


def test_who_chose_a_progress_gets_it_also_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Screen())
    with progress.shows_reading(progress.no_progress):
        assert progress.reading_progress() is progress.no_progress


def test_a_notice_is_reported_once_by_the_first_rank_and_never_stops_the_work(capsys, monkeypatch):
    for _ in range(2):
        notice("once, for a test of notices")
    monkeypatch.setenv("RANK", "1")
    notice("of another rank, for a test of notices")
    assert capsys.readouterr().err == "gradlens: once, for a test of notices\n"

    def nobody_reads(*_, **__):
        raise BrokenPipeError

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(builtins, "print", nobody_reads)
    notice("to a closed pipe, for a test of notices")
