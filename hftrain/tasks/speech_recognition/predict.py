"""Recordings of any length to texts, with times if they are wanted.

Shapes: T samples, F frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hftrain.models.saved import Saved, load_weights, recall
from hftrain.tasks.speech_recognition.beams import Search, read_arpa

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hftrain.tasks.speech_recognition.model import Listener

CHUNK, OVERLAP = 30, 4  # seconds of a part that a CTC model hears at once, and that two neighbours share
BEGINNINGS = ("▁", "Ġ")  # of the first token of a word, where no token is a space
PAUSE = 0.6  # seconds between two words that begin a new segment
BEAMS = 20


def listen(
    saved: Saved,
    recordings: Sequence[Any],
    batch_size: int,
    *,
    times: bool = False,
    num_beams: int | None = None,
    language_model: str | Path | None = None,
    language_model_weight: float | None = None,
) -> list[Any]:
    """The text of each recording, or with `times` {"text", "segments": [{"start", "end", "text"}]} in seconds.

    What fits into one window goes through the same pass as the scores of training, in batches; longer recordings are
    heard in parts: by CTC in overlapping chunks of 30 s, of which the middle counts, by Whisper from segment to
    segment.
    Times of CTC are those of words, joined to segments at pauses; of Whisper, those that it writes itself.

    Args:
        num_beams: of a search; None: CTC takes the likeliest token of each frame, Whisper the value of its folder.
        language_model: an ARPA file of n-grams of words, for the search of CTC (20 beams, if `num_beams` is None).
        language_model_weight: of its log probability beside that of the sound; None: 0.5.

    Raises:
        ValueError: a language model for Whisper, or a file without n-grams; a recording that cannot be read, or is on
            the network; a folder without feature extractor or tokenizer.
    """
    from hftrain.audio import read
    from hftrain.audio.sources import located
    from hftrain.audio.windows import hear_less
    from hftrain.data.examples import Examples
    from hftrain.tasks.speech_recognition.config import FRAMES
    from hftrain.tasks.speech_recognition.examples import collator
    from hftrain.tasks.speech_recognition.model import saved_listener, write_in
    from hftrain.tasks.speech_recognition.scoring import transcribe
    from hftrain.train.evaluation import OneProcess

    listener = saved_listener(saved)
    search = None
    if language_model is not None or (num_beams is not None and not listener.seq2seq):
        if listener.seq2seq:
            raise ValueError("a language model is for CTC, but this model writes by itself: leave out --language_model")
        model_of_words = None if language_model is None else read_arpa(Path(language_model))
        weight = Search.weight if language_model_weight is None else language_model_weight
        search = Search(num_beams or BEAMS, model_of_words, weight)
    known = located(recordings)
    model, device = load_weights(saved, "AutoModelForSpeechSeq2Seq" if listener.seq2seq else "AutoModelForCTC")
    if listener.seq2seq and num_beams is not None:
        model.generation_config.num_beams = num_beams
    if listener.seq2seq:  # what the folder of an adapter lacks
        if listener.features.fixed:
            hear_less(model, listener.features.window or CHUNK)
        settings = recall(saved.config, "transcription") or {}
        if "language" in settings:
            write_in(model, settings["language"], settings["task"])
    most = listener.features.window or CHUNK
    answers: dict[int, Any] = {}
    short = [number for number, (_, facts) in enumerate(known) if facts.seconds <= most and not times]
    if short:
        items = [{"audio": known[n][0], "start": None, "end": None, "labels": [0]} for n in short]
        examples = Examples(items, [max(1, round(known[n][1].seconds * FRAMES)) for n in short])
        collate = collator(listener)
        heard = transcribe(OneProcess(device), model, listener, examples, batch_size, collate=collate, search=search)
        answers |= zip(short, heard.texts, strict=True)
    for number, (path, _) in enumerate(known):
        if number not in answers:
            wave = read(path, listener.features.rate)
            whole = _long_whisper if listener.seq2seq else partial(_long_ctc, search=search)
            segments = whole(model, device, listener, wave)
            text = " ".join(segment["text"] for segment in segments)
            answers[number] = {"text": text, "segments": segments} if times else text
    return [answers[number] for number in range(len(known))]


def _long_ctc(
    model: PreTrainedModel, device: str, listener: Listener, wave: np.ndarray, *, search: Search | None = None
) -> list[dict[str, Any]]:
    """The segments of a wave, of words that follow each other without a pause. A search reads one segment at a time."""
    tokenizer, blank = listener.tokenizer, model.config.pad_token_id
    frames: list[tuple[float, float, int]] = []
    rows: list[np.ndarray] = []
    for start, end, row in _frames(model, device, listener, wave):
        frames.append((start, end, int(row.argmax())))
        rows += [] if search is None else [row]
    words: list[dict[str, Any]] = []
    letters: list[int] = []
    span: list[float] = []
    space = tokenizer.convert_tokens_to_ids(getattr(tokenizer, "word_delimiter_token", None) or "|")
    for token, group in groupby([*frames, (0.0, 0.0, space)], key=lambda frame: frame[2]):
        times = list(group)
        begins = token == space or str(tokenizer.convert_ids_to_tokens(token)).startswith(BEGINNINGS)
        if begins and letters:
            words.append({"start": round(span[0], 2), "end": round(span[-1], 2), "text": listener.text_of(letters)})
            letters, span = [], []
        if token not in (blank, space):
            letters += [token, blank]  # so that a letter that is written twice stays two
            span += [times[0][0], times[-1][1]]
    segments: list[dict[str, Any]] = []
    for word in words:
        if segments and word["start"] - segments[-1]["end"] < PAUSE:
            segments[-1] |= {"end": word["end"], "text": f"{segments[-1]['text']} {word['text']}"}
        else:
            segments.append(word)
    if search is None or not segments:
        return segments
    ends = [(a["end"] + b["start"]) / 2 for a, b in pairwise(segments)]
    parts = np.split(np.array(rows), np.searchsorted([start for start, *_ in frames], ends))
    for segment, part in zip(segments, parts, strict=True):
        segment["text"] = search.text(part, blank, listener.text_of)
    return [segment for segment in segments if segment["text"]]


def _frames(
    model: PreTrainedModel, device: str, listener: Listener, wave: np.ndarray
) -> Iterator[tuple[float, float, np.ndarray]]:
    """(start, end, (V,) log probabilities) of each frame of the wave: of two chunks that overlap, each gives a half."""
    import torch

    from hftrain.tasks.speech_recognition.losses import frames_of, logits_of

    rate, count = listener.features.rate, frames_of(model)
    step = (CHUNK - OVERLAP) * rate
    starts = range(0, max(1, len(wave) - OVERLAP * rate), step)
    for start in starts:
        part = wave[start : start + CHUNK * rate]
        batch = {name: value.to(device) for name, value in listener.features([part]).items()}
        with torch.inference_mode():
            scores = logits_of(model, batch)[0, : int(count(batch["lengths"])[0])].log_softmax(-1).float().cpu().numpy()
        seconds = len(part) / rate / len(scores)
        first = 0.0 if start == 0 else OVERLAP / 2
        last = float("inf") if start + step >= starts.stop else CHUNK - OVERLAP / 2
        for place, row in enumerate(scores):
            if first <= place * seconds < last:
                begin = start / rate + place * seconds
                yield begin, begin + seconds, row


def _long_whisper(model: Any, device: str, listener: Listener, wave: np.ndarray) -> list[dict[str, Any]]:
    """The segments that Whisper writes, one window after another (Radford et al. 2022, section 3.8)."""
    features, tokenizer = listener.features, listener.tokenizer
    if getattr(model.generation_config, "no_timestamps_token_id", None) is None:
        raise ValueError(
            f"the model has no tokens for times: recordings of at most {features.window} s, without --times"
        )
    long = len(wave) > (features.window or CHUNK) * features.rate
    padding = "longest" if long else "max_length"
    how: dict[str, Any] = {"padding": padding, "truncation": False, "return_attention_mask": True}
    made = features.extractor(wave, sampling_rate=features.rate, return_tensors="pt", **how)
    written = model.generate(
        made.input_features.to(device),
        attention_mask=made.attention_mask.to(device),
        return_timestamps=True,
        return_segments=True,
    )
    return [
        {
            "start": round(float(segment["start"]), 2),
            "end": round(float(segment["end"]), 2),
            "text": tokenizer.decode(segment["tokens"], skip_special_tokens=True).strip(),
        }
        for segment in written["segments"][0]
    ]


def subtitles(answer: dict[str, Any], form: str) -> str:
    """The segments as SubRip (srt) or WebVTT (vtt)."""
    point = "," if form == "srt" else "."
    blocks = ["WEBVTT\n"] if form == "vtt" else []
    for number, segment in enumerate(answer["segments"], 1):
        times = f"{_clock(segment['start'], point)} --> {_clock(segment['end'], point)}"
        blocks.append((f"{number}\n" if form == "srt" else "") + f"{times}\n{segment['text']}\n")
    return "\n".join(blocks)


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"
