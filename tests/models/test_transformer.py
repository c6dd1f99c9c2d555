"""The custom Transformer against other implementations with its weights, and against itself: cache, packing, saving."""

import copy
import json
import math
import os
import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
)

from hftrain.models import (
    TransformerConfig,
    TransformerForCausalLM,
    TransformerForConditionalGeneration,
    TransformerForMaskedLM,
    TransformerModel,
)
from hftrain.models.transformer.attention import SelfAttention

POSITIONS = ("sinusoidal", "learned", "shaw", "t5", "rotary")
LAYERS = {"encoder-decoder": (2, 2), "encoder-only": (2, 0), "decoder-only": (0, 2)}
MODELS = {
    "encoder-decoder": TransformerForConditionalGeneration,
    "encoder-only": TransformerForMaskedLM,
    "decoder-only": TransformerForCausalLM,
}
AUTO = {
    "encoder-decoder": AutoModelForSeq2SeqLM,
    "encoder-only": AutoModelForMaskedLM,
    "decoder-only": AutoModelForCausalLM,
}
PAD, BOS, EOS = 0, 1, 2
VOCAB = 61
MODERN = {"num_key_value_heads": 2, "norm_type": "rms_norm", "hidden_act": "swiglu", "use_bias": False}


def configure(form="encoder-decoder", **fields):
    encoder, decoder = LAYERS[form]
    tiny = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_encoder_layers": encoder,
        "num_decoder_layers": decoder,
        "num_attention_heads": 4,
        "max_relative_position": 3,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 12,
    }
    return TransformerConfig(**(tiny | fields))


def build(form="encoder-decoder", seed=0, **fields):
    """A model in evaluation mode whose every parameter is random: biases and norms too, so that none goes untested."""
    torch.manual_seed(seed)
    model = MODELS[form](configure(form, **fields)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            if "relative" in name:
                parameter.add_(torch.randn_like(parameter))
    return model


def tokens(*shape, seed=1):
    return torch.randint(3, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def inputs(form, batch=3, source=7, target=6, seed=1):
    if form != "encoder-decoder":
        return {"input_ids": tokens(batch, source, seed=seed)}
    return {
        "input_ids": tokens(batch, source, seed=seed),
        "decoder_input_ids": tokens(batch, target, seed=seed + 1),
    }


def right_padding(*lengths, width):
    return (torch.arange(width) < torch.tensor(lengths)[:, None]).long()


# --- saving --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", POSITIONS)
@pytest.mark.parametrize("form", LAYERS)
def test_round_trip_is_bit_equal(form, kind, tmp_path):
    model = build(form, position_embedding_type=kind, **MODERN)
    model.save_pretrained(tmp_path)
    loaded, report = AUTO[form].from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is MODELS[form]
    assert not any(report[part] for part in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    state = loaded.state_dict()
    assert all(torch.equal(state[name], weight) for name, weight in model.state_dict().items())
    batch = inputs(form)
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, model(**batch).logits)
        bare = AutoModel.from_pretrained(tmp_path)
        assert type(bare) is TransformerModel
        assert torch.equal(bare(**batch).last_hidden_state, model.model(**batch).last_hidden_state)


def test_untied_output_round_trip_and_new_weights_where_missing(tmp_path):
    model = build("decoder-only", tie_word_embeddings=False)
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    model.save_pretrained(tmp_path)
    loaded = TransformerForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
    TransformerModel.from_pretrained(tmp_path).save_pretrained(tmp_path)  # without the output matrix
    again = TransformerForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again.model.embed_tokens.weight, model.model.embed_tokens.weight)
    assert not torch.equal(again.lm_head.weight, model.lm_head.weight)
    assert again.lm_head.weight.abs().max() <= math.sqrt(6 / (32 + VOCAB))


LOAD_ELSEWHERE = """
import json, sys
sys.modules["hftrain"] = None  # whoever imports it fails
import torch, transformers
folder, auto = sys.argv[1:]
model = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True)
model.save_pretrained(folder + "-again")
inputs = json.load(open(folder + "/inputs.json"))
with torch.no_grad():
    logits = model(**{name: torch.tensor(ids) for name, ids in inputs.items()}).logits
print(json.dumps(logits.flatten().tolist()))
"""


@pytest.mark.slow
def test_saved_folder_loads_where_hftrain_is_not(tmp_path):
    model = build(position_embedding_type="shaw")
    batch = inputs("encoder-decoder")
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    (folder / "inputs.json").write_text(json.dumps({name: ids.tolist() for name, ids in batch.items()}))
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "code"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", LOAD_ELSEWHERE, str(folder), "AutoModelForSeq2SeqLM"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        expected = model(**batch).logits.flatten()
    assert_close(torch.tensor(json.loads(done.stdout.splitlines()[-1])), expected, atol=1e-6, rtol=0)
    assert AutoConfig.from_pretrained(f"{folder}-again").auto_map["AutoModelForSeq2SeqLM"]


def test_deep_copy_is_whole():
    model = build()
    twin = copy.deepcopy(model)
    assert twin.lm_head.weight is twin.model.embed_tokens.weight
    with torch.no_grad():
        twin.model.embed_tokens.weight.zero_()
        twin.model.encoder.layers[0].mlp.up_proj.weight.zero_()
    assert model.model.embed_tokens.weight.any() and model.model.encoder.layers[0].mlp.up_proj.weight.any()


@pytest.mark.parametrize("tie", [True, False])
def test_resize_token_embeddings(tie):
    model = build(tie_word_embeddings=tie)
    batch = inputs("encoder-decoder")
    with torch.no_grad():
        before = model(**batch).logits
        model.resize_token_embeddings(VOCAB + 5)
        after = model(**batch).logits
    assert model.config.vocab_size == VOCAB + 5
    assert after.shape[-1] == VOCAB + 5
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tie
    assert torch.equal(after[..., :VOCAB], before)
    assert model.generate(batch["input_ids"], max_new_tokens=4).shape[0] == 3


# --- contracts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"hidden_size": 30}, "hidden_size must be a multiple of num_attention_heads=4, such as 32; it is 30"),
        ({"hidden_size": "32"}, "hidden_size must be a whole number >= 1; it is '32'"),
        ({"num_key_value_heads": 3}, "num_key_value_heads must be a divisor of num_attention_heads=4; it is 3"),
        ({"num_encoder_layers": 0, "num_decoder_layers": 0}, "are both 0: give one of them layers"),
        ({"num_encoder_layers": -1}, "num_encoder_layers must be a whole number >= 0; it is -1"),
        ({"position_embedding_type": "rope"}, "one of sinusoidal, learned, shaw, t5, rotary; it is 'rope'"),
        ({"norm_type": "layernorm"}, "norm_type must be one of layer_norm, rms_norm; it is 'layernorm'"),
        ({"hidden_act": "silu"}, "hidden_act must be one of relu, gelu, swiglu; it is 'silu'"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\); it is 1.0"),
        ({"rope_theta": 0}, "rope_theta must be a number > 0; it is 0"),
        ({"use_bias": "no"}, "use_bias must be true or false; it is 'no'"),
        ({"pad_token_id": VOCAB}, f"pad_token_id must be an id of the vocabulary, 0 to {VOCAB - 1}; it is {VOCAB}"),
        ({"hidden_size": 15, "num_attention_heads": 3}, "hidden_size must be even"),
        (
            {"position_embedding_type": "rotary", "hidden_size": 36},
            "hidden_size must be an even multiple of num_attention_heads=4",
        ),
        (
            {"position_embedding_type": "t5", "relative_attention_num_buckets": 7},
            "relative_attention_num_buckets must be even and >= 4",
        ),
        (
            {"position_embedding_type": "t5", "relative_attention_max_distance": 4},
            "relative_attention_max_distance must be above 4, half the buckets; it is 4",
        ),
        ({"num_decoder_layers": 0, "length_embedding": True}, "length_embedding tells a decoder how much to write"),
    ],
)
def test_bad_shapes_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        configure(**fields)


def test_shape_fields_are_what_a_user_sets():
    fields = TransformerConfig.shape_fields()
    assert {"hidden_size", "num_encoder_layers", "dropout", "length_embedding", "tie_word_embeddings"} <= fields
    assert not {"vocab_size", "pad_token_id", "model_type", "id2label", "keys_to_ignore_at_inference"} & fields
    config = TransformerConfig()
    assert all(hasattr(config, name) for name in fields)


def test_wrong_class_for_the_layers_is_named():
    with pytest.raises(ValueError, match=r"is encoder-only, .* is decoder-only: .* take TransformerForCausalLM"):
        TransformerForMaskedLM(configure("decoder-only"))


def test_wrong_inputs_are_named():
    model = build("decoder-only", position_embedding_type="learned", max_position_embeddings=8)
    with pytest.raises(ValueError, match="a row of 9 positions, and the model has learned 8"):
        model(tokens(1, 9))
    with pytest.raises(ValueError, match=r"must be \[batch, length\].*it is \[1, 1, 4, 4\]"):
        model(tokens(1, 4), attention_mask=torch.ones(1, 1, 4, 4))
    with pytest.raises(ValueError, match="input_ids or inputs_embeds"):
        model()
    with pytest.raises(ValueError, match="output_attentions"):
        model(tokens(1, 4), output_attentions=True)
    with pytest.raises(ValueError, match="takes input_ids and no decoder_input_ids"):
        model.model(tokens(1, 4), decoder_input_ids=tokens(1, 4))


@pytest.mark.parametrize("form", LAYERS)
def test_outputs_and_embeddings_as_inputs(form):
    model = build(form)
    batch = inputs(form)
    plain = model(**batch, output_hidden_states=True)
    embeds = {
        name.replace("input_ids", "inputs_embeds"): model.get_input_embeddings()(ids) for name, ids in batch.items()
    }
    assert torch.equal(model(**embeds).logits, plain.logits)
    states = plain.decoder_hidden_states if form == "encoder-decoder" else plain.hidden_states
    assert len(states) == 3
    assert torch.equal(model.lm_head(states[-1]), plain.logits)
    assert torch.equal(model(**batch, return_dict=False)[0], plain.logits)
    assert plain.get("past_key_values") is None
    assert isinstance(model.model.get_submodule(f"{form.split('-')[0]}.layers.0.self_attn"), SelfAttention)


def test_encoder_of_a_model_takes_token_ids_and_owns_the_embeddings():
    model = build()
    batch = inputs("encoder-decoder")
    encoder = model.get_encoder()
    encoded = encoder(batch["input_ids"])
    again = model(encoder_outputs=encoded, decoder_input_ids=batch["decoder_input_ids"]).logits
    assert torch.equal(again, model(**batch).logits)
    names = {name for name, _ in encoder.named_parameters()}
    assert "embed_tokens.weight" in names and not any("cross_attn" in name for name in names)
