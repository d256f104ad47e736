"""Attention maps as a figure for a document: tokens along the axes, a title, a colour bar.

TensorBoard's pictures are drawn by `tensorboard/images.py`, which is fast enough for training.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attnkit.attention_page.canvases import (
    SPACE,
    Canvas,
    MatplotlibCanvas,
    PngCanvas,
    SvgCanvas,
)
from attnkit.tensorboard.attention_record import AttentionRecord, LayerMap
from attnkit.tensorboard.images import Scale, colour
from attnkit.tensorboard.palettes import (
    DIVERGING_REACH,
    DIVERGING_ZERO,
    MASKED,
    PALETTE,
    SEQUENTIAL_LEVELS,
)

CANVASES: dict[str, type[Canvas]] = {
    ".png": PngCanvas,
    ".svg": SvgCanvas,
    ".pdf": MatplotlibCanvas,
}

MARGIN, GAP = 16, 14
TITLE, WORDS = 15, 11
"""Font sizes, in points."""

MIN_CELL_WITH_TOKENS = 5.5
"""Smallest cell with room for a token beside it."""

PANEL, ALONE = 150, 560
"""Largest size in points of one of many maps, or of a single one, unless its cells get too small.
"""

STRIP = 60
"""Height in points of a spectrogram above a single map."""

NORMS = {
    "rows": "each row sums to 1",
    "unnormalised": "rows need not sum to 1",
    "signed": "weights of either sign",
}

_ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


@dataclass(frozen=True)
class Panel:
    """One map of a figure: a layer, and a head (None: the mean of all)."""

    layer: LayerMap
    head: int | None

    @property
    def weights(self) -> np.ndarray:
        """(Q, K)"""
        return self.layer.weights.mean(0) if self.head is None else self.layer.weights[self.head]

    @property
    def allowed(self) -> np.ndarray | None:
        """(Q, K) booleans, or None: everywhere."""
        allowed = self.layer.allowed
        if allowed is None or allowed.ndim == 2:
            return allowed
        return np.any(allowed, axis=0) if self.head is None else allowed[self.head]

    @property
    def name(self) -> str:
        """Title of the map."""
        is_mean = self.head is None or self.layer.is_of_all_heads
        head = "mean of heads" if is_mean else f"head {self.head}"
        return f"layer {self.layer.name.removeprefix('L')}, {head}"


def visible(token: str) -> str:
    """Makes a token readable: a space becomes `␣`, other invisible characters are escaped."""
    shown = "".join(_visible_letter(letter) for letter in token)
    return shown or "[]"


def _visible_letter(letter: str) -> str:
    if letter == " ":
        return SPACE
    if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"):
        return _ESCAPES.get(letter, f"\\u{ord(letter):04x}")
    return letter


def panels_of(
    record: AttentionRecord, layer: int | None = None, head: int | None = None
) -> list[list[Panel]]:
    """Returns the maps of a figure in rows: a row per layer, a column per head.

    Args:
        record: the maps of one site.
        layer: index of a layer; None: all.
        head: index of a head; None: all.

    Raises:
        ValueError: if the layer or head does not exist.
    """
    layers = list(record.layers)
    if layer is not None:
        if not 0 <= layer < len(layers):
            raise ValueError(f"layer must be from 0 to {len(layers) - 1}, got {layer}")
        layers = [layers[layer]]
    rows = []
    for one in layers:
        count = len(one.weights)
        if head is not None and not 0 <= head < count:
            raise ValueError(f"head must be from 0 to {count - 1}, got {head}")
        rows.append([Panel(one, h) for h in (range(count) if head is None else [head])])
    return rows


def draw(
    rows: Sequence[Sequence[Panel]],
    query_tokens: Sequence[str],
    key_tokens: Sequence[str],
    *,
    title: str,
    subtitle: str = "",
    scale: Scale = "row",
    strip: np.ndarray | None = None,
    canvas: type[Canvas] = PngCanvas,
) -> Canvas:
    """Draws maps of the same tokens: queries downwards, keys across.

    Args:
        rows: rows of maps, from `panels_of`.
        query_tokens: Q texts.
        key_tokens: K texts.
        title: in a larger font.
        subtitle: below the title: the run, the mechanism, the site.
        scale: meaning of the brightest colour, see `images.colour`.
        strip: (rows, columns) uint8, the spectrogram of the sound that the keys are positions of,
            drawn above each map.
        canvas: class of the canvas.

    Raises:
        FontError: if no font on this machine has all characters.
        FigureError: if the canvas needs a package that is not installed.
    """
    queries, keys = [visible(t) for t in query_tokens], [visible(t) for t in key_tokens]
    columns = max(len(row) for row in rows)
    single = columns == len(rows) == 1
    longest = max(len(queries), len(keys))
    cell = min(28.0, max((ALONE if single else PANEL) / longest, 2.0))
    letters = min(WORDS + 2.0, 0.85 * cell) if cell >= MIN_CELL_WITH_TOKENS else 0.0
    left = MARGIN + letters * max(map(_width, queries)) + (6 if letters else 0)
    above = letters * max(map(_width, keys)) + (6 if letters else 0)
    strip_height = 0.0 if strip is None else (STRIP if single else 0.4 * STRIP)
    above += strip_height
    wide, tall = cell * len(keys), cell * len(queries)
    caption = _caption(rows, scale, bool(letters))
    width = max(left + columns * (wide + GAP), 460) + MARGIN
    lines = [*_wrapped(subtitle, width, WORDS), *_wrapped(caption, width, WORDS)]
    head = MARGIN + 1.6 * TITLE * len(_wrapped(title, width, TITLE))
    head += 1.5 * WORDS * len(lines) + 2.2 * WORDS
    down = above + 1.8 * WORDS + tall + GAP
    words = "".join((title, *lines, *queries, *keys, "0123456789 layerheadmnofks"))
    sheet = canvas(width, head + len(rows) * down + MARGIN, words)

    y = MARGIN + 0.6 * TITLE
    for line in _wrapped(title, width, TITLE):
        sheet.text(MARGIN, y, line, TITLE)
        y += 1.6 * TITLE
    for line in lines:
        sheet.text(MARGIN, y, line, WORDS)
        y += 1.5 * WORDS
    _legend(sheet, rows, y, scale)
    for i, row in enumerate(rows):
        top = head + i * down
        for j, panel in enumerate(row):
            x = left + j * (wide + GAP)
            if not single:
                sheet.text(x, top + 0.7 * WORDS, panel.name, 0.9 * WORDS)
            y = top + 1.8 * WORDS + above
            signed = panel.layer.norm == "signed"
            indices = colour(panel.weights, panel.allowed, signed, scale)
            sheet.cells(x, y, PALETTE[indices], (cell, cell))
            if strip is not None:
                size = (wide / strip.shape[1], (strip_height - 4) / strip.shape[0])
                shades = np.repeat(255 - strip[..., None], 3, axis=-1)
                sheet.cells(x, y - above, shades, size)
            if not letters:
                continue
            for k, token in enumerate(keys):
                sheet.text(x + (k + 0.5) * cell, y - 4, token, letters, up=True)
            if j == 0:
                for q, token in enumerate(queries):
                    sheet.text(x - 5, y + (q + 0.5) * cell, token, letters, "right")
    return sheet


def draw_file(suffix: str, *args, **options) -> bytes:
    """Calls `draw` and returns the contents of a file with suffix `.png`, `.svg` or `.pdf`."""
    return draw(*args, **options, canvas=CANVASES[suffix.lower()]).content()


def _caption(rows: Sequence[Sequence[Panel]], scale: Scale, with_tokens: bool) -> str:
    norms = [n for n in NORMS if any(panel.layer.norm == n for row in rows for panel in row)]
    words = f"Rows are queries, columns are keys; {'; '.join(NORMS[n] for n in norms)}."
    if scale == "row":
        words += " Each row is scaled to its own largest weight, so a uniform row is bright."
    elif scale == "map":
        words += " Each map is scaled to its own largest weight."
    if not with_tokens:
        words += " Tokens are omitted at this size; choose one layer and one head to see them."
    return words


def _legend(sheet: Canvas, rows: Sequence[Sequence[Panel]], y: float, scale: Scale) -> None:
    """Draws the colour bars with labels at their ends."""
    panels = [panel for row in rows for panel in row]
    largest = {"row": "the row's largest", "map": "the map's largest", "one": "1"}[scale]
    x = float(MARGIN)

    def words(text: str) -> None:
        nonlocal x
        sheet.text(x, y, text, 0.9 * WORDS)
        x += 0.9 * WORDS * _width(text) + 8

    def bar(indices: np.ndarray, wide: float) -> None:
        nonlocal x
        sheet.cells(x, y - 4.5, PALETTE[indices[None]], (wide / len(indices), 9))
        x += wide + 6

    if any(panel.layer.norm != "signed" for panel in panels):
        words("0")
        bar(np.arange(SEQUENTIAL_LEVELS), 100)
        words(largest)
    if any(panel.layer.norm == "signed" for panel in panels):
        words(f"minus {largest}")
        bar(DIVERGING_ZERO + np.arange(-DIVERGING_REACH, DIVERGING_REACH + 1), 100)
        words(largest)
    if any(panel.allowed is not None and not panel.allowed.all() for panel in panels):
        bar(np.array([MASKED]), 14)
        words("masked")


def _width(words: str) -> float:
    """Estimates the width of text in units of its font size, since the font of an SVG is unknown;
    wide characters (Hangul) count as one unit.
    """
    return sum(1.0 if ord(letter) > 0x1100 else 0.62 for letter in words)


def _wrapped(words: str, width: float, size: float) -> list[str]:
    """Breaks text into lines that fit a sheet."""
    lines: list[str] = []
    for word in re.split(r"\s+", words.strip()) if words.strip() else []:
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and size * _width(longer) <= width - 2 * MARGIN:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
