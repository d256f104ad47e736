"""Adapters that give Lightning's loggers the methods of a `Listener`."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import (
    CometLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)
from PIL import Image as Pillow

from attnkit.listeners.listener import Listener, RunInfo
from attnkit.tensorboard import summaries
from attnkit.tensorboard.attention_record import AttentionRecord
from attnkit.tensorboard.images import Image, contact_sheet
from attnkit.tensorboard.map_format import encode


@functools.singledispatch
def listener_of(logger: Any) -> Listener:
    """Returns a logger as a `Listener`.

    Use `listener_of.register(Class, function)` to support another class of loggers.

    Raises:
        TypeError: if it is neither a Lightning logger nor a `Listener`.
    """
    raise TypeError(
        f"{type(logger).__name__} is not a logger; give one of Lightning's "
        "(lightning.pytorch.loggers) or an attnkit.listeners.listener.Listener"
    )


@listener_of.register
def _(logger: Listener) -> Listener:
    return logger


class Listeners(Listener):
    """Several loggers as one `Listener`: each call goes to all of them.

    Args:
        loggers: Lightning loggers and listeners.
    """

    def __init__(self, loggers: Iterable[Any]) -> None:
        self.listeners = [listener_of(logger) for logger in loggers]

    def begin(self, hyperparameters: Mapping[str, Any]) -> None:
        for listener in self.listeners:
            listener.begin(hyperparameters)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for listener in self.listeners:
            listener.scalars(values, step)

    def text(self, tag: str, text: str, step: int) -> None:
        for listener in self.listeners:
            listener.text(tag, text, step)

    def image(self, tag: str, image: Image, step: int) -> None:
        for listener in self.listeners:
            listener.image(tag, image, step)

    def maps(self, record: AttentionRecord, step: int) -> None:
        for listener in self.listeners:
            listener.maps(record, step)


class OfLightning(Listener):
    """Any Lightning logger: scalars and hyperparameters, which all of them take.

    Args:
        logger: Lightning's.
    """

    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def open(self, run: RunInfo) -> None:
        # Most create their experiment on first use; two threads would create two.
        getattr(self.logger, "experiment", None)

    def begin(self, hyperparameters: Mapping[str, Any]) -> None:
        self.logger.log_hyperparams(summaries.flatten(hyperparameters))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.logger.log_metrics(dict(values), step)

    def finish(self, status: str | None) -> None:
        self.logger.finalize(status or "failed")


class OfTensorBoard(OfLightning):
    """Lightning's TensorBoard logger; maps also go to the Attention page."""

    def text(self, tag: str, text: str, step: int) -> None:
        self.logger.experiment.add_text(tag, summaries.fenced(text), step)

    def image(self, tag: str, image: Image, step: int) -> None:
        self._add(summaries.image(tag, *image), step)

    def maps(self, record: AttentionRecord, step: int) -> None:
        self._add(summaries.maps(record.tag, encode(record)), step)
        self.image(record.picture_tag, contact_sheet(record, step), step)

    def _add(self, summary: Any, step: int) -> None:
        # torch has no public method for an existing summary.
        self.logger.experiment._get_file_writer().add_summary(summary, step)


class OfWandb(OfLightning):
    """Weights & Biases: texts are tables, maps are images and artifacts (NumPy archives).

    Args:
        logger: Lightning's.
        ends_run: end the run of wandb in `finish`.
    """

    def __init__(self, logger: WandbLogger, *, ends_run: bool = False) -> None:
        super().__init__(logger)
        self.ends_run = ends_run

    def text(self, tag: str, text: str, step: int) -> None:
        self.logger.log_text(tag, columns=["text"], data=[[text]], step=step)

    def image(self, tag: str, image: Image, step: int) -> None:
        self.logger.log_image(tag, [_pillow(image)], step=step)

    def maps(self, record: AttentionRecord, step: int) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        self.image(record.picture_tag, contact_sheet(record, step), step)
        name = f"{self.logger.experiment.id}-{record.example}-{record.site}"
        artifact = wandb.Artifact(name, type="attention_maps", metadata={"step": step})
        with artifact.new_file(f"step-{step}.npz", mode="wb") as file:
            file.write(_npz(record))
        self.logger.experiment.log_artifact(artifact)

    def finish(self, status: str | None) -> None:
        super().finish(status)
        if self.ends_run:
            self.logger.experiment.finish(exit_code=0 if status == "success" else 1)


class OfMLflow(OfLightning):
    """MLflow: texts and the numbers of maps (NumPy archives) are artifacts, maps also images."""

    def text(self, tag: str, text: str, step: int) -> None:
        self.logger.experiment.log_text(self.logger.run_id, text, f"{tag}/step-{step}.txt")

    def image(self, tag: str, image: Image, step: int) -> None:
        client = self.logger.experiment
        client.log_image(self.logger.run_id, _pillow(image), key=tag, step=step)

    def maps(self, record: AttentionRecord, step: int) -> None:
        self.image(record.picture_tag, contact_sheet(record, step), step)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"step-{step}.npz"
            file.write_bytes(_npz(record))
            self.logger.experiment.log_artifact(self.logger.run_id, str(file), record.tag)

    def finish(self, status: str | None) -> None:
        # MLflow has no status "aborted", and Lightning passes on unknown ones.
        super().finish("KILLED" if status in (None, "aborted") else status)


class OfComet(Listener):
    """Comet: maps are images and assets (NumPy archives).

    Args:
        experiment: Comet's.
        ends_run: end the experiment in `finish`.
    """

    def __init__(self, experiment: Any, *, ends_run: bool = False) -> None:
        self.experiment = experiment
        self.ends_run = ends_run

    def begin(self, hyperparameters: Mapping[str, Any]) -> None:
        self.experiment.log_parameters(summaries.flatten(hyperparameters))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.experiment.log_metrics(dict(values), step=step)

    def text(self, tag: str, text: str, step: int) -> None:
        self.experiment.log_text(text, step=step, metadata={"tag": tag})

    def image(self, tag: str, image: Image, step: int) -> None:
        self.experiment.log_image(_pillow(image), name=tag, step=step)

    def maps(self, record: AttentionRecord, step: int) -> None:
        self.image(record.picture_tag, contact_sheet(record, step), step)
        name = f"{record.tag}/step-{step}.npz"
        self.experiment.log_asset(BytesIO(_npz(record)), file_name=name, step=step)

    def finish(self, status: str | None) -> None:
        if self.ends_run:
            self.experiment.end()
        else:
            self.experiment.flush()


listener_of.register(Logger, OfLightning)
listener_of.register(TensorBoardLogger, OfTensorBoard)
listener_of.register(WandbLogger, OfWandb)
listener_of.register(MLFlowLogger, OfMLflow)
listener_of.register(CometLogger, lambda logger: OfComet(logger.experiment))


def _pillow(image: Image) -> Any:
    return Pillow.open(BytesIO(image.png)).convert("RGB")


def _npz(record: AttentionRecord) -> bytes:
    """A record as a NumPy archive: `L0`, `L1`, ... of shape (H, Q, K), and both token lists."""
    content = BytesIO()
    arrays: dict[str, Any] = {layer.name: layer.weights for layer in record.layers}
    np.savez_compressed(
        content,
        query_tokens=np.array(record.query_tokens),
        key_tokens=np.array(record.key_tokens),
        **arrays,
    )
    return content.getvalue()
