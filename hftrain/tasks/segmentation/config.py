"""Settings of the segmentation of images, checked before anything is loaded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from hftrain.config import at_least, between
from hftrain.vision.config import PlacesConfig

SETS = ("mask2former", "eomt", "eomt_dinov3", "maskformer")  # kinds that predict a set of masks, and their loss
REFUSED = {"oneformer": "its contrastive loss needs texts and compares the images of a micro-batch: take a mask2former"}
METRICS = {
    "semantic": ("mean_iou", "pixel_accuracy", "mean_accuracy"),
    "instance": ("map", "map_50", "map_75", "ar_100"),
    "panoptic": ("pq", "sq", "rq"),
}


@dataclass
class SegmentationConfig(PlacesConfig):
    """Images, and the class, or the object, that each pixel belongs to."""

    segmentation: Literal["semantic", "instance", "panoptic"] = "semantic"
    """What is learnt: the class of each pixel; a mask for each object; or both, a segment for each pixel."""

    dataset_name: str | None = "scenes"
    """Data set: the built-in scenes (composed of scikit-learn's digits), a folder with COCO JSON (of objects or
    panoptic) or with images/ and masks/, one on the Hugging Face Hub, or a folder written by save_to_disk."""

    mask_folder: str | None = None
    """Folder of the masks that a panoptic COCO file names; null: the one beside it that has its name."""

    mask_column: str = "mask"
    """Column of the masks in rows: PNG files of class numbers (grey or indexed) or colours, like image_column."""

    label_names: list[str] = field(default_factory=list)
    """Class names of masks in order; empty: the values of the training masks, or the categories of the COCO file."""

    label_values: list[str] = field(default_factory=list)
    """The value of each of label_names in masks: numbers, or colours as "#804080"; empty: 0, 1, 2, ..."""

    void_values: list[str] = field(default_factory=lambda: ["255"])
    """Values of masks, numbers or colours, of pixels that are neither learnt nor scored."""

    model: str | None = None
    """Kind of new model, without model_name_or_path, a model type of transformers: segformer, upernet, mask2former,
    eomt and others; null: upernet for semantic segmentation, else mask2former."""

    image_size: Annotated[int | None, at_least(16)] = None
    """Height and width of the images that the model reads; null: as its image processor says; for a new model as most
    training images need it, at most 512."""

    dice_weight: Annotated[float, at_least(0)] = 0.0
    """Weight of a dice loss beside cross-entropy, for models that label pixels: mean over the classes of an image."""

    copy_paste: Annotated[float, between(0, 1)] = 0.0
    """Augmentation: probability of copying objects of another image onto this one (arXiv 2012.07177)."""

    freeze: list[str] = field(default_factory=list)
    """Parameters to freeze, by name: encoder, segformer.stages.0-1, *.bias."""

    def checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().checks()
        if self.label_values and len(self.label_values) != len(self.label_names):
            yield ("label_values", "label_names"), "need one value for each name"
        yield from self.metric_problems("loss", *METRICS[self.segmentation])
        if self.segmentation != "semantic" and self.model is not None and self.model not in SETS:
            yield ("model",), f"{self.segmentation} segmentation needs one of {', '.join(SETS)}"
        if self.dice_weight and (self.model in SETS or self.segmentation != "semantic"):
            yield ("dice_weight",), "has no use here: the loss of models that predict a set of masks has a dice loss"

    def late_checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().late_checks()
        if self.model_name_or_path is None and (why := REFUSED.get(self.new_model)):
            yield ("model",), f"{self.new_model} cannot be trained here: {why}"
        elif self.model_name_or_path is None:
            from hftrain.models.new import model_problems

            yield from model_problems(self.new_model, self.model_config, auto_class(self.new_model))

    @property
    def new_model(self) -> str:
        return self.model or ("upernet" if self.segmentation == "semantic" else "mask2former")

    @property
    def scored_by(self) -> str:
        return METRICS[self.segmentation][0]


def auto_class(kind: str) -> str:
    """The Auto class of transformers for models of this type."""
    return "AutoModelForUniversalSegmentation" if kind in SETS else "AutoModelForSemanticSegmentation"
