"""Answers to questions, as spans of texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hftrain.models.fit import longest_text
from hftrain.models.saved import batches, load, recall, refuse_nan

if TYPE_CHECKING:
    from hftrain.tasks.answering import Found


def answer(
    folder: Path,
    config: Any,
    questions: Sequence[str],
    contexts: Sequence[str] | None,
    batch_size: int,
    device: str | None,
    trust_remote_code: bool = False,
) -> list[dict[str, Any]]:
    """Of each question {"answer", "start", "end" (in characters of its context), "probability",
    "no_answer_probability", "n_best": [{"answer", "start", "end", "probability"}, ...]}; the latter two's probabilities
    add up to 1.

    "answer" is "", and start and end are None, where there being none is more probable than the threshold that training
    has chosen. Long contexts are read in the windows of the training.

    Raises:
        ValueError: no contexts.
    """
    if contexts is None:
        raise ValueError(
            'a question is answered from a text: give it with --context "..." or --context_file F, or name a file with '
            "both (--file F, with --column QUESTION --pair_column TEXT where its columns have other names)"
        )
    import torch

    from hftrain.tasks.answering import Found, collator, cut_contexts, find_spans, join

    model, tokenizer, device = load(folder, "AutoModelForQuestionAnswering", config, device, trust_remote_code)
    most = min(384, longest_text(model, tokenizer))
    sizes = {"max_seq_length": most, "doc_stride": most // 3, "max_answer_length": 30, "n_best_size": 20}
    sizes |= recall(config, "answering") or {}
    threshold = sizes.pop("no_answer_threshold", 1.0)
    spans = {name: sizes.pop(name) for name in ("max_answer_length", "n_best_size")}
    texts = list(zip(questions, contexts, strict=True))
    told = [i for i, pair in enumerate(texts) if all(text.strip() for text in pair)]
    asked, given = [texts[i][0] for i in told], [texts[i][1] for i in told]
    columns, _ = cut_contexts(tokenizer, asked, given, [None] * len(told), **sizes)
    examples = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    collate = collator(tokenizer, model)
    found: dict[int, Any] = {}
    for batch in batches(range(len(examples)), [len(ids) for ids in columns["input_ids"]], batch_size):
        inputs = {name: value.to(device) for name, value in collate([examples[i] for i in batch]).items()}
        with torch.no_grad():
            found |= zip(batch, find_spans(model, inputs, **spans), strict=True)
    refuse_nan((null for _, null, _ in found.values()), folder)
    predictions = [say("", Found([], 0.0), threshold) for _ in texts]
    joined = join(examples, (found[i] for i in range(len(examples))), spans["n_best_size"])
    for i, each in zip(told, joined, strict=True):
        predictions[i] = say(texts[i][1], each, threshold)
    return predictions


def say(context: str, found: Found, threshold: float) -> dict[str, Any]:
    """The prediction, of the spans that were found in a context."""
    from hftrain.tasks.answering import probabilities

    shares, none = probabilities(found)
    best = [
        {"answer": context[span.start : span.end], "start": span.start, "end": span.end, "probability": share}
        for span, share in zip(found.spans, shares, strict=True)
    ]
    answered = bool(best) and none <= threshold
    chosen = best[0] if answered else {"answer": "", "start": None, "end": None, "probability": none}
    return {
        **chosen,
        "no_answer_probability": none,
        "n_best": best,
    }


def line(prediction: dict[str, Any]) -> str:
    """answer TAB probability."""
    return f"{' '.join(prediction['answer'].split())}\t{prediction['probability']:.4f}"
