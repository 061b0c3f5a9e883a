"""Flags and names of the command line: written from ``Config`` and the registries, and answered without torch where a name is wrong."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gradlens.cli.flags import PANELS, RUN_FLAGS
from gradlens.cli.options import FLAGS, SYNONYMS, refuse_unknown_names
from gradlens.cli.settings import METHODS, MODELS, SETTINGS
from gradlens.runtime.errors import InputError
from gradlens.training.config import Config
from gradlens.training.config_fields import settings_of
from gradlens.training.user_references import SHIPPED

ROOT = Path(__file__).parents[2]
COMMAND = "python tools/write_settings.py"


def writer():
    spec = importlib.util.spec_from_file_location("write_settings", ROOT / "tools" / "write_settings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---------------------------------------------------------------------------------------------------------- what is written


def test_the_written_flags_are_up_to_date():
    module = writer()
    assert module.WRITTEN.read_text() == module.text(), f"gradlens/cli/settings.py is stale: `{COMMAND}` writes it anew"


def test_flags_and_config_agree():
    elsewhere = {"method", "options", "own", "ranks"}  # the argument, and --set; the files of FILE.py:NAME; torchrun's processes
    assert {flag.name.replace("-", "_") for flag in SETTINGS} == set(settings_of(Config)) - elsewhere
    assert (SHIPPED["method"], SHIPPED["model"]) == (METHODS, MODELS)
    for flag in SETTINGS:
        setting = settings_of(Config)[flag.name.replace("-", "_")]
        assert (flag.type, flag.paired) == (setting.type, setting.type is bool)
        if setting.default not in (None, False):
            said = flag.help.rpartition("(default ")[2].rstrip(")")
            assert said == str(setting.default) or float(said) == setting.default, flag
        assert all(choice in flag.help for choice in flag.choices)


def test_each_flag_stands_once_under_a_heading_that_is_shown():
    assert len({flag.name for flag in FLAGS}) == len(FLAGS) == len(SETTINGS) + len(RUN_FLAGS)
    assert {flag.panel for flag in FLAGS} == set(PANELS)
    words = [word for flag in FLAGS for word in flag.synonyms]
    assert len(set(words)) == len(words)
    assert not set(words) & {flag.name for flag in FLAGS}


# ------------------------------------------------------------------------------------------------------ names that are wrong

QUICK = [
    ([], ["Usage"]),
    (["--help"], ["train", "compare-gradients"]),
    (["train", "--help"], ["--batch-size", "images per update (default 256)", "--data-dir"]),
    (["trian", "bp"], ["trian"]),
    (["train", "bp", "--epoch", "3"], ["no such option --epoch", "--epochs"]),
    (["train", "bp", "--learning-rate", "1"], ["no such option --learning-rate; nearest: --lr (`"]),
    (["train", "dlg"], ["unknown method 'dlg'; nearest: dgl, ", f"(of {len(METHODS)}; `gradlens list methods` lists all)"]),
    (["check", "dlg"], ["unknown method 'dlg'"]),
    (["bench", "bp", "dlg"], ["unknown method 'dlg'"]),
    (["timeline", "dlg"], ["unknown method 'dlg'"]),
    (["memorize", "bp", "dlg"], ["unknown method 'dlg'"]),
    (["compare-gradients", "bp", "dlg"], ["unknown method 'dlg'"]),
    (["train", "bp", "--model", "vgg15"], ["unknown model 'vgg15'; nearest: vgg1", "`gradlens list models` lists all"]),
    (["train", "bp", "--data", "cifra10"], ["unknown data set 'cifra10'; nearest: cifar10", "`gradlens list data` lists all"]),
    (["train", "bp", "--optimizer", "adm"], ["unknown optimizer 'adm'; nearest: adam, adamw, ", "`gradlens train --help` lists all"]),
    (["train", "bp", "--precision", "fp8"], ["unknown precision 'fp8'; nearest: fp32, bf16, auto"]),
    (["train", "bp", "--lr-schedule", "cos"], ["unknown lr schedule 'cos'; nearest: cosine"]),
    (["list", "method"], ["unknown list 'method'"]),
]


def test_help_and_wrong_names_need_no_torch():
    """All of QUICK in one process, which loads no heavy library, and of the rooms the command line and what analyses say of themselves."""
    code = (
        "import contextlib, io, json, sys\n"
        "from gradlens.cli.main import main\n"
        "OURS = ('cli', 'runtime', '_version')\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    sys.argv, out = ['gradlens', *words], io.StringIO()\n"
        "    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), contextlib.suppress(SystemExit):\n"
        "        main()\n"
        "    heavy = [name for name in ('torch', 'numpy', 'matplotlib') if name in sys.modules]\n"
        "    heavy += ['pydantic'] * (words[1:] == [] and 'pydantic' in sys.modules)\n"  # typer itself reads arguments with it
        "    rooms = [name for name in sys.modules if name.startswith('gradlens.') and name.split('.')[1] not in OURS]\n"
        "    heavy += [name for name in rooms if name != 'gradlens.analysis' and not name.startswith('gradlens.analysis.of_runs')]\n"
        "    print(json.dumps([out.getvalue(), heavy]))\n"
    )
    words = json.dumps([words for words, _ in QUICK])
    environment = {"PYTHONPATH": str(ROOT), "COLUMNS": "160", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code, words], capture_output=True, text=True, check=True, env=environment)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(QUICK)
    for (typed, wanted), (said, heavy) in zip(QUICK, answers, strict=True):
        assert heavy == [], typed
        assert all(word in " ".join(said.split()) for word in wanted), (typed, said)


@pytest.mark.parametrize(("typed", "meant"), [("--learning-rate", "--lr"), ("--bs", "--batch-size"), ("--arch", "--model"),
                                              ("--gpu", "--device"), ("--optim", "--optimizer"), ("--wd", "--weight-decay")])  # fmt: skip
def test_what_others_call_a_flag_leads_to_it(program, typed, meant):
    assert SYNONYMS[typed] == meant
    status, out, err = program("train", "bp", typed, "3")
    assert (status, out) == (2, "")
    assert re.fullmatch(rf"gradlens: no such option {typed}; nearest: {meant} \(`.* train --help` lists all\)\n", err)


def test_a_synonym_of_a_flag_that_the_command_does_not_have_is_not_suggested(program):
    status, _, err = program("doctor", "runs/x", "--learning-rate", "3")
    assert status == 2
    assert "--lr" not in err
    assert "nearest: --" in err


@pytest.mark.parametrize(
    ("rules", "given"),
    [
        (["bp", "runs/of-mine", "rule.py:Class"], {"data": "images/birds", "model": "torchvision:resnet18"}),
        ((), {"data": "numbers.npz", "model": "net.py:build", "precision": "auto"}),
        ((), {"data": "net.py:build", "epochs": -1, "lr": float("nan")}),  # values are judged later
    ],
)
def test_what_may_lie_elsewhere_is_left_to_the_command(rules, given):
    refuse_unknown_names(rules, given)


def test_a_folder_of_images_beside_us_is_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="unknown data set 'birds'"):
        refuse_unknown_names((), {"data": "birds"})
    Path("birds").mkdir()
    refuse_unknown_names((), {"data": "birds"})


def test_a_config_knows_the_names_of_its_own_rule_and_network(tmp_path):
    file = tmp_path / "config.json"
    settings = {"method": "mine", "model": "net", "own": {"method": {"file": "mine.py"}, "model": {"file": "net.py"}}}
    for content in (settings, {"config": settings}):
        file.write_text(json.dumps(content))
        refuse_unknown_names(["mine"], {"config": file, "model": "net"})
        with pytest.raises(InputError, match="unknown method 'mime'"):
            refuse_unknown_names(["mime"], {"config": file})
    for content in ("[1]", "{", '{"own": 3}', '{"config": {"own": {"method": 1}}}'):  # its faults are told by the command
        file.write_text(content)
        refuse_unknown_names(["bp"], {"config": file})
    refuse_unknown_names(["bp"], {"config": tmp_path / "none.json"})
