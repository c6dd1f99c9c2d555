"""Model FLOPs per token and the peak of the device: model FLOPs utilisation (MFU).

Model FLOPs are those that the mathematics needs, with 2mkn for a product of (m, k) and (k, n); recomputation to save
memory does not count (Chowdhery et al. 2022, PaLM, appendix B).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from hftrain.data.examples import Examples
from hftrain.data.packing import Packed

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# Dense bf16 (fp16 where there is no bf16) with fp32 sums, TFLOP/s, of NVIDIA's and AMD's data sheets: "H200 Tensor Core
# GPU" (1,979 with sparsity, NVL 1,671), "Blackwell architecture" (HGX B200 4,500, GB200 5,000 with sparsity), "RTX
# Blackwell PRO GPU architecture" (503.8 dense), "Instinct MI300X" (1,307.4 dense). The first match counts. A card at a
# lower power limit does not reach it, and no share of it is above 1.
PEAKS = [
    (r"GB300|B300", 2500), (r"GB200", 2500), (r"B200", 2250), (r"B100", 1750),
    (r"H100.*PCIe", 756), (r"H[12]00.*NVL", 835), (r"H100|H200|H800|GH200", 989), (r"H20\b", 148),
    (r"A100|A800", 312), (r"A40\b", 149.7), (r"A30\b", 165), (r"A10G", 70), (r"A10\b", 125),
    (r"L40S", 362), (r"L40\b", 181), (r"L4\b", 121), (r"V100", 125), (r"T4\b", 65),
    (r"RTX PRO 6000", 503.8), (r"RTX 6000 Ada", 364), (r"RTX A6000", 155),
    (r"RTX 5090", 209.5), (r"RTX 4090", 165), (r"RTX 3090", 71),
    (r"MI355X", 2517), (r"MI350X", 2307), (r"MI325X|MI300X", 1307), (r"MI250X", 191.5), (r"MI250\b", 181),
]  # fmt: skip


def peak_flops(device: torch.device) -> float | None:
    """Peak FLOP/s of a GPU in dense bf16; None for a device that is not in the table."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak * 1e12 for pattern, peak in PEAKS if re.search(pattern, name)), None)


def size(parameter: torch.Tensor) -> int:
    """The size of a parameter, also if ZeRO-3 has sharded it or bitsandbytes has packed it."""
    packed = getattr(parameter, "quant_state", None)
    return math.prod(packed.shape if packed is not None else getattr(parameter, "ds_shape", parameter.shape))


def count_parameters(model: nn.Module, trained: bool = False) -> int:
    """The number of all or of trained parameters, shared ones once; works on the meta device."""
    return sum(size(parameter) for parameter in model.parameters() if parameter.requires_grad or not trained)


def training_flops(model: PreTrainedModel) -> Callable[[np.ndarray], float]:
    """Model FLOPs of a training step, as a function of the lengths of its sequences.

    Per token 2 for each parameter that it is multiplied with, forward, and twice that backward, 6N in all; of frozen
    parameters, as under adapters, the gradient is not taken: 4N. Embeddings are looked up, not multiplied, but their
    matrix counts if the output shares it; of E experts, of which k are used, the k / E-th part. Attention adds 12 L T D
    per token of a sequence of T tokens, for L layers and D = heads x width of a head (PaLM, appendix B), as if each
    token looked at all T, or at its window where there is one.

    Args:
        model: before or after it is wrapped.

    Returns:
        lengths (N, K) -> FLOPs, of N sequences. Documents packed into a row count separately. For an encoder-decoder
        (K = 2, source and target) the encoder's parameters count for the source's tokens, the others for the target's.
    """
    config = model.config.get_text_config()
    matrices = {name: p for name, p in model.named_parameters() if len(getattr(p, "ds_shape", p.shape)) >= 2}
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if head is not None:
        tables.discard(id(head.weight))
    experts = _any(config, "num_local_experts", "num_experts", "n_routed_experts") or 1
    used = (_any(config, "num_experts_per_tok", "moe_topk") or 1) / experts
    both = bool(getattr(config, "is_encoder_decoder", False))
    per_token = [0.0, 0.0]  # the encoder of an encoder-decoder, and everything else
    for name, parameter in matrices.items():
        if id(parameter) not in tables:
            share = used if ".experts." in name and experts > 1 else 1.0
            times = 6 if parameter.requires_grad else 4
            per_token[not (both and ".encoder." in f".{name}")] += times * size(parameter) * share
    layers = _layer_windows(config)
    heads = _any(config, "num_attention_heads", "n_head") or 0  # Mamba has no heads and no attention
    width = heads and heads * (
        _any(config, "head_dim", "d_kv") or (_any(config, "hidden_size", "d_model") or 0) // heads
    )

    def flops(lengths: np.ndarray) -> float:
        lengths = np.asarray(lengths, dtype=np.float64)
        lengths = lengths.reshape(len(lengths), -1)
        if not both:  # the two answers of a preference are two sequences
            lengths = lengths.reshape(-1, 1)
        last = lengths[:, -1]
        total = per_token[1] * last.sum()
        if both:
            source, depth = lengths[:, 0], _any(config, "encoder_layers", "num_encoder_layers", "num_layers") or 0
            total += per_token[0] * source.sum() + 12 * width * depth * (source**2).sum()
            total += 12 * width * len(layers) * (source * last).sum()  # the decoder attends to the source too
        return total + sum(12 * width * (last * np.minimum(last, window)).sum() for window in layers)

    return flops


def step_flops(model: PreTrainedModel, examples: Examples) -> Callable[[np.ndarray], float] | None:
    """`flops` for `fit`: attention within documents, even if they are packed. None if the examples have no lengths in
    tokens (images), or the model's configuration does not have the form of a language model's."""
    if examples.lengths.max() <= 1 or not hasattr(getattr(model, "config", None), "get_text_config"):
        return None
    try:
        flops = training_flops(model)
        flops(examples.lengths[:1])
    except (AttributeError, TypeError, ValueError, NotImplementedError):  # several texts, or none, in a model of parts
        return None
    if isinstance(examples, Packed):
        documents, packs = examples.examples.lengths, examples.packs  # type: ignore[attr-defined]
        return lambda indices: flops(documents[np.concatenate([packs[i] for i in indices])])
    return lambda indices: flops(examples.lengths[indices])


def _layer_windows(config: PreTrainedConfig) -> list[float]:
    """The span of each layer's attention in tokens; for an encoder-decoder, of each decoder layer."""
    depth = _any(config, "num_decoder_layers", "decoder_layers", "num_hidden_layers", "n_layers") or 0
    window = _any(config, "sliding_window", "local_attention")
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * depth
    local = ("sliding_attention", "chunked_attention")
    reach = {kind: window if kind in local and window else math.inf for kind in kinds}
    return [reach[kind] for kind in kinds if "attention" in kind and "linear" not in kind]


def _any(config: PreTrainedConfig, *names: str) -> Any:
    """The first of these entries that the configuration has and that is not 0."""
    return next((value for name in names if (value := getattr(config, name, None))), None)
