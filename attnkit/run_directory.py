"""A run's directory: what lies in it, under which name, and how it is claimed.

runs/<recipe>/<variant>/seed<k>/
    recipe.yaml        the resolved recipe: reproduces the run
    environment.json   versions, machine, data
    tokenizer.json     the vocabulary
    events.out...      what TensorBoard shows
    checkpoints/       best.ckpt, last.ckpt
    result.json        final numbers; written last, so its presence means that the run finished
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

RECIPE = "recipe.yaml"
ENVIRONMENT = "environment.json"
RESULT = "result.json"
CHECKPOINTS = "checkpoints"
BEST = "best.ckpt"
LAST = "last.ckpt"

PACKAGES = (
    "attnkit",
    "torch",
    "lightning",
    "torchmetrics",
    "tensorboard",
    "omegaconf",
    "tokenizers",
    "numpy",
)


class RunDirectoryError(Exception):
    """A run directory that is taken, missing, unfinished or cannot be written; the message says
    what to do.
    """


def is_first_process() -> bool:
    """True in the process that writes: the only one, or the first of several."""
    ranks = (os.environ.get(name) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))
    return next((rank for rank in ranks if rank is not None), "0") == "0"


def check_free(directory: Path, overwrite: bool) -> None:
    """Checks that a run may go into a directory, before any work is done for it.

    Raises:
        RunDirectoryError: if something is there, and it is no run or may not be overwritten; or if
            nothing may be made there.
    """
    if not directory.exists():
        above = next(parent for parent in directory.absolute().parents if parent.exists())
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise RunDirectoryError(
                f"{directory} cannot be made, since {above} is no folder that may be written to; "
                "set runs_dir to one"
            )
        return
    if not directory.is_dir():
        raise RunDirectoryError(
            f"{directory} is a file; set runs_dir, name or variant to something else"
        )
    if not any(directory.iterdir()):
        return
    if not (directory / RECIPE).is_file():
        raise RunDirectoryError(
            f"{directory} holds files that are no run; set runs_dir, name or variant"
        )
    if not overwrite:
        state = "a finished run" if (directory / RESULT).is_file() else "an unfinished run"
        raise RunDirectoryError(
            f"{directory} holds {state}; replace it with --overwrite, or set variant=NAME or "
            "seed=N for another directory"
        )


def claim(directory: Path, overwrite: bool) -> None:
    """Makes the directory, empty.

    Raises:
        RunDirectoryError: as in `check_free`, or if it cannot be written.
    """
    check_free(directory, overwrite)
    try:
        if directory.exists():
            shutil.rmtree(directory)
        (directory / CHECKPOINTS).mkdir(parents=True)
    except OSError as error:
        raise RunDirectoryError(
            f"{directory} cannot be made: {error.strerror}; "
            "set runs_dir to a place that can be written"
        ) from error


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def environment() -> dict[str, Any]:
    """The machine and the versions that a run depends on. Names neither user nor host."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def recipe_of(directory: Path) -> Path:
    """The resolved recipe of a run.

    Raises:
        RunDirectoryError: if the directory is missing or holds no run.
    """
    if not directory.is_dir():
        raise RunDirectoryError(
            f"{directory} does not exist; give the directory of a run (runs/...)"
        )
    path = directory / RECIPE
    if not path.is_file():
        raise RunDirectoryError(
            f"{directory} holds no {RECIPE}, so it is no run; a run's directory ends in seed<k>"
        )
    return path
