"""Throughput of two processes with a thread each, against one process with one thread.

    ATTNKIT_DATA=... python benchmarks/two_processes.py trainer.precision=32

Real commands, in turn (A B C A B C ...); tokens a second as the runs themselves count them,
validation left out. It needs two idle cores: what else runs takes from the two processes first.

What two processes could reach if they had nothing to tell each other is measured too: two runs at
the same time, each with half the batch. What is missing to twice the speed there is the machine's
(memory, caches) and what a step costs whatever its batch; the rest is what talking costs.
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

from attnkit.recipe import load_recipe

RECIPES = Path(__file__).parents[1] / "recipes" / "language_modeling"


def tokens_per_second(recipe: Path, steps: int, *runs: list[str]) -> float:
    """Trains in processes of their own, all runs at the same time; sums up what the results say.

    Args:
        recipe: of all runs.
        steps: of each.
        *runs: the overrides of each.
    """
    with tempfile.TemporaryDirectory() as folder:
        common = [
            "trainer.accelerator=cpu",
            f"trainer.max_steps={steps}",
            f"validation.every_n_steps={steps}",
            f"runs_dir={folder}",
        ]
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "attnkit", "run", recipe, *common, *run, f"variant=run{n}"],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.DEVNULL,
            )
            for n, run in enumerate(runs)
        ]
        codes = [process.wait() for process in processes]
        if any(codes):
            raise RuntimeError("a run has failed; see above")
        results = [json.loads(path.read_text()) for path in Path(folder).rglob("result.json")]
        return sum(result["tokens_per_second"] for result in results)


def main() -> None:
    """Prints the speeds of each round and the medians of their ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="key=value, for all runs")
    parser.add_argument("--recipe", type=Path, default=RECIPES / "shakespeare_char.yaml")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    batch_size = load_recipe(given.recipe, given.overrides).trainer.batch_size
    others = [word for word in given.overrides if not word.startswith("trainer.batch_size=")]
    whole, half = ([*others, f"trainer.batch_size={n}"] for n in (batch_size, batch_size // 2))
    together = [*whole, "trainer.devices=2", "trainer.strategy=ddp"]
    ratios, bounds = [], []
    for number in range(given.rounds):
        one, apart, two = (
            tokens_per_second(given.recipe, given.steps, *runs)
            for runs in ([whole], [half, half], [together])
        )
        ratios.append(two / one)
        bounds.append(apart / one)
        print(f"round {number}: one {one:,.0f}, two apart {apart:,.0f}, two {two:,.0f} tokens/s")
    print(
        f"median ratio {statistics.median(ratios):.2f}, of two that do not talk "
        f"{statistics.median(bounds):.2f}; {given.steps} steps"
    )


if __name__ == "__main__":
    main()
