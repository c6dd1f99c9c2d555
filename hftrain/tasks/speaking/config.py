"""Settings of speech synthesis, checked before anything is loaded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from hftrain.audio.config import SpeechConfig
from hftrain.config import above, at_least

METRICS = ("loss", "mcd")


@dataclass
class SpeakConfig(SpeechConfig):
    """Recordings with the text that is spoken in them; the model learns to speak text."""

    counted: ClassVar[str] = "frames"

    dataset_name: str | None = "digits"
    """Data set: the built-in spoken digits, a folder with LJSpeech's metadata.csv, LibriSpeech, Common Voice or Kaldi
    files, or with rows; one on the Hugging Face Hub, or a folder written by save_to_disk."""

    text_normalizer: Literal["english", "lower", "none"] = "english"
    """How written text becomes spoken text. english: abbreviations and numbers as words, and what lower does; lower:
    lower case, plain quotes and dashes, single spaces; none: unchanged."""

    model: Literal["fastspeech2_conformer", "speecht5"] = "fastspeech2_conformer"
    """Kind of new model, without model_name_or_path."""

    sampling_rate: Annotated[int | None, at_least(4000)] = None
    """Samples per second that the model speaks; null: the rate of the vocoder or of the model; for a new model that of
    most recordings, at most 22,050."""

    vocoder: str | None = None
    """HiFi-GAN in a folder or on the Hub, which turns spectrograms into sound; null: Griffin-Lim, which needs no
    training and sounds rougher. CSM and Dia have a codec instead."""

    max_seconds: Annotated[float, above(0)] = 20.0
    """Longest recording and utterance: longer recordings are refused, longer utterances are cut off."""

    fixed_batch_norm: bool = True
    """Use the saved averages of batch normalisation instead of those of the micro-batch, so that results do not depend
    on its size; a new model then only scales and shifts."""

    num_samples: Annotated[int, at_least(1)] = 8
    """Utterances of the validation rows that are spoken at each evaluation, into output_dir/samples, and compared with
    their recordings (mcd)."""

    num_scored: Annotated[int, at_least(1)] = 100
    """Utterances of the test rows that are spoken for the final scores, evenly spread."""

    listener: str | None = None
    """Whisper in a folder or on the Hub, which writes down what it hears in the spoken test rows, for the word error
    rate; null: no word error rate."""

    speaker_encoder: str | None = None
    """Model of speaker verification (x-vectors) in a folder or on the Hub, for the similarity of the voices; null: no
    similarity."""

    freeze: list[str] = field(default_factory=list)
    """Parameters to freeze, by name: encoder, encoder.conformer_layers.0-1, *.bias."""

    def checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().checks()
        if self.label_smoothing_factor:
            yield ("label_smoothing_factor",), "has no use here: a spectrogram has no classes"
        yield from self.metric_problems(*METRICS)

    def late_checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().late_checks()
        if self.model_name_or_path is None:
            from hftrain.models.new import model_problems

            yield from model_problems(self.model, self.model_config, "AutoModelForTextToSpectrogram")
