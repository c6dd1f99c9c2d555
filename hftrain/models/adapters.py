"""Adapters: a small addition to a model's weights that is trained in place of the weights."""

from __future__ import annotations

import logging
from collections.abc import Sequence
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
HEADS = ("classifier", "score", "qa_outputs")  # PEFT saves these with an adapter of a task that has such a head


def add_adapters(
    model: PreTrainedModel, config: LoraConfig, task_type: str | None, *, new_tokens: Sequence[int] = ()
) -> Any:
    """The model with low-rank adapters, which alone train, in fp32; as it is if `use_peft` is off. An adapter that the
    model was loaded with (`load_model`) trains on.

    LoRA (Hu et al. 2021, section 4.1): W x + (lora_alpha / r) B A x. rsLoRA (Kalajdzievski 2023): lora_alpha / sqrt(r).
    DoRA (Liu et al. 2024, equation 5): the columns' norms train beside their directions. PiSSA (Meng et al. 2024,
    section 3): A and B begin as W's first singular directions and W as the rest, so that the model without adapters is
    not the one it was; what is saved is an adapter of twice the rank for that one.

    A module that is new (`load_model`), a head for instance, trains whole and is saved with the adapters: nobody could
    draw the same random weights again.

    Args:
        new_tokens: ids whose embeddings train too, in the output head as well; they are saved with the adapters.

    Raises:
        ValueError: a name in `lora_target_modules` matches no module; the names of the linear layers are listed. What
            is asked for cannot be done with weights in pieces (ZeRO-3), or not with the adapter that is there.
    """
    if not config.use_peft:
        return model
    if hasattr(model, "peft_config"):
        return trained_on(model, config, new_tokens)
    import peft

    check_targets(model, config.lora_target_modules)
    if new_tokens and (both := {name.rpartition(".")[2] for name in embeddings(model)} & {*config.lora_target_modules}):
        raise ValueError(
            f"lora_target_modules names {', '.join(sorted(both))}, where the embeddings of new tokens train whole: "
            "leave it out, or use a chat_template whose tokens the vocabulary has"
        )
    pissa = config.init_lora_weights.startswith("pissa")
    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        if pissa:
            raise ValueError("init_lora_weights=pissa needs whole weights, which ZeRO-3 does not keep: use ZeRO-2")
        if new_tokens and not torch.cuda.is_available():
            raise ValueError(
                "beside adapters, PEFT trains embeddings of new tokens under ZeRO-3 on CUDA only: use ZeRO-2, or a "
                "chat_template whose tokens the vocabulary has"
            )
    if (entries := getattr(config, "model_config", {})) and not getattr(model, "new_modules", None):
        logger.warning(
            "an adapter does not hold model_config (%s): loading or merging it gives the base model's own",
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
        use_dora=config.use_dora,
        use_rslora=config.use_rslora,
        init_lora_weights=begin,
        modules_to_save=getattr(model, "new_modules", None) or None,
        trainable_token_indices={name: list(new_tokens) for name in embeddings(model)} if new_tokens else None,
    )
    adapted: Any = reads_all(peft.get_peft_model(model, adapters, autocast_adapter_dtype=True))
    if new_tokens:  # the new rows are with the adapters: the others need not be saved again
        adapted.save_pretrained = partial(adapted.save_pretrained, save_embedding_layers=False)
    if pissa:
        save_for_original(adapted)
    return adapted


SAME = {"lora_r": "r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout", "use_dora": "use_dora"}
SAME |= {"use_rslora": "use_rslora", "lora_target_modules": "target_modules"}  # our settings and PEFT's


def trained_on(model: Any, config: LoraConfig, new_tokens: Sequence[int]) -> Any:
    """A `PeftModel` that goes on training, as it is.

    Raises:
        ValueError: what is asked for is not what the adapter is; merged, it can get another.
    """
    adapter, folder = model.active_peft_config, model.trained_from
    way_out = f"hftrain merge {folder} makes a whole model of it, which any adapter can be trained on"
    for setting in fields(LoraConfig):
        wanted, theirs = getattr(config, setting.name), SAME.get(setting.name)
        if setting.name in ("use_peft", "load_in_4bit") or wanted == default_of(setting):
            continue
        known = getattr(adapter, theirs) if theirs else "what it begins with"
        if not theirs or (set(known) != set(wanted) if isinstance(wanted, list) else known != wanted):
            raise ValueError(
                f"{setting.name}={wanted}: the adapter in {folder} trains on as it is, with {known}; leave the setting "
                f"out, or {way_out}"
            )
    indices = adapter.trainable_token_indices or {}
    if set(new_tokens).difference(*(indices.values() if isinstance(indices, dict) else [indices])):
        raise ValueError(f"the adapter in {folder} does not train the new tokens: {way_out}")
    if indices:
        model.save_pretrained = partial(model.save_pretrained, save_embedding_layers=False)
    logger.warning("the adapter in %s trains on: rank %d, alpha %d", folder, adapter.r, adapter.lora_alpha)
    return model


def check_targets(model: nn.Module, targets: Sequence[str]) -> None:
    names = [name for name, _ in model.named_modules()]
    unknown = [t for t in targets if t != "all-linear" and not any(n == t or n.endswith(f".{t}") for n in names)]
    if unknown:
        linear = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        raise ValueError(
            f"lora_target_modules {unknown} match no module; linear layers here: {', '.join(sorted(linear))}"
        )


def embeddings(model: PreTrainedModel) -> list[str]:
    """Names of the modules that hold a vector for each token: one where input and output are tied."""
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    if layers[1] is None or layers[0].weight is layers[1].weight:
        layers.pop()
    return [name for name, module in model.named_modules() if any(module is layer for layer in layers)]


def save_for_original(model: Any) -> None:
    """Makes `model.save_pretrained` write what adds up with the weights that the base model had before PiSSA.

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
        kept = adapter.r, adapter.lora_alpha, adapter.init_lora_weights
        adapter.r *= 2
        adapter.lora_alpha *= 2**0.5 if adapter.use_rslora else 2  # the scale stays what it was
        adapter.init_lora_weights = True
        try:
            plain(folder, state_dict=state_dict, **kwargs)
        finally:
            adapter.r, adapter.lora_alpha, adapter.init_lora_weights = kept

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
    and the adapter on it (a `PeftModel`). `base_name` and `kwargs` are for `load_base`; `base`: one loaded already.

    Raises:
        ValueError: the adapter does not fit the base model.
    """
    import peft
    from transformers import AutoTokenizer

    trust = {"trust_remote_code": trust_remote_code}
    model = load_base(folder, auto_class, base_name, **trust, **kwargs) if base is None else base
    if (Path(folder) / "tokenizer_config.json").is_file():
        tokens = len(AutoTokenizer.from_pretrained(folder, **trust))
        if tokens > model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(tokens, mean_resizing=False)  # the adapter brings the new ones
    try:
        with naming_damage(folder):
            return reads_all(peft.PeftModel.from_pretrained(model, str(folder), is_trainable=is_trainable))
    except RuntimeError as error:
        if "size mismatch" not in str(error):
            raise
        raise ValueError(f"the adapter in {folder} does not fit {model.name_or_path}: {error}") from error


def reads_all(adapted: Any) -> Any:
    """PEFT 0.21 takes `token_type_ids` and `position_ids` for question answering and drops them without a word; here
    such a model reads what its base reads."""
    if adapted.active_peft_config.task_type == "QUESTION_ANS":
        adapted.forward = partial(adapted.base_model)  # no method: Accelerate would bind its function to another
    return adapted


def load_base(
    folder: str | Path,
    auto_class: type[Any],
    base_name: str | None = None,
    *,
    trust_remote_code: bool = False,
    **kwargs: Any,
) -> Any:
    """The base model of the adapter in `folder`, with what `base_config` says. `kwargs` are for `from_pretrained`."""
    import peft

    config, revision = base_config(folder, base_name, trust_remote_code=trust_remote_code)
    name = config.name_or_path
    kwargs |= {"config": config, "revision": revision, "trust_remote_code": trust_remote_code}
    verbosity = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()  # its table of a head that the adapter brings looks like a fault
    try:
        with naming_damage(name, revision):
            model, loaded = auto_class.from_pretrained(name, output_loading_info=True, **kwargs)
    finally:
        hf_logging.set_verbosity(verbosity)
    brought = {*HEADS, *(peft.PeftConfig.from_pretrained(str(folder)).modules_to_save or ())}
    lacking = [key for key in loaded["missing_keys"] if not any(f".{module}." in f".{key}" for module in brought)]
    if lacking:
        logger.warning("%s lacks these weights, which are random now: %s", name, ", ".join(sorted(lacking)))
    keep_layout(model)
    return model


def base_config(
    folder: str | Path, base_name: str | None = None, *, trust_remote_code: bool = False
) -> tuple[Any, str]:
    """The configuration for the base model of the adapter in `folder`, and its revision. It is the one beside the
    adapter, which knows labels, or the base's own; its `name_or_path` is the base's.

    Args:
        base_name: the base model, where it is not what the adapter names.

    Raises:
        ValueError: the base model is not there, or needs its author's Python code and is not trusted.
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
            raise ValueError(f"the base model {name} (--base) is not here{cause}") from error
        raise ValueError(
            f"the adapter's base model {name} is not here: edit base_model_name_or_path in {Path(folder) / ADAPTER}, "
            f"or give merge, export, predict or chat --base PATH{cause}"
        ) from error
    if not (Path(folder) / "config.json").is_file():
        return base, revision
    with refusing_code(folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    # Of the model that was trained: perhaps in 4 bits, perhaps with new tokens. The base's weights have neither.
    config.__dict__.pop("quantization_config", None)
    config.get_text_config().vocab_size = base.get_text_config().vocab_size
    config.name_or_path = base.name_or_path
    return config, revision


def check_kind(folder: Path, auto_class: type[Any]) -> None:
    """Raises `ValueError` where the adapter in `folder` is of another kind of model than `auto_class` makes."""
    import peft

    task = peft.PeftConfig.from_pretrained(str(folder)).task_type
    if KINDS.get(task, auto_class.__name__) != auto_class.__name__:
        raise ValueError(
            f"{folder} holds an adapter for {KINDS[task]}, and this recipe trains {auto_class.__name__}: make a whole "
            f"model of it (hftrain merge {folder}) and name {folder}-merged"
        )


def keep_layout(model: nn.Module) -> None:
    """Of 4-bit layers: bitsandbytes 0.50 repacks their weights at the first forward pass in evaluation, on CPUs that
    multiply in bf16, for a kernel that has no gradient: training after that would be wrong without a word."""
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
