"""What the report and the model card of a classification show. Shapes: N examples, K classes or labels."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hftrain.data.examples import Examples
from hftrain.data.several import scores_by_source
from hftrain.data.splits import sizes
from hftrain.metrics import Metrics
from hftrain.report import Figure, Report, Table
from hftrain.report.charts import histogram
from hftrain.report.described import describe_split, share
from hftrain.report.evaluated import evaluation_figures, length_figure, per_class_table
from hftrain.tasks.classification.config import ClassificationConfig
from hftrain.tasks.classification.judging import judge
from hftrain.tasks.classification.scoring import Scores, decide, measure

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

WORST = 50  # examples in the table of those with the highest loss
NAMED = 10  # classes at most that the first sentence lists
CLASSES = 30  # at most whose rows are counted in the table of the data


def title(config: ClassificationConfig) -> str:
    names = [Path(name).name.split(".")[0] for name in config.train_file or ()]
    what = ", ".join(names) or str(config.dataset_name)
    return f"Classification of {what}"


def lead(config: ClassificationConfig, rows: "Mapping[str, Rows]", names: Sequence[str]) -> str:
    """What was learnt from what, in a sentence or two."""
    what = "a pair of texts" if config.text_pair_column else "a text"
    listed = ": " + ", ".join(names) if len(names) <= NAMED else ""
    said = {
        "single_label_classification": f"Says which of {len(names)} classes {what} belongs to{listed}.",
        "multi_label_classification": f"Says which of {len(names)} labels {what} has{listed}.",
        "regression": f"Says {config.label_column[0]} of {what}, a number.",
    }[config.problem_type]
    return f"{said} Rows: {sizes(rows)}."


def describe(rows: "Rows", examples: Any, names: Sequence[str], ids: Mapping[str, int]) -> dict[str, Any]:
    """A split: its rows, what was left out, leaked and truncated, the tokens, and the rows of each class; a label that
    is a number with the name of its class."""
    tokens = examples.lengths
    details: dict[str, Any] = {
        "tokens, mean": float(tokens.mean()),
        "tokens, longest": int(tokens.max()),
        "truncated": share(examples.counts["truncated"], len(rows)),
    }
    labels = Counter(each for label in rows["label"] for each in (label if isinstance(label, list) else [label]))
    if len(labels) <= CLASSES and not any(isinstance(label, float) for label in labels):
        for label in sorted(labels):
            meaning = "" if names[ids[label]] == label else f" = {names[ids[label]]}"
            details[f"label {label}{meaning}"] = share(labels[label], len(rows))
    return describe_split(rows, details)


def summarize(
    config: ClassificationConfig,
    rows: "Mapping[str, Rows]",
    examples: Mapping[str, Examples],
    scores: Scores,
    references: Mapping[str, np.ndarray],
    names: Sequence[str],
    ids: Mapping[str, int],
    thresholds: Sequence[float],
) -> Report:
    """What the report shows: the scores of the test rows, and the data. `references`: what is right, of each split."""
    right = references["test"]
    numbers, metrics = measure(scores, right, config, names, thresholds, report=True)
    return Report(
        title=title(config),
        task="text-classification",
        metric=next(name for name in numbers if name != "loss"),
        scores=numbers,
        usage=usage(config, rows["test"][0]),
        lead=lead(config, rows, names),
        data={name: describe(split, examples[name], names, ids) for name, split in rows.items()},
        figures=figures(metrics, scores, right, examples, config),
        tables=tables(metrics, rows["test"], scores, right, names, thresholds, config.problem_type),
        **judge(scores, right, references["train"], config, names, thresholds),
    )


def figures(
    metrics: Metrics,
    scores: Scores,
    references: np.ndarray,
    examples: Mapping[str, Examples],
    config: ClassificationConfig,
) -> list[Figure]:
    """Of the test rows: confusions, ROC, precision and recall, calibration, or the errors of numbers; and how long the
    training texts are."""
    found = evaluation_figures(metrics)
    if config.problem_type == "regression":
        errors = scores.outputs[:, 0] - references
        found.append(histogram("errors", "Errors", errors, x_label="prediction - label", whole=False))
    lengths, title = np.asarray(examples["train"].column("length")), "Lengths of the training texts"
    return [*found, length_figure(lengths, config.max_seq_length, unit="texts", title=title)]


def tables(
    metrics: Metrics,
    rows: "Rows",
    scores: Scores,
    references: np.ndarray,
    names: Sequence[str],
    thresholds: Sequence[float],
    problem: str,
) -> list[Table]:
    """Of the test rows: scores by class, thresholds, and the examples that the model is most wrong about."""
    found = per_class_table(metrics)
    if problem == "multi_label_classification":
        chosen = [{"label": name, "threshold": limit} for name, limit in zip(names, thresholds, strict=True)]
        found.append(Table("Thresholds", chosen, note="A label is said from this probability on, by validation rows."))
    said = decide(scores.outputs, problem, thresholds)
    shares: dict[str, Any] = {"loss": scores.losses}
    if problem != "regression":
        right = np.asarray(said) == references
        shares |= {"accuracy": right if right.ndim == 1 else right.all(axis=1)}
    if sources := scores_by_source(rows, **shares):
        note = "" if problem != "multi_label_classification" else "accuracy: of the rows with every label right"
        found.append(Table("By source", sources, note=note))
    worst = [
        {
            "text": rows[place]["text"],
            **({"second text": rows[place]["text_pair"]} if "text_pair" in rows.column_names else {}),
            "label": in_words(references[place], names, problem),
            "predicted": in_words(said[place], names, problem),
            "loss": float(scores.losses[place]),
        }
        for place in np.argsort(-scores.losses, kind="stable")[:WORST].tolist()
    ]
    note = "The test rows with the highest loss: hard ones, and some whose label is wrong."
    return [*found, Table("Worst examples", worst, note=note, visible=10)]


def in_words(label: Any, names: Sequence[str], problem: str) -> Any:
    """A class's number, 0 and 1 of several labels, or a number, as a reader wants it."""
    if problem == "regression":
        return float(label)
    if problem == "single_label_classification":
        return names[label]
    return ", ".join(names[number] for number in np.flatnonzero(label).tolist()) or "none"


def usage(config: ClassificationConfig, row: Mapping[str, Any]) -> str:
    """Python that loads what was trained and saved, and asks it about `row`."""
    folder = config.hub_model_id or config.output_dir
    text = repr({name: row[name] for name in ("text", "text_pair")} if "text_pair" in row else row["text"])
    several = ", top_k=None" if config.problem_type == "multi_label_classification" else ""
    plain = ', function_to_apply="none"' if config.problem_type == "regression" else ""
    if not config.use_peft:
        trust = ", trust_remote_code=True" if any(Path(config.output_dir).glob("*.py")) else ""
        return f"""from transformers import pipeline

classify = pipeline("text-classification", model={folder!r}{trust})
print(classify({text}{several}{plain}))"""
    return f"""from peft import PeftModel
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, pipeline

config = AutoConfig.from_pretrained({folder!r})  # the classes
base = AutoModelForSequenceClassification.from_pretrained({config.model_name_or_path!r}, config=config)
model = PeftModel.from_pretrained(base, {folder!r}).merge_and_unload()
classify = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained({folder!r}))
print(classify({text}{several}{plain}))"""
