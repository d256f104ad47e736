"""What makes a training step cheaper on a CPU: memory that a step frees is kept for the next one,
comes in large pages, and objects that stay are left out of garbage collection.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import platform

import lightning as L

MIB = 1024 * 1024

# Names of glibc's malloc.h, see mallopt(3), and of Linux' sys/mman.h, see madvise(2).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_HUGE_PAGES = 14


class KeptMemory(L.Callback):
    """While a run trains on a CPU, keeps memory between steps, see `_keep_freed_memory` and
    `_ask_for_huge_pages`, and leaves out of garbage collection what exists at the beginning: torch
    and Lightning are half a million objects. Does nothing on another device.
    """

    def __init__(self) -> None:
        self._is_active = False
        self._has_frozen = False

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begins, on a CPU."""
        if trainer.strategy.root_device.type != "cpu":
            return
        self._is_active = True
        gc.collect()
        if not gc.get_freeze_count():  # else somebody wants to keep what is frozen
            gc.freeze()
            self._has_frozen = True
        _keep_freed_memory(1024 * MIB)
        _ask_for_huge_pages(512 * MIB)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ends it."""
        self._end()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Ends it too."""
        self._end()

    def _end(self) -> None:
        if not self._is_active:
            return
        self._is_active = False
        _keep_freed_memory(64 * MIB)
        if self._has_frozen:
            self._has_frozen = False
            gc.unfreeze()


def _keep_freed_memory(num_bytes: int) -> None:
    """Lets the C library hand freed memory back to the system only beyond `num_bytes` at the top of
    its heap, where it is glibc; does nothing elsewhere.

    At first glibc does so beyond 128 KiB, and the system gives each page back as a page fault. With
    time it learns a threshold of up to 64 MiB, so that is what to leave behind.
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_MMAP_THRESHOLD, 32 * MIB)  # the largest that it takes; more is mapped
        libc.mallopt(_TRIM_THRESHOLD, num_bytes)


def _ask_for_huge_pages(num_bytes: int) -> None:
    """Lets the next `num_bytes` of the heap come in pages of 2 MiB, where the C library is glibc
    and the system gives them to those who ask; does nothing elsewhere.

    A step writes some tens of MiB here and there, more than the processor has addresses of 4 KiB
    pages at hand. Nothing is taken before it is written to.
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
