"""Audio files as mono waves, with soundfile (libsndfile) and soxr alone; what is no audio is refused with the reason.

Shapes: T samples.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hftrain.data.files import sha256_of
from hftrain.data.lines import Fault

if TYPE_CHECKING:
    import soundfile

FORMATS = "wav, flac, ogg, opus, mp3, aiff"
SILENT = 1e-4  # peak: -80 dB
BLOCK = 1 << 20  # samples that are examined at once
LAST_PAGE = 4  # flag of the last page of an Ogg stream
BY_PYAV = (".m4a", ".mp4", ".aac", ".webm", ".wma", ".amr")  # what libsndfile does not read


class Known(NamedTuple):
    """What is known of a recording: sha256 of its file, with the span if it is a part of it; seconds, samples per
    second and channels."""

    content: str
    seconds: float
    rate: int
    channels: int


def decode(source: str | Path | bytes, rate: int, start: float | None = None, end: float | None = None) -> np.ndarray:
    """(T,) float32 samples in [-1, 1], `rate` per second: the mean of the channels, resampled (soxr, high quality).

    Args:
        start, end: seconds of a part of the recording.

    Raises:
        Fault: a file that is missing, truncated, corrupt or no audio, or a part that is not in it.
    """
    import soxr

    with opened(source) as file:
        first, last = span(file, start, end)
        file.seek(first)
        samples = file.read(last - first, dtype="float32", always_2d=True)
        if len(samples) < last - first:
            raise Fault(
                f"truncated: {len(samples) / file.samplerate:.2f} s of {(last - first) / file.samplerate:.2f} s"
            )
        wave = samples.mean(axis=1, dtype=np.float32)
        return wave if file.samplerate == rate else soxr.resample(wave, file.samplerate, rate).astype(np.float32)


def read(path: str, rate: int, start: float | None = None, end: float | None = None) -> np.ndarray:
    """The wave of an example. Raises: ValueError, the file is not what it was when the rows were read."""
    try:
        return decode(path, rate, start, end)
    except Fault as fault:
        raise ValueError(f"{path} has changed since the rows were read: {fault}") from None


def examine(path: Path, start: float | None = None, end: float | None = None) -> Known:
    """Reads and decodes the recording, or a part of it. Raises: Fault, as `decode`, and if it is empty or silent."""
    with opened(path) as file:
        first, last = span(file, start, end)
        file.seek(first)
        samples, peak = 0, 0.0
        while samples < last - first:
            block = file.read(min(BLOCK, last - first - samples), dtype="float32", always_2d=True)
            if not len(block):
                raise Fault(_short(samples, last - first, file.samplerate))
            if not np.isfinite(block).all():
                raise Fault("contains samples that are not finite")
            samples += len(block)
            peak = max(peak, float(np.abs(block).max()))
        if peak < SILENT:
            raise Fault(f"silent: no sample above {SILENT:g} (-80 dB) in {samples / file.samplerate:.2f} s")
        content = sha256_of(path)
        if (start, end) != (None, None):
            content += f"@{first}-{last}"
        return Known(content, samples / file.samplerate, file.samplerate, file.channels)


def span(file: soundfile.SoundFile, start: float | None, end: float | None) -> tuple[int, int]:
    """The first sample of the part and the one after its last. Raises: Fault."""
    seconds = file.frames / file.samplerate
    if not file.frames:
        raise Fault("empty: no samples in it")
    first = 0 if start is None else round(start * file.samplerate)
    last = file.frames if end is None else round(end * file.samplerate)
    if not 0 <= first < last:
        raise Fault(f"start {start} and end {end} are not a part of a recording")
    if last > file.frames + file.samplerate // 20:  # ends are written rounded
        raise Fault(f"ends at {end} s, but the recording has {seconds:.2f} s")
    last = min(last, file.frames)
    if first >= last:
        raise Fault(f"starts at {start} s, but the recording has {seconds:.2f} s")
    return first, last


@contextmanager
def opened(source: str | Path | bytes) -> Iterator[soundfile.SoundFile]:
    """The recording, not yet decoded. What decoding raises inside comes out as a Fault."""
    import soundfile

    name = "" if isinstance(source, bytes) else str(source)
    if name.lower().endswith(BY_PYAV) and Path(name).is_file() and Path(name).stat().st_size:
        source = decode_by_pyav(Path(name))
    try:
        with soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else name) as file:
            if reason := _truncated(source, file):
                raise Fault(reason)
            yield file
    except Fault:
        raise
    except soundfile.LibsndfileError as error:
        if name and not Path(name).is_file():
            raise Fault(f"there is no file {name}") from None
        if name and not Path(name).stat().st_size:
            raise Fault("the file is empty") from None
        raise Fault(f"truncated, corrupt, or not audio (read are {FORMATS}): {error.error_string}") from None


def decode_by_pyav(path: Path) -> bytes:
    """The recording of a file that libsndfile does not read, as the bytes of a wav file. Raises: Fault."""
    import soundfile

    try:
        import av
    except ImportError:
        raise Fault(f"{path.suffix} needs PyAV: pip install 'hftrain[m4a]', or convert it to flac") from None
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise Fault("there is no sound in it")
            packed = av.AudioResampler(format="flt")
            parts = [one for frame in container.decode(audio=0) for one in packed.resample(frame)]
    except av.FFmpegError as error:
        reason = f"truncated, corrupt, or not audio ({error.strerror})"
        raise Fault(f"{reason}: convert it to flac") from None
    if not parts:
        raise Fault("empty: no samples in it")
    samples = np.concatenate([part.to_ndarray().reshape(-1, part.layout.nb_channels) for part in parts])
    wave = io.BytesIO()
    soundfile.write(wave, samples, parts[0].sample_rate, format="WAV", subtype="FLOAT")
    return wave.getvalue()


def _short(samples: int, wanted: int, rate: int) -> str:
    return f"truncated: {samples / rate:.2f} s of {wanted / rate:.2f} s"


def _truncated(source: str | Path | bytes, file: soundfile.SoundFile) -> str | None:
    """Why the file is shorter than it was written, which libsndfile keeps to itself; None if it is whole."""
    if short := re.search(r"(?:data|SSND) *: *(\d+) \(should be (\d+)\)", file.extra_info):
        claimed, there = map(int, short.groups())
        if 0 < there < claimed < 2**32 - 4096:  # a stream that was never closed claims the largest number, or 0
            return f"truncated: {there:,} of {claimed:,} bytes of samples"
    if file.format == "OGG":
        last = source[-65_536:] if isinstance(source, bytes) else _tail(Path(source), 65_536)
        page = last[last.rfind(b"OggS") :]
        whole = len(page) > 27 and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])
        if not whole or not page[5] & LAST_PAGE:
            return "truncated: the last page of the Ogg stream is missing"
    return None


def _tail(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - size))
        return file.read()
