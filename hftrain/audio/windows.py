"""Short windows for Whisper: where all recordings are short, its encoder hears no longer than these."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from transformers.integrations import is_deepspeed_zero3_enabled

from hftrain.audio.features import Features

if TYPE_CHECKING:
    from hftrain.audio.config import AudioConfig
    from hftrain.data.rows import Rows

logger = logging.getLogger(__name__)

WINDOW = 30  # seconds that Whisper hears


def within_window(features: Features, rows: Mapping[str, Rows], config: AudioConfig, setting: str) -> Features:
    """Whisper's with a window of the seconds that `setting` of `config` has, rounded up; if it is open, as long as the
    longest recording, and the setting is chosen. Others unchanged.

    Raises:
        ValueError: the setting is longer than the model's own window.
    """
    if not features.fixed:
        return features
    heard = features.window or WINDOW
    longest = max(float(np.max(split["seconds"][:])) for split in rows.values())
    config.choose(setting, min(heard, max(1, math.ceil(longest))), f"the longest recording has {longest:.2f} s")
    if (window := math.ceil(getattr(config, setting))) > heard:
        raise ValueError(f"{setting} {window}: the model hears {heard} s at once, so set at most {heard}")
    return Features(features.extractor, window)


def window_remarks(window: int | None) -> list[str]:
    """What the card says of a window of so many seconds; None: any length."""
    if window is None or window >= WINDOW:
        return []
    return [f"The encoder hears {window} s at once: its other positions were cut off"]


@torch.no_grad()
def hear_less(model: Any, seconds: int) -> None:
    """Cuts the positions of Whisper's encoder, 50 a second.

    Raises:
        ValueError: they are in pieces (ZeRO-3), or fewer.
    """
    encoder, positions = model.get_encoder(), 50 * seconds
    table = encoder.embed_positions
    if positions == model.config.max_source_positions:
        return
    if positions > model.config.max_source_positions:
        raise ValueError(f"a window of {seconds} s: the model hears {model.config.max_source_positions / 50:g} s")
    if is_deepspeed_zero3_enabled():
        raise ValueError(
            f"a window of {seconds} s: positions cannot be cut in pieces (ZeRO-3): use ZeRO-2, or a window of "
            f"{model.config.max_source_positions // 50} s"
        )
    like = {"dtype": table.weight.dtype, "device": table.weight.device}
    shorter = nn.Embedding(positions, table.embedding_dim, **like)
    shorter.weight.copy_(table.weight[:positions])
    encoder.embed_positions = shorter.requires_grad_(table.weight.requires_grad)
    model.config.max_source_positions = encoder.max_source_positions = positions
    logger.warning("Whisper's encoder hears %d s at once: its other positions are cut off", seconds)
