"""Measures the time of a step, in a separate process: `python -m attnkit.ablation.timing OUT LIMIT
RECIPE...`.

Times the task's loss, its gradient and the optimizer's step, on the recipe's own batches, with as
many threads as a trial has. Lightning's loop is not included.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnkit.ablation.launchers.base import Job, Launcher
from attnkit.ablation.launchers.process import end_with_parent
from attnkit.recipe import Recipe
from attnkit.storage.files import parse_json
from attnkit.storage.run_directory import write_json, write_text

SECONDS = 1.0
"""Seconds for which the steps of one recipe are timed at least, after two warm-up steps."""

PREVIEW_SECONDS = 20.0
"""Seconds for which the steps of all recipes are timed for a preview; most studies need less. After
that, one step of each other recipe is timed, for at most half as long.
"""

_WARM_UP = 2


class TimingError(Exception):
    """Steps could not be timed; the message gives the reason."""


@dataclass(frozen=True)
class Timing:
    """The duration of a recipe's parts.

    Attributes:
        start: seconds before the first step: imports, data, the model.
        step: seconds per optimizer step, including its share of the validations.
        final: seconds of the final validation, without beam search.
        one_thread: seconds per optimizer step, without validations, with one thread instead of
            many; None: not measured.
        many_threads: the same with as many threads as a trial has.
    """

    start: float
    step: float
    final: float
    one_thread: float | None = None
    many_threads: float | None = None

    def seconds(self, steps: int) -> float:
        """Returns the duration of a whole run."""
        return self.start + steps * self.step + self.final


def measure(
    recipes: Mapping[str, Recipe],
    launcher: Launcher,
    place: Path,
    limit: float | None = None,
) -> dict[str, Timing]:
    """Times some steps of each recipe, in as many processes at once as trials will run.

    Args:
        recipes: by name.
        launcher: starts the processes.
        place: a folder for temporary files that all processes can read.
        limit: seconds for all recipes, without imports; after that, one step of each other recipe
            is timed, for at most half as long. None: no limit.

    Returns:
        Name -> the mean over the processes, for recipes that all of them have timed.

    Raises:
        TimingError: if a process fails; with the end of its output.
    """
    place.mkdir(parents=True, exist_ok=True)
    files = []
    for name, recipe in recipes.items():
        files.append(place / f"{name}.yaml")
        write_text(files[-1], recipe.to_yaml())
    outs = [place / f"{i}.json" for i in range(launcher.workers or 1)]
    jobs = [
        Job(
            f"timing/{out.stem}",
            ("-P", "-m", "attnkit.ablation.timing", str(out), str(limit or 0), *map(str, files)),
            out.with_suffix(".log"),
        )
        for out in outs
    ]
    launcher.start(jobs)
    running = {job.key: job for job in jobs}
    while running:
        for end in launcher.ended(1.0):
            job = running.pop(end.key)
            if end.code:
                words = job.log.read_text(encoding="utf-8", errors="replace").strip()
                raise TimingError(f"steps cannot be timed: {words[-2000:]}")
    found = [parse_json(out.read_bytes()) for out in outs]
    return {
        name: Timing(**_means([each[name] for each in found]))
        for name in recipes
        if all(name in each for each in found)
    }


def _means(found: Sequence[Mapping[str, float | None]]) -> dict[str, Any]:
    """Returns the mean of each part; None where a process has none."""
    means: dict[str, float | None] = {}
    for name in found[0]:
        values = [value for each in found if (value := each[name]) is not None]
        means[name] = sum(values) / len(values) if len(values) == len(found) else None
    return means


def time_recipe(
    recipe: Recipe, limit: float | None = None, *, compare_threads: bool = False
) -> Timing:
    """Times one recipe in this process.

    Args:
        recipe: the recipe.
        limit: seconds after which no more steps begin; one is always timed. None: no limit.
        compare_threads: also time the steps with one thread, if this process has several.
    """
    import torch

    from attnkit.hardware.devices import default_device
    from attnkit.tasks.building import build_data, build_model, build_task

    began = time.perf_counter()
    data = build_data(recipe)
    data.prepare()
    model = build_model(recipe, *data.vocab_sizes)
    task: Any = build_task(recipe, model, data)
    accelerator = recipe.trainer.accelerator
    device = torch.device("cpu") if accelerator == "cpu" else default_device()
    task.to(device)
    optimizer = task.configure_optimizers()
    start = time.perf_counter() - began
    ends = None if limit is None else began + limit
    threads, one_thread = torch.get_num_threads(), None
    batches = data.train_batches(0, recipe.trainer.max_steps * recipe.trainer.accumulate)
    with _precision(recipe, device):
        steps = training_steps(recipe, task, optimizer, batches, device)
        step = mean_seconds(steps, device, ends)
        if compare_threads and threads > 1 and device.type == "cpu":
            torch.set_num_threads(1)
            one_thread = mean_seconds(steps, device, ends)
            torch.set_num_threads(threads)
        with torch.no_grad():
            task.eval()
            once = data.val_batches(recipe.validation.max_tokens)
            validation = (task.measure(batch) for batch in _round(once, device))
            val = mean_seconds(validation, device, ends)
    every = min(recipe.validation.every_n_steps, recipe.trainer.max_steps)
    return Timing(
        start,
        step + len(once) * val / every,
        len(data.val_batches(data.final_max_tokens)) * val,
        one_thread,
        None if one_thread is None else step,
    )


def training_steps(
    recipe: Recipe, task: Any, optimizer: Any, batches: Any, device: Any
) -> Iterator[None]:
    """Takes optimizer steps, one per iteration."""
    import torch
    from lightning.fabric.utilities.apply_func import move_data_to_device

    accumulate, number = recipe.trainer.accumulate, 0
    limit = recipe.trainer.gradient_clip or float("inf")
    while True:
        for _ in range(accumulate):
            batch = move_data_to_device(batches[number % len(batches)], device)
            found = task.training_step(batch, number)
            loss = found["loss"] if isinstance(found, dict) else found
            (loss / accumulate).backward()
            number += 1
        torch.nn.utils.clip_grad_norm_(task.parameters(), limit)
        optimizer.step()
        optimizer.zero_grad()
        yield


def _round(batches: Any, device: Any) -> Iterator[Any]:
    from lightning.fabric.utilities.apply_func import move_data_to_device

    while True:
        for i in range(len(batches)):
            yield move_data_to_device(batches[i], device)


def mean_seconds(steps: Iterator[Any], device: Any, ends: float | None = None) -> float:
    """Returns the mean time of a step.

    Args:
        steps: takes a step per iteration.
        device: of the steps.
        ends: time after which no more steps begin; the result may then be that of a warm-up step.
    """
    import torch

    def finish() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    began = finish()
    for _ in range(_WARM_UP):
        before = finish()
        next(steps)
        if ends is not None and (now := finish()) > ends:
            return now - before
    count, began = 0, finish()
    while (now := finish()) - began < SECONDS or not count:
        if count and ends is not None and now > ends:
            break
        next(steps)
        count += 1
    return (now - began) / count


def _precision(recipe: Recipe, device: Any) -> contextlib.AbstractContextManager[Any]:
    import torch

    from attnkit.runs.trainer import resolve_precision

    mixed = resolve_precision(recipe) == "bf16-mixed"
    return torch.autocast(device.type, torch.bfloat16, enabled=mixed)


def main(out: Path, limit: float | None, files: Sequence[Path]) -> None:
    """Times recipes and writes the result, without those that the limit leaves no time for."""
    from attnkit.recipe import load_recipe

    began = time.perf_counter()
    import attnkit.runs.experiment  # noqa: F401 - imports what a run does

    imports = time.perf_counter() - began
    found = {}
    began = time.perf_counter()
    for i, file in enumerate(files):
        left = None if limit is None else limit - (time.perf_counter() - began)
        if left is not None and left <= -(limit or 0) / 2:
            break
        share = None if left is None else max(left, 0) / (len(files) - i)
        timing = time_recipe(load_recipe(file), share, compare_threads=i == 0)
        found[file.stem] = dataclasses.asdict(
            dataclasses.replace(timing, start=timing.start + imports)
        )
    write_json(out, found)


if __name__ == "__main__":
    end_with_parent()
    main(Path(sys.argv[1]), float(sys.argv[2]) or None, [Path(name) for name in sys.argv[3:]])
