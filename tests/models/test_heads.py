"""The custom Transformer's heads for understanding text: saved and loaded by the Auto classes, blind to padding."""

import pytest
import torch
from torch.testing import assert_close
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from hftrain.models import TransformerConfig, TransformerForMaskedLM, TransformerForSequenceClassification

pytestmark = pytest.mark.unit

HEADS = {
    "classifier": AutoModelForSequenceClassification,
    "classifier ": AutoModelForTokenClassification,
    "qa_outputs": AutoModelForQuestionAnswering,
}
IDS = torch.randint(3, 50, (3, 7), generator=torch.Generator().manual_seed(0))


def configure(**fields):
    size = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    return TransformerConfig(**size | {"num_encoder_layers": 2, "num_decoder_layers": 0, "num_labels": 3} | fields)


def logits(outputs):
    """(B, ...) whatever the head: start and end of an answer side by side."""
    return outputs.logits if "logits" in outputs else torch.stack([outputs.start_logits, outputs.end_logits], dim=-1)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("kind", ["sinusoidal", "learned", "shaw", "t5", "rotary"])
def test_padding_changes_no_logit(head, kind):
    model = HEADS[head].from_config(configure(position_embedding_type=kind)).eval()
    mask = torch.ones_like(IDS)
    padded = torch.nn.functional.pad(IDS, (0, 4), value=9)
    with torch.no_grad():
        alone, beside = model(IDS, mask), model(padded, torch.nn.functional.pad(mask, (0, 4)))
    found = logits(beside)
    # Sums over more zeros may be grouped otherwise: a few units in the last place of numbers near 1.
    assert_close(found if found.dim() == 2 else found[:, :7], logits(alone), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("head", HEADS)
def test_round_trip_and_the_body_of_a_masked_language_model(head, tmp_path):
    model = HEADS[head].from_config(configure()).eval()
    model.save_pretrained(tmp_path / "own")
    again = HEADS[head].from_pretrained(tmp_path / "own").eval()
    with torch.no_grad():
        assert torch.equal(logits(model(IDS)), logits(again(IDS)))
    body = TransformerForMaskedLM(configure())
    body.save_pretrained(tmp_path / "body")
    tuned, told = HEADS[head].from_pretrained(tmp_path / "body", num_labels=3, output_loading_info=True)
    name = head.strip()
    assert set(told["missing_keys"]) == {f"{name}.weight", f"{name}.bias"} and not told["mismatched_keys"]
    assert torch.equal(tuned.model.embed_tokens.weight, body.model.embed_tokens.weight)


def test_labels_give_the_loss_of_the_kind_of_problem():
    classes, several, numbers = torch.tensor([0, 2, 1]), torch.eye(3), torch.tensor([0.5, 1.0, -1.0])
    for fields, labels, loss in (
        ({}, classes, torch.nn.functional.cross_entropy),
        ({"problem_type": "multi_label_classification"}, several, torch.nn.functional.binary_cross_entropy_with_logits),
        ({"num_labels": 1}, numbers, lambda x, y: torch.nn.functional.mse_loss(x[:, 0], y)),
    ):
        model = AutoModelForSequenceClassification.from_config(configure(**fields)).eval()
        found = model(IDS, labels=labels)
        assert_close(found.loss, loss(found.logits, labels))
    tagger = AutoModelForTokenClassification.from_config(configure()).eval()
    tags = torch.where(IDS > 25, IDS % 3, -100)
    found = tagger(IDS, labels=tags)
    assert_close(found.loss, torch.nn.functional.cross_entropy(found.logits.flatten(0, 1), tags.flatten()))
    reader = AutoModelForQuestionAnswering.from_config(configure()).eval()
    found = reader(IDS, start_positions=classes, end_positions=classes + 1)
    ends = [(found.start_logits, classes), (found.end_logits, classes + 1)]
    assert_close(found.loss, sum(torch.nn.functional.cross_entropy(x, y) for x, y in ends) / 2)


def test_another_form_is_refused():
    with pytest.raises(ValueError, match="TransformerForSequenceClassification is encoder-only, and num_encoder"):
        TransformerForSequenceClassification(configure(num_decoder_layers=2))
