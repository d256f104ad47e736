"""The loggers that a recipe's `logging.to` may name. Loads nothing heavy: each is imported where a
run opens it.
"""

from __future__ import annotations

import os
from typing import Any

from attnkit.listeners.listener import Listener, RunPlace
from attnkit.registry import LOGGERS
from attnkit.tensorboard.event_files import EVENT_FILES, METRICS_CSV, METRICS_JSONL


@LOGGERS.register("tensorboard")
class TensorBoard(Listener):
    """An event file in the run's directory: curves, texts, pictures and the Attention page."""

    files = (EVENT_FILES,)
    in_background = False

    def open(self, run: RunPlace) -> Any:
        from attnkit.listeners.event_file import EventFile

        trial_id = f"{run.name}/{run.variant}"
        return EventFile(run.directory, trial_id=trial_id, resume=run.resume)


@LOGGERS.register("csv")
class Csv(Listener):
    """Curves as `metrics.csv` in the run's directory, a line a value: step, name, value."""

    files = (METRICS_CSV,)
    in_background = False

    def open(self, run: RunPlace) -> Any:
        from attnkit.listeners.metric_files import TidyCsv

        return TidyCsv(run.directory)


@LOGGERS.register("jsonl")
class Jsonl(Listener):
    """Curves as `metrics.jsonl` in the run's directory, a JSON object a line."""

    files = (METRICS_JSONL,)
    in_background = False

    def open(self, run: RunPlace) -> Any:
        from attnkit.listeners.metric_files import JsonLines

        return JsonLines(run.directory)


@LOGGERS.register("wandb")
class Wandb(Listener):
    """Weights & Biases, a run there for each run here. A run that resumes goes on under its id.

    Args:
        project: where the run appears.
        entity: user or team; null: the one who is logged in.
        group: what its seeds are grouped by; null: name and variant of the recipe.
        tags: words to filter by.
        notes: a text about the run.
        offline: write to the run's directory alone; `wandb sync` uploads it later.
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

    def open(self, run: RunPlace) -> Any:
        import wandb  # pyright: ignore[reportMissingImports]
        from lightning.pytorch.loggers import WandbLogger

        from attnkit.listeners.lightning import OfWandb

        wandb.setup(wandb.Settings(console="off", silent=True))
        # One process may train several runs, each of which is a run of its own there.
        started = wandb.init(
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
        run.remember("wandb", started.id)
        started.define_metric("trainer/global_step")
        started.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        logger = WandbLogger(experiment=started, project=self.project, save_dir=run.directory)
        return OfWandb(logger, ends_run=True)


@LOGGERS.register("mlflow")
class MLflow(Listener):
    """MLflow, a run of an experiment there for each run here. A run that resumes goes on there.

    Args:
        experiment: what runs are gathered under; null: the recipe's name.
        tracking_uri: address of a server, or `file:FOLDER`; null: `$MLFLOW_TRACKING_URI`, or else
            the folder `mlruns` among the runs.
        tags: name -> text, on the run.
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

    def open(self, run: RunPlace) -> Any:
        uri = self.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
            uri = (run.runs_dir / "mlruns").absolute().as_uri()
        if uri.startswith("file:"):  # which MLflow 3.7 and later refuse otherwise
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from lightning.pytorch.loggers import MLFlowLogger

        logger = MLFlowLogger(
            experiment_name=self.experiment or run.name,
            run_name=f"{run.variant}/seed{run.seed}",
            tracking_uri=uri,
            tags={**self.tags, "variant": run.variant, "seed": str(run.seed)},
            run_id=run.recall("mlflow"),
        )
        run.remember("mlflow", str(logger.run_id))
        return logger


@LOGGERS.register("comet")
class Comet(Listener):
    """Comet, an experiment there for each run here. A run that resumes goes on in its experiment.

    Args:
        project: where the experiment appears.
        workspace: user or team; null: the default one.
        tags: words to filter by.
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

    def open(self, run: RunPlace) -> Any:
        # Comet would patch torch and log by itself, and warn that it came too late for that.
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
