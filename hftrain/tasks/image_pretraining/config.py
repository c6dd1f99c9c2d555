"""Settings of pretraining on images, checked before anything is loaded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

from hftrain.config import above, at_least
from hftrain.vision.config import WholeImageConfig

MAE = "vit_mae"  # the only kind whose encoder reads no hidden patch
METRICS = ("loss", "probe_accuracy", "knn_accuracy")


@dataclass
class ImagePretrainingConfig(WholeImageConfig):
    """Images whose patches are hidden and reconstructed."""

    dataset_name: str | None = "digits"
    """Data set: the built-in digits (1,797 pictures of 8 x 8 pixels), one on the Hugging Face Hub, a folder of images
    (FOLDER/CLASS/image, FOLDER/train/CLASS/image, or with label_column null images anywhere in it), or a folder written
    by save_to_disk."""

    model: str = MAE
    """Kind of new model, without model_name_or_path: vit_mae (MAE, arXiv 2111.06377); transformer, our own on patches,
    or vit, deit, swin, swinv2, focalnet of transformers (SimMIM, arXiv 2111.09886)."""

    label_column: str | None = "label"
    """Column of a class, for the accuracy of a linear probe and of nearest neighbours; nothing learns from it. Images
    in folders have the folder's name. null: the images have no classes."""

    mask_ratio: Annotated[float | None, above(0, under=1)] = None
    """Share of each image that is hidden; null: 0.75 for MAE, 0.6 for SimMIM, as in their papers, but 0.5 for MAE on
    images of up to 16 patches."""

    mask_patch_size: Annotated[int | None, at_least(1)] = None
    """SimMIM: side of the squares that are hidden, in pixels; null: 32, for images of up to 64 pixels a patch."""

    probe_images: Annotated[int, at_least(0)] = 5000
    """Training images with a class, at most, that the linear probe and the nearest neighbours learn from; 0: none."""

    @property
    def auto_class(self) -> str:
        return "AutoModelForPreTraining" if self.model == MAE else "AutoModelForMaskedImageModeling"

    @property
    def scored_by(self) -> str:
        return "loss"

    def checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().checks()
        if self.label_smoothing_factor:
            yield ("label_smoothing_factor",), "has no use here: no label is learnt"
        if self.use_peft:
            yield ("use_peft",), "has no use here: a pretrained encoder is trained whole"
        yield from self.metric_problems(*METRICS)
        best = (self.metric_for_best_model or "loss").removeprefix("eval_")
        if best != "loss" and (self.label_column is None or not self.probe_images):
            yield ("metric_for_best_model", "label_column"), f"{best} needs classes: set label_column and probe_images"
