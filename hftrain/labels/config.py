"""Settings of all tasks that learn labels, for any kind of input, checked before anything is loaded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from hftrain.config import RecipeConfig, at_least, one_or_more
from hftrain.metrics import belongs, check_names

USUAL_METRICS = {
    "single_label_classification": ["accuracy", "f1_macro"],
    "multi_label_classification": ["f1_micro", "f1_macro"],
    "regression": ["mse", "pearsonr", "spearmanr"],
}


@dataclass
class LabelConfig(RecipeConfig):
    """The class, labels or number to predict for each input."""

    HEAD: ClassVar[str] = ""  # part of the class name of models that are already trained for the task

    problem_type: Literal["single_label_classification", "multi_label_classification", "regression"] = (
        "single_label_classification"
    )
    """Predict one of several classes, any number of independent labels, or a number."""

    label_column: Annotated[list[str], one_or_more] = field(default_factory=lambda: ["label"])
    """Column of the labels: names or whole numbers; for several labels lists, comma-separated names or vectors of 0 and
    1; for regression numbers. Several columns with 0 or 1 each are one label per column."""

    label_names: list[str] = field(default_factory=list)
    """Class names in order, needed if the data contain class numbers or if a class is missing from the training rows;
    empty: the classes of the training rows, sorted."""

    metrics: list[str] = field(default_factory=list)
    """Metrics for validation and test: those of hftrain or any that evaluate.load finds; empty: accuracy and f1_macro;
    for several labels f1_micro and f1_macro; for regression mse, pearsonr and spearmanr."""

    balance_classes: bool = False
    """Weight the training loss so that rare classes count as much as frequent ones; with several labels, so that rows
    with a label count as much as rows without it."""

    class_weights: dict[str, Any] = field(default_factory=dict)
    """Class weights in the training loss; classes not named have weight 1, and all are scaled to a mean of 1 over the
    training rows. With several labels: the weight of a row with the label relative to a row without it."""

    focal_gamma: Annotated[float, at_least(0)] = 0.0
    """Gamma of the focal loss (arXiv 1708.02002), which puts more weight on hard examples: 2 is usual, 0 is
    cross-entropy."""

    thresholds: Literal["half", "global", "per_label"] | None = None
    """Decision threshold for multi-label classification: half is 0.5; global and per_label maximise F1 on the
    validation rows, with one threshold for all labels or one for each; null: chosen by the rows of the rarest label.
    Saved in the model's configuration as `hftrain.thresholds`."""

    freeze: list[str] = field(default_factory=list)
    """Parameters to freeze, by name: embeddings, layer.0-3, *.bias."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.metrics = self.metrics or list(USUAL_METRICS[self.problem_type])

    def checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().checks()
        try:
            check_names(self.metrics, self.problem_type)
        except ValueError as error:
            yield ("metrics", "problem_type"), str(error)
        for name, weight in self.class_weights.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float) or weight < 0:
                yield ("class_weights",), f"{name} has the weight {weight!r}, but it must be a number of 0 or more"
        if len(self.label_column) > 1 and self.label_names:
            yield (
                ("label_column", "label_names"),
                "contradict each other: the names of several columns are the label names",
            )
        if len(self.label_column) > 1 and self.problem_type == "regression":
            yield ("label_column", "problem_type"), "contradict each other: regression needs a single column of numbers"
        if self.balance_classes and self.class_weights:
            yield ("balance_classes", "class_weights"), "contradict each other: set one of them"
        if self.focal_gamma and self.label_smoothing_factor:
            yield ("focal_gamma", "label_smoothing_factor"), "have opposite effects: set only one of them"
        if self.problem_type == "regression":
            for name in ("balance_classes", "class_weights", "focal_gamma", "label_names"):
                if getattr(self, name):
                    yield (name, "problem_type"), f"{name} needs classes, which regression does not have"
            if self.label_smoothing_factor:
                yield ("label_smoothing_factor", "problem_type"), "needs classes, which regression does not have"
        best = (self.metric_for_best_model or "loss").removeprefix("eval_")
        known = self.metrics or USUAL_METRICS[self.problem_type]
        if best != "loss" and not any(belongs(best, name) for name in known):
            yield (
                ("metric_for_best_model", "metrics"),
                f"only loss, {', '.join(known)} are evaluated: add it to metrics",
            )
