"""Measures what a mechanism costs on this machine, in a process of its own: `python -m
attnkit.ablation.ranking.speed OUT RECIPE`.

With one thread on a CPU. The processor time that it and others had meanwhile tells whether other
processes disturbed it.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnkit.ablation.launchers.base import Job, Launcher
from attnkit.ablation.launchers.process import end_with_parent
from attnkit.ablation.timing import TimingError, mean_seconds, training_steps
from attnkit.recipe import Recipe
from attnkit.storage.files import parse_json
from attnkit.storage.run_directory import write_json, write_text

LEAST_OF_A_CORE = 0.95
"""Share of a core that a process on a quiet machine has at least."""

MOST_BESIDE = 0.1
"""Share of the machine that other processes have at most meanwhile. They slow down what has a core
of its own, too: cores share caches, memory and, as hyper-threads, their units."""

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
    before, began = peak_memory_bytes(device), Moment.now()
    batches = data.train_batches(0, recipe.trainer.max_steps)
    steps = training_steps(recipe, task, task.configure_optimizers(), batches, device)
    step = mean_seconds(steps, device)
    after = peak_memory_bytes(device)
    token = _seconds_per_token(model, device)
    write_json(
        out,
        {
            "tokens_per_second": data.tokens_per_batch * recipe.trainer.accumulate / step,
            "ms_per_token": 1000 * token,
            "training_bytes": None if before is None or after is None else after - before,
            "is_quiet": device.type != "cpu" or is_quiet(began, Moment.now(), os.cpu_count() or 1),
            "machine": this_machine(),
        },
    )


@dataclass(frozen=True)
class Moment:
    """Times in seconds.

    Attributes:
        wall: of the clock.
        own: processor time of this process.
        all: processor time of all processes, of other virtual machines too where the system tells
            it; None: unknown (not Linux).
    """

    wall: float
    own: float
    all: float | None

    @classmethod
    def now(cls) -> Moment:
        """Returns the present one."""
        try:
            ticks = Path("/proc/stat").read_text(encoding="utf-8").split(maxsplit=9)[1:9]
            user, nice, system, _idle, _waiting, irq, softirq, steal = map(int, ticks)
            used = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError):
            used = None
        return cls(time.perf_counter(), time.process_time(), used)


def is_quiet(began: Moment, ended: Moment, cores: int) -> bool:
    """True if no other process disturbed this one between two moments."""
    wall, own = ended.wall - began.wall, ended.own - began.own
    beside = 0.0 if began.all is None or ended.all is None else ended.all - began.all - own
    return own >= LEAST_OF_A_CORE * wall and beside <= MOST_BESIDE * cores * wall


def this_machine() -> dict[str, Any]:
    """Returns what speeds depend on beside the model: they are compared where it is the same."""
    import torch

    from attnkit.hardware.devices import default_device, device_name, processor_name

    return {
        "device": device_name(default_device()),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }


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
