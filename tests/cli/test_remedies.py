"""Commands that errors and `next:` lines print: each is one of the program's, has the flags it is given, and works when it is pasted."""

import ast
import contextlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from test_text import pasted

from gradlens.cli.lists import METHOD_DETAILS
from gradlens.cli.main import app, main
from gradlens.cli.settings import OPTIONS
from gradlens.runtime.extras import EXTRAS, install_command

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROGRAM = typer.main.get_command(app)
COMMANDS = {name: {o for p in command.params for o in (*p.opts, *p.secondary_opts)} for name, command in PROGRAM.commands.items()}
SMALL = ["--model", "mlp", "--width", "4", "--limit", "40", "--limit-test", "20", "--batch-size", "20", "--quiet"]


def texts(tree):
    """The strings of a module that are no docstrings, f-strings with … in the place of what is filled in."""
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and node.body and isinstance(node.body[0], ast.Expr)
    }
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not {id(node)} & (docs | inside):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)


def printed():
    """(file, words of a command) of each command that the package's messages hold between backticks, or hand to ``shell_command``."""
    found = set()
    for path in sorted((ROOT / "gradlens").rglob("*.py")):
        if path.name in ("lists.py", "settings.py"):  # written from others
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for text in texts(tree):
            whole = re.findall(r"^gradlens ([a-z-]+ .*)$", text) if "`" not in text and "\n" not in text else []
            for command in re.findall(r"`gradlens ([^`]+)`", text) + [c for c in whole if c.split()[0] in COMMANDS]:
                found.add((path.name, *command.split()))
        for node in ast.walk(tree):
            words = [a.value for a in getattr(node, "args", ()) if isinstance(a, ast.Constant)] if isinstance(node, ast.Call) else []
            if getattr(getattr(node, "func", None), "id", "") == "shell_command" and words[:1] == ["gradlens"] and len(words) > 1:
                found.add((path.name, *words[1:]))
    return sorted(found)


PRINTED = printed()


def test_the_messages_are_found():
    assert len(PRINTED) >= 25
    assert ("errors.py", "list", "methods") in PRINTED
    assert ("sections.py", "train", "…", "--record-every", "10") in PRINTED


@pytest.mark.parametrize("words", PRINTED, ids=lambda words: " ".join(words))
def test_each_printed_command_is_one_and_has_the_flags_it_is_given(words):
    _, command, *rest = words
    if "…" in command:  # filled in
        return
    assert command.startswith("-") or command == "COMMAND" or command in COMMANDS
    for flag in (word for word in rest if word.startswith("--")):
        assert flag in {"--help"} | COMMANDS.get(command, set()), flag


LISTED = sorted({f"{words[1]} {words[2]}" for words in PRINTED if words[1] == "list" and "…" not in words[2]})


@pytest.mark.parametrize("typed", [*LISTED, "list models vgg16", "list data cifar10", "list quantities cosine", "train --help", "--help"])
def test_what_lists_all_works(typed, program):
    status, out, err = program(*typed.replace("NAME", "dgl").split())
    assert (status, err) == (0, "")
    assert out.strip()


def test_every_flag_that_an_error_names_is_some_commands():
    known = {flag.removeprefix("--no-") for flags in COMMANDS.values() for flag in flags} | {
        flag for flags in COMMANDS.values() for flag in flags
    }
    torchrun = {"--nproc-per-node"}
    for path in sorted((ROOT / "gradlens").rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "InputError":
                for text in texts(call):
                    for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9]", text):
                        assert flag in known | torchrun | {"--logdir"}, (path.name, flag)


# ------------------------------------------------------------------------------------------------------------------ next:


def follow(out):
    """The words after `gradlens` of the last line that says what to type next."""
    (line,) = [line for line in out.splitlines() if line.startswith("next: ")]
    words = pasted(line)
    assert words[0] == "gradlens"
    return words[1:]


@pytest.mark.parametrize("epochs", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_what_a_training_says_next_works_and_draws_what_there_is(epochs, program, tmp_path, monkeypatch, own_code_forgotten):
    monkeypatch.setenv("COLUMNS", "160")
    status, out, _ = program("train", "bp", *SMALL, "--epochs", epochs, "--out", tmp_path / "my runs")
    assert status == 0
    words = follow(out)
    assert words[0] == ("figures" if int(epochs) else "show")
    status, out, err = program(*words)
    assert (status, err) == (0, "")
    assert "no figure" not in out


@pytest.mark.slow
def test_a_list_of_a_rule_says_how_its_cost_is_measured(program):
    status, out, _ = program("list", "methods", "dfa")
    assert status == 0
    assert "shared (default false)" in out
    assert "arXiv 1609.01596" in out
    command = re.search(r"`gradlens (list methods dfa --long)`", out)[1].split()
    status, out, err = program(*command, "--quiet")
    assert (status, err) == (0, "")
    assert "1 interleaved round on this machine" in " ".join(out.split())


# ---------------------------------------------------------------------------------------------------------------- extras


def test_an_extra_is_installed_from_the_checkout_by_its_path(tmp_path):
    checkout = tmp_path / "my checkout"
    checkout.mkdir()
    (checkout / "pyproject.toml").touch()
    words = shlex.split(install_command("tensorboard", checkout))
    assert words == ["pip", "install", "-e", f"{checkout}[tensorboard]"]


def test_an_extra_of_an_installed_package_is_its_library():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for name, library in EXTRAS.items():
        assert extras[name] == [library]
        assert shlex.split(install_command(name, Path("/nowhere"))) == ["pip", "install", library]


@pytest.mark.slow
@pytest.mark.parametrize("extra", EXTRAS)
def test_pip_finds_what_it_is_sent_for(extra, tmp_path):
    """From a checkout: pip resolves the extra without installing anything; what is there already satisfies it."""
    words = shlex.split(install_command(extra))
    done = subprocess.run([sys.executable, "-m", *words, "--dry-run", "--no-build-isolation", "--no-deps"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_each_rule_has_details():
    assert {"bp", "dgl", "FILE.py:Class"} <= set(METHOD_DETAILS)
    for name, said in METHOD_DETAILS.items():
        assert said[0][0] == "rule", name


@pytest.mark.parametrize("name", sorted(set(METHOD_DETAILS) - {"FILE.py:Class"}))
def test_the_options_that_are_counted_are_those_that_are_listed(name):
    text = " ".join(what for _, what in METHOD_DETAILS[name])
    assert f"--set {name}.OPTION=VALUE:" in text
    listed = [what.partition(":")[0].partition(" (")[0] for label, what in METHOD_DETAILS[name] if not label]
    assert set(listed[-len(OPTIONS[name]) :]) == set(OPTIONS[name])


OWN = """
from typing import Literal
from pydantic import BaseModel, Field
from gradlens import Method, Signal, relay

class Options(BaseModel):
    share: float = Field(0.1, description="share that is kept")
    kind: Literal["one", "two"]

class Rule(Method):
    'delta_k = J_{k+1}ᵀ delta_{k+1}.\\n\\nMore of it.'
    Options = Options
    depends_on = frozenset({"input", "backward_message"})

    def signal(self, k, passes, received):
        return relay(received)
"""


@pytest.mark.usefixtures("rules_of_users")
def test_a_rule_in_a_file_is_listed_with_its_details(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(OWN, encoding="utf-8")

    def printed(*words):
        monkeypatch.setattr(sys, "argv", ["gradlens", *words])
        with contextlib.suppress(SystemExit):
            main()
        said = capsys.readouterr()
        return " ".join((said.out + said.err).split())

    said = printed("list", "methods", "mine.py:Rule", "dgl")
    for part in (
        "mine-rule delta_k = J_{k+1}ᵀ delta_{k+1}. ", "file mine.py:Rule family your own ", " More of it. ",
        "depends on input: ", " backward_message: ",
        "options --set mine-rule.OPTION=VALUE: share (default 0.1): share that is kept kind: without a description; one, two lr: ",
        "locked fwd upd bwd ", "dgl each block has an auxiliary head of its own",
    ):  # fmt: skip
        assert part in said
    assert printed("list", "methods", "mine.py:Rul") == "gradlens: mine.py has no Rul: unknown rule 'Rul'; nearest: Rule"
    want = "gradlens: --long measures the rules of gradlens; `gradlens bench mine.py:Rule` measures that one"
    assert printed("list", "methods", "mine.py:Rule", "--long") == want
