"""What is kept in memory while a run trains on a CPU, and let go of behind it."""

import ctypes
import gc
import platform
import resource
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from attnkit.hardware import cpu_training
from attnkit.hardware.cpu_training import MIB, KeptMemory
from attnkit.runs import experiment

glibc_only = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="a matter of glibc's malloc"
)


def trainer_on(device: str):
    return SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)))


@pytest.fixture
def thawed():
    """As in a process that has frozen nothing; the tests' own has, see `conftest.py`."""
    gc.unfreeze()
    yield
    gc.freeze()


@pytest.fixture
def kept():
    """`kept()`: a callback that has begun; it ends with the test."""
    callbacks = []

    def begin(device: str = "cpu") -> KeptMemory:
        callbacks.append(KeptMemory())
        callbacks[-1].on_fit_start(trainer_on(device), None)
        return callbacks[-1]

    yield begin
    for callback in callbacks:
        callback.on_exception(None, None, KeyboardInterrupt())


def test_training_leaves_out_of_garbage_collection_what_was_there_before(thawed, kept):
    callback = kept()
    assert gc.get_freeze_count() > 10_000
    callback.on_fit_end(None, None)
    assert gc.get_freeze_count() == 0


def test_what_somebody_else_has_frozen_stays_so(kept):
    gc.freeze()
    frozen = gc.get_freeze_count()
    kept().on_fit_end(None, None)
    assert gc.get_freeze_count() > 0.99 * frozen  # what nobody holds any longer is gone


def test_on_a_gpu_nothing_is_done(thawed, kept, monkeypatch):
    monkeypatch.setattr(cpu_training, "_keep_freed_memory", lambda _: pytest.fail("on a GPU"))
    callback = kept("cuda")
    assert gc.get_freeze_count() == 0
    callback.on_fit_end(None, None)


@pytest.mark.parametrize("fails", [False, True])
def test_a_run_begins_and_ends_it(small, monkeypatch, fails):
    kept: list[int] = []
    monkeypatch.setattr(cpu_training, "_keep_freed_memory", kept.append)
    recipe = small("trainer.max_steps=1", f"optimizer.lr={1e30 if fails else 1e-3}")
    if fails:
        monkeypatch.setattr(experiment.TrainingCurves, "on_train_batch_end", _fail)
        with pytest.raises(ZeroDivisionError):
            experiment.run(recipe)
    else:
        experiment.run(recipe)
    assert kept == [1024 * MIB, 64 * MIB]


def _fail(*_):
    raise ZeroDivisionError


@glibc_only
def test_freed_memory_is_kept_for_the_next_step(kept):
    """A second step that needs the same 200 MiB touches pages that are there; where they were
    handed back, there is a page fault for each of 51,200.
    """

    libc = ctypes.CDLL(None)
    libc.malloc.restype = libc.memset.restype = ctypes.c_void_p

    def faults_of_a_step() -> int:
        """Blocks alone: what a tensor takes besides would at times stay, and hold the heap up."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = [ctypes.c_void_p(libc.malloc(MIB)) for _ in range(200)]
        for block in blocks:
            libc.memset(block, 1, MIB)
        for block in blocks:
            libc.free(block)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    cpu_training._keep_freed_memory(0)
    faults_of_a_step()
    assert faults_of_a_step() > 10_000  # fewer where the system gives huge pages
    kept()
    faults_of_a_step()
    assert faults_of_a_step() < 1000


@glibc_only
@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="the system has no huge pages"
)
def test_the_heap_asks_for_huge_pages(kept):
    """Its end does, which the next step writes to; whether it gets some is up to the system."""
    kept()
    end = cpu_training._glibc().sbrk(0)
    flags: list[str] = []
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0]:
            first, last = (int(word, 16) for word in words[0].split("-"))
            inside = first < end <= last
        elif inside and words[0] == "VmFlags:":
            flags = words[1:]
    assert "hg" in flags
