"""What is done for Lightning's loop to be cheap, and undone behind it."""

import platform
import resource

import pytest
import torch

from attnkit import light_loop


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a matter of glibc's malloc")
def test_freed_memory_is_kept_for_the_next_step():
    """A second step that needs the same 200 MiB touches pages that are there; where they were
    handed back, there is a page fault for each of 51,200.
    """

    def faults_of_a_step() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        activations = [torch.ones(light_loop.MIB // 4) for _ in range(200)]
        del activations
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    light_loop._keep_freed_memory(0)
    faults_of_a_step()
    # Fills the holes that other tests have left, so that each step lies at the top of the heap.
    filling = [torch.ones(light_loop.MIB // 4) for _ in range(300)]
    faults_of_a_step()
    assert faults_of_a_step() > 25_000
    with light_loop.long_lived_memory():
        faults_of_a_step()
        assert faults_of_a_step() < 1000
    del filling
