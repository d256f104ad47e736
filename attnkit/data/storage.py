"""Where prepared data lives between runs, and how a file gets there whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from attnkit.errors import DataError

CACHE_VARIABLE = "ATTNKIT_CACHE"
"""Environment variable that names the cache folder; else it is the platform's user cache."""


def cache_folder(*parts: str) -> Path:
    """Returns a folder of the cache, made if it is missing.

    Args:
        *parts: folders below the cache's root.

    Raises:
        DataError: if the folder cannot be made or written to.
    """
    # Imported here because pooch takes a tenth of a second, and listing names must not pay for it.
    import pooch

    root = os.environ.get(CACHE_VARIABLE) or str(pooch.os_cache("attnkit"))
    folder = Path(root).expanduser().joinpath(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"the cache folder {folder} cannot be made ({error.strerror}); "
            f"set {CACHE_VARIABLE} to a folder that you may write to"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise DataError(
            f"the cache folder {folder} is not writable; "
            f"set {CACHE_VARIABLE} to a folder that you may write to"
        )
    return folder


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lets one process at a time work on `path`; the others wait.

    The lock is a file beside it, `<path>.lock`, which stays.
    """
    from filelock import FileLock

    with FileLock(f"{path}.lock"):
        yield


def check_outs(outs: Sequence[Path], suffixes: Collection[str], *, overwrite: bool) -> None:
    """Checks the files that a command will write, before it does any work for them.

    Raises:
        DataError: if a file's kind is unknown, it is there already, or its folder is not.
    """
    for out in outs:
        if out.suffix not in suffixes:
            raise DataError(f"--out {out}: the name must end in {', '.join(suffixes)}")
        if out.exists() and not overwrite:
            raise DataError(f"--out {out} exists already; name another file, or say --overwrite")
        if not out.parent.is_dir():
            raise DataError(f"--out {out}: the folder {out.parent} does not exist")


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Opens a file that appears under its name only when it is complete and on the disk.

    What is written goes to `<path>.part` in the same folder (a rename across file systems is no
    rename). The name is fixed, so that what a killed process left is overwritten by the next one;
    where several processes may write the same path, hold `locked(path)`.

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
            raise DataError(
                f"no space left for {path}; free some, or set {CACHE_VARIABLE} to another disk"
            ) from error
        raise
