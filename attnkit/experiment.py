"""The table of contents of a run: recipe -> data -> model -> task -> callbacks -> training ->
result.
"""

from __future__ import annotations

import logging
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint

from attnkit import run_directory
from attnkit.callbacks.attention_maps import AttentionMaps
from attnkit.callbacks.curves import TrainingCurves
from attnkit.callbacks.progress import TrainingProgress
from attnkit.callbacks.samples import Samples
from attnkit.data.language_modeling import LanguageModelingData
from attnkit.endings import plain_endings
from attnkit.hardware import HardwareError, device_name, has_fast_bfloat16, peak_memory_bytes
from attnkit.masks import build_mask
from attnkit.models.accounting import costs
from attnkit.models.influence import LaterInfluence, admitted, measure_later_influence
from attnkit.models.language_model import LanguageModel
from attnkit.recipe import Recipe
from attnkit.registry import OPTIMIZERS, SCHEDULES, SOURCES, TOKENIZERS
from attnkit.tasks.base import Probe
from attnkit.tasks.language_modeling import LanguageModelingTask
from attnkit.tensorboard.logger import RunLogger

log = logging.getLogger("attnkit")


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
        directory: where the run lies.
        metrics: final numbers by name: `loss` (validation, nats a token), `bits_per_byte`,
            `perplexity`.
        floors: order -> validation loss of an n-gram model, nats a token.
        record: all that `result.json` holds.
        sample: what the model says in the end.
    """

    directory: Path
    metrics: dict[str, float]
    floors: dict[int, float]
    record: dict[str, Any]
    sample: str


def run(recipe: Recipe, *, overwrite: bool = False) -> Result:
    """Trains and evaluates what a recipe describes, and leaves it in `recipe.run_dir`.

    Args:
        recipe: from `load_recipe`.
        overwrite: replace a run that lies there already.

    Raises:
        RunDirectoryError: if the directory is taken.
        DataError: if the data is missing or bad.
        HardwareError: if this machine lacks what `trainer` asks for.
        DivergedError: if the weights are no finite numbers any more.
        KeyboardInterrupt: if it was interrupted; the message says what is left behind.
    """
    directory = recipe.run_dir
    if run_directory.is_first_process():
        run_directory.check_free(directory, overwrite)
    data = build_data(recipe)
    data.prepare()
    floors = data.floors()
    model = build_model(recipe, data.tokenizer.vocab_size)
    influence = measure_later_influence(model)
    environment = {**run_directory.environment(), "data": data.describe()}
    task = build_task(recipe, model, data)
    probe = task.probe(recipe.logging.probe_tokens, recipe.logging.probe)
    logger = RunLogger(directory, trial_id=recipe.variant)
    curves = TrainingCurves(recipe.logging.every_n_steps)
    trainer = build_trainer(recipe, probe, logger, curves)

    # Whatever can be refused was refused above: nothing half-written is left behind.
    if run_directory.is_first_process():
        run_directory.claim(directory, overwrite)
        (directory / run_directory.RECIPE).write_text(recipe.to_yaml(), encoding="utf-8")
        data.tokenizer.save(directory)
        run_directory.write_json(directory / run_directory.ENVIRONMENT, environment)
        introduce(logger, recipe, probe, floors, influence, admitted(model, influence))
    with plain_endings(trainer, model, directory):
        started = time.monotonic()
        trainer.fit(task)
        seconds = time.monotonic() - started
        trainer.save_checkpoint(directory / run_directory.CHECKPOINTS / run_directory.LAST)
        task.whole_split = True
        trainer.validate(task, verbose=False)
    metrics = {
        name.removeprefix("final/"): float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith("final/")
    }
    record = {
        "status": "finished" if trainer.global_step == recipe.trainer.max_steps else "stopped",
        "steps": trainer.global_step,
        "metrics": metrics,
        "loss_is_language_modeling": task.loss_is_honest and admitted(model, influence),
        "later_influence": vars(influence),
        "ngram_floors": floors,
        "seconds": seconds,
        "tokens": curves.num_tokens,
        "tokens_per_second": curves.tokens_per_second,
        "peak_memory_bytes": peak_memory_bytes(task.device),
        "device": device_name(task.device),
        "precision": str(trainer.precision),
        **costs(model),
    }
    sample = task.sample(final=True)
    if trainer.is_global_zero:
        logger.log_metrics(
            {f"loss/floor_{order}gram": v for order, v in floors.items()}, trainer.global_step
        )
        logger.finalize("success")
        logger.close()
        run_directory.write_json(directory / run_directory.RESULT, record)
    return Result(directory, metrics, floors, record, sample)


def build_data(recipe: Recipe) -> LanguageModelingData:
    """The data that a recipe names; nothing is read yet."""
    return LanguageModelingData(
        SOURCES.build(recipe.data),
        TOKENIZERS.build(recipe.tokenizer),
        max_seq_len=recipe.model["max_seq_len"],
        batch_size=recipe.trainer.batch_size,
        seed=recipe.seed,
        val_max_tokens=recipe.validation.max_tokens,
        with_documents=build_mask(recipe.model["mask"]).needs_documents,
    )


def build_model(recipe: Recipe, vocab_size: int) -> LanguageModel:
    """The model that a recipe describes, with weights drawn from its seed."""
    torch.manual_seed(recipe.seed)
    return LanguageModel(vocab_size, **recipe.model)


def build_task(
    recipe: Recipe, model: LanguageModel, data: LanguageModelingData
) -> LanguageModelingTask:
    """The model with its loss, its data and its optimizer."""
    return LanguageModelingTask(
        model,
        data,
        OPTIMIZERS.build(recipe.optimizer),
        SCHEDULES.build(recipe.schedule),
        max_steps=recipe.trainer.max_steps,
        accumulate=recipe.trainer.accumulate,
        num_workers=recipe.trainer.num_workers,
        seed=recipe.seed,
        gradient_clip=recipe.trainer.gradient_clip,
        compile_model=recipe.trainer.compile,
    )


def introduce(
    logger: RunLogger,
    recipe: Recipe,
    probe: Probe,
    floors: dict[int, float],
    influence: LaterInfluence,
    is_admitted: bool,
) -> None:
    """Tells TensorBoard what is known before the first step."""
    logger.log_hyperparams(hyperparameters(recipe))
    logger.layout()
    logger.fenced("recipe", recipe.to_yaml(), 0)
    logger.fenced("probe", "".join(probe.query_tokens), 0)
    logger.log_metrics({f"loss/floor_{order}gram": value for order, value in floors.items()}, 0)
    if influence.num_moved:
        said = describe_influence(influence, is_admitted)
        log.warning(said)
        logger.fenced("warning", said, 0)


def hyperparameters(recipe: Recipe) -> dict[str, Any]:
    """The keys that a table of runs should compare: what learns what, not where it is written."""
    keys = recipe.to_dict()
    sections = ("model", "data", "tokenizer", "optimizer", "schedule")
    compared = {name: keys[name] for name in sections}
    names = ("max_steps", "batch_size", "accumulate", "precision")
    return {**compared, "trainer": {name: keys["trainer"][name] for name in names}}


def build_trainer(
    recipe: Recipe, probe: Probe, logger: RunLogger, curves: TrainingCurves
) -> L.Trainer:
    """Lightning's loop, with nothing in it that slows a step.

    Raises:
        HardwareError: if this machine lacks the accelerator, the devices or the strategy.
    """
    quiet_lightning()
    options = recipe.trainer
    validate_every = min(recipe.validation.every_n_steps, options.max_steps)
    label = f"{recipe.name}/{recipe.variant}"
    best = ModelCheckpoint(
        dirpath=recipe.run_dir / run_directory.CHECKPOINTS,
        filename=run_directory.BEST.removesuffix(".ckpt"),
        monitor="loss/val",
        enable_version_counter=False,
    )
    last = ModelCheckpoint(
        dirpath=recipe.run_dir / run_directory.CHECKPOINTS,
        filename=run_directory.LAST.removesuffix(".ckpt"),
        every_n_train_steps=options.checkpoint_every or validate_every,
        enable_version_counter=False,
    )
    callbacks: list[L.Callback] = [curves, TrainingProgress(curves, label), best, last]
    if recipe.logging.attention_maps and recipe.model["num_layers"]:
        callbacks.append(
            AttentionMaps(
                probe.inputs,
                probe.query_tokens,
                probe.key_tokens,
                num_moments=recipe.logging.attention_maps,
                example=probe.name,
                note=probe.note,
            )
        )
    if recipe.logging.samples:
        callbacks.append(Samples(recipe.logging.samples))
    try:
        return L.Trainer(
            accelerator=options.accelerator,
            devices=options.devices,
            strategy=options.strategy,
            precision=resolve_precision(options.precision, options.accelerator),
            max_steps=options.max_steps,
            accumulate_grad_batches=options.accumulate,
            val_check_interval=validate_every * options.accumulate,  # counted in batches
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            log_every_n_steps=recipe.logging.every_n_steps,
            logger=logger,
            callbacks=callbacks,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, ValueError, ImportError) as error:
        raise HardwareError(
            f"trainer: accelerator {options.accelerator}, devices {options.devices} and strategy "
            f"{options.strategy} do not work here: {error}"
        ) from error


def resolve_precision(precision: str | int, accelerator: str) -> Any:
    """Lightning's word for a recipe's precision; `auto` takes bfloat16 where the hardware computes
    it fast.
    """
    if precision == "auto":
        precision = "bf16" if has_fast_bfloat16(accelerator) else 32
    return "bf16-mixed" if precision == "bf16" else "32-true"


def describe_influence(influence: LaterInfluence, is_admitted: bool) -> str:
    """What it means that later tokens reach earlier predictions."""
    said = (
        f"changing token {influence.changed_token} moved the prediction at position "
        f"{influence.moved_output} by {influence.change:.2g} standard deviations"
    )
    if influence.num_moved == influence.num_positions:
        return (
            "NOT a language-modeling loss: every prediction can see the token that it predicts "
            f"({said}). Do not compare it with that of a masked model."
        )
    if not is_admitted:
        return (
            f"NOT a language-modeling loss: {influence.num_moved} of {influence.num_positions} "
            f"predictions see later tokens though the mask forbids it ({said}): the mechanism "
            "leaks."
        )
    return (
        f"{influence.num_moved} of {influence.num_positions} predictions see later tokens "
        f"({said}); by the mask's word they are left out of the loss."
    )


def quiet_lightning() -> None:
    """Silences what Lightning says of itself at every start, and advice that does not hold here."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # batches are cut from memory: a worker would be slower
        ".*Checkpoint directory.*exists and is not empty.*",
        ".*You are using a CUDA device.*",
        ".*treespec, LeafSpec.*",  # Lightning calls what torch deprecates
        ".*smaller than the logging interval.*",  # TrainingCurves writes the last step too
        ".*recommended to use `self.log.*sync_dist=True.*",  # torchmetrics has synchronised it
    ):
        warnings.filterwarnings("ignore", message)
