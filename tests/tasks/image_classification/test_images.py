"""Training, sizes of models, prediction, and invariance: the same however a step is cut, and resumed or not."""

import importlib
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from sklearn.metrics import top_k_accuracy_score

from hftrain.cli import main as hftrain
from hftrain.config import ConfigError
from hftrain.metrics import load_metric, load_metrics
from hftrain.models.rates import layer_rates
from hftrain.predict import predict
from hftrain.tasks import image_classification as images
from hftrain.tasks.image_classification import ImageClassificationConfig
from hftrain.vision.sizes import refusal
from tests import ROOT
from tests.tasks.image_classification.pictures import CLASSES, picture, write_folder
from tests.train.exact_worker import launch

recipe = importlib.import_module("recipes.classify_images")
TINY = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
RUN = {
    "validation_split": 9, "test_split": 9, "global_batch_size": 12, "micro_batch_size": 6, "dataloader_num_workers": 0,
    "learning_rate": 3e-3, "max_steps": 6, "logging_steps": 1, "seed": 3, "model_config": TINY, "image_size": 8,
}  # fmt: skip
VIT = {**TINY, "num_hidden_layers": 2, "image_size": 16, "patch_size": 4}
MODELS = {
    "vit": (transformers.ViTConfig, VIT),
    "dinov2": (transformers.Dinov2Config, {**VIT, "mlp_ratio": 2}),
    # without the scale of positions that it draws anew in each pass of training, as others draw dropout
    "dinov3": (transformers.DINOv3ViTConfig, {**VIT, "num_register_tokens": 2, "pos_embed_rescale": None}),
    "siglip": (
        transformers.SiglipConfig,
        {"vision_config": {**VIT, "vision_use_head": False}, "text_config": {**TINY, "num_hidden_layers": 1}},
    ),
    "convnext": (
        transformers.ConvNextConfig,
        {"hidden_sizes": [4, 8], "depths": [1, 1], "num_stages": 2, "patch_size": 2},
    ),
    "swin": (transformers.SwinConfig, {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1],
        "num_heads": [1, 2], "window_size": 4, "drop_path_rate": 0.0}),
    "resnet": (transformers.ResNetConfig, {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1],
        "layer_type": "basic"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return str(write_folder(tmp_path_factory.mktemp("data") / "colours"))


def train(data: str, out: Path, **settings) -> list[tuple[float, float]]:
    """Losses and gradient norms."""
    recipe.main(ImageClassificationConfig(dataset_name=data, output_dir=str(out), **RUN | settings))
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(row["loss"], row["grad_norm"]) for row in rows if "grad_norm" in row]


def saved(kind: str, folder: Path, classes: int = 5) -> str:
    """A tiny pretrained classifier of another number of classes, with the settings of an image processor."""
    torch.manual_seed(0)
    config_class, shape = MODELS[kind]
    config = config_class(**shape, num_labels=classes)
    transformers.AutoModelForImageClassification.from_config(config).save_pretrained(folder)
    transformers.ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return str(folder)


def test_a_new_model_learns_and_predicts(data, tmp_path, capsys):
    settings = {"max_steps": 60, "metrics": ["accuracy", "top_3_accuracy", "roc_auc"], "eval_steps": 60}
    train(data, tmp_path / "out", **settings)
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert results["test_accuracy"] > 0.85 and results["test_top_3_accuracy"] == 1.0
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/png;base64") == 9 and "Confusion" in page
    assert "images/s, overall" in page and "images per second" in page and "tokens/s" not in page
    assert " images/s" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "run.json").read_text())["counted"] == "images"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "image-classification" in card and "from hftrain.predict import predict" in card
    assert (tmp_path / "out" / "preprocessor_config.json").is_file()

    for number in (100, 101, 102):
        picture(number).save(tmp_path / f"{number}.png")
    answers = predict(tmp_path / "out", [str(tmp_path / f"{number}.png") for number in (100, 101, 102)])
    assert [answer["label"] for answer in answers] == ["green", "blue", "red"]
    assert sum(answers[0]["probabilities"].values()) == pytest.approx(1)
    capsys.readouterr()
    assert hftrain(["predict", str(tmp_path / "out"), str(tmp_path / "100.png"), data]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 61 and lines[0].startswith(f"{tmp_path / '100.png'}\tgreen\t0.")
    rows = tmp_path / "new.jsonl"
    rows.write_text('{"image": "101.png", "id": 7}\n')
    assert hftrain(["predict", str(tmp_path / "out"), "--file", str(rows)]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["image"], row["id"], row["prediction"]["label"]) == ("101.png", 7, "blue")
    with pytest.raises(ValueError, match=r"is a URL, https://x\.org/a\.jpg: only files are read"):
        predict(tmp_path / "out", ["https://x.org/a.jpg"])
    with pytest.raises(ValueError, match=r"none.png cannot be read"):
        predict(tmp_path / "out", ["none.png"])


@pytest.mark.slow
def test_cuts_and_workers_change_nothing(data, tmp_path):
    noise = {"mixup_alpha": 0.3, "cutmix_alpha": 1.0, "auto_augment": "trivial", "random_erasing": 0.3}
    noise["model_config"] = {**TINY, "dropout": 0.0}  # which is seeded by micro-batch
    whole = train(data, tmp_path / "whole", micro_batch_size=12, **noise)
    cut = train(data, tmp_path / "cut", micro_batch_size=5, **noise)
    np.testing.assert_allclose(cut, whole, rtol=1e-5)
    assert train(data, tmp_path / "workers", micro_batch_size=12, dataloader_num_workers=2, **noise) == whole


@pytest.mark.slow
def test_a_resumed_run_is_the_unbroken_one(data, tmp_path):
    settings = {"auto_augment": "randaugment", "mixup_alpha": 0.3, "ema_decay": 0.9, "save_steps": 3, "eval_steps": 3}
    settings |= {"save_total_limit": 9, "dataloader_num_workers": 1}
    train(data, tmp_path / "whole", **settings)
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    for late in ("checkpoint-6", "model.safetensors"):
        path = tmp_path / "again" / late
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    resumed = tmp_path / "again" / "checkpoint-3"
    train(data, tmp_path / "again", **settings, resume_from_checkpoint=str(resumed))
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "again")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow) if kind in ("dinov2", "swin") else kind for kind in MODELS]
)
def test_pretrained_models_take_other_classes(kind, data, tmp_path):
    name = saved(kind, tmp_path / "model")
    losses = train(data, tmp_path / "out", model_name_or_path=name, model_config={}, image_size=None, max_steps=2)
    assert all(math.isfinite(value) for row in losses for value in row)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert list(config["id2label"].values()) == sorted(CLASSES)
    classify = transformers.pipeline("image-classification", model=str(tmp_path / "out"))
    file = f"{data}/red/000.png"
    ours = predict(tmp_path / "out", [file])[0]["probabilities"]
    for found in classify(file, top_k=3):
        assert found["score"] == pytest.approx(ours[found["label"]], abs=1e-5)


def test_a_dinov3_gets_a_head(data, tmp_path):
    torch.manual_seed(0)
    model = transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**VIT, num_register_tokens=2))
    model.save_pretrained(tmp_path / "model")
    settings = {"model_name_or_path": str(tmp_path / "model"), "model_config": {}, "image_size": 12}
    train(data, tmp_path / "out", **settings, freeze=["dinov3"], max_steps=2)
    trained = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert [name for name, _ in trained.named_children()] == ["dinov3", "classifier"]
    again = trained.dinov3.state_dict()
    assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())
    assert set(layer_rates(trained, 1.0, 0.1).values()) == {0.1, 1.0}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("strategy", ["ddp", "zero2"])
def test_two_processes_give_the_same_losses(strategy, data, tmp_path):
    """Of a model of each kind but ResNet, which normalises over the images of a micro-batch."""
    kinds = [kind for kind in MODELS if kind != "resnet"]
    noise = {"model_config": {}, "image_size": None, "mixup_alpha": 0.3, "auto_augment": "trivial", "max_steps": 3}
    whole, jobs = {}, []
    for kind in kinds:
        how = {**noise, "model_name_or_path": saved(kind, tmp_path / kind)}
        whole[kind] = train(data, tmp_path / "whole" / kind, micro_batch_size=12, **how)
        settings = {"dataset_name": data, "output_dir": str(tmp_path / "two" / kind), **RUN, **how}
        jobs.append({"name": kind, "recipe": "classify_images", "settings": settings | {"micro_batch_size": 2}})
    files = ("--config_file", str(ROOT / "ds_configs" / f"{strategy}.yaml"))
    found = launch(tmp_path / "launch", jobs, *files, worker=str(ROOT / "tests/recipes/worker.py"))
    for kind in kinds:
        np.testing.assert_allclose(list(found[kind]["steps"].values()), whole[kind], rtol=1e-5, err_msg=kind)


@pytest.mark.parametrize("kind", ["vit", "siglip", "dinov2"])
def test_positions_are_interpolated_as_the_model_does(kind, data, tmp_path):
    name = saved(kind, tmp_path / "model", classes=3)
    before = transformers.AutoModelForImageClassification.from_pretrained(name).eval()
    config = ImageClassificationConfig(dataset_name=data, model_name_or_path=name, image_size=24)
    rows = images.load_images(config, seed=0)
    pixels = images.load_pixels(config, rows["train"])
    model = images.load_classifier(config, pixels, CLASSES).eval()
    batch = torch.randn(2, 3, 24, 24)
    how = {} if kind == "dinov2" else {"interpolate_pos_encoding": True}
    with torch.no_grad():
        assert torch.allclose(model(batch).logits, before(batch, **how).logits, atol=1e-6)
    model.save_pretrained(tmp_path / "new")
    again = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "new").eval()
    with torch.no_grad():
        assert torch.equal(again(batch).logits, model(batch).logits)


def test_sizes_that_a_model_cannot_take(data, tmp_path):
    name = saved("vit", tmp_path / "model")
    config = ImageClassificationConfig(dataset_name=data, model_name_or_path=name, image_size=18)
    pixels = images.load_pixels(config, images.load_images(config, seed=0)["train"])
    with pytest.raises(ValueError, match=r"image_size=18: .*/model cannot read such images: its patches are 4 pixels"):
        images.load_classifier(config, pixels, CLASSES)
    assert "patches are 16 pixels" in str(refusal(transformers.ViTConfig(), 8))
    assert refusal(transformers.ConvNextConfig(), 8) is not None  # nothing is left of it
    assert refusal(transformers.ConvNextConfig(), 64) is None and refusal(transformers.ViTConfig(), 224) is None


def test_the_size_of_a_new_model_follows_the_images(data):
    config = ImageClassificationConfig(dataset_name=data)
    pixels = images.load_pixels(config, images.load_images(config, seed=0)["train"])
    assert (pixels.height, config.image_size) == (16, 16)
    assert "12 pixels long" in config.chosen["image_size"].reason


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mixup_alpha": 0.2, "problem_type": "regression"}, "only for one class of several"),
        ({"cutmix_alpha": 1.0, "focal_gamma": 2.0}, "the focal loss needs one class"),
        ({"model": "vit", "model_name_or_path": "x"}, "the former is for a new model"),
        ({"flip": 1.5}, "flip"),
    ],
)
def test_settings_that_contradict_each_other(settings, message):
    with pytest.raises(ConfigError, match=message):
        ImageClassificationConfig(**settings)


def test_adapters(data, tmp_path):
    name = saved("vit", tmp_path / "model")
    peft = {"use_peft": True, "lora_r": 2, "model_config": {}, "image_size": None, "max_steps": 2}
    train(data, tmp_path / "out", model_name_or_path=name, **peft)
    assert not (tmp_path / "out" / "model.safetensors").exists()
    answers = predict(tmp_path / "out", [f"{data}/red/000.png"])
    assert answers[0]["label"] in CLASSES


def test_a_sheet_of_what_the_model_sees(data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hftrain(["inspect", "classify_images", "--dataset_name", data, "--validation_split", "9"]) == 0
    from PIL import Image

    with Image.open("inspect.png") as sheet:
        assert sheet.width > 400
    assert "what the model sees of" in capsys.readouterr().out


@pytest.mark.parametrize("count", [3, 5])
def test_top_k_is_that_of_scikit_learn(count):
    draw = np.random.default_rng(count)
    scores = draw.integers(0, 4, (200, 7)) / 4  # with ties
    right = draw.integers(0, 7, 200)
    metrics = load_metrics([f"top_{count}_accuracy"], "single_label_classification", labels=list("abcdefg"))
    for part in (slice(0, 77), slice(77, None)):
        metrics.add(scores[part].argmax(axis=1), right[part], scores[part])
    wanted = top_k_accuracy_score(right, scores, k=count, labels=range(7))
    assert metrics.compute()[f"top_{count}_accuracy"] == pytest.approx(wanted, abs=1e-12)
    face = load_metric(f"top_{count}_accuracy", "multiclass").compute(prediction_scores=scores, references=right)
    assert face == {f"top_{count}_accuracy": pytest.approx(wanted, abs=1e-12)}
