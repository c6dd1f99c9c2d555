"""The custom Transformer's cache, generation, packing and length embedding give what the whole model gives."""

import pytest
import torch
from torch.testing import assert_close

from hftrain.models.transformer.attention import biased, read_layout, visibility
from tests.models.test_transformer import LAYERS, MODERN, PAD, POSITIONS, build, inputs, right_padding, tokens

# --- cache and generation ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", POSITIONS)
@pytest.mark.parametrize("form", ["encoder-decoder", "decoder-only"])
def test_cached_logits_are_the_uncached(form, kind):
    model = build(form, position_embedding_type=kind, **(MODERN if form == "decoder-only" else {}))
    batch = inputs(form, source=7, target=7)
    grows = "decoder_input_ids" if form == "encoder-decoder" else "input_ids"
    rest = {name: ids for name, ids in batch.items() if name != grows}
    with torch.no_grad():
        full = model(**batch).logits
        pieces, cache = [], None
        for start, stop in ((0, 3), (3, 4), (4, 7)):  # a prompt, one token, several at once
            piece = model(**rest, **{grows: batch[grows][:, start:stop]}, past_key_values=cache, use_cache=True)
            cache = piece.past_key_values
            pieces.append(piece.logits)
    assert_close(torch.cat(pieces, dim=1), full, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", POSITIONS)
@pytest.mark.parametrize("form", ["encoder-decoder", "decoder-only"])
def test_generation_with_and_without_cache(form, kind):
    model = build(form, position_embedding_type=kind)
    ids = tokens(3, 6)
    mask = right_padding(6, 4, 2, width=6)
    if form == "decoder-only":
        mask = mask.flip(1)
    for options in ({"num_beams": 1}, {"num_beams": 3}, {"do_sample": True, "num_beams": 1, "top_k": 10}):
        outcome = []
        for use_cache in (True, False):
            torch.manual_seed(0)
            outcome.append(
                model.generate(
                    ids,
                    attention_mask=mask,
                    max_new_tokens=8,
                    use_cache=use_cache,
                    output_logits=True,
                    return_dict_in_generate=True,
                    **options,
                )
            )
        cached, uncached = outcome
        assert cached.sequences.tolist() == uncached.sequences.tolist()
        assert_close(torch.stack(cached.logits), torch.stack(uncached.logits), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", POSITIONS)
def test_padding_changes_nothing_to_the_left_and_right(kind):
    model = build("decoder-only", position_embedding_type=kind)
    prompt = tokens(1, 4)
    alone = model.generate(prompt, max_new_tokens=6)
    padded = torch.cat((torch.full((1, 3), PAD), prompt), dim=1)
    mask = right_padding(4, width=7).flip(1)
    assert model.generate(padded, attention_mask=mask, max_new_tokens=6)[:, 3:].tolist() == alone.tolist()

    seq2seq = build(position_embedding_type=kind)
    batch = inputs("encoder-decoder", batch=1)
    wider = {name: torch.cat((ids, torch.full((1, 2), PAD)), dim=1) for name, ids in batch.items()}
    with torch.no_grad():
        expected = seq2seq(**batch).logits
        got = seq2seq(**wider, attention_mask=right_padding(7, width=9)).logits[:, :6]
    assert_close(got, expected, atol=1e-5, rtol=0)


def test_masks_are_left_out_where_they_hide_nothing():
    device = torch.device("cpu")
    full, right = torch.ones(2, 5, dtype=torch.long), right_padding(5, 3, width=5)
    assert read_layout(5, device, full, None).padding is None
    assert read_layout(5, device, right, None).padding.tolist() == right.bool().tolist()
    assert read_layout(5, device, right, None, causal=True).padding is None
    assert read_layout(5, device, right.flip(1), None, causal=True).padding is not None
    assert read_layout(1, device, right, None, causal=True, past=4).padding is not None
    assert read_layout(5, device, None, torch.arange(5)[None]).documents is None
    assert visibility(5, 5, device, causal=True) is None
    assert visibility(1, 5, device, causal=True) is None
    assert visibility(2, 5, device, causal=True).tolist() == [[True] * 4 + [False], [True] * 5]


def test_a_row_of_padding_stays_finite():
    for kind in POSITIONS:
        model = build("decoder-only", position_embedding_type=kind)
        mask = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0]])
        for dtype in (torch.float32, torch.bfloat16):
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                assert model(tokens(2, 4), attention_mask=mask).logits.isfinite().all()
    bias, nothing = torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2, dtype=torch.bool)
    assert biased(bias, nothing).bfloat16().isfinite().all()


# --- packing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", POSITIONS)
@pytest.mark.parametrize("form", LAYERS)
def test_packed_rows_are_separate_documents(form, kind):
    model = build(form, position_embedding_type=kind)
    lengths = {"input_ids": (3, 5, 2), "decoder_input_ids": (4, 1, 5)}
    names = ["input_ids", "decoder_input_ids"] if form == "encoder-decoder" else ["input_ids"]
    separate = [{name: tokens(1, lengths[name][i], seed=9 * i + len(name)) for name in names} for i in range(3)]
    packed = {name: torch.cat([document[name] for document in separate], dim=1) for name in names}
    for name in names:
        positions = torch.cat([torch.arange(length) for length in lengths[name]])[None]
        packed[name.replace("input", "position")] = positions
    with torch.no_grad():
        expected = torch.cat([model(**document).logits for document in separate], dim=1)
        assert_close(model(**packed).logits, expected, atol=1e-5, rtol=0)
        # and the cache does not undo it
        if form != "encoder-only":
            assert_close(model(**packed, use_cache=True).logits, expected, atol=1e-5, rtol=0)


def test_half_a_packed_pair_is_refused():
    model = build()
    batch = inputs("encoder-decoder")
    with pytest.raises(ValueError, match="packed together or not at all"):
        model(**batch, position_ids=torch.tensor([[0, 1, 2, 0, 1, 2, 3]]))


# --- length embedding ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["encoder-decoder", "decoder-only"])
def test_length_embedding_is_told_or_counted(form):
    model = build(form, length_embedding=True)
    batch = inputs(form, source=6, target=6)
    ids = batch["decoder_input_ids" if form == "encoder-decoder" else "input_ids"]
    ids[1, 4:] = PAD
    ids[:, 0] = PAD  # a start token that is pad counts
    mask_name = "decoder_attention_mask" if form == "encoder-decoder" else "attention_mask"
    with torch.no_grad():
        counted = model(**batch).logits
        told = model(**batch, target_lengths=torch.tensor([6, 4, 6])).logits
        masked = model(**batch, **{mask_name: right_padding(6, 4, 6, width=6)}).logits
        longer = model(**batch, target_lengths=torch.tensor([6, 9, 6])).logits
    assert torch.equal(counted, told)
    assert_close(masked[1, :4], counted[1, :4], atol=1e-5, rtol=0)
    assert not torch.allclose(longer[1], counted[1], atol=1e-2)
    assert torch.equal(longer[0], counted[0])


def test_length_embedding_in_generation():
    model = build(length_embedding=True)
    ids = tokens(2, 5)
    lengths = torch.tensor([3, 9])
    kept = {
        use: model.generate(ids, target_lengths=lengths, num_beams=2, max_new_tokens=8, use_cache=use)
        for use in (True, False)
    }
    assert kept[True].tolist() == kept[False].tolist()
    with pytest.raises(ValueError, match=r"generate\(target_lengths=...\)"):
        model.generate(ids, max_new_tokens=8)
    with pytest.raises(ValueError, match="built without length_embedding"):
        build()(**inputs("encoder-decoder"), target_lengths=lengths)


def test_length_embedding_of_packed_documents():
    model = build("decoder-only", length_embedding=True)
    first, second = tokens(1, 3), tokens(1, 5, seed=4)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4]])
    with torch.no_grad():
        expected = torch.cat((model(first).logits, model(second).logits), dim=1)
        got = model(torch.cat((first, second), dim=1), position_ids=positions).logits
    assert_close(got, expected, atol=1e-5, rtol=0)
