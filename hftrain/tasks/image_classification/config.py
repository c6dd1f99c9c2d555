"""Settings of the classification of images, checked before anything is loaded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from hftrain.config import at_least, between
from hftrain.labels.config import LabelConfig
from hftrain.vision.config import WholeImageConfig


@dataclass
class ImageClassificationConfig(WholeImageConfig, LabelConfig):
    """Images, and the class, labels or number to predict for each."""

    HEAD: ClassVar[str] = "ForImageClassification"

    dataset_name: str | None = "digits"
    """Data set: the built-in digits (1,797 pictures of 8 x 8 pixels), one on the Hugging Face Hub, a folder of images
    (FOLDER/CLASS/image, or FOLDER/train/CLASS/image), or a folder written by save_to_disk."""

    auto_augment: Literal["none", "trivial", "randaugment"] = "none"
    """Augmentation: random operations on each image; trivial: one of any strength (TrivialAugment, arXiv 2103.10158);
    randaugment: two of medium strength (arXiv 1909.13719)."""

    random_erasing: Annotated[float, between(0, 1)] = 0.0
    """Augmentation: probability of replacing a rectangle by noise (arXiv 1708.04896)."""

    mixup_alpha: Annotated[float, at_least(0)] = 0.0
    """Augmentation: blend each image and its label with those of another one (MixUp, arXiv 1710.09412); alpha of the
    Beta distribution of the shares, 0: off."""

    cutmix_alpha: Annotated[float, at_least(0)] = 0.0
    """Augmentation: replace a rectangle of each image by that of another one (CutMix, arXiv 1905.04899); as
    mixup_alpha. With both, each image gets one of them."""

    def checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().checks()
        for name in ("mixup_alpha", "cutmix_alpha"):
            if getattr(self, name) and self.problem_type != "single_label_classification":
                yield (name, "problem_type"), "blends the shares of classes: only for one class of several"
            if getattr(self, name) and self.focal_gamma:
                yield (name, "focal_gamma"), "contradict each other: the focal loss needs one class for each image"

    @property
    def auto_class(self) -> str:
        return "AutoModelForImageClassification"
