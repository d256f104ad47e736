"""One attention map with its words, large enough to be read: for documents, not for training.

A PNG is drawn by Pillow with a font of this machine; an SVG leaves the fonts to whoever shows it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from attnkit.tensorboard.images import colour
from attnkit.tensorboard.palettes import PALETTE

CELL = 28
"""Pixels of a cell."""

FONT_SIZE = 18
MARGIN = 16

FONT_VARIABLE = "ATTNKIT_FONT"
"""Environment variable that names a font file (.ttf, .otf, .ttc) to be taken before all others."""

FONT_FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "C:/Windows/Fonts",
)

PREFERRED = ("NotoSansCJK", "NotoSansKR", "NanumGothic", "AppleSDGothic", "malgun", "DejaVuSans.")


class FontError(ValueError):
    """No font on this machine has the letters of a text."""


def draw_token_map(
    weights: np.ndarray,
    query_tokens: Sequence[str],
    key_tokens: Sequence[str],
    title: str,
    path: Path,
) -> None:
    """Draws a map, queries down and keys across, as `.png` or `.svg` by the file's name.

    Args:
        weights: (Q, K), not negative; each row is coloured by its own largest.
        query_tokens: Q words.
        key_tokens: K words.
        title: stands above.
        path: the file; what is there is replaced.

    Raises:
        ValueError: if the name ends in neither, or if no font has all letters (`FontError`).
        OSError: if the file cannot be written.
    """
    draw = {".png": _png, ".svg": _svg}.get(path.suffix.lower())
    if draw is None:
        raise ValueError(f"{path}: the name of a picture must end in .png or .svg")
    colours = PALETTE[colour(weights)]  # (Q, K, 3)
    queries, keys = [_shown(t) for t in query_tokens], [_shown(t) for t in key_tokens]
    content = draw(colours, queries, keys, title)
    path.write_bytes(content)


def _shown(token: str) -> str:
    """A token as a word; the space before it is not shown."""
    return token.strip() or "␣"


def _png(colours: np.ndarray, queries: list[str], keys: list[str], title: str) -> bytes:
    from io import BytesIO

    from PIL import Image, ImageDraw

    font = _font("".join((*queries, *keys, title)))
    left = MARGIN + int(max(font.getlength(word) for word in queries)) + 8
    above = int(max(font.getlength(word) for word in keys)) + 8
    top = MARGIN + 2 * FONT_SIZE + above
    count, across = colours.shape[:2]
    width = max(left + across * CELL, int(font.getlength(title)) + MARGIN) + MARGIN
    sheet = Image.new("RGB", (width, top + count * CELL + MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN), title, fill="black", font=font)
    cells = Image.fromarray(colours.repeat(CELL, axis=0).repeat(CELL, axis=1))
    sheet.paste(cells, (left, top))
    for row, word in enumerate(queries):
        pen.text((left - 8, top + row * CELL + CELL // 2), word, "black", font, anchor="rm")
    for column, word in enumerate(keys):
        strip = Image.new("RGB", (above, CELL), "white")
        ImageDraw.Draw(strip).text((0, CELL // 2), word, "black", font, anchor="lm")
        sheet.paste(strip.rotate(90, expand=True), (left + column * CELL, top - above))
    file = BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def _svg(colours: np.ndarray, queries: list[str], keys: list[str], title: str) -> bytes:
    # Nobody knows the widths of the letters here: wide ones (Hangul) take the size of the font.
    left, above = (
        MARGIN
        + 8
        + FONT_SIZE * max(sum(1.0 if ord(c) > 0x1100 else 0.62 for c in w) for w in words)
        for words in (queries, keys)
    )
    top = 2 * MARGIN + FONT_SIZE + above
    count, across = colours.shape[:2]
    width = max(left + across * CELL, MARGIN + 0.62 * FONT_SIZE * len(title)) + MARGIN
    height = top + count * CELL + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'font-family="sans-serif" font-size="{FONT_SIZE}">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{MARGIN}" y="{MARGIN + FONT_SIZE}">{escape(title)}</text>',
    ]
    for row, word in enumerate(queries):
        y = top + row * CELL
        parts.append(
            f'<text x="{left - 8:.0f}" y="{y + CELL * 0.7:.0f}" text-anchor="end">'
            f"{escape(word)}</text>"
        )
        for column in range(across):
            r, g, b = colours[row, column].tolist()
            x = left + column * CELL
            parts.append(
                f'<rect x="{x:.0f}" y="{y:.0f}" width="{CELL}" height="{CELL}" '
                f'fill="rgb({r},{g},{b})"/>'
            )
    for column, word in enumerate(keys):
        x, y = left + column * CELL + CELL * 0.7, top - 8
        parts.append(
            f'<text transform="translate({x:.0f} {y:.0f}) rotate(-90)">{escape(word)}</text>'
        )
    return "\n".join([*parts, "</svg>\n"]).encode()


def _font(text: str) -> Any:
    """The first font that has all letters of a text.

    Raises:
        FontError: if there is none; says what to do.
    """
    from PIL import ImageFont

    letters = sorted({c for c in text if not c.isspace()})
    best: list[str] = letters
    for path in _font_files():
        try:
            font = ImageFont.truetype(str(path), FONT_SIZE)
        except OSError:
            continue
        missing = _ink(font, "\U0010fffd")
        lacking = [c for c in letters if _ink(font, c) == missing]
        if not lacking:
            return font
        best = min(best, lacking, key=len)
    raise FontError(
        f"no font on this machine has {' '.join(best[:8])}; install one (such as Noto Sans CJK), "
        f"name a font file in ${FONT_VARIABLE}, or write a .svg, which needs none here"
    )


def _ink(font: Any, letter: str) -> bytes:
    """How a font draws a letter; one that it lacks is drawn as any other that it lacks."""
    return bytes(font.getmask(letter))


def _font_files() -> list[Path]:
    """Font files of this machine, those that are likely to serve first."""
    named = os.environ.get(FONT_VARIABLE)
    folders = [Path(folder).expanduser() for folder in FONT_FOLDERS]
    found = [
        file
        for folder in folders
        if folder.is_dir()
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in (".ttf", ".otf", ".ttc")
    ]

    def rank(file: Path) -> int:
        names = [i for i, name in enumerate(PREFERRED) if name.lower() in file.name.lower()]
        return names[0] if names else len(PREFERRED)

    return [*([Path(named)] if named else []), *sorted(found, key=rank)]
