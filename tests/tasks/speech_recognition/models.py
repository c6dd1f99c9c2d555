"""Tiny models that hear, of random weights, saved as pretrained ones are."""

from pathlib import Path
from typing import Any

import torch
import transformers

from tests.tasks.speaking.data import LETTERS

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
STEADY = {name: 0.0 for name in ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout")}
WAVES = {
    "conv_dim": [8, 8, 16],
    "conv_kernel": [10, 8, 4],
    "conv_stride": [10, 8, 2],
    "num_feat_extract_layers": 3,
    "feat_extract_norm": "layer",  # that of groups reads the padding
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 8,
    "final_dropout": 0.0,
}
RAW = ("wav2vec2", "hubert", "wavlm")  # kinds that read samples
SIGNS = ["<pad>", "<unk>", "|", *LETTERS]  # as the vocabulary of CTC
LANGUAGES = ("en", "zh", "de")  # the first of Whisper's


def ctc_tokenizer(folder: Path) -> Any:
    file = folder / "vocab.json"
    file.write_text("{" + ", ".join(f'"{sign}": {number}' for number, sign in enumerate(SIGNS)) + "}")
    how: dict[str, Any] = {"pad_token": "<pad>", "unk_token": "<unk>", "word_delimiter_token": "|"}
    return transformers.Wav2Vec2CTCTokenizer(str(file), bos_token=None, eos_token=None, **how)


def shape_of(kind: str) -> transformers.PreTrainedConfig:
    """A configuration of 16 dimensions and one layer, without dropout."""
    own: dict[str, Any] = {"vocab_size": len(SIGNS), "pad_token_id": 0, **SMALL, **STEADY}
    if kind in RAW:
        return transformers.AutoConfig.for_model(kind, **own, **WAVES)
    if kind == "wav2vec2-bert":
        own |= {"conformer_conv_dropout": 0.0, "final_dropout": 0.0, "conv_depthwise_kernel_size": 7}
        return transformers.AutoConfig.for_model(kind, **own, classifier_proj_size=8)
    if kind == "parakeet_ctc":
        conv = {"conv_kernel_size": 5, "subsampling_conv_channels": 8, "subsampling_factor": 4}
        encoder = {**SMALL, **conv, "dropout": 0.0, "layerdrop": 0.0, "activation_dropout": 0.0}
        encoder |= {"attention_dropout": 0.0, "dropout_positions": 0.0}
        return transformers.ParakeetCTCConfig(vocab_size=len(SIGNS), pad_token_id=0, encoder_config=encoder)
    if kind == "audio-spectrogram-transformer":
        return transformers.ASTConfig(**SMALL, max_length=64, patch_size=16, frequency_stride=16, time_stride=16)
    assert kind == "whisper"
    width = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "classifier_proj_size": 8}
    special = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 1}
    return transformers.WhisperConfig(**width, **heads, **special, max_target_positions=24, num_mel_bins=80)


def extractor_of(kind: str) -> Any:
    if kind in RAW:
        return transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    if kind == "whisper":
        return transformers.WhisperFeatureExtractor()
    if kind == "parakeet_ctc":
        return transformers.ParakeetFeatureExtractor()
    if kind == "audio-spectrogram-transformer":
        return transformers.ASTFeatureExtractor(max_length=64)
    return transformers.SeamlessM4TFeatureExtractor(feature_size=80, num_mel_bins=80, stride=2)


def ctc_folder(folder: Path, kind: str = "wav2vec2-bert", **changes: Any) -> Path:
    """Saves a CTC model with extractor and tokenizer; it seldom writes the blank."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    config = shape_of(kind)
    config.update(changes)
    model = transformers.AutoModelForCTC.from_config(config)
    head = model.ctc_head if kind == "parakeet_ctc" else model.lm_head
    head.bias.data[0] = -3.0
    model.save_pretrained(folder)
    extractor_of(kind).save_pretrained(folder)
    ctc_tokenizer(folder).save_pretrained(folder)
    return folder


def classifier_folder(folder: Path, kind: str) -> Path:
    """Saves a model of `AutoModelForAudioClassification` with its extractor."""
    torch.manual_seed(0)
    transformers.AutoModelForAudioClassification.from_config(shape_of(kind)).save_pretrained(folder)
    extractor_of(kind).save_pretrained(folder)
    return folder


def whisper_tokenizer() -> Any:
    """Byte-level letters; end, start, languages, tasks and times are numbered as in Whisper."""
    first = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{name}|>" for name in LANGUAGES)]
    special = [*first, "<|translate|>", "<|transcribe|>", "<|notimestamps|>"]
    times = [f"<|{number * 0.02:.2f}|>" for number in range(1501)]
    vocabulary = {token: number for number, token in enumerate([*special, *times, "Ġ", *LETTERS])}
    tokenizer: Any = transformers.WhisperTokenizer(vocab=vocabulary, merges=[], pad_token="<|endoftext|>")
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    return tokenizer


def whisper_folder(folder: Path, *, multilingual: bool = False, **changes: Any) -> Path:
    """Saves a Whisper with extractor, tokenizer and what it generates with."""
    tokenizer = whisper_tokenizer()
    ids = tokenizer.get_vocab()
    torch.manual_seed(0)
    config = shape_of("whisper")
    config.update({"vocab_size": len(ids), **changes})
    model: Any = transformers.WhisperForConditionalGeneration(config)
    special = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 1}
    own: dict[str, Any] = {"no_timestamps_token_id": ids["<|notimestamps|>"], "is_multilingual": multilingual}
    if multilingual:
        own["lang_to_id"] = {f"<|{name}|>": ids[f"<|{name}|>"] for name in LANGUAGES}
        own["task_to_id"] = {name: ids[f"<|{name}|>"] for name in ("translate", "transcribe")}
    model.generation_config = transformers.GenerationConfig(**special, **own, max_length=24)
    for part in (model, tokenizer, extractor_of("whisper")):
        part.save_pretrained(folder)
    return folder
