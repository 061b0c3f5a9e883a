"""What a person sees: lines where there is no terminal, a live line where there is one, nothing if quiet."""

import re

import pytest

from gradlens.cli import progress
from gradlens.cli.progress import Display


def step(step, total=20, epoch=1, loss=1.5, accuracy=0.25, images_per_s=1234.5):
    return {"step": step, "total": total, "epoch": epoch, "loss": loss, "accuracy": accuracy, "images_per_s": images_per_s}


def metric(split="test", epoch=1, loss=0.5, accuracy=0.75, best=0.8, score=None, score_name="accuracy"):
    numbers = {"split": split, "epoch": epoch, "step": 10, "loss": loss, "accuracy": accuracy, "best": best}
    return {**numbers, "score": accuracy if score is None else score, "score_name": score_name}


def tell(watch):
    watch("evaluate", {"epoch": 0})
    watch("metric", metric(epoch=0, accuracy=0.1, best=0.1))
    for i in (1, 2, 3):
        watch("step", step(i))
    watch("metric", metric("train", accuracy=0.3))
    watch("evaluate", {"epoch": 1})
    watch("metric", metric())


@pytest.fixture
def no_terminal(monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")


def test_without_a_terminal_each_evaluation_is_a_line_on_stderr(no_terminal, capsys):
    with Display(quiet=False) as display:
        tell(display.watch("dgl", 5))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "dgl: epoch 0/5: test 10.0% (best 10.0%), test loss 0.5000",
        "dgl: epoch 1/5: test 75.0% (best 80.0%), test loss 0.5000",
    ]


def test_without_a_terminal_steps_are_reported_every_few_seconds_with_the_time_left(no_terminal, capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Display(quiet=False) as display:
        watch = display.watch("dgl", 2)
        for i in range(11, 21):  # a resumed run: its first step here is the eleventh
            now[0] += 4
            watch("step", step(i, total=20, epoch=2))
    lines = capsys.readouterr().err.splitlines()
    assert [re.search(r"step (\d+)/20", line)[1] for line in lines] == ["14", "18"]
    assert [re.search(r"about (\d+) s left", line)[1] for line in lines] == ["24", "8"]  # 4 s each for what is left
    assert all("epoch 2/2  loss 1.5000  acc 25.0%  1,234 images/s" in line for line in lines)


def test_several_runs_are_counted(no_terminal, capsys):
    with Display(quiet=False, runs=2) as display:
        display.watch("bp", 1)("metric", metric())
        display.watch("dgl", 1)("metric", metric())
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == ["[1/2] bp", "[2/2] dgl"]


@pytest.mark.parametrize("kind", ["terminal", "no_terminal"])
def test_quiet_says_nothing(kind, request, capsys):
    request.getfixturevalue(kind)
    with Display(quiet=True, runs=3) as display:
        tell(display.watch("bp", 2))
    assert capsys.readouterr() == ("", "")


def test_a_live_line_on_a_terminal(terminal, capsys):
    with Display(quiet=False, runs=2) as display:
        tell(display.watch("cdni", 5))
        (task,) = display.live.tasks
        assert (task.completed, task.total) == (3, 20)
    out, err = capsys.readouterr()
    assert out == ""
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", err)
    assert "[1/2] cdni" in text
    assert "evaluating, test 10.0% (best 10.0%)" in text
    assert "\n".join(text.splitlines()).count("test loss") == 0  # no lines of its own beside the live one


def test_a_live_line_is_gone_after_an_exception(terminal, capsys):
    display = Display(quiet=False)
    display.watch("bp", 1)
    with pytest.raises(KeyboardInterrupt), display:
        raise KeyboardInterrupt
    assert not display.live.live.is_started


def test_numbers_that_are_not_there(no_terminal, capsys):
    """Rules without labels have no accuracy."""
    with Display(quiet=False) as display:
        display.watch("simclr", 1)("metric", metric(accuracy=float("nan"), best=float("nan")))
    assert "test loss 0.5000" in capsys.readouterr().err


@pytest.mark.parametrize("part", [1, 20])
def test_what_will_take_long_says_how_long_as_soon_as_a_part_is_done(part, no_terminal, capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Display(quiet=False) as display:
        show = display.count("bench")
        for done in range(11):
            show(done, 10, "a step")
            now[0] += part
    lines = capsys.readouterr().err.splitlines()
    if part == 1:  # ten seconds in all
        assert lines == []
    else:
        assert lines[0] == "bench: about 200 s in all"
        assert lines[1] == "bench: 2/10 a step, about 160 s left"


def test_work_that_begins_anew_is_estimated_anew(no_terminal, capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Display(quiet=False) as display:
        show = display.count("probe")
        show(0, 2, "a")
        now[0] += 5
        show(1, 2, "b")
        show(0, 4, "c")
        now[0] += 12
        show(1, 4, "d")
    assert capsys.readouterr().err == "probe: about 48 s in all\n"


def test_a_score_that_is_no_accuracy_is_named(capsys):
    with Display(quiet=False) as display:
        display.watch("bp", 3)("metric", metric(score=7.983, best=7.5, score_name="perplexity"))
    assert "epoch 1/3: test perplexity 7.98 (best 7.50), test loss 0.5000" in capsys.readouterr().err
