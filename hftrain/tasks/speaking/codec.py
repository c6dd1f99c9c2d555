"""Models that speak in the codes of an audio codec: CSM in those of Mimi, Dia in those of DAC.

CSM reads a text and the frames of its recording as one sequence; its depth decoder predicts the other codes of a frame
from the first one. Dia reads the text in its encoder; its decoder has the codes of later codebooks some frames later
(`delay_pattern`). Recordings are encoded once.

Shapes: B examples, N tokens of a text, F frames of the codec, C codebooks, L positions, T samples.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MethodType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedConfig, ProcessorMixin

from hftrain.audio import read
from hftrain.losses import IGNORE, Batch, Loss
from hftrain.tasks.speaking.frames import Frames, stored
from hftrain.text.examples import attention_mask, pad

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

AUTO = {"csm": "AutoModelForTextToWaveform", "dia": "AutoModelForSpeechSeq2Seq"}  # kind of model -> its class
CLASSES = {"csm": "CsmForConditionalGeneration", "dia": "DiaForConditionalGeneration"}
TAGS = {"csm": ("[{}]", 0), "dia": ("[S{}] ", 1)}  # what names a speaker before a text, and the number of the first
CODEC = "codec_model"  # the part of CSM that is its codec


def is_coded(model_config: PreTrainedConfig) -> bool:
    """Whether a model speaks in codes."""
    return model_config.model_type in AUTO


def load_processor(kind: str, name: str) -> Any:
    """The tokenizer and the extractor of a model that speaks in codes; of Dia also its codec.

    Raises:
        ValueError: it cannot be loaded.
    """
    import transformers

    from hftrain.models.load import cannot_load

    processor: Any = {"csm": transformers.CsmProcessor, "dia": transformers.DiaProcessor}[kind]
    try:
        return processor.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(cannot_load("the processor of", name, error)) from error


def codec_of(model: nn.Module, processor: ProcessorMixin | None) -> Any:
    """The codec, without gradients: a part of CSM, beside Dia."""
    codec: Any = getattr(model, CODEC, None) or getattr(processor, "audio_tokenizer", None)
    return codec.eval().requires_grad_(False)


def hop(codec: Any) -> int:
    """Samples of a frame."""
    size = getattr(codec.config, "hop_length", None) or codec.config.frame_size
    return int(size)


def books(model_config: PreTrainedConfig) -> int:
    """C."""
    number = (
        model_config.num_codebooks if model_config.model_type == "csm" else model_config.decoder_config.num_channels
    )
    return int(number)


def too_long(model_config: PreTrainedConfig, rate: float, ids: np.ndarray, seconds: float) -> str:
    """A reason if the model has fewer positions than a text and its frames, `rate` in a second, need; "" if not."""
    frames = math.ceil(seconds * rate)
    if model_config.model_type == "csm":
        needs = {"positions": (len(ids) + frames + 1, model_config.max_position_embeddings)}
    else:
        late = frames + 1 + max(model_config.delay_pattern)
        needs = {
            "tokens": (len(ids), model_config.encoder_config.max_position_embeddings),
            "frames": (late, model_config.decoder_config.max_position_embeddings),
        }
    return next((f"{need} {what}, but the model has {most}" for what, (need, most) in needs.items() if need > most), "")


def identity(codec: nn.Module) -> str:
    """Differs for codecs of other weights."""
    digest = hashlib.sha256(type(codec).__name__.encode())
    for name, value in codec.state_dict().items():
        digest.update(name.encode() + value.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def encoded(rows: Rows, codec: Any, number: int, rate: int) -> Frames:
    """(F, C) codes of each recording, of `number` codebooks; they are made on the accelerator if there is one."""
    first, size = next(codec.parameters()), hop(codec)
    home, dtype = first.device, first.dtype  # of the weights before they are moved
    device = torch.accelerator.current_accelerator() or torch.device("cpu")

    @torch.no_grad()
    def encode(row: Mapping[str, Any]) -> np.ndarray:
        wave = read(row["audio"], rate, row["start"], row["end"])
        whole = np.pad(wave, (0, -len(wave) % size))
        if home.type == "meta":  # `hftrain plan`, where only the lengths count
            return np.zeros((len(whole) // size, number), np.int16)
        codes = codec.encode(torch.from_numpy(whole).to(device, dtype)[None, None]).audio_codes
        if codes.shape[1] < number:
            raise ValueError(f"the codec has {codes.shape[1]} codebooks, but the model needs {number}")
        values: np.ndarray = codes[0, :number].T.cpu().numpy().astype(np.int16)
        return values

    if home.type == "meta":
        return Frames(stored("codes", f"{number} of {rate} by lengths of {size}", rows, encode))
    codec.to(device)
    folder = stored("codes", f"{number} of {rate} by {identity(codec)}", rows, encode)
    codec.to(home)
    return Frames(folder)


class Coded(Sequence[dict[str, Any]]):
    """The examples of a split: "input_ids" (N,), "codes" (F, C)."""

    def __init__(self, codes: Frames, tokens: Sequence[np.ndarray]):
        self.codes, self.tokens = codes, tokens

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]
        return {"input_ids": self.tokens[index], "codes": self.codes[index].astype(np.int64)}


def coded_collator(model_config: PreTrainedConfig) -> Callable[[Sequence[Mapping[str, Any]]], Batch]:
    if model_config.model_type == "csm":
        audio, end = model_config.audio_token_id, model_config.audio_eos_token_id
        return partial(collate_csm, audio=audio, end=end, end_code=model_config.codebook_eos_token_id)
    decoder = model_config.decoder_config
    ids = {"begin": decoder.bos_token_id, "end": decoder.eos_token_id, "padding": decoder.pad_token_id}
    return partial(collate_dia, delays=list(model_config.delay_pattern), **ids)


def collate_csm(examples: Sequence[Mapping[str, Any]], *, audio: int, end: int, end_code: int) -> Batch:
    """One sequence of a text, its frames and the end: input_ids and attention_mask (B, L), the codes as input_values
    (B, L, C), zeros at the text; labels (B, L, C) not shifted, -100 at the text."""
    ids, codes, labels = [], [], []
    for example in examples:
        text, frames = example["input_ids"], torch.from_numpy(example["codes"])
        frames = torch.cat([frames, torch.full_like(frames[:1], end_code)])
        ids.append(np.concatenate([text, np.full(len(frames) - 1, audio), [end]]))
        codes.append(torch.cat([frames.new_zeros(len(text), frames.shape[1]), frames]))
        labels.append(torch.cat([frames.new_full((len(text), frames.shape[1]), IGNORE), frames]))
    return {
        "input_ids": pad(ids, audio),
        "attention_mask": attention_mask(ids),
        "input_values": pad_sequence(codes, batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORE),
    }


def collate_dia(
    examples: Sequence[Mapping[str, Any]], *, delays: Sequence[int], begin: int, end: int, padding: int
) -> Batch:
    """input_ids and attention_mask (B, N) of the texts; decoder_input_ids (B, L, C), decoder_attention_mask (B, L) and
    labels (B, L, C), each codebook by its delay later, as transformers' DiaProcessor makes them."""
    texts = [example["input_ids"] for example in examples]
    inputs, labels = [], []
    for example in examples:
        frames = torch.from_numpy(example["codes"])
        length = len(frames) + 2 + max(delays)
        late = torch.full((length, len(delays)), padding)
        for book, delay in enumerate(delays):
            late[: delay + 1, book] = begin
            late[delay + 1 : delay + 1 + len(frames), book] = frames[:, book]
            late[delay + 1 + len(frames), book] = end
        inputs.append(late[:-1])
        labels.append(late[1:].masked_fill((late[1:] == padding) | (late[1:] == begin), IGNORE))
    return {
        "input_ids": pad(texts, 0),
        "attention_mask": attention_mask(texts),
        "decoder_input_ids": pad_sequence(inputs, batch_first=True, padding_value=padding),
        "decoder_attention_mask": attention_mask([one[:, 0] for one in inputs]),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORE),
    }


def read_codes(model: Any) -> None:
    """CSM takes codes in place of waves (`input_values`), which it would encode anew at each step."""

    def merge(
        inner: Any,
        input_ids: torch.Tensor,
        input_values: torch.Tensor | None = None,
        input_values_cutoffs: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor | None]:
        embedded = inner.embed_text_tokens(input_ids)
        if input_values is not None:
            spoken = (input_ids == inner.config.audio_token_id) | (input_ids == inner.config.audio_eos_token_id)
            embedded = torch.where(spoken[..., None], inner.backbone_model.embed_tokens(input_values), embedded)
        return {"inputs_embeds": embedded, "labels": labels}

    model._merge_input_ids_with_input_values = MethodType(merge, model)


class CodeLoss:
    """The model's own loss, for each frame: the cross-entropy of its codes, of CSM that of the first code plus the mean
    of the others, of Dia the mean of all. transformers divides each part by what the micro-batch holds."""

    def __init__(self, model_config: PreTrainedConfig):
        self.coded, self.books = model_config.model_type, books(model_config)

    def before_step(self, accelerator: Accelerator) -> None:
        """Frames are all that a step has to count."""

    def loss(self) -> Loss:
        return Loss(self.summed, count_coded)

    def summed(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        inputs = {**batch, "use_cache": False, "num_items_in_batch": 1}
        if self.coded == "csm":
            output = model(**inputs)
            total: torch.Tensor = output.backbone_loss + output.depth_decoder_loss / (self.books - 1)
            return total
        labels = batch["labels"].transpose(1, 2).flatten(0, 1).contiguous()  # as the logits of Dia, (B C, L)
        mean: torch.Tensor = model(**inputs | {"labels": labels}).loss / self.books
        return mean


def count_coded(batch: Batch) -> int:
    """Frames with a label, and an end for each example."""
    return int((batch["labels"][..., 0] != IGNORE).sum())


def text_of(model_config: PreTrainedConfig, batch: Batch) -> torch.Tensor:
    """(N,) of a batch of one example."""
    ids = batch["input_ids"][0]
    if model_config.model_type == "csm":
        return ids[(ids != model_config.audio_token_id) & (ids != model_config.audio_eos_token_id)]
    return ids


@torch.no_grad()
def speak_codes(model: Any, ids: torch.Tensor, most_frames: int) -> tuple[torch.Tensor, bool]:
    """(F, C) codes of one text (N,), and whether they came to their end before `most_frames`. The draws of a model that
    samples have a fixed seed: an utterance does not depend on others."""
    inputs = {"input_ids": ids[None], "attention_mask": torch.ones_like(ids)[None]}
    with torch.random.fork_rng([ids.device] if ids.device.type == "cuda" else []):
        torch.manual_seed(0)
        if model.config.model_type == "csm":
            codes = model.generate(**inputs, max_new_tokens=most_frames)[0]
            ends = (codes[:, :-1] == model.config.codebook_eos_token_id).all(dim=1)
            frames = int(ends.float().argmax()) if bool(ends.any()) else len(codes)
            return codes[:frames], bool(ends.any())
        delays = torch.tensor(model.config.delay_pattern, device=ids.device)
        decoder, last = model.config.decoder_config, int(delays.max())
        steps = torch.arange(last + 1, device=ids.device)[:, None]
        begin = torch.where(steps <= delays, decoder.bos_token_id, decoder.pad_token_id)[None]
        inputs |= {"decoder_input_ids": begin, "decoder_attention_mask": torch.ones_like(begin[..., 0])}
        late = model.generate(**inputs, max_new_tokens=most_frames + 1 + last)[0]
    frames = int((late[:, 0] == decoder.eos_token_id).float().argmax()) - 1
    codes = torch.stack([late[1 + delay : 1 + delay + frames, book] for book, delay in enumerate(delays)], dim=1)
    return codes, frames < most_frames


@torch.no_grad()
def decode(codec: Any, codes: torch.Tensor) -> np.ndarray:
    """(F, C) -> (T,) float32; silence of a frame where there are no codes."""
    if not len(codes):
        return np.zeros(hop(codec), np.float32)
    home = next(codec.parameters()).device
    known = codes.T[None].clamp(0, codec.config.codebook_size - 1).to(home)
    wave: np.ndarray = codec.decode(audio_codes=known).audio_values.flatten().float().cpu().numpy()
    return wave
