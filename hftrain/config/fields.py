"""The settings that recipes share. A recipe composes these classes and adds its own fields."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar, Literal

from hftrain.config.data import DataConfig
from hftrain.config.defaults import Choice, Task
from hftrain.config.schema import Config, InsteadOf, above, at_least, between, count_or_share, default_of, share
from hftrain.metrics.table import higher_is_better

FOLDERS = ("output_dir", "model_name_or_path", "tokenizer_name_or_path", "resume_from_checkpoint")  # may begin with ~


@dataclass
class ModelConfig(Config):
    """The model and its tokenizer."""

    model_name_or_path: str | None = None
    """Pretrained model, on the Hub or in a folder; null: a new model, trained from scratch."""

    tokenizer_name_or_path: str | None = None
    """Tokenizer, on the Hub or in a folder; null: the model's own, or for a new model one that is learnt from the
    training text."""

    model_revision: str = "main"
    """Branch, tag or commit of the model on the Hub."""

    trust_remote_code: bool = False
    """Run the code that comes with the model; only for authors you trust."""

    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    """Number format of the weights; auto: as saved. float32 together with bf16 trains fast and safely."""

    attn_implementation: str | None = None
    """Attention kernel: eager, sdpa, flash_attention_2, ...; null: the model's choice."""

    model_config: dict[str, Any] = field(default_factory=dict)
    """Entries of the model's configuration: --model_config.dropout 0.3, or a mapping in YAML."""


@dataclass
class LoraConfig(Config):
    """Low-rank adapters (LoRA, arXiv 2106.09685): train a small addition to the weights instead of the weights."""

    SWITCH: ClassVar[str] = "use_peft"  # if it is off, the others must be at their defaults

    use_peft: bool = False
    """Train adapters and freeze the weights of the model."""

    lora_r: Annotated[int, at_least(1)] = 16
    """Rank of the adapters."""

    lora_alpha: Annotated[int, at_least(1)] = 32
    """Scale of the adapters: their output is multiplied by lora_alpha / lora_r."""

    lora_dropout: Annotated[float, share] = 0.0
    """Probability of dropping an input of the adapters."""

    lora_target_modules: list[str] = field(default_factory=lambda: ["all-linear"])
    """Names of the modules that get adapters; all-linear: every linear layer except the output head."""

    use_dora: bool = False
    """Train the norms of the weights' columns separately from their directions (DoRA, arXiv 2402.09353)."""

    use_rslora: bool = False
    """Divide lora_alpha by the square root of lora_r (rsLoRA, arXiv 2312.03732): for high ranks."""

    init_lora_weights: Literal["default", "gaussian", "pissa", "pissa_niter_16"] = "default"
    """Initial values of the adapters. default, gaussian: no effect at first; pissa: the largest singular directions of
    the weights (arXiv 2404.02948); pissa_niter_16: an approximation of them in 16 iterations, faster for large
    models."""

    load_in_4bit: bool = False
    """Keep the frozen weights in 4 bits (nf4, QLoRA, arXiv 2305.14314); needs use_peft."""

    def checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().checks()
        if self.load_in_4bit and not self.use_peft:
            yield ("load_in_4bit", "use_peft"), "4-bit weights cannot be trained: set use_peft too, or neither"
        of_adapters = {setting.name for setting in fields(LoraConfig)} - {"use_peft", "load_in_4bit"}
        for setting in fields(self):
            changed = setting.name in of_adapters and getattr(self, setting.name) != default_of(setting)
            if changed and not self.use_peft:
                reason = "adapters are off, so all weights would be trained: set use_peft too, or neither"
                yield (setting.name, "use_peft"), reason
        if self.use_peft and not self.lora_target_modules:
            yield ("lora_target_modules", "use_peft"), "no module would be trained: name some modules, or all-linear"
        if self.init_lora_weights.startswith("pissa"):
            for name in ("use_dora", "load_in_4bit"):
                if getattr(self, name):
                    yield ("init_lora_weights", name), "PiSSA changes the weights when it starts: set only one"


@dataclass
class TrainConfig(Config):
    """The run: length, batch, optimizer, precision, evaluation, checkpoints, reports."""

    task_family: ClassVar[Task] = "understanding"  # whose rules choose
    counted: ClassVar[str] = "tokens"  # the unit of tokens_per_second; an image is one

    output_dir: str = "output"
    """Folder for the model, its checkpoints and the report."""

    seed: Annotated[int, at_least(0)] = 42
    """Random seed for new weights, order of examples, dropout and splits."""

    global_batch_size: Annotated[int | None, at_least(1)] = None
    """Examples in one optimizer step, over all devices; null: chosen. Part of the recipe: results depend on it."""

    global_batch_tokens: Annotated[int | None, at_least(1), InsteadOf("global_batch_size")] = None
    """Approximate number of tokens in one optimizer step, over all devices, without padding."""

    train_sampling_strategy: Literal["random", "group_by_length"] = "random"
    """Order of the examples, drawn anew for each epoch. random: each step holds a random sample; group_by_length: the
    steps come in random order, and each holds examples of similar length, so that less is padded."""

    micro_batch_size: Annotated[int | None, at_least(1)] = None
    """Examples in one forward pass of one device. It limits memory. Results do not depend on it, except for dropout and
    for the models that a check at the start names."""

    micro_batch_tokens: Annotated[int | None, at_least(1), InsteadOf("micro_batch_size")] = None
    """Tokens in one forward pass of one device, with padding. It limits memory, like micro_batch_size. If neither is
    set, a measurement before the first step chooses it where results do not depend on it."""

    equal_length_micro_batches: bool = False
    """Put only examples of equal length into one forward pass: slower, but exact for models whose results change with
    padding."""

    eval_batch_size: Annotated[int, at_least(1)] = 32
    """Examples in one forward pass of one device in evaluation and generation; where nothing is generated, examples of
    mean length: fewer long ones, more short ones. Losses do not depend on it; texts from beam search may, in a few
    rows."""

    num_train_epochs: Annotated[float | None, above(0)] = None
    """Passes over the training data; null: chosen, unless max_steps is set."""

    max_steps: Annotated[int | None, at_least(1), InsteadOf("num_train_epochs")] = None
    """Optimizer steps of the whole run."""

    learning_rate: Annotated[float | None, above(0)] = None
    """Peak learning rate; null: chosen."""

    lr_scheduler_type: Literal["linear", "cosine", "inverse_sqrt", "constant", "warmup_stable_decay"] | None = None
    """Learning rate schedule after the warmup; null: chosen."""

    warmup_steps: Annotated[float | None, count_or_share] = None
    """Warmup: steps in which the learning rate rises from 0 to its peak; under 1: a share of all steps; null:
    chosen."""

    decay_steps: Annotated[float, count_or_share] = 0.2
    """Steps at the end in which the learning rate falls, for warmup_stable_decay only; under 1: a share of all
    steps."""

    min_lr_ratio: Annotated[float, between(0, 1)] = 0.0
    """Final learning rate as a share of the peak."""

    optim: Literal["adamw_torch", "adamw_8bit", "adafactor", "muon"] = "adamw_torch"
    """Optimizer; adamw_8bit keeps its state in 8 bits (bitsandbytes); muon updates matrices with Muon and the rest with
    AdamW."""

    weight_decay: Annotated[float, at_least(0)] = 0.01
    """Decoupled weight decay, applied to matrices but not to biases and norms."""

    adam_beta1: Annotated[float, share] = 0.9
    """Decay of AdamW's mean of gradients, per step."""

    adam_beta2: Annotated[float, share] = 0.999
    """Decay of AdamW's mean of squared gradients, per step."""

    adam_epsilon: Annotated[float, above(0)] = 1e-8
    """Constant added to the root of AdamW's mean of squared gradients."""

    max_grad_norm: Annotated[float, at_least(0)] = 1.0
    """Clip the gradient norm at this value; 0: no clipping."""

    label_smoothing_factor: Annotated[float, share] = 0.0
    """Label smoothing: probability moved from the label to all classes, in training only."""

    ema_decay: Annotated[float | None, above(0, under=1)] = None
    """Decay per step of a moving average of the weights, which is then evaluated and saved; null: no average."""

    bf16: bool = False
    """Compute in bfloat16; weights and optimizer state stay in float32."""

    fp16: bool = False
    """Compute in float16 with loss scaling, for GPUs without bfloat16."""

    activation_checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them: less memory, about a third slower."""

    selective_checkpointing: bool = False
    """With activation_checkpointing: keep the results of matrix products and attention and recompute only the rest."""

    torch_compile: bool = False
    """Compile the model with torch.compile."""

    padding_free: bool | None = None
    """Let the layers compute no padding. Dropout then draws numbers for tokens only, so that results differ from those
    of the padded batch. null: on CPUs, where the model allows it; true: also on GPUs (in bf16, with attn_implementation
    sdpa); false: never."""

    use_kernels: bool = False
    """On GPUs, replace layers by kernels of the Hub that transformers knows for this model, which round differently.
    Needs pip install hftrain[kernels]."""

    use_liger_kernel: bool = False
    """On GPUs, compute norms, rotary positions and gated layers with the kernels of liger-kernel, which round
    differently. Needs pip install hftrain[kernels]."""

    max_nonfinite_steps: Annotated[int, at_least(0)] = 0
    """Number of steps with a NaN or infinite loss or gradient norm that may be skipped; one more stops the run."""

    halve_on_oom: bool = False
    """When memory runs out, halve the micro-batch and continue; the global batch stays the same."""

    dataloader_num_workers: Annotated[int, at_least(0)] = 0
    """Worker processes that prepare batches; 0: the training process itself."""

    logging_steps: Annotated[float | None, above(0), count_or_share] = None
    """Steps between two lines of the log; the first and the last step are always logged; under 1: a share of all steps;
    null: chosen."""

    eval_steps: Annotated[float | None, count_or_share] = None
    """Steps between two evaluations; under 1: a share of all steps; 0: only at the end; null: chosen, so that
    evaluation takes at most about a tenth of the time."""

    eval_on_start: bool = False
    """Evaluate before the first step too."""

    save_steps: Annotated[float | None, count_or_share] = None
    """Steps between two checkpoints; under 1: a share of all steps; 0: only at the end; null: chosen, so that saving
    takes at most about a tenth of the time."""

    save_total_limit: Annotated[int, at_least(1)] = 2
    """Number of checkpoints to keep; the newest intact one and the best are never deleted."""

    remote_dir: str | None = None
    """Second place for checkpoints, such as s3://bucket/run, gs://bucket/run or another folder that fsspec supports:
    each one is uploaded in the background, and auto resumes from the newest of both places; null: none."""

    load_best_model_at_end: bool | None = None
    """Finish with the best weights by metric_for_best_model instead of the last; null: chosen, by the number of
    validation examples."""

    metric_for_best_model: str | None = None
    """Validation metric by which the best model is selected; ties are broken by the loss; null: chosen."""

    greater_is_better: bool | None = None
    """Whether a higher metric_for_best_model is better; null: as known for the metric."""

    early_stopping_patience: Annotated[int | None, at_least(1)] = None
    """Stop after this many evaluations in a row without improvement; null: never stop early."""

    resume_from_checkpoint: str | None = None
    """Checkpoint to resume from; auto: the newest intact one in output_dir, or a fresh start without one."""

    resume_allow: list[str] = field(default_factory=list)
    """Settings that may differ from those of the resumed run."""

    report_to: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = field(default_factory=list)
    """Experiment trackers that also receive the log."""

    run_name: str | None = None
    """Name of the run in the trackers, in project hftrain (or WANDB_PROJECT); null: the name of output_dir."""

    push_to_hub: bool = False
    """Upload the finished model to the Hub."""

    hub_model_id: str | None = None
    """Repository on the Hub, as user/name; null: the name of output_dir under your account."""

    ddp_timeout: Annotated[int, at_least(1)] = 1800
    """Seconds that a process waits for the others before it gives up."""

    def __post_init__(self) -> None:
        self.chosen: dict[str, Choice] = {}
        self.chosen_for = ""
        super().__post_init__()
        for name in FOLDERS:
            if value := getattr(self, name, None):
                setattr(self, name, os.path.expanduser(value))  # in a YAML file, no shell does

    @property
    def scored_by(self) -> str:
        """The metric that `metric_for_best_model` defaults to."""
        return "loss"

    @property
    def tested_on(self) -> str:
        """The origin of the scored rows, in words."""
        return "rows of the recipe"

    def choose(self, name: str, value: object, reason: str) -> None:
        """Sets an open setting."""
        if getattr(self, name) is None:
            setattr(self, name, value)
            self.chosen[name] = Choice(value, reason)

    def metric_problems(self, *known: str) -> Iterator[tuple[Sequence[str], str]]:
        """For `checks`: `metric_for_best_model` must be one of the metrics that are evaluated."""
        if (self.metric_for_best_model or "loss").removeprefix("eval_") not in known:
            yield ("metric_for_best_model",), f"only {', '.join(known)} are evaluated"

    def reopen(self) -> None:
        """Resets chosen settings: the next run chooses for its own data."""
        for name, choice in self.chosen.items():
            if getattr(self, name) == choice.value:
                setattr(self, name, None)
        self.chosen = {}

    def checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().checks()
        if self.bf16 and self.fp16:
            yield ("bf16", "fp16"), "contradict each other: set one of them"
        if self.selective_checkpointing and not self.activation_checkpointing:
            yield (
                ("selective_checkpointing", "activation_checkpointing"),
                "only refines checkpointing: set activation_checkpointing too",
            )
        if re.search(r"://[^/]*@|\?", self.remote_dir or ""):
            yield (
                ["remote_dir"],
                "must not contain credentials or a query, since reports show it: set them in the environment",
            )
        if self.early_stopping_patience is not None and self.eval_steps == 0:
            yield (
                ("early_stopping_patience", "eval_steps"),
                "contradict each other: eval_steps 0 evaluates only at the end",
            )
        direction, keys = self._known_direction(), ("metric_for_best_model", "greater_is_better")
        if self.metric_for_best_model is None:
            pass
        elif direction is self.greater_is_better is None:
            yield keys, f"whether a higher {self.metric_for_best_model} is better is not known: set greater_is_better"
        elif None not in (direction, self.greater_is_better) and direction != self.greater_is_better:
            yield (
                keys,
                f"would keep the worst {self.metric_for_best_model}: set greater_is_better {str(direction).lower()}",
            )
        parts = ["warmup_steps"]
        if self.lr_scheduler_type == "warmup_stable_decay":
            parts.append("decay_steps")
        lengths = [getattr(self, part) or 0 for part in parts]
        if self.max_steps:
            needed = sum(length * self.max_steps if length < 1 else length for length in lengths) / self.max_steps
        else:
            needed = sum(length for length in lengths if length < 1)
        if needed > 1 + 1e-9:
            yield (
                [*parts, *(["max_steps"] if self.max_steps else [])],
                "the schedule of the learning rate would need more steps than the run has",
            )

    def _known_direction(self) -> bool | None:
        return higher_is_better(self.metric_for_best_model or "")

    @property
    def higher_is_better(self) -> bool:
        """Of `metric_for_best_model`."""
        return bool(self._known_direction() if self.greater_is_better is None else self.greater_is_better)


@dataclass
class RecipeConfig(DataConfig, ModelConfig, LoraConfig, TrainConfig):
    """Settings of every recipe."""

    def checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().checks()
        if self.use_peft and self.model_name_or_path is None:
            yield ("use_peft", "model_name_or_path"), "adapters need a pretrained model: set model_name_or_path"
        if self.use_peft and getattr(self, "freeze", None):
            yield ("freeze", "use_peft"), "adapters freeze the whole model already: set only one of the two"
        if self.folds is not None and self.fold is None:
            if self.push_to_hub:
                yield (
                    ("folds", "push_to_hub"),
                    "each fold has its own model: train on all rows, without folds, and push that model",
                )
            if self.resume_from_checkpoint not in (None, "auto"):
                yield (
                    ("folds", "resume_from_checkpoint"),
                    "one checkpoint can continue only its own fold: set fold too, or auto to continue each fold",
                )


@dataclass
class FineTuneConfig(RecipeConfig):
    """Settings of recipes that fine-tune a pretrained model."""

    def checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().checks()
        if self.model_name_or_path is None:
            yield ("model_name_or_path",), "the task needs a pretrained model: set model_name_or_path"
