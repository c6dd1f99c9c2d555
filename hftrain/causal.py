"""What a causal language model adds to text: its batches, documents packed into rows, and trials that show before a run
that packing and the chunked loss are exact on the model at hand.

Shapes: B rows, T tokens of a row, V vocabulary.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from hftrain import text
from hftrain.data.packing import join
from hftrain.losses import IGNORE, Batch, SummingHead, forward, sum_in_head, sum_over_logits
from hftrain.trial import left_as_it_was

logger = logging.getLogger(__name__)


def collate_causal(
    examples: Sequence[Mapping[str, Any]], *, pad_token_id: int, pad_to_multiple_of: int = 1, flat: bool = False
) -> Batch:
    """Examples {"input_ids"} or {"input_ids", "labels"} as rows, padded on the right, where no token looks.

    Packs, which carry "position_ids", get these and no attention mask: that is what makes transformers, and our own
    model, keep the documents of a row apart. Padding has position 0: each of its tokens is a document alone.

    Args:
        flat: all packs in one row, as the flash attention kernels want it (`wants_flat`).

    Returns:
        int64 (B, T): input_ids, labels (-100 at padding), and attention_mask or position_ids. The labels are not
        shifted; `causal_language_model` does that.
    """
    columns = {name: [example[name] for example in examples] for name in examples[0]}
    columns.setdefault("labels", columns["input_ids"])
    if "position_ids" not in columns:
        columns["attention_mask"] = [np.ones(len(ids), dtype=np.int64) for ids in columns["input_ids"]]
    elif flat:
        columns = {name: [np.concatenate(rows)] for name, rows in columns.items()}
    fill = {"input_ids": pad_token_id, "labels": IGNORE, "attention_mask": 0, "position_ids": 0}
    return {name: text.pad(columns[name], fill[name], pad_to_multiple_of) for name in fill if name in columns}


def causal_lengths(examples: Any) -> np.ndarray:
    """(N, 1) int64: tokens of each example, of packs, of a `datasets.Dataset`, or of a list."""
    if hasattr(examples, "lengths"):
        return np.asarray(examples.lengths, dtype=np.int64).reshape(-1, 1)
    if hasattr(examples, "select_columns"):
        return text.lengths(examples, ["input_ids"])
    return np.array([[len(example["input_ids"])] for example in examples], dtype=np.int64)


def wants_flat(model: Any) -> bool:
    """Whether the model's attention keeps packs apart in a batch of one row only, as the flash kernels do."""
    return "flash" in (getattr(model.config, "_attn_implementation", None) or "")


def causal_collator(tokenizer: Any, model: Any) -> Callable[[Sequence[Mapping[str, Any]]], Batch]:
    """`collate_causal` as this tokenizer and this model's attention want it.

    Raises:
        ValueError: the tokenizer has no pad token, or more tokens than the model has embeddings.
    """
    if tokenizer.pad_token_id is None:
        raise ValueError(f"{type(tokenizer).__name__} has no pad token: set one, or choose tokenizer_name_or_path")
    if len(tokenizer) > (rows := model.get_input_embeddings().num_embeddings):
        raise ValueError(
            f"the tokenizer has {len(tokenizer):,} tokens, but the model embeddings for {rows:,} only: it is not this "
            "model's (tokenizer_name_or_path, model_name_or_path), or set model_config.vocab_size"
        )
    return partial(collate_causal, pad_token_id=tokenizer.pad_token_id, flat=wants_flat(model))


def check_causal(model: Any) -> None:
    """Tries whether a token changes the logits before it. Raises: ValueError, it does (BERT, unless told otherwise)."""
    rows = model.get_input_embeddings().num_embeddings
    ids = torch.randint(rows, (8,), generator=torch.Generator().manual_seed(0)).numpy()
    other = [*ids[:-1], (ids[-1] + 1) % rows]
    with _as_evaluated(model):
        first, second = (
            _logits(model, collate_causal([{"input_ids": i}], pad_token_id=0))[0, :-1] for i in (ids, other)
        )
    if not _farthest([first], [second]) < 1e-3:
        raise ValueError(
            f"{type(model).__name__} sees the tokens it is to predict, so it is no causal language model: choose "
            "another, or, where its configuration has it, set model_config.is_decoder true"
        )


def check_packing(model: Any) -> None:
    """Tries whether documents packed into a row get the logits they get alone; a few random tokens tell.

    No list of names: architectures fail in many ways (ALiBi and positions counted from the attention mask ignore
    `position_ids`; convolutions and recurrent states run on from document to document), and new ones come.

    Raises:
        ValueError: they do not, or the model takes no positions.
    """
    draw = torch.Generator().manual_seed(0)
    rows, lengths = model.get_input_embeddings().num_embeddings, (6, 9, 4, 7)
    first, others = ([{"input_ids": torch.randint(rows, (n,), generator=draw).numpy()} for n in lengths] for _ in "ab")
    refusal = f"{type(model).__name__} cannot be trained on packed documents exactly: turn packing off. "

    def packed(*documents: dict[str, Any]) -> list[torch.Tensor]:
        packs = [join(documents[:2]), join(documents[2:])]
        logits = _logits(model, collate_causal(packs, pad_token_id=0))
        return [logits[0, :6], logits[0, 6:15], logits[1, :4], logits[1, 4:11]]

    with _as_evaluated(model):
        try:
            found = packed(*first)
        except TypeError as error:
            raise ValueError(f"{refusal}It takes no position_ids ({error})") from error
        beside_others = packed(others[0], first[1], others[2], first[3])
        alone = [_logits(model, collate_causal([document], pad_token_id=0))[0] for document in first]
    leak = _farthest(beside_others[1::2], found[1::2])
    off = max(leak, _farthest(found, alone))
    # Half precision rounds by the shape of a batch, but two batches of one shape alike.
    if not (leak < 1e-3 and off < (1e-3 if model.dtype == torch.float32 else 0.1)):
        raise ValueError(
            f"{refusal}A document's logits change by up to {off:.2g} of their standard deviation when others stand "
            "before it in its row: the model does not keep documents apart by position_ids"
        )


def _farthest(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> float:
    return max(float((a - b).abs().max() / b.std()) for a, b in zip(found, expected, strict=True))


def chunk_loss(model: Any) -> bool:
    """Lets the model's output head sum the loss itself (`chunked=True` of the losses), if that gives the same.

    Not only for causal models. A head that is no plain linear layer (adapters, 4 bits) cannot; nor can models that
    change logits behind it (scaled, capped). A few random tokens tell, and what stands in the way is logged.

    Returns:
        whether it can; if not, the model is as it was.
    """
    head, kind = model.get_output_embeddings(), type(model).__name__
    if type(head) not in (nn.Linear, SummingHead) or type(head.weight) is not nn.Parameter:
        logger.warning("chunked_loss is off: the output head of %s is no plain linear layer", kind)
        return False
    draw = torch.Generator().manual_seed(0)
    rows = min(model.get_input_embeddings().num_embeddings, head.out_features)
    ids, labels = (torch.randint(rows, (2, 8), generator=draw).to(head.weight.device) for _ in "ab")
    batch = {"input_ids": ids} | ({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})
    labels[0, :3] = IGNORE
    plain, head.__class__ = head.__class__, SummingHead
    rounding = 1e-5 if head.weight.dtype == torch.float32 else 1e-2
    with _as_evaluated(model), suppress(ValueError):  # it gave no sum: something was added for each class
        found, expected = (float(f(model, batch, labels, 0.0)) for f in (sum_in_head, sum_over_logits))
        if abs(found - expected) <= rounding * abs(expected):
            return True
    head.__class__ = plain
    logger.warning("chunked_loss is off: %s changes what its output head gives, so the sum is another", kind)
    return False


def _logits(model: Any, batch: Batch) -> torch.Tensor:
    device = next(model.parameters()).device
    return forward(model, {name: value.to(device) for name, value in batch.items()}).logits.float()


@contextmanager
def _as_evaluated(model: Any) -> Iterator[None]:
    """Whole, without dropout and gradients, and then as it was; on sdpa, as flash kernels run on a GPU in half precision
    only."""
    kernel = model.config._attn_implementation if wants_flat(model) else None
    if kernel:
        model.set_attn_implementation("sdpa")
    try:
        with left_as_it_was(model), torch.no_grad():
            model.eval()
            yield
    finally:
        if kernel:
            model.set_attn_implementation(kernel)
