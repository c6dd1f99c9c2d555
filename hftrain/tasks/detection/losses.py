"""The model's own set loss, normalised by the boxes of the global batch.

The models of transformers match their predictions with the boxes of an image, and divide the sums of their losses by
the boxes of the batch that they see, a micro-batch. That is undone here: the sums of a step are divided by its boxes.

Shapes: B images of a micro-batch, N boxes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import reduce
from torch import nn
from torch.distributed import all_reduce, get_world_size, is_initialized

from hftrain.distributed import total
from hftrain.losses import Batch, Loss

if TYPE_CHECKING:
    from hftrain.data.plan import MicroBatch

logger = logging.getLogger(__name__)

OWN = ("rt_detr", "rt_detr_v2", "d_fine", "deimv2")  # kinds whose loss counts the boxes of its process alone
GROUPED = ("lw_detr", "rf_detr")  # kinds that repeat their queries in groups
CLASS_MEAN = ("detr", "yolos")  # kinds whose classes are a mean over queries, weighted, beside sums over boxes
NOT_LINEAR = ("d_fine", "deimv2")  # kinds with a part that no count of boxes makes a sum


class SetLoss:
    """The loss of a detector. `before_step` tells it what the global batch holds, `see` what an evaluation holds.

    With b boxes and i images: sum of the loss over matched pairs / max(b, 1). `Loss` divides by images, hence i / b.
    """

    def __init__(self, model_config: Any):
        self.config = model_config
        self.images = self.boxes = 1.0

    def see(self, images: float, boxes: float) -> None:
        self.images, self.boxes = max(1.0, images), boxes

    def before_step(self, accelerator: Accelerator) -> Callable[[nn.Module, list[MicroBatch]], None]:
        """For `fit`: counts the boxes and images of the step over all processes."""

        def count(model: nn.Module, micro_batches: Sequence[MicroBatch]) -> None:
            real = [micro.batch["objects"] for micro in micro_batches if len(micro.indices)]
            images, boxes = sum(len(objects) for objects in real), sum(int(objects.sum()) for objects in real)
            self.see(*total(accelerator, images, boxes))

        return count

    def loss(self) -> Loss:
        return Loss(self.summed, lambda batch: len(batch["objects"]))

    def summed(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return self.of(run(model, batch), model, batch)

    def of(self, output: Any, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The loss of a micro-batch, from its output, times the images of the whole / its boxes."""
        boxes = float(batch["objects"].sum())
        value = output.loss * divisor(self.config, boxes, batch["objects"].device, training=model.training)
        if self.config.model_type in CLASS_MEAN:
            value = self._of_means(output.loss_dict, batch, boxes)
        return value * (self.images / max(1.0, self.boxes))

    def _of_means(self, parts: dict[str, torch.Tensor], batch: Batch, boxes: float) -> torch.Tensor:
        """DETR's class loss is a mean over all queries, of which those without an object have the weight
        `eos_coefficient`; its sum is divided by the weights of the whole."""
        config, queries = self.config, queries_of(self.config)
        here = weights_of(queries, config.eos_coefficient, len(batch["objects"]), boxes)
        whole = weights_of(queries, config.eos_coefficient, self.images, self.boxes)
        by_boxes = divisor(config, boxes, batch["objects"].device, training=True)
        factors = {
            "loss_ce": here / whole * max(1.0, self.boxes),
            "loss_bbox": config.bbox_loss_coefficient * by_boxes,
            "loss_giou": config.giou_loss_coefficient * by_boxes,
        }
        terms = [value * factors[kind] for name, value in parts.items() for kind in factors if name.startswith(kind)]
        return torch.stack(terms).sum()


def weights_of(queries: int, eos: float, images: float, boxes: float) -> float:
    """The weights of the queries of some images: 1 for each with a box, `eos` for the others."""
    return boxes + (images * queries - boxes) * eos


def queries_of(model_config: Any) -> int:
    return int(model_config.num_detection_tokens if model_config.model_type == "yolos" else model_config.num_queries)


def divisor(model_config: Any, boxes: float, device: Any, *, training: bool) -> float:
    """What the model divided its sums by, for a micro-batch with so many boxes: over the processes, its code divides
    by other numbers. Every process calls with its own boxes."""
    if model_config.model_type in OWN:
        return max(1.0, boxes)
    groups = model_config.group_detr if model_config.model_type in GROUPED and training else 1
    count = torch.tensor([boxes * groups], device=device)
    if model_config.model_type in GROUPED:
        if is_initialized():
            all_reduce(count)
            count /= get_world_size()
    elif PartialState._shared_state:
        count = reduce(count) / PartialState().num_processes
    return max(1.0, float(count)) / groups


def run(model: nn.Module, batch: Batch) -> Any:
    """The model's output for a batch, with its loss."""
    parts = batch["objects"].tolist()
    boxes, classes = batch["boxes"].split(parts), batch["class_labels"].split(parts)
    labels = [{"boxes": own, "class_labels": ids} for own, ids in zip(boxes, classes, strict=True)]
    inputs = {name: batch[name] for name in ("pixel_values", "pixel_mask") if name in batch}
    return model(**inputs, labels=labels)


def say_what_depends_on_the_cut(model: nn.Module) -> list[str]:
    """Sentences, also logged, on parts of the model's own loss that depend on the micro-batch."""
    model_config: Any = model.config
    notes = []
    if getattr(model_config, "num_denoising", 0):
        notes.append(
            "the denoising queries of a micro-batch depend on its largest number of boxes, so results depend on "
            "micro_batch_size and the number of processes; model_config.num_denoising=0 makes them exact"
        )
    if model_config.model_type in NOT_LINEAR:
        notes.append(
            f"{model_config.model_type}'s loss compares the boxes of a micro-batch with each other, so results depend "
            "on micro_batch_size and the number of processes: do not change these between runs that you compare"
        )
    for note in notes:
        logger.warning("%s", note)
    return notes
