"""The folders behind TensorBoard's log directory, for the files that pages read beside event files.

Imports the standard library only, since each start of TensorBoard imports this file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_REMOTE = re.compile(r"[a-zA-Z][0-9a-zA-Z.]*://")


def folders_of(flags: Any) -> dict[Path, str]:
    """Returns the folders that TensorBoard's flags name, as `log_folders` does."""
    return log_folders(getattr(flags, "logdir", None), getattr(flags, "logdir_spec", None))


def log_folders(logdir: str | None, logdir_spec: str | None) -> dict[Path, str]:
    """Returns the folders of `--logdir`, or of `--logdir_spec` -> the names of their groups.

    Remote folders are left out.
    """
    if logdir:
        return {} if _REMOTE.match(logdir) else {_absolute(logdir): ""}
    folders = {}
    for each in (logdir_spec or "").split(","):
        group, colon, path = each.partition(":")
        has_group = bool(colon) and not each.startswith("/") and not os.path.splitdrive(each)[0]
        path = path if has_group else each
        if path and not _REMOTE.match(each) and not _REMOTE.match(path):
            folders[_absolute(path)] = group if has_group else ""
    return folders


def _absolute(path: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(path)))


def name_of(path: Path, root: Path, group: str) -> str:
    """Returns the name that TensorBoard gives to a folder below a log directory."""
    return os.path.normpath(os.path.join(group, os.path.relpath(path, root)))


def directories_of(run: str, roots: Mapping[Path, str]) -> list[Path]:
    """Returns the folders that a run of TensorBoard may have.

    Args:
        run: its name in TensorBoard.
        roots: as `log_folders` returns them.
    """
    found = []
    for root, group in roots.items():
        inside = os.path.relpath(run, group) if group else run
        if not inside.startswith(os.pardir):
            found.append(root / inside)
    return found
