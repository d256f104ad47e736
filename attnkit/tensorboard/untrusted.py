"""Reads values from untrusted blobs: checks types and sizes before allocating memory."""

from __future__ import annotations

import json
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

GZIP = 31
ZLIB = 15
"""Window bits of zlib's container formats."""


class MapFormatError(ValueError):
    """A record cannot be encoded, or blobs are not a record."""


def require(holds: bool, message: str) -> None:
    """Raises a `MapFormatError` with the message unless the condition holds."""
    if not holds:
        raise MapFormatError(message)


def read_json(blob: bytes, max_bytes: int, what: str = "the header") -> dict[str, Any]:
    """Reads a JSON object from at most `max_bytes` bytes."""
    size = len(blob)
    require(size <= max_bytes, f"{what} has {size} bytes; at most {max_bytes} are read")
    try:
        content = json.loads(blob)
    except (ValueError, RecursionError) as error:
        raise MapFormatError(f"{what} is not JSON: {error}") from error
    require(isinstance(content, dict), f"{what} is not a JSON object")
    return content


def read_steps(file: Path, max_bytes: int) -> tuple[dict[str, Any], list[int]]:
    """Reads the JSON object in a file that grows while a run trains. Returns it, and its `steps`,
    which must ascend from 0 or more.
    """
    with file.open("rb") as opened:
        content = read_json(opened.read(max_bytes + 1), max_bytes, "it")
    steps = list_of(content, "steps", int)
    ascending = all(a < b for a, b in pairwise(steps))
    require(bool(steps) and ascending and steps[0] >= 0, "the steps do not ascend from 0")
    return content, list(steps)


def typed(content: dict[str, Any], key: str, kind: type | tuple[type, ...]) -> Any:
    """Returns `content[key]`, which must be of the given kind."""
    value = content.get(key)
    require(is_a(value, kind), f"key `{key}` is missing or a {type(value).__name__}")
    return value


def list_of(content: dict[str, Any], key: str, kind: type | tuple[type, ...]) -> tuple[Any, ...]:
    """Returns the list `content[key]`, whose entries must all be of the given kind."""
    values = typed(content, key, list)
    well_typed = all(is_a(value, kind) for value in values)
    require(well_typed, f"key `{key}` holds an entry of the wrong type")
    return tuple(values)


def is_a(value: Any, kind: type | tuple[type, ...]) -> bool:
    """True if a value read from JSON is of the given kind; true and false are not numbers."""
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def inflate(blob: bytes, size: int, window_bits: int, what: str) -> bytes:
    """Decompresses exactly `size` bytes (`GZIP` or `ZLIB`); stops one byte after that."""
    stream = zlib.decompressobj(window_bits)
    try:
        content = stream.decompress(blob, size + 1)
    except zlib.error as error:
        raise MapFormatError(f"{what} is damaged: {error}") from error
    is_exact = len(content) == size and stream.eof and not stream.unused_data
    require(is_exact, f"{what} does not hold exactly the {size} bytes of its shape")
    return content
