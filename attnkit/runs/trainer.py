"""Lightning's trainer for a recipe: its options, and the callbacks of every run."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import DDPStrategy, Strategy

from attnkit.callbacks.at_moments import AtMoments
from attnkit.callbacks.attention_maps import AttentionMaps
from attnkit.callbacks.checkpoints import Checkpoints
from attnkit.callbacks.curves import TrainingCurves
from attnkit.callbacks.progress import TrainingProgress
from attnkit.callbacks.samples import Samples
from attnkit.callbacks.stops import Stops
from attnkit.hardware.cpu_training import KeptMemory
from attnkit.hardware.devices import HardwareError, auto_dtype, fast_dtype
from attnkit.listeners.guard import RunListeners
from attnkit.recipe import Recipe
from attnkit.storage.checkpoint_store import CheckpointStore
from attnkit.storage.lightning_io import StoredCheckpoints
from attnkit.training.fully_sharded import FullySharded
from attnkit.training.probe import Probe

log = logging.getLogger("attnkit")


def build_trainer(
    recipe: Recipe,
    directory: Path,
    probes: Sequence[Probe],
    listeners: RunListeners,
    curves: TrainingCurves,
    stops: Stops,
    store: CheckpointStore,
    more: Sequence[L.Callback] = (),
) -> L.Trainer:
    """Builds the trainer of a run.

    Args:
        recipe: recipe of the run.
        directory: directory of the run.
        probes: examples of which maps are drawn.
        listeners: loggers of the run.
        curves: callback that logs training.
        stops: callback that stops training early.
        store: checkpoints of the run.
        more: further callbacks.

    Raises:
        HardwareError: if this machine lacks the accelerator, the devices or the strategy.
    """
    quiet_lightning()
    options = recipe.trainer
    validate_every = recipe.validate_every
    label = f"{recipe.name}/{recipe.variant}"
    io = StoredCheckpoints(store)
    saving = recipe.checkpoint
    periods = [every for every in (saving.every_n_steps, saving.keep_every) if every]
    checkpoints = Checkpoints(
        io, periods, validate_every=validate_every, logged_bytes=listeners.logged_bytes
    )
    callbacks: list[L.Callback] = [
        KeptMemory(),
        curves,
        TrainingProgress(curves, label),
        stops,
        checkpoints,
        *more,
    ]
    if recipe.logging.attention_maps:
        callbacks += [
            AttentionMaps(
                probe.inputs,
                probe.query_tokens,
                probe.key_tokens,
                num_moments=recipe.logging.attention_maps,
                example=probe.name,
                note=probe.note,
                site_tokens=probe.site_tokens,
                sound=probe.sound,
            )
            for probe in probes
        ]
    if recipe.logging.samples:
        callbacks.append(Samples(num_moments=recipe.logging.samples))
    for callback in callbacks:
        if isinstance(callback, AtMoments):
            callback.is_guarded = True
    try:
        return L.Trainer(
            accelerator=options.accelerator,
            devices=options.devices,
            strategy=build_strategy(options.strategy),
            precision=resolve_precision(recipe),
            max_steps=options.max_steps,
            accumulate_grad_batches=options.accumulate,
            val_check_interval=validate_every * options.accumulate,  # counted in batches
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            # Inference tensors would compile the model a second time, and training could not use
            # the weights that fsdp gathers in a validation.
            inference_mode=False,
            log_every_n_steps=recipe.logging.every_n_steps,
            logger=list(listeners.loggers),
            default_root_dir=directory,
            callbacks=callbacks,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            # Lightning's requeueing on SLURM would save and resume in addition to ours.
            plugins=[io, *([SLURMEnvironment(auto_requeue=False)] if on_slurm() else [])],
        )
    except (MisconfigurationException, ValueError, ImportError) as error:
        raise HardwareError(
            f"trainer: accelerator {options.accelerator}, devices {options.devices} and strategy "
            f"{options.strategy} do not work here: {error}"
        ) from error


def build_strategy(name: str) -> str | Strategy:
    """Lightning's strategy: ddp without a copy of every gradient in each step, fsdp as FSDP2."""
    if name == "fsdp":
        return FullySharded()
    return DDPStrategy(gradient_as_bucket_view=True) if name == "ddp" else name


def on_slurm() -> bool:
    """True in a process that `srun` started."""
    return SLURMEnvironment.detect()


def resolve_precision(recipe: Recipe) -> Any:
    """Returns Lightning's name of the precision of a run; for `auto` see `auto_dtype`."""
    precision, accelerator = recipe.trainer.precision, recipe.trainer.accelerator
    if precision == "bf16" and fast_dtype(accelerator) != torch.bfloat16:
        log.warning(
            "trainer.precision=bf16: bfloat16 is slow on this machine; a step takes longer "
            "than with 32, which `auto` would choose"
        )
    is_bf16 = precision == "bf16"
    if precision == "auto":
        width, length = recipe.model.get("dim"), recipe.model.get("max_seq_len")
        devices = recipe.trainer.devices
        tokens = recipe.definition.tokens_per_batch(recipe, length) if length else None
        if tokens is not None and isinstance(devices, int):
            tokens //= devices
        is_bf16 = auto_dtype(accelerator, width, tokens) == torch.bfloat16
    return "bf16-mixed" if is_bf16 else "32-true"


def quiet_lightning() -> None:
    """Silences Lightning's messages at every start, and advice that does not apply here."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # batches are cut from memory: a worker would be slower
        ".*Checkpoint directory.*exists and is not empty.*",
        ".*You are using a CUDA device.*",
        ".*TensorFloat32 tensor cores.*",  # torch's compiler: trainer.precision=tf32 uses them
        ".*treespec, LeafSpec.*",  # Lightning calls what torch deprecates
        ".*smaller than the logging interval.*",  # TrainingCurves writes the last step too
        ".*dataloader is not resumable.*",  # its sampler begins where the run resumes
        ".*in eval mode at the start of training.*",  # a task may hold another model
        ".*recommended to use `self.log.*sync_dist=True.*",  # torchmetrics has synchronised it
    ):
        warnings.filterwarnings("ignore", message)
