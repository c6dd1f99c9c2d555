"""Entities of texts, or the tag of each word, with their positions."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hftrain.models.fit import longest_text
from hftrain.models.saved import Saved, load, recall, refuse_nan

if TYPE_CHECKING:
    from hftrain.tasks.tagging.spans import Word


def tag(
    saved: Saved, texts: Sequence[str | Sequence[str]], batch_size: int, each_word: bool = False
) -> list[list[dict[str, Any]]]:
    """The entities of each text: {"type", "text", "start", "end" (in characters), "probability" (mean of its words)}.
    If the tags are not entities, or with `each_word`, every word with "tag" in place of "type".

    `tagging.spans.WORD` cuts a text into words. A list of words is used as it is; positions count characters of the
    words joined by spaces. Long texts are read in windows of the same size as in training.
    """
    from datasets import Dataset

    from hftrain.data.examples import Examples
    from hftrain.tasks import tagging
    from hftrain.tasks.tagging import collator, cut_sentences, find_scheme
    from hftrain.tasks.tagging.spans import words_of
    from hftrain.train.evaluation import OneProcess

    folder, config = saved.folder, saved.config
    model, tokenizer, device = load(saved, "AutoModelForTokenClassification")
    most = min(512, longest_text(model, tokenizer))
    windows = recall(config, "windows") or {"max_seq_length": most, "doc_stride": most // 4}
    words = [words_of(text) for text in texts]
    filled = [i for i, words_of_text in enumerate(words) if words_of_text]
    sentences = [[word.text for word in words[i]] for i in filled]
    columns, counts = cut_sentences(tokenizer, sentences, [[0] * len(sentence) for sentence in sentences], **windows)
    if cut := counts["words cut"]:
        print(
            f"{cut} words are longer than a window of {windows['max_seq_length']} tokens and were truncated",
            file=sys.stderr,
        )
    tagged_sentences = []
    if filled:
        examples = Examples(Dataset.from_dict(columns), [len(ids) for ids in columns["input_ids"]])
        tagged_sentences = tagging.tag(OneProcess(device), model, examples, batch_size, collator(tokenizer))
    refuse_nan((score for sentence in tagged_sentences for score in sentence.scores), folder)
    names: Any = config.id2label
    spelled = not each_word and find_scheme([list(names.values())]) != "none"
    predictions: list[list[dict[str, Any]]] = [[] for _ in texts]
    for i, tagged in zip(filled, tagged_sentences, strict=True):
        text = texts[i] if isinstance(texts[i], str) else " ".join(texts[i])
        tags = [names[number] for number in tagged.tags]
        predictions[i] = say(str(text), words[i], tags, tagged.scores, spelled)
    return predictions


def say(
    text: str, words: Sequence[Word], tags: Sequence[str], scores: Sequence[float], spelled: bool
) -> list[dict[str, Any]]:
    """The entities that the tags of the words mark, or else each word with its tag."""
    from hftrain.metrics.entities import entities

    spans = entities(tags) if spelled else [(tag, i, i) for i, tag in enumerate(tags)]
    return [
        {
            "type" if spelled else "tag": type_,
            "text": text[words[first].start : words[last].end],
            "start": words[first].start,
            "end": words[last].end,
            "probability": sum(scores[first : last + 1]) / (last + 1 - first),
        }
        for type_, first, last in spans
    ]


def line(prediction: Sequence[dict[str, Any]]) -> str:
    """type TAB text of each entity, or tag TAB word, separated by tabs."""
    return "\t".join(f"{item.get('type', item.get('tag'))}\t{' '.join(item['text'].split())}" for item in prediction)
