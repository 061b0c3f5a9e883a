"""The reference pages: every argument and option of every command, signatures that read like code, docstrings as they are meant."""

import re
from functools import cache
from pathlib import Path

import pytest
import typer

import gradlens
from gradlens.cli.main import app
from tools.docs import reference
from tools.docs.markdown import between_marks, docstring, inline
from tools.docs.reference import HEADINGS

HERE = Path("runs")
COMMANDS = typer.main.get_command(app).commands


@cache
def page(name):
    return "\n".join({"cli": reference._commands, "api": reference._api, "settings": reference._settings}[name]())


def section(name):
    return page("cli").partition(f"## gradlens {name}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_and_option_of_a_command_stands_in_its_section(name):
    text, shown = section(name), [p for p in COMMANDS[name].params if not getattr(p, "hidden", False)]
    flags = [word for p in shown for word in (*p.opts, *p.secondary_opts) if word.startswith("-")]
    assert [word for word in flags if f"`{word}`" not in text] == []
    arguments = [p for p in shown if not p.opts[0].startswith("-")]
    (usage,) = re.findall(rf"```sh\ngradlens {name} \[OPTIONS\](.*)\n```", text)
    assert len(usage.split()) == len(arguments)
    helped = [p for p in shown if p.help]
    assert len(helped) == len(shown)
    plain = text.replace("&lt;", "<")
    assert [p.name for p in helped if inline(p.help).replace("&lt;", "<").replace("|", "\\|") not in plain] == []


def test_an_argument_that_may_be_left_out_is_in_brackets():
    assert "gradlens train [OPTIONS] [METHOD]\n" in section("train")
    assert "gradlens check [OPTIONS] METHOD\n" in section("check")
    assert "| `--depth` VALUE | blocks of the network that is drawn, below its output block (default 3) |" in section("draw")
    assert "| `--theme` VALUE | colours for a light or a dark page (default light) |" in section("draw")


@pytest.mark.parametrize("name", ["cli", "api", "settings"])
def test_no_page_holds_an_address_or_what_only_one_machine_has(name):
    assert not re.findall(r".* at 0x.*|.*PosixPath.*|.*WindowsPath.*|.*<function.*|.*ForwardRef.*|.*<factory>.*", page(name))


def test_every_exported_name_that_can_be_called_shows_how():
    rest = set(gradlens.__all__) - {"METHODS", "__version__", "CheckFailed", "InputError"}
    shown = {name for name in rest if f"```python\n{name}(" in page("api")}
    assert shown == rest
    assert {name for names in HEADINGS.values() for name in names} <= set(gradlens.__all__)


def test_a_long_signature_has_a_parameter_a_line_and_is_code():
    def f(a: "int", *, where: "Path" = HERE, then: "Callable[[int], None]" = print, of=lambda: 0, many=(1,) * 9) -> "int": ...  # noqa: F821

    shown = reference._signature(f)
    assert shown.splitlines() == [
        "(",
        "    a: int,",
        "    *,",
        "    where: Path = Path('runs'),",
        "    then: Callable[[int], None] = print,",
        "    of=…,",
        "    many=(1, 1, 1, 1, 1, 1, 1, 1, 1),",
        ") -> int",
    ]
    compile(f"def f{shown.replace('…', '...')}: ...", "shown", "exec")


def two_lines():
    """Do something, as in::

        two_lines()

    >>> 1 + 1
    2

    Args:
        a: one thing,
          on two lines.

    Returns:
        a sentence that goes on
        in another line.

    Raises:
        ValueError: what is wrong.

    """


def test_a_docstring_keeps_its_sentences_together():
    text = docstring(two_lines)
    assert "#### Returns\n\na sentence that goes on\nin another line.\n" in text
    assert "- **a**: one thing,\n  on two lines." in text
    assert "- **ValueError**: what is wrong." in text
    assert "Do something, as in:\n" in text
    assert "```python\n>>> 1 + 1\n2\n```" in text


def test_marks_of_docstrings_become_markdown():
    assert inline("``a<b>`` and train/<class>/ of 1 < 2, <https://x.org>") == "`a<b>` and train/&lt;class>/ of 1 < 2, <https://x.org>"
    assert inline("(arXiv 1608.05343, §2)") == "([arXiv 1608.05343](https://arxiv.org/abs/1608.05343), §2)"
    assert inline("(doi 10.1038/323533a0)") == "([doi 10.1038/323533a0](https://doi.org/10.1038/323533a0))"


def test_text_between_marks_is_replaced_and_what_is_around_stays():
    before = "a\n<!-- table: x -->\nold\n<!-- end of table -->\nb"
    after = between_marks(before, "x", "new")
    assert after == "a\n<!-- table: x -->\n\nnew\n<!-- end of table -->\nb"
    assert between_marks(after, "x", "new") == after
    with pytest.raises(ValueError, match="unpack"):
        between_marks("a page without them", "x", "new")
