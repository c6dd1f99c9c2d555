"""Scores of a finished model as predictions, and a prediction as a line of text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def problem_of(config: PreTrainedConfig) -> str:
    """The kind of problem; models of other libraries may not record it."""
    if config.num_labels == 1:
        return "regression"
    several = config.problem_type == "multi_label_classification"
    return "multi_label_classification" if several else "single_label_classification"


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
