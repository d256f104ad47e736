"""How a process of our own uses its processor: how many cores, how threads wait, when garbage is
collected. All of it must be set before torch is loaded; this module needs the standard library
alone.
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
"""Turns that a waiting thread takes before it sleeps, some 10 to 50 microseconds: what GNU's OpenMP
takes when there are more threads than cores. Its default is 300,000, during which other processes
wait for the core. `benchmarks/cpu.py waiting` measures them."""

_MAX_YOUNG_OBJECTS = 50_000
"""New objects after which Python looks for garbage. Importing torch and Lightning makes 400,000
that all stay; with Python's own 700 a tenth of the time goes into looking through them."""

_set_here: dict[str, str] = {}


def prepare() -> None:
    """Sets what a process of our own needs, before torch loads OpenMP. What the user's environment
    says stays; the variables reach processes that this one starts.
    """
    gc.set_threshold(_MAX_YOUNG_OBJECTS)
    if not any(name in os.environ for name in _WAITING):
        _set("GOMP_SPINCOUNT", str(_SPINS))
        _set("KMP_BLOCKTIME", "0")  # Intel's and LLVM's OpenMP count in milliseconds
    quota = cpu_quota()
    if quota is not None and not any(name in os.environ for name in _NUM_THREADS):
        _set("OMP_NUM_THREADS", str(available_cores()))  # OpenMP does not know of quotas


def _set(name: str, value: str) -> None:
    os.environ[name] = _set_here[name] = value


def of_user(name: str) -> str | None:
    """An environment variable, if the user has set it and not `prepare`."""
    value = os.environ.get(name)
    return None if value == _set_here.get(name) else value


def threads_of_user() -> int | None:
    """Threads of a process, if the user's `OMP_NUM_THREADS` says how many."""
    outermost = (of_user("OMP_NUM_THREADS") or "").split(",")[0].strip()  # of nested regions
    return int(outermost) if outermost.isdecimal() and int(outermost) else None


def available_cores() -> int:
    """Processor cores that this process may use, at least 1: those that it may run on, or as many
    as its quota pays for.
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
    """Cores' worth of time that Linux' control groups allow (`docker run --cpus`, a limit of
    Kubernetes), in versions 1 and 2; None: no limit.

    Args:
        groups: the file that names the groups of this process.
        mounted: where their files lie.
    """
    try:
        lines = groups.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    quotas = [quota for line in lines for quota in _quotas(line, mounted)]
    return min(quotas, default=None)


def _quotas(line: str, mounted: Path) -> Iterator[float]:
    """Of a group and those around it. A container may see its own group as the outermost."""
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
        quota = float(allowed) / float(period)  # `max` is no number, and -1 means the same
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return quota if quota > 0 else None
