"""The model's own loss, normalised by the pixels or masks of the global batch.

Models that label pixels divide by the pixels of the batch that they see, a micro-batch; those that predict a set of
masks by its masks and by the weights of its queries. Here the sums of a step are divided by its own counts.

The loss of Mask2Former and its heirs looks at random points of the masks. They are drawn from a seed of each example,
so that they do not depend on the images that come together.

Shapes: B images, N masks, K classes, Q queries, H, W height and width that the model reads, h, w those of its masks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F

from hftrain.data.plan import seed_torch
from hftrain.distributed import total
from hftrain.losses import Batch, Loss
from hftrain.vision.masks import VOID

if TYPE_CHECKING:
    from hftrain.data.plan import MicroBatch


class SegmentLoss:
    """A loss of two terms, each a sum over its own items: cross-entropy over pixels and a dice loss over images; or
    cross-entropy over the weights of queries and the losses of masks over masks.

    `before_step` tells it the items of the global batch. `Loss` divides by images, hence the factor images / items.
    """

    def __init__(self, model: nn.Module, dice_weight: float = 0.0):
        base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
        self.dice_weight = dice_weight
        self.whole = (1.0, 1.0, 1.0)  # images, and the items of both terms
        self.criterion = SetCriterion(base.criterion, base.weight_dict) if hasattr(base, "criterion") else None
        self.queries = int(getattr(base.config, "num_queries", 0) or 0)

    def items(self, batch: Batch) -> tuple[float, float]:
        """The items of both terms."""
        if self.criterion is None:
            return float((batch["labels"] != VOID).sum()), float(len(batch["labels"]))
        matched = batch["objects"].clamp(max=self.queries)
        weights = matched + (self.queries - matched) * self.criterion.eos
        return float(weights.sum()), float(matched.sum())

    def before_step(self, accelerator: Accelerator) -> Callable[[nn.Module, list[MicroBatch]], None]:
        """For `fit`: counts the images and items of the step over all processes."""

        def count(model: nn.Module, micro_batches: Sequence[MicroBatch]) -> None:
            real = [micro.batch for micro in micro_batches if len(micro.indices)]
            items = [self.items(batch) for batch in real]
            images = sum(len(batch["sizes"]) for batch in real)
            counts = total(accelerator, images, *(sum(one[term] for one in items) for term in (0, 1)))
            self.whole = (counts[0], counts[1], counts[2])

        return count

    def loss(self) -> Loss:
        return Loss(self.summed, lambda batch: len(batch["sizes"]))

    def summed(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        images, *items = self.whole
        terms = self.terms(batch, self.run(model, batch))
        shares = [term * (images / max(1.0, count)) for term, count in zip(terms, items, strict=True)]
        return shares[0] + shares[1]

    def run(self, model: nn.Module, batch: Batch) -> Any:
        """The model's output for a batch, with its loss."""
        inputs: dict[str, Any] = {name: batch[name] for name in ("pixel_values", "pixel_mask") if name in batch}
        if self.criterion is None:
            return model(**inputs, labels=batch["labels"])
        counts = batch["objects"].tolist()
        self.criterion.points = batch["points"].tolist()
        return model(
            **inputs,
            mask_labels=list(batch["masks"].to(batch["pixel_values"].dtype).split(counts)),
            class_labels=list(batch["class_labels"].split(counts)),
        )

    def terms(self, batch: Batch, output: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The two sums of a batch."""
        if self.criterion is not None:
            return self.criterion.taken()
        labels = batch["labels"]
        pixels = int((labels != VOID).sum())
        nothing = output.logits.float().sum() * 0
        entropy = output.loss * pixels if pixels else nothing
        return entropy, dice(output.logits, labels) * self.dice_weight if self.dice_weight else nothing


def dice(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum over images of 1 - the mean dice of the classes that the image has. logits (B, K, h, w), labels (B, H, W)."""
    shares = F.interpolate(logits.float(), labels.shape[1:], mode="bilinear", align_corners=False).softmax(1)
    known = (labels != VOID)[:, None]
    truth = F.one_hot(labels.where(known[:, 0], 0), logits.shape[1]).movedim(-1, 1) * known
    both, areas = (shares * truth).sum((2, 3)), ((shares + truth) * known).sum((2, 3))
    present = truth.any(3).any(2)
    means = ((1 - 2 * both / areas.clamp(min=1e-6)) * present).sum(1) / present.sum(1).clamp(min=1)
    return means.sum()


class SetCriterion:
    """Takes the place of the forward pass of a criterion of transformers: sums instead of means, image by image."""

    def __init__(self, criterion: Any, weights: dict[str, float]):
        self.criterion, self.weights = criterion, weights
        self.eos = float(criterion.empty_weight[-1])
        self.points: list[int] = []
        self.sums: list[torch.Tensor] = []
        criterion.forward = self

    def __call__(
        self,
        masks_queries_logits: torch.Tensor,
        class_queries_logits: torch.Tensor,
        mask_labels: list[torch.Tensor],
        class_labels: list[torch.Tensor],
        auxiliary_predictions: Sequence[dict[str, torch.Tensor]] | None = None,
    ) -> dict[str, torch.Tensor]:
        layers = [(masks_queries_logits, class_queries_logits)]
        layers += [(one["masks_queries_logits"], one["class_queries_logits"]) for one in auxiliary_predictions or ()]
        for place, seed in enumerate(self.points):
            with seeded(seed, masks_queries_logits.device):
                for masks, classes in layers:
                    one = slice(place, place + 1)
                    self.sums.append(
                        self._image(masks[one].float(), classes[one].float(), mask_labels[place], class_labels[place])
                    )
        return {"loss": torch.stack(self.sums).sum()}

    def _image(
        self, masks: torch.Tensor, classes: torch.Tensor, mask_labels: torch.Tensor, class_labels: torch.Tensor
    ) -> torch.Tensor:
        """(2,) the sums over queries and masks: masks (1, Q, h, w), classes (1, Q, K + 1), mask_labels (n, H, W),
        class_labels (n,)."""
        criterion = self.criterion
        indices = criterion.matcher(masks, classes, [mask_labels], [class_labels])
        matched = len(indices[0][0])
        entropy = criterion.loss_labels(classes, [class_labels], indices)["loss_cross_entropy"]
        weight = matched + (classes.shape[1] - matched) * self.eos
        parts = criterion.loss_masks(masks, [mask_labels], indices, 1) if matched else {"loss_mask": masks.sum() * 0}
        summed = torch.stack([value * self.weights[name] for name, value in parts.items()]).sum()
        return torch.stack([entropy * self.weights["loss_cross_entropy"] * weight, summed])

    def taken(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The sums since the last call."""
        first, second = torch.stack(self.sums).sum(0)
        self.sums = []
        return first, second


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers that follow from `seed`; afterwards the generators are as before."""
    with torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=True):
        seed_torch(seed)
        yield
