"""Training speed of the kit against plain PyTorch loops over the same model and the same batches.

They train in turn (A B C A B C ...), so that a busy machine slows all alike, each time in a process
of its own, so that none inherits what another did to the memory allocator; what counts is the ratio
in each round, and their median. The kit runs with all its logging on: curves, maps, samples,
checkpoints, validation (whose time is not counted, since a plain loop has none).

There are two plain loops, in float32 both. One takes torch's optimizer as it comes, as nanoGPT
does on a CPU; the other asks for the fused one, as the kit does.

    ATTNKIT_DATA=... python benchmarks/training_speed.py --precision 32 --threads 2
    ATTNKIT_DATA=... python benchmarks/training_speed.py --precision auto --threads 1
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

from attnkit.recipe import Recipe, load_recipe
from attnkit.registry import OPTIMIZERS, SCHEDULES
from attnkit.runs import experiment

RECIPES = Path(__file__).parents[1] / "recipes" / "language_modeling"


def plain_loop(recipe: Recipe, *, fused: bool = False) -> float:
    """Tokens a second of the loop that anyone would write, in float32.

    Args:
        recipe: what to train.
        fused: the optimizer updates all weights in one kernel; else as torch does if not told.
    """
    steps = recipe.trainer.max_steps
    data = experiment.build_data(recipe)
    data.prepare()
    model = experiment.build_model(recipe, data.tokenizer.vocab_size)
    optimizer = OPTIMIZERS.build(recipe.optimizer).build(model)
    if not fused:
        for group in optimizer.param_groups:
            group["fused"] = None
    schedule = SCHEDULES.build(recipe.schedule)
    highest = [group["lr"] for group in optimizer.param_groups]
    started = time.perf_counter()
    for step in range(steps):
        batch = data.train_batch(step)
        for group, lr in zip(optimizer.param_groups, highest, strict=True):
            group["lr"] = lr * schedule.factor(step, steps)
        logits = model(batch.tokens)
        loss = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if recipe.trainer.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.trainer.gradient_clip)
        optimizer.step()
    seconds = time.perf_counter() - started
    return steps * recipe.trainer.batch_size * recipe.model["max_seq_len"] / seconds


def kit(recipe: Recipe) -> float:
    """Tokens a second of `attnkit run`, its logging included."""
    return experiment.run(recipe).record["tokens_per_second"]


CONTESTANTS: dict[str, Callable[[Recipe], float]] = {
    "plain": plain_loop,
    "plain, fused": functools.partial(plain_loop, fused=True),
    "kit": kit,
}


def in_own_process(train: Callable[[Recipe], float], recipe: Recipe, threads: int) -> float:
    """What `train` returns in a fresh process with that many threads."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, torch.set_num_threads, (threads,)) as pool:
        return pool.apply(train, (recipe,))


def main() -> None:
    """Prints the ratios of each round and their medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--recipe", type=Path, default=RECIPES / "shakespeare_char.yaml")
    parser.add_argument("--precision", default="32", help="of the kit; plain loops are float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    ratios: dict[str, list[float]] = {name: [] for name in CONTESTANTS if name != "kit"}
    for number in range(given.rounds):
        with tempfile.TemporaryDirectory() as folder:
            changes = [
                f"runs_dir={folder}",
                f"trainer.precision={given.precision}",
                f"trainer.max_steps={given.steps}",
            ]
            recipe = load_recipe(given.recipe, changes)
            speeds = {
                name: in_own_process(train, recipe, given.threads)
                for name, train in CONTESTANTS.items()
            }
        for name, of_pairs in ratios.items():
            of_pairs.append(speeds["kit"] / speeds[name])
        shown = "; ".join(f"{name} {speed:,.0f}" for name, speed in speeds.items())
        against = ", ".join(f"{of_pairs[-1]:.3f}" for of_pairs in ratios.values())
        print(f"round {number}: {shown} tokens/s; ratios {against}", flush=True)
    print(f"precision {given.precision}, {given.threads} threads, {given.steps} steps")
    for name, of_pairs in ratios.items():
        print(
            f"kit / ({name}): median {statistics.median(of_pairs):.3f} "
            f"(min {min(of_pairs):.3f}, max {max(of_pairs):.3f})"
        )


if __name__ == "__main__":
    main()
