"""Made speech: its times are exact, its voices differ, and it sounds the same every time."""

import numpy as np
import pytest

from attnkit.data.sound.formants import HELD_OUT, KNOWN, SOUNDS, Voice, letters_of, speak
from attnkit.data.sound.log_mel import FEATURES, HOP, MELS, STACK, edges, log_mel
from attnkit.data.sound.wav import RATE

CLEAN = Voice("clean", 120, 1.0, 1.0, 0.0)


def test_every_letter_has_a_sound():
    for letter in "abcdefghijklmnopqrstuvwxyz":
        assert letter in SOUNDS
    assert list(letters_of("three")) == ["th", "r", "ee"]
    assert list(letters_of("wash")) == ["w", "a", "sh"]


@pytest.mark.parametrize("text", ["two bags of rice", "the queen will sing", "a"])
def test_word_times_are_those_of_the_samples(text):
    """Without background noise, everything between words is digital silence, but for the decay of
    the last pulse of a word.
    """
    samples, words = speak(text, CLEAN)
    assert samples.dtype == np.float32
    assert np.abs(samples).max() == pytest.approx(0.5)
    assert len(words) == len(text.split())
    decay = 0.035
    sounding = np.zeros(len(samples), bool)
    for (start, end), (after, _) in zip(words, [*words[1:], (len(samples) / RATE, 0)], strict=True):
        assert 0 < start < end <= after
        first, last = round(start * RATE), round(end * RATE)
        assert start * RATE == pytest.approx(first)  # whole samples: nothing was rounded
        sounding[first : last + round(decay * RATE)] = True
        # The word begins at its start: with a stop, after its closure of 40 ms at most.
        assert np.abs(samples[first : first + round(0.06 * RATE)]).max() > 0.01
        assert np.abs(samples[last - round(0.03 * RATE) : last]).max() > 0.01
    assert np.abs(samples[~sounding]).max(initial=0) < 1e-3


def test_it_sounds_the_same_every_time_and_differs_by_voice():
    assert np.array_equal(speak("good morning", CLEAN)[0], speak("good morning", CLEAN)[0])
    lengths, spectra = set(), []
    for voice in (*KNOWN, *HELD_OUT):
        samples, words = speak("good morning", voice)
        lengths.add(len(samples))
        a = round(words[0][0] * RATE)
        spectra.append(np.abs(np.fft.rfft(samples[a : a + 4096])))
    assert len(lengths) == len(KNOWN) + len(HELD_OUT)
    assert {voice.name for voice in KNOWN}.isdisjoint(voice.name for voice in HELD_OUT)
    assert np.corrcoef(spectra).min() < 0.9


def test_a_formant_is_where_the_voice_puts_it():
    """The first formant of a long `o`, by the strongest harmonic near it."""
    for scale in (0.9, 1.2):
        samples, ((start, end),) = speak("oooooooo", Voice("v", 60, scale, 0.5, 0.0))
        middle = samples[round(start * RATE) + 4000 : round(end * RATE) - 4000]
        spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
        hertz = np.fft.rfftfreq(len(middle), 1 / RATE)
        near = (hertz > 150) & (hertz < 550)
        peak = hertz[near][spectrum[near].argmax()]
        assert peak == pytest.approx(SOUNDS["oo"].formants[0] * scale, abs=62)


@pytest.mark.parametrize(("text", "said"), [("3 bags", "no sound for '3'"), ("  ", "nothing")])
def test_what_cannot_be_spoken_is_refused(text, said):
    with pytest.raises(ValueError, match=said):
        speak(text, CLEAN)


def test_a_tone_is_in_its_band_at_its_time():
    """A tone of 1000 Hz from 0.4 s to 0.8 s."""
    time = np.arange(RATE) / RATE
    tone = np.sin(2 * np.pi * 1000 * time) * ((time >= 0.4) & (time < 0.8))
    features = log_mel(tone)
    assert features.shape == (-(-(RATE // HOP + 1) // STACK), FEATURES)
    frames = features.reshape(-1, MELS)
    band = frames[60].argmax()
    loud = np.flatnonzero(frames[:, band] > frames[:, band].max() - 0.5)
    assert (loud[0] * HOP / RATE, loud[-1] * HOP / RATE) == pytest.approx((0.4, 0.8), abs=0.02)
    mel = np.linspace(*(2595 * np.log10(1 + h / 700) for h in (60, RATE / 2)), MELS + 2)
    centre = 700 * (10 ** (mel[band + 1] / 2595) - 1)
    assert centre == pytest.approx(1000, rel=0.08)
    assert log_mel(0.01 * tone) == pytest.approx(features, abs=1e-3)  # loudness does not matter
    assert log_mel(tone[:100]).shape == (1, FEATURES)


def test_positions_follow_each_other():
    assert edges(0) == (0.0, 0.02)
    assert edges(1) == pytest.approx((0.02, 0.06))
