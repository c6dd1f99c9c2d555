"""Model FLOPs against the numbers of papers and against PyTorch's own counter."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    MambaConfig,
    MambaForCausalLM,
)

from hftrain.data.examples import Examples
from hftrain.data.packing import Packed, pack
from hftrain.labels.losses import classification
from hftrain.losses import Loss, causal_language_model
from hftrain.models import TransformerConfig
from hftrain.text.causal import collate_causal
from hftrain.train.flops import PEAKS, count_parameters, peak_flops, step_flops, training_flops
from hftrain.train.forecast.passes import ON_CPUS, counted_flops
from tests import tiny

pytestmark = pytest.mark.unit

TINY = {"vocab_size": 211, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 80}
MODELS = {
    "llama": (AutoModelForCausalLM, {**TINY, "num_key_value_heads": 4}),
    "llama, grouped": (AutoModelForCausalLM, {**TINY, "num_key_value_heads": 2}),
    "qwen3": (AutoModelForCausalLM, {**TINY, "num_key_value_heads": 2, "head_dim": 16}),
    "gpt2": (AutoModelForCausalLM, {"vocab_size": 211, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}),
    "bert": (AutoModelForMaskedLM, TINY),
    "t5": (AutoModelForSeq2SeqLM, {"vocab_size": 211, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3,
                                   "num_decoder_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}),
}  # fmt: skip


@pytest.mark.parametrize("name", list(MODELS))
def test_the_count_is_that_of_the_operations(name):
    """PyTorch's counter sees every product of eager attention; ours leaves out no matrix and counts none twice."""
    auto, shape = MODELS[name]
    config = AutoConfig.for_model(name.partition(",")[0], **shape)
    model = auto.from_config(config, attn_implementation="eager").eval()
    rows, length = 3, 40
    ids = torch.randint(200, (rows, length))
    extra = {"decoder_input_ids": ids[:, :24]} if config.is_encoder_decoder else {}
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, use_cache=False, **extra).logits.sum().backward()
    lengths = np.full((rows, 1), length) if not extra else np.tile([length, 24], (rows, 1))
    rest = {"t5": 0.06, "bert": 0.02}.get(name, 0.01)  # cross-attention's keys are of the source; rotary angles
    assert training_flops(model)(lengths) == pytest.approx(counter.get_total_flops(), rel=rest)


def test_a_model_of_any_kind_is_counted_by_its_passes():
    """On a copy that has no numbers: of a language model what the formula says, of others what they really compute."""
    llama = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **MODELS["llama"][1]))
    lengths = np.array([[8], [20], [40]])
    examples = Examples([{"input_ids": np.arange(n)} for n in lengths[:, 0]], lengths)
    counted = counted_flops(llama, examples, partial(collate_causal, pad_token_id=0), causal_language_model())
    every = np.arange(3)
    assert counted(every) == pytest.approx(training_flops(llama)(lengths), rel=0.02)
    shape = {"image_size": 16, "patch_size": 4, "num_labels": 3} | {k: v for k, v in TINY.items() if k != "vocab_size"}
    seeing = AutoModelForImageClassification.from_config(AutoConfig.for_model("vit", **shape))
    loss = classification("single_label_classification")
    batch = {"pixel_values": torch.randn(4, 3, 16, 16), "labels": torch.tensor([0, 1, 2, 0])}
    images = Examples([{}] * 4, np.ones((4, 1), dtype=int))
    before = {name: value.clone() for name, value in seeing.state_dict().items()}
    counted = counted_flops(seeing, images, lambda rows: {k: v[: len(rows)] for k, v in batch.items()}, loss)
    with FlopCounterMode(display=False, custom_mapping=ON_CPUS) as counter:
        loss.summed(seeing, batch).backward()
    assert counted(np.arange(4)) == pytest.approx(counter.get_total_flops()) and counter.get_total_flops() > 0
    assert all(torch.equal(value, before[name]) for name, value in seeing.state_dict().items())
    unknown = Loss(lambda model, batch: model(**batch).logits[int(batch["pixel_values"].sum()) :].sum(), len)
    assert counted_flops(seeing, images, lambda rows: {}, unknown) is None


def test_frozen_parameters_windows_and_experts():
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **MODELS["llama"][1]))
    lengths = np.array([[10], [30]])
    whole = training_flops(model)(lengths)
    matrices = sum(p.numel() for p in model.parameters() if p.ndim == 2) - 211 * 32
    assert whole == 6 * matrices * 40 + 12 * 3 * 32 * (10**2 + 30**2)
    model.requires_grad_(False)
    assert training_flops(model)(lengths) == whole - 2 * matrices * 40
    shape = {**TINY, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8, "pad_token_id": 0}
    gemma = AutoModelForCausalLM.from_config(AutoConfig.for_model("gemma2", **shape))
    local = gemma.config.layer_types.count("sliding_attention")
    assert 0 < local < 3
    matrices = sum(p.numel() for p in gemma.parameters() if p.ndim == 2)
    expected = 6 * matrices * 20 + 12 * 32 * 20 * (local * 8 + (3 - local) * 20)
    assert training_flops(gemma)(np.array([[20]])) == expected
    shape = {**TINY, "num_local_experts": 8, "num_experts_per_tok": 2, "num_key_value_heads": 4}
    mixtral = AutoModelForCausalLM.from_config(AutoConfig.for_model("mixtral", **shape))
    expert = 3 * 32 * 80
    dense = 211 * 32 + 3 * (4 * 32 * 32 + 8 * 32)
    assert training_flops(mixtral)(np.array([[1]])) == 6 * (dense + 3 * 2 * expert) + 12 * 3 * 32


def test_a_model_without_attention_counts_its_parameters():
    shape = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}
    flops = training_flops(MambaForCausalLM(MambaConfig(**shape)))
    assert flops(np.array([[12]])) == 2 * flops(np.array([[6]])) > 0


def test_our_own_model_on_the_meta_device():
    config = TransformerConfig(vocab_size=97, hidden_size=32, intermediate_size=48, num_attention_heads=4,
                               num_encoder_layers=0, num_decoder_layers=2)  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    per_layer = 4 * 32 * 32 + 2 * 32 * 48
    assert training_flops(model)(np.array([[5]])) == 6 * 5 * (2 * per_layer + 97 * 32) + 12 * 2 * 32 * 25
    assert count_parameters(model) == count_parameters(AutoModelForCausalLM.from_config(config))


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200 NVL", 835e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 503.8e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("Tesla T4", 65e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_peaks(name, peak, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda")) == peak
    assert peak_flops(torch.device("cpu")) is None
    assert all(10 < value < 5000 for _, value in PEAKS)


def test_a_step_of_any_recipe_has_its_flops():
    """Documents count apart where they are packed, and so do the two answers of a preference; images have no tokens."""
    model = tiny.model("LlamaForCausalLM")
    lengths, counted = np.array([[5], [9], [7]]), training_flops(model)
    examples = Examples([{}] * 3, lengths)
    assert step_flops(model, examples)(np.array([0, 2])) == counted(lengths[[0, 2]])
    packed = Packed(examples, pack(lengths, 32))
    assert step_flops(model, packed)(np.arange(len(packed))) == counted(lengths)
    assert counted(np.array([[5, 9]])) == counted(lengths[:2])
    assert step_flops(model, Examples([{}] * 3, np.ones((3, 1), dtype=int))) is None
