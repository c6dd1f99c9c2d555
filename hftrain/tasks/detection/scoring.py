"""One pass over examples: loss and detections, and their scores. Shapes: B images, D detections of an image."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedConfig

from hftrain.data.examples import Examples
from hftrain.losses import Batch
from hftrain.metrics.detection import Boxes, Scores, measure
from hftrain.tasks.detection.losses import CLASS_MEAN, SetLoss, run
from hftrain.train.evaluation import OneProcess, predict

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

MOST = 100  # detections of an image, as COCO counts them


@dataclass(frozen=True)
class Found:
    """The loss of some examples, and the detections (D, 6) of each: score, class, left, upper, right, lower as shares
    of the image, the best first. In the examples' order, on every process."""

    loss: float
    detections: Sequence[np.ndarray]


def find(
    accelerator: Accelerator | OneProcess,
    model: nn.Module,
    examples: Examples,
    batch_size: int,
    *,
    collate: Callable[[list[Any]], Batch],
    labelled: bool = True,
) -> Found:
    """One pass; without labels the loss is NaN."""
    model_config = accelerator.unwrap_model(model).config
    loss = SetLoss(model_config)
    loss.see(len(examples), sum(map(len, examples.column("labels"))) if labelled else 0)

    def outputs(batch: Batch) -> list[Any]:
        if not labelled:
            inputs = {name: batch[name] for name in ("pixel_values", "pixel_mask") if name in batch}
            return [(float("nan"), result) for result in detections(model_config, model(**inputs))]
        output = run(model, batch)
        share = float(loss.of(output, model, batch)) / len(batch["objects"])
        return [(share, result) for result in detections(model_config, output)]

    rows = predict(accelerator, examples, batch_size, collate=collate, generate=outputs)
    return Found(float(np.mean([share for share, _ in rows], dtype=np.float64)), [result for _, result in rows])


def detections(model_config: PreTrainedConfig, output: Any) -> list[np.ndarray]:
    """(D, 6) of each image: score, class, left, upper, right, lower as shares of the image, the best first."""
    logits, boxes = output.logits.float(), output.pred_boxes.float()
    if model_config.model_type in CLASS_MEAN:  # the last class is "no object"
        scores, classes = logits.softmax(-1)[..., :-1].max(-1)
        scores, queries = scores.topk(min(MOST, scores.shape[1]))
        classes = classes.gather(1, queries)
    else:
        scores, places = logits.sigmoid().flatten(1).topk(min(MOST, logits.shape[1] * logits.shape[2]))
        classes, queries = places % logits.shape[2], places // logits.shape[2]
    centre, side = boxes.gather(1, queries[..., None].expand(-1, -1, 4)).split(2, dim=-1)
    corners = torch.cat([centre - side / 2, centre + side / 2], dim=-1)
    joined = torch.cat([scores[..., None], classes[..., None].to(scores), corners], dim=-1)
    return list(joined.cpu().numpy().astype(np.float64))


def in_pixels(result: np.ndarray, width: int, height: int) -> np.ndarray:
    """Detections (D, 6) with boxes in pixels of an image."""
    return result * np.array([1, 1, width, height, width, height], np.float64)


def score(result: Found, rows: "Rows", names: Sequence[str], *, report: bool = False) -> Scores:
    """COCO's scores of the detections of `rows`; with `report` also their intervals."""
    ids = {name: number for number, name in enumerate(names)}
    boxes = Boxes()
    for row, detected in zip(rows, result.detections, strict=True):
        objects = row["objects"]
        boxes.add(
            np.array([item["box"] for item in objects], np.float64),
            [ids[item["label"]] for item in objects],
            [item["crowd"] for item in objects],
            [item["area"] for item in objects],
            in_pixels(detected, row["width"], row["height"]),
        )
    return measure(boxes, len(names), report=report)


def numbers(result: Found, scores: Scores) -> dict[str, float]:
    """The loss and COCO's scores, without those of sizes that no object has."""
    known: Mapping[str, float] = {name: value for name, value in scores.numbers.items() if value == value}
    return {"loss": result.loss, **known}
