"""Time and memory of `attnkit compare` over 200 runs of 1,000 logged points.

    python benchmarks/compare.py

Ten runs are written by the kit's own logger, each with 1,000 moments of five scalars, and with
texts and images between them; they are copied to 20 variants of 10 seeds. Then the command runs as
a user runs it, as a table alone and with the page, whose curves need all event files. The numbers
are of the whole process: wall time from its start to its end, processor time, and the most memory
that it had.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VARIANTS, SEEDS, POINTS = 20, 10, 1000
IMAGE_BYTES = 50_000

# The kernel's ru_maxrss of a child counts the memory of the parent that it was forked from; the
# peak of the program's own pages does not.
MEASURED = """
import sys, time
from attnkit.cli.main import main
try:
    main()
finally:
    with open("/proc/self/status") as status:
        peak = next(line for line in status if line.startswith("VmHWM"))
    print(time.process_time(), peak.split()[1], file=sys.stderr)
"""

FORMS = {
    "table alone": [],
    "with the page": ["--out", "page.html"],
    "with page and picture": ["--out", "page.html", "--out", "table.png"],
}


def make_runs(root: Path) -> int:
    """Writes the runs below a folder; returns the bytes of their event files."""
    from attnkit.listeners.event_file import EventFile
    from attnkit.recipe import load_recipe
    from attnkit.runs.environment import current_environment
    from attnkit.storage import run_directory
    from attnkit.tensorboard.images import Image

    recipe_file = Path(__file__).parents[1] / "recipes/language_modeling/characters.yaml"
    draw = random.Random(0)
    size = 0
    for seed in range(SEEDS):
        recipe = load_recipe(recipe_file, [f"seed={seed}", "variant=v00", f"runs_dir={root}"])
        first = recipe.run_dir
        run_directory.claim(first, overwrite=False)
        run_directory.write_text(first / "recipe.yaml", recipe.to_yaml())
        environment = {**current_environment(), "data": {"train": {"tokens": 1}}}
        run_directory.write_json(first / "environment.json", environment)
        logger = EventFile(first, trial_id="v00")
        for step in range(POINTS):
            loss = 1 + 3 / (1 + step / 50) + draw.gauss(0, 0.02)
            scalars = {
                "loss/train": loss,
                "optimizer/learning_rate": 1e-3,
                "speed/tokens_per_second": 1e5,
                "optimizer/gradient_norm": 1.0,
                "loss/val": loss,
            }
            logger.scalars(scalars, step)
            if step % 100 == 0:
                logger.text("sample", "some text " * 30, step)
                logger.image("map", Image(draw.randbytes(IMAGE_BYTES), 10, 10), step)
        logger.finish("success")
        result = {
            "status": "finished",
            "steps": POINTS,
            "metrics": {"loss": loss, "perplexity": 3.0},
            "loss_is_language_modeling": True,
            "seconds": 60.0,
            "tokens": POINTS * 1536,
            "tokens_per_second": 1e5,
            "peak_memory_bytes": 10**9,
            "device": "cpu",
            "precision": "32-true",
            "parameters": 804_096,
            "training_flops_per_token": 5e6,
            "cache_bytes": 262_144,
        }
        run_directory.write_json(first / "result.json", result)
        for number in range(1, VARIANTS):
            copy = first.parents[1] / f"v{number:02}" / first.name
            shutil.copytree(first, copy)
            result["metrics"]["loss"] = loss + draw.gauss(0.002 * number, 0.01)
            run_directory.write_json(copy / "result.json", result)
        size += sum(file.stat().st_size for file in first.glob("events.*")) * VARIANTS
    return size


def measure(runs: Path, options: list[str], folder: Path) -> tuple[float, float, float]:
    """Seconds, seconds of the processor, and MB of one call."""
    command = [sys.executable, "-c", MEASURED, "compare", str(runs), "--overwrite", *options]
    begin = time.perf_counter()
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    if ended.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {ended.stderr}")
    *_, spent, kilobytes = ended.stderr.split()
    return seconds, float(spent), int(kilobytes) * 1024 / 1e6


def main() -> None:
    """Prints the numbers: the median of the calls."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        size = make_runs(Path(folder) / "runs")
        for name, options in FORMS.items():
            found = [
                measure(Path(folder) / "runs", options, Path(folder))
                for _ in range(arguments.repeats)
            ]
            seconds, spent, megabytes = zip(*found, strict=True)
            results[name] = {
                "s": statistics.median(seconds),
                "cpu s": statistics.median(spent),
                "MB": max(megabytes),
            }
    if arguments.json:
        print(json.dumps(results, indent=2))
        return
    print(
        f"{VARIANTS * SEEDS} runs of {POINTS:,} points, event files of {size / 1e6:.0f} MB in all"
    )
    for name, numbers in results.items():
        print(f"{name:24}", *(f"{number:8.2f} {unit}" for unit, number in numbers.items()))


if __name__ == "__main__":
    main()
