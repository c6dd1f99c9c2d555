"""How often the CPU waits for the device in a micro-batch: operations whose result, or its shape, it has to read."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hftrain.losses import causal_language_model
from hftrain.text.causal import collate_causal
from hftrain.train.trials import chunk_loss
from tests import tiny

pytestmark = pytest.mark.unit
READ = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}
MASKED = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default, torch.ops.aten.index_put.default}


class Waits(TorchDispatchMode):
    """Counts them by name, on any device."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        masked = func in MASKED and any(i is not None and i.dtype == torch.bool for i in args[1])
        if func in READ or masked:
            self.counts[func.__name__.partition(".")[0]] += 1
        return func(*args, **(kwargs or {}))


def test_a_micro_batch_of_a_language_model_waits_three_times():
    """Once for the number of labelled positions, and twice in transformers, for a mask of ones and for packs."""
    model = tiny.model("LlamaForCausalLM", vocab_size=50, num_hidden_layers=3).train()
    assert chunk_loss(model)
    rows = [{"input_ids": torch.arange(3, n).numpy()} for n in (9, 14)]
    batch = collate_causal(rows, pad_token_id=0)
    loss = causal_language_model(chunked=True)
    with Waits() as waits:
        loss.summed(model, batch).backward()
    assert waits.counts == {"_local_scalar_dense": 3}
    del batch["attention_mask"]
    with Waits() as waits:
        loss.summed(model, batch).backward()
    assert waits.counts == {"_local_scalar_dense": 2}
