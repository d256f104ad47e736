"""What keeps the cost of Lightning's loop small: a training step of a small model takes a few
hundredths of a second, so that a millisecond of the loop's own is worth saving.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from lightning.pytorch.profilers import PassThroughProfiler

from attnkit.garbage import frozen


class NoProfiler(PassThroughProfiler):
    """Measures nothing, and costs nothing: Lightning's own makes a generator for each of some 30
    hooks a step.
    """

    _nothing = nullcontext("")

    def profile(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, action_name: str
    ) -> AbstractContextManager[str]:
        """A context that does nothing."""
        return self._nothing


MIB = 1024 * 1024

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h, see mallopt(3)


@contextmanager
def long_lived_memory() -> Iterator[None]:
    """Inside, memory is looked through and handed back less often: what exists at the beginning is
    left out of garbage collection, and what a step frees is kept for the next one, see
    `_keep_freed_memory`.
    """
    with frozen():
        _keep_freed_memory(1024 * MIB)
        try:
            yield
        finally:
            _keep_freed_memory(64 * MIB)


def _keep_freed_memory(num_bytes: int) -> None:
    """Lets the C library hand freed memory back to the system only beyond `num_bytes` at the top of
    its heap, where it is glibc; does nothing elsewhere.

    At first glibc does so beyond 128 KiB, and the system gives each page back as a page fault: 500
    to 800 a step of a small model, 1 ms of system time. With time it learns a threshold of up to 64
    MiB, so that is what to leave behind.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_THRESHOLD, 32 * MIB)  # the largest that it takes; larger blocks are mapped
    libc.mallopt(_TRIM_THRESHOLD, num_bytes)
