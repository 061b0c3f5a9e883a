"""Logs of clicks: files of both formats against plain loops, what is refused in one sentence, and the generated log's best score."""

import csv
import itertools
import math
import random
from collections import Counter

import pytest
import torch

from gradlens.data import click_log, click_table
from gradlens.data.click_log import ClickLog, bayes, generated, log_odds, shared_out
from gradlens.data.click_table import columns_of, read_click_table
from gradlens.runtime.errors import InputError

HEADER = ["age", "work", "note", "click"]


def table(path, rows, header=HEADER):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def rows_of(n=40, seed=0):
    draw = random.Random(seed)
    return [
        [draw.choice(["", "1", "2.5", "-3", "40", "41"]), draw.choice(["a", "b, c", "é"]), f"x{i}", draw.choice("01")] for i in range(n)
    ]


def read(path, rare=2, rows=None, **given):
    given = {"label": "click", "numeric": ["age"], "categorical": ["work", "note"], "positive": "", **given}
    return read_click_table(path, columns_of(path, **given), rare, rows)


def in_plain_words(columns, rare):
    """Ids by loops: [rows of fields], sizes."""
    ids, sizes = [[] for _ in columns[0]], []
    for column in columns:
        counts, known = Counter(column), {}
        for value in column:
            if counts[value] >= rare and value not in known:
                known[value] = len(known) + 1
        for i, value in enumerate(column):
            ids[i].append(known.get(value, 0))
        sizes.append(len(known) + 1)
    return ids, tuple(sizes)


@pytest.mark.parametrize("chunk", [7, 1 << 16])
def test_a_csv_file_is_numbered_as_by_plain_loops(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(click_table, "CHUNK", chunk)
    rows = rows_of()
    log = read(table(tmp_path / "t.csv", rows))
    bins = {"": "NULL", "1": "0", "2.5": "3", "-3": "-3", "40": "27", "41": "27"}
    columns = [[bins[row[0]] for row in rows], [row[1] for row in rows], [row[2] for row in rows]]
    ids, sizes = in_plain_words(columns, 2)
    assert log.ids.tolist() == ids
    assert log.sizes == sizes
    assert sizes[2] == 1  # each note is rare
    assert log.labels.tolist() == [int(row[3]) for row in rows]
    assert read(tmp_path / "t.csv", rows=9).ids.shape == (9, 3)


def criteo(path, n=60, seed=1):
    draw = random.Random(seed)
    rows = []
    for _ in range(n):
        numbers = [draw.choice(["", "-1", "0", "1", "2", "3", "7", "150", "151"]) for _ in range(13)]
        rows.append([draw.choice("01"), *numbers, *(draw.choice(["", "68fd1e64", "80e26c9b"]) for _ in range(26))])
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    return rows


def test_criteos_format_is_binned_by_its_protocol(tmp_path, monkeypatch):
    monkeypatch.setattr(click_table, "CHUNK", 16)
    rows = criteo(tmp_path / "train.txt")

    def binned(cell):
        if cell == "":
            return "NULL"
        return str(math.floor(math.log(int(cell)) ** 2)) if int(cell) > 2 else str(int(cell) - 2)

    columns = [[binned(row[i]) if i <= 13 else row[i] for row in rows] for i in range(1, 40)]
    ids, sizes = in_plain_words(columns, 5)
    path = tmp_path / "train.txt"
    log = read_click_table(path, columns_of(path, "", (), (), ""), 5)
    assert log.ids.tolist() == ids
    assert log.sizes == sizes
    assert log.labels.tolist() == [int(row[0]) for row in rows]
    with pytest.raises(InputError, match="is of Criteo's format, whose columns are known: leave out --set clicks.label"):
        columns_of(path, "click", (), (), "")
    lines = path.read_text().splitlines()
    lines[41] = lines[41].replace("\t", "\t1.5", 1) if lines[41][2] == "\t" else "\t".join(["1", "1.5", *lines[41].split("\t")[2:]])
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"train\.txt, line 42: I1 is '1\.5', which is not a whole number"):
        read_click_table(path, columns_of(path, "", (), (), ""), 5)


def test_a_label_of_another_name_stands_for_1(tmp_path):
    rows = [[*row[:3], "> 50" if row[3] == "1" else "less"] for row in rows_of()]
    log = read(table(tmp_path / "t.csv", rows), positive="> 50")
    assert log.labels.tolist() == [int(row[3] == "> 50") for row in rows]
    assert log.positive == "> 50"


def changed(row, column, value):
    rows = rows_of()
    rows[row][column] = value
    return rows


@pytest.mark.parametrize(
    ("rows", "given", "said"),
    [
        (
            changed(4, 3, "yes"),
            {},
            "line 6: the label is 'yes', neither 0 nor 1: set the one that stands for 1, as --set clicks.positive=yes",
        ),
        (changed(4, 0, "ten"), {}, "line 6: age is 'ten', which is not a number"),
        (changed(4, 0, "nan"), {}, "line 6: age is 'nan', which is not a number"),
        ([*rows_of(5), ["1", "a", "1"]], {}, "line 7: 3 columns where the first line has 4: repair it or remove it"),
        ([[row[0], "a", *row[2:]] for row in rows_of()], {}, "the column 'work' has one value, 'a', in 40 rows"),
        ([], {}, "the column 'age' has no value in 0 rows"),
        (rows_of(), {"label": "clicks"}, r"unknown column of .*'clicks'; nearest: click"),
        (rows_of(), {"label": ""}, r"has the columns age, work, note, click: declare them, as --set clicks\.label=click"),
        (rows_of(), {"numeric": [], "categorical": []}, r"declare them, as --set clicks\.categorical=click"),
        (rows_of(), {"numeric": ["age", "work"]}, "the column 'work' is declared twice: it is the label, a number or a category"),
    ],
)
def test_bad_tables_are_refused_in_one_sentence(rows, given, said, tmp_path):
    with pytest.raises(InputError, match=said) as refused:
        read(table(tmp_path / "t.csv", rows), **given)
    assert "\n" not in str(refused.value)


def test_files_that_are_no_tables_are_refused(tmp_path):
    path = tmp_path / "t.csv"
    for content, said in ((b"", "is empty"), (b"a,b\n\xff,1\n", "is not UTF-8 .byte 0xff.: save it as UTF-8")):
        path.write_bytes(content)
        with pytest.raises(InputError, match=said):
            read(path, label="a", numeric=[], categorical=["b"])
    table(path, rows_of(), ["age", "age", "note", "click"])
    with pytest.raises(InputError, match="has 2 columns named 'age': give each its own name"):
        read(path, categorical=["note"])
    for place, said in ((tmp_path, "is a folder"), (tmp_path / "none.csv", "does not exist")):
        with pytest.raises(InputError, match=said):
            columns_of(place, "a", (), ("b",), "")


def test_rows_are_shared_out_once_and_each_part_needs_both_labels():
    log = ClickLog(torch.arange(200).reshape(100, 2), torch.arange(100) % 2, (1, 1), "click")
    data = shared_out(log, "it")
    parts = [data.train, data.selection, data.test]
    assert [len(part) for part in parts] == [80, 10, 10]
    assert sorted(torch.cat([part.x for part in parts])[:, 0].tolist()) == list(range(0, 200, 2))
    assert all((part.x[:, 0] // 2 % 2).tolist() == part.y.tolist() for part in parts)
    assert (data.shape, data.classes) == ((1, 1), ("click",))
    with pytest.raises(InputError, match="the training part of it has 80 rows, all with label 0: an AUC needs rows of both labels"):
        shared_out(log._replace(labels=torch.zeros(100, dtype=torch.long)), "it")


# --------------------------------------------------------------------------------------------------------- the generated log


def test_log_odds_are_a_sum_of_single_pair_and_triple_terms():
    ids = torch.tensor([[0, 9, 3, 3, 1, 2], [5, 5, 5, 0, 0, 0]])
    rng = click_log.generator(0, "click log")
    draws = torch.randn(6, 10, 5, generator=rng, dtype=torch.float64)
    for row, found in zip(ids.tolist(), log_odds(ids).tolist(), strict=True):
        rows = [draws[f, i] for f, i in enumerate(row)]
        single = sum(float(r[0]) for r in rows)
        pair = sum(float(rows[a][2:] @ rows[b][2:]) for a, b in itertools.combinations(range(6), 2))
        triple = math.prod(float(r[1]) for r in rows[:3]) + math.prod(float(r[1]) for r in rows[3:])
        assert found == pytest.approx(-1.0 + 0.5 * single + 0.6 * pair / 18**0.5 + 1.2 * triple / 2**0.5, rel=1e-12)


def test_the_best_scores_are_sums_over_all_pairs_of_rows(monkeypatch):
    monkeypatch.setattr(click_log, "IDS", 2)
    every = torch.cartesian_prod(*[torch.arange(2)] * 6)
    q = torch.stack([click_log.frequencies()[row].prod() for row in every])
    p = log_odds(every).sigmoid()
    clicked, other = q * p, q * (1 - p)
    above = (p[:, None] > p).double() + 0.5 * (p[:, None] == p)
    auc, loss = bayes()
    assert auc == pytest.approx(float(clicked @ above @ other / (clicked.sum() * other.sum())), rel=1e-12)
    assert loss == pytest.approx(float(-(clicked * p.log() + other * (1 - p).log()).sum()), rel=1e-12)


@pytest.mark.slow
def test_the_generated_log_scores_what_is_stated_of_it():
    from sklearn.metrics import log_loss, roc_auc_score

    log, (auc, loss) = generated(), bayes()
    p = log_odds(log.ids.long()).sigmoid()
    assert float(f"{auc:.3f}") == 0.820
    assert "AUC above 0.820" in click_log.LOGS["ad-log"]
    assert roc_auc_score(log.labels, p) == pytest.approx(auc, abs=4 * 0.002)
    assert log_loss(log.labels, p) == pytest.approx(loss, abs=4 * 0.002)
    assert generated().ids.equal(log.ids)
