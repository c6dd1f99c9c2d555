"""Recordings with their texts, of which none is too long."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from hftrain.audio import load_speech
from hftrain.audio.digits import voice
from hftrain.data.rows import Rows, listed
from hftrain.tasks.speaking.config import SpeakConfig

if TYPE_CHECKING:
    from hftrain.tasks.speaking.voice import Voice

logger = logging.getLogger(__name__)


def load_recordings(config: SpeakConfig, seed: int) -> dict[str, Rows]:
    """As `load_speech`, of the built-in digits those of one voice. Raises: ValueError, also for recordings of more than
    `max_seconds`."""
    rows = load_speech(config, seed, voice)
    return {split: short_enough(part, config) for split, part in rows.items()}


def short_enough(rows: Rows, config: SpeakConfig) -> Rows:
    reason = "{:.1f} s, but max_seconds is {:g}: raise it, or cut the recording"
    long = {
        number: reason.format(seconds, config.max_seconds)
        for number, seconds in enumerate(rows["seconds"])
        if seconds > config.max_seconds
    }
    return leave_out(rows, long, config.max_bad_rows)


def crowded(voice: "Voice", ids: np.ndarray, seconds: float) -> str:
    """A reason if a text has more tokens than its spectrogram has frames, "" if not."""
    frames = voice.frames(seconds)
    return f"{len(ids)} characters in {frames} frames ({seconds:.2f} s)" if len(ids) > frames else ""


def speakable(
    rows: Rows, voice: "Voice", config: SpeakConfig, fault: Callable[[np.ndarray, float], str]
) -> tuple[Rows, list[np.ndarray]]:
    """The rows and the tokens of their texts.

    Args:
        fault: (tokens of a text, seconds of its recording) -> the reason why a model does not learn the row, or "".

    Raises:
        ValueError: texts with characters that the model does not know, and rows with a `fault`.
    """
    wrong, tokens = {}, []
    for number, row in enumerate(rows):
        ids = voice.tokens(row["text"], row["speaker"])
        tokens.append(ids)
        if unknown := voice.unknown(row["text"]):
            wrong[number] = (
                f"the model does not know the character {unknown!r} of {row['text']!r:.60}: write it as words"
            )
        elif reason := fault(ids, row["seconds"]):
            wrong[number] = f"{reason}: {row['text']!r:.60}"
    kept = leave_out(rows, wrong, config.max_bad_rows)
    return kept, [ids for number, ids in enumerate(tokens) if number not in wrong]


def leave_out(rows: Rows, wrong: Mapping[int, str], most: int) -> Rows:
    """The rows without those in `wrong` (row -> reason), which are logged.

    Raises:
        ValueError: these and the rows left out at reading are more than `most`, or no row is left.
    """
    if not wrong:
        return rows
    assert rows.places is not None
    bad = [rows.places.bad(row, reason) for row, reason in wrong.items()]
    if len(bad) + len(rows.bad) > most or len(bad) == len(rows):
        raise ValueError(
            f"{len(bad)} of {len(rows)} {rows.split} rows cannot be used, max_bad_rows is {most}:\n{listed(bad[:10])}\n"
            "Correct them; max_bad_rows is the number of rows that may be left out."
        )
    logger.warning("%d %s rows are left out:\n%s", len(bad), rows.split, listed(bad[:10]))
    kept = rows.select([row for row in range(len(rows)) if row not in wrong])
    return replace(kept, bad=[*rows.bad, *bad], leaks=rows.leaks)


def speakers_of(rows: Mapping[str, Rows]) -> list[str]:
    """The names of the speakers of the training rows, sorted. Raises: ValueError, another split has another speaker."""
    names: Sequence[str] = sorted(set(rows["train"]["speaker"]))
    for split, part in rows.items():
        if strange := sorted(set(part["speaker"]) - {*names}):
            raise ValueError(
                f"{split}: the speaker {strange[0]!r} has no training row, so the model cannot learn this voice: give "
                "each speaker training rows, or leave speaker_column open to learn one voice of all"
            )
    return [*names]
