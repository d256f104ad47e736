"""What is done for Lightning's loop to be cheap, and undone behind it."""

import ctypes
import platform
import resource

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
