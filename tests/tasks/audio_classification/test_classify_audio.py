"""The recipe: kinds of models learn and predict; resuming, cuts and processes change nothing."""

import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from hftrain.cli import main as hftrain
from hftrain.predict import predict
from hftrain.tasks.audio_classification import AudioClassificationConfig
from tests import ROOT
from tests.tasks.speaking.data import write
from tests.tasks.speech_recognition.models import RAW, classifier_folder
from tests.tiny import THREE_STEPS
from tests.train.exact_worker import launch

recipe = importlib.import_module("recipes.classify_audio")
RUN = THREE_STEPS | {"eval_steps": 0, "save_steps": 0, "eval_batch_size": 4, "label_column": "speaker"}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, str]:
    return write(tmp_path_factory.mktemp("data") / "clips", 24)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(classifier_folder(tmp_path_factory.mktemp("models") / "model", "wav2vec2-bert"))


def train(data: dict[str, str], out: Path, model: str, **settings) -> list[tuple]:
    """Losses and gradient norms."""
    settings = RUN | data | {"model_name_or_path": model} | settings
    recipe.main(AudioClassificationConfig(output_dir=str(out), **settings))
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"], row["grad_norm"]) for row in rows if "grad_norm" in row]


def test_rows_and_files_are_classified(data, model, tmp_path, capsys):
    """Wav2Vec2BertForSequenceClassification: transformers' name says nothing of audio."""
    out = tmp_path / "out"
    train(data, out, model)
    scores = json.loads((out / "all_results.json").read_text())
    capsys.readouterr()
    assert hftrain(["predict", str(out), "--file", data["test_file"]]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    labels = [row["prediction"]["label"] for row in rows]
    correct = np.mean([label == row["speaker"] for label, row in zip(labels, rows, strict=True)])
    assert scores["test_accuracy"] == pytest.approx(correct)
    file = Path(data["test_file"]).parent / rows[0]["audio"]
    assert hftrain(["predict", str(out), str(file)]) == 0
    assert capsys.readouterr().out.startswith(f"{file}\t{labels[0]}")
    assert hftrain(["predict", str(out), "--file", str(file)]) == 0
    assert capsys.readouterr().out.startswith(f"{file}\t{labels[0]}")
    assert hftrain(["predict", str(out), str(file), "--times", "srt"]) != 0
    assert "only speech recognition has times" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*RAW, "audio-spectrogram-transformer", "whisper"])
def test_kinds_of_models_train_and_predict(kind, data, tmp_path):
    model = classifier_folder(tmp_path / "model", kind)
    steps = train(data, tmp_path / "out", str(model))
    assert all(np.isfinite(loss) and norm > 0 for _, loss, norm in steps)
    files = sorted(map(str, Path(data["test_file"]).parent.glob("test-*.wav")))
    one, other = (predict(tmp_path / "out", files, batch_size=size) for size in (1, 4))
    scores = [[[*row["probabilities"].values()] for row in rows] for rows in (one, other)]
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-5)


@pytest.mark.slow
def test_cuts_change_nothing(data, model, tmp_path):
    whole = train(data, tmp_path / "whole", model)
    np.testing.assert_allclose(train(data, tmp_path / "cut", model, micro_batch_size=1), whole, rtol=1e-5)


@pytest.mark.slow
def test_a_resumed_run_is_bit_equal(data, model, tmp_path):
    noisy = {"save_steps": 2, "max_steps": 4, "dataloader_num_workers": 2, "noise": 0.5, "shift_seconds": 0.1}
    noisy |= {"model_config": {"hidden_dropout": 0.1}}
    through = train(data, tmp_path / "through", model, **noisy)
    shutil.copytree(tmp_path / "through" / "checkpoint-2", tmp_path / "again" / "checkpoint-2")
    assert train(data, tmp_path / "again", model, **noisy, resume_from_checkpoint="auto") == through[2:]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("strategy", ["ddp", "zero2"])
def test_two_processes_give_the_same_losses(strategy, data, model, tmp_path):
    whole = [(loss, norm) for _, loss, norm in train(data, tmp_path / "whole", model)]
    settings = {"output_dir": str(tmp_path / "two"), **RUN, **data, "model_name_or_path": model, "micro_batch_size": 2}
    job = {"name": "two", "recipe": "classify_audio", "settings": settings}
    files = ("--config_file", str(ROOT / "ds_configs" / f"{strategy}.yaml"))
    measured = launch(tmp_path / "launch", [job], *files, worker=str(ROOT / "tests/recipes/worker.py"))
    np.testing.assert_allclose(list(measured["two"]["steps"].values()), whole, rtol=1e-5)
