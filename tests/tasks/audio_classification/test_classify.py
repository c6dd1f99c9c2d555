"""Recordings in folders become a classifier's examples; its report has spectrograms and players."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from hftrain import labels
from hftrain.tasks.audio_classification import (
    AudioClassificationConfig,
    collator,
    load_classifier,
    load_features,
    load_recordings,
    make_examples,
    summarize,
)
from hftrain.train.evaluation import OneProcess
from tests.tasks.speech_recognition.models import classifier_folder

pytestmark = pytest.mark.unit

RATE = 16_000
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.fixture
def config(tmp_path) -> AudioClassificationConfig:
    for split, count in (("train", 6), ("validation", 2), ("test", 2)):
        for hertz in (200, 2000):
            folder = tmp_path / split / f"{hertz} Hz"
            folder.mkdir(parents=True)
            for number in range(count):
                time = np.arange(RATE // 4 + 400 * number + len(split)) / RATE
                soundfile.write(folder / f"{number}.flac", 0.3 * np.sin(2 * np.pi * hertz * time), RATE)
    return AudioClassificationConfig(
        dataset_name=str(tmp_path), model_config=dict(SMALL), output_dir=str(tmp_path / "out"), longest_seconds=0.3
    )


def test_folders_are_classes_and_long_recordings_are_cut(config):
    rows = load_recordings(config, 42)
    names, ids = labels.number_classes(rows, config)
    examples = make_examples(rows["train"], ids, config)
    assert list(names) == ["200 Hz", "2000 Hz"] and len(rows["train"]) == 12
    assert examples.counts["truncated"] == 2 * 4 and examples.lengths.max() == 30
    features = load_features(config, rows)
    batch = collator(features, config.problem_type, 2)(examples[:])
    assert batch["labels"].tolist() == [0] * 6 + [1] * 6
    assert batch["input_features"].shape[0] == 12 and batch["attention_mask"].sum(-1).max() <= 15


def test_scores_do_not_depend_on_the_batch_and_the_report_has_players(config):
    rows = load_recordings(config, 42)
    names, ids = labels.number_classes(rows, config)
    examples = {split: make_examples(rows[split], ids, config) for split in rows}
    torch.manual_seed(0)
    features, model = load_features(config, rows), load_classifier(config, names, None)
    collate = collator(features, config.problem_type, 2)
    scores = [
        labels.score(
            OneProcess("cpu"), model.eval(), examples["test"], size, collate=collate, problem=config.problem_type
        )
        for size in (1, 4)
    ]
    assert np.allclose(scores[0].losses, scores[1].losses, rtol=1e-5)
    references = {split: labels.references(examples[split], config.problem_type, 2) for split in rows}
    report = summarize(config, labels.Tested(rows, examples, scores[0], references, names, ids, []), None)
    worst = next(table for table in report.tables if table.title == "Worst examples").html()
    assert worst.count("data:audio/wav;base64,") == worst.count("data:image/png;base64,") == 4
    assert report.task == "audio-classification" and "accuracy" in report.scores


@pytest.mark.parametrize(("longest", "window"), [(None, 1), (2.5, 3)])
def test_whisper_hears_no_longer_than_the_recordings(config, longest, window, tmp_path_factory):
    config = replace(
        config,
        model_name_or_path=str(classifier_folder(tmp_path_factory.mktemp("models") / "model", "whisper")),
        model_config={},
        longest_seconds=longest,
    )
    rows = load_recordings(config, 42)
    names, ids = labels.number_classes(rows, config)
    features = load_features(config, rows)
    examples = make_examples(rows["test"], ids, config)
    batch = collator(features, config.problem_type, 2)(examples[:])
    model = load_classifier(config, names, features.window)
    assert config.longest_seconds == (longest or window) and examples.counts["truncated"] == 0
    assert batch["input_features"].shape[-1] == 100 * window
    assert model.config.max_source_positions == 50 * window
    assert model(batch["input_features"]).logits.shape == (4, 2)


def test_more_seconds_than_whisper_hears_are_refused(config, tmp_path_factory):
    config = replace(
        config,
        model_name_or_path=str(classifier_folder(tmp_path_factory.mktemp("models") / "model", "whisper")),
        model_config={},
        longest_seconds=31.0,
    )
    with pytest.raises(ValueError, match="longest_seconds 31: the model hears 30 s at once"):
        load_features(config, load_recordings(config, 42))


def test_a_new_model_that_cannot_read_the_frames_is_refused(config):
    for kind in ("wav2vec2", "whisper"):
        with pytest.raises(ValueError, match=f"a new {kind} cannot read log-mel frames here: choose wav2vec2-bert"):
            replace(config, model=kind, model_config={})
