"""Measures what a mechanism costs on this machine, in a process of its own: `python -m
attnkit.ablation.ranking.speed OUT RECIPE`.

With one thread on a CPU. The share of the time in which the process had a core tells whether other
processes disturbed it.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

from attnkit.ablation.launchers.base import Job, Launcher
from attnkit.ablation.launchers.process import end_with_parent
from attnkit.ablation.timing import TimingError, mean_seconds, training_steps
from attnkit.recipe import Recipe
from attnkit.storage.files import parse_json
from attnkit.storage.run_directory import write_json, write_text

QUIET = 0.95
"""Share of a core that a process with a quiet machine has at least."""

DECODED = 256
"""Tokens that are decoded at least."""


def speed_of(recipe: Recipe, launcher: Launcher, place: Path) -> dict[str, Any]:
    """Measures a recipe while nothing else of this process's runs.

    Args:
        recipe: of a language model.
        launcher: starts the process.
        place: a folder for temporary files.

    Returns:
        `tokens_per_second` of training, `ms_per_token` of decoding a single sequence,
        `training_bytes` (peak memory of training beyond that of the program), `is_quiet`, and
        the `machine`.

    Raises:
        TimingError: if the process fails.
    """
    place.mkdir(parents=True, exist_ok=True)
    file, out = place / f"{recipe.variant}.yaml", place / f"{recipe.variant}.json"
    write_text(file, recipe.to_yaml())
    arguments = ("-P", "-m", "attnkit.ablation.ranking.speed", str(out), str(file))
    job = Job(f"speed/{recipe.variant}", arguments, out.with_suffix(".log"))
    launcher.start([job])
    while not (ended := launcher.ended(1.0)):
        pass
    if ended[0].code:
        words = job.log.read_text(encoding="utf-8", errors="replace").strip()
        raise TimingError(f"{recipe.variant} cannot be timed: {words[-2000:]}")
    return parse_json(out.read_bytes())


def main(out: Path, file: Path) -> None:
    """Measures, and writes the result."""
    import torch

    from attnkit.hardware.devices import default_device, peak_memory_bytes
    from attnkit.recipe import load_recipe
    from attnkit.tasks.building import build_data, build_model, build_task

    recipe = load_recipe(file)
    device = default_device()
    if device.type == "cpu":
        torch.set_num_threads(1)
    data = build_data(recipe)
    data.prepare()
    model = build_model(recipe, *data.vocab_sizes).to(device)
    task: Any = build_task(recipe, model, data)
    task.to(device)
    before = peak_memory_bytes(device)
    cpu, wall = time.process_time(), time.perf_counter()
    batches = data.train_batches(0, recipe.trainer.max_steps)
    steps = training_steps(recipe, task, task.configure_optimizers(), batches, device)
    step = mean_seconds(steps, device)
    after = peak_memory_bytes(device)
    token = _seconds_per_token(model, device)
    share = (time.process_time() - cpu) / (time.perf_counter() - wall)
    write_json(
        out,
        {
            "tokens_per_second": data.tokens_per_batch * recipe.trainer.accumulate / step,
            "ms_per_token": 1000 * token,
            "training_bytes": None if before is None or after is None else after - before,
            "is_quiet": device.type != "cpu" or share >= QUIET,
            "machine": _machine(device),
        },
    )


def _machine(device: Any) -> dict[str, Any]:
    """Returns what speeds depend on beside the model: they are compared where it is the same."""
    import torch

    from attnkit.hardware.devices import device_name

    return {
        "device": device_name(device),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    """Returns the model of the processor, as exactly as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())


def _seconds_per_token(model: Any, device: Any) -> float:
    """Returns the time of decoding a token of a single sequence, over whole contexts."""
    import torch

    from attnkit.models.decoding import generate

    model.eval()
    prompt = torch.zeros(1, 1, dtype=torch.long, device=device)
    length, sync = model.max_seq_len - 1, device.type == "cuda"

    def contexts(number: int) -> float:
        for _ in range(number):
            for _ in generate(model, prompt, length):
                pass
        if sync:
            torch.cuda.synchronize()
        return time.perf_counter()

    number = -(-DECODED // length)
    began = contexts(1)
    return (contexts(number) - began) / (number * length)


if __name__ == "__main__":
    end_with_parent()
    main(Path(sys.argv[1]), Path(sys.argv[2]))
