"""Files that people's editors wrote: read whatever mark and line ends they have, or refused in a sentence that names file and encoding."""

import json
import math
from typing import NamedTuple

import pytest

from gradlens.runtime.csv_tables import read_csv, read_table, write_csv
from gradlens.runtime.errors import InputError
from gradlens.runtime.text_files import encode, read_json, read_text, write_text

BYTE = "caf\udce9"  # what Python makes of a file name that is Latin-1


class Row(NamedTuple):
    layer: str
    step: int
    value: float


ROWS = [Row("größe, ᵀ", 1, 0.1), Row("b", 2, math.inf)]
TEXT = "layer,step,value\na,1,0.5\nb,2,nan\n"


def refused(call, *words):
    """One sentence that holds these words."""
    with pytest.raises(InputError) as error:
        call()
    said = str(error.value)
    assert "\n" not in said
    for word in words:
        assert str(word) in said, said
    return said


def written(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_marks_and_line_ends_are_no_part_of_a_text(encoding, end, tmp_path):
    assert read_text(written(tmp_path / "t", f"é{end}ᵀ{end}".encode(encoding))) == "é\nᵀ\n"


@pytest.mark.parametrize("read", [read_text, read_json, lambda path: read_csv(path, Row), lambda path: read_table(path, Row)])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}\né".encode("latin-1") + b"\n", "is not UTF-8 (byte 0xe9 at position 4, in line 2): save it as UTF-8"),
        ("{}\n„x“\n".encode("cp1252"), "is not UTF-8 (byte 0x84 at position 4, in line 2)"),
        ("{}é\n".encode("utf-16"), "is UTF-16: save it as UTF-8"),
        (b"\xfe\xff" + "{}\n".encode("utf-16-be"), "is UTF-16"),
        ("{}é\n".encode("utf-32"), "is UTF-32"),
        ("{}\n".encode("utf-16-le"), "is no text (line 1 holds a zero byte)"),
        ("{}é\n".encode("shift_jis", "replace") + b"\x81\n", "is not UTF-8"),
    ],
)
def test_another_encoding_is_named(read, content, said, tmp_path):
    refused(lambda: read(written(tmp_path / "file", content)), tmp_path / "file", said)


def test_a_file_that_is_not_there_or_a_folder_is_reported(tmp_path):
    refused(lambda: read_text(tmp_path / "no", "the study"), f"cannot read the study {tmp_path / 'no'}: no such file or directory")
    refused(lambda: read_json(tmp_path), f"cannot read {tmp_path}: is a directory")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "it is empty"),
        (" \n", "it is empty"),
        ('{"lr": 1', "is not a JSON config: "),
        ('{"lr": 1} {', "Extra data: line 1"),
        ('{"lr": 1, "lr": 2}', "the key 'lr' occurs twice"),
        ('{"config": {"lr": 1, "seed": 0, "lr": 2}}', "the key 'lr' occurs twice"),
        ("[" * 100_000, "nested too deeply"),
        ("{'lr': 1}", "double quotes"),
        ('{"lr": 1, // why\n}', "line 1"),
        ('{"seed": ' + "9" * 5000 + "}", "is not a JSON config: "),
    ],
)
def test_json_that_is_none_is_one_sentence(content, said, tmp_path):
    refused(lambda: read_json(written(tmp_path / "c.json", content.encode()), wanted="a JSON config"), tmp_path / "c.json", said)


def test_json_is_read_with_a_mark_and_in_every_line_end(tmp_path):
    content = '{"a": "é",\r\n "b": [1, NaN]}\r\n'.encode("utf-8-sig")
    read = read_json(written(tmp_path / "c.json", content))
    assert read["a"] == "é"
    assert math.isnan(read["b"][1])


# ------------------------------------------------------------------------------------------------------------ tables


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode("utf-8-sig"),
        TEXT.replace("\n", "\r\n").encode(),
        TEXT.replace("\n", "\r").encode(),
        ("\n" + TEXT.replace("\n", "\n\n") + "\n").encode(),
        TEXT.replace("\n", "\r\n").encode("utf-8-sig") + b"\r\n\r\n",
        b'"layer","step","value"\n"a","1","0.5"\nb, 2, nan\n',
    ],
    ids=["mark", "crlf", "cr", "empty lines", "all of them", "quoted"],
)
def test_tables_are_read_as_editors_leave_them(content, tmp_path):
    path = written(tmp_path / "t.csv", content)
    for read in (read_csv, read_table):
        first, second = read(path, Row)
        assert first == Row("a", 1, 0.5)
        assert (second.layer, second.step) == ("b", 2)
        assert math.isnan(second.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (TEXT + "c,3\n", "line 4 has 2 cells, wanted 3"),
        (TEXT + "\nc,3,1,\n", "line 5 has 4 cells, wanted 3"),
        (TEXT + "c,x,1\n", "line 4: step = 'x': wanted a whole number"),
        (TEXT + "c,3.0,1\n", "line 4: step = '3.0': wanted a whole number"),
        (TEXT + 'c,3,"0,5"\n', "line 4: value = '0,5': wanted a number"),
        (TEXT.replace(",", ";"), "its columns are layer;step;value, wanted layer, step, value"),
        (TEXT + "c\n", "line 4 has 1 cell, wanted 3"),
    ],
)
def test_a_line_that_is_none_is_named(content, said, tmp_path):
    path = written(tmp_path / "t.csv", content.encode())
    for read in (read_csv, read_table):
        refused(lambda read=read: read(path, Row), path, said)


def test_a_torn_table_keeps_its_whole_lines_and_an_empty_one_none(tmp_path):
    torn = written(tmp_path / "t.csv", TEXT.encode() + b"c,3,0.\xc3")  # in the middle of a letter
    assert [row.layer for row in read_table(torn, Row)] == ["a", "b"]
    for content in (b"", b"\n", b"\r\n\r\n", b"layer,st"):
        assert read_table(written(tmp_path / "e.csv", content), Row) == []
    refused(lambda: read_csv(written(tmp_path / "e.csv", b""), Row), "e.csv", "it is empty")


# -------------------------------------------------------------------------------------------------------- what is written


def test_tables_come_back_as_they_were_written(tmp_path):
    write_csv(tmp_path / "t.csv", ROWS)
    assert read_csv(tmp_path / "t.csv", Row) == ROWS
    assert b"\r" not in (tmp_path / "t.csv").read_bytes()


def test_a_byte_that_is_no_utf_8_is_escaped_in_what_is_written(tmp_path):
    write_text(tmp_path / "t", f"{BYTE}, é")
    write_csv(tmp_path / "t.csv", [Row(BYTE, 0, 0.0)])
    assert (tmp_path / "t").read_bytes().decode() == r"caf\xe9, é"
    assert read_csv(tmp_path / "t.csv", Row)[0].layer == r"caf\xe9"
    assert json.loads(encode(json.dumps({"path": BYTE}))) == {"path": BYTE}  # JSON loses nothing


def test_a_file_that_cannot_be_written_is_reported(tmp_path):
    refused(lambda: write_text(tmp_path / "no" / "t", ""), f"cannot write {tmp_path / 'no' / 't'}: no such file or directory")
