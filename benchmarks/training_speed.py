"""Training speed of the kit against a plain PyTorch loop over the same model and the same batches.

They train in turn (A B A B ...), so that a busy machine slows both alike, each time in a process of
its own, so that neither inherits what the other did to the memory allocator; what counts is the
ratio of each pair, and their median. The kit runs with all its logging on: curves, maps, samples,
checkpoints, validation (whose time is not counted, since the plain loop has none).

    ATTNKIT_DATA=... python benchmarks/training_speed.py --precision 32 --threads 2
    ATTNKIT_DATA=... python benchmarks/training_speed.py --precision auto --threads 1
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

from attnkit import experiment
from attnkit.recipe import Recipe, load_recipe
from attnkit.registry import OPTIMIZERS, SCHEDULES

RECIPES = Path(__file__).parents[1] / "recipes" / "language_modeling"


def plain_loop(recipe: Recipe) -> float:
    """Tokens a second of the loop that anyone would write, in float32."""
    steps = recipe.trainer.max_steps
    data = experiment.build_data(recipe)
    data.prepare()
    model = experiment.build_model(recipe, data.tokenizer.vocab_size)
    optimizer = OPTIMIZERS.build(recipe.optimizer).build(model)
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


def in_own_process(train: Callable[[Recipe], float], recipe: Recipe, threads: int) -> float:
    """What `train` returns in a fresh process with that many threads."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, torch.set_num_threads, (threads,)) as pool:
        return pool.apply(train, (recipe,))


def main() -> None:
    """Prints the ratio of each pair and their median."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--recipe", type=Path, default=RECIPES / "shakespeare_char.yaml")
    parser.add_argument("--precision", default="32", help="of the kit; the plain loop is float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--pairs", type=int, default=5)
    given = parser.parse_args()
    ratios = []
    for pair in range(given.pairs):
        with tempfile.TemporaryDirectory() as folder:
            changes = [
                f"runs_dir={folder}",
                f"trainer.precision={given.precision}",
                f"trainer.max_steps={given.steps}",
            ]
            recipe = load_recipe(given.recipe, changes)
            plain, ours = (in_own_process(f, recipe, given.threads) for f in (plain_loop, kit))
        ratios.append(ours / plain)
        print(f"pair {pair}: plain {plain:,.0f}, kit {ours:,.0f} tokens/s", end=", ")
        print(f"ratio {ours / plain:.3f}", flush=True)
    print(
        f"median ratio {statistics.median(ratios):.3f} "
        f"(min {min(ratios):.3f}, max {max(ratios):.3f}), "
        f"precision {given.precision}, {given.threads} threads, {given.steps} steps"
    )


if __name__ == "__main__":
    main()
