"""Settings that tasks of images share, checked before anything is loaded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from hftrain.config import RecipeConfig, above, at_least, between, share
from hftrain.config.defaults import Task


@dataclass
class ImageConfig(RecipeConfig):
    """Images: how they are decoded."""

    counted: ClassVar[str] = "images"
    BUILT_IN: ClassVar[str]  # the data set that needs no download

    dataloader_num_workers: Annotated[int, at_least(0)] = 2
    """Worker processes that decode and augment images; 0: the training process itself."""

    layer_decay: Annotated[float, above(0, at_most=1)] = 1.0
    """Layer-wise decay of the learning rate: each layer has that of the next one times this, so that the first layers
    of a pretrained model change least (0.65 to 0.75 is usual, arXiv 2106.08254); 1: one rate."""

    backbone_rate: Annotated[float, above(0, at_most=1)] = 1.0
    """Learning rate of the backbone as a share of learning_rate: in a detector the part of that name (0.1 is usual for
    DETR), in other models all but the head."""

    @property
    def built_in(self) -> bool:
        return self.train_file is None and self.dataset_name == self.BUILT_IN

    def checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().checks()
        if self.tokenizer_name_or_path is not None:
            yield ("tokenizer_name_or_path",), "has no use here: images need no tokenizer"


@dataclass
class PlacesConfig(ImageConfig):
    """Images in which a model finds the places of objects or classes, and how they vary in training."""

    task_family: ClassVar[Task] = "places"
    BUILT_IN: ClassVar[str] = "scenes"

    image_folder: str | None = None
    """Folder of the images that a COCO file names; null: that of the file, or one beside it."""

    image_column: str = "image"
    """Column of the images in rows: paths, relative to the file that names them, or the bytes of image files."""

    fixed_batch_norm: bool | None = None
    """Use the saved averages of batch normalisation instead of those of the micro-batch, so that results do not depend
    on its size; null: true for a pretrained model, false for a new one."""

    flip: Annotated[float | None, between(0, 1)] = None
    """Augmentation: probability of exchanging left and right; null: 0.5, for the built-in scenes 0."""

    smallest_scale: Annotated[float, above(0, at_most=1)] = 1.0
    """Augmentation: the image is shown at this share of its size or more, up to largest_scale, at a random place
    (large-scale jitter, arXiv 2012.07177: 0.1 and 2); boxes of which less than a quarter stays visible are left out."""

    largest_scale: Annotated[float, at_least(1)] = 1.0
    """Augmentation: see smallest_scale."""

    colour_jitter: Annotated[float, share] = 0.0
    """Augmentation: brightness, contrast and saturation change by up to this share."""

    multi_scale: Annotated[float, between(0, 0.5)] = 0.0
    """Augmentation: the images of a step are read at one side, drawn from image_size times 1 - this to 1 + this, a
    multiple of 32 (YOLOv2, arXiv 1612.08242); needs a model that reads several sizes."""

    def checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().checks()
        if self.label_smoothing_factor:
            yield ("label_smoothing_factor",), "has no use here: the model's own loss has no smoothing"

    def choose_flip(self) -> float:
        """`flip`, chosen if it is open."""
        self.choose("flip", 0.0 if self.built_in else 0.5, "digits stay digits" if self.built_in else "usual")
        assert self.flip is not None
        return self.flip

    def choose_batch_norm(self) -> None:
        """Chooses `fixed_batch_norm` if it is open."""
        pretrained = self.model_name_or_path is not None
        reason = "usual for pretrained models" if pretrained else "a new model has no averages yet"
        self.choose("fixed_batch_norm", pretrained, reason)


@dataclass
class WholeImageConfig(ImageConfig):
    """Images that a model reads whole, at one size, and how they vary in training."""

    BUILT_IN: ClassVar[str] = "digits"

    image_column: str = "image"
    """Column of the images: paths, relative to the file that names them, or the bytes of image files."""

    model: str = "transformer"
    """Kind of new model, without model_name_or_path: transformer, our own on patches, or a model type of transformers:
    vit, convnext, resnet, swin."""

    image_size: Annotated[int | None, at_least(1)] = None
    """Height and width of the images that the model reads; null: as its image processor says; for a new model as most
    training images need it, at most 224. Position embeddings of a pretrained model are interpolated."""

    crop_area: Annotated[float | None, above(0, at_most=1)] = None
    """Augmentation: smallest share of an image that a random crop keeps; 1: no random crop; null: 0.35, for the
    built-in digits 0.8."""

    flip: Annotated[float | None, between(0, 1)] = None
    """Augmentation: probability of exchanging left and right; null: 0.5, for the built-in digits 0."""

    colour_jitter: Annotated[float, share] = 0.0
    """Augmentation: brightness, contrast and saturation change by up to this share."""

    @property
    def auto_class(self) -> str:
        """The class of transformers that makes a new model of this kind."""
        raise NotImplementedError

    def choose_variation(self) -> tuple[float, float]:
        """`crop_area` and `flip`, chosen where they are open."""
        reason = "digits stay digits" if self.built_in else "usual for photographs"
        self.choose("crop_area", 0.8 if self.built_in else 0.35, reason)
        self.choose("flip", 0.0 if self.built_in else 0.5, reason)
        assert self.crop_area is not None and self.flip is not None
        return self.crop_area, self.flip

    def checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().checks()
        if self.model != type(self).model and self.model_name_or_path is not None:
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
                yield from model_problems(self.model, self.model_config, self.auto_class)
