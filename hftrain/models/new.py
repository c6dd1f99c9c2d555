"""The configuration of a new model of any architecture; open settings get small values derived from the others."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import transformers
from transformers import AutoConfig, PreTrainedConfig

from hftrain.models.load import unknown_key
from hftrain.models.transformer.configuration import TransformerConfig

CUSTOM = "transformer"  # our own


@contextmanager
def naming_model_config() -> Iterator[None]:
    """Raises: ValueError, in place of the error of a configuration that refuses a value of `model_config`."""
    try:
        yield
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"model_config: {error}") from error


def model_problems(name: str, entries: Iterable[str], auto_class: str) -> Iterator[tuple[Sequence[str], str]]:
    """Settings with which `new_shape` of `name` and `entries` is impossible, with the reason, as `Config.checks`
    yields.

    Args:
        auto_class: the Auto class of transformers that will make the model.
    """
    kinds = [CUSTOM, *getattr(transformers, auto_class)._model_mapping._model_mapping]
    if name in kinds:
        what = "the custom Transformer" if name == CUSTOM else f"the configuration of {name}"
        yield from entry_problems(entries, known_entries(name), what)
    else:
        near = difflib.get_close_matches(name, kinds, n=1)
        hint = f"did you mean {near[0]}?" if near else f"{CUSTOM} is our own"
        yield ("model",), f"{auto_class} does not support {name!r}; {hint}"


def shape_problems(entries: Iterable[str]) -> Iterator[tuple[Sequence[str], str]]:
    """Entries of `model_config` that the custom Transformer lacks, with the reason."""
    yield from entry_problems(entries, TransformerConfig.shape_fields(), "the custom Transformer")


def entry_problems(entries: Iterable[str], known_names: set[str], what: str) -> Iterator[tuple[Sequence[str], str]]:
    for entry in entries:
        if problem := unknown_key([entry], known_names, what):
            yield (f"model_config.{entry}",), problem


def known_entries(name: str) -> set[str]:
    """Entries of `model_config` that a new model of this architecture accepts."""
    if name == CUSTOM:
        # num_hidden_layers counts the layers of each stack
        return {*TransformerConfig.shape_fields(), "vocab_size", "num_hidden_layers"}
    config = AutoConfig.for_model(name)
    return {*config.to_dict(), *config.attribute_map}


def new_shape(
    name: str, entries: dict[str, Any], vocabulary: dict[str, Any], max_length: int, form: dict[str, int] | None = None
) -> PreTrainedConfig:
    """The configuration of a new model.

    Settings missing in `entries` follow from the others: 256 wide, 6 layers, heads of 64, an inner width of 4 times
    the width (8/3 with silu, which is gated, in multiples of 64), positions for `max_length` tokens.

    Args:
        name: `transformer`, or a model type of transformers.
        entries: settings, by any name that the configuration knows (`known_entries`).
        vocabulary: its size and the special tokens' ids (`hftrain.text.vocabulary`).
        form: entries of our own Transformer that make it encoder-only or decoder-only.

    Raises:
        ValueError: transformers or our own configuration refuses a value.
    """
    plain = TransformerConfig() if name == CUSTOM else AutoConfig.for_model(name)
    aliases = {special: common for common, special in plain.attribute_map.items()}
    chosen = {aliases.get(key, key): value for key, value in entries.items()}
    width, depth = chosen.get("hidden_size", 256), chosen.get("num_hidden_layers", 6)
    if name == CUSTOM:
        chosen.pop("num_hidden_layers", None)
    heads = chosen.get("num_attention_heads", max(1, width // 64))
    inner = -(-width * 8 // 3 // 64) * 64 if getattr(plain, "hidden_act", None) == "silu" else 4 * width
    small = {"hidden_size": width, "num_hidden_layers": depth, "max_position_embeddings": max_length}
    small |= dict.fromkeys(("encoder_layers", "decoder_layers", "num_encoder_layers", "num_decoder_layers"), depth)
    small |= dict.fromkeys(("num_attention_heads", "num_key_value_heads", "decoder_attention_heads"), heads)
    small |= dict.fromkeys(("intermediate_size", "d_ff", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim"), inner)
    small |= {"head_dim": width // heads} | (form or {} if name == CUSTOM else {})
    accepted = known_entries(name) - ({"num_hidden_layers"} if name == CUSTOM else set())
    shape = vocabulary | {key: value for key, value in small.items() if key in accepted}
    if plain.is_encoder_decoder:
        shape["decoder_start_token_id"] = vocabulary["pad_token_id"]  # as in T5
    with naming_model_config():
        return type(plain)(**shape | chosen)
