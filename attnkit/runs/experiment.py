"""The table of contents of a run: recipe -> data -> model -> task -> callbacks -> training ->
result.
"""

from __future__ import annotations

import functools
import logging
import shlex
import warnings
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy, Strategy

from attnkit import run_directory
from attnkit.callbacks.at_moments import AtMoments
from attnkit.callbacks.attention_maps import AttentionMaps
from attnkit.callbacks.certificates import Certificates
from attnkit.callbacks.checkpoints import Checkpoints
from attnkit.callbacks.curves import TrainingCurves
from attnkit.callbacks.progress import TrainingProgress
from attnkit.callbacks.samples import Samples
from attnkit.callbacks.stops import Stops
from attnkit.checkpoints.lightning_io import StoredCheckpoints
from attnkit.checkpoints.store import CheckpointStore, Kept
from attnkit.checks.at_start import refuse_broken_plugins
from attnkit.cpu.training import KeptMemory
from attnkit.hardware import (
    HardwareError,
    device_name,
    exactness,
    fast_dtype,
    peak_memory_bytes,
)
from attnkit.listeners.guard import RunListeners
from attnkit.listeners.listener import Listener, RunInfo
from attnkit.models.accounting import costs
from attnkit.plugins.record import keep, made_with
from attnkit.plugins.trust import remember
from attnkit.recipe import Problem, Recipe, RecipeError
from attnkit.recipe.listening import build_callbacks, build_loggers, naming_callbacks
from attnkit.run_directory import RunDirectoryError
from attnkit.runs.early_ends import plain_endings, told_of_restoring
from attnkit.runs.resume import (
    ABOUT_THE_PLACE,
    WITHOUT_INFLUENCE,
    Resume,
    Start,
    check_start,
    starting_point,
    tell,
    tell_surroundings,
)
from attnkit.streams import tolerant_streams
from attnkit.tasks.building import build_data, build_model, build_task, check_size
from attnkit.training.fully_sharded import FullySharded
from attnkit.training.task import Probe, Task

log = logging.getLogger("attnkit")


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
        directory: where the run lies.
        metrics: final numbers by name: `loss` (nats a token), and those of the task: `perplexity`
            and `bits_per_byte`, `bleu_test2016` and the like, or `accuracy`.
        floors: order -> validation loss of an n-gram model, nats a token; empty where the task
            has none.
        record: all that `result.json` holds.
        sample: what the model says in the end.
        example: a text of the validation data, to try the model with.
        definition: the recipe's task, a `TaskDefinition`.
    """

    directory: Path
    metrics: dict[str, float]
    floors: dict[int, float]
    record: dict[str, Any]
    sample: str
    example: str
    definition: Any


@tolerant_streams()
def run(
    recipe: Recipe,
    *,
    directory: Path | None = None,
    overwrite: bool = False,
    resume: Resume = "no",
    allow_changes: bool = False,
    check: bool = True,
    callbacks: Sequence[L.Callback] = (),
    loggers: Sequence[Logger | Listener] = (),
) -> Result:
    """Trains and evaluates what a recipe describes, and leaves it in a directory.

    Args:
        recipe: from `load_recipe`.
        directory: of the run; None: `recipe.run_dir`.
        overwrite: replace a run that lies there already.
        resume: go on with the run that lies there (`yes`), or `auto`: if one does.
        allow_changes: go on also if its recipe differs in what matters.
        check: ask the quick laws about mechanisms that are plugins, before a run's first step, and
            again where one changed.
        callbacks: Lightning's or your own, besides those of the recipe.
        loggers: Lightning's, or listeners (`attnkit.listeners.listener`), besides those of the
            recipe.

    Raises:
        RecipeError: if the recipe describes many runs, or a logger that it names is not installed.
        LawBrokenError: if a plugin breaks a law in the recipe's seat.
        RunDirectoryError: if the directory is taken or in use, or holds nothing to resume.
        CheckpointError: if no checkpoint verifies, or one cannot be written.
        DataError: if the data is missing or bad, or has changed since the run began.
        ChangedPluginError: if a plugin is not what it was when the run began.
        HardwareError: if this machine lacks what `trainer` asks for.
        OutOfMemoryError: if it lacks memory.
        DivergedError: if loss, gradient or weights are no finite numbers any more.
        KeyboardInterrupt: if it was interrupted; the message says what is left behind.
        SystemExit: if it was terminated, with the code 143.
    """
    check_single(recipe)
    named = [(type(logger).__name__, logger) for logger in loggers]
    listeners = RunListeners([*build_loggers(recipe), *named])
    named_callbacks = build_callbacks(recipe)
    directory = recipe.run_dir if directory is None else directory
    plugins = made_with(recipe.to_dict())

    def starting() -> Start:
        return starting_point(
            recipe, directory, overwrite=overwrite, resume=resume, allow_changes=allow_changes
        )

    start = starting()
    if check and (start.checkpoint is None or start.plugins):
        refuse_broken_plugins(recipe.model)
    data = build_data(recipe)
    data.prepare()
    check_size(recipe, *data.vocab_sizes)
    model = build_model(recipe, *data.vocab_sizes)
    environment = {
        **run_directory.environment(),
        "threads": torch.get_num_threads(),
        "data": data.describe(),
    }
    check_start(start, directory, environment, model)
    task = build_task(recipe, model, data)
    if recipe.trainer.on_nan == "skip":
        task.bad_steps.max_skipped = recipe.trainer.max_skipped
    task.before_training()
    probes = task.probes(recipe.logging.probe_tokens, recipe.logging.probe)
    store = CheckpointStore(
        directory / run_directory.CHECKPOINTS,
        Kept(best=recipe.checkpoint.best, every=recipe.checkpoint.keep_every),
    )
    curves = TrainingCurves(recipe.logging.every_n_steps)
    stops = Stops(recipe.trainer.max_time)
    certificates = Certificates(functools.partial(run_directory.add_kernels, directory))
    trainer = build_trainer(
        recipe,
        directory,
        probes if task.has_attention else [],
        listeners,
        curves,
        stops,
        store,
        [certificates, *named_callbacks, *callbacks],
    )

    # Whatever can be refused was refused above: nothing half-written is left behind.
    exact = exactness(
        deterministic=recipe.trainer.deterministic, tf32=recipe.trainer.precision == "tf32"
    )
    with run_directory.in_use(directory), closing(listeners), exact:
        with (
            plain_endings(trainer, task, store, directory),
            naming_callbacks(recipe, named_callbacks),
        ):
            if run_directory.is_first_process():
                # Another process may have trained here while this one waited for data.
                if (meanwhile := starting()) != start:
                    if trainer.world_size > 1:
                        raise RunDirectoryError(
                            f"another process has trained in {directory} meanwhile; start again"
                        )
                    start = meanwhile
                    check_start(start, directory, environment, model)
                tell(start, directory)
                tell_surroundings(start, directory, environment)
                take_up(directory, start, recipe, environment, store, overwrite=overwrite)
                keep(directory, plugins)
                remember(plugins)
                data.save_vocabulary(directory)
                listeners.open(
                    RunInfo(
                        directory,
                        name=recipe.name,
                        variant=recipe.variant,
                        seed=recipe.seed,
                        runs_dir=recipe.runs_dir,
                        resume=start.point,
                    )
                )
                if start.checkpoint is None:
                    introduce(listeners, recipe, task, probes)
            with told_of_restoring(start.checkpoint, stops):
                trainer.fit(task, ckpt_path=start.checkpoint, weights_only=True)
            stops.raise_if_signalled()
            task.begin_final(directory)
            trainer.validate(task, verbose=False)
        sample, example = task.sample(final=True), task.example()
        if trainer.is_global_zero:
            task.log_end(listeners, trainer.global_step)
            listeners.finalize("success")
    metrics = {
        name.removeprefix("final/"): float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith("final/")
    }
    directions = recipe.definition.lower_is_better
    record = {
        "task": recipe.task,
        "status": "finished" if trainer.global_step == recipe.trainer.max_steps else "stopped",
        "steps": trainer.global_step,
        "metrics": metrics,
        **({"lower_is_better": dict(directions)} if directions else {}),
        "validation_part": recipe.validation.part,
        "data": data_read(environment["data"]),
        **task.record(),
        "skipped_steps": task.bad_steps.num_skipped,
        "seconds": curves.wall_seconds,
        "compile_seconds": task.compile_clock.seconds,
        "tokens": curves.total_tokens,
        "tokens_per_second": curves.tokens_per_second,
        "peak_memory_bytes": peak_memory_bytes(task.device),
        "device": device_name(task.device),
        "precision": str(trainer.precision),
        **costs(model),
    }
    if trainer.is_global_zero:
        run_directory.write_json(directory / run_directory.RESULT, record)
    floors = record.get("ngram_floors", {})
    return Result(directory, metrics, floors, record, sample, example, recipe.definition)


def data_read(described: dict[str, Any]) -> dict[str, Any]:
    """Which data a run read: its source, version and digest, as far as it has such."""
    inner = described["source"]
    source = inner if isinstance(inner, dict) else described
    return {key: source[key] for key in ("source", "python", "version", "sha256") if key in source}


def check_single(recipe: Recipe) -> None:
    """Checks that a recipe describes one run.

    Raises:
        RecipeError: if it describes a study.
    """
    if recipe.ablation is not None:
        file = shlex.quote(str(recipe.path or "RECIPE"))
        message = (
            f"this recipe describes a study of many runs; start them with `attnkit ablate {file}`, "
            f"or train what it varies alone with `attnkit run {file} ~ablation`"
        )
        raise RecipeError([Problem(recipe.source.value["ablation"].key_mark, "ablation", message)])


def take_up(
    directory: Path,
    start: Start,
    recipe: Recipe,
    environment: dict[str, Any],
    store: CheckpointStore,
    *,
    overwrite: bool,
) -> None:
    """Makes a directory ready for a run that begins or goes on; only the first process does.

    Raises:
        RunDirectoryError: if the directory is taken, or cannot be written.
    """
    if start.checkpoint is not None:
        step = start.point.step if start.point else 0
        environment = run_directory.resumed(directory, environment, step, start.changes)
    if start.point is None:
        run_directory.claim(directory, overwrite)
    run_directory.sweep(directory)
    run_directory.write_text(directory / run_directory.RECIPE, recipe.to_yaml())
    run_directory.write_json(directory / run_directory.ENVIRONMENT, environment)
    store.take_over()


def introduce(listeners: RunListeners, recipe: Recipe, task: Task, probes: Sequence[Probe]) -> None:
    """Tells the loggers what is known before the first step."""
    listeners.begin(hyperparameters(recipe))
    listeners.text("recipe", recipe.to_yaml(), 0)
    for probe in probes:
        listeners.text(probe.name, probe.text, 0)
    task.log_start(listeners)


def hyperparameters(recipe: Recipe) -> dict[str, Any]:
    """The keys that a table of runs should compare: what learns what, not where it is written."""
    hidden = {*ABOUT_THE_PLACE, *WITHOUT_INFLUENCE, "seed", "validation"}
    keys = {name: part for name, part in recipe.to_dict().items() if name not in hidden}
    trainer = keys["trainer"].items()
    shown = {name: x for name, x in trainer if f"trainer.{name}" not in hidden}
    return {**keys, "trainer": {"max_steps": recipe.trainer.max_steps, **shown}}


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
    """Lightning's loop, with what listens to it.

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
            precision=resolve_precision(options.precision, options.accelerator),
            max_steps=options.max_steps,
            accumulate_grad_batches=options.accumulate,
            val_check_interval=validate_every * options.accumulate,  # counted in batches
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            # Its tensors would be of another kind than those of a validation between steps: a
            # model would be compiled once more, and training could not use what fsdp gathers.
            inference_mode=False,
            log_every_n_steps=recipe.logging.every_n_steps,
            logger=list(listeners.loggers),
            default_root_dir=directory,
            callbacks=callbacks,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            # Lightning's own requeueing on SLURM would save and resume beside us.
            plugins=[io, *([SLURMEnvironment(auto_requeue=False)] if on_slurm() else [])],
        )
    except (MisconfigurationException, ValueError, ImportError) as error:
        raise HardwareError(
            f"trainer: accelerator {options.accelerator}, devices {options.devices} and strategy "
            f"{options.strategy} do not work here: {error}"
        ) from error


def build_strategy(name: str) -> str | Strategy:
    """Lightning's strategy; ddp without a copy of every gradient in each step, fsdp as FSDP2."""
    if name == "fsdp":
        return FullySharded()
    return DDPStrategy(gradient_as_bucket_view=True) if name == "ddp" else name


def on_slurm() -> bool:
    """True in a process that `srun` started."""
    return SLURMEnvironment.detect()


def resolve_precision(precision: str | int, accelerator: str) -> Any:
    """Lightning's word for a recipe's precision; `auto` takes bfloat16 where the hardware computes
    it fast.
    """
    is_fast = fast_dtype(accelerator) == torch.bfloat16
    if precision == "bf16" and not is_fast:
        log.warning(
            "trainer.precision=bf16: this machine has no fast bfloat16, so that a step takes "
            "longer than with 32, which `auto` would take"
        )
    half = precision == "bf16" or (precision == "auto" and is_fast)
    return "bf16-mixed" if half else "32-true"


def quiet_lightning() -> None:
    """Silences what Lightning says of itself at every start, and advice that does not hold here."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # batches are cut from memory: a worker would be slower
        ".*Checkpoint directory.*exists and is not empty.*",
        ".*You are using a CUDA device.*",
        ".*treespec, LeafSpec.*",  # Lightning calls what torch deprecates
        ".*smaller than the logging interval.*",  # TrainingCurves writes the last step too
        ".*dataloader is not resumable.*",  # its sampler begins where the run resumes
        ".*in eval mode at the start of training.*",  # a task may hold another model
        ".*recommended to use `self.log.*sync_dist=True.*",  # torchmetrics has synchronised it
    ):
        warnings.filterwarnings("ignore", message)
