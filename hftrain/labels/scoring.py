"""Scores of every example, from which metrics, thresholds and the worst examples are computed.

Shapes: N examples, K classes or labels (1 for regression).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from hftrain.labels.config import LabelConfig
from hftrain.labels.losses import logits_of, losses
from hftrain.losses import Batch
from hftrain.metrics import Metrics, load_metrics
from hftrain.models.saved import save_remembered
from hftrain.train.evaluation import OneProcess, predict

ENOUGH_TO_TUNE = 20  # validation rows with a label: by fewer, its threshold is chosen by luck


@dataclass(frozen=True)
class Scores:
    """Losses (N,) and predictions (N, K): probabilities of the classes or labels, or the
    number. In the examples' order, on every process."""

    losses: np.ndarray
    outputs: np.ndarray

    @property
    def loss(self) -> float:
        """The mean, in fp64: it does not depend on the batches."""
        return float(self.losses.mean(dtype=np.float64))


def score(
    accelerator: Accelerator | OneProcess,
    model: nn.Module,
    examples: Sequence[Any],
    batch_size: int,
    *,
    collate: Callable[[list[Any]], Batch],
    problem: str,
) -> Scores:
    """Loss (without weights and smoothing) and scores of each example."""

    def outputs(batch: Batch) -> list[np.ndarray]:
        logits = logits_of(model, batch).float()
        loss = losses(logits, batch["labels"], problem)
        return list(torch.cat([loss.unsqueeze(-1), probabilities(logits, problem)], dim=-1).cpu().numpy())

    rows = np.stack(predict(accelerator, examples, batch_size, collate=collate, generate=outputs, by_tokens=True))
    return Scores(rows[:, 0], rows[:, 1:])


def probabilities(logits: torch.Tensor, problem: str) -> torch.Tensor:
    """(N, K) logits as probabilities; for regression unchanged."""
    if problem == "regression":
        return logits
    return logits.softmax(dim=-1) if problem == "single_label_classification" else logits.sigmoid()


def decide(outputs: np.ndarray, problem: str, thresholds: Sequence[float]) -> np.ndarray:
    """The predictions from (N, K) outputs, for metrics: (N,) classes, (N, K) 0 or 1, (N,) numbers."""
    if problem == "regression":
        return outputs[:, 0]
    if problem == "single_label_classification":
        return outputs.argmax(axis=1)
    return (outputs >= (thresholds or 0.5)).astype(np.int64)


def measure(
    scores: Scores,
    references: np.ndarray,
    config: LabelConfig,
    names: Sequence[str],
    thresholds: Sequence[float] = (),
    *,
    report: bool = False,
) -> tuple[dict[str, float], Metrics]:
    """{"loss": ..., metric: ...}, and the metrics' states, for the report's figures too if `report` is set.

    Args:
        thresholds: (K,) for several labels; () is 0.5 for each.
    """
    metrics = load_metrics(config.metrics, config.problem_type, labels=names, report=report)
    metrics.add(decide(scores.outputs, config.problem_type, thresholds), references, scores.outputs)
    return {"loss": scores.loss, **metrics.compute()}, metrics


def constant_guess(
    training: np.ndarray, references: np.ndarray, problem: str, classes: int, weights: np.ndarray | None = None
) -> Scores:
    """The scores of a guess that reads no input: the frequency of each class or label in the training rows, or the mean
    of their numbers.

    Args:
        training: references of the training rows, (N,) or (N, K). `references`: those of the scored rows.
        weights: (K,) of classes or labels in the training loss, for which other frequencies are the best guess.
    """
    if problem == "regression":
        guess = np.array([training.mean()])
    else:
        several = problem == "multi_label_classification"
        counts = training.sum(axis=0) if several else np.bincount(training, minlength=classes)
        # absent classes count as half a row, so that the loss is finite
        shares = np.clip(counts, 0.5, len(training) - 0.5) / len(training)
        if weights is not None:
            weighted = np.maximum(shares * weights, 1e-9)
            shares = weighted / (weighted + 1 - shares if several else weighted.sum())
        guess = np.log(shares) - (np.log1p(-shares) if several else 0.0)
    labels = torch.from_numpy(references)
    if problem != "single_label_classification":
        labels = labels.float()
    logits = torch.from_numpy(guess).float().expand(len(references), -1)
    return Scores(losses(logits, labels, problem).numpy(), probabilities(logits, problem).numpy())


def tune_thresholds(outputs: np.ndarray, references: np.ndarray, how: str) -> list[float]:
    """(K,) decision thresholds: `how` is "half" (0.5), "global" (one for all, with the best micro F1) or "per_label"
    (one for each label, with its best F1). Choose them only on validation rows.

    A threshold is the middle between the two scores that it separates. The threshold of a label without rows is 0.5.
    """
    labels = outputs.shape[1]
    if how == "half":
        return [0.5] * labels
    if how == "global":
        return [best_threshold(outputs.ravel(), references.ravel())] * labels
    return [best_threshold(outputs[:, label], references[:, label]) for label in range(labels)]


def best_threshold(scores: np.ndarray, references: np.ndarray) -> float:
    """The threshold on (N,) scores with the best F1 against (N,) 0 or 1; of several, the nearest to 0.5."""
    if not references.any():
        return 0.5
    order = np.argsort(-scores, kind="stable")
    scores = scores[order].astype(np.float64)
    last = np.append(scores[1:] < scores[:-1], True)  # ties are predicted together
    positives = np.flatnonzero(last) + 1
    f1 = 2 * np.cumsum(references[order])[last] / (positives + references.sum())
    below = np.append(scores, 0.0)[positives]
    middle = (scores[last] + below) / 2
    best = f1 >= f1.max() - 1e-12
    return float(middle[best][np.abs(middle[best] - 0.5).argmin()])


def how_to_tune(references: np.ndarray) -> tuple[str, str]:
    """The `thresholds` that the (N, K) validation rows can bear, with the reason."""
    rarest = int(references.sum(axis=0).min())
    if rarest >= ENOUGH_TO_TUNE:
        return "per_label", f"each label has {rarest:,} validation rows or more"
    every = int(references.sum())
    reason = f"the rarest label has {rarest:,} validation rows, under {ENOUGH_TO_TUNE}"
    if every >= ENOUGH_TO_TUNE:
        return "global", reason
    return "half", f"{reason}, and all labels together {every:,}"


def choose_thresholds(
    accelerator: Accelerator,
    model: nn.Module,
    config: LabelConfig,
    score: Callable[[Any, str], Scores],
    references: np.ndarray,
) -> list[float]:
    """(K,) thresholds for several labels, chosen on the validation rows and saved in the model's configuration, also in
    `output_dir`. [] for other problems."""
    if config.problem_type != "multi_label_classification":
        return []
    config.choose("thresholds", *how_to_tune(references))
    how = config.thresholds or "half"
    outputs = score(model, "validation").outputs if how != "half" else np.zeros((0, len(references[0])))
    thresholds = tune_thresholds(outputs, references, how)
    save_remembered(accelerator, model, config.output_dir, thresholds=thresholds)
    return thresholds
