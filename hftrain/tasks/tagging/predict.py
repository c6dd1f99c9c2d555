"""Entities of texts, or the tag of each word, with their places."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hftrain.models.fit import longest_text
from hftrain.models.saved import load, recall, refuse_nan

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from hftrain.tasks.tagging.spans import Word


def tag(
    folder: Path,
    config: PreTrainedConfig,
    texts: Sequence[str | Sequence[str]],
    batch_size: int,
    device: str | None,
    trust_remote_code: bool = False,
    each_word: bool = False,
) -> list[list[dict[str, Any]]]:
    """The entities of each text: {"type", "text", "start", "end" (in characters), "probability" (mean of its words)}.
    Where the tags spell no entities, or with `each_word`, every word with its "tag" in place of "type".

    A text is cut into words by `tagging.spans.WORD`; a list of words is taken as it is, and places are those in the
    text that they give with one space between. Long texts are read in the windows of the training.
    """
    from datasets import Dataset

    from hftrain.data.examples import Examples
    from hftrain.tasks import tagging
    from hftrain.tasks.tagging import collator, cut_sentences, find_scheme
    from hftrain.tasks.tagging.spans import words_of
    from hftrain.train.evaluation import OneProcess

    model, tokenizer, device = load(folder, "AutoModelForTokenClassification", config, device, trust_remote_code)
    most = min(512, longest_text(model, tokenizer))
    windows = recall(config, "windows") or {"max_seq_length": most, "doc_stride": most // 4}
    words = [words_of(text) for text in texts]
    told = [i for i, found in enumerate(words) if found]
    sentences = [[word.text for word in words[i]] for i in told]
    columns, counts = cut_sentences(tokenizer, sentences, [[0] * len(each) for each in sentences], **windows)
    if cut := counts["words cut"]:
        print(f"{cut} words are longer than the {windows['max_seq_length']} tokens of a window: cut", file=sys.stderr)
    found = []
    if told:
        examples = Examples(Dataset.from_dict(columns), [len(ids) for ids in columns["input_ids"]])
        found = tagging.tag(OneProcess(device), model, examples, batch_size, collator(tokenizer))
    refuse_nan((score for sentence in found for score in sentence.scores), folder)
    names: Any = config.id2label
    spelled = not each_word and find_scheme([list(names.values())]) != "none"
    predictions: list[list[dict[str, Any]]] = [[] for _ in texts]
    for i, tagged in zip(told, found, strict=True):
        text = texts[i] if isinstance(texts[i], str) else " ".join(texts[i])
        tags = [names[number] for number in tagged.tags]
        predictions[i] = say(str(text), words[i], tags, tagged.scores, spelled)
    return predictions


def say(
    text: str, words: Sequence[Word], tags: Sequence[str], scores: Sequence[float], spelled: bool
) -> list[dict[str, Any]]:
    """The entities that the words' tags spell, or else each word with its tag."""
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
    """type TAB text of each entity, or tag TAB word, one after the other."""
    return "\t".join(f"{each.get('type', each.get('tag'))}\t{' '.join(each['text'].split())}" for each in prediction)
