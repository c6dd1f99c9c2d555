"""The DeepSpeed JSON of a launch file: found beside it, and refused for mistakes that DeepSpeed would ignore."""

import difflib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import psutil

ANYTHING = "a block whose keys are not checked"

# The keys that DeepSpeed reads. None: a value; a dict, or one of DeepSpeed's models: a block of keys.
MONITOR = "deepspeed.monitor.config."
KEYS: dict[str, Any] = {
    **dict.fromkeys(
        [
            "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping",
            "managed_gradient_accumulation", "steps_per_print", "dump_state", "disable_python_gc", "disable_allgather",
            "communication_data_type", "seq_parallel_communication_data_type", "prescale_gradients",
            "gradient_predivide_factor", "gradient_allreduce_op", "zero_allow_untested_optimizer",
            "zero_force_ds_cpu_optimizer", "wall_clock_breakdown", "memory_breakdown", "dataloader_drop_last",
            "use_data_before_expert_parallelism", "vocabulary_size", "log_level", "sequence_parallel_size",
        ]
    ),
    **dict.fromkeys(
        ["autotuning", "data_efficiency", "datastates", "expert_parallel", "pipeline", "weight_quantization"], ANYTHING
    ),
    "zero_optimization": "deepspeed.runtime.zero.config.DeepSpeedZeroConfig",
    "bf16": "deepspeed.runtime.precision_config.DeepSpeedBF16Config",
    "fp16": "deepspeed.runtime.precision_config.DeepSpeedFP16Config",
    "comms_logger": "deepspeed.comm.config.CommsLoggerConfig",
    "compile": "deepspeed.compile.config.CompileConfig",
    "hybrid_engine": "deepspeed.runtime.config.HybridEngineConfig",
    "tensor_parallel": "deepspeed.runtime.tensor_parallel.config.TPTrainingConfig",
    "tensorboard": MONITOR + "TensorBoardConfig",
    "wandb": MONITOR + "WandbConfig",
    "csv_monitor": MONITOR + "CSVConfig",
    "comet": MONITOR + "CometConfig",
    "timers": {"throughput": "deepspeed.utils.config.DeepSpeedThroughputTimerConfig"},
    "torch_autocast": dict.fromkeys(["enabled", "dtype", "lower_precision_safe_modules"]),
    "data_types": dict.fromkeys(["grad_accum_dtype", "param_dtype", "buffer_dtype", "keep_in_fp32_modules"]),
    "activation_checkpointing": dict.fromkeys(
        [
            "partition_activations", "number_checkpoints", "contiguous_memory_optimization", "cpu_checkpointing",
            "profile", "synchronize_checkpoint_boundary",
        ]
    ),
    "aio": dict.fromkeys(
        ["block_size", "queue_depth", "intra_op_parallelism", "single_submit", "overlap_events", "use_gds"]
    ),
    "flops_profiler": dict.fromkeys(
        ["enabled", "recompute_fwd_factor", "profile_step", "module_depth", "top_modules", "detailed", "output_file"]
    ),
    "checkpoint": {
        **dict.fromkeys(["tag_validation", "load_universal", "use_node_local_storage", "checkpoint_serialization"]),
        **dict.fromkeys(["parallel_write", "writer"], ANYTHING),
    },
}  # fmt: skip

# Decided by the recipe's settings, so a file must not set them.
OURS = {
    "optimizer": "the recipe creates the optimizer: set optim, learning_rate, weight_decay",
    "scheduler": "the recipe sets the learning rate: set lr_scheduler_type, warmup_steps",
}
AUTO = {
    "train_batch_size": "global_batch_size or global_batch_tokens",
    "train_micro_batch_size_per_gpu": "micro_batch_size or micro_batch_tokens",
    "gradient_accumulation_steps": "micro_batch_size or micro_batch_tokens",
    "gradient_clipping": "max_grad_norm",
    "bf16.enabled": "bf16",
    "fp16.enabled": "fp16",
}


def find_deepspeed_file(name: str) -> Path:
    """The DeepSpeed file `name`, relative to the launch file, or else to this folder; its content is checked.

    Raises:
        ValueError: the file does not exist, is not JSON, or has a repeated key, an unknown key, or a value that the
            recipe's settings decide; lists the file and all mistakes.
    """
    places = [folder / name for folder in (_launch_folder(), Path.cwd()) if folder]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        where = " nor ".join(dict.fromkeys(map(str, places)))
        raise ValueError(f"deepspeed_config_file: {where} does not exist; give the full path in the launch file")

    def once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        for key, value in pairs:
            if key in entries:
                raise ValueError(f"{path}: the key {key} occurs twice")
            entries[key] = value
        return entries

    try:
        config = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from None
    if problems := list(check_deepspeed(config)):
        raise ValueError("\n  ".join([f"{path}:", *problems]))
    return path


def check_deepspeed(config: object) -> Iterator[str]:
    """The mistakes in a DeepSpeed configuration, one line each; DeepSpeed itself ignores most unknown keys."""
    if not isinstance(config, dict):
        yield "is not a mapping of keys to values"
        return
    yield from _unknown(config, KEYS, "")
    for key, meaning in AUTO.items():
        block, _, last = key.rpartition(".")
        values = config.get(block, {}) if block else config
        if isinstance(values, dict) and values.get(last, "auto") != "auto":
            yield f'{key} is {json.dumps(values[last])}: set "auto"; the recipe\'s {meaning} decides it'


def _unknown(config: object, keys: Any, prefix: str) -> Iterator[str]:
    keys = _keys_of(keys) if isinstance(keys, str) and keys != ANYTHING else keys
    if keys is None or keys == ANYTHING or not isinstance(config, dict):  # null: the block is absent
        return
    for key, value in config.items():
        if not prefix and key in OURS:
            yield f"{key}: {OURS[key]}, and remove this block"
        elif key not in keys:
            nearest = difflib.get_close_matches(key, keys, n=1, cutoff=0)
            yield f"{prefix}{key}: DeepSpeed does not know this key; did you mean {prefix}{nearest[0]}?"
        else:
            yield from _unknown(value, keys[key], f"{prefix}{key}.")


def _keys_of(model: Any) -> dict[str, Any]:
    """The keys of one of DeepSpeed's pydantic models, or of the one at an import path."""
    from importlib import import_module

    if isinstance(model, str):
        module, _, name = model.rpartition(".")
        model = getattr(import_module(module), name)
    keys: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        kinds = [field.annotation, *get_args(field.annotation)]
        inner = next((kind for kind in kinds if hasattr(kind, "model_fields")), None)
        nested = _keys_of(inner) if inner else None
        keys |= {name: nested, **({field.alias: nested} if field.alias else {})}
    return keys


def _launch_folder() -> Path | None:
    """The folder of the launch file of `accelerate launch --config_file` or `hftrain run`."""
    for process in psutil.Process().parents():
        try:
            words, folder = process.cmdline(), Path(process.cwd())
        except psutil.Error:  # another user's
            continue
        for word, following in zip(words, [*words[1:], ""], strict=True):
            option, equals, value = word.partition("=")
            if option.replace("-", "_") == "__config_file":
                return (folder / (value if equals else following)).parent
    return None
