"""Any text on any console, and commands that a shell takes back as they were meant."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gradlens.runtime import terminal
from gradlens.runtime.text_files import SPELL_OUT, spelled

ODD = [
    "plain",
    "two words",
    "it's",
    'a "quoted" one',
    "$HOME",
    "a`id`b",
    "a\nb",
    "tab\there",
    "back\\slash",
    "*?[x]",
    "caf\udce9",
    "日本",
    "",
    "-x;y",
    "#",
    "~",
]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "cp437", "shift_jis", "utf-8"])
def test_a_console_takes_every_sign(encoding, monkeypatch):
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding=encoding))
    terminal.accept_all_text()
    terminal.say("−0.11 ± 2 · δ_k → Wᵀ · é 語 \udce9 ☃")
    said = out.getvalue().decode(encoding)
    assert said.endswith("\n")
    assert r"\xe9" in said
    assert "0.11" in said
    if encoding == "ascii":
        assert said == "-0.11 +- 2 * delta_k -> WT * e ? \\xe9 ?\n"
    if encoding == "utf-8":
        assert said == "−0.11 ± 2 · δ_k → Wᵀ · é 語 \\xe9 ☃\n"


def test_what_a_sign_is_spelled_as_is_ascii():
    signs = "".join(map(chr, range(0x80, 0x3000))) + "\ud800\udfff"
    assert all(spelled(sign).isascii() and spelled(sign).isprintable() for sign in signs)
    with pytest.raises(UnicodeDecodeError):
        b"\xe9".decode("utf-8", SPELL_OUT)


def test_streams_that_are_no_text_or_not_there_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    terminal.accept_all_text()
    terminal.say("x")
    terminal.say("y", aside=True)
    assert sys.stderr.getvalue() == "y\n"
    assert terminal.shell_command("é") == "'é'"


def test_brackets_and_colons_are_neither_markup_nor_emoji(capsys):
    terminal.rich_console().print("[bold]x[/] [/y] :smile:")
    assert capsys.readouterr().out == "[bold]x[/] [/y] :smile:\n"


def test_a_shell_reads_words_back_as_they_were():
    words = [terminal.shell_word(word) for word in ODD] + [terminal.shell_word(word, "ascii") for word in ODD]
    assert not any("\n" in word or "`" in word for word in words)
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {' '.join(words)}"], capture_output=True, check=True)
    assert done.stdout.split(b"\0")[:-1] == 2 * [os.fsencode(word) for word in ODD]


def test_a_path_that_begins_with_a_dash_is_no_option():
    assert terminal.shell_word(Path("-runs/one")) == "./-runs/one"
    assert terminal.shell_word("--out") == "--out"


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_command_is_written_in_what_stdout_can_show(encoding, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert terminal.shell_command("gradlens", Path("é")) == {"ascii": r"gradlens $'\xc3\xa9'", "utf-8": "gradlens 'é'"}[encoding]


def test_a_sentence_stays_on_one_line():
    assert terminal.one_line("there is no a\nb\x1b[1m\r é") == r"there is no a\nb\x1b[1m\r é"
