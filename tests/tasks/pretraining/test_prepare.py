"""Token files: the same bytes for any number of workers and after any kill; every token is where it should be."""

import gzip
import json
import logging
import signal
import subprocess
import sys
import time
from itertools import chain, pairwise

import numpy as np
import psutil
import pytest

from hftrain import cli
from hftrain.data.tokens import TokenFiles, blocks, is_token_folder, mix, verify
from hftrain.tasks.pretraining import prepare as writing
from hftrain.tasks.pretraining.prepare import prepare
from hftrain.text import train_tokenizer

WORDS = [f"{start}{end}" for start in ("qui", "bro", "la", "wiz", "ja") for end in ("ck", "wn", "zy", "ard", "de")]


def sentences(number, seed=0):
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, size=draw.integers(1, 60))) for _ in range(number)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(sentences(50), 400)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """One text a row in many formats, and where they are."""
    from datasets import Dataset

    folder = tmp_path_factory.mktemp("corpus")
    texts = sentences(300)
    lines = [json.dumps({"id": i, "text": text, "meta": {"body": text}}) for i, text in enumerate(texts)]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    with gzip.open(folder / "rows.jsonl.gz", "wt") as file:
        file.write("\n".join(lines))
    (folder / "rows.txt").write_text("\n\n".join(texts) + "\n")
    rows = Dataset.from_dict({"text": texts, "meta": [{"body": text} for text in texts]})
    rows.to_parquet(folder / "rows.parquet")
    rows.save_to_disk(folder / "saved")
    (folder / "many").mkdir()
    for part in range(3):
        (folder / "many" / f"train-{part}.jsonl").write_text("\n".join(lines[100 * part : 100 * part + 100]))
        rows.select(range(100 * part, 100 * part + 100)).to_parquet(folder / "columns" / f"train-{part}.parquet")
    return folder


@pytest.fixture
def small(monkeypatch):
    """Batches and shards so small that these texts need many."""
    monkeypatch.setattr(writing, "BATCH_CHARACTERS", 2000)
    return {"shard_tokens": 3000}


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


SOURCES = ["rows.jsonl", "rows.jsonl.gz", "rows.txt", "rows.parquet", "saved", "many/*.jsonl", "many", "columns:train"]


@pytest.mark.parametrize("source", SOURCES)
def test_every_format_gives_the_documents_in_order(source, corpus, tokenizer, tmp_path, small):
    folder = prepare({"all": f"{corpus}/{source}"}, tokenizer, tmp_path / "tokens", num_workers=1, **small)
    files = TokenFiles(folder)
    wanted = tokenizer(sentences(300))["input_ids"]
    assert [row["input_ids"].tolist() for row in files] == wanted
    assert files.lengths.tolist() == [len(ids) for ids in wanted] and files.tokens == sum(map(len, wanted))
    assert len(files.shards) > 2 and files[0]["input_ids"].dtype == np.uint16
    assert verify(folder) == []


def test_any_number_of_workers_writes_the_same_bytes(corpus, tokenizer, tmp_path, small):
    sources = {"a": f"{corpus}/rows.jsonl", "b": f"{corpus}/rows.parquet"}
    for workers in (1, 3):
        prepare(sources, tokenizer, tmp_path / str(workers), validation_split=0.1, num_workers=workers, **small)
    assert content(tmp_path / "1") == content(tmp_path / "3")
    assert list(TokenFiles(tmp_path / "1").sources) == ["a", "b"]


WORKER = """
import json, sys
from transformers import AutoTokenizer
from hftrain.tasks.pretraining.prepare import prepare
from hftrain.tasks.pretraining import prepare as writing
sources, tokenizer, folder = sys.argv[1:]
writing.BATCH_CHARACTERS = 2000
prepare(json.loads(sources), AutoTokenizer.from_pretrained(tokenizer), folder, num_workers=2, shard_tokens=20_000)
"""


@pytest.mark.slow
def test_killed_anywhere_it_goes_on_to_the_same_bytes(tokenizer, tmp_path, monkeypatch):
    """kill -9 after each few shards, in files and in a stream; no worker outlives its parent."""
    from transformers import AutoTokenizer

    (tmp_path / "data").mkdir()
    for part in range(2):
        rows = [json.dumps({"text": text}) for text in sentences(3000, part)]
        (tmp_path / "data" / f"{part}.jsonl").write_text("\n".join(rows))
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    sources = {"files": f"{tmp_path}/data/*.jsonl", "stream": f"{tmp_path}/data"}
    folder, workers, finished = tmp_path / "killed", set(), False
    kill_in = ["files", "files", "stream"]
    while not finished:
        command = [sys.executable, "-c", WORKER, json.dumps(sources), str(tmp_path / "tokenizer"), str(folder)]
        before = set(folder.iterdir()) if folder.exists() else set()
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while kill_in and process.poll() is None:
            if len(set(folder.glob(f"{kill_in[0]}-*.tokens")) - before) > 3:
                workers |= set(psutil.Process(process.pid).children(recursive=True))
                process.kill()
                del kill_in[0]
                break
            time.sleep(0.002)
        said = process.communicate(timeout=120)[1]
        finished = process.returncode == 0
        assert finished or (process.returncode == -signal.SIGKILL and not is_token_folder(folder)), said
    assert not kill_in and len(workers) == 6
    assert not psutil.wait_procs(workers, timeout=10)[1]
    monkeypatch.setattr(writing, "BATCH_CHARACTERS", 2000)
    loaded = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    whole = prepare(sources, loaded, tmp_path / "whole", num_workers=1, shard_tokens=20_000)
    assert content(folder) == content(whole)


@pytest.mark.parametrize("source", ["rows.jsonl", "many/*.jsonl", "many", "columns"])
def test_cut_short_anywhere_it_goes_on_to_the_same_bytes(source, corpus, tokenizer, tmp_path, small, monkeypatch):
    """Every number of saved states in turn, in one process."""
    task = ({"a": f"{corpus}/{source}", "b": f"{corpus}/rows.txt"}, tokenizer)
    prepare(*task, tmp_path / "whole", num_workers=1, **small)
    save, interrupted = writing._save, 0
    for saves in (1, 2, 3, 1, 1, 99):
        left = iter(range(saves))

        def save_and_die(folder, manifest, left=left):
            save(folder, manifest)
            next(left)
            if not left.__length_hint__():
                raise KeyboardInterrupt

        monkeypatch.setattr(writing, "_save", save_and_die)
        try:
            prepare(*task, tmp_path / "cut", num_workers=1, **small)
        except KeyboardInterrupt:
            interrupted += 1
    assert interrupted == 5
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_it_is_found_by_content_and_refused_where_something_else_is(corpus, tokenizer, tmp_path, caplog, small):
    caplog.set_level(logging.INFO, "hftrain")
    task = ({"a": f"{corpus}/rows.jsonl"}, tokenizer)
    folder = prepare(*task, num_workers=1)
    elsewhere = tmp_path / "elsewhere.jsonl"
    elsewhere.write_bytes((corpus / "rows.jsonl").read_bytes())
    assert "already" not in caplog.text
    assert prepare({"a": str(elsewhere)}, tokenizer, num_workers=1) == folder
    assert "holds these tokens already" in caplog.text
    assert prepare(*task, validation_split=0.1, num_workers=1) != folder
    for name in ("a.txt", "a.md"):  # the ending says how the same bytes are read
        (tmp_path / name).write_text("text\n")
    assert prepare({"a": f"{tmp_path}/a.txt"}, tokenizer) != prepare({"a": f"{tmp_path}/a.md"}, tokenizer)
    (tmp_path / "parts").mkdir()
    for split in ("train", "test"):
        (tmp_path / "parts" / f"{split}.jsonl").write_text(json.dumps({"text": split}))
    parts = [prepare({"a": f"{tmp_path}/parts:{split}"}, tokenizer, num_workers=1) for split in ("train", "test")]
    assert parts[0] != parts[1]
    elsewhere.write_text('{"text": "another"}\n')
    assert prepare({"a": str(elsewhere)}, tokenizer, num_workers=1) != folder
    with pytest.raises(ValueError, match=r"made with other sources: delete it, or choose another output_dir"):
        prepare({"a": str(elsewhere)}, tokenizer, folder, num_workers=1)
    with pytest.raises(ValueError, match=r"made with other tokenizer and settings"):
        prepare(task[0], train_tokenizer(sentences(50), 290), folder, seed=1, num_workers=1)


@pytest.mark.parametrize(
    ("document", "texts"),
    [
        ("line", ["one", "two", " three", "four"]),
        ("paragraph", ["one\ntwo", " three\r\nfour"]),
        ("file", ["\n\none\ntwo\n \n\n three\r\nfour\n"]),
    ],
)
def test_what_a_document_is_in_a_text_file(document, texts, tmp_path):
    from hftrain.data.documents import open_source

    (tmp_path / "a.txt").write_bytes(b"\n\none\ntwo\n \n\n three\r\nfour\n")
    assert list(open_source(str(tmp_path / "a.txt"), document=document)) == texts


def test_special_tokens_in_a_text_are_text_and_documents_end_once(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text("a</s>b\n<s>\n")
    files = TokenFiles(prepare({"a": str(tmp_path / "a.txt")}, tokenizer, tmp_path / "tokens", num_workers=1))
    for row, text in zip(files, ["a</s>b", "<s>"], strict=True):
        assert row["input_ids"][-1] == tokenizer.eos_token_id
        assert not set(row["input_ids"][:-1].tolist()) & set(tokenizer.all_special_ids)
        assert tokenizer.decode(row["input_ids"][:-1]) == text


def test_a_large_vocabulary_takes_four_bytes(tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"</s>": 0} | {f"word{i}": i for i in range(1, 70_000)}, unk_token="</s>"))
    large = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>")
    (tmp_path / "a.txt").write_text("word69999\n")
    files = TokenFiles(prepare({"a": str(tmp_path / "a.txt")}, large, tmp_path / "tokens", num_workers=1))
    assert files[0]["input_ids"].dtype == np.uint32 and files[0]["input_ids"].tolist() == [69_999, 0]


def test_validation_documents_stand_apart_and_equal_texts_together(tmp_path, tokenizer, small):
    texts = sentences(400)
    (tmp_path / "a.txt").write_text("\n".join(texts + texts[::-1]))
    folder = prepare({"a": str(tmp_path / "a.txt")}, tokenizer, tmp_path / "t", validation_split=0.1, num_workers=1)
    train, validation = (
        {tuple(row["input_ids"].tolist()) for row in TokenFiles(folder, s)} for s in ("train", "validation")
    )
    assert not train & validation
    assert 20 < len(validation) < 60
    with pytest.raises(ValueError, match="no document in split 'test', but in train and validation"):
        TokenFiles(folder, "test")


def test_bad_rows_are_counted_and_named(tmp_path, tokenizer):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": null}\n{"txt": "two"}\n{"text": "three"}\n')
    source = {"a": str(tmp_path / "a.jsonl")}
    with pytest.raises(ValueError, match=r"a.jsonl, line 2: column 'text' is null\n.*line 3: no column 'text'.*'txt'"):
        prepare(source, tokenizer, tmp_path / "tokens", max_bad_rows=1, num_workers=1)
    files = TokenFiles(prepare(source, tokenizer, tmp_path / "tokens", max_bad_rows=2, num_workers=1))
    assert len(files) == 2 and files.manifest["bad_rows"] == 2


def test_a_column_that_is_nowhere_is_named(tmp_path, tokenizer):
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n' * 30)
    with pytest.raises(ValueError, match=r"rows.jsonl, line 1: no column 'said'; there are 'text'"):
        prepare({"rows": str(tmp_path / "rows.jsonl")}, tokenizer, tmp_path / "tokens", text_column="said")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{}/rows.jsnl", r"no file .*rows.jsnl; did you mean 'rows.jsonl'"),
        ("{}/many:test", r"many has no split 'test', but train"),
        ("{}/empty.jsonl", r"source a \(.*empty.jsonl\) has no document"),
    ],
)
def test_sources_that_give_nothing_are_named(source, said, corpus, tokenizer, tmp_path):
    (corpus / "empty.jsonl").touch()
    with pytest.raises(ValueError, match=said):
        prepare({"a": source.format(corpus)}, tokenizer, tmp_path / "tokens", num_workers=1)


def test_reading_a_stream_ends_at_max_tokens(corpus, tokenizer, tmp_path, small):
    folder = prepare({"a": f"{corpus}/many"}, tokenizer, tmp_path / "t", max_tokens=5000, num_workers=2, **small)
    files = TokenFiles(folder)
    assert 5000 <= files.tokens < 7000
    whole = TokenFiles(prepare({"a": f"{corpus}/many"}, tokenizer, tmp_path / "w", num_workers=1, **small))
    assert files.read(0, 5000).tolist() == whole.read(0, 5000).tolist()


def test_damage_is_named(corpus, tokenizer, tmp_path, small):
    folder = prepare({"a": f"{corpus}/rows.jsonl"}, tokenizer, tmp_path / "tokens", num_workers=1, **small)
    path = folder / "a-00001.train.tokens"
    raw = bytearray(path.read_bytes())
    raw[100] ^= 1
    path.write_bytes(raw)
    assert verify(folder) == [f"{path} is damaged (sha256)"]
    assert cli.main(["verify", str(folder)]) == 1
    path.write_bytes(raw[:-2])
    with pytest.raises(ValueError, match=r"a-00001.train.tokens is damaged: \d+ bytes were written, but it has \d+"):
        TokenFiles(folder)


# ---- examples


@pytest.fixture(scope="module")
def files(corpus, tokenizer, tmp_path_factory):
    sources = {"a": f"{corpus}/rows.jsonl", "b": f"{corpus}/many/train-0.jsonl"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "BATCH_CHARACTERS", 2000)
        folder = prepare(sources, tokenizer, tmp_path_factory.mktemp("tokens"), num_workers=1, shard_tokens=3000)
    return TokenFiles(folder)


def predicted(examples):
    """What a model that compares labels[1:] with its outputs is asked to predict, each as (token before, token)."""
    pairs = []
    for example in examples:
        ids, labels = example["input_ids"], example["labels"]
        pairs += [(a, b) for a, b in zip(ids[:-1].tolist(), labels[1:].tolist(), strict=True) if b != -100]
    return sorted(pairs)


@pytest.mark.parametrize("packing", ["best_fit", "none", "concatenate"])
@pytest.mark.parametrize("max_length", [2, 33, 4096])
def test_every_token_is_predicted_once_from_the_one_before_it(packing, max_length, files):
    examples = blocks(files, max_length, packing=packing)
    assert max(len(row["input_ids"]) for row in examples) <= max_length
    assert [len(row["input_ids"]) for row in examples] == examples.lengths[:, 0].tolist()
    documents = [row["input_ids"].tolist() for row in files]
    if packing == "concatenate":
        first, last = files.sources["b"]
        documents = [list(chain(*documents[:first])), list(chain(*documents[first:last]))]
    wanted = [pair for tokens in documents for pair in pairwise(tokens)]
    assert predicted(examples) == sorted(wanted)
    assert examples.padding == pytest.approx(1 - examples.lengths.sum() / (len(examples) * max_length))
    assert (examples.pieces > 0) == (max_length < max(map(len, documents)))


def test_concatenated_blocks_follow_one_another_across_shards(files):
    first, second, *_ = blocks(files, 1000, packing="concatenate")
    assert len(files.shards) > 2
    joined = np.concatenate([row["input_ids"] for row in files])
    assert first["input_ids"].tolist() == joined[:1000].tolist()
    assert second["input_ids"].tolist() == joined[999:1999].tolist()


@pytest.mark.parametrize("packing", ["best_fit", "none", "concatenate"])
def test_weights_are_shares_of_an_epochs_tokens(packing, files):
    plain = blocks(files, 64, packing=packing)
    weighted = blocks(files, 64, packing=packing, weights={"a": 1, "b": 3})
    spans = weighted.examples if packing == "best_fit" else weighted
    edge = files.edges[files.sources["b"][0]]
    tokens_b = spans.lengths[spans.starts >= edge].sum()
    assert abs(tokens_b - 0.75 * plain.lengths.sum()) <= 64
    assert abs(weighted.lengths.sum() - plain.lengths.sum()) <= 128
    again = blocks(files, 64, packing=packing, weights={"b": 6, "a": 2})
    assert again.fingerprint == weighted.fingerprint
    assert blocks(files, 64, packing=packing, weights={"b": 6, "a": 2}, seed=1).fingerprint != again.fingerprint
    alone = blocks(files, 64, packing=packing, weights={"a": 1, "b": 0})
    assert (alone.examples if packing == "best_fit" else alone).starts.max() < edge


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"a": 1, "c": 1}, "no source 'c'; there are a, b"),
        ({"a": 1}, "'b' needs a share of 0 or more, not None"),
        ({"a": 1, "b": -1}, "'b' needs a share of 0 or more, not -1"),
        ({"a": 0, "b": 0}, "every share is 0"),
    ],
)
def test_weights_that_do_not_fit_are_named(weights, said, files):
    with pytest.raises(ValueError, match=said):
        blocks(files, 64, weights=weights)


def test_a_source_is_repeated_whole_before_a_part_of_it(files):
    lengths = np.ones(20, dtype=int)
    chosen = mix(lengths, {"a": (0, 16), "b": (16, 20)}, {"a": 0.5, "b": 0.5}, seed=0)
    counts = np.bincount(chosen, minlength=20)
    assert counts[:16].sum() == 10 and counts[:16].max() == 1
    assert sorted(counts[16:].tolist()) == [2, 2, 3, 3]
    lengths = np.arange(1, 21)  # each gets what it has: floating point must not lose one
    own = {"a": lengths[:13].sum() / 210, "b": lengths[13:].sum() / 210}
    assert mix(lengths, {"a": (0, 13), "b": (13, 20)}, own, seed=0).tolist() == list(range(20))


def test_a_million_documents_are_planned_in_seconds(tmp_path):
    draw = np.random.default_rng(0)
    lengths = np.minimum(draw.lognormal(5, 1.2, size=1_000_000).astype(int) + 1, 20_000)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype("<i8")
    offsets.tofile(tmp_path / "a-00000.train.offsets")
    with open(tmp_path / "a-00000.train.tokens", "wb") as file:
        file.truncate(int(offsets[-1]) * 2)  # a hole: no token is read
    shard = {"name": "a-00000.train", "source": "a", "split": "train", "documents": len(lengths)}
    shard |= {"tokens": int(offsets[-1]), "sha256": {}}
    (tmp_path / "tokens.json").write_text(json.dumps({"format": 1, "dtype": "<u2", "shards": [shard]}))
    began = time.process_time()
    examples = blocks(tmp_path, 2048)
    assert time.process_time() - began < 8
    assert examples.padding < 0.001 and examples.pieces > 0


def test_the_command_names_a_tokenizer_that_is_nowhere(corpus, capsys):
    assert cli.main(["prepare", "--source", f"a={corpus}/rows.jsonl", "--tokenizer", "/no/such/folder"])
    assert "--tokenizer /no/such/folder: neither a folder with a tokenizer nor" in capsys.readouterr().err


def test_the_command(corpus, tokenizer, tmp_path, capsys):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    task = ["prepare", "--tokenizer", str(tmp_path / "tokenizer"), "--output_dir", str(tmp_path / "tokens")]
    assert cli.main([*task, "--source", f"a={corpus}/rows.jsonl", "--num_workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "train  a: 300 documents, " in said and str(tmp_path / "tokens") in said
    assert cli.main(["verify", str(tmp_path / "tokens")]) == 0
    assert cli.main([*task, "--source", f"{corpus}/rows.jsonl"]) == 2
    assert "give each source its own name" in capsys.readouterr().err
