"""Tiny models for the tests of exactness: each function makes one with this much dropout."""

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    LEDConfig,
    LEDForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    SwitchTransformersConfig,
    SwitchTransformersForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from hftrain.models import TransformerConfig, TransformerForConditionalGeneration

VOCABULARY = 60
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
BART_LIKE = {
    "vocab_size": VOCABULARY, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 64,
    "forced_eos_token_id": None, **SPECIAL,
}  # fmt: skip


def custom(dropout: float) -> torch.nn.Module:
    return TransformerForConditionalGeneration(
        TransformerConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=32,
            num_attention_heads=2,
            num_encoder_layers=1,
            num_decoder_layers=1,
            dropout=dropout,
            **SPECIAL,
        )
    )  # fmt: skip


def marian(dropout: float) -> torch.nn.Module:
    return MarianMTModel(MarianConfig(dropout=dropout, **BART_LIKE))


def bart(dropout: float) -> torch.nn.Module:
    return BartForConditionalGeneration(BartConfig(dropout=dropout, **BART_LIKE))


def t5(dropout: float) -> torch.nn.Module:
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=VOCABULARY,
            d_model=16,
            d_kv=8,
            d_ff=32,
            num_layers=1,
            num_heads=2,
            dropout_rate=dropout,
            **SPECIAL,
        )
    )  # fmt: skip


def llama(dropout: float) -> torch.nn.Module:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=64,
            attention_dropout=dropout,
        )
    )  # fmt: skip


MODELS = {"custom": custom, "marian": marian, "t5": t5, "bart": bart, "llama": llama}


def led(dropout: float) -> torch.nn.Module:
    """Without global attention, whose projections get no gradient then."""
    size = {"max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64, "attention_window": 8}
    return LEDForConditionalGeneration(LEDConfig(dropout=dropout, **BART_LIKE | size))


def bert2bert(dropout: float) -> torch.nn.Module:
    """Its encoder has a pooler, which the decoder does not look at; its configuration has no hidden size."""
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape = BertConfig(vocab_size=VOCABULARY, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, **size)
    model = EncoderDecoderModel(EncoderDecoderConfig.from_encoder_decoder_configs(shape, shape))
    for name, value in SPECIAL.items():
        setattr(model.config, name, value)
    return model


def switch(dropout: float) -> torch.nn.Module:
    """More experts than the tokens of a small batch reach."""
    return SwitchTransformersForConditionalGeneration(
        SwitchTransformersConfig(
            vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_decoder_layers=2, num_heads=2,
            num_sparse_encoder_layers=1, num_sparse_decoder_layers=1, num_experts=24, expert_capacity=1000,
            router_jitter_noise=0.0, router_aux_loss_coef=0.0, router_z_loss_coef=0.0, dropout_rate=dropout, **SPECIAL,
        )
    )  # fmt: skip


def dropped(dropout: float) -> torch.nn.Module:
    """Layers are left out by chance."""
    shape = BART_LIKE | {"encoder_layers": 3, "decoder_layers": 3}
    return M2M100ForConditionalGeneration(
        M2M100Config(dropout=dropout, encoder_layerdrop=0.4, decoder_layerdrop=0.4, **shape)
    )


def idle(dropout: float) -> torch.nn.Module:
    """With a layer that nothing uses."""
    model = llama(dropout)
    model.idle = torch.nn.Linear(16, 16)
    return model


def qwen3_moe(dropout: float) -> torch.nn.Module:
    return Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, moe_intermediate_size=16, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, head_dim=8, num_experts=6, num_experts_per_tok=2,
            router_aux_loss_coef=0.5, max_position_embeddings=64, attention_dropout=dropout,
        )
    )  # fmt: skip


UNREACHED = {"led": led, "bert2bert": bert2bert, "switch": switch, "dropped": dropped, "idle": idle}
ALL = {**MODELS, **UNREACHED, "qwen3_moe": qwen3_moe}
