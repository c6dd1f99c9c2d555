"""A classifier of images on DINOv3, for which transformers 5.23 has none. Importing this registers it with
`AutoModelForImageClassification`."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForImageClassification,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    DINOv3ViTPreTrainedModel,
)
from transformers.modeling_outputs import ImageClassifierOutput


class DINOv3ViTForImageClassification(DINOv3ViTPreTrainedModel):
    """A picture's class, its classes or a number, from the state of the class token and the mean of those of the
    patches, as `Dinov2ForImageClassification` does."""

    config_class = DINOv3ViTConfig
    base_model_prefix = "dinov3"

    def __init__(self, config: DINOv3ViTConfig):
        super().__init__(config)
        self.dinov3 = DINOv3ViTModel(config)
        self.classifier = nn.Linear(2 * config.hidden_size, config.num_labels or 2)
        self.post_init()

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Any) -> ImageClassifierOutput:
        """Logits [B, K] of pictures [B, C, H, W]; labels [B], or [B, K] of several at once (`config.problem_type`), add
        the loss."""
        output = self.dinov3(pixel_values, **kwargs)
        states = output.last_hidden_state  # of the class token, the registers and the patches
        patches = states[:, 1 + self.config.num_register_tokens :]
        logits = self.classifier(torch.cat([states[:, 0], patches.mean(dim=1)], dim=1))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return ImageClassifierOutput(loss=loss, logits=logits, hidden_states=output.hidden_states)


if DINOv3ViTConfig not in AutoModelForImageClassification._model_mapping:  # a later transformers may have its own
    AutoModelForImageClassification.register(DINOv3ViTConfig, DINOv3ViTForImageClassification, exist_ok=True)
    DINOv3ViTForImageClassification.register_for_auto_class(  # type: ignore[no-untyped-call]
        "AutoModelForImageClassification"
    )
