"""Tables as values: no name is cut at any width, and each format gives back what was put in."""

import csv
import io
import json
import math
import re
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from gradlens.runtime import terminal
from gradlens.runtime.errors import InputError
from gradlens.runtime.frames import frame_of
from gradlens.runtime.tables import Cell, Table, written

NAMES = ("bp", "dgl head=linear pooled=no", "myrule_with_a_name_that_is_long", "plain-default-layout")
LAYERS = ("block1.conv", "block2.conv", "block3.conv", "features.stage4.unit2.convolution", "top.out")
NASTY = r"50 % of {a_b} & #1 \ $x$ ~^ <i>|</i> [x] *y* `z` −0.5 ± 0.1 × é"


def comparison(methods=NAMES, layers=LAYERS, turned=False):
    """A table like that of compare-gradients with three seeds."""
    table = Table("final cosine of each layer", ["±: half of the 95 % t-interval over seeds"], turned)
    table.add_column("method")
    for layer in layers:
        table.add_column(layer)
    table.add_column("best test accuracy", "%", apart=True)
    for i, method in enumerate(methods):
        table.add_row(method, *[Cell("−0.50 ± 0.10", -0.5, -0.6, -0.4)] * len(layers), Cell("98.9 ± 0.3", 98.87654321 + i, 98.6, 99.2))
    return table


def words_of(text):
    return {word for line in text.splitlines() for word in line.split()}


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize(("methods", "layers"), [(1, 1), (2, 5), (4, 5), (2, 20)])
def test_no_name_is_cut_at_any_width(width, methods, layers):
    paths = [f"{LAYERS[i % 5]}{i}" for i in range(layers)]
    text = comparison(NAMES[:methods], paths).text(width)
    assert "…" not in text
    said = words_of(text)
    for word in " ".join(NAMES[:methods]).split():
        assert word in said, word
    for path in paths:  # broken after its dots, if at all
        assert path in said or all(part in said for part in re.findall(r"[^.]+\.?", path)), path
    assert text.count("−0.50 ± 0.10") == methods * layers
    widest = max(len(line) for line in text.splitlines())
    assert widest <= max(width, max(map(len, paths)) + 2 + max(12, *(len(word) for name in NAMES for word in name.split())))


def test_layers_become_rows_before_the_table_falls_into_pieces():
    wide, narrow = comparison(NAMES[:2]).text(200), comparison(NAMES[:2]).text(80)
    assert wide.splitlines()[1].split()[0] != "block1.conv"
    assert [line.split()[0] for line in narrow.splitlines() if line.startswith(("block", "top"))] == [
        LAYERS[0],
        LAYERS[1],
        LAYERS[2],
        "top.out",
    ]
    assert narrow.count("─\n") == 1  # one heading: in one piece
    turned = comparison(NAMES[:2], turned=True).text(300)
    assert any(line.startswith("features.stage4.unit2.convolution  ") for line in turned.splitlines())


def test_sentences_are_broken_at_blanks_and_names_beside_them_are_whole():
    table = Table()
    table.add_column("method")
    table.add_column("what", prose=True)
    table.add_row("plain-default-layout", "the gradient of the loss at the top " * 5)
    lines = table.text(60).splitlines()
    assert max(map(len, lines)) <= 60
    assert lines[2].startswith("plain-default-layout  the gradient")
    assert len(lines) > 5


def test_what_is_no_terminal_has_80_columns(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    terminal.print_table(comparison())
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert set(" ".join(NAMES).split()) <= words_of(out)


def test_rows_that_several_columns_name_stay_named_in_every_piece():
    table = Table()
    for name in ("method", "record every", "images in a second", "memory of the process", "multiply-adds of a step"):
        table.add_column(name)
    for method in ("bp", "dgl"):
        for n in ("never", "1"):
            table.add_row(method, n, *[Cell("123,456,789,012", 1)] * 3)
    lines = [line.split()[:2] for line in table.text(45).splitlines() if line.startswith(("bp", "dgl"))]
    assert lines == [["bp", "never"], ["bp", "1"], ["dgl", "never"], ["dgl", "1"]] * 3


def nasty():
    table = Table(NASTY)
    table.add_column("name")
    table.add_column(NASTY, "%")
    table.add_row(NASTY, Cell(NASTY, 1 / 3))
    table.add_row("[", Cell("", math.nan))
    return table


def test_markdown_is_read_back_as_it_was():
    tokens = MarkdownIt("commonmark").enable("table").parse(written([nasty()], "md"))
    cells = ["".join(part.content for part in token.children or ()) for token in tokens if token.type == "inline"]
    assert cells == [NASTY, "name", f"{NASTY} (%)", NASTY, NASTY, "[", ""]
    assert [t.type for t in tokens].count("table_open") == 1


SIGNS = {  # what LaTeX typesets for a command; written down here once more
    r"\textbackslash{}": "\\", r"\{": "{", r"\}": "}", r"\$": "$", r"\&": "&", r"\#": "#", r"\%": "%", r"\_": "_",
    r"\textasciicircum{}": "^", r"\textasciitilde{}": "~", r"\textless{}": "<", r"\textgreater{}": ">", r"\textbar{}": "|",
    "{[}": "[", "{]}": "]", "$-$": "−", r"$\pm$": "±", r"$\times$": "×",
}  # fmt: skip
COMMAND = re.compile("|".join(re.escape(name) for name in sorted(SIGNS, key=len, reverse=True)))


def typeset(text):
    """What LaTeX shows of a cell; a sign that would not be shown as it is fails."""
    assert not re.search(r"[\\{}$&#%_^~<>|\[\]−±×]", COMMAND.sub("", text)), text
    return COMMAND.sub(lambda found: SIGNS[found[0]], text)


def test_latex_escapes_whatever_means_something_and_is_booktabs():
    text = written([nasty()], "latex")
    body = re.search(r"\\begin\{tabular\}\{(\w+)\}\n\\toprule\n(.*)\\bottomrule\n\\end\{tabular\}", text, re.S)
    assert body[1] == "lr"
    rows = [line.removesuffix(r" \\") for line in body[2].splitlines() if line != r"\midrule"]
    assert [[typeset(cell) for cell in re.split(r"(?<!\\) & ", row)] for row in rows] == [
        ["name", f"{NASTY} (%)"],
        [NASTY, NASTY],
        ["[", ""],
    ]
    assert typeset(re.search(r"\\caption\{(.*)\}\n", text)[1]) == f"{NASTY}."
    depth = 0
    for sign in re.sub(r"\\[{}]", "", text):
        depth += (sign == "{") - (sign == "}")
        assert depth >= 0
    assert depth == 0


def test_csv_and_json_hold_unrounded_numbers_and_the_ends_of_intervals():
    rows = list(csv.DictReader(io.StringIO(written([comparison()], "csv"))))
    assert [row["method"] for row in rows] == list(NAMES)
    assert float(rows[1]["best test accuracy (%)"]) == 99.87654321
    assert (float(rows[0]["top.out low"]), float(rows[0]["top.out high"])) == (-0.6, -0.4)
    content = json.loads(written([comparison()], "json"))
    assert content["rows"][1]["best test accuracy"] == 99.87654321
    assert content["rows"][1]["block1.conv high"] == -0.4
    assert {"name": "best test accuracy", "unit": "%"} in content["columns"]
    assert content["notes"] == ["±: half of the 95 % t-interval over seeds"]
    assert json.loads(written([nasty()], "json"))["rows"][1][NASTY] is None
    assert next(csv.reader(io.StringIO(written([nasty()], "csv")))) == ["name", f"{NASTY} (%)"]
    assert len(json.loads(written([nasty(), comparison()], "json"))) == 2


class Cells(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.found.append(data)


def test_notebooks_show_it_as_html_and_its_repr_is_short():
    page = Cells()
    page.feed(nasty()._repr_html_())
    assert page.found == [NASTY, "name", f"{NASTY} (%)", NASTY, NASTY, "["]
    assert "i" not in page.tags
    assert repr(comparison()) == "<Table 'final cosine of each layer': 4 rows, 7 columns>"


def test_rows_that_do_not_fit_and_columns_of_one_name_are_bugs():
    table = comparison()
    with pytest.raises(ValueError, match="1 cells for 7 columns"):
        table.add_row("bp")
    with pytest.raises(ValueError, match=r"two columns are called top\.out"):
        table.add_column("top.out")


class Frame:
    """Of pandas what the frames use."""

    def __init__(self, rows, columns=None):
        self.rows, self.columns = rows, columns


def test_frames_are_pandas_or_say_that_it_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(InputError, match="pip install pandas"):
        comparison().frame()
    monkeypatch.setitem(__import__("sys").modules, "pandas", type("pandas", (), {"DataFrame": Frame}))
    assert comparison().frame().rows[0]["top.out"] == -0.5
    assert frame_of([(1, 2)], ["a", "b"]).columns == ["a", "b"]
