"""Waves as a model reads them, by its own feature extractor of transformers: log-mel frames or raw samples.

Shapes: B waves, T samples or frames, M mel bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hftrain.audio.augment import Masks
from hftrain.losses import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

WHISPER, WAVES, MEL_BANDS = "WhisperFeatureExtractor", "Wav2Vec2FeatureExtractor", 80
NEW_ENCODER: dict[str, Any] = {  # of wav2vec2-bert: 50 frames a second; no part of it draws by micro-batch
    "feature_projection_input_dim": 2 * MEL_BANDS,
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 384,
    "conv_depthwise_kernel_size": 15,
    "conformer_conv_dropout": 0.0,
    "final_dropout": 0.0,
}
STEADY = {"apply_spec_augment": False, "layerdrop": 0.0}  # what draws by micro-batch; `augment` covers parts instead
NEW = {"feature_size": MEL_BANDS, "num_mel_bins": MEL_BANDS, "stride": 2, "sampling_rate": 16_000}


class Features:
    """The inputs of a model.

    Args:
        extractor: the feature extractor of transformers.
        window: seconds to which each wave is padded, for Whisper; None: as the extractor has it.
    """

    def __init__(self, extractor: Any, window: int | None = None):
        self.fixed, self.raw = (type(extractor).__name__ == kind for kind in (WHISPER, WAVES))
        if window is not None:
            extractor = type(extractor)(**{**extractor.to_dict(), "chunk_length": window})
        self.extractor, self.rate = extractor, int(extractor.sampling_rate)
        self.masked = bool(getattr(extractor, "return_attention_mask", True)) and not self.fixed

    @property
    def window(self) -> int | None:
        """Seconds that the model hears at most; None: any length."""
        return int(self.extractor.chunk_length) if self.fixed else None

    def __call__(self, waves: Sequence[np.ndarray], masks: Sequence[Masks] = ()) -> Batch:
        """{"input_features" or "input_values", "attention_mask" if the model reads one, "lengths" (B,) without
        padding}; with `masks`, parts of each are replaced by its mean."""
        how: dict[str, Any] = {"padding": "max_length" if self.fixed else True, "return_attention_mask": True}
        made = self.extractor(list(waves), sampling_rate=self.rate, return_tensors="pt", **how)
        name = "input_features" if "input_features" in made else "input_values"
        values = made[name].float()
        mask = made.get("attention_mask")
        lengths = torch.full((len(waves),), values.shape[1]) if mask is None else mask.sum(-1)
        for place, drawn in enumerate(masks):
            self._cover(values[place], int(lengths[place]), drawn)
        batch = {name: values, "lengths": lengths}
        return batch | ({"attention_mask": mask} if self.masked and mask is not None else {})

    def together(self, config: PreTrainedConfig, batch_size: int) -> int:
        """Recordings of a batch for exact scores: 1 where padding changes what a model of raw waves hears, since its
        extractor has no mask (wav2vec2-base), or its first layer normalises over time (groups)."""
        grouped = getattr(config, "feat_extract_norm", None) == "group"
        return 1 if self.raw and (grouped or not self.masked) else batch_size

    def steps(self, seconds: float) -> int:
        """Steps of the input for a wave: samples, or frames of which a few at the end may be missing."""
        if self.raw:
            return int(seconds * self.rate)
        hop = getattr(self.extractor, "hop_length", self.rate // 100)
        return max(1, int(seconds * self.rate / hop - 2) // getattr(self.extractor, "stride", 1))

    def _cover(self, values: torch.Tensor, length: int, masks: Masks) -> None:
        """SpecAugment in place, on (T,), (T, M), or Whisper's (M, T); frames that were stacked share their bands."""
        values = values.T if self.fixed else values
        mean = values[:length].mean()
        for start, width in masks.times:
            values[int(start * length) : int((start + width) * length)] = mean
        if values.ndim == 2:
            bands = values.view(len(values), getattr(self.extractor, "stride", 1), -1) if not self.fixed else values
            for start, width in masks.bands:
                size = bands.shape[-1]
                bands[:length, ..., int(start * size) : int((start + width) * size)] = mean

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the settings, as transformers reads them."""
        self.extractor.save_pretrained(folder)


def load_extractor(name: str, revision: str = "main", *, trust_remote_code: bool = False) -> Any:
    """The feature extractor of a model, of a folder or on the Hub. Raises: ValueError, it has none."""
    from transformers import AutoFeatureExtractor

    from hftrain.models.trust import refusing_code

    try:
        with refusing_code(name):
            return AutoFeatureExtractor.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} has no settings of a feature extractor: {error}") from error


def new_extractor() -> Any:
    """80 log-mel bands, two frames of 10 ms at once, normalised by band: for a new model."""
    from transformers import SeamlessM4TFeatureExtractor

    return SeamlessM4TFeatureExtractor(**NEW)
