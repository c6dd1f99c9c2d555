"""Causal batches, and packing that changes no loss and no gradient."""

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from transformers import AutoConfig, AutoModelForCausalLM

from hftrain.data.packing import Packed, pack
from hftrain.losses import causal_language_model
from hftrain.models import TransformerConfig
from hftrain.text.causal import causal_lengths, collate_causal
from hftrain.train.trials import check_packing

pytestmark = pytest.mark.unit

TINY = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPES = {
    "llama": {**TINY, "intermediate_size": 48, "num_key_value_heads": 2},
    "qwen3": {**TINY, "intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8},
    "gpt2": {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "opt": {**TINY, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 64},
    "bloom": {"vocab_size": 97, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "mamba": {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    "rwkv": {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "context_length": 64},
}
SHAPES["falcon"] = {**TINY, "alibi": True}


def tiny(name: str, attention: str | None = "eager"):
    torch.manual_seed(1)
    if name == "transformer":
        shape = {k: v for k, v in TINY.items() if k != "num_hidden_layers"}
        config = TransformerConfig(**shape, intermediate_size=48, num_encoder_layers=0, num_decoder_layers=2)
    else:
        config = AutoConfig.for_model(name, **SHAPES[name])
    kernel = {"attn_implementation": attention} if attention else {}
    return AutoModelForCausalLM.from_config(config, **kernel).eval()


def loss_and_gradients(model, examples, rows_at_once):
    model.zero_grad()
    loss, summed, items = causal_language_model(), 0.0, 0
    for start in range(0, len(examples), rows_at_once):
        batch = collate_causal(
            [examples[i] for i in range(len(examples))[start : start + rows_at_once]], pad_token_id=0
        )
        value = loss.summed(model, batch)
        value.backward()
        summed, items = summed + float(value.detach()), items + loss.count(batch)
    return summed, items, {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3", "transformer"])
def test_packing_changes_no_loss_and_no_gradient(name, attention):
    model, random = tiny(name, attention), np.random.default_rng(0)
    documents = [{"input_ids": random.integers(1, 97, length)} for length in (3, 17, 1, 9, 12, 5, 2, 8)]
    packs = Packed(documents, pack([len(d["input_ids"]) for d in documents], 20))
    assert 1 < len(packs) < len(documents)
    alone = loss_and_gradients(model, documents, rows_at_once=1)
    packed = loss_and_gradients(model, packs, rows_at_once=len(packs))
    assert packed[1] == alone[1]
    assert packed[0] == pytest.approx(alone[0], rel=1e-6)
    scale = max(float(g.abs().max()) for g in alone[2].values())
    for parameter, gradient in alone[2].items():
        torch.testing.assert_close(packed[2][parameter], gradient, rtol=1e-4, atol=1e-6 * scale, msg=parameter)
    check_packing(model)
    check_packing(model.to(torch.bfloat16))


@pytest.mark.parametrize("name", ["opt", "bloom", "falcon", "mamba", "rwkv"])
def test_a_model_that_mixes_documents_is_refused(name):
    if name == "falcon" and Version(transformers.__version__) >= Version("5.24"):
        pytest.skip("transformers keeps the documents of Falcon with ALiBi apart from 5.24 on")
    model = tiny(name, None).train()
    with pytest.raises(ValueError, match="turn packing off"):
        check_packing(model)
    assert model.training
    with pytest.raises(ValueError, match="separate documents"):
        check_packing(model.to(torch.bfloat16))


def test_batches():
    rows = [{"input_ids": [5, 6, 7]}, {"input_ids": [8], "labels": [8]}]
    batch = collate_causal([rows[0], {"input_ids": [8]}], pad_token_id=5, pad_to_multiple_of=4)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 5], [8, 5, 5, 5]]
    assert batch["labels"].tolist() == [[5, 6, 7, -100], [8, -100, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    packs = Packed([{"input_ids": [1, 2, 3]}, {"input_ids": [4, 5]}, {"input_ids": [6]}], pack([3, 2, 1], 4))
    batch = collate_causal(packs[0:2], pad_token_id=9)
    assert "attention_mask" not in batch
    assert batch["input_ids"].tolist() == [[1, 2, 3, 6], [4, 5, 9, 9]]
    assert batch["labels"].tolist() == [[-100, 2, 3, -100], [-100, 5, -100, -100]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0], [0, 1, 0, 0]]
    wide = collate_causal(packs[1:2], pad_token_id=9, room=4, blocks=True)
    assert wide["input_ids"].tolist() == [[4, 5, 9, 9]] and wide["cu_seq_lens_q"].tolist() == [0, 2, 3, 4]
    assert collate_causal(rows[:1], pad_token_id=9, room=4)["input_ids"].tolist() == [[5, 6, 7]]  # no pack
    flat = collate_causal(packs[0:2], pad_token_id=9, flat=True)
    assert flat["position_ids"].tolist() == [[0, 1, 2, 0, 0, 1]]
    assert causal_lengths(packs).tolist() == [[4], [2]] and causal_lengths(rows).tolist() == [[3], [1]]
