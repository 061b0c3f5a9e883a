"""Consoles, names and files as people have them: encodings, byte order marks, paths that are no UTF-8, and hints that can be pasted."""

import io
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import shelf
from matplotlib.figure import Figure
from tiny_runs import tiny
from worked_examples import code_in

from gradlens.cli.main import main
from gradlens.cli.progress import Display
from gradlens.reporting.aggregate import CurvePoint
from gradlens.reporting.style import save_figure
from gradlens.runtime.errors import InputError
from gradlens.training.context import RunContext
from gradlens.training.run_directory import load_run
from gradlens.training.runs import train_run as training
from gradlens.training.sweep.study import read_study

(EXAMPLE,) = code_in("CONTRIBUTING.md", "example: tests/test_contributing.py runs this")  # a rule in a file
BYTE = "caf\udce9"  # what Python makes of a file name that is Latin-1
NAMES = [BYTE, 'it\'s "mine"', "two\nlines", "-dash", "$x$", "a`b`", "[/x]", "日本 ü"]
SMALL = ["--model", "mlp", "--width", "4", "--epochs", "1", "--limit", "40", "--limit-test", "20", "--batch-size", "20", "--quiet"]


@pytest.fixture(autouse=True)
def empty_folder(own_code_forgotten, monkeypatch, few_pixels):
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture
def on(monkeypatch):
    """Run the program on a console of some encoding: (exit status, stdout, stderr), both decoded strictly."""

    def run(encoding, *words):
        streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict") for _ in range(2)]
        with monkeypatch.context() as m:
            m.setattr(sys, "argv", ["gradlens", *map(str, words)])
            m.setattr(sys, "stdout", streams[0])
            m.setattr(sys, "stderr", streams[1])
            with pytest.raises(SystemExit) as exit_:
                main()
            said = []
            for stream in streams:
                stream.flush()
                said.append(stream.buffer.getvalue().decode(encoding))
        return exit_.value.code, *said

    return run


def a_run(folder, method="bp"):
    """A finished run in a folder of that name."""
    return shutil.copytree(shelf.trained(tiny(method)).path, Path(folder) / method)


def pasted(line):
    """The words that bash makes of a hint."""
    command = line.partition(": ")[2]
    return list(map(os.fsdecode, subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True).stdout.split(b"\0")[:-1]))


def hint(out):
    """The line that says what to type next."""
    (line,) = [line for line in out.splitlines() if line.startswith("next: ")]
    return pasted(line)


# ---------------------------------------------------------------------------------------------------------- consoles


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "cp437"])
def test_every_console_shows_what_commands_print(encoding, on):
    run = a_run(BYTE)
    for words in (["list", "methods"], ["list", "quantities"], ["list", "models"], ["list", "data"], ["--help"], ["train", "--help"]):
        assert on(encoding, *words)[0] == 0, words
    status, out, _ = on(encoding, "show", run)
    assert status == 0
    assert out.startswith(r"caf\xe9/bp: finished")
    assert on(encoding, "doctor", "--quiet", run)[0] in (0, 1)
    status, out, err = on(encoding, "figures", "日本 – no")
    assert (status, out) == (2, "")
    assert err.endswith(" does not exist\n")
    assert on(encoding, "train", "bp", "--nö")[0] == 2


def test_numbers_keep_their_minus_and_tables_their_lines(on, monkeypatch):
    _, out, _ = on("ascii", "list", "quantities")
    assert "?" not in out.replace("?)", "")
    run = a_run("runs")
    _, out, _ = on("ascii", "show", run)
    assert "+--" in out
    assert "?" not in out
    for columns in ("1", "0", "20", "-3", "abc", ""):
        monkeypatch.setenv("COLUMNS", columns)
        assert on("utf-8", "show", run)[0] == 0


def test_names_are_no_markup_of_the_live_display(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with Display(False) as display:
        display.watch("[/x]", 1)
        display.count("[/y]")(1, 2, "[/z]")
        display.live.refresh()
    assert "[/y]" in sys.stderr.getvalue()


def test_a_full_disk_behind_stdout_is_one_sentence_and_a_closed_pipe_is_none(monkeypatch, capfd):
    run = a_run("runs")
    for full, status, said in ((True, 2, "gradlens: cannot write to stdout: no space left on device\n"), (False, 1, "")):
        for words in (["list", "data"], ["show", str(run)]):
            read, write = os.pipe()
            os.close(read)
            with open(write, "w") as pipe, open("/dev/full", "w") as disk, monkeypatch.context() as m:
                m.setattr(sys, "argv", ["gradlens", *words])
                m.setattr(sys, "stdout", disk if full else pipe)
                with pytest.raises(SystemExit) as exit_:
                    main()
            assert exit_.value.code == status, words
            assert capfd.readouterr().err == said


@pytest.mark.slow
def test_the_c_locale_without_utf_8_trains_studies_and_reads(tmp_path):
    """Every file that is read or written has an encoding of its own: that of the locale is ASCII here."""
    study = STUDY.replace('data = "ünï"', 'model = "mlp"\nlimit = 40\nbatch-size = 20\nepochs = 1')
    (tmp_path / "study.toml").write_text(study, encoding="utf-8")
    code = (
        "import contextlib, sys\nfrom gradlens.cli.main import main\n"
        "for words in (['train', 'bp', *sys.argv[1:], '--out', 'caf\\udcc3\\udca9', '--run-name', 'one'],\n"
        "              ['sweep', 'study.toml', '--out', 'study', '--jobs', '1', '--quiet'], ['list', 'methods']):\n"
        "    sys.argv = ['gradlens', *words]\n    try:\n        main()\n    except SystemExit as end:\n        assert not end.code, words\n"
    )
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code, *SMALL], cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.isascii()
    assert load_run(tmp_path / "café" / "one").finished
    assert (tmp_path / "study" / "summary.csv").exists()


# ------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("name", NAMES)
def test_hints_can_be_pasted_whatever_a_folder_is_called(name, on):
    status, out, _ = on("utf-8", "train", "bp", *SMALL, f"--out={name}", "--run-name", "one")
    assert status == 0
    assert hint(out) == ["gradlens", "figures", f"./{name}/one" if name.startswith("-") else f"{name}/one"]
    status, out, _ = on("utf-8", "report", f"./{name}/one", "-o", f"./{name}/page.html")
    assert status == 0
    Path(name, "page.html").read_text(encoding="utf-8")
    status, out, _ = on("utf-8", "tensorboard", f"./{name}/one", "--quiet", "--out", f"./{name}/log")
    assert status == 0
    assert hint(out) == ["tensorboard", "--logdir", f"./{name}/log" if name.startswith("-") else f"{name}/log"]
    stored = json.loads(Path(name, "one", "config.json").read_text(encoding="ascii"))["command"]
    assert f"--out={name}" in pasted(f": {stored}")
    status, out, err = on("utf-8", "show", f"./{name}/no")
    assert status == 2
    assert err.count("\n") == 1


def test_own_rules_and_data_with_odd_names_train_and_are_drawn(on):
    """Data and rule stand in titles and labels."""
    name = f"{BYTE} $\\frac$ 日本"
    images, labels = np.zeros((40, 8, 8), np.uint8), np.arange(40) % 2
    with open(f"{name}.npz", "wb") as file:
        np.savez(file, train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    Path(f"{name}.py").write_text(EXAMPLE, encoding="utf-8")
    for rule in ("bp", f"{name}.py:SignBackprop"):
        assert on("utf-8", "train", rule, *SMALL, "--data", f"./{name}.npz", "--run-name", rule[:2])[0] == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        status, _, err = on("utf-8", "figures", *Path("runs").iterdir(), "--out", f"./{name}")
    assert (status, err) == (0, "")
    for file in Path(name).iterdir():
        if file.suffix != ".png":
            file.read_text(encoding="utf-8")


def test_names_stand_in_figures_as_they_are_and_ticks_stay_formulae(tmp_path):
    figure = Figure()
    ax = figure.subplots()
    ax.loglog([1, 1e6], [1, 1e9], label="$\\frac$")
    ax.legend()
    figure.suptitle(f"{BYTE} 日本 $x$ −1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(figure, [CurvePoint(*[0] * len(CurvePoint._fields))], tmp_path, "f")
    assert figure._suptitle.get_text() == r"caf\xe9 日本 $x$ −1"
    assert not figure._suptitle.get_parse_math()
    assert not ax.get_legend().get_texts()[0].get_parse_math()
    ticks = [label for label in ax.get_xticklabels() if label.get_text()]
    assert ticks
    assert all(label.get_parse_math() for label in ticks)


# ------------------------------------------------------------------------------------------------------------- files


CONFIG = '{"method": "bp", "model": "mlp", "width": 4, "limit": 40, "limit_test": 20, "batch_size": 20, "epochs": 1}'


@pytest.mark.parametrize(
    "content", [CONFIG.encode("utf-8-sig"), CONFIG.replace(", ", ",\r\n").encode(), CONFIG.encode("utf-8-sig") + b"\r\n\r\n"]
)
def test_configs_of_other_editors_are_read(content, program):
    Path("c.json").write_bytes(content)
    assert program("train", "--config", "c.json", "--quiet")[0] == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (CONFIG.encode("utf-16"), "c.json is UTF-16: save it as UTF-8"),
        (
            CONFIG.replace("mlp", "é").encode("latin-1"),
            f"c.json is not UTF-8 (byte 0xe9 at position {CONFIG.index('mlp') + 1}, in line 1): save it as UTF-8",
        ),
        (CONFIG[:-5].encode(), "c.json is not a JSON config: "),
        (CONFIG.replace('"epochs"', '"width": 8, "epochs"').encode(), "c.json is not a JSON config: the key 'width' occurs twice"),
        (CONFIG.replace('"epochs": 1', '"lr": NaN').encode(), "lr"),
        (CONFIG.replace('"epochs": 1', '"lr": 1e999').encode(), "lr"),
        (b"[1]", "c.json is not a JSON config: expected an object"),
        (b"", "c.json is not a JSON config: it is empty"),
    ],
)
def test_configs_that_are_none_are_refused_by_their_name(content, said, program):
    Path("c.json").write_bytes(content)
    status, out, err = program("train", "bp", "--config", "c.json", "--quiet")
    assert (status, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert not Path("runs").exists()


STUDY = 'methods = ["bp"]  # für später\n[settings]\ndata = "ünï"\n'


def test_studies_are_read_with_a_mark_and_refused_in_other_encodings(tmp_path):
    file = tmp_path / "study.toml"
    for content in (STUDY.encode("utf-8-sig"), STUDY.replace("\n", "\r\n").encode(), STUDY.encode()):
        file.write_bytes(content)
        assert read_study(file).settings == {"data": "ünï"}
    for content, said in (
        (STUDY.encode("latin-1"), f"is not UTF-8 (byte 0xfc at position {STUDY.index('ü') + 1}, in line 1)"),
        (STUDY.encode("utf-16"), "is UTF-16: save it as UTF-8"),
        (STUDY.encode("cp1252"), "is not UTF-8"),
        (STUDY.encode("utf-16-le"), "is no"),
        (b"a = " + b"[" * 50_000, "is not TOML: "),
        (STUDY[:-3].encode(), "is not TOML: "),
    ):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"study\.toml is") as error:
            read_study(file)
        assert said in str(error.value)


OWN = EXAMPLE.replace('"""', '"""Für ', 1).encode("latin-1", "replace").decode("latin-1")


@pytest.mark.parametrize(
    "content",
    [OWN.encode("utf-8-sig"), OWN.replace("\n", "\r\n").encode(), b"# -*- coding: latin-1 -*-\n" + OWN.encode("latin-1")],
    ids=["mark", "crlf", "declared"],
)
def test_own_rules_of_other_editors_are_imported(content, program):
    Path("rule.py").write_bytes(content)
    assert program("train", "rule.py:SignBackprop", *SMALL)[0] == 0


@pytest.mark.parametrize("content", [OWN.encode("latin-1"), OWN.encode("utf-16"), OWN.encode("utf-16-le"), b"\0"])
def test_own_rules_in_other_encodings_are_one_sentence_that_names_the_file(content, program):
    Path("rule.py").write_bytes(content)
    status, out, err = program("train", "rule.py:SignBackprop", *SMALL)
    assert (status, out) == (2, "")
    assert "rule.py" in err.splitlines()[-1]
    assert "UTF-8" in err
    assert "Traceback" not in err


def test_a_runs_files_are_read_as_editors_leave_them(program):
    run = a_run("runs")
    for file in ("config.json", "summary.json", "metrics.csv", "gradients.csv"):
        text = (run / file).read_text(encoding="utf-8")
        (run / file).write_bytes((text.replace("\n", "\r\n") + "\r\n").encode("utf-8-sig"))
    read, whole = load_run(run), load_run(shelf.trained(tiny("bp")).path)
    assert (read.config, read.metrics, read.summary) == (whole.config, whole.metrics, whole.summary)
    assert program("show", run)[0] == 0
    with (run / "metrics.csv").open("ab") as file:
        file.write(b"test,9\n")
    status, _, err = program("show", run)
    assert status == 2
    assert "metrics.csv is not a table of gradlens: line " in err
    assert "has 2 cells, wanted 8" in err


def test_a_table_that_an_editor_changed_is_not_cut_at_a_byte_that_is_another(program):
    """Resuming counts bytes: with another line end it would cut a row in two."""
    run = a_run("runs")
    (run / "summary.json").unlink()
    before = (run / "metrics.csv").read_bytes()
    for changed in (before.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + before, before[:-20] + b"9" + before[-20:]):
        (run / "metrics.csv").write_bytes(changed)
        with pytest.raises(InputError, match=r"metrics.csv was changed by another program: .*--overwrite starts over"):
            training.train_run(tiny("bp"), RunContext(out=Path("runs"), name="bp", resume=True))
        assert (run / "metrics.csv").read_bytes() == changed


# ------------------------------------------------------------------------------------------------------------ Ctrl-C


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_ctrl_c_before_a_run_is_begun_advises_what_works(program, monkeypatch):
    with monkeypatch.context() as m:
        m.setattr(training, "build_on_rank", interrupt)
        status, _, err = program("train", "bp", *SMALL, "--out", "my runs")
    assert status == 130
    assert "--resume" not in err
    again = pasted(": " + err.split("`")[1])
    assert again == ["gradlens", "train", "bp", *SMALL, "--out", "my runs"]
    assert program(*again[1:])[0] == 0


def test_ctrl_c_within_a_run_advises_to_resume_it(program, monkeypatch):
    def after_an_update(state, *_):
        state.position = state.position._replace(step=1)
        interrupt()

    with monkeypatch.context() as m:
        m.setattr(training, "fit", after_an_update)
        status, _, err = program("train", "bp", *SMALL, "--out", "my runs", "--overwrite")
    assert status == 130
    again = pasted(": " + err.split("`")[1])
    assert again == ["gradlens", "train", "bp", *SMALL, "--out", "my runs", "--resume"]
    assert program(*again[1:])[0] == 0


def test_ctrl_c_before_the_first_update_leaves_nothing_and_advises_to_start_again(program, monkeypatch):
    with monkeypatch.context() as m:
        m.setattr(training, "fit", interrupt)
        status, _, err = program("train", "bp", *SMALL, "--out", "my runs")
    assert status == 130
    assert not list(Path("my runs").iterdir())
    assert pasted(": " + err.split("`")[1]) == ["gradlens", "train", "bp", *SMALL, "--out", "my runs"]
