"""One pass over examples: loss and transcripts, and their errors. Shapes: B utterances, T frames, V tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from hftrain.data.examples import Examples
from hftrain.losses import IGNORE, Batch, cross_entropy
from hftrain.metrics import speech
from hftrain.tasks.speech_recognition.beams import Search
from hftrain.tasks.speech_recognition.losses import ctc, frames_of, logits_of
from hftrain.tasks.speech_recognition.model import Listener
from hftrain.train.evaluation import OneProcess, predict


@dataclass(frozen=True)
class Heard:
    """The mean loss of some examples (by utterance for CTC, else by label), and the transcript of each. In the
    examples' order, on every process."""

    loss: float
    texts: list[str]


def transcribe(
    accelerator: Accelerator | OneProcess,
    model: nn.Module,
    listener: Listener,
    examples: Examples,
    batch_size: int,
    *,
    collate: Callable[[list[Any]], Batch],
    search: Search | None = None,
) -> Heard:
    """One pass; greedy, the most likely token at each step, or for CTC by `search`. The result does not depend on
    `batch_size`."""
    inner: Any = accelerator.unwrap_model(model)
    batch_size = listener.features.together(inner.config, batch_size)
    outputs = _of_decoder(inner, listener) if listener.seq2seq else _of_ctc(inner, listener, search)
    rows = predict(accelerator, examples, batch_size, collate=collate, generate=outputs)
    losses, counts = np.array([row[:2] for row in rows], np.float64).sum(axis=0)
    return Heard(float(losses / counts), [row[2] for row in rows])


def _of_ctc(model: Any, listener: Listener, search: Search | None) -> Callable[[Batch], list[Any]]:
    frames, blank = frames_of(model), model.config.pad_token_id

    def outputs(batch: Batch) -> list[Any]:
        logits, lengths = logits_of(model, batch), frames(batch["lengths"])
        losses = ctc(logits, batch["labels"], lengths, blank).tolist()
        if search is None:
            texts = written(listener, logits.argmax(-1), lengths)
        else:
            rows = zip(logits.log_softmax(-1).float().cpu().numpy(), lengths.tolist(), strict=True)
            texts = [search.text(row[:length], blank, listener.text_of) for row, length in rows]
        return [(loss, 1, text) for loss, text in zip(losses, texts, strict=True)]

    return outputs


def written(listener: Listener, best: torch.Tensor, lengths: torch.Tensor) -> list[str]:
    """The texts of the most likely token of each frame, (B, T): repeats and blanks are left out."""
    rows = [row[:length].tolist() for row, length in zip(best.cpu(), lengths.tolist(), strict=True)]
    return [listener.text_of(row) for row in rows]


def _of_decoder(model: Any, listener: Listener) -> Callable[[Batch], list[Any]]:
    def outputs(batch: Batch) -> list[Any]:
        labels = batch["labels"]
        inputs = {name: value for name, value in batch.items() if name not in ("labels", "decoder_input_ids")}
        encoded = {"encoder_outputs": model.get_encoder()(**inputs)}  # once, for the loss and for the text
        if "attention_mask" in inputs:
            encoded["attention_mask"] = inputs["attention_mask"]
        logits = model(**encoded, decoder_input_ids=batch["decoder_input_ids"]).logits
        losses = [float(cross_entropy(row, one)) for row, one in zip(logits, labels, strict=True)]
        texts = listener.tokenizer.batch_decode(model.generate(**encoded), skip_special_tokens=True)
        counts = (labels != IGNORE).sum(-1).tolist()
        return [(loss, count, text.strip()) for loss, count, text in zip(losses, counts, texts, strict=True)]

    return outputs


def measure(heard: Heard, references: Sequence[str], normalizer: str) -> dict[str, Any]:
    """The loss, word and character error rates, the share of texts that are exactly right, the normaliser's name."""
    return {"loss": heard.loss, **speech.error_rates(heard.texts, references, normalizer)}
