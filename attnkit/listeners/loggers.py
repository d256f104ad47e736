"""The loggers that a recipe's `logging.to` can name. Heavy packages are imported in `open`."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from attnkit.listeners.listener import Listener, RunInfo
from attnkit.registry import LOGGERS
from attnkit.storage.run_directory import varied_keys
from attnkit.tensorboard.event_files import EVENT_FILES, METRICS_CSV, METRICS_JSONL


@LOGGERS.register("tensorboard")
class TensorBoard(Listener):
    """TensorBoard: an event file in the run's directory, with the maps for the Attention page."""

    files = (EVENT_FILES,)

    def open(self, run: RunInfo) -> Any:
        from attnkit.listeners.event_file import EventFile

        # Tuning runs are not results, and get no row in the table of hyperparameters.
        trial_id = None if run.name.endswith(".tuning") else f"{run.name}/{run.variant}"
        varied = varied_keys(run.directory)
        return EventFile(run.directory, trial_id=trial_id, varied=varied, resume=run.resume)


@LOGGERS.register("csv")
class Csv(Listener):
    """Scalars in `metrics.csv` in the run's directory, one line per value: step,name,value."""

    files = (METRICS_CSV,)

    def open(self, run: RunInfo) -> Any:
        from attnkit.listeners.metric_files import TidyCsv

        return TidyCsv(run.directory)


@LOGGERS.register("jsonl")
class Jsonl(Listener):
    """Scalars in `metrics.jsonl` in the run's directory, one JSON object per line."""

    files = (METRICS_JSONL,)

    def open(self, run: RunInfo) -> Any:
        from attnkit.listeners.metric_files import JsonLines

        return JsonLines(run.directory)


@LOGGERS.register("wandb")
class Wandb(Listener):
    """Weights & Biases; a run that resumes continues its run there.

    Args:
        project: project of the run.
        entity: user or team; null: the user who is logged in.
        group: group of the run, in which seeds are averaged; null: the recipe's name and variant.
        tags: tags of the run.
        notes: a description of the run.
        offline: write to the run's directory only; `wandb sync` uploads it later.
    """

    packages = ("wandb",)

    def __init__(
        self,
        *,
        project: str = "attnkit",
        entity: str | None = None,
        group: str | None = None,
        tags: tuple[str, ...] = (),
        notes: str | None = None,
        offline: bool = False,
    ) -> None:
        self.project = project
        self.offline = offline
        self.group = group
        self.options = {"entity": entity, "tags": list(tags), "notes": notes}

    def open(self, run: RunInfo) -> Any:
        import wandb  # pyright: ignore[reportMissingImports]
        from lightning.pytorch.loggers import WandbLogger

        from attnkit.listeners.lightning import OfWandb

        wandb.setup(wandb.Settings(console="off", silent=True))
        # create_new: one process may train several runs.
        wandb_run = wandb.init(
            project=self.project,
            name=f"{run.name}/{run.variant}/seed{run.seed}",
            group=self.group or f"{run.name}/{run.variant}",
            dir=str(run.directory),
            id=run.recall("wandb"),
            resume="allow",
            reinit="create_new",
            mode="offline" if self.offline else None,
            settings=wandb.Settings(console="off", silent=True),
            **self.options,
        )
        run.remember("wandb", wandb_run.id)
        wandb_run.define_metric("trainer/global_step")
        wandb_run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        logger = WandbLogger(experiment=wandb_run, project=self.project, save_dir=run.directory)
        return OfWandb(logger, ends_run=True)


@LOGGERS.register("mlflow")
class MLflow(Listener):
    """MLflow; a run that resumes continues its run there.

    Args:
        experiment: experiment of the run; null: the recipe's name.
        tracking_uri: address of a server, or `file:FOLDER`; null: `$MLFLOW_TRACKING_URI`, or else
            the folder `mlruns` in `runs_dir`.
        tags: tags of the run, name -> text.
    """

    packages = ("mlflow",)

    def __init__(
        self,
        *,
        experiment: str | None = None,
        tracking_uri: str | None = None,
        tags: dict[str, Any] | None = None,
    ) -> None:
        self.experiment = experiment
        self.tracking_uri = tracking_uri
        self.tags = dict(tags or {})

    def open(self, run: RunInfo) -> Any:
        uri = self.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
            uri = (run.runs_dir / "mlruns").absolute().as_uri()
        if uri.startswith("file:"):  # recent versions of MLflow refuse files without this
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from lightning.pytorch.loggers import MLFlowLogger

        name = self.experiment or run.name
        _make_experiment(uri, name, run.runs_dir)
        logger = MLFlowLogger(
            experiment_name=name,
            run_name=f"{run.variant}/seed{run.seed}",
            tracking_uri=uri,
            tags={**self.tags, "variant": run.variant, "seed": str(run.seed)},
            run_id=run.recall("mlflow"),
        )
        run.remember("mlflow", str(logger.run_id))
        return logger


def _make_experiment(uri: str, name: str, runs_dir: Path) -> None:
    """Creates an experiment of MLflow, unless it exists.

    The runs of a study start at the same time: a server refuses all but the first, and files need a
    lock.
    """
    from filelock import FileLock
    from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]
    from mlflow.exceptions import MlflowException  # pyright: ignore[reportMissingImports]

    client = MlflowClient(uri)
    with FileLock(runs_dir / ".mlflow.lock") if uri.startswith("file:") else nullcontext():
        if client.get_experiment_by_name(name) is None:
            try:
                client.create_experiment(name)
            except MlflowException:
                if client.get_experiment_by_name(name) is None:
                    raise


@LOGGERS.register("comet")
class Comet(Listener):
    """Comet; a run that resumes continues its experiment there.

    Args:
        project: project of the experiment.
        workspace: user or team; null: the default workspace.
        tags: tags of the experiment.
        offline: write an archive to the run's directory; `comet upload` uploads it later.
    """

    packages = ("comet-ml",)

    def __init__(
        self,
        *,
        project: str = "attnkit",
        workspace: str | None = None,
        tags: tuple[str, ...] = (),
        offline: bool = False,
    ) -> None:
        self.project = project
        self.workspace = workspace
        self.tags = list(tags)
        self.offline = offline

    def open(self, run: RunInfo) -> Any:
        # Otherwise Comet patches torch and logs automatically.
        os.environ["COMET_DISABLE_AUTO_LOGGING"] = "1"
        import comet_ml  # pyright: ignore[reportMissingImports]

        from attnkit.listeners.lightning import OfComet

        config = comet_ml.ExperimentConfig(
            name=f"{run.name}/{run.variant}/seed{run.seed}",
            tags=self.tags,
            offline_directory=str(run.directory / "comet"),
            log_code=False,
            log_git_metadata=False,
            log_git_patch=False,
            display_summary_level=0,
        )
        experiment = comet_ml.start(
            project=self.project,
            workspace=self.workspace,
            experiment_key=run.recall("comet"),
            online=not self.offline,
            experiment_config=config,
        )
        run.remember("comet", experiment.get_key())
        return OfComet(experiment, ends_run=True)
