"""The model that segments images: pretrained or new, with a head for these classes, and the size that it reads."""

import logging
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import transformers
from transformers import AutoConfig, PreTrainedConfig

from hftrain.models import load
from hftrain.models.freezing import freeze
from hftrain.models.images import STRIDE, fix_batch_norm
from hftrain.models.new import known_entries, naming_model_config
from hftrain.models.saved import class_entries, remember
from hftrain.tasks.segmentation.config import REFUSED, SETS, SegmentationConfig, auto_class
from hftrain.tasks.segmentation.rows import Classes
from hftrain.vision.canvas import IMAGENET, PLAIN, Canvas, require_sizes, size_for
from hftrain.vision.masks import VOID
from hftrain.vision.pixels import load_settings

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

logger = logging.getLogger(__name__)

LARGEST = 512  # pixels that a new model reads by itself
SMALL = 160  # pixels up to which a new model is small
WIDTHS = [16, 32, 64, 128]
RESNET = {
    "model_type": "resnet",
    "embedding_size": 16,
    "hidden_sizes": WIDTHS,
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
THREE_STAGES = {  # strides of 4, 8 and 16: at 32, an object of a small image is a point
    "model_type": "resnet",
    "embedding_size": 32,
    "hidden_sizes": [32, 64, 128],
    "depths": [1, 2, 1],
    "layer_type": "basic",
    "out_features": ["stage1", "stage2", "stage3"],
}
SMALL_SHAPES: dict[str, dict[str, Any]] = {
    "segformer": {
        "depths": [1, 1, 2, 1],
        "hidden_sizes": [16, 32, 64, 96],
        "num_attention_heads": [1, 2, 4, 4],
        "sr_ratios": [4, 2, 1, 1],
        "strides": [2, 2, 2, 2],
        "patch_sizes": [5, 3, 3, 3],
        "mlp_ratios": [2, 2, 2, 2],
        "decoder_hidden_size": 64,
        "classifier_dropout_prob": 0.0,
        "drop_path_rate": 0.0,
    },
    "upernet": {
        "backbone_config": THREE_STAGES,
        "hidden_size": 32,
        "pool_scales": [1, 2],
        "use_auxiliary_head": False,
        "initializer_range": 0.06,  # the usual 0.02 is for wide models: here it would hide what lies below
    },
    "mask2former": {
        "backbone_config": RESNET,
        "feature_size": 64,
        "mask_feature_size": 64,
        "hidden_dim": 64,
        "encoder_feedforward_dim": 128,
        "dim_feedforward": 128,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "num_attention_heads": 4,
        "num_queries": 20,
        "train_num_points": 576,
    },
    "maskformer": {
        "backbone_config": RESNET,
        "decoder_config": {
            "model_type": "detr",
            "d_model": 64,
            "decoder_layers": 3,
            "decoder_attention_heads": 4,
            "decoder_ffn_dim": 128,
            "num_queries": 20,
        },
        "fpn_feature_size": 64,
        "mask_feature_size": 64,
    },
    "eomt": {
        "hidden_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_blocks": 2,
        "num_queries": 20,
        "patch_size": 8,
        "num_upscale_blocks": 1,
        "num_register_tokens": 0,
        "train_num_points": 576,
    },
}


def predicts_sets(model: Any) -> bool:
    """Whether a model predicts a set of masks, not a label for each pixel."""
    return model.config.model_type in SETS


def load_canvas(config: SegmentationConfig, rows: "Rows") -> Canvas:
    """How the model that `config` names reads images; of a new one, for the sizes of `rows`. The size is chosen where
    it is open, and is then in `config`."""
    if config.model_name_or_path is None:
        config.choose("image_size", *size_for(rows["width"][:], rows["height"][:], LARGEST, STRIDE))
        return Canvas(new_processor(config.new_model), config.image_size)
    settings = load_settings(config.model_name_or_path, config.model_revision)
    settings = settings or new_processor(load.load_model_config(config).model_type)
    if settings.pop("do_reduce_labels", False):
        logger.warning(
            "the image processor of %s counts classes from 1 (do_reduce_labels); hftrain reads the values of masks as "
            "they are: for masks from 1 on with 0 for void, set label_names, label_values and void_values",
            config.model_name_or_path,
        )
    config.choose("image_size", native_size(settings), f"the image processor of {config.model_name_or_path}")
    return Canvas(settings, config.image_size)


def new_processor(kind: str) -> dict[str, Any]:
    """The settings of the image processor for a model that brings none."""
    names = {"mask2former": "Mask2Former", "maskformer": "MaskFormer", "eomt": "Eomt", "eomt_dinov3": "Eomt"}
    return {**PLAIN, **IMAGENET, "image_processor_type": f"{names.get(kind, 'Segformer')}ImageProcessor"}


def native_size(settings: Mapping[str, Any]) -> int:
    """The side that a processor makes: of sizes in proportion the shorter one, as a multiple of the stride."""
    size = settings.get("size") or {"height": LARGEST}
    if isinstance(size, int):
        return size
    if edge := size.get("shortest_edge"):
        return round(int(edge) / STRIDE) * STRIDE
    return int(max(value for value in size.values() if value))


def load_segmenter(config: SegmentationConfig, canvas: Canvas, classes: Classes) -> Any:
    """The model that `config` names, or a new one, with a head for the classes.

    Raises:
        ValueError: it cannot tell objects apart, cannot read images of this size, or `freeze` names nothing.
    """
    pretrained = config.model_name_or_path is not None
    kind = load.load_model_config(config).model_type if pretrained else config.new_model
    if why := REFUSED.get(kind):
        raise ValueError(f"model_name_or_path: a {kind} cannot be trained here: {why}")
    if config.segmentation != "semantic" and kind not in SETS:
        raise ValueError(
            f"model_name_or_path: a {kind} labels pixels; {config.segmentation} segmentation needs one of "
            f"{', '.join(SETS)}"
        )
    if kind not in SETS and len(classes.names) > VOID:
        raise ValueError(f"{kind} can learn {VOID} classes, but there are {len(classes.names)}: use mask2former")
    config.choose_batch_norm()
    auto, new = getattr(transformers, auto_class(kind)), partial(new_shape, config, canvas.height)
    model = load.load_model(config, auto, new=new, settings=class_entries(classes.names))
    if config.fixed_batch_norm:
        fix_batch_norm(model)
    require_sizes(model, canvas, config.multi_scale)
    things = [name for name in classes.names if name in classes.things]
    ids = [classes.ids.get(name, number) for number, name in enumerate(classes.names)]
    remember(model.config, segmentation=config.segmentation, things=things, category_ids=ids)
    if config.freeze:
        freeze(model, config.freeze)
    return load.add_adapters(model, config, None)


def new_shape(config: SegmentationConfig, size: int) -> PreTrainedConfig:
    """The configuration of a new model: a small one for small images, else that of transformers.

    Raises:
        ValueError: a value of `model_config` that the configuration refuses.
    """
    kind = config.new_model
    shape = SMALL_SHAPES.get(kind, {}) if size <= SMALL else {}
    extra = {"image_size": size} if "image_size" in known_entries(kind) else {}
    with naming_model_config():
        return AutoConfig.for_model(kind, **extra | shape | config.model_config)
