"""Runs jobs as tasks of a Ray cluster. Needs the extra `attnkit[ray]`."""

from __future__ import annotations

import importlib
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from attnkit.ablation.launchers.base import (
    KILLED,
    Ended,
    Job,
    Launcher,
    LauncherError,
    thread_variables,
)
from attnkit.ablation.launchers.process import run_to_end
from attnkit.hardware.process import available_cores
from attnkit.registry import LAUNCHERS


@LAUNCHERS.register("ray")
class Ray(Launcher):
    """Tasks of a Ray cluster, each with its own cores and GPUs; Ray chooses the machines.

    All machines must see the working directory, the data and the runs at the same paths.

    Args:
        address: of a running cluster, or `auto` for the one that this machine belongs to; null:
            start a cluster on this machine, for the duration of the study.
        cpus: cores per process.
        gpus: GPUs per process; with a fraction, such as 0.5, processes share one.
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        address: str | None = None,
        cpus: int = 1,
        gpus: float = 0,
        **options,
    ) -> None:
        super().__init__(workers, **options)
        if cpus < 1 or gpus < 0:
            raise ValueError(f"cpus must be at least 1 and gpus 0, got {cpus} and {gpus:g}")
        self.address = address
        self.cpus = cpus
        self.gpus = gpus
        self._waiting: deque[Job] = deque()
        self._tasks: dict[Any, str] = {}
        self._dropped: list[Ended] = []
        self._ray: Any = None

    def describe(self) -> str:
        where = self.address or "a Ray cluster on this machine only"
        cores = f"{self.cpus} core{'s' * (self.cpus != 1)}"
        return f"{where}, {cores} and {self.gpus:g} GPU{'s' * (self.gpus != 1)} each"

    def start(self, jobs: Sequence[Job]) -> None:
        if self._ray is None:
            self._ray = self._connect()
        self._waiting.extend(jobs)
        self._fill()

    def ended(self, seconds: float) -> list[Ended]:
        dropped, self._dropped = self._dropped, []
        if dropped or not self._tasks:
            time.sleep(0 if dropped else min(seconds, 0.1))
            return dropped
        tasks = list(self._tasks)
        done, _ = self._ray.wait(tasks, num_returns=len(tasks), timeout=0)
        if not done:
            done, _ = self._ray.wait(tasks, num_returns=1, timeout=seconds)
        ended = [self._end(task) for task in done]
        self._fill()
        return ended

    def stop(self) -> None:
        self._drop()
        for task in self._tasks:
            self._ray.cancel(task, force=False)

    def kill(self) -> None:
        self._drop()
        for task in self._tasks:
            self._ray.cancel(task, force=True)

    def close(self) -> None:
        if self._ray is not None:
            self._ray.shutdown()
            self._ray = None

    def _connect(self) -> Any:
        try:
            ray: Any = importlib.import_module("ray")
        except ImportError as error:
            raise LauncherError(
                "the launcher `ray` needs Ray; install it: pip install 'attnkit[ray]'"
            ) from error
        room = (self.workers * self.cpus) if self.workers else available_cores()
        local = {} if self.address else {"num_cpus": room, "include_dashboard": False}
        try:
            ray.init(self.address, log_to_driver=False, logging_level="ERROR", **local)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise LauncherError(f"there is no Ray cluster at {self.address}: {error}") from error
        return ray

    def _fill(self) -> None:
        room = self.workers or len(self._tasks) + len(self._waiting)
        while self._waiting and len(self._tasks) < room:
            job = self._waiting.popleft()
            # Not retried by Ray: running the study again resumes the job.
            remote = self._ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0)
            task = remote(run_to_end).remote(job, thread_variables(self.cpus), self.grace)
            self._tasks[task] = job.key

    def _drop(self) -> None:
        self._dropped += [Ended(job.key, KILLED, "was not started") for job in self._waiting]
        self._waiting.clear()

    def _end(self, task: Any) -> Ended:
        key = self._tasks.pop(task)
        try:
            return Ended(key, self._ray.get(task))
        except self._ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[0]
            return Ended(key, KILLED, f"was lost by Ray: {type(error).__name__}: {reason}")
