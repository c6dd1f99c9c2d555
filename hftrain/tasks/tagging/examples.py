"""Sentences as windows of sub-words, cut between words; each word belongs to one window.

Shapes: B windows of a batch, T tokens of a window, W words of a sentence.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from transformers import PreTrainedTokenizerBase

from hftrain import text
from hftrain.data.examples import Examples
from hftrain.losses import IGNORE, Batch
from hftrain.models import load
from hftrain.tasks.tagging.config import TagConfig, TaggingConfig
from hftrain.text.examples import TOKENS, of_split

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

logger = logging.getLogger(__name__)

EXAMPLE = pa.schema(
    [*((name, TOKENS) for name in ("input_ids", "labels", "positions")), ("part", pa.int32()), ("length", pa.int32())]
)


class Window(NamedTuple):
    """Words `begin` to `end` of a sentence (end excluded); the window predicts `own_begin` to `own_end`."""

    begin: int
    end: int
    own_begin: int
    own_end: int


def windows(sizes: Sequence[int], room: int, stride: int) -> list[Window]:
    """Cuts a sentence between words. Every word belongs to the window with the most context around it: the one whose
    nearer edge is farthest from the word (Devlin et al. 2018, their code for SQuAD).

    Args:
        sizes: (W,) sub-words of each word, at most `room` each.
        room: sub-words of a window.
        stride: maximum number of sub-words that neighbours share.
    """
    ends = np.cumsum(sizes)
    starts = ends - sizes
    spans = [(0, int(np.searchsorted(ends, room, side="right")))]
    while (end := spans[-1][1]) < len(sizes):
        begin = max(np.searchsorted(starts, ends[end - 1] - stride), np.searchsorted(starts, ends[end] - room))
        spans.append((int(begin), int(np.searchsorted(ends, starts[begin] + room, side="right"))))
    if len(spans) == 1:
        return [Window(*spans[0], *spans[0])]
    context = np.full((len(spans), len(sizes)), -1.0)
    for row, (begin, end) in zip(context, spans, strict=True):
        left = starts[begin:end] - starts[begin] if begin else np.inf
        right = ends[end - 1] - ends[begin:end] if end < len(sizes) else np.inf
        row[begin:end] = np.minimum(left, right)
    edges = np.searchsorted(context.argmax(axis=0), range(len(spans) + 1)).tolist()  # owners ascend
    cut = [Window(*span, *own) for span, own in zip(spans, pairwise(edges), strict=True)]
    return [window for window in cut if window.own_begin < window.own_end]


def load_tokenizer(config: TagConfig) -> PreTrainedTokenizerBase:
    """The fast tokenizer of the model, set to read lists of words."""
    use = "sub-words to words"
    tokenizer = load.load_fast_tokenizer(config, use)
    if before_words(tokenizer) and getattr(tokenizer, "add_prefix_space", None) is False:  # RoBERTa, GPT-2
        prefixing = load.load_fast_tokenizer(config, use, add_prefix_space=True)
        if not before_words(prefixing):  # some classes ignore the attribute
            return prefixing
    return tokenizer


def before_words(tokenizer: PreTrainedTokenizerBase) -> str:
    """The prefix ("" or a space) with which each word of a list gets the same tokens as inside a text, found by trying:
    in byte-level vocabularies a word begins with the space before it.

    Raises:
        ValueError: neither gives the same tokens.
    """
    words = ["one", "two", "three"]
    expected = tokenizer(" ".join(words), add_special_tokens=False)["input_ids"]
    for before in ("", " "):
        separated: Any = [[before + word for word in words]]
        encoded = tokenizer(separated, is_split_into_words=True, add_special_tokens=False)
        places = zip(encoded["input_ids"][0], encoded.word_ids(0), strict=True)
        tokens = [token for token, word in places if word]  # the first word of a text may lack the space
        if expected[len(expected) - len(tokens) :] == tokens:
            return before
    raise ValueError(
        f"{type(tokenizer).__name__} gives separate words other tokens than in a text: {' '.join(words)!r} is "
        f"{tokenizer.convert_ids_to_tokens(expected)}. It cannot read lists of words"
    )


def around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before a text, and those after it."""
    bare, ids = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    at = next(i for i in range(len(ids)) if ids[i : i + len(bare)] == bare)
    return ids[:at], ids[at + len(bare) :]


def split_words(tokenizer: PreTrainedTokenizerBase, sentences: Sequence[Sequence[str]]) -> list[list[list[int]]]:
    """Sub-words of each word of each sentence; the unknown token for a word that the tokenizer drops.

    Raises:
        ValueError: the tokenizer drops a word and has no unknown token.
    """
    before = before_words(tokenizer)
    separated: Any = [[before + word for word in sentence] for sentence in sentences]
    encoded = tokenizer(separated, is_split_into_words=True, add_special_tokens=False, verbose=False)
    sub_words = []
    for number, (sentence, ids) in enumerate(zip(sentences, encoded["input_ids"], strict=True)):
        pieces: list[list[int]] = [[] for _ in sentence]
        for word, token in zip(encoded.word_ids(number), ids, strict=True):
            pieces[word].append(token)
        for word, tokens in zip(sentence, pieces, strict=True):
            if not tokens:
                if tokenizer.unk_token_id is None:
                    raise ValueError(f"the tokenizer drops the word {word!r} and has no unknown token")
                tokens.append(tokenizer.unk_token_id)
        sub_words.append(pieces)
    return sub_words


def cut_sentences(
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[Sequence[str]],
    labels: Sequence[Sequence[int]],
    *,
    max_seq_length: int,
    doc_stride: int,
    label_all_tokens: bool = False,
) -> tuple[dict[str, list[Any]], dict[str, int]]:
    """Windows of sentences, in order: columns of `EXAMPLE`, and how many sentences and words were cut.

    "labels" is -100 except at the first sub-words (or all) of the window's own words; "positions" are the places of
    those first sub-words; "part" numbers the windows of a sentence; "length" is the length of the whole sentence. A
    word longer than a window is truncated.
    """
    before, after = around(tokenizer)
    room = max_seq_length - len(before) - len(after)
    columns: dict[str, list[Any]] = {name: [] for name in EXAMPLE.names}
    counts = {"sentences in windows": 0, "words cut": 0}
    for pieces, tags in zip(split_words(tokenizer, sentences), labels, strict=True):
        length = sum(map(len, pieces)) + max_seq_length - room
        counts["words cut"] += sum(len(tokens) > room for tokens in pieces)
        pieces = [tokens[:room] for tokens in pieces]
        spans = windows([len(tokens) for tokens in pieces], room, min(doc_stride, room - 1))
        counts["sentences in windows"] += len(spans) > 1
        for part, window in enumerate(spans):
            ids, targets, positions = list(before), [IGNORE] * len(before), []
            for word in range(window.begin, window.end):
                own = window.own_begin <= word < window.own_end
                if own:
                    positions.append(len(ids))
                tag = tags[word] if own else IGNORE
                ids += pieces[word]
                targets += [tag] + [tag if label_all_tokens else IGNORE] * (len(pieces[word]) - 1)
            values = (ids + after, targets + [IGNORE] * len(after), positions, part, length)
            for name, value in zip(EXAMPLE.names, values, strict=True):
                columns[name].append(value)
    return columns, counts


def tokenize(rows: Rows, tokenizer: PreTrainedTokenizerBase, tags: Sequence[str], config: TaggingConfig) -> Examples:
    """`cut_sentences` of rows {"tokens", "tags"}, cached on disk by `text.tokenized`; long sentences are counted."""
    number = {tag: index for index, tag in enumerate(tags)}
    names = ("max_seq_length", "doc_stride", "label_all_tokens")
    settings: dict[str, Any] = {name: getattr(config, name) for name in names}

    def convert(batch: Mapping[str, list[Any]]) -> tuple[dict[str, list[Any]], dict[str, int]]:
        labels = [[number[tag] for tag in sentence] for sentence in batch["tags"]]
        return cut_sentences(tokenizer, batch["tokens"], labels, **settings)

    examples = text.tokenized(rows, tokenizer, convert, schema=EXAMPLE, arguments=[settings, list(tags)])
    for what, count in examples.counts.items():
        if count:
            values = (of_split(rows), what, count, config.max_seq_length)
            logger.warning("%s%s: %d, longer than max_seq_length = %d", *values)
    return examples


def collate(examples: Sequence[Mapping[str, Any]], *, pad_token_id: int) -> Batch:
    """int64 (B, T): input_ids, attention_mask, labels, and words: 1 at the first sub-word of each own word."""
    ids = [example["input_ids"] for example in examples]
    batch = {
        "input_ids": text.pad(ids, pad_token_id),
        "attention_mask": text.attention_mask(ids),
        "labels": text.pad([example["labels"] for example in examples], IGNORE),
    }
    words = torch.zeros_like(batch["input_ids"])
    for row, example in zip(words, examples, strict=True):
        row[torch.as_tensor(example["positions"])] = 1
    return batch | {"words": words}


def collator(tokenizer: PreTrainedTokenizerBase) -> Callable[[Sequence[Any]], Batch]:
    """`collate` with the tokenizer's padding."""
    return partial(collate, pad_token_id=tokenizer.pad_token_id or 0)  # the attention mask hides it
