"""Our beam search against that of transformers, on models whose sentences end at different lengths."""

import pytest
import torch
from transformers import GenerationMixin

from hftrain.models import TransformerConfig, TransformerForConditionalGeneration
from hftrain.models.transformer.beams import BeamSearchMixin

LENGTHS = torch.tensor([2, 11, 4, 7, 3, 9])
MASK = (torch.arange(11) < LENGTHS[:, None]).long()


def make(**settings):
    torch.manual_seed(1)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "max_position_embeddings": 64}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    layers = {"num_encoder_layers": 1, "num_decoder_layers": 2}
    model = TransformerForConditionalGeneration(
        TransformerConfig(vocab_size=12, **shape, **special, **layers, **settings)
    )
    for parameter in model.parameters():
        parameter.data *= 3  # else every sentence gets the same words
    return model.eval()


def search(model, **settings):
    torch.manual_seed(2)
    ids = torch.randint(3, 12, MASK.shape)
    if model.config.length_embedding:
        settings["target_lengths"] = LENGTHS + 2
    return model.generate(ids, attention_mask=MASK, num_beams=3, max_new_tokens=20, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"position_embedding_type": "learned"},
        {"position_embedding_type": "rotary", "num_key_value_heads": 1},
        {"position_embedding_type": "shaw"},
        {"length_embedding": True},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "search_settings",
    [
        {"early_stopping": True},
        {"early_stopping": False, "length_penalty": 2.0},
        {"early_stopping": "never", "length_penalty": 0.5},
        {"early_stopping": True, "num_return_sequences": 3},
        {"early_stopping": True, "no_repeat_ngram_size": 2, "repetition_penalty": 1.3, "forced_eos_token_id": 2},
        {"early_stopping": True, "forced_bos_token_id": 7, "bad_words_ids": [[5], [8, 9]], "min_length": 5},
        {"early_stopping": True, "eos_token_id": [2, 4]},
    ],
    ids=str,
)
def test_it_finds_what_transformers_finds(settings, search_settings, monkeypatch):
    model = make(**settings)
    ours = search(model, **search_settings)
    monkeypatch.setattr(BeamSearchMixin, "_beam_search", GenerationMixin._beam_search)
    assert ours.equal(search(model, **search_settings))


def test_a_finished_sentence_leaves_the_batch_and_beams_share_their_source(monkeypatch):
    model, sizes = make(), []
    cross = model.model.decoder.layers[0].cross_attn
    cross.register_forward_pre_hook(lambda _, inputs: sizes.append((len(inputs[0]), len(inputs[1]))))
    search(model, early_stopping=True)
    assert sizes[0] == (18, 6) and sizes[-1][0] < 18
    assert all(rows == 3 * sources for rows, sources in sizes)


@pytest.mark.parametrize(
    "asked", [{"return_dict_in_generate": True}, {"do_sample": True}, {"use_cache": False}], ids=str
)
def test_what_it_does_not_know_is_left_to_transformers(asked, monkeypatch):
    model, calls = make(), []
    theirs = GenerationMixin._beam_search
    monkeypatch.setattr(GenerationMixin, "_beam_search", lambda *a, **k: calls.append(1) or theirs(*a, **k))
    search(model, **asked)
    assert calls
