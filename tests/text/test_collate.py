"""Batches of texts: padding, shifted labels, and back to text."""

import sys

import datasets
import numpy as np
import pytest
import torch
import transformers

from hftrain.tasks.translation import pair_collator
from hftrain.text import (
    attention_mask,
    collate_pairs,
    decode,
    pad,
    texts_of,
    train_tokenizer,
)

# ---- batches

EXAMPLES = [
    {"input_ids": [5, 6, 7, 2], "labels": [8, 9, 2]},
    {"input_ids": [5, 2], "labels": [8, 9, 10, 11, 2]},
    {"input_ids": [5, 6, 2], "labels": [2]},
]


def test_collate():
    batch = collate_pairs(EXAMPLES, pad_token_id=0, decoder_start_token_id=1)
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[5, 6, 7, 2], [5, 2, 0, 0], [5, 6, 2, 0]],
        "attention_mask": [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]],
        "decoder_input_ids": [[1, 8, 9, 0, 0], [1, 8, 9, 10, 11], [1, 0, 0, 0, 0]],
        "labels": [[8, 9, 2, -100, -100], [8, 9, 10, 11, 2], [2, -100, -100, -100, -100]],
    }
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
@pytest.mark.parametrize("side", ["right", "left"])
def test_pad_takes_lists_arrays_and_tensors(kind, side):
    sequences = [kind([5, 6, 7]), kind([8]), kind([])]
    expected = {
        "right": [[5, 6, 7, -1], [8, -1, -1, -1], [-1, -1, -1, -1]],
        "left": [[-1, 5, 6, 7], [-1, -1, -1, 8], [-1, -1, -1, -1]],
    }
    padded, mask = pad(sequences, -1, 4, side), attention_mask(sequences, 4, side)
    assert padded.tolist() == expected[side] and padded.dtype == torch.int64
    assert torch.equal(mask, (padded != -1).long()) and mask.dtype == torch.int64


def test_collate_when_pad_is_the_end_and_to_a_multiple():
    batch = collate_pairs(EXAMPLES, pad_token_id=2, decoder_start_token_id=2, pad_to_multiple_of=8)
    assert all(tensor.shape == (3, 8) for tensor in batch.values())
    assert (batch["labels"] != -100).sum(dim=1).tolist() == [3, 5, 1]
    assert batch["attention_mask"].sum(dim=1).tolist() == [4, 2, 3]


TINY = dict.fromkeys(("d_model", "encoder_ffn_dim", "decoder_ffn_dim"), 8)
TINY |= dict.fromkeys(("encoder_layers", "decoder_layers", "encoder_attention_heads", "decoder_attention_heads"), 1)
TINY |= {"vocab_size": 20, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
MODELS = {
    "Bart": (TINY, 2),
    "Marian": (TINY, 0),
    "M2M100": (TINY, 2),
    "MBart": (TINY, None),
    "PLBart": (TINY, None),
    "T5": ({"vocab_size": 20, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}, 0),
}


@pytest.mark.parametrize("name", MODELS)
def test_collate_shifts_as_the_models_do(name):
    options, start = MODELS[name]
    first = {} if name == "PLBart" else {"decoder_start_token_id": start}  # its configuration has no such key
    config = getattr(transformers, f"{name}Config")(**options, **first)
    architecture = "MarianMTModel" if name == "Marian" else f"{name}ForConditionalGeneration"
    torch.manual_seed(0)
    model = getattr(transformers, architecture)(config).eval()
    tokenizer = type("Tokenizer", (), {"pad_token_id": 0, "__len__": lambda self: 20})()
    batch = pair_collator(tokenizer, model)(EXAMPLES)
    labels, shifted = batch["labels"], batch["decoder_input_ids"]
    shift = sys.modules[type(model).__module__].shift_tokens_right if name != "T5" else model._shift_right
    theirs = shift(labels, *{"T5": [], "MBart": [0], "PLBart": [0]}.get(name, [0, start]))
    counted = labels != -100
    assert torch.equal(theirs[counted], shifted[counted])
    # and padding on the right of the decoder, unmasked, changes no logit that counts
    with torch.no_grad():
        together = model(**{key: value for key, value in batch.items() if key != "labels"}).logits
        for row, example in enumerate(EXAMPLES):
            alone = collate_pairs([example], pad_token_id=0, decoder_start_token_id=start)
            alone.pop("labels")
            torch.testing.assert_close(
                together[row, : len(example["labels"])], model(**alone).logits[0], rtol=1e-5, atol=1e-6
            )


def test_decode(tokenizer):
    ids = tokenizer(["5. Mai", "in 3 Tagen"], padding=True, return_tensors="pt")["input_ids"]
    assert decode(tokenizer, ids) == ["5. Mai", "in 3 Tagen"]
    assert decode(tokenizer, ids.masked_fill(ids == tokenizer.pad_token_id, -100)) == ["5. Mai", "in 3 Tagen"]


def test_a_tokenizer_is_learnt_once(tmp_path, monkeypatch):

    from hftrain.text import tokenizer

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    rows = datasets.Dataset.from_dict({"source": ["a b c", "d e f"] * 9, "target": ["g h", "i j"] * 9})
    learnt = tokenizer.learn_tokenizer(rows, 300)
    expected = train_tokenizer(texts_of(rows), 300)
    assert learnt("a b <s> ü").input_ids == expected("a b <s> ü").input_ids
    monkeypatch.setattr(tokenizer, "train_tokenizer", None)  # a second learning would fail
    assert tokenizer.learn_tokenizer(rows, 300).get_vocab() == expected.get_vocab()
    with pytest.raises(TypeError):
        tokenizer.learn_tokenizer(rows, 301)
    monkeypatch.undo()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    [file] = tmp_path.glob("hftrain/tokenizer-*/tokenizer.json")
    file.write_bytes(file.read_bytes()[:-200])
    assert tokenizer.learn_tokenizer(rows, 300).get_vocab() == expected.get_vocab()  # damaged, and made again
