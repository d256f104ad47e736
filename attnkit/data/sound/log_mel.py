"""Sound as the model reads it: log-mel energies, in positions of 40 ms.

Frame f is centred at f hops. A *position* is a group of `STACK` frames; two strided convolutions
turn it into one vector, centred at its first frame.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from attnkit.data.sound.wav import RATE

HOP = 160
"""Samples between frames: 10 ms."""

WINDOW, FFT = 400, 512
"""Samples of a frame: 25 ms, zero-padded."""

MELS = 40
"""Bands of a frame."""

STACK = 4
"""Frames per position; two convolutions of stride 2 turn them into one vector."""

FEATURES = STACK * MELS
"""Number of features per position."""

SECONDS = STACK * HOP / RATE
"""Length of a position in seconds."""


def log_mel(samples: np.ndarray) -> np.ndarray:
    """Returns features of a sound: (N,) samples -> (S, FEATURES) float32.

    Energies of bands that are equally wide in mel (O'Shaughnessy 1987), as logarithms. The loudest
    sample is set to 0.5, and the mean of each band over the sound is subtracted, so that neither
    loudness nor microphone matters. The last position is padded with zeros.
    """
    wave = torch.from_numpy(np.array(samples, np.float32))
    wave *= 0.5 / max(float(wave.abs().max()), 1e-6)
    if len(wave) < FFT:
        wave = torch.nn.functional.pad(wave, (0, FFT - len(wave)))
    window = torch.hann_window(WINDOW)
    spectrum = torch.stft(wave, FFT, HOP, WINDOW, window, return_complex=True)
    energies = _filters() @ spectrum.abs().square()  # (MELS, FFT / 2 + 1) @ (FFT / 2 + 1, frames)
    frames = torch.log(energies + 1e-5).T  # (frames, MELS)
    frames = (frames - frames.mean(dim=0)) / 4
    missing = -len(frames) % STACK
    frames = torch.nn.functional.pad(frames, (0, 0, 0, missing))
    return frames.reshape(-1, FEATURES).numpy()


@cache
def _filters() -> Tensor:
    """Triangles (MELS, FFT / 2 + 1) from 60 Hz to half of the rate."""
    low, high = (2595 * np.log10(1 + hertz / 700) for hertz in (60, RATE / 2))
    edges = 700 * (10 ** (np.linspace(low, high, MELS + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(FFT, 1 / RATE)
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    return torch.from_numpy(np.maximum(0, np.minimum(rising, falling)).astype(np.float32))


def spectrogram(features: np.ndarray) -> np.ndarray:
    """Returns features (S, FEATURES) as a picture (MELS, S STACK), low bands last, from 0 to 1."""
    frames = features.reshape(-1, MELS).astype(np.float64)
    filled = ~frames.any(axis=1)  # up to a whole position
    low, high = np.quantile(frames[~filled], (0.05, 0.995)) if not filled.all() else (0.0, 1.0)
    picture = np.clip((frames - low) / max(high - low, 1e-6), 0, 1)
    picture[filled] = 0
    return picture.T[::-1]


def edges(position: int) -> tuple[float, float]:
    """Returns start and end of a position in seconds: half of its length around its centre."""
    return max((position - 0.5) * SECONDS, 0.0), (position + 0.5) * SECONDS
