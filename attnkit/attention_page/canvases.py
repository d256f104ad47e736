"""Canvases for figures: PNG (Pillow), SVG (text), or a matplotlib figure, which can also write PDF.
All three have the same few methods; see `figure.py`.
"""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from functools import cache
from html import escape
from pathlib import Path
from typing import Any, Literal

import numpy as np

INK, PAPER = "#1d2126", "#ffffff"

SPACE = "␣"
"""The sign for a space in a token, here and on every page."""

FONT_VARIABLE = "ATTNKIT_FONT"
"""Environment variable with a font file (.ttf, .otf, .ttc) to try first."""

FONT_FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "C:/Windows/Fonts",
)

PREFERRED = ("DejaVuSans.", "NotoSansCJK", "NotoSansKR", "NanumGothic", "AppleSDGothic", "malgun")

Anchor = Literal["left", "middle", "right"]


class FontError(ValueError):
    """No font on this machine has all characters of a text."""


class FigureError(ValueError):
    """A figure cannot be drawn here; the message names what is missing."""


class Canvas(ABC):
    """A white sheet, measured in points from its upper left corner.

    Args:
        width: of the sheet.
        height: of the sheet.
        words: all text that will be drawn, used to choose a font.
    """

    def __init__(self, width: float, height: float, words: str) -> None:
        self.width, self.height, self.words = width, height, words

    @abstractmethod
    def text(
        self,
        x: float,
        y: float,
        words: str,
        size: float,
        anchor: Anchor = "left",
        *,
        up: bool = False,
    ) -> None:
        """Writes text centred at height `y`; `up`: rotated, to be read upwards from (x, y)."""

    @abstractmethod
    def cells(self, x: float, y: float, colours: np.ndarray, cell: tuple[float, float]) -> None:
        """Draws colours (rows, columns, 3) uint8 as rectangles of `cell` width and height."""

    @abstractmethod
    def content(self) -> bytes:
        """Returns the contents of the file."""


class PngCanvas(Canvas):
    """A sheet drawn by Pillow, with two pixels per point."""

    ZOOM = 2

    def __init__(self, width: float, height: float, words: str) -> None:
        super().__init__(width, height, words)
        from PIL import Image, ImageDraw

        size = (round(width * self.ZOOM), round(height * self.ZOOM))
        self.image = Image.new("RGB", size, PAPER)
        self.draw = ImageDraw.Draw(self.image)
        self.font_file = font_file(words)
        self.space = SPACE if self.font_file is not None else "_"  # not in Pillow's built-in font

    def text(
        self,
        x: float,
        y: float,
        words: str,
        size: float,
        anchor: Anchor = "left",
        *,
        up: bool = False,
    ) -> None:
        from PIL import Image, ImageDraw

        words = words.replace(SPACE, self.space)
        font = _pillow_font(self.font_file, round(size * self.ZOOM))
        x, y = round(x * self.ZOOM), round(y * self.ZOOM)
        if not up:
            side = {"left": "lm", "middle": "mm", "right": "rm"}[anchor]
            self.draw.text((x, y), words, INK, font, anchor=side)
            return
        length, tall = int(font.getlength(words)) + 2, round(2 * size * self.ZOOM)
        ink = Image.new("L", (length, tall), 0)
        ImageDraw.Draw(ink).text((0, tall // 2), words, 255, font, anchor="lm")
        turned = ink.rotate(90, expand=True)
        self.image.paste(INK, (x - tall // 2, y - length), turned)

    def cells(self, x: float, y: float, colours: np.ndarray, cell: tuple[float, float]) -> None:
        from PIL import Image

        rows, columns = colours.shape[:2]
        size = (round(columns * cell[0] * self.ZOOM), round(rows * cell[1] * self.ZOOM))
        tiles = Image.fromarray(colours).resize(size, Image.Resampling.NEAREST)
        self.image.paste(tiles, (round(x * self.ZOOM), round(y * self.ZOOM)))

    def content(self) -> bytes:
        file = io.BytesIO()
        self.image.save(file, "PNG", dpi=(72 * self.ZOOM, 72 * self.ZOOM))
        return file.getvalue()


class SvgCanvas(Canvas):
    """A sheet written as text; the viewer chooses the fonts."""

    def __init__(self, width: float, height: float, words: str) -> None:
        super().__init__(width, height, words)
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif" fill="{INK}">',
            f'<rect width="100%" height="100%" fill="{PAPER}"/>',
        ]

    def text(
        self,
        x: float,
        y: float,
        words: str,
        size: float,
        anchor: Anchor = "left",
        *,
        up: bool = False,
    ) -> None:
        turn = f' transform="rotate(-90 {x:.2f} {y:.2f})"' if up else ""
        side = {"left": "start", "middle": "middle", "right": "end"}[anchor]
        self.parts.append(
            f'<text x="{x:.2f}" y="{y:.2f}" font-size="{size:.1f}" text-anchor="{side}" '
            f'dominant-baseline="central" xml:space="preserve"{turn}>{escape(words)}</text>'
        )

    def cells(self, x: float, y: float, colours: np.ndarray, cell: tuple[float, float]) -> None:
        # One path per colour, with a run of equal cells as one rectangle: a tenth of the size.
        across, down = cell
        paths: dict[tuple[int, ...], list[str]] = {}
        for row, line in enumerate(colours):
            ends = np.flatnonzero(np.any(line[1:] != line[:-1], axis=-1)) + 1
            for start, stop in zip([0, *ends], [*ends, len(line)], strict=True):
                left, top, wide = x + start * across, y + row * down, (stop - start) * across
                paths.setdefault(tuple(line[start].tolist()), []).append(
                    f"M{left:.2f} {top:.2f}h{wide:.2f}v{down:.2f}h-{wide:.2f}z"
                )
        for (red, green, blue), pieces in paths.items():
            self.parts.append(
                f'<path fill="#{red:02x}{green:02x}{blue:02x}" shape-rendering="crispEdges" '
                f'd="{"".join(pieces)}"/>'
            )

    def content(self) -> bytes:
        return "\n".join([*self.parts, "</svg>\n"]).encode()


class MatplotlibCanvas(Canvas):
    """A matplotlib figure (`figure`) for notebooks; its contents are a PDF with selectable text.

    Raises:
        FigureError: if matplotlib is not installed.
    """

    def __init__(self, width: float, height: float, words: str) -> None:
        super().__init__(width, height, words)
        try:
            from matplotlib.figure import Figure
            from matplotlib.font_manager import FontProperties
        except ImportError as error:
            raise FigureError(
                "this needs matplotlib, which is not installed: pip install 'attnkit[figures]'; "
                ".png and .svg work without it"
            ) from error
        self.figure = Figure(figsize=(width / 72, height / 72), facecolor=PAPER)
        file = font_file(words)
        self.font = FontProperties() if file is None else FontProperties(fname=str(file))

    def text(
        self,
        x: float,
        y: float,
        words: str,
        size: float,
        anchor: Anchor = "left",
        *,
        up: bool = False,
    ) -> None:
        font = self.font.copy()
        font.set_size(size)
        self.figure.text(
            x / self.width,
            1 - y / self.height,
            words.replace("$", r"\$"),  # otherwise matplotlib reads text between two as a formula
            color=INK,
            fontproperties=font,
            rotation=90 if up else 0,
            ha="center" if up or anchor == "middle" else anchor,
            va="bottom" if up else "center_baseline",
        )

    def cells(self, x: float, y: float, colours: np.ndarray, cell: tuple[float, float]) -> None:
        rows, columns = colours.shape[:2]
        wide, tall = columns * cell[0] / self.width, rows * cell[1] / self.height
        axes = self.figure.add_axes((x / self.width, 1 - y / self.height - tall, wide, tall))
        axes.imshow(colours, interpolation="nearest", aspect="auto")
        axes.set_axis_off()

    def content(self) -> bytes:
        from matplotlib import rc_context

        file = io.BytesIO()
        with rc_context({"pdf.fonttype": 42}):  # text stays text, for editing
            self.figure.savefig(file, format="pdf", metadata={"CreationDate": None})
        return file.getvalue()


@cache
def _pillow_font(file: Path | None, size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size) if file is None else ImageFont.truetype(str(file), size)


@cache
def font_file(text: str) -> Path | None:
    """Returns the first font on this machine with all characters of a text; None if Pillow's
    built-in font has them.

    Raises:
        FontError: if there is none; the message names the remedy.
    """
    letters = sorted({c for c in text if not c.isspace() and c != SPACE})
    best: list[str] = letters
    for path in [*_font_files(), None]:
        try:
            font = _pillow_font(path, 16)
        except OSError:
            continue
        missing = _ink(font, "\U0010fffd")
        lacking = [c for c in letters if _ink(font, c) == missing]
        if not lacking:
            return path
        best = min(best, lacking, key=len)
    raise FontError(
        f"no font on this machine has {' '.join(best[:8])}; install one (such as Noto Sans CJK), "
        f"name a font file in ${FONT_VARIABLE}, or write a .svg, which needs none here"
    )


def _ink(font: Any, letter: str) -> bytes:
    """Returns the pixels of a character in a font; all missing ones look the same."""
    return bytes(font.getmask(letter))


def _font_files() -> list[Path]:
    """Returns the font files of this machine, the most suitable first."""
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
