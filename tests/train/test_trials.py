"""What is tried before a run, on a small model of the kind: packing, and what depends on the micro-batch."""

import logging
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    BertModel,
)

from hftrain import text
from hftrain.config import TrainConfig
from hftrain.data.examples import Examples
from hftrain.data.packing import Packed, pack
from hftrain.losses import Loss, causal_language_model
from hftrain.text.causal import collate_causal
from hftrain.train.trials import check_batches, check_causal, check_packing, chunk_loss
from hftrain.train.trials.memory import as_it_was
from hftrain.train.trials.small import parts, stand_ins
from tests import ROOT
from tests.train.exact_worker import launch

TINY = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
SEQ2SEQ = {
    "vocab_size": 97, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 256,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "rope_theta": 10000.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
PHI = {**TINY, "num_key_value_heads": 4, "rope_parameters": LONGROPE, "max_position_embeddings": 128,
       "original_max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
LLAMA = {**TINY, "num_key_value_heads": 2}
CLASSES, CAUSAL, PAIRS = AutoModelForSequenceClassification, AutoModelForCausalLM, AutoModelForSeq2SeqLM


def tiny(auto, name, **shape):
    torch.manual_seed(0)
    return auto.from_config(AutoConfig.for_model(name, **{"pad_token_id": 0, **shape}))


def large(auto, name, **shape):
    """A model of the architecture's own default size, without memory for its weights."""
    with torch.device("meta"):
        return auto.from_config(AutoConfig.for_model(name, **shape))


def tried(model, longest=24, *, count=6, **settings):
    """`check_batches` of rows of up to `longest` tokens, with a loss that any model passes that gives rows the same."""
    lengths = np.linspace(8, longest, count).astype(int)
    rows = [{"input_ids": np.arange(length) % 90 + 3} for length in lengths]

    def collate(rows):
        ids = text.pad([row["input_ids"] for row in rows], 0)
        return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": ids[:, 0]}

    def loss(model, batch):
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        if model.config.is_encoder_decoder:
            inputs["decoder_input_ids"] = batch["input_ids"]
        return next(iter(model(**inputs).values())).flatten(1)[:, 0].square().sum()

    task = {"collate": collate, "loss": Loss(loss, lambda batch: len(batch["labels"]))}
    return check_batches(model, Examples(rows, lengths), TrainConfig(**settings), **task)


# ------------------------------------------------------------------------- models that look at padding or at the batch

PADDING = {
    "fnet": (CLASSES, {**TINY, "tpu_short_seq_length": 24}, 24),
    "convbert": (CLASSES, {**TINY, "embedding_size": 32}, 24),
    "nystromformer": (CLASSES, {**TINY, "num_landmarks": 4, "segment_means_seq_len": 4}, 24),
    "funnel": (CLASSES, {"vocab_size": 97, "block_sizes": [1, 1, 1], "d_model": 32, "n_head": 4, "d_head": 8,
                         "d_inner": 48}, 24),
    "canine": (CLASSES, {**TINY, "num_hash_buckets": 64, "downsampling_rate": 4, "local_transformer_stride": 16,
                         "upsampling_kernel_size": 4, "num_hidden_layers": 1}, 48),
    "prophetnet": (PAIRS, {"vocab_size": 97, "hidden_size": 32, "encoder_ffn_dim": 48, "num_encoder_layers": 1,
                           "num_encoder_attention_heads": 4, "decoder_ffn_dim": 48, "num_decoder_layers": 1,
                           "num_decoder_attention_heads": 4, "decoder_start_token_id": 0}, 24),
    "phi3": (CAUSAL, PHI, 48),
}  # fmt: skip


@pytest.mark.parametrize("name", PADDING)
def test_a_model_that_padding_changes_is_named_with_what_keeps_it_exact(name):
    auto, shape, longest = PADDING[name]
    model = tiny(auto, name, **shape)
    (note,) = tried(model, longest)
    assert note.startswith(
        f"{type(model).__name__} changes the results of a row beside longer rows in its micro-batch, by"
    )
    assert "equal_length_micro_batches=true or micro_batch_size=1 makes them exact" in note
    for exact in ({"equal_length_micro_batches": True}, {"micro_batch_size": 1}):
        assert tried(model, longest, eval_batch_size=1, **exact) == []
        (note,) = tried(model, longest, **exact)
        assert "micro_batch_size" not in note and note.endswith("Scores depend on eval_batch_size; 1 makes them exact")


def test_a_model_that_remembers_what_it_saw_is_named():
    (note,) = tried(tiny(CAUSAL, "llama", **LLAMA, rope_parameters=DYNAMIC, max_position_embeddings=32), 48)
    assert "after rows of other lengths" in note and "a resumed run differs" in note
    assert "Its dynamic positions are the reason" in note
    bird = tiny(CLASSES, "big_bird", **TINY, block_size=2, num_random_blocks=1)
    (note,) = tried(bird, 48)
    assert "attention_type=original_full makes them exact" in note
    assert bird.bert.attention_type == "block_sparse"


def test_experts_with_little_room_are_named():
    model = tiny(
        PAIRS, "nllb-moe", **SEQ2SEQ, num_experts=4, expert_capacity=4, encoder_sparse_step=1, decoder_sparse_step=1,
        decoder_start_token_id=0,
    )  # fmt: skip
    (note,) = tried(model)
    assert "beside other rows in its micro-batch" in note and "micro_batch_size=1 makes them exact" in note


def test_batch_normalisation_is_named():
    class Normalised(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

    notes = check_batches(
        Normalised(), Examples.of([1.0, 2.0, 3.0]), TrainConfig(),
        collate=lambda rows: {"x": torch.tensor(rows)[:, None].expand(-1, 4)},
        loss=Loss(lambda model, batch: model.norm(batch["x"]).sum(), lambda batch: len(batch["x"])),
    )  # fmt: skip
    assert len(notes) == 1 and "(BatchNorm1d): results depend on micro_batch_size" in notes[0]


EXACT = {
    "bert": (CLASSES, TINY), "electra": (AutoModelForQuestionAnswering, {**TINY, "embedding_size": 32}),
    "qwen3": (CLASSES, {**LLAMA, "head_dim": 8, "num_labels": 1}),
    "gpt2": (CAUSAL, {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4}),
    "llama": (CAUSAL, LLAMA), "bart": (PAIRS, SEQ2SEQ), "phi3": (CAUSAL, PHI),
    "t5": (PAIRS, {"vocab_size": 97, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
                   "decoder_start_token_id": 0}),
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
def test_an_exact_model_passes_and_is_left_as_it_was(name, caplog):
    auto, shape = EXACT[name]
    model = tiny(auto, name, **shape).train()
    before = {k: v.clone() for k, v in [*model.state_dict().items(), *model.named_buffers()]}, model.config.to_dict()
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    expected = random.random(), np.random.rand(), float(torch.rand(()))
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    assert tried(model) == [] and "hftrain" not in caplog.text  # Phi-3: no row is longer than it was first trained on
    assert (random.random(), np.random.rand(), float(torch.rand(()))) == expected
    assert model.training and model.config.to_dict() == before[1]
    after = dict([*model.state_dict().items(), *model.named_buffers()])
    assert all(torch.equal(after[name], value) for name, value in before[0].items())


# ----------------------------------------------------------------------------------------- packing at the lengths there


@pytest.mark.parametrize("name", ["phi3", "llama"])
def test_positions_that_follow_from_the_longest_document_are_no_packing(name):
    shape = PHI if name == "phi3" else {**LLAMA, "rope_parameters": DYNAMIC, "max_position_embeddings": 32}
    model = tiny(CAUSAL, name, **shape)
    check_packing(model, 32)
    kind = "longrope" if name == "phi3" else "dynamic"
    with pytest.raises(ValueError, match=f"turn packing off.*its {kind} positions depend on the longest document"):
        check_packing(model, 60)


def test_packed_rows_are_tried_at_the_lengths_of_their_documents():
    """Documents of 20 tokens in rows of 60, where Phi-3's positions change at 32."""
    documents = [{"input_ids": np.arange(20) + 3} for _ in range(12)]
    packs = Packed(documents, pack([20] * 12, 60))
    notes = check_batches(
        tiny(CAUSAL, "phi3", **PHI), packs, TrainConfig(), loss=causal_language_model(),
        collate=lambda rows: collate_causal(rows, pad_token_id=0),
    )  # fmt: skip
    assert notes == []


def test_a_large_model_is_tried_at_the_scale_of_its_lengths():
    """Phi-3 mini as published but for its factors: 4,096 tokens first, 131,072 now."""
    factors = {"short_factor": [1.0] * 48, "long_factor": [9.0] * 48, "original_max_position_embeddings": 4096}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, **factors}
    model = large(CAUSAL, "phi3", rope_parameters=rope, max_position_embeddings=131072)
    check_packing(model, 4096)
    with pytest.raises(ValueError, match="longrope positions"):
        check_packing(model, 8192)


# ----------------------------------------------------------------------------------------------------- the small model

LARGE = {
    "llama": (CAUSAL, {"hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64,
                       "num_key_value_heads": 8, "intermediate_size": 28672, "vocab_size": 128256}),
    "gemma3_text": (CAUSAL, {}), "qwen3_moe": (CAUSAL, {}), "bart": (PAIRS, {}), "deberta-v2": (CLASSES, {}),
    "mamba2": (CAUSAL, {}), "switch_transformers": (PAIRS, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_a_small_model_has_the_same_kinds_of_layers_and_heads(name):
    model = large(*[LARGE[name][0], name], **LARGE[name][1])
    small, ids = next(stand_ins(model))
    assert {type(m) for m in small.modules()} >= {type(m) for m in model.modules()}
    assert sum(p.numel() for p in small.parameters()) < 60_000_000
    assert small.device.type == "cpu" and small.dtype == torch.float32
    size = getattr(model.config, "num_attention_heads", 0)
    if name in ("llama", "bart", "deberta-v2"):
        assert small.config.hidden_size // small.config.num_attention_heads == model.config.hidden_size // size
    end = next((part.eos_token_id for part in parts(model.config) if part.eos_token_id is not None), None)
    if isinstance(end, int):  # no other token becomes the end
        assert (ids == ids[end]).sum() == 1 and small.config.eos_token_id == int(ids[end])


def test_a_70b_model_is_tried_without_its_weights(caplog):
    model = large(CAUSAL, "llama", **LARGE["llama"][1])
    with caplog.at_level(logging.WARNING):
        check_causal(model)
        check_packing(model, 4096)
        assert chunk_loss(model)
        assert tried(model) == []
    assert caplog.text == ""


@pytest.mark.slow
def test_no_process_of_zero3_gathers_the_model_for_a_trial(tmp_path):
    file = ROOT / "ds_configs" / "zero3.yaml"
    worker = str(Path(__file__).with_name("trials_worker.py"))
    found = launch(tmp_path, [], "--config_file", str(file), worker=worker)["trials"]
    assert found["notes"] == []
    assert max(found["held"]) < 0.01  # single parameters are never partitioned: norms
    # embeddings, head and one of 4 layers: a watch that looks at times could miss the layer
    assert 0.24 < min(found["answering"]) <= max(found["answering"]) < 0.44


def test_what_cannot_be_made_small_is_tried_whole(caplog):
    class Own(BertModel):  # a class whose author knows one size only
        def __init__(self, config):
            super().__init__(config)
            if config is not keep:
                raise RuntimeError("no other size")

    keep = AutoConfig.for_model("bert", **TINY)
    model = Own(keep)
    with caplog.at_level(logging.WARNING), pytest.raises(AttributeError):
        check_causal(model)  # which has no logits
    assert "Own is tried at its full size" in caplog.text


def test_as_it_was_puts_everything_back():
    model = tiny(CAUSAL, "llama", **LLAMA, rope_parameters=DYNAMIC, max_position_embeddings=8)
    ids, rope = torch.randint(97, (1, 30)), model.model.rotary_emb
    before, first = rope.inv_freq.clone(), model(ids[:, :12]).logits.detach()
    with as_it_was(tiny(CAUSAL, "llama", **LLAMA)):
        pass
    model = tiny(CAUSAL, "llama", **LLAMA, rope_parameters=DYNAMIC, max_position_embeddings=8).train()
    with as_it_was(model):
        model(ids)
        assert not torch.equal(model.model.rotary_emb.inv_freq, before)
    assert model.training and torch.equal(model.model.rotary_emb.inv_freq, before)
    assert torch.equal(model(ids[:, :12]).logits, first)
