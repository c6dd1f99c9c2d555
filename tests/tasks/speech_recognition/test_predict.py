"""Long recordings in chunks, and times: the same text as at once, each word where it is spoken."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hftrain.tasks.speech_recognition import Listener, predict
from hftrain.tasks.speech_recognition.predict import subtitles

pytestmark = pytest.mark.unit

RATE, HOP = 100, 10  # samples, and those of a frame
TOKENS = {0: "", 1: " ", 2: "a", 3: "b"}


class Tokens:
    word_delimiter_token = "|"
    pad_token_id = 0

    def convert_tokens_to_ids(self, token: str) -> int:
        return 1

    def convert_ids_to_tokens(self, token: int) -> str:
        return TOKENS[token]

    def _decode(self, ids: list[int]) -> str:
        return "".join(TOKENS[number] for number in ids)

    decode = _decode


class Ears(torch.nn.Module):
    """Hears in each frame the token that its samples are."""

    config = SimpleNamespace(pad_token_id=0, is_encoder_decoder=False)

    def _get_feat_extract_output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        return lengths // HOP

    def forward(self, input_values: torch.Tensor) -> SimpleNamespace:
        frames = input_values[:, ::HOP].long()
        return SimpleNamespace(logits=torch.nn.functional.one_hot(frames, 4).float())


def features(waves: list[np.ndarray]) -> dict[str, torch.Tensor]:
    return {"input_values": torch.tensor(np.stack(waves)), "lengths": torch.tensor([len(wave) for wave in waves])}


features.rate = RATE


def test_chunks_give_the_words_of_the_whole_with_their_times(monkeypatch):
    rng = np.random.default_rng(0)
    frames = np.zeros(1000, int)  # 100 s
    words = []
    for start in range(5, 980, 15):
        letters = rng.integers(2, 4, 3)
        frames[start : start + 6] = np.repeat(letters, 2)
        frames[start + 6] = 1
        words.append((start * HOP / RATE, letters))
    listener = Listener(features, Tokens(), None, "unchanged")
    segments = predict._long_ctc(Ears(), "cpu", listener, frames.repeat(HOP).astype(np.float32))
    heard = [word for segment in segments for word in segment["text"].split()]
    # a letter that follows itself without a blank is one
    wanted = ["".join(TOKENS[n] for i, n in enumerate(ids) if i == 0 or n != ids[i - 1]) for _, ids in words]
    assert heard == wanted
    assert segments[0]["start"] == words[0][0]
    monkeypatch.setattr(predict, "PAUSE", 0.1)
    parts = predict._long_ctc(Ears(), "cpu", listener, frames.repeat(HOP).astype(np.float32))
    assert [part["start"] for part in parts] == [round(start, 2) for start, _ in words]


def test_subtitles_have_the_forms_that_players_read():
    answer = {"segments": [{"start": 0.0, "end": 1.5, "text": "one"}, {"start": 3661.25, "end": 3662.0, "text": "two"}]}
    assert subtitles(answer, "srt") == (
        "1\n00:00:00,000 --> 00:00:01,500\none\n\n2\n01:01:01,250 --> 01:01:02,000\ntwo\n"
    )
    assert subtitles(answer, "vtt").startswith("WEBVTT\n\n00:00:00.000 --> 00:00:01.500\none\n")
