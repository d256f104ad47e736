"""The list of a run's checkpoints, with the digest and the step of each file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from attnkit.errors import CheckpointError
from attnkit.storage.files import parse_json

MANIFEST = "manifest.json"
COPY = "manifest.copy.json"
"""Read if the first file is damaged; without both, no checkpoint can be used."""

_FORMAT = 2


@dataclass(frozen=True, kw_only=True)
class SavedCheckpoint:
    """A checkpoint; its file may have several names.

    Attributes:
        step: optimizer steps so far.
        sha256: digest of the file.
        num_bytes: size of the file.
        loss: validation loss at that step; None if it was not measured or not finite.
        event_bytes: event file -> its size then, to which a run that resumes here truncates it.
    """

    step: int
    sha256: str
    num_bytes: int
    loss: float | None = None
    event_bytes: Mapping[str, int] = field(default_factory=dict)


def manifest_text(files: Mapping[str, list[SavedCheckpoint]]) -> str:
    """Returns the manifest as JSON, with a hash of its entries.

    Args:
        files: file name -> its possible contents: one checkpoint, or two while it is replaced.
    """
    entries = [{"file": name, **asdict(saved)} for name in sorted(files) for saved in files[name]]
    content = {"format": _FORMAT, "sha256": _digest(entries), "checkpoints": entries}
    return json.dumps(content, indent=2) + "\n"


def _digest(entries: list[dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def read_manifest(directory: Path) -> dict[str, list[SavedCheckpoint]]:
    """Reads file name -> possible contents; empty if there is no manifest.

    Raises:
        CheckpointError: if neither the manifest nor its copy can be read.
    """
    try:
        return _read(directory / MANIFEST)
    except CheckpointError as error:
        try:
            copy = _read(directory / COPY)
        except CheckpointError:
            copy = {}
        if not copy:
            raise error from None
        return copy


def _check(name: Any, saved: SavedCheckpoint) -> None:
    """Raises a ValueError unless an entry is valid; its name must not contain a path."""
    numbers = [saved.step, saved.num_bytes, *saved.event_bytes.values()]
    is_valid = (
        isinstance(name, str)
        and Path(name).name == name
        and not name.startswith(".")
        and name.endswith(".ckpt")
        and isinstance(saved.sha256, str)
        and isinstance(saved.loss, int | float | None)
        and all(isinstance(number, int) and number >= 0 for number in numbers)
        and all(Path(file).name == file for file in saved.event_bytes)
    )
    if not is_valid:
        raise ValueError(f"{str(name)[:80]} is not a valid entry")


def _read(path: Path) -> dict[str, list[SavedCheckpoint]]:
    files: dict[str, list[SavedCheckpoint]] = {}
    try:
        content = parse_json(path.read_bytes())
        if content["format"] != _FORMAT:
            raise CheckpointError(
                f"{path} has format {content['format']}, but this version of attnkit reads "
                f"{_FORMAT}; use the version that wrote it"
            )
        if content["sha256"] != _digest(content["checkpoints"]):
            raise ValueError("the entries have changed")
        for entry in content["checkpoints"]:
            name = entry.pop("file")
            saved = SavedCheckpoint(**entry)
            _check(name, saved)
            files.setdefault(name, []).append(saved)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is damaged, and without it no checkpoint can be trusted; restore it, or train "
            "the run again with --overwrite"
        ) from error
    return files
