"""Reads the lines of UTF-8 files, plain or gzipped; errors name the line."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path

from attnkit.errors import DataError


def read_lines(path: Path) -> list[str]:
    """Returns the lines of a text file without line ends and without a byte-order mark.

    Args:
        path: the file; `.gz` is decompressed.

    Raises:
        DataError: if the file is missing, damaged or not UTF-8; names the line.
    """
    # Only "\n" and "\r\n" end a line: other characters that Python takes for line ends occur inside
    # sentences, and would misalign two files.
    if not path.is_file():
        raise DataError(f"{path} does not exist (seen from {Path.cwd()})")
    try:
        raw = _unpacked(path) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    lines = raw.split(b"\n")
    if lines and not lines[-1]:
        lines.pop()
    return decoded(str(path), lines)


def _unpacked(path: Path) -> bytes:
    """Decompresses a gzipped file.

    Raises:
        DataError: if it is suspiciously large: text does not shrink a hundredfold.
    """
    most = max(100 * path.stat().st_size, _SMALL)
    with gzip.open(path) as file:
        raw = file.read(most + 1)
    if len(raw) > most:
        raise DataError(
            f"{path} unpacks to more than {most:,} bytes, a hundred times its size, which is not "
            "plausible for text; unpack it yourself if it is"
        )
    return raw


_SMALL = 2**24
"""Bytes that any file may unpack to."""


def decoded(name: str, lines: Sequence[bytes], first_number: int = 1) -> list[str]:
    """Returns lines as text, without a trailing carriage return.

    Args:
        name: name of the file, for the message.
        lines: without their line feeds.
        first_number: number of the first line.

    Raises:
        DataError: if one is not UTF-8; names the line.
    """
    texts = []
    for number, line in enumerate(lines, start=first_number):
        try:
            texts.append(line.removesuffix(b"\r").decode("utf-8"))
        except UnicodeDecodeError as error:
            raise DataError(
                f"{name}:{number}: byte 0x{line[error.start]:02x} is not valid UTF-8; convert it "
                "to UTF-8"
            ) from error
    return texts


def read_aligned(source: Path, target: Path) -> list[tuple[str, str]]:
    """Returns the lines of two files side by side.

    Raises:
        DataError: if a file cannot be read, or if the files have different numbers of lines.
    """
    sources, targets = read_lines(source), read_lines(target)
    if len(sources) != len(targets):
        raise DataError(
            f"{source} has {len(sources):,} lines and {target} has {len(targets):,}; line n of one "
            "must translate line n of the other"
        )
    if not sources:
        raise DataError(f"{source} and {target} are empty")
    return list(zip(sources, targets, strict=True))
