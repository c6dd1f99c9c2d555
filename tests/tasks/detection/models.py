"""Tiny detectors of each kind, with the settings of an image processor."""

from pathlib import Path
from typing import Any

import torch
import transformers

from hftrain.tasks.detection.model import fix_batch_norm, new_processor
from hftrain.vision.canvas import Canvas

SIDE = 64
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 8, 8, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"}
LAYERS = {
    "d_model": 16,
    "decoder_layers": 2,
    "decoder_ffn_dim": 16,
    "encoder_ffn_dim": 16,
    "num_queries": 12,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "auxiliary_loss": True,
}
BACKBONE = {"use_timm_backbone": False, "use_pretrained_backbone": False, "encoder_layers": 1, "dropout": 0.0}
HYBRID: dict[str, Any] = {
    **LAYERS,
    "encoder_hidden_dim": 16,
    "encoder_in_channels": [8, 8, 16],
    "decoder_in_channels": [16] * 3,
    "encode_proj_layers": [2],
    "feat_strides": [8, 16, 32],
    "num_feature_levels": 3,
    "num_denoising": 0,
    "freeze_backbone_batch_norms": False,
}
STAGES = ["stage2", "stage3", "stage4"]
GROUPED: dict[str, Any] = {  # LW-DETR and RF-DETR repeat their queries in groups
    "d_model": 16,
    "decoder_layers": 2,
    "decoder_ffn_dim": 16,
    "decoder_self_attention_heads": 2,
    "decoder_cross_attention_heads": 2,
    "num_queries": 12,
    "group_detr": 3,
    "projector_scale_factors": [1.0],
    "dropout": 0.0,
}
VIT = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "mlp_ratio": 2, "patch_size": 16}
BACKBONES: dict[str, dict[str, Any]] = {
    "lw_detr": {"model_type": "lw_detr_vit", "pretrain_image_size": SIDE, "num_windows": 4, "out_indices": [1, 2]},
    "rf_detr": {"model_type": "rf_detr_dinov2", "out_indices": [1, 3]},
}


def hybrid() -> dict[str, Any]:
    return HYBRID | {"backbone_config": transformers.RTDetrResNetConfig(**RESNET, out_features=STAGES)}


def resnet() -> dict[str, Any]:
    return {**LAYERS, **BACKBONE, "backbone_config": transformers.ResNetConfig(**RESNET, out_features=["stage4"])}


def shape(kind: str) -> dict[str, Any]:
    if kind in ("rt_detr", "rt_detr_v2", "d_fine", "deimv2"):
        return hybrid()
    if kind in BACKBONES:
        backbone = {**VIT, **BACKBONES[kind], "image_size": SIDE}
        return GROUPED | {"backbone_config": transformers.AutoConfig.for_model(backbone.pop("model_type"), **backbone)}
    if kind == "yolos":
        return {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "image_size": [SIDE, SIDE],
            "patch_size": 8,
            "num_detection_tokens": 12,
            "hidden_dropout_prob": 0.0,
        }
    if kind == "deformable_detr":
        return resnet() | {"num_feature_levels": 1, "d_model": 32, "disable_custom_kernels": True}
    assert kind in ("detr", "conditional_detr")
    return resnet()


def make(kind: str, classes: int = 3) -> Any:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **shape(kind), num_labels=classes)
    model = transformers.AutoModelForObjectDetection.from_config(config)
    fix_batch_norm(model)
    return model


def saved(kind: str, folder: Path, classes: int = 3) -> str:
    make(kind, classes).save_pretrained(folder)
    Canvas(new_processor(kind), SIDE).save_pretrained(folder)
    return str(folder)
