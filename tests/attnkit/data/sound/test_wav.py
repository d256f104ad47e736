"""WAV files of all kinds, and broken ones."""

import io
import wave

import numpy as np
import pytest

from attnkit.data.sound.wav import RATE, read_wav, resampled, wav_bytes
from attnkit.errors import DataError


def tone(rate, seconds=0.5, hertz=440.0):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


def written(path, samples, rate, width=2, channels=1):
    scaled = np.repeat(samples, channels) * (2 ** (8 * width - 1) - 1)
    if width == 1:
        content = (scaled + 128).astype(np.uint8).tobytes()
    elif width == 3:
        whole = (scaled.astype("<i4")).view(np.uint8).reshape(-1, 4)
        content = whole[:, :3].tobytes()
    else:
        content = scaled.astype(f"<i{width}").tobytes()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(content)
    return path


@pytest.mark.parametrize(
    ("width", "channels", "rate"),
    [(2, 1, RATE), (1, 1, RATE), (3, 1, RATE), (4, 1, RATE), (2, 2, 44100), (1, 2, 8000)],
)
def test_every_kind_is_read_as_the_same_tone(width, channels, rate, tmp_path):
    read = read_wav(written(tmp_path / "a.wav", tone(rate), rate, width, channels))
    assert read.samples.dtype == np.float32
    assert len(read.samples) == RATE // 2
    inner = slice(200, -200)  # at its ends a resampled tone meets silence
    assert read.samples[inner] == pytest.approx(tone(RATE)[inner], abs=0.015)
    told = " ".join(read.changes)
    assert ("channels" in told) == (channels > 1)
    assert (f"resampled from {rate} Hz to {RATE} Hz" in told) == (rate != RATE)


def test_what_a_lower_rate_cannot_hold_does_not_fold_back():
    assert np.abs(resampled(tone(48000, hertz=11000.0), 48000)[500:-500]).max() < 0.01
    passed = resampled(tone(48000, hertz=6000.0), 48000)[500:-500]
    assert np.abs(passed).max() == pytest.approx(0.5, abs=0.01)


def test_what_is_written_is_read_again(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav_bytes(tone(RATE)))
    read = read_wav(tmp_path / "a.wav")
    assert read.changes == ()
    assert read.samples == pytest.approx(tone(RATE), abs=1e-4)


def broken_files():
    whole = wav_bytes(tone(RATE))
    cut = whole[: len(whole) // 2]
    floats = bytearray(whole)
    floats[20] = 3  # the format of floats, which `wave` does not read
    empty = io.BytesIO()
    with wave.open(empty, "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
    return {
        "text": (b"no sound", "is not a readable WAV file"),
        "header": (whole[:20], "is not a readable WAV file"),
        "cut": (cut, "is truncated"),
        "floats": (bytes(floats), "unknown format: 3"),
        "empty": (empty.getvalue(), "no samples"),
    }


@pytest.mark.parametrize("name", broken_files())
def test_a_broken_file_is_named(name, tmp_path):
    content, said = broken_files()[name]
    path = tmp_path / f"{name}.wav"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said) as error:
        read_wav(path)
    assert str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"a\.wav does not exist"):
        read_wav(tmp_path / "a.wav")
