"""Models that speak in codes: their own loss, undone of its mean, whatever the cut; a run with LoRA; what is spoken."""

import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hftrain.deploy.merge import merge
from hftrain.predict import predict
from hftrain.tasks.speaking import SpeakConfig, collator, loss_for
from hftrain.tasks.speaking.codec import codec_of, decode, load_processor, read_codes, speak_codes
from tests.tasks.speaking.coded import CODED, RATE, make, save
from tests.tasks.speaking.data import wave, write
from tests.tiny import THREE_STEPS

recipe = importlib.import_module("recipes.speak")
RUN = THREE_STEPS | {"eval_steps": 0, "save_steps": 0, "num_samples": 1, "num_scored": 2, "max_seconds": 1.0}
RUN["speaker_column"] = "speaker"
LORA = {"use_peft": True, "lora_r": 2, "lora_dropout": 0.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, str]:
    return write(tmp_path_factory.mktemp("data") / "clips", 12)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    base = tmp_path_factory.mktemp("models")
    return {kind: str(save(kind, base / kind)) for kind in CODED}


def train(data: dict[str, str], out: Path, folder: str, **settings) -> list[tuple]:
    """Losses and gradient norms."""
    recipe.main(SpeakConfig(output_dir=str(out), **RUN | data | {"model_name_or_path": folder} | settings))
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"], row["grad_norm"]) for row in rows if "grad_norm" in row]


def examples(kind: str) -> list[dict[str, np.ndarray]]:
    draw = np.random.default_rng(0)
    books = {"csm": 4, "dia": 3}[kind]
    return [
        {"input_ids": draw.integers(4, 30, 3 + number), "codes": draw.integers(1, 32, (2 + 3 * number % 7, books))}
        for number in range(5)
    ]


def step(kind: str, cuts: list[int]):
    model = make(kind).train()
    if kind == "csm":
        read_codes(model)
    rows, collate, loss = examples(kind), collator(None, model), loss_for(model).loss()
    value, frames = 0.0, loss.count(collate(rows))
    for cut in np.split(np.arange(len(rows)), cuts):
        summed = loss.summed(model, collate([rows[place] for place in cut])) / frames
        summed.backward()
        value += float(summed.detach())
    return value, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("kind", CODED)
@pytest.mark.parametrize("cuts", [[3], [1, 2, 3, 4]])
def test_any_cut_gives_the_same_loss_and_gradients(kind, cuts):
    whole, gradient = step(kind, [])
    value, other = step(kind, cuts)
    assert value == pytest.approx(whole, rel=1e-5)
    assert float((other - gradient).norm()) <= 1e-5 * float(gradient.norm())


def recordings(kind: str, folder: str) -> tuple[list[np.ndarray], list[dict[str, np.ndarray]]]:
    """Waves of whole frames of the codec, and their examples."""
    processor, draw = load_processor(kind, folder), np.random.default_rng(0)
    codec, waves, rows = codec_of(make(kind), processor), [], []
    for text in ("abc", "de"):
        sound = wave(text, 100.0, draw).astype(np.float32)
        waves.append(np.pad(sound, (0, -len(sound) % 1280)))
        codes = codec.encode(torch.from_numpy(waves[-1])[None, None]).audio_codes[0].T.numpy()
        tagged = f"[0]{text}" if kind == "csm" else f"[S1] {text}"
        rows.append({"input_ids": np.array(processor.tokenizer(tagged)["input_ids"]), "codes": codes})
    return waves, rows


def test_csm_has_the_loss_of_transformers_for_waves(folders):
    waves, rows = recordings("csm", folders["csm"])
    for sound, row in zip(waves, rows, strict=True):
        model = make("csm").eval()
        batch, loss = collator(None, model)([row]), loss_for(model).loss()
        ids = batch["input_ids"]
        own = model(
            input_ids=ids,
            input_values=torch.from_numpy(sound)[None, None],
            attention_mask=batch["attention_mask"],
            input_values_cutoffs=torch.tensor([[len(sound)]]),
            labels=torch.where((ids == 2) | (ids == 3), ids, -100),
        ).loss.detach()
        read_codes(model)
        assert float(loss.summed(model, batch).detach() / loss.count(batch)) == pytest.approx(float(own), rel=1e-5)


def test_dia_has_the_batch_of_transformers_processor_and_its_loss(folders):
    waves, rows = recordings("dia", folders["dia"])
    ids = {"eos_token_id": 32, "pad_token_id": 33, "bos_token_id": 34, "delay_pattern": [0, 2, 3]}
    theirs = load_processor("dia", folders["dia"])(
        text=["[S1] abc", "[S1] de"], audio=waves, generation=False, output_labels=True, sampling_rate=RATE, **ids
    )
    model = make("dia").eval()
    batch, loss = collator(None, model)(rows), loss_for(model).loss()
    longest = max(range(2), key=lambda place: len(waves[place]))  # the other one has its padding before it
    labels = theirs["labels"].view(2, 3, -1)[longest].T
    assert torch.equal(batch["labels"][longest], labels)
    assert torch.equal(batch["decoder_input_ids"][longest], theirs["decoder_input_ids"][longest])
    own = float(model(**theirs).loss)
    assert float(loss.summed(model, batch).detach() / loss.count(batch)) == pytest.approx(own, rel=1e-5)


@pytest.mark.parametrize("kind", CODED)
def test_codes_are_spoken_to_their_end_or_the_longest_length(kind, folders):
    model = make(kind).eval()
    codec = codec_of(model, load_processor(kind, folders[kind]))
    state = torch.get_rng_state()
    codes, ended = speak_codes(model, torch.tensor([1, 5, 6, 7]), 5)
    assert codes.shape == (5, {"csm": 4, "dia": 3}[kind]) and not ended
    assert torch.equal(state, torch.get_rng_state()) and torch.equal(
        codes, speak_codes(model, torch.tensor([1, 5, 6, 7]), 5)[0]
    )
    assert len(decode(codec, codes)) == 5 * {"csm": 640, "dia": 256}[kind]


@pytest.mark.parametrize("kind", ["csm", pytest.param("dia", marks=pytest.mark.slow)])
def test_a_run_with_lora_reports_and_speaks(kind, data, folders, tmp_path):
    out = tmp_path / "out"
    losses = train(data, out, folders[kind], **LORA, max_steps=6, learning_rate=0.03, eval_steps=3)
    assert losses[-1][1] < losses[0][1]
    results = json.loads((out / "all_results.json").read_text())
    assert {"test_loss", "test_mcd", "eval_loss", "eval_mcd"} <= results.keys()
    names = (out / "adapter_model.safetensors").read_bytes()[:20_000]
    assert b"lora_A" in names and b"codec_model" not in names
    assert [path.name for path in sorted((out / "samples").iterdir())] == ["step-3", "step-6"]
    named = [folders[kind], *([f"{folders[kind]}/codec"] if kind == "dia" else [])]
    card = (out / "README.md").read_text()
    assert all(f"The licence of {name} applies to weights made of it" in card for name in named)
    (spoken,) = predict(out, ["abc"], speaker="low")
    assert spoken["rate"] == RATE and spoken["wave"].dtype == np.float32 and 0 < len(spoken["wave"]) <= RATE
    with pytest.raises(ValueError, match="cannot be compared on texts"):
        merge(out, tmp_path / "merged")
    with pytest.raises(ValueError, match="has its own codec"):
        predict(out, ["abc"], vocoder="x")


@pytest.mark.slow
@pytest.mark.parametrize("kind", CODED)
def test_cuts_and_resuming_change_nothing(kind, data, folders, tmp_path):
    noisy = {"use_peft": True, "lora_r": 2, "lora_dropout": 0.1, "save_steps": 2, "max_steps": 4}
    whole = train(data, tmp_path / "whole", folders[kind], **LORA)
    np.testing.assert_allclose(
        train(data, tmp_path / "cut", folders[kind], **LORA, micro_batch_size=2), whole, rtol=1e-5
    )
    through = train(data, tmp_path / "through", folders[kind], **noisy)
    shutil.copytree(tmp_path / "through" / "checkpoint-2", tmp_path / "again" / "checkpoint-2")
    assert train(data, tmp_path / "again", folders[kind], **noisy, resume_from_checkpoint="auto") == through[2:]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"vocoder": "x"}, "vocoder has no use here"), ({"sampling_rate": 16_000}, "speaks 8000")],
)
def test_settings_of_other_models_are_refused(settings, message, data, folders, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(data, tmp_path / "out", folders["dia"], **settings)


def test_a_fully_trained_csm_is_saved_with_its_codec_unchanged(data, folders, tmp_path):
    train(data, tmp_path / "out", folders["csm"], max_steps=1)
    before, after = (load_file(Path(folder) / "model.safetensors") for folder in (folders["csm"], tmp_path / "out"))
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if name.startswith("codec_model")}
    assert predict(tmp_path / "out", ["abc"])[0]["rate"] == RATE
