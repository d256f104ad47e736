"""Finds studies below TensorBoard's log directory. Imports the standard library only, since each
start of TensorBoard imports this file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from attnkit.pages.log_folders import name_of
from attnkit.storage.run_directory import PLAN, RECIPE


@dataclass
class StudyFolder:
    """A folder with the variants of a study.

    Attributes:
        id: its path below the log directory, as TensorBoard names it.
        path: of the folder.
        runs: the directories of its runs -> their names in TensorBoard.
    """

    id: str
    path: Path
    runs: dict[Path, str] = field(default_factory=dict)


def find_studies(roots: Mapping[Path, str]) -> dict[str, StudyFolder]:
    """Returns id -> study, of all folders with a plan or with runs two levels below."""
    found: dict[str, StudyFolder] = {}
    for root, group in roots.items():
        for directory, is_run in walk(root):
            # A log directory that is a variant or a run itself stands for its study.
            above = directory.parent.parent if is_run else directory
            study = above if above == root or root in above.parents else root
            name = name_of(study, root, group)
            entry = found.setdefault(name, StudyFolder(name, study))
            if is_run:
                entry.runs[directory] = name_of(directory, root, group)
    return {each: found[each] for each in sorted(found)}


def walk(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Yields the folders that have a plan or are a run, and whether they are a run.

    Skips folders that begin with a dot or end in `.tuning`, and those that cannot be read.
    """
    seen: set[tuple[int, int]] = set()
    pending = [folder]
    while pending:
        current = pending.pop()
        try:
            with os.scandir(current) as entries:
                children = list(entries)
            status = os.stat(current)
        except OSError:
            continue
        if (place := (status.st_dev, status.st_ino)) in seen:  # a link to a parent folder
            continue
        seen.add(place)
        names = {entry.name for entry in children}
        if RECIPE in names:
            yield current, True
            continue
        if PLAN in names:
            yield current, False
        pending += [
            Path(entry.path)
            for entry in sorted(children, key=lambda entry: entry.name, reverse=True)
            if _may_contain_runs(entry)
        ]


def _may_contain_runs(entry: os.DirEntry[str]) -> bool:
    hidden = entry.name.startswith(".") or entry.name.endswith(".tuning")
    try:
        return not hidden and entry.is_dir()
    except OSError:
        return False
