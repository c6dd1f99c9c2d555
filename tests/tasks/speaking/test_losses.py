"""The loss of each kind of model: its own on a whole batch, and the same however the batch is cut and padded."""

import numpy as np
import pytest
import torch

from hftrain.tasks.speaking import collator
from hftrain.tasks.speaking.losses import SpectrogramLoss, count_frames, mask_padding, run
from hftrain.tasks.speaking.scoring import utter
from tests.tasks.speaking.models import KINDS, examples, make, voice

pytestmark = pytest.mark.unit


def step(kind, rows, cuts, **changes):
    """The loss of a step in micro-batches, and its gradients."""
    model = make(kind, **changes).train()
    mask_padding(model)
    collate, loss = collator(voice(), model), SpectrogramLoss(model)
    whole = collate(rows)
    loss.see(count_frames(whole), loss.others(whole))
    value = 0.0
    for cut in np.split(np.arange(len(rows)), cuts):
        summed = loss.summed(model, collate([rows[place] for place in cut])) / count_frames(whole)
        summed.backward()
        value += float(summed.detach())
    return value, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("kind", KINDS)
def test_examples_of_one_length_have_the_loss_of_transformers(kind):
    """Of one length, since transformers' convolutions read the padding."""
    rows = [examples(kind)[3]] * 3
    value, _ = step(kind, rows, [])
    model = make(kind).train()
    assert value == pytest.approx(float(run(model, collator(voice(), model)(rows)).rest.loss.detach()), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cuts", [[3], [1, 2], [1, 2, 3, 4, 5]])
def test_any_cut_gives_the_same_loss_and_gradients(kind, cuts):
    whole, gradient = step(kind, examples(kind), [])
    value, other = step(kind, examples(kind), cuts)
    assert value == pytest.approx(whole, rel=1e-5)
    assert float((other - gradient).norm()) <= 1e-5 * float(gradient.norm())


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_masks_padding_changes_the_loss(kind):
    rows, model = examples(kind), make(kind)
    collate, loss = collator(voice(), model), SpectrogramLoss(model.eval())

    def both():
        alone = sum(float(loss.summed(model, collate([row])).detach()) for row in rows)
        return alone, float(loss.summed(model, collate(rows)).detach())

    assert both()[0] != pytest.approx(both()[1], rel=1e-5)
    mask_padding(model)
    assert both()[0] == pytest.approx(both()[1], rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_transformers_accumulates_is_another_loss(kind):
    """Its Trainer takes the mean of the micro-batches' own losses: of 1 and 5 examples it is 6 % too high."""
    rows, model = examples(kind), make(kind).train()
    mask_padding(model)
    collate = collator(voice(), model)

    def own(part) -> float:
        return float(run(model, collate(part)).rest.loss.detach())

    whole, cut = own(rows), np.mean([own(rows[:1]), own(rows[1:])])
    assert cut / whole - 1 == pytest.approx(0.064, abs=0.002)
    assert step(kind, rows, [1])[0] == pytest.approx(step(kind, rows, [])[0], rel=1e-5)


def test_the_guided_attention_can_be_off():
    whole, _ = step("speecht5", examples("speecht5"), [], use_guided_attention_loss=False)
    other, _ = step("speecht5", examples("speecht5"), [2], use_guided_attention_loss=False)
    assert whole == pytest.approx(other, rel=1e-5) and whole < step("speecht5", examples("speecht5"), [])[0]


def test_the_prenet_drops_in_evaluation_the_same_for_each_utterance():
    """transformers draws anew each time, also in evaluation."""
    model = make("speecht5", speech_decoder_prenet_dropout=0.5).eval()
    mask_padding(model)
    rows = examples("speecht5")
    collate, loss = collator(voice(), model), SpectrogramLoss(model)
    whole = float(loss.summed(model, collate(rows)).detach())
    alone = sum(float(loss.summed(model, collate([row])).detach()) for row in rows)
    assert whole == pytest.approx(alone, rel=1e-5)
    dropless = make("speecht5").eval()
    assert whole != pytest.approx(float(SpectrogramLoss(dropless).summed(dropless, collate(rows)).detach()), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_an_utterance_that_never_ends_is_cut_at_the_longest_length(kind):
    model = make(kind)
    with torch.no_grad():
        if kind == "speecht5":
            model.speech_decoder_postnet.prob_out.bias.fill_(-100)
            speaker = torch.ones(8)
        else:
            model.duration_predictor.linear.bias.fill_(20)  # half a billion frames for each token
            speaker = torch.tensor(1)
    endless = utter(model, torch.tensor([1, 5, 6, 2]), speaker, 30)
    assert not endless.ended and len(endless.mel) <= 30
    with torch.no_grad():
        if kind == "speecht5":
            model.speech_decoder_postnet.prob_out.bias.fill_(100)
        else:
            model.duration_predictor.linear.weight.zero_()
            model.duration_predictor.linear.bias.fill_(float(np.log(3)))
    short = utter(model, torch.tensor([1, 5, 6, 2]), speaker, 30)
    assert short.ended and 0 < len(short.mel) <= 8
