"""Throughput of two processes with a thread each, against one process with one thread.

    ATTNKIT_DATA=... python benchmarks/two_processes.py

Real commands, in turn (A B A B ...); tokens a second as the runs themselves count them, validation
left out. It needs two idle cores: what else runs takes from the two processes first.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

RECIPES = Path(__file__).parents[1] / "recipes" / "language_modeling"


def tokens_per_second(recipe: Path, steps: int, devices: int) -> float:
    """Trains in processes of their own; reads the speed from the result."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = [
            f"trainer.devices={devices}",
            f"trainer.strategy={'ddp' if devices > 1 else 'auto'}",
            "trainer.accelerator=cpu",
            f"trainer.max_steps={steps}",
            f"validation.every_n_steps={steps}",
            f"runs_dir={folder}",
            "variant=speed",
        ]
        subprocess.run(
            [sys.executable, "-m", "attnkit", "run", recipe, *overrides],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        (result,) = Path(folder).rglob("result.json")
        return json.loads(result.read_text())["tokens_per_second"]


def main() -> None:
    """Prints the ratio of each pair and their median."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--recipe", type=Path, default=RECIPES / "shakespeare_char.yaml")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--pairs", type=int, default=3)
    given = parser.parse_args()
    ratios = []
    for pair in range(given.pairs):
        one, two = (tokens_per_second(given.recipe, given.steps, n) for n in (1, 2))
        ratios.append(two / one)
        print(f"pair {pair}: one {one:,.0f}, two {two:,.0f} tokens/s, ratio {two / one:.2f}")
    print(f"median ratio {statistics.median(ratios):.2f}, {given.steps} steps")


if __name__ == "__main__":
    main()
