"""Any model and its tokenizer: from the Hub, from a folder, or new; complete, quantized, or with adapters."""

from __future__ import annotations

import difflib
import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, overload

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils import logging as hf_logging

from hftrain.config import FineTuneConfig, ModelConfig
from hftrain.config.errors import NO_INTERNET
from hftrain.config.schema import Usual
from hftrain.data.files import ADAPTER
from hftrain.distributed import FOUR_BITS, draw, load_once, shards_weights
from hftrain.models import blocks as blocks  # makes its attention known to transformers
from hftrain.models.adapters import HEADS, base_config, check_kind, four_bits, keep_layout, load_adapted
from hftrain.models.adapters import add_adapters as add_adapters
from hftrain.models.fit import longest_text
from hftrain.models.shapes import pack, wants_shapes
from hftrain.models.trust import refusing_code
from hftrain.models.weights import naming_damage

logger = logging.getLogger(__name__)

SAME_ENCODER = {"vit_mae": "vit"}  # a kind of model -> another with the same encoder
STRIDE = "doc_stride"
SPARE = 8  # more rows of a position table than any kind of model leaves unused
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "auto": "auto"}


def unknown_key(names: Iterable[str], known_names: Iterable[str], what: str) -> str | None:
    """A message on the first of `names` that is not in `known_names`, with a similar name; None if all are known."""
    known_names = sorted(known_names)
    for name in names:
        if name not in known_names:
            near = difflib.get_close_matches(name, known_names, n=1)
            return f"{what} has no {name!r}; " + (
                f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known_names)}"
            )
    return None


@overload
def load_tokenizer(config: FineTuneConfig, **kwargs: Any) -> PreTrainedTokenizerBase: ...
@overload
def load_tokenizer(config: ModelConfig, **kwargs: Any) -> PreTrainedTokenizerBase | None: ...
def load_tokenizer(config: ModelConfig, **kwargs: Any) -> PreTrainedTokenizerBase | None:
    """The tokenizer of `config` or of the model; None for a new model without one. Default lengths are lowered
    to what the two read (`lower_lengths`).

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
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                name, revision=config.model_revision, trust_remote_code=config.trust_remote_code, **kwargs
            )
        except (OSError, ValueError) as error:
            key = "tokenizer_name_or_path" if config.tokenizer_name_or_path else "model_name_or_path"
            raise ValueError(cannot_load(key, name, error)) from error
    if config.model_name_or_path is not None:
        lower_lengths(config, tokenizer)
        lower_stride(config)
    return tokenizer


def lower_lengths(config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Lowers the default lengths of `config` to what the model and its tokenizer read, and logs it."""
    usual = {name: value for name, value in vars(config).items() if isinstance(value, Usual)}
    longest = max((value for name, value in usual.items() if name != STRIDE), default=0)
    if not longest:
        return
    model_config = load_model_config(config)
    positions = getattr(model_config, "max_position_embeddings", None) or sys.maxsize
    if min(positions - SPARE, tokenizer.model_max_length) >= longest:
        return
    model = without_weights(AutoModel, model_config, trust_remote_code=config.trust_remote_code)
    most = longest_text(model, tokenizer)
    for name in [name for name, value in usual.items() if value > most and name != STRIDE]:
        logger.warning("%s is %d, not %d: %s reads no more", name, most, usual[name], config.model_name_or_path)
        setattr(config, name, most)


def lower_stride(config: ModelConfig) -> None:
    """Lowers the default stride of windows as far as the windows are shorter than by default."""
    if isinstance(getattr(config, STRIDE, None), Usual):
        usual, length = type(config).max_seq_length, config.max_seq_length  # type: ignore[attr-defined]
        setattr(config, STRIDE, Usual(getattr(type(config), STRIDE) * min(usual, length) // usual))


def where(name: str | None) -> str | None:
    """The name for `from_pretrained`: for a GGUF file, the folder of the converted model."""
    if name is None or not name.endswith(".gguf"):
        return name
    from hftrain.models.gguf import folder_of

    return str(folder_of(Path(name)))


def adapter_in(config: ModelConfig) -> Path | None:
    """The folder `model_name_or_path` if it contains an adapter.

    Raises:
        ValueError: it does, but `use_peft` is off.
    """
    folder = Path(config.model_name_or_path or "")
    if not (folder / ADAPTER).is_file():
        return None
    if not getattr(config, "use_peft", False):
        raise ValueError(
            f"model_name_or_path {folder} contains an adapter: set use_peft to train it further, or merge it "
            f"(hftrain merge {folder}) and use {folder}-merged"
        )
    return folder


def cannot_load(key: str, name: str, error: Exception) -> str:
    """A message on a name that transformers could not load."""
    where = (
        "cannot be loaded from this folder"
        if Path(name).is_dir()
        else f"is not a local folder and could not be downloaded from the Hub{NO_INTERNET}"
    )
    return f"{key} {name!r} {where}: {error}"


def load_fast_tokenizer(config: FineTuneConfig, use: str, **kwargs: Any) -> PreTrainedTokenizerBase:
    """`load_tokenizer`, for a task that maps tokens to places in the text; `use` names the task.

    Raises:
        ValueError: it cannot be loaded, or is not a fast tokenizer.
    """
    tokenizer = load_tokenizer(config, **kwargs)
    if not tokenizer.is_fast:
        raise ValueError(f"{type(tokenizer).__name__} is not a fast tokenizer: it cannot map {use}")
    return tokenizer


def load_model_config(config: ModelConfig, auto_class: type[Any] | None = None) -> PreTrainedConfig:
    """The configuration of the pretrained model, overwritten with `config.model_config`.

    Args:
        auto_class: the one that will load the model; a kind that it does not support becomes one with the same encoder.

    Raises:
        ValueError: the model is unknown, or lacks an entry of `model_config` (the message has a similar one).
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
            raise ValueError(cannot_load("model_name_or_path", name, error)) from error
    if auto_class is not None and model_config.model_type in SAME_ENCODER:
        model_config = as_read_by(model_config, auto_class)
    write_over(model_config, config.model_config)
    return model_config


def as_read_by(model_config: PreTrainedConfig, auto_class: type[Any]) -> PreTrainedConfig:
    """The configuration, or, if the class does not support its kind, that of the kind with the same encoder."""
    if type(model_config) in auto_class._model_mapping:
        return model_config
    other = AutoConfig.for_model(SAME_ENCODER[model_config.model_type])
    shared = other.to_dict().keys() - {"model_type", "architectures"}
    return type(other)(**{name: value for name, value in model_config.to_dict().items() if name in shared})


def load_model(
    config: ModelConfig,
    auto_class: type[Any],
    *,
    new: Callable[[], PreTrainedConfig] | None = None,
    settings: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """The pretrained model `config.model_name_or_path`, its configuration overwritten with `config.model_config`.

    Args:
        auto_class: one of transformers' Auto classes, `AutoModelForSeq2SeqLM` for instance.
        new: returns the shape of a model with random weights, if `config` has no pretrained one.
        settings: attributes of the model's configuration that the task decides, for instance its labels; if they change
            the size of the saved head, a new head is made.
        kwargs: for `from_pretrained`.

    Returns:
        The model; its attribute `new_modules` lists its modules without weights in the folder. For a folder with an
        adapter, the base model with the adapter (a `PeftModel`).

    Raises:
        ValueError: the model is unknown, or lacks an entry of `model_config` (the message has a similar one).
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
        if wants_shapes():
            return without_weights(auto_class, model_config, **kwargs)
        make = partial(auto_class.from_config, model_config, **kwargs)
        return draw(make)
    model_config, revision = load_model_config(config, auto_class), config.model_revision
    if folder := adapter_in(config):
        check_kind(folder, auto_class)
        name = model_config.name_or_path
        revision = base_config(folder, trust_remote_code=config.trust_remote_code)[1]
    for key, value in (settings or {}).items():
        setattr(model_config, key, value)
    if wants_shapes():
        if folder:
            raise ValueError(f"model_name_or_path {folder} contains an adapter: plan with its base model, {name}")
        kwargs["dtype"] = (model_config.dtype or torch.float32) if dtype == "auto" else dtype
        model = without_weights(auto_class, model_config, **kwargs)
        model.new_modules = (
            [part for part, _ in model.named_children() if part in HEADS] if settings is not None else []
        )
        if getattr(config, "load_in_4bit", False):
            pack(model)
        return model
    four = getattr(config, "load_in_4bit", False)
    if shards_weights() and (four or getattr(model_config, "quantization_config", None)):
        raise ValueError(FOUR_BITS)
    if four:
        kwargs["quantization_config"] = four_bits(config.dtype)

    def read() -> Any:
        return _read(config, auto_class, name, model_config, revision, heads=settings is not None, **kwargs)

    trust = {"trust_remote_code": config.trust_remote_code}
    model = load_once(read, partial(without_weights, auto_class, model_config, **trust, **kwargs))
    return with_adapter(model, folder, auto_class, config.trust_remote_code) if folder else model


def _read(
    config: ModelConfig,
    auto_class: type[Any],
    name: str | None,
    model_config: PreTrainedConfig,
    revision: str | None,
    *,
    heads: bool,
    **kwargs: Any,
) -> Any:
    """The weights of `name`; with `heads`, a head whose size differs from the saved one is new."""
    verbosity = hf_logging.get_verbosity()
    if heads:
        hf_logging.set_verbosity_error()  # its warning on a new head looks like an error; we log it below
    try:
        with naming_damage(str(name), revision):
            model, loading = auto_class.from_pretrained(
                name,
                config=model_config,
                dtype=DTYPES[config.dtype],
                revision=revision,
                trust_remote_code=config.trust_remote_code,
                ignore_mismatched_sizes=heads,
                output_loading_info=True,
                **kwargs,
            )
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        kind = model_config.model_type
        raise ValueError(
            f"model_name_or_path {name!r} is a {kind}, which {auto_class.__name__} does not support"
        ) from error
    finally:
        hf_logging.set_verbosity(verbosity)
    keep_layout(model)
    drawn = {*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])}
    for key, saved, wanted in loading["mismatched_keys"]:
        if wanted[0] not in (model.config.num_labels, model.config.num_labels + 1):  # with "no object"
            raise ValueError(f"model_config does not fit the weights: {key} is {list(saved)}, not {list(wanted)}")
    trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    model.new_modules = sorted({key.rpartition(".")[0] for key in drawn & trained})
    if heads and model.new_modules:
        logger.warning("new, with random weights: %s", ", ".join(model.new_modules))
    return model


def without_weights(auto_class: type[Any], model_config: PreTrainedConfig, **kwargs: Any) -> Any:
    """A model of this configuration on the meta device."""
    with torch.random.fork_rng(), torch.device("meta"):
        return auto_class.from_config(model_config, **kwargs)


def with_adapter(model: nn.Module, folder: Path, auto_class: type[Any], trust_remote_code: bool) -> Any:
    """The base model with the adapter of `folder`, as `add_adapters` expects it."""
    if getattr(model, "is_loaded_in_4bit", False):
        import peft

        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    adapted = load_adapted(folder, auto_class, model, is_trainable=True, trust_remote_code=trust_remote_code)
    adapted.trained_from = folder
    return adapted


def write_over(model_config: PreTrainedConfig, entries: dict[str, Any]) -> None:
    """Overwrites existing attributes with `entries`.

    Raises:
        ValueError: the configuration lacks an entry.
    """
    problem = unknown_key(entries, model_config.to_dict(), f"the configuration of {model_config.model_type}")
    if problem:
        raise ValueError(f"model_config: {problem}")
    for name, value in entries.items():
        setattr(model_config, name, value)
