"""What the environment of a CPU does to training speed: how OpenMP's threads wait for each other,
with other processes beside or without, and a processor that has no bfloat16 units.

Real commands, in turn (A B C A B C ...); tokens a second as the runs count them themselves,
validation left out. What counts is the ratio to the first in each round, and their median.

    ATTNKIT_DATA=... python benchmarks/cpu.py waiting --busy 0     # on a machine with nothing else
    ATTNKIT_DATA=... python benchmarks/cpu.py waiting --busy 2     # two processes beside
    ATTNKIT_DATA=... python benchmarks/cpu.py processor --recipe recipes/translation/reverse.yaml
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

RECIPES = Path(__file__).parents[1] / "recipes"

# The command line adds its own settings only where none of these is set.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")

ENVIRONMENTS: dict[str, dict[str, dict[str, str]]] = {
    "waiting": {
        "long spin": {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"},  # the libraries' own
        "attnkit's": {},
        "spin 100": {"GOMP_SPINCOUNT": "100", "KMP_BLOCKTIME": "0"},
        "spin 10000": {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"},
        "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
        "one thread": {"OMP_NUM_THREADS": "1"},
    },
    "processor": {
        "native": {},
        "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    },
}


def tokens_per_second(recipe: Path, steps: int, variables: dict[str, str]) -> float:
    """Trains in a process with these variables, and returns what its result says."""
    plain = {name: value for name, value in os.environ.items() if name not in WAITING}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                *(sys.executable, "-m", "attnkit", "run", str(recipe), "trainer.accelerator=cpu"),
                *(f"trainer.max_steps={steps}", f"validation.every_n_steps={steps}"),
                *(f"runs_dir={folder}", "validation.max_tokens=4096"),
                *("logging.attention_maps=0", "logging.samples=0"),
            ],
            env={**plain, **variables},
            check=True,
            capture_output=True,
        )
        (result,) = Path(folder).rglob("result.json")
        return json.loads(result.read_text(encoding="utf-8"))["tokens_per_second"]


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Inside, so many processes compute without a pause."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main() -> None:
    """Prints the speeds of each round, and the medians of their ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=ENVIRONMENTS)
    parser.add_argument(
        "--recipe", type=Path, default=RECIPES / "language_modeling/characters.yaml"
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--busy", type=int, default=0, help="other processes that compute")
    given = parser.parse_args()
    environments = ENVIRONMENTS[given.what]
    first = next(iter(environments))
    ratios: dict[str, list[float]] = {name: [] for name in environments}
    for number in range(given.rounds):
        speeds = {}
        for name, variables in environments.items():
            with busy_processes(given.busy):
                speeds[name] = tokens_per_second(given.recipe, given.steps, variables)
            ratios[name].append(speeds[name] / speeds[first])
        shown = ", ".join(f"{name} {speed:,.0f}" for name, speed in speeds.items())
        print(f"round {number + 1}: tokens/s {shown}", flush=True)
    print(f"{given.recipe.stem}, {given.busy} busy processes, times the speed of {first}:")
    for name, found in ratios.items():
        print(f"  {name:<12}{statistics.median(found):6.2f} ({min(found):.2f} to {max(found):.2f})")


if __name__ == "__main__":
    main()
