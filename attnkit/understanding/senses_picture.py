"""The vectors of a word as pictures: figures side by side by layer, and TensorBoard's Projector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from google.protobuf import text_format
from tensorboard.plugins.projector.projector_config_pb2 import (
    ProjectorConfig,  # pyright: ignore[reportAttributeAccessIssue]  # made by protobuf
)

from attnkit.attention_page.canvases import Canvas
from attnkit.attention_page.figure import CANVASES
from attnkit.storage.files import atomic_write
from attnkit.understanding.senses import Senses
from attnkit.understanding.word_vectors import flattened

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
"""Colours of the senses, distinguishable with colour blindness (Okabe and Ito 2008)."""

SUFFIXES = tuple(CANVASES)

SIDE, GAP, DOT = 150, 22, 4
"""Side of a panel, space around it, and side of a dot, in points."""


def draw(founds: Sequence[Senses], suffix: str) -> bytes:
    """Draws the first two principal components of each layer, a row per run.

    Args:
        founds: one word in one run or several.
        suffix: of the file, one of `SUFFIXES`.

    Returns:
        The contents of the file.
    """
    columns = max(len(found.layers) for found in founds)
    width = max(GAP + columns * (SIDE + GAP), 420)
    height = 60 + len(founds) * (SIDE + 52)
    senses = founds[0].senses
    caption = f"{founds[0].word}: one dot per sentence, each panel its own principal components"
    words = " ".join([caption, *senses, *(found.title for found in founds)])
    sheet: Canvas = CANVASES[suffix](width, height, words)
    sheet.text(GAP, 18, caption, 11)
    x = float(GAP)
    for sense, colour in zip(senses, _cycled(len(senses)), strict=True):
        _dot(sheet, x + 4, 38, colour, 8)
        sheet.text(x + 14, 38, sense, 10)
        x += 34 + 7 * len(sense)
    for row, found in enumerate(founds):
        top = 60 + row * (SIDE + 52)
        sheet.text(GAP, top, found.title, 9)
        for number, layer in enumerate(found.layers):
            left = GAP + number * (SIDE + GAP)
            name = f"layer {number}" if number else "embedding"
            sheet.text(left, top + 16, f"{name}: purity {layer.purity:.2f}", 10)
            _panel(sheet, left, top + 26, found, number)
    return sheet.content()


def _panel(sheet: Canvas, left: float, top: float, found: Senses, number: int) -> None:
    grey = np.full((1, 1, 3), 244, np.uint8)
    sheet.cells(left, top, grey, (SIDE, SIDE))
    flat = flattened(found.vectors[number])
    # One scale for both axes: distances on the picture are those of the components.
    middle = (flat.min(axis=0) + flat.max(axis=0)) / 2
    reach = float(np.ptp(flat, axis=0).max()) / 2
    scale = 0 if reach == 0 else (SIDE / 2 - 8) / reach
    colours = _cycled(len(found.senses))
    for usage, point in zip(found.usages, (flat - middle) * scale, strict=True):
        colour = colours[found.senses.index(usage.sense)]
        _dot(sheet, left + SIDE / 2 + point[0], top + SIDE / 2 - point[1], colour, DOT)


def _dot(sheet: Canvas, x: float, y: float, colour: str, side: float) -> None:
    rgb = np.frombuffer(bytes.fromhex(colour[1:]), np.uint8).reshape(1, 1, 3)
    sheet.cells(x - side / 2, y - side / 2, rgb, (side, side))


def _cycled(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


CONFIG = "projector_config.pbtxt"
"""File in a run's directory that TensorBoard's Projector reads."""


def write_projector(directory: Path, found: Senses) -> Path:
    """Writes the vectors of every layer for TensorBoard's Projector, with sentence and sense.

    Replaces earlier files of the same word, and keeps those of other words.

    Args:
        directory: of the run.
        found: the word in that run.

    Returns:
        The folder of the vectors.
    """
    # The word is user input, so only letters and digits go into the name of a folder.
    name = "".join(c if c.isalnum() else "_" for c in found.word)
    folder = directory / "senses" / name
    folder.mkdir(parents=True, exist_ok=True)
    config = ProjectorConfig()
    path = directory / CONFIG
    if path.is_file():
        text_format.Parse(path.read_text(encoding="utf-8"), config)
    others = [each for each in config.embeddings if not each.tensor_name.startswith(f"{name}/")]
    del config.embeddings[:]
    config.embeddings.extend(others)
    rows = [f"{usage.sense}\t{_cell(usage.sentence)}" for usage in found.usages]
    _write(folder / "metadata.tsv", "\n".join(["sense\tsentence", *rows]))
    for number, vectors in enumerate(found.vectors):
        _write(
            folder / f"layer{number}.tsv",
            "\n".join("\t".join(f"{value:.6g}" for value in vector) for vector in vectors),
        )
        entry = config.embeddings.add()
        entry.tensor_name = f"{name}/layer{number}"
        entry.tensor_path = f"senses/{name}/layer{number}.tsv"
        entry.metadata_path = f"senses/{name}/metadata.tsv"
    _write(path, text_format.MessageToString(config))
    return folder


def _cell(text: str) -> str:
    return " ".join(text.split())


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(f"{text}\n".encode())
