"""Attention block by block gives what the dense mask of a pack gives, forward and backward."""

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from hftrain.data.packing import Packed, pack
from hftrain.losses import causal_language_model
from hftrain.models.blocks import BLOCKS
from hftrain.text.causal import collate_causal, in_blocks
from hftrain.train.trials import attend_in_blocks, separate_documents
from tests.text.test_causal import tiny

pytestmark = pytest.mark.unit


def packs_of(lengths, room):
    draw = np.random.default_rng(0)
    return Packed([{"input_ids": draw.integers(1, 97, n)} for n in lengths], pack(lengths, room))


def loss_and_gradients(model, batch):
    model.zero_grad()
    value = causal_language_model().summed(model, batch)
    value.backward()
    return float(value.detach()), {name: p.grad.clone() for name, p in model.named_parameters()}


def mistral():
    torch.manual_seed(1)
    shape = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"intermediate_size": 48, "num_key_value_heads": 2, "sliding_window": 6}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model("mistral", **shape), attn_implementation="sdpa")


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3", "mistral"])
def test_blocks_give_what_a_mask_gives(name):
    model = (mistral() if name == "mistral" else tiny(name, "sdpa")).eval()
    if name == "gpt2":
        assert not attend_in_blocks(model)  # its attention has dropout
        model.config.attn_pdrop = 0.0
    packs = packs_of((3, 17, 1, 9, 12, 5, 9, 2, 9, 8), 30)
    dense = loss_and_gradients(model, collate_causal(packs[:], pad_token_id=0))
    assert attend_in_blocks(model) and in_blocks(model)
    batch = collate_causal(packs[:], pad_token_id=0, blocks=True)
    blocks = loss_and_gradients(model, batch)
    assert blocks[0] == pytest.approx(dense[0], rel=1e-6)
    largest = max(float(gradient.abs().max()) for gradient in dense[1].values())
    for parameter, gradient in dense[1].items():
        torch.testing.assert_close(blocks[1][parameter], gradient, rtol=1e-4, atol=1e-6 * largest, msg=parameter)
    del batch["cu_seq_lens_q"]  # documents that see one another: the comparison notices
    assert loss_and_gradients(model, batch)[0] != pytest.approx(dense[0], rel=1e-4)


def test_a_batch_names_the_edges_of_its_documents():
    packs = Packed([{"input_ids": [1, 2]}, {"input_ids": [3, 4, 5]}, {"input_ids": [6, 7]}], pack([2, 3, 2], 4))
    batch = collate_causal(packs[:], pad_token_id=9, blocks=True)
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0], [0, 1, 0, 1]] and batch["input_ids"][0, -1] == 9
    assert batch["cu_seq_lens_q"].tolist() == [0, 3, 4, 6, 8] and batch["max_length_k"] == 3
    assert batch["attention_mask"].all() and batch["cu_seq_lens_k"].dtype == torch.int32
    flat = collate_causal(packs[:], pad_token_id=9, flat=True)
    assert flat["cu_seq_lens_q"].tolist() == [0, 3, 5, 7] and "attention_mask" not in flat


def test_without_edges_it_is_sdpa():
    """Evaluation of rows that are not packed, and generation."""
    model = tiny("llama", "sdpa")
    rows = [{"input_ids": [5, 6, 7]}, {"input_ids": [8]}]
    batch = collate_causal(rows, pad_token_id=0)
    expected = model(**{k: v for k, v in batch.items() if k != "labels"}).logits
    assert attend_in_blocks(model)
    torch.testing.assert_close(model(**{k: v for k, v in batch.items() if k != "labels"}).logits, expected)
    words = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    written = model.generate(batch["input_ids"][:1], **words)
    model.set_attn_implementation("sdpa")
    assert written.tolist() == model.generate(batch["input_ids"][:1], **words).tolist()


@pytest.mark.parametrize("name", ["transformer", "bloom"])
def test_other_models_keep_their_mask(name):
    model = tiny(name, None)
    kernel = model.config._attn_implementation
    assert not attend_in_blocks(model)
    assert model.config._attn_implementation == kernel


def test_a_chosen_kernel_stays_and_the_folder_names_none(tmp_path):
    eager = tiny("llama", "eager")
    assert not attend_in_blocks(eager) and eager.config._attn_implementation == "eager"
    model = tiny("llama", "sdpa")
    separate_documents(model, 24, "sdpa")
    assert not in_blocks(model)
    separate_documents(model, 24, None)
    assert in_blocks(model)
    model.save_pretrained(tmp_path)
    assert BLOCKS not in (tmp_path / "config.json").read_text()
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.config._attn_implementation == "sdpa"


def test_half_precision_and_recomputed_activations():
    model = tiny("llama", "sdpa").train()
    packs = packs_of((3, 7, 7, 2), 12)
    assert attend_in_blocks(model)
    batch = collate_causal(packs[:], pad_token_id=0, blocks=True)
    plain = loss_and_gradients(model, batch)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    again = loss_and_gradients(model, batch)
    assert again[0] == plain[0] and all(torch.equal(again[1][name], plain[1][name]) for name in plain[1])
    with torch.autocast("cpu", torch.bfloat16):
        assert loss_and_gradients(model, batch)[0] == pytest.approx(plain[0], rel=2e-2)
