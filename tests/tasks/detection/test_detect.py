"""The recipe: a new and a pretrained model learn, report, predict; the same on two processes."""

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
from hftrain.data.plan import augmented
from hftrain.predict import predict
from hftrain.tasks import detection
from hftrain.tasks.detection import DetectionConfig
from hftrain.tasks.detection.model import new_processor
from hftrain.tasks.detection.report import mistakes
from hftrain.vision.canvas import Canvas
from tests import ROOT
from tests.tasks.detection.data import NAMES, coco, write_coco
from tests.tasks.detection.models import HYBRID, RESNET, STAGES, saved
from tests.tiny import THREE_STEPS
from tests.train.exact_worker import launch

recipe = importlib.import_module("recipes.detect")
NEW = {**HYBRID, "backbone_config": {"model_type": "rt_detr_resnet", **RESNET, "out_features": STAGES}}
RUN = THREE_STEPS | {"flip": 0.5}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return str(write_coco(tmp_path_factory.mktemp("data") / "coco"))


def train(data: str, out: Path, **settings) -> list[tuple[float, float]]:
    """Losses and gradient norms."""
    recipe.main(DetectionConfig(dataset_name=data, output_dir=str(out), **RUN | settings))
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(row["loss"], row["grad_norm"]) for row in rows if "grad_norm" in row]


def test_a_new_model_reports_and_predicts(data, tmp_path, capsys):
    out = tmp_path / "out"
    losses = train(data, out, model_config=NEW, max_steps=12, mosaic=0.3, smallest_scale=0.5, largest_scale=1.5)
    assert np.mean(losses[-4:], axis=0)[0] < losses[0][0]
    results = json.loads((out / "all_results.json").read_text())
    assert {"test_map", "test_map_50", "test_ar_100", "test_loss", "eval_map"} <= results.keys()
    page = (out / "report.html").read_text()
    for word in ("Precision and recall", "Misses", "By class", "images/s, overall", "data:image/"):
        assert word in page, word
    config = json.loads((out / "config.json").read_text())
    assert config["hftrain"]["category_ids"] == [1, 3, 7] and [*config["id2label"].values()] == [*NAMES]

    file = f"{data}/test/030.png"
    (objects,) = predict(out, [file], threshold=0.0)
    assert objects and [one["score"] for one in objects] == sorted((one["score"] for one in objects), reverse=True)
    assert set(objects[0]) == {"label", "score", "box"} and objects[0]["label"] in NAMES
    assert predict(out, [file], threshold=1.1) == [[]]
    capsys.readouterr()
    written = ["--coco", str(tmp_path / "coco.json"), "--draw", str(tmp_path / "drawn")]
    rows = ["--output", str(tmp_path / "rows.jsonl"), "--threshold", "0.1"]
    assert hftrain(["predict", str(out), file, *written, *rows]) == 0
    results = json.loads((tmp_path / "coco.json").read_text())
    assert len(results) == len(objects) and {one["image_id"] for one in results} == {30}
    assert {one["category_id"] for one in results} <= {1, 3, 7}
    left, top, right, bottom = objects[0]["box"]
    assert results[0]["bbox"] == pytest.approx([left, top, right - left, bottom - top], abs=0.011)
    row = json.loads((tmp_path / "rows.jsonl").read_text())
    assert row["image"] == file and all(one["score"] >= 0.1 for one in row["prediction"])
    assert Image.open(tmp_path / "drawn" / "030.png").size == (384, 288)
    assert hftrain(["predict", str(out), file, "--threshold", "0"]) == 0
    assert capsys.readouterr().out.startswith(f"{file}\t{objects[0]['label']}\t0.")
    with pytest.raises(ValueError, match=r"is a URL"):
        predict(out, ["https://x.org/a.jpg"])


OTHERS = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("rt_detr", "d_fine", "deimv2", "lw_detr", "rf_detr")]


@pytest.mark.parametrize("kind", ["detr", "yolos", *OTHERS])
def test_pretrained_models_take_other_classes(kind, data, tmp_path, caplog):
    name = saved(kind, tmp_path / "model", classes=5)
    losses = train(data, tmp_path / "out", model_name_or_path=name, max_steps=1)
    assert np.isfinite(losses).all()
    assert "new, with random weights: " in caplog.text
    again = transformers.AutoModelForObjectDetection.from_pretrained(tmp_path / "out")
    assert [*again.config.id2label.values()] == [*NAMES]
    ours = predict(tmp_path / "out", [f"{data}/test/030.png"], threshold=0.0)[0]
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out", backend="pil")
    image = Image.open(f"{data}/test/030.png").convert("RGB")
    with torch.no_grad():
        output = again.eval()(**processor(image, return_tensors="pt"))
    theirs = processor.post_process_object_detection(output, threshold=0.0, target_sizes=[(image.height, image.width)])
    best = theirs[0]["scores"].argmax()
    assert ours[0]["score"] == pytest.approx(float(theirs[0]["scores"][best]), abs=1e-5)
    assert ours[0]["box"] == pytest.approx(theirs[0]["boxes"][best].tolist(), abs=0.02)


@pytest.mark.slow
def test_cuts_change_nothing(data, tmp_path):
    name = saved("detr", tmp_path / "model")
    noise = {"mosaic": 0.5, "smallest_scale": 0.5, "colour_jitter": 0.3, "multi_scale": 0.5, "model_name_or_path": name}
    whole = train(data, tmp_path / "whole", **noise)
    np.testing.assert_allclose(train(data, tmp_path / "cut", micro_batch_size=2, **noise), whole, rtol=1e-5)


@pytest.mark.slow
def test_a_resume_is_bit_equal_with_mosaics_until_they_close(data, tmp_path):
    how = {"model_name_or_path": saved("detr", tmp_path / "model"), "mosaic": 1.0, "closing_share": 0.3}
    how |= {"multi_scale": 0.5, "smallest_scale": 0.5, "ema_decay": 0.9, "layer_decay": 0.7, "backbone_rate": 0.1}
    how |= {"max_steps": 6, "save_steps": 3, "dataloader_num_workers": 2}
    whole = train(data, tmp_path / "whole", **how)
    checkpoint = tmp_path / "whole" / "checkpoint-3"
    assert train(data, tmp_path / "resumed", **how, resume_from_checkpoint=str(checkpoint)) == whole[3:]
    weights = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("whole", "resumed")]
    assert weights[0] == weights[1]
    how |= {"max_steps": 6, "closing_share": 0.0}
    assert train(data, tmp_path / "open", **how)[:4] == whole[:4]  # only the last third is another
    assert train(data, tmp_path / "open again", **how)[4] != whole[4]


def test_mosaics_close_and_sizes_change_with_the_step(data):
    config = DetectionConfig(dataset_name=data, mosaic=1.0, closing_share=0.3, multi_scale=0.5, flip=0.0, seed=5)
    rows, names, _ = detection.load_objects(config, seed=0)
    examples = detection.make_examples(rows["train"], names)
    canvas = Canvas(new_processor("rt_detr"), 96)
    at = detection.augmentation(config, examples, canvas)
    own = {number: sorted(one["labels"]) for number, one in enumerate(examples)}
    sides = []
    for step in range(10):
        made = [augmented(at(step, 10), examples[number], 5, step, number) for number in own]
        sides.append(made[0]["pixels"].shape[-1])
        assert {one["pixels"].shape[-1] for one in made} == {sides[-1]}
        assert (step >= 7) == all(sorted(one["labels"]) == own[number] for number, one in enumerate(made))
        for one in made:
            for (x, y, width, height), label in zip(one["boxes"], one["labels"], strict=True):
                if min(width, height) * sides[-1] > 8:  # the middle of a box has the colour of its class
                    middle = one["pixels"][:, int(y * sides[-1]), int(x * sides[-1])]
                    assert middle.argmax() == label
    assert set(sides) <= {64, 96, 128} and len(set(sides)) > 1
    collated = detection.collator(Canvas(new_processor("detr"), 96))(made)
    assert collated["pixel_mask"].shape == collated["pixel_values"].shape[:1] + collated["pixel_values"].shape[2:]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("strategy", ["ddp", "zero2"])
def test_two_processes_give_the_same_losses(strategy, data, tmp_path):
    whole, jobs = {}, []
    for kind in ("detr", "yolos", "rt_detr"):
        how = {"model_name_or_path": saved(kind, tmp_path / kind), "mosaic": 0.3, "smallest_scale": 0.5}
        whole[kind] = train(data, tmp_path / "whole" / kind, **how)
        settings = {"dataset_name": data, "output_dir": str(tmp_path / "two" / kind), **RUN, **how}
        jobs.append({"name": kind, "recipe": "detect", "settings": settings | {"micro_batch_size": 2}})
    files = ("--config_file", str(ROOT / "ds_configs" / f"{strategy}.yaml"))
    found = launch(tmp_path / "launch", jobs, *files, worker=str(ROOT / "tests/recipes/worker.py"))
    for kind, steps in whole.items():
        np.testing.assert_allclose(list(found[kind]["steps"].values()), steps, rtol=1e-5, err_msg=kind)
        scores = [
            json.loads((tmp_path / run / kind / "all_results.json").read_text())["test_map"] for run in ("whole", "two")
        ]
        assert scores[0] == pytest.approx(scores[1], abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric_for_best_model": "accuracy"}, "only loss, map, map_50, map_75, ar_100 are evaluated"),
        ({"smallest_scale": 0}, "smallest_scale"),
        ({"label_smoothing_factor": 0.1}, "the model's own loss has no smoothing"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ConfigError, match=message):
        DetectionConfig(**settings)


def test_mistakes_are_found(data):
    rows, names, _ = detection.load_objects(DetectionConfig(dataset_name=data), seed=0)
    found = []
    for number, row in enumerate(rows["test"]):
        lines = [[0.9, names.index(item["label"]), *item["box"]] for item in row["objects"]]
        if number == 0:  # a miss
            lines = lines[1:]
        if number == 1:  # a miss and a false alarm: the place is correct, the class is not
            lines[0][1] = (lines[0][1] + 1) % 3
        if number == 2:  # a false alarm that is too uncertain to be shown
            lines.append([0.4, 0, 1, 1, 5, 5])
        found.append(np.array(lines, float).reshape(-1, 6))
    misses, alarms = mistakes(rows["test"], names, found)
    assert len(misses.rows) == 2 and len(alarms.rows) == 1
    assert {row["file"][-7:] for row in misses.rows} == {"030.png", "031.png"} and alarms.rows[0]["score"] == "0.9"


def test_a_class_that_is_not_in_training_is_named(tmp_path):
    folder = write_coco(tmp_path)
    content = coco(6, 24)
    content["categories"].append({"id": 9, "name": "violet"})
    content["annotations"][0]["category_id"] = 9
    (folder / "valid" / "_annotations.coco.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"violet"):
        recipe.main(DetectionConfig(dataset_name=str(folder), label_names=[*NAMES], output_dir=str(tmp_path / "out")))
