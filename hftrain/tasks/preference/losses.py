"""Losses of preference learning: sums over pairs (KTO: over answers), like all losses here.

Notation: x a prompt, y+ its chosen and y- its rejected answer, pi the trained model, ref the model that training
starts from, |y| the tokens of y, and

    log pi(y|x) = sum over the tokens of y of log pi(token | x, tokens before)
    r(y)        = log pi(y|x) - log ref(y|x), or log pi(y|x) alone without a reference model

Shapes: B examples of a batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from hftrain.losses import IGNORE, Batch, host, label_log_probs
from hftrain.tasks.preference.config import PreferenceConfig

FIRST, SECOND, BOTH = slice(0, 1), slice(1, 2), slice(0, 2)  # selects from the two sequences of an example


def dpo(chosen: torch.Tensor, rejected: torch.Tensor, *, beta: float, label_smoothing: float = 0.0) -> torch.Tensor:
    """Direct preference optimization (Rafailov et al. 2023, equation 7), `-log sigmoid(beta (r(y+) - r(y-)))`.

    With `label_smoothing` e, conservative DPO (Mitchell 2023): the labels of a pair are wrong with probability e,
    `-(1 - e) log sigmoid(beta (r(y+) - r(y-))) - e log sigmoid(-beta (r(y+) - r(y-)))`.

    Args:
        chosen, rejected: (B,) r(y+) and r(y-).
    """
    margins = beta * (chosen - rejected)
    return -((1 - label_smoothing) * F.logsigmoid(margins) + label_smoothing * F.logsigmoid(-margins)).sum()


def ipo(chosen: torch.Tensor, rejected: torch.Tensor, *, beta: float) -> torch.Tensor:
    """Identity preference optimization (IPO, Azar et al. 2023, equation 17): `(r(y+) - r(y-) - 1 / (2 beta))^2`.

    Args:
        chosen, rejected: (B,) r(y+) / |y+| and r(y-) / |y-|: means over tokens, as in the authors' own results.
    """
    return (chosen - rejected - 1 / (2 * beta)).square().sum()


def simpo(
    chosen: torch.Tensor, rejected: torch.Tensor, *, beta: float, gamma: float, label_smoothing: float = 0.0
) -> torch.Tensor:
    """SimPO (Meng et al. 2024, equation 6): `-log sigmoid(beta log pi(y+|x)/|y+| - beta log pi(y-|x)/|y-| - gamma)`.

    Args:
        chosen, rejected: (B,) log pi(y|x) / |y| of each; there is no reference model.
        gamma: the target margin.
        label_smoothing: as in `dpo`.
    """
    return dpo(chosen, rejected + gamma / beta, beta=beta, label_smoothing=label_smoothing)


def orpo(chosen: torch.Tensor, rejected: torch.Tensor, *, beta: float) -> torch.Tensor:
    """ORPO (Hong et al. 2024, equations 4 to 7, lambda being beta): with p(y) = exp(log pi(y|x) / |y|) and
    odds(y) = p(y) / (1 - p(y)), `-log p(y+) - beta log sigmoid(log odds(y+) - log odds(y-))`.

    The first term is the supervised loss of the answer's tokens, averaged over each answer as the paper defines p.
    (TRL averages it over prompt and answer and over the tokens of a micro-batch, so its result depends on the cut.)

    Args:
        chosen, rejected: (B,) log pi(y|x) / |y| of each; there is no reference model.
    """
    log_odds = (chosen - log1mexp(chosen)) - (rejected - log1mexp(rejected))
    return -(chosen + beta * F.logsigmoid(log_odds)).sum()


def log1mexp(x: torch.Tensor) -> torch.Tensor:
    """log(1 - exp(x)) for x < 0, exact at both ends (Maechler 2012); x too near to 0 for fp32 is moved away from it."""
    x = x.clamp(max=-torch.finfo(torch.float32).tiny)
    near = x > -0.6931  # log 2; the unused branch must be finite too, or its gradient would be 0 times infinity
    return torch.where(near, torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x.masked_fill(near, -1.0))))


def kto(
    ratios: torch.Tensor,
    desirable: torch.Tensor,
    reference_point: float | torch.Tensor,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> torch.Tensor:
    """Kahneman-Tversky optimization (Ethayarajh et al. 2024, equation 8): for a desirable answer
    `w_D (1 - sigmoid(beta (r(y) - z0)))`, for any other `w_U (1 - sigmoid(beta (z0 - r(y))))`.

    Args:
        ratios: (B,) r(y).
        desirable: (B,) bool.
        reference_point: z0, an estimate of KL(pi || ref) without gradient; see `ReferencePoint`.
    """
    gains = beta * (ratios - reference_point)
    weights = torch.where(desirable, desirable_weight, undesirable_weight)
    return (weights * torch.sigmoid(torch.where(desirable, -gains, gains))).sum()


def bradley_terry(chosen: torch.Tensor, rejected: torch.Tensor, *, center: float = 0.0) -> torch.Tensor:
    """The loss of a reward model with reward R (Ouyang et al. 2022, equation 1): `-log sigmoid(R(y+) - R(y-))`.

    It depends only on differences; with `center` c, `c (R(y+) + R(y-))^2` (Eisenstein et al. 2023, equation 2) keeps
    rewards about 0.

    Args:
        chosen, rejected: (B,) R(y+) and R(y-).
    """
    return (center * (chosen + rejected).square() - F.logsigmoid(chosen - rejected)).sum()


def objective(
    config: PreferenceConfig,
    log_probs: torch.Tensor,
    tokens: torch.Tensor,
    reference: torch.Tensor | float = 0.0,
    desirable: torch.Tensor | None = None,
    reference_point: float = 0.0,
) -> torch.Tensor:
    """The summed loss that `config` chooses.

    Args:
        log_probs: (B, 2) log pi(y|x) of each example's two sequences; KTO uses only the first.
        tokens: (B, 2) |y|.
        reference: (B, 2) log ref(y|x).
        desirable, reference_point: for `kto`.
    """
    assert config.beta is not None
    ratios = log_probs - reference
    means = ratios / tokens
    beta, smoothing = config.beta, config.label_smoothing
    if config.loss_type == "sigmoid":
        return dpo(*ratios.unbind(1), beta=beta, label_smoothing=smoothing)
    if config.loss_type == "ipo":
        return ipo(*means.unbind(1), beta=beta)
    if config.loss_type == "simpo":
        return simpo(*means.unbind(1), beta=beta, gamma=config.simpo_gamma, label_smoothing=smoothing)
    if config.loss_type == "orpo":
        return orpo(*means.unbind(1), beta=beta)
    assert desirable is not None
    weights = {"desirable_weight": config.desirable_weight, "undesirable_weight": config.undesirable_weight}
    return kto(ratios[:, 0], desirable, reference_point, beta=beta, **weights)


def rewards(
    config: PreferenceConfig, log_probs: torch.Tensor, tokens: torch.Tensor, reference: torch.Tensor | float = 0.0
) -> torch.Tensor:
    """(B, 2) the reward that the loss gives each sequence: beta r(y), or for ipo, simpo and orpo beta r(y) / |y|."""
    assert config.beta is not None
    ratios = log_probs - reference
    return config.beta * (ratios if config.loss_type in ("sigmoid", "kto") else ratios / tokens)


def count_examples(batch: Batch) -> int:
    """The number of pairs of a batch, or of labelled answers."""
    return len(batch["labels"])


def sequence_log_probs(model: nn.Module, batch: Batch, sides: slice = BOTH) -> tuple[torch.Tensor, torch.Tensor]:
    """log pi(y|x) of each sequence, y being its labelled tokens, and |y|: (B, 2) fp32 and int64, (B, 1) for one side.

    All sequences share one forward pass. Without a `SummingHead`, logits are copied to fp32 only at labels.
    """
    ids, mask, labels = (batch[name][:, sides].flatten(0, 1) for name in ("input_ids", "attention_mask", "labels"))
    labels = F.pad(labels[:, 1:], (0, 1), value=IGNORE)
    count = int((host(batch)["labels"][:, sides, 1:] != IGNORE).sum())
    per_token = label_log_probs(model, {"input_ids": ids, "attention_mask": mask}, labels, count)
    shape = len(batch["labels"]), -1
    return per_token.sum(dim=1).view(shape), (labels != IGNORE).sum(dim=1).view(shape)
