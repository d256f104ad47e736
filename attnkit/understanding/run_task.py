"""The task of a trained run: its model with its data and its loss."""

from __future__ import annotations

from attnkit.attention.maps import has_attention
from attnkit.hardware.devices import default_device
from attnkit.storage.checkpoint_reading import read_checkpoint
from attnkit.storage.run_directory import AVERAGED, BEST, CHECKPOINTS, LAST, RunDirectoryError
from attnkit.tasks.trained_run import TrainedRun
from attnkit.training.task import Task


def task_of(run: TrainedRun) -> Task:
    """Returns the task of a run, with its data prepared, on the fastest device.

    Raises:
        RunDirectoryError: if the model has no layers.
        DataError: if the run's data is no longer there.
    """
    check_heads(run)
    definition = run.recipe.definition
    data = definition.build_data(run.recipe)
    data.prepare()
    return definition.build_task(run.recipe, run.model, data).to(default_device()).eval()


def step_of(run: TrainedRun, *, best: bool = False) -> int | None:
    """Returns the step after which the weights of `load_run` were saved, or the last step of their
    average; None for an exported file, which does not store it.
    """
    if not run.origin.is_dir():
        return None
    folder = run.origin / CHECKPOINTS
    if not best and (folder / AVERAGED).is_file():
        return read_checkpoint(folder / AVERAGED, mapped=True)["averaged_steps"][-1]
    return read_checkpoint(folder / (BEST if best else LAST), mapped=True)["global_step"]


def check_heads(run: TrainedRun) -> None:
    """Checks that a run has attention heads.

    Raises:
        RunDirectoryError: if it has none.
    """
    if not has_attention(run.model):
        raise RunDirectoryError(f"{run.origin}: this run has no layers, so it has no heads")
