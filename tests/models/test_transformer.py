"""The custom Transformer against other implementations with its weights, and against itself: cache, packing, saving."""

import copy
import json
import math
import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    LlamaConfig,
    LlamaForCausalLM,
    MarianConfig,
    MarianMTModel,
    T5Config,
    T5ForConditionalGeneration,
)

from hftrain.models import (
    TransformerConfig,
    TransformerForCausalLM,
    TransformerForConditionalGeneration,
    TransformerForMaskedLM,
    TransformerModel,
)
from hftrain.models.transformer.attention import SelfAttention, biased, distances, read_layout, t5_buckets, visibility

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


# --- parity with other implementations -----------------------------------------------------------------------------


def random_weights(model, scale=0.1):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * scale)
    return model.eval()


def load_renamed(model, weights):
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}  # tied
    model.tie_weights()
    return model.eval()


def test_torch_transformer_post_norm_sinusoidal():
    width, heads, inner = 32, 4, 48
    torch.manual_seed(0)
    layer = {"dropout": 0.0, "batch_first": True}
    theirs = nn.Transformer(
        custom_encoder=nn.TransformerEncoder(
            nn.TransformerEncoderLayer(width, heads, inner, **layer), 2, enable_nested_tensor=False
        ),
        custom_decoder=nn.TransformerDecoder(nn.TransformerDecoderLayer(width, heads, inner, **layer), 2),
        d_model=width,
        nhead=heads,
        batch_first=True,
    )
    random_weights(theirs)
    table = torch.randn(VOCAB, width) * width**-0.5

    weights = {"model.embed_tokens.weight": table}
    for stack in ("encoder", "decoder"):
        attentions = {"self_attn": "self_attn"} | ({"multihead_attn": "cross_attn"} if stack == "decoder" else {})
        norms = (
            ["self_attn_norm", "mlp_norm"] if stack == "encoder" else ["self_attn_norm", "cross_attn_norm", "mlp_norm"]
        )
        for index, block in enumerate(getattr(theirs, stack).layers):
            ours = f"model.{stack}.layers.{index}."
            for name, our_name in attentions.items():
                attention = getattr(block, name)
                for part, weight, bias in zip(
                    "qkv", attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), strict=True
                ):
                    weights[f"{ours}{our_name}.{part}_proj.weight"] = weight
                    weights[f"{ours}{our_name}.{part}_proj.bias"] = bias
                weights[f"{ours}{our_name}.o_proj.weight"] = attention.out_proj.weight
                weights[f"{ours}{our_name}.o_proj.bias"] = attention.out_proj.bias
            for norm, our_name in enumerate(norms, start=1):
                weights[f"{ours}{our_name}.weight"] = getattr(block, f"norm{norm}").weight
                weights[f"{ours}{our_name}.bias"] = getattr(block, f"norm{norm}").bias
            for linear, our_name in (("linear1", "up_proj"), ("linear2", "down_proj")):
                weights[f"{ours}mlp.{our_name}.weight"] = getattr(block, linear).weight
                weights[f"{ours}mlp.{our_name}.bias"] = getattr(block, linear).bias
    model = load_renamed(TransformerForConditionalGeneration(configure(norm_position="post")), weights)

    def positions(length):
        """Section 3.5 to the letter, then all sines before all cosines, which is our order of the features."""
        encoding = torch.tensor(
            [
                [(math.cos if i % 2 else math.sin)(pos / 10000 ** (2 * (i // 2) / width)) for i in range(width)]
                for pos in range(length)
            ]
        )
        return torch.cat((encoding[:, 0::2], encoding[:, 1::2]), dim=1)

    batch = inputs("encoder-decoder")
    source_mask, target_mask = right_padding(7, 4, 2, width=7), right_padding(6, 6, 3, width=6)
    embedded = {name: table[ids] * math.sqrt(width) + positions(ids.shape[1]) for name, ids in batch.items()}
    with torch.no_grad():
        expected = theirs(
            embedded["input_ids"],
            embedded["decoder_input_ids"],
            tgt_mask=torch.full((6, 6), -torch.inf).triu(1),
            src_key_padding_mask=torch.where(source_mask.bool(), 0.0, -torch.inf),
            tgt_key_padding_mask=torch.where(target_mask.bool(), 0.0, -torch.inf),
            memory_key_padding_mask=torch.where(source_mask.bool(), 0.0, -torch.inf),
        )
        got = model(**batch, attention_mask=source_mask, decoder_attention_mask=target_mask, output_hidden_states=True)
    real = target_mask.bool()
    assert_close(got.decoder_hidden_states[-1][real], expected[real], atol=1e-5, rtol=0)
    assert_close(got.logits[real], (expected @ table.T)[real], atol=1e-5, rtol=0)


MARIAN_NAMES = {
    "encoder_attn_layer_norm": "cross_attn_norm",
    "self_attn_layer_norm": "self_attn_norm",
    "final_layer_norm": "mlp_norm",
    "encoder_attn": "cross_attn",
    "out_proj": "o_proj",
    "fc1": "mlp.up_proj",
    "fc2": "mlp.down_proj",
}


def test_marian():
    theirs = random_weights(
        MarianMTModel(
            MarianConfig(
                vocab_size=VOCAB,
                d_model=32,
                encoder_layers=2,
                decoder_layers=2,
                encoder_attention_heads=4,
                decoder_attention_heads=4,
                encoder_ffn_dim=48,
                decoder_ffn_dim=48,
                activation_function="gelu",
                scale_embedding=True,
                pad_token_id=PAD,
                eos_token_id=EOS,
                decoder_start_token_id=PAD,
                max_position_embeddings=64,
            )
        )
    )
    for positions in (theirs.model.encoder.embed_positions, theirs.model.decoder.embed_positions):
        positions.weight.data = positions.create_weight()
    weights = {"model.embed_tokens.weight": theirs.model.shared.weight}
    for name, weight in theirs.state_dict().items():
        if ".layers." in name:
            for their_part, our_part in MARIAN_NAMES.items():
                name = name.replace(f".{their_part}.", f".{our_part}.")
            weights[name] = weight
    model = load_renamed(
        TransformerForConditionalGeneration(configure(norm_position="post", hidden_act="gelu")), weights
    )
    batch = inputs("encoder-decoder")
    mask = right_padding(7, 4, 2, width=7)
    with torch.no_grad():
        expected = theirs(**batch, attention_mask=mask).logits
        assert_close(model(**batch, attention_mask=mask).logits, expected, atol=1e-5, rtol=0)
    theirs.generation_config.forced_eos_token_id = None
    options = {"num_beams": 3, "max_new_tokens": 8, "decoder_start_token_id": PAD}
    assert (
        model.generate(batch["input_ids"], attention_mask=mask, **options).tolist()
        == theirs.generate(batch["input_ids"], attention_mask=mask, **options).tolist()
    )


T5_NAMES = {
    "encoder": {"0.SelfAttention": "self_attn", "0.layer_norm": "self_attn_norm", "1.layer_norm": "mlp_norm"},
    "decoder": {
        "0.SelfAttention": "self_attn",
        "0.layer_norm": "self_attn_norm",
        "1.EncDecAttention": "cross_attn",
        "1.layer_norm": "cross_attn_norm",
        "2.layer_norm": "mlp_norm",
    },
}


def test_t5():
    heads, width = 4, 32
    theirs = T5ForConditionalGeneration(
        T5Config(
            vocab_size=VOCAB,
            d_model=width,
            d_kv=width // heads,
            d_ff=48,
            num_layers=2,
            num_heads=heads,
            relative_attention_num_buckets=8,
            relative_attention_max_distance=12,
            tie_word_embeddings=False,  # no division of the output by sqrt(D)
        )
    )
    with torch.no_grad():
        theirs.shared.weight.mul_(0.2)
    random_weights(theirs, 0.05)
    weights = {"model.embed_tokens.weight": theirs.shared.weight, "lm_head.weight": theirs.lm_head.weight}
    for name, weight in theirs.state_dict().items():
        if "relative_attention_bias" in name:
            weights[f"model.{name.split('.')[0]}.relative_bias.weight"] = weight
        elif ".block." in name:
            stack, _, index, _, sublayer, rest = name.split(".", 5)  # decoder.block.1.layer.0.SelfAttention.q.weight
            rest = rest.replace("DenseReluDense.wi", "mlp.up_proj").replace("DenseReluDense.wo", "mlp.down_proj")
            for their_part, our_part in T5_NAMES[stack].items():
                if f"{sublayer}.{rest}".startswith(f"{their_part}."):
                    rest = f"{sublayer}.{rest}".replace(their_part, our_part)
            if "_attn." in rest:
                rest = rest.replace(".weight", "_proj.weight")
            if rest.endswith(".q_proj.weight"):
                weight = weight * math.sqrt(width // heads)  # T5 does not divide scores by sqrt(d)
            weights[f"model.{stack}.layers.{index}.{rest}"] = weight
        elif "final_layer_norm" in name:
            weights[f"model.{name.split('.')[0]}.norm.weight"] = weight
    config = configure(
        position_embedding_type="t5",
        norm_type="rms_norm",
        norm_eps=1e-6,
        use_bias=False,
        scale_embedding=False,
        tie_word_embeddings=False,
    )
    model = load_renamed(TransformerForConditionalGeneration(config), weights)
    theirs.eval()
    batch = inputs("encoder-decoder", source=20, target=17)  # beyond the farthest bucket
    source_mask, target_mask = right_padding(20, 4, 9, width=20), right_padding(17, 12, 5, width=17)
    with torch.no_grad():
        expected = theirs(**batch, attention_mask=source_mask, decoder_attention_mask=target_mask).logits
        got = model(**batch, attention_mask=source_mask, decoder_attention_mask=target_mask).logits
    assert expected.std() > 0.1
    real = target_mask.bool()
    assert_close(got[real], expected[real], atol=1e-5, rtol=0)


@pytest.mark.parametrize("causal", [True, False])
def test_t5_buckets_are_those_of_t5(causal):
    distance = torch.arange(-300, 301)
    theirs = T5ForConditionalGeneration(T5Config(vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    bucket = theirs.encoder.block[0].layer[0].SelfAttention._relative_position_bucket
    expected = bucket(distance, bidirectional=not causal, num_buckets=32, max_distance=128)
    assert t5_buckets(distance, 32, 128, causal).tolist() == expected.tolist()


def test_llama():
    theirs = random_weights(
        LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCAB,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                rms_norm_eps=1e-6,
                rope_theta=10000.0,
                tie_word_embeddings=False,
                attn_implementation="sdpa",
            )
        )
    )
    weights = {}
    for name, weight in theirs.state_dict().items():
        name = name.replace("model.layers", "model.decoder.layers").replace("model.norm", "model.decoder.norm")
        name = name.replace("input_layernorm", "self_attn_norm").replace("post_attention_layernorm", "mlp_norm")
        weights[name] = weight
    config = configure(
        "decoder-only",
        **MODERN,
        position_embedding_type="rotary",
        norm_eps=1e-6,
        scale_embedding=False,
        tie_word_embeddings=False,
    )
    model = load_renamed(TransformerForCausalLM(config), weights)
    ids, mask = tokens(3, 9), right_padding(9, 5, 2, width=9)
    with torch.no_grad():
        expected = theirs(ids, attention_mask=mask).logits
        real = mask.bool()
        assert_close(model(ids, attention_mask=mask).logits[real], expected[real], atol=1e-5, rtol=0)
        # left padding, positions as generate gives them
        left, positions = mask.flip(1), (mask.flip(1).cumsum(1) - 1).clamp(min=0)
        expected = theirs(ids, attention_mask=left, position_ids=positions).logits
        got = model(ids, attention_mask=left, position_ids=positions).logits
        assert_close(got[left.bool()], expected[left.bool()], atol=1e-5, rtol=0)
        # packed: position_ids restart
        packed = torch.tensor([[0, 1, 2, 3, 0, 1, 0, 1, 2]]).expand(3, -1)
        expected = theirs(ids, position_ids=packed, use_cache=False).logits
        assert_close(model(ids, position_ids=packed).logits, expected, atol=1e-5, rtol=0)
    options = {"max_new_tokens": 8, "eos_token_id": EOS, "pad_token_id": PAD}
    assert model.generate(ids, **options).tolist() == theirs.generate(ids, **options).tolist()


@pytest.mark.parametrize("key_value_heads", [4, 2])
def test_shaw_equations_3_and_4(key_value_heads):
    model = build("decoder-only", position_embedding_type="shaw", num_key_value_heads=key_value_heads)
    attention = model.model.decoder.layers[0].self_attn
    reach, size = 3, 8
    x = torch.randn(1, 6, 32, generator=torch.Generator().manual_seed(3))
    mask = visibility(6, 6, x.device, causal=True, explicit=True)
    got = attention(x, mask, None, distances(6, 6, x.device), None)

    projections = attention.q_proj, attention.k_proj, attention.v_proj
    query, key, value = (p(x)[0].unflatten(-1, (-1, size)) for p in projections)
    a_key, a_value = attention.relative_keys.weight, attention.relative_values.weight
    heads = []
    for head in range(4):
        shared = head * key_value_heads // 4
        rows = []
        for i in range(6):
            clipped = [max(-reach, min(reach, j - i)) + reach for j in range(i + 1)]
            scores = [query[i, head] @ (key[j, shared] + a_key[clipped[j]]) / size**0.5 for j in range(i + 1)]
            alpha = torch.stack(scores).softmax(0)
            rows.append(sum(alpha[j] * (value[j, shared] + a_value[clipped[j]]) for j in range(i + 1)))
        heads.append(torch.stack(rows))
    expected = attention.o_proj(torch.cat(heads, dim=-1))
    assert_close(got[0], expected, atol=1e-5, rtol=0)


# --- cache and generation ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", POSITIONS)
@pytest.mark.parametrize("form", ["encoder-decoder", "decoder-only"])
def test_cached_logits_are_the_uncached(form, kind):
    model = build(form, position_embedding_type=kind, **(MODERN if form == "decoder-only" else {}))
    batch = inputs(form, source=7, target=7)
    grows = "decoder_input_ids" if form == "encoder-decoder" else "input_ids"
    rest = {name: ids for name, ids in batch.items() if name != grows}
    with torch.no_grad():
        full = model(**batch).logits
        pieces, cache = [], None
        for start, stop in ((0, 3), (3, 4), (4, 7)):  # a prompt, one token, several at once
            piece = model(**rest, **{grows: batch[grows][:, start:stop]}, past_key_values=cache, use_cache=True)
            cache = piece.past_key_values
            pieces.append(piece.logits)
    assert_close(torch.cat(pieces, dim=1), full, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", POSITIONS)
@pytest.mark.parametrize("form", ["encoder-decoder", "decoder-only"])
def test_generation_with_and_without_cache(form, kind):
    model = build(form, position_embedding_type=kind)
    ids = tokens(3, 6)
    mask = right_padding(6, 4, 2, width=6)
    if form == "decoder-only":
        mask = mask.flip(1)
    for options in ({"num_beams": 1}, {"num_beams": 3}, {"do_sample": True, "num_beams": 1, "top_k": 10}):
        outcome = []
        for use_cache in (True, False):
            torch.manual_seed(0)
            outcome.append(
                model.generate(
                    ids,
                    attention_mask=mask,
                    max_new_tokens=8,
                    use_cache=use_cache,
                    output_logits=True,
                    return_dict_in_generate=True,
                    **options,
                )
            )
        cached, uncached = outcome
        assert cached.sequences.tolist() == uncached.sequences.tolist()
        assert_close(torch.stack(cached.logits), torch.stack(uncached.logits), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", POSITIONS)
def test_padding_changes_nothing_to_the_left_and_right(kind):
    model = build("decoder-only", position_embedding_type=kind)
    prompt = tokens(1, 4)
    alone = model.generate(prompt, max_new_tokens=6)
    padded = torch.cat((torch.full((1, 3), PAD), prompt), dim=1)
    mask = right_padding(4, width=7).flip(1)
    assert model.generate(padded, attention_mask=mask, max_new_tokens=6)[:, 3:].tolist() == alone.tolist()

    seq2seq = build(position_embedding_type=kind)
    batch = inputs("encoder-decoder", batch=1)
    wider = {name: torch.cat((ids, torch.full((1, 2), PAD)), dim=1) for name, ids in batch.items()}
    with torch.no_grad():
        expected = seq2seq(**batch).logits
        got = seq2seq(**wider, attention_mask=right_padding(7, width=9)).logits[:, :6]
    assert_close(got, expected, atol=1e-5, rtol=0)


def test_masks_are_left_out_where_they_hide_nothing():
    device = torch.device("cpu")
    full, right = torch.ones(2, 5, dtype=torch.long), right_padding(5, 3, width=5)
    assert read_layout(5, device, full, None).padding is None
    assert read_layout(5, device, right, None).padding.tolist() == right.bool().tolist()
    assert read_layout(5, device, right, None, causal=True).padding is None
    assert read_layout(5, device, right.flip(1), None, causal=True).padding is not None
    assert read_layout(1, device, right, None, causal=True, past=4).padding is not None
    assert read_layout(5, device, None, torch.arange(5)[None]).documents is None
    assert visibility(5, 5, device, causal=True) is None
    assert visibility(1, 5, device, causal=True) is None
    assert visibility(2, 5, device, causal=True).tolist() == [[True] * 4 + [False], [True] * 5]


def test_a_row_of_padding_stays_finite():
    for kind in POSITIONS:
        model = build("decoder-only", position_embedding_type=kind)
        mask = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0]])
        for dtype in (torch.float32, torch.bfloat16):
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                assert model(tokens(2, 4), attention_mask=mask).logits.isfinite().all()
    bias, nothing = torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2, dtype=torch.bool)
    assert biased(bias, nothing).bfloat16().isfinite().all()


# --- packing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", POSITIONS)
@pytest.mark.parametrize("form", LAYERS)
def test_packed_rows_are_separate_documents(form, kind):
    model = build(form, position_embedding_type=kind)
    lengths = {"input_ids": (3, 5, 2), "decoder_input_ids": (4, 1, 5)}
    names = ["input_ids", "decoder_input_ids"] if form == "encoder-decoder" else ["input_ids"]
    separate = [{name: tokens(1, lengths[name][i], seed=9 * i + len(name)) for name in names} for i in range(3)]
    packed = {name: torch.cat([document[name] for document in separate], dim=1) for name in names}
    for name in names:
        positions = torch.cat([torch.arange(length) for length in lengths[name]])[None]
        packed[name.replace("input", "position")] = positions
    with torch.no_grad():
        expected = torch.cat([model(**document).logits for document in separate], dim=1)
        assert_close(model(**packed).logits, expected, atol=1e-5, rtol=0)
        # and the cache does not undo it
        if form != "encoder-only":
            assert_close(model(**packed, use_cache=True).logits, expected, atol=1e-5, rtol=0)


def test_half_a_packed_pair_is_refused():
    model = build()
    batch = inputs("encoder-decoder")
    with pytest.raises(ValueError, match="packed together or not at all"):
        model(**batch, position_ids=torch.tensor([[0, 1, 2, 0, 1, 2, 3]]))


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


# --- training ------------------------------------------------------------------------------------------------------


def test_initialisation_is_as_the_table_says():
    torch.manual_seed(0)
    model = TransformerForConditionalGeneration(
        configure(vocab_size=2000, hidden_size=64, intermediate_size=256, position_embedding_type="learned")
    )
    for name, weight in model.named_parameters():
        if "embed" in name:
            assert weight.std().item() == pytest.approx(64**-0.5, rel=0.05), name
            assert weight[PAD].any(), name
        elif weight.dim() == 2:
            bound = math.sqrt(6 / sum(weight.shape))
            assert 0.98 * bound < weight.abs().max() <= bound, name
        else:
            assert (weight == (1.0 if name.endswith("norm.weight") else 0.0)).all(), name
    narrow = TransformerForMaskedLM(configure("encoder-only", initializer="normal", initializer_range=0.01))
    assert narrow.model.encoder.layers[0].mlp.up_proj.weight.std().item() == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize("form", LAYERS)
def test_labels_give_the_mean_cross_entropy(form):
    model = build(form)
    batch = inputs(form, target=7)
    labels = tokens(3, 7, seed=5)
    labels[1, 4:] = -100
    logits = model(**batch).logits
    logits, targets = (logits[:, :-1], labels[:, 1:]) if form == "decoder-only" else (logits, labels)
    log_p = logits.log_softmax(-1)[targets != -100]
    right = log_p.gather(1, targets[targets != -100][:, None]).mean()
    assert_close(model(**batch, labels=labels).loss, -right)
    smoothed = -(0.9 * right + 0.1 * log_p.mean())
    assert_close(model(**batch, labels=labels, label_smoothing=0.1).loss, smoothed)


def test_decoder_inputs_from_labels():
    model = build(decoder_start_token_id=BOS)
    labels = torch.tensor([[5, 6, EOS], [7, EOS, -100]])
    shifted = model.prepare_decoder_input_ids_from_labels(labels)
    assert shifted.tolist() == [[BOS, 5, 6], [BOS, 7, EOS]]
    ids = tokens(2, 4)
    assert torch.equal(model(ids, labels=labels).logits, model(ids, decoder_input_ids=shifted).logits)


@pytest.mark.parametrize("form", LAYERS)
def test_dropout_acts_in_training_only(form):
    for rate in ("dropout", "attention_dropout", "activation_dropout"):
        rates = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, rate: 0.3}
        model = build(form, position_embedding_type="shaw", **rates)
        batch = inputs(form)
        still = model(**batch).logits
        assert torch.equal(model(**batch).logits, still)
        model.train()
        assert not torch.allclose(model(**batch).logits, model(**batch).logits), rate


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable.*:FutureWarning")
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("kind", POSITIONS)
def test_gradient_checkpointing_gives_equal_gradients(kind, reentrant):
    model = build(position_embedding_type=kind, dropout=0.2).train()
    batch = inputs("encoder-decoder")
    mask = right_padding(7, 4, 2, width=7)

    def gradients():
        model.zero_grad()
        torch.manual_seed(0)
        model(**batch, attention_mask=mask).logits.pow(2).mean().backward()
        return {name: weight.grad.clone() for name, weight in model.named_parameters()}

    plain = gradients()
    assert all(gradient.any() for name, gradient in plain.items() if "k_proj.bias" not in name)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})  # renamed after our lowest transformers
    assert model.model.encoder.layers[0].gradient_checkpointing
    for name, gradient in gradients().items():
        assert_close(gradient, plain[name], atol=1e-7, rtol=1e-5, msg=name)


def compare_compiled(form, backend, **fields):
    torch._dynamo.reset()
    encoder, decoder = LAYERS[form]
    model = build(form, dropout=0.0, num_encoder_layers=encoder // 2, num_decoder_layers=decoder // 2, **fields).train()
    batch, mask = inputs(form), right_padding(7, 4, 2, width=7)
    expected = model(**batch, attention_mask=mask).logits
    got = torch.compile(model, fullgraph=True, backend=backend)(**batch, attention_mask=mask).logits
    real = mask.bool() if form == "decoder-only" else torch.ones(got.shape[:2], dtype=torch.bool)
    assert_close(got[real], expected[real], atol=1e-5, rtol=0)
    got.sum().backward()


ONE_KIND_EACH = [("encoder-decoder", "sinusoidal"), ("encoder-only", "t5"), ("decoder-only", "rotary")]


@pytest.mark.parametrize("form, kind", ONE_KIND_EACH)
def test_compiles_without_graph_breaks(form, kind):
    compare_compiled(form, "aot_eager", position_embedding_type=kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", POSITIONS)
@pytest.mark.parametrize("form", LAYERS)
def test_every_form_and_kind_compiles(form, kind):
    compare_compiled(form, "aot_eager", position_embedding_type=kind)


@pytest.mark.slow
@pytest.mark.parametrize("form, kind", ONE_KIND_EACH)
def test_compiles_to_kernels(form, kind):
    compare_compiled(form, "inductor", position_embedding_type=kind)


# --- length embedding ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["encoder-decoder", "decoder-only"])
def test_length_embedding_is_told_or_counted(form):
    model = build(form, length_embedding=True)
    batch = inputs(form, source=6, target=6)
    ids = batch["decoder_input_ids" if form == "encoder-decoder" else "input_ids"]
    ids[1, 4:] = PAD
    ids[:, 0] = PAD  # a start token that is pad counts
    mask_name = "decoder_attention_mask" if form == "encoder-decoder" else "attention_mask"
    with torch.no_grad():
        counted = model(**batch).logits
        told = model(**batch, target_lengths=torch.tensor([6, 4, 6])).logits
        masked = model(**batch, **{mask_name: right_padding(6, 4, 6, width=6)}).logits
        longer = model(**batch, target_lengths=torch.tensor([6, 9, 6])).logits
    assert torch.equal(counted, told)
    assert_close(masked[1, :4], counted[1, :4], atol=1e-5, rtol=0)
    assert not torch.allclose(longer[1], counted[1], atol=1e-2)
    assert torch.equal(longer[0], counted[0])


def test_length_embedding_in_generation():
    model = build(length_embedding=True)
    ids = tokens(2, 5)
    lengths = torch.tensor([3, 9])
    kept = {
        use: model.generate(ids, target_lengths=lengths, num_beams=2, max_new_tokens=8, use_cache=use)
        for use in (True, False)
    }
    assert kept[True].tolist() == kept[False].tolist()
    with pytest.raises(ValueError, match=r"generate\(target_lengths=...\)"):
        model.generate(ids, max_new_tokens=8)
    with pytest.raises(ValueError, match="built without length_embedding"):
        build()(**inputs("encoder-decoder"), target_lengths=lengths)


def test_length_embedding_of_packed_documents():
    model = build("decoder-only", length_embedding=True)
    first, second = tokens(1, 3), tokens(1, 5, seed=4)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4]])
    with torch.no_grad():
        expected = torch.cat((model(first).logits, model(second).logits), dim=1)
        got = model(torch.cat((first, second), dim=1), position_ids=positions).logits
    assert_close(got, expected, atol=1e-5, rtol=0)


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
