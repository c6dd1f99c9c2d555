"""Trials of a language model before a run: that it is causal, and that packing and the chunked loss are exact.

There are no lists of names: architectures fail in many ways, and new ones appear. A few random tokens show it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import send_to_device
from torch import nn

from hftrain.data.packing import join
from hftrain.losses import IGNORE, Batch, SummingHead, forward, sum_in_head, sum_over_logits
from hftrain.models.blocks import BLOCKS
from hftrain.text.causal import collate_causal, in_blocks
from hftrain.train.trials.small import base, changes_with_length, tokens_of, tried_small

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


def check_causal(model: PreTrainedModel) -> None:
    """Tries whether a token changes the logits before it. Raises: ValueError, it does (BERT, unless is_decoder)."""
    if not _sight(model) < 1e-3:
        raise ValueError(
            f"{type(model).__name__} sees the tokens that it should predict, so it is not a causal language model: "
            "choose another, or set model_config.is_decoder true if its configuration has it"
        )


@tried_small
def _sight(model: PreTrainedModel) -> float:
    """The change of the logits before a token by that token, in standard deviations."""
    rows = tokens_of(model)
    ids = torch.randint(rows, (8,), generator=torch.Generator().manual_seed(0)).numpy()
    other = [*ids[:-1], (ids[-1] + 1) % rows]
    first, second = (_logits(model, collate_causal([{"input_ids": i}], pad_token_id=0))[0, :-1] for i in (ids, other))
    return farthest([first], [second])


def check_packing(model: PreTrainedModel, longest: int = 24) -> None:
    """Tries whether documents packed into a row get the same logits as alone.

    Architectures fail in many ways: ALiBi and positions counted from the attention mask ignore `position_ids`,
    convolutions and recurrent states continue from document to document, and some rotary positions (longrope, dynamic
    NTK) depend on the longest document of a batch.

    Args:
        longest: tokens of the longest document, which decides whether those rotary positions change.

    Raises:
        ValueError: they do not, or the model does not accept positions.
    """
    refusal = f"{type(model).__name__} cannot be trained on packed documents exactly: turn packing off. "
    leak, off, rounding, problem = _packing(model, longest)
    if problem:
        raise ValueError(f"{refusal}It does not accept position_ids ({problem})")
    if leak < 1e-3 and off < rounding:
        return
    why = "when others precede it in its row: the model does not separate documents by position_ids"
    if (kind := changes_with_length(base(model).config)) and leak < 1e-3:
        why = (
            f"beside others: its {kind} positions depend on the longest document of the row (here {longest:,} "
            "tokens). With max_length at most the length of its pretraining (in its configuration: "
            "original_max_position_embeddings, or max_position_embeddings), packing is exact"
        )
    raise ValueError(f"{refusal}A document's logits change by up to {off:.2g} of their standard deviation {why}")


@tried_small
def _packing(model: PreTrainedModel, longest: int) -> tuple[float, float, float, str]:
    """The changes of a document's logits by other documents in its row and by packing itself, in standard deviations;
    the possible rounding; the error of a model that does not accept positions."""
    draw, rows = torch.Generator().manual_seed(0), tokens_of(model)
    first = max(2, longest // 3)
    lengths = (first, max(2, longest - first), longest)
    documents, others = (
        [{"input_ids": torch.randint(rows, (n,), generator=draw).numpy()} for n in lengths] for _ in range(2)
    )

    def packed(*documents: dict[str, Any]) -> list[torch.Tensor]:
        packs = [join(documents[:2]), join(documents[2:])]
        logits = _logits(model, collate_causal(packs, pad_token_id=0, blocks=in_blocks(model)))
        return [logits[0, :first], logits[0, first : first + lengths[1]], logits[1, :longest]]

    try:
        together = packed(*documents)
    except TypeError as error:
        return 0.0, 0.0, 0.0, str(error)
    beside_others = packed(others[0], documents[1], others[2])
    alone = [_logits(model, collate_causal([document], pad_token_id=0))[0] for document in documents]
    leak = farthest(beside_others[1:2], together[1:2])
    # Half precision rounds depending on the shape of a batch, but equally for batches of the same shape.
    rounding = 1e-3 if model.dtype == torch.float32 else 0.1
    return leak, max(leak, farthest(together, alone)), rounding, ""


def separate_documents(model: PreTrainedModel, longest: int, kernel: str | None) -> None:
    """`check_packing`, and `attend_in_blocks` if the user has chosen no `kernel` (`attn_implementation`); on a GPU,
    logs which kernel would be faster."""
    check_packing(model, longest)
    if kernel is None:
        attend_in_blocks(model)
    if torch.cuda.is_available() and (advice := advise_kernel(base(model).config._attn_implementation)):
        logger.warning(advice)


def advise_kernel(kernel: str | None) -> str | None:
    """What would be faster than `kernel` for packs on a GPU; None for the kernels that need no mask."""
    if kernel not in ("sdpa", "eager"):
        return None
    return (
        f"packs attend with {kernel} and a mask of T x T for each row of T tokens, which takes memory and excludes the "
        "flash kernel: set attn_implementation flash_attention_2 (pip install flash-attn), or "
        "kernels-community/flash-attn2 (pip install kernels), with bf16"
    )


def attend_in_blocks(model: PreTrainedModel) -> bool:
    """Lets the model attend to packs document by document, if it gives the same: else its attention compares each token
    of a pack with each other one, which costs several times as much for short documents.

    Only a model with transformers' sdpa is changed. A model with dropout in its attention keeps its mask: it would draw
    other numbers. So does every model on a GPU, whose kernel for this (`attn_implementation`: sdpa_blocks) has not been
    measured.

    Returns:
        whether it does; if not, the model is unchanged.
    """
    inner = base(model)
    chunked = "chunked_attention" in (getattr(inner.config, "layer_types", None) or ())  # chunks begin with the row
    dropout = any("att" in name and "drop" in name and value for name, value in vars(inner.config).items())
    if inner.config._attn_implementation != "sdpa" or chunked or dropout or torch.cuda.is_available():
        return False
    inner.set_attn_implementation(BLOCKS)
    if in_blocks(inner):
        leak, off, rounding, problem = _packing(model, 24)
        if not problem and leak < 1e-3 and off < rounding:
            return True
        inner.set_attn_implementation("sdpa")
    logger.info("%s attends to packs with a mask: document by document, its results differ", type(inner).__name__)
    return False


def farthest(
    results: Sequence[torch.Tensor], expected: Sequence[torch.Tensor], among: Sequence[torch.Tensor] = ()
) -> float:
    """The largest difference, in standard deviations of the expected values, or of `among`. Padding of a row is not
    compared."""
    deviation = torch.cat([values.flatten() for values in among or expected]).std()
    return max(float((a[: len(b)] - b).abs().max() / deviation) for a, b in zip(results, expected, strict=True))


def chunk_loss(model: PreTrainedModel) -> bool:
    """Lets the model's output head sum the loss itself (`chunked=True` of the losses), if that gives the same.

    Not only for causal models. It is impossible if the head is not a plain linear layer (adapters, 4 bits), or if the
    model changes its logits (scales or caps them). A few random tokens show it, and the obstacle is logged.

    Returns:
        whether it is possible; if not, the model is unchanged.
    """
    head, kind = model.get_output_embeddings(), type(model).__name__
    if type(head) not in (nn.Linear, SummingHead) or type(head.weight) is not nn.Parameter:
        logger.warning("chunked_loss is off: the output head of %s is not a plain linear layer", kind)
        return False
    if _sums_alike(model):
        head.__class__ = SummingHead
        return True
    logger.warning("chunked_loss is off: %s changes the logits of its output head, so the sum would differ", kind)
    return False


@tried_small
def _sums_alike(model: PreTrainedModel) -> bool:
    """Whether the loss summed in the output head equals that of the logits."""
    head, draw = model.get_output_embeddings(), torch.Generator().manual_seed(0)
    rows = min(tokens_of(model), head.out_features)
    ids, labels = (torch.randint(rows, (2, 8), generator=draw).to(head.weight.device) for _ in "ab")
    batch = {"input_ids": ids} | ({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})
    labels[0, :3] = IGNORE
    rounding = 1e-5 if head.weight.dtype == torch.float32 else 1e-2
    plain, head.__class__ = head.__class__, SummingHead
    try:
        with suppress(ValueError):  # it returned no sum: something was added for each class
            summed, expected = (float(f(model, batch, labels, 0.0)) for f in (sum_in_head, sum_over_logits))
            return abs(summed - expected) <= rounding * abs(expected)
        return False
    finally:
        head.__class__ = plain


def _logits(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    return forward(model, send_to_device(batch, next(model.parameters()).device)).logits.float()
