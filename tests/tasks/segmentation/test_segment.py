"""The recipe: new and pretrained models learn, report, predict; the same on two processes and after a resume."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from hftrain.cli import main as hftrain
from hftrain.config import ConfigError
from hftrain.predict import predict
from hftrain.tasks.segmentation import SegmentationConfig
from hftrain.tasks.segmentation.config import auto_class
from hftrain.vision.encodings import decode
from tests import ROOT
from tests.tasks.detection.data import NAMES
from tests.tasks.segmentation.data import write_folders, write_objects, write_panoptic
from tests.tasks.segmentation.models import SHAPES, saved
from tests.tiny import THREE_STEPS
from tests.train.exact_worker import launch

recipe = importlib.import_module("recipes.segment")
RUN = THREE_STEPS | {"flip": 0.5}
NOISE = {"smallest_scale": 0.5, "largest_scale": 1.5, "colour_jitter": 0.3}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    makers = {"semantic": write_folders, "instance": write_objects, "panoptic": write_panoptic}
    return {name: str(make(tmp_path_factory.mktemp(name) / "data")) for name, make in makers.items()}


def train(data: str, out: Path, **settings) -> list[tuple[float, float]]:
    """Losses and gradient norms."""
    recipe.main(SegmentationConfig(dataset_name=data, output_dir=str(out), **RUN | settings))
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(row["loss"], row["grad_norm"]) for row in rows if "grad_norm" in row]


def test_a_new_model_labels_pixels_reports_and_predicts(folders, tmp_path, capsys):
    out, data = tmp_path / "out", folders["semantic"]
    names = ["ground", *NAMES]
    losses = train(
        data, out, label_names=names, model="segformer", model_config=SHAPES["segformer"], max_steps=12, **NOISE
    )
    assert np.mean(losses[-4:], axis=0)[0] < losses[0][0]
    results = json.loads((out / "all_results.json").read_text())
    assert {"test_mean_iou", "test_pixel_accuracy", "test_loss", "eval_mean_iou"} <= results.keys()
    page = (out / "report.html").read_text()
    for word in ("Hardest images", "By class", "IoU", "data:image/"):
        assert word in page, word

    file = f"{data}/test/images/030.png"
    (segments,) = predict(out, [file])
    masks = [decode(one["segmentation"]["counts"], *one["segmentation"]["size"]) for one in segments]
    assert sum(masks).tolist() == np.ones((24, 32)).tolist()  # each pixel has one class
    assert {one["label"] for one in segments} <= {*names}
    written = [
        "--masks",
        str(tmp_path / "masks"),
        "--draw",
        str(tmp_path / "drawn"),
        "--output",
        str(tmp_path / "o.jsonl"),
    ]
    assert hftrain(["predict", str(out), file, *written]) == 0
    labels = np.asarray(Image.open(tmp_path / "masks" / "030.png"))
    for one, mask in zip(segments, masks, strict=True):
        np.testing.assert_array_equal(labels == names.index(one["label"]), mask)
    assert Image.open(tmp_path / "drawn" / "030.png").size == (384, 288)
    assert json.loads((tmp_path / "o.jsonl").read_text()) == {"image": file, "prediction": segments}
    capsys.readouterr()
    assert hftrain(["predict", str(out), file]) == 0
    assert capsys.readouterr().out.startswith(f"{file}\t{segments[0]['label']}\t1.0000\t{segments[0]['area']}")
    assert hftrain(["predict", str(out), file, "--coco", str(tmp_path / "x.json")]) == 2
    assert "--coco is for objects in images" in capsys.readouterr().err

    model = transformers.SegformerForSemanticSegmentation.from_pretrained(out).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(out, backend="pil")
    image = Image.open(file).convert("RGB")
    with torch.no_grad():
        output = model(**processor(image, return_tensors="pt"))
    theirs = processor.post_process_semantic_segmentation(output, target_sizes=[(24, 32)])[0]
    assert (theirs.numpy() == labels).mean() > 0.99


OTHERS = [("mask2former", "panoptic"), ("eomt", "instance"), ("maskformer", "panoptic")]


@pytest.mark.parametrize(
    ("kind", "segmentation"),
    [
        ("mask2former", "instance"),
        ("eomt", "panoptic"),
        *(pytest.param(*other, marks=pytest.mark.slow) for other in OTHERS),
    ],
)
def test_models_of_sets_tell_objects_apart(kind, segmentation, folders, tmp_path):
    data, out = folders[segmentation], tmp_path / "out"
    shape = {"model": kind, "model_config": SHAPES[kind], "image_size": 64}
    losses = train(data, out, segmentation=segmentation, **shape, max_steps=4, copy_paste=0.5, **NOISE)
    assert np.isfinite(losses).all()
    results = json.loads((out / "all_results.json").read_text())
    assert {"instance": "test_map", "panoptic": "test_pq"}[segmentation] in results
    file = next(iter(sorted(Path(data).rglob("030.png")))).as_posix()
    (segments,) = predict(out, [file], threshold=0.0)
    if segmentation == "instance":
        assert [one["score"] for one in segments] == sorted((s["score"] for s in segments), reverse=True)
    assert {one["label"] for one in segments} <= {*NAMES, "ground"}
    assert hftrain(["predict", str(out), file, "--threshold", "1.1", "--masks", str(tmp_path / "masks")]) == 0
    nothing = np.asarray(Image.open(tmp_path / "masks" / "030.png"))  # an image without segments has a mask too
    assert nothing.shape == (24, 32) and not nothing.any()


@pytest.mark.parametrize("kind", ["segformer", "mask2former"])
def test_pretrained_models_take_other_classes(kind, folders, tmp_path, caplog):
    name = saved(kind, tmp_path / "model", classes=7)
    losses = train(folders["semantic"], tmp_path / "out", model_name_or_path=name, max_steps=1)
    assert np.isfinite(losses).all()
    assert "new, with random weights: " in caplog.text
    again = getattr(transformers, auto_class(kind)).from_pretrained(tmp_path / "out")
    assert [*again.config.id2label.values()] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("form", ["labels", "masks", "boxes"])
def test_inspect_shows_what_is_learnt(form, folders, tmp_path, capsys):
    """A sheet with marks differs from one without them where the marks are."""
    sheet = tmp_path / "sheet.png"
    recipe_name = "detect" if form == "boxes" else "segment"
    shape = {"masks": ["--model", "mask2former"], "boxes": ["--model", "yolos"]}.get(form, [])
    words = ["--sheet", str(sheet), "--", "--dataset_name", folders["instance"], "--image_size", "64", *shape]
    words += ["--output_dir", str(tmp_path / "out")]
    assert hftrain(["inspect", recipe_name, *words]) == 0
    colours = {colour for _, colour in Image.open(sheet).convert("RGB").getcolors(1 << 24)}
    assert "what the model sees of" in capsys.readouterr().out and len(colours) > 100
    assert Image.open(sheet).width >= 4 * 192  # marked pictures are enlarged


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["segformer", "mask2former"])
def test_a_resume_is_bit_equal_with_augmentation_and_averages(kind, folders, tmp_path):
    data = folders["instance"]
    how = {"model_name_or_path": saved(kind, tmp_path / "model"), "ema_decay": 0.9, "copy_paste": 0.5, **NOISE}
    how |= {"max_steps": 6, "save_steps": 3, "dataloader_num_workers": 1, "layer_decay": 0.7}
    how |= {"multi_scale": 0.5} if kind == "segformer" else {}
    whole = train(data, tmp_path / "whole", **how)
    checkpoint = tmp_path / "whole" / "checkpoint-3"
    resumed = train(data, tmp_path / "resumed", **how, resume_from_checkpoint=str(checkpoint))
    assert resumed == whole[3:]
    weights = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("whole", "resumed")]
    assert weights[0] == weights[1]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("strategy", ["ddp", "zero2"])
def test_two_processes_give_the_same_losses(strategy, folders, tmp_path):
    whole, jobs = {}, []
    kinds = {"segformer": "semantic", "mask2former": "panoptic"}
    for kind, segmentation in kinds.items():
        how = {"model_name_or_path": saved(kind, tmp_path / kind), "segmentation": segmentation, **NOISE}
        data = folders["panoptic"]
        whole[kind] = train(data, tmp_path / "whole" / kind, **how)
        settings = {"dataset_name": data, "output_dir": str(tmp_path / "two" / kind), **RUN, **how}
        jobs.append({"name": kind, "recipe": "segment", "settings": settings | {"micro_batch_size": 2}})
    files = ("--config_file", str(ROOT / "ds_configs" / f"{strategy}.yaml"))
    results = launch(tmp_path / "launch", jobs, *files, worker=str(ROOT / "tests/recipes/worker.py"))
    for kind, steps in whole.items():
        np.testing.assert_allclose(list(results[kind]["steps"].values()), steps, rtol=1e-5, err_msg=kind)
        name = {"semantic": "test_mean_iou", "panoptic": "test_loss"}[kinds[kind]]
        scores = [
            json.loads((tmp_path / run / kind / "all_results.json").read_text())[name] for run in ("whole", "two")
        ]
        assert scores[0] == pytest.approx(scores[1], rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric_for_best_model": "pq"}, "only loss, mean_iou, pixel_accuracy, mean_accuracy are evaluated"),
        ({"segmentation": "panoptic", "model": "segformer"}, "panoptic segmentation needs one of mask2former"),
        ({"model": "mask2former", "dice_weight": 1.0}, "dice_weight"),
        ({"label_names": ["a", "b"], "label_values": ["1"]}, "one value for each name"),
        ({"model": "segformr"}, "did you mean segformer"),
        ({"model": "oneformer"}, "oneformer cannot be trained here: its contrastive loss needs texts"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ConfigError, match=message):
        SegmentationConfig(**settings)


def test_a_pretrained_oneformer_is_refused_with_the_reason(folders, tmp_path):
    transformers.OneFormerConfig(backbone_config=transformers.SwinConfig()).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="a oneformer cannot be trained here: its contrastive loss needs texts"):
        train(folders["instance"], tmp_path / "out", model_name_or_path=str(tmp_path / "model"), image_size=64)


def test_a_model_that_labels_pixels_cannot_tell_objects_apart(folders, tmp_path):
    name = saved("segformer", tmp_path / "model")
    with pytest.raises(ValueError, match="a segformer labels pixels; instance segmentation needs one of mask2former"):
        train(folders["instance"], tmp_path / "out", model_name_or_path=name, segmentation="instance")


def test_sizes_that_the_model_cannot_take_are_refused(folders, tmp_path):
    name = saved("eomt", tmp_path / "model")
    with pytest.raises(ValueError, match=r"multi_scale=0\.5, image size=32: EomtForUniversalSegmentation cannot read"):
        train(folders["instance"], tmp_path / "out", model_name_or_path=name, multi_scale=0.5)
