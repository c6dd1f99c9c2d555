"""Tiny models that speak, and examples for them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    FastSpeech2ConformerConfig,
    FastSpeech2ConformerModel,
    SpeechT5Config,
    SpeechT5ForTextToSpeech,
    Wav2Vec2FeatureExtractor,
    WavLMConfig,
    WavLMForXVector,
)

from hftrain.audio.mel import LogMel
from hftrain.tasks.speaking.model import FASTSPEECH, SPEECHT5, fix_batch_norm, steady_prenet
from hftrain.tasks.speaking.voice import Voice, train_characters

MEL = LogMel(8000, 512, 128, 20, 80, 3800)
FAST = FASTSPEECH | {
    "hidden_size": 16,
    "encoder_linear_units": 24,
    "decoder_linear_units": 24,
    "decoder_kernel_size": 7,
    **dict.fromkeys([name for name in FASTSPEECH if name.endswith(("_channels", "postnet_units"))], 16),
    **{name: 0.0 for name in FASTSPEECH if "dropout" in name},
}
T5 = SPEECHT5 | {
    "hidden_size": 16,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "speech_decoder_prenet_units": 16,
    "speech_decoder_postnet_units": 16,
    "speaker_embedding_dim": 8,
    "speech_decoder_prenet_dropout": 0.0,
    "speech_decoder_postnet_dropout": 0.0,
    **dict.fromkeys(("positional_dropout", "hidden_dropout", "attention_dropout", "activation_dropout"), 0.0),
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
}
KINDS = ("fastspeech2_conformer", "speecht5")


def voice(speakers: tuple[str, ...] = ("ada", "bob")) -> Voice:
    return Voice(train_characters(["abcde fgh"], "lower"), MEL, speakers, "lower", 2.0)


def make(kind: str, **changes: Any) -> Any:
    """A model with weights of a fixed seed."""
    torch.manual_seed(0)
    own = voice()
    shape: dict[str, Any] = {"vocab_size": len(own.tokenizer), "num_mel_bins": MEL.bands}
    if kind == "speecht5":
        model: Any = SpeechT5ForTextToSpeech(SpeechT5Config(**T5 | shape | {"max_speech_positions": 200} | changes))
        steady_prenet(model)
    else:
        model = FastSpeech2ConformerModel(FastSpeech2ConformerConfig(**FAST | shape | {"num_speakers": 2} | changes))
    fix_batch_norm(model)
    return model


def examples(kind: str, count: int = 6) -> list[dict[str, Any]]:
    draw = np.random.default_rng(0)
    rows = []
    for number in range(count):
        ids = draw.integers(4, 12, 3 + 2 * number % 7)
        durations = draw.integers(1, 5, len(ids))
        frames = int(durations.sum())
        row: dict[str, Any] = {"input_ids": ids, "speaker": number % 2}
        row["mel"] = draw.normal(-2, 1, (frames, MEL.bands)).astype(np.float32)
        if kind != "speecht5":
            row |= {"durations": durations, "pitch": draw.normal(size=len(ids)).astype(np.float32)}
            row["energy"] = draw.normal(size=len(ids)).astype(np.float32)
        rows.append(row)
    return rows


def save_encoder(folder: Path) -> None:
    """A model of voices with random weights."""
    torch.manual_seed(0)
    conv = {"conv_dim": [16, 16], "conv_stride": [10, 8], "conv_kernel": [10, 8], "num_feat_extract_layers": 2}
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, **conv}
    heads = {"tdnn_dim": [16], "tdnn_kernel": [3], "tdnn_dilation": [1], "xvector_output_dim": 8}
    WavLMForXVector(WavLMConfig(**size, **heads, num_conv_pos_embeddings=4)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
