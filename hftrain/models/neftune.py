"""NEFTune (Jain et al. 2023, "Noisy Embeddings Improve Instruction Finetuning", algorithm 1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def add_noise(model: Any, alpha: float | None) -> None:
    """Adds noise, uniform in -1 .. 1 times alpha / sqrt(L D), to each embedding in training mode.

    D is the embeddings' size and L the tokens of the embedding's sequence, without padding; of packed documents, each
    counts separately. `fit` seeds the noise by the step. None adds no noise.
    """
    if alpha is None:
        return
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    inputs: dict[str, Any] = {}

    def listen(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        inputs.update(mask=named.get("attention_mask"), positions=named.get("position_ids"))

    def disturb(module: nn.Module, arguments: tuple[Any, ...], embedded: torch.Tensor) -> torch.Tensor:
        if not module.training:
            return embedded
        lengths = lengths_of(*embedded.shape[:2], **inputs).to(embedded)
        noise = torch.empty_like(embedded).uniform_(-1, 1)
        return embedded + noise * (alpha / (lengths * embedded.shape[2]).sqrt())[:, :, None]

    inner.base_model.register_forward_pre_hook(listen, with_kwargs=True)
    inner.get_input_embeddings().register_forward_hook(disturb)


def lengths_of(
    rows: int, tokens: int, mask: torch.Tensor | None = None, positions: torch.Tensor | None = None
) -> torch.Tensor:
    """(B, T): the length of each token's sequence, at least 1."""
    if mask is not None:
        return mask.sum(dim=1, keepdim=True).clamp(min=1).expand(rows, tokens)
    if positions is None:
        return torch.full((rows, tokens), tokens)
    document = (positions == 0).flatten().cumsum(0) - 1  # counted over all rows; each row begins a document
    return document.bincount()[document].view(rows, tokens)
