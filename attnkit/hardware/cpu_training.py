"""Speeds up training steps on a CPU: keeps freed memory for the next step, uses large pages, and
excludes permanent objects from garbage collection.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import platform

import lightning as L

MIB = 1024 * 1024

# Constants of glibc's malloc.h, see mallopt(3), and of Linux' sys/mman.h, see madvise(2).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_HUGE_PAGES = 14


class KeptMemory(L.Callback):
    """While a run trains on a CPU, keeps memory between steps (see `_keep_freed_memory` and
    `_request_huge_pages`), and excludes existing objects from garbage collection: torch and
    Lightning create half a million. Does nothing on another device.
    """

    def __init__(self) -> None:
        self._is_active = False
        self._has_frozen = False

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.strategy.root_device.type != "cpu":
            return
        self._is_active = True
        gc.collect()
        if not gc.get_freeze_count():  # otherwise other code has frozen objects
            gc.freeze()
            self._has_frozen = True
        _keep_freed_memory(1024 * MIB)
        _request_huge_pages(512 * MIB)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._end()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
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
    """Makes glibc return freed memory to the system only beyond `num_bytes` at the top of its heap.
    Does nothing with another C library.
    """
    # By default glibc returns memory beyond 128 KiB, and getting it back costs page faults. Later
    # it adapts the threshold up to 64 MiB, so that value is set at the end.
    libc = _glibc()
    if libc is not None:
        # The largest allowed value; larger blocks are mapped.
        libc.mallopt(_MMAP_THRESHOLD, 32 * MIB)
        libc.mallopt(_TRIM_THRESHOLD, num_bytes)


def _request_huge_pages(num_bytes: int) -> None:
    """Puts the next `num_bytes` of the heap into pages of 2 MiB, where glibc and the system support
    it; does nothing elsewhere. No memory is used before it is written to.
    """
    # A step writes tens of MiB, more than the processor's address cache covers with pages of 4 KiB.
    libc = _glibc()
    if libc is None:
        return
    libc.mallopt(_TOP_PAD, num_bytes)  # extra size when the heap grows
    block = libc.malloc(24 * MIB)  # small enough for the heap, see _keep_freed_memory
    libc.mallopt(_TOP_PAD, MIB // 8)  # the default
    start = -(-block // mmap.PAGESIZE) * mmap.PAGESIZE
    end = libc.sbrk(0) // mmap.PAGESIZE * mmap.PAGESIZE
    if block and start < end:  # a heap that could not grow continues elsewhere
        libc.madvise(start, end - start, _HUGE_PAGES)
    libc.free(block)


def _glibc() -> ctypes.CDLL | None:
    """Returns the C library, if it is glibc."""
    if platform.libc_ver()[0] != "glibc":
        return None
    libc = ctypes.CDLL(None)
    libc.malloc.restype = libc.sbrk.restype = ctypes.c_size_t
    libc.malloc.argtypes = libc.free.argtypes = [ctypes.c_size_t]
    libc.sbrk.argtypes = [ctypes.c_ssize_t]
    libc.madvise.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
    return libc
