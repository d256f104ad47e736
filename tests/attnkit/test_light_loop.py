"""What is done for Lightning's loop to be cheap, and undone behind it."""

import ctypes
import platform
import resource
from pathlib import Path

import pytest

from attnkit import light_loop


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a matter of glibc's malloc")
def test_freed_memory_is_kept_for_the_next_step():
    """A second step that needs the same 200 MiB touches pages that are there; where they were
    handed back, there is a page fault for each of 51,200.
    """

    libc = ctypes.CDLL(None)
    libc.malloc.restype = libc.memset.restype = ctypes.c_void_p

    def faults_of_a_step() -> int:
        """Blocks alone: what a tensor takes besides would at times stay, and hold the heap up."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = [ctypes.c_void_p(libc.malloc(light_loop.MIB)) for _ in range(200)]
        for block in blocks:
            libc.memset(block, 1, light_loop.MIB)
        for block in blocks:
            libc.free(block)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    light_loop._keep_freed_memory(0)
    faults_of_a_step()
    assert faults_of_a_step() > 25_000
    with light_loop.long_lived_memory():
        faults_of_a_step()
        assert faults_of_a_step() < 1000


def _huge_pages() -> str:
    rule = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return rule.read_text() if rule.exists() else ""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or "[never]" in _huge_pages() or not _huge_pages(),
    reason="the system gives no huge pages",
)
def test_what_a_step_writes_comes_in_huge_pages():
    """Of 256 MiB that are written to, most; and all of it is handed back at the end."""

    libc = ctypes.CDLL(None)
    libc.malloc.restype = libc.memset.restype = ctypes.c_void_p

    def mib(name: str) -> float:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(name))

    libc.malloc_trim(0)  # what tests before this one have left
    huge, resident = mib("AnonHugePages:"), mib("Rss:")
    with light_loop.long_lived_memory():
        assert mib("Rss:") < resident + 16  # asking takes nothing
        blocks = [ctypes.c_void_p(libc.malloc(8 * light_loop.MIB)) for _ in range(32)]
        for block in blocks:
            libc.memset(block, 1, 8 * light_loop.MIB)
        assert mib("AnonHugePages:") - huge > 200
        for block in blocks:
            libc.free(block)
    libc.free(ctypes.c_void_p(libc.malloc(16 * light_loop.MIB)))
    assert mib("Rss:") < resident + 80
