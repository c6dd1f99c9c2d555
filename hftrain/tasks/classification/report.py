"""The report and the model card of a classification of texts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hftrain.labels.report import Tested, count_labels, report_labels
from hftrain.report import Report
from hftrain.report.described import describe_split, share
from hftrain.report.evaluated import length_figure
from hftrain.tasks.classification.config import ClassificationConfig

if TYPE_CHECKING:
    from hftrain.data.rows import Rows


def summarize(config: ClassificationConfig, tested: Tested) -> Report:
    """What the report shows: the scores of the test rows, and the data."""
    rows, examples = tested.rows, tested.examples
    lengths, heading = np.asarray(examples["train"].column("length")), "Lengths of the training texts"
    return report_labels(
        config,
        tested,
        task="text-classification",
        what="a pair of texts" if config.text_pair_column else "a text",
        usage=usage(config, rows["test"][0]),
        data={name: describe(split, examples[name], tested.names, tested.ids) for name, split in rows.items()},
        show=show,
        more=[length_figure(lengths, config.max_seq_length, unit="texts", title=heading)],
    )


def describe(rows: "Rows", examples: Any, names: Sequence[str], ids: Mapping[str, int]) -> dict[str, Any]:
    """The table of a split: its rows, how many were left out, leaked or truncated, its tokens, the rows of each
    class."""
    tokens = examples.lengths
    details: dict[str, Any] = {
        "tokens, mean": float(tokens.mean()),
        "tokens, longest": int(tokens.max()),
        "truncated": share(examples.counts["truncated"], len(rows)),
    }
    return describe_split(rows, details | count_labels(rows, names, ids))


def show(row: Mapping[str, Any]) -> dict[str, str]:
    return {"text": row["text"]} | ({"second text": row["text_pair"]} if "text_pair" in row else {})


def usage(config: ClassificationConfig, row: Mapping[str, Any]) -> str:
    """Python code that loads the trained model and classifies `row`."""
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
