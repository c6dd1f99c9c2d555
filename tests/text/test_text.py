"""Text features: lossless tokens, examples as transformers' tokenizers make them, batches as its models shift them."""

import json
import logging
import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import sentencepiece
import transformers
from transformers import AutoTokenizer

from hftrain.text import (
    decode,
    language_id,
    list_lengths,
    texts_of,
    tokenize_pairs,
    train_tokenizer,
    vocabulary,
)

PAIRS: dict[str, Any] = {"max_source_length": 32, "max_target_length": 32}


STRANGE = [
    "", " ", "  two  spaces ", "a\tb\nc\r\n", "ﬁ Ǆ ½", "e\u0301 → é", "漢字かな交じり", "هٰذَا", "हिन्दी", "🏳️‍🌈 👩‍👩‍👧",
    "</s> <pad> <unk> <s>", "▁ Ġ Ċ", "\u2028\x00\x1f\u200b\ufeff", "1234567890", "1 234,50 €",
]  # fmt: skip


@pytest.mark.parametrize("text", STRANGE)
def test_tokens_lose_nothing(tokenizer, text, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    for each in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        ids = each(text)["input_ids"]
        assert each.decode(ids, skip_special_tokens=True) == unicodedata.normalize("NFC", text)
        assert ids[-1] == each.eos_token_id
        assert not set(ids[:-1]) & set(each.all_special_ids)


def test_tokenizer_size_and_tokens(texts, tokenizer):
    assert len(tokenizer) == 400
    assert len(train_tokenizer(texts, 10_000)) < 1_000  # no more than the texts give
    assert [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id] == [
        0,
        1,
        2,
        3,
    ]
    assert (
        tokenizer("Januar")["input_ids"] == tokenizer("Januar Januar")["input_ids"][1:]
    )  # alike at the start and inside
    assert len(tokenizer("2024")["input_ids"]) == 5  # four digits, the first with the space before it, and the end
    coded = train_tokenizer(texts, 400, added_tokens=["<2de>"])
    assert len(coded) == 400 and coded.tokenize("<2de> 5")[0] == "<2de>"
    with pytest.raises(ValueError, match=r"vocab_size must be 260 or more .* got 100"):
        train_tokenizer(texts, 100)


def test_what_tokenizer_and_model_share(rows, texts, tokenizer):
    assert sorted(texts_of(rows)) == sorted(texts)
    assert vocabulary(tokenizer) == {"vocab_size": 400, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def test_tokenizer_is_the_same_in_another_process(texts, tokenizer, tmp_path):
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    code = (
        "import json, sys; from hftrain.text import train_tokenizer\n"
        "print(train_tokenizer(json.load(open(sys.argv[1])), 400).backend_tokenizer.to_str())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "texts.json"], capture_output=True, text=True, timeout=120
    )
    assert run.stdout.strip() == tokenizer.backend_tokenizer.to_str()


# ---- pairs


def test_pairs(rows, tokenizer, tmp_path):
    examples = tokenize_pairs(rows, tokenizer, **PAIRS, cache_dir=tmp_path)
    assert examples[0].keys() == {"input_ids", "labels"}
    assert decode(tokenizer, examples.column("input_ids")[:]) == rows["source"][:]
    assert decode(tokenizer, examples.column("labels")[:]) == rows["target"][:]
    assert all(labels[-1] == tokenizer.eos_token_id for labels in examples.column("labels"))
    assert examples.counts == {"source truncated": 0, "target truncated": 0}


def test_lengths(rows, tokenizer, tmp_path):
    examples = tokenize_pairs(rows, tokenizer, **PAIRS, cache_dir=tmp_path)
    expected = [[len(example["input_ids"]), len(example["labels"])] for example in examples]
    assert examples.lengths.tolist() == expected
    assert examples.lengths.dtype == np.int64 and examples.lengths.shape == (600, 2)
    some = examples.items.select([7, 3, 5])
    assert list_lengths(some, ["input_ids", "labels"]).tolist() == [expected[7], expected[3], expected[5]]


def test_truncation_keeps_the_end_and_is_counted(rows, tokenizer, tmp_path, caplog):
    whole = tokenize_pairs(rows, tokenizer, max_source_length=99, max_target_length=99, cache_dir=tmp_path)
    before = tokenizer.backend_tokenizer.to_str()
    for _ in range(2):  # made, then found
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            cut = tokenize_pairs(rows, tokenizer, max_source_length=8, max_target_length=10, cache_dir=tmp_path)
        counts = (whole.lengths > [8, 10]).sum(axis=0)
        assert list(cut.counts.values()) == counts.tolist() and all(counts > 50)
        said = f"{counts[0]} of 600 rows ({counts[0] / 6:.1f} %) have a longer source than max_source_length = 8"
        assert said in caplog.text
    for long, short in zip(whole, cut, strict=True):
        assert short["input_ids"] == (long["input_ids"] if len(long["input_ids"]) <= 8 else [*long["input_ids"][:7], 2])
        assert short["labels"] == (long["labels"] if len(long["labels"]) <= 10 else [*long["labels"][:9], 2])
    assert tokenizer.backend_tokenizer.to_str() == before  # the saved tokenizer must not truncate


def test_pairs_refuse(rows, tokenizer, texts, tmp_path):
    with pytest.raises(ValueError, match="max lengths must be 2 or more, got 1 and 32"):
        tokenize_pairs(rows, tokenizer, max_source_length=1, max_target_length=32, cache_dir=tmp_path)
    endless = train_tokenizer(texts, 300)
    endless.backend_tokenizer.post_processor = None
    with pytest.raises(ValueError, match="adds no end token to a text, so the model cannot learn to stop"):
        tokenize_pairs(rows, endless, **PAIRS, cache_dir=tmp_path)


# ---- the cache


def files(folder):
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*.*") if path.is_file()}


def test_cache_is_found_by_content(rows, tokenizer, texts, tmp_path):
    examples = tokenize_pairs(rows, tokenizer, **PAIRS, cache_dir=tmp_path)
    made = files(tmp_path)
    assert len(made) == 2
    tokenizer.save_pretrained(tmp_path / "a" / "tokenizer")
    saved = files(tmp_path)
    tokenizer(["a", "b c"], padding=True, truncation=True, max_length=9)  # leaves its traces in a tokenizer
    same = datasets.Dataset.from_dict(rows.data.to_dict())
    for again in (tokenizer, AutoTokenizer.from_pretrained(tmp_path / "a" / "tokenizer")):
        assert list(tokenize_pairs(same, again, **PAIRS, cache_dir=tmp_path)) == list(examples)
    assert files(tmp_path) == saved
    others: list[tuple[Any, Any, dict[str, Any]]] = [
        (rows.select(range(599)), tokenizer, {}),
        (rows, train_tokenizer(texts, 399), {}),
        (rows, train_tokenizer(texts, 400, added_tokens=["x"]), {}),
        (rows, tokenizer, {"max_target_length": 31}),
        (rows, tokenizer, {"source_prefix": "say: "}),
    ]
    for number, (data, each, changed) in enumerate(others, 1):
        tokenize_pairs(data, each, **{**PAIRS, **changed}, cache_dir=tmp_path)
        assert len(files(tmp_path)) == len(saved) + 2 * number


@pytest.mark.parametrize("damage", ["flip", "cut", "no manifest", "no data"])
def test_damaged_cache_is_made_again(rows, tokenizer, tmp_path, caplog, damage):
    expected = list(tokenize_pairs(rows, tokenizer, **PAIRS, cache_dir=tmp_path))
    [data] = tmp_path.glob("*/examples.arrow")
    if damage == "flip":
        content = bytearray(data.read_bytes())
        content[len(content) // 2] ^= 1
        data.write_bytes(content)
    elif damage == "cut":
        data.write_bytes(data.read_bytes()[:-100])
    else:
        (data.with_name("manifest.json") if damage == "no manifest" else data).unlink()
    with caplog.at_level(logging.WARNING):
        assert list(tokenize_pairs(rows, tokenizer, **PAIRS, cache_dir=tmp_path)) == expected
    assert "are damaged (" in caplog.text and str(data.parent) in caplog.text
    caplog.clear()
    tokenize_pairs(rows, tokenizer, **PAIRS, cache_dir=tmp_path)
    assert caplog.text == ""


def test_cache_survives_a_race_and_a_failure(rows, texts, tmp_path):
    tokenizers = [train_tokenizer(texts, 400) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda each: list(tokenize_pairs(rows, each, **PAIRS, cache_dir=tmp_path)), tokenizers))
    assert all(one == made[0] for one in made)
    assert len(list(tmp_path.iterdir())) == 1  # nothing half done is left
    broken = datasets.Dataset.from_dict({"source": ["a"] * 2_000, "target": ["b"] * 1_999 + [None]})
    with pytest.raises(Exception, match=r".+"):
        tokenize_pairs(broken, tokenizers[0], **PAIRS, cache_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_default_cache_is_that_of_datasets(rows, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    tokenize_pairs(rows, tokenizer, **PAIRS)
    assert len(list((tmp_path / "hftrain").glob("*/examples.arrow"))) == 1


# ---- the tokenizers of others


@pytest.fixture(scope="module")
def pieces(texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pieces")
    for side, chosen in (("source", texts[:600]), ("target", texts[600:])):
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(chosen), model_prefix=str(folder / side), vocab_size=150, minloglevel=2
        )
    return folder


def marian(pieces):
    models = [
        sentencepiece.SentencePieceProcessor(model_file=str(pieces / f"{side}.model")) for side in ("source", "target")
    ]
    words = {model.id_to_piece(number) for model in models for number in range(model.get_piece_size())}
    vocabulary = ["</s>", "<unk>", *sorted(words - {"</s>", "<unk>", "<s>"}), "<pad>"]
    (pieces / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(vocabulary)}))
    return transformers.MarianTokenizer(
        str(pieces / "source.model"), str(pieces / "target.model"), str(pieces / "vocab.json")
    )


def scored(texts):
    words = sorted({"▁" + word for text in texts for word in text.split()} | set("".join(texts)) | {"▁"})
    return [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((word, -len(word)) for word in words)]


def test_marian(rows, pieces, tmp_path):
    tokenizer = marian(pieces)
    examples = tokenize_pairs(rows, tokenizer, **PAIRS, cache_dir=tmp_path)
    expected = tokenizer(rows["source"][:], text_target=rows["target"][:])
    assert (
        examples.column("input_ids")[:] == expected["input_ids"] and examples.column("labels")[:] == expected["labels"]
    )
    assert examples.column("labels")[:] != tokenizer(rows["target"][:])["input_ids"]  # the target has pieces of its own
    assert decode(tokenizer, examples.column("labels")[:]) == rows["target"][:]
    cut = tokenize_pairs(rows, tokenizer, max_source_length=5, max_target_length=5, cache_dir=tmp_path)
    assert cut.lengths.max() == 5 and {labels[-1] for labels in cut.column("labels")} == {tokenizer.eos_token_id}
    assert language_id(tokenizer, "de") is None


def test_t5_with_a_prefix(rows, texts, tmp_path):
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *scored([*texts, "translate:"])[4:]]
    tokenizer = transformers.T5Tokenizer(vocab=vocabulary, extra_ids=2)
    examples = tokenize_pairs(rows, tokenizer, **PAIRS, source_prefix="translate: ", cache_dir=tmp_path)
    assert examples.column("input_ids")[:] == tokenizer(["translate: " + text for text in rows["source"]])["input_ids"]
    assert examples.column("labels")[:] == tokenizer(text_target=rows["target"][:])["input_ids"]
    assert {labels[-1] for labels in examples.column("labels")} == {tokenizer.eos_token_id}


def nllb(texts):
    vocabulary = {word: number for number, (word, _) in enumerate(scored(texts))}
    return transformers.NllbTokenizer(vocab=vocabulary, merges=[])


@pytest.mark.parametrize(("build", "source", "target"), [("nllb", "eng_Latn", "deu_Latn"), ("mbart", "en_XX", "de_DE")])
def test_tokenizers_with_languages(rows, texts, tmp_path, build, source, target):
    tokenizer = nllb(texts) if build == "nllb" else transformers.MBartTokenizer(vocab=mbart_vocabulary(texts))
    of_source, of_target = tokenizer.convert_tokens_to_ids([source, target])
    assert of_source != of_target and tokenizer.unk_token_id not in (of_source, of_target)
    examples = tokenize_pairs(rows, tokenizer, **PAIRS, source_lang=source, target_lang=target, cache_dir=tmp_path)
    eos = tokenizer.eos_token_id
    for name, language in (("input_ids", of_source), ("labels", of_target)):
        if build == "nllb":  # the language before, the end behind
            assert {(ids[0], ids[-1]) for ids in examples.column(name)} == {(language, eos)}
        else:
            assert {(ids[-2], ids[-1]) for ids in examples.column(name)} == {(eos, language)}
    assert language_id(tokenizer, target) == of_target
    cut = tokenize_pairs(
        rows,
        tokenizer,
        max_source_length=6,
        max_target_length=6,
        source_lang=source,
        target_lang=target,
        cache_dir=tmp_path,
    )
    assert cut.lengths.max() == 6 and all(of_target in labels and eos in labels for labels in cut.column("labels"))
    with pytest.raises(ValueError, match=rf"no language 'de'; perhaps .*{target}"):
        tokenize_pairs(rows, tokenizer, **PAIRS, source_lang=source, target_lang="de", cache_dir=tmp_path)
    with pytest.raises(ValueError, match=r"no language None; it has .*source_lang, target_lang"):
        tokenize_pairs(rows, tokenizer, **PAIRS, cache_dir=tmp_path)


def mbart_vocabulary(texts):
    codes = transformers.models.mbart.tokenization_mbart.FAIRSEQ_LANGUAGE_CODES
    return [*scored(texts), *((code, 0.0) for code in codes), ("<mask>", 0.0)]
