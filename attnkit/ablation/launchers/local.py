"""Runs jobs as processes of this machine, which share its cores and GPUs."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping, Sequence

from attnkit.ablation.launchers.base import (
    KILLED,
    Ended,
    Job,
    Launcher,
    thread_variables,
)
from attnkit.ablation.launchers.process import JobProcess, Running
from attnkit.hardware.process import available_cores, of_user, threads_of_user
from attnkit.registry import LAUNCHERS

_POLL = 0.05
"""Seconds between two checks of the processes."""

_REAP = 5.0
"""Seconds to wait for a killed process to disappear."""


@LAUNCHERS.register("local")
class Local(Launcher):
    """A pool of processes on this machine; by default one per GPU, or one per core.

    Args:
        threads: per process; null: `OMP_NUM_THREADS`, or the cores divided by the workers.
        gpus: per process, where there are any.
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        threads: int | None = None,
        gpus: int = 1,
        **options,
    ) -> None:
        for name, number in (("threads", threads or 1), ("gpus", gpus)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        devices = visible_gpus()
        self._shares = [devices[i : i + gpus] for i in range(0, len(devices) - gpus + 1, gpus)]
        super().__init__(workers or len(self._shares) or available_cores(), **options)
        self.workers: int
        self.threads = threads or threads_of_user() or max(available_cores() // self.workers, 1)
        variables = thread_variables(self.threads)
        set_by_user = {name: value for name in variables if (value := of_user(name))}
        self._variables = variables if threads else variables | set_by_user
        self._waiting: deque[Job] = deque()
        self._running: dict[str, Running] = {}
        self._slots: dict[str, int] = {}
        self._shared: dict[str, tuple[float, float]] = {}  # seconds, and seconds * neighbours
        self._counted = 0.0
        self._dropped: list[Ended] = []

    def describe(self) -> str:
        threads = f"{self.threads} CPU thread{'s' * (self.threads != 1)}"
        words = [f"{self.workers} at a time", f"{threads} each"]
        if self._shares:
            gpus = len(self._shares[0])
            words.append(f"{gpus} GPU{'s' * (gpus != 1)} each")
        return ", ".join(words)

    def start(self, jobs: Sequence[Job]) -> None:
        self._waiting.extend(jobs)
        self._fill()

    def ended(self, seconds: float) -> list[Ended]:
        deadline = time.monotonic() + seconds
        dropped, self._dropped = self._dropped, []
        while True:
            codes = {key: process.code() for key, process in self._running.items()}
            done = [(key, code) for key, code in codes.items() if code is not None]
            if done:
                self._count_neighbours()
            ended = [Ended(key, code, neighbours=self._neighbours(key)) for key, code in done]
            if ended or dropped or time.monotonic() >= deadline:
                break
            time.sleep(_POLL)
        for end in ended:
            del self._running[end.key], self._slots[end.key], self._shared[end.key]
        self._fill()
        return ended + dropped

    def stop(self) -> None:
        self._drop()
        for process in self._running.values():
            process.stop()

    def kill(self) -> None:
        self._drop()
        for process in self._running.values():
            process.kill()

    def close(self) -> None:
        self.kill()
        for process in self._running.values():
            process.wait(_REAP)

    def begin(self, job: Job, environment: Mapping[str, str]) -> Running:
        """Starts a job with some environment variables."""
        return JobProcess(job, environment)

    def _count_neighbours(self) -> None:
        """Adds the time since the last call; the running jobs were the same throughout."""
        now = time.monotonic()
        passed, self._counted = now - self._counted, now
        for key, (seconds, shared) in self._shared.items():
            self._shared[key] = seconds + passed, shared + passed * (len(self._shared) - 1)

    def _neighbours(self, key: str) -> float | None:
        seconds, shared = self._shared[key]
        return round(shared / seconds, 2) if seconds else None

    def _drop(self) -> None:
        self._dropped += [Ended(job.key, KILLED, "was not started") for job in self._waiting]
        self._waiting.clear()

    def _fill(self) -> None:
        free = [slot for slot in range(self.workers) if slot not in self._slots.values()]
        if free and self._waiting:
            self._count_neighbours()
        for slot in free[: len(self._waiting)]:
            job = self._waiting.popleft()
            environment = dict(self._variables)
            if self._shares:
                share = self._shares[slot % len(self._shares)]
                environment["CUDA_VISIBLE_DEVICES"] = ",".join(share)
            self._running[job.key] = self.begin(job, environment)
            self._slots[job.key] = slot
            self._shared[job.key] = 0.0, 0.0


def visible_gpus() -> list[str]:
    """Returns the names of the GPUs that this process may use, as in `CUDA_VISIBLE_DEVICES`."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]
