"""Draws lines, text and axes with Pillow, at a multiple of the final size for smooth edges."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

INK, PAPER = "#1d2126", "#ffffff"

SHARPNESS = 2
"""Pixels per layout unit, for screens of high density."""

SMOOTHING = 2
"""The picture is drawn this much larger and then shrunk: Pillow does not antialias lines."""

MOST_PIXELS = 40_000_000
"""Above this number of pixels a picture is not smoothed, which bounds memory to 120 MB."""

Point = tuple[float, float]


class Canvas:
    """An image addressed in layout units."""

    def __init__(self, width: int, height: int) -> None:
        fits = width * height * (SHARPNESS * SMOOTHING) ** 2 <= MOST_PIXELS
        self.smoothing = SMOOTHING if fits else 1
        self.scale = SHARPNESS * self.smoothing
        self.image = Image.new("RGB", (width * self.scale, height * self.scale), PAPER)
        self.draw = ImageDraw.Draw(self.image, "RGBA")
        self.fonts: dict[int, ImageFont.FreeTypeFont | ImageFont.ImageFont] = {}

    def font(self, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
        """Returns Pillow's built-in font, sized in layout units."""
        if size not in self.fonts:
            self.fonts[size] = ImageFont.load_default(size * self.scale)
        return self.fonts[size]

    def width(self, text: str, size: int = 13) -> float:
        """Returns the width of a text."""
        return self.draw.textlength(text, self.font(size)) / self.scale

    def wrapped(self, text: str, width: float) -> Iterable[str]:
        """Breaks a text into lines of at most `width`; a longer word gets its own line."""
        line = ""
        for word in text.split(" "):
            longer = f"{line} {word}".strip()
            if line and self.width(longer, 12) > width:
                yield line
                line = word
            else:
                line = longer
        yield line

    def text(
        self, at: Point, text: str, *, size: int = 13, colour: str = INK, anchor: str = "lm"
    ) -> None:
        """Writes text; the anchor is one of Pillow's, such as `lm`: left, middle."""
        place = (at[0] * self.scale, at[1] * self.scale)
        self.draw.text(place, text, fill=colour, font=self.font(size), anchor=anchor)

    def line(self, points: Sequence[Point], colour: str, width: float = 1) -> None:
        """Draws a line through points."""
        place = [(x * self.scale, y * self.scale) for x, y in points]
        self.draw.line(place, fill=colour, width=round(width * self.scale), joint="curve")

    def area(self, points: Sequence[Point], colour: str, opacity: int) -> None:
        """Fills a polygon; opacity is at most 255."""
        place = [(x * self.scale, y * self.scale) for x, y in points]
        self.draw.polygon(place, fill=f"{colour}{opacity:02x}")

    def dot(self, at: Point, radius: float, colour: str) -> None:
        """Draws a disc."""
        x, y, r = (value * self.scale for value in (*at, radius))
        self.draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def png(self) -> bytes:
        """Returns the image at its final size, as PNG."""
        out = io.BytesIO()
        self.image.reduce(self.smoothing).save(out, "PNG", optimize=True)
        return out.getvalue()


@dataclass(frozen=True)
class Axis:
    """Maps numbers to layout units."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """Returns the position of a number."""
        scaled = math.log10 if self.logarithmic else float
        span = scaled(self.high) - scaled(self.low) or 1.0
        return self.start + (scaled(value) - scaled(self.low)) / span * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Returns round numbers within the axis."""
        if self.logarithmic:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = [lead * 10.0**power for power in powers for lead in (1, 2, 5)]
            inside = [value for value in found if self.low <= value <= self.high]
            if len(inside) > 2:
                return inside if len(inside) < 9 else inside[::3]
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = power * next(lead for lead in (1, 2, 5, 10) if lead * power >= rough)
        first, last = math.ceil(self.low / step), math.floor(self.high / step + 1e-9)
        return [k * step for k in range(first, last + 1)]


def padded(values: Sequence[float], start: float, end: float, logarithmic: bool = False) -> Axis:
    """Returns an axis with some room around the values."""
    low, high = min(values), max(values)
    if logarithmic:
        room = (high / low) ** 0.08
        return Axis(low / room, high * room, start, end, True)
    space = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    return Axis(low - space, high + space, start, end)
