"""What is handed over to TRL for online reinforcement learning: prompts, rewards, settings."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa

from hftrain import chat
from hftrain.config import Config, LoraConfig, ModelConfig, at_least, changed
from hftrain.data.readers import Fault
from hftrain.data.rows import load_rows
from hftrain.preference.data import prompt_of
from hftrain.splits import dialect_of

if TYPE_CHECKING:
    from datasets import Dataset

# What TRL's GRPOConfig calls so and means so too; what it gets under another name, or the recipe uses itself.
SAME = ["output_dir", "seed", "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm"]
SAME += ["adam_beta1", "adam_beta2", "adam_epsilon", "bf16", "fp16", "logging_steps", "report_to", "run_name"]
SAME += ["num_generations", "temperature"]
HANDED = {*SAME, "global_batch_size", "micro_batch_size", "num_train_epochs", "max_steps", "max_bad_rows", "train_file"}
HANDED |= {"dataset_name", "dataset_config_name", "delimiter", "encoding", "kl_beta", "reward_funcs"}
HANDED |= {entry.name for group in (ModelConfig, LoraConfig, chat.ChatConfig) for entry in fields(group)}


@dataclass
class OnlineConfig(Config):
    """Learning from rewards of the model's own answers."""

    reward_funcs: list[str] = field(default_factory=list)
    """Rewards, which add up: file.py:function, or the folder or Hub name of a reward model."""

    num_generations: Annotated[int, at_least(2)] = 8
    """Answers to each prompt, which are compared with one another; global_batch_size counts answers."""

    kl_beta: Annotated[float, at_least(0)] = 0.0
    """Weight of the divergence from the model before training (TRL's beta); 0: none."""

    temperature: Annotated[float, at_least(0)] = 1.0
    """Of the sampling of answers."""

    def checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().checks()
        batch = getattr(self, "global_batch_size", None)
        if not self.reward_funcs:
            yield ("reward_funcs",), "there is nothing to learn without a reward: name one"
        if batch is None or batch % self.num_generations:
            yield ("global_batch_size", "num_generations"), "the former must be a multiple of the latter"
        for name in changed(self):
            if name not in HANDED and name.partition(".")[0] not in HANDED:
                yield (name,), "is not handed over to TRL's trainer, which this recipe ends in: leave it out"


def trl_arguments(config: Any) -> dict[str, Any]:
    """For TRL's `GRPOConfig`, on as many processes as were launched.

    Raises:
        ValueError: TRL is not installed; the global batch cannot be cut into equal parts for them.
    """
    if importlib.util.find_spec("trl") is None:
        raise ValueError("grpo hands over to TRL, which is not installed: pip install trl")
    processes = int(os.environ.get("WORLD_SIZE", 1))
    size = config.micro_batch_size or max(1, config.global_batch_size // processes)
    if config.global_batch_size % (size * processes):
        raise ValueError(
            f"global_batch_size={config.global_batch_size} is no multiple of {processes} processes x {size} answers "
            "(micro_batch_size), which TRL needs"
        )
    return {
        **{name: getattr(config, name) for name in SAME},
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": config.global_batch_size // (size * processes),
        "num_train_epochs": config.num_train_epochs or 1,
        "max_steps": config.max_steps or -1,
        "max_completion_length": config.max_new_tokens,
        "beta": config.kl_beta,
        "save_strategy": "no",
    }


def load_prompts(config: Any) -> Dataset:
    """{"prompt": messages, and the row's other columns} of each training row."""
    from datasets import Dataset

    def convert(record: dict[str, Any]) -> tuple[Any, Any]:
        prompt = list(itertools.takewhile(lambda message: message["role"] != "assistant", prompt_of(record)))
        if not prompt:
            raise Fault(f"no prompt in the columns {', '.join(record)}")
        if config.system_to_user:
            prompt = chat.fold_system(prompt)
        return prompt, {name: value for name, value in record.items() if name not in ("prompt", "messages")}

    rows = load_rows(
        str(config.train_file or config.dataset_name),
        columns={"record": ""},
        split=None if config.train_file else "train",
        config_name=config.dataset_config_name,
        read=chat.as_json(convert),
        schema=pa.schema([("prompt", pa.string()), ("columns", pa.string())]),
        max_bad_rows=config.max_bad_rows,
        dialect=dialect_of(config),
    )
    return Dataset.from_list([{"prompt": json.loads(row["prompt"]), **json.loads(row["columns"])} for row in rows])


def reward_function(name: str) -> Callable[..., Any] | str:
    """The function that file.py:name means, or the name of a reward model as it is.

    Raises:
        ValueError: there is no such file, or no such function in it; a reward model is an adapter.
    """
    file, _, function = name.partition(":")
    if not file.endswith(".py"):
        if (Path(name) / "adapter_config.json").is_file():
            raise ValueError(f"reward_funcs {name!r} is an adapter, whose head TRL does not load: hftrain merge {name}")
        return name
    if not Path(file).is_file():
        raise ValueError(f"reward_funcs {name!r}: there is no file {file}")
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, function):
        raise ValueError(f"reward_funcs {name!r}: {file} has no function {function!r}")
    return getattr(module, function)
