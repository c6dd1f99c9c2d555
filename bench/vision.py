"""Recipes of images on real data beside `transformers.Trainer`: scores after as many images, and images per CPU second.

    python bench/vision.py --data ../shared/data --cases cifar emoji raccoon --seeds 1 2 3
    python bench/vision.py --data ../shared/data --cases cifar --arms hftrain --workers 2   # who waits for whom

All arms of a case run the recipe: its rows, splits, new model and test score. In two of them the Trainer takes the
place of `fit`: with the settings of transformers' example script (5e-5, a linear schedule), and with the learning rate
and the schedule that hftrain chooses. It trains on pictures as the example scripts make them, with Pillow: random parts
from 8 % of the area and flips for classes, flips and brightness for objects, flips for segments; no flips of digits.
"""

import argparse
import contextlib
import importlib
import io
import json
import random
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import rounds  # first: it sets the threads
import torch
from accelerate.state import AcceleratorState
from PIL import Image, ImageEnhance, ImageOps
from rounds import Clock
from torch.utils.data import Dataset

import hftrain
from hftrain.data.files import cache
from hftrain.train import loop
from hftrain.vision.augment import random_part

ARMS = ("script", "Trainer", "hftrain")
SCRIPT = {"learning_rate": 5e-5, "lr_scheduler_type": "linear", "warmup_steps": 0, "weight_decay": 0.0}
RACCOON = {"image_size": 96, "max_bad_rows": 20}
SMALL_RESNET = {"embedding_size": 32, "hidden_sizes": [32, 64, 128], "depths": [1, 1, 1], "layer_type": "basic"}


@dataclass(frozen=True)
class Case:
    """A recipe on some data: its settings, the steps and images of a step, and what its test is scored by."""

    recipe: str
    settings: Mapping[str, Any]
    steps: int
    metric: str
    batch: int = 32
    small: Mapping[str, Any] = field(default_factory=dict)


CASES = {
    "cifar": Case(
        "classify_images", {"model": "resnet", "model_config": SMALL_RESNET}, 200, "accuracy", small={"image_size": 16}
    ),
    "emoji": Case("segment", {"model": "segformer", "label_names": ["none", "figure"]}, 80, "mean_iou", batch=16),
    "raccoon": Case("detect", RACCOON, 50, "map_50", batch=8, small={"image_size": 64}),
    "raccoon, D-FINE": Case("detect", RACCOON | {"model": "d_fine"}, 100, "map_50", batch=8),
    "raccoon, YOLOS": Case("detect", RACCOON | {"model": "yolos"}, 100, "map_50", batch=8),
    "scenes, detect": Case("detect", {}, 825, "map_50", batch=16),
    "scenes, segment": Case("segment", {}, 825, "mean_iou", batch=16),
}


# ---- data


def unpacked(data: Path, case: str) -> str:
    """The folder of a case's data, unpacked or made in the cache."""
    if case.startswith("raccoon"):
        return str(data / "raccoon")
    if case.startswith("scenes"):
        return "scenes"
    folder = cache() / "bench" / case
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=_made(folder.parent)) as stage:
            place = Path(stage) / case
            if case == "cifar":
                with zipfile.ZipFile(data / "cifar10_jpg" / "cifar10_5000_1000.zip") as file:
                    file.extractall(place)
            else:
                write_emoji(data / "emoji_google" / "emoji64.zip", place)
            place.rename(folder)
    inner = [path for path in folder.iterdir() if path.is_dir()]
    return str(inner[0] if len(inner) == 1 else folder)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_emoji(file: Path, folder: Path) -> None:
    """Images of figures before a noisy colour, and masks: 1 where the figure is opaque."""
    for part in ("images", "masks"):
        _made(folder / part)
    with zipfile.ZipFile(file) as pictures:
        for number, name in enumerate(sorted(name for name in pictures.namelist() if name.endswith(".png"))):
            picture = Image.open(io.BytesIO(pictures.read(name))).convert("RGBA")
            draw = np.random.default_rng(number)
            noise = draw.normal(draw.uniform(30, 225, 3), 25, (picture.height, picture.width, 3)).clip(0, 255)
            whole = Image.fromarray(noise.astype(np.uint8)).convert("RGBA")
            Image.alpha_composite(whole, picture).convert("RGB").save(folder / "images" / f"{number:04}.png")
            opaque = np.asarray(picture)[..., 3] > 127
            Image.fromarray(opaque.astype(np.uint8)).save(folder / "masks" / f"{number:04}.png")


# ---- what takes the place of `fit`


class Pictures(Dataset[dict[str, Any]]):
    """Examples of a recipe as the example script of its task makes them; `flip`: how often left and right change."""

    def __init__(self, recipe: str, examples: Sequence[Any], processor: Any, flip: float):
        self.recipe, self.examples, self.processor, self.flip = recipe, examples, processor, flip

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.examples[index]
        image = Image.open(example["image"]).convert("RGB")
        flip = random.random() < self.flip
        if self.recipe == "classify_images":
            size = (self.processor.width, self.processor.height)
            image = image.resize(size, Image.Resampling.BILINEAR, random_part(image, 0.08))
            return {"pixel_values": self.processor.tensor(_flipped(image, flip)), "labels": int(example["labels"])}
        pixels = self.processor.pixels
        if self.recipe == "segment":
            from hftrain.tasks.segmentation.examples import map_of

            labels = np.concatenate([[255], example["labels"]])[map_of(example)]
            labels = np.asarray(Image.fromarray(labels.astype(np.uint8)).resize((pixels.width, pixels.height), 0))
            labels = torch.from_numpy((labels[:, ::-1] if flip else labels).astype(np.int64))
            return {"pixel_values": pixels.tensor(pixels.resize(_flipped(image, flip))), "labels": labels}
        boxes = np.array(example["boxes"], np.float32).reshape(-1, 4) / np.array([*image.size, *image.size], np.float32)
        boxes = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)
        if flip:
            boxes[:, 0] = 1 - boxes[:, 0]
        image = pixels.resize(_flipped(image, flip))
        if random.random() < 0.5:
            image = ImageEnhance.Brightness(image).enhance(random.uniform(0.8, 1.2))
        labels = {"boxes": torch.from_numpy(boxes), "class_labels": torch.tensor(example["labels"]).long()}
        return {"pixel_values": pixels.tensor(image), "labels": labels}


def _flipped(image: Image.Image, flip: bool) -> Image.Image:
    return ImageOps.mirror(image) if flip else image


def stacked(examples: list[dict[str, Any]]) -> dict[str, Any]:
    labels = [example["labels"] for example in examples]
    kind = type(labels[0])
    together = torch.tensor(labels) if kind is int else labels if kind is dict else torch.stack(labels)
    return {"pixel_values": torch.stack([example["pixel_values"] for example in examples]), "labels": together}


def trainer_fit(recipe: str, arm: str, clock: Clock) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """Trains as `transformers.Trainer` does what `fit` gets."""

    def fit(
        accelerator: Any, model: Any, examples: Any, config: Any, *, processor: Any, **_: Any
    ) -> tuple[Any, dict[str, Any]]:
        settings: dict[str, Any] = dict(SCRIPT)
        if arm == "Trainer":  # as `fit` would choose them
            loop.choose_settings(model, examples.lengths, config, None)
            settings = {name: getattr(config, name) for name in SCRIPT}
        settings["per_device_train_batch_size"] = config.global_batch_size
        settings["dataloader_num_workers"] = config.dataloader_num_workers
        data = Pictures(recipe, examples, processor, config.flip)
        rounds.trainer(clock, model, data, stacked, config.max_steps, **settings)
        return model.eval(), {}

    return fit


def timed_fit(clock: Clock) -> Callable[..., Any]:
    """`hftrain.fit`, whose steps are timed, and their waiting for batches."""
    fit = hftrain.fit

    def timed(*args: Any, **kwargs: Any) -> Any:
        with patch.object(loop, "steps", clock.timed(loop.steps)):
            return fit(*args, **kwargs | {"evaluate": None}, after_step=lambda step, model: clock.tick())

    return timed


def measure(case: Case, data: str, arm: str, seed: int, workers: int, quick: bool) -> dict[str, float]:
    """The test score of an arm, images per CPU second and the share of the time in which steps waited for batches."""
    clock, fit, publish = Clock(seed, time.perf_counter), hftrain.fit, hftrain.publish
    recipe = importlib.import_module(f"recipes.{case.recipe}")
    settings = {"global_batch_size": case.batch, "micro_batch_size": case.batch, "max_steps": case.steps, "seed": seed}
    settings |= {"dataloader_num_workers": workers, "save_steps": 0, **case.settings}
    settings |= {"max_steps": 6, "global_batch_size": 4, **case.small} if quick else {}
    hftrain.fit = timed_fit(clock) if arm == "hftrain" else trainer_fit(case.recipe, arm, clock)
    hftrain.publish = lambda accelerator, config, results, report: report.scores
    config_class = next(value for name, value in vars(recipe).items() if name.endswith("Config"))
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            scores = recipe.main(config_class(dataset_name=data, output_dir=folder + "/out", **settings))
    finally:
        hftrain.fit, hftrain.publish = fit, publish
        AcceleratorState._reset_state(reset_partial_state=True)
    count, (cpu, wall, _, _, waited) = clock.warm()
    return {
        "score": scores[case.metric],
        "images_per_cpu_s": count * settings["global_batch_size"] / cpu,
        "waiting": waited / wall,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--workers", type=int, default=0, help="processes that decode")
    parser.add_argument("--json", type=Path, help="file for all numbers")
    parser.add_argument("--quick", action="store_true", help="6 steps of 4 images, to see that it runs")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| data | arm | images seen | test score of each seed | median | images / CPU s | waiting for batches |")
    print("|---|---|---|---|---|---|---|")
    kept: dict[str, Any] = {}
    for name in args.cases:
        case, data = CASES[name], unpacked(args.data, name)
        for arm in args.arms:
            rows = [measure(case, data, arm, seed, args.workers, args.quick) for seed in args.seeds]
            kept[f"{name}: {arm}"] = rows
            middle = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
            scores = ", ".join(f"{100 * row['score']:.1f}" for row in rows)
            waiting = f"{middle['waiting']:.1%}" if arm == "hftrain" else ""
            seen = f"{(6 * 4 if args.quick else case.steps * case.batch):,}"
            line = f"{scores} | {100 * middle['score']:.1f} | {middle['images_per_cpu_s']:.0f} | {waiting}"
            print(f"| {name}, {case.metric} | {arm} | {seen} | {line} |", flush=True)
    if args.json:
        args.json.write_text(json.dumps(kept, indent=1))


if __name__ == "__main__":
    main()
