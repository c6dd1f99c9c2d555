"""What the report of a tagging run shows: scores by type, confused tags, the hardest sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hftrain.data.examples import Examples
from hftrain.data.several import scores_by_source
from hftrain.data.splits import sizes
from hftrain.metrics.entities import entities
from hftrain.report import Figure, Report, Table, predict_usage
from hftrain.report.charts import confusion_matrix, histogram
from hftrain.report.described import describe_split, evenly, share
from hftrain.report.evaluated import evaluation_figures, per_class_table
from hftrain.tasks.tagging.config import TagConfig, TaggingConfig
from hftrain.tasks.tagging.judging import judge
from hftrain.tasks.tagging.labels import find_scheme
from hftrain.tasks.tagging.scoring import Tagged, score

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

WORST = 50  # rows in the table of the sentences with the highest loss


def mark(words: Sequence[str], tags: Sequence[str]) -> str:
    """The sentence with its entities in brackets, [Empire State Building]location; for other tags, words/TAG."""
    if find_scheme([tags]) == "none" and set(tags) != {"O"}:
        return " ".join(f"{word}/{tag}" for word, tag in zip(words, tags, strict=True))
    shown = list(words)
    for type_, first, last in entities(tags):
        shown[first] = f"[{shown[first]}"
        shown[last] = f"{shown[last]}]{type_}"
    return " ".join(shown)


def summarize(
    config: TagConfig,
    rows: Mapping[str, Rows],
    examples: Mapping[str, Examples],
    tagged: Sequence[Tagged],
    names: Sequence[str],
    metrics: Sequence[str],
) -> Report:
    """What the report shows: the scores of `tagged`, the predictions for the test rows, and the data."""
    scores, measured = score(tagged, rows["test"]["tags"], names, metrics)
    test, scheme = rows["test"], find_scheme(rows["train"]["tags"])
    predicted = [[names[tag] for tag in sentence.tags] for sentence in tagged]
    pairs = [
        {"right": mark(words, tags), "predicted": mark(words, guess)}
        for words, tags, guess in zip(test["tokens"], test["tags"], predicted, strict=True)
    ]
    means = np.array([sentence.loss / sentence.labels for sentence in tagged])
    worst = [pairs[i] | {"loss": float(means[i])} for i in np.argsort(-means, kind="stable")[:WORST].tolist()]
    correct = [guess == list(tags) for guess, tags in zip(predicted, test["tags"], strict=True)]
    measures: dict[str, Any] = {"sentences right": correct, "mean loss": means}
    by_source = scores_by_source(test, **measures)
    note = "The test rows with the highest mean loss per word: hard sentences, and some whose reference tags are wrong."
    types = sorted({tag.partition("-")[2] for tag in names} - {""}) if scheme != "none" else []
    what = f"Predicts one of {len(names)} tags for each word."
    if types:
        what = f"Finds entities of {len(types)} types: {', '.join(types)}."
    described = {name: describe(rows[name], examples[name]) for name in rows}
    return Report(
        title="Tagging" if scheme == "none" else "Named entities",
        task="token-classification",
        metric="f1" if "f1" in scores else list(scores)[1],
        scores=scores,
        usage=predict_usage(config, " ".join(test[0]["tokens"])),
        lead=f"{what} Sentences: {sizes(rows)}.",
        figures=[
            *evaluation_figures(measured),
            confusions(test["tags"], predicted, names),
            lengths(examples, config),
        ],
        tables=[
            *per_class_table(measured, "By type"),
            *([Table("By source", by_source)] if by_source else []),
            Table("Worst sentences", worst, note=note, visible=10),
        ],
        samples=[pairs[i] for i in evenly(len(test), 20)],
        data=described | {"scheme of the tags": scheme, "tags": len(names)},
        **judge(tagged, test["tags"], rows["train"]["tags"], names, metrics),
    )


def confusions(
    references: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]], names: Sequence[str]
) -> Figure:
    """The confusion matrix of the tags, counted by words."""
    number = {name: index for index, name in enumerate(names)}
    reference_numbers, predicted_numbers = (
        [number[tag] for tags in rows for tag in tags] for rows in (references, predictions)
    )
    matrix = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(matrix, (reference_numbers, predicted_numbers), 1)
    return confusion_matrix(matrix, names)


def lengths(examples: Mapping[str, Examples], config: TaggingConfig) -> Figure:
    """Tokens of the training sentences, and the share of them that needs several windows."""
    train, limit = examples["train"], config.max_seq_length
    lengths = np.array(train.column("length"))[np.array(train.column("part")) == 0]
    label = f"window of {limit}: {100 * float(np.mean(lengths > limit)):.1f} % need several"
    title = "Lengths of the training sentences"
    return histogram("lengths", title, lengths, x_label="tokens", unit="sentences", limit=limit, limit_label=label)


def describe(rows: Rows, examples: Examples) -> dict[str, Any]:
    """Rows, words and windows of a split."""
    words = [len(tags) for tags in rows["tags"]]
    lengths = examples.lengths
    details = {
        "words": sum(words),
        "longest sentence, words": max(words),
        "windows": len(examples),
        "sentences in several windows": share(examples.counts["sentences in windows"], len(rows)),
        "words cut": share(examples.counts["words cut"], sum(words)),
        "tokens of a window, mean": float(lengths.mean()),
    }
    return describe_split(rows, details, unit="sentences", inputs="texts")
