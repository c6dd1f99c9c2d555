"""The contract of a run: facts that must be equal for a resumed run to equal the stopped one.

A setting is refused on resume if it differs, unless it is in `ALLOWED`, or in `DERIVED` and its consequence is compared
instead. So a new setting of a recipe is refused until it has been considered.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from torch import nn

from hftrain import distributed
from hftrain.config import TrainConfig
from hftrain.data.examples import Examples, fingerprint_of
from hftrain.train import checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CUT = "memory only; a changed cut is reported, since dropout follows it"
ROUNDING = "another way to compute the same numbers, up to rounding"
OUTPUT = "output and logging, not the computation"
MACHINE = "the machine, not the results"

# Settings that may differ, and why.
ALLOWED = {
    "micro_batch_size": CUT,
    "micro_batch_tokens": CUT,
    "halve_on_oom": CUT,
    "eval_batch_size": "memory only",
    "activation_checkpointing": ROUNDING,
    "selective_checkpointing": ROUNDING,
    "torch_compile": ROUNDING,
    "use_kernels": ROUNDING,
    "use_liger_kernel": ROUNDING,
    "attn_implementation": ROUNDING,
    "chunked_loss": ROUNDING,
    "dataloader_num_workers": MACHINE,
    "ddp_timeout": MACHINE,
    "trust_remote_code": MACHINE,
    "output_dir": OUTPUT,
    "logging_steps": OUTPUT,
    "save_steps": OUTPUT,
    "save_total_limit": OUTPUT,
    "remote_dir": OUTPUT,
    "report_to": OUTPUT,
    "run_name": OUTPUT,
    "push_to_hub": OUTPUT,
    "hub_model_id": OUTPUT,
    "eval_on_start": "an evaluation before the first step chooses nothing",
    "max_bad_rows": "the rows themselves are compared",
    "max_nonfinite_steps": "the skipped steps are counted over the whole run",
    "resume_from_checkpoint": "chooses the checkpoint",
    "resume_allow": "lists settings that may differ",
}

# Settings that may differ if their consequence is equal: the key of the contract that is compared.
DERIVED = {
    "num_train_epochs": "total_steps",
    "max_steps": "total_steps",
    "train_file": "train_data",
    "dataset_name": "train_data",
    "dataset_config_name": "train_data",
    "delimiter": "train_data",
    "column_names": "train_data",
    "encoding": "train_data",
    "tokenizer_name_or_path": "train_data",
    "validation_file": "validation_data",
    "test_file": "test_data",
    "model_name_or_path": "model",
    "model_revision": "model",
}

# The settings that version 0.1.0 recorded. A later key is compared only if the checkpoint has it too.
RECORDED_FIRST = (
    "seed", "global_batch_size", "global_batch_tokens", "learning_rate", "lr_scheduler_type", "warmup_steps",
    "decay_steps", "min_lr_ratio", "optim", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon",
    "max_grad_norm", "label_smoothing_factor", "ema_decay", "bf16", "fp16",
)  # fmt: skip

# Settings that older versions did not record, with the value of those versions, which is compared instead.
UNKNOWN = {"train_sampling_strategy": "random", "padding_free": False}

# Differences after which evaluations can still be compared with those before. After any other difference that
# --resume_allow accepts, the best model is chosen anew.
COMPARABLE = {
    *RECORDED_FIRST, "total_steps", "examples", "train_data", "test_data", "eval_steps", "early_stopping_patience",
    "load_best_model_at_end", "neftune_noise_alpha", "freeze",
} - {"seed", "bf16", "fp16", "ema_decay"}  # fmt: skip


def run_contract(
    accelerator: Accelerator,
    model: PreTrainedModel,
    examples: Examples,
    total: int,
    config: TrainConfig,
    held_out: Mapping[str, Sequence[Any]] | None = None,
) -> dict[str, Any]:
    """The facts that are compared on resume, as JSON values. Every process must call."""
    volatile = {"_name_or_path", "transformers_version", "architectures", "auto_map", "use_cache"}
    derived: dict[str, Any] = {}
    if hasattr(model, "config"):
        derived["model"] = {k: v for k, v in model.config.to_dict().items() if k not in volatile}
        derived["model"] |= derived["model"].pop("hftrain", None) or {}  # as version 0.1.0 recorded it
    for name, adapter in getattr(model, "peft_config", {}).items():
        kept = ("peft_type", "base_model_name_or_path", "r", "lora_alpha", "lora_dropout", "target_modules")
        settings = adapter.to_dict()
        derived[f"adapter_{name}"] = {key: json_value(settings.get(key)) for key in kept}
    derived |= {"total_steps": total, "examples": len(examples), "train_data": examples.fingerprint}
    for name, split in (held_out or {}).items():
        if name != "train":
            derived[f"{name}_data"] = fingerprint_of(split)
    base = list(base_weights(model, config))
    if base:
        derived["base_weights"] = distributed.fingerprint_parameters(accelerator, base)
    if commit := getattr(getattr(model, "config", None), "_commit_hash", None):  # from the Hub; a folder has none
        derived["base_commit"] = commit
    contract = {name: getattr(config, name) for name in RECORDED_FIRST}
    contract |= {"greater_is_better": config.higher_is_better}
    contract |= {"padding_free": bool(config.padding_free)}  # as far as it is known: `fit` may choose it
    for setting in fields(config):
        name = setting.name
        free = name in ALLOWED or name in config.no_result or DERIVED.get(name) in derived
        if not free and name not in contract:
            contract[name] = json.loads(json.dumps(getattr(config, name), default=str))
    return contract | derived | {"chosen": chosen_values(config)}


def chosen_values(config: TrainConfig) -> dict[str, Any]:
    """The chosen settings, which a resumed run uses."""
    return {name: choice.value for name, choice in config.chosen.items()}


def optional(contract: Mapping[str, Any]) -> set[str]:
    """The keys of `contract` that an older version did not record, or recorded differently."""
    first = {*RECORDED_FIRST, "model", "total_steps", "examples"}
    return {"data"} | {key for key in contract if key not in first and not key.startswith("adapter_")}


def base_weights(model: nn.Module, config: TrainConfig) -> Iterator[tuple[str, torch.Tensor, Sequence[int]]]:
    """Weights that a run depends on but a checkpoint does not contain: (name, tensor, rows to ignore).

    For a PEFT model, all frozen weights; for a model that is its own reference, all initial weights. Weights without
    effect on results, which may be random, are left out: the random head replaced by a trained one, and the rows of new
    tokens, which the adapter replaces.
    """
    adapted = hasattr(model, "peft_config")
    if not adapted and not getattr(config, "needs_reference", False):
        return
    unused: set[int] = set()
    rows: dict[int, Sequence[int]] = {}
    if adapted:
        from peft.utils.other import ModulesToSaveWrapper

        module: Any
        for module in model.modules():
            if isinstance(module, ModulesToSaveWrapper):
                unused |= {id(parameter) for parameter in module.original_module.parameters()}
            if isinstance(getattr(module, "token_indices", None), dict):
                indices = {index for chosen in module.token_indices.values() for index in chosen}
                rows[id(module.base_layer.weight)] = sorted(indices)
    for name, parameter in model.named_parameters():
        if id(parameter) in unused or (adapted and parameter.requires_grad):
            continue
        yield name, parameter, rows.get(id(parameter), ())
        quantized = getattr(parameter, "quant_state", None)  # 4 bits: the scales are not parameters
        for key, value in quantized.as_dict().items() if quantized else ():
            if isinstance(value, torch.Tensor):
                yield f"{name}.{key}", value, ()


def compare(saved: checkpoint.Saved, current: Mapping[str, Any], allow: Sequence[str]) -> tuple[set[str], list[str]]:
    """The settings and inputs that differ from the checkpoint's and are accepted by `allow`, and lines to print.

    Raises:
        ValueError: another one differs.
    """
    known = optional(current)
    notes = []
    before, now = UNKNOWN | saved.contract, dict(current)
    for contract in (before, now):
        contract.pop("chosen", None)  # it only explains the settings, which are compared
    commits = before.get("base_commit"), now.get("base_commit")
    if before.get("base_weights") == now.get("base_weights"):  # then another commit does not matter
        before.pop("base_commit", None)
        now.pop("base_commit", None)
        if None not in commits and commits[0] != commits[1]:
            notes.append(f"the base model is now of commit {commits[1]}, but was of {commits[0]} when saved")
    notes += checkpoint.check_contract(before, now, allow, known)
    installed = checkpoint.versions()
    recorded = saved.manifest["versions"]
    other = [
        f"{name} {version}, now {installed.get(name, 'absent')}"
        for name, version in recorded.items()
        if version != installed.get(name)
    ]
    if other:
        notes.append(f"versions differ from the saved run, and perhaps rounding: {'; '.join(other)}")
    return {key.partition(".")[0] for key in checkpoint.differences(before, now, known)}, notes


def json_value(value: object) -> Any:
    """Converts sets to sorted lists and enumerations to their values."""
    return sorted(value) if isinstance(value, set) else getattr(value, "value", value)
