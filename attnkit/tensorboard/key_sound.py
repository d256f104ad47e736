"""The sound whose positions are the keys of a map, for pages and figures.

Importing this module loads only the standard library; its functions load numpy when called.
"""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attnkit.tensorboard.untrusted import ZLIB, MapFormatError, inflate, list_of, require, typed

if TYPE_CHECKING:
    import numpy as np

MOST_CELLS = 2**20
"""Cells of a spectrogram; 4,096 columns of 80 bands are a third of that."""

MOST_SAMPLES = 2**20
"""Samples; a minute at 16 kHz."""


@dataclass(frozen=True, eq=False, repr=False)
class KeySound:
    """A sound whose positions are the keys of a map.

    Args:
        strip: (bands, columns) uint8, its spectrogram, the highest band first; all columns
            together span all keys.
        samples: (N,) int16.
        rate: samples per second.
    """

    strip: np.ndarray
    samples: np.ndarray
    rate: int


def encode(sound: KeySound) -> dict[str, Any]:
    """Returns a sound as JSON: bytes are compressed with zlib, in base64; samples are
    little-endian.

    Raises:
        MapFormatError: if a reader would refuse it.
    """
    import numpy as np

    content = {
        "shape": list(sound.strip.shape),
        "strip": _packed(np.ascontiguousarray(sound.strip, np.uint8).tobytes()),
        "count": len(sound.samples),
        "samples": _packed(np.ascontiguousarray(sound.samples, "<i2").tobytes()),
        "rate": sound.rate,
    }
    check(content)
    return content


def check(content: dict[str, Any]) -> tuple[bytes, bytes]:
    """Checks the JSON of a sound; returns the bytes of its spectrogram and of its samples.

    Raises:
        MapFormatError: if it contradicts itself or exceeds a limit.
    """
    shape, count = list_of(content, "shape", int), typed(content, "count", int)
    rate = typed(content, "rate", int)
    require(len(shape) == 2 and min(shape) > 0, f"a spectrogram is [bands, columns]; got {shape}")
    cells = shape[0] * shape[1]
    require(cells <= MOST_CELLS, f"a spectrogram of {cells} cells; at most {MOST_CELLS} are kept")
    require(0 < count <= MOST_SAMPLES, f"{count} samples; from 1 to {MOST_SAMPLES} are kept")
    require(1000 <= rate <= 768_000, f"{rate} samples per second")
    return (
        inflate(_unpacked(content, "strip"), cells, ZLIB, "a spectrogram"),
        inflate(_unpacked(content, "samples"), 2 * count, ZLIB, "a sound"),
    )


def decode(content: dict[str, Any]) -> KeySound:
    """Reads what `encode` returned.

    Raises:
        MapFormatError: as for `check`.
    """
    import numpy as np

    strip, samples = check(content)
    return KeySound(
        np.frombuffer(strip, np.uint8).reshape(content["shape"]),
        np.frombuffer(samples, "<i2"),
        content["rate"],
    )


def _packed(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content)).decode("ascii")


def _unpacked(content: dict[str, Any], key: str) -> bytes:
    try:
        return base64.b64decode(typed(content, key, str), validate=True)
    except ValueError as error:
        raise MapFormatError(f"key `{key}` of a sound is not base64: {error}") from error
