"""Attention maps as PNG images.

A map becomes palette indices (`colour`), the indices go onto a sheet with text (`contact_sheet`),
and the sheet becomes a PNG of 8 bits per pixel (`palette_png`).
"""

from __future__ import annotations

import functools
import io
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from attnkit.tensorboard.attention_record import AttentionRecord, LayerMap
from attnkit.tensorboard.palettes import (
    DIVERGING_REACH,
    DIVERGING_ZERO,
    INKS,
    MASKED,
    PALETTE,
    PAPER,
    SEQUENTIAL_LEVELS,
)

MAP_PIXELS = 128
"""Maps of fewer tokens are enlarged to about this width, by an integer factor."""

MAX_MAP_PIXELS = 256
"""Longer maps are shrunk to at most this width; a pixel then shows the largest of its cells."""

SHEET_PIXELS = 1600
"""Sheets of many heads have smaller maps, so that they are about this wide."""

Scale = Literal["row", "map", "one"]
"""What the brightest colour stands for: the row's largest weight, the map's largest, or 1."""

_FONT_PIXELS = 14
_LINE = 20
_GUTTER = 10
_MARGIN = 12
_MIN_SHEET_PIXELS = 440


class Image(NamedTuple):
    """A PNG file's bytes, with its width and height in pixels."""

    png: bytes
    width: int
    height: int


def palette_png(indices: np.ndarray, palette: np.ndarray = PALETTE) -> bytes:
    """Returns a PNG file of 8-bit palette indices.

    Args:
        indices: (height, width) uint8.
        palette: (n, 3) uint8, n at most 256 and more than the largest index.
    """
    image = Pillow.fromarray(indices)
    image.putpalette(palette.tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def colour(
    weights: np.ndarray,
    allowed: np.ndarray | None = None,
    signed: bool = False,
    scale: Scale = "row",
) -> np.ndarray:
    """Turns weights (..., Q, K) into palette indices.

    Args:
        weights: floats; without `signed`, negative weights count as zero.
        allowed: booleans that broadcast to the weights; other cells get `palettes.MASKED`.
        signed: use the diverging scale, with zero in its middle.
        scale: the weight that gets the brightest colour: the largest of its row, the largest of its
            map, or 1.
    """
    if scale == "one":
        shares = np.clip(weights, -1, 1)
    else:
        peaks = abs(weights).max(axis=-1 if scale == "row" else (-2, -1), keepdims=True)
        # If all weights are zero, they remain so with any divisor.
        shares = weights / np.where(peaks > 0, peaks, 1)
    if signed:
        indices = np.rint(DIVERGING_ZERO + DIVERGING_REACH * shares).astype(np.uint8)
    else:
        indices = ((SEQUENTIAL_LEVELS - 1) * shares.clip(0) + 0.5).astype(np.uint8)
    if allowed is not None:
        indices[~np.broadcast_to(allowed, indices.shape)] = MASKED
    return indices


def contact_sheet(record: AttentionRecord, step: int | None) -> Image:
    """Draws all maps of a record, one row per layer and one column per head.

    Layers may have different numbers of heads. A title and a colour key are above the maps.

    Args:
        record: what to draw.
        step: training step in the title; None: not shown.
    """
    longest = max(len(record.query_tokens), len(record.key_tokens))
    columns = max(len(layer.weights) for layer in record.layers)
    shrink = -(-longest // MAX_MAP_PIXELS)
    zoom = max(1, min(MAP_PIXELS, SHEET_PIXELS // columns) // longest)
    rows = [_enlarge(_tiles(layer, shrink), zoom) for layer in record.layers]

    tile_height, tile_width = rows[0].shape[1:]
    row_names = [f"L{index}" for index in range(len(rows))]
    left = _MARGIN + _width(row_names[-1]) + _GUTTER // 2
    across = _GUTTER + max(tile_width, _width(f"H{columns - 1}"))
    down = _GUTTER + max(tile_height, _LINE)
    width = max(left + columns * across - _GUTTER + _MARGIN, _MIN_SHEET_PIXELS)
    header = _header(record, step, shrink, width)
    top = len(header) + _LINE
    sheet = np.full((top + len(rows) * down - _GUTTER + _MARGIN, width), PAPER, dtype=np.uint8)

    sheet[: len(header)] = header
    for column in range(columns):
        _write(sheet, f"H{column}", left + column * across, top - _LINE)
    for row, tiles in enumerate(rows):
        y = top + row * down
        _write(sheet, row_names[row], _MARGIN, y + (tile_height - _LINE) // 2)
        for column, tile in enumerate(tiles):
            x = left + column * across
            sheet[y : y + tile_height, x : x + tile_width] = tile
    return Image(palette_png(sheet), width, len(sheet))


def _header(record: AttentionRecord, step: int | None, shrink: int, width: int) -> np.ndarray:
    """Returns title and colour key as (height, width) indices."""
    title = f"{record.site}, {record.example}" + ("" if step is None else f", step {step}")
    reading = (
        f"Rows are layers, columns are heads; {len(record.query_tokens)} queries down, "
        f"{len(record.key_tokens)} keys across. A row of equal weights is bright."
    )
    if any(layer.norm == "unnormalised" for layer in record.layers):
        reading += " Rows need not sum to 1."
    if shrink > 1:
        reading += f" A pixel is the largest of {shrink} x {shrink} cells."
    lines = [line for words in (title, reading, record.note) for line in _wrap(words, width)]
    key = _key(record)
    header = np.full((_MARGIN + (len(lines) + len(key)) * _LINE + _GUTTER, width), PAPER, np.uint8)
    for index, words in enumerate(lines):
        _write(header, words, _MARGIN, _MARGIN + index * _LINE)
    for index, (colours, words) in enumerate(key, start=len(lines)):
        y = _MARGIN + index * _LINE
        header[y + 2 : y + 2 + _FONT_PIXELS, _MARGIN : _MARGIN + len(colours)] = colours
        _write(header, words, _MARGIN + len(colours) + _GUTTER, y)
    return header


def _key(record: AttentionRecord) -> list[tuple[np.ndarray, str]]:
    """Colour key: bars of palette indices, each with its meaning."""
    norms = {layer.norm for layer in record.layers}
    key = []
    if norms != {"signed"}:
        key.append((np.arange(SEQUENTIAL_LEVELS), "0 to the row's largest"))
    if "signed" in norms:
        reach = np.arange(-DIVERGING_REACH, DIVERGING_REACH)
        key.append((DIVERGING_ZERO + reach, "signed: below 0, above"))
    if any(layer.allowed is not None for layer in record.layers):
        key.append((np.full(SEQUENTIAL_LEVELS, MASKED), "masked out"))
    return key


def _tiles(layer: LayerMap, shrink: int) -> np.ndarray:
    """Palette indices (H, ceil(Q / shrink), ceil(K / shrink)) of a layer."""
    weights, allowed = layer.weights, layer.allowed
    signed = layer.norm == "signed"
    if shrink > 1:
        highest = _pool(np.maximum, weights, shrink)
        lowest = _pool(np.minimum, weights, shrink)
        weights = np.where(highest >= -lowest, highest, lowest) if signed else highest
        allowed = None if allowed is None else _pool(np.logical_or, allowed, shrink)
    return colour(weights, allowed, signed)


def _pool(reduction: np.ufunc, cells: np.ndarray, shrink: int) -> np.ndarray:
    for axis in (-2, -1):
        cells = reduction.reduceat(cells, range(0, cells.shape[axis], shrink), axis=axis)
    return cells


def _enlarge(tiles: np.ndarray, zoom: int) -> np.ndarray:
    return tiles.repeat(zoom, axis=-2).repeat(zoom, axis=-1)


@functools.cache
def _font() -> Any:
    return ImageFont.load_default(_FONT_PIXELS)


def _width(words: str) -> int:
    return int(np.ceil(_font().getlength(words)))


def _wrap(words: str, width: int) -> list[str]:
    """Breaks words into lines for a sheet `width` pixels wide. A character outside ASCII, which the
    font may lack, becomes an escape (`\\xe9`).
    """
    lines: list[str] = []
    for word in words.encode("ascii", "backslashreplace").decode().split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _width(longer) <= width - 2 * _MARGIN:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _write(sheet: np.ndarray, words: str, x: int, y: int) -> None:
    """Draws words onto paper, the upper left corner at (x, y)."""
    cells = sheet[y : y + _LINE, x : x + _width(words)]
    ink = Pillow.new("L", (cells.shape[1], cells.shape[0]))
    ImageDraw.Draw(ink).text((0, 0), words, fill=255, font=_font())
    cells[:] = INKS[np.asarray(ink).astype(int) * (len(INKS) - 1) // 255]
