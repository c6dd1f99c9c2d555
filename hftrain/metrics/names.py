"""The names of metrics, and which of them fit a task."""

from collections.abc import Sequence
from pathlib import Path

NAMES = tuple(
    sorted(module.stem for module in Path(__file__).parent.glob("*/*.py") if module.stem == module.parent.name)
)
AVERAGED = ("precision", "recall", "f1", "roc_auc", "average_precision")  # over classes, in these ways:
AVERAGES = ("macro", "micro", "weighted", "per_class")
BOTH = (
    "accuracy",
    *(f"{name}{suffix}" for name in AVERAGED for suffix in ("", *(f"_{average}" for average in AVERAGES))),
    "expected_calibration_error",
)
# The names that fit each task, ours; any other name or path goes to `evaluate.load`.
FITTING: dict[str, tuple[str, ...]] = {
    "single_label_classification": (*BOTH, "matthews_correlation"),
    "multi_label_classification": BOTH,
    "regression": ("mse", "mae", "r_squared", "pearsonr", "spearmanr"),
    "token_classification": ("seqeval", "accuracy"),
    "question_answering": ("squad", "squad_v2"),
}


def belongs(result: str, name: str) -> bool:
    """Whether a result may be one of the metric of this name or path."""
    return result == Path(name).stem or result.startswith(f"{Path(name).stem}_")


def check_names(names: Sequence[str], task: str) -> None:
    """Raises ValueError for a metric of ours that does not fit the task, naming those that do."""
    ours = {*NAMES, *(name for fitting in FITTING.values() for name in fitting)}
    for name in names:
        if name in ours and name not in FITTING[task]:
            raise ValueError(f"metric {name!r} is not for {task}: choose from {', '.join(FITTING[task])}")
    if {"squad", "squad_v2"} <= set(names):
        raise ValueError("metrics squad and squad_v2 both give f1: choose squad_v2 if some questions have no answer")
