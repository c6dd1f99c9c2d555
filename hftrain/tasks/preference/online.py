"""What TRL gets for online reinforcement learning: prompts, rewards, settings."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hftrain.config import defaults
from hftrain.config.sources import read_source
from hftrain.data.readers import Fault
from hftrain.data.rows import Rows, load_rows
from hftrain.data.several import join_sources, weighted
from hftrain.data.splits import dialect_of
from hftrain.tasks import chat
from hftrain.tasks.preference.config import SAME, GrpoConfig
from hftrain.tasks.preference.rows import prompt_of

if TYPE_CHECKING:
    from datasets import Dataset


def trl_arguments(config: GrpoConfig, prompts: int) -> dict[str, Any]:
    """Arguments of TRL's `GRPOConfig` for the number of launched processes and this number of prompts.

    Raises:
        ValueError: TRL is not installed; the global batch cannot be divided equally among the processes.
    """
    if importlib.util.find_spec("trl") is None:
        raise ValueError("grpo needs TRL, which is not installed: pip install trl")
    processes = int(os.environ.get("WORLD_SIZE", 1))
    batch = config.global_batch_size
    if batch is None:
        raise ValueError("grpo chooses no global_batch_size: set it to a number of answers")
    size = config.micro_batch_size or max(1, batch // processes)
    if batch % (size * processes):
        raise ValueError(
            f"global_batch_size={config.global_batch_size} is not a multiple of {processes} processes x {size} answers "
            "(micro_batch_size), which TRL needs"
        )
    defaults.fill(config, defaults.Known("preference", examples=prompts, adapters=config.use_peft), pinned={})
    answers = (config.num_train_epochs or 1) * prompts * config.num_generations
    defaults.fill_cadence(config, config.max_steps or math.ceil(answers / batch))
    return {
        **{name: getattr(config, name) for name in SAME},
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": batch // (size * processes),
        "num_train_epochs": config.num_train_epochs or 1,
        "max_steps": config.max_steps or -1,
        "max_completion_length": config.max_new_tokens,
        "beta": config.kl_beta,
        "save_strategy": "no",
    }


def load_prompts(config: GrpoConfig) -> Dataset:
    """Training rows {"prompt": messages, ...} with the other columns of the files; None where a file lacks one."""
    from datasets import Dataset

    def convert(record: dict[str, Any]) -> tuple[Any, Any]:
        prompt = list(itertools.takewhile(lambda message: message["role"] != "assistant", prompt_of(record)))
        if not prompt:
            raise Fault(f"none of the columns is a prompt: {', '.join(record)}")
        if config.system_to_user:
            prompt = chat.fold_system(prompt)
        return prompt, {name: value for name, value in record.items() if name not in ("prompt", "messages")}

    def load(source: str) -> Rows:
        return load_rows(
            source,
            columns={"record": ""},
            split=None if config.train_file else "train",
            config_name=config.dataset_config_name,
            read=chat.as_json(convert),
            schema=pa.schema([("prompt", pa.string()), ("columns", pa.string())]),
            max_bad_rows=config.max_bad_rows,
            dialect=dialect_of(config),
        )

    sources = [read_source(name) for name in config.train_file or [str(config.dataset_name)]]
    shared: dict[str, Any] = {"compare": ["prompt", "columns"], "seed": config.seed}
    rows = join_sources(sources, load, max_bad_rows=config.max_bad_rows, **shared)
    rows = weighted(rows, sources, **shared)
    records = [{"prompt": json.loads(row["prompt"]), **json.loads(row["columns"])} for row in rows]
    names = dict.fromkeys(name for record in records for name in record)  # `from_list` takes those of the first record
    return Dataset.from_list([{name: record.get(name) for name in names} for record in records])


def reward_function(name: str) -> Callable[..., Any] | str:
    """The function that file.py:name points to, or the unchanged name of a reward model.

    Raises:
        ValueError: the file or the function does not exist, or a reward model is an adapter.
    """
    file, _, function = name.partition(":")
    if not file.endswith(".py"):
        if (Path(name) / "adapter_config.json").is_file():
            raise ValueError(
                f"reward_funcs {name!r} is an adapter, and TRL does not load its head: run hftrain merge {name}"
            )
        return name
    if not Path(file).is_file():
        raise ValueError(f"reward_funcs {name!r}: the file {file} does not exist")
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, function):
        raise ValueError(f"reward_funcs {name!r}: {file} has no function {function!r}")
    return getattr(module, function)
