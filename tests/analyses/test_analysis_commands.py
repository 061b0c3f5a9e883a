"""Every command of an analysis that a page shows is understood, and asks for trainings that gradlens accepts.

Nothing trains: a script is stopped where it would. What its results come to is tested script by script.
"""

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest

from gradlens.training.config import Config
from tools.docs.gallery import groups

ROOT = Path(__file__).parents[2]
COMMAND = re.compile(r"python -m (analyses\.[^\n`)\"#]*)")
NAMED = ("analyses.SCRIPT", "analyses.self_supervised")  # in prose, no commands
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
    raise Reached(list(configs))


@pytest.mark.slow
@pytest.mark.parametrize("command", commands())
def test_a_command_of_a_page_is_understood(command, monkeypatch, tmp_path, capsys):
    name, *words = shlex.split(command)
    words = [PLACES.get(word, word) for word in words]
    module = importlib.import_module(f"{name}.__main__" if (ROOT / name.replace(".", "/")).is_dir() else name)
    monkeypatch.setattr(sys, "argv", [name, *words])
    if hasattr(module, "trained"):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(module, "trained", stop)
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
        monkeypatch.setattr(sys, "argv", [name, *words, "--help"])
        with pytest.raises(SystemExit) as left:
            module.main()
        assert left.value.code == 0
        helped = capsys.readouterr().out
        assert all(word in helped for word in words if word.startswith("--"))
