"""Reads UTF-8 text of any size in pieces, and locates invalid bytes exactly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from attnkit.errors import DataError

PIECE_BYTES = 1 << 18
"""Size of a piece. It affects the token stream: a subword never spans two pieces."""


def read_pieces(path: Path, start: int = 0, stop: int | None = None) -> Iterator[str]:
    """Yields a part of a text file in pieces that end after a line break, where possible.

    Without a line break a piece ends after a space, and without a space between two characters.
    Line ends are kept; a byte-order mark at the beginning is dropped.

    Args:
        path: the file.
        start: first byte; it must begin a character.
        stop: one past the last byte, None for the end of the file; it must not split a character.

    Raises:
        DataError: if the bytes are not UTF-8; names the line and the byte.
    """
    stop = path.stat().st_size if stop is None else stop
    with path.open("rb") as file:
        file.seek(start)
        rest = b""
        position = start
        while file.tell() < stop:
            block = rest + file.read(min(PIECE_BYTES, stop - file.tell()))
            end = len(block) if file.tell() >= stop else _last_break(block)
            text = _decode(block[:end], path, position)
            yield text.removeprefix("\ufeff") if position == 0 else text
            rest = block[end:]
            position += end


def next_break(path: Path, offset: int) -> int:
    """Returns the first line start at or after byte `offset`, or else the first character.

    Searches `PIECE_BYTES` for a line break. The end of the file does not count as a line start, so
    that some text follows the result.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(offset)
        ahead = file.read(PIECE_BYTES)
    line = offset + ahead.find(b"\n") + 1
    if offset < line < size:
        return line
    return offset + next((i for i, byte in enumerate(ahead) if not _continues(byte)), 0)


def _last_break(block: bytes) -> int:
    for mark in (b"\n", b" "):
        if mark in block:
            return block.rindex(mark) + 1
    # A character has at most three continuation bytes; decoding reports longer runs.
    for end in range(len(block) - 1, max(len(block) - 4, 1) - 1, -1):
        if not _continues(block[end]):
            return end
    return len(block)


def _continues(byte: int) -> bool:
    """True for the continuation bytes of a UTF-8 character."""
    return byte & 0b1100_0000 == 0b1000_0000


def _decode(block: bytes, path: Path, position: int) -> str:
    try:
        return block.decode("utf-8")
    except UnicodeDecodeError as error:
        offset = position + error.start
        raise DataError(
            f"{path}:{_line_of(path, offset)}: byte 0x{block[error.start]:02x} at offset {offset} "
            "is not valid UTF-8; convert the file to UTF-8 or remove it from data.files"
        ) from error


def _line_of(path: Path, offset: int) -> int:
    """Returns the number of the line, from 1, that contains byte `offset`."""
    lines = 1
    with path.open("rb") as file:
        while file.tell() < offset:
            lines += file.read(min(PIECE_BYTES, offset - file.tell())).count(b"\n")
    return lines
