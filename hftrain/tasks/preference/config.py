"""Settings of preference learning."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, ClassVar, Literal

from hftrain.config import (
    Config,
    LoraConfig,
    ModelConfig,
    above,
    at_least,
    between,
    changed,
)
from hftrain.config.defaults import Task
from hftrain.tasks.chat.config import ChatConfig, ChatModelConfig

WITH_REFERENCE = ("sigmoid", "ipo", "kto")
# Settings that TRL's GRPOConfig shares with us; those it has by another name; those the recipe uses itself.
SAME = ["output_dir", "seed", "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm"]
SAME += ["adam_beta1", "adam_beta2", "adam_epsilon", "bf16", "fp16", "logging_steps", "report_to", "run_name"]
SAME += ["num_generations", "temperature"]
HANDED = {*SAME, "global_batch_size", "micro_batch_size", "num_train_epochs", "max_steps", "max_bad_rows", "train_file"}
HANDED |= {"dataset_name", "dataset_config_name", "delimiter", "encoding", "kl_beta", "reward_funcs"}
HANDED |= {entry.name for group in (ModelConfig, LoraConfig, ChatConfig) for entry in fields(group)}


@dataclass
class PreferenceConfig(Config):
    """Loss and reference model of preference learning."""

    task_family: ClassVar[Task] = "preference"

    loss_type: Literal["sigmoid", "ipo", "simpo", "orpo", "kto"] = "sigmoid"
    """Loss: sigmoid is DPO; kto takes answers labelled good or bad instead of pairs; simpo and orpo need no reference
    model."""

    beta: Annotated[float | None, above(0)] = None
    """For sigmoid, ipo and kto: strength of the penalty for leaving the reference model; for simpo: scale of the
    rewards; for orpo: weight of the odds ratio. null: 2.0 for simpo, 0.1 for the others."""

    label_smoothing: Annotated[float, between(0, 0.5)] = 0.0
    """For sigmoid and simpo: probability that the labels of a pair are swapped (conservative DPO)."""

    simpo_gamma: Annotated[float, at_least(0)] = 1.0
    """For simpo: target margin between the rewards."""

    desirable_weight: Annotated[float, at_least(0)] = 1.0
    """For kto: weight of good answers."""

    undesirable_weight: Annotated[float, at_least(0)] = 1.0
    """For kto: weight of bad answers. Set both weights so that good and bad answers weigh about the same in total."""

    reference_free: bool = False
    """Use no reference model, as if all answers were equally likely under it."""

    precompute_ref_log_probs: bool = True
    """Compute the reference model's log-probabilities once before training and cache them; false: compute them in each
    step, which needs use_peft. Neither keeps a second copy of the model."""

    @property
    def scored_by(self) -> str:
        return "reward_accuracy"

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


@dataclass
class OnlineConfig(Config):
    """Online learning from rewards for the model's own answers."""

    task_family: ClassVar[Task] = "preference"

    reward_funcs: list[str] = field(default_factory=list)
    """Reward functions, which are summed: file.py:function, or the folder or Hub name of a reward model."""

    num_generations: Annotated[int, at_least(2)] = 8
    """Answers generated per prompt and compared with one another; global_batch_size counts answers."""

    kl_beta: Annotated[float, at_least(0)] = 0.0
    """Weight of the KL divergence from the model before training (TRL's beta); 0: no penalty."""

    temperature: Annotated[float, at_least(0)] = 1.0
    """Sampling temperature of the answers."""

    def checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().checks()
        batch = getattr(self, "global_batch_size", None)  # never chosen by us, since it must be a multiple
        if not self.reward_funcs:
            yield ("reward_funcs",), "without a reward there is nothing to learn: set at least one"
        if batch is None or batch % self.num_generations:
            yield ("global_batch_size", "num_generations"), "the former must be a multiple of the latter"
        for name in changed(self):
            if name not in HANDED and name.partition(".")[0] not in HANDED:
                yield (name,), "is not passed on to TRL's trainer, which runs this recipe: leave it out"


@dataclass
class PreferenceRecipeConfig(PreferenceConfig, ChatModelConfig):
    """Preference learning."""

    global_batch_size: Annotated[int | None, at_least(1)] = None
    """Pairs (for kto: answers) in one optimizer step, over all devices; null: chosen. Results depend on it."""

    chunked_loss: bool = True
    """Compute the loss in chunks without keeping all logits: same result, less memory, if the model's head allows
    it."""

    def checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().checks()
        if self.label_smoothing_factor:
            yield ("label_smoothing_factor",), "applies to classes and tokens: for preferences, set label_smoothing"
        if self.needs_reference and not self.precompute_ref_log_probs and not self.use_peft:
            yield (
                ("precompute_ref_log_probs", "use_peft"),
                "false needs adapters that can be switched off: without use_peft, leave it on",
            )


@dataclass
class RewardConfig(ChatModelConfig):
    """Reward modelling."""

    task_family: ClassVar[Task] = "reward"

    center_rewards_coefficient: Annotated[float, at_least(0)] = 0.0
    """Weight of the squared sum of a pair's rewards, which centres them at 0; 0.01 is usual. Only algorithms that add
    up rewards need it."""

    @property
    def scored_by(self) -> str:
        return "accuracy"

    def checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().checks()
        if self.label_smoothing_factor:
            yield ("label_smoothing_factor",), "applies to classes and tokens, which rewards do not have: leave it out"


@dataclass
class GrpoConfig(OnlineConfig, ChatModelConfig):
    """GRPO, trained by TRL."""

    global_batch_size: Annotated[int | None, at_least(1)] = 32
    """Answers in one optimizer step, over all devices: prompts times num_generations."""
