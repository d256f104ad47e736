"""A formant synthesiser: letters as sounds, whose times are known exactly.

Each letter (and a few pairs of letters, such as `sh`) has one sound. A voiced sound is a train of
pulses, each of which starts a decaying sinusoid in every formant (Rodet 1984, time-domain
formant-wave-function synthesis); a voiceless one is noise around one frequency. Formants glide from
a sound to the next. Formants of vowels are near those of Peterson and Barney 1952.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from attnkit.data.sound.wav import RATE

Span = tuple[float, float]
"""Start and end in seconds."""


@dataclass(frozen=True)
class Voice:
    """A voice.

    Attributes:
        name: name of the voice.
        pitch: pulses per second in the middle of a sentence.
        scale: factor of all formants: larger for a shorter vocal tract.
        speed: factor of the speed.
        noise: background noise, as a part of the loudest sample.
    """

    name: str
    pitch: float
    scale: float
    speed: float
    noise: float


KNOWN = (
    Voice("bass", 88, 0.88, 0.95, 0.004),
    Voice("baritone", 105, 0.93, 1.10, 0.002),
    Voice("tenor", 128, 0.97, 1.00, 0.006),
    Voice("old", 118, 1.01, 0.85, 0.012),
    Voice("alto", 172, 1.05, 1.05, 0.003),
    Voice("mezzo", 196, 1.10, 0.90, 0.008),
    Voice("soprano", 228, 1.15, 1.15, 0.002),
    Voice("child", 270, 1.22, 1.00, 0.005),
)
"""Voices of training, validation and one of the tests."""

HELD_OUT = (Voice("new_low", 142, 0.95, 1.02, 0.005), Voice("new_high", 212, 1.125, 0.97, 0.005))
"""Voices that occur in the other test only."""


@dataclass(frozen=True)
class Sound:
    """The sound of a letter.

    Attributes:
        formants: three frequencies in Hz.
        voiced: loudness of its pulses.
        noise: loudness of its noise.
        noise_at: centre frequency of the noise in Hz.
        seconds: its length.
        silence: seconds of silence before it, as in `p`; a part of the sound.
    """

    formants: tuple[float, float, float]
    voiced: float = 1.0
    noise: float = 0.0
    noise_at: float = 0.0
    seconds: float = 0.08
    silence: float = 0.0


def _stop(noise_at: float, formants: tuple[float, float, float], voiced: float) -> Sound:
    return Sound(formants, voiced, 0.5, noise_at, 0.03, 0.04)


_NEUTRAL = (500.0, 1500.0, 2500.0)

SOUNDS: dict[str, Sound] = {
    "a": Sound((730, 1090, 2440), seconds=0.09),
    "e": Sound((530, 1840, 2480), seconds=0.08),
    "i": Sound((390, 1990, 2550), seconds=0.075),
    "o": Sound((570, 840, 2410), seconds=0.09),
    "u": Sound((440, 1020, 2240), seconds=0.08),
    "y": Sound((250, 2400, 3300), 0.8),
    "ee": Sound((270, 2290, 3010), seconds=0.13),
    "oo": Sound((300, 870, 2240), seconds=0.13),
    "m": Sound((250, 900, 2100), 0.5),
    "n": Sound((250, 1600, 2700), 0.5),
    "ng": Sound((250, 2100, 2500), 0.5, seconds=0.1),
    "l": Sound((360, 1250, 2900), 0.6),
    "r": Sound((420, 1150, 1500), 0.6),
    "w": Sound((300, 610, 2200), 0.6),
    "j": Sound((300, 2100, 2900), 0.4, 0.25, 3000),
    "v": Sound((300, 1200, 2200), 0.35, 0.08, 4500),
    "z": Sound((280, 1600, 2500), 0.35, 0.25, 5500),
    "f": Sound(_NEUTRAL, 0.0, 0.12, 4500, 0.09),
    "s": Sound(_NEUTRAL, 0.0, 0.35, 6000, 0.09),
    "h": Sound(_NEUTRAL, 0.0, 0.18, 1300, 0.06),
    "sh": Sound(_NEUTRAL, 0.0, 0.35, 2700, 0.11),
    "th": Sound(_NEUTRAL, 0.12, 0.12, 7200, 0.09),
    "ch": Sound(_NEUTRAL, 0.0, 0.45, 3300, 0.07, 0.04),
    "x": Sound(_NEUTRAL, 0.0, 0.3, 4800, 0.07, 0.04),
    "p": _stop(900, (300, 800, 2300), 0.0),
    "t": _stop(4200, (300, 1800, 2700), 0.0),
    "k": _stop(2000, (300, 2100, 2300), 0.0),
    "b": _stop(900, (250, 800, 2300), 0.5),
    "d": _stop(4200, (250, 1800, 2700), 0.5),
    "g": _stop(2000, (250, 2100, 2300), 0.5),
}
SOUNDS["c"] = SOUNDS["q"] = SOUNDS["k"]

PAUSE = 0.07
"""Seconds between words."""

AROUND = (0.06, 0.2)
"""Range of the seconds of silence before and after a sentence."""

STEP = 80
"""Samples between the values of formants and loudness."""

GLIDE = 5
"""Steps over which formants and loudness pass from one sound to the next."""

GRAIN = 400
"""Samples of a pulse's sinusoids: they decay to less than a hundredth."""

BANDWIDTHS = np.array([70.0, 100.0, 160.0])
"""Bandwidths of the formants in Hz, which are the rates at which the sinusoids decay."""

LOUDNESS = np.array([1.0, 0.6, 0.35])
"""Loudness of the formants."""


@dataclass(frozen=True)
class _Placed:
    """A sound (None: silence) from one sample to another; `burst` is where its silence ends."""

    sound: Sound | None
    start: int
    burst: int
    end: int


def letters_of(word: str) -> Iterator[str]:
    """Yields the letters of a word, those that sound as one together."""
    at = 0
    while at < len(word):
        pair = word[at : at + 2]
        yield pair if pair in SOUNDS else word[at]
        at += 2 if pair in SOUNDS else 1


def speak(text: str, voice: Voice) -> tuple[np.ndarray, tuple[Span, ...]]:
    """Speaks a text; the same text and voice sound the same every time.

    Args:
        text: words of the letters a to z, with spaces between them.
        voice: the voice.

    Returns:
        (N,) float32 samples at `RATE` from -1 to 1, and start and end of each word in seconds.

    Raises:
        ValueError: if a letter has no sound, or the text has no letters.
    """
    if unknown := sorted(set(text) - set(SOUNDS) - {" "}):
        raise ValueError(f"no sound for {', '.join(map(repr, unknown))}; use a to z and spaces")
    if not text.strip():
        raise ValueError("there is nothing to speak")
    seed = hashlib.blake2b(f"{voice}|{text}".encode(), digest_size=8).digest()
    draw = np.random.default_rng(int.from_bytes(seed, "little"))
    placed, words = _placed(text.split(), voice, draw)
    return _render(placed, voice, draw), words


def _placed(
    words: Sequence[str], voice: Voice, draw: np.random.Generator
) -> tuple[list[_Placed], tuple[Span, ...]]:
    """Assigns a range of samples to every sound."""
    speed = voice.speed * draw.uniform(0.92, 1.08)
    at = 0
    placed: list[_Placed] = []
    spans = []

    def add(sound: Sound | None, seconds: float, silence: float = 0.0) -> None:
        nonlocal at
        burst, end = at + round(silence * RATE), at + round((silence + seconds) * RATE)
        placed.append(_Placed(sound, at, burst, end))
        at = end

    add(None, draw.uniform(*AROUND))
    for number, word in enumerate(words):
        if number:
            add(None, PAUSE / speed * draw.uniform(0.7, 1.3))
        start = at
        for letter in letters_of(word):
            sound, length = SOUNDS[letter], draw.uniform(0.85, 1.15) / speed
            add(sound, sound.seconds * length, sound.silence * length)
        spans.append((start / RATE, at / RATE))
    add(None, draw.uniform(*AROUND))
    return placed, tuple(spans)


def _render(placed: Sequence[_Placed], voice: Voice, draw: np.random.Generator) -> np.ndarray:
    """Returns the samples of sounds."""
    length = placed[-1].end
    samples = np.zeros(length + GRAIN)
    formants, loudness = _tracks(placed, length)
    middle = np.linspace(1.08, 0.92, length)  # the pitch falls
    middle *= 1 + 0.02 * np.sin(2 * np.pi * draw.uniform(2, 4) * np.arange(length) / RATE)
    cycles = np.floor(np.cumsum(voice.pitch * draw.uniform(0.95, 1.05) * middle / RATE))
    pulses = np.flatnonzero(np.diff(cycles))  # (P,)
    is_sound = np.zeros(length, bool)  # loudness glides, but not into a pause: times are exact
    for one in placed:
        is_sound[one.start : one.end] = one.sound is not None
    pulses = pulses[is_sound[pulses] & (loudness[pulses // STEP] > 0.01)]
    if len(pulses):
        time = np.arange(GRAIN) / RATE
        centres = formants[pulses // STEP] * voice.scale  # (P, 3)
        decay = LOUDNESS[:, None] * np.exp(-np.pi * BANDWIDTHS[:, None] * time)
        waves = np.sin(2 * np.pi * centres[..., None] * time) * decay  # (P, 3, G)
        grains = waves.sum(axis=1) * loudness[pulses // STEP][:, None]
        np.add.at(samples, pulses[:, None] + np.arange(GRAIN), grains)
    for one in placed:
        if one.sound is not None and one.sound.noise:
            samples[one.burst : one.end] += _noise(one, voice, draw)
    samples = samples[:length] / abs(samples).max()
    samples += voice.noise * draw.standard_normal(length)
    return (0.5 * samples).astype(np.float32)


def _tracks(placed: Sequence[_Placed], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns formants (T, 3) in Hz and loudness (T,) of the pulses, every `STEP` samples."""
    count = length // STEP + 1
    formants, loudness = np.empty((count, 3)), np.zeros(count)
    before = np.array(_NEUTRAL)
    for one in placed:
        steps = slice(one.start // STEP, one.end // STEP + 1)
        if one.sound is not None:
            before = np.array(one.sound.formants)
            loudness[steps] = one.sound.voiced
            if one.sound.silence:  # a murmur
                loudness[one.start // STEP : one.burst // STEP] = 0.25 * one.sound.voiced
        else:
            loudness[steps] = 0.0
        formants[steps] = before
    window = np.ones(GLIDE) / GLIDE

    def glided(track: np.ndarray) -> np.ndarray:
        return np.convolve(np.pad(track, GLIDE // 2, mode="edge"), window, mode="valid")

    return np.stack([glided(track) for track in formants.T], axis=1), glided(loudness)


def _noise(one: _Placed, voice: Voice, draw: np.random.Generator) -> np.ndarray:
    """Returns the noise of a sound: white noise through one resonance, faded in and out."""
    sound, length = one.sound, one.end - one.burst
    assert sound is not None
    spectrum = np.fft.rfft(draw.standard_normal(length))
    centre = min(sound.noise_at * voice.scale, 0.48 * RATE)
    width = 0.12 * centre + 150
    spectrum /= 1 + ((np.fft.rfftfreq(length, 1 / RATE) - centre) / width) ** 2
    noise = np.fft.irfft(spectrum, length)
    noise *= 2 * sound.noise / max(np.sqrt(np.mean(noise**2)), 1e-9)
    fade = np.minimum(1.0, np.minimum(np.arange(length) + 1, length - np.arange(length)) / 64)
    return noise * fade


def version() -> str:
    """Returns the name of the synthesiser, for the record of a run."""
    return "formants 1"
