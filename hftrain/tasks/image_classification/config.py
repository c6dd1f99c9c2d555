"""Settings of the classification of images, checked before anything is loaded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from hftrain.config import above, at_least, between, share
from hftrain.labels.config import LabelConfig
from hftrain.vision.config import ImageConfig


@dataclass
class ImageClassificationConfig(ImageConfig, LabelConfig):
    """Images, and the class, labels or number to predict for each."""

    HEAD: ClassVar[str] = "ForImageClassification"
    BUILT_IN: ClassVar[str] = "digits"

    dataset_name: str | None = "digits"
    """Data set: the built-in digits (1,797 pictures of 8 x 8 pixels), one on the Hugging Face Hub, a folder of images
    (FOLDER/CLASS/image, or FOLDER/train/CLASS/image), or a folder written by save_to_disk."""

    image_column: str = "image"
    """Column of the images: paths, relative to the file that names them, or the bytes of image files."""

    model: str = "transformer"
    """Kind of new model, without model_name_or_path: transformer, our own on patches, or a model type of transformers:
    vit, convnext, resnet, swin."""

    image_size: Annotated[int | None, at_least(1)] = None
    """Height and width of the images that the model reads; null: as its image processor says, of a new model as most
    training images need it, at most 224. Position embeddings of a pretrained model are interpolated."""

    crop_area: Annotated[float | None, above(0), between(0, 1)] = None
    """Augmentation: smallest share of an image that a random crop keeps; 1: no random crop; null: 0.35, for the
    built-in digits 0.8."""

    flip: Annotated[float | None, between(0, 1)] = None
    """Augmentation: probability of exchanging left and right; null: 0.5, for the built-in digits 0."""

    colour_jitter: Annotated[float, share] = 0.0
    """Augmentation: brightness, contrast and saturation change by up to this share."""

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
        if self.model != "transformer" and self.model_name_or_path is not None:
            yield ("model", "model_name_or_path"), "contradict each other: the former is for a new model"

    def late_checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().late_checks()
        if self.model_name_or_path is None:
            from hftrain.models import ImageTransformerConfig
            from hftrain.models.new import CUSTOM, entry_problems, model_problems

            if self.model == CUSTOM:
                fields = ImageTransformerConfig.shape_fields()
                yield from entry_problems(self.model_config, fields, "the custom Transformer of images")
            else:
                yield from model_problems(self.model, self.model_config, "AutoModelForImageClassification")
