"""Tiny CSM and Dia with their codecs and processors, saved as folders; random weights."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CsmConfig,
    CsmForConditionalGeneration,
    CsmProcessor,
    DacConfig,
    DacModel,
    DiaConfig,
    DiaFeatureExtractor,
    DiaForConditionalGeneration,
    DiaProcessor,
    DiaTokenizer,
    EncodecFeatureExtractor,
    MimiConfig,
    PreTrainedTokenizerFast,
)

RATE = 8000
CODED = ("csm", "dia")
SIZE: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZE |= {"num_key_value_heads": 1, "head_dim": 8}
MIMI: dict[str, Any] = {"sampling_rate": RATE, "upsampling_ratios": [8, 5, 4, 2], "num_filters": 4}
MIMI |= {"codebook_size": 32, "codebook_dim": 8, "vector_quantization_hidden_dimension": 8, "upsample_groups": 16}
MIMI |= {"num_quantizers": 4, "num_semantic_quantizers": 1} | SIZE | {"num_hidden_layers": 1, "num_key_value_heads": 2}
DAC = {"sampling_rate": RATE, "encoder_hidden_size": 4, "downsampling_ratios": [2, 4, 4, 8], "decoder_hidden_size": 32}
DAC |= {"n_codebooks": 3, "codebook_size": 32, "codebook_dim": 4}
LETTERS = "[]0123456789 abcdefghijklmnopqrstuvwxyz"


def make(kind: str) -> Any:
    """A model with weights of a fixed seed."""
    torch.manual_seed(0)
    if kind == "csm":
        depth = SIZE | {"num_codebooks": 4, "backbone_hidden_size": 16, "vocab_size": 34}
        ids = {"bos_token_id": 0, "pad_token_id": 2, "audio_token_id": 2, "audio_eos_token_id": 3}
        ids |= {"codebook_pad_token_id": 33, "codebook_eos_token_id": 0}
        shape = (
            SIZE | ids | {"num_codebooks": 4, "vocab_size": 34, "text_vocab_size": 64, "max_position_embeddings": 99}
        )
        model: Any = CsmForConditionalGeneration(
            CsmConfig(**shape, codec_config=MimiConfig(**MIMI), depth_decoder_config=depth)
        )
        for name, buffer in model.codec_model.named_buffers():
            if name.endswith("embed_sum"):  # else each recording has the code 0 everywhere
                buffer.normal_()
        return model
    cross = {
        "cross_num_attention_heads": 2,
        "cross_head_dim": 8,
        "cross_num_key_value_heads": 2,
        "cross_hidden_size": 16,
    }
    ids = {"vocab_size": 36, "num_channels": 3, "eos_token_id": 32, "pad_token_id": 33, "bos_token_id": 34}
    shape = {"encoder_config": SIZE | {"max_position_embeddings": 99}, "decoder_config": SIZE | cross | ids}
    return DiaForConditionalGeneration(DiaConfig(**shape, delay_pattern=[0, 2, 3]))


def save(kind: str, folder: Path) -> Path:
    make(kind).save_pretrained(folder)
    if kind == "csm":
        names = ["<bos>", "<eos>", "<|AUDIO|>", "<|audio_eos|>", *LETTERS]
        raw = Tokenizer(models.WordLevel({name: place for place, name in enumerate(names)}))
        raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
        raw.post_processor = processors.TemplateProcessing(
            single="<bos> $A <eos>", special_tokens=[("<bos>", 0), ("<eos>", 1)]
        )
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<bos>", eos_token="<eos>")
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|AUDIO|>", "<|audio_eos|>"]})
        CsmProcessor(EncodecFeatureExtractor(sampling_rate=RATE), tokenizer).save_pretrained(folder)
    else:
        torch.manual_seed(0)
        DacModel(DacConfig(**DAC)).save_pretrained(folder / "codec")
        codec = DacModel.from_pretrained(folder / "codec")
        extractor = DiaFeatureExtractor(sampling_rate=RATE, hop_length=256)
        DiaProcessor(extractor, DiaTokenizer(), audio_tokenizer=codec).save_pretrained(folder)
    return folder
