"""Inputs that were made once and are read at each start: tokens of `prepare`, and the cache of tokenized examples."""

import logging
import os
import shutil

import datasets
import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import hftrain
from hftrain.data import tokens
from hftrain.data.tokens import TokenFiles
from hftrain.tasks.pretraining.prepare import prepare
from hftrain.text import examples
from hftrain.text.examples import TOKENS, tokenized


@pytest.fixture(scope="module")
def tokenizer():
    words = {word: index for index, word in enumerate(["[UNK]", "</s>", *"abcdefgh"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", eos_token="</s>")


@pytest.fixture(scope="module")
def prepared(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "text.txt").write_text("a b c d\ne f g h a\n" * 50)
    return prepare({"a": str(folder / "text.txt")}, tokenizer, folder / "tokens", num_workers=1)


@pytest.fixture
def folder(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "cache", lambda: tmp_path / "cache")
    return shutil.copytree(prepared, tmp_path / "tokens")


def change_in_place(path):
    content = np.memmap(path, dtype="<u2", mode="r+")
    content[3] = content[3] % 7 + 2
    content.flush()


def test_tokens_changed_in_place_are_refused_and_good_ones_read_once(folder, monkeypatch):
    assert TokenFiles(folder).tokens == 550
    read = []
    monkeypatch.setattr(tokens, "_damaged", lambda *given: read.append(given) or [])
    TokenFiles(folder)
    assert read == [], "these very files were found good before"
    monkeypatch.undo()
    monkeypatch.setattr(tokens, "cache", lambda: folder.parent / "cache")
    times = os.stat(folder / "a-00000.train.tokens")
    change_in_place(folder / "a-00000.train.tokens")
    os.utime(folder / "a-00000.train.tokens", ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(ValueError, match=r"a-00000\.train\.tokens is damaged \(sha256\)\n.*run hftrain prepare again"):
        TokenFiles(folder)


def test_tokens_are_read_where_the_cache_cannot_be_written(folder, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    assert len(TokenFiles(folder)) == 100
    change_in_place(folder / "a-00000.train.tokens")
    with pytest.raises(ValueError, match="sha256"):
        TokenFiles(folder)


def make(tokenizer, cache_dir, label=1):
    def convert(batch):
        return {"input_ids": [[label] for _ in batch["text"]]}, {}

    rows = datasets.Dataset.from_dict({"text": ["a", "b"]})
    return tokenized(
        rows, tokenizer, convert, schema=pa.schema([("input_ids", TOKENS)]), arguments=[], cache_dir=cache_dir
    )


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of this package's sources, which the key of the cache is made of."""
    source = os.path.dirname(hftrain.__file__)
    copied = shutil.copytree(source, tmp_path / "hftrain", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(hftrain, "__file__", str(copied / "__init__.py"))
    examples._package.cache_clear()
    yield copied
    examples._package.cache_clear()


@pytest.mark.parametrize("module", ["tasks/chat/template.py", "data/readers.py", "tasks/tagging/examples.py"])
def test_a_mended_module_makes_the_cached_examples_anew(tokenizer, tmp_path, package, module):
    first = make(tokenizer, tmp_path / "cache", label=1)
    assert list(make(tokenizer, tmp_path / "cache", label=2)) == list(first), "found in the cache"
    with (package / module).open("a") as file:
        file.write("\n# mended\n")
    examples._package.cache_clear()
    mended = make(tokenizer, tmp_path / "cache", label=2)
    assert mended[0]["input_ids"] == [2] and mended.fingerprint != first.fingerprint


def test_another_version_makes_them_anew_and_the_same_examples_have_the_same_fingerprint(
    tokenizer, tmp_path, package, monkeypatch, caplog
):
    first = make(tokenizer, tmp_path / "cache")
    monkeypatch.setattr(hftrain, "__version__", "99.0")
    examples._package.cache_clear()
    with caplog.at_level(logging.WARNING):
        again = make(tokenizer, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert again.fingerprint == first.fingerprint, "else every upgrade would refuse to resume"
