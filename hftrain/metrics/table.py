"""The table of metrics: one row per metric has all facts that the package needs.

It imports nothing heavy, so that settings can be checked before torch and numpy are imported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

SINGLE, MULTI = "single_label_classification", "multi_label_classification"
REGRESSION, TAGS, ANSWERS = "regression", "token_classification", "question_answering"
AVERAGES = ("macro", "micro", "weighted", "per_class")


class Metric(NamedTuple):
    """A row of the table.

    Attributes:
        higher: whether a higher value is better; None: the metric is not a single number.
        title: title of its chart; "": its name.
        unit: "share" is a number from 0 to 1, shown in percent.
        tasks: the tasks whose `--metrics` accept it.
        state: the input of `function`: a key of `streaming.load_metrics` or of `face`; "": scored elsewhere.
        function: module of `hftrain.metrics`, and function in it.
        averaged: it accepts an average over classes, and its name one of `AVERAGES` as a suffix.
        fair: a guess that reads no input cannot win it by chance.
        least, most: the range of its values; that of a share is known.
    """

    higher: bool | None
    title: str = ""
    unit: str = ""
    tasks: tuple[str, ...] = ()
    state: str = ""
    function: str = ""
    averaged: bool = False
    fair: bool = False
    least: float = 0.0
    most: float = math.inf

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest value that there can be."""
        return self.least, 1.0 if self.unit == "share" else self.most

    def load(self) -> Callable[..., Any]:
        """The function itself."""
        module, _, name = self.function.partition(".")
        loaded: Callable[..., Any] = attrgetter(name)(import_module(f"hftrain.metrics.{module}"))
        return loaded


BOTH = (SINGLE, MULTI)
TABLE: dict[str, Metric] = {
    "seqeval": Metric(True, "", "", (TAGS,), "entities", "entities.overall"),
    "accuracy": Metric(True, "", "share", (*BOTH, TAGS), "counts", "counts.accuracy", fair=True),
    "precision": Metric(True, "", "share", BOTH, "counts", "counts.precision", averaged=True),
    "recall": Metric(True, "", "share", BOTH, "counts", "counts.recall", averaged=True),
    "f1": Metric(True, "", "share", BOTH, "counts", "counts.f1", averaged=True),
    "roc_auc": Metric(True, "ROC-AUC", "share", BOTH, "scores", "ranking.roc_auc", averaged=True, fair=True),
    "top_3_accuracy": Metric(True, "", "share", (SINGLE,), "scores", "ranking.top_3_accuracy"),
    "top_5_accuracy": Metric(True, "", "share", (SINGLE,), "scores", "ranking.top_5_accuracy"),
    "average_precision": Metric(True, "", "share", BOTH, "scores", "ranking.average_precision", averaged=True),
    "expected_calibration_error": Metric(False, "", "", BOTH, "bins", "calibration.expected_calibration_error", most=1),
    "matthews_correlation": Metric(True, "", "", (SINGLE,), "counts", "counts.matthews", fair=True, least=-1, most=1),
    "mse": Metric(False, "Squared error", "mean", (REGRESSION,), "moments", "regression.mse"),
    "mae": Metric(False, "Absolute error", "mean", (REGRESSION,), "moments", "regression.mae"),
    "r_squared": Metric(True, "", "", (REGRESSION,), "moments", "regression.r_squared", least=-math.inf, most=1),
    "pearsonr": Metric(True, "", "", (REGRESSION,), "moments", "regression.pearson", least=-1, most=1),
    "spearmanr": Metric(True, "", "", (REGRESSION,), "pairs", "regression.spearman", least=-1, most=1),
    "squad": Metric(True, "", "", (ANSWERS,), "answers", "answers.squad", most=100),
    "squad_v2": Metric(True, "", "", (ANSWERS,), "answers_v2", "answers.squad_v2", most=100),
    # only for `load_metric`
    "sacrebleu": Metric(True, "sacreBLEU", "", (), "texts", "texts.bleu", most=100),
    "chrf": Metric(True, "chrF", "", (), "texts", "texts.chrf", most=100),
    "exact_match": Metric(True, "", "share", (), "text", "texts.exact_match", fair=True),
    "confusion_matrix": Metric(None, "", "", (), "counts", "counts.confusion_matrix"),
    "roc_curve": Metric(None, "", "", (), "column", "ranking.roc_curve"),
    "pr_curve": Metric(None, "", "", (), "column", "ranking.pr_curve"),
    # results of a task or of a metric above
    "loss": Metric(False, "Loss", "mean per item", least=-math.inf),
    "perplexity": Metric(False),
    "bits_per_byte": Metric(False),
    "reward_accuracy": Metric(True, "", "share", fair=True),
    "reward_margin": Metric(True, least=-math.inf),
    "exact": Metric(True, fair=True, most=100),
    "overall_f1": Metric(True, "F1 of entities"),
    "map": Metric(True, "mAP", "share", fair=True),
    **{
        f"map_{part}": Metric(True, f"mAP {part}", "share", fair=True)
        for part in ("50", "75", "small", "medium", "large")
    },
    "ar_100": Metric(True, "Average recall", "share", fair=True),
    "mean_iou": Metric(True, "Mean IoU", "share", fair=True),
    "pixel_accuracy": Metric(True, "Pixel accuracy", "share"),
    "mean_accuracy": Metric(True, "Mean accuracy of classes", "share", fair=True),
    "pq": Metric(True, "Panoptic quality", "share", fair=True),
    "pq_things": Metric(True, "Panoptic quality of objects", "share", fair=True),
    "pq_stuff": Metric(True, "Panoptic quality of the rest", "share", fair=True),
    "sq": Metric(True, "Segmentation quality", "share", fair=True),
    "rq": Metric(True, "Recognition quality", "share", fair=True),
    "mcd": Metric(False, "Mel-cepstral distance", "dB"),
    "speaker_similarity": Metric(True, "Similarity of speakers", least=-1, most=1),
    # metrics of `evaluate`
    "bleu": Metric(True),
    "comet": Metric(True),
    "meteor": Metric(True),
    "rouge": Metric(True),
    "cer": Metric(False, "Character error rate"),
    "ter": Metric(False),
    "wer": Metric(False, "Word error rate"),
}
NAMES = tuple(sorted(name for name, metric in TABLE.items() if metric.function))
# Our names that fit each task; any other name or path goes to `evaluate.load`.
FITTING: dict[str, tuple[str, ...]] = {
    task: tuple(
        name + suffix
        for name, metric in TABLE.items()
        if task in metric.tasks
        for suffix in ("", *(f"_{average}" for average in AVERAGES if metric.averaged))
    )
    for task in (SINGLE, MULTI, REGRESSION, TAGS, ANSWERS)
}
# Words in the names of other metrics that show whether a higher value is better.
WORDS = {
    "auc": True,
    "correlation": True,
    "margin": True,
    "matthews": True,
    "pearson": True,
    "bits": False,
    "error": False,
}


def belongs(result: str, name: str) -> bool:
    """Whether a result may belong to the metric of this name or path."""
    return result == Path(name).stem or result.startswith(f"{Path(name).stem}_")


def metric_of(result: str) -> Metric:
    """The row of a result ("f1_macro" is one of f1's); an empty row if the table has none."""
    name = max((name for name in TABLE if belongs(result, name)), key=len, default="")
    return TABLE.get(name, Metric(None, least=-math.inf))


def higher_is_better(result: str) -> bool | None:
    """Whether a higher value is better, by the table or else by words of the name; None: unknown."""
    result = result.removeprefix("eval_")
    if (higher := metric_of(result).higher) is not None:
        return higher
    directions = {WORDS.get(word, TABLE[word].higher if word in TABLE else None) for word in result.split("_")}
    return False if False in directions else True if True in directions else None


def check_names(names: Sequence[str], task: str) -> None:
    """Raises ValueError if one of our metrics does not fit the task; the message lists those that do."""
    ours = {*NAMES, *(name for fitting in FITTING.values() for name in fitting)}
    for name in names:
        if name in ours and name not in FITTING[task]:
            raise ValueError(f"metric {name!r} does not fit {task}: choose from {', '.join(FITTING[task])}")
    if {"squad", "squad_v2"} <= set(names):
        raise ValueError("metrics squad and squad_v2 both give f1: choose squad_v2 if some questions have no answer")


def name_problems(names: Sequence[str], task: str) -> Iterator[tuple[Sequence[str], str]]:
    """What `check_names` raises, for the checks of a configuration with a setting `metrics`."""
    try:
        check_names(names, task)
    except ValueError as error:
        yield ("metrics",), str(error)
