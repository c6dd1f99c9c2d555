"""Real photographs with masks of twelve colours, one of them void (CamVid)."""

import importlib
import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from hftrain.cli import main as hftrain
from hftrain.tasks.segmentation import SegmentationConfig

recipe = importlib.import_module("recipes.segment")
NAMES = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
COLOURS = ["808080", "800000", "c0c080", "804080", "3c28de", "808000", "c08080", "404080", "400080", "404000", "0080c0"]
VOID = "000000"
COUNTS = {"train": 24, "val": 6, "test": 6}


@pytest.fixture
def streets(shared_data, tmp_path):
    folder = tmp_path / "cam vid"
    table = np.array([[*bytes.fromhex(colour)] for colour in (*COLOURS, VOID)], np.uint8)
    with zipfile.ZipFile(shared_data / "camvid" / "camvid_240x180.zip") as file:
        for split, count in COUNTS.items():
            for part in ("images", "masks"):
                (folder / split / part).mkdir(parents=True)
            names = sorted(name for name in file.namelist() if name.startswith(f"{split}/") and name.endswith(".jpg"))
            for name in names[:: len(names) // count][:count]:
                stem = name.split("/")[1].removesuffix(".jpg")
                (folder / split / "images" / f"{stem}.jpg").write_bytes(file.read(name))
                mask = np.asarray(Image.open(io.BytesIO(file.read(f"{split}annot/{stem}.png"))))
                Image.fromarray(table[mask]).save(folder / split / "masks" / f"{stem}.png")
    return folder


@pytest.mark.slow
def test_colours_are_learnt_scored_and_predicted(streets, tmp_path):
    values = [f"#{colour}" for colour in COLOURS]
    settings = {"label_names": [*NAMES], "label_values": values, "void_values": [f"#{VOID}"]}
    settings |= {"model": "segformer", "image_size": 64, "max_steps": 20, "global_batch_size": 4, "learning_rate": 3e-3}
    out = tmp_path / "out"
    recipe.main(SegmentationConfig(dataset_name=str(streets), output_dir=str(out), save_steps=0, **settings))
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "grad_norm" in row]
    assert losses[-1] < 0.8 * losses[0]
    results = json.loads((out / "all_results.json").read_text())
    assert results["test_pixel_accuracy"] > 0.3 and 0 < results["test_mean_iou"] < results["test_pixel_accuracy"]
    page = (out / "report.html").read_text()
    assert all(name in page for name in NAMES)
    images = str(streets / "test" / "images")
    assert hftrain(["predict", str(out), images, "--masks", str(tmp_path / "masks")]) == 0
    masks = [np.asarray(Image.open(file)) for file in sorted((tmp_path / "masks").iterdir())]
    assert len(masks) == COUNTS["test"] and {mask.shape for mask in masks} == {(180, 240)}
    assert max(mask.max() for mask in masks) < len(NAMES)
