"""What is done for Lightning's loop to be cheap, and undone behind it."""

import gc
import platform
import resource
import weakref

import pytest
import torch

from attnkit import light_loop


@pytest.fixture
def _thawed():
    """As in a process that has frozen nothing; the tests' own has, see `conftest.py`."""
    gc.unfreeze()
    yield
    gc.freeze()


@pytest.mark.usefixtures("_thawed")
def test_garbage_collection_leaves_out_what_was_there_before():
    with light_loop.long_lived_memory():
        assert gc.get_freeze_count() > 10_000
    assert gc.get_freeze_count() == 0


@pytest.mark.usefixtures("_thawed")
def test_what_was_frozen_before_stays_frozen_and_garbage_does_not():
    gc.freeze()
    frozen = gc.get_freeze_count()
    cycle = [torch.ones(1)]
    cycle.append(cycle)
    gone = weakref.ref(cycle[0])
    del cycle
    with light_loop.long_lived_memory():
        assert gone() is None
        assert gc.get_freeze_count() == frozen
    assert gc.get_freeze_count() == frozen


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
    assert faults_of_a_step() > 25_000
    with light_loop.long_lived_memory():
        faults_of_a_step()
        assert faults_of_a_step() < 1000
