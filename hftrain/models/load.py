"""Any model and its tokenizer: from the Hub, from a folder, or new; whole, quantized, or with adapters to train."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, overload

import torch
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils import logging as hf_logging

from hftrain.config import FineTuneConfig, ModelConfig
from hftrain.data.files import ADAPTER
from hftrain.distributed import draw
from hftrain.models.adapters import add_adapters as add_adapters
from hftrain.models.adapters import base_config, check_kind, four_bits, keep_layout, load_adapted
from hftrain.models.trust import refusing_code
from hftrain.models.weights import naming_damage

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "auto": "auto"}


def unknown_key(given: Iterable[str], known: Iterable[str], what: str) -> str | None:
    """What to say of the first of `given` that is not `known`, with the nearest name; None if all are."""
    known = sorted(known)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            return f"{what} has no {name!r}; " + (
                f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
            )
    return None


@overload
def load_tokenizer(config: FineTuneConfig, **kwargs: Any) -> PreTrainedTokenizerBase: ...
@overload
def load_tokenizer(config: ModelConfig, **kwargs: Any) -> PreTrainedTokenizerBase | None: ...
def load_tokenizer(config: ModelConfig, **kwargs: Any) -> PreTrainedTokenizerBase | None:
    """The tokenizer that `config` names or the model brings along; None for a new model without one.

    Raises:
        ValueError: it cannot be loaded.
    """
    name = where(config.tokenizer_name_or_path or config.model_name_or_path)
    if name is None:
        return None
    if (folder := adapter_in(config)) and name == str(folder) and not (folder / "tokenizer_config.json").is_file():
        name = base_config(folder, trust_remote_code=config.trust_remote_code)[0].name_or_path
    with refusing_code(name):
        try:
            return AutoTokenizer.from_pretrained(
                name, revision=config.model_revision, trust_remote_code=config.trust_remote_code, **kwargs
            )
        except (OSError, ValueError) as error:
            key = "tokenizer_name_or_path" if config.tokenizer_name_or_path else "model_name_or_path"
            raise ValueError(not_to_be_had(key, name, error)) from error


def where(name: str | None) -> str | None:
    """The name for `from_pretrained`: for a GGUF file, the folder with what was made of it."""
    if name is None or not name.endswith(".gguf"):
        return name
    from hftrain.models.gguf import folder_of

    return str(folder_of(Path(name)))


def adapter_in(config: ModelConfig) -> Path | None:
    """The folder `model_name_or_path`, where it holds an adapter.

    Raises:
        ValueError: it does, and `use_peft` is off.
    """
    folder = Path(config.model_name_or_path or "")
    if not (folder / ADAPTER).is_file():
        return None
    if not getattr(config, "use_peft", False):
        raise ValueError(
            f"model_name_or_path {folder} holds an adapter: set use_peft to train it on, or make a whole model of it "
            f"(hftrain merge {folder}) and name {folder}-merged"
        )
    return folder


def not_to_be_had(key: str, name: str, error: Exception) -> str:
    """What to say of a name that transformers could not load."""
    where = (
        "cannot be loaded from this folder"
        if Path(name).is_dir()
        else "is not a local folder and could not be downloaded from the Hub"
    )
    return f"{key} {name!r} {where}: {error}"


def load_model_config(config: ModelConfig) -> PreTrainedConfig:
    """The configuration of the pretrained model, with `config.model_config` written over it.

    Raises:
        ValueError: an unknown model; an entry of `model_config` that it does not know, with the nearest it does.
    """
    name = where(config.model_name_or_path)
    assert name is not None
    model_config: PreTrainedConfig
    if folder := adapter_in(config):
        model_config = base_config(folder, trust_remote_code=config.trust_remote_code)[0]
        write_over(model_config, config.model_config)
        return model_config
    with refusing_code(name):
        try:
            model_config = AutoConfig.from_pretrained(
                name, revision=config.model_revision, trust_remote_code=config.trust_remote_code
            )
        except (OSError, ValueError) as error:
            raise ValueError(not_to_be_had("model_name_or_path", name, error)) from error
    write_over(model_config, config.model_config)
    return model_config


def load_model(
    config: ModelConfig,
    auto_class: type[Any],
    *,
    new: Callable[[], PreTrainedConfig] | None = None,
    settings: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """The pretrained model `config.model_name_or_path`, with `config.model_config` written over its configuration.

    Args:
        auto_class: one of transformers' Auto classes, `AutoModelForSeq2SeqLM` for instance.
        new: gives the shape of a model with random weights, if `config` names none.
        settings: attributes of the model's configuration that the task has to say, its labels for instance; with them a
            head of other sizes than the saved one is made anew.
        kwargs: for `from_pretrained`.

    Returns:
        The model; its attribute `new_modules` names those of its modules whose weights were not in the folder. Of a
        folder with an adapter, its base model with the adapter in place (a `PeftModel`).

    Raises:
        ValueError: an entry of `model_config` that this model does not know, with the nearest it does; an unknown
            model.
    """
    if config.attn_implementation:
        kwargs["attn_implementation"] = config.attn_implementation
    name, dtype = where(config.model_name_or_path), DTYPES[config.dtype]
    if name is None:
        assert new is not None
        model_config = new()
        for key, value in (settings or {}).items():
            setattr(model_config, key, value)
        kwargs["dtype"] = torch.float32 if dtype == "auto" else dtype
        return draw(lambda: auto_class.from_config(model_config, **kwargs))
    model_config, revision = load_model_config(config), config.model_revision
    if folder := adapter_in(config):
        check_kind(folder, auto_class)
        name = model_config.name_or_path
        revision = base_config(folder, trust_remote_code=config.trust_remote_code)[1]
    for key, value in (settings or {}).items():
        setattr(model_config, key, value)
    if getattr(config, "load_in_4bit", False):
        kwargs["quantization_config"] = four_bits(config.dtype)
    verbosity = hf_logging.get_verbosity()
    if settings is not None:
        hf_logging.set_verbosity_error()  # its table of a new head's weights looks like a fault; it is said below
    try:
        with naming_damage(str(name), revision):
            model, told = auto_class.from_pretrained(
                name,
                config=model_config,
                dtype=dtype,
                revision=revision,
                trust_remote_code=config.trust_remote_code,
                ignore_mismatched_sizes=settings is not None,
                output_loading_info=True,
                **kwargs,
            )
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        kind = model_config.model_type
        raise ValueError(f"model_name_or_path {name!r} is a {kind}: not among {auto_class.__name__}") from error
    finally:
        hf_logging.set_verbosity(verbosity)
    keep_layout(model)
    drawn = {*told["missing_keys"], *(key for key, *_ in told["mismatched_keys"])}
    for key, saved, wanted in told["mismatched_keys"]:
        if wanted[0] != model.config.num_labels:
            raise ValueError(f"model_config does not fit the weights: {key} is {list(saved)}, not {list(wanted)}")
    trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    if folder:
        return with_adapter(model, folder, auto_class, config.trust_remote_code)
    model.new_modules = sorted({key.rpartition(".")[0] for key in drawn & trained})
    if settings is not None and model.new_modules:
        logger.warning("new, with random weights: %s", ", ".join(model.new_modules))
    return model


def with_adapter(model: nn.Module, folder: Path, auto_class: type[Any], trust_remote_code: bool) -> Any:
    """The base model with the adapter of `folder` in place, as `add_adapters` wants it."""
    if getattr(model, "is_loaded_in_4bit", False):
        import peft

        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    adapted = load_adapted(folder, auto_class, model, is_trainable=True, trust_remote_code=trust_remote_code)
    adapted.trained_from = folder
    return adapted


def write_over(model_config: PreTrainedConfig, entries: dict[str, Any]) -> None:
    """Sets `entries`, of which each must be there already.

    Raises:
        ValueError: one is not.
    """
    problem = unknown_key(entries, model_config.to_dict(), f"the configuration of {model_config.model_type}")
    if problem:
        raise ValueError(f"model_config: {problem}")
    for name, value in entries.items():
        setattr(model_config, name, value)
