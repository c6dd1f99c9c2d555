"""Recordings in folders become a classifier's examples; its report has spectrograms and players."""

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
    features = load_features(config)
    batch = collator(features, config.problem_type, 2)(examples[:])
    assert batch["labels"].tolist() == [0] * 6 + [1] * 6
    assert batch["input_features"].shape[0] == 12 and batch["attention_mask"].sum(-1).max() <= 15


def test_scores_do_not_depend_on_the_batch_and_the_report_has_players(config):
    rows = load_recordings(config, 42)
    names, ids = labels.number_classes(rows, config)
    examples = {split: make_examples(rows[split], ids, config) for split in rows}
    torch.manual_seed(0)
    features, model = load_features(config), load_classifier(config, names)
    collate = collator(features, config.problem_type, 2)
    scores = [
        labels.score(
            OneProcess("cpu"), model.eval(), examples["test"], size, collate=collate, problem=config.problem_type
        )
        for size in (1, 4)
    ]
    assert np.allclose(scores[0].losses, scores[1].losses, rtol=1e-5)
    references = {split: labels.references(examples[split], config.problem_type, 2) for split in rows}
    report = summarize(config, labels.Tested(rows, examples, scores[0], references, names, ids, []))
    worst = next(table for table in report.tables if table.title == "Worst examples").html()
    assert worst.count("data:audio/wav;base64,") == worst.count("data:image/png;base64,") == 4
    assert report.task == "audio-classification" and "accuracy" in report.scores
