"""The cache folder, locks, and atomic writes."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from attnkit.errors import DataError

CACHE_VARIABLE = "ATTNKIT_CACHE"
"""Environment variable with the cache folder; default: the platform's user cache."""


def parse_json(content: str | bytes) -> Any:
    """Parses JSON from an untrusted file.

    Raises:
        ValueError: if it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def cache_folder(*parts: str) -> Path:
    """Returns a folder of the cache, creating it if it is missing.

    Args:
        *parts: folders below the cache's root.

    Raises:
        DataError: if the folder cannot be created or written to.
    """
    folder = _cache_root().joinpath(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"the cache folder {folder} cannot be created ({error.strerror}); "
            f"set {CACHE_VARIABLE} to a folder that you may write to"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise DataError(
            f"the cache folder {folder} is not writable; "
            f"set {CACHE_VARIABLE} to a folder that you may write to"
        )
    return folder


def _cache_root() -> Path:
    # Imported here: pooch takes 0.1 s, too long for `attnkit list`.
    import pooch

    return Path(os.environ.get(CACHE_VARIABLE) or str(pooch.os_cache("attnkit"))).expanduser()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Locks `path` against other processes, which wait.

    The lock file `<path>.lock` is not removed.
    """
    from filelock import FileLock

    with FileLock(f"{path}.lock"):
        yield


def check_outs(outs: Sequence[Path], suffixes: Collection[str], *, overwrite: bool) -> None:
    """Checks the output files of a command before it does any work.

    Raises:
        DataError: if a suffix is unknown, a file exists, or its folder does not exist.
    """
    for out in outs:
        if out.suffix not in suffixes:
            raise DataError(f"--out {out}: the name must end in {', '.join(suffixes)}")
        if out.exists() and not overwrite:
            raise DataError(f"--out {out} exists; choose another name, or add --overwrite")
        if not out.parent.is_dir():
            raise DataError(f"--out {out}: the folder {out.parent} does not exist")


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Opens a file that gets its name only when it is complete and on disk.

    Writes `<path>.part` in the same folder and renames it. The name is fixed, so that the next
    process overwrites the file of a killed one; hold `locked(path)` if several processes may write
    the same path.

    Raises:
        DataError: if the file cannot be opened, or the disk is full. Nothing is left behind.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        file = part.open("wb")
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "free some space"
            if path.is_relative_to(_cache_root()):
                remedy += f", or set {CACHE_VARIABLE} to a folder on another disk"
            raise DataError(f"no space left for {path}; {remedy}") from error
        raise
