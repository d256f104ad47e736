"""The steps of a run: recipe -> data -> model -> task -> trainer -> result."""

from __future__ import annotations

import functools
import logging
import shlex
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import Logger

from attnkit.callbacks.certificates import Certificates
from attnkit.callbacks.curves import TrainingCurves
from attnkit.callbacks.stops import Stops
from attnkit.checks.at_start import refuse_broken_plugins
from attnkit.console import tolerant_streams
from attnkit.hardware.devices import (
    computing_device,
    device_name,
    exactness,
    peak_memory_bytes,
)
from attnkit.listeners.guard import RunListeners
from attnkit.listeners.listener import Listener, RunInfo
from attnkit.models.accounting import costs
from attnkit.recipe import Problem, Recipe, RecipeError
from attnkit.recipe.listening import build_callbacks, build_loggers, naming_callbacks
from attnkit.runs.early_ends import explained_ends, restoring
from attnkit.runs.environment import add_kernels, current_environment, with_resumption
from attnkit.runs.resume import (
    ABOUT_THE_PLACE,
    WITHOUT_INFLUENCE,
    Resume,
    Start,
    check_start,
    report_start,
    report_surroundings,
    starting_point,
)
from attnkit.runs.trainer import build_trainer
from attnkit.storage import run_directory
from attnkit.storage.checkpoint_store import CheckpointStore, KeepPolicy
from attnkit.storage.plugin_record import keep, made_with
from attnkit.storage.plugin_trust import remember
from attnkit.storage.run_directory import PausedError, RunDirectoryError
from attnkit.tasks.building import build_data, build_model, build_task, check_size
from attnkit.training.probe import Probe
from attnkit.training.task import Task

log = logging.getLogger("attnkit")


@dataclass(frozen=True)
class Result:
    """The outcome of a run.

    Attributes:
        directory: directory of the run.
        metrics: final metrics by name: `loss` (nats per token), and those of the task, such as
            `perplexity` and `bits_per_byte`, `bleu_test2016`, or `accuracy`.
        floors: order -> validation loss of an n-gram model in nats per token; empty if the task
            has none.
        record: content of `result.json`.
        sample: a sample of the trained model; empty if `logging.samples` is 0.
        example: a text of the validation data, to try the model.
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
    until: int | None = None,
    callbacks: Sequence[L.Callback] = (),
    loggers: Sequence[Logger | Listener] = (),
) -> Result:
    """Trains and evaluates the model of a recipe, in a directory.

    Args:
        recipe: from `load_recipe`.
        directory: directory of the run; None: `recipe.run_dir`.
        overwrite: replace a run in the directory.
        resume: `yes`: resume the run in the directory; `auto`: resume it if there is one.
        allow_changes: resume also if the recipe differs in keys that change what is learnt.
        check: check the quick laws of plugin mechanisms before the first step, and again if one
            changed.
        until: step at which to pause, before the last. The schedule is that of all steps, and the
            run can be resumed; None: train to the end.
        callbacks: Lightning callbacks, in addition to those of the recipe.
        loggers: Lightning loggers or `Listener`s (`attnkit.listeners.listener`), in addition to
            those of the recipe.

    Raises:
        RecipeError: if the recipe describes a study, if a logger that it names is not installed, or
            if a callback that it names fails.
        LawBrokenError: if a plugin breaks a law.
        RunDirectoryError: if the directory is taken or in use, or contains nothing to resume.
        PausedError: at the step `until`, or if the run has already reached it.
        CheckpointError: if no checkpoint verifies, or one cannot be written.
        DataError: if the data is missing or invalid, or has changed since the run began.
        ChangedPluginError: if a plugin has changed since the run began.
        HardwareError: if this machine lacks what `trainer` requests.
        OutOfMemoryError: if a step did not fit into memory.
        DivergedError: if the loss, the gradient or the weights are not finite.
        KeyboardInterrupt: if the run was interrupted; the message names the last checkpoint.
        SystemExit: if the run was terminated, with exit code 143.
    """
    check_single(recipe)
    named = [(type(logger).__name__, logger) for logger in loggers]
    listeners = RunListeners([*build_loggers(recipe), *named])
    named_callbacks = build_callbacks(recipe)
    directory = recipe.run_dir if directory is None else directory
    plugins = made_with(recipe.to_dict())

    def find_start() -> Start:
        return starting_point(
            recipe, directory, overwrite=overwrite, resume=resume, allow_changes=allow_changes
        )

    start = find_start()
    if until is not None and start.point is not None and start.point.step >= until:
        raise PausedError(pause_message(directory, start.point.step))
    if check and (start.checkpoint is None or start.plugins):
        refuse_broken_plugins(recipe.model)
    data = build_data(recipe)
    data.prepare()
    check_size(recipe, *data.vocab_sizes)
    model = build_model(recipe, *data.vocab_sizes)
    environment = {
        **current_environment(),
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
        KeepPolicy(best=recipe.checkpoint.best, every=recipe.checkpoint.keep_every),
    )
    curves = TrainingCurves(recipe.logging.every_n_steps)
    stops = Stops(recipe.trainer.max_time, until)
    certificates = Certificates(functools.partial(add_kernels, directory))
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
    environment["precision"] = str(trainer.precision)
    environment["device"] = computing_device(trainer.strategy.root_device)

    # All checks are above, so that a refused run writes nothing.
    exact_kernels = exactness(
        deterministic=recipe.trainer.deterministic, tf32=recipe.trainer.precision == "tf32"
    )
    with run_directory.in_use(directory), closing(listeners), exact_kernels:
        with (
            explained_ends(trainer, task, store, directory),
            naming_callbacks(recipe, named_callbacks),
        ):
            if run_directory.is_first_process():
                # Another process may have trained here while this one prepared its data.
                if (current_start := find_start()) != start:
                    if trainer.world_size > 1:
                        raise RunDirectoryError(
                            f"another process has just trained in {directory}; start again"
                        )
                    start = current_start
                    check_start(start, directory, environment, model)
                report_start(start, directory)
                report_surroundings(start, directory, environment)
                prepare(directory, start, recipe, environment, store, overwrite=overwrite)
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
                    log_start(listeners, recipe, task, probes)
            with restoring(start.checkpoint, stops):
                trainer.fit(task, ckpt_path=start.checkpoint, weights_only=True)
            stops.raise_if_signalled()
            if stops.is_paused:
                raise PausedError(pause_message(directory, trainer.global_step))
            task.begin_final(directory)
            trainer.validate(task, verbose=False)
        device = trainer.strategy.root_device
        task.to(device)  # Lightning leaves it on the CPU
        sample = task.sample(final=True) if recipe.logging.samples else ""
        example = task.example()
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
        "peak_memory_bytes": peak_memory_bytes(device),
        "device": device_name(device),
        "precision": str(trainer.precision),
        **costs(model),
    }
    if trainer.is_global_zero:
        run_directory.write_json(directory / run_directory.RESULT, record)
    floors = record.get("ngram_floors", {})
    return Result(directory, metrics, floors, record, sample, example, recipe.definition)


def pause_message(directory: Path, step: int) -> str:
    """Returns a message: the step at which a run paused, and how to continue it."""
    return (
        f"paused after step {step:,}; train the rest with: attnkit resume "
        f"{shlex.quote(str(directory))}"
    )


def data_read(described: dict[str, Any]) -> dict[str, Any]:
    """Source, version and digest of the data of a run."""
    nested = described["source"]
    source = nested if isinstance(nested, dict) else described
    return {key: source[key] for key in ("source", "python", "version", "sha256") if key in source}


def check_single(recipe: Recipe) -> None:
    """Checks that a recipe describes a single run.

    Raises:
        RecipeError: if it describes a study.
    """
    if recipe.ablation is not None:
        file = shlex.quote(str(recipe.path or "RECIPE"))
        message = (
            f"this recipe describes a study of many runs; start them with `attnkit ablate {file}`, "
            f"or train the recipe alone with `attnkit run {file} ~ablation`"
        )
        raise RecipeError([Problem(recipe.source.value["ablation"].key_mark, "ablation", message)])


def prepare(
    directory: Path,
    start: Start,
    recipe: Recipe,
    environment: dict[str, Any],
    store: CheckpointStore,
    *,
    overwrite: bool,
) -> None:
    """Prepares the directory of a run that begins or resumes. Only the first process calls it.

    Raises:
        RunDirectoryError: if the directory is taken or not writable.
    """
    if start.checkpoint is not None:
        step = start.point.step if start.point else 0
        environment = with_resumption(directory, environment, step, start.changes)
    if start.point is None:
        run_directory.claim(directory, overwrite)
    run_directory.sweep(directory)
    run_directory.write_text(directory / run_directory.RECIPE, recipe.to_yaml())
    run_directory.write_json(directory / run_directory.ENVIRONMENT, environment)
    store.take_over()


def log_start(listeners: RunListeners, recipe: Recipe, task: Task, probes: Sequence[Probe]) -> None:
    """Logs hyperparameters, recipe and probes before the first step."""
    listeners.begin(hyperparameters(recipe))
    # Sorted by tag, these follow the samples.
    listeners.text("setup/recipe", recipe.to_yaml(), 0)
    if probes:
        listeners.text("setup/probe", "\n\n".join(probe.text for probe in probes), 0)
    task.log_start(listeners)


def hyperparameters(recipe: Recipe) -> dict[str, Any]:
    """The recipe's keys for a table of runs: those that change what the run learns."""
    hidden = {*ABOUT_THE_PLACE, *WITHOUT_INFLUENCE, "seed", "validation"}
    keys = {name: part for name, part in recipe.to_dict().items() if name not in hidden}
    trainer = keys["trainer"].items()
    shown = {name: x for name, x in trainer if f"trainer.{name}" not in hidden}
    return {**keys, "trainer": {"max_steps": recipe.trainer.max_steps, **shown}}
