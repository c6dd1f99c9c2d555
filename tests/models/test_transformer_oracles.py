"""The custom Transformer against other implementations with its weights."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MarianConfig,
    MarianMTModel,
    T5Config,
    T5ForConditionalGeneration,
)

from hftrain.models import (
    TransformerForCausalLM,
    TransformerForConditionalGeneration,
)
from hftrain.models.transformer.attention import distances, t5_buckets, visibility
from tests.models.test_transformer import EOS, MODERN, PAD, VOCAB, build, configure, inputs, right_padding, tokens

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
