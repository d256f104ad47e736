"""Reads the curves of a run: from its event files, without TensorFlow and without decoding the maps
and images between them, and from `metrics.jsonl` and `metrics.csv`.

An event file is a sequence of records: length (8 bytes), checksum (4), an `Event` message, checksum
(4). A scalar is the message `{wall_time, step, summary {value {tag, simple_value}}}`, and protocol
buffers are written in the order of their fields, so that one regular expression finds it at the
beginning of a record; all others are skipped.
"""

from __future__ import annotations

import csv
import json
import mmap
import re
import struct
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from attnkit.tensorboard.event_files import METRICS_CSV, METRICS_JSONL, event_files

MAX_TAG_BYTES = 127
"""Maximum length of a tag that can be read: it is stored in one byte."""

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
    """Returns tag -> points, of those tags that a run has logged.

    The last value of a step counts. An incomplete record of a killed process ends its file. Points
    that no event file has are taken from `metrics.jsonl`, and others from `metrics.csv`, since the
    loggers of a run may change when it resumes.

    Args:
        directory: directory of the run.
        tags: tags of at most `MAX_TAG_BYTES` each; None: all.

    Raises:
        OSError: if a file cannot be read.
    """
    points: dict[bytes, dict[int, bytes]] = {}
    for content in _contents(directory):
        if tags is None or not all(_search(content, tag.encode(), points) for tag in tags):
            _collect(content, _scalar_of(tags), points)
    for rows in (_json_rows(directory / METRICS_JSONL), _csv_rows(directory / METRICS_CSV)):
        _add_missing(rows, tags, points)
    return {tag.decode(): _in_order(found) for tag, found in points.items()}


def logged_tags(directory: Path) -> set[str]:
    """Returns the tags of the scalars that a run has logged, of at most `_SHORT` bytes.

    Raises:
        OSError: if a file cannot be read.
    """
    found = {
        name.decode("utf-8", "replace")
        for content in _contents(directory)
        for name in set(_ANY_SHORT.findall(content))
    }
    tags = {tag[3:] for tag in found if ord(tag[2]) == len(tag[3:].encode())}
    for rows in (_json_rows(directory / METRICS_JSONL), _csv_rows(directory / METRICS_CSV)):
        tags |= {tag for _, tag, _ in rows}
    return tags


def _contents(directory: Path) -> Iterator[mmap.mmap]:
    """Maps each event file into memory, the oldest first."""
    for file in event_files(directory):
        with file.open("rb") as opened:
            if file.stat().st_size:  # an empty file cannot be mapped
                with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
                    yield content


_SHORT = 100
"""Maximum bytes of a tag for which every length in its event is stored in one byte."""

_ANY_SHORT = re.compile(rb"\x2a[\x0a-\x7f]\x0a(.\x0a[\x01-\x64][^\x00-\x1f]{1,100}?)\x15")


def _search(content: mmap.mmap, tag: bytes, points: dict[bytes, dict[int, bytes]]) -> bool:
    """Adds the points of a tag without visiting other records; False if that is impossible.

    The bytes from the summary to the value are the same in each event of a tag. The bytes before
    them (length, checksum, time, step) must fit: otherwise they belong to another field.
    """
    if len(tag) > _SHORT:
        return False
    length = len(tag) + 7  # of the value message: tag, length, letters, 5 bytes of the number
    pattern = bytes([0x2A, length + 2, 0x0A, length, 0x0A, len(tag)]) + tag + b"\x15"
    offsets = [found.start() - 4 for found in re.finditer(re.escape(pattern[4:]), content)]
    if any(content[offset : offset + 4] != pattern[:4] for offset in offsets):
        return False  # an event with more than a number
    starts = np.array(offsets, dtype=np.int64)
    starts = starts[starts <= len(content) - len(pattern) - 4 - _TAIL]
    whole = np.frombuffer(content, np.uint8)
    heads = np.ndarray(max(0, len(whole) - 7), "<u8", content, strides=(1,))
    floats = np.ndarray(max(0, len(whole) - 3), "<f4", content, strides=(1,))
    steps = np.full(len(starts), -1, np.int64)
    for size in range(11):  # of the step, with its field number; a step of 0 is not stored
        event = starts - 9 - size  # the time takes 9 bytes
        matches = (size != 1) & (event >= _HEAD.size)
        matches[matches] &= heads[event[matches] - _HEAD.size] == 9 + size + len(pattern) + 4
        if size:
            matches[matches] &= whole[event[matches] + 9] == 0x10
        number = np.zeros(matches.sum(), np.int64)
        for i in range(size - 1):
            number |= (whole[event[matches] + 10 + i].astype(np.int64) & 127) << 7 * i
        steps[matches] = number
    valid = steps >= 0
    values = floats[starts[valid] + len(pattern)].tobytes()
    chunks = (values[i : i + 4] for i in range(0, len(values), 4))
    del whole, heads, floats  # otherwise the file cannot be closed
    if valid.any():
        points.setdefault(tag, {}).update(zip(steps[valid].tolist(), chunks, strict=True))
    return True


def _scalar_of(tags: Collection[str] | None) -> re.Pattern[bytes]:
    """Matches an event with a scalar of one of the tags, or of any: groups step, tag and value.

    The first byte of each field is its number and type; a step of 0 is not stored.
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
            if tag[0] == len(tag) - 1:  # otherwise these are bytes of another field
                points.setdefault(tag[1:], {})[_whole_number(step) if step else 0] = value
        start = end + _TAIL + _HEAD.size


_Row = tuple[int, str, float]
"""Step, tag and value."""


def _json_rows(file: Path) -> Iterator[_Row]:
    for line in _whole_lines(file):
        try:
            row = json.loads(line)
            step = int(row.pop("step"))
            yield from ((step, tag, float(x)) for tag, x in row.items() if x is not None)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):  # damaged
            continue


def _csv_rows(file: Path) -> Iterator[_Row]:
    for line in _whole_lines(file)[1:]:
        try:
            step, tag, value = next(csv.reader([line]))
            yield int(step), tag, float(value)
        except (ValueError, csv.Error):  # a damaged line
            continue


def _whole_lines(file: Path) -> list[str]:
    """The lines of a file, without an incomplete last one of a killed process."""
    if not file.is_file():
        return []
    return file.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]


def _add_missing(
    rows: Iterable[_Row], tags: Collection[str] | None, points: dict[bytes, dict[int, bytes]]
) -> None:
    """Adds rows whose tag has no point at their step yet."""
    found: dict[bytes, dict[int, bytes]] = {}
    for step, tag, value in rows:
        if tags is None or tag in tags:
            with np.errstate(over="ignore"):  # values too large for 4 bytes become infinite
                number = np.float64(value).astype("<f4")
            found.setdefault(tag.encode(), {})[step] = number.tobytes()
    for tag, added in found.items():
        points[tag] = added | points.get(tag, {})


def _in_order(points: dict[int, bytes]) -> Scalars:
    steps = np.fromiter(points, dtype=np.int64, count=len(points))
    values = np.frombuffer(b"".join(points.values()), dtype="<f4")
    order = np.argsort(steps, kind="stable")
    return Scalars(steps[order], values[order])


def _whole_number(varint: bytes) -> int:
    """Decodes seven bits per byte, the lowest first."""
    number = 0
    for byte in reversed(varint):
        number = number << 7 | byte & 127
    return number
