"""Every command of an analysis that a page shows is understood, and asks for trainings that gradlens accepts.

Nothing trains: a script is stopped where it would, or, where it trains in a way of its own, once its words are parsed. What its results
come to is tested script by script.
"""

import argparse
import ast
import importlib
import inspect
import re
import shlex
import sys
from pathlib import Path

import pytest

from analyses.training import cost, study
from gradlens.training.config import Config
from tools.docs.gallery import groups

ROOT = Path(__file__).parents[2]
COMMAND = re.compile(r"python -m (analyses\.[^\n`)\"#]*)")
NAMED = ("analyses.SCRIPT", "analyses.NAME", "analyses.self_supervised")  # in prose, no commands
PLACES = {"cifar10-jpeg.tar.gz": "digits", "RUN_DIR": "runs/one"}  # what a reader puts in


def commands():
    pages = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages if "changelog" not in page.name)
    shown = [*COMMAND.findall(text), *(group.command.removeprefix("python -m ") for group in groups())]
    whole = {re.sub(r"[\[\]]", "", command).strip() for command in shown}
    return sorted(command for command in whole if " " in command or command not in NAMED)


class Reached(Exception):
    """A script got as far as its trainings."""


def stop(configs, *_, **__):
    raise Reached([configs] if isinstance(configs, Config) else list(configs))


def parsed(name, words, monkeypatch):
    """What a script's own parser makes of some words; the script goes no further."""
    parse = argparse.ArgumentParser.parse_args

    def stopped(self, *given, **more):
        raise Reached(vars(parse(self, *given, **more)).items())

    monkeypatch.setattr(sys, "argv", [name, *words])
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stopped)
    with pytest.raises(Reached) as caught:
        script(name).main()
    return dict(caught.value.args[0])


def script(name):
    return importlib.import_module(f"{name}.__main__" if (ROOT / name.replace(".", "/")).is_dir() else name)


@pytest.mark.slow
@pytest.mark.parametrize("command", commands())
def test_a_command_of_a_page_is_understood(command, monkeypatch, tmp_path):
    name, *words = shlex.split(command)
    words = [PLACES.get(word, word) for word in words]
    module = script(name)
    monkeypatch.setattr(sys, "argv", [name, *words])
    if getattr(module, "trained", None) is study.trained:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(module, "trained", stop)
        monkeypatch.setattr("analyses.all_methods.search_lr", stop)  # two scripts choose rates before they train
        monkeypatch.setattr(module, "tuned", lambda *_: [], raising=False)
        with pytest.raises((Reached, SystemExit)) as caught:
            module.main()
        if isinstance(caught.value, SystemExit):  # a part that needs another's runs says so before it trains
            assert "first" in str(caught.value.code)
            return
        assert all(isinstance(config, Config) for config in caught.value.args[0])
    elif not {"argparse", "arguments"} & set(vars(module)):
        assert not words  # it reads stored results, and takes no options
    else:
        assert parsed(name, words, monkeypatch)


@pytest.mark.parametrize("words", ["--sedes 3", "--seeds three", "cifar10"])
def test_a_mistyped_word_is_found(words, monkeypatch, capsys):
    assert parsed("analyses.certificates", ["--seeds", "3"], monkeypatch)["seeds"] == 3
    monkeypatch.undo()
    with pytest.raises(SystemExit) as left:
        parsed("analyses.certificates", shlex.split(words), monkeypatch)
    assert left.value.code == 2
    assert words.split()[-1] in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------- costs

READERS = ("claims", "overview", "saved_effects")  # of stored results: they train and measure nothing
WORDS = {  # of scripts that need some, or would look for more than there is
    "iteration2": ["vgg16", "--limit", "1000"],
    "simclr_ablations": ["heads"],
    "accelerator": ["--device", "cpu", "--minutes", "1"],
    "full_size": ["--items", "iteration1-fast", "--width", "4", "--minutes", "1"],
}


def scripts():
    """Names of all that can be called as ``python -m analyses.NAME``."""
    files = [file.stem for file in (ROOT / "analyses").glob("*.py") if "def main" in file.read_text(encoding="utf-8")]
    return sorted([*files, *(file.parent.name for file in (ROOT / "analyses").glob("*/__main__.py"))])


def calls(module, function):
    """Names that a module calls anywhere, as they are written."""
    tree = ast.parse(inspect.getsource(module))
    return function in {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}


@pytest.mark.parametrize("name", [name for name in scripts() if name not in READERS])
def test_a_script_prints_its_cost_before_it_starts(name, monkeypatch, tmp_path, capsys):
    """Nothing is trained: a script whose cost comes too late would train here, so whether there is one is looked up in its text first."""
    module = script(f"analyses.{name}")
    assert calls(module, "announce_cost")

    def announced(minutes, note=""):
        cost.announce_cost(minutes, note)
        raise Reached

    monkeypatch.setattr(module, "announce_cost", announced)
    monkeypatch.setattr(sys, "argv", [name, *WORDS.get(name, [])])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("analyses.full_size.runner._rate_here", lambda *_: 1e9)
    monkeypatch.setattr("shutil.copytree", lambda *_, **__: None)
    with pytest.raises(Reached):
        module.main()
    minutes = re.search(r"cost: about ([\d.e+]+) core-minutes", capsys.readouterr().out)
    assert float(minutes[1]) > 0


@pytest.mark.parametrize("name", READERS)
def test_a_script_that_reads_stored_results_has_no_cost(name):
    assert not calls(script(f"analyses.{name}"), "trained")
