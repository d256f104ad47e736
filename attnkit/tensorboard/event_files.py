"""The event files of a run directory: finding them, and cutting them back when a run resumes."""

# Pyright cannot see the names of modules that the protocol buffer compiler made.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.hparams.metadata import SESSION_END_INFO_TAG

_LENGTH_BYTES = 12
_CHECKSUM_BYTES = 4


def event_files(directory: Path) -> list[Path]:
    """Returns the event files that lie directly in a directory, oldest first."""
    return sorted(directory.glob("events.out.tfevents.*"))


def cut_back(file: Path, step: int) -> None:
    """Removes from an event file what a run that resumes at `step` will write again.

    That is every event of `step` or later, and the way in which the run had ended: TensorBoard
    believes the first ending that it reads, so a resumed run could never succeed. A record that a
    killed process left unfinished goes too. The file is replaced in one move.

    Raises:
        ValueError: if a record is not an event.
    """
    kept = [record for record, event in _records(file) if _belongs_before(event, step)]
    # TensorBoard reads whatever has "tfevents" in its name; a leftover must not.
    rewritten = file.with_name("resume.partial")
    with rewritten.open("wb") as stream:
        stream.writelines(kept)
        stream.flush()
        os.fsync(stream.fileno())
    rewritten.replace(file)


def _belongs_before(event: Event, step: int) -> bool:
    tags = [value.tag for value in event.summary.value]
    return SESSION_END_INFO_TAG not in tags and (event.step < step or not tags)


def _records(file: Path) -> Iterator[tuple[bytes, Event]]:
    """Yields each whole record of an event file, as it lies there and as an event.

    A record is the length of its content (8 bytes) and a checksum, the content and a checksum; the
    checksums are copied, since computing them is what makes TensorBoard's own writer slow.
    """
    content = file.read_bytes()
    start = 0
    while start + _LENGTH_BYTES <= len(content):
        (length,) = struct.unpack_from("<Q", content, start)
        end = start + _LENGTH_BYTES + length + _CHECKSUM_BYTES
        if end > len(content):
            return
        payload = content[start + _LENGTH_BYTES : end - _CHECKSUM_BYTES]
        try:
            event = Event.FromString(payload)
        except DecodeError as error:
            raise ValueError(
                f"{file}: the record at byte {start} is damaged; move the file away to resume "
                "without its curves"
            ) from error
        yield content[start:end], event
        start = end
