"""The model that detects objects: pretrained or new, with a head for these classes, and the size that it reads."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoModelForObjectDetection, PreTrainedConfig

from hftrain.models import load
from hftrain.models.freezing import freeze
from hftrain.models.images import STRIDE, fix_batch_norm
from hftrain.models.new import known_entries, naming_model_config
from hftrain.models.saved import class_entries, remember
from hftrain.tasks.detection.config import DetectionConfig
from hftrain.tasks.detection.losses import say_what_depends_on_the_cut
from hftrain.vision.canvas import IMAGENET, PLAIN, Canvas, require_sizes, size_for
from hftrain.vision.pixels import load_settings

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

logger = logging.getLogger(__name__)

LARGEST = 640  # pixels that a new model reads by itself
SMALL = 160  # pixels up to which a new model is small
PROCESSORS = {  # kinds whose image processor is not RT-DETR's, and whether it pads
    "detr": ("DetrImageProcessor", True),
    "conditional_detr": ("ConditionalDetrImageProcessor", True),
    "deformable_detr": ("DeformableDetrImageProcessor", True),
    "yolos": ("YolosImageProcessor", False),
}
HYBRID: dict[str, Any] = {  # RT-DETR and its kin for small images: 0.7 million parameters, strides of 8 and 16
    "backbone_config": {
        "model_type": "rt_detr_resnet",
        "embedding_size": 32,
        "hidden_sizes": [32, 64, 128],
        "depths": [1, 2, 1],
        "layer_type": "basic",
        "out_features": ["stage2", "stage3"],
    },
    "initializer_range": 0.1,  # the usual 0.01 is for wide models: here attention would be silent for long
    "encoder_hidden_dim": 64,
    "encoder_in_channels": [64, 128],
    "encode_proj_layers": [1],
    "feat_strides": [8, 16],
    "num_feature_levels": 2,
    "encoder_ffn_dim": 128,
    "encoder_attention_heads": 4,
    "hidden_expansion": 0.5,
    "d_model": 64,
    "num_queries": 20,
    "decoder_in_channels": [64] * 2,
    "decoder_ffn_dim": 128,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "num_denoising": 20,
}
RESNET = {
    "model_type": "resnet",
    "embedding_size": 16,
    "hidden_sizes": [16, 32, 64, 128],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": ["stage4"],
}
PLAIN_DETR: dict[str, Any] = {
    "backbone_config": RESNET,
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "num_queries": 30,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "auxiliary_loss": True,
}
YOLOS = {
    "hidden_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 192,
    "patch_size": 8,
    "num_detection_tokens": 30,
}
SMALL_SHAPES: dict[str, dict[str, Any]] = {
    "rt_detr": HYBRID,
    "rt_detr_v2": HYBRID | {"decoder_n_levels": 2},
    "d_fine": HYBRID | {"head_dim": 16},
    "deimv2": HYBRID | {"head_dim": 16},
    "detr": PLAIN_DETR,
    "yolos": YOLOS,
}


def load_canvas(config: DetectionConfig, rows: "Rows") -> Canvas:
    """How the model that `config` names reads images; of a new one, for the sizes of `rows`. The size is chosen where
    it is open, and is then in `config`."""
    if config.model_name_or_path is None:
        config.choose("image_size", *size_for(rows["width"][:], rows["height"][:], LARGEST, STRIDE))
        return Canvas(new_processor(config.model), config.image_size)
    settings = load_settings(config.model_name_or_path, config.model_revision)
    settings = settings or new_processor(load.load_model_config(config).model_type)
    config.choose("image_size", native_size(settings), f"the image processor of {config.model_name_or_path}")
    return Canvas(settings, config.image_size)


def new_processor(kind: str) -> dict[str, Any]:
    """The settings of the image processor for a model that brings none."""
    if kind in PROCESSORS:
        name, padded = PROCESSORS[kind]
        return {**PLAIN, **IMAGENET, "image_processor_type": name, "do_pad": padded}
    return {**PLAIN, "image_processor_type": "RTDetrImageProcessor", "do_normalize": False}


def native_size(settings: Mapping[str, Any]) -> int:
    """The longer side that a processor makes."""
    size = settings.get("pad_size") or settings.get("size") or {"height": LARGEST}
    return int(max(value for value in size.values() if value))


def load_detector(config: DetectionConfig, canvas: Canvas, names: Sequence[str], ids: Mapping[str, int]) -> Any:
    """The model that `config` names, or a new one, with a head for the classes `names`; `ids`: their numbers in a COCO
    file, which are kept for its results.

    Raises:
        ValueError: it cannot read images of this size, or `freeze` names nothing.
    """
    config.choose_batch_norm()
    new = partial(new_shape, config, canvas.height)
    model = load.load_model(config, AutoModelForObjectDetection, new=new, settings=class_entries(names))
    if config.fixed_batch_norm:
        fix_batch_norm(model)
    require_sizes(model, canvas, config.multi_scale)
    say_what_depends_on_the_cut(model)
    remember(model.config, category_ids=[ids.get(name, number) for number, name in enumerate(names)])
    if config.freeze:
        freeze(model, config.freeze)
    return load.add_adapters(model, config, None)


def new_shape(config: DetectionConfig, size: int) -> PreTrainedConfig:
    """The configuration of a new model: a small one for small images, else that of transformers.

    Raises:
        ValueError: a value of `model_config` that the configuration refuses.
    """
    known = known_entries(config.model)
    shape = SMALL_SHAPES.get(config.model, {}) if size <= SMALL else {}
    extra = {"freeze_backbone_batch_norms": False, "image_size": [size, size]}
    extra = {name: value for name, value in extra.items() if name in known}
    with naming_model_config():
        return AutoConfig.for_model(config.model, **extra | shape | config.model_config)
