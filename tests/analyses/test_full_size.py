"""The runner of the reference study: stopped by the clock, killed, gone on with; csv files without a torn or double row."""

import json
import os
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from analyses.full_size import figures, items, readings, results, runner
from analyses.full_size.__main__ import main
from analyses.full_size.data import decoded
from gradlens.runtime.errors import InputError
from gradlens.training.config import make_config
from gradlens.training.context import RunContext
from gradlens.training.run_directory import load_run

EPOCHS = 3
TINY = {"data": "digits", "model": "mlp", "width": 4, "limit": 200, "limit_test": 50, "batch_size": 50, "epochs": EPOCHS}


def item(name, method="bp", until=EPOCHS, **changes):
    config = make_config(**{**TINY, "method": method, "record_every": 2, "diagnose_every": 1, **changes})
    return items.Item(name, "tiny", name, 1, config, until)


@pytest.fixture
def listed():
    return [item("a"), item("b", "dgl")]


@pytest.fixture
def machine(tmp_path):
    cpu = torch.device("cpu")
    return runner.Machine(tmp_path / "runs", tmp_path / "results", cpu, "fp32", "digits", "digits", "one", say=lambda text: None)


class Clock:
    """A clock that stands still until it has been asked some number of times, and then is far ahead."""

    def __init__(self, asked):
        self.left = asked

    def monotonic(self):
        self.left -= 1
        return 0.0 if self.left >= 0 else 1e9

    def strftime(self, form):
        return "2026-01-01T00:00:00"


def epochs(machine, which):
    return [row["epoch"] for row in results.read_rows(machine.csv(which))]


def run_dir(machine, which):
    return machine.out / f"{which.name}-{machine.config(which).digest()}"


def rows_without(machine, which, *columns):
    return [{k: v for k, v in row.items() if k not in columns} for row in results.read_rows(machine.csv(which))]


def test_the_whole_list(listed, machine):
    done, left = runner.work(listed, machine)
    assert (done, left) == (["a", "b"], [])
    for each in listed:
        rows = results.read_rows(machine.csv(each))
        assert [row["epoch"] for row in rows] == [0, 1, 2, 3]
        run = load_run(run_dir(machine, each))
        assert [row["test_accuracy"] for row in rows] == pytest.approx([m.accuracy for m in run.metrics if m.split == "test"], abs=1e-6)
        assert {row["item"] for row in rows} == {each.name}
        assert (rows[1]["device"], rows[1]["precision"], rows[1]["commit"], rows[1]["seed"]) == ("cpu", "fp32", "one", 0)


def test_an_epochs_cosine_is_the_mean_over_its_recorded_steps(listed, machine):
    runner.work(listed[1:], machine)
    run = load_run(run_dir(machine, listed[1]))
    mine = [r for r in run.gradients if (r.layer, r.kind, r.quantity) == ("block1.linear", "weight", "cosine") and 4 <= r.step < 8]
    assert len(mine) == 2
    assert results.read_rows(machine.csv(listed[1]))[2]["cosine:block1.linear"] == pytest.approx(sum(r.value for r in mine) / 2, rel=1e-5)
    ratios = [r for r in run.gradients if (r.layer, r.kind, r.quantity) == ("block1.linear", "weight", "norm_ratio") and 4 <= r.step < 8]
    geometric = float(np.exp(np.mean(np.log([r.value for r in ratios]))))
    row = results.read_rows(machine.csv(listed[1]))[2]
    assert row["norm_ratio:block1.linear"] == pytest.approx(geometric, rel=1e-5)
    assert {"null:block1.linear", "noise_ceiling:block1.linear"} <= set(row)


def test_stopped_by_the_clock_and_gone_on_with(listed, machine, monkeypatch, tmp_path):
    whole = replace(machine, out=tmp_path / "whole", results=tmp_path / "whole results")
    runner.work(listed, whole)
    monkeypatch.setattr(runner, "time", Clock(9))
    done, left = runner.work(listed, machine, minutes=1)
    assert left == ["a", "b"]
    assert not done
    assert epochs(machine, listed[0]) in ([0, 1], [0, 1, 2])
    assert epochs(machine, listed[1]) == []
    monkeypatch.undo()
    assert runner.work(listed, machine) == (["a", "b"], [])
    for each in listed:  # bit for bit what an uninterrupted run has; but for the time it took
        assert rows_without(machine, each, "seconds", "images_per_s", "begun") == rows_without(
            whole, each, "seconds", "images_per_s", "begun"
        )


def test_killed_in_the_middle_and_gone_on_with(listed, machine):
    class Killed(BaseException):
        pass

    said = []

    def die(text):
        said.append(text)
        if len(said) == 2:
            raise Killed

    with pytest.raises(Killed):
        runner.work(listed, replace(machine, say=die))
    assert epochs(machine, listed[0]) == [0, 1, 2]
    assert runner.work(listed, machine) == (["a", "b"], [])
    assert epochs(machine, listed[0]) == [0, 1, 2, 3]


@pytest.mark.slow
def test_killed_by_the_system(tmp_path, machine):
    code = (
        "import sys, torch; from pathlib import Path; from analyses.full_size import runner; from test_full_size import item;"
        "at = Path(sys.argv[1]); cpu = torch.device('cpu');"
        "m = runner.Machine(at / 'runs', at / 'results', cpu, 'fp32', 'digits', 'digits', 'one');"
        "runner.work([item('a', epochs=400, until=400)], m)"
    )
    root = Path(__file__).resolve().parents[2]
    paths = os.pathsep.join(map(str, (root, Path(__file__).parent, os.environ.get("PYTHONPATH", ""))))
    environ = {**os.environ, "PYTHONPATH": paths}
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environ, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if "epoch 2" in line:
            process.kill()
            break
    process.wait()
    a = item("a", epochs=400, until=6)
    before = epochs(machine, a)
    assert before == list(range(len(before)))
    runner.work([a], machine)
    assert epochs(machine, a)[:7] == list(range(7))


def test_a_part_ends_at_its_epoch_and_the_next_goes_on(machine):
    first, second = item("a", until=1), item("a", until=3)
    assert runner.work([first], machine)[0] == ["a@1"]
    assert epochs(machine, first) == [0, 1]
    begun = (run_dir(machine, first) / runner.BEGUN).read_text()
    assert runner.work([first, second], machine)[0] == ["a@1", "a"]
    assert epochs(machine, second) == [0, 1, 2, 3]
    assert (run_dir(machine, first) / runner.BEGUN).read_text() == begun


@pytest.mark.parametrize(
    ("best", "asked"),
    [(1e-3, 3), (3e-3, 4), (1e-2, 5), (1.0, 5), (3e-4, 4), (1e-9, 5)],
)
def test_a_grid_is_widened_while_its_best_is_at_an_end(best, asked):
    scores = {}
    found = runner._widened((3e-4, 1e-3, 3e-3), scores, lambda lr: -abs(np.log(lr / best)))
    assert len(scores) == asked
    assert found == max(scores, key=scores.get)
    if asked < 5:
        assert min(scores) < found < max(scores)


def test_rows_of_another_commit_are_marked(machine):
    a = item("a", until=1)
    runner.work([a], machine)
    later = replace(machine, commit="two")
    runner.work([item("a")], later)
    assert [row["commit"] for row in results.read_rows(machine.csv(a))] == ["one", "one", "two", "two"]
    assert runner.standing(item("a"), machine)["made_by"] == "one, two"


def test_begun_anew_the_longer_result_stays_until_it_is_reached(machine, tmp_path):
    runner.work([item("a", until=2)], machine)
    old = results.read_rows(machine.csv(item("a")))
    elsewhere = replace(machine, out=tmp_path / "elsewhere", commit="two")  # the run directory is gone
    fresh = [{**row, "begun": "later", "commit": "two"} for row in old]
    assert results.merged(old, fresh[:2]) == old
    assert results.merged(old, fresh) == fresh
    assert runner.work([item("a")], elsewhere)[0] == ["a"]
    assert {row["commit"] for row in results.read_rows(machine.csv(item("a")))} == {"two"}


def test_other_settings_stand_in_nobodys_way(machine):
    """Another precision, rate or spelling of a path: a run directory of its own, whose rows count once they are as many."""
    runner.work([item("a", until=2)], machine)
    before = results.read_rows(machine.csv(item("a")))
    assert runner.work([item("a", lr=1e-2), item("b", "dgl", until=1)], machine) == (["a", "b@1"], [])
    assert len(list(machine.out.glob("a-*"))) == 2
    after = results.read_rows(machine.csv(item("a")))
    assert (before[-1]["lr"], after[-1]["lr"], after[-1]["epoch"]) == (3e-4, 1e-2, 3)


def test_the_clock_stops_the_choice_of_a_rate_too(machine, monkeypatch):
    monkeypatch.setitem(runner.RATE_TRIALS, "tiny", {**TINY, "method": "bp", "epochs": 400, "record_every": 0})
    a = replace(item("a", until=1), rate="tiny")
    monkeypatch.setattr(runner, "time", Clock(6))
    assert runner.work([a, item("b", until=1)], machine, minutes=1) == ([], ["a@1", "b@1"])
    assert not (machine.results / "rates.json").exists()
    (trial,) = (machine.out / "rates").glob("bp-*")
    assert not load_run(trial).finished  # saved, and gone on with the next time


@pytest.mark.parametrize("part", items.items(cpu=False), ids=lambda part: part.part)
def test_a_part_fits_eight_minutes_of_a_data_centre_gpu(part):
    """At an assumed 40 TMAC/s (a tenth of such a device's bf16 rate) and 10 ms an update, whichever are slower together."""
    before = max((i.until for i in items.items(cpu=False) if i.name == part.name and i.until < part.until), default=0)
    epochs = part.until - before
    images = part.config.data.limit or items.IMAGES
    seconds = items.multiply_adds(part, epochs) / 40e12 + 0.010 * epochs * -(-images // part.config.batch_size)
    assert seconds < 8 * 60


def test_a_loss_that_is_not_finite_ends_one_item(machine):
    bad = item("bad", optimizer="sgd", lr=1e30)
    said = []
    done, left = runner.work([bad, item("good")], replace(machine, say=said.append))
    assert (done, left) == (["good"], ["bad"])
    assert any("bad" in text and "became" in text for text in said)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda lines: [lines[0], lines[1][:40] + "\n", lines[2]], "torn row"),
        (lambda lines: [*lines, lines[-1]], "each should stand once"),
        (lambda lines: ["a,b,c\n", "1,2,3\n"], "its columns begin a, b, c"),
        (lambda lines: [lines[0], lines[2], lines[1]], "in order"),
    ],
)
def test_a_csv_that_is_not_whole_is_refused(machine, spoil, words):
    a = item("a", until=1)
    runner.work([a], machine)
    path = machine.csv(a)
    path.write_text("".join(spoil(path.read_text().splitlines(keepends=True))))
    with pytest.raises(InputError, match=words):
        results.read_rows(path)


@pytest.mark.parametrize("cut", [1, 40, -1], ids=["in its first cell", "in the middle", "before its line end"])
def test_a_last_line_that_was_cut_off_is_left_out(machine, cut):
    """Also where all its cells are there: the last number may have lost digits."""
    a = item("a", until=2)
    runner.work([a], machine)
    path = machine.csv(a)
    before, lines = results.read_rows(path), path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]) + lines[-1][:cut])
    assert results.read_rows(path) == before[:-1]
    assert runner.work([item("a")], machine)[0] == ["a"]  # gone on with: the run directory still has all
    assert epochs(machine, a) == [0, 1, 2, 3]


@pytest.mark.parametrize("content", [None, "", "item,ep"], ids=["missing", "empty", "cut off in its header"])
def test_a_csv_without_a_whole_line_holds_no_rows(tmp_path, content):
    path = tmp_path / "family" / "a.csv"
    path.parent.mkdir()
    if content is not None:
        path.write_text(content)
    assert results.read_rows(path) == []
    assert results.summary([])["epochs"] == 0


def test_what_is_shorter_is_drawn_as_far_as_it_is(listed, machine, monkeypatch, tmp_path):
    """Of two items one has all epochs and a torn line after them, the other one epoch; a third file is empty."""
    monkeypatch.setattr(figures, "items", lambda cpu=True: [*listed, item("c")])
    runner.work([listed[0], replace(listed[1], until=1)], machine)
    with machine.csv(listed[0]).open("a") as file:
        file.write("a,4,3,")
    machine.csv(item("c")).write_text("")
    assert figures.main(["--results", str(machine.results)]) == 0
    table = (machine.results / "tiny" / "drawn" / "table.md").read_text()
    assert [line.split(" | ")[0] for line in table.splitlines()[2:]] == ["| `a`", "| `b`"]
    assert " | 3 | " in table
    assert " | 1 of 3 | " in table
    drawn = (machine.results / "tiny" / "drawn" / "learning.csv").read_text()
    assert drawn.count("b,test_accuracy") == 2
    assert drawn.count("a,test_accuracy") == 4


def test_a_learning_rate_is_chosen_once_on_held_out_images(machine, monkeypatch):
    trial = {**TINY, "method": "bp", "width": 32, "epochs": 6, "record_every": 0}
    monkeypatch.setitem(runner.RATE_TRIALS, "tiny", trial)
    monkeypatch.setitem(runner.GRID, "adam", (1e-9, 3e-2))
    monkeypatch.setattr(runner, "_widened", lambda grid, scores, score: max(grid, key=lambda lr: scores.setdefault(lr, score(lr))))
    a = replace(item("a"), rate="tiny")
    assert machine.config(a).optimizer.lr == 3e-2
    kept = json.loads((machine.results / "rates.json").read_text())["tiny"]
    assert kept["at_an_end_of_the_grid"]
    assert kept["validation_accuracy"]["0.03"] > kept["validation_accuracy"]["1e-09"]
    (machine.results / "rates.json").write_text(json.dumps({"tiny": {"lr": 0.5}}))
    assert machine.config(a).optimizer.lr == 0.5


# ---------------------------------------------------------------------------------------------------------- the list


def test_the_list_is_as_the_study_was():
    listed = items.items()
    assert len({i.part for i in listed}) == len(listed)
    assert [i.priority for i in listed] == sorted(i.priority for i in listed)
    first = [i for i in listed if i.priority == 1]
    assert [i.label for i in first] == ["bp", "dgl", "dni published", "cdni published", "dni", "cdni"]
    for i in first:
        c = i.config
        assert (c.model.name, c.model.width, c.data.limit, c.batch_size, c.optimizer.name, c.optimizer.lr_schedule) == (
            "basic-cnn",
            None,
            None,
            256,
            "adam",
            "cosine",
        )
        assert not c.data.augment
    published = next(i for i in listed if i.name == "iteration1-dni-s0").config
    assert (published.optimizer.lr, published.batch_size, published.options["target"], published.options["zero_bias"]) == (
        3e-5,
        256,
        "mean",
        False,
    )
    assert len([i for i in listed if i.family == "scale"]) == 2 * 2 * 3 * 2 * 5
    assert {i.until for i in listed if i.family == "iteration2-vgg16"} == {16, 31}
    assert [i.config.epochs for i in items.items(cpu=False) if i.priority == 1] == [8] * 6
    names = {cpu: {i.name: i.config for i in items.items(cpu=cpu)} for cpu in (False, True)}
    assert all(names[True][name] == names[False][name] for name in names[True].keys() & names[False].keys())  # one name, one training


def test_multiply_adds_of_the_first_item():
    bp = next(i for i in items.items() if i.name == "fast-bp-s0")
    forward = 3 * 128 * 25 * 32**2 + 128 * 128 * 25 * (16**2 + 8**2) + 2048 * 256 + 256 * 10
    no_input_gradient = 3 * 128 * 25 * 32**2  # nothing asks for the image's own gradient
    assert items.multiply_adds(bp) == pytest.approx((3 * forward - no_input_gradient) * 50_000 * 8, rel=1e-6)
    assert items.multiply_adds(items.at_width(bp, 64)) < items.multiply_adds(bp) / 3


def test_another_width_is_said_in_the_name():
    bp = items.items()[0]
    assert items.at_width(bp, 128) is bp
    narrow = items.at_width(bp, 64)
    assert (narrow.name, narrow.family, narrow.config.model.width) == ("fast-bp-s0-w64", "iteration1-fast-w64", 64)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--items", "fast-bq-s0"], "fast-bp-s0"),
        (["--items", "7"], "unknown item"),
        (["--data", "nowhere", "--items", "1"], "no such data set"),
        (["--device", "gpu", "--list"], "cuda"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(argv, words, capsys, tmp_path):
    assert main([*argv, "--out", str(tmp_path / "o"), "--results", str(tmp_path / "r")]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1


def test_the_list_is_printed(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_rate_here", lambda device, precision: 1e10)
    assert main(["--list", "--items", "1", "--width", "8", "--results", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert len([line for line in out.splitlines() if line.startswith("fast-")]) == 6
    assert "0 of 8" in out


def test_minutes_must_be_above_zero(capsys):
    assert main(["--minutes", "0"]) == 2
    assert capsys.readouterr().err == "error: --minutes must be above 0, got 0\n"


def test_items_of_another_width_answer_to_their_name():
    narrow = [items.at_width(i, 8) for i in items.items()]
    assert [i.name for i in runner.chosen(narrow, ["fast-bp-s0"])] == ["fast-bp-s0-w8"]
    assert runner.chosen(narrow, ["iteration1-fast"]) == runner.chosen(narrow, ["iteration1-fast-w8"])


def test_figures_of_nothing_and_of_a_foreign_file_are_refused(tmp_path, capsys):
    assert figures.main(["--results", str(tmp_path / "nowhere")]) == 2
    (tmp_path / "family").mkdir()
    (tmp_path / "family" / "fast-bp-s0.csv").write_text("a,b,c\n1,2,3\n")
    assert figures.main(["--results", str(tmp_path)]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "nothing to draw" in first
    assert "its columns begin a, b, c" in second


# ---------------------------------------------------------------------------------------------------------- the data


def picture_folder(folder):
    rng = np.random.default_rng(0)
    for half, n in (("train", 3), ("test", 2)):
        for c in ("cat", "dog"):
            (folder / half / c).mkdir(parents=True)
            for i in range(n):
                Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / half / c / f"{i}.jpg")
    return folder


@pytest.mark.parametrize("archive", [False, True])
def test_images_are_decoded_once(tmp_path, archive, monkeypatch):
    given = picture_folder(tmp_path / "pictures")
    if archive:
        with tarfile.open(tmp_path / "pictures.tar.gz", "w:gz") as tar:
            tar.add(given, "some/cifar10")
        given = tmp_path / "pictures.tar.gz"
    data, name = decoded(str(given), tmp_path / "cache")
    assert name == "CIFAR-10 (JPEG copy)"
    from gradlens.data.datasets import read
    from gradlens.data.image_folder import ImageFolder

    train, test, classes = read(data)
    wanted = ImageFolder(tmp_path / "pictures", cache=False).whole()
    assert torch.equal(train.images, wanted[0].images)
    assert torch.equal(test.labels, wanted[1].labels)
    assert classes == ("cat", "dog")
    written = Path(data).stat().st_mtime_ns
    assert decoded(str(given), tmp_path / "cache")[0] == data
    assert Path(data).stat().st_mtime_ns == written


def test_changed_images_are_decoded_again(tmp_path):
    given = picture_folder(tmp_path / "pictures")
    decoded(str(given), tmp_path / "cache")
    (given / "train" / "cat" / "0.jpg").unlink()
    from gradlens.data.datasets import read

    assert len(read(decoded(str(given), tmp_path / "cache")[0])[0]) == 5


# ------------------------------------------------------------------------------------------------------- the figures


def test_figures_say_what_the_rows_say(listed, machine):
    runner.work(listed, machine)
    family = {each.label: results.read_rows(machine.csv(each)) for each in listed}
    table = figures.table_of(family)
    final = family["b"][-1]
    assert f"| {100 * final['test_accuracy']:.1f} |" in table
    assert f"{final['cosine:block1.linear']:.2f}" in table
    drawn = figures.learning("tiny", family)
    assert len(drawn.axes) == 2
    grid = figures.alignment(family)
    drawn_layers, exact = figures._informative(figures.points(family))
    assert exact == ["block3.linear", "top.out"]  # dgl's last block and the top form one unit with the loss itself
    assert len(grid.axes) == 2 * len(drawn_layers) == 4
    assert figures.message(family).startswith("Best test accuracy: ")
    long = {f"{label} with a long name {i}": rows for i in range(3) for label, rows in family.items()}
    for figure in (figures.learning("tiny", long), figures.alignment(long)):
        figure.draw_without_rendering()
        assert all(text.get_window_extent().x1 <= figure.bbox.x1 for text in figure.texts)


def test_the_tables_of_the_docs_are_those_of_the_csv_files():
    page = (figures.ROOT / "docs" / "results" / "full-size.md").read_text()
    found = figures.families(figures.RESULTS)
    assert found
    assert figures.with_tables(page, found) == page
    for family in found.values():
        assert figures.table_of(family) in page


def test_families_are_found_by_their_items(tmp_path):
    row = dict.fromkeys(results.FIXED, "") | {"seed": 0, "width": 64, "updates": 1, "batch_size": 1, "lr": 1e-3, "of_epochs": 8}
    for name in ("fast-dgl-s0-w64", "fast-bp-s0-w64"):
        two = [{**row, "item": name, "epoch": e} for e in (0, 1)]
        results.write_rows(tmp_path / "iteration1-fast-w64" / f"{name}.csv", two)
    assert {name: list(family) for name, family in figures.families(tmp_path).items()} == {"iteration1-fast-w64": ["bp", "dgl"]}


def test_readings_belong_to_their_family():
    assert readings.of_family("iteration1-fast-w64")["dgl"][1] == 70.97
    assert readings.of_family("iteration2-fast-vgg16")["bp"][0] == 52.95
    assert readings.of_family("scale") == {}


def test_the_place_of_runs_has_no_part_in_the_rows(machine):
    runner.work([item("a", until=1)], machine)
    text = machine.csv(item("a")).read_text()
    assert str(machine.out) not in text
    assert RunContext().out.name not in text
