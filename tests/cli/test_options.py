"""Flags and names of the command line: written from ``Config`` and the registries, and answered without torch where a name is wrong."""

import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import GenericAlias
from typing import get_type_hints

import pytest

from gradlens.cli import early_checks
from gradlens.cli.early_checks import check_given, check_quantities, check_study, is_current
from gradlens.cli.flags import PANELS, REGISTRIES, RUN_FLAGS
from gradlens.cli.listing import LISTS, listing
from gradlens.cli.main import app
from gradlens.cli.options import FLAGS, SYNONYMS
from gradlens.cli.settings import METHODS, MODELS, OTHER_NAMES, SETTINGS
from gradlens.runtime.errors import InputError, letters
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
    stale = [path.name for path, text in module.texts().items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], f"`{COMMAND}` writes them anew"


def test_flags_and_config_agree():
    elsewhere = {
        "method",
        "options",
        "task_options",
        "own",
        "ranks",
    }  # the argument, and --set; the files of FILE.py:NAME; torchrun's processes
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
    ([], ["gradlens COMMAND [OPTIONS], for example", "gradlens compare-gradients", "`gradlens --help` lists all commands"]),
    (["--help"], ["train", "compare-gradients"]),
    (["--version"], ["gradlens 0.", "Python 3.", "torch 2."]),
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
    (
        ["train", "bp", "--data", "cifra10"],
        ["unknown data set 'cifra10', and no such folder or file here; nearest: cifar10", "`gradlens list data` lists all"],
    ),
    (["train", "bp", "--optimizer", "adm"], ["unknown optimizer 'adm'; nearest: adam, adamw, ", "`gradlens train --help` lists all"]),
    (["train", "bp", "--precision", "fp8"], ["unknown precision 'fp8'; nearest: fp32, bf16, auto"]),
    (["train", "bp", "--lr-schedule", "cos"], ["unknown lr schedule 'cos'; nearest: cosine"]),
    (["list", "method"], ["unknown list 'method'"]),
    (["list", "methods"], ["method locked in a line", "local:", "dgl fwd each block has an auxiliary head", "FILE.py:Class"]),
    (["list", "methods", "loco"], ["locked fwd win"]),
    (
        ["list", "methods", "dni"],
        [
            "dni a small net",
            "--set dni.OPTION=VALUE: ",
            "target (default sum): ",
            "lr: learning rate of this method alone",
            "arXiv 1608.05343",
            "delayed_message: ",
            "locked fwd",
        ],
    ),
    (["list", "methods", "backprop"], ["unknown method 'backprop'; nearest: bp ("]),
    (["list", "models", "vgg-16"], ["unknown model 'vgg-16'; nearest: vgg16 ("]),
    (["list", "models", "--long"], ["it has no effect on models"]),
    (["train", "feedback-alignment"], ["unknown method 'feedback-alignment'; nearest: fa ("]),
    (["train", "direct feedback alignment"], ["nearest: dfa ("]),
    (["train", "dfa "], ["unknown method 'dfa '; nearest: dfa ("]),
    (["train", "bp", "--model", "resnet-18"], ["unknown model 'resnet-18'; nearest: resnet18 ("]),
    (["train", "bp", "--data", "CIFAR-10"], ["unknown data set 'CIFAR-10', and no such folder or file here; nearest: cifar10 ("]),
    (["list", "models"], ["vgg16", "torchvision:NAME"]),
    (["list", "data"], ["digits", "8x8 grey digits shipped with scikit-learn"]),
    (["list", "quantities"], ["norm_ratio", "in training"]),
    (["train", "bp", "--device", "gpu"], ["unknown device 'gpu'; nearest: cuda (of 5"]),
    (["compare-gradients", "bp,dgl"], ["unknown method 'bp,dgl'; give methods with blanks between them: bp dgl"]),
    (["train", "rule:Signed"], ["unknown method 'rule:Signed'; a rule of your own is named rule.py:Signed"]),
    (["train", "bp", "--device", "cudaa"], ["unknown device 'cudaa'; nearest: cuda, cuda:1, "]),
    (["bench", "--device", "cuda:x"], ["unknown device 'cuda:x'"]),
    (
        ["train", "dgl", "--set", "hed=linear"],
        ["unknown option of dgl 'hed'; nearest: head", "(of 6; `gradlens list methods dgl` lists all)"],
    ),
    (["train", "dgl", "--set", "dgl.hed=linear"], ["unknown option of dgl 'hed'; nearest: head"]),
    (["compare-gradients", "bp", "dgl", "--set", "hed=linear"], ["unknown option of bp, dgl 'hed'; nearest: head", "methods bp dgl`"]),
    (
        ["compare-gradients", "--set", "haed=linear"],
        ["unknown option 'haed'; nearest: ", "head, ", "`gradlens list methods NAME` lists all"],
    ),
    (["train", "dgl", "--set", "dlg.head=linear"], ["unknown method 'dlg'; nearest: dgl"]),
    (["train", "--config", "dgl.json", "--set", "hed=linear"], ["unknown option of dgl 'hed'; nearest: head"]),
    (["train", "dgl", "--set", "head"], ["--set 'head': expected name=value"]),
    (["train", "bp", "--stem", "4"], ["--stem: unknown value '4'; nearest: 3, 5, 7"]),
    (["train", "bp", "--config", "wrong.json"], ["wrong.json: unknown setting 'wdith'; nearest: width"]),
    (["train", "--config", "choice.json"], ["choice.json: unknown optimizer 'adm'; nearest: adam"]),
    (["train", "--config", "rule.json"], ["rule.json: unknown method 'dlg'"]),
    (["train", "bp", "--config", "none.json"], ["cannot read the config file none.json"]),
    (["train", "bp", "--data", "images/brids"], ["images/brids does not exist: wanted a folder"]),
    (["train", "bp", "--init-from", "runs/foo"], ["runs/foo does not exist"]),
    (["train", "distil", "--teacher", "runs/foo"], ["runs/foo does not exist"]),
    (["train"], ["which method? One of bp, "]),
    (["train", "--config", "bare.json"], ["which method? One of bp, "]),
    (["train", "./runs/foo"], ["unknown method './runs/foo'"]),
    (["train", "run"], ["unknown method 'run'"]),
    (["train", "bp", "--resume", "--overwrite"], ["give one of them"]),
    (["train", "bp", "--run-name", "a/b"], ["--run-name 'a/b' is not the name of one folder"]),
    (["train", "bp", "--threads", "0"], ["--threads: must be 1 or more, got 0"]),
    (["train", "bp", "--split", "1,x"], ["--split '1,x': expected numbers"]),
    (["train", "bp", "--split", "1,1.5"], ["--split 1,1.5: expected whole numbers"]),
    (["compare-gradients", "--lr-grid", "a"], ["--lr-grid 'a': expected numbers"]),
    (["compare-gradients", "--lr-grid", "1e-3"], ["--lr-grid 1e-3: one rate is no grid to choose from; --lr 0.001 trains with it"]),
    (["compare-gradients", "bp", "runs/foo"], ["runs/foo does not exist"]),
    (["memorize", "runs/foo"], ["runs/foo does not exist"]),
    *(
        ([command, "runs/foo"], ["runs/foo does not exist"])
        for command in ("show", "report", "doctor", "figures", "filters", "representations", "probe", "inpaint", "tensorboard")
    ),
    (["measure", "runs/foo", "--quantity", "cosine"], ["runs/foo does not exist"]),
    (["report", "rum"], ["rum does not exist; nearest: run"]),
    (["train", "bp", "--init-from", "held"], ["held is not a run directory but holds runs: give one of held/a"]),
    (["figures", "compared"], ["compared/comparison.json names the run compared/runs/b, which is not there; `gradlens x` trains it again"]),
    (["measure", "run", "--quantity", "cosin"], ["unknown quantity 'cosin'; nearest: cosine, ", "`gradlens list quantities` lists all"]),
    (["sweep", "none.toml", "--out", "o"], ["cannot read the study none.toml"]),
    (["sweep", "rule.toml", "--out", "o"], ["unknown method 'dlg'"]),
    (["sweep", "flag.toml", "--out", "o"], ["unknown flag in flag.toml 'wdith'; nearest: width"]),
    (["sweep", "grid.toml", "--out", "o"], ["unknown optimizer 'adm'"]),
]
FILES = {  # in the folder in which all this is typed
    "wrong.json": '{"wdith": 3}',
    "choice.json": '{"method": "bp", "optimizer": "adm"}',
    "dgl.json": '{"method": "dgl"}',
    "rule.json": '{"method": "dlg"}',
    "bare.json": '{"width": 3}',
    "rule.toml": 'methods = ["dlg"]',
    "flag.toml": 'methods = ["bp"]\n[settings]\nwdith = 3',
    "grid.toml": 'methods = ["bp"]\n[grid]\noptimizer = ["sgd", "adm"]',
    "held/a/config.json": "{}",
    "rule.py": "",
    "compared/comparison.json": (
        '{"format": 1, "made_by": "compare-gradients", "asked": "", "command": "gradlens x", "gradlens": "", "finished": true,'
        ' "methods": [], "seeds": [], "runs": ["runs/b"]}'
    ),
    "run/config.json": '{"config": {"method": "bp"}}',
}
LIGHT = (
    "gradlens.data.folder_listing",
    "gradlens.training.typed_flags",
    "gradlens.training.comparison",
    "gradlens.training.config_file",
    "gradlens.training.run_files",
    "gradlens.training.sweep.study_file",
)


def test_help_lists_and_what_is_wrong_need_no_torch(tmp_path):
    """All of QUICK in one process, which loads no heavy library, and of the rooms the command line and what analyses say of themselves."""
    code = (
        "import contextlib, io, json, sys\n"
        "from gradlens.cli.main import main\n"
        "OURS = ('cli', 'runtime', '_version')\n"
        f"LIGHT = {LIGHT}\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    sys.argv, out = ['gradlens', *words], io.StringIO()\n"
        "    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), contextlib.suppress(SystemExit):\n"
        "        main()\n"
        "    heavy = [name for name in ('torch', 'numpy', 'matplotlib') if name in sys.modules]\n"
        # typer itself reads a command's arguments with it
        "    heavy += ['pydantic'] * (words in ([], ['--help'], ['--version']) and 'pydantic' in sys.modules)\n"
        "    rooms = [name for name in sys.modules if name.startswith('gradlens.') and name.split('.')[1] not in OURS]\n"
        "    rooms = [name for name in rooms if not any(one == name or one.startswith(f'{name}.') for one in LIGHT)]\n"
        "    heavy += [name for name in rooms if name != 'gradlens.analysis' and not name.startswith('gradlens.analysis.of_runs')]\n"
        "    print(json.dumps([out.getvalue(), heavy]))\n"
    )
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    words = json.dumps([words for words, _ in QUICK])
    environment = {"PYTHONPATH": str(ROOT), "COLUMNS": "160", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code, words], capture_output=True, text=True, check=True, env=environment, cwd=tmp_path)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(QUICK)
    for (typed, wanted), (said, heavy) in zip(QUICK, answers, strict=True):
        assert heavy == [], typed
        assert all(word in " ".join(said.split()) for word in wanted), (typed, said)


@pytest.mark.parametrize(("typed", "meant"), [("--learning-rate", "--lr"), ("--bs", "--batch-size"), ("--arch", "--model"),
                                              ("--gpu", "--device"), ("--optim", "--optimizer"), ("--wd", "--weight-decay"),
                                              ("--learning_rate", "--lr"),
                                              ("--batch_size", "--batch-size"), ("--batchsize", "--batch-size"), ("--dataset", "--data"),
                                              ("--epoch", "--epochs"), ("--seed-list", "--seeds")])  # fmt: skip
def test_what_others_call_a_flag_leads_to_it(program, typed, meant):
    dashed = typed.replace("_", "-")
    assert SYNONYMS.get(dashed, dashed) == meant
    status, out, err = program("train", "bp", typed, "3")
    assert (status, out) == (2, "")
    assert re.fullmatch(rf"gradlens: no such option {typed}; nearest: {meant} \(`.* train --help` lists all\)\n", err)


@pytest.mark.parametrize("words", [["doctor", "runs/x", "--learning-rate"], ["--foo"]])
def test_where_no_option_is_near_none_is_suggested(program, words):
    status, _, err = program(*words)
    assert status == 2
    assert re.fullmatch(rf"gradlens: no such option {words[-1]} \(`.* --help` lists all\)\n", err)


def test_an_option_that_is_near_is_suggested_before_a_command_too(program):
    assert "no such option --versio; nearest: --version (" in program("--versio")[2]


@pytest.mark.parametrize(
    ("rules", "given"),
    [
        (["bp", "rule.py:Class"], {"model": "torchvision:resnet18"}),
        ((), {"data": "numbers.npz", "model": "net.py:build", "precision": "auto", "device": "cuda:7"}),
        (["dgl", "rule.py:Class"], {"set": ["mine=3", "Class.mine=3"]}),
        (["dgl", "bp"], {"set": ["dgl.head=linear", "lr=0.1", "bp.lr=0.2", "dgl.target=sum"]}),  # of another rule: the command tells
        ((), {"data": "net.py:build", "epochs": -1, "lr": float("nan"), "split": "2,2"}),  # values are judged later
    ],
)
def test_what_may_lie_elsewhere_is_left_to_the_command(rules, given):
    check_given(rules, given)


def test_run_directories_stand_among_rules_only_where_a_command_takes_them(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    check_given(["bp", str(tmp_path)], {}, or_runs=True)
    with pytest.raises(InputError, match="unknown method"):
        check_given([str(tmp_path)], {})


def test_a_folder_of_images_beside_us_is_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="unknown data set 'birds'"):
        check_given((), {"data": "birds"})
    Path("birds").mkdir()
    check_given((), {"data": "birds"})


def test_a_config_knows_the_names_of_its_own_rule_and_network(tmp_path):
    file = tmp_path / "config.json"
    settings = {"method": "mine", "model": "net", "own": {"method": {"file": "mine.py"}, "model": {"file": "net.py"}}}
    for content in (settings, {"config": settings}):
        file.write_text(json.dumps(content))
        check_given(["mine"], {"config": file, "model": "net"})
        with pytest.raises(InputError, match="unknown method 'mime'"):
            check_given(["mime"], {"config": file})
    file.write_text('{"own": 3}')  # the command tells
    check_given(["bp"], {"config": file})
    for content in ("[1]", "{", '{"config": 1}'):
        file.write_text(content)
        with pytest.raises(InputError, match="is not a JSON config"):
            check_given(["bp"], {"config": file})


def test_quantities_of_rules_and_of_a_users_rule_are_left_to_the_command(tmp_path):
    file = tmp_path / "config.json"
    file.write_text('{"config": {"method": "mine", "own": {"method": {"file": "mine.py"}}}}')
    check_quantities(tmp_path, ["mine"])
    file.write_text('{"config": {"method": "bp"}}')
    check_quantities(tmp_path, ["cosine", "null_cosine", "inpainting loss"])
    with pytest.raises(InputError, match="unknown quantity 'mine'"):
        check_quantities(tmp_path, ["mine"])


# ------------------------------------------------------------------------------------------------------ names added since


@pytest.mark.parametrize("kind", REGISTRIES)
def test_where_a_file_of_a_registry_has_changed_its_names_are_not_refused_early(kind, monkeypatch, tmp_path):
    """Each kind by itself: what was written of the others still counts."""
    monkeypatch.setitem(early_checks.DIGESTS, REGISTRIES[kind][-1], "another")
    assert [other for other in REGISTRIES if not is_current(other)] == [kind]
    (tmp_path / "config.json").write_text('{"config": {"method": "bp"}, "new": 1}')
    (tmp_path / "c.json").write_text('{"new": 1}')
    (tmp_path / "study.toml").write_text('methods = ["new"]')
    asked = {
        "methods": [lambda: check_given(["new"], {}), lambda: check_study(tmp_path / "study.toml")],
        "models": [lambda: check_given([], {"model": "new"})],
        "data": [lambda: check_given([], {"data": "new"})],
        "tasks": [lambda: check_given([], {"task": "new"})],
        "quantities": [lambda: check_quantities(tmp_path, ["new"])],
        "settings": [lambda: check_given([], {"optimizer": "new"}), lambda: check_given([], {"config": tmp_path / "c.json"})],
    }
    for call in asked.pop(kind):
        call()
    for calls in asked.values():
        with pytest.raises(InputError, match="unknown .*'new'"):
            calls[0]()


@pytest.mark.parametrize("what", LISTS)
def test_a_list_is_what_was_written_until_its_registry_changes(what, monkeypatch):
    monkeypatch.setitem(LISTS, what, lambda: [("a", "b", "c"), ("new", "thing", "")])
    assert "new" not in [row[0].text for row in listing(what).rows]
    monkeypatch.setitem(early_checks.DIGESTS, REGISTRIES[what][0], "another")
    assert [row[0].text for row in listing(what).rows] == ["new"]


# --------------------------------------------------------------------------------------------------- flags of an update


def test_bench_and_timeline_take_every_setting_that_an_update_depends_on():
    from gradlens.cli.bench_command import bench
    from gradlens.cli.options import OF_AN_UPDATE
    from gradlens.cli.timeline import timeline

    wanted = {flag.name for flag in FLAGS if flag.panel in ("Model", "Training")}
    assert {"lr", "batch-size", "optimizer", "width"} <= wanted
    assert not {"epochs", "steps", "warmup", "seeds"} & wanted
    assert {"Model", "Training"} <= set(OF_AN_UPDATE)
    for command in (bench, timeline):
        assert wanted <= {name.replace("_", "-") for name in inspect.signature(command).parameters}


def test_the_rules_that_a_command_takes_by_default_are_those_of_its_help(program):
    from gradlens.cli.settings import DEFAULT_RULES

    for command, rules in DEFAULT_RULES.items():
        assert f"default: {' '.join(rules)}" in " ".join(program(command, "--help")[1].replace("│", " ").split()), command


def test_a_rule_is_a_line_of_eighty_columns_in_the_list(program, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = program("list", "methods")[1].splitlines()
    firsts = [line.split()[0] for line in lines]
    assert all(len(line.rstrip()) <= 80 for line in lines)
    assert [firsts.count(name) for name in METHODS] == [1] * len(METHODS)
    assert len(lines) <= len(METHODS) + 20  # headings, and what the columns mean


def test_what_others_call_a_rule_is_no_rule_itself_and_leads_to_one():
    assert not {letters(name) for name in OTHER_NAMES} & {letters(name) for name in (*METHODS, *MODELS)}
    assert set(OTHER_NAMES.values()) == set(METHODS)
    assert len({letters(name) for name in OTHER_NAMES}) == len(OTHER_NAMES)


def test_help_on_a_full_disk_is_one_sentence():
    for words in ([], ["--help"], ["train", "--help"], ["list", "methods"]):
        with open("/dev/full", "w") as full:
            command = [sys.executable, "-m", "gradlens", *words]
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        assert (done.returncode, done.stderr) == (2, "gradlens: cannot write to stdout: no space left on device\n"), words


@pytest.mark.parametrize(("content", "said"), [('{"width": "wide"}', "width: input should be a valid integer"),
                                              ('{"options": {"x": 1}}', "unknown option of bp 'x'")])  # fmt: skip
def test_what_is_wrong_in_a_config_file_names_the_file_and_the_setting(content, said, tmp_path):
    from gradlens.training.config_builder import configs_of
    from gradlens.training.context import RunContext

    file = tmp_path / "c.json"
    file.write_text('{"method": "bp", ' + content.removeprefix("{"))
    with pytest.raises(InputError, match=re.escape(f"{file}: {said}")):
        configs_of(["bp"], {"config": file}, RunContext())


def test_what_is_wrong_in_a_flag_does_not_name_the_file(tmp_path):
    from gradlens.training.config_builder import configs_of
    from gradlens.training.context import RunContext

    file = tmp_path / "c.json"
    file.write_text('{"method": "bp", "width": 3}')
    with pytest.raises(InputError, match="^--width: "):
        configs_of(["bp"], {"config": file, "width": -1}, RunContext())


def test_no_callback_is_annotated_in_a_way_that_ends_the_program_on_python_3_10():
    """There `isinstance(list[Path], type)` holds, and typer asks `issubclass(list[Path], …)`."""

    def commands(group):
        yield from (entry.callback for entry in group.registered_commands)
        for below in group.registered_groups:
            yield from commands(below.typer_instance)

    hints = [hint for command in commands(app) for hint in get_type_hints(command, include_extras=True).values()]
    callbacks = {callback for hint in hints for said in getattr(hint, "__metadata__", ()) if (callback := getattr(said, "callback", None))}
    assert len(callbacks) > 3
    for callback in callbacks:
        taken = {name: kind for name, kind in get_type_hints(callback).items() if name != "return"}
        assert not [name for name, kind in taken.items() if isinstance(kind, GenericAlias)], callback
