"""The configuration of a new model of any architecture: what is left open is small and follows from what is given."""

import difflib
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from hftrain.models.configuration import TransformerConfig
from hftrain.models.load import unknown_key

CUSTOM = "transformer"  # our own


def model_problem(name: str, entries: dict[str, Any], auto_class: Any) -> tuple[str, str] | None:
    """The setting that is wrong and why, if no `new_shape` can be made of `name` and `entries`; None if one can.

    Args:
        auto_class: one of transformers' Auto classes, which is to make the model.
    """
    kinds = [CUSTOM, *auto_class._model_mapping._model_mapping]
    if name not in kinds:
        near = difflib.get_close_matches(name, kinds, n=1)
        hint = f"did you mean {near[0]}?" if near else f"{CUSTOM} is our own"
        return "model", f"{name!r} is none that {auto_class.__name__} can make; {hint}"
    for entry in entries:
        if problem := unknown_key([entry], known_entries(name), f"the configuration of {name}"):
            return f"model_config.{entry}", problem
    return None


def known_entries(name: str) -> set[str]:
    """Entries of `model_config` that a new model of this architecture takes."""
    if name == CUSTOM:
        return {*TransformerConfig.shape_fields(), "vocab_size", "num_hidden_layers"}  # the last: of each stack
    config = AutoConfig.for_model(name)
    return {*config.to_dict(), *config.attribute_map}


def new_shape(
    name: str, entries: dict[str, Any], vocabulary: dict[str, Any], max_length: int, form: dict[str, int] | None = None
) -> PreTrainedConfig:
    """The configuration of a new model.

    What `entries` leave open follows from them: 256 wide, 6 layers, heads of 64, an inner width of 4 times the width
    (8/3 with silu, which is gated, in multiples of 64), positions for `max_length` tokens.

    Args:
        name: `transformer`, or a model type of transformers.
        entries: what is to be otherwise, by any name that the configuration knows (`known_entries`).
        vocabulary: its size and the special tokens' ids (`hftrain.text.vocabulary`).
        form: entries of our own Transformer that make it encoder-only or decoder-only.

    Raises:
        ValueError: a value that transformers or our own configuration refuses.
    """
    plain = TransformerConfig() if name == CUSTOM else AutoConfig.for_model(name)
    aliases = {special: common for common, special in plain.attribute_map.items()}
    given = {aliases.get(key, key): value for key, value in entries.items()}
    width, depth = given.get("hidden_size", 256), given.get("num_hidden_layers", 6)
    if name == CUSTOM:
        given.pop("num_hidden_layers", None)
    heads = given.get("num_attention_heads", max(1, width // 64))
    inner = -(-width * 8 // 3 // 64) * 64 if getattr(plain, "hidden_act", None) == "silu" else 4 * width
    small = {"hidden_size": width, "num_hidden_layers": depth, "max_position_embeddings": max_length}
    small |= dict.fromkeys(("encoder_layers", "decoder_layers", "num_encoder_layers", "num_decoder_layers"), depth)
    small |= dict.fromkeys(("num_attention_heads", "num_key_value_heads", "decoder_attention_heads"), heads)
    small |= dict.fromkeys(("intermediate_size", "d_ff", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim"), inner)
    small |= {"head_dim": width // heads} | (form or {} if name == CUSTOM else {})
    known = known_entries(name) - ({"num_hidden_layers"} if name == CUSTOM else set())
    shape = vocabulary | {key: value for key, value in small.items() if key in known}
    if plain.is_encoder_decoder:
        shape["decoder_start_token_id"] = vocabulary["pad_token_id"]  # as in T5
    try:
        return type(plain)(**shape | given)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"model_config: {error}") from error
