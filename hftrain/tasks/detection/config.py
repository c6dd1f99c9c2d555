"""Settings of the detection of objects, checked before anything is loaded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from hftrain.config import above, at_least, between, share
from hftrain.vision.config import ImageConfig

METRICS = ("loss", "map", "map_50", "map_75", "ar_100")


@dataclass
class DetectionConfig(ImageConfig):
    """Images, and the objects to find in each: a box and a class."""

    BUILT_IN: ClassVar[str] = "scenes"

    dataset_name: str | None = "scenes"
    """Data set: the built-in scenes (composed of scikit-learn's digits), a folder with COCO JSON, Pascal VOC XML,
    YOLO's data.yaml or rows, one on the Hugging Face Hub, or a folder written by save_to_disk."""

    image_folder: str | None = None
    """Folder of the images that a COCO file names; null: that of the file, or one beside it."""

    image_column: str = "image"
    """Column of the images in rows: paths, relative to the file that names them, or the bytes of image files."""

    objects_column: str = "objects"
    """Column of the objects in rows: {"bbox": [...], "category": [...]}, or a list of {"bbox", "category"}."""

    box_format: Literal["xywh", "xyxy"] = "xywh"
    """How rows write a box, in pixels: left, upper, width, height (COCO), or left, upper, right, lower."""

    label_names: list[str] = field(default_factory=list)
    """Class names in order, needed if rows contain class numbers; empty: those of the COCO file or data.yaml, in their
    order, or else the classes of the training rows, sorted."""

    model: str = "rt_detr"
    """Kind of new model, without model_name_or_path, a model type of transformers: rt_detr, rt_detr_v2, d_fine, detr,
    yolos and others."""

    image_size: Annotated[int | None, at_least(16)] = None
    """Height and width of the images that the model reads; null: as its image processor says, of a new model as most
    training images need it, at most 640."""

    fixed_batch_norm: bool | None = None
    """Use the saved averages of batch normalisation instead of those of the micro-batch, so that results do not depend
    on its size; null: true for a pretrained model, false for a new one."""

    flip: Annotated[float | None, between(0, 1)] = None
    """Augmentation: probability of exchanging left and right; null: 0.5, for the built-in scenes 0."""

    smallest_scale: Annotated[float, above(0), between(0, 1)] = 1.0
    """Augmentation: the image is shown at this share of its size or more, up to largest_scale, at a random place
    (large-scale jitter, arXiv 2012.07177: 0.1 and 2); boxes of which less than a quarter stays visible are left out."""

    largest_scale: Annotated[float, at_least(1)] = 1.0
    """Augmentation: see smallest_scale."""

    mosaic: Annotated[float, between(0, 1)] = 0.0
    """Augmentation: probability of composing an image of four (YOLOv4, arXiv 2004.10934)."""

    colour_jitter: Annotated[float, share] = 0.0
    """Augmentation: brightness, contrast and saturation change by up to this share."""

    freeze: list[str] = field(default_factory=list)
    """Parameters to freeze, by name: backbone, encoder.layers.0-1, *.bias."""

    def checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().checks()
        if self.freeze and self.use_peft:
            yield ("freeze", "use_peft"), "adapters freeze the whole model already: set only one of the two"
        if self.label_smoothing_factor:
            yield ("label_smoothing_factor",), "has no use here: the model's own loss has no smoothing"
        best = (self.metric_for_best_model or "loss").removeprefix("eval_")
        if best not in METRICS:
            yield ("metric_for_best_model",), f"only {', '.join(METRICS)} are evaluated"

    def late_checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().late_checks()
        if self.model_name_or_path is None:
            from hftrain.models.new import model_problems

            yield from model_problems(self.model, self.model_config, "AutoModelForObjectDetection")

    @property
    def scored_by(self) -> str:
        return "map"
