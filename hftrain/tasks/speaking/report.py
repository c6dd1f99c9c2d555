"""The report and the model card of a voice."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from hftrain.audio.shown import player, spectrogram
from hftrain.data.splits import sizes
from hftrain.metrics.cepstra import distance
from hftrain.metrics.intervals import mean
from hftrain.report import Report, Table
from hftrain.report.charts import histogram
from hftrain.report.described import describe_split, evenly
from hftrain.report.formats import format_number
from hftrain.report.scores import no_better
from hftrain.tasks.speaking.config import SpeakConfig
from hftrain.tasks.speaking.scoring import Spoken, Stage, recording
from hftrain.tasks.speaking.voice import Voice

if TYPE_CHECKING:
    from hftrain.data.rows import Rows

SHOWN = 8  # utterances with players and pictures, and as many of the worst
CONSENT = (
    "A voice belongs to a person: publish this model, or speech that it makes, only with the consent of the speakers, "
    "and say that the speech is synthetic"
)


def summarize(config: SpeakConfig, rows: "Mapping[str, Rows]", stage: Stage, model: nn.Module) -> Report:
    """What the report shows: the scores of the test rows, spoken utterances beside the recordings, and the data."""
    scores, result = stage.test(model, rows["test"])
    voice, train = stage.voice, rows["train"]
    voices = "one voice" if len(voice.speakers) == 1 else f"{len(voice.speakers)} voices"
    sound = f"the vocoder {config.vocoder}" if config.vocoder else "Griffin-Lim, without a trained vocoder"
    if voice.kind is not None:
        sound = "the codec of the model"
    unended = sum(not one.ended for one in result.utterances)
    evidence = judge(rows["test"], stage, result)
    remarks = no_better("test_mcd", {"test_mcd": scores["mcd"]}, **evidence, guess="the mean sound all the time")
    remarks += [CONSENT, *licences(config, voice)]
    if unended:
        remarks.append(f"{unended} of {len(result.utterances)} test utterances did not end by themselves")
    return Report(
        title=f"A voice from {Path(config.trained_on).name}",
        task="text-to-speech",
        metric="mcd",
        scores=scores,
        usage=usage(config, rows["test"][0]["text"]),
        lead=f"Speaks text in {voices}, {voice.mel.rate:,} samples per second, by {sound}. "
        f"Texts are normalised first: {config.text_normalizer}. Rows: {sizes(rows)}.",
        data={name: describe(split) for name, split in rows.items()},
        figures=[
            histogram("seconds", "Seconds of the training recordings", np.array(train["seconds"][:]), x_label="seconds")
        ],
        tables=[
            *utterances(rows["test"], stage, result),
            *([heard_table(rows["test"], result)] if result.heard else []),
        ],
        remarks=remarks,
        **evidence,
    )


def judge(rows: "Rows", stage: Stage, result: Spoken) -> dict[str, Any]:
    """`baseline` and `intervals` for `publish`. The baseline is a sound that never changes: the mean of the frames of
    the recordings themselves."""
    voice = stage.voice
    truth = [voice.mel(recording(rows[place], voice)) for place in result.places]
    sound = np.concatenate(truth).mean(axis=0)
    guess = [distance(own, np.tile(sound, (len(own), 1))) for own in truth]
    interval = mean(result.distances)
    return {
        "baseline": {"test_mcd": float(np.mean(guess))},
        "intervals": {"test_mcd": interval} if interval else {},
    }


def licences(config: SpeakConfig, voice: Voice) -> list[str]:
    """Sentences on the licences of what the model was made of."""
    if config.built_in:
        data = "The recordings are synthesised by hftrain, and no person's voice is in them"
    else:
        data = (
            f"The licence of the recordings ({config.trained_on}) applies to the voice: check that it allows your use"
        )
    codec = getattr(voice.processor, "audio_tokenizer", None)
    names = [name for name in (config.model_name_or_path, config.vocoder, codec and codec.name_or_path) if name]
    return [data, *(f"The licence of {name} applies to weights made of it" for name in names)]


def describe(rows: "Rows") -> dict[str, Any]:
    """The table of a split: its recordings, how many were left out or leaked, how long they are, its speakers."""
    seconds = np.array(rows["seconds"][:])
    details: dict[str, Any] = {
        "minutes": float(seconds.sum() / 60),
        "seconds, median": float(np.median(seconds)),
        "seconds, longest": float(seconds.max()),
        "characters, mean": float(np.mean([len(text) for text in rows["text"]])),
        "speakers": len(set(rows["speaker"])),
    }
    return describe_split(rows, details, unit="recordings", inputs="recordings")


def utterances(rows: "Rows", stage: Stage, result: Spoken) -> list[Table]:
    """Some of the spoken test rows, evenly spread, and the worst by distance, beside their recordings."""
    order = np.argsort(result.distances, kind="stable")[::-1][:SHOWN]
    note = "Both spectrograms have the same colours; a mel-cepstral distance (mcd) of 0 dB is the recording itself."
    return [
        Table("Utterances", [_shown(rows, stage, result, i) for i in evenly(len(result.places), SHOWN)], note=note),
        Table(
            "Worst utterances", [_shown(rows, stage, result, int(i)) for i in order], note="By mcd, the worst first."
        ),
    ]


def _shown(rows: "Rows", stage: Stage, result: Spoken, number: int) -> dict[str, Any]:
    row, mel = rows[result.places[number]], stage.voice.mel
    wave = recording(row, stage.voice)
    own = mel(wave)
    loudest = float(own.max())
    return {
        "text": row["text"],
        "recording": player(wave, mel.rate),
        "its spectrogram": spectrogram(own, loudest),
        "spoken": player(result.waves[number], mel.rate),
        "its spectrogram ": spectrogram(result.utterances[number].mel, loudest),
        "mcd": format_number(result.distances[number]),
        **({"speaker": row["speaker"]} if row["speaker"] else {}),
    }


def heard_table(rows: "Rows", result: Spoken) -> Table:
    texts = [rows[place]["text"] for place in result.places]
    lines = [{"text": text, "heard": heard} for text, heard in zip(texts, result.heard, strict=True)]
    return Table("What the listener heard", lines)


def usage(config: SpeakConfig, text: str) -> str:
    """Python code that loads the trained model and speaks `text`."""
    folder = config.hub_model_id or config.output_dir
    return f"""import soundfile
from hftrain.predict import predict

(spoken,) = predict({folder!r}, [{text!r}])
soundfile.write("spoken.wav", spoken["wave"], spoken["rate"])"""
