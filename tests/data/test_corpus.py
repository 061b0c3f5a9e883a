"""Text as tokens, read back letter by letter, and its windows against loops over positions."""

import pytest
import torch

from gradlens.data.text import decoded, encode, read_corpus, text_files, windows
from gradlens.runtime.errors import InputError

TEXT = "To be, or not to be:\nthat is — the question.\n" * 4


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_characters_are_read_back_and_the_last_tenth_is_for_testing(file):
    corpus = read_corpus(file)
    assert corpus.vocabulary == tuple(sorted(set(TEXT)))
    assert decoded(corpus.train, corpus.vocabulary, "characters") + decoded(corpus.test, corpus.vocabulary, "characters") == TEXT
    assert len(corpus.test) == round(len(TEXT) / 10)
    assert corpus.validation is None
    assert corpus.train.dtype == torch.uint8


def test_bytes_are_read_back_whatever_they_are(tmp_path):
    path, content = tmp_path / "any", bytes(range(256)) * 2
    path.write_bytes(content)
    corpus = read_corpus(path, "bytes")
    assert bytes(torch.cat([corpus.train, corpus.test]).tolist()) == content
    assert len(corpus.vocabulary) == 256
    assert corpus.vocabulary[10] == "0x0a"
    assert decoded(torch.tensor([226, 130, 172, 255]), corpus.vocabulary, "bytes") == "€\ufffd"


def test_more_than_256_characters_take_wider_tokens():
    many = "".join(map(chr, range(0x400, 0x400 + 300)))
    tokens = encode(many[::-1], many)
    assert tokens.tolist() == list(range(299, -1, -1))
    assert tokens.dtype == torch.int32


def test_a_folder_with_files_for_each_part(tmp_path):
    for name, text in (("train.txt", "abcabc"), ("test.txt", "cab"), ("valid.txt", "bd")):
        (tmp_path / name).write_text(text)
    corpus = read_corpus(tmp_path)
    assert corpus.vocabulary == tuple("abcd")
    assert [part.tolist() for part in (corpus.train, corpus.test, corpus.validation)] == [[0, 1, 2, 0, 1, 2], [2, 0, 1], [1, 3]]


@pytest.mark.parametrize("name", ["wiki.{}.tokens", "ptb.{}.txt", "wiki.{}.raw", "{}.tokens"])
def test_a_folder_with_files_of_the_usual_names(tmp_path, name):
    for part, text in (("train", "abcabc"), ("test", "cab"), ("valid", "bd")):
        (tmp_path / name.format(part)).write_text(text)
    (tmp_path / "notes.txt").write_text("no")
    corpus = read_corpus(tmp_path)
    assert [part.tolist() for part in (corpus.train, corpus.test, corpus.validation)] == [[0, 1, 2, 0, 1, 2], [2, 0, 1], [1, 3]]


def test_other_folders_are_one_text_in_the_order_of_paths(tmp_path):
    (tmp_path / "b").mkdir()
    for name, text in (("b/2.txt", "22"), ("a.txt", "11"), ("b/10.txt", "33"), ("notes.md", "no"), (".hidden.txt", "no")):
        (tmp_path / name).write_text(text * 5)
    corpus = read_corpus(tmp_path)
    assert decoded(torch.cat([corpus.train, corpus.test]), corpus.vocabulary, "characters") == "1" * 10 + "3" * 10 + "2" * 10


def test_line_ends_and_byte_order_marks_of_all_systems_are_read_alike(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"\xef\xbb\xbfa\r\nb\r" * 1)
    corpus = read_corpus(path)
    assert corpus.vocabulary == ("\n", "a", "b")


# --------------------------------------------------------------------------------------------------------------- windows


@pytest.mark.parametrize("n", [6, 7, 10, 11, 12])
def test_windows_follow_each_other_and_targets_are_the_next_tokens(n):
    length, tokens = 5, torch.randperm(n)
    x, y = windows(tokens, length, "it")
    assert len(x) == (n - 1) // length
    for i in range(len(x)):
        for t in range(length):
            assert x[i, t] == tokens[i * length + t]
            assert y[i, t] == tokens[i * length + t + 1]


def test_windows_copy_nothing():
    tokens = torch.arange(100)
    x, y = windows(tokens, 9, "it")
    assert x.untyped_storage().data_ptr() == y.untyped_storage().data_ptr() == tokens.untyped_storage().data_ptr()


# ------------------------------------------------------------------------------------------------------------------ refusals


def test_a_text_shorter_than_a_window_is_refused():
    with pytest.raises(InputError, match="the training text has 5 tokens and a window needs 6, its 5 and the one that follows"):
        windows(torch.arange(5), 5, "the training text")


def test_bytes_that_are_no_utf8_are_refused_with_their_position(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"fine\nstill \xff not")
    with pytest.raises(InputError, match=r"not UTF-8 \(byte 0xff at position 12, in line 2\).*, or --set language.tokens=bytes"):
        read_corpus(path)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({}, "holds no .txt file"),
        ({"test.txt": "a", "valid.txt": "b"}, "holds test.txt and no train.txt"),
        ({"wiki.train.raw": "a", "wiki.train.tokens": "b"}, "holds wiki.train.raw and wiki.train.tokens: keep one of them"),
        (None, "does not exist"),
    ],
)
def test_folders_without_text_are_refused(tmp_path, made, message):
    place = tmp_path / "folder"
    if made is not None:
        place.mkdir()
        for name, text in made.items():
            (place / name).write_text(text)
    with pytest.raises(InputError, match=message):
        text_files(place)
