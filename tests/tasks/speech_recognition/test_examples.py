"""From rows to batches: what a model cannot learn from is named, and sums do not depend on the cut."""

import dataclasses
import json

import numpy as np
import pytest
import soundfile
import torch
from datasets import Dataset
from transformers import Wav2Vec2FeatureExtractor as WavesExtractor
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from hftrain.audio import load_speech
from hftrain.audio.augment import Augmentation
from hftrain.audio.features import Features, new_extractor
from hftrain.audio.windows import hear_less
from hftrain.data.plan import seed_all
from hftrain.data.rows import Rows
from hftrain.tasks.speech_recognition import (
    Listener,
    TranscribeConfig,
    augmentation,
    collator,
    load_listener,
    load_recogniser,
    make_examples,
    recognition,
    transcribe,
)
from hftrain.tasks.speech_recognition.examples import count_needed, counter, usable
from hftrain.tasks.speech_recognition.model import learn_vocabulary
from hftrain.train.evaluation import OneProcess
from tests.tasks.speech_recognition.models import ctc_folder

pytestmark = pytest.mark.unit

RATE = 16_000
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
TEXTS = ["ab", "ba ab", "a", "b a b a", "aa", "abba"]


@pytest.fixture
def config(tmp_path) -> TranscribeConfig:
    for split in ("train", "validation", "test"):
        rows = []
        for number, text in enumerate(TEXTS):
            rng = np.random.default_rng([number, len(split)])
            name = f"{split}{number}.wav"
            soundfile.write(tmp_path / name, rng.uniform(-0.5, 0.5, RATE // 2 + 1000 * number), RATE)
            rows.append(json.dumps({"audio": name, "text": text}))
        (tmp_path / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    return TranscribeConfig(dataset_name=str(tmp_path), model_config=dict(SMALL), output_dir=str(tmp_path / "out"))


@pytest.fixture
def rows(config) -> dict[str, Rows]:
    return load_speech(config, 42)


def test_a_vocabulary_is_learnt_from_the_training_texts(config, rows):
    listener = load_listener(config, rows)
    assert set(listener.tokenizer.get_vocab()) == {"[PAD]", "[UNK]", "|", "a", "b"}
    ids = listener.spell("AB a")
    assert listener.tokenizer.decode(ids) == "ab a" and config.text_case == "lower"
    assert listener.unknown("abc d") == "cd" and listener.unknown("A b") == ""


def named(config: TranscribeConfig, rows: dict[str, Rows], **settings) -> str:
    config = dataclasses.replace(config, **settings)
    listener = load_listener(config, rows)
    with pytest.raises(ValueError) as caught:
        make_examples(rows, listener, load_recogniser(config, listener), config)
    return str(caught.value)


def test_a_recording_that_is_too_long_is_refused_or_cut(config, rows):
    message = named(config, rows, max_seconds=0.7)
    assert "train.jsonl, line 5" in message and "more than the 0.7 s that the model hears" in message
    short = dataclasses.replace(config, max_seconds=0.7, cut_audio=True)
    listener = load_listener(short, rows)
    _, examples = make_examples(rows, listener, load_recogniser(short, listener), short)
    assert examples["train"].counts["truncated"] == 2 and examples["train"].lengths.max() == 70
    assert examples["train"][5]["end"] == 0.7


def test_characters_that_the_vocabulary_lacks_are_named(config, rows):
    listener = load_listener(config, rows)
    other = dict(rows["test"].data[0]) | {"text": "a cab"}
    strange = dataclasses.replace(rows["test"], data=rows["test"].data.from_list([other], rows["test"].data.features))
    strange = dataclasses.replace(strange, places=None)
    with pytest.raises(ValueError, match="characters that the vocabulary lacks: c"):
        usable(strange, listener, config, lambda seconds: 1000)


def test_a_text_that_needs_more_frames_than_there_are_is_named(config, rows):
    assert count_needed([1, 2, 2, 2]) == 6
    listener = load_listener(config, rows)
    with pytest.raises(ValueError, match=r"the text needs 5 frames, but .* gives 4: CTC fails"):
        usable(rows["train"], listener, config, lambda seconds: 4)
    kept, examples = usable(rows["train"], listener, dataclasses.replace(config, max_bad_rows=3), lambda seconds: 4)
    assert len(kept) == len(examples) == 3 and len(kept.bad) == 3  # "ba ab", "b a b a", and "abba" with a blank


def test_augmentation_follows_from_the_seed(config, rows):
    listener = load_listener(config, rows)
    model = load_recogniser(config, listener)
    _, examples = make_examples(rows, listener, model, config)
    config = dataclasses.replace(config, noise=1.0, shift_seconds=0.1)
    augment = augmentation(config, listener, model)
    assert (config.speed, config.time_masks, config.band_masks) == (0.1, 2, 2)
    waves = []
    for seed in (1, 1, 2):
        seed_all(seed)
        waves.append(augment(examples["train"][0]))
    assert np.array_equal(waves[0]["wave"], waves[1]["wave"]) and waves[0]["masks"] == waves[1]["masks"]
    assert len(waves[0]["wave"]) != len(waves[2]["wave"])


def test_faster_speech_still_has_frames_for_its_text(config, rows):
    listener = load_listener(config, rows)
    model = load_recogniser(config, listener)
    frames = counter(listener, model)
    config = dataclasses.replace(config, speed=0.9)
    augment = augmentation(config, listener, model)
    needed = frames(0.4)
    example = {
        "audio": rows["train"]["audio"][0],
        "start": None,
        "end": None,
        "labels": [3 + n % 2 for n in range(needed)],
    }
    seconds = []
    for seed in range(20):
        seed_all(seed)
        seconds.append(len(augment(example)["wave"]) / RATE)
    assert min(map(frames, seconds)) >= needed and min(seconds) < 0.5 < max(seconds)


def gradients(model, loss, batches) -> tuple[float, torch.Tensor]:
    """Sum of the loss / count over all batches, and the gradient of it."""
    model.zero_grad()
    count = sum(loss.count(batch) for batch in batches)
    total = sum(loss.summed(model, batch) for batch in batches) / count
    total.backward()
    return float(total.detach()), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_any_cut_gives_the_same_ctc_loss_and_the_models_own_loss_does_not(config, rows):
    listener = load_listener(config, rows)
    torch.manual_seed(0)
    model = load_recogniser(config, listener)
    _, examples = make_examples(rows, listener, model, config)
    collate, loss = collator(listener), recognition(model)
    items = examples["train"][:]
    whole, parts = [collate(items)], [collate(items[:1]), collate(items[1:])]
    (one, first), (other, second) = (gradients(model, loss, batches) for batches in (whole, parts))
    assert one == pytest.approx(other, rel=1e-5)
    assert torch.allclose(first, second, rtol=1e-4, atol=1e-5 * float(first.abs().max()))

    def own(batch) -> float:  # what transformers.Trainer averages over micro-batches
        return float(
            model(batch["input_features"], attention_mask=batch["attention_mask"], labels=batch["labels"]).loss
        )

    model.config.ctc_loss_reduction = "mean"
    means = [own(batch) for batch in parts]
    assert abs(np.mean(means) - own(whole[0])) > 1e-3 * own(whole[0])


def test_the_transcripts_do_not_depend_on_the_batch(config, rows):
    listener = load_listener(config, rows)
    torch.manual_seed(0)
    model = load_recogniser(config, listener)
    _, examples = make_examples(rows, listener, model, config)
    heard = [
        transcribe(OneProcess("cpu"), model.eval(), listener, examples["test"], size, collate=collator(listener))
        for size in (1, 4, 6)
    ]
    assert heard[0].texts == heard[1].texts == heard[2].texts
    assert heard[0].loss == pytest.approx(heard[1].loss, rel=1e-5) == heard[2].loss


def small_whisper() -> WhisperForConditionalGeneration:
    torch.manual_seed(0)
    shape = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 40, "num_mel_bins": 80}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    return WhisperForConditionalGeneration(WhisperConfig(**shape, **heads, **special))


def test_whisper_with_a_short_window_hears_what_it_heard(tmp_path):
    model = small_whisper()
    positions = model.get_encoder().embed_positions.weight[:100].clone()
    hear_less(model, 2)
    assert torch.equal(model.get_encoder().embed_positions.weight, positions)
    features = Features(WhisperFeatureExtractor(), 2)
    batch = features([np.random.default_rng(0).uniform(-1, 1, RATE).astype(np.float32)])
    assert batch["input_features"].shape == (1, 80, 200) and features.window == 2
    output = model(batch["input_features"], decoder_input_ids=torch.tensor([[1, 5]])).logits
    model.save_pretrained(tmp_path)
    features.save_pretrained(tmp_path)
    again = WhisperForConditionalGeneration.from_pretrained(tmp_path)
    read = Features(WhisperFeatureExtractor.from_pretrained(tmp_path))
    assert read.window == 2
    assert torch.equal(again(batch["input_features"], decoder_input_ids=torch.tensor([[1, 5]])).logits, output)


def test_any_cut_gives_the_same_whisper_loss_and_the_models_own_loss_does_not():
    model = small_whisper()
    hear_less(model, 1)
    rng = np.random.default_rng(0)
    waves = [rng.uniform(-0.5, 0.5, 8000 + 900 * n).astype(np.float32) for n in range(4)]
    labels = [[5, 6, 2], [7, 8, 9, 10, 2], [11, 2], [12, 13, 14, 15, 16, 17, 2]]

    class Tokens:
        pad_token_id = 0

    listener = Listener(Features(WhisperFeatureExtractor(), 1), Tokens(), 1, "unchanged")
    items = [
        {"wave": wave, "labels": ids, "masks": augmented}
        for wave, ids, augmented in zip(waves, labels, masks(4), strict=True)
    ]
    collate, loss = collator(listener), recognition(model)
    whole, parts = [collate(items)], [collate(items[:1]), collate(items[1:])]
    assert loss.count(whole[0]) == sum(map(len, labels))
    assert whole[0]["decoder_input_ids"][2].tolist() == [1, 11, 2, 0, 0, 0, 0]
    (one, first), (other, second) = (gradients(model, loss, batches) for batches in (whole, parts))
    assert one == pytest.approx(other, rel=1e-5)
    assert torch.allclose(first, second, rtol=1e-4, atol=1e-5 * float(first.abs().max()))

    def own(batch) -> float:  # what transformers.Trainer averages over micro-batches
        return float(model(batch["input_features"], labels=batch["labels"]).loss)

    assert own(whole[0]) == pytest.approx(one, rel=1e-5)
    assert abs(np.mean([own(batch) for batch in parts]) - one) > 1e-3 * one


def masks(count: int) -> list:
    np.random.seed(0)
    return [Augmentation(time_masks=2, band_masks=2).masks() for _ in range(count)]


def test_masks_cover_parts_of_the_recording_alone():
    features = Features(WhisperFeatureExtractor(), 1)
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, RATE).astype(np.float32)
    plain, covered = features([wave])["input_features"][0], features([wave], masks(1))["input_features"][0]
    changed = (plain != covered).float()
    assert 0 < changed.mean() < 0.6
    assert changed.sum(0).max() == 80 and changed.sum(1).max() == 100  # whole columns of time, whole bands


def test_a_ctc_model_without_a_count_of_frames_is_refused():
    with pytest.raises(ValueError, match="does not name the frames"):
        recognition(Plain())


class Plain(torch.nn.Module):
    class config:
        is_encoder_decoder = False
        pad_token_id = 0


@pytest.mark.parametrize("pieces", [False, True])
def test_a_letter_that_is_written_twice_stays_two(pieces, tmp_path):
    """Blanks between repeats are heard, those between others not, for characters and for byte pairs."""
    config = TranscribeConfig(train_file=["a"], vocab_size=300 if pieces else None, text_case="unchanged")
    rows = Rows(Dataset.from_dict({"text": ["three bees see", "feet"]}))
    listener = Listener(Features(new_extractor()), learn_vocabulary(rows, config), None, "unchanged")
    for text in ("three bees", "see feet"):
        path = [token for letter in listener.spell(text) for token in (letter, letter, listener.tokenizer.pad_token_id)]
        assert listener.text_of(path) == text
        assert listener.text_of([token for token in path if token != listener.tokenizer.pad_token_id]) != text or pieces


@pytest.mark.parametrize("masked", [False, True])
def test_scores_of_raw_waves_do_not_depend_on_the_batch(masked, config, rows, tmp_path):
    """wav2vec2-base normalises groups over time, padding too; its extractor has no mask."""
    folder = ctc_folder(tmp_path / "model", "wav2vec2", feat_extract_norm="group")
    WavesExtractor(return_attention_mask=masked).save_pretrained(folder)
    config = dataclasses.replace(config, model_name_or_path=str(folder), model_config={})
    listener = load_listener(config, rows)
    model = load_recogniser(config, listener).eval()
    _, examples = make_examples(rows, listener, model, config)
    heard = [
        transcribe(OneProcess("cpu"), model, listener, examples["test"], size, collate=collator(listener))
        for size in (1, 4)
    ]
    assert heard[0] == heard[1]
