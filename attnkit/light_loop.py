"""What keeps the cost of Lightning's loop small: a training step of a small model takes a few
hundredths of a second, so that a millisecond of the loop's own is worth saving.
"""

from __future__ import annotations

import ctypes
import mmap
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

# Names of glibc's malloc.h, see mallopt(3), and of Linux' sys/mman.h, see madvise(2).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_HUGE_PAGES = 14


@contextmanager
def long_lived_memory() -> Iterator[None]:
    """Inside, memory is looked through and handed back less often, and comes in larger pages: what
    exists at the beginning is left out of garbage collection, and what a step frees is kept for the
    next one, see `_keep_freed_memory` and `_ask_for_huge_pages`.
    """
    with frozen():
        _keep_freed_memory(1024 * MIB)
        _ask_for_huge_pages(512 * MIB)
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
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_MMAP_THRESHOLD, 32 * MIB)  # the largest that it takes; more is mapped
        libc.mallopt(_TRIM_THRESHOLD, num_bytes)


def _ask_for_huge_pages(num_bytes: int) -> None:
    """Lets the next `num_bytes` of the heap come in pages of 2 MiB, where the C library is glibc
    and the system gives them to those who ask; does nothing elsewhere.

    A step writes some tens of MiB here and there, more than the processor has addresses of 4 KiB
    pages at hand: with huge pages it took 10 % less time on two cores, 15 % less on one. Nothing
    is taken before it is written to.
    """
    libc = _glibc()
    if libc is None:
        return
    libc.mallopt(_TOP_PAD, num_bytes)  # by so much the heap grows beyond what is asked of it
    block = libc.malloc(24 * MIB)  # small enough to be of the heap, see _keep_freed_memory
    libc.mallopt(_TOP_PAD, MIB // 8)  # as it was
    start = -(-block // mmap.PAGESIZE) * mmap.PAGESIZE
    end = libc.sbrk(0) // mmap.PAGESIZE * mmap.PAGESIZE
    if block and start < end:  # a heap that could not grow goes on elsewhere
        libc.madvise(start, end - start, _HUGE_PAGES)
    libc.free(block)


def _glibc() -> ctypes.CDLL | None:
    """The C library, if it is glibc."""
    if platform.libc_ver()[0] != "glibc":
        return None
    libc = ctypes.CDLL(None)
    libc.malloc.restype = libc.sbrk.restype = ctypes.c_size_t
    libc.malloc.argtypes = libc.free.argtypes = [ctypes.c_size_t]
    libc.sbrk.argtypes = [ctypes.c_ssize_t]
    libc.madvise.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
    return libc
