"""Questions as tables and other tools hold them; answers without the blanks that some tokenizers count to a word."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from hftrain.config import DataConfig
from hftrain.tasks import answering
from hftrain.tasks.answering.examples import trim

pytestmark = pytest.mark.unit

CONTEXT = "  In 18{0} Ada Müller 🙂 ruled Rome, and Rome was at peace ({0})."


@dataclass
class Settings(answering.AnsweringConfig, DataConfig):
    """What `load_questions` reads."""


def load(path: Path, **settings: Any) -> list[tuple[list[str], list[int]]]:
    """Answers and starts of each question, in order."""
    config = Settings(**{"train_file": str(path), "validation_split": 1, "test_split": 1} | settings)
    rows = [row for split in answering.load_questions(config, seed=0).values() for row in split]
    return [(row["answers"], row["starts"]) for row in sorted(rows, key=lambda row: row["question"])]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Each row with a context and a question of its own."""
    rows = [{"context": CONTEXT.format(10 + n), "question": f"who in {10 + n}?"} | row for n, row in enumerate(rows)]
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ANSWER, START = "Ada Müller", CONTEXT.format(10).index("Ada")
RIGHT = ([ANSWER], [START])


@pytest.mark.parametrize(
    "row",
    [
        {"answers": {"text": [ANSWER], "answer_start": [START]}},
        {"answers": {"text": ANSWER, "answer_start": START}},
        {"answers": [{"text": ANSWER, "answer_start": float(START)}]},
        {"answers": str({"text": [ANSWER], "answer_start": [START]})},
        {"answers": json.dumps({"text": [ANSWER], "answer_start": [START]})},
        {"answers": f"{{'text': array(['{ANSWER}'], dtype=object), 'answer_start': array([{START}], dtype=int32)}}"},
        {"answers": ANSWER, "answer_start": START},
        {"answers": [ANSWER], "answer_start": [START]},
        {"answers": f"['{ANSWER}']", "answer_start": f"[{START}]"},
        {"answers": ANSWER, "answer_start": f"{START}.0"},
        {"answers": ANSWER},  # it stands there once
        {"answers": {"text": [ANSWER]}},
        {"answers": ANSWER, "answer_start": ""},
    ],
)
@pytest.mark.parametrize("file", ["a.csv", "a.jsonl"])
def test_every_form_of_an_answer(tmp_path, file, row):
    assert load(write(tmp_path / file, [row] * 4)) == [RIGHT] * 4


def test_columns_of_text_and_start_by_name_and_no_answer(tmp_path):
    rows = [{"reply": ANSWER, "at": START}, {"reply": ANSWER, "at": START}, {"reply": ANSWER, "at": START}]
    rows += [{"reply": "", "at": ""}, {"reply": "", "at": -1}, {"reply": "", "at": 0}]
    found = load(write(tmp_path / "a.csv", rows), answers_column="reply", answer_start_column="at")
    assert found == [RIGHT] * 3 + [([], [])] * 3


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"answers": "Rome"}, "the answer 'Rome' has no start, and is in its context more than once: give its start"),
        ({"answers": "Oslo"}, "the answer 'Oslo' has no start, and is not in its context"),
        ({"answers": ANSWER, "answer_start": START + 1}, f"is not at character {START + 1} .* it is at {START}"),
        ({"answers": "", "answer_start": 7}, "column 'answers' is empty, but answer_start is not"),
        ({"answers": ANSWER, "answer_start": "here"}, "answer_start is not a whole number: 'here'"),
        ({"answers": [ANSWER, "Rome"], "answer_start": [START]}, "lists of different lengths: 2 text, 1 answer_start"),
        ({"answers": {"words": ANSWER}}, "lacks text and answer_start"),
    ],
)
def test_answers_that_do_not_stand_there_are_named(tmp_path, row, why):
    rows = [{"answers": ANSWER, "answer_start": START} | row] * 2 if "answer_start" in row else [row] * 2
    with pytest.raises(ValueError, match=rf"a\.jsonl, line 1: .*{why}"):
        load(write(tmp_path / "a.jsonl", rows))


# ---- blanks


def tokenizer_of(kind: str) -> transformers.PreTrainedTokenizerFast:
    """One whose offsets take in the space before a word."""
    learnt = Tokenizer(models.BPE() if kind == "bytes" else models.Unigram())
    if kind == "bytes":
        learnt.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        learnt.pre_tokenizer = pre_tokenizers.Metaspace()
    if kind == "lone":  # the blank is a token of its own
        learnt.normalizer = normalizers.Replace(" A", "  A")
    special = ["[CLS]", "[SEP]", "[UNK]"]
    alphabet = pre_tokenizers.ByteLevel.alphabet() if kind == "bytes" else list("▁ ()" + CONTEXT)
    trainer: Any = trainers.BpeTrainer if kind == "bytes" else trainers.UnigramTrainer
    options: dict[str, Any] = {"vocab_size": 320, "special_tokens": special, "initial_alphabet": alphabet}
    options |= {} if kind == "bytes" else {"unk_token": "[UNK]"}
    texts = [CONTEXT.format(n) + f" who in {n}?" for n in range(10, 30)]
    learnt.train_from_iterator(texts, trainer(show_progress=False, **options))
    pair = {"single": "[CLS] $A [SEP]", "pair": "[CLS] $A [SEP] $B [SEP]"}
    learnt.post_processor = processors.TemplateProcessing(**pair, special_tokens=[("[CLS]", 0), ("[SEP]", 1)])
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[UNK]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=learnt, **names)


def test_places_without_blanks():
    starts, ends = trim("  a b ")
    assert starts.tolist() == [2, 2, 2, 4, 4, 6, 6] and ends.tolist() == [0, 0, 0, 3, 3, 5, 5]


@pytest.mark.parametrize("kind", ["bytes", "metaspace", "lone"])
@pytest.mark.parametrize("blanks", [(0, 0), (1, 1)])
def test_an_answer_is_found_without_the_blanks_around_it(kind, blanks):
    """Whatever span of tokens is best, its text begins and ends with what is no blank."""
    tokenizer, context = tokenizer_of(kind), CONTEXT.format(12)
    span = (START - blanks[0], START + len(ANSWER) + blanks[1])
    sizes = {"max_seq_length": 128, "doc_stride": 8}
    columns, _ = answering.cut_contexts(tokenizer, ["who in 12?"], [context], [span], **sizes)
    (example,) = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    tokens = len(example["offsets"]) // 2
    first, last = (label - example["begin"] for label in example["labels"])
    assert (example["offsets"][2 * first], example["offsets"][2 * last + 1]) == (START, START + len(ANSWER))
    every = [[a + example["begin"], b + example["begin"], -1.0 * a] for a in range(tokens) for b in range(a, tokens)]
    (found,) = answering.join([example], [(np.array(every), 0.0, 0.0)], len(every))
    texts = [context[span.start : span.end] for span in found.spans]
    assert all(text and text == text.strip() for text in texts)
    assert len({span[:2] for span in found.spans}) == len(found.spans) and ANSWER in texts
    places = torch.tensor(example["offsets"]).reshape(-1, 2)
    assert (places.diff(dim=0) >= 0).all()


def test_columns_that_nothing_reads_are_named(tmp_path, caplog):
    load(write(tmp_path / "a.jsonl", [{"answers": ANSWER, "plausible_answers": [n], "id": n} for n in range(4)]))
    assert "columns that are not read: plausible_answers (4 rows)" in caplog.text
