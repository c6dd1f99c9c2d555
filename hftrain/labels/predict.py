"""Scores of a finished model as predictions, and a prediction as a line of text."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hftrain.models.saved import Saved, recall, refuse_nan

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from hftrain.data.examples import Examples
    from hftrain.losses import Batch


def problem_of(config: PreTrainedConfig) -> str:
    """The kind of problem; models of other libraries may not record it."""
    if config.num_labels == 1:
        return "regression"
    several = config.problem_type == "multi_label_classification"
    return "multi_label_classification" if several else "single_label_classification"


def no_label(problem: str) -> dict[str, Any]:
    """The labels of an example of which nothing is known."""
    return {"labels": [] if problem == "multi_label_classification" else 0}


def predictions(
    saved: Saved, model: Any, device: str, examples: Examples, batch_size: int, collate: Callable[[list[Any]], Batch]
) -> list[Any]:
    """The prediction for each example, by the same pass as the scores of training. Raises: ValueError, one is NaN."""
    from hftrain.labels import scoring
    from hftrain.train.evaluation import OneProcess

    config, problem = saved.config, problem_of(saved.config)
    outputs = scoring.score(OneProcess(device), model, examples, batch_size, collate=collate, problem=problem).outputs
    refuse_nan(outputs.flatten().tolist(), saved.folder)
    decided = scoring.decide(outputs, problem, recall(config, "thresholds") or ())
    names: Any = config.id2label
    return [say(row, decision, problem, names) for row, decision in zip(outputs.tolist(), decided, strict=True)]


def say(outputs: list[float], decision: Any, problem: str, names: dict[int, str]) -> Any:
    """The prediction for one input, from its (K,) outputs and the decision of `scoring.decide`."""
    if problem == "regression":
        return outputs[0]
    probabilities = {names[number]: score for number, score in enumerate(outputs)}
    if problem == "multi_label_classification":
        labels = [names[number] for number in decision.nonzero()[0].tolist()]
        return {"labels": labels, "probabilities": probabilities}
    label = names[int(decision)]
    return {"label": label, "probability": probabilities[label], "probabilities": probabilities}


def line(prediction: Any) -> str:
    """label TAB probability, several of them for several labels; or a number; "" for an empty input."""
    if prediction is None:
        return ""
    if isinstance(prediction, float):
        return f"{prediction:.6g}"
    names = prediction["labels"] if "labels" in prediction else [prediction["label"]]
    return "\t".join(f"{name}\t{prediction['probabilities'][name]:.4f}" for name in names)
