"""Sentences in CoNLL columns: what is a word, what is not, and what is wrong with the file."""

import gzip
from pathlib import Path
from typing import Any

import pytest

from hftrain.data.conll import read_conll
from hftrain.data.readers import Fault

pytestmark = pytest.mark.unit

TABS = "-DOCSTART-\tO\n\nAnna\tB-PER\nsleeps\tO\n\t\n# a comment\nin\tO\nNew\tB-LOC\nYork\tI-LOC\n"
RIGHT = [(3, [["Anna", "sleeps"], ["B-PER", "O"]]), (7, [["in", "New", "York"], ["O", "B-LOC", "I-LOC"]])]


def read(folder: Path, text: str | bytes, name: str = "a.conll", **columns: Any) -> list[Any]:
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [(line, str(v) if isinstance(v, Fault) else v) for line, v in read_conll(file, **columns)]


@pytest.mark.parametrize(
    "text", [TABS, TABS.replace("\t", " "), TABS.replace("\n", "\r\n"), "\ufeff" + TABS, TABS + "\n\n"]
)
def test_sentences_stand_between_blank_lines(tmp_path, text):
    assert read(tmp_path, text) == RIGHT


def test_a_gzipped_file(tmp_path):
    assert read(tmp_path, gzip.compress(TABS.encode()), "a.conll.gz") == RIGHT


def test_which_columns(tmp_path):
    text = "1 Anna NNP B-NP B-PER\n2 sleeps VBZ B-VP O\n"
    assert read(tmp_path, text, word_column=2, tag_column=3) == [(1, [["Anna", "sleeps"], ["NNP", "VBZ"]])]
    assert read(tmp_path, text, word_column=2) == [(1, [["Anna", "sleeps"], ["B-PER", "O"]])]
    with pytest.raises(ValueError, match=r"a\.conll has only 5 columns: column 7 for the tag does not exist"):
        read(tmp_path, text, tag_column=7)


def test_universal_dependencies(tmp_path):
    rows = [
        "# text = vamonos al mar",
        "1-2\tvámonos",
        "1\tvamos\tir\tVERB",
        "2\tnos\tnosotros\tPRON",
        "2.1\tno\tno\tADV",
    ]
    rows += ["3-4\tal", "3\ta\ta\tADP", "4\tel\tel\tDET", "5\tmar\tmar\tNOUN"]
    text = "\n".join(row + "\t_" * (9 - row.count("\t")) * (row[0] != "#") for row in rows)
    found = [["vamos", "nos", "a", "el", "mar"], ["VERB", "PRON", "ADP", "DET", "NOUN"]]
    assert read(tmp_path, text, "es.conllu") == [(3, found)]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("lost", "1 columns, expected 2 separated by a TAB: 'lost'"),
        ("a\tb\tO", "3 columns, expected 2 separated by a TAB: 'a\\tb\\tO'"),
        ("# sign", "1 columns, expected 2 separated by a TAB: '# sign'"),  # no comment: it stands inside the sentence
        ("\tO", "no word in column 1: '\\tO'"),
        ("word\t ", "no tag in column -1: 'word\\t '"),
    ],
)
def test_a_bad_line_is_named_and_takes_its_sentence_along(tmp_path, line, why):
    assert read(tmp_path, f"a\tO\nb\tO\n{line}\nalso bad\n\nc\tO\n") == [(3, why), (6, [["c"], ["O"]])]


def test_what_is_not_utf8(tmp_path):
    ((line, why),) = read(tmp_path, b"caf\xe9\tO\n")
    assert (line, why) == (1, "invalid UTF-8: byte 0xe9 at byte 4 of the line")


def test_a_word_may_begin_with_the_sign_of_comments(tmp_path):
    assert read(tmp_path, "#tag\tO\n#\tO\n") == [(1, [["#tag", "#"], ["O", "O"]])]


def test_spaces_that_do_not_break_are_part_of_a_word(tmp_path):
    assert read(tmp_path, "10\u00a0000  B-NUM\nkm O\n") == [(1, [["10\u00a0000", "km"], ["B-NUM", "O"]])]


def test_no_words(tmp_path):
    assert read(tmp_path, "") == read(tmp_path, "\n\n-DOCSTART- O\n\n") == []
