"""Runs jobs as an array of a SLURM cluster, with submitit. Needs the extra `attnkit[slurm]`."""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence
from typing import Any, Literal

from attnkit.ablation.launchers.base import (
    KILLED,
    Ended,
    Job,
    Launcher,
    LauncherError,
    thread_variables,
)
from attnkit.ablation.launchers.process import run_to_end
from attnkit.registry import LAUNCHERS

_POLL = 0.5
"""Seconds between two checks of submitit's files."""


@LAUNCHERS.register("slurm")
class Slurm(Launcher):
    """A SLURM job array; `workers` limits how many of its jobs run at the same time.

    Jobs continue without the process that submitted them: run the same command again to wait for
    those that still run. The same command also resumes a job that reached its time limit.

    Args:
        partition: to submit to; null: the cluster's default.
        hours: time limit of each job.
        cpus: cores per job.
        gpus: GPUs per job.
        memory_gb: per job; null: the cluster's default.
        parameters: further parameters of submitit, such as {slurm_account: me}.
        cluster: `local` runs the array as processes of this machine, for testing.
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        partition: str | None = None,
        hours: float = 24.0,
        cpus: int = 1,
        gpus: int = 0,
        memory_gb: float | None = None,
        parameters: dict[str, Any] | None = None,
        cluster: Literal["slurm", "local"] = "slurm",
        **options,
    ) -> None:
        super().__init__(workers, **options)
        if hours <= 0 or cpus < 1 or gpus < 0:
            raise ValueError(
                f"hours must be above 0, cpus at least 1 and gpus at least 0, got {hours:g}, "
                f"{cpus} and {gpus}"
            )
        self.cluster = cluster
        self.cpus = cpus
        self._parameters: dict[str, Any] = {
            "timeout_min": max(round(hours * 60), 1),
            "cpus_per_task": cpus,
            "gpus_per_node": gpus,
            "mem_gb": memory_gb,
            "slurm_partition": partition,
            "slurm_array_parallelism": workers,
            **(parameters or {}),
        }
        self._jobs: dict[str, Any] = {}

    def describe(self) -> str:
        given = {key: value for key, value in self._parameters.items() if value is not None}
        return f"{self.cluster}: {', '.join(f'{key} {value}' for key, value in given.items())}"

    def start(self, jobs: Sequence[Job]) -> None:
        """Submits all jobs as one array."""
        if not jobs:
            return
        try:
            submitit: Any = importlib.import_module("submitit")
        except ImportError as error:
            raise LauncherError(
                "the launcher `slurm` needs submitit; install it: pip install 'attnkit[slurm]'"
            ) from error
        folder = jobs[0].log.parent.absolute() / "slurm" / "%j"
        given = {key: value for key, value in self._parameters.items() if value is not None}
        try:
            executor = submitit.AutoExecutor(folder, cluster=self.cluster)
            executor.update_parameters(**given)
            submitted = executor.map_array(
                run_to_end,
                list(jobs),
                [thread_variables(self.cpus)] * len(jobs),
                [self.grace] * len(jobs),
            )
        except (RuntimeError, OSError, NameError, submitit.core.utils.FailedJobError) as error:
            raise LauncherError(
                f"the array cannot be submitted to {self.cluster}: {error}"
            ) from error
        self._jobs |= dict(zip((job.key for job in jobs), submitted, strict=True))

    def ended(self, seconds: float) -> list[Ended]:
        deadline = time.monotonic() + seconds
        while True:
            done = [key for key, job in self._jobs.items() if job.done()]
            if done or time.monotonic() >= deadline:
                return [self._end(key) for key in done]
            time.sleep(_POLL)

    def stop(self) -> None:
        """Cancels the array: SLURM sends SIGTERM, then SIGKILL after its own delay."""
        for job in self._jobs.values():
            job.cancel(check=False)

    def kill(self) -> None:
        """Does nothing more than `stop`: SLURM kills cancelled jobs itself."""
        self.stop()

    def close(self) -> None:
        """Does nothing: jobs that still run belong to the cluster."""

    def _end(self, key: str) -> Ended:
        job = self._jobs.pop(key)
        error = job.exception()
        if error is None:
            return Ended(key, job.result())
        words = str(error).strip().splitlines()
        return Ended(key, KILLED, f"was lost by {self.cluster}: {words[-1] if words else error!r}")
