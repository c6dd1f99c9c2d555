"""Adapters: a small addition to a model's weights that is trained instead of the weights."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import fields
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.utils import logging as hf_logging

from hftrain.config import LoraConfig
from hftrain.config.schema import default_of
from hftrain.data.files import ADAPTER
from hftrain.models.trust import CodeRefused, refusing_code
from hftrain.models.weights import naming_damage

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

KINDS = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
}
HEADS = ("classifier", "score", "qa_outputs")  # PEFT saves these heads with the adapter of their task


def add_adapters(
    model: PreTrainedModel,
    config: LoraConfig,
    task_type: str | None,
    *,
    new_tokens: Sequence[int] = (),
    exclude: str | None = None,
) -> Any:
    """The model with low-rank adapters in fp32, which are the only trained weights; unchanged if `use_peft` is off. If
    the model was loaded with an adapter (`load_model`), that adapter is trained further.

    LoRA (Hu et al. 2021, section 4.1): W x + (lora_alpha / r) B A x. rsLoRA (Kalajdzievski 2023): lora_alpha / sqrt(r).
    DoRA (Liu et al. 2024, equation 5): the columns' norms train beside their directions. PiSSA (Meng et al. 2024,
    section 3): A and B begin as W's first singular directions and W as the remainder, so the model without adapters is
    not the original one; an adapter of twice the rank is saved that fits the original.

    All weights of a new module (`load_model`), a head for instance, are trained and saved with the adapters, since its
    random weights could not be recreated.

    Args:
        new_tokens: ids whose embeddings are trained too, also in the output head; they are saved with the adapters.
        exclude: regular expression of the names of modules that get no adapters: of a part that the loss does not use.

    Raises:
        ValueError: a name in `lora_target_modules` matches no module (the message lists the linear layers), or the
            settings are impossible with sharded weights (ZeRO-3) or with the loaded adapter.
    """
    if not config.use_peft:
        return model
    if hasattr(model, "peft_config"):
        return trained_on(model, config, new_tokens)
    import peft

    check_targets(model, config.lora_target_modules)
    if new_tokens and (both := {name.rpartition(".")[2] for name in embeddings(model)} & {*config.lora_target_modules}):
        raise ValueError(
            f"lora_target_modules has {', '.join(sorted(both))}, but new tokens need all of these embeddings trained: "
            "remove it, or use a chat_template whose tokens the vocabulary has"
        )
    pissa = config.init_lora_weights.startswith("pissa")
    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        if pissa:
            raise ValueError("init_lora_weights=pissa needs unsharded weights: use ZeRO-2 instead of ZeRO-3")
        if new_tokens and not torch.cuda.is_available():
            raise ValueError(
                "with adapters, PEFT can train embeddings of new tokens under ZeRO-3 only on CUDA: use ZeRO-2, or a "
                "chat_template whose tokens the vocabulary has"
            )
    if (entries := getattr(config, "model_config", {})) and not getattr(model, "new_modules", None):
        logger.warning(
            "an adapter does not store model_config (%s): when it is loaded or merged, the base model's values apply",
            ", ".join(entries),
        )
    if config.load_in_4bit:
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    begin: Any = True if config.init_lora_weights == "default" else config.init_lora_weights
    adapters = peft.LoraConfig(
        task_type=task_type,
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules="all-linear" if config.lora_target_modules == ["all-linear"] else config.lora_target_modules,
        exclude_modules=exclude,
        use_dora=config.use_dora,
        use_rslora=config.use_rslora,
        init_lora_weights=begin,
        modules_to_save=getattr(model, "new_modules", None) or None,
        trainable_token_indices={name: list(new_tokens) for name in embeddings(model)} if new_tokens else None,
    )
    adapted: Any = reads_all(peft.get_peft_model(model, adapters, autocast_adapter_dtype=True))
    if new_tokens:  # the adapter has the new rows: the others need not be saved again
        adapted.save_pretrained = partial(adapted.save_pretrained, save_embedding_layers=False)
    if pissa:
        save_for_original(adapted)
    return adapted


SAME = {"lora_r": "r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout", "use_dora": "use_dora"}
SAME |= {"use_rslora": "use_rslora", "lora_target_modules": "target_modules"}  # our settings and PEFT's


def trained_on(model: Any, config: LoraConfig, new_tokens: Sequence[int]) -> Any:
    """A `PeftModel` whose adapter is trained further, without changes.

    Raises:
        ValueError: a setting differs from the adapter; the message suggests to merge it.
    """
    adapter, folder = model.active_peft_config, model.trained_from
    way_out = f"merge it with hftrain merge {folder} and train a new adapter on the merged model"
    for setting in fields(LoraConfig):
        wanted, theirs = getattr(config, setting.name), SAME.get(setting.name)
        if setting.name in ("use_peft", "load_in_4bit") or wanted == default_of(setting):
            continue
        current = getattr(adapter, theirs) if theirs else "its own initialization"
        if not theirs or (set(current) != set(wanted) if isinstance(wanted, list) else current != wanted):
            raise ValueError(
                f"{setting.name}={wanted}: the adapter in {folder} keeps {current} when it is trained further; remove "
                f"the setting, or {way_out}"
            )
    indices = adapter.trainable_token_indices or {}
    if set(new_tokens).difference(*(indices.values() if isinstance(indices, dict) else [indices])):
        raise ValueError(f"the adapter in {folder} does not train the new tokens: {way_out}")
    if indices:
        model.save_pretrained = partial(model.save_pretrained, save_embedding_layers=False)
    logger.warning("the adapter in %s is trained further: rank %d, alpha %d", folder, adapter.r, adapter.lora_alpha)
    return model


def check_targets(model: nn.Module, targets: Sequence[str]) -> None:
    names = [name for name, _ in model.named_modules()]
    unknown = [t for t in targets if t != "all-linear" and not any(n == t or n.endswith(f".{t}") for n in names)]
    if unknown:
        linear = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        raise ValueError(
            f"lora_target_modules {unknown} match no module; the linear layers are {', '.join(sorted(linear))}"
        )


def embeddings(model: PreTrainedModel) -> list[str]:
    """Names of the modules with a vector for each token: a single one if input and output are tied."""
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    if layers[1] is None or layers[0].weight is layers[1].weight:
        layers.pop()
    return [name for name, module in model.named_modules() if any(module is layer for layer in layers)]


def save_for_original(model: Any) -> None:
    """Makes `model.save_pretrained` write an adapter for the weights that the base model had before PiSSA.

    W + dW = (W - s B0 A0) + s B A, so dW = s [B, -B0] [A; A0] (peft, "Converting PiSSA to LoRA"), of rank 2r.
    """
    adapter = model.peft_config["default"]
    first = {name: value.detach().cpu().clone() for name, value in model.state_dict().items() if ".lora_" in name}
    plain = model.save_pretrained

    def save_pretrained(folder: str | Path, state_dict: dict[str, torch.Tensor] | None = None, **kwargs: Any) -> None:
        state_dict = dict(model.state_dict() if state_dict is None else state_dict)
        for name, start in first.items():
            is_b = ".lora_B." in name
            both = [state_dict[name].cpu(), (-start if is_b else start).to(state_dict[name].dtype)]
            state_dict[name] = torch.cat(both, dim=1 if is_b else 0)
        original = adapter.r, adapter.lora_alpha, adapter.init_lora_weights
        adapter.r *= 2
        adapter.lora_alpha *= 2**0.5 if adapter.use_rslora else 2  # the scale stays the same
        adapter.init_lora_weights = True
        try:
            plain(folder, state_dict=state_dict, **kwargs)
        finally:
            adapter.r, adapter.lora_alpha, adapter.init_lora_weights = original

    model.save_pretrained = save_pretrained


def load_adapted(
    folder: str | Path,
    auto_class: type[Any],
    base: Any = None,
    *,
    base_name: str | None = None,
    is_trainable: bool = False,
    trust_remote_code: bool = False,
    **kwargs: Any,
) -> Any:
    """The base model that the adapter in `folder` names, with as many embeddings as the tokenizer beside it has tokens,
    and the adapter on it (a `PeftModel`). `base_name` and `kwargs` are for `load_base`; `base`: a loaded base model.

    Raises:
        ValueError: the adapter does not fit the base model.
    """
    import peft
    from transformers import AutoTokenizer

    trust = {"trust_remote_code": trust_remote_code}
    model = load_base(folder, auto_class, base_name, **trust, **kwargs) if base is None else base
    if (Path(folder) / "tokenizer_config.json").is_file():
        tokens = len(AutoTokenizer.from_pretrained(folder, **trust))
        if tokens > (embedded_tokens(model) or tokens):
            model.resize_token_embeddings(tokens, mean_resizing=False)  # the adapter has the new embeddings
    try:
        with naming_damage(folder):
            return reads_all(peft.PeftModel.from_pretrained(model, str(folder), is_trainable=is_trainable))
    except RuntimeError as error:
        if "size mismatch" not in str(error):
            raise
        raise ValueError(f"the adapter in {folder} does not fit {model.name_or_path}: {error}") from error


def embedded_tokens(model: PreTrainedModel) -> int | None:
    """The size of the vocabulary of texts; None if the model has no table of it, like one that speaks in codes."""
    try:
        return getattr(model.get_input_embeddings(), "num_embeddings", None)
    except NotImplementedError:
        return None


def reads_all(adapted: Any) -> Any:
    """PEFT 0.21 accepts `token_type_ids` and `position_ids` for question answering but silently drops them; this makes
    such a model read everything that its base reads."""
    if adapted.active_peft_config.task_type == "QUESTION_ANS":
        # not a method: Accelerate would bind its function to another object
        adapted.forward = partial(adapted.base_model)
    return adapted


def load_base(
    folder: str | Path,
    auto_class: type[Any],
    base_name: str | None = None,
    *,
    trust_remote_code: bool = False,
    **kwargs: Any,
) -> Any:
    """The base model of the adapter in `folder`, with its `base_config`. `kwargs` are for `from_pretrained`."""
    import peft

    config, revision = base_config(folder, base_name, trust_remote_code=trust_remote_code)
    name = config.name_or_path
    kwargs |= {"config": config, "revision": revision, "trust_remote_code": trust_remote_code}
    own = peft.PeftConfig.from_pretrained(str(folder)).modules_to_save or ()
    brought = {*HEADS, *own}
    kwargs |= {"ignore_mismatched_sizes": bool(own)}  # the base may have a head for other classes
    verbosity = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()  # its warning on a head that the adapter has looks like an error
    try:
        with naming_damage(name, revision):
            model, loaded = auto_class.from_pretrained(name, output_loading_info=True, **kwargs)
    finally:
        hf_logging.set_verbosity(verbosity)

    def others(keys: Iterable[str]) -> list[str]:
        return [key for key in keys if not any(f".{module}." in f".{key}" for module in brought)]

    if wrong := others(key for key, *_ in loaded["mismatched_keys"]):
        raise ValueError(f"the weights in {name} do not have the sizes that {folder} needs: {', '.join(sorted(wrong))}")
    lacking = others(loaded["missing_keys"])
    if lacking:
        logger.warning("%s lacks these weights, which get random values: %s", name, ", ".join(sorted(lacking)))
    keep_layout(model)
    return model


def base_config(
    folder: str | Path, base_name: str | None = None, *, trust_remote_code: bool = False
) -> tuple[Any, str]:
    """The configuration for the base model of the adapter in `folder`, and its revision: the configuration beside the
    adapter, which has the labels, or else the base's own. Its `name_or_path` is the base's.

    Args:
        base_name: the base model, if it differs from the one that the adapter names.

    Raises:
        ValueError: the base model cannot be found, or needs its author's Python code without trust.
    """
    import peft
    from transformers import AutoConfig

    adapter = peft.PeftConfig.from_pretrained(str(folder))
    name = base_name or adapter.base_model_name_or_path
    revision = (adapter.revision if name == adapter.base_model_name_or_path else None) or "main"
    try:
        with refusing_code(name):
            base = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    except CodeRefused:
        raise
    except (OSError, ValueError) as error:
        cause = "" if Path(name).is_absolute() and not Path(name).exists() else f" ({str(error).splitlines()[0]})"
        if base_name:
            raise ValueError(f"the base model {name} (--base) was not found{cause}") from error
        raise ValueError(
            f"the adapter's base model {name} was not found: edit base_model_name_or_path in {Path(folder) / ADAPTER}, "
            f"or set --base PATH of merge, export, predict or chat{cause}"
        ) from error
    if not (Path(folder) / "config.json").is_file():
        return base, revision
    with refusing_code(folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    # The trained model may be in 4 bits, have new tokens or a shorter window; the base's weights have none of these.
    config.__dict__.pop("quantization_config", None)
    if hasattr(base, "max_source_positions"):
        config.max_source_positions = base.max_source_positions
    if hasattr(base.get_text_config(), "vocab_size"):  # one of images has none
        config.get_text_config().vocab_size = base.get_text_config().vocab_size
    config.name_or_path = base.name_or_path
    return config, revision


def check_kind(folder: Path, auto_class: type[Any]) -> None:
    """Raises `ValueError` if the adapter in `folder` is for another kind of model than `auto_class`."""
    import peft

    task = peft.PeftConfig.from_pretrained(str(folder)).task_type
    if KINDS.get(task, auto_class.__name__) != auto_class.__name__:
        raise ValueError(
            f"{folder} contains an adapter for {KINDS[task]}, but this recipe trains {auto_class.__name__}: merge it "
            f"(hftrain merge {folder}) and use {folder}-merged"
        )


def keep_layout(model: nn.Module) -> None:
    """Keeps the layout of 4-bit weights. On CPUs that multiply in bf16, bitsandbytes 0.50 repacks them at the first
    forward pass in evaluation for a kernel without gradients; training after that would be silently wrong."""
    module: Any
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def four_bits(dtype: str) -> Any:
    """nf4 with double quantization (QLoRA, Dettmers et al. 2023, section 3).

    Raises:
        ValueError: bitsandbytes is not installed.
    """
    from transformers import BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise ValueError("load_in_4bit needs the package bitsandbytes: pip install bitsandbytes")
    compute = torch.float32 if dtype == "float32" and not torch.cuda.is_available() else torch.bfloat16
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )
