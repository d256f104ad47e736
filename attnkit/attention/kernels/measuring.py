"""Times each kernel that can compute a mechanism on this machine."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from attnkit.attention.kernels.call import Call, CannotServe
from attnkit.attention.kernels.choosing import KERNELS, choose

WARM_UP, TIMED = 2, 5


@dataclass(frozen=True)
class Measurement:
    """The measurement of one kernel, forward and backward.

    Attributes:
        kernel: its name.
        chosen: True if it is the one that would run.
        milliseconds: median; None: not measured.
        mebibytes: peak memory of tensors beyond the inputs.
        why_not: why it was not measured.
    """

    kernel: str
    chosen: bool
    milliseconds: float | None = None
    mebibytes: float | None = None
    why_not: str = ""


class LiveTensors(TorchDispatchMode):
    """Counts the peak number of bytes of the tensors created under it, including fake ones."""

    def __init__(self) -> None:
        super().__init__()
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs the operation and counts its results."""
        results = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(results):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self._live = {at: held for at, held in self._live.items() if not held[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._live.values()))
        return results


def measured(
    make_call: Callable[[Tensor, Tensor, Tensor], Call], heads: tuple[Tensor, Tensor, Tensor]
) -> Iterator[Measurement]:
    """Runs every kernel that can compute a call, forward and backward.

    Args:
        make_call: makes the call from queries, keys and values.
        heads: queries, keys and values of the shapes to measure.
    """
    call, device = make_call(*heads), heads[0].device
    chosen = choose(call).kernel.name
    inputs = [torch.randn_like(h).requires_grad_() for h in heads]
    for name, kernel in KERNELS.items():
        refusal = kernel.refusal(call)
        if refusal is None and name == "flex" and device.type != "cuda":
            refusal = "it has no backward pass on a CPU"
        if refusal is None and name == "cpu_bf16" and device.type != "cpu":
            refusal = "only for a CPU"
        writes_the_map = name in ("reference", "cpu_bf16") or (name == "sdpa" and call.has_bias)
        if refusal is None and writes_the_map and not _fits(call):
            refusal = "the map would not fit in memory"
        if refusal is not None:
            yield Measurement(name, name == chosen, why_not=refusal)
            continue

        def step(kernel: Any = kernel) -> None:
            output = kernel(make_call(*inputs))
            torch.autograd.grad(output, inputs, torch.ones_like(output), allow_unused=True)

        try:
            milliseconds, mebibytes = _time(step, device), _peak(step, device)
        except (CannotServe, RuntimeError) as error:  # also of a compiler, in the backward pass
            is_full = isinstance(error, torch.OutOfMemoryError)
            why = "out of memory" if is_full else " ".join(str(error).split())[:200]
            yield Measurement(name, name == chosen, why_not=why)
            continue
        yield Measurement(name, name == chosen, milliseconds, mebibytes)


def _time(step: Callable[[], None], device: torch.device) -> float:
    times = []
    for _ in range(WARM_UP + TIMED):
        _wait(device)
        started = time.perf_counter()
        step()
        _wait(device)
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times[WARM_UP:])


def _peak(step: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with LiveTensors() as memory:
        step()
    return memory.peak / 2**20


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _fits(call: Call) -> bool:
    """True if four copies of a whole map in float32 fit into free memory."""
    size = 16 * call.q.shape[0] * call.q.shape[1] * call.num_queries * call.num_keys
    if call.q.device.type == "cuda":
        return size < torch.cuda.mem_get_info()[0]
    return size < os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
