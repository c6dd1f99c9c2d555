"""Decoding: mono at any rate, whatever the file is; what is no recording is refused with the reason."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hftrain.audio import decode, read
from hftrain.audio.decoding import examine
from hftrain.data.lines import Fault

RATE = 16_000
KINDS = {"wav": {}, "flac": {}, "ogg": {}, "mp3": {}, "aiff": {}, "opus": {"format": "OGG", "subtype": "OPUS"}}


def tone(seconds: float = 1.0, rate: int = RATE, hertz: float = 440) -> np.ndarray:
    return (0.5 * np.sin(np.arange(round(seconds * rate)) * 2 * np.pi * hertz / rate)).astype(np.float32)


def write(path: Path, wave: np.ndarray, rate: int = RATE, **how) -> Path:
    soundfile.write(path, wave, rate, **how)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_files_give_the_same_wave(tmp_path, kind):
    path = write(tmp_path / f"a.{kind}", tone(), **KINDS[kind])
    wave = decode(path, RATE)
    assert wave.dtype == np.float32 and abs(len(wave) - RATE) < 100
    # lossy kinds may shift by a few samples: the strongest frequency and the loudness must be those of the tone
    assert abs(np.abs(np.fft.rfft(wave[:RATE])).argmax() * RATE / len(wave) - 440) < 2
    assert np.sqrt((wave**2).mean()) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)
    assert examine(path).seconds == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_truncated_file_is_refused(tmp_path, kind, share):
    rng = np.random.default_rng(0)
    path = write(tmp_path / f"a.{kind}", 0.1 * rng.normal(size=RATE).astype(np.float32), **KINDS[kind])
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(Fault, match=r"truncated|empty"):
        examine(path)


def test_what_is_no_recording_is_refused(tmp_path):
    for name, content, reason in (
        ("none.wav", b"", "the file is empty"),
        ("text.wav", b"hello " * 100, "not audio"),
        ("video.m4a", b"\0\0\0 ftypM4A " * 9, "convert it to flac"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(Fault, match=reason):
            examine(tmp_path / name)
    with pytest.raises(Fault, match="there is no file"):
        examine(tmp_path / "absent.wav")
    with pytest.raises(Fault, match="no samples"):
        examine(write(tmp_path / "empty.wav", tone(0)))
    with pytest.raises(Fault, match="silent"):
        examine(write(tmp_path / "silent.wav", 0 * tone()))
    with pytest.raises(Fault, match="not finite"):
        examine(write(tmp_path / "nan.wav", np.nan * tone(), subtype="FLOAT"))


def test_channels_are_averaged_and_rates_converted(tmp_path):
    left, right = tone(1, 8000, 300), tone(1, 8000, 900)
    path = write(tmp_path / "two.wav", np.stack([left, right], axis=1), 8000)
    assert examine(path)[2:] == (8000, 2)
    wave = decode(path, 8000)
    assert np.allclose(wave, (left + right) / 2, atol=1e-4)
    resampled = decode(path, RATE)
    assert len(resampled) == RATE
    assert np.abs(resampled[::2][100:-100] - wave[100:-100]).max() < 0.01


def test_a_part_is_what_the_whole_has_there(tmp_path):
    rng = np.random.default_rng(0)
    path = write(tmp_path / "long.flac", rng.uniform(-0.5, 0.5, 3 * RATE).astype(np.float32))
    whole, part = decode(path, RATE), decode(path, RATE, 1.0, 2.5)
    assert np.array_equal(part, whole[RATE : 2 * RATE + RATE // 2])
    first, second = examine(path, 0.0, 1.0), examine(path, 1.0, 2.0)
    assert first.seconds == 1.0 and first.content != second.content
    for start, end, reason in ((2.0, 1.0, "not a part"), (0.0, 9.0, "ends at 9.0 s, but the recording has 3.00 s")):
        with pytest.raises(Fault, match=reason):
            examine(path, start, end)


def test_a_file_that_changed_is_named(tmp_path):
    path = write(tmp_path / "a.wav", tone())
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.wav has changed since the rows were read"):
        read(str(path), RATE)


def test_m4a_is_read_by_pyav(tmp_path):
    av = pytest.importorskip("av")
    path, wave = tmp_path / "a.m4a", tone(rate=8000)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(wave[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    known = examine(path)
    assert (known.rate, known.channels) == (8000, 1) and known.seconds == pytest.approx(1, abs=0.3)
    heard = decode(path, 8000)
    shift = int(np.argmax(np.correlate(heard, wave[:4000], "valid")))
    assert np.corrcoef(heard[shift : shift + 4000], wave[:4000])[0, 1] > 0.95
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(Fault, match="truncated, corrupt, or not audio"):
        examine(path)


def test_neither_torchaudio_nor_torchcodec_nor_ffmpeg_is_needed(tmp_path):
    path = write(tmp_path / "a.flac", tone())
    program = f"""
import sys, os
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torchaudio", "torchcodec", "av", "ffmpeg", "librosa"):
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocked())
os.environ["PATH"] = ""
from hftrain.audio import decode
print(len(decode({str(path)!r}, 8000)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "8000"
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0 ftypM4A ")
    program = program.replace("a.flac", "a.m4a")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "needs PyAV: pip install 'hftrain[m4a]'" in done.stderr
