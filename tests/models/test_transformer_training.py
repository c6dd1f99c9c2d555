"""The custom Transformer in training: initial weights, losses, dropout, checkpointed gradients, compilation."""

import math

import pytest
import torch
from torch.testing import assert_close

from hftrain.models import (
    TransformerForConditionalGeneration,
    TransformerForMaskedLM,
)
from tests.models.test_transformer import (
    BOS,
    EOS,
    LAYERS,
    PAD,
    POSITIONS,
    build,
    configure,
    inputs,
    right_padding,
    tokens,
)

# --- training ------------------------------------------------------------------------------------------------------


def test_initialisation_is_as_the_table_says():
    torch.manual_seed(0)
    model = TransformerForConditionalGeneration(
        configure(vocab_size=2000, hidden_size=64, intermediate_size=256, position_embedding_type="learned")
    )
    for name, weight in model.named_parameters():
        if "embed" in name:
            assert weight.std().item() == pytest.approx(64**-0.5, rel=0.05), name
            assert weight[PAD].any(), name
        elif weight.dim() == 2:
            bound = math.sqrt(6 / sum(weight.shape))
            assert 0.98 * bound < weight.abs().max() <= bound, name
        else:
            assert (weight == (1.0 if name.endswith("norm.weight") else 0.0)).all(), name
    narrow = TransformerForMaskedLM(configure("encoder-only", initializer="normal", initializer_range=0.01))
    assert narrow.model.encoder.layers[0].mlp.up_proj.weight.std().item() == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize("form", LAYERS)
def test_labels_give_the_mean_cross_entropy(form):
    model = build(form)
    batch = inputs(form, target=7)
    labels = tokens(3, 7, seed=5)
    labels[1, 4:] = -100
    logits = model(**batch).logits
    logits, targets = (logits[:, :-1], labels[:, 1:]) if form == "decoder-only" else (logits, labels)
    log_p = logits.log_softmax(-1)[targets != -100]
    right = log_p.gather(1, targets[targets != -100][:, None]).mean()
    assert_close(model(**batch, labels=labels).loss, -right)
    smoothed = -(0.9 * right + 0.1 * log_p.mean())
    assert_close(model(**batch, labels=labels, label_smoothing=0.1).loss, smoothed)


def test_decoder_inputs_from_labels():
    model = build(decoder_start_token_id=BOS)
    labels = torch.tensor([[5, 6, EOS], [7, EOS, -100]])
    shifted = model.prepare_decoder_input_ids_from_labels(labels)
    assert shifted.tolist() == [[BOS, 5, 6], [BOS, 7, EOS]]
    ids = tokens(2, 4)
    assert torch.equal(model(ids, labels=labels).logits, model(ids, decoder_input_ids=shifted).logits)


@pytest.mark.parametrize("form", LAYERS)
def test_dropout_acts_in_training_only(form):
    for rate in ("dropout", "attention_dropout", "activation_dropout"):
        rates = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, rate: 0.3}
        model = build(form, position_embedding_type="shaw", **rates)
        batch = inputs(form)
        still = model(**batch).logits
        assert torch.equal(model(**batch).logits, still)
        model.train()
        assert not torch.allclose(model(**batch).logits, model(**batch).logits), rate


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable.*:FutureWarning")
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("kind", POSITIONS)
def test_gradient_checkpointing_gives_equal_gradients(kind, reentrant):
    model = build(position_embedding_type=kind, dropout=0.2).train()
    batch = inputs("encoder-decoder")
    mask = right_padding(7, 4, 2, width=7)

    def gradients():
        model.zero_grad()
        torch.manual_seed(0)
        model(**batch, attention_mask=mask).logits.pow(2).mean().backward()
        return {name: weight.grad.clone() for name, weight in model.named_parameters()}

    plain = gradients()
    assert all(gradient.any() for name, gradient in plain.items() if "k_proj.bias" not in name)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})  # renamed after our lowest transformers
    assert model.model.encoder.layers[0].gradient_checkpointing
    for name, gradient in gradients().items():
        assert_close(gradient, plain[name], atol=1e-7, rtol=1e-5, msg=name)


def compare_compiled(form, backend, **fields):
    torch._dynamo.reset()
    encoder, decoder = LAYERS[form]
    model = build(form, dropout=0.0, num_encoder_layers=encoder // 2, num_decoder_layers=decoder // 2, **fields).train()
    batch, mask = inputs(form), right_padding(7, 4, 2, width=7)
    expected = model(**batch, attention_mask=mask).logits
    got = torch.compile(model, fullgraph=True, backend=backend)(**batch, attention_mask=mask).logits
    real = mask.bool() if form == "decoder-only" else torch.ones(got.shape[:2], dtype=torch.bool)
    assert_close(got[real], expected[real], atol=1e-5, rtol=0)
    got.sum().backward()


ONE_KIND_EACH = [("encoder-decoder", "sinusoidal"), ("encoder-only", "t5"), ("decoder-only", "rotary")]


@pytest.mark.parametrize("form, kind", ONE_KIND_EACH)
def test_compiles_without_graph_breaks(form, kind):
    compare_compiled(form, "aot_eager", position_embedding_type=kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", POSITIONS)
@pytest.mark.parametrize("form", LAYERS)
def test_every_form_and_kind_compiles(form, kind):
    compare_compiled(form, "aot_eager", position_embedding_type=kind)


@pytest.mark.slow
@pytest.mark.parametrize("form, kind", ONE_KIND_EACH)
def test_compiles_to_kernels(form, kind):
    compare_compiled(form, "inductor", position_embedding_type=kind)
