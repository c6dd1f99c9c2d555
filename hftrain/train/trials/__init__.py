"""What is tried before a run trains: that what it promises holds for the model, the data and the loss at hand.

Trials run on a small model of the same kind, in fp32 on the CPU, and leave the model as it was.
"""

from hftrain.train.trials.batches import check_batches
from hftrain.train.trials.language import check_causal, check_packing, chunk_loss

__all__ = ["check_batches", "check_causal", "check_packing", "chunk_loss"]
