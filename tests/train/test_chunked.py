"""The loss summed in the output head, without logits: the same loss and gradients, and who cannot have it."""

import copy
import logging
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from hftrain import losses
from hftrain.losses import (
    causal_language_model,
    chunked_cross_entropy,
    chunked_log_probs,
    count_labels,
    cross_entropy,
    sequence_to_sequence,
)
from hftrain.models import TransformerConfig
from hftrain.tasks.preference import PreferenceConfig, preference_loss
from hftrain.text.causal import collate_causal
from hftrain.train.forecast.passes import count_pass
from hftrain.train.trials import chunk_loss
from tests import tiny as small

pytestmark = pytest.mark.unit

TINY = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
KV = {"num_key_value_heads": 2, "head_dim": 8}
MODELS = {
    "llama": (AutoModelForCausalLM, {**TINY, **KV}),
    "gpt2": (AutoModelForCausalLM, {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4}),  # tied
    "gemma": (AutoModelForCausalLM, {**TINY, **KV}),
    "gemma2": (AutoModelForCausalLM, {**TINY, **KV, "final_logit_softcapping": 0.5}),
    "cohere": (AutoModelForCausalLM, {**TINY, "logit_scale": 0.25}),
    "granite": (AutoModelForCausalLM, {**TINY, "logits_scaling": 4.0}),
    "bert": (AutoModelForMaskedLM, TINY),  # a bias
    "modernbert": (AutoModelForMaskedLM, {**TINY, "pad_token_id": 0}),
    "t5": (AutoModelForSeq2SeqLM, {"vocab_size": 97, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2,
                                   "num_heads": 4, "decoder_start_token_id": 0}),
    "bart": (AutoModelForSeq2SeqLM, {"vocab_size": 97, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1,
                                     "encoder_attention_heads": 4, "decoder_attention_heads": 4,
                                     "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}),
}  # fmt: skip


def tiny(name):
    torch.manual_seed(0)
    if name == "transformer":
        shape = {k: v for k, v in TINY.items() if k != "num_hidden_layers"}
        return AutoModelForCausalLM.from_config(TransformerConfig(**shape, num_encoder_layers=0, num_decoder_layers=2))
    auto, shape = MODELS[name]
    return auto.from_config(AutoConfig.for_model(name, **shape))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("with_bias", [False, True])
def test_the_sum_and_its_gradients_are_those_of_the_logits(smoothing, with_bias):
    torch.manual_seed(0)
    shapes = [(2, 450, 24), (1003, 24), (1003,)][: 2 + with_bias]  # 900 rows: four chunks
    tensors = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    labels = torch.randint(1003, (2, 450))
    labels[0, 100:150] = -100

    def results(function, dtype):
        inputs = [t.detach().to(dtype).clone().requires_grad_() for t in tensors]
        value = function(*inputs)
        (value * 0.37).backward()
        return [value.detach(), *(t.grad for t in inputs)]

    def logits_loss(hidden, weight, bias=None):
        logits = F.linear(hidden, weight, bias).flatten(0, 1)
        return F.cross_entropy(logits, labels.flatten(), label_smoothing=smoothing, reduction="sum")

    def chunked_loss(hidden, weight, bias=None):
        return chunked_cross_entropy(hidden, weight, bias, labels, smoothing)

    exact = results(logits_loss, torch.float64)
    for found, expected in zip(results(chunked_loss, torch.float32), exact, strict=True):
        assert float((found - expected).abs().max() / expected.abs().max()) < 2e-6


@pytest.mark.parametrize("with_bias", [False, True])
def test_log_probs_in_chunks_are_those_of_the_logits(with_bias):
    torch.manual_seed(0)
    shapes = [(2, 450, 24), (1003, 24), (1003,)][: 2 + with_bias]  # 900 rows: seven chunks
    tensors = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    labels, factors = torch.randint(1003, (2, 450)), torch.randn(2, 450, dtype=torch.float64)
    labels[0, 100:150] = -100

    def results(function, dtype):
        inputs = [t.detach().to(dtype).clone().requires_grad_() for t in tensors]
        values = function(*inputs)
        (values * factors.to(dtype)).sum().backward()
        return [values.detach(), *(t.grad for t in inputs)]

    def log_probs(hidden, weight, bias=None):
        all_of_them = F.linear(hidden, weight, bias).log_softmax(dim=-1)
        return all_of_them.gather(2, labels.clamp(min=0)[..., None])[..., 0] * (labels != -100)

    def in_chunks(hidden, weight, bias=None):
        return chunked_log_probs(hidden, weight, bias, labels, count_labels({"labels": labels}))

    exact = results(log_probs, torch.float64)
    for found, expected in zip(results(in_chunks, torch.float32), exact, strict=True):
        assert float((found - expected).abs().max() / expected.abs().max()) < 2e-6


def test_preferences_in_chunks_are_the_same_in_a_fraction_of_the_memory():
    model = small.model("LlamaForCausalLM", vocab_size=2000, num_key_value_heads=2)
    ids = torch.randint(4, 2000, (2, 2, 600), generator=torch.Generator().manual_seed(1))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}
    batch["labels"][:, :, :40] = -100
    loss = preference_loss(SimpleNamespace(), PreferenceConfig(reference_free=True))

    def results():
        model.zero_grad()
        value = loss.summed(model, batch)
        value.backward()
        return [value.detach(), *(p.grad.clone() for p in model.parameters())], count_pass(model, batch, loss)

    expected, whole = results()
    assert chunk_loss(model)
    found, chunked = results()
    scale = max(float(g.abs().max()) for g in expected[1:])
    # it is a difference of two sums of 4,000, which are rounded to 2e-4 each
    assert float(found[0]) == pytest.approx(float(expected[0]), rel=1e-4)
    for a, b in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * scale)
    assert whole.logits == 2400 * 2000 * 4
    assert chunked.activations < whole.activations / 4


def test_only_what_is_wanted_is_computed():
    hidden, weight = torch.randn(1, 5, 4), torch.randn(7, 4)
    labels = torch.randint(7, (1, 5))
    assert not chunked_cross_entropy(hidden, weight, None, labels).requires_grad
    value = chunked_cross_entropy(hidden.requires_grad_(), weight, None, labels)  # a frozen head, as with adapters
    value.backward()
    assert hidden.grad is not None and weight.grad is None
    masked = torch.full((1, 5), -100)
    nothing = chunked_cross_entropy(hidden, weight, None, masked)
    nothing.backward()
    assert float(nothing.detach()) == 0.0


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma", "transformer", "bert", "modernbert", "t5"])
def test_a_model_learns_the_same_without_logits(name):
    model = tiny(name).eval()
    ids = torch.randint(4, 97, (3, 11), generator=torch.Generator().manual_seed(1))
    batch = collate_causal(
        [{"input_ids": row[:n].numpy()} for row, n in zip(ids, (11, 4, 7), strict=True)], pad_token_id=0
    )
    if model.config.is_encoder_decoder:
        batch["decoder_input_ids"] = batch["input_ids"]
    make = causal_language_model if name in ("llama", "gpt2", "gemma", "transformer") else sequence_to_sequence

    def results(loss):
        model.zero_grad()
        value = loss.summed(model, batch)
        (value / 7).backward()
        return [value.detach(), *(p.grad.clone() for p in model.parameters())]

    expected = results(make(0.1))
    assert chunk_loss(model)
    found = results(make(0.1, chunked=True))
    scale = max(float(g.abs().max()) for g in expected[1:])
    # it is a difference of two sums of 4,000, which are rounded to 2e-4 each
    assert float(found[0]) == pytest.approx(float(expected[0]), rel=1e-4)
    for a, b in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6 * scale)
    torch.testing.assert_close(results(make(0.1)), expected, rtol=0, atol=0)  # logits are still there
    assert chunk_loss(model)  # again, for a second run
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.get_output_embeddings().weight.add_(1.0)
    assert float(make(chunked=True).summed(twin, batch)) == pytest.approx(float(make().summed(twin, batch)), rel=1e-5)


@pytest.mark.parametrize("name", ["gemma2", "cohere", "granite", "bart"])
def test_a_model_that_changes_its_logits_keeps_them(name, caplog):
    model = tiny(name).train()
    with caplog.at_level(logging.WARNING):
        assert not chunk_loss(model)
    assert "changes the logits of its output head" in caplog.text
    assert type(model.get_output_embeddings()) is nn.Linear and model.training


def test_a_head_with_adapters_keeps_its_logits(caplog):
    import peft

    lora = peft.LoraConfig(r=2, target_modules=["q_proj", "lm_head"])
    assert not chunk_loss(peft.get_peft_model(tiny("llama"), lora))
    assert "not a plain linear layer" in caplog.text
    model = peft.get_peft_model(tiny("llama"), peft.LoraConfig(r=2, target_modules="all-linear"))
    batch = collate_causal([{"input_ids": torch.arange(9)}], pad_token_id=0)
    expected = float(causal_language_model().summed(model, batch).detach())
    assert chunk_loss(model)
    value = causal_language_model(chunked=True).summed(model, batch)
    value.backward()
    assert float(value.detach()) == pytest.approx(expected, rel=1e-6)
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_half_precision_rounds_no_more_than_logits_do():
    model, batch = tiny("llama"), collate_causal([{"input_ids": torch.arange(60)}], pad_token_id=0)

    def results(loss, **autocast):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, **autocast):
            value = loss.summed(model, batch)
        value.backward()
        return [value.detach(), *(p.grad.clone() for p in model.parameters())]

    exact = results(causal_language_model(), enabled=False)
    logits = results(causal_language_model())
    assert chunk_loss(model)
    chunked = results(causal_language_model(chunked=True))
    for a, b, c in zip(chunked, logits, exact, strict=True):
        assert float((a - c).norm()) <= 1.2 * float((b - c).norm()) + 1e-4 * float(c.norm())


def test_without_a_summing_head_it_says_so():
    batch = collate_causal([{"input_ids": torch.arange(9)}], pad_token_id=0)
    with pytest.raises(ValueError, match="chunk_loss"):
        causal_language_model(chunked=True).summed(tiny("llama"), batch)


def test_cross_entropy_is_the_reference():
    logits, labels = torch.randn(2, 3, 5), torch.tensor([[1, -100, 2], [0, 4, -100]])
    expected = -F.log_softmax(logits, -1)[labels != -100].gather(1, labels[labels != -100, None]).sum()
    torch.testing.assert_close(cross_entropy(logits, labels), expected)
    assert losses.IGNORE == -100
