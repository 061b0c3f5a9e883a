"""gradlens diff: the first line is the answer, the exit status says the same, the page works offline."""

import json
import re

import pytest
import torch
from torch import nn

import gradlens


def captured(path, factor=1.0, seed=1):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3))
    model.add_module("<script>alert(1)</script>", nn.Identity())
    with gradlens.capture(model, path):
        (factor * model(torch.randn(4, 5, generator=torch.Generator().manual_seed(seed))).square().sum()).backward()
    return path


@pytest.fixture
def files(tmp_path):
    return captured(tmp_path / "a"), captured(tmp_path / "b"), captured(tmp_path / "c", 4), captured(tmp_path / "d", seed=2)


def test_the_exit_status_and_the_first_line_are_the_answer(files, program, tmp_path):
    a, b, c, d = files
    status, out, _ = program("diff", a, b)
    assert (status, out.splitlines()[0]) == (0, "same within the floor")
    status, out, _ = program("diff", a, c)
    assert (status, out.splitlines()[0]) == (1, "all of b is 4.00 × a: a denominator?")
    status, out, err = program("diff", a, d)
    assert (status, out) == (2, "")
    assert re.fullmatch(r"gradlens: .* have other inputs .*--others compares them anyway\n", err)
    assert program("diff", a, d, "--others")[0] == 1
    (tmp_path / "cut").write_bytes(a.read_bytes()[:-5])
    assert program("diff", a, tmp_path / "cut")[0] == 2


def test_tables_are_written_in_every_format(files, program):
    a, _, c, _ = files
    status, out, _ = program("diff", a, c, "--format", "json")
    rows = json.loads(out)["rows"]
    assert status == 1
    assert len(rows) == 12
    assert rows[-1]["|b|/|a|"] == pytest.approx(4, rel=1e-6)
    assert program("diff", a, c, "--format", "csv")[1].startswith("tensor,of,cosine,")


def test_the_page_is_written_once_and_escapes_names(files, program, tmp_path):
    a, _, c, _ = files
    page = tmp_path / "diff.html"
    assert program("diff", a, c, "-o", page)[0] == 1
    text = page.read_text(encoding="utf-8")
    assert "All of b is 4.00 × a: a denominator?</p>" in text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert not re.search(r"(src|href)=\"(http|//)", text)
    assert text.count("<tr id=") == 12
    assert program("diff", a, a, "-o", page)[0] == 0  # a page of a difference is replaced
    page.write_text("mine", encoding="utf-8")
    assert program("diff", a, c, "-o", page)[0] == 2
    assert page.read_text(encoding="utf-8") == "mine"
    assert program("diff", a, c, "-o", page, "--overwrite")[0] == 1
