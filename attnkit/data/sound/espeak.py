"""Speech by espeak-ng, if it is installed: each word separately, so that its times are known."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from attnkit.data.sound.wav import RATE, read_wav
from attnkit.errors import DataError

Span = tuple[float, float]

PROGRAM = "espeak-ng"
PAUSE = 0.07
"""Seconds between words, and twice as many before and after a sentence."""

SILENT = 0.01
"""Samples below this part of the loudest are cut at both ends of a word."""


@dataclass(frozen=True)
class Voice:
    """A voice.

    Attributes:
        name: name of the voice.
        variant: name of the voice in espeak-ng.
        speed: words per minute.
        pitch: from 0 to 99.
    """

    name: str
    variant: str
    speed: int
    pitch: int


KNOWN = (
    Voice("us_man", "en-us+m1", 160, 40),
    Voice("us_deep_man", "en-us+m3", 140, 30),
    Voice("us_high_man", "en-us+m7", 175, 55),
    Voice("us_woman", "en-us+f2", 160, 50),
    Voice("gb_man", "en-gb+m2", 150, 45),
    Voice("gb_woman", "en-gb+f1", 170, 60),
    Voice("gb_high_woman", "en-gb+f4", 145, 65),
    Voice("us_fast_woman", "en-us+f5", 185, 45),
)
HELD_OUT = (Voice("new_man", "en-us+m4", 155, 45), Voice("new_woman", "en-us+f3", 165, 55))


def speak(text: str, voice: Voice) -> tuple[np.ndarray, tuple[Span, ...]]:
    """Speaks a text: (N,) float32 samples at `RATE`, and start and end of each word in seconds.

    Raises:
        DataError: if espeak-ng is not installed, or fails.
        ValueError: if there is nothing to speak.
    """
    words = text.split()
    if not words:
        raise ValueError("there is nothing to speak")
    pause = np.zeros(round(PAUSE * RATE), np.float32)
    parts, spans, at = [pause, pause], [], 2 * len(pause)
    for word in words:
        samples = _word(word, voice)
        spans.append((at / RATE, (at + len(samples)) / RATE))
        parts += [samples, pause]
        at += len(samples) + len(pause)
    return np.concatenate([*parts, pause]), tuple(spans)


@cache
def _word(word: str, voice: Voice) -> np.ndarray:
    options = ["-v", voice.variant, "-s", str(voice.speed), "-p", str(voice.pitch)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "word.wav")
        _called([*options, "-w", str(file), "--", word])
        samples = read_wav(file).samples
    loud = np.flatnonzero(abs(samples) > SILENT * abs(samples).max(initial=0))
    if not len(loud):
        raise ValueError(f"espeak-ng gives no sound for {word!r}")
    return samples[loud[0] : loud[-1] + 1]


def version() -> str:
    """Returns name and version.

    Raises:
        DataError: if espeak-ng is not installed.
    """
    return _called(["--version"]).partition("  ")[0].strip()


def _called(arguments: list[str]) -> str:
    if shutil.which(PROGRAM) is None:
        raise DataError(
            "data.voices espeak needs espeak-ng, which is not installed: apt-get install espeak-ng "
            "(brew install espeak-ng), or set data.voices=formants"
        )
    ended = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, check=False)
    if ended.returncode:
        raise DataError(f"espeak-ng failed: {ended.stderr.strip() or ended.returncode}")
    return ended.stdout
