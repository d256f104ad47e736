"""What saving costs: time in which training waits, and work of the thread that writes.

    ATTNKIT_DATA=... python benchmarks/checkpoint_cost.py --every 100

Both are measured inside one run of `shakespeare_char`, where they happen, and set against the run's
own training time: the difference of two runs would drown in the noise of a busy machine. The
waiting counts as wall time; so does the thread's processor time, as if it had no core of its own.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import lightning as L
import torch

from attnkit.recipe import load_recipe
from attnkit.runs import experiment
from attnkit.storage.checkpoint_store import CheckpointStore

RECIPES = Path(__file__).parents[1] / "recipes" / "language_modeling"


def main() -> None:
    """Prints milliseconds a checkpoint, and shares of the training time."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--recipe", type=Path, default=RECIPES / "shakespeare_char.yaml")
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the run goes; default: the system's")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    waited: list[float] = []
    worked: list[float] = []
    sizes: list[int] = []
    save, write = L.Trainer.save_checkpoint, CheckpointStore.save

    def timed_save(*arguments, **options):
        started = time.perf_counter()
        save(*arguments, **options)
        waited.append(time.perf_counter() - started)

    def timed_write(store, content, **options):
        started = time.thread_time()
        write(store, content, **options)
        worked.append(time.thread_time() - started)
        sizes.append(len(content))

    L.Trainer.save_checkpoint = timed_save
    CheckpointStore.save = timed_write
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        overrides = [
            f"runs_dir={folder}",
            f"checkpoint.every_n_steps={given.every}",
            f"trainer.max_steps={given.steps}",
            f"validation.every_n_steps={given.steps}",
            "variant=cost",
        ]
        record = experiment.run(load_recipe(given.recipe, overrides)).record
    training = record["tokens"] / record["tokens_per_second"]
    count = len(waited)
    print(
        f"{count} checkpoints of {sizes[0] / 1e6:.1f} MB in {training:.1f} s of training "
        f"({given.steps} steps, {given.threads} threads)"
    )
    print(f"training waited {1000 * sum(waited) / count:.1f} ms each: {sum(waited) / training:.2%}")
    total = sum(waited) + sum(worked)
    print(
        f"the thread worked {1000 * sum(worked) / count:.1f} ms each; "
        f"with it {total / training:.2%}"
    )


if __name__ == "__main__":
    main()
