"""The loss of speech recognition: CTC for each utterance, or cross-entropy for each label.

Shapes: B utterances, T frames, V tokens, L labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from hftrain.losses import IGNORE, Batch, Loss, sequence_to_sequence


def recognition(model: Any, label_smoothing: float = 0.0) -> Loss:
    """The sum over utterances of -log p of their text (CTC; Graves et al. 2006), to be divided by the utterances; or
    the sum of the cross-entropy of labels, to be divided by these."""
    if model.config.is_encoder_decoder:
        return sequence_to_sequence(label_smoothing)
    frames, blank = frames_of(model), model.config.pad_token_id

    def summed(model: nn.Module, batch: Batch) -> torch.Tensor:
        return ctc(logits_of(model, batch), batch["labels"], frames(batch["lengths"]), blank).sum()

    return Loss(summed, lambda batch: len(batch["labels"]))


def ctc(logits: torch.Tensor, labels: torch.Tensor, frames: torch.Tensor, blank: int) -> torch.Tensor:
    """(B,) -log p of each text, in fp32.

    Args:
        logits: (B, T, V). labels: (B, L), padded with IGNORE. frames: (B,) without padding.
    """
    lengths = (labels != IGNORE).sum(-1)
    scores = logits.float().log_softmax(-1).transpose(0, 1)
    filled = labels.clamp(min=0)
    return F.ctc_loss(scores, filled, frames.to(lengths), lengths, blank=blank, reduction="none")


def logits_of(model: nn.Module, batch: Batch) -> torch.Tensor:
    """(B, T, V)"""
    inputs: torch.Tensor = model(
        **{name: value for name, value in batch.items() if name not in ("labels", "lengths")}
    ).logits
    return inputs


def frames_of(model: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Lengths of inputs, (B,) -> frames that a CTC model writes for them."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    for part in (base, getattr(base, "encoder", base)):
        for name in ("_get_feat_extract_output_lengths", "_get_subsampling_output_length"):
            if hasattr(part, name):
                return getattr(part, name)  # type: ignore[no-any-return]
    raise ValueError(f"{type(base).__name__} does not name the frames that it writes: hftrain cannot train it by CTC")
