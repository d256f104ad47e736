"""Reads the curves of a run back from its event files, without TensorFlow and without decoding the
maps and images that lie between them.

A file is a sequence of records: length (8 bytes), checksum (4), an `Event` message, checksum (4).
A scalar is the message `{wall_time, step, summary {value {tag, simple_value}}}`, and protocol
buffers are written in the order of their fields, so that one regular expression finds it at the
beginning of a record; all others are stepped over.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from attnkit.tensorboard.event_files import event_files

MAX_TAG_BYTES = 127
"""Of a tag that can be read: its length is one byte then."""

_HEAD = struct.Struct("<Q4x")
_TAIL = 4
_VARINT = rb"[\x80-\xff]*[\x00-\x7f]"


@dataclass(frozen=True)
class Scalars:
    """The points of one tag.

    Attributes:
        steps: (N,) int64, increasing.
        values: (N,) float32.
    """

    steps: np.ndarray
    values: np.ndarray


def read_scalars(directory: Path, tags: Collection[str] | None = None) -> dict[str, Scalars]:
    """Returns tag -> points, of those tags that the event files of a run hold.

    A step that was written twice counts as it was written last. A record that a killed process
    left unfinished ends its file.

    Args:
        directory: the run.
        tags: of at most `MAX_TAG_BYTES` each; None: all.

    Raises:
        OSError: if a file cannot be read.
    """
    pattern = _scalar_of(tags)
    points: dict[bytes, dict[int, bytes]] = {}
    for file in event_files(directory):
        with file.open("rb") as opened:
            if file.stat().st_size:  # an empty file cannot be mapped
                with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
                    _collect(content, pattern, points)
    return {tag.decode(): _in_order(found) for tag, found in points.items()}


def _scalar_of(tags: Collection[str] | None) -> re.Pattern[bytes]:
    """Matches an event with a scalar of one of the tags, or of any: groups step, tag and value.

    The first byte of each field is its number and kind; a step of 0 is not written at all.
    """
    if tags is None:
        names = rb"[\x01-\x7f][^\x00-\x1f]+?"
    else:
        encoded = [tag.encode() for tag in sorted(tags)]
        names = b"|".join(re.escape(bytes([len(tag)]) + tag) for tag in encoded)
    pattern = (
        rb"\x09.{8}(?:\x10(" + _VARINT + rb"))?"  # wall_time, step
        rb"\x2a" + _VARINT + rb"\x0a" + _VARINT + rb"\x0a(" + names + rb")\x15(.{4})"
    )
    return re.compile(pattern, re.DOTALL)


def _collect(
    content: mmap.mmap, pattern: re.Pattern[bytes], points: dict[bytes, dict[int, bytes]]
) -> None:
    """Adds the points of a file: tag -> step -> float32, little-endian."""
    read, match, size = _HEAD.unpack_from, pattern.match, len(content)
    start = _HEAD.size
    while start <= size:
        (length,) = read(content, start - _HEAD.size)
        end = start + length
        if end + _TAIL > size:
            return
        if found := match(content, start, end):
            step, tag, value = found.groups()
            if tag[0] == len(tag) - 1:  # else these are letters of another field
                points.setdefault(tag[1:], {})[_whole_number(step) if step else 0] = value
        start = end + _TAIL + _HEAD.size


def _in_order(points: dict[int, bytes]) -> Scalars:
    steps = np.fromiter(points, dtype=np.int64, count=len(points))
    values = np.frombuffer(b"".join(points.values()), dtype="<f4")
    order = np.argsort(steps, kind="stable")
    return Scalars(steps[order], values[order])


def _whole_number(varint: bytes) -> int:
    """Seven bits a byte, the lowest first."""
    number = 0
    for byte in reversed(varint):
        number = number << 7 | byte & 127
    return number
