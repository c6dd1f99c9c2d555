"""Settings of speech recognition, checked before anything is loaded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from hftrain.audio.config import NEW_KIND, SpeechConfig, VariedConfig, new_kind_problems
from hftrain.config import above, at_least, between

FRAMES = 100  # of a second: the lengths that batches are cut by
WHISPER = "whisper"  # the kind of new encoder-decoders
METRICS = ("loss", "wer", "cer")


@dataclass
class TranscribeConfig(VariedConfig, SpeechConfig):
    """Recordings, and the text that is spoken in each."""

    counted: ClassVar[str] = "frames"

    dataset_name: str | None = "digits"
    """Data set: the built-in spoken digits (one to four in each recording), one on the Hugging Face Hub, a folder with
    the layout of LibriSpeech, LJSpeech, Common Voice or Kaldi, one with rows, or one written by save_to_disk."""

    model: str = NEW_KIND
    """Kind of new model, without model_name_or_path: wav2vec2-bert, a CTC model of log-mel frames, or whisper, an
    encoder-decoder."""

    vocab_size: Annotated[int | None, at_least(260)] = None
    """Tokens of a new vocabulary, byte pairs learnt from the training texts, at most; null: their characters, for
    whisper 1,000."""

    language: str | None = None
    """Language of the recordings, for a multilingual Whisper: en, de, ...; null: English-only models need none."""

    task: Literal["transcribe", "translate"] = "transcribe"
    """What a multilingual Whisper writes: the language that is spoken, or its translation into English."""

    text_case: Literal["unchanged", "lower", "upper"] | None = None
    """Letters of the texts that a model learns; null: lower for a new vocabulary, else unchanged."""

    normalizer: Literal["none", "basic", "english"] = "basic"
    """Texts are made alike before errors are counted; basic: lower case, no punctuation; english: also numbers and
    contractions (both as Whisper's authors do); none: as they are. Stored with the score."""

    window_seconds: Annotated[int | None, between(1, 30)] = None
    """Seconds that Whisper hears at once: its encoder's positions are cut to that; null: as long as the longest
    recording. Longer recordings are refused, unless cut_audio is set."""

    cut_audio: bool = False
    """Recordings that are longer than the model hears are cut, and counted; otherwise they are refused."""

    max_seconds: Annotated[float | None, above(0)] = None
    """Longest recording; null: as long as the model hears."""

    micro_batch_seconds: Annotated[float | None, above(0)] = None
    """Seconds of audio in one forward pass of one device, with padding. It limits memory."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.micro_batch_seconds is not None and self.micro_batch_tokens is None and self.micro_batch_size is None:
            self.micro_batch_tokens = round(self.micro_batch_seconds * FRAMES)

    def checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().checks()
        for name in ("micro_batch_size", "micro_batch_tokens"):
            given = getattr(self, name)
            own = None if self.micro_batch_seconds is None else round(self.micro_batch_seconds * FRAMES)
            if own is not None and given is not None and given != own:
                yield ("micro_batch_seconds", name), "contradict each other: set one of them"
        yield from self.metric_problems(*METRICS)

    def late_checks(self) -> Iterator[tuple[Sequence[str], str]]:
        yield from super().late_checks()
        if self.model_name_or_path is None:
            from hftrain.models.new import model_problems

            kind = "AutoModelForSpeechSeq2Seq" if self.model == WHISPER else "AutoModelForCTC"
            yield from new_kind_problems(self.model, NEW_KIND, WHISPER)
            yield from model_problems(self.model, self.model_config, kind)

    @property
    def scored_by(self) -> str:
        return "wer"
