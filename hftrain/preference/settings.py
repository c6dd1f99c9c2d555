"""What can be set of preference learning."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from hftrain.config import Config, above, at_least, between

WITH_REFERENCE = ("sigmoid", "ipo", "kto")


@dataclass
class PreferenceConfig(Config):
    """What is learnt from preferences, and how."""

    loss_type: Literal["sigmoid", "ipo", "simpo", "orpo", "kto"] = "sigmoid"
    """sigmoid is DPO. KTO needs no pairs, but answers that are labelled good or bad. simpo and orpo need no reference
    model."""

    beta: Annotated[float | None, above(0)] = None
    """Strength of the loss: of sigmoid, ipo and kto, how dearly leaving the reference model is paid; of simpo, the
    scale of its rewards; of orpo, the weight of its odds ratio. null: 2.0 for simpo, 0.1 for the others."""

    label_smoothing: Annotated[float, between(0, 0.5)] = 0.0
    """Of sigmoid and simpo: the probability that a pair is the wrong way round (conservative DPO)."""

    simpo_gamma: Annotated[float, at_least(0)] = 1.0
    """Of simpo: the margin between rewards that is wanted."""

    desirable_weight: Annotated[float, at_least(0)] = 1.0
    """Of kto: weight of the good answers."""

    undesirable_weight: Annotated[float, at_least(0)] = 1.0
    """Of kto: weight of the bad answers; with the other, so that both kinds weigh about the same in all."""

    reference_free: bool = False
    """Compare with no reference model, as if all answers were equally likely to it."""

    precompute_ref_log_probs: bool = True
    """Compute the reference model's log-probabilities once, before training, and keep them in the cache; false: in
    each step, which needs use_peft. Neither way is there a second copy of the model."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta is None:
            self.beta = 2.0 if self.loss_type == "simpo" else 0.1

    def checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().checks()
        if self.label_smoothing and self.loss_type not in ("sigmoid", "simpo"):
            yield ("label_smoothing", "loss_type"), "contradict each other: only sigmoid and simpo can be smoothed"

    @property
    def needs_reference(self) -> bool:
        return self.loss_type in WITH_REFERENCE and not self.reference_free
