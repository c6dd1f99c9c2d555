"""Recordings of made-up words: each letter is a tone."""

import json
from pathlib import Path

import numpy as np
import soundfile

RATE = 8000
LETTERS = "abcde"


def wave(text: str, pitch: float, draw: np.random.Generator) -> np.ndarray:
    parts = [np.zeros(400)]
    for letter in text:
        time = np.arange(int(RATE * draw.uniform(0.08, 0.14))) / RATE
        formant = 300 + 500 * LETTERS.index(letter)
        parts.append(np.sin(2 * np.pi * pitch * time) * 0.2 + np.sin(2 * np.pi * formant * time) * 0.3)
    return np.concatenate([*parts, np.zeros(400)]) + draw.normal(0, 1e-3, sum(map(len, parts)) + 400)


def write(folder: Path, count: int = 40) -> dict[str, str]:
    """Files of rows of two speakers, as settings."""
    draw = np.random.default_rng(0)
    folder.mkdir()
    files = {}
    for split, number in {"train": count, "validation": 6, "test": 6}.items():
        rows = []
        for place in range(number):
            speaker = ("low", "high")[place % 2]
            text = "".join(draw.choice(list(LETTERS), draw.integers(2, 5)))
            name = f"{split}-{place}.wav"
            soundfile.write(folder / name, wave(text, {"low": 100.0, "high": 180.0}[speaker], draw), RATE)
            rows.append({"audio": name, "text": text, "speaker": speaker})
        path = folder / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files[f"{split}_file"] = str(path)
    return files
