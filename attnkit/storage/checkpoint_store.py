"""A run's checkpoint files: a valid one is never lost, and only verified files are read.

checkpoints/
    last.ckpt            the newest
    previous.ckpt        the one before it, in case the newest is damaged
    best.ckpt            lowest validation loss
    step-00000500.ckpt   the second best and so on, and every Nth, if the recipe sets them
    manifest.json        sha256, step and loss of each file; manifest.copy.json is a copy

A checkpoint is written once, to a temporary file in the same directory, and synced to disk. Then
its hash is added to the manifest, which keeps those of the existing files. Then it gets its names,
hard links, each in one atomic replacement. At whatever moment the process is killed, every file
verifies.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from attnkit.errors import CheckpointError
from attnkit.storage.checkpoint_manifest import (
    COPY,
    MANIFEST,
    SavedCheckpoint,
    manifest_text,
    read_manifest,
)
from attnkit.storage.run_directory import BEST, LAST

PREVIOUS = "previous.ckpt"
_PART = ".part"
_NEW = f".new{_PART}"


@dataclass(frozen=True, kw_only=True)
class KeepPolicy:
    """Decides which checkpoints are kept.

    Attributes:
        best: number of checkpoints with the lowest validation loss.
        every: steps between permanent checkpoints; None: none.
    """

    best: int = 1
    every: int | None = None

    def names(self, saved: Iterable[SavedCheckpoint]) -> dict[str, SavedCheckpoint]:
        """Returns file name -> checkpoint, for those of `saved` that are kept."""
        by_step = sorted(saved, key=lambda one: one.step)
        ranked = sorted(
            (one for one in by_step if one.loss is not None), key=lambda one: one.loss or 0.0
        )
        files: dict[str, SavedCheckpoint] = {}
        files.update(zip((LAST, PREVIOUS), reversed(by_step), strict=False))
        if self.best and ranked:
            files[BEST] = ranked[0]
        archived = [one for one in by_step if self.every and one.step % self.every == 0]
        for one in (*ranked[1 : self.best], *archived):
            files[f"step-{one.step:08}.ckpt"] = one
        return files


class CheckpointStore:
    """The checkpoint files of one run. Only one process writes.

    Args:
        directory: folder of the files.
        policy: which checkpoints are kept.
    """

    def __init__(self, directory: Path, policy: KeepPolicy | None = None) -> None:
        self.directory = directory
        self.policy = policy or KeepPolicy()
        self._files: dict[str, SavedCheckpoint] = {}

    def verified(self) -> dict[str, SavedCheckpoint]:
        """Returns file name -> checkpoint, for every file that matches its manifest entry.

        Raises:
            CheckpointError: if the manifest is damaged.
        """
        verified: dict[str, SavedCheckpoint] = {}
        for name, candidates in read_manifest(self.directory).items():
            digest = _digest(self.directory / name)
            for saved in candidates:
                if saved.sha256 == digest:
                    verified[name] = saved
        return verified

    def newest(self) -> tuple[Path, SavedCheckpoint] | None:
        """Returns the newest checkpoint that verifies; None if no checkpoint was ever written.

        Raises:
            CheckpointError: if there are checkpoints, but none of them verifies.
        """
        verified = self.verified()
        if not verified:
            files = sorted(self.directory.glob("*.ckpt"))
            if not files:
                return None
            raise CheckpointError(
                f"all checkpoints in {self.directory} are damaged (sha256 "
                f"differs: {', '.join(file.name for file in files)}); restore one together with "
                f"{MANIFEST}, or train the run again with --overwrite"
            )
        name = max(verified, key=lambda one: (verified[one].step, one == LAST))
        return self.directory / name, verified[name]

    def check(self, name: str) -> Path:
        """Returns the path of a file after verifying it.

        Raises:
            CheckpointError: if it is missing or damaged.
        """
        path = self.directory / name
        if not path.is_file():
            raise CheckpointError(
                f"{path} does not exist; the run has not reached its first checkpoint"
            )
        digest = _digest(path)
        if not any(one.sha256 == digest for one in read_manifest(self.directory).get(name, [])):
            raise CheckpointError(
                f"{path} is damaged (its sha256 differs from {MANIFEST}); restore it, or train the "
                "run again"
            )
        return path

    def steps(self) -> list[int]:
        """Returns the steps of the checkpoints, in order: those that this process wrote or
        verified, otherwise those of the manifest.
        """
        known = list(self._files.values())
        if not known:
            known = [saved for files in read_manifest(self.directory).values() for saved in files]
        return sorted({saved.step for saved in known})

    def take_over(self) -> None:
        """Continues with the existing files: removes those that do not verify, and temporary files
        of a killed process.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        for leftover in self.directory.glob(f".*{_PART}"):
            leftover.unlink()
        self._files = self.verified()
        for file in self.directory.glob("*.ckpt"):
            if file.name not in self._files:
                file.unlink()

    def save(
        self,
        content: bytes | memoryview,
        *,
        step: int,
        loss: float | None,
        event_bytes: Mapping[str, int],
    ) -> None:
        """Writes a checkpoint under all its names.

        Raises:
            CheckpointError: if it cannot be written; the existing files are kept.
        """
        saved = SavedCheckpoint(
            step=step,
            sha256=hashlib.sha256(content).hexdigest(),
            num_bytes=len(content),
            loss=loss,
            event_bytes=dict(event_bytes),
        )
        others = [one for one in self._files.values() if one.step < step]
        target = self.policy.names({one.step: one for one in (*others, saved)}.values())
        new = self.directory / _NEW
        try:
            _write(new, content)
            self._commit(new, saved, target)
        except OSError as error:
            raise self._failure(step, error) from error
        finally:
            _remove(new)

    def _commit(
        self, new: Path, saved: SavedCheckpoint, target: dict[str, SavedCheckpoint]
    ) -> None:
        accepted = {name: [one] for name, one in target.items()}
        for name, one in self._files.items():
            if target.get(name) != one:
                accepted.setdefault(name, []).append(one)
        self._write_manifest(accepted)
        # Old checkpoints get new names first: the name that is replaced may be their only one.
        paths = {one.sha256: self.directory / name for name, one in self._files.items()}
        paths[saved.sha256] = new
        changed = [name for name, one in target.items() if self._files.get(name) != one]
        linked = [(self._linked(paths[target[name].sha256], name), name) for name in changed]
        for temporary, name in linked:
            os.replace(temporary, self.directory / name)
            self._files[name] = target[name]
        for name in [name for name in self._files if name not in target]:
            _remove(self.directory / name)
            del self._files[name]
        _sync_folder(self.directory)

    def tidy(self) -> None:
        """Reduces the manifest to the existing files, at the end of a run.

        Raises:
            CheckpointError: if it cannot be written.
        """
        if not self._files:
            return
        try:
            self._write_manifest({name: [saved] for name, saved in self._files.items()})
        except OSError as error:
            raise self._failure(max(one.step for one in self._files.values()), error) from error

    def _write_manifest(self, files: Mapping[str, list[SavedCheckpoint]]) -> None:
        content = manifest_text(files).encode()
        for name in (COPY, MANIFEST):
            part = self.directory / f".{name}{_PART}"
            try:
                _write(part, content)
                os.replace(part, self.directory / name)
            finally:
                _remove(part)

    def _linked(self, path: Path, name: str) -> Path:
        """Creates a second, temporary name for the content of a file."""
        temporary = self.directory / f".{name}{_PART}"
        _remove(temporary)
        try:
            os.link(path, temporary)
        except OSError:  # a file system without hard links: copy
            with path.open("rb") as source, temporary.open("wb") as target:
                shutil.copyfileobj(source, target)
                target.flush()
                os.fsync(target.fileno())
        return temporary

    def _failure(self, step: int, error: OSError) -> CheckpointError:
        newest = max(self._files.values(), key=lambda one: one.step, default=None)
        last = f"the last one is from step {newest.step:,}" if newest else "there is none yet"
        return CheckpointError(
            f"the checkpoint of step {step:,} cannot be written to {self.directory}: "
            f"{error.strerror or error}; {last}. Fix the error, then resume the run"
        )


def _write(path: Path, content: bytes | memoryview) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # a read-only or missing directory: the original error is reported elsewhere
        return


def _sync_folder(directory: Path) -> None:
    """Syncs renamed files to disk, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows cannot open a folder
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some file systems cannot sync a folder
        return
    finally:
        os.close(descriptor)


def _digest(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
