"""Answers to questions, as spans of texts."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from hftrain.models.fit import longest_text
from hftrain.models.saved import Saved, load, recall, refuse_nan

if TYPE_CHECKING:
    from hftrain.tasks.answering import Found


def answer(
    saved: Saved, questions: Sequence[str], contexts: Sequence[str] | None, batch_size: int
) -> list[dict[str, Any]]:
    """For each question {"answer", "start", "end" (in characters of its context), "probability",
    "no_answer_probability", "n_best": [{"answer", "start", "end", "probability"}, ...]}; "no_answer_probability" and
    the probabilities of "n_best" add up to 1.

    "answer" is "", and start and end are None, if the probability of no answer exceeds the threshold that training
    chose. Long contexts are read in windows of the same size as in training.

    Raises:
        ValueError: contexts are missing.
    """
    folder, config = saved.folder, saved.config
    if contexts is None:
        raise ValueError(
            'questions need a context: give it with --context "..." or --context_file F, or name a file with '
            "both (--file F, with --column QUESTION --pair_column TEXT if its columns have other names)"
        )
    from datasets import Dataset

    from hftrain.data.examples import Examples
    from hftrain.tasks import answering
    from hftrain.tasks.answering import Found, collator, cut_contexts
    from hftrain.train.evaluation import OneProcess

    model, tokenizer, device = load(saved, "AutoModelForQuestionAnswering")
    most = min(384, longest_text(model, tokenizer))
    sizes = {"max_seq_length": most, "doc_stride": most // 3, "max_answer_length": 30, "n_best_size": 20}
    sizes |= recall(config, "answering") or {}
    threshold = sizes.pop("no_answer_threshold", 1.0)
    spans = {name: sizes.pop(name) for name in ("max_answer_length", "n_best_size")}
    texts = list(zip(questions, contexts, strict=True))
    filled = [i for i, pair in enumerate(texts) if all(text.strip() for text in pair)]
    filled_questions, filled_contexts = [texts[i][0] for i in filled], [texts[i][1] for i in filled]
    columns, _ = cut_contexts(tokenizer, filled_questions, filled_contexts, [None] * len(filled), **sizes)
    search: Any = SimpleNamespace(**spans, eval_batch_size=batch_size)
    found_answers = []
    if filled:
        examples = Examples(Dataset.from_dict(columns), [len(ids) for ids in columns["input_ids"]])
        found_answers = answering.answer(OneProcess(device), model, examples, search, collator(tokenizer, model))
    refuse_nan((result.null for result in found_answers), folder)
    predictions = [say("", Found([], 0.0), threshold) for _ in texts]
    for i, result in zip(filled, found_answers, strict=True):
        predictions[i] = say(texts[i][1], result, threshold)
    return predictions


def say(context: str, result: Found, threshold: float) -> dict[str, Any]:
    """The prediction made of the best spans of a context."""
    from hftrain.tasks.answering import is_answered, probabilities

    shares, none = probabilities(result)
    best = [
        {"answer": context[span.start : span.end], "start": span.start, "end": span.end, "probability": share}
        for span, share in zip(result.spans, shares, strict=True)
    ]
    chosen = (
        best[0] if is_answered(result, threshold) else {"answer": "", "start": None, "end": None, "probability": none}
    )
    return {
        **chosen,
        "no_answer_probability": none,
        "n_best": best,
    }


def line(prediction: dict[str, Any]) -> str:
    """answer TAB probability."""
    return f"{' '.join(prediction['answer'].split())}\t{prediction['probability']:.4f}"
