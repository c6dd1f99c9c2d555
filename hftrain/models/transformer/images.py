"""The encoder on patches of pictures (Dosovitskiy et al. 2020, ViT), with the mean of its states as in Beyer et al.
2022.

Shapes: B pictures, N patches, P side of a patch, C channels, D hidden_size, K num_labels.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import ImageClassifierOutput, MaskedImageModelingOutput
from transformers.utils import can_return_tuple

from .attention import read_layout
from .blocks import TransformerStack
from .configuration import TransformerConfig
from .transformer import TransformerPreTrainedModel


class ImageTransformerConfig(TransformerConfig):
    """Shape of an encoder that reads patches: that of a `TransformerConfig` without a decoder, and

    Args:
        image_size: height and width of a picture.
        patch_size: height and width of a patch, a divisor of it.
        num_channels: 3 of RGB.
    """

    model_type: ClassVar[str] = "hftrain_image_transformer"

    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    vocab_size: int = 1
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    num_decoder_layers: int = 0
    hidden_act: str = "gelu"
    position_embedding_type: str = "learned"
    scale_embedding: bool = False
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        if self.patch_size < 1 or self.image_size < 1 or self.image_size % self.patch_size:
            raise ValueError(
                f"image_size={self.image_size} must be a multiple of patch_size={self.patch_size}, such as "
                f"{max(1, round(self.image_size / max(1, self.patch_size))) * self.patch_size}"
            )
        self.max_position_embeddings = (self.image_size // self.patch_size) ** 2
        super().__post_init__(**kwargs)

    @classmethod
    def shape_fields(cls) -> set[str]:
        texts = {"num_decoder_layers", "max_position_embeddings", "length_embedding", "tie_word_embeddings"}
        return super().shape_fields() - texts - {"use_cache"} | {"image_size", "patch_size", "num_channels"}


class ImagePreTrainedModel(TransformerPreTrainedModel):
    """Patches of pictures and the encoder over them; what follows adds an output."""

    config_class = ImageTransformerConfig
    main_input_name = "pixel_values"
    input_modalities = "image"

    def __init__(self, config: ImageTransformerConfig):
        super().__init__(config)
        self.patches = nn.Linear(config.num_channels * config.patch_size**2, config.hidden_size)
        self.encoder = TransformerStack(config, config.num_encoder_layers, causal=False)

    def encode(
        self,
        pixel_values: Tensor,
        hidden: tuple[Tensor, Tensor] | None = None,
        output_hidden_states: bool | None = None,
    ) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """States [B, N, D] of pictures [B, C, image_size, image_size], and those that enter each layer if asked for.

        Args:
            hidden: bool [B, N], patches that are not shown, and the embedding [D] in their place.
        """
        wanted = (self.config.num_channels, self.config.image_size, self.config.image_size)
        if pixel_values.shape[1:] != wanted:
            raise ValueError(f"pictures are {tuple(pixel_values.shape[1:])}, but the model reads {wanted}")
        embeddings = self.patches(cut_patches(pixel_values, self.config.patch_size).to(self.patches.weight.dtype))
        if hidden is not None:
            mask, instead = hidden
            embeddings = torch.where(mask.unsqueeze(-1), instead.to(embeddings.dtype), embeddings)
        layout = read_layout(embeddings.shape[1], embeddings.device, None, None)
        return self.encoder(embeddings, layout, output_hidden_states=bool(output_hidden_states))


class TransformerForImageClassification(ImagePreTrainedModel):
    """A picture's class, its classes or a number, from the mean of the encoder's states over its patches."""

    def __init__(self, config: ImageTransformerConfig):
        super().__init__(config)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)  # type: ignore[arg-type]
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> ImageClassifierOutput:
        """Logits [B, K] of pictures [B, C, image_size, image_size]; labels [B], or [B, K] of several at once
        (`config.problem_type`), add the loss."""
        states, passed = self.encode(pixel_values, output_hidden_states=output_hidden_states)
        logits = self.classifier(self.dropout(states.mean(dim=1)))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return ImageClassifierOutput(loss=loss, logits=logits, hidden_states=passed)


class TransformerForMaskedImageModeling(ImagePreTrainedModel):
    """The pixels of hidden patches, each from its state by one linear layer (Xie et al. 2022, SimMIM)."""

    def __init__(self, config: ImageTransformerConfig):
        super().__init__(config)
        self.mask_token = nn.Embedding(1, config.hidden_size)  # in place of a hidden patch
        self.decoder = nn.Linear(config.hidden_size, config.num_channels * config.patch_size**2)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        bool_masked_pos: Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> MaskedImageModelingOutput:
        """Reconstructed pictures [B, C, image_size, image_size]; with the hidden patches, bool [B, N], also the loss,
        the mean absolute error of their pixels."""
        hidden = None if bool_masked_pos is None else (bool_masked_pos, self.mask_token.weight[0])
        states, passed = self.encode(pixel_values, hidden, output_hidden_states)
        patches = self.decoder(states)
        loss = None
        if bool_masked_pos is not None:
            errors = (patches.float() - cut_patches(pixel_values.float(), self.config.patch_size)).abs().mean(dim=-1)
            loss = (errors * bool_masked_pos).sum() / bool_masked_pos.sum()
        side, rows = self.config.patch_size, self.config.image_size // self.config.patch_size
        cut = patches.reshape(-1, rows, rows, self.config.num_channels, side, side)
        pictures = torch.einsum("bhwcpq->bchpwq", cut).reshape(pixel_values.shape)
        return MaskedImageModelingOutput(loss=loss, reconstruction=pictures, hidden_states=passed)


def cut_patches(pictures: Tensor, side: int) -> Tensor:
    """[B, C, H, W] -> [B, N, C P P], row by row."""
    B, C, H, W = pictures.shape
    cut = pictures.reshape(B, C, H // side, side, W // side, side)
    return torch.einsum("bchpwq->bhwcpq", cut).reshape(B, H // side * (W // side), C * side * side)
