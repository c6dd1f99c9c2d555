"""Tiny models of each kind that segments, with the settings of an image processor."""

from pathlib import Path
from typing import Any

import torch
import transformers

from hftrain.models.images import fix_batch_norm
from hftrain.tasks.segmentation.config import auto_class
from hftrain.tasks.segmentation.model import new_processor
from hftrain.vision.canvas import Canvas

SIDE = 64
RESNET = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 8, 16, 16],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
SHAPES: dict[str, dict[str, Any]] = {
    "segformer": {
        "depths": [1, 1, 1, 1],
        "hidden_sizes": [8, 8, 16, 16],
        "num_attention_heads": [1, 1, 2, 2],
        "strides": [2, 2, 2, 2],
        "mlp_ratios": [2, 2, 2, 2],
        "decoder_hidden_size": 16,
        "classifier_dropout_prob": 0.0,
        "drop_path_rate": 0.0,
    },
    "upernet": {
        "backbone_config": RESNET,
        "hidden_size": 16,
        "auxiliary_in_channels": 16,
        "auxiliary_channels": 8,
        "pool_scales": [1, 2],
    },
    "mask2former": {
        "backbone_config": RESNET,
        "feature_size": 32,
        "mask_feature_size": 32,
        "hidden_dim": 32,
        "encoder_feedforward_dim": 16,
        "dim_feedforward": 16,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "num_attention_heads": 2,
        "num_queries": 8,
        "train_num_points": 64,
        "dropout": 0.0,
    },
    "maskformer": {
        "backbone_config": {**RESNET, "out_features": ["stage1", "stage2", "stage3", "stage4"]},
        "decoder_config": {
            "model_type": "detr",
            "d_model": 32,
            "decoder_layers": 2,
            "decoder_attention_heads": 2,
            "decoder_ffn_dim": 16,
            "num_queries": 8,
            "dropout": 0.0,
        },
        "fpn_feature_size": 32,
        "mask_feature_size": 32,
        "num_attention_heads": 2,
    },
    "eomt": {
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_blocks": 2,
        "num_queries": 8,
        "patch_size": 8,
        "image_size": SIDE,
        "num_upscale_blocks": 1,
        "num_register_tokens": 0,
        "train_num_points": 64,
        "hidden_dropout_prob": 0.0,
        "attention_dropout": 0.0,
        "drop_path_rate": 0.0,
    },
}


def make(kind: str, classes: int = 4) -> Any:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **SHAPES[kind], num_labels=classes)
    model = getattr(transformers, auto_class(kind)).from_config(config)
    fix_batch_norm(model)
    return model


def saved(kind: str, folder: Path, classes: int = 4) -> str:
    make(kind, classes).save_pretrained(folder)
    Canvas(new_processor(kind), SIDE).save_pretrained(folder)
    return str(folder)
