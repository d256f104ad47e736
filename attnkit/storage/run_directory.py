"""A run's directory: its files and their names, and how a run claims it.

runs/<recipe>/<variant>/seed<k>/
    recipe.yaml        the resolved recipe: reproduces the run
    environment.json   versions, machine, data
    plugins.json       digests and packages of its plugins; plugins/ has copies of their files
    tokenizer.json     the vocabulary
    events.out...      curves and maps for TensorBoard
    metrics.jsonl      curves as a plain file; also metrics.csv
    logger_ids/        the id of the run on a server (wandb, mlflow, comet)
    checkpoints/       best.ckpt, last.ckpt, previous.ckpt, manifests; weights/averaged.ckpt
    hypotheses/        translations of each test set, for a translation run
    result.json        final metrics; written last, so it marks a successful end
    .lock              exists while a process trains here
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

from attnkit.errors import UserError
from attnkit.storage.files import parse_json

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

RECIPE = "recipe.yaml"
ENVIRONMENT = "environment.json"
RESULT = "result.json"
PLAN = "ablation.json"
"""The plan of a study, in the folder of its variants."""
CHECKPOINTS = "checkpoints"
BEST = "best.ckpt"
LAST = "last.ckpt"
AVERAGED = "weights/averaged.ckpt"
_LOCK = ".lock"
_RETRY_SECONDS = 0.5
"""How long to retry taking a lock, since `is_in_use` in another process holds it for a moment."""
_held: set[Path] = set()
_PART = ".part"
_MAX_SHOWN = 12

_TAKEN = "another process is training in {directory}; wait for it, or stop it first"


class RunDirectoryError(UserError):
    """A run directory is taken, missing, unfinished or not writable."""


class FinishedError(RunDirectoryError):
    """A run cannot be resumed because it is finished."""


class PausedError(RunDirectoryError):
    """A run has paused at the requested step; it can be resumed."""


def is_first_process() -> bool:
    """True in the process that writes files: the only one, or the first of several."""
    ranks = (os.environ.get(name) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))
    return next((rank for rank in ranks if rank is not None), "0") == "0"


def check_free(directory: Path, overwrite: bool) -> None:
    """Checks that a run may use a directory, before doing any work.

    Raises:
        RunDirectoryError: if it is not a run, may not be overwritten, or cannot be created.
    """
    if not directory.exists():
        parent_folder = next(parent for parent in directory.absolute().parents if parent.exists())
        if not parent_folder.is_dir() or not os.access(parent_folder, os.W_OK | os.X_OK):
            raise RunDirectoryError(
                f"{directory} cannot be created, since {parent_folder} is not a writable folder; "
                "set runs_dir to one"
            )
        return
    if not directory.is_dir():
        raise RunDirectoryError(
            f"{directory} is a file; set runs_dir, name or variant to something else"
        )
    if _is_blank(directory):
        return
    if is_in_use(directory):
        raise RunDirectoryError(_TAKEN.format(directory=directory))
    if not (directory / RECIPE).is_file():
        raise RunDirectoryError(
            f"{directory} contains files but no run; set runs_dir, name or variant"
        )
    if not overwrite:
        state = "a finished run" if (directory / RESULT).is_file() else "an unfinished run"
        raise RunDirectoryError(
            f"{directory} contains {state}; continue it with --resume, replace it with "
            "--overwrite, or set variant=NAME or seed=N for another directory"
        )


def claim(directory: Path, overwrite: bool) -> None:
    """Creates the directory, or empties it.

    Raises:
        RunDirectoryError: as in `check_free`, or if it is not writable.
    """
    check_free(directory, overwrite)
    if directory.exists():
        _empty(directory)
    _make(directory / CHECKPOINTS)


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirectoryError(
            f"{directory} cannot be created: {error.strerror}; set runs_dir to a writable place"
        ) from error


@contextmanager
def in_use(directory: Path) -> Iterator[None]:
    """Keeps every other process from training in a directory.

    The operating system releases the lock when the process ends, even if it is killed.

    Raises:
        RunDirectoryError: if another process trains there.
    """
    if not is_first_process():
        yield
        return
    _make(directory)
    with ExitStack() as held:
        try:
            held.enter_context(_locked(directory / _LOCK))
        except BlockingIOError as error:
            raise RunDirectoryError(_TAKEN.format(directory=directory)) from error
        yield


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock during the block, and then removes its file.

    On POSIX systems it is a record lock, which worker processes do not inherit: a worker that
    outlives its parent holds nothing. Windows has no record locks, but processes inherit no locks.

    Raises:
        BlockingIOError: if another process holds it.
    """
    if fcntl is None:
        import filelock

        lock = filelock.FileLock(path, timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise BlockingIOError(str(error)) from error
        try:
            yield
        finally:
            lock.release()
            path.unlink(missing_ok=True)
        return
    with _locked_file(path):
        _held.add(path.absolute())
        try:
            yield
        finally:
            _held.discard(path.absolute())
            path.unlink(missing_ok=True)


def _locked_file(path: Path) -> TextIO:
    """Opens a file and locks it.

    Raises:
        BlockingIOError: if another process holds it.
    """
    assert fcntl is not None
    end = time.monotonic() + _RETRY_SECONDS
    while True:
        file = path.open("w")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            if time.monotonic() > end:
                raise
            time.sleep(0.02)
            continue
        except OSError:  # a file system without locks
            return file
        # The last holder may have removed the file between opening and locking. Then another
        # process can lock a new file of this name.
        try:
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except FileNotFoundError:
            pass
        file.close()


def is_in_use(directory: Path) -> bool:
    """True while another process trains in a directory."""
    path = directory / _LOCK
    if path.absolute() in _held:  # closing the file again would release the lock
        return False
    try:
        if fcntl is None:
            if path.exists():
                with _locked(path):
                    pass
            return False
        with path.open("r+") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock file, or a file system without locks
        return False
    return False


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, content: str) -> None:
    """Writes a file atomically and syncs it to disk.

    Raises:
        RunDirectoryError: if it cannot be written.
    """
    part = path.with_name(f".{path.name}{_PART}")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise RunDirectoryError(
            f"{path} cannot be written: {error.strerror}; fix that, then continue with attnkit "
            f"resume {shlex.quote(str(path.parent))}"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def sweep(directory: Path) -> None:
    """Removes temporary files of a killed process, and a result that is no longer valid."""
    for leftover in [*directory.glob(f"*{_PART}"), directory / RESULT]:
        leftover.unlink(missing_ok=True)


def _is_blank(directory: Path) -> bool:
    """True if the directory contains nothing but what a run creates before its first file."""
    checkpoints = directory / CHECKPOINTS
    if checkpoints.is_dir() and any(checkpoints.iterdir()):
        return False
    return all(
        entry == checkpoints or entry.name in (_LOCK, f".{RECIPE}{_PART}")
        for entry in directory.iterdir()
    )


def _empty(directory: Path) -> None:
    """Removes everything; the recipe last, since a folder without it is not a run."""
    for entry in sorted(directory.iterdir(), key=lambda entry: entry.name == RECIPE):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != _LOCK:
            entry.unlink()


def single_run(directory: Path) -> Path:
    """Returns the run in a directory, or the only run below it; otherwise the directory itself."""
    below = [] if (directory / RECIPE).is_file() else _runs_below(directory)
    return below[0] if len(below) == 1 else directory


def _runs_below(directory: Path) -> list[Path]:
    """Returns the runs in the folder of a variant, of a recipe, or of all runs."""
    runs = [
        path.parent for depth in (1, 2, 3) for path in directory.glob(f"{'*/' * depth}{RECIPE}")
    ]
    return sorted(
        run for run in runs if "." not in {p[0] for p in run.relative_to(directory).parts}
    )


def recipe_of(directory: Path) -> Path:
    """Returns the path of the resolved recipe of a run.

    Raises:
        RunDirectoryError: if the directory is missing or not a run.
    """
    if not directory.is_dir():
        state = "is a file" if directory.exists() else "does not exist"
        raise RunDirectoryError(f"{directory} {state}; give the directory of a run (runs/...)")
    path = directory / RECIPE
    if not path.is_file() and (below := _runs_below(directory)):
        shown = ", ".join(map(str, below[:_MAX_SHOWN]))
        more = f" and {len(below) - _MAX_SHOWN} more" if len(below) > _MAX_SHOWN else ""
        count = "a run" if len(below) == 1 else f"{len(below)} runs"
        raise RunDirectoryError(f"{directory} contains {count}; name one: {shown}{more}")
    if not path.is_file():
        raise RunDirectoryError(
            f"{directory} has no {RECIPE}, so it is not a run; a run's directory ends in seed<k>"
        )
    return path


def varied_keys(directory: Path) -> list[str] | None:
    """Returns the keys in which the variants of a run's study differ, including matched and tuned
    ones; None if it belongs to no study, or there are none.
    """
    path = Path(os.path.abspath(directory)).parents[1] / PLAN
    try:
        plan = parse_json(path.read_bytes())
        chosen = [keys for part in ("tuned", "changed_to_match") for keys in plan[part].values()]
        keys = dict.fromkeys([*plan["varied"], *(key for keys in chosen for key in keys)])
        return list(keys) or None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None
