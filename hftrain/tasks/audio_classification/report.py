"""The report and the model card of a classification of recordings."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hftrain.audio import read
from hftrain.audio.shown import player, spectrogram
from hftrain.audio.speech import hours
from hftrain.audio.windows import window_remarks
from hftrain.labels.report import Tested, count_labels, report_labels
from hftrain.report import Report, predict_usage
from hftrain.report.charts import histogram
from hftrain.report.described import describe_split, share
from hftrain.tasks.audio_classification.config import AudioClassificationConfig

if TYPE_CHECKING:
    from hftrain.data.examples import Examples
    from hftrain.data.rows import Rows

PLAYED = 16_000  # samples a second of the players
SHOWN = 10.0  # seconds of a recording in the report


def summarize(config: AudioClassificationConfig, tested: Tested, window: int | None) -> Report:
    """What the report shows: the scores of the test rows, and the data.

    Args:
        window: seconds that Whisper hears at once; None: any length.
    """
    rows = tested.rows
    seconds = np.array(rows["train"]["seconds"][:])
    report = report_labels(
        config,
        tested,
        task="audio-classification",
        what="a recording",
        usage=predict_usage(config, rows["test"][0]["audio"]),
        data={name: describe(split, tested.examples[name], tested.names, tested.ids) for name, split in rows.items()},
        show=show,
        more=[histogram("seconds", "Training recordings", seconds, x_label="seconds")],
    )
    return replace(report, remarks=[*report.remarks, *window_remarks(window)])


def describe(rows: "Rows", examples: "Examples", names: Sequence[str], ids: Mapping[str, int]) -> dict[str, Any]:
    """The table of a split: its rows, how many were left out or leaked, their seconds, the rows of each class."""
    seconds = np.array(rows["seconds"][:])
    details: dict[str, Any] = {
        "audio": hours(float(seconds.sum())),
        "longest, seconds": float(seconds.max()),
        "cut recordings": share(examples.counts["truncated"], len(rows)),
    }
    return describe_split(rows, details | count_labels(rows, names, ids), unit="recordings", inputs="contents")


def show(row: Mapping[str, Any]) -> dict[str, Any]:
    """A player and the spectrogram of the beginning."""
    begin = row["start"] or 0.0
    wave = read(row["audio"], PLAYED, begin, begin + min(row["seconds"], SHOWN))
    window = np.lib.stride_tricks.sliding_window_view(np.pad(wave, 256), 512)[::160] * np.hanning(512)
    levels = np.log10(np.abs(np.fft.rfft(window))[:, :256:2] + 1e-5)
    return {"recording": player(wave, PLAYED), "spectrogram": spectrogram(levels), "file": row["audio"]}
