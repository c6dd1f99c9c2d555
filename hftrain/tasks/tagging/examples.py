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
    """Words `begin` to `end` of a sentence (end excluded), of which `own_begin` to `own_end` are its own to predict."""

    begin: int
    end: int
    own_begin: int
    own_end: int


def windows(sizes: Sequence[int], room: int, stride: int) -> list[Window]:
    """Cuts a sentence between words. Every word belongs to one window: the one that shows most of what stands around
    it, that is, in which the nearer of the two cuts is farthest (Devlin et al. 2018, their code for SQuAD).

    Args:
        sizes: (W,) sub-words of each word, at most `room` each.
        room: sub-words of a window.
        stride: sub-words that neighbours share, at most.
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
    """The tokenizer of a `ModelConfig`, made to read words that are apart already.

    Raises:
        ValueError: it cannot be loaded, or does not know where its sub-words stand.
    """
    tokenizer = load.load_tokenizer(config)
    assert tokenizer is not None
    if not tokenizer.is_fast:
        raise ValueError(f"{type(tokenizer).__name__} does not know where its sub-words stand: it has no fast form")
    if before_words(tokenizer) and getattr(tokenizer, "add_prefix_space", None) is False:  # RoBERTa, GPT-2
        prefixing = load.load_tokenizer(config, add_prefix_space=True)
        assert prefixing is not None
        if not before_words(prefixing):  # of some classes it sets an attribute that nothing reads
            return prefixing
    return tokenizer


def before_words(tokenizer: PreTrainedTokenizerBase) -> str:
    """What has to stand before each word of a list, "" or a space, for it to get the tokens that it has inside a text:
    in byte-level vocabularies a word begins with the space before it. It is tried out.

    Raises:
        ValueError: with neither it gets them.
    """
    words = ["one", "two", "three"]
    whole = tokenizer(" ".join(words), add_special_tokens=False)["input_ids"]
    for before in ("", " "):
        asked: Any = [[before + word for word in words]]
        encoded = tokenizer(asked, is_split_into_words=True, add_special_tokens=False)
        places = zip(encoded["input_ids"][0], encoded.word_ids(0), strict=True)
        rest = [token for token, word in places if word]  # the first word of a text may be without a space
        if whole[len(whole) - len(rest) :] == rest:
            return before
    raise ValueError(
        f"{type(tokenizer).__name__} gives words other tokens one by one than in a text: {' '.join(words)!r} is "
        f"{tokenizer.convert_ids_to_tokens(whole)}. It cannot read lists of words"
    )


def around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before a text, and those after it."""
    bare, whole = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    at = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return whole[:at], whole[at + len(bare) :]


def split_words(tokenizer: PreTrainedTokenizerBase, sentences: Sequence[Sequence[str]]) -> list[list[list[int]]]:
    """Sub-words of each word of each sentence; of a word of which the tokenizer sees nothing, the unknown token.

    Raises:
        ValueError: there is no unknown token to take.
    """
    before = before_words(tokenizer)
    asked: Any = [[before + word for word in sentence] for sentence in sentences]
    encoded = tokenizer(asked, is_split_into_words=True, add_special_tokens=False, verbose=False)
    found = []
    for number, (sentence, ids) in enumerate(zip(sentences, encoded["input_ids"], strict=True)):
        pieces: list[list[int]] = [[] for _ in sentence]
        for word, token in zip(encoded.word_ids(number), ids, strict=True):
            pieces[word].append(token)
        for word, tokens in zip(sentence, pieces, strict=True):
            if not tokens:
                if tokenizer.unk_token_id is None:
                    raise ValueError(f"the tokenizer sees nothing in the word {word!r} and knows no unknown token")
                tokens.append(tokenizer.unk_token_id)
        found.append(pieces)
    return found


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

    "labels" is -100 but at the first sub-words (or all) of the window's own words; "positions" are the former; "part"
    counts the windows of a sentence, "length" is that of the whole of it. Of a word that alone is longer than a window,
    the beginning is read.
    """
    before, after = around(tokenizer)
    room = max_seq_length - len(before) - len(after)
    columns: dict[str, list[Any]] = {name: [] for name in EXAMPLE.names}
    counts = {"sentences in windows": 0, "words cut": 0}
    for pieces, tags in zip(split_words(tokenizer, sentences), labels, strict=True):
        length = sum(map(len, pieces)) + max_seq_length - room
        counts["words cut"] += sum(len(tokens) > room for tokens in pieces)
        pieces = [tokens[:room] for tokens in pieces]
        found = windows([len(tokens) for tokens in pieces], room, min(doc_stride, room - 1))
        counts["sentences in windows"] += len(found) > 1
        for part, window in enumerate(found):
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
    """`cut_sentences` of rows {"tokens", "tags"}, kept on disk as `text.tokenized` does; long sentences are counted."""
    number = {tag: index for index, tag in enumerate(tags)}
    names = ("max_seq_length", "doc_stride", "label_all_tokens")
    settings: dict[str, Any] = {name: getattr(config, name) for name in names}

    def convert(batch: Mapping[str, list[Any]]) -> tuple[dict[str, list[Any]], dict[str, int]]:
        labels = [[number[tag] for tag in sentence] for sentence in batch["tags"]]
        return cut_sentences(tokenizer, batch["tokens"], labels, **settings)

    examples = text.tokenized(rows, tokenizer, convert, schema=EXAMPLE, arguments=[settings, list(tags)])
    for what, count in examples.counts.items():
        if count:
            said = (of_split(rows), what, count, config.max_seq_length)
            logger.warning("%s%s: %d, for they are longer than max_seq_length = %d", *said)
    return examples


def collate(examples: Sequence[Mapping[str, Any]], *, pad_token_id: int) -> Batch:
    """int64 (B, T): input_ids, attention_mask, labels, and words: 1 at the first sub-word of each own word."""
    ids = [example["input_ids"] for example in examples]
    batch = {
        "input_ids": text.pad(ids, pad_token_id),
        "attention_mask": text.pad([[1] * len(tokens) for tokens in ids], 0),
        "labels": text.pad([example["labels"] for example in examples], IGNORE),
    }
    words = torch.zeros_like(batch["input_ids"])
    for row, example in zip(words, examples, strict=True):
        row[torch.as_tensor(example["positions"])] = 1
    return batch | {"words": words}


def collator(tokenizer: PreTrainedTokenizerBase) -> Callable[[Sequence[Any]], Batch]:
    """`collate` with the tokenizer's padding."""
    return partial(collate, pad_token_id=tokenizer.pad_token_id or 0)  # never looked at
