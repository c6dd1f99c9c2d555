"""One pass over examples: what the encoder makes of whole images, and how well it tells their classes apart.

Shapes: B images, L states of an image, D width of a state, E examples, F features.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedConfig, ViTMAEConfig

from hftrain.data.examples import Examples, fetch
from hftrain.losses import Batch
from hftrain.tasks.image_pretraining.config import MAE
from hftrain.tasks.image_pretraining.losses import run
from hftrain.train.evaluation import Processes, predict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hftrain.data.rows import Rows

MOST = 9000  # features of an image, as in Goyal et al. 2019 (arXiv 1905.01235)
NEIGHBOURS = 10
PENALTY = 0.1  # C of the logistic regression, on features of unit variance


@contextmanager
def showing_all(model_config: PreTrainedConfig) -> "Iterator[None]":
    """A context in which MAE hides no patch."""
    if not isinstance(model_config, ViTMAEConfig):
        yield
        return
    ratio, model_config.mask_ratio = model_config.mask_ratio, 0.0
    try:
        yield
    finally:
        model_config.mask_ratio = ratio


def features(
    accelerator: Processes, model: nn.Module, examples: Examples, batch_size: int, *, collate: Callable[..., Batch]
) -> np.ndarray:
    """(E, F) float32: the states of the last layer, averaged over squares of neighbours so that F is at most `MOST`."""
    model_config = accelerator.unwrap_model(model).config

    def embed(batch: Batch) -> list[np.ndarray]:
        pictures = batch["pixel_values"]
        side = model_config.image_size // model_config.patch_size
        shown = {"pixel_values": pictures, "mask": pictures.new_zeros(len(pictures), side**2).bool()}
        with showing_all(model_config):
            output = run(model_config.model_type, model, shown, output_hidden_states=True)
        return list(pooled(output.hidden_states[-1].float()).cpu().numpy())

    return np.stack(predict(accelerator, examples, batch_size, collate=collate, generate=embed))


def pooled(states: torch.Tensor) -> torch.Tensor:
    """(B, L, D) -> (B, F): states of patches on a grid, without those of tokens before them."""
    side = isqrt(states.shape[1])
    grid = states[:, states.shape[1] - side**2 :].transpose(1, 2).unflatten(2, (side, side))
    return F.adaptive_avg_pool2d(grid, max(1, min(side, isqrt(MOST // states.shape[2])))).flatten(1)


@dataclass(frozen=True)
class Probe:
    """Scores an encoder by classes that it has not learnt: a linear probe (logistic regression) and the nearest
    neighbours learn them from features of training images.

    Args:
        examples: the training images with a class that are used, and those of the held-out splits.
        labels: their classes.
    """

    examples: Mapping[str, Examples]
    labels: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, examples: "Mapping[str, Examples]", rows: "Mapping[str, Rows]", most: int, seed: int) -> "Probe":
        """With at most `most` training images, drawn by the seed. Without classes, or with a single one, it scores
        nothing."""
        chosen = {split: labelled(rows[split]["label"]) for split in rows}
        chosen["train"] = np.random.default_rng(seed).permutation(chosen["train"])[:most]
        if any(len(places) == 0 for places in chosen.values()):
            return cls({}, {})
        labels = {split: np.array(rows[split]["label"], object)[places] for split, places in chosen.items()}
        if len(set(labels["train"])) < 2:
            return cls({}, {})
        items = {
            split: Examples(fetch(examples[split], places.tolist()), np.ones(len(places)))
            for split, places in chosen.items()
        }
        return cls(items, {split: values.astype(str) for split, values in labels.items()})

    def score(
        self, accelerator: Accelerator, model: nn.Module, split: str, batch_size: int, collate: Callable[..., Batch]
    ) -> dict[str, float]:
        """probe_accuracy and knn_accuracy on the images of a held-out split; {} without classes."""
        if not self.labels:
            return {}
        seen = {
            name: features(accelerator, model, self.examples[name], batch_size, collate=collate)
            for name in ("train", split)
        }
        return accuracies(seen["train"], self.labels["train"], seen[split], self.labels[split])

    def score_pixels(
        self, accelerator: Accelerator, split: str, batch_size: int, collate: Callable[..., Batch]
    ) -> dict[str, float]:
        """pixels_accuracy: that of the same logistic regression on the pixels themselves, averaged over squares of
        neighbours as features are; {} without classes."""
        if not self.labels:
            return {}

        def average(batch: Batch) -> list[np.ndarray]:
            pictures = batch["pixel_values"]
            side = max(1, min(pictures.shape[-1], isqrt(MOST // pictures.shape[1])))
            return list(F.adaptive_avg_pool2d(pictures, side).flatten(1).cpu().numpy())

        seen = [
            np.stack(predict(accelerator, self.examples[name], batch_size, collate=collate, generate=average))
            for name in ("train", split)
        ]
        scores = accuracies(seen[0], self.labels["train"], seen[1], self.labels[split])
        return {"pixels_accuracy": scores["probe_accuracy"]}


def labelled(labels: Sequence[str | None]) -> np.ndarray:
    """The places of the rows that have a class."""
    return np.flatnonzero([label is not None for label in labels])


def accuracies(train: np.ndarray, known: np.ndarray, new: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """The shares of the new features whose class a logistic regression and the nearest neighbours (by cosine, a
    majority of ten) find."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    linear = make_pipeline(StandardScaler(), LogisticRegression(C=PENALTY, max_iter=1000))
    nearest = KNeighborsClassifier(min(NEIGHBOURS, len(train)), metric="cosine")
    return {
        "probe_accuracy": float(linear.fit(train, known).score(new, truth)),
        "knn_accuracy": float(nearest.fit(train, known).score(new, truth)),
    }


def reconstruct(
    accelerator: Processes, model: nn.Module, examples: Examples, batch_size: int, *, collate: Callable[..., Batch]
) -> list[dict[str, torch.Tensor]]:
    """{"original", "hidden", "reconstructed"} of each example with a mask: (3, H, W), as a model reads pictures. Hidden
    patches are 0, a medium grey; of the reconstruction the visible patches are the original's."""
    model_config = accelerator.unwrap_model(model).config
    patch = model_config.patch_size

    def show(batch: Batch) -> list[dict[str, torch.Tensor]]:
        original, side = batch["pixel_values"].float(), model_config.image_size // patch
        output = run(model_config.model_type, model, batch)
        if model_config.model_type == MAE:
            made = output.logits.float()  # (B, N, P P 3)
            if model_config.norm_pix_loss:
                cut = original.unfold(2, patch, patch).unfold(3, patch, patch)  # (B, 3, side, side, P, P)
                whole = cut.permute(0, 2, 3, 4, 5, 1).reshape(made.shape)
                made = made * (whole.var(dim=-1, keepdim=True) + 1e-6).sqrt() + whole.mean(dim=-1, keepdim=True)
            made = torch.einsum("bhwpqc->bchpwq", made.unflatten(2, (patch, patch, 3)).unflatten(1, (side, side)))
            made = made.reshape(original.shape)
        else:
            made = output.reconstruction.float()
        grid = batch["mask"].view(-1, 1, side, side)
        hidden = grid.repeat_interleave(patch, 2).repeat_interleave(patch, 3).expand_as(original)
        seen, made = original.masked_fill(hidden, 0.0), torch.where(hidden, made, original)
        rows = zip(original.cpu(), seen.cpu(), made.cpu(), strict=True)
        return [dict(zip(("original", "hidden", "reconstructed"), row, strict=True)) for row in rows]

    return predict(accelerator, examples, batch_size, collate=collate, generate=show)
