"""Settings of the detection of objects, checked before anything is loaded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from hftrain.config import at_least, between, share
from hftrain.vision.config import PlacesConfig

METRICS = ("loss", "map", "map_50", "map_75", "ar_100")


@dataclass
class DetectionConfig(PlacesConfig):
    """Images, and the objects to find in each: a box and a class."""

    dataset_name: str | None = "scenes"
    """Data set: the built-in scenes (composed of scikit-learn's digits), a folder with COCO JSON, Pascal VOC XML,
    YOLO's data.yaml or rows, one on the Hugging Face Hub, or a folder written by save_to_disk."""

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
    """Height and width of the images that the model reads; null: as its image processor says; for a new model as most
    training images need it, at most 640."""

    mosaic: Annotated[float, between(0, 1)] = 0.0
    """Augmentation: probability of composing an image of four (YOLOv4, arXiv 2004.10934)."""

    closing_share: Annotated[float, share] = 0.1
    """Augmentation: share of the steps, the last ones, without mosaic, so that the model ends on images as they are
    (YOLOX, arXiv 2107.08430)."""

    freeze: list[str] = field(default_factory=list)
    """Parameters to freeze, by name: backbone, encoder.layers.0-1, *.bias."""

    def checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().checks()
        yield from self.metric_problems(*METRICS)

    def late_checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().late_checks()
        if self.model_name_or_path is None:
            from hftrain.models.new import model_problems

            yield from model_problems(self.model, self.model_config, "AutoModelForObjectDetection")

    @property
    def scored_by(self) -> str:
        return "map"
