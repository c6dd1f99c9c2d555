"""Trials before training: they test that a run's promises hold for its model, data and loss.

Trials use a small model of the same kind, in fp32 on the CPU, and leave the model unchanged.
"""

from hftrain.train.trials.batches import check_batches
from hftrain.train.trials.language import (
    attend_in_blocks,
    check_causal,
    check_packing,
    chunk_loss,
    separate_documents,
)
from hftrain.train.trials.padding import without_padding

__all__ = [
    "attend_in_blocks",
    "check_batches",
    "check_causal",
    "check_packing",
    "chunk_loss",
    "separate_documents",
    "without_padding",
]
