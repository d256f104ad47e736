"""Configures how a process uses its processor: number of cores, waiting threads, garbage
collection. Must run before torch is loaded; imports only the standard library.
"""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
_NUM_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

_SPINS = 1000
"""Spins of a waiting thread before it sleeps, some 10 to 50 microseconds: GNU OpenMP's value when
there are more threads than cores. Its default, 300,000, blocks the core for other processes.
`benchmarks/cpu.py waiting` measures both."""

_MAX_YOUNG_OBJECTS = 50_000
"""New objects that trigger Python's garbage collection. Importing torch and Lightning creates
400,000 permanent objects; with Python's default of 700, scanning them takes a tenth of the time."""

_set_by_prepare: dict[str, str] = {}


def prepare() -> None:
    """Configures this process and those that it starts, before torch loads OpenMP. Keeps variables
    that the user has set.
    """
    gc.set_threshold(_MAX_YOUNG_OBJECTS)
    if not any(name in os.environ for name in _WAITING):
        _set("GOMP_SPINCOUNT", str(_SPINS))
        _set("KMP_BLOCKTIME", "0")  # in milliseconds, for Intel's and LLVM's OpenMP
    quota = cpu_quota()
    if quota is not None and not any(name in os.environ for name in _NUM_THREADS):
        _set("OMP_NUM_THREADS", str(available_cores()))  # OpenMP ignores quotas


def _set(name: str, value: str) -> None:
    os.environ[name] = _set_by_prepare[name] = value


def of_user(name: str) -> str | None:
    """Returns an environment variable that was set by the user, not by `prepare`."""
    value = os.environ.get(name)
    return None if value == _set_by_prepare.get(name) else value


def threads_of_user() -> int | None:
    """Returns the number of threads in the user's `OMP_NUM_THREADS`, if it is set."""
    # The first of nested levels.
    outermost = (of_user("OMP_NUM_THREADS") or "").split(",")[0].strip()
    return int(outermost) if outermost.isdecimal() and int(outermost) else None


def available_cores() -> int:
    """Returns the number of cores that this process may use, at least 1: limited by its affinity
    and its quota.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else max(min(cores, math.ceil(quota)), 1)


def cpu_quota(
    groups: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")
) -> float | None:
    """Returns the CPU time in cores that Linux control groups allow (`docker run --cpus`, a limit
    of Kubernetes), versions 1 and 2; None: no limit.

    Args:
        groups: the file that lists the groups of this process.
        mounted: the folder of the groups' files.
    """
    try:
        lines = groups.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    quotas = [quota for line in lines for quota in _quotas(line, mounted)]
    return min(quotas, default=None)


def _quotas(line: str, mounted: Path) -> Iterator[float]:
    """Yields the quotas of a group and its parents."""
    _, _, rest = line.partition(":")
    controllers, _, path = rest.partition(":")
    if controllers and "cpu" not in controllers.split(","):
        return
    bases = {mounted / controllers, mounted / "cpu"} if controllers else {mounted}
    group = PurePosixPath(path.lstrip("/"))
    for base in bases:
        for inner in (group, *group.parents):
            quota = _quota(base / inner)
            if quota is not None:
                yield quota


def _quota(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():
            allowed, period = (folder / "cpu.max").read_text().split()
        else:
            allowed = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        quota = float(allowed) / float(period)  # `max` is not a number, and -1 means the same
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return quota if quota > 0 else None
