"""The recipe: new and pretrained models learn, report and speak; resuming, cuts and processes change nothing."""

import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import transformers
from safetensors.torch import load_file, save_file

from hftrain.cli import main as hftrain
from hftrain.config import ConfigError
from hftrain.predict import predict
from hftrain.tasks.speaking import SpeakConfig
from tests import ROOT
from tests.tasks.speaking.data import write
from tests.tasks.speaking.models import FAST, T5, save_encoder
from tests.tiny import THREE_STEPS
from tests.train.exact_worker import launch

recipe = importlib.import_module("recipes.speak")
SIZES = {"fastspeech2_conformer": FAST, "speecht5": T5}
RUN = THREE_STEPS | {
    "eval_steps": 0, "save_steps": 0, "num_samples": 1, "num_scored": 2, "max_seconds": 1.0,
    "speaker_column": "speaker",
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, str]:
    return write(tmp_path_factory.mktemp("data") / "clips")


@pytest.fixture(scope="module")
def spoken(data, tmp_path_factory) -> Path:
    """A model after one step."""
    out = tmp_path_factory.mktemp("spoken") / "out"
    train(data, out, max_steps=1)
    return out


def train(data: dict[str, str], out: Path, kind: str = "fastspeech2_conformer", **settings) -> list[tuple]:
    """Losses and gradient norms."""
    size = {} if "model_name_or_path" in settings else {"model": kind, "model_config": SIZES[kind]}
    recipe.main(SpeakConfig(output_dir=str(out), **RUN | data | size | settings))
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"], row["grad_norm"]) for row in rows if "grad_norm" in row]


@pytest.mark.parametrize("kind", [*SIZES])
def test_a_new_model_reports_and_speaks(kind, data, tmp_path, capsys):
    out = tmp_path / "out"
    save_encoder(tmp_path / "encoder")
    encoder = {"speaker_encoder": str(tmp_path / "encoder")}
    losses = train(data, out, kind, max_steps=10, num_scored=4, eval_steps=5, **encoder)
    assert losses[-1][1] < losses[0][1]
    results = json.loads((out / "all_results.json").read_text())
    assert {"test_loss", "test_mcd", "eval_loss", "eval_mcd"} <= results.keys()
    assert -1 <= results["test_speaker_similarity"] <= 1
    page = (out / "report.html").read_text()
    for word in ("data:audio/wav", "media-src data:", "its spectrogram", "Worst utterances", "consent", "frames/s"):
        assert word in page, word
    card = (out / "README.md").read_text()
    for words in ("consent of the speakers", "The licence of the recordings", "Texts are normalised first: english"):
        assert words in card, words
    assert [path.name for path in sorted((out / "samples").iterdir())] == ["step-10", "step-5"]
    remembered = json.loads((out / "config.json").read_text())["hftrain"]
    assert remembered["speakers"] == ["high", "low"] and remembered["mel"]["rate"] == 8000

    low, high = (predict(out, ["abc"], speaker=name)[0] for name in ("low", "high"))
    assert low["rate"] == 8000 and low["wave"].dtype == np.float32 and not np.array_equal(low["wave"], high["wave"])
    assert len(low["wave"]) <= 8000 and (predict(out, ["abc", "e"], speaker="low")[0]["wave"] == low["wave"]).all()
    capsys.readouterr()
    lines = tmp_path / "lines.txt"
    lines.write_text("abc\nE dada\n".replace(" ", ""))
    assert (
        hftrain(["predict", str(out), "--file", str(lines), "--output", str(tmp_path / "wav"), "--speaker", "low"]) == 0
    )
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].endswith("\tabc") and len(shown) == 2
    wave, rate = soundfile.read(tmp_path / "wav" / "1.wav")
    assert rate == 8000 and len(wave) == len(low["wave"])
    extractor = transformers.AutoFeatureExtractor.from_pretrained(out)
    assert (extractor.sampling_rate, extractor.n_fft, extractor.sample_stride) == (8000, 512, 128)


def test_an_adapter_of_a_voice_speaks(spoken, data, tmp_path):
    out = tmp_path / "out"
    train(data, out, model_name_or_path=str(spoken), max_steps=1, use_peft=True, lora_r=2)
    assert (out / "adapter_config.json").is_file()
    assert predict(out, ["abc"], speaker="low")[0]["rate"] == 8000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["abc"], "speech needs a folder"),
        (["a?c", "--output", "wav"], r"does not know the character '\?'"),
        (["  ", "--output", "wav"], "text 1 is empty"),
        (["abc", "--output", "wav", "--speaker", "mid"], "the model speaks as high, low"),
        (["abc", "--output", "wav", "--vocoder", "missing"], "vocoder 'missing' is not a local folder"),
    ],
)
def test_what_cannot_be_spoken_is_named(arguments, message, spoken, capsys):
    assert hftrain(["predict", str(spoken), *arguments]) != 0
    assert message.replace("\\", "") in capsys.readouterr().err


def test_an_utterance_that_does_not_end_is_named(spoken, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(spoken, out)
    weights = load_file(out / "model.safetensors")
    weights["duration_predictor.linear.bias"].fill_(20.0)  # half a billion frames for each token
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    assert hftrain(["predict", str(out), "abc", "--output", str(tmp_path / "wav")]) == 0
    assert "'abc' did not end within 1 s and was cut off" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": " "}, "is empty"),
        ({"text": "abcde" * 30}, "152 characters in"),
        ({"audio": "missing.wav"}, "there is no file"),
        ({"audio": "long.wav"}, "2.5 s, but max_seconds is 1: raise it, or cut the recording"),
        ({"speaker": "mid"}, "the speaker 'mid' has no training row"),
        ({"text": "ab?"}, "the model does not know the character '?' of 'ab?'"),
    ],
)
def test_bad_rows_are_named(row, message, data, tmp_path):
    folder = tmp_path / "clips"
    shutil.copytree(Path(data["train_file"]).parent, folder)
    soundfile.write(folder / "long.wav", np.random.default_rng(0).normal(0, 0.1, 20_000), 8000)
    rows = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    rows[2] |= row
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {name: str(folder / Path(path).name) for name, path in data.items()}
    with pytest.raises(ValueError) as error:
        train(files, tmp_path / "out")
    assert message in str(error.value)
    if "speaker" not in row:
        assert "test.jsonl" in str(error.value) and "line 3" in str(error.value)
        train(files, tmp_path / "out", max_bad_rows=1, max_steps=1)
        assert "1 (16.7 %)" in (tmp_path / "out" / "README.md").read_text().replace("\\", "")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("vits", "VITS learns against a discriminator"),
        ("pocket_tts", "Pocket TTS draws noise for each micro-batch"),
        ("bert", "a bert does not learn to make spectrograms"),
    ],
)
def test_a_model_that_cannot_learn_here_is_refused(kind, message, data, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(ValueError, match=message):
        train(data, tmp_path / "out", model_name_or_path=str(tmp_path), tokenizer_name_or_path="x")


@pytest.mark.parametrize("setting", ["vocoder", "listener", "speaker_encoder"])
def test_what_is_missing_is_named_before_the_training(setting, data, tmp_path):
    with pytest.raises(ValueError, match=f"{setting} 'missing' is not a local folder"):
        train(data, tmp_path / "out", **{setting: "missing"})
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "vits"}, "model"),
        ({"metric_for_best_model": "wer"}, "only loss, mcd are evaluated"),
        ({"label_smoothing_factor": 0.1}, "a spectrogram has no classes"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ConfigError, match=message):
        SpeakConfig(**settings)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*SIZES])
def test_cuts_change_nothing(kind, data, tmp_path):
    whole = train(data, tmp_path / "whole", kind)
    np.testing.assert_allclose(train(data, tmp_path / "cut", kind, micro_batch_size=2), whole, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*SIZES])
def test_a_resumed_run_is_bit_equal(kind, data, tmp_path):
    dropout = "hidden_dropout" if kind == "speecht5" else "encoder_dropout_rate"
    noisy = {"model_config": SIZES[kind] | {dropout: 0.1}, "save_steps": 2, "max_steps": 4, "dataloader_num_workers": 2}
    through = train(data, tmp_path / "through", kind, **noisy)
    shutil.copytree(tmp_path / "through" / "checkpoint-2", tmp_path / "again" / "checkpoint-2")
    again = train(data, tmp_path / "again", kind, **noisy, resume_from_checkpoint="auto")
    assert again == through[2:]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("strategy", ["ddp", "zero2"])
def test_two_processes_give_the_same_losses(strategy, data, tmp_path):
    whole, jobs = {}, []
    for kind, size in SIZES.items():
        whole[kind] = train(data, tmp_path / "whole" / kind, kind)
        settings = {"output_dir": str(tmp_path / "two" / kind), **RUN, **data, "model": kind, "model_config": size}
        jobs.append({"name": kind, "recipe": "speak", "settings": settings | {"micro_batch_size": 2}})
    files = ("--config_file", str(ROOT / "ds_configs" / f"{strategy}.yaml"))
    found = launch(tmp_path / "launch", jobs, *files, worker=str(ROOT / "tests/recipes/worker.py"))
    for kind, steps in whole.items():
        pairs = [(loss, norm) for _, loss, norm in steps]
        np.testing.assert_allclose(list(found[kind]["steps"].values()), pairs, rtol=1e-5, err_msg=kind)
