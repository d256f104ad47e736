"""The 256 colours of every image: two scales, and the colours of everything else.

Both scales share a palette, since a sheet may show both probabilities and signed layers.
"""

from __future__ import annotations

import numpy as np

SEQUENTIAL_LEVELS = 120
"""Indices 0 to 119: weights from zero (dark) to the largest (bright)."""

DIVERGING_ZERO = 180
DIVERGING_REACH = 60
"""Indices 120 to 240: negative weights below `DIVERGING_ZERO` (blue), positive above (red)."""

MASKED = 250
INKS = np.array([251, 241, 242, 243, 244, 245, 246, 252], dtype=np.uint8)
"""Paper, intermediate shades for the edges of letters, and ink."""

PAPER, INK = int(INKS[0]), int(INKS[-1])

# Cividis (Nunez, Anderton and Renslow 2018): readable with colour-blindness and in grey.
_SEQUENTIAL = "00224e 123570 3b496c 575d6d 707173 8a8678 a59c74 c3b369 e1cc55 fee838"
# RdBu (Brewer), blue first.
_DIVERGING = "053061 2166ac 4393c3 92c5de d1e5f0 f7f7f7 fddbc7 f4a582 d6604d b2182b 67001f"


def _ramp(anchors: str, levels: int) -> np.ndarray:
    """Interpolates evenly spaced anchor colours (hexadecimal); returns (levels, 3) uint8."""
    colours = np.array([list(bytes.fromhex(anchor)) for anchor in anchors.split()])
    positions = np.linspace(0, len(colours) - 1, levels)
    channels = [np.interp(positions, range(len(colours)), channel) for channel in colours.T]
    return np.rint(np.stack(channels, axis=1)).astype(np.uint8)


def _palette() -> np.ndarray:
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[:SEQUENTIAL_LEVELS] = _ramp(_SEQUENTIAL, SEQUENTIAL_LEVELS)
    first = DIVERGING_ZERO - DIVERGING_REACH
    levels = 2 * DIVERGING_REACH + 1
    palette[first : first + levels] = _ramp(_DIVERGING, levels)
    palette[MASKED] = (205, 205, 210)
    palette[INKS] = np.linspace(255, 40, len(INKS)).round()[:, None]
    return palette


PALETTE = _palette()
"""(256, 3) uint8, red, green and blue."""
