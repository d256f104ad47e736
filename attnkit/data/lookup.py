"""Finds a published file on this machine, or downloads it."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from attnkit.errors import DataError
from attnkit.storage.files import cache_folder

DATA_VARIABLE = "ATTNKIT_DATA"
"""Environment variable with a folder of local data sets."""


def find_local(root: Path | None, names: Iterable[str]) -> Path | None:
    """Looks for the first of `names` in `root`, then in `$ATTNKIT_DATA`.

    Args:
        root: the recipe's `data.root`.
        names: paths relative to those folders, in order of preference.

    Returns:
        The file, or None if there is none.

    Raises:
        DataError: if a configured folder does not exist.
    """
    names = list(names)
    variable = os.environ.get(DATA_VARIABLE)
    folders = {"data.root": root, f"${DATA_VARIABLE}": Path(variable) if variable else None}
    for key, value in folders.items():
        if value is None:
            continue
        folder = Path(value).expanduser()
        if not folder.is_dir():
            raise DataError(f"{key}: {folder} is not a folder; fix it or remove it")
        for name in names:
            if (folder / name).is_file():
                return folder / name
    return None


def matching(pattern: Path) -> list[Path]:
    """Returns the files that match a pattern (`corpus/**/*.txt`), sorted by name.

    An existing path is not treated as a pattern: a folder `texts [1]` is that folder.
    """
    existing = Path(pattern.anchor)
    parts = list(pattern.parts[1:] if pattern.anchor else pattern.parts)
    while parts and (existing / parts[0]).exists():
        existing /= parts.pop(0)
    if not parts:
        return [existing] if existing.is_file() else []
    names = sorted(glob.glob(os.path.join(*parts), root_dir=existing, recursive=True))
    return [existing / name for name in names if (existing / name).is_file()]


def files_of(patterns: Path | list[Path], key: str, ending: str = ".txt") -> list[Path]:
    """Returns the files that match patterns, each once, in the order of the patterns.

    Args:
        patterns: paths or patterns.
        key: the recipe's key, for messages.
        ending: suffix of such files, for messages.

    Raises:
        DataError: if a pattern matches no file, or a file is empty.
    """
    found: dict[Path, None] = {}
    for pattern in patterns if isinstance(patterns, list) else [patterns]:
        found.update(dict.fromkeys(_files_of_one(Path(pattern).expanduser(), key, ending)))
    if not found:
        raise DataError(f"{key} is empty; name at least one file")
    for path in found:
        if path.stat().st_size == 0:
            raise DataError(f"{key}: {path} is empty; remove it from the list, or fill it")
    return list(found)


def _files_of_one(pattern: Path, key: str, ending: str) -> list[Path]:
    if pattern.is_dir():
        example = pattern / "**" / f"*{ending}"
        raise DataError(f"{key}: {pattern} is a folder; name its files, such as {example}")
    files = [file.resolve() for file in matching(pattern)]
    if not files:
        is_pattern = any(mark in str(pattern) for mark in "*?[")
        problem = f"no file matches {pattern}" if is_pattern else f"{pattern} does not exist"
        raise DataError(f"{key}: {problem} (seen from {Path.cwd()}, and from the recipe's folder)")
    return files


def download(url: str, sha256: str, name: str, *, place_at: str) -> Path:
    """Downloads a file to the cache, once.

    Args:
        url: address of the file.
        sha256: expected digest, in hexadecimal.
        name: its path in the cache, below `downloads/`.
        place_at: where to put the file by hand, relative to `data.root`; for the message.

    Returns:
        The file in the cache.

    Raises:
        DataError: if it cannot be downloaded, or its digest is wrong.
    """
    import pooch

    target = cache_folder("downloads") / name
    try:
        pooch.retrieve(url, f"sha256:{sha256}", fname=target.name, path=target.parent)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{url} could not be downloaded ({type(error).__name__}: {error}); "
            "download it on another machine, put it at "
            f"{place_at} below a folder of yours, and name that folder in data.root or "
            f"${DATA_VARIABLE}"
        ) from error
    return target


def sha256_of(path: Path) -> str:
    """Returns the sha256 of a file in hexadecimal, without reading it into memory as a whole."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
