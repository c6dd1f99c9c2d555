"""What the report of a question answering run shows: outcomes, the hardest questions, lengths of contexts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hftrain.data.examples import Examples
from hftrain.data.several import scores_by_source
from hftrain.data.splits import sizes
from hftrain.metrics.answers import score_v2
from hftrain.report import Figure, Report, Table
from hftrain.report.charts import bars, histogram
from hftrain.report.described import describe_split, evenly, share
from hftrain.tasks.answering.config import AnswerConfig, AnsweringConfig
from hftrain.tasks.answering.judging import judge
from hftrain.tasks.answering.scoring import Found, best_answers, probabilities, score

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

WORST = 50  # rows in the table of the questions with the highest loss
NONE = "(none)"


def summarize(
    config: AnswerConfig,
    rows: Mapping[str, Rows],
    examples: Mapping[str, Examples],
    predictions: Sequence[Found],
    metrics: Sequence[str],
    threshold: float,
) -> Report:
    """What the report shows: the scores of `predictions` on the test rows, and the data."""
    scores = score(predictions, rows["test"], len(examples["test"]), metrics, threshold)
    test, always = rows["test"], all(all(split["answers"]) for split in rows.values())
    shown = [
        {
            "question": row["question"],
            "answer": answer or NONE,
            "right": " / ".join(dict.fromkeys(row["answers"])) or NONE,
            "F1": 100 * score_v2(answer, row["answers"])[1],
            **({} if always else {"no answer": round(probabilities(prediction)[1], 4)}),
            "loss": prediction.loss,
        }
        for row, answer, prediction in zip(
            test, best_answers(predictions, test["context"], threshold), predictions, strict=True
        )
    ]
    by_source = scores_by_source(
        test, F1=[row["F1"] for row in shown], loss=[prediction.loss for prediction in predictions]
    )
    worst = np.argsort([-prediction.loss for prediction in predictions], kind="stable")[:WORST].tolist()
    note = "The test rows with the highest loss: hard questions, and some whose reference answer is wrong."
    samples = [shown[i] for i in evenly(len(shown), 20)]
    none = "" if always else ", or that it is not there"
    return Report(
        title="Question answering",
        task="question-answering",
        metric="f1" if "f1" in scores else list(scores)[1],
        scores=scores,
        usage=usage(config, test[0]),
        lead=f"Finds the answer to a question in a text{none}. Questions: {sizes(rows)}.",
        figures=[outcomes(shown), lengths(examples["train"], config)],
        tables=[
            *([Table("By source", by_source)] if by_source else []),
            Table("Worst questions", [shown[i] for i in worst], note=note, visible=10),
        ],
        samples=[{name: row[name] for name in ("question", "answer", "right")} for row in samples],
        data={name: describe(rows[name], examples[name]) for name in rows},
        **judge(rows, examples, predictions, metrics, threshold),
    )


def outcomes(shown: Sequence[Mapping[str, Any]]) -> Figure:
    """How many questions have a right, a partly right, a wrong or no answer."""
    names = ("right", "in part", "wrong", "rightly left open", "wrongly left open", "there is no answer")
    counts = dict.fromkeys(names, 0)
    for row in shown:
        if row["answer"] == NONE:
            counts["rightly left open" if row["right"] == NONE else "wrongly left open"] += 1
        elif row["right"] == NONE:
            counts["there is no answer"] += 1
        else:
            counts["right" if row["F1"] == 100 else "in part" if row["F1"] else "wrong"] += 1
    note = "Right: the same words as a reference answer; in part: some words in common; open: not answered."
    shares = {name: count for name, count in counts.items() if count}
    return bars("answers", "Answers", shares, unit="questions", note=note)


def lengths(examples: Examples, config: AnsweringConfig) -> Figure:
    """Tokens of the training questions with their contexts, and the share of them that needs several windows."""
    part, limit = np.array(examples.column("part")), config.max_seq_length
    windows = examples.lengths[:, 0]
    new = windows - np.where(part > 0, np.array(examples.column("begin")) + 1 + config.doc_stride, 0)
    lengths = np.add.reduceat(new, np.flatnonzero(part == 0))
    label = f"window of {limit}: {100 * float(np.mean(lengths > limit)):.1f} % need several"
    title = "Lengths of the training questions with their contexts"
    return histogram("lengths", title, lengths, x_label="tokens", unit="questions", limit=limit, limit_label=label)


def describe(rows: Rows, examples: Examples) -> dict[str, Any]:
    """Questions, articles, contexts and windows of a split."""
    details = {
        "of them without an answer": share(sum(not answers for answers in rows["answers"]), len(rows)),
        "articles": len(set(rows["title"])),
        "contexts": len(set(rows["context"])),
        "windows": len(examples),
        "questions in several windows": share(examples.counts["questions in windows"], len(rows)),
        "windows without their answer": share(examples.counts["windows without the answer"], len(examples)),
        "tokens of a window, mean": float(examples.lengths.mean()),
    }
    return describe_split(rows, details, unit="questions", inputs="articles")


def usage(config: AnswerConfig, row: Mapping[str, Any]) -> str:
    """Python code that asks the trained model the question of `row`."""
    folder = config.hub_model_id or config.output_dir
    return f"""from hftrain.predict import predict

context = {row["context"]!r}
print(predict({folder!r}, [{row["question"]!r}], pairs=[context]))"""
