"""Reads and writes WAV files as samples at one rate."""

from __future__ import annotations

import io
import wave
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from attnkit.errors import DataError

RATE = 16000
"""Samples per second of all sound in the kit."""

LOBES = 16
"""Zero crossings of the windowed sinc on each side."""


class Recording(NamedTuple):
    """The contents of a WAV file.

    Attributes:
        samples: (N,) float32 at `RATE`, from -1 to 1, channels averaged.
        changes: conversions ("resampled from 44100 Hz"); empty: none.
    """

    samples: np.ndarray
    changes: tuple[str, ...]


def read_wav(path: Path) -> Recording:
    """Reads a WAV file of 8, 16, 24 or 32 bits.

    Raises:
        DataError: if it is missing, damaged, empty or not PCM; names the file.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist (seen from {Path.cwd()})")
    try:
        with wave.open(str(path)) as file:
            channels, width, rate, frames = file.getparams()[:4]
            content = file.readframes(frames)
    except (wave.Error, EOFError, OSError, RuntimeError) as error:
        why = str(error) or "it ends too early"
        raise DataError(
            f"{path} is not a readable WAV file ({why}); convert it to PCM, such as 16 bits"
        ) from error
    samples = _floats(content, width)
    if samples is None or not 1 <= channels <= 64 or not 1000 <= rate <= 768_000:
        raise DataError(
            f"{path} has {8 * width} bits, {channels} channels and {rate} Hz; convert it to PCM of "
            "8, 16, 24 or 32 bits"
        )
    if len(content) != frames * channels * width:
        raise DataError(f"{path} is truncated: its header declares {frames:,} samples; restore it")
    if not len(samples):
        raise DataError(f"{path} contains no samples; remove it")
    changes = []
    if channels > 1:
        samples = samples.reshape(-1, channels).mean(axis=1)
        changes.append(f"{channels} channels averaged")
    if rate != RATE:
        samples = resampled(samples, rate)
        changes.append(f"resampled from {rate} Hz to {RATE} Hz")
    return Recording(samples.astype(np.float32), tuple(changes))


def _floats(content: bytes, width: int) -> np.ndarray | None:
    """Returns PCM as floats from -1 to 1; None for an unsupported width."""
    content = content[: len(content) // width * width] if width else b""
    if width == 1:  # unsigned, unlike the others
        return (np.frombuffer(content, np.uint8).astype(np.float64) - 128) / 128
    if width == 3:
        raw = np.frombuffer(content, np.uint8).reshape(-1, 3)
        shifted = np.zeros((len(raw), 4), np.uint8)
        shifted[:, 1:] = raw
        return shifted.view("<i4")[:, 0] / 2**31
    if width in (2, 4):
        return np.frombuffer(content, f"<i{width}") / 2.0 ** (8 * width - 1)
    return None


def resampled(samples: np.ndarray, rate: int) -> np.ndarray:
    """Resamples to `RATE` by a windowed sinc (Smith 2002, digital audio resampling).

    Args:
        samples: (N,) floats.
        rate: their samples per second.

    Returns:
        (ceil(N RATE / rate),) floats.
    """
    common = int(np.gcd(rate, RATE))
    old, new = rate // common, RATE // common
    # Frequencies above half of the lower rate would be aliased.
    cutoff = 0.95 * min(old, new)
    reach = int(np.ceil(LOBES * old / cutoff))
    inputs = np.arange(-reach, reach + old) / old  # (K,)
    times = (inputs[None] - np.arange(new)[:, None] / new) * cutoff  # (new, K)
    window = np.cos(np.pi / 2 * np.clip(times / LOBES, -1, 1)) ** 2
    kernels = np.sinc(times) * window * cutoff / old
    padded = F.pad(torch.from_numpy(samples.astype(np.float64))[None, None], (reach, reach + old))
    found = F.conv1d(padded, torch.from_numpy(kernels)[:, None], stride=old)  # (1, new, M)
    length = -(-len(samples) * new // old)
    return found[0].T.flatten()[:length].numpy()


def wav_bytes(samples: np.ndarray) -> bytes:
    """Returns samples at `RATE` as a WAV file of 16 bits."""
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return content.getvalue()
