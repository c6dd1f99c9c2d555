"""The model that speaks: pretrained or new."""

import logging
from functools import partial
from types import MethodType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForTextToSpectrogram, PreTrainedConfig

from hftrain.data.examples import Examples
from hftrain.distributed import give_dimensions
from hftrain.models import load
from hftrain.models.freezing import freeze
from hftrain.models.new import naming_model_config
from hftrain.models.saved import remember
from hftrain.tasks.speaking.codec import AUTO, CODEC, codec_of, read_codes
from hftrain.tasks.speaking.config import SpeakConfig
from hftrain.tasks.speaking.losses import is_aligned, mask_padding, speaking_part
from hftrain.tasks.speaking.voice import Voice
from hftrain.text.tokenizer import vocabulary

logger = logging.getLogger(__name__)

FASTSPEECH: dict[str, Any] = {  # 0.8 million parameters
    "hidden_size": 96,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_linear_units": 256,
    "decoder_linear_units": 256,
    "decoder_kernel_size": 15,
    "duration_predictor_channels": 96,
    "pitch_predictor_layers": 2,
    "pitch_predictor_channels": 96,
    "pitch_predictor_kernel_size": 3,
    "energy_predictor_channels": 96,
    "speech_decoder_postnet_layers": 3,
    "speech_decoder_postnet_units": 96,
    **{f"{part}_predictor_dropout": 0.2 for part in ("pitch", "energy")},
    "duration_predictor_dropout_rate": 0.2,
    **{f"{part}_dropout_rate": 0.1 for part in ("encoder", "decoder", "encoder_positional", "decoder_positional")},
    **{f"{part}_attention_dropout_rate": 0.1 for part in ("encoder", "decoder")},
    "speech_decoder_postnet_dropout": 0.1,
}
SPEECHT5: dict[str, Any] = {
    "hidden_size": 128,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 384,
    "decoder_ffn_dim": 384,
    "speech_decoder_prenet_units": 128,
    "speaker_embedding_dim": 64,
    "speech_decoder_postnet_layers": 3,
    "speech_decoder_postnet_units": 128,
    "conv_dim": [16],  # of the encoder of speech, which this task does not have
    "conv_stride": [2],
    "conv_kernel": [2],
}
SHAPES = {"fastspeech2_conformer": FASTSPEECH, "speecht5": SPEECHT5}


class FixedBatchNorm(nn.Module):
    """Batch normalisation by the saved averages, which do not change: the names are those of `nn.BatchNorm1d`."""

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, of: nn.BatchNorm1d):
        super().__init__()
        self.eps = of.eps
        self.weight, self.bias = of.weight, of.bias
        for name, buffer in of.named_buffers():
            self.register_buffer(name, buffer)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(inputs, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


def load_model(config: SpeakConfig, voice: Voice) -> Any:
    """The model that `config` names, or a new one, for the tokens and the speakers of `voice`.

    Raises:
        ValueError: a model with other mel bands than its extractor, or `freeze` names nothing.
    """
    kind: str = config.model
    if config.model_name_or_path is not None:
        pretrained = load.load_model_config(config)
        kind = pretrained.model_type
        if kind in AUTO:
            return load_coded(config, voice, kind)
        if pretrained.num_mel_bins != voice.mel.bands:
            raise ValueError(f"the model has {pretrained.num_mel_bins} mel bands, its extractor {voice.mel.bands}")
    settings: dict[str, Any] = {}
    if kind == "fastspeech2_conformer" and len(voice.speakers) > 1:
        settings = {"num_speakers": len(voice.speakers)}
    if kind == "speecht5":  # layers that are left out now and then have no gradient, for which processes would wait
        settings = {"encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0}
    model = load.load_model(
        config, AutoModelForTextToSpectrogram, new=partial(new_shape, config, voice), settings=settings
    )
    inner = speaking_part(model)
    if config.fixed_batch_norm:
        fix_batch_norm(inner)
    if not is_aligned(inner.config):
        steady_prenet(inner)
        give_dimensions(inner)  # the scale of its positions
    mask_padding(model)
    remember(inner.config, **voice.remembered())
    if config.freeze:
        freeze(model, config.freeze)
    return load.add_adapters(model, config, None)


def load_coded(config: SpeakConfig, voice: Voice, kind: str) -> Any:
    """A model that speaks in codes; its codec is not trained."""
    model = load.load_model(config, getattr(transformers, AUTO[kind]))
    inner = speaking_part(model)
    codec_of(inner, voice.processor)
    if kind == "csm":
        read_codes(inner)
    remember(inner.config, **voice.remembered())
    if config.freeze:
        freeze(model, config.freeze)
    return load.add_adapters(model, config, None, exclude=rf"{CODEC}\..*" if kind == "csm" else None)


def new_shape(config: SpeakConfig, voice: Voice) -> PreTrainedConfig:
    """The configuration of a new model. Raises: ValueError, a value of `model_config` that it refuses."""
    known = {"vocab_size", "pad_token_id", "bos_token_id", "eos_token_id"}
    facts = {name: value for name, value in vocabulary(voice.tokenizer).items() if name in known}
    shape = SHAPES[config.model] | {"num_mel_bins": voice.mel.bands}
    if config.model == "speecht5":
        longest = voice.most_frames // 2 + 2
        shape |= facts | {"decoder_start_token_id": facts["bos_token_id"], "max_speech_positions": longest}
    else:
        shape["vocab_size"] = facts["vocab_size"]
    with naming_model_config():
        return AutoConfig.for_model(config.model, **shape | config.model_config)


@torch.no_grad()
def begin_at_mean(config: SpeakConfig, model: nn.Module, examples: Examples) -> None:
    """The last layer of a new model starts at the mean of each band over the training frames."""
    if config.model_name_or_path is not None:
        return
    mels = examples.items.mels  # type: ignore[attr-defined]
    mean = np.sum([mels[i].sum(axis=0, dtype=np.float64) for i in range(len(mels))], axis=0) / mels.ends[-1]
    bias = speaking_part(model).speech_decoder_postnet.feat_out.bias
    bias.copy_(torch.from_numpy(np.tile(mean, len(bias) // len(mean))))


def fix_batch_norm(model: nn.Module) -> None:
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if type(module) is nn.BatchNorm1d:
                setattr(parent, name, FixedBatchNorm(module))


def steady_prenet(model: Any) -> None:
    """The dropout of SpeechT5's prenet, which is on in evaluation too (arXiv 1712.05884, section 2.2): there its draws
    now have a fixed seed and go frame by frame, so that an utterance does not depend on others. With a probability of
    0, of which transformers' own code makes zeros, nothing is dropped."""

    def drop(prenet: nn.Module, hidden: torch.Tensor, p: float) -> torch.Tensor:
        if p == 0:
            return hidden
        if prenet.training:
            return type(prenet)._consistent_dropout(prenet, hidden, p)  # type: ignore[attr-defined, no-any-return]
        drawn = torch.rand(hidden.shape[1:], generator=torch.Generator().manual_seed(0))
        return hidden * (drawn < p).to(hidden) / (1 - p)

    prenet = model.speecht5.decoder.prenet
    prenet._consistent_dropout = MethodType(drop, prenet)
