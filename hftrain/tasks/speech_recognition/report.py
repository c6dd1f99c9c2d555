"""What the report of a recogniser shows: errors by length and speaker, the worst utterances with a player."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hftrain.audio import read
from hftrain.audio.shown import player
from hftrain.audio.speech import hours
from hftrain.audio.windows import window_remarks
from hftrain.data.several import scores_by_source
from hftrain.data.splits import sizes
from hftrain.metrics.intervals import bootstrap, wilson
from hftrain.metrics.speech import align, normalised, rate
from hftrain.report import Report, Table, predict_usage
from hftrain.report.charts import histogram
from hftrain.report.described import describe_split, evenly, share
from hftrain.report.scores import no_better
from hftrain.tasks.speech_recognition.config import TranscribeConfig
from hftrain.tasks.speech_recognition.scoring import Heard, measure

if TYPE_CHECKING:
    import jiwer

    from hftrain.data.examples import Examples
    from hftrain.data.rows import Rows

WORST, SAMPLES, PAIRS, SPEAKERS = 20, 12, 30, 50  # rows of tables
PLAYED = 16_000  # samples a second of the players
PARTS = 4  # groups of recordings by length
CONSENT = (
    "The voices of the training data belong to people: check the licence of the recordings and that their speakers "
    "agreed to this use"
)


def summarize(
    config: TranscribeConfig,
    rows: Mapping[str, Rows],
    examples: Mapping[str, Examples],
    heard: Heard,
    window: int | None,
) -> Report:
    """What the report shows: the scores of the transcripts of the test rows, and the data.

    Args:
        window: seconds that Whisper hears at once; None: any length.
    """
    test = rows["test"]
    truth, texts = (normalised(one, config.normalizer) for one in (test["text"], heard.texts))
    aligned = [align([text], [reference]) for text, reference in zip(texts, truth, strict=True)]
    spelt = [align([text], [reference], characters=True) for text, reference in zip(texts, truth, strict=True)]
    errors, wrong = (
        np.array([one.substitutions + one.deletions + one.insertions for one in pairs]) for pairs in (aligned, spelt)
    )
    words, letters = (
        np.array([max(1, count) for count in counts]) for counts in (map(len, map(str.split, truth)), map(len, truth))
    )
    scores = measure(heard, test["text"], config.normalizer)
    exact = sum(text == reference for text, reference in zip(texts, truth, strict=True))

    def rates(chosen: np.ndarray) -> dict[str, float]:
        pairs = {"test_wer": (errors, words), "test_cer": (wrong, letters)}
        return {name: float(wrong[chosen].sum() / of[chosen].sum()) for name, (wrong, of) in pairs.items()}

    intervals = bootstrap(rates, len(errors)) | {"test_exact_match": wilson(exact, len(truth))}
    baseline = {"test_wer": 1.0, "test_cer": 1.0}  # of no words at all
    results = {"test_wer": scores["wer"]}
    remarks = no_better("test_wer", results, baseline, intervals, guess="a transcript without words")
    remarks += [CONSENT, *window_remarks(window)]
    tables = [
        Table("Errors by length", by_length(np.array(test["seconds"][:]), errors, words)),
        Table("Errors by speaker", by_speaker(test["speaker"][:], errors, words)),
        Table("By source", scores_by_source(test, exact=errors == 0)),
        Table("Words that are mistaken", mistaken(aligned, texts, truth), note="Words of the normalised texts."),
        Table("Worst utterances", worst(test, aligned, texts, truth, errors / words), visible=10),
    ]
    return Report(
        title=f"Speech recognition of {config.trained_on}",
        task="automatic-speech-recognition",
        metric="wer",
        scores=scores,
        usage=predict_usage(config, test[0]["audio"]),
        lead=f"Writes what is spoken in a recording. Rows: {sizes(rows)}. Errors are counted after the normaliser "
        f"{config.normalizer}.",
        data={name: describe(split, examples[name]) for name, split in rows.items()},
        samples=[sample(test[number], heard.texts[number]) for number in evenly(len(test), SAMPLES)],
        figures=[
            histogram(
                "seconds", "Training recordings", np.array(rows["train"]["seconds"][:]), x_label="seconds", whole=False
            )
        ],
        tables=[table for table in tables if table.rows],
        baseline=baseline,
        intervals=intervals,
        remarks=remarks,
    )


def sample(row: Mapping[str, Any], text: str) -> dict[str, Any]:
    return {"recording": listen(row), "hypothesis": text, "reference": row["text"]}


def listen(row: Mapping[str, Any]) -> Any:
    return player(read(row["audio"], PLAYED, row["start"], row["end"]), PLAYED)


def describe(rows: Rows, examples: Examples) -> dict[str, Any]:
    seconds = np.array(rows["seconds"][:])
    details: dict[str, Any] = {
        "audio": hours(float(seconds.sum())),
        "longest, seconds": float(seconds.max()),
        "samples per second": ", ".join(map(str, sorted({*rows["rate"]}))),
        "cut recordings": share(examples.counts["truncated"], len(rows)),
    }
    if speakers := {*rows["speaker"]} - {""}:
        details["speakers"] = len(speakers)
    return describe_split(rows, details, unit="recordings", inputs="contents")


def by_length(seconds: np.ndarray, errors: np.ndarray, words: np.ndarray) -> list[dict[str, Any]]:
    """Word error rates of the shortest, ... and longest recordings."""
    parts = np.array_split(np.argsort(seconds, kind="stable"), min(PARTS, len(seconds)))
    return [
        {
            "seconds": f"{seconds[part].min():.2f} to {seconds[part].max():.2f}",
            "recordings": len(part),
            "wer": float(errors[part].sum() / words[part].sum()),
        }
        for part in parts
    ]


def by_speaker(speakers: Sequence[str], errors: np.ndarray, words: np.ndarray) -> list[dict[str, Any]]:
    """Word error rates of speakers, the worst first; [] if they are not known."""
    names = np.array(speakers)
    if not any(names):
        return []
    rows: list[dict[str, Any]] = [
        {
            "speaker": name,
            "recordings": int((names == name).sum()),
            "wer": float(errors[names == name].sum() / words[names == name].sum()),
        }
        for name in sorted({*speakers})
    ]
    return sorted(rows, key=lambda row: -row["wer"])[:SPEAKERS]


def mistaken(aligned: Sequence[Any], texts: Sequence[str], truth: Sequence[str]) -> list[dict[str, Any]]:
    """The most frequent substitutions, deletions and insertions."""
    counts: Counter[tuple[str, str]] = Counter()
    for one, text, reference in zip(aligned, texts, truth, strict=True):
        counts.update((spoken, heard) for kind, spoken, heard in pairs(one, text, reference) if kind != "equal")
    return [
        {"reference": spoken or "(nothing)", "heard": heard or "(nothing)", "times": times}
        for (spoken, heard), times in counts.most_common(PAIRS)
    ]


def pairs(aligned: jiwer.WordOutput, text: str, reference: str) -> list[tuple[str, str, str]]:
    """(kind, word of the reference, word of the text), "" where one is missing."""
    heard, spoken = text.split(), reference.split()
    parts = []
    for chunk in aligned.alignments[0]:
        ours = heard[chunk.hyp_start_idx : chunk.hyp_end_idx]
        theirs = spoken[chunk.ref_start_idx : chunk.ref_end_idx]
        longest = max(len(ours), len(theirs))
        ours, theirs = ours + [""] * (longest - len(ours)), theirs + [""] * (longest - len(theirs))
        parts += [(chunk.type, one, other) for one, other in zip(theirs, ours, strict=True)]
    return parts


def worst(
    rows: Rows, aligned: Sequence[Any], texts: Sequence[str], truth: Sequence[str], rates: np.ndarray
) -> list[dict[str, Any]]:
    """The utterances with the highest error rate, and their errors as [reference > heard]."""
    table = []
    for number in np.argsort(-rates, kind="stable")[:WORST].tolist():
        if rates[number] == 0:
            break
        marked = [
            spoken if kind == "equal" else f"[{spoken or '-'} > {heard or '-'}]"
            for kind, spoken, heard in pairs(aligned[number], texts[number], truth[number])
        ]
        row = rows[number]
        table.append(
            {"recording": listen(row), "errors": " ".join(marked), "wer": rate(aligned[number]), "file": row["audio"]}
        )
    return table
