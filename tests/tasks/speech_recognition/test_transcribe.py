"""The recipe: models learn, score and predict the same; resuming, cuts and processes change nothing."""

import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from hftrain.cli import main as hftrain
from hftrain.metrics.speech import error_rates
from hftrain.predict import predict
from hftrain.tasks.speech_recognition import TranscribeConfig
from tests import ROOT
from tests.tasks.speaking.data import write
from tests.tasks.speech_recognition.models import RAW, SMALL, ctc_folder, whisper_folder
from tests.tiny import THREE_STEPS
from tests.train.exact_worker import launch

recipe = importlib.import_module("recipes.transcribe")
RUN = THREE_STEPS | {"eval_steps": 0, "save_steps": 0, "eval_batch_size": 4, "speaker_column": "speaker"}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, str]:
    return write(tmp_path_factory.mktemp("data") / "clips", 24)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "ctc": str(ctc_folder(folder / "ctc")),
        "whisper": str(whisper_folder(folder / "whisper")),
        "many": str(whisper_folder(folder / "many", multilingual=True)),
    }


def train(data: dict[str, str], out: Path, pretrained: str | None, **settings) -> list[tuple]:
    """Losses and gradient norms."""
    recipe.main(TranscribeConfig(output_dir=str(out), **RUN | data | {"model_name_or_path": pretrained} | settings))
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"], row["grad_norm"]) for row in rows if "grad_norm" in row]


def rows_of(data: dict[str, str], split: str = "test") -> tuple[list[str], list[str]]:
    """Paths and texts."""
    file = Path(data[f"{split}_file"])
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [str(file.parent / row["audio"]) for row in rows], [row["text"] for row in rows]


@pytest.mark.parametrize("kind", ["ctc", "whisper"])
def test_the_score_is_that_of_predict_with_any_batch_size(kind, data, models, tmp_path, capsys):
    out = tmp_path / "out"
    train(data, out, models[kind], max_steps=2)
    scores = json.loads((out / "all_results.json").read_text())

    files, texts = rows_of(data)
    heard = predict(out, files, batch_size=3)
    assert heard == predict(out, files, batch_size=1) and any(heard)
    rates = error_rates(heard, texts, "basic")
    assert [scores["test_wer"], scores["test_cer"]] == [rates["wer"], rates["cer"]]
    capsys.readouterr()
    assert hftrain(["predict", str(out), "--file", data["test_file"]]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["prediction"] for line in lines] == heard and lines[0]["text"] == texts[0]
    page = (out / "report.html").read_text()
    assert all(word in page for word in ("data:audio/wav", "Errors by speaker", "Worst utterances"))


@pytest.mark.parametrize(
    "settings",
    [
        {"model_config": SMALL, "vocab_size": 264},
        {"model": "whisper", "model_config": {"d_model": 16, "encoder_ffn_dim": 16, "decoder_layers": 1}},
    ],
)
def test_new_models_have_byte_pairs_as_vocabulary(settings, data, tmp_path):
    out = tmp_path / "out"
    train(data, out, None, max_steps=2, **settings)
    files, texts = rows_of(data)
    heard = predict(out, files, batch_size=4)
    rates = error_rates(heard, texts, "basic")
    assert json.loads((out / "all_results.json").read_text())["test_cer"] == rates["cer"]
    if "model" in settings:
        with pytest.raises(ValueError, match="the model has no tokens for times"):
            predict(out, files[:1], times=True)
    else:
        assert predict(out, files[:1], times=True)[0].keys() == {"text", "segments"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*RAW, "wav2vec2-bert", "parakeet_ctc"])
def test_kinds_of_ctc_models_learn_and_predict(kind, data, tmp_path):
    model = ctc_folder(tmp_path / "model", kind)
    losses = [loss for _, loss, _ in train(data, tmp_path / "out", str(model), max_steps=10)]
    assert sum(losses[5:]) < sum(losses[:5])
    files, _ = rows_of(data)
    assert predict(tmp_path / "out", files, batch_size=3) == predict(tmp_path / "out", files, batch_size=1)
    times = predict(tmp_path / "out", files[:1], times=True)[0]
    assert times.keys() == {"text", "segments"}


def test_whisper_learns_what_follows_the_start(data, models, tmp_path):
    """The tokens that `generate` forces are those that the model learnt, each at its place."""
    from hftrain.audio import load_speech
    from hftrain.tasks.speech_recognition import collator, load_listener, load_recogniser, make_examples

    settings = {"model_name_or_path": models["many"], "language": "de", "task": "translate"}
    config = TranscribeConfig(output_dir=str(tmp_path), **RUN | data | settings)
    rows = load_speech(config, 0)
    listener = load_listener(config, rows)
    model = load_recogniser(config, listener)
    _, examples = make_examples(rows, listener, model, config)
    batch = collator(listener)(examples["train"][:2])
    tokens = [listener.tokenizer.convert_ids_to_tokens(batch[name][0]) for name in ("decoder_input_ids", "labels")]
    first = ["<|startoftranscript|>", "<|de|>", "<|translate|>", "<|notimestamps|>"]
    assert tokens[0][:4] == first and tokens[1][:3] == first[1:] and tokens[1][3] == rows["train"]["text"][0][0]
    batch.pop("labels")
    start = batch.pop("decoder_input_ids")[:, :4]
    forced = model.eval().generate(batch["input_features"], return_dict_in_generate=True, max_new_tokens=1)
    assert forced["sequences"][:, :4].tolist() == start.tolist()


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("many", {}, "writes many languages: set language"),
        ("many", {"language": "klingon"}, "Unsupported language: klingon"),
        ("whisper", {"language": "de"}, "writes English only"),
        ("ctc", {"language": "de"}, "does not choose among languages"),
        ("whisper", {"max_seconds": 0.3}, "more than the 0.3 s that the model hears"),
    ],
)
def test_what_a_model_cannot_write_or_hear_is_refused(kind, settings, message, data, models, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(data, tmp_path / "out", models[kind], **settings)


def test_adapters_of_whisper_hear_a_short_window_and_write_their_language(data, models, tmp_path):
    out = tmp_path / "out"
    lora = {"use_peft": True, "lora_r": 2, "lora_target_modules": ["q_proj", "v_proj"]}
    train(data, out, models["many"], language="de", **lora)
    files, texts = rows_of(data)
    heard = predict(out, files)
    results = json.loads((out / "all_results.json").read_text())
    assert (out / "adapter_config.json").is_file() and not (out / "model.safetensors").exists()
    exact = np.mean([one == other for one, other in zip(heard, texts, strict=True)])
    assert results["test_exact_match"] == pytest.approx(exact)
    assert "1 s at once" in (out / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ctc", "whisper"])
def test_cuts_change_nothing(kind, data, models, tmp_path):
    whole = train(data, tmp_path / "whole", models[kind])
    np.testing.assert_allclose(train(data, tmp_path / "cut", models[kind], micro_batch_size=1), whole, rtol=1e-5)
    by_seconds = {"micro_batch_size": None, "micro_batch_seconds": 1.5}
    np.testing.assert_allclose(train(data, tmp_path / "seconds", models[kind], **by_seconds), whole, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ctc", "whisper"])
def test_a_resumed_run_is_bit_equal(kind, data, models, tmp_path):
    dropout = "dropout" if kind == "whisper" else "hidden_dropout"
    noisy = {"save_steps": 2, "max_steps": 4, "dataloader_num_workers": 2, "noise": 0.5, "shift_seconds": 0.1}
    noisy |= {"model_config": {dropout: 0.1}, "speed": 0.1, "gain_decibels": 6.0, "time_masks": 2, "band_masks": 2}
    through = train(data, tmp_path / "through", models[kind], **noisy)
    shutil.copytree(tmp_path / "through" / "checkpoint-2", tmp_path / "again" / "checkpoint-2")
    again = train(data, tmp_path / "again", models[kind], **noisy, resume_from_checkpoint="auto")
    assert again == through[2:]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("strategy", ["ddp", "zero2"])
def test_two_processes_give_the_same_losses(strategy, data, models, tmp_path):
    whole, jobs = {}, []
    for kind in ("ctc", "whisper"):
        whole[kind] = train(data, tmp_path / "whole" / kind, models[kind])
        settings = {"output_dir": str(tmp_path / "two" / kind), **RUN, **data, "model_name_or_path": models[kind]}
        jobs.append({"name": kind, "recipe": "transcribe", "settings": settings | {"micro_batch_size": 2}})
    files = ("--config_file", str(ROOT / "ds_configs" / f"{strategy}.yaml"))
    measured = launch(tmp_path / "launch", jobs, *files, worker=str(ROOT / "tests/recipes/worker.py"))
    for kind, steps in whole.items():
        pairs = [(loss, norm) for _, loss, norm in steps]
        np.testing.assert_allclose(list(measured[kind]["steps"].values()), pairs, rtol=1e-5, err_msg=kind)
