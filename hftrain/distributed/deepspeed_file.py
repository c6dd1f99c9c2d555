"""The DeepSpeed JSON that a launch file names: found beside it, refused where DeepSpeed would read over a mistake."""

import difflib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import psutil

ANYTHING = "a block whose keys are not checked"

# Each key that DeepSpeed reads: None has a value; a dict, or one of DeepSpeed's own models, has keys of its own.
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

# What the recipe's settings decide, so that a file must not.
OURS = {
    "optimizer": "the recipe makes the optimizer: set optim, learning_rate, weight_decay",
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
    """The DeepSpeed file `name`, relative to the launch file that names it, else to this folder; its content checked.

    Raises:
        ValueError: no such file, no JSON, a key twice, a key that DeepSpeed does not know, a value that the recipe's
            settings decide; with the file and all that is wrong.
    """
    places = [folder / name for folder in (_launch_folder(), Path.cwd()) if folder]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        where = " nor ".join(dict.fromkeys(map(str, places)))
        raise ValueError(f"deepspeed_config_file: there is no {where}; give the file's whole path in the launch file")

    def once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ValueError(f"{path}: {key} is given twice")
            found[key] = value
        return found

    try:
        config = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: no JSON: {error.msg}") from None
    if problems := list(check_deepspeed(config)):
        raise ValueError("\n  ".join([f"{path}:", *problems]))
    return path


def check_deepspeed(config: object) -> Iterator[str]:
    """What is wrong with a DeepSpeed configuration, a line each; DeepSpeed itself ignores most unknown keys."""
    if not isinstance(config, dict):
        yield "is no mapping of keys to values"
        return
    yield from _unknown(config, KEYS, "")
    for key, meaning in AUTO.items():
        block, _, last = key.rpartition(".")
        values = config.get(block, {}) if block else config
        if isinstance(values, dict) and values.get(last, "auto") != "auto":
            yield f'{key} is {json.dumps(values[last])}: set "auto"; the recipe\'s {meaning} decides it'


def _unknown(config: object, known: Any, prefix: str) -> Iterator[str]:
    known = _keys_of(known) if isinstance(known, str) and known != ANYTHING else known
    if known is None or known == ANYTHING or not isinstance(config, dict):  # null: the block is left out
        return
    for key, value in config.items():
        if not prefix and key in OURS:
            yield f"{key}: {OURS[key]}, and leave this block out"
        elif key not in known:
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0)
            yield f"{prefix}{key}: DeepSpeed knows no such key; did you mean {prefix}{nearest[0]}?"
        else:
            yield from _unknown(value, known[key], f"{prefix}{key}.")


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
    """The folder of the launch file that `accelerate launch --config_file` or `hftrain run` was given."""
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
